"""The kernel module behind an accelerator's driver: from sysfs, from the kernel's module index, and from the module's own file.

Sources: Documentation/ABI/testing/sysfs-module, Documentation/kbuild/kbuild.rst (modules.order, modules.builtin), modules.dep(5).
"""

from __future__ import annotations

import fnmatch
import itertools
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from auditor.facts.firmware import appended, elf
from auditor.facts.firmware.image import Bytes
from auditor.facts.firmware.inside import find_images
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Fact, Missing, Module, ModuleInfo, Ok
from auditor.facts.unpack import compression, unpack
from auditor.families import FAMILIES, plain
from auditor.model import Remedy, Status, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from auditor.facts.reading import Device
    from auditor.facts.types import Kernel, Signature

INDEX_LIMIT = 16 << 20
"""Bytes of a file of the module index; Debian's modules.alias, the largest, has 1.3 MB."""

FILE_LIMIT = 64 << 20
"""Bytes of a module's file as it lies; the largest in use, amdgpu, has 26 MB unpacked."""

IMAGE_LIMIT = 128 << 20
"""Bytes of a kernel image as it lies; Debian's has 12 MB."""

LOADERS = (
    "firmware_request_nowarn", "firmware_request_platform", "firmware_upload_register", "kernel_read_file_from_fd",
    "kernel_read_file_from_path", "kernel_read_file_from_path_initns", "mhi_register_controller", "qcom_mdt_load", "request_firmware",
    "request_firmware_direct", "request_firmware_into_buf", "request_firmware_nowait", "request_partial_firmware_into_buf", "rproc_alloc",
    "rproc_boot",
)  # fmt: skip
"""Functions through which a driver takes firmware in, itself or by another (include/linux/{firmware,kernel_read_file,mhi,remoteproc}.h)."""

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")

_CERTIFICATE = re.compile(rb"\x30\x82(..)\x30(?:\x81.|\x82..)\xa0\x03\x02\x01\x02", re.DOTALL)
"""The beginning of an X.509 version 3 certificate longer than 255 bytes: its length, then the version."""

_MAX_CERTIFICATES = 256
_MAX_INFO = 1 << 20
_MAX_NEEDS = 256
_MAX_PATTERN = 512
_OVERRIDE = re.compile(r"firmware|fw_(path|name|file)")
"""Parameters that name another firmware file: ivpu's `firmware`, i915's and xe's `guc_firmware_path` … (MODULE_PARM_DESC of each)."""


def read_module(device: Device, kernel: Kernel, sysfs: str, driver: Fact[str]) -> Fact[Module]:
    """The module of the driver that is bound to the device at a sysfs path; Missing(ABSENT) where none is bound.

    A driver without a module is one that is built into the kernel only if the kernel's own list, modules.builtin, names it.
    """
    if isinstance(driver, Missing):
        return _unbound(device, kernel, sysfs, driver) if driver.status is Status.ABSENT else driver
    linked = device.link_name(f"{sysfs}/driver/module")
    if isinstance(linked, Ok):
        return Ok(_module(device, kernel, linked.value, linked), linked.evidence)
    if linked.status is not Status.ABSENT:
        return linked
    name = driver.value.replace("-", "_")
    built_in = parse(_index(device, kernel, "modules.builtin"), lambda text: bool(_lines_of(name, text)))
    if isinstance(built_in, Missing):
        return built_in
    evidence = (*linked.evidence, *built_in.evidence)
    if built_in.value:
        return Ok(_module(device, kernel, name, Ok(name, evidence)), evidence)
    aliased = _by_alias(device, kernel, sysfs, name)
    if isinstance(aliased, Missing):
        return replace(aliased, evidence=(*evidence, *aliased.evidence))
    evidence = (*evidence, *aliased.evidence)
    return Ok(_module(device, kernel, aliased.value, Ok(aliased.value, evidence)), evidence)


def _by_alias(device: Device, kernel: Kernel, sysfs: str, driver: str) -> Fact[str]:
    """The module that is built in, takes the device by its alias table (modules.builtin.modinfo), and is of the driver's family.

    A driver's name need not be its module's: `etnaviv-gpu` is of etnaviv, `adreno` of msm. What another driver was given in its place, by
    `driver_override`, it is not.
    """
    uevent, index = device.text(f"{sysfs}/uevent"), _index(device, kernel, "modules.builtin.modinfo")
    if isinstance(uevent, Missing):
        return uevent
    if isinstance(index, Missing):
        return index
    lines = (entry.partition(".alias=") for entry in index.value.split("\0") if ".alias=" in entry)
    table = "\n".join(f"alias {pattern} {module}" for module, _, pattern in lines if "\n" not in pattern)
    family = FAMILIES.by_driver(driver)
    modalias = next((line.partition("=")[2] for line in uevent.value.split("\n") if line.startswith("MODALIAS=")), "")
    found = {plain(module) for module in _matches(table, modalias)}
    own = [module for module in sorted(found) if family is not None and FAMILIES.by_module(module) is family]
    if len(own) == 1:
        return Ok(own[0], all_of(uevent, index))
    note = f"the driver {printable(driver)} has no module, modules.builtin does not name it, and no alias of one that is built in tells"
    return Missing(Status.FAILED, all_of(uevent, index), note, Remedy.EVIDENCE)


def modules_for(device: Device, kernel: Kernel, modalias: str) -> Fact[tuple[str, ...]]:
    """The modules that the kernel's index (modules.alias) would load for a device, sorted: what could drive one that nothing drives."""
    return parse(_index(device, kernel, "modules.alias"), lambda text: tuple(sorted(set(_matches(text, modalias)))))


def read_info(data: bytes) -> ModuleInfo:
    """The .modinfo section of a module's unpacked file. Raises ValueError where there is none, or no sound ELF file around it."""

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    listed = elf.read_sections(read, elf.read_header(read))
    sections = {each.name: each for each in listed}
    found = sections.get(b".modinfo")
    if found is None or not 0 < found.size <= _MAX_INFO:
        raise ValueError("no .modinfo section")
    note = sections.get(b".note.gnu.build-id")
    symbols = sections.get(b".strtab")
    names = set(data[symbols.offset : symbols.offset + symbols.size].split(b"\0")) if symbols else set()
    return _info(
        printable(data[found.offset : found.offset + found.size]).split("\0"),
        tuple(each for each in LOADERS if not symbols or each.encode("ascii") in names),
        build_id(data[note.offset : note.offset + note.size]) if note else "",
        signed=appended.is_signed(data),
        images=find_images(data, tuple((each.offset, each.size) for each in listed if each.is_debugging)),
    )


def _built_in_info(name: str, text: str) -> ModuleInfo:
    """What modules.builtin.modinfo, `module.key=value` ended by NUL, has of a driver. What is built in is of the kernel's own tree."""
    entries = [entry.partition(".")[2] for entry in text.split("\0") if entry.partition(".")[0].replace("-", "_") == name]
    if not any(entry.startswith("license=") for entry in entries):
        raise ValueError(f"it has no licence of {printable(name)}")
    return replace(_info(entries, LOADERS, "", signed=False, images=()), intree=True)


def _info(entries: list[str], loaders: tuple[str, ...], identity: str, *, signed: bool, images: tuple[str, ...]) -> ModuleInfo:
    values: dict[str, list[str]] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if equals:
            values.setdefault(key, []).append(printable(value))
    one = {key: each[0] for key, each in values.items()}  # as the kernel takes the first (kernel/module/main.c, get_next_modinfo)
    return ModuleInfo(
        license=one.get("license", ""),
        intree=one.get("intree") == "Y",
        aliases=tuple(values.get("alias", ())),
        firmware=tuple(dict.fromkeys(values.get("firmware", ()))),
        depends=tuple(name for name in one.get("depends", "").split(",") if name),
        loaders=loaders,
        vermagic=one.get("vermagic", "").strip(),
        version=one.get("version", ""),
        srcversion=one.get("srcversion", ""),
        build_id=identity,
        signed=signed,
        images=images,
        file=one.get("file", ""),
    )


def _kernel_image(device: Device, kernel: Kernel) -> Fact[str]:
    """The first of the places where distributions put a kernel's image; what cannot be looked at may be it."""
    if isinstance(kernel.release, Missing):
        return kernel.release
    release, own = kernel.release.value, f"{kernel.libraries}/modules/{kernel.release.value}"
    first = device.stat(f"/boot/vmlinuz-{release}")
    found = first
    for path in (f"{own}/vmlinuz", f"/boot/vmlinux-{release}", f"{own}/vmlinux", f"/boot/Image-{release}", f"{own}/Image"):
        if found.status is not Status.ABSENT:
            break
        found = device.stat(path)
    return parse(first if found.status in {Status.ABSENT, Status.UNASKED} else found, lambda stat: stat.real)


def _certificates(device: Device, image: str) -> Fact[tuple[bytes, ...]]:
    return parse(device.data(image, length=IMAGE_LIMIT), carve_certificates)


def carve_certificates(image: bytes) -> tuple[bytes, ...]:
    """The X.509 version 3 certificates (DER) in a kernel image. Raises ValueError for an image that cannot be unpacked.

    Among them is the one that the kernel's own modules are signed with. It exists nowhere else: it is made with the kernel
    (certs/Makefile), and its private key is thrown away.
    """
    if len(image) >= IMAGE_LIMIT:
        raise ValueError(f"more than {IMAGE_LIMIT} bytes")
    kernel = unpack(_payload(image), trailing=True)
    found = (kernel[match.start() : match.start() + 4 + int.from_bytes(match[1], "big")] for match in _CERTIFICATE.finditer(kernel))
    return tuple(dict.fromkeys(itertools.islice(found, _MAX_CERTIFICATES)))


def _payload(image: bytes) -> bytes:
    """The compressed kernel in an image: of x86 (Documentation/arch/x86/boot.rst) or an EFI zboot image; others are taken as they lie."""
    if image[0x202:0x206] == b"HdrS" and len(image) > 0x250:
        offset, length = struct.unpack_from("<II", image, 0x248)
        start = (image[0x1F1] + 1) * 512 + offset
    elif image[:2] == b"MZ" and image[4:8] == b"zimg" and len(image) > 16:
        start, length = struct.unpack_from("<II", image, 8)
    else:
        return image
    payload = image[start : start + length]
    if not compression(payload):
        raise ValueError("a kernel image that is compressed by none of xz, zstd and gzip")
    return payload


def build_id(note: bytes) -> str:
    """The build id in the bytes of a .note.gnu.build-id section, as hexadecimal. Raises ValueError where it is another note."""
    order = "<" if note[:4] == b"\x04\0\0\0" else ">"
    try:
        name, size, kind = struct.unpack_from(order + "3I", note)
    except struct.error:
        raise ValueError("a note that is cut short") from None
    if (name, kind, note[12:16]) != (4, 3, b"GNU\0") or not 0 < size <= 64 or len(note) < 16 + size:
        raise ValueError("not a GNU build id")
    return note[16 : 16 + size].hex()


def _module(device: Device, kernel: Kernel, name: str, linked: Ok[str]) -> Module:
    folder = f"/sys/module/{name}"
    entries = device.names(folder)
    built_in = _built_in(device, kernel, name, linked, entries)
    if isinstance(built_in, Ok) and built_in.value:
        nowhere = Missing(Status.ABSENT, built_in.evidence, "the driver is built into the kernel")
        path: Fact[str] = nowhere
        needs: Fact[tuple[str, ...]] = nowhere
        data: Fact[bytes] = nowhere
        info = parse(_index(device, kernel, "modules.builtin.modinfo"), lambda text: _built_in_info(name, text))
    else:
        path = _path(device, kernel, name)
        needs = parse(_index(device, kernel, "modules.dep"), lambda text: _needs(name, text))
        data = path if isinstance(path, Missing) else _file(device, path)
        info = parse(data, read_info)
    signature: Fact[Signature] = parse(data, lambda each: appended.read_signature(Bytes(each)))
    if isinstance(data, Ok) and not appended.is_signed(data.value):
        signature = Missing(Status.ABSENT, data.evidence, "the module carries no signature")
    image = _kernel_image(device, kernel) if isinstance(signature, Ok) else signature
    return Module(
        name=printable(name),
        built_in=built_in,
        path=path,
        info=info,
        signature=signature,
        kernel_image=image,
        kernel_certificates=image if isinstance(image, Missing) else _certificates(device, image.value),
        build_id=parse(device.data(f"{folder}/notes/.note.gnu.build-id"), build_id),
        taint=parse(device.line(f"{folder}/taint"), _letters),
        parameters=_parameters(device, kernel, name, entries),
        needs=needs,
        needs_taint=_needs_taint(device, needs, info),
    )


def _built_in(device: Device, kernel: Kernel, name: str, linked: Ok[str], entries: Fact[tuple[str, ...]]) -> Fact[bool]:
    """Only a loaded module has `initstate` (kernel/module/sysfs.c); without it, and with the kernel's own word, the driver is built in."""
    if isinstance(entries, Ok) and "initstate" in entries.value:
        return Ok(False, entries.evidence)
    if isinstance(entries, Missing) and entries.status is not Status.ABSENT:
        return entries
    named = parse(_index(device, kernel, "modules.builtin"), lambda text: bool(_lines_of(name, text)))
    if isinstance(named, Missing):
        return named
    evidence = (*linked.evidence, *entries.evidence, *named.evidence)
    if named.value:
        return Ok(True, evidence)
    if isinstance(entries, Missing):
        return Ok(False, evidence)  # a tree without /sys/module, whose kernel does not have the driver built in
    return Missing(Status.FAILED, evidence, "neither loaded as a module nor named in modules.builtin", Remedy.EVIDENCE)


def _index(device: Device, kernel: Kernel, name: str) -> Fact[str]:
    """A text file of the kernel's module index, whole."""
    if isinstance(kernel.release, Missing):
        return kernel.release
    return parse(device.data(f"{kernel.libraries}/modules/{kernel.release.value}/{name}", length=INDEX_LIMIT), _whole_text)


def _whole_text(data: bytes) -> str:
    if len(data) >= INDEX_LIMIT:
        raise ValueError(f"more than {INDEX_LIMIT} bytes")
    return data.decode("utf-8", "surrogateescape")


def _lines_of(name: str, text: str) -> tuple[str, ...]:
    """The paths in a module index that belong to a module; file names have `-` where the kernel has `_`."""
    paths = (line.partition(":")[0].strip() for line in text.splitlines())
    return tuple(path for path in paths if _stem(path) == name.replace("-", "_"))


def _needs(name: str, text: str) -> tuple[str, ...]:
    """What follows the colon in a module's first line of modules.dep: all that it needs, directly or not (depmod)."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((tuple(map(printable, after.split())) for path, _, after in lines if _stem(path.strip()) == name.replace("-", "_")), ())


def _needs_taint(device: Device, needs: Fact[tuple[str, ...]], info: Fact[ModuleInfo]) -> dict[str, Fact[str]]:
    """The taint of each module that a module needs, by the index and by its own file; all of them are loaded while it is."""
    names = {_stem(path) for path in needs.value} if isinstance(needs, Ok) else set()
    names |= {name.replace("-", "_") for name in info.value.depends} if isinstance(info, Ok) else set()
    if len(names) > _MAX_NEEDS:
        return {"": Missing(Status.FAILED, needs.evidence, f"more than {_MAX_NEEDS} modules are needed", Remedy.EVIDENCE)}
    return {name: parse(device.line(f"/sys/module/{name}/taint"), _letters) for name in sorted(names)}


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _path(device: Device, kernel: Kernel, name: str) -> Fact[str]:
    """The file that modprobe takes for a module: modules.dep names it. Where depmod never ran, modules.order, the kernel build's list."""
    index = _index(device, kernel, "modules.dep")
    if isinstance(index, Missing) and index.status is Status.ABSENT:
        index = _index(device, kernel, "modules.order")
    if isinstance(index, Missing):
        return index
    found = _lines_of(name, index.value)
    if len(set(found)) > 1:
        return Missing(Status.FAILED, index.evidence, f"the module index names {len(found)} files of {printable(name)}", Remedy.EVIDENCE)
    if not found:
        return Missing(Status.ABSENT, index.evidence, f"the module index names no file of {printable(name)}", Remedy.EVIDENCE)
    release = kernel.release.open()
    path = found[0] if found[0].startswith("/") else f"{kernel.libraries}/modules/{release}/{found[0]}"
    for suffix in dict.fromkeys((path[len(path.partition(".ko")[0]) :], *SUFFIXES)):
        real = parse(device.stat(path.partition(".ko")[0] + suffix), lambda stat: stat.real)
        if not (isinstance(real, Missing) and real.status is Status.ABSENT):
            return real if isinstance(real, Missing) else Ok(real.value, (*index.evidence, *real.evidence))
    return Missing(Status.ABSENT, index.evidence, f"{printable(path)} is not there", Remedy.EVIDENCE)


def _file(device: Device, path: Ok[str]) -> Fact[bytes]:
    """A module's file, unpacked."""
    return parse(device.data(path.value, length=FILE_LIMIT), lambda data: unpack(_whole(data)))


def _whole(data: bytes) -> bytes:
    if len(data) >= FILE_LIMIT:
        raise ValueError(f"more than {FILE_LIMIT} bytes")
    return data


def _parameters(device: Device, kernel: Kernel, name: str, entries: Fact[tuple[str, ...]]) -> Fact[Mapping[str, Fact[str]]]:
    """The parameters that override firmware: as sysfs shows them, and, for those that it does not show, as the command line sets them."""
    if isinstance(entries, Missing):
        return entries
    if isinstance(kernel.command_line, Missing):
        return kernel.command_line
    evidence = (*entries.evidence, *kernel.command_line.evidence)
    if not {"initstate", "uevent"} & set(entries.value):  # a module has the one, a built-in driver the other
        return Missing(Status.FAILED, evidence, "it does not list what every module has", Remedy.EVIDENCE)
    found: dict[str, Fact[str]] = {}
    for parameter in kernel.command_line.value:
        key, _, value = parameter.partition("=")
        owner, _, word = key.replace("-", "_").partition(".")
        if owner == name and _OVERRIDE.search(word):
            found[printable(word)] = Ok(printable(value), kernel.command_line.evidence)
    if "parameters" in entries.value:  # a module without parameters has no such folder
        shown = device.names(f"/sys/module/{name}/parameters")
        if isinstance(shown, Missing):
            return shown
        evidence += shown.evidence
        if not shown.value:
            return Missing(Status.FAILED, evidence, "a folder of parameters without any", Remedy.EVIDENCE)
        for word in shown.value:
            if _OVERRIDE.search(word):
                found[printable(word)] = parse(device.line(f"/sys/module/{name}/parameters/{word}"), _unset)
    return Ok(found, evidence)


def _letters(value: str) -> str:
    """Taint letters (kernel/module/main.c, module_flags_taint)."""
    if not re.fullmatch("[A-Z]*", value):
        raise ValueError("expected taint letters")
    return value


def _unset(value: str) -> str:
    """A text parameter as sysfs shows it: `(null)` is one that nobody set (lib/vsprintf.c)."""
    return "" if value == "(null)" else value


def _unbound(device: Device, kernel: Kernel, sysfs: str, driver: Missing) -> Missing:
    """Why there is no module: nothing is bound. The note names what the kernel's index would load."""
    modalias = device.text(f"{sysfs}/modalias")
    candidates = modalias if isinstance(modalias, Missing) else modules_for(device, kernel, modalias.value)
    names = ", ".join(candidates.value) if isinstance(candidates, Ok) else ""
    note = f"no driver is bound; the module index has {printable(names)} for this device" if names else "no driver is bound"
    return Missing(Status.ABSENT, driver.evidence, note, Remedy.DRIVER)


def _matches(text: str, modalias: str) -> Iterator[str]:
    """The modules of `alias PATTERN MODULE` lines whose pattern matches; the literal beginnings of the many patterns decide most."""
    for line in text.splitlines():
        if not line.startswith("alias ") or len(line) > 2 * _MAX_PATTERN:
            continue
        pattern, _, module = line[len("alias ") :].rpartition(" ")
        literal = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        if modalias.startswith(literal) and len(modalias) <= _MAX_PATTERN and fnmatch.fnmatchcase(modalias, pattern):
            yield module
