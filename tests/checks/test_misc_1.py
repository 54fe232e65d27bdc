"""misc-1: what passes, what fails, what is not known, and the evasions that are about size."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from auditor import engine
from auditor.facts.closure import read_closure
from auditor.facts.reading import Device, evidence
from auditor.facts.types import Plan, Settings
from auditor.model import Level, Outcome, Remedy, Requirement, Status
from auditor.sources.base import Reply
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder, Replay
from checks.misc_1 import LIMIT, closure, packed
from fixtures.elf import Shared

DELEGATE = "/opt/npu/libdelegate.so"
LIB = "/usr/lib64"
MB = 10**6
REQUIREMENT = Requirement("misc-1", "", "", "", Level.MUST, "misc-1")


class Given:
    """The facts that the check sees."""

    def __init__(self, source, delegate, base_image):
        self.plan = Plan(delegate=delegate)
        self.closure = read_closure(Device(source), self.plan)
        self.settings = Settings(base_image=frozenset(base_image))


def judge(source, delegate=DELEGATE, base_image=(), check=closure):
    (found,) = engine._findings(Given(source, delegate, base_image), [check], REQUIREMENT, engine.Selection())
    return found


def plant(root, files):
    for path, content in files.items():
        if isinstance(content, Shared):
            content.write(f"{root}{path}")
        else:
            os.makedirs(os.path.dirname(f"{root}{path}"), exist_ok=True)
            with open(f"{root}{path}", "w", encoding="utf-8") as file:
                file.write(content)


def audit(root, files, **options):
    plant(root, files)
    return judge(Recorder(Tree(str(root))), **options)


SMALL = {
    DELEGATE: Shared(needed=("libdep.so", "libc.so.6"), runpath="$ORIGIN/lib", strings=("libplugin.so", "libelse.so"), size=MB),
    "/opt/npu/lib/libdep.so": Shared(size=2 * MB),
    "/opt/npu/libplugin.so": Shared(size=3 * MB),
    "/opt/npu/libbeside.so": Shared(size=4 * MB),
    f"{LIB}/libelse.so": Shared(size=5 * MB),
    f"{LIB}/libc.so.6": Shared(soname="libc.so.6", size=30 * MB),
    "/etc/ld.so.conf": "/usr/local/lib64\n",
    "/etc/tflite/settings.json": '{"delegate_path": "/usr/lib64/libelse.so"}',
}


def test_a_small_driver_passes_and_says_what_was_counted(tmp_path):
    found = audit(tmp_path, SMALL)
    assert found.outcome is Outcome.PASS
    assert "6.00 MB in 3 files: libplugin.so 3.00 MB, libdep.so 2.00 MB, libdelegate.so 1.00 MB" in found.observed
    assert "up to 15.00 MB with what may be loaded: libelse.so 5.00 MB, libbeside.so 4.00 MB" in found.observed
    assert "not counted: libc.so.6" in found.observed
    assert [each.path for each in found.evidence if each.necessary]


@pytest.mark.parametrize("name", ["libtensorflowlite.so", "libLiteRt.so", "libutil.so.1", "libstdc++.so.6"])
def test_a_name_of_the_systems_hides_nothing_large(tmp_path, name):
    """Evasion: the driver, or what it needs, under a name that is not counted, in a folder of the system's."""
    large = Shared(soname=name, size=80 * MB)
    assert audit(tmp_path / "itself", {f"{LIB}/{name}": large}, delegate=f"{LIB}/{name}").outcome is Outcome.FAIL
    assert audit(tmp_path / "needed", {DELEGATE: Shared(needed=(name,)), f"{LIB}/{name}": large}).outcome is Outcome.FAIL
    small = Shared(soname=name, size=9 * MB)
    found = audit(tmp_path / "small", {DELEGATE: Shared(needed=(name,), size=60 * MB), f"{LIB}/{name}": small})
    assert (found.outcome, f"not counted: {name}" in found.observed) == (Outcome.PASS, True)


@pytest.mark.parametrize(("name", "outcome"), [("core.o", Outcome.UNKNOWN), ("core", Outcome.UNKNOWN), ("core.ko", Outcome.PASS)])
def test_code_that_is_linked_when_it_is_loaded_may_count(tmp_path, name, outcome):
    """Evasion: the vendor's own linker takes object files; a kernel's module is none of these."""
    found = audit(tmp_path, {DELEGATE: Shared(), f"/opt/npu/{name}": Shared(type=1, size=80 * MB)})
    assert found.outcome is outcome


def test_a_large_driver_fails_and_says_what_would_help(tmp_path):
    found = audit(tmp_path, {**SMALL, "/opt/npu/libplugin.so": Shared(size=80 * MB)})
    assert found.outcome is Outcome.FAIL
    assert "without libplugin.so 80.00 MB it would be 3.00 MB" in found.remediation
    assert "19,000,001 bytes smaller" in found.remediation


@pytest.mark.parametrize(
    ("size", "outcome", "says"),
    [
        (LIMIT - 1, Outcome.PASS, "63,999,999 bytes"),
        (LIMIT, Outcome.FAIL, "64,000,000 bytes"),
        ((64 << 20) - 1, Outcome.FAIL, "less than 64 MiB"),
        (64 << 20, Outcome.FAIL, "64 MB or more."),
    ],
)
def test_the_limit(tmp_path, size, outcome, says):
    found = audit(tmp_path, {DELEGATE: Shared(size=size)})
    assert found.outcome is outcome
    assert says in f"{found.observed} {found.reason}"
    assert ("less than 64 MiB" in found.reason) is (LIMIT <= size < 64 << 20)


def test_without_a_delegate_it_is_unknown(tmp_path):
    found = audit(tmp_path, {}, delegate=None)
    assert (found.outcome, found.remedy) == (Outcome.UNKNOWN, Remedy.DELEGATE)


def test_the_delegate_that_the_device_names_is_said(tmp_path):
    settings = {"/etc/ml_core/stable_delegate_settings.json": f'{{delegate_path: "{DELEGATE}"}}', DELEGATE: Shared(size=MB)}
    found = audit(tmp_path, settings, delegate=None)
    assert found.outcome is Outcome.PASS
    assert found.observed.endswith("the delegate is the one that /etc/ml_core/stable_delegate_settings.json names")


def test_what_only_configuration_leads_to_may_be_loaded(tmp_path):
    opencl = {DELEGATE: Shared(needed=("libOpenCL.so.1",)), f"{LIB}/libOpenCL.so.1": Shared(), "/vendor/libicd.so": Shared(size=70 * MB)}
    assert audit(tmp_path, opencl).outcome is Outcome.PASS
    found = audit(tmp_path, {"/etc/OpenCL/vendors/npu.icd": "/vendor/libicd.so\n"})
    assert (found.outcome, "libicd.so" in found.observed) == (Outcome.UNKNOWN, True)


def test_a_missing_library_is_unknown(tmp_path):
    """Evasion: the driver is split over packages, of which one is not shown."""
    found = audit(tmp_path, {DELEGATE: Shared(needed=("libnpu_compiler.so.1",))})
    assert found.outcome is Outcome.UNKNOWN
    assert "not found: libnpu_compiler.so.1 (for libdelegate.so)" in found.observed


def test_a_library_that_is_merely_named_and_not_there_is_said(tmp_path):
    """Evasion: of a stack that is split over packages, the one that is shown opens the others by name."""
    found = audit(tmp_path, {DELEGATE: Shared(strings=("libQnnHtpPrepare.so", "libOther%d.so"))})
    assert (found.outcome, "named by its bytes and not there: libQnnHtpPrepare.so" in found.observed) == (Outcome.PASS, True)


def test_an_optional_library_may_be_missing(tmp_path):
    found = audit(tmp_path, {DELEGATE: Shared(auxiliary=("liba.so",), dlopen={"soname": "libb.so", "priority": "suggested"})})
    assert found.outcome is Outcome.PASS


def test_a_library_that_cannot_be_read_is_unknown(tmp_path):
    found = audit(tmp_path, {DELEGATE: Shared(needed=("liba.so",)), f"{LIB}/liba.so": "\x7fELF\2\1\1" + "x" * 100})
    assert found.outcome is Outcome.UNKNOWN
    assert f"not read: {LIB}/liba.so" in found.observed


def test_what_is_certain_fails_whatever_is_missing(tmp_path):
    found = audit(tmp_path, {DELEGATE: Shared(needed=("libgone.so",), size=LIMIT)})
    assert found.outcome is Outcome.FAIL
    assert "not found: libgone.so" in found.observed


def test_what_is_only_possible_does_not_fail_and_does_not_pass(tmp_path):
    """Evasion: a library beside the driver whose name is composed at run time."""
    found = audit(tmp_path, {DELEGATE: Shared(size=4_940_000), "/opt/npu/libQnnHtpPrepare.so": Shared(size=90 * MB)})
    assert (found.outcome, found.remedy) == (Outcome.UNKNOWN, Remedy.VENDOR)
    assert "libQnnHtpPrepare.so 90.00 MB" in found.observed


def test_string_edges_beside_the_driver_count(tmp_path):
    """Evasion: the large library is opened by a name in the driver's data, not needed by its header (libQnnHtp.so alone: 4.94 MB)."""
    stack = {
        DELEGATE: Shared(size=4_940_000, strings=("libQnnHtpPrepare.so",)),
        "/opt/npu/libQnnHtpPrepare.so": Shared(size=90 * MB),
    }
    assert audit(tmp_path, stack).outcome is Outcome.FAIL


@pytest.mark.parametrize("place", ["/opt/npu", "/opt/conf"])
def test_a_vendors_own_libm_counts(tmp_path, place):
    """Evasion: an alias of a base library, in the vendor's folder or in one that ld.so.conf adds."""
    files = {
        DELEGATE: Shared(needed=("libm.so.6",), rpath="$ORIGIN"),
        f"{place}/libm.so.6": Shared(soname="libm.so.6", size=70 * MB),
        "/etc/ld.so.conf": "/opt/conf\n",
    }
    assert audit(tmp_path, files).outcome is Outcome.FAIL


def test_the_systems_libm_does_not_count_but_a_file_under_its_soname_does(tmp_path):
    """Evasion: a compiler in /usr/lib64 that says it is libm.so.6."""
    files = {DELEGATE: Shared(needed=("libm.so.6",), size=40 * MB), f"{LIB}/libm.so.6": Shared(soname="libm.so.6", size=30 * MB)}
    assert audit(tmp_path / "own", files).outcome is Outcome.PASS
    plant(tmp_path / "alias", {DELEGATE: files[DELEGATE], f"{LIB}/libnpu.so": files[f"{LIB}/libm.so.6"]})
    os.symlink("libnpu.so", f"{tmp_path}/alias{LIB}/libm.so.6")
    assert judge(Recorder(Tree(str(tmp_path / "alias")))).outcome is Outcome.FAIL


@pytest.mark.parametrize(("place", "outcome"), [(LIB, Outcome.PASS), ("/opt/npu", Outcome.FAIL)])
def test_the_images_tflite_runtime_is_named_and_a_vendors_copy_counts(tmp_path, place, outcome):
    runtime = Shared(soname="libtensorflowlite.so", size=30 * MB)
    driver = Shared(needed=("libtensorflowlite.so",), runpath="$ORIGIN", size=40 * MB)
    found = audit(tmp_path, {DELEGATE: driver, f"{place}/libtensorflowlite.so": runtime})
    assert found.outcome is outcome
    assert "libtensorflowlite.so" in found.observed


def test_a_base_image_list_leaves_files_out(tmp_path):
    files = {DELEGATE: Shared(needed=("libprotobuf.so",)), f"{LIB}/libprotobuf.so": Shared(size=70 * MB)}
    assert audit(tmp_path, files).outcome is Outcome.FAIL
    found = audit(tmp_path, {}, base_image=[f"{LIB}/libprotobuf.so"])
    assert found.outcome is Outcome.PASS
    assert "not counted: libprotobuf.so" in found.observed


@pytest.mark.parametrize("check", [closure, packed], ids=lambda check: check.word)
def test_a_list_of_the_finished_image_is_no_list_of_the_base_image(tmp_path, check):
    """Evasion: --base-image has all files of the image, the driver's among them, so that nothing counts."""
    files = {DELEGATE: Shared(needed=("libdep.so",)), f"{LIB}/libdep.so": Shared(size=70 * MB)}
    found = audit(tmp_path, files, base_image=[DELEGATE, f"{LIB}/libdep.so"], check=check)
    assert (found.outcome, found.observed) == (Outcome.UNKNOWN, f"the list of the base image has {DELEGATE}, the driver itself")
    assert "without the driver" in found.remediation


def test_a_sparse_file_counts_with_its_apparent_size(tmp_path):
    """Evasion: a file with holes takes no blocks on this disk."""
    plant(tmp_path, {DELEGATE: Shared(size=100 * MB)})
    assert os.stat(f"{tmp_path}{DELEGATE}").st_blocks * 512 < MB
    assert audit(tmp_path, {}).outcome is Outcome.FAIL


def test_a_hard_link_counts_once_and_a_copy_twice(tmp_path):
    half = Shared(size=40 * MB)
    plant(tmp_path, {DELEGATE: Shared(needed=("liba.so", "libb.so"), runpath="$ORIGIN"), "/opt/npu/liba.so": half})
    os.link(f"{tmp_path}/opt/npu/liba.so", f"{tmp_path}/opt/npu/libb.so")
    assert audit(tmp_path, {}).outcome is Outcome.PASS
    os.unlink(f"{tmp_path}/opt/npu/libb.so")
    assert audit(tmp_path, {"/opt/npu/libb.so": half}).outcome is Outcome.FAIL


@pytest.mark.parametrize("edge", ["filters", "auxiliary", "needed"])
def test_every_way_in_which_the_header_names_a_file_counts(tmp_path, edge):
    """Evasion: DT_AUXILIARY, DT_FILTER, DT_NEEDED with a slash."""
    files = {DELEGATE: Shared(**{edge: ("/hidden/libbig.so",)}), "/hidden/libbig.so": Shared(size=LIMIT)}
    assert audit(tmp_path, files).outcome is Outcome.FAIL


def test_a_large_preloaded_library_is_not_passed_over(tmp_path):
    """Evasion: LD_PRELOAD's file."""
    files = {DELEGATE: Shared(), "/etc/ld.so.preload": "/hidden/libbig.so\n", "/hidden/libbig.so": Shared(size=LIMIT)}
    assert audit(tmp_path, files).outcome is Outcome.UNKNOWN


def test_code_for_another_processor_counts_and_is_named(tmp_path):
    """Evasion: accelerator code shipped as a user-space library."""
    skel = Shared(machine=164, bits=32, size=LIMIT)
    found = audit(tmp_path, {DELEGATE: Shared(strings=("libSkel.so",)), "/opt/npu/libSkel.so": skel})
    assert found.outcome is Outcome.FAIL
    assert "for another processor: libSkel.so 64,000,000 bytes" in found.observed


def test_a_decoy_in_a_processors_folder_does_not_hide_the_large_library(tmp_path):
    files = {
        DELEGATE: Shared(needed=("liba.so",)),
        f"{LIB}/glibc-hwcaps/x86-64-v3/liba.so": Shared(size=LIMIT),
        f"{LIB}/liba.so": Shared(size=MB),
    }
    assert audit(tmp_path, files).outcome is Outcome.UNKNOWN


PACKED = {
    "plain": (SMALL, Outcome.PASS, "6.00 MB once loaded"),
    "swollen": ({DELEGATE: Shared(memory=20 * MB)}, Outcome.UNKNOWN, "libdelegate.so maps 0.00 MB into 20.00 MB"),
    "upx": ({DELEGATE: Shared(memory=LIMIT)}, Outcome.FAIL, "64,000,000 bytes"),
    "zip": ({DELEGATE: Shared(), "/opt/npu/libs.apk": "PK\3\4..."}, Outcome.UNKNOWN, "libs.apk (zip, 0.00 MB)"),
    "squashfs": ({DELEGATE: Shared(), "/opt/npu/dlc.img": "hsqs..."}, Outcome.UNKNOWN, "dlc.img (squashfs"),
    "unread": ({DELEGATE: Shared(needed=("liba.so",)), f"{LIB}/liba.so": "none"}, Outcome.UNKNOWN, "not an ELF file"),
}


@pytest.mark.parametrize("case", PACKED)
def test_packed_libraries_and_archives(tmp_path, case):
    """Evasion: UPX; libraries in data files."""
    files, outcome, says = PACKED[case]
    found = audit(tmp_path, files, check=packed)
    assert found.outcome is outcome
    assert says in found.observed
    assert found.level is Level.SHOULD


# --- no degraded answer improves the outcome ---------------------------------------------------------------------------------------------

TREES = {
    "small": SMALL,
    "large": {**SMALL, "/opt/npu/libplugin.so": Shared(size=80 * MB)},
    "shadowed": {
        DELEGATE: Shared(needed=("liba.so", "libb.so"), runpath="$ORIGIN/one:/opt/two", strings=("libplugin.so",)),
        "/opt/npu/one/liba.so": Shared(soname="libb.so"),
        "/opt/two/liba.so": Shared(size=80 * MB),
        "/opt/two/libb.so": Shared(size=80 * MB),
        "/etc/ld.so.conf": "include conf.d/*.conf\n",
        "/etc/conf.d/one.conf": "/opt/one\n",
        "/opt/one/libplugin.so": Shared(),
        f"{LIB}/libplugin.so": Shared(size=80 * MB),
    },
    "missing": {DELEGATE: Shared(needed=("libgone.so",))},
    "possible": {DELEGATE: Shared(), "/opt/npu/libbeside.so": Shared(size=LIMIT, needed=("libgone.so",))},
}


OUTCOMES = {"small": Outcome.PASS, "large": Outcome.FAIL, "shadowed": Outcome.PASS, "missing": Outcome.UNKNOWN, "possible": Outcome.UNKNOWN}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("check", [closure, packed], ids=lambda check: check.word)
@pytest.mark.parametrize("status", [Status.DENIED, Status.UNASKED, Status.FAILED])
def test_no_degraded_answer_improves_the_outcome(tmp_path, tree, check, status):
    plant(tmp_path, TREES[tree])
    recorder = Recorder(Tree(str(tmp_path)))
    before = judge(recorder, check=check)
    record = recorder.record("test", "now")
    assert check is packed or before.outcome is OUTCOMES[tree]
    cited = {(each.path, each.sha256) for each in before.evidence}
    taken = 0
    for question, reply in record.answers.items():
        answers = {**record.answers, question: Reply(status, errno=5 if status is Status.FAILED else 0)}
        after = judge(Replay(replace(record, answers=answers)), check=check)
        assert after.outcome in {before.outcome, Outcome.UNKNOWN}, question
        here = evidence(question, reply)
        if before.outcome is Outcome.PASS and (here.path, here.sha256) in cited:
            assert after.outcome is Outcome.UNKNOWN, question
            taken += 1
    assert taken >= len(cited) * (before.outcome is Outcome.PASS)
