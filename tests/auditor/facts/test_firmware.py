"""Which firmware the kernel would load: the names, the search, compressed files, and what cannot be looked at."""

from __future__ import annotations

import lzma
import sys

import pytest

from auditor.facts.accelerators import read_accelerators
from auditor.facts.firmware import read_firmware
from auditor.facts.kernel import read_kernel
from auditor.facts.loading import read_loading
from auditor.facts.reading import Device
from auditor.facts.types import Missing
from auditor.model import Status
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder, Replay
from fixtures.devices import UNASKED, absent, answered, denied
from fixtures.images import amd_psp, qualcomm_mbn
from fixtures.kernel import RELEASE, build_key, module, signed
from fixtures.laptop import FIRMWARE, INFO, LINKS, MODULE, NPU, files, laptop, npu_firmware, write

zstd = pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")

NAME = "intel/vpu/vpu_37xx_v1.bin"
OTHER = "intel/vpu/vpu_40xx_v1.bin"
LIB = "/lib/firmware"


def read(source):
    device = Device(source)
    kernel = read_kernel(device)
    return read_firmware(device, kernel, read_loading(device, kernel), read_accelerators(device, kernel))


def images(source):
    return {image.name: image for image in read(source).open().items}


def planted(tmp_path, changes, without=()):
    contents = {path: content for path, content in {**files(), **changes}.items() if path not in without}
    write(str(tmp_path), contents, LINKS)
    return images(Tree(str(tmp_path)))


def test_what_the_driver_names_and_what_is_there():
    found = images(Replay(laptop()))
    assert set(found) == {NAME, OTHER}
    there = found[NAME]
    assert (there.path.open(), there.wanted_by, there.named_by, there.shadowed) == (FIRMWARE, NPU, "modinfo", ())
    assert (there.size.open(), there.compressed, there.subject) == (len(npu_firmware()), "", f"file:{FIRMWARE}")
    assert there.envelope.open().format == "intel-npu"
    assert found[OTHER].path.status is Status.ABSENT
    assert found[OTHER].subject == f"file:{LIB}/{OTHER}"


ORDER = (
    f"/var/fw/{NAME}",
    f"{LIB}/updates/{RELEASE}/{NAME}",
    f"{LIB}/updates/{NAME}",
    f"{LIB}/{RELEASE}/{NAME}",
    f"{LIB}/{NAME}",
    f"/var/fw/{NAME}.zst",
    f"{LIB}/{NAME}.zst",
    f"{LIB}/updates/{NAME}.xz",
    f"{LIB}/{NAME}.xz",
)


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_kernel_s_order(tmp_path, first):
    """Evasion: a plain file hides a compressed one, `updates` and the search path hide what the distribution ships."""
    pack = {".zst": zstd.compress, "n.xz": lzma.compress}
    changes = {path: pack.get(path[-4:], bytes)(npu_firmware()) for path in ORDER[first:]}
    changes["/sys/module/firmware_class/parameters/path"] = "/var/fw\n"
    found = planted(tmp_path, changes, () if FIRMWARE in changes else (FIRMWARE,))[NAME]
    assert found.path.open() == ORDER[first]
    assert found.shadowed == ORDER[first + 1 :]
    assert found.envelope.open().unsigned
    assert found.compressed == {".zst": "zst", "n.xz": "xz"}.get(ORDER[first][-4:], "")


def test_a_kernel_that_cannot_unpack_does_not_look(tmp_path):
    changes = {f"{FIRMWARE}.xz": lzma.compress(npu_firmware()), f"/boot/config-{RELEASE}": "CONFIG_FW_LOADER_COMPRESS_ZSTD=y\n"}
    assert planted(tmp_path, changes, (FIRMWARE,))[NAME].path.status is Status.ABSENT


@pytest.mark.parametrize(
    "content",
    [lambda: b"not packed", lambda: lzma.compress(bytes(1 << 28), preset=0), lambda: lzma.compress(npu_firmware())[:-9], bytes],
    ids=["other", "bomb", "cut", "empty"],
)
def test_a_compressed_image_that_cannot_be_unpacked_is_not_understood(tmp_path, content):
    found = planted(tmp_path, {f"{FIRMWARE}.xz": content()}, (FIRMWARE,))[NAME]
    assert found.path.open() == f"{FIRMWARE}.xz"
    assert found.envelope.status is Status.FAILED


def test_a_link_is_followed_and_one_that_leads_nowhere_is_passed_over(tmp_path):
    write(str(tmp_path), {**files(), "/opt/real.bin": npu_firmware()}, LINKS)
    (tmp_path / f"lib/firmware/{NAME}").unlink()
    (tmp_path / f"lib/firmware/{NAME}").symlink_to("/opt/real.bin")
    (tmp_path / "lib/firmware/updates/intel/vpu").mkdir(parents=True)
    (tmp_path / f"lib/firmware/updates/{NAME}").symlink_to("/nowhere")
    found = images(Tree(str(tmp_path)))[NAME]
    assert (found.path.open(), found.shadowed) == ("/opt/real.bin", ())


@pytest.mark.parametrize("name", ["/etc/shadow", "../../../etc/shadow", "a/../../b"])
def test_a_name_that_leads_out_of_the_folders_is_no_name(tmp_path, name):
    found = planted(tmp_path, {MODULE: module(*INFO, f"firmware={name}")})[name]
    assert found.path.status is Status.FAILED


def test_an_override_is_one_more_image(tmp_path):
    changes = {"/sys/module/intel_vpu/parameters/firmware": "evil.bin\n", f"{LIB}/evil.bin": b"evil" * 100}
    found = planted(tmp_path, changes)["evil.bin"]
    assert (found.named_by, found.path.open()) == ("firmware", f"{LIB}/evil.bin")
    assert found.envelope.open().format == "unrecognised"


def test_signed_images_are_read_by_ranges(tmp_path):
    """A large image costs its headers: the record holds no whole file."""
    image = qualcomm_mbn((b"code" * 100_000,))
    contents = {**files(), FIRMWARE: image}
    write(str(tmp_path), contents, LINKS)
    recorder = Recorder(Tree(str(tmp_path)))
    assert images(recorder)[NAME].envelope.open().signatures
    replies = [reply for question, reply in recorder.record("t", "").answers.items() if question.path == FIRMWARE]
    assert sum(len(reply.data) for reply in replies) < 100_000 < len(image)


@pytest.mark.parametrize("image", [amd_psp(), qualcomm_mbn(), signed(npu_firmware(), build_key())])
def test_the_record_of_an_image_gives_the_same_facts(tmp_path, image):
    write(str(tmp_path), {**files(), FIRMWARE: image}, LINKS)
    recorder = Recorder(Tree(str(tmp_path)))
    before = images(recorder)
    assert images(Replay(recorder.record("t", ""))) == before


def test_no_driver_no_images():
    record = absent(laptop(), "/sys/devices/pci0000:00/0000:00:0b.0/driver")
    assert read(Replay(record)).open().items == ()


# --- what cannot be looked at ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        f"{LIB}/intel/vpu",
        f"{LIB}/updates/intel/vpu",
        "/sys/module/firmware_class/parameters/path",
        FIRMWARE,
    ],
)
def test_where_something_else_could_lie_the_image_is_not_known(path):
    assert isinstance(images(Replay(denied(laptop(), path)))[NAME].path, Missing)


def test_a_driver_that_cannot_be_read_is_unread():
    found = read(Replay(denied(laptop(), MODULE))).open()
    assert (found.items, [each.status for each in found.unread]) == ((), [Status.DENIED])


def test_without_a_firmware_folder_nothing_is_absent():
    record = answered(laptop(), {question: UNASKED for question in laptop().answers if question.path.startswith(LIB)})
    assert {image.path.status for image in images(Replay(record)).values()} == {Status.UNASKED}


def test_an_unpacked_tree_without_firmware_is_not_one_whose_images_are_absent(tmp_path):
    contents = {path: content for path, content in files().items() if path != FIRMWARE}
    write(str(tmp_path), contents, LINKS)
    assert images(Tree(str(tmp_path)))[NAME].path.status is Status.FAILED
