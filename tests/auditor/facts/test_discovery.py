"""Every accelerator of a machine is found with all its parts and nodes, and what is not recognised is named."""

from __future__ import annotations

import json

import pytest

from auditor.families import FAMILIES, others
from auditor.model import Level, Outcome, Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from checks.functional_1 import driver
from checks.security_1 import node_mode
from checks.security_3 import command_line, domain
from fixtures import trees
from fixtures.devices import DENIED, UNASKED, answered, where
from fixtures.judging import collected, judged
from fixtures.trees import Layout, built

NPU = "pci:0000:00:0b.0"


def listing(*makers):
    return collected(built(*makers)).accelerators.open()


def changed(make, change):
    """A maker's device, changed."""

    def both(layout):
        make(layout)
        change(layout)

    return both


@pytest.mark.parametrize("make", trees.EVERY, ids=lambda each: each.__name__)
def test_each_device_of_the_table_is_one_accelerator_and_nothing_is_left_over(make):
    found = listing(make)
    assert [each.what for each in found.unrecognised] == []
    assert [each.note for each in found.unread] == []
    (item,) = found.items
    assert item.family in {each.name for each in FAMILIES.families}
    assert item.nodes or make is trees.qaic


@pytest.mark.parametrize(
    ("make", "cores", "facades", "nodes"),
    [
        (trees.rocket, 3, ["platform:rknn"], ["/dev/accel/accel0"]),
        (trees.etnaviv, 3, ["platform:etnaviv"], ["/dev/dri/renderD128"]),
        (trees.adreno, 1, ["of:/soc@0/display-controller@ae01000"], ["/dev/dri/renderD128"]),
        (
            trees.amdgpu,
            1,
            ["platform:amdgpu_xcp.0", "platform:amdgpu_xcp.1"],
            ["/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/dri/renderD130", "/dev/kfd"],
        ),
        (trees.fastrpc, 2, [], ["/dev/fastrpc-cdsp", "/dev/fastrpc-cdsp-secure"]),
        (trees.apusys, 1, [], ["/dev/apusys"]),
        (trees.vfio, 1, [], ["/dev/vfio/1", "/dev/vfio/devices/vfio0"]),
        (trees.nvidia, 1, [], ["/dev/dri/renderD128", "/dev/nvidia0", "/dev/nvidiactl"]),
        (trees.coral_usb, 1, [], ["/dev/bus/usb/002/004"]),
    ],
)
def test_an_accelerator_is_the_set_of_its_parts(make, cores, facades, nodes):
    (item,) = listing(make).items
    subjects = [each.subject for each in item.cores or (item,)]
    assert len(subjects) == cores
    assert [*item.parts] == [*subjects, *facades]
    assert [each.path for each in item.nodes] == nodes


@pytest.mark.parametrize("make", [trees.rocket, trees.etnaviv, trees.adreno, trees.fastrpc, trees.amdgpu], ids=lambda each: each.__name__)
def test_no_facade_is_judged_and_every_core_is(make):
    record = built(make)
    (item,) = collected(record).accelerators.open().items
    cores = {each.subject for each in item.cores or (item,)}
    assert set(judged(record, domain)) == set(judged(record, driver)) == cores


def test_a_gpu_behind_a_translated_display_is_judged_by_its_own_group():
    def identity(layout):
        trees.adreno(layout, gpu="identity", display="DMA")
        layout.shares("of:/soc@0/display-controller@ae01000", "msm")  # asked, the driver has no page tables for each process

    found = judged(built(identity), domain)
    assert {subject: each.outcome for subject, each in found.items()} == {"of:/soc@0/gpu@3d00000": Outcome.FAIL}


def test_every_core_must_pass():
    def one_without(layout):
        trees.rocket(layout)
        number = layout.links["/sys/devices/platform/fdac0000.npu/iommu_group"].rpartition("/")[2]
        layout.contents[f"/sys/kernel/iommu_groups/{number}/type"] = "identity\n"

    found = judged(built(one_without), domain)
    assert [each.outcome for _, each in sorted(found.items())] == [Outcome.PASS, Outcome.FAIL, Outcome.PASS]


@pytest.mark.parametrize("make", [trees.rocket, trees.etnaviv, trees.adreno], ids=lambda each: each.__name__)
def test_a_facade_without_a_core_is_named_and_not_judged(make):
    def alone(layout):
        make(layout)
        cores = [path for path in layout.links if path.startswith("/sys/bus/platform/devices/") and path.endswith((".npu", ".gpu"))]
        for path in cores:
            del layout.links[path]

    found = listing(alone)
    assert found.items == ()
    (one,) = found.unrecognised
    assert "does no work itself" in one.what
    finding = judged(built(alone), domain)[one.subject]
    assert (finding.outcome, finding.remedy) == (Outcome.UNKNOWN, Remedy.WHAT_IT_IS)
    assert "--accelerator" not in finding.remediation


@pytest.mark.parametrize("hidden", ["driver", "driver/module"])
@pytest.mark.parametrize("reply", [DENIED, UNASKED], ids=["denied", "unasked"])
def test_what_may_be_a_facade_is_named_and_not_judged(hidden, reply):
    record = built(trees.adreno)
    (path,) = {each.path for each in record.answers if each.path.endswith(f"display-controller/{hidden}")}
    found = collected(where(record, path, reply)).accelerators.open()
    assert [each.subject for each in found.items] == ["of:/soc@0/gpu@3d00000"]
    assert [each.subject for each in found.unrecognised] == ["of:/soc@0/display-controller@ae01000"]


def test_a_device_that_only_takes_a_facades_name_is_an_accelerator_itself():
    def posing(layout):
        trees.rocket(layout)
        layout.platform("/sys/devices/platform/rknn.1", driver="vendor", group="identity")
        layout.member("accel", "accel1", "accel/accel1", (261, 1), "/sys/devices/platform/rknn.1")
        layout.module("vendor", "../updates", intree=False)

    assert judged(built(posing), domain)["platform:rknn.1"].outcome is Outcome.FAIL


# --- a good NPU beside something else ----------------------------------------------------------------------------------------------------


def vendor_chardev(layout):
    path = layout.pci("0000:03:00.0", "4242:0001", "118000", "vendornpu", group="identity")
    layout.member("vendor_npu", "vnpu0", "vnpu0", (240, 0), path, mode=0o666)


def loose_chardev(layout):
    layout.member("vendor_npu", "vnpu0", "vnpu0", (240, 0), mode=0o666)


def unclassed(layout):
    layout.contents["/proc/devices"] = str(layout.contents["/proc/devices"]).replace("226 drm", "240 vnpu\n226 drm")
    layout.contents["/sys/dev/char/1:3/uevent"] = ""
    layout.contents["/dev/vnpu0"] = ""
    layout.node("vnpu0", 240, 0, 0o666)


def coprocessor(layout):
    layout.pci("0000:03:00.0", "4242:0002", "0b4000", "vendornpu", group="identity")


def peripheral_behind_vfio(layout):
    path = layout.pci("0000:03:00.0", "4242:0003", "088000", "vfio-pci", "vfio_pci")
    layout.node(f"vfio/{layout.links[f'{path}/iommu_group'].rpartition('/')[2]}", 511, 0)


def signal_processing_behind_vfio(layout):
    path = layout.pci("0000:03:00.0", "4242:0003", "118000", "xe-vfio-pci", "xe_vfio_pci")
    layout.node(f"vfio/{layout.links[f'{path}/iommu_group'].rpartition('/')[2]}", 511, 0)


def channel(layout):
    layout.rpmsg(f"{trees.SOC}/remoteproc/rpmsg1", "vendor,npu", "vendor-npu", "vendor_npu", "vendor_npu")


def misc(layout):
    layout.member("misc", "npu_session", "npu_session", (10, 77), mode=0o666)


def on_a_bus(layout):
    path = "/sys/devices/platform/npubus/npu-0"
    layout.contents[f"{path}/uevent"] = "MAJOR=240\nMINOR=0\nDEVNAME=npu-0\n"
    layout.links["/sys/bus/npubus/devices/npu-0"] = path
    layout.node("npu-0", 240, 0)


STRANGERS = [
    (vendor_chardev, "pci:0000:03:00.0"),
    (loose_chardev, "node:/dev/vnpu0"),
    (unclassed, "node:/dev/vnpu0"),
    (coprocessor, "pci:0000:03:00.0"),
    (peripheral_behind_vfio, "pci:0000:03:00.0"),
    (signal_processing_behind_vfio, "pci:0000:03:00.0"),
    (channel, "of:/soc@0/remoteproc/rpmsg1"),
    (misc, "node:/dev/npu_session"),
    (on_a_bus, "node:/dev/npu-0"),
]


@pytest.mark.parametrize(("stranger", "subject"), STRANGERS, ids=[each.__name__ for each, _ in STRANGERS])
def test_what_is_not_recognised_is_named_and_leaves_must_checks_unknown(stranger, subject):
    record = built(trees.intel_npu, stranger)
    found = collected(record).accelerators.open()
    assert [each.subject for each in found.items] == [NPU]
    assert [each.subject for each in found.unrecognised] == [subject]
    for check in (domain, driver, node_mode):
        findings = judged(record, check)
        assert findings[NPU].outcome is Outcome.PASS
        assert findings[subject].outcome is Outcome.UNKNOWN
        assert f"--not-an-accelerator {subject}" in findings[subject].remediation


@pytest.mark.parametrize(("stranger", "subject"), STRANGERS, ids=[each.__name__ for each, _ in STRANGERS])
def test_a_person_says_what_it_is(stranger, subject):
    def planned(**changes):
        record = built(trees.intel_npu, stranger)
        plan = {**json.loads(record.answers[base.plan()].data), **changes}
        return collected(answered(record, {base.plan(): Reply(Status.OK, json.dumps(plan).encode())})).accelerators.open()

    none = planned(not_accelerators=[subject])
    assert ([each.subject for each in none.items], none.unrecognised) == ([NPU], ())
    (unsure,) = listing(trees.intel_npu, stranger).unrecognised
    if unsure.alone:
        layout = Layout()
        trees.intel_npu(layout)
        stranger(layout)
        layout.plan = type(layout.plan)(accelerators=(subject,))
        one = collected(layout.record()).accelerators.open()
        assert ([each.subject for each in one.items], one.unrecognised) == ([subject], ())


def test_a_bad_second_accelerator_is_judged():
    def beside(layout):
        trees.intel_npu(layout)
        trees.hailo(layout, group="identity", mode=0o666)

    record = built(beside)
    assert judged(record, domain)["pci:0000:02:00.0"].outcome is Outcome.FAIL
    assert judged(record, driver)["pci:0000:02:00.0"].outcome is Outcome.FAIL
    assert judged(record, node_mode)["pci:0000:02:00.0"].outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("make", "node"),
    [
        (lambda layout: trees.amdgpu(layout, kfd=0o666), "/dev/kfd 0666"),
        (lambda layout: trees.vfio(layout, mode=0o666), "/dev/vfio/devices/vfio0 0666"),
        (trees.nvidia, "/dev/nvidia0 0666"),
    ],
)
def test_every_node_of_an_accelerator_counts(make, node):
    (finding,) = judged(built(make), node_mode).values()
    assert (finding.outcome, node in finding.observed) == (Outcome.FAIL, True)


def test_a_node_of_a_family_without_its_device_is_named():
    def compute_only(layout):
        layout.member("kfd", "kfd", "kfd", (238, 0))

    (one,) = listing(trees.intel_npu, compute_only).unrecognised
    assert (one.subject, one.alone) == ("node:/dev/kfd", False)


def test_only_must_checks_are_left_unknown():
    assert command_line.level is Level.SHOULD
    assert "pci:0000:03:00.0" not in judged(built(trees.intel_npu, coprocessor), command_line)


# --- what is no accelerator --------------------------------------------------------------------------------------------------------------


def plain_laptop(layout):
    """What every machine has, and what some have: storage, network, sound, cryptography, cameras, a service processor."""
    for number, (kind, name) in enumerate(
        [("010802", "nvme"), ("020000", "e1000e"), ("028000", "iwlwifi"), ("040380", "snd_hda"), ("0c0330", "xhci_hcd"), ("0b4000", "4xxx"),
         ("118000", "proc_thermal_pci"), ("088000", "intel_vsec"), ("108000", "ccp"), ("060400", "pcieport"), ("010802", "vfio-pci")]
    ):  # fmt: skip
        layout.pci(f"0000:00:{number + 3:02x}.0", f"8086:{number + 1:04x}", kind, name)
    for subsystem, name, node in [
        ("video4linux", "video0", "video0"), ("sound", "controlC0", "snd/controlC0"), ("tty", "ttyS0", "ttyS0"), ("rtc", "rtc0", "rtc0"),
        ("misc", "kvm", "kvm"), ("misc", "uinput", "uinput"), ("misc", "device-mapper", "mapper/control"), ("tpm", "tpm0", "tpm0"),
        ("drm", "card0", "dri/card0"), ("input", "event0", "input/event0"), ("hidraw", "hidraw0", "hidraw0"), ("nvme", "nvme0", "nvme0"),
        ("mei", "mei0", "mei0"), ("vfio", "vfio", "vfio/vfio"), ("uacce", "hisi_zip-0", "hisi_zip-0"),
    ]:  # fmt: skip
        layout.member(subsystem, name, node, (240, 0), f"/sys/devices/platform/{name}")
    layout.rpmsg(f"{trees.SOC}/remoteproc/adsp", "qcom,apr-v2", "apr_audio_svc", "qcom,apr", "apr")
    layout.platform("/sys/devices/platform/vgem", driver="vgem")
    layout.member("drm", "renderD129", "dri/renderD129", (226, 129), "/sys/devices/platform/vgem")


def test_on_an_ordinary_machine_nothing_is_unrecognised():
    found = listing(plain_laptop)
    assert (found.items, found.unrecognised, found.unread) == ((), (), ())


def test_what_is_known_to_be_none_is_none_of_the_families():
    classes = {"accel", "drm", *FAMILIES.node_classes()}
    assert not classes & others.CLASSES
    assert not {each for family in FAMILIES.families for each in family.drivers} & others.DRIVERS


@pytest.mark.parametrize("place", ["/sys/class", "/sys/bus", "/proc/devices"])
def test_a_place_that_cannot_be_looked_at_leaves_it_unknown(place):
    record = built(trees.intel_npu)
    asked = [each for each in record.answers if each.path == place]
    assert asked
    found = judged(answered(record, dict.fromkeys(asked, DENIED)), domain)
    assert found[f"place:{place}"].outcome is Outcome.UNKNOWN


def test_a_machine_with_too_many_strangers_is_not_understood():
    def crowd(layout):
        for number in range(70):
            layout.pci(f"0000:{number + 16:02x}:00.0", "4242:0002", "0b4000", "vendornpu")

    found = listing(crowd)
    assert len(found.unrecognised) == 64
    assert "70 devices are not recognised" in found.unread[0].note
