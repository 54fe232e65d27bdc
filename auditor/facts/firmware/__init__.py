"""Firmware images: which files an accelerator's driver names, which of them exist, what they are. One module an image format.

A format has `NAME`, `recognise(head)` over the image's first bytes, and `parse(image)`, which gives an `Envelope` or raises ValueError.
An appended signature is recognised by the last bytes instead, and before the others: it covers everything else.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from auditor.facts.firmware import amd_psp, appended, intel_css, intel_npu, qualcomm_mbn
from auditor.facts.firmware.image import Bytes, Split
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Envelope, Fact, FirmwareImage, Listing, Missing, MissingFact, Ok
from auditor.facts.unpack import BadArchive, compression, unpack
from auditor.families import FAMILIES, Loader, is_vfio
from auditor.model import Remedy, Status, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.firmware.image import Image
    from auditor.facts.reading import Device, FileStat
    from auditor.facts.types import Accelerator, Kernel, Loading
    from auditor.model import Evidence

FORMATS = (amd_psp, intel_css, intel_npu, qualcomm_mbn)

MAX_NAMES = 4096
"""Images of one driver; amdgpu, with the most, names 600."""

GIVEN = "--firmware-image"
"""What names an image that user space loads."""

CATALOGUE = "catalogue"
"""What names an image that the driver's own table has, and its modinfo has not."""

REMOTEPROC = "/sys/class/remoteproc"

MAX_PACKED = 64 << 20
"""Bytes of a compressed image as it lies; the largest in use have 20 MB."""

_SUFFIXES = ("", ".zst", ".xz")
"""In the order in which the kernel tries them, each in every folder (drivers/base/firmware_loader/main.c, _request_firmware)."""


def read_firmware(
    device: Device, kernel: Kernel, loading: Loading, accelerators: Fact[Listing[Accelerator]], given: tuple[str, ...] = ()
) -> Fact[Listing[FirmwareImage]]:
    """The images that the accelerators' drivers name, each where the kernel would find it; `unread`: the drivers that were not read.

    `given` are the paths of those that the user names, which the accelerators' user space loads where that drives them.
    """
    if isinstance(accelerators, Missing):
        return accelerators
    images: list[FirmwareImage] = []
    unread: list[Missing] = []
    for accelerator in accelerators.value.items:
        if driven_by_user_space(accelerator):
            images += [_given(device, accelerator.subject, path) for path in given]
        names = wanted(accelerator)
        if isinstance(names, Missing):
            if names.status is not Status.ABSENT:
                unread.append(names)
            continue
        further = (*names.value, *_catalogued(accelerator), *_by_device_tree(device, accelerator), *_by_remoteproc(device, accelerator))
        for name, named_by in dict.fromkeys(further):
            expanded = _expanded(device, kernel, loading, name)
            if isinstance(expanded, Ok) and not expanded.value and named_by != CATALOGUE:
                note = f"{printable(name)} is a pattern for the names of images, and none that is there fits it"
                expanded = Missing(Status.FAILED, accelerators.evidence, note, Remedy.VENDOR)
            if isinstance(expanded, Missing):
                images.append(FirmwareImage(printable(name), named_by, accelerator.subject, expanded))
                continue
            images += [_image(device, kernel, loading, accelerator.subject, each, named_by) for each in expanded.value]
        if len(images) > MAX_NAMES:
            note = f"more than {MAX_NAMES} images"
            return Missing(Status.FAILED, accelerators.evidence, note, Remedy.EVIDENCE)
    return Ok(Listing(tuple(images), accelerators.evidence, tuple(unread)), accelerators.evidence)


def driven_by_user_space(accelerator: Accelerator) -> bool:
    """Whether user space loads an accelerator's firmware: by VFIO, or by libusb."""
    family = FAMILIES.by_name(accelerator.family)
    by_libusb = family is not None and family.firmware is Loader.USER_SPACE
    return by_libusb or (isinstance(accelerator.driver, Ok) and is_vfio(accelerator.driver.value))


def _given(device: Device, accelerator: str, path: str) -> FirmwareImage:
    """An image that the user names by its path."""
    stat = device.stat(path)
    if isinstance(stat, Missing):
        return FirmwareImage(printable(path), GIVEN, accelerator, replace(stat, status=Status.FAILED, remedy=Remedy.EVIDENCE))
    if stat.value.kind != "file":
        note = f"a {stat.value.kind}, expected the file of an image"
        return FirmwareImage(printable(path), GIVEN, accelerator, Missing(Status.FAILED, stat.evidence, note, Remedy.EVIDENCE))
    return FirmwareImage(
        name=printable(path),
        named_by=GIVEN,
        wanted_by=accelerator,
        path=Ok(stat.value.real, stat.evidence),
        size=Ok(stat.value.size, stat.evidence),
        sha256=device.sha256(path),
        envelope=_envelope(device, path, stat, packed=False),
    )


def wanted(accelerator: Accelerator) -> Fact[tuple[tuple[str, str], ...]]:
    """The images that an accelerator's driver may ask for, each with what names it: its modinfo, or a parameter that overrides it.

    Missing(ABSENT) where no driver is bound.
    """
    if isinstance(accelerator.module, Missing):
        return accelerator.module
    module = accelerator.module.value
    if isinstance(module.info, Missing):
        return Missing(Status.FAILED if module.info.status is Status.ABSENT else module.info.status, module.info.evidence, module.info.note)
    names = [(name, "modinfo") for name in module.info.value.firmware]
    if isinstance(module.parameters, Ok):
        names += [(given.value, word) for word, given in sorted(module.parameters.value.items()) if isinstance(given, Ok) and given.value]
    if len(names) > MAX_NAMES:
        return Missing(Status.FAILED, module.info.evidence, f"the driver names more than {MAX_NAMES} images", Remedy.EVIDENCE)
    return Ok(tuple(names), module.info.evidence)


def _catalogued(accelerator: Accelerator) -> tuple[tuple[str, str], ...]:
    """The images of the catalogue inside of a driver, as patterns."""
    module = accelerator.module.value.name if isinstance(accelerator.module, Ok) else ""
    family = FAMILIES.by_module(module) if module else None
    return tuple((each, CATALOGUE) for each in family.images) if family else ()


def _by_device_tree(device: Device, accelerator: Accelerator) -> tuple[tuple[str, str], ...]:
    """The zap shader that a GPU's device tree node names (Documentation/devicetree/bindings/display/msm/gpu.yaml)."""
    if not isinstance(accelerator.module, Ok) or accelerator.module.value.name != "msm":
        return ()
    name = device.text(f"{accelerator.sysfs}/of_node/zap-shader/firmware-name")
    return ((name.value.strip("\0"), "device tree"),) if isinstance(name, Ok) and name.value.strip("\0") else ()


def _by_remoteproc(device: Device, accelerator: Accelerator) -> tuple[tuple[str, str], ...]:
    """The images of the processor that an accelerator's channel leads to; of all of them, where none is above it in sysfs.

    `unknown` is one that the boot firmware started (Documentation/ABI/testing/sysfs-class-remoteproc).
    """
    driver = accelerator.driver.value if isinstance(accelerator.driver, Ok) else ""
    module = accelerator.module.value.name if isinstance(accelerator.module, Ok) else ""
    family = FAMILIES.by_module(module) or FAMILIES.by_driver(driver)
    if family is None or family.firmware is not Loader.REMOTEPROC:
        return ()
    listed = device.names(REMOTEPROC)
    if isinstance(listed, Missing):
        return ((REMOTEPROC, "remoteproc"),)  # no name of an image: what it is called is not known
    above = [each for each in listed.value if (place := _device_of(device, each)) and f"{accelerator.sysfs}/".startswith(f"{place}/")]
    names = []
    for each in above or listed.value:
        name = device.line(f"{REMOTEPROC}/{each}/firmware")
        # `/…` is no name of an image, so what could not be read stays unknown
        names.append((name.value if isinstance(name, Ok) and name.value != "unknown" else f"{REMOTEPROC}/{each}/firmware", "remoteproc"))
    return tuple(names)


def _device_of(device: Device, remoteproc: str) -> str:
    """The sysfs folder of the device that a remoteproc belongs to: what its class link leads to is `DEVICE/remoteproc/remoteprocN`."""
    found = device.stat(f"{REMOTEPROC}/{remoteproc}")
    return found.value.real.rpartition("/")[0].rpartition("/")[0] if isinstance(found, Ok) else ""


def _expanded(device: Device, kernel: Kernel, loading: Loading, name: str) -> Fact[tuple[str, ...]]:
    """The names that a pattern stands for, in any of the folders that the kernel searches; a name that is none stands for itself."""
    if not any(character in name for character in "*?[") or ".." in name.split("/") or name.startswith("/"):
        return Ok((name,))
    folders = _folders(kernel, loading)
    if isinstance(folders, Missing):
        return folders
    place, _, last = name.rpartition("/")
    if any(character in place for character in "*?["):
        return Missing(Status.FAILED, (), f"{printable(name)} is a pattern for folders", Remedy.VENDOR)
    found: dict[str, None] = {}
    for folder in folders.value:
        names = device.names(f"{folder}/{place}".rstrip("/"))
        if isinstance(names, Missing):
            if names.status is not Status.ABSENT:
                return names
            continue
        plain = (each.removesuffix(".zst").removesuffix(".xz") for each in names.value)
        found |= dict.fromkeys(f"{place}/{each}".lstrip("/") for each in plain if fnmatchcase(each, last))
    return Ok(tuple(found))


def read_envelope(image: Image) -> Envelope:
    """What an image is; `unrecognised` for what begins like no known format. Raises ValueError for one that contradicts itself."""
    head = image.read(0, intel_css.SEARCH)
    form = next((each for each in FORMATS if each.recognise(head)), None)
    try:
        if appended.is_signed(image.read(max(0, image.size - appended.TRAILER), appended.TRAILER)):
            return appended.parse(image)
        return form.parse(image) if form else Envelope("unrecognised")
    except (struct.error, IndexError, OverflowError, ValueError) as error:
        ours = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        raise ValueError(
            f"{form.NAME if form else appended.NAME}: {error if ours else 'cut short, or a field leads beyond its end'}"
        ) from None


def _image(device: Device, kernel: Kernel, loading: Loading, accelerator: str, name: str, named_by: str) -> FirmwareImage:
    shown = printable(name)
    found = _find(device, kernel, loading, name)
    if isinstance(found, Missing):
        return FirmwareImage(shown, named_by, accelerator, found)
    path, *shadowed = found.value
    suffix = next(each for each in reversed(_SUFFIXES) if path.endswith(each))
    stat = device.stat(path)
    if isinstance(stat, Missing):
        return FirmwareImage(shown, named_by, accelerator, stat)
    return FirmwareImage(
        name=shown,
        named_by=named_by,
        wanted_by=accelerator,
        path=Ok(stat.value.real, all_of(found, stat)),
        shadowed=tuple(printable(each) for each in shadowed),
        compressed=suffix[1:],
        size=Ok(stat.value.size, stat.evidence),
        sha256=device.sha256(path),
        envelope=_envelope(device, path, stat, packed=bool(suffix)),
    )


def _find(device: Device, kernel: Kernel, loading: Loading, name: str) -> Fact[tuple[str, ...]]:
    """The paths at which the kernel finds an image, the one that it takes first.

    Folders are listed rather than files tried, so that what is not there was seen not to be. A link that leads nowhere is passed over.
    """
    if name.startswith(REMOTEPROC):  # as what could not be read is named
        note = "the remote processor's image is not known: it is not to be read there, or the boot firmware started it"
        return Missing(Status.FAILED, (), note, Remedy.VENDOR)
    if name.startswith("/") or ".." in name.split("/"):
        return Missing(Status.FAILED, (), f"{printable(name)} is no name of an image", Remedy.VENDOR)
    searched = _folders(kernel, loading)
    if isinstance(searched, Missing):
        return searched
    folders = searched.value
    found: list[str] = []
    for path in _candidates(kernel, folders, name):
        folder, _, file = path.rpartition("/")
        names = device.names(folder)
        if isinstance(names, Ok) and file in names.value:
            stat = device.stat(path)
            if isinstance(stat, Ok):
                found.append(path)
            elif stat.status is not Status.ABSENT:
                return stat
        elif isinstance(names, Missing) and names.status is not Status.ABSENT:
            return names
    if found:
        return Ok(tuple(found))
    where = device.names(folders[-1])
    if isinstance(where, Missing):
        return Missing(Status.FAILED, where.evidence, "there is no firmware folder to look in", Remedy.LIVE)
    return Missing(Status.ABSENT, where.evidence, f"{printable(name)} is in none of {', '.join(map(printable, folders))}", Remedy.EVIDENCE)


def _folders(kernel: Kernel, loading: Loading) -> Fact[tuple[str, ...]]:
    """The folders that the kernel searches, in order."""
    if isinstance(kernel.release, Missing):
        return kernel.release
    first: tuple[str, ...] = ()
    if isinstance(loading.search_path, Ok):
        first = (loading.search_path.value,) if loading.search_path.value else ()
    elif loading.search_path.status is not Status.ABSENT:  # a tree without /sys: its own folders are all that can be looked at
        return loading.search_path
    release = kernel.release.value
    own = f"{kernel.libraries}/firmware"
    return Ok((*first, f"{own}/updates/{release}", f"{own}/updates", f"{own}/{release}", own))


def _candidates(kernel: Kernel, folders: tuple[str, ...], name: str) -> Iterator[str]:
    """The paths that the kernel tries, in order; without what its configuration says it cannot unpack."""
    options = {".zst": "CONFIG_FW_LOADER_COMPRESS_ZSTD", ".xz": "CONFIG_FW_LOADER_COMPRESS_XZ"}
    for suffix in _SUFFIXES:
        if suffix and isinstance(kernel.config, Ok) and options[suffix] not in kernel.config.value:
            continue
        for folder in folders:
            yield f"{folder}/{name}{suffix}"


def _envelope(device: Device, path: str, stat: Ok[FileStat], *, packed: bool) -> Fact[Envelope]:
    """What the image at a path is; unpacked first where the kernel would."""
    if not packed:
        return _parsed(Split(device, path, stat.value.size), stat.evidence)
    data = parse(device.data(path, length=MAX_PACKED), _unpacked)
    return data if isinstance(data, Missing) else _parsed(Bytes(data.value), data.evidence)


def _parsed(image: Image, evidence: tuple[Evidence, ...]) -> Fact[Envelope]:
    try:
        return Ok(read_envelope(image), evidence)
    except MissingFact as error:
        return error.missing
    except ValueError as error:
        return Missing(Status.FAILED, evidence, f"not understood: {printable(str(error))}", Remedy.EVIDENCE)


def _unpacked(data: bytes) -> bytes:
    if len(data) >= MAX_PACKED:
        raise BadArchive(f"more than {MAX_PACKED} bytes")
    if not compression(data):
        raise BadArchive("compressed by its name, but not by its content")
    return unpack(data)
