"""The linker's cache: its formats, several paths of a name, and files that are none."""

from __future__ import annotations

import contextlib
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.facts.linker_cache import MAX_TAILS, BadCache, read_cache
from fixtures.elf import linker_cache

ENTRIES = [
    ("libm.so.6", "/lib/x86_64-linux-gnu/libm.so.6", 0),
    ("libm.so.6", "/lib/glibc-hwcaps/libm.so.6", 1 << 62),
    ("libvendor.so", "/opt/a/libother.so", 0),
]


def paths(data, name):
    return list(read_cache(data).paths(name))


@pytest.mark.parametrize("old", [0, 3])
def test_a_name_has_its_paths_in_order(old):
    data = linker_cache(ENTRIES, old=old)
    assert paths(data, "libm.so.6") == [("/lib/x86_64-linux-gnu/libm.so.6", False), ("/lib/glibc-hwcaps/libm.so.6", True)]
    assert paths(data, "libvendor.so") == [("/opt/a/libother.so", False)]
    assert paths(data, "m.so.6") == paths(data, "libother.so") == []


def test_names_that_are_not_utf8():
    name = os.fsdecode(b"lib\xff.so")
    assert paths(linker_cache([(name, f"/x/{name}", 0)]), name) == [(f"/x/{name}", False)]


def test_the_cache_of_this_machine_names_files_that_are_there():
    if not os.path.exists("/etc/ld.so.cache"):
        pytest.skip("this machine has no /etc/ld.so.cache")
    with open("/etc/ld.so.cache", "rb") as file:
        data = file.read()
    found = paths(data, "libc.so.6")
    assert found
    assert all(os.path.exists(path) for path, _ in found)


@pytest.mark.parametrize("data", [b"", b"ld.so-1.7.0\0" + b"\xff" * 8, b"glibc-ld.so.cache1.1", b"glibc-ld.so.cache2.0" + b"\0" * 60])
def test_other_files_are_refused(data):
    with pytest.raises(BadCache):
        read_cache(data)


def test_more_entries_than_bytes_are_refused():
    data = bytearray(linker_cache(ENTRIES))
    struct.pack_into("<I", data, 20, 2**32 - 1)
    with pytest.raises(BadCache, match="do not fit"):
        read_cache(bytes(data))


def test_a_path_without_an_end_is_refused():
    data = linker_cache([("liba.so", "/x", 0)])
    with pytest.raises(BadCache, match="no end"):
        paths(data[:-1], "liba.so")


def test_a_name_that_ends_many_strings_is_refused():
    entries = [(f"{number}liba.so", "/x", 0) for number in range(MAX_TAILS + 1)]
    with pytest.raises(BadCache, match="strings end"):
        paths(linker_cache(entries), "liba.so")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_caches_are_read_or_refused(data):
    content = bytearray(linker_cache(ENTRIES, old=data.draw(st.sampled_from([0, 2]))))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadCache):
        assert len(paths(bytes(content), "libm.so.6")) <= len(ENTRIES)
