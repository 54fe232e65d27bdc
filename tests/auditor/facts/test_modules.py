"""The module behind a driver: where it is found, what it says, what it may not do to its reader."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts import modules
from auditor.facts.firmware import appended
from auditor.facts.firmware.cms import parse as read_cms
from auditor.facts.firmware.image import Bytes
from auditor.facts.firmware.inside import find_images
from auditor.facts.kernel import read_kernel
from auditor.facts.reading import Device
from auditor.facts.types import Missing, Ok
from auditor.model import Remedy, Status
from auditor.sources.filesystem import Tree
from fixtures.kernel import BUILD_ID, RELEASE, build_key, cms, image, module, note, signed
from fixtures.laptop import IMAGE, INFO, LINKS, MODULE, SYSFS, files, write

FOLDER = f"/lib/modules/{RELEASE}"


def read(tmp_path, changes=None, links=None, without=()):
    """The module of the laptop's NPU, with some files changed."""
    contents = {path: content for path, content in {**files(), **(changes or {})}.items() if path not in without}
    write(str(tmp_path), contents, {path: target for path, target in {**LINKS, **(links or {})}.items() if path not in without})
    device = Device(Tree(str(tmp_path)))
    return modules.read_module(device, read_kernel(device), SYSFS, device.link_name(f"{SYSFS}/driver"))


def test_a_loaded_module(tmp_path):
    found = read(tmp_path).open()
    assert (found.name, found.built_in.open(), found.path.open(), found.taint.open()) == ("intel_vpu", False, MODULE, "")
    assert found.build_id.open() == found.info.open().build_id == BUILD_ID.hex()
    info = found.info.open()
    assert (info.license, info.intree, info.signed, info.depends) == ("Dual MIT/GPL", True, True, ("drm",))
    assert info.firmware == ("intel/vpu/vpu_40xx_v1.bin", "intel/vpu/vpu_37xx_v1.bin")
    assert info.loaders == ("request_firmware",)
    assert {name: fact.open() for name, fact in found.parameters.open().items()} == {"firmware": ""}
    assert found.kernel_certificates.open() == (build_key().der,)


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_a_compressed_module(tmp_path, suffix, pack):
    dep = f"kernel/drivers/accel/ivpu/intel_vpu.ko{suffix}:\n"
    content = pack(files()[MODULE])
    found = read(tmp_path, {f"{FOLDER}/modules.dep": dep, MODULE + suffix: content}, without=(MODULE,)).open()
    assert found.path.open() == MODULE + suffix
    assert found.info.open().intree


def test_a_bomb_in_place_of_a_module_is_not_read(tmp_path):
    dep = "kernel/drivers/accel/ivpu/intel_vpu.ko.xz:\n"
    found = read(
        tmp_path, {f"{FOLDER}/modules.dep": dep, f"{MODULE}.xz": lzma.compress(bytes(200 << 20), preset=0)}, without=(MODULE,)
    ).open()
    assert found.info.status is Status.FAILED
    assert "unpacked" in found.info.note


def test_where_depmod_never_ran_the_build_s_list_names_the_file(tmp_path):
    order = {f"{FOLDER}/modules.order": "kernel/drivers/accel/habanalabs/habanalabs.ko\nkernel/drivers/accel/ivpu/intel_vpu.ko\n"}
    found = read(tmp_path, order, without=(f"{FOLDER}/modules.dep",)).open()
    assert found.path.open() == MODULE


def test_a_module_that_the_index_does_not_name_has_no_file(tmp_path):
    found = read(tmp_path, {f"{FOLDER}/modules.dep": "kernel/a.ko:\n"}).open()
    assert found.path.status is Status.ABSENT
    assert "names no file of intel_vpu" in found.path.note
    assert found.info.status is Status.ABSENT


def test_a_path_out_of_the_release_s_folder_is_taken_as_it_is(tmp_path):
    elsewhere = "/var/lib/dkms/intel_vpu.ko"
    found = read(tmp_path, {f"{FOLDER}/modules.dep": f"{elsewhere}:\n", elsewhere: files()[MODULE]}).open()
    assert found.path.open() == elsewhere


def test_nothing_bound_says_what_the_index_would_load(tmp_path):
    found = read(tmp_path, without=(f"{SYSFS}/driver",))
    assert isinstance(found, Missing)
    assert (found.status, found.remedy) == (Status.ABSENT, Remedy.DRIVER)
    assert found.note == "no driver is bound; the module index has intel_vpu for this device"


def test_a_driver_that_is_built_in(tmp_path):
    changes = {
        f"{FOLDER}/modules.builtin": "kernel/drivers/accel/ivpu/intel_vpu.ko\n",
        f"{FOLDER}/modules.builtin.modinfo": "\0".join(f"intel_vpu.{line}" for line in INFO[:3]) + "\0",
    }
    loaded = [path for path in (*files(), *LINKS) if path.startswith("/sys/module/intel_vpu")]
    found = read(tmp_path, {**changes, "/sys/module/intel_vpu/parameters/firmware": "\n"}, without=(*loaded[1:], loaded[0])).open()
    assert found.built_in.open()
    assert found.path.status is Status.ABSENT
    assert found.info.open().firmware == ("intel/vpu/vpu_40xx_v1.bin", "intel/vpu/vpu_37xx_v1.bin")
    assert found.info.open().intree


def test_a_built_in_driver_of_which_the_kernels_list_has_nothing_is_not_known(tmp_path):
    changes = {
        f"{FOLDER}/modules.builtin": "kernel/drivers/accel/ivpu/intel_vpu.ko\n",
        f"{FOLDER}/modules.builtin.modinfo": "intel_vpu.firmware=x\0vfio.license=GPL\0",
    }
    found = read(tmp_path, changes, without=("/sys/module/intel_vpu/initstate",)).open()
    assert found.built_in.open()
    assert isinstance(found.info, Missing)
    assert "no licence of intel_vpu" in found.info.note


def test_what_a_module_needs(tmp_path):
    assert read(tmp_path / "a").open().needs.open() == ("kernel/drivers/gpu/drm/drm.ko",)
    dep = f"{FOLDER}/modules.dep"
    assert read(tmp_path / "b", {dep: "kernel/drivers/accel/ivpu/intel_vpu.ko:\n"}).open().needs.open() == ()
    order = {f"{FOLDER}/modules.order": "kernel/drivers/accel/ivpu/intel_vpu.ko\n"}
    assert read(tmp_path / "c", order, without=(dep,)).open().needs.status is Status.ABSENT


def test_an_index_with_two_files_of_one_module_names_none(tmp_path):
    dep = "kernel/drivers/accel/ivpu/intel_vpu.ko:\nextra/intel_vpu.ko:\n"
    assert read(tmp_path, {f"{FOLDER}/modules.dep": dep}).open().path.status is Status.FAILED


def test_the_taint_of_what_a_module_needs_by_the_index_and_by_its_own_word(tmp_path):
    dep = "kernel/drivers/accel/ivpu/intel_vpu.ko: kernel/drivers/a/gpu-sched.ko\n"
    found = read(tmp_path, {f"{FOLDER}/modules.dep": dep, "/sys/module/gpu_sched/taint": "PO\n"}).open()
    assert {name: letters.open() for name, letters in found.needs_taint.items()} == {"drm": "", "gpu_sched": "PO"}
    many = "kernel/drivers/accel/ivpu/intel_vpu.ko: " + " ".join(f"kernel/{at}.ko" for at in range(300)) + "\n"
    (found,) = read(tmp_path / "many", {f"{FOLDER}/modules.dep": many}).open().needs_taint.values()
    assert found.status is Status.FAILED


def test_a_built_in_driver_without_a_module_link(tmp_path):
    changes = {f"{FOLDER}/modules.builtin": "kernel/drivers/accel/ivpu/intel-vpu.ko\n"}
    found = read(tmp_path, changes, without=("/sys/bus/pci/drivers/intel_vpu/module",)).open()
    assert found.name == "intel_vpu"


RKNPU = "of:NnpuT(null)Crockchip,rk3588-rknpu"
BUILT_IN = {
    f"{FOLDER}/modules.builtin": "kernel/drivers/rknpu/rknpu.ko\nkernel/drivers/gpu/drm/msm/msm.ko\nkernel/drivers/pci/pci-stub.ko\n",
    f"{FOLDER}/modules.builtin.modinfo": "rknpu.license=GPL\0rknpu.alias=of:N*T*Crockchip,rk3588-rknpuC*\0"
    "rknpu.alias=of:N*T*Crockchip,rk3588-rknpu\0"
    "msm.license=GPL\0msm.alias=of:N*T*Cqcom,adreno\0msm.alias=of:N*T*Crockchip,rk3588-rknpu\0pci_stub.license=GPL\0",
}


@pytest.mark.parametrize(
    ("driver", "modalias", "name"),
    [
        ("RKNPU", RKNPU, "rknpu"),
        ("adreno", "of:NgpuT(null)Cqcom,adreno", "msm"),
        ("adreno", "of:NgpuT(null)Cvendor,other", None),
        ("vendor-npu", RKNPU, None),
        ("etnaviv-gpu", RKNPU, None),
        ("pci-stub", RKNPU, "pci_stub"),
    ],
    ids=["RKNPU", "adreno", "no alias takes the device", "an unknown driver in its place", "another family's in its place", "by its name"],
)
def test_a_built_in_driver_of_another_name_is_tied_to_its_module_by_the_aliases(tmp_path, driver, modalias, name):
    links = {f"{SYSFS}/driver": f"/sys/bus/platform/drivers/{driver}"}
    changes = {**BUILT_IN, f"{SYSFS}/uevent": f"MODALIAS={modalias}\n", f"/sys/bus/platform/drivers/{driver}/bind": ""}
    found = read(tmp_path, changes, links)
    if name is None:
        assert (found.status, found.remedy) == (Status.FAILED, Remedy.EVIDENCE)
    else:
        assert (found.open().name, found.open().built_in.open()) == (name, True)


def test_neither_a_module_nor_built_in_is_not_known(tmp_path):
    found = read(tmp_path, without=("/sys/bus/pci/drivers/intel_vpu/module",))
    assert isinstance(found, Missing)
    assert found.status is Status.FAILED
    assert "modules.builtin does not name it" in found.note


def test_a_loaded_module_is_not_built_in_whatever_the_list_says(tmp_path):
    """Otherwise a module of a built-in driver's name would need no signature."""
    found = read(tmp_path, {f"{FOLDER}/modules.builtin": "kernel/drivers/accel/ivpu/intel_vpu.ko\n"}).open()
    assert found.built_in.open() is False


def test_an_unsigned_module_says_so(tmp_path):
    found = read(tmp_path, {MODULE: module(*INFO)}).open()
    assert found.signature.status is Status.ABSENT
    assert found.kernel_certificates.status is Status.ABSENT
    assert not found.info.open().signed


def test_overrides_come_from_sysfs_and_from_the_command_line(tmp_path):
    changes = {
        "/sys/module/intel_vpu/parameters/firmware": "evil.bin\n",
        "/proc/cmdline": "intel-vpu.firmware=older.bin intel_vpu.hidden_fw_path=x.bin intel_vpu.fw_log_level=1 other.firmware=y.bin",
    }
    given_ = read(tmp_path, changes).open().parameters.open()
    assert {name: fact.open() for name, fact in given_.items()} == {"firmware": "evil.bin", "hidden_fw_path": "x.bin"}


@pytest.mark.parametrize("content", ["", "\0" * 64, "\x1b[31m\n", "none\n"])
def test_a_taint_that_is_none_is_not_known(tmp_path, content):
    assert read(tmp_path, {"/sys/module/intel_vpu/taint": content}).open().taint.status is Status.FAILED


def test_parameters_that_a_copy_emptied_are_not_known(tmp_path):
    found = read(tmp_path, {"/sys/module/intel_vpu/parameters/firmware": ""}).open()
    assert found.parameters.open()["firmware"].status is Status.FAILED


def test_folders_that_a_copy_emptied_say_nothing_of_parameters(tmp_path):
    parameters = [path for path in files() if path.startswith("/sys/module/intel_vpu/parameters/")]
    (tmp_path / "sys/module/intel_vpu/parameters").mkdir(parents=True)
    assert read(tmp_path, without=parameters).open().parameters.status is Status.FAILED
    everything = [path for path in files() if path.startswith("/sys/module/intel_vpu/")]
    (tmp_path / "other/sys/module/intel_vpu").mkdir(parents=True)
    assert read(tmp_path / "other", without=everything).open().parameters.status is Status.FAILED


def test_parameters_are_not_known_where_the_module_s_folder_is_not(tmp_path):
    paths = [path for path in files() if path.startswith("/sys/module/intel_vpu")]
    assert read(tmp_path, without=paths).open().parameters.status is Status.ABSENT


# --- the file ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_class_and_byte_order(bits, order):
    found = modules.read_info(module("license=GPL", "intree=Y", bits=bits, order=order))
    assert (found.license, found.intree, found.build_id) == ("GPL", True, BUILD_ID.hex())


def test_of_what_repeats_the_kernel_takes_the_first_and_what_may_repeat_is_kept():
    lines = ("license=GPL", "license=Proprietary", "version=1", "version=2", "firmware=a", "firmware=a", "firmware=b", "alias=x", "alias=y")
    found = modules.read_info(module(*lines, "odd"))
    assert (found.license, found.version, found.aliases) == ("GPL", "1", ("x", "y"))
    assert modules.read_info(module("license=Proprietary", "license=GPL")).license == "Proprietary"
    assert found.firmware == ("a", "b")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"MZ" * 100,
        module(),
        module("license=GPL")[:80],
        module("license=GPL")[:-70],
        struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, 0xFFFF, 0),
        struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 62, 1, 0, 0, 1 << 63, 0, 64, 0, 0, 64, 1, 0),
        struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 62, 1, 0, 0, 64, 0, 64, 0, 0xFFFF, 7, 1, 0),
    ],
)
def test_a_file_that_is_no_module_is_refused(data):
    with pytest.raises(ValueError):
        modules.read_info(data)


WHOLE = signed(module(*INFO, symbols=("request_firmware",)), build_key())


@given(st.data())
def test_mutated_modules_are_read_or_refused(data):
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        modules.read_info(bytes(content))
    with contextlib.suppress(ValueError):
        appended.read_signature(Bytes(bytes(content)))


PACKED = gzip.compress(bytes(1 << 16))


def test_what_is_there_for_debuggers_holds_no_firmware():
    """An unstripped module: its debugging sections are packed, and look like packed images."""
    assert modules.read_info(module("license=GPL", sections={".debug_info": PACKED, ".debug_str": PACKED, ".text": b"code"})).images == ()
    assert modules.read_info(module("license=GPL", sections={".rodata": PACKED})).images
    assert modules.read_info(module("license=GPL", sections={".debug_info": PACKED, ".data": PACKED})).images
    # evasion: a section of that name that is loaded all the same
    assert modules.read_info(module("license=GPL", sections={".debug_info": PACKED}, flags=2)).images


def test_many_beginnings_for_debuggers_hide_none_after_them():
    data = bytes(64) + b"\x1f\x8b" * 4096 + bytes(64) + PACKED
    assert find_images(data, ((64, 8192),)) == (f"packed data at {64 + 8192 + 64}",)


def test_a_build_id_of_another_kind_of_note_is_refused():
    assert modules.build_id(note()) == BUILD_ID.hex()
    for bad in (b"", note()[:-1], b"\5\0\0\0" + note()[4:], note().replace(b"GNU", b"Xen")):
        with pytest.raises(ValueError):
            modules.build_id(bad)


# --- signatures --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [False, True])
def test_a_signature_is_read_with_its_signer(attributes):
    found = appended.read_signature(Bytes(signed(b"content", build_key(), attributes=attributes)))
    assert int(found.signer, 16) == build_key().certificate.serial_number
    assert not found.altered
    assert found.chain == ()


def test_signed_attributes_of_another_content_are_seen():
    data = b"other" + signed(b"content", build_key(), attributes=True)[len(b"content") :]
    assert appended.read_signature(Bytes(data)).altered


@pytest.mark.parametrize("damage", ["magic", "kind", "length", "zero", "der"])
def test_a_damaged_trailer_is_not_understood(damage):
    signature = cms(b"content", build_key())
    trailer = bytearray(struct.pack(">8BI", 0, 0, 2, 0, 0, 0, 0, 0, len(signature)))
    if damage == "kind":
        trailer[2] = 1
    elif damage == "length":
        trailer[8:] = struct.pack(">I", 1 << 31)
    elif damage == "zero":
        trailer[8:] = bytes(4)
    body = b"\x02" * len(signature) if damage == "der" else signature
    data = b"content" + body + bytes(trailer) + appended.MAGIC
    if damage == "magic":
        assert not appended.is_signed(data[:-1])
        return
    with pytest.raises(ValueError):
        appended.read_signature(Bytes(data))


def test_certificates_are_found_in_every_kind_of_image():
    plain = image(build_key().der, b"\x30\x82\xff\xff\x30\x82\xff\xff\xa0\x03\x02\x01\x02")
    payload = lzma.compress(plain) + struct.pack("<I", len(plain))
    boot = bytearray(1024)
    boot[0x1F1], boot[0x202:0x206] = 1, b"HdrS"
    struct.pack_into("<II", boot, 0x248, 0, len(payload))
    zboot = struct.pack("<2s2x4sII8x16s", b"MZ", b"zimg", 64, len(payload), b"xz").ljust(64, b"\0")
    for each in (plain, bytes(boot) + payload, zboot + payload):
        assert modules.carve_certificates(each)[0] == build_key().der


def test_an_image_of_another_compression_is_not_understood():
    boot = bytearray(1024)
    boot[0x1F1], boot[0x202:0x206] = 1, b"HdrS"
    struct.pack_into("<II", boot, 0x248, 0, 100)
    with pytest.raises(ValueError, match="compressed by none"):
        modules.carve_certificates(bytes(boot) + b"\x02\x21LZ4 " * 100)


@pytest.mark.parametrize("length", [8, 15, 16, 0x250])
def test_a_kernel_image_that_is_cut_short_has_none(length):
    for magic, at in ((b"MZ\0\0zimg", 0), (b"HdrS", 0x202)):
        cut = bytearray(length)
        cut[at : at + len(magic)] = magic[: max(0, length - at)]
        with contextlib.suppress(ValueError):
            assert modules.carve_certificates(bytes(cut)) == ()


@pytest.mark.parametrize("element", ["3000", "310030003000", "0500"])
def test_a_signature_that_lacks_an_element_is_refused(element):
    whole = bytes.fromhex("06092a864886f70d010702")
    for inner in (bytes.fromhex(element), b"\x30" + bytes([len(element) // 2]) + bytes.fromhex(element)):
        content = b"\xa0" + bytes([len(inner)]) + inner
        with pytest.raises(ValueError, match=r"element|tag|expected"):
            read_cms(b"\x30" + bytes([len(whole + content)]) + whole + content)


@pytest.mark.parametrize(
    "place", [f"{FOLDER}/vmlinuz", f"/boot/vmlinux-{RELEASE}", f"{FOLDER}/vmlinux", f"/boot/Image-{RELEASE}", f"{FOLDER}/Image"]
)
def test_a_kernel_s_image_is_found_where_distributions_put_it(tmp_path, place):
    found = read(tmp_path, {place: image(build_key().der)}, without=(IMAGE,)).open()
    assert (found.kernel_image.open(), found.kernel_certificates.open()) == (place, (build_key().der,))


def test_the_image_in_boot_comes_first(tmp_path):
    assert read(tmp_path, {f"{FOLDER}/vmlinuz": b"another"}).open().kernel_image.open() == IMAGE


def test_a_tree_with_all_of_it_below_usr(tmp_path):
    """The image of a merged /usr: /lib is a link that is made when the system starts."""
    moved = {f"/usr{path}" if path.startswith("/lib/") else path: content for path, content in files().items()}
    moved[f"/usr{FOLDER}/vmlinuz"] = moved.pop(IMAGE)
    moved[f"/usr{FOLDER}/config"] = moved.pop(f"/boot/config-{RELEASE}")
    del moved["/proc/sys/kernel/osrelease"]
    write(str(tmp_path), moved, LINKS)
    device = Device(Tree(str(tmp_path)))
    kernel = read_kernel(device)
    assert (kernel.release.open(), kernel.libraries, "CONFIG_SECURITY_LOADPIN" in kernel.config.open()) == (RELEASE, "/usr/lib", True)
    found = modules.read_module(device, kernel, SYSFS, device.link_name(f"{SYSFS}/driver")).open()
    assert (found.path.open(), found.kernel_image.open()) == (f"/usr{MODULE}", f"/usr{FOLDER}/vmlinuz")
    assert found.info.open().intree


def test_a_signed_module_without_its_kernel_s_image_has_no_certificates(tmp_path):
    found = read(tmp_path, without=(IMAGE,)).open()
    assert (found.kernel_image.status, found.kernel_certificates.status) == (Status.ABSENT, Status.ABSENT)
    assert isinstance(found.signature, Ok)


# --- the alias index ---------------------------------------------------------------------------------------------------------------------


def aliases(tmp_path, text, modalias):
    write(str(tmp_path), {**files(), f"{FOLDER}/modules.alias": text}, {})
    device = Device(Tree(str(tmp_path)))
    return modules.modules_for(device, read_kernel(device), modalias)


def test_modules_for_a_device(tmp_path):
    text = (
        "# comment\nalias pci:v00008086d*bc12* generic\nalias pci:v00008086d00007D1Dsv*sd*bc*sc*i* intel_vpu\nalias pci:v0000FFFFd* other\n"
    )
    found = aliases(tmp_path, text, "pci:v00008086d00007D1Dsv00008086sd00002212bc12sc00i00")
    assert isinstance(found, Ok)
    assert found.value == ("generic", "intel_vpu")


def test_hostile_patterns_do_not_hang(tmp_path):
    text = "".join(f"alias {'*a' * count} evil\n" for count in range(1, 250))
    assert isinstance(aliases(tmp_path, text, "a" * 500 + "b"), Ok)
