"""The reader of ELF headers: what the linker sees, refusals with a reason, no surprise on damaged files."""

from __future__ import annotations

import contextlib
import glob
import os
import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.facts.elf import HEAD, MAX_NAME, BadElf, Elf, Need, NotElf, read_elf, read_interpreter
from fixtures.elf import Shared

FULL = Shared(
    needed=("liba.so.1", "libb.so"),
    soname="libself.so.2",
    rpath="$ORIGIN/x:/opt/y",
    filters=("libf.so",),
    auxiliary=("libaux.so",),
    dlopen=[{"soname": ["libd.so.1", "libd.so.0"], "priority": "required"}, {"soname": "libe.so"}],
    no_default=True,
    strings=("libnot-a-need.so",),
)


class Source:
    """Bytes behind ranged reads that are counted."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read = data, 0

    def __call__(self, offset: int, length: int) -> bytes:
        assert offset >= 0 <= length
        found = self.data[offset : offset + length]
        self.read += len(found)
        return found


def read(data: bytes) -> Elf:
    return read_elf(Source(data), len(data))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("little", [True, False])
def test_every_class_and_byte_order(bits, little):
    elf = read(replace(FULL, bits=bits, little=little, machine=183).build())
    assert elf.kind == (bits, little, 183)
    assert elf.needed == ("liba.so.1", "libb.so")
    assert (elf.soname, elf.rpath, elf.runpath) == ("libself.so.2", "$ORIGIN/x:/opt/y", "")
    assert elf.filters == (Need(("libf.so",), optional=False), Need(("libaux.so",), optional=True))
    assert elf.dlopen == (Need(("libd.so.1", "libd.so.0"), optional=False), Need(("libe.so",), optional=True))
    assert elf.no_default


def test_runpath_makes_the_linker_ignore_rpath():
    elf = read(Shared(rpath="/a", runpath="/b").build())
    assert (elf.rpath, elf.runpath) == ("", "/b")


def test_a_static_file_needs_nothing():
    data = bytearray(FULL.build())
    struct.pack_into("<I", data, 64 + 56, 0x6474E551)  # PT_DYNAMIC becomes PT_GNU_STACK
    assert read(bytes(data)).needed == ()


def test_names_that_are_not_utf8_survive():
    name = os.fsdecode(b"lib\xff.so")
    assert read(Shared(needed=(name,)).build()).needed == (name,)


def test_a_large_file_costs_its_headers():
    source = Source(Shared(needed=tuple(f"lib{number}.so" for number in range(200)), strings=("x" * 1000,) * 4000).build())
    assert len(source.data) > 4_000_000
    assert len(read_elf(source, len(source.data)).needed) == 200
    assert source.read < 8 * HEAD


PHOFF, PHENTSIZE, PHNUM = (32, "<Q"), (54, "<H"), (56, "<H")
SEGMENT = {"type": (0, "<I"), "offset": (8, "<Q"), "address": (16, "<Q"), "size": (32, "<Q")}


def _patched(at: int, form: str, value: int, data: bytes = b"") -> bytes:
    out = bytearray(data or FULL.build())
    struct.pack_into(form, out, at, value)
    return bytes(out)


def _field(segment: int, name: str) -> tuple[int, str]:
    at, form = SEGMENT[name]
    return 64 + 56 * segment + at, form


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (PHNUM, 0xFFFF, "65535 program headers"),  # PN_XNUM: the linker does not know it either
        (PHENTSIZE, 32, "e_phentsize"),
        (PHOFF, 2**64 - 8, "program headers"),
        (PHOFF, 2**63, "program headers"),
        (_field(0, "size"), 2**40, "PT_LOAD"),
        (_field(0, "offset"), 2**64 - 1, "PT_LOAD"),
        (_field(1, "offset"), 64, "PT_DYNAMIC"),  # a decoy: the linker goes by the address
        (_field(1, "address"), 64, "PT_DYNAMIC"),
        (_field(1, "address"), 2**50, "PT_DYNAMIC"),
        (_field(1, "size"), 16, "no end"),
        (_field(1, "size"), 2**30, "PT_DYNAMIC"),
        (_field(2, "size"), 2**30, "note segment"),
        (_field(2, "offset"), 2**60, "notes"),
        ((4, "<B"), 3, "ELF class 3"),
        ((5, "<B"), 0, "byte order 0"),
    ],
)
def test_what_the_linker_would_not_load_is_refused_with_its_reason(place, value, says):
    with pytest.raises(BadElf, match=says) as caught:
        read(_patched(*place, value))
    assert not isinstance(caught.value, NotElf)


def test_a_truncated_file_is_refused():
    data = FULL.build()
    for size in range(len(data)):
        with pytest.raises(BadElf):
            read(data[:size])


def test_a_name_beyond_the_string_table_is_refused():
    data = FULL.build()
    at = data.index(struct.pack("<QQ", 1, 1))
    with pytest.raises(BadElf, match="dynamic string table"):
        read(_patched(at + 8, "<Q", 2**63, data))


def test_a_name_without_an_end_is_refused():
    data = Shared(needed=("liba.so",)).build()
    size = data.index(struct.pack("<QQ", 10, 9))
    data = _patched(size + 8, "<Q", 8, data)
    with pytest.raises(BadElf, match="has no end"):
        read(data)


@pytest.mark.parametrize("note", [b"{", b"3", b'{"soname": 3}', b'{"soname": []}', b'[{"soname": "\\ud800.so"}]', b"[" * 100_000])
def test_a_dlopen_note_that_says_nothing_is_refused(note):
    with pytest.raises(BadElf, match="dlopen"):
        read(Shared(dlopen=note).build())


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"/* GNU ld script */\nGROUP ( libc.so.6 )\n" * 3])
def test_other_files_are_no_elf_files(data):
    with pytest.raises(NotElf):
        read(data)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_are_read_or_refused(data):
    content = bytearray(FULL.build())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    source = Source(bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))
    with contextlib.suppress(BadElf):
        assert isinstance(read_elf(source, len(source.data)), Elf)
    assert source.read < 64 * HEAD


def test_many_damaged_headers_end_soon():
    chosen = random.Random(1)
    content = FULL.build()
    for _ in range(10_000):
        damaged = bytearray(content)
        for _ in range(chosen.randint(1, 6)):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        try:
            read(bytes(damaged))
        except BadElf:
            continue


def _system_libraries(count: int) -> list[str]:
    found = sorted({os.path.realpath(path) for path in glob.glob("/usr/lib/*-linux-gnu/*.so.*") + glob.glob("/usr/lib64/*.so.*")})
    return random.Random(0).sample(found, min(count, len(found)))


def test_agrees_with_pyelftools_on_system_libraries():
    elffile = pytest.importorskip("elftools.elf.elffile")
    libraries = [path for path in _system_libraries(60) if os.path.getsize(path) < 4 << 20]
    if not libraries:
        pytest.skip("this machine has no shared libraries in the usual folders")
    for path in libraries:
        with open(path, "rb") as file:
            data = file.read()
        try:
            elf = read(data)
        except NotElf:
            continue
        with open(path, "rb") as file:
            tags = [tag for part in elffile.ELFFile(file).iter_segments("PT_DYNAMIC") for tag in part.iter_tags()]
        assert elf.needed == tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"), path
        assert elf.soname == next((tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"), ""), path
        assert elf.runpath == next((tag.runpath for tag in tags if tag.entry.d_tag == "DT_RUNPATH"), ""), path


def program(linker, size=None):
    """The head of a 64-bit program with one PT_INTERP."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(linker) if size is None else size, 0, 1) + linker


def test_the_dynamic_linker_of_a_program():
    for data, expected in ((program(b"/lib/ld.so\0"), "/lib/ld.so"), (program(b"/lib/ld.so"), "/lib/ld.so"), (FULL.build(), "")):
        assert read_interpreter(Source(data), len(data)) == expected


@pytest.mark.parametrize("data", [b"#!/bin/sh\n" * 20, program(b"/ld", size=10), program(b"x" * (MAX_NAME + 1)), b""])
def test_a_program_that_is_none(data):
    with pytest.raises(BadElf):
        read_interpreter(Source(data), len(data))
