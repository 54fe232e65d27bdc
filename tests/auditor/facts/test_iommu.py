"""IOMMU groups as sysfs shows them, from a tree of files; hostile files give Missing, never an exception."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.iommu import read_group, read_iommu
from auditor.facts.reading import Device
from auditor.facts.types import Missing, Ok, ReservedRegion
from auditor.model import Status
from auditor.sources import base
from auditor.sources.base import Question, Reply
from auditor.sources.filesystem import Tree

if TYPE_CHECKING:
    from pathlib import Path

NPU = "/sys/devices/pci0000:00/0000:00:0b.0"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An accelerator behind a bridge, in a group with it and with a device of a device tree."""
    group = tmp_path / "sys/kernel/iommu_groups/7"
    (group / "devices").mkdir(parents=True)
    (group / "type").write_text("DMA-FQ\n")
    (group / "reserved_regions").write_text("0x00000000fee00000 0x00000000feefffff msi\n")
    for name, pci_class in (("pci0000:00/0000:00:0b.0", "0x120000"), ("pci0000:00/0000:00:01.0", "0x060400"), ("fd00.dma", None)):
        device = tmp_path / "sys/devices" / name
        device.mkdir(parents=True)
        if pci_class:
            (device / "class").write_text(f"{pci_class}\n")
        (group / "devices" / device.name).symlink_to(f"../../../../devices/{name}")
    (tmp_path / NPU[1:] / "iommu_group").symlink_to("../../../kernel/iommu_groups/7")
    (tmp_path / "sys/devices/pci0000:00/0000:00:01.0/driver").symlink_to("../../../bus/pci/drivers/pcieport")
    return tmp_path


def test_a_group_is_read_with_what_shares_it(tree: Path) -> None:
    group = read_group(Device(Tree(str(tree))), NPU).open()
    assert (group.number, group.type.open(), group.no_iommu.open()) == ("7", "DMA-FQ", False)
    assert group.reserved.open() == (ReservedRegion(0xFEE00000, 0xFEEFFFFF, "msi"),)
    mates = {mate.subject: (mate.is_bridge.open(), mate.driver.status) for mate in group.mates.open()}
    assert mates == {"pci:0000:00:01.0": (True, Status.OK), "platform:fd00.dma": (False, Status.ABSENT)}


def test_a_device_without_a_link_is_absent_from_every_group(tree: Path) -> None:
    os.remove(tree / NPU[1:] / "iommu_group")
    assert read_group(Device(Tree(str(tree))), NPU).status is Status.ABSENT
    assert read_iommu(Device(Tree(str(tree)))).groups.open() == ("7",)


def test_a_group_that_does_not_name_the_device_is_not_its_own(tree: Path) -> None:
    os.remove(tree / "sys/kernel/iommu_groups/7/devices/0000:00:0b.0")
    group = read_group(Device(Tree(str(tree))), NPU).open()
    assert group.mates.status is Status.FAILED
    assert group.type.open() == "DMA-FQ"


def test_a_link_that_dangles_has_nothing_behind_it(tree: Path) -> None:
    link = tree / NPU[1:] / "iommu_group"
    link.unlink()
    link.symlink_to("../../../kernel/iommu_groups/8")
    group = read_group(Device(Tree(str(tree))), NPU).open()
    assert {group.type.status, group.no_iommu.status, group.reserved.status, group.mates.status} == {Status.ABSENT}


def test_an_empty_tree_says_nothing_of_iommus(tmp_path: Path) -> None:
    found = read_iommu(Device(Tree(str(tmp_path))))
    assert {found.units.status, found.groups.status, found.unsafe_noiommu.status} == {Status.ABSENT}


class Scripted:
    """A source that answers everything with the same bytes."""

    kind = name = "scripted"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def ask(self, question: Question) -> Reply:
        return Reply(Status.OK, self._data if question.kind != "list" else self._data + b"\0")


@given(st.binary(max_size=80) | st.sampled_from([b"0x0 0x1 direct", b"0x" + b"f" * 60 + b" 0 x", b"\xff\0", b"Y", b"0x060400"]))
def test_no_content_has_another_end(data: bytes) -> None:
    device = Device(Scripted(data))
    group = read_group(device, NPU)
    if isinstance(group, Missing):  # a link without a name, or with a zero byte
        assert (group.status, not data.strip(b"/") or b"\0" in data) == (Status.FAILED, True)
        return
    for fact in (group.value.type, group.value.reserved, group.value.mates, group.value.no_iommu, read_iommu(device).unsafe_noiommu):
        assert isinstance(fact, Ok) or fact.status is Status.FAILED
    assert not isinstance(device.ask(base.names("/")), Missing)
