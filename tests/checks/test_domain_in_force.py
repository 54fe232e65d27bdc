"""security-3 by what is in force: the default domain is not the only one that a driver may attach."""

from __future__ import annotations

import pytest

from auditor.model import Outcome
from auditor.sources import base
from checks.functional_1 import driver
from checks.security_3 import command_line, default_domain, domain
from fixtures import trees
from fixtures.devices import DENIED, answered, document, linked
from fixtures.judging import judged
from fixtures.trees import built

GPU = "of:/soc@0/gpu@3d00000"
XDNA = "pci:0000:c5:00.1"
NPU = "pci:0000:00:0b.0"
FORCED = "/sys/module/amdxdna/parameters/force_iova"


def probed(record, address_space):
    subject = "of:/soc@0/display-controller@ae01000"
    one = {"accelerator": subject, "driver": "msm", "claimed": 3, "exports": [], "imports": [], "note": "", "address_space": address_space}
    return document(record, base.probe("dma-buf"), {"schema": "crosml-audit/probe/1", "probe": "dma-buf", "accelerators": [one]})


def identity_gpu(layout):
    trees.adreno(layout, gpu="identity")


def only(record, check=domain):
    (finding,) = judged(record, check).values()
    return finding


def test_a_parameter_that_attaches_a_paging_domain():
    record = built(trees.amd_xdna)
    assert (only(record).subject, only(record).outcome) == (XDNA, Outcome.PASS)
    assert any(each.path == FORCED for each in only(record).evidence)


def test_without_it_identity_fails_with_advice_that_can_work():
    def unforced(layout):
        trees.amd_xdna(layout)
        layout.contents[FORCED] = "N\n"

    finding = only(built(unforced))
    assert (finding.outcome, "amdxdna.force_iova=1" in finding.remediation) == (Outcome.FAIL, True)


def test_a_parameter_that_may_not_be_read_decides_nothing():
    record = built(trees.amd_xdna)
    asked = [each for each in record.answers if each.path == FORCED]
    assert only(answered(record, dict.fromkeys(asked, DENIED))).outcome is Outcome.UNKNOWN


def test_an_older_driver_without_the_parameter_fails():
    def older(layout):
        trees.amd_xdna(layout)
        del layout.contents[FORCED]

    assert only(built(older)).outcome is Outcome.FAIL


@pytest.mark.parametrize(("size", "outcome"), [(1 << 48, Outcome.PASS), (None, Outcome.FAIL)])
def test_page_tables_for_each_process_are_what_the_driver_says(size, outcome):
    finding = only(probed(built(identity_gpu), size))
    assert (finding.subject, finding.outcome) == (GPU, outcome)
    if outcome is Outcome.FAIL:
        assert "adreno-smmu" in finding.remediation


def test_a_gpu_that_was_not_asked_is_unknown():
    assert only(built(identity_gpu)).outcome is Outcome.UNKNOWN


def test_a_translated_gpu_needs_no_such_proof():
    assert only(built(trees.adreno)).outcome is Outcome.PASS


@pytest.mark.parametrize(("name", "module"), [("vfio-pci", "vfio_pci"), ("nvgrace_gpu_vfio_pci", "nvgrace_gpu_vfio_pci")])
def test_vfio_attaches_a_domain_of_its_own(name, module):
    def passed_through(layout):
        trees.vfio(layout, driver=name, module=module)
        number = layout.links[f"/sys/devices/pci0000:00/{NPU.removeprefix('pci:')}/iommu_group"].rpartition("/")[2]
        layout.contents[f"/sys/kernel/iommu_groups/{number}/type"] = "identity\n"

    record = built(passed_through)
    assert only(record).outcome is Outcome.PASS
    assert only(record, default_domain).outcome is Outcome.FAIL
    assert only(record, driver).outcome is Outcome.PASS
    assert only(built(trees.vfio), default_domain).outcome is Outcome.PASS
    assert only(built(trees.intel_npu), default_domain).outcome is Outcome.NOT_APPLICABLE


def test_a_driver_that_merely_calls_itself_vfio_attaches_nothing():
    def posing(layout):
        trees.vfio(layout)
        place = f"/sys/devices/pci0000:00/{NPU.removeprefix('pci:')}"
        layout.contents[f"/sys/kernel/iommu_groups/{layout.links[f'{place}/iommu_group'].rpartition('/')[2]}/type"] = "identity\n"
        layout.links["/sys/bus/pci/drivers/vfio-pci/module"] = "/sys/module/vendor"
        layout.module("vendor", "drivers/misc")

    assert only(built(posing)).outcome is Outcome.UNKNOWN


def test_no_iommu_at_all_is_a_true_failure():
    assert [each.outcome for each in judged(built(trees.ethos_u), domain).values()] == [Outcome.FAIL]
    assert {each.outcome for each in judged(built(trees.etnaviv), domain).values()} == {Outcome.FAIL}


def test_below_a_hypervisor_that_owns_the_iommu_nothing_can_be_said():
    def guest(layout):
        trees.ethos_u(layout)
        del layout.contents["/sys/kernel/iommu_groups/.keep"]
        layout.contents["/sys/hypervisor/type"] = "xen\n"

    finding = only(built(guest))
    assert (finding.outcome, "xen" in finding.observed) == (Outcome.UNKNOWN, True)


@pytest.mark.parametrize(
    "parameter",
    [
        "arm-smmu-v3.disable_bypass=0",
        "iommufd.allow_unsafe_interrupts=1",
        "pci=nocrs,config_acs=10x@pci:0:0",
        "pci=disable_acs_redir=pci:1",
    ],
)
def test_more_parameters_that_weaken(parameter):
    def started(layout):
        trees.intel_npu(layout)
        layout.contents["/proc/cmdline"] = f"{layout.contents['/proc/cmdline']} {parameter}"

    assert only(built(started), command_line).outcome is Outcome.FAIL


def test_a_parameter_of_pci_that_weakens_nothing():
    def started(layout):
        trees.intel_npu(layout)
        layout.contents["/proc/cmdline"] = f"{layout.contents['/proc/cmdline']} pci=nocrs"

    assert only(built(started), command_line).outcome is Outcome.PASS


def test_an_accelerator_on_usb_is_neither_upstream_nor_vfio():
    record = built(trees.coral_usb)
    assert (only(record, driver).outcome, "libusb" in only(record, driver).observed) == (Outcome.FAIL, True)
    assert only(record).outcome is Outcome.PASS  # the controller that it hangs on is behind an IOMMU


def test_a_usb_accelerator_with_a_kernel_driver_is_judged_by_that():
    record = linked(built(trees.coral_usb), "/sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/driver", "/sys/bus/usb/drivers/apex")
    assert only(record, driver).outcome is Outcome.UNKNOWN
