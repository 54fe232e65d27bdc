"""IOMMU groups and units, from sysfs (Documentation/ABI/testing/sysfs-kernel-iommu_groups)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.facts.reading import parse
from auditor.facts.types import Fact, GroupMate, Iommu, IommuGroup, Missing, Ok, ReservedRegion
from auditor.model import printable

if TYPE_CHECKING:
    from auditor.facts.reading import Device

BRIDGE_CLASS = 0x0604
"""PCI-to-PCI bridge: base class and subclass (PCI Code and ID Assignment Specification)."""


def read_iommu(device: Device) -> Iommu:
    """The system's IOMMU units, and whether VFIO may do without one."""
    return Iommu(
        units=device.names("/sys/class/iommu"),
        unsafe_noiommu=device.switch("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"),
    )


def read_group(device: Device, sysfs: str) -> Fact[IommuGroup]:
    """The IOMMU group of the device at a sysfs path; Missing(ABSENT) where the kernel put it in none."""
    number = device.link_name(f"{sysfs}/iommu_group")
    if isinstance(number, Missing):
        return number
    folder = f"/sys/kernel/iommu_groups/{number.value}"
    own = sysfs.rpartition("/")[2]
    members = device.names(f"{folder}/devices")
    return Ok(
        IommuGroup(
            number=number.value,
            type=device.text(f"{folder}/type"),
            reserved=parse(device.text(f"{folder}/reserved_regions"), _regions),
            mates=parse(members, lambda names: _mates(device, folder, names, own)),
        ),
        number.evidence,
    )


def _regions(text: str) -> tuple[ReservedRegion, ...]:
    """Lines of `start end kind`, in hexadecimal."""
    lines = (line.split() for line in text.splitlines() if line.strip())
    return tuple(ReservedRegion(int(start, 16), int(end, 16), kind) for start, end, kind in lines)


def _mates(device: Device, folder: str, names: tuple[str, ...], own: str) -> tuple[GroupMate, ...]:
    """The group's other devices; the list must hold the device itself, or it is not this group's."""
    if own not in names:
        raise ValueError("the group's device list does not name this device")
    return tuple(
        GroupMate(
            subject=f"pci:{name}" if name.count(":") == 2 else f"platform:{printable(name)}",
            driver=device.link_name(f"{folder}/devices/{name}/driver"),
            bridge=_is_bridge(device, f"{folder}/devices/{name}"),
        )
        for name in names
        if name != own
    )


def _is_bridge(device: Device, path: str) -> bool:
    number = device.number(f"{path}/class", 16)
    return isinstance(number, Ok) and number.value >> 8 == BRIDGE_CLASS
