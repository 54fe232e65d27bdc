"""Five real accelerators on a verified root, with recorded runs, are compliant; one broken fact each is one failure."""

from __future__ import annotations

import json

import pytest

from auditor.model import EXIT_CODES, Level, Outcome, Verdict
from auditor.sources.recording import pack
from fixtures import trees
from fixtures.device_table import audited_record
from fixtures.trees import DISPLAY, FIVE, Layout, laid_out


def undone(report) -> list[str]:
    return [
        f"{each.id}: {each.outcome.value}: {each.observed}"
        for result in report.requirements
        for each in result.findings
        if each.level is Level.MUST and result.level is Level.MUST and each.outcome not in {Outcome.PASS, Outcome.NOT_APPLICABLE}
    ]


@pytest.mark.parametrize("name", FIVE)
def test_a_real_accelerator_is_compliant(name, tmp_path):
    record = laid_out(name).record()
    report = audited_record(record)
    assert undone(report) == []
    assert report.verdict is Verdict.COMPLIANT
    assert EXIT_CODES[report.verdict] == 0


@pytest.mark.parametrize("name", ["adreno"])
def test_the_command_ends_in_0(name, tmp_path):
    from typer.testing import CliRunner

    from auditor.cli import app

    (tmp_path / "device.snapshot").write_bytes(pack(laid_out(name).record()))
    arguments = ["device", "--snapshot", str(tmp_path / "device.snapshot"), "--format", f"json={tmp_path / 'report.json'}"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "compliant"


def out_of_tree(layout: Layout) -> None:
    layout.module("i915", "../updates", intree=False)


def refuses_imports(layout: Layout) -> None:
    layout.shares("pci:0000:00:02.0", "xe", imported="EINVAL")


def open_to_all(layout: Layout) -> None:
    layout.node("accel/accel0", 261, 0, 0o666)


def unforced(layout: Layout) -> None:
    layout.contents["/sys/module/amdxdna/parameters/force_iova"] = "N\n"


def without_page_tables(layout: Layout) -> None:
    layout.shares(DISPLAY, "msm")


@pytest.mark.parametrize(
    ("name", "breaks", "requirement"),
    [
        ("i915", out_of_tree, "functional-1"),
        ("xe", refuses_imports, "functional-2"),
        ("ivpu", open_to_all, "security-1"),
        ("amdxdna", unforced, "security-3"),
        ("adreno", without_page_tables, "security-3"),
    ],
)
def test_one_broken_fact_is_one_failure(name, breaks, requirement):
    layout = laid_out(name)
    breaks(layout)
    report = audited_record(layout.record())
    assert report.verdict is Verdict.NON_COMPLIANT
    assert {each.id for each in report.requirements if each.outcome is Outcome.FAIL} == {requirement}


@pytest.mark.parametrize("beside", ["hailo", "kfd", "vfio", "chardev"])
def test_a_good_npu_beside_something_bad_is_never_compliant(beside):
    layout = laid_out("ivpu")
    if beside == "hailo":
        trees.hailo(layout, group="identity", mode=0o666)
        named = "pci:0000:02:00.0"
    elif beside == "kfd":
        trees.amdgpu(layout, partitions=0, kfd=0o666)
        named = "pci:0000:0a:00.0"
    elif beside == "vfio":
        path = layout.pci("0000:03:00.0", "4242:0001", "120000", "vfio-pci", "vfio_pci")
        layout.node(f"vfio/{layout.links[f'{path}/iommu_group'].rpartition('/')[2]}", 511, 0)
        layout.contents[f"{path}/vfio-dev/vfio0/uevent"] = ""
        layout.node("vfio/devices/vfio0", 510, 0, 0o666)
        layout.module("vfio_pci", "drivers/vfio/pci")
        layout.holder(700, "/usr/bin/vendor", "/dev/vfio/devices/vfio0", confined=False)
        named = "pci:0000:03:00.0"
    else:
        path = layout.pci("0000:04:00.0", "4242:0002", "ff0000", "vendor")
        layout.member("vendor_npu", "vnpu0", "vnpu0", (240, 0), path)
        named = "pci:0000:04:00.0"
    report = audited_record(layout.record())
    assert report.verdict is not Verdict.COMPLIANT
    assert any(named in line for line in undone(report))
