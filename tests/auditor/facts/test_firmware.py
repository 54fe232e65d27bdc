"""Which firmware the kernel would load: the names, the search, compressed files, and what cannot be looked at."""

from __future__ import annotations

import lzma
import sys
from dataclasses import replace

import pytest

from auditor.facts.accelerators import read_accelerators
from auditor.facts.firmware import read_firmware
from auditor.facts.firmware.elf import read_header, read_segments
from auditor.facts.firmware.image import Bytes
from auditor.facts.kernel import read_kernel
from auditor.facts.loading import read_loading
from auditor.facts.reading import Device
from auditor.facts.types import Listing, Missing, Ok, Settings
from auditor.model import Status
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder, Replay
from auditor.verify import State, verify_image
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


# --- images that no modinfo names --------------------------------------------------------------------------------------------------------


def split(image, kept):
    """An image as Qualcomm's tools split it: NAME.mdt with headers and hash segment, and a file for each segment's bytes."""
    segments = read_segments(Bytes(image).read, read_header(Bytes(image).read))
    parts = {number: image[each.offset : each.offset + each.size] for number, each in enumerate(segments) if each.flags >> 24 & 7 == 0}
    headers, hashes = (image[each.offset : each.offset + each.size] for each in (segments[0], segments[-1]))
    return {"behind": headers + hashes, "in place": image[: segments[-1].offset] + hashes, "apart": headers}[kept], parts, hashes


NAMED = "qcom/x.mdt"


def split_on(tmp_path, kept, without=(), changed=()):
    head, parts, hashes = split(qualcomm_mbn(), kept)
    contents = {f"{LIB}/{NAMED}": head, MODULE: module(*INFO, f"firmware={NAMED}")}
    if kept == "apart":
        parts[len(parts) + 1] = hashes
    for number, content in parts.items():
        if number not in without:
            contents[f"{LIB}/qcom/x.b{number:02d}"] = content[:-1] + b"\x55" if number in changed else content
    return planted(tmp_path, contents)[NAMED].envelope.open()


@pytest.mark.parametrize("kept", ["behind", "in place", "apart"])
def test_a_split_image_is_read_with_the_files_of_its_segments(tmp_path, kept):
    envelope = split_on(tmp_path, kept)
    assert (envelope.format, len(envelope.signatures), envelope.mismatched, envelope.unchecked) == ("qualcomm-mbn", 1, (), "")
    assert verify_image(envelope, Settings()).state is State.UNKNOWN_ROOT


def test_bytes_that_lie_in_another_file_are_not_called_altered(tmp_path):
    envelope = split_on(tmp_path, "behind", without=(2,))
    assert (envelope.mismatched, "segment 2" in envelope.unchecked) == ((), True)
    assert verify_image(envelope, Settings()).state is State.UNKNOWN_FORMAT


def test_a_file_of_a_segment_that_was_altered_is(tmp_path):
    envelope = split_on(tmp_path, "behind", changed=(1,))
    assert (envelope.mismatched, verify_image(envelope, Settings()).state) == (("segment 1",), State.BAD)


def test_a_pattern_stands_for_what_is_there(tmp_path):
    changes = {
        MODULE: module(*INFO, "firmware=qcom/a*_sqe.fw"),
        f"{LIB}/qcom/a630_sqe.fw": b"x" * 9,
        f"{LIB}/updates/qcom/a660_sqe.fw.xz": b"y",
    }
    found = planted(tmp_path, changes)
    assert {"qcom/a630_sqe.fw", "qcom/a660_sqe.fw"} <= set(found)
    assert not any("*" in name for name in found)


def accelerator(module_name, driver, sysfs="/sys/devices/platform/soc/remoteproc/cdsp/fastrpc"):
    found = read_accelerators(Device(Replay(laptop())), read_kernel(Device(Replay(laptop())))).open().items[0]
    module_ = replace(found.module.open(), name=module_name)
    module_ = replace(module_, info=Ok(replace(module_.info.open(), firmware=())))
    return replace(found, module=Ok(module_), driver=Ok(driver), sysfs=sysfs)


def wanted_by(tmp_path, item, contents, links=None):
    write(str(tmp_path), {**files(), **contents}, {**LINKS, **(links or {})})
    device = Device(Tree(str(tmp_path)))
    kernel = read_kernel(device)
    found = read_firmware(device, kernel, read_loading(device, kernel), Ok(Listing((item,)))).open()
    return {(each.name, each.named_by): each for each in found.items}


CDSP = "/sys/devices/platform/soc/remoteproc/cdsp"
PROCESSOR = f"{CDSP}/remoteproc/remoteproc1"
OTHERS = "/sys/devices/platform/soc/adsp/remoteproc/remoteproc0"
PROCESSORS = {"/sys/class/remoteproc/remoteproc0": OTHERS, "/sys/class/remoteproc/remoteproc1": PROCESSOR}


def test_a_dsp_s_image_is_its_processor_s(tmp_path):
    dsp = accelerator("fastrpc", "qcom,fastrpc", f"{CDSP}/fastrpc")
    contents = {f"{PROCESSOR}/firmware": "qcom/cdsp.mbn\n", f"{OTHERS}/firmware": "qcom/adsp.mbn\n", f"{LIB}/qcom/cdsp.mbn": qualcomm_mbn()}
    found = wanted_by(tmp_path, dsp, contents, PROCESSORS)
    assert list(found) == [("qcom/cdsp.mbn", "remoteproc")]
    assert found["qcom/cdsp.mbn", "remoteproc"].envelope.open().signatures


@pytest.mark.parametrize("contents", [{}, {f"{PROCESSOR}/firmware": "unknown\n"}, {f"{PROCESSOR}/state": "running\n"}])
def test_a_processor_that_the_boot_firmware_started_has_an_image_that_is_not_known(tmp_path, contents):
    found = wanted_by(tmp_path, accelerator("fastrpc", "qcom,fastrpc", f"{CDSP}/fastrpc"), contents, PROCESSORS if contents else {})
    assert {each.path.status for each in found.values()} == {Status.FAILED}


def test_where_no_processor_is_above_the_channel_all_count(tmp_path):
    contents = {f"{PROCESSOR}/firmware": "qcom/cdsp.mbn\n", f"{OTHERS}/firmware": "qcom/adsp.mbn\n"}
    found = wanted_by(tmp_path, accelerator("fastrpc", "qcom,fastrpc", "/sys/devices/elsewhere"), contents, PROCESSORS)
    assert {name for name, _ in found} == {"qcom/cdsp.mbn", "qcom/adsp.mbn"}


def test_images_of_a_driver_s_own_catalogue(tmp_path):
    gpu = accelerator("msm", "adreno", "/sys/devices/platform/soc/gpu")
    there = ("a630_sqe.fw", "a630_gmu.bin", "a630_zap.mdt", "a300_pm4.fw")
    contents = {f"{LIB}/qcom/{name}": b"x" * 64 for name in (*there, "venus.mbn")}
    contents["/sys/devices/platform/soc/gpu/of_node/zap-shader/firmware-name"] = "qcom/LENOVO/zap.mbn\0"
    found = wanted_by(tmp_path, gpu, contents)
    assert {name for name, by in found if by == "catalogue"} == {f"qcom/{name}" for name in there}
    assert ("qcom/LENOVO/zap.mbn", "device tree") in found


def test_images_that_go_through_mhi(tmp_path):
    contents = {f"{LIB}/qcom/aic100/{name}": b"x" * 64 for name in ("sbl.bin", "fw1.bin")}
    found = wanted_by(tmp_path, accelerator("qaic", "qaic", "/sys/devices/pci0000:00/0000:00:0b.0"), contents)
    assert set(found) == {("qcom/aic100/sbl.bin", "catalogue"), ("qcom/aic100/fw1.bin", "catalogue")}
