"""IOMMU groups and units, from sysfs (Documentation/ABI/testing/sysfs-kernel-iommu_groups)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.facts.absence import is_listed
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Fact, GroupMate, Iommu, IommuGroup, Missing, Ok, ReservedRegion
from auditor.model import Status, printable

if TYPE_CHECKING:
    from auditor.facts.reading import Device

BRIDGE_CLASS = 0x0604
"""PCI-to-PCI bridge: base class and subclass (PCI Code and ID Assignment Specification)."""

NO_IOMMU_NAME = "vfio-noiommu"
"""How VFIO names a group that it makes up in its unsafe no-IOMMU mode (drivers/vfio/group.c, vfio_noiommu_group_alloc)."""

_GROUPS = "/sys/kernel/iommu_groups"
_VFIO = "/sys/module/vfio"
_ALWAYS_A_MODULE = "kernel"
"""/sys/module/kernel holds the parameters of the kernel itself, so every complete /sys/module names it (kernel/params.c, core_param)."""


def read_iommu(device: Device) -> Iommu:
    """The system's IOMMU units and groups, and whether VFIO may do without one."""
    groups = device.names(_GROUPS)
    none = not groups.value if isinstance(groups, Ok) else groups.status is Status.ABSENT
    return Iommu(
        units=device.names("/sys/class/iommu"),
        groups=groups,
        hypervisor=device.line("/sys/hypervisor/type") if none else Missing(Status.ABSENT),
        unsafe_noiommu=_unsafe_noiommu(device),
    )


def read_group(device: Device, sysfs: str) -> Fact[IommuGroup]:
    """The IOMMU group of the device at a sysfs path; Missing(ABSENT) where there is no link to one."""
    number = device.link_name(f"{sysfs}/iommu_group")
    if isinstance(number, Missing):
        return number
    folder = f"{_GROUPS}/{number.value}"
    own = sysfs.rpartition("/")[2]
    members = device.names(f"{folder}/devices")
    return Ok(
        IommuGroup(
            number=number.value,
            no_iommu=_no_iommu(device, folder),
            type=device.text(f"{folder}/type"),
            reserved=parse(device.text(f"{folder}/reserved_regions"), _regions),
            mates=parse(members, lambda names: _mates(device, folder, names, own)),
        ),
        number.evidence,
    )


def _unsafe_noiommu(device: Device) -> Fact[bool]:
    """The switch; false where VFIO is loaded and has no such parameter, or where a complete list of modules does not name VFIO."""
    switch = device.switch(f"{_VFIO}/parameters/enable_unsafe_noiommu_mode")
    if isinstance(switch, Ok) or switch.status is not Status.ABSENT:
        return switch
    loaded = device.names(_VFIO)
    if isinstance(loaded, Ok):
        return Ok(False, all_of(switch, loaded))
    modules = device.names("/sys/module")
    if loaded.status is Status.ABSENT and isinstance(modules, Ok) and _ALWAYS_A_MODULE in modules.value and "vfio" not in modules.value:
        return Ok(False, all_of(switch, loaded, modules))
    return switch


def _no_iommu(device: Device, folder: str) -> Fact[bool]:
    """Only a group that was given a name has the file."""
    name = device.text(f"{folder}/name")
    if isinstance(name, Missing) and name.status is Status.ABSENT:
        named = is_listed(device, f"{folder}/name")
        return Ok(False, all_of(name, named)) if isinstance(named, Ok) and not named.value else name
    return parse(name, lambda text: text == NO_IOMMU_NAME)


def _regions(text: str) -> tuple[ReservedRegion, ...]:
    """Lines of `start end kind`, in hexadecimal."""
    lines = (line.split() for line in text.splitlines() if line.strip())
    return tuple(ReservedRegion(int(start, 16), int(end, 16), printable(kind)) for start, end, kind in lines)


def _mates(device: Device, folder: str, names: tuple[str, ...], own: str) -> tuple[GroupMate, ...]:
    """The group's other devices; the list must hold the device itself, or it is not this group's."""
    if own not in names:
        raise ValueError("the group's device list does not name this device")
    return tuple(
        GroupMate(
            subject=_subject(name),
            driver=device.link_name(f"{folder}/devices/{name}/driver"),
            is_bridge=_is_bridge(device, folder, name),
        )
        for name in names
        if name != own
    )


def _subject(name: str) -> str:
    return f"{'pci' if name.count(':') == 2 else 'platform'}:{printable(name)}"


def _is_bridge(device: Device, folder: str, name: str) -> Fact[bool]:
    if not _subject(name).startswith("pci:"):
        return Ok(False)
    return parse(device.number(f"{folder}/devices/{name}/class", 16), lambda number: number >> 8 == BRIDGE_CLASS)
