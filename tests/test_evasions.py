"""The ways in which a driver's size and its firmware can be kept out of sight, each with the tests that show that it is found, or said.

A test is named by its file below tests/ and its function; that it exists is itself tested.
"""

from __future__ import annotations

import ast
import gzip
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.facts.firmware.inside import find_images
from auditor.facts.modules import read_info
from auditor.model import Level, Outcome
from checks import misc_1, security_2
from fixtures.devices import answered
from fixtures.elf import Shared
from fixtures.images import amd_psp, intel_css, plain_elf, qualcomm_mbn
from fixtures.judging import judged
from fixtures.kernel import RELEASE, build_key, module, signed
from fixtures.laptop import DELEGATE, INFO, MODULE, NPU, laptop, recorded_with

TESTS = Path(__file__).parent
HERE = "test_evasions.py"
CLOSURE = "auditor/facts/test_closure.py"
FIRMWARE = "auditor/facts/test_firmware.py"
ORIGIN = "checks/test_functional_1.py"
IMAGES = "auditor/verify/test_images.py"
LOADING = "auditor/facts/test_loading.py"
REAL = "auditor/facts/test_real_firmware.py"
SIZE = "checks/test_misc_1.py"
SECURITY = "checks/test_security_2.py"
STACKS = "auditor/facts/test_real_closures.py"

EVASIONS = {
    "the accelerator's code is a shared library that user space loads": (
        (SECURITY, "test_code_for_another_processor_in_user_space_is_never_covered"),
        (SIZE, "test_code_for_another_processor_counts_and_is_named"),
        (STACKS, "test_qualcomms_backend_is_more_than_its_header_says"),
    ),
    "firmware lies inside a kernel module": (
        (HERE, "test_an_image_inside_a_module_is_found"),
        (HERE, "test_a_driver_that_holds_an_image_does_not_pass"),
    ),
    "firmware lies inside a library": ((HERE, "test_a_library_that_speaks_of_firmware_is_unknown"),),
    "the driver names firmware that is not there": (
        (FIRMWARE, "test_what_the_driver_names_and_what_is_there"),
        (SECURITY, "test_images_that_are_not_there_or_cannot_be_looked_at"),
    ),
    "a daemon uploads the firmware": (
        (HERE, "test_a_daemon_that_uploads_leaves_the_driver_unknown"),
        (HERE, "test_a_library_that_speaks_of_firmware_is_unknown"),
    ),
    "firmware comes from another path": (
        (LOADING, "test_the_published_gpu_node_takes_any_firmware"),
        (SECURITY, "test_an_override_by_an_image_that_is_not_there"),
        (SECURITY, "test_the_override_parameter"),
    ),
    "a plain image hides a compressed one": (
        (FIRMWARE, "test_the_kernel_s_order"),
        (SECURITY, "test_an_image_that_hides_another"),
    ),
    "a library is opened by a name that is composed at run time": (
        (CLOSURE, "test_names_among_the_bytes_that_the_vendors_own_files_bear"),
        (CLOSURE, "test_files_beside_the_driver_that_nothing_names_are_possible"),
        (CLOSURE, "test_folders_below_a_shared_one_that_the_driver_names"),
        (CLOSURE, "test_all_of_a_package_below_opt_is_the_drivers"),
        (SIZE, "test_string_edges_beside_the_driver_count"),
    ),
    "libraries lie in data files": ((SIZE, "test_packed_libraries_and_archives"),),
    "libraries are downloaded at the first run": ((HERE, "test_a_driver_that_fetches_files_is_of_unknown_size"),),
    "a driver is split across packages": (
        (SIZE, "test_a_missing_library_is_unknown"),
        (SIZE, "test_a_library_that_is_merely_named_and_not_there_is_said"),
        (STACKS, "test_openvinos_plugin_may_load_all_plugins_beside_it"),
    ),
    "libraries are linked statically": ((SIZE, "test_a_large_driver_fails_and_says_what_would_help"),),
    "a driver is linked when it is loaded": ((SIZE, "test_code_that_is_linked_when_it_is_loaded_may_count"),),
    "the kernel module is a shim, or calls itself another": (
        (ORIGIN, "test_a_driver_that_needs_a_module_from_elsewhere"),
        (ORIGIN, "test_a_driver_that_needs_a_module_that_taints_the_kernel"),
        (ORIGIN, "test_a_driver_that_calls_itself_vfio_s"),
    ),
    "the verified root, or LoadPin, is not what it looks like": (
        (LOADING, "test_a_verity_table_that_is_not_the_root_s_is_not_understood"),
        (LOADING, "test_what_follows_two_dashes_is_not_the_kernel_s"),
        (LOADING, "test_an_old_kernel_that_was_told_not_to_enforce_says_engaged_all_the_same"),
        (LOADING, "test_two_words_on_what_loadpin_pinned_are_none"),
    ),
    "a file is sparse": ((SIZE, "test_a_sparse_file_counts_with_its_apparent_size"),),
    "an executable is packed": (
        (SIZE, "test_packed_libraries_and_archives"),
        (HERE, "test_a_library_that_upx_packed_is_of_unknown_size"),
    ),
    "one file has many names, or one content many files": (
        (CLOSURE, "test_hard_links_and_symbolic_links_are_one_file"),
        (SIZE, "test_a_hard_link_counts_once_and_a_copy_twice"),
    ),
    "the header names a file in an unusual way": (
        (CLOSURE, "test_filters_are_needed_and_auxiliaries_are_not"),
        (CLOSURE, "test_a_path_in_dt_needed"),
        (SIZE, "test_every_way_in_which_the_header_names_a_file_counts"),
    ),
    "a library is preloaded": (
        (CLOSURE, "test_preloaded_libraries_are_possible"),
        (SIZE, "test_a_large_preloaded_library_is_not_passed_over"),
    ),
    "a vendor's library bears the name of a system's": (
        (SIZE, "test_a_vendors_own_libm_counts"),
        (SIZE, "test_the_systems_libm_does_not_count_but_a_file_under_its_soname_does"),
        (SIZE, "test_a_name_of_the_systems_hides_nothing_large"),
    ),
    "firmware is signed by a test key": (
        (REAL, "test_most_hexagon_images_are_signed_by_a_test_root"),
        (IMAGES, "test_a_root_that_says_it_is_for_testing"),
    ),
    "firmware is signed by a root of one's own": ((IMAGES, "test_an_image_signed_again_differs_in_its_root_alone"),),
}


@pytest.mark.parametrize("evasion", EVASIONS)
def test_an_evasion_has_its_tests(evasion):
    for file, name in EVASIONS[evasion]:
        defined = {node.name for node in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(node, ast.FunctionDef)}
        assert name in defined, f"{file} has no {name}"


# --- inside a kernel module --------------------------------------------------------------------------------------------------------------

INSIDE = {
    "elf": qualcomm_mbn(),
    "elf of another machine": plain_elf(),
    "amd-psp": amd_psp(),
    "intel-css": intel_css(),
    "device tree or FIT": struct.pack(">10I", 0xD00DFEED, 96, 56, 80, 40, 17, 16, 0, 16, 24) + bytes(56),
    "packed data": gzip.compress(bytes(range(256)) * 64, mtime=0),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_an_image_inside_a_module_is_found(kind):
    data = module(*INFO) + bytes(100) + INSIDE[kind] + bytes(100)
    (found,) = find_images(data)
    assert found.startswith(kind.partition(" of ")[0])
    assert int(found.rpartition(" ")[2]) == len(module(*INFO)) + 100


@pytest.mark.parametrize(
    "text", [b"$PS1", b"\x7fELF\2\1\1", b"\xd0\x0d\xfe\xed", b"$CPD", b"\x1f\x8b\x08\0", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"]
)
def test_a_few_bytes_that_look_like_a_beginning_are_no_image(text):
    assert read_info(module(*INFO) + bytes(64) + (text + bytes(range(97, 123))) * 20).images == ()


def test_a_module_full_of_beginnings_is_cut_and_said():
    (said,) = find_images(b"\0" + b"$PS1" * 4000)
    assert said.startswith("more beginnings of images than are looked at")


def holding(image: bytes):
    def change(contents, links):
        contents[MODULE] = signed(module(*INFO, symbols=("request_firmware",)) + image, build_key())

    return recorded_with(change)


def test_a_driver_that_holds_an_image_does_not_pass():
    record = holding(amd_psp())
    found = judged(record, security_2.embedded)[NPU]
    assert (found.outcome, found.level) == (Outcome.FAIL, Level.SHOULD)
    assert "holds amd-psp at" in found.observed
    assert judged(record, security_2.loading)[NPU].outcome is Outcome.UNKNOWN
    assert judged(laptop(), security_2.embedded)[NPU].outcome is Outcome.PASS
    assert judged(laptop(), security_2.loading)[NPU].outcome is Outcome.PASS


def test_a_driver_that_needs_no_firmware_and_holds_an_image_is_concerned():
    def change(contents, links):
        folder = f"/lib/modules/{RELEASE}"
        contents[f"{folder}/modules.dep"] = "kernel/drivers/accel/rocket/rocket.ko:\n"
        contents[f"{folder}/kernel/drivers/accel/rocket/rocket.ko"] = signed(module("license=GPL", "intree=Y") + plain_elf(), build_key())
        contents["/sys/module/rocket/initstate"] = "live\n"
        links["/sys/bus/pci/drivers/intel_vpu/module"] = "/sys/module/rocket"

    assert judged(recorded_with(change), security_2.loading)[NPU].outcome is Outcome.UNKNOWN


# --- inside a library, by a daemon, from the network -------------------------------------------------------------------------------------


def with_delegate(*strings: str):
    """The device whose delegate holds some texts."""

    def change(contents, links):
        contents["/opt/npu/libnpu.so"] = Shared(strings=strings).build()
        contents["/etc/tflite/settings.json"] = '{"delegate_path": "/opt/npu/libnpu.so"}'

    return recorded_with(change)


@pytest.mark.parametrize("mark", ["$PS1", "$CPD", "/lib/firmware/npu.bin", "/sys/class/firmware/npu/data", "/sys/class/remoteproc/"])
def test_a_library_that_speaks_of_firmware_is_unknown(mark):
    found = judged(with_delegate(mark), security_2.user_space)["device"]
    assert found.outcome is Outcome.UNKNOWN
    assert found.observed.startswith("/opt/npu/libnpu.so holds ")
    assert judged(with_delegate("firmware", "$PS"), security_2.user_space)["device"].outcome is Outcome.PASS


def test_a_daemon_that_uploads_leaves_the_driver_unknown():
    """The daemon itself is not searched; what lets it upload, or the driver's naming no firmware, leaves the question open."""

    def change(contents, links):
        contents[MODULE] = signed(module(*INFO, symbols=("firmware_upload_register",)), build_key())

    found = judged(recorded_with(change), security_2.loading)[NPU]
    assert found.outcome is Outcome.UNKNOWN
    assert "lets user space upload firmware" in found.observed

    def nameless(contents, links):
        contents[MODULE] = signed(module("license=GPL", "intree=Y"), build_key())

    found = judged(recorded_with(nameless), security_2.loading)[NPU]
    assert found.outcome is Outcome.UNKNOWN
    assert "names no firmware" in found.observed


@pytest.mark.parametrize("mark", ["curl_easy_perform", "libcurl/8.5.0", "urlretrieve"])
def test_a_driver_that_fetches_files_is_of_unknown_size(mark):
    found = judged(with_delegate(mark), misc_1.download)["device"]
    assert (found.outcome, found.level) == (Outcome.UNKNOWN, Level.SHOULD)
    assert "libnpu.so holds" in found.observed
    assert judged(with_delegate("https://example.org/manual"), misc_1.download)["device"].outcome is Outcome.PASS


def test_a_library_that_upx_packed_is_of_unknown_size():
    found = judged(with_delegate("UPX!"), misc_1.packed)["device"]
    assert found.outcome is Outcome.UNKNOWN
    assert "libnpu.so was packed by UPX" in found.observed


@pytest.mark.parametrize("check", [security_2.user_space, misc_1.download, misc_1.packed], ids=lambda check: check.word)
def test_a_file_that_could_not_be_searched_is_unknown(check):
    record = laptop()
    assert judged(record, check)["device"].outcome is Outcome.PASS
    for status in ("DENIED", "UNASKED", "FAILED"):
        asked = {q: replace(r, status=type(r.status)[status]) for q, r in record.answers.items() if (q.kind, q.path) == ("holds", DELEGATE)}
        assert asked
        assert judged(answered(record, asked), check)["device"].outcome is Outcome.UNKNOWN
