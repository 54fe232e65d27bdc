"""Firmware images: which files an accelerator's driver names, which of them exist, what they are. One module an image format.

A format has `NAME`, `recognise(head)` over the image's first bytes, and `parse(image)`, which gives an `Envelope` or raises ValueError.
An appended signature is recognised by the last bytes instead, and before the others: it covers everything else.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from auditor.facts.firmware import amd_psp, appended, intel_css, intel_npu, qualcomm_mbn
from auditor.facts.firmware.image import Bytes, OnDevice
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Envelope, Fact, FirmwareImage, Listing, Missing, MissingFact, Ok
from auditor.facts.unpack import BadArchive, compression, unpack
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

MAX_PACKED = 64 << 20
"""Bytes of a compressed image as it lies; the largest in use have 20 MB."""

_SUFFIXES = ("", ".zst", ".xz")
"""In the order in which the kernel tries them, each in every folder (drivers/base/firmware_loader/main.c, _request_firmware)."""


def read_firmware(
    device: Device, kernel: Kernel, loading: Loading, accelerators: Fact[Listing[Accelerator]]
) -> Fact[Listing[FirmwareImage]]:
    """The images that the accelerators' drivers name, each where the kernel would find it; `unread`: the drivers that were not read."""
    if isinstance(accelerators, Missing):
        return accelerators
    images: list[FirmwareImage] = []
    unread: list[Missing] = []
    for accelerator in accelerators.value.items:
        names = wanted(accelerator)
        if isinstance(names, Missing):
            if names.status is not Status.ABSENT:
                unread.append(names)
            continue
        images += [_image(device, kernel, loading, accelerator.subject, *each) for each in names.value]
    return Ok(Listing(tuple(images), accelerators.evidence, tuple(unread)), accelerators.evidence)


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


def read_envelope(image: Image) -> Envelope:
    """What an image is; `unrecognised` for what begins like no known format. Raises ValueError for one that contradicts itself."""
    head = image.read(0, intel_css.SEARCH)
    form = next((each for each in FORMATS if each.recognise(head)), None)
    try:
        if appended.is_signed(image.read(max(0, image.size - appended.TRAILER), appended.TRAILER)):
            return appended.parse(image)
        return form.parse(image) if form else Envelope("unrecognised")
    except (struct.error, IndexError, OverflowError, ValueError) as error:
        raise ValueError(f"{form.NAME if form else appended.NAME}: {error}") from None


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
    if name.startswith("/") or ".." in name.split("/"):
        return Missing(Status.FAILED, (), f"{printable(name)} is no name of an image", Remedy.VENDOR)
    if any(character in name for character in "*?["):
        return Missing(Status.FAILED, (), f"{printable(name)} is a pattern for the names of images", Remedy.VENDOR)
    if isinstance(kernel.release, Missing):
        return kernel.release
    first: tuple[str, ...] = ()
    if isinstance(loading.search_path, Ok):
        first = (loading.search_path.value,) if loading.search_path.value else ()
    elif loading.search_path.status is not Status.ABSENT:  # a tree without /sys: its own folders are all that can be looked at
        return loading.search_path
    release = kernel.release.value
    own = f"{kernel.libraries}/firmware"
    folders = (*first, f"{own}/updates/{release}", f"{own}/updates", f"{own}/{release}", own)
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
    where = device.names(own)
    if isinstance(where, Missing):
        return Missing(Status.FAILED, where.evidence, "there is no firmware folder to look in", Remedy.LIVE)
    return Missing(Status.ABSENT, where.evidence, f"{printable(name)} is in none of {', '.join(map(printable, folders))}", Remedy.EVIDENCE)


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
        return _parsed(OnDevice(device, path, stat.value.size), stat.evidence)
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
