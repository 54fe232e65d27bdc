"""The closure of a driver's user space: as the dynamic linker resolves it, in any tree, and honest about what it could not see."""

from __future__ import annotations

import glob
import os
import random
import re
import shutil
import struct
import subprocess
from itertools import filterfalse

import pytest

from auditor.facts.closure import MAX_BESIDE, MAX_FOLDERS, MAX_OBJECTS, read_closure
from auditor.facts.reading import Device
from auditor.facts.types import Missing, Ok, Plan
from auditor.model import Remedy, Status
from auditor.sources import base
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder, Replay, pack, unpack
from fixtures.elf import Shared, linker_cache

AARCH64, HEXAGON = 183, 164
DELEGATE = "/opt/npu/libdelegate.so"
LIB = "/usr/lib64"
SYSTEM_FILES = 300


def plant(root, files):
    for path, content in files.items():
        where = f"{root}{path}"
        os.makedirs(os.path.dirname(where), exist_ok=True)
        if isinstance(content, Shared):
            content.write(where)
        elif content.startswith("-> "):
            os.symlink(content[3:], where)
        else:
            with open(where, "w", encoding="utf-8") as file:
                file.write(content)


class Linked:
    """A source in which no file spells a name: what is left is what the linker loads at the start."""

    kind, name = "root", "linked"

    def __init__(self, source):
        self._source = source

    def ask(self, question):
        return base.Reply(Status.OK) if question.kind in {"sonames", "holds"} else self._source.ask(question)


class Degraded:
    """A source that answers some questions with another status."""

    kind, name = "root", "degraded"

    def __init__(self, source, refuse, status=Status.DENIED):
        self._source, self._refuse, self._status = source, refuse, status

    def ask(self, question):
        return base.Reply(self._status) if self._refuse(question) else self._source.ask(question)


def ask(source, delegate=DELEGATE):
    return read_closure(Device(source), Plan(delegate=delegate))


def closure(root, files, delegate=DELEGATE, **options):
    """The closure in a planted tree, which a replay of its snapshot gives again."""
    plant(root, files)
    recorder = Recorder(Degraded(Tree(str(root)), **options) if options else Tree(str(root)))
    found = ask(recorder, delegate)
    record = unpack(pack(recorder.record("test", "2026-01-01T00:00:00Z")), "snapshot")
    assert ask(Replay(record), delegate) == found
    return found if isinstance(found, Missing) else found.value


def paths(found, *, certain=None):
    return [each.path for each in found.objects if certain is None or each.certain is certain]


def edges(found):
    return {each.path: each.edge for each in found.objects}


def reading(path):
    return {"refuse": lambda question: question.path == path}


# --- what the linker must find -----------------------------------------------------------------------------------------------------------


def test_without_a_delegate_there_is_no_closure(tmp_path):
    found = read_closure(Device(Tree(str(tmp_path))), Plan())
    assert (found.status, found.remedy) == (Status.UNASKED, Remedy.DELEGATE)


SETTINGS = '{stable_delegate_loader_settings: {delegate_path: "/opt/npu/libdelegate.so"}}'


@pytest.mark.parametrize(
    "path",
    [
        "/etc/ml_core/stable_delegate_settings.json",
        "/etc/tflite/settings.json",
        "/etc/camera/npu_stable_delegate_settings.json",
        "/etc/openvino/anything.json",
        "/etc/neuron/settings.json",
    ],
)
def test_the_delegate_is_the_one_that_the_device_names(tmp_path, path):
    found = closure(tmp_path, {path: SETTINGS, DELEGATE: Shared(needed=("libx.so",)), "/opt/npu/libx.so": Shared()}, delegate=None)
    assert (found.named_by, found.roots, found.objects[0].edge, found.objects[0].certain) == (path, (DELEGATE,), "root", True)


def test_a_delegate_that_is_given_comes_before_the_device_s_own(tmp_path):
    files = {"/etc/tflite/settings.json": SETTINGS, DELEGATE: Shared(), "/opt/other/libother.so": Shared()}
    found = closure(tmp_path, files, delegate="/opt/other/libother.so")
    assert (found.named_by, found.roots) == ("", ("/opt/other/libother.so", DELEGATE))


@pytest.mark.parametrize("path", ["/etc/tflite/settings.json", "/etc/openvino"])
def test_settings_that_cannot_be_read_leave_the_delegate_unknown(tmp_path, path):
    plant(tmp_path, {"/etc/tflite/settings.json": SETTINGS, "/etc/openvino/x.json": SETTINGS})
    os.unlink(tmp_path / "etc/tflite/settings.json") if path != "/etc/tflite/settings.json" else None
    found = ask(Degraded(Tree(str(tmp_path)), **reading(path)), None)
    named = [item for item in (found.evidence if isinstance(found, Missing) else ()) if item.path == path]
    assert named or isinstance(found, Missing)


# --- neighbours that say nothing ---------------------------------------------------------------------------------------------------------


def sidecar():
    """What `objcopy --only-keep-debug` leaves: the program headers of the whole file, the debugging sections, and none of the code."""
    names = b"\0.debug_info\0.text\0.shstrtab\0"
    rows = [(0, 0, 0, 0), (1, 1, 120, 8), (13, 8, 120, 4096), (19, 3, 128, len(names))]
    at = 128 + len(names)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, 62, 1, 0, 64, at, 0, 64, 56, 1, 64, 4, 3)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 1 << 20, 1 << 20, 4096)
    return head + load + b"DWARF..." + names + b"".join(struct.pack("<IIQQQQIIQQ", n, k, 0, 0, o, s, 0, 0, 1, 0) for n, k, o, s in rows)


def test_a_sidecar_for_debuggers_is_no_library(tmp_path):
    plant(tmp_path, {DELEGATE: Shared(), "/opt/npu/.debug/x": "-> ../libdelegate.so.debug"})
    for name in ("libdelegate.so.debug", ".debug/libdelegate.so.dbg"):
        (tmp_path / f"opt/npu/{name}").write_bytes(sidecar())
    found = ask(Tree(str(tmp_path))).open()
    assert (paths(found), found.unread) == ([DELEGATE], ())
    # evasion: a library of that name; and one that is cut short says nothing of itself
    (tmp_path / "opt/npu/libdelegate.so.debug").write_bytes(Shared(size=9999).build())
    assert f"{DELEGATE}.debug" in paths(ask(Tree(str(tmp_path))).open())
    (tmp_path / "opt/npu/libdelegate.so.debug").write_bytes(Shared().build()[:200])
    assert ask(Tree(str(tmp_path))).open().unread


def test_links_that_lead_nowhere_beside_the_driver_say_nothing(tmp_path):
    links = {"/opt/npu/liba.so": "-> libb.so", "/opt/npu/libb.so": "-> liba.so", "/opt/npu/libc.so": "-> /none", "/opt/npu/d": "-> d"}
    found = closure(tmp_path, {DELEGATE: Shared(), **links})
    assert (paths(found), found.unread) == ([DELEGATE], ())


@pytest.mark.parametrize(("own", "sibling", "foreign"), [(62, 3, 164), (183, 40, 62)])
def test_the_32_bit_sibling_is_for_the_same_processor(tmp_path, own, sibling, foreign):
    files = {DELEGATE: Shared(machine=own), "/opt/npu/lib32.so": Shared(machine=sibling, bits=32)}
    assert closure(tmp_path, files).foreign == ()
    found = closure(tmp_path, {"/opt/npu/libskel.so": Shared(machine=foreign)})
    assert [each.path for each in found.foreign] == ["/opt/npu/libskel.so"]


@pytest.mark.parametrize("content", ["", "no library", "\x7fELF and no more"])
def test_a_delegate_that_cannot_be_read_is_no_closure(tmp_path, content):
    found = closure(tmp_path, {DELEGATE: content})
    assert found.status is Status.FAILED
    assert found.evidence[0].path == DELEGATE


def test_a_delegate_that_is_not_there_is_named(tmp_path):
    found = closure(tmp_path, {"/etc/hosts": ""})
    assert (found.status, found.evidence[0].path, found.remedy) == (Status.ABSENT, DELEGATE, Remedy.DELEGATE)


def test_breadth_first_each_once_and_cycles_end(tmp_path):
    found = closure(
        tmp_path,
        {
            DELEGATE: Shared(needed=("liba.so", "libb.so")),
            f"{LIB}/liba.so": Shared(needed=("libc1.so",)),
            f"{LIB}/libb.so": Shared(needed=("liba.so", "libc1.so")),
            f"{LIB}/libc1.so": Shared(needed=("libb.so",)),
        },
    )
    assert paths(found, certain=True) == [DELEGATE, f"{LIB}/liba.so", f"{LIB}/libb.so", f"{LIB}/libc1.so"]
    assert [each.needed_by for each in found.objects] == ["", DELEGATE, DELEGATE, f"{LIB}/liba.so"]
    assert not found.missing
    assert not found.unread


def test_a_delegate_named_without_a_folder_is_looked_up(tmp_path):
    files = {f"{LIB}/libdelegate.so": Shared(machine=AARCH64)}
    assert paths(closure(tmp_path, files, "libdelegate.so")) == [f"{LIB}/libdelegate.so"]


def test_rpath_is_inherited_and_runpath_is_not(tmp_path):
    chain = {"/a/libone.so": Shared(needed=("libtwo.so",)), "/a/libtwo.so": Shared()}
    inherited = closure(tmp_path / "rpath", {DELEGATE: Shared(needed=("libone.so",), rpath="/a"), **chain})
    assert not inherited.missing
    own = closure(tmp_path / "runpath", {DELEGATE: Shared(needed=("libone.so",), runpath="/a"), **chain})
    assert [(each.name, each.needed_by) for each in own.missing] == [("libtwo.so", "/a/libone.so")]


def test_runpath_of_the_needing_object_turns_inherited_rpath_off(tmp_path):
    files = {
        DELEGATE: Shared(needed=("libone.so",), rpath="/a"),
        "/a/libone.so": Shared(needed=("libtwo.so",), runpath="/b"),
        "/a/libtwo.so": Shared(),
    }
    assert [each.name for each in closure(tmp_path, files).missing] == ["libtwo.so"]


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("$ORIGIN/deps", "/opt/npu/deps"),
        ("${ORIGIN}/../deps", "/opt/deps"),
        ("/opt/$LIB", "/opt/lib64"),
        ("/opt/${LIB}/$PLATFORM", "/opt/lib64/x86_64"),
    ],
)
def test_tokens_of_a_search_path(tmp_path, text, folder):
    files = {DELEGATE: Shared(needed=("libone.so",), runpath=text), f"{folder}/libone.so": Shared(), f"{LIB}/libc.so.6": Shared()}
    assert f"{folder}/libone.so" in paths(closure(tmp_path, files), certain=True)


def test_lib_is_the_multiarch_folder_where_the_image_has_one(tmp_path):
    folder = "/opt/lib/aarch64-linux-gnu"
    files = {
        DELEGATE: Shared(needed=("libone.so",), runpath="/opt/$LIB", machine=AARCH64),
        f"{folder}/libone.so": Shared(machine=AARCH64),
        "/usr/lib/aarch64-linux-gnu/libc.so.6": Shared(machine=AARCH64),
    }
    assert f"{folder}/libone.so" in paths(closure(tmp_path, files))


def test_origin_is_where_the_linker_found_the_file_not_where_a_link_leads(tmp_path):
    files = {
        "/opt/npu/libdelegate.so": "-> /opt/real/libdelegate.so",
        "/opt/real/libdelegate.so": Shared(needed=("libone.so",), runpath="$ORIGIN"),
        "/opt/npu/libone.so": Shared(size=5000),
        "/opt/real/libone.so": Shared(size=7000),
    }
    found = closure(tmp_path, files)
    assert [each.path for each in found.objects if each.edge == "DT_NEEDED"] == ["/opt/npu/libone.so"]


def test_a_relative_search_path_depends_on_the_process_and_is_unread(tmp_path):
    for number, text in enumerate(("lib", "/a:", "")):
        found = closure(tmp_path / str(number), {DELEGATE: Shared(needed=("libone.so",), runpath=text), f"{LIB}/libone.so": Shared()})
        assert ["working directory" in each.note for each in found.unread] == [True] * bool(text)


def test_ld_so_conf_and_what_it_includes(tmp_path):
    files = {
        DELEGATE: Shared(needed=("liba.so", "libb.so", "libd.so")),
        "/etc/ld.so.conf": "# folders\ninclude ld.so.conf.d/*.conf\n/conf/one # the first\nhwcap 0 nosegneg\n/conf/lib=libc6\n",
        "/etc/ld.so.conf.d/npu.conf": "/conf/two\ninclude /etc/ld.so.conf\n",
        "/etc/ld.so.conf.d/npu.conf.bak": "/conf/three\n",
        "/conf/one/liba.so": Shared(),
        "/conf/two/libb.so": Shared(),
        "/conf/three/libd.so": Shared(),
        f"{LIB}/liba.so": Shared(),
    }
    found = closure(tmp_path, files)
    assert paths(found)[1:] == ["/conf/one/liba.so", "/conf/two/libb.so"]
    assert [each.name for each in found.missing] == ["libd.so"]
    assert not found.unread


@pytest.mark.parametrize("path", ["/etc/ld.so.conf", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/tflite/settings.json"])
def test_configuration_that_is_too_long_is_unread(tmp_path, path):
    """Evasion: what matters lies behind more bytes than are read."""
    text = "#" + "".join(map(str, range(1 << 18))) + "\n/conf\n"
    found = closure(tmp_path, {DELEGATE: Shared(needed=("liba.so",)), path: text, f"{LIB}/liba.so": Shared()})
    assert [each.evidence[0].path for each in found.unread] == [path]


def test_endless_includes_are_cut_and_said(tmp_path):
    files = {f"/etc/conf{number}": f"include /etc/conf{number + 1}\n" for number in range(20)}
    found = closure(tmp_path, {DELEGATE: Shared(needed=("liba.so",)), "/etc/ld.so.conf": "include conf0\n", **files})
    assert "includes" in found.unread[0].note


def test_the_linkers_cache_stands_for_ld_so_conf(tmp_path):
    """Evasion: a small library where ld.so.conf points, and another where the cache does, which is the one that is loaded."""
    files = {
        DELEGATE: Shared(needed=("liba.so", "libb.so", "libd.so")),
        "/etc/ld.so.conf": "/conf\n",
        **{f"/conf/{name}.so": Shared() for name in ("liba", "libb", "libd")},
        "/hidden/liba.so": Shared(),
        f"{LIB}/liba.so": Shared(),
        f"{LIB}/libb.so": Shared(),
    }
    plant(tmp_path, files)
    with open(tmp_path / "etc/ld.so.cache", "wb") as file:
        file.write(linker_cache([("liba.so", "/hidden/liba.so", 0), ("libb.so", "/hidden/gone/libb.so", 0)]))
    found = closure(tmp_path, {})
    assert paths(found)[1:] == ["/hidden/liba.so", f"{LIB}/libb.so"]
    assert [(each.name, each.searched[0]) for each in found.missing] == [("libd.so", "/etc/ld.so.cache")]


def test_a_cache_that_is_not_understood_is_unread(tmp_path):
    found = closure(tmp_path, {DELEGATE: Shared(needed=("liba.so",)), "/etc/ld.so.cache": "none", f"{LIB}/liba.so": Shared()})
    assert paths(found) == [DELEGATE]
    assert found.unread[0].evidence[0].path == "/etc/ld.so.cache"


def test_a_cache_of_many_paths_of_one_name_is_cut_and_said(tmp_path):
    plant(tmp_path, {DELEGATE: Shared(needed=("liba.so",)), f"{LIB}/liba.so": Shared()})
    data = bytearray(linker_cache([("liba.so", "/a", 0)] * 400))
    for number in range(400):
        data[48 + 24 * number : 72 + 24 * number] = data[48:72]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ld.so.cache").write_bytes(data)
    assert "paths of liba.so" in closure(tmp_path, {}).unread[0].note


def test_missing_libraries_name_the_places_that_were_searched(tmp_path):
    files = {DELEGATE: Shared(needed=("libgone.so",), runpath="/a:/b"), "/etc/ld.so.conf": "/c\n"}
    (missing,) = closure(tmp_path, files).missing
    assert (missing.name, missing.needed_by, missing.edge, missing.optional) == ("libgone.so", DELEGATE, "DT_NEEDED", False)
    assert missing.searched[:3] == ("/a", "/b", "/c")
    assert "/usr/lib64" in missing.searched


def test_files_of_another_kind_are_passed_over(tmp_path):
    files = {
        DELEGATE: Shared(needed=("libone.so",), runpath="/a:/b:/c"),
        "/a/libone.so": Shared(machine=AARCH64),
        "/b/libone.so": Shared(bits=32, machine=3),
        "/c/libone.so": Shared(),
    }
    assert paths(closure(tmp_path, files))[1:] == ["/c/libone.so"]


def test_a_dangling_link_is_passed_over(tmp_path):
    files = {DELEGATE: Shared(needed=("libone.so",), runpath="/a:/b"), "/a/libone.so": "-> gone", "/b/libone.so": Shared()}
    found = closure(tmp_path, files)
    assert paths(found)[1:] == ["/b/libone.so"]
    assert not found.unread


def test_links_stay_inside_the_root(tmp_path):
    outside = tmp_path / "outside.so"
    Shared().write(str(outside))
    found = closure(tmp_path / "root", {DELEGATE: Shared(needed=("libone.so",), runpath="/a"), "/a/libone.so": f"-> {outside}"})
    assert [each.name for each in found.missing] == ["libone.so"]


@pytest.mark.parametrize("content", ["GROUP ( libm.so.6 )", "\x7fELF" + "\2\1\1" + "\0" * 60])
def test_a_broken_library_is_unread_not_passed_over(tmp_path, content):
    files = {DELEGATE: Shared(needed=("libone.so",), runpath="/a:/b"), "/a/libone.so": content, "/b/libone.so": Shared()}
    found = closure(tmp_path, files)
    if content.startswith("GROUP"):
        assert [each.evidence[0].path for each in found.unread] == ["/a/libone.so"]
        assert "/b/libone.so" not in paths(found)
    else:  # a whole header that asks for nothing, of no machine: another kind
        assert "/b/libone.so" in paths(found)


def test_a_fifo_in_a_librarys_place_is_unread(tmp_path):
    plant(tmp_path, {DELEGATE: Shared(needed=("libone.so",), runpath="/a")})
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "libone.so")
    (unread,) = closure(tmp_path, {}).unread
    assert "fifo" in unread.note


def test_a_folder_that_cannot_be_entered_hides_what_follows(tmp_path):
    files = {DELEGATE: Shared(needed=("libone.so", "libtwo.so"), runpath="/a"), f"{LIB}/libone.so": Shared(), "/a/libtwo.so": Shared()}
    found = closure(tmp_path, files, refuse=lambda question: question.path.startswith("/a"))
    assert paths(found) == [DELEGATE]
    assert found.unread[0].status is Status.DENIED
    assert not found.missing


def test_what_is_found_after_something_unread_is_not_certain(tmp_path):
    files = {
        DELEGATE: Shared(needed=("liba.so", "libb.so"), runpath="/a"),
        "/a/liba.so": Shared(soname="libb.so"),
        f"{LIB}/libb.so": Shared(),
        "/a/libz.so": Shared(),
    }
    assert f"{LIB}/libb.so" not in paths(closure(tmp_path, files))
    found = closure(tmp_path, {}, **reading("/a/liba.so"))
    assert [each.certain for each in found.objects if each.path == f"{LIB}/libb.so"] == [False]


def test_a_loaded_soname_serves_later_requests(tmp_path):
    files = {
        DELEGATE: Shared(needed=("liba-1.2.so", "liba.so.1"), runpath="/a"),
        "/a/liba-1.2.so": Shared(soname="liba.so.1"),
        "/a/sub/liba.so.1": Shared(),
        f"{LIB}/liba.so.1": Shared(),
    }
    assert f"{LIB}/liba.so.1" not in paths(closure(tmp_path, files))


def test_hard_links_and_symbolic_links_are_one_file(tmp_path):
    plant(
        tmp_path, {DELEGATE: Shared(needed=("liba.so", "libb.so", "libd.so")), f"{LIB}/liba.so": Shared(), f"{LIB}/libd.so": "-> liba.so"}
    )
    os.link(f"{tmp_path}{LIB}/liba.so", f"{tmp_path}{LIB}/libb.so")
    assert len(closure(tmp_path, {}).objects) == 2


def test_no_default_folders_for_nodeflib(tmp_path):
    files = {DELEGATE: Shared(needed=("liba.so", "libb.so"), no_default=True), f"{LIB}/liba.so": Shared(), "/conf/libb.so": Shared()}
    found = closure(tmp_path, {**files, "/etc/ld.so.conf": f"{LIB}\n/conf\n"})
    assert [each.name for each in found.missing] == ["liba.so"]
    assert "/conf/libb.so" in paths(found)


def test_variants_for_a_processor_are_possible_not_certain(tmp_path):
    variant = f"{LIB}/glibc-hwcaps/x86-64-v3/liba.so"
    found = closure(tmp_path, {DELEGATE: Shared(needed=("liba.so",)), f"{LIB}/liba.so": Shared(), variant: Shared(size=90_000)})
    assert paths(found, certain=False) == [variant, f"{LIB}/liba.so"]
    assert all(each.system for each in found.objects[1:])


def test_a_library_that_only_some_processors_have_is_possible(tmp_path):
    variant = f"{LIB}/glibc-hwcaps/x86-64-v3/liba.so"
    found = closure(tmp_path, {DELEGATE: Shared(needed=("liba.so",)), variant: Shared(), "/usr/lib/liba.so": Shared()})
    assert paths(found, certain=False) == [variant, "/usr/lib/liba.so"]


def test_filters_are_needed_and_auxiliaries_are_not(tmp_path):
    found = closure(
        tmp_path,
        {
            DELEGATE: Shared(filters=("libf.so", "libx.so"), auxiliary=("liba.so", "liby.so")),
            f"{LIB}/libf.so": Shared(),
            f"{LIB}/liba.so": Shared(),
        },
    )
    assert edges(found) == {DELEGATE: "root", f"{LIB}/libf.so": "DT_FILTER", f"{LIB}/liba.so": "DT_AUXILIARY"}
    assert {each.name: each.optional for each in found.missing} == {"libx.so": False, "liby.so": True}


def test_a_path_in_dt_needed(tmp_path):
    found = closure(
        tmp_path,
        {DELEGATE: Shared(needed=("/hidden/liba.so", "$ORIGIN/x/libb.so")), "/hidden/liba.so": Shared(), "/opt/npu/x/libb.so": Shared()},
    )
    assert paths(found, certain=True) == [DELEGATE, "/hidden/liba.so", "/opt/npu/x/libb.so"]


def test_an_image_of_another_machine(tmp_path):
    files = {
        "/usr/lib/aarch64-linux-gnu/libdelegate.so": Shared(needed=("libdrm.so.2", "libc.so.6"), machine=AARCH64),
        "/lib": "-> usr/lib",
        "/usr/lib/aarch64-linux-gnu/libdrm.so.2": "-> libdrm.so.2.4",
        "/usr/lib/aarch64-linux-gnu/libdrm.so.2.4": Shared(soname="libdrm.so.2", machine=AARCH64),
        "/usr/lib/aarch64-linux-gnu/libc.so.6": Shared(soname="libc.so.6", machine=AARCH64),
    }
    found = closure(tmp_path, files, "/usr/lib/aarch64-linux-gnu/libdelegate.so")
    assert [(each.path.rpartition("/")[2], each.base, each.system) for each in found.objects] == [
        ("libdelegate.so", False, True),
        ("libdrm.so.2.4", False, True),
        ("libc.so.6", True, True),
    ]


# --- what is opened at run time ----------------------------------------------------------------------------------------------------------


def test_dlopen_notes_and_their_priorities(tmp_path):
    note = [
        {"soname": ["libgone.so.2", "libd.so.1"], "priority": "required"},
        {"soname": "libr.so", "priority": "required"},
        {"soname": "libo.so"},
    ]
    found = closure(tmp_path, {DELEGATE: Shared(dlopen=note), f"{LIB}/libd.so.1": Shared()})
    assert edges(found)[f"{LIB}/libd.so.1"] == "dlopen note"
    assert {each.name: each.optional for each in found.missing} == {"libr.so": False, "libo.so": True}


def test_names_among_the_bytes_that_the_vendors_own_files_bear(tmp_path):
    files = {
        DELEGATE: Shared(strings=("libbackend.so", "plugins/libother.so.2", "/opt/more/libthird.so", "libnowhere.so", "a .source text")),
        "/opt/npu/libbackend.so": Shared(needed=("libdep.so",)),
        "/opt/npu/plugins/libother.so.2": Shared(),
        "/opt/more/libthird.so": Shared(),
        f"{LIB}/libdep.so": Shared(),
    }
    found = closure(tmp_path, files)
    assert set(paths(found, certain=True)) == set(files)
    assert edges(found)["/opt/npu/libbackend.so"] == "string"
    assert not found.missing


def test_names_that_are_found_elsewhere_are_possible(tmp_path):
    files = {
        DELEGATE: Shared(strings=("libOpenCL.so.1", "libm.so")),
        f"{LIB}/libOpenCL.so.1": Shared(needed=("libLLVM.so",)),
        f"{LIB}/libm.so": "GROUP ( libm.so.6 )",
    }
    found = closure(tmp_path, files)
    assert paths(found, certain=False) == [f"{LIB}/libOpenCL.so.1"]
    # the vendor's code would get neither the linker script nor, for what may not be opened at all, the library it lacks
    assert [each.optional for each in found.missing] == [True]
    assert not found.unread


def test_a_delegate_in_a_system_folder_names_its_neighbours(tmp_path):
    files = {
        f"{LIB}/libdelegate.so": Shared(needed=("libneuron.so",), strings=("libadapter.so", "libnpu_core%d.so.%d")),
        f"{LIB}/libneuron.so": Shared(strings=("libplatform.so",)),
        f"{LIB}/libadapter.so": Shared(),
        f"{LIB}/libplatform.so": Shared(),
        f"{LIB}/libnpu_core7.so.3": Shared(),
        f"{LIB}/libunrelated.so": Shared(),
    }
    found = closure(tmp_path, files, f"{LIB}/libdelegate.so")
    assert {path.rpartition("/")[2] for path in paths(found, certain=True)} == {"libdelegate.so", "libneuron.so", "libadapter.so"}
    assert {path.rpartition("/")[2] for path in paths(found, certain=False)} == {"libplatform.so", "libnpu_core7.so.3"}


@pytest.mark.parametrize(
    ("spelled", "possible"),
    [
        ("/usr/lib64/npu", {"libcore.so", "libdeep.so"}),
        ("/lib64/npu/", {"libcore.so", "libdeep.so"}),
        ("%s/npu/lib%s.so", {"libcore.so", "libdeep.so"}),
        ("npu/lib%s.so", {"libcore.so", "libdeep.so"}),
        ("/usr/share/cores/lib%d.so", {"lib7.so"}),
        ("libcore.so", {"libcore.so", "libdeep.so"}),
        ("lib%s.so", set()),
        ("/dev/other", set()),
    ],
)
def test_folders_below_a_shared_one_that_the_driver_names(tmp_path, spelled, possible):
    """Evasion: what a driver in a shared folder loads lies one folder below, under a name that is composed at run time."""
    files = {
        f"{LIB}/libdelegate.so": Shared(strings=(spelled,)),
        f"{LIB}/npu/libcore.so": Shared(),
        f"{LIB}/npu/v2/libdeep.so": Shared(),
        f"{LIB}/other/libother.so": Shared(),
        "/usr/share/cores/lib7.so": Shared(),
    }
    found = closure(tmp_path, files, f"{LIB}/libdelegate.so")
    assert {path.rpartition("/")[2] for path in paths(found, certain=False)} == possible
    assert not found.unread


def test_a_folder_below_a_shared_one_that_cannot_be_looked_at_is_unread(tmp_path):
    files = {f"{LIB}/libdelegate.so": Shared(strings=("/usr/lib64/npu",)), f"{LIB}/npu/libcore.so": Shared()}
    found = closure(tmp_path, files, f"{LIB}/libdelegate.so", refuse=lambda question: question.path == f"{LIB}/npu")
    assert [each.status for each in found.unread] == [Status.DENIED]


def test_all_of_a_package_below_opt_is_the_drivers(tmp_path):
    """Evasion: what the driver loads lies in another folder of its package, beside the driver's own."""
    files = {
        "/opt/vendor/lib/libdelegate.so": Shared(),
        "/opt/vendor/data/core.bin": Shared(),
        "/opt/another/libx.so": Shared(),
    }
    found = closure(tmp_path, files, "/opt/vendor/lib/libdelegate.so")
    assert paths(found, certain=False) == ["/opt/vendor/data/core.bin"]


def test_files_beside_the_driver_that_nothing_names_are_possible(tmp_path):
    """Evasion: a name composed at run time (openvino_intel_npu_compiler_loader, libQnnHtpV%dSkel.so)."""
    files = {
        DELEGATE: Shared(),
        "/opt/npu/libcompiler.so": Shared(needed=("libz.so",)),
        "/opt/npu/compiler.bin": Shared(),
        "/opt/npu/model.tflite": "data",
        "/opt/npu/module.ko": Shared(type=1),
        "/opt/npu/doc/readme": "text",
        f"{LIB}/libz.so": Shared(),
    }
    found = closure(tmp_path, files)
    assert set(paths(found, certain=False)) == {"/opt/npu/libcompiler.so", "/opt/npu/compiler.bin", f"{LIB}/libz.so"}
    assert edges(found)["/opt/npu/compiler.bin"] == "beside"


def test_so_are_files_in_folders_below_the_drivers(tmp_path):
    """Evasion: plug-ins or accelerator code in a folder whose name is put together at run time (plugins/, hexagon-v75/unsigned/)."""
    files = {
        DELEGATE: Shared(strings=("libplugin.so",)),
        "/opt/npu/plugins/libplugin.so": Shared(),
        "/opt/npu/hexagon/v75/libSkel.so": Shared(machine=HEXAGON, bits=32),
        "/opt/npu/hexagon/pack.zip": "PK\3\4",
        "/opt/npu/elsewhere": "-> /var/npu",
        "/var/npu/libx.so": Shared(),
        "/var/npu/back": "-> /opt/npu",
        "/opt/npu/system": f"-> {LIB}",
        f"{LIB}/libz.so": Shared(),
    }
    found = closure(tmp_path, files)
    assert set(paths(found, certain=False)) == {"/opt/npu/plugins/libplugin.so", "/opt/npu/hexagon/v75/libSkel.so", "/var/npu/libx.so"}
    assert [each.path for each in found.archives] == ["/opt/npu/hexagon/pack.zip"]
    assert not found.unread


def test_a_folder_below_the_drivers_that_cannot_be_listed_is_unread(tmp_path):
    files = {DELEGATE: Shared(), "/opt/npu/sub/libx.so": Shared()}
    found = closure(tmp_path, files, refuse=lambda question: question.kind == "list" and question.path == "/opt/npu/sub")
    assert [each.status for each in found.unread] == [Status.DENIED]


@pytest.mark.parametrize("files", [{f"{at}/x": "" for at in range(MAX_FOLDERS + 1)}, {f"{at % 8}/{at}": "" for at in range(MAX_BESIDE)}])
def test_more_below_the_driver_than_is_looked_at_is_said(tmp_path, files):
    found = closure(tmp_path, {DELEGATE: Shared(), **{f"/opt/npu/{path}": content for path, content in files.items()}})
    assert any("beside the driver and below" in each.note for each in found.unread)


def test_of_data_beside_the_driver_four_bytes_are_recorded(tmp_path):
    plant(tmp_path, {DELEGATE: Shared(), "/opt/npu/secret": "password"})
    recorder = Recorder(Tree(str(tmp_path)))
    ask(recorder)
    assert b"password" not in b"".join(reply.data for reply in recorder.record("test", "now").answers.values())


def test_code_for_another_processor_counts_and_is_not_followed(tmp_path):
    """Evasion: accelerator code shipped as a user-space library (libQnnHtpV*Skel.so, EM_QDSP6)."""
    skel = Shared(machine=HEXAGON, bits=32, needed=("libc++.so.1",))
    found = closure(tmp_path, {DELEGATE: Shared(strings=("libSkel.so",)), "/opt/npu/libSkel.so": skel})
    assert paths(found, certain=True) == [DELEGATE, "/opt/npu/libSkel.so"]
    assert found.objects[1].machine == HEXAGON
    assert not found.missing


def test_a_file_whose_bytes_cannot_be_searched_is_unread(tmp_path):
    found = closure(tmp_path, {DELEGATE: Shared()}, refuse=lambda question: question.kind == "sonames", status=Status.UNASKED)
    assert [each.status for each in found.unread] == [Status.UNASKED]


@pytest.mark.parametrize("text", [
    '{"stable_delegate_loader_settings": {"delegate_path": "/usr/lib64/libother.so", "delegate_name": "x"}, "y": NO_OPERATION_CHECK}',
    '{ stable_delegate_loader_settings: { delegate_path: "/usr/lib64/libother.so" }, hints: [OPTIMIZATION_LOW_LATENCY] }',
])  # fmt: skip
def test_the_devices_own_settings_name_further_roots(tmp_path, text):
    files = {DELEGATE: Shared(), "/etc/tflite/settings.json": text, f"{LIB}/libother.so": Shared(needed=("libdep.so",))}
    found = closure(tmp_path, files)
    assert found.roots == (DELEGATE, f"{LIB}/libother.so")
    assert [(each.path, each.edge, each.certain) for each in found.objects[1:]] == [(f"{LIB}/libother.so", "settings", False)]


@pytest.mark.parametrize("text", ['{"delegate_path": 3}', '{"delegate_path": ', '{"delegate_path": "/usr/lib64/libx.so"'])
def test_settings_that_are_not_understood_are_unread(tmp_path, text):
    found = closure(tmp_path, {DELEGATE: Shared(), "/etc/tflite/settings.json": text})
    assert found.unread[0].evidence[0].path == "/etc/tflite/settings.json"


def stable(root, settings, files):
    plant(root, {"/etc/npu.json": settings, **files})
    return read_closure(Device(Tree(str(root))), Plan(stable_delegate="/etc/npu.json"))


@pytest.mark.parametrize("name", [f"{LIB}/libnpu.so", "libnpu.so"])
def test_the_closure_of_a_stable_delegate_starts_at_what_its_settings_name(tmp_path, name):
    text = f'{{stable_delegate_loader_settings: {{delegate_path: "{name}"}}, mode: FAST}}'
    found = stable(tmp_path, text, {f"{LIB}/libnpu.so": Shared(needed=("libdep.so",)), f"{LIB}/libdep.so": Shared()}).open()
    assert found.roots == (f"{LIB}/libnpu.so",)
    assert paths(found, certain=True) == [f"{LIB}/libnpu.so", f"{LIB}/libdep.so"]


def test_without_settings_that_are_understood_there_is_no_closure(tmp_path):
    assert stable(tmp_path, "{}", {DELEGATE: Shared()}).status is Status.FAILED
    assert stable(tmp_path, '{stable_delegate_loader_settings: {delegate_path: "/none.so"}}', {}).status is Status.ABSENT
    assert stable(tmp_path / "other", "-> /none", {}).status is Status.ABSENT


def test_preloaded_libraries_are_possible(tmp_path):
    """Evasion: ld.so.preload."""
    found = closure(tmp_path, {DELEGATE: Shared(), "/etc/ld.so.preload": "/hidden/libpre.so # all\n", "/hidden/libpre.so": Shared()})
    assert edges(found)["/hidden/libpre.so"] == "ld.so.preload"
    assert not found.objects[1].certain


def test_a_vendors_own_libm_is_not_the_systems(tmp_path):
    """Evasion: an alias of a base library; by name, by soname, and through a folder that ld.so.conf adds."""
    files = {
        DELEGATE: Shared(needed=("libm.so.6", "libpthread.so.0", "libc.so.6", "libgcc_s.so.1"), runpath="$ORIGIN"),
        "/opt/npu/libm.so.6": Shared(soname="libm.so.6"),
        "/etc/ld.so.conf": "/opt/conf\n",
        "/opt/conf/libpthread.so.0": Shared(soname="libpthread.so.0"),
        f"{LIB}/libc.so.6": "-> libnpu_compiler.so",
        f"{LIB}/libnpu_compiler.so": Shared(soname="libc.so.6"),
        f"{LIB}/libgcc_s.so.1": Shared(soname="libgcc_s.so.1"),
    }
    assert [each.path for each in closure(tmp_path, files).objects if each.base] == [f"{LIB}/libgcc_s.so.1"]


# --- hostile trees -----------------------------------------------------------------------------------------------------------------------


def test_a_chain_without_end_is_cut_and_said(tmp_path):
    files = {f"{LIB}/lib{number}.so": Shared(needed=(f"lib{number + 1}.so",)) for number in range(MAX_OBJECTS + 50)}
    found = closure(tmp_path, {DELEGATE: Shared(needed=("lib0.so",)), **files})
    assert len(found.objects) <= MAX_OBJECTS + 1
    assert "more than" in found.unread[-1].note


def test_many_names_and_many_folders_end(tmp_path):
    needed = tuple(f"libnone{number}.so" for number in range(1000))
    folders = ":".join(f"/folder{number}" for number in range(255))
    found = closure(tmp_path, {DELEGATE: Shared(needed=needed, rpath=folders)})
    assert len(found.missing) == 1000
    assert closure(tmp_path / "more", {DELEGATE: Shared(needed=("liba.so",), rpath=f"{folders}:/x:/y")}).unread


def test_names_with_control_characters_are_shown_harmlessly(tmp_path):
    name = os.fsdecode(b"lib\x1b[2J\xff.so")
    found = closure(tmp_path, {DELEGATE: Shared(needed=(name,), runpath="$ORIGIN"), f"/opt/npu/{name}": Shared()})
    assert len(found.objects) == 2
    found.objects[1].path.encode("utf-8")


# --- agreement with the linker itself ----------------------------------------------------------------------------------------------------


def _is_interpreter(path):
    """The linker itself, which ldd shows for every file, and libtree for those that name it."""
    return os.path.basename(path).startswith("ld-linux")


_LINE = re.compile(r"^\t(?:(\S+) => )?(/\S+|not found)(?: \(0x[0-9a-f]+\))?$")


def _ldd(path):
    """The resolved libraries of a file, and the names not found. It runs the system's loader, so it is for trusted files only."""
    out = subprocess.run(["ldd", path], capture_output=True, text=True, timeout=20, check=False).stdout
    found = [match for match in map(_LINE.match, out.splitlines()) if match]
    gone = {match.group(1) for match in found if match.group(2) == "not found"}
    return {os.path.realpath(match.group(2)) for match in found if match.group(2) != "not found"}, gone


def _linked(found):
    """What the linker loads at start: all before the first object that comes by another edge."""
    by = {each.path: each for each in found.objects}
    loaded = set()
    for each in found.objects:
        if each.edge == "root" or (each.edge in {"DT_NEEDED", "DT_FILTER", "DT_AUXILIARY"} and each.needed_by in loaded):
            loaded.add(each.path)
    return {path for path in loaded if by[path].edge != "root"}


needs_ldd = pytest.mark.skipif(shutil.which("ldd") is None, reason="this machine has no ldd")
needs_libtree = pytest.mark.skipif(shutil.which("libtree") is None, reason="this machine has no libtree (apt-get install libtree)")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None or shutil.which("ldd") is None, reason="this machine has no cc, or no ldd")


@pytest.fixture(scope="module")
def system_files():
    """Dynamically linked files of this machine, each with what we find that the linker loads for it, and what is missing."""
    files = sorted(glob.glob("/usr/bin/*") + glob.glob("/usr/sbin/*") + glob.glob("/usr/lib/*-linux-gnu/*.so.*"))
    random.Random(2).shuffle(files)
    recorder = Recorder(Linked(Tree("/")))
    chosen = {}
    for path in filter(lambda path: not os.path.islink(path), files):
        found = ask(recorder, path)
        if isinstance(found, Ok) and found.value.objects and (found.value.objects[1:] or found.value.missing):
            gone = {each.name for each in found.value.missing if each.edge == "DT_NEEDED" and not each.optional}
            chosen[path] = _linked(found.value), gone
        if len(chosen) == SYSTEM_FILES:
            return chosen
    pytest.skip(f"this machine has {len(chosen)} dynamically linked files, not {SYSTEM_FILES}")


@needs_ldd
def test_agrees_with_ldd_on_system_files(system_files):
    for path, (linked, missing) in system_files.items():
        expected, gone = _ldd(path)
        assert linked | set(filter(_is_interpreter, expected)) == expected, path
        assert missing == gone, path


@needs_libtree
def test_agrees_with_libtree_on_system_files(system_files):
    """It looks into the folders that the linker's cache is made of, and not into the cache. It also goes depth first and forgets what
    it found: a name that it misses below one object and finds for another is loaded, as the linker keeps one object a name."""
    for path, (linked, missing) in system_files.items():
        out = subprocess.run(["libtree", "-vv", "-p", path], capture_output=True, text=True, timeout=20, check=False).stdout
        shown = [line.rpartition("── ")[2] for line in out.splitlines() if "── " in line]
        there = [each.partition(" [")[0] for each in shown if not each.endswith(" not found")]
        gone = {each.removesuffix(" not found") for each in shown if each.endswith(" not found")}
        assert not set(filterfalse(_is_interpreter, linked ^ set(map(os.path.realpath, there)))), path
        assert missing == gone - set(map(os.path.basename, there)), path


def _compile(folder, name, *arguments, source="int f(void) { return 1; }"):
    os.makedirs(folder, exist_ok=True)
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-x",
        "c",
        "-",
        "-o",
        f"{folder}/{name}",
        f"-Wl,-soname,{name}",
        "-Wl,--no-as-needed",
        *arguments,
    ]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True, timeout=60)


CASES = {
    "rpath is inherited": ("-Wl,--disable-new-dtags,-rpath,$ORIGIN/one:$ORIGIN/two", (), "two"),
    "runpath is not": ("-Wl,--enable-new-dtags,-rpath,$ORIGIN/one:$ORIGIN/two", (), "two"),
    "runpath of both": ("-Wl,--enable-new-dtags,-rpath,$ORIGIN/one", ("-Wl,--enable-new-dtags,-rpath,${ORIGIN}/../two",), "two"),
    "lib token": ("-Wl,--enable-new-dtags,-rpath,$ORIGIN/one", ("-Wl,--enable-new-dtags,-rpath,$ORIGIN/../$LIB",), "LIB"),
    "cycle": ("-Wl,--disable-new-dtags,-rpath,$ORIGIN/one:$ORIGIN/two", ("cycle",), "two"),
    "nodeflib": ("-Wl,--enable-new-dtags,-rpath,$ORIGIN/one", ("-Wl,-z,nodefaultlib",), "two"),
    "auxiliary": ("-Wl,--disable-new-dtags,-rpath,$ORIGIN/one:$ORIGIN/two,-f,libtwo.so,-f,libgone.so", (), "two"),
    "filter": ("-Wl,--disable-new-dtags,-rpath,$ORIGIN/one:$ORIGIN/two,-F,libtwo.so", (), "two"),
}  # fmt: skip


@needs_cc
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_ldd_on_compiled_cases(tmp_path, case):
    first, second, place = CASES[case]
    top = str(tmp_path)
    if place == "LIB":
        place = next(
            (f"lib/{name}" for name in ("x86_64-linux-gnu", "aarch64-linux-gnu") if os.path.exists(f"/usr/lib/{name}/libc.so.6")), "lib64"
        )
    _compile(f"{top}/{place}", "libtwo.so")
    arguments = [each for each in second if each != "cycle"]
    _compile(f"{top}/one", "libone.so", f"-L{top}/{place}", "-ltwo", *arguments)
    if "cycle" in second:
        _compile(f"{top}/{place}", "libtwo.so", f"-L{top}/one", "-lone", f"-L{top}/{place}")
    _compile(top, "libroot.so", f"-L{top}/one", "-lone", f"-Wl,-rpath-link,{top}/{place}", first)
    found = ask(Recorder(Tree("/")), f"{top}/libroot.so").value
    expected, gone = _ldd(f"{top}/libroot.so")
    assert _linked(found) == expected
    assert {each.name for each in found.missing if each.edge == "DT_NEEDED"} == gone
    assert expected
