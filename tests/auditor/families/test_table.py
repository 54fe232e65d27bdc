"""The table of families: what it refuses, and how an entry is found."""

from __future__ import annotations

import dataclasses
import struct
import zipfile
from io import BytesIO

import pytest

from auditor.families import FAMILIES, Allocation, Family, Loader, NodeName, Table, Upstream, Work, is_vfio
from auditor.sources.ssh import agent_zip

NPU = Family("npu", "an NPU", "a datasheet", modules=("npu",), drivers=("npu",), pci=("1234:5678",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": ""}, "a source"),
        ({"modules": ("intel-npu",)}, "_ for -"),
        ({"upstream": Upstream(("drivers/accel/npu",), ("pci:v1234",)), "elsewhere": "a vendor's"}, "mutually exclusive"),
        ({"modules": (), "drivers": ()}, "expected drivers"),
        ({"pci": ("1234:*",)}, "vendor:device"),
        ({"usb": ("18D1:9302",)}, "lower-case"),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(NPU, **changes)


@pytest.mark.parametrize(
    "changes", [{}, {"name": "other"}, {"name": "other", "drivers": ()}, {"name": "other", "drivers": (), "modules": ("x",)}]
)
def test_two_entries_for_one_device_are_refused(changes):
    with pytest.raises(ValueError, match="two families have it"):
        Table((NPU, dataclasses.replace(NPU, **changes)))


def test_an_entry_is_found_by_whatever_the_kernel_shows():
    assert FAMILIES.by_driver("etnaviv-gpu") is FAMILIES.by_module("etnaviv") is FAMILIES.by_compatible("vivante,gc")
    assert FAMILIES.by_driver("qcom,fastrpc-cb") is FAMILIES.by_node("misc", "fastrpc-cdsp-secure") is FAMILIES.by_channel("qcom,fastrpc")
    assert FAMILIES.by_pci("8086:7D1D") is FAMILIES.by_drm_name("intel_vpu") is FAMILIES.by_module("intel_vpu")
    assert FAMILIES.by_drm_name("amdxdna_accel_driver") is FAMILIES.by_pci("1022:17f0")
    assert FAMILIES.by_usb("18D1:9302") is FAMILIES.by_usb("1a6e:089a")
    assert FAMILIES.by_compatible("vendor,board", "arm,ethos-u65").name == "ethos-u"


@pytest.mark.parametrize("text", ["", "mediatek,mt8195", "vendor,npu"])
def test_what_no_entry_has_is_nobodys(text):
    found = (FAMILIES.by_driver(text), FAMILIES.by_compatible(text), FAMILIES.by_node("misc", text), FAMILIES.by_channel(text))
    assert found == (None, None, None, None)


def test_every_variant_of_vfio_is_vfio():
    assert is_vfio("vfio-pci")
    assert is_vfio("nvgrace_gpu_vfio_pci")
    assert is_vfio("xe-vfio-pci")
    assert not is_vfio("intel_vpu")
    assert not is_vfio("")


def test_a_family_counts_as_upstream_or_says_why_not():
    unexplained = [each.name for each in FAMILIES.families if not each.upstream and not each.elsewhere and each.modules]
    assert unexplained == ["edu"]


def test_what_has_no_kernel_driver_has_no_upstream():
    assert {each.name for each in FAMILIES.families if not each.modules} == {each.name for each in FAMILIES.families if each.usb}


@pytest.mark.parametrize("family", [each for each in FAMILIES.families if each.allocation], ids=lambda each: each.name)
def test_a_command_has_the_size_of_its_structure(family):
    assert family.allocation.request >> 16 & 0x3FFF == struct.calcsize(family.allocation.layout)


def test_only_the_whole_devices_evidence_takes_an_empty_device():
    assert [each for each in Work if each.whole_device] == [Work.BUSY_TIME]


def test_the_table_goes_to_the_device():
    with zipfile.ZipFile(BytesIO(agent_zip())) as archive:
        assert {"auditor/families/table.py", "auditor/families/family.py"} <= set(archive.namelist())


def test_an_allocation_names_where_its_handle_is():
    how = Allocation("h", "M", "s", 0, "=QII", (("size", 1), ("flags", 0), ("bo_handle", 0)))
    assert how.handle == 2


def test_a_shared_node_is_all_devices():
    assert NodeName("kfd", "kfd", shared=True) in FAMILIES.by_module("amdgpu").nodes
    assert FAMILIES.by_module("rocket").firmware is Loader.NONE
