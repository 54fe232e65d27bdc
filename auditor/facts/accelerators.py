"""Which devices ML work may run on, and how the kernel presents them.

Looked for: the accel class, DRM render nodes, PCI base class 0x12 (processing accelerators), devices bound to a VFIO driver, and the
character devices of accelerator drivers outside DRM. A device that is seen in several places is one accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.facts.iommu import read_group
from auditor.facts.modules import read_module
from auditor.facts.reading import parse
from auditor.facts.types import Accelerator, Fact, Listing, Missing, Node, Ok
from auditor.families import FAMILIES, is_vfio
from auditor.model import Evidence, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.reading import Device, FileStat
    from auditor.facts.types import Kernel

ACCELERATOR_CLASS = "12"
"""PCI base class of processing accelerators (PCI Code and ID Assignment Specification)."""

_OTHER_CLASSES = frozenset({"01", "02", "04", "05", "06", "07", "08", "09", "0a", "0c", "0d", "0e", "0f", "10", "11"})
"""PCI base classes that are handed to guests through VFIO and are no accelerators: storage, network, sound, bridges, USB …"""

_SOFTWARE = frozenset(f"/sys/devices/{bus}/{name}" for bus in ("platform", "faux") for name in ("vgem", "vkms"))
"""DRM drivers without hardware (drivers/gpu/drm/vgem, vkms), by path: their render nodes are no accelerators."""

_KINDS = {"accel": "accel", "drm": "render", "misc": "misc", "apex": "misc"}


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A device seen in one place: the sysfs path of the device itself, and the node that led there."""

    sysfs: str
    place: str
    node: Node | None = None


def read_accelerators(device: Device, kernel: Kernel, wanted: tuple[str, ...] = ()) -> Fact[Listing[Accelerator]]:
    """The accelerators, by subject. `wanted` names the subjects to audit, whatever their class and driver; empty for all."""
    sightings: list[_Sighting] = []
    looked: list[Evidence] = []
    unread: list[Missing] = []
    for subsystem in (*_KINDS, "pci", "platform"):
        entries = parse(device.document(base.udev(subsystem)), _entries)
        looked += [Evidence(_place(subsystem), item.status) for item in entries.evidence]
        if isinstance(entries, Missing):
            if entries.status is not Status.ABSENT:
                unread.append(Missing(entries.status, (Evidence(_place(subsystem), entries.status),), entries.note, entries.remedy))
            continue
        for entry in entries.value:
            asked = Ok((subsystem, *entry), entries.evidence)
            shown = parse(asked, lambda each: tuple(_sightings(device, each[0], each[1], each[2], wanted)))
            found = (shown,) if isinstance(shown, Missing) else shown.value
            unread += [each for each in found if isinstance(each, Missing)]
            sightings += [each for each in found if isinstance(each, _Sighting)]
    merged: dict[str, list[_Sighting]] = {}
    for sighting in sightings:
        merged.setdefault(sighting.sysfs, []).append(sighting)
    chosen: dict[str, tuple[_Identity, list[_Sighting]]] = {}
    for sysfs, seen in sorted(merged.items()):  # a bus device before what it carries
        identity = _identity(device, sysfs)
        if isinstance(identity, Missing):
            unread.append(identity)
        elif not wanted or identity.subject in wanted:
            _, earlier = chosen.get(identity.home, (identity, []))
            chosen[identity.home] = identity, [*earlier, *seen]
    items = tuple(_accelerator(device, kernel, *each) for each in chosen.values())
    return Ok(Listing(items, tuple(looked), tuple(unread)), tuple(looked))


def _entries(document: Any) -> list[tuple[str, dict[str, str]]]:
    """The devices of a udev answer: path and properties."""
    entries = [(entry["sys"], entry["properties"]) for entry in document]
    if not all(isinstance(text, str) for sysfs, properties in entries for text in (sysfs, *properties, *properties.values())):
        raise ValueError("expected texts")
    return entries


def _place(subsystem: str) -> str:
    return f"/sys/bus/{subsystem}/devices" if subsystem in {"pci", "platform"} else f"/sys/class/{subsystem}"


def _sightings(
    device: Device, subsystem: str, sysfs: str, properties: dict[str, str], wanted: tuple[str, ...]
) -> Iterator[_Sighting | Missing]:
    """What one udev entry shows: a class device leads to its parent, a bus device is looked at itself."""
    if (subsystem == "pci" and _pci_counts(properties, f"pci:{properties['PCI_SLOT_NAME']}" in wanted)) or (
        subsystem == "platform" and _platform_counts(properties, f"of:{properties.get('OF_FULLNAME')}" in wanted)
    ):
        node = _vfio_node(device, sysfs) if is_vfio(properties.get("DRIVER", "")) else None
        yield _Sighting(sysfs, _place(subsystem), node if isinstance(node, Node) else None)
        if isinstance(node, Missing):
            yield node
    elif subsystem in _KINDS and _class_counts(subsystem, properties.get("DEVNAME", "")):
        parent = device.stat(f"{sysfs}/device")
        if isinstance(parent, Missing):
            yield parent
        elif parent.value.real not in _SOFTWARE:
            node = _node(
                device,
                f"/dev/{properties['DEVNAME']}",
                _KINDS[subsystem],
                int(properties["MAJOR"]),
                int(properties["MINOR"]),
            )
            yield _Sighting(parent.value.real, _place(subsystem), node)


def _class_counts(subsystem: str, node: str) -> bool:
    """Whether a class device is an accelerator's: of DRM only the render nodes (`card0` may be a mere display)."""
    if subsystem == "drm":
        return node.startswith("dri/renderD")
    return subsystem == "accel" or FAMILIES.by_node(subsystem, node) is not None


def _pci_counts(properties: dict[str, str], asked_for: bool) -> bool:
    base_class = properties["PCI_CLASS"].zfill(6)[:2].lower()
    vfio = is_vfio(properties.get("DRIVER", "")) and base_class not in _OTHER_CLASSES
    known = FAMILIES.by_pci(properties.get("PCI_ID", ""))
    return asked_for or vfio or known is not None or base_class == ACCELERATOR_CLASS


def _platform_counts(properties: dict[str, str], asked_for: bool) -> bool:
    driver = properties.get("DRIVER", "")
    compatible = [value for key, value in properties.items() if key.startswith("OF_COMPATIBLE_") and key != "OF_COMPATIBLE_N"]
    known = FAMILIES.by_compatible(*compatible) or FAMILIES.by_driver(driver)
    return asked_for or known is not None or is_vfio(driver)


def _node(device: Device, path: str, kind: str, major: int, minor: int) -> Node:
    found = parse(device.stat(path), lambda each: _is_node(each, major, minor))
    return Node(
        path,
        kind,
        major,
        minor,
        parse(found, lambda each: each.mode),
        parse(found, lambda each: each.uid),
        parse(found, lambda each: each.gid),
    )


def _is_node(found: FileStat, major: int, minor: int) -> FileStat:
    if found.kind != "character":
        raise ValueError(f"expected a character device, found a {found.kind}")
    if (found.major, found.minor) != (major, minor):
        raise ValueError(f"expected the device {major}:{minor}, found {found.major}:{found.minor}")
    return found


def _vfio_node(device: Device, sysfs: str) -> Node | Missing | None:
    """The group's node in /dev/vfio; None where the device is in no group, or /dev/vfio can be listed and has none for it."""
    group = device.link_name(f"{sysfs}/iommu_group")
    if isinstance(group, Missing):
        return None if group.status is Status.ABSENT else group
    for path in (f"/dev/vfio/{group.value}", f"/dev/vfio/noiommu-{group.value}"):
        found = device.stat(path)
        if isinstance(found, Ok):
            return _node(device, path, "vfio", found.value.major, found.value.minor)
        if found.status is not Status.ABSENT:
            return found
    listed = device.names("/dev/vfio")
    return listed if isinstance(listed, Missing) else None


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a device is called: a PCI address or a device tree path outlives a boot, an index does not. `home` is its bus device's path."""

    sysfs: str
    home: str
    bus: str
    subject: str
    properties: dict[str, str]


def _identity(device: Device, sysfs: str) -> _Identity | Missing:
    """What a device is called; Missing where it cannot be told, since another name would be another subject."""
    uevent = device.text(f"{sysfs}/uevent")
    if isinstance(uevent, Missing):
        return uevent
    properties = dict(line.split("=", 1) for line in uevent.value.split("\n") if "=" in line)
    parent, _, name = sysfs.rpartition("/")
    address = parent.rpartition("/")[2]
    if "PCI_SLOT_NAME" in properties:
        function = _function(device, sysfs)
        if isinstance(function, Missing):
            return function
        return _Identity(function.value, sysfs, "pci", f"pci:{properties['PCI_SLOT_NAME']}", properties)
    if "OF_FULLNAME" in properties:
        return _Identity(sysfs, sysfs, "platform", f"of:{properties['OF_FULLNAME']}", properties)
    if name.startswith("virtio") and address.count(":") == 2:  # a virtio device is the PCI function that carries it
        return _Identity(sysfs, parent, "pci", f"pci:{printable(address)}", properties)
    return _Identity(sysfs, sysfs, "platform", f"platform:{printable(name)}", properties)


def _function(device: Device, sysfs: str) -> Fact[str]:
    """The path of the device that a driver for the work is bound to: below a virtio transport, the virtio device that it carries."""
    driver = device.link_name(f"{sysfs}/driver")
    if isinstance(driver, Missing) or driver.value != "virtio-pci":
        return Ok(sysfs)
    return parse(device.names(sysfs), lambda names: next((f"{sysfs}/{name}" for name in names if name.startswith("virtio")), sysfs))


def _accelerator(device: Device, kernel: Kernel, identity: _Identity, seen: list[_Sighting]) -> Accelerator:
    driver = device.link_name(f"{identity.sysfs}/driver")
    nodes = {sighting.node.path: sighting.node for sighting in seen if sighting.node}
    return Accelerator(
        subject=identity.subject,
        bus=identity.bus,
        sysfs=identity.sysfs,
        found_in=tuple(sorted({sighting.place for sighting in seen})),
        ids=_ids(identity.bus, identity.properties),
        modalias=identity.properties.get("MODALIAS", ""),
        nodes=tuple(nodes[path] for path in sorted(nodes)),
        driver=driver,
        module=read_module(device, kernel, identity.sysfs, driver),
        group=read_group(device, identity.home),
    )


def _ids(bus: str, properties: dict[str, str]) -> dict[str, str]:
    if bus == "pci" and ":" in properties.get("PCI_ID", ""):
        vendor, found = properties["PCI_ID"].lower().split(":", 1)
        return {"vendor": vendor, "device": found, "class": properties.get("PCI_CLASS", "").zfill(6).lower()}
    compatible = properties.get("OF_COMPATIBLE_0")
    return {"compatible": compatible} if compatible else {}
