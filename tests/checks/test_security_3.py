"""security-3: what an IOMMU group, the kernel's parameters and VFIO's switch say, each passing, failing and unreadable."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from auditor.facts.types import Listing, Node, Ok
from auditor.model import Outcome, Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from checks import security_3
from fixtures.devices import ABSENT, DENIED, FAULT, absent, answered, denied, linked, names, recorded, text, vfio_probed, where
from fixtures.judging import collected, judged
from fixtures.laptop import NPU as LAPTOP_NPU
from fixtures.laptop import SYSFS as LAPTOP_SYSFS
from fixtures.laptop import passed_through

if TYPE_CHECKING:
    from auditor.sources.recording import Record

NPU = "pci:0000:00:05.0"
SYSFS = "/sys/devices/pci0000:00/0000:00:05.0"
GROUPS = "/sys/kernel/iommu_groups"
GROUP = f"{GROUPS}/{recorded().answers[base.link(f'{SYSFS}/iommu_group')].data.decode().rpartition('/')[2]}"


def outcome(record: Record, check, subject: str = NPU) -> Outcome:
    return judged(record, check)[subject].outcome


def mate(record: Record, name: str, pci_class: str | None, driver: str = "") -> Record:
    """The record with another device in the accelerator's group; None for a class that may not be read."""
    listed = [each.decode() for each in record.answers[base.names(f"{GROUP}/devices")].data.split(b"\0")[:-1]]
    record = names(record, f"{GROUP}/devices", *listed, name)
    path = f"{GROUP}/devices/{name}"
    record = linked(record, f"{path}/driver", f"../{driver}") if driver else answered(record, {base.link(f"{path}/driver"): ABSENT})
    return answered(record, {base.read(f"{path}/class"): DENIED}) if pci_class is None else text(record, f"{path}/class", pci_class)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("DMA\n", Outcome.PASS),
        ("DMA-FQ\n", Outcome.PASS),
        ("identity\n", Outcome.FAIL),
        ("blocked\n", Outcome.UNKNOWN),
        ("auto\n", Outcome.UNKNOWN),
        ("DMA DMA-FQ\n", Outcome.UNKNOWN),
        ("", Outcome.UNKNOWN),
    ],
)
def test_the_domain_type_decides(kind: str, expected: Outcome) -> None:
    assert outcome(text(recorded(), f"{GROUP}/type", kind), security_3.domain) is expected


def test_a_device_in_no_group_fails_only_where_the_groups_could_be_listed() -> None:
    alone = absent(recorded(), f"{SYSFS}/iommu_group")
    assert outcome(alone, security_3.domain) is Outcome.FAIL
    known = recorded().answers[base.names(GROUPS)].data.count(b"\0")
    assert judged(alone, security_3.domain)[NPU].observed == f"in no IOMMU group; the kernel has {known}"
    assert outcome(names(alone, GROUPS), security_3.domain) is Outcome.UNKNOWN  # whether a hypervisor is below was not asked
    bare = answered(alone, {base.read("/sys/hypervisor/type"): ABSENT})
    none = judged(names(names(bare, GROUPS), "/sys/class/iommu"), security_3.domain)[NPU]
    assert (none.outcome, none.observed) == (Outcome.FAIL, "in no IOMMU group; the kernel has none at all")
    for unreadable in (denied(alone, GROUPS), absent(alone, GROUPS)):
        assert outcome(unreadable, security_3.domain) is Outcome.UNKNOWN


def test_a_device_in_no_group_is_unknown_before_a_driver_is_bound() -> None:
    """On Arm a device is in no group until then (the virtual device arm64.no-driver); without any IOMMU it never will be."""
    alone = absent(absent(recorded(), f"{SYSFS}/iommu_group"), f"{SYSFS}/driver")
    alone = answered(alone, {base.read("/sys/hypervisor/type"): ABSENT})
    found = judged(alone, security_3.domain)[NPU]
    assert (found.outcome, found.remedy) == (Outcome.UNKNOWN, Remedy.DRIVER)
    assert found.observed.startswith("in no IOMMU group, and no driver is bound; the kernel has ")
    first = names(alone, GROUPS)
    assert judged(first, security_3.domain)[NPU].observed == "in no IOMMU group, and no driver is bound; the kernel has none yet"
    for without in (names(first, "/sys/class/iommu"), absent(first, "/sys/class/iommu")):
        assert outcome(without, security_3.domain) is Outcome.FAIL
    assert outcome(denied(absent(recorded(), f"{SYSFS}/iommu_group"), f"{SYSFS}/driver"), security_3.domain) is Outcome.UNKNOWN


@pytest.mark.parametrize("path", [f"{SYSFS}/iommu_group", f"{GROUP}/type", f"{GROUP}/name", GROUP])
def test_a_domain_that_cannot_be_read_is_unknown(path: str) -> None:
    assert outcome(recorded(), security_3.domain) is Outcome.PASS
    assert outcome(where(recorded(), path, DENIED), security_3.domain) is Outcome.UNKNOWN


def test_a_group_that_vfio_made_up_is_no_iommu() -> None:
    made_up = text(text(recorded(), f"{GROUP}/name", "vfio-noiommu\n"), f"{GROUP}/type", "unknown\n")
    assert outcome(made_up, security_3.domain) is Outcome.FAIL
    named = text(recorded(), f"{GROUP}/name", "something else\n")
    assert outcome(named, security_3.domain) is Outcome.PASS


def test_a_node_of_the_no_iommu_mode_fails_where_the_domain_does_not_say_otherwise() -> None:
    for kind, expected in (("unknown", Outcome.FAIL), ("DMA", Outcome.PASS)):
        facts = collected(text(recorded(), f"{GROUP}/type", kind))
        (npu, *_) = facts.accelerators.open().items
        node = Node("/dev/vfio/noiommu-1", "vfio", 240, 0, Ok(0o600), Ok(0), Ok(0))
        bound = replace(facts, accelerators=Ok(Listing((replace(npu, nodes=(node,)),))))
        assert judged(bound, security_3.domain)[NPU].outcome is expected


def test_a_name_file_that_is_listed_and_not_there_is_unknown() -> None:
    assert outcome(names(recorded(), GROUP, "devices", "name", "type"), security_3.domain) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ("0x0 0xffff direct\n", Outcome.FAIL),
        ("0x0 0xffff direct-relaxable\n0xfee00000 0xfeefffff msi\n", Outcome.PASS),
        ("0x0 0xffff reserved\n", Outcome.PASS),
        ("0x0 0xffff\n", Outcome.UNKNOWN),
        ("zero one direct\n", Outcome.UNKNOWN),
    ],
)
def test_only_direct_regions_fail(regions: str, expected: Outcome) -> None:
    assert outcome(text(recorded(), f"{GROUP}/reserved_regions", regions), security_3.reserved) is expected


def test_group_mates_fail_and_bridges_do_not() -> None:
    bridge = mate(recorded(), "0000:00:01.0", "0x060400", "pcieport")
    found = judged(bridge, security_3.group)[NPU]
    assert (found.outcome, found.observed) == (Outcome.PASS, "alone in its group, behind the bridges pci:0000:00:01.0 (pcieport)")
    shared = mate(bridge, "0000:02:02.0", "0x00ff00", "virtio-pci")
    found = judged(shared, security_3.group)[NPU]
    assert (found.outcome, found.observed) == (Outcome.FAIL, "in one group with pci:0000:02:02.0 (virtio-pci)")
    platform = mate(recorded(), "fd000000.dma", "0x060400")
    assert outcome(platform, security_3.group) is Outcome.FAIL


def test_a_mate_that_may_be_a_bridge_decides_nothing() -> None:
    assert outcome(mate(recorded(), "0000:00:01.0", None), security_3.group) is Outcome.UNKNOWN
    assert outcome(mate(recorded(), "0000:00:01.0", "bridge"), security_3.group) is Outcome.UNKNOWN
    assert outcome(names(recorded(), f"{GROUP}/devices", "0000:00:06.0"), security_3.group) is Outcome.UNKNOWN
    certain = mate(mate(recorded(), "0000:00:01.0", None), "0000:00:02.0", "0x020000")
    assert outcome(certain, security_3.group) is Outcome.FAIL


@pytest.mark.parametrize(
    "parameter",
    [
        "iommu=pt", "iommu=off", "iommu=force,pt", "iommu.passthrough=1", "iommu.passthrough=Y", "iommu.passthrough=on", "iommu.strict=0",
        "iommu.strict=off", "intel_iommu=off", "intel_iommu=on,igfx_off", "amd_iommu=off",
        "intremap=no_x2apic_optout,nosid", "arm-smmu.disable_bypass=n",
        "vfio.enable_unsafe_noiommu_mode=true", "vfio_iommu_type1.allow_unsafe_interrupts=1", "pcie_acs_override=downstream",
    ],
)  # fmt: skip
def test_parameters_that_weaken_an_iommu_fail(parameter: str) -> None:
    found = judged(text(recorded(), "/proc/cmdline", f"quiet {parameter} panic=-1\n"), security_3.command_line)["kernel"]
    assert (found.outcome, found.observed) == (Outcome.FAIL, parameter)


@pytest.mark.parametrize(
    "parameter",
    [
        "iommu=nopt",
        "iommu.passthrough=0",
        "iommu.passthrough=off",
        "iommu.strict=1",
        "iommu.strict=on",
        "intel_iommu=on",
        "x=iommu=pt",
        "iommu",
    ],
)
def test_other_parameters_pass(parameter: str) -> None:
    assert outcome(text(recorded(), "/proc/cmdline", parameter), security_3.command_line, "kernel") is Outcome.PASS


def test_a_command_line_that_cannot_be_read_is_unknown() -> None:
    assert {each.outcome for each in judged(denied(recorded(), "/proc/cmdline"), security_3.command_line).values()} == {Outcome.UNKNOWN}


def test_units() -> None:
    assert outcome(recorded(), security_3.units, "kernel") is Outcome.PASS
    assert outcome(names(recorded(), "/sys/class/iommu"), security_3.units, "kernel") is Outcome.FAIL
    assert outcome(absent(recorded(), "/sys/class/iommu"), security_3.units, "device") is Outcome.UNKNOWN


SWITCH = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"


def test_the_unsafe_mode_of_vfio() -> None:
    assert outcome(recorded(), security_3.no_iommu_mode, "kernel") is Outcome.PASS  # VFIO is not loaded
    assert outcome(text(recorded(), SWITCH, "N\n"), security_3.no_iommu_mode, "kernel") is Outcome.PASS
    assert outcome(text(recorded(), SWITCH, "Y\n"), security_3.no_iommu_mode, "kernel") is Outcome.FAIL
    assert outcome(names(recorded(), "/sys/module/vfio", "refcnt"), security_3.no_iommu_mode, "kernel") is Outcome.PASS  # built without


@pytest.mark.parametrize(
    "unreadable",
    [
        text(recorded(), SWITCH, "perhaps\n"),
        denied(recorded(), SWITCH),
        denied(recorded(), "/sys/module/vfio"),
        denied(recorded(), "/sys/module"),
        names(recorded(), "/sys/module", "intel_vpu"),  # no kernel's own list: a part of a tree
        names(recorded(), "/sys/module", "kernel", "vfio"),
    ],
)
def test_a_switch_that_cannot_be_read_is_unknown(unreadable: Record) -> None:
    assert outcome(unreadable, security_3.no_iommu_mode, "device") is Outcome.UNKNOWN


def test_an_empty_tree_decides_nothing() -> None:
    empty = answered(recorded(), dict.fromkeys(recorded().answers, Reply(Status.UNASKED)))
    checks = (security_3.domain, security_3.reserved, security_3.group, security_3.command_line, security_3.units, security_3.isolation)
    for check in checks:
        assert {each.outcome for each in judged(empty, check).values()} == {Outcome.UNKNOWN}


ASKED = base.probe("vfio", "dma")
OTHER_FAULT = FAULT.replace("00:0b.0", "00:0c.0")


def test_a_device_that_was_stopped_is_shown_with_its_fault() -> None:
    found = judged(vfio_probed(), security_3.isolation)[LAPTOP_NPU]
    assert found.outcome is Outcome.PASS
    assert found.observed == f"mapped memory was read; where nothing is mapped, {'00' * 8} was read; {FAULT}"
    assert [each.excerpt for each in found.evidence if each.path == "probe:vfio"] == [FAULT]


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        ({"unmapped_read": "ff" * 8}, Outcome.PASS),
        ({"faults": [OTHER_FAULT, FAULT]}, Outcome.PASS),
        ({"unmapped": True, "unmapped_read": "0123456789abcdef"}, Outcome.FAIL),
        ({"unmapped": True, "unmapped_read": "0123456789abcdef", "faults": []}, Outcome.FAIL),
        # the first word of an SMMUv3 event: stream and kind
        ({"faults": [r"arm-smmu-v3 9050000.smmuv3: \x090x0000005800000010"]}, Outcome.PASS),
        ({"faults": [r"arm-smmu-v3 9050000.smmuv3: \x090x0000005900000010"]}, Outcome.UNKNOWN),
        ({"faults": [r"arm-smmu-v3 9050000.smmuv3: \x090x0000005800000004"]}, Outcome.UNKNOWN),
        ({"faults": [r"other 9050000.smmuv3: \x090x0000005800000010"]}, Outcome.UNKNOWN),
        ({"faults": []}, Outcome.UNKNOWN),
        ({"faults": [OTHER_FAULT]}, Outcome.UNKNOWN),
        ({"faults": [], "log_error": "EPERM"}, Outcome.UNKNOWN),
        ({"mapped": False}, Outcome.UNKNOWN),
        ({"mapped": False, "unmapped": True}, Outcome.UNKNOWN),
        ({"unmapped_read": "0123456789abcdef"}, Outcome.UNKNOWN),
        ({"unmapped_read": "00000000000000ff"}, Outcome.UNKNOWN),
        ({"unmapped": None, "unmapped_read": None}, Outcome.UNKNOWN),
        ({"unmapped_read": None}, Outcome.UNKNOWN),
        ({"error": "ETIMEDOUT"}, Outcome.UNKNOWN),
        ({"accelerator": "pci:0000:00:0c.0"}, Outcome.UNKNOWN),
        ({"mapped": 1}, Outcome.UNKNOWN),
    ],
)
def test_all_three_signs_are_needed(trial: dict[str, object], expected: Outcome) -> None:
    assert judged(vfio_probed(trial), security_3.isolation)[LAPTOP_NPU].outcome is expected


def test_what_was_not_tried_is_unknown_and_says_what_helps() -> None:
    not_asked = judged(passed_through(), security_3.isolation)[LAPTOP_NPU]
    assert (not_asked.outcome, not_asked.remedy) == (Outcome.UNKNOWN, Remedy.PROBES)
    assert not_asked.remediation.endswith("with --probe-dma.")
    refused = answered(vfio_probed(), {ASKED: DENIED})
    unrecorded = answered(vfio_probed(), {ASKED: Reply(Status.UNASKED)})
    unable = vfio_probed({"accelerator": "pci:0000:00:0c.0"}, viable=None, error="EACCES")
    for record, remedy in ((refused, Remedy.ROOT), (unrecorded, Remedy.PROBES), (unable, Remedy.ROOT)):
        found = judged(record, security_3.isolation)[LAPTOP_NPU]
        assert (found.outcome, found.remedy) == (Outcome.UNKNOWN, remedy)


def test_a_device_that_vfio_does_not_have_is_not_tried() -> None:
    found = judged(recorded(), security_3.isolation)[NPU]
    assert (found.outcome, found.observed) == (Outcome.NOT_APPLICABLE, "bound to edu_accel")
    assert judged(denied(vfio_probed(), f"{LAPTOP_SYSFS}/driver"), security_3.isolation)[LAPTOP_NPU].outcome is Outcome.UNKNOWN
