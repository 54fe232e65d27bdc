"""Which devices are accelerators, from small trees: every place they may be in, and what must not hide one."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.accelerators import read_accelerators
from auditor.facts.reading import Device
from auditor.facts.types import Kernel, Missing, Ok
from auditor.model import Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder, Replay
from fixtures.facts import unknown

NPU = "pci:0000:00:05.0"
PCI = "/sys/devices/pci0000:00/0000:00:05.0"


class Machine:
    """A tree that looks like a device's; nodes are stated by the answers given, since only root makes them."""

    kind, name = "root", "machine"

    def __init__(self, root):
        self.root, self.given, self.tree = root, {}, Tree(str(root))

    def ask(self, question):
        return self.given.get(question) or self.tree.ask(question)

    def file(self, path, text=""):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode("utf-8", "surrogateescape"))

    def link(self, path, target):
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def device(self, path, **properties):
        self.file(f"{path}/uevent", "".join(f"{key}={value}\n" for key, value in properties.items()))
        return path

    def pci(self, path=PCI, base_class="120000", driver="npu", **properties):
        slot = path.rpartition("/")[2]
        if driver:
            properties["DRIVER"] = driver
            self.link(f"{path}/driver", f"/sys/bus/pci/drivers/{driver}")
        self.device(path, PCI_CLASS=base_class, PCI_ID="1234:11E8", PCI_SLOT_NAME=slot, MODALIAS="pci:v1234", **properties)
        self.link(f"/sys/bus/pci/devices/{slot}", path)
        return path

    def platform(self, path, **properties):
        self.device(path, **properties)
        self.link(f"/sys/bus/platform/devices/{path.rpartition('/')[2]}", path)
        if "DRIVER" in properties:
            self.link(f"{path}/driver", f"/sys/bus/platform/drivers/{properties['DRIVER']}")
        return path

    def member(self, subsystem, parent, name, node, **properties):
        """A class device below its parent, with its node."""
        path = f"{parent}/{subsystem}/{name}" if parent else f"/sys/devices/virtual/{subsystem}/{name}"
        self.device(path, MAJOR=261, MINOR=3, DEVNAME=node, **properties)
        self.link(f"/sys/class/{subsystem}/{name}", path)
        if parent:
            self.link(f"{path}/device", parent)
        self.node(f"/dev/{node}")

    def node(self, path, **changes):
        document = {
            "real": path,
            "kind": "character",
            "mode": 0o660,
            "uid": 0,
            "gid": 44,
            "size": 0,
            "blocks": 0,
            "dev": 5,
            "ino": 9,
            "major": 261,
            "minor": 3,
            **changes,
        }
        self.given[base.stat(path)] = Reply(Status.OK, json.dumps(document).encode())

    def read(self, *wanted):
        return read_accelerators(Device(self), unknown(Kernel), wanted).open()

    def only(self, *wanted):
        listing = self.read(*wanted)
        assert listing.unread == ()
        (item,) = listing.items
        return item


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def subjects(listing):
    return [item.subject for item in listing.items]


# --- where they are ----------------------------------------------------------------------------------------------------------------------


def test_a_device_of_the_accel_class(machine):
    machine.pci()
    machine.member("accel", PCI, "accel0", "accel/accel0")
    item = machine.only()
    assert (item.subject, item.bus, item.sysfs, item.modalias) == (NPU, "pci", PCI, "pci:v1234")
    assert item.ids == {"vendor": "1234", "device": "11e8", "class": "120000"}
    assert item.found_in == ("/sys/bus/pci/devices", "/sys/class/accel")
    assert item.driver.open() == "npu"
    assert item.group.status is Status.ABSENT
    (node,) = item.nodes
    assert (node.path, node.kind, node.major, node.minor) == ("/dev/accel/accel0", "accel", 261, 3)
    assert (node.mode.open(), node.uid.open(), node.gid.open()) == (0o660, 0, 44)


def test_a_gpu_with_a_render_node(machine):
    machine.pci(base_class="30000", driver="i915")
    machine.member("drm", PCI, "card0", "dri/card0")
    machine.member("drm", PCI, "renderD128", "dri/renderD128")
    item = machine.only()
    assert [(node.path, node.kind) for node in item.nodes] == [("/dev/dri/renderD128", "render")]
    assert item.ids["class"] == "030000"
    assert item.found_in == ("/sys/bus/pci/devices", "/sys/class/drm")


def test_a_display_alone_is_no_accelerator(machine):
    machine.pci(base_class="30000", driver="bochs")
    machine.member("drm", PCI, "card0", "dri/card0")
    machine.device(f"{PCI}/drm/card0/card0-HDMI-A-1", DEVTYPE="drm_connector")
    machine.link("/sys/class/drm/card0-HDMI-A-1", f"{PCI}/drm/card0/card0-HDMI-A-1")
    machine.file("/sys/class/drm/version", "drm 1.1.0")
    listing = machine.read()
    assert (listing.items, listing.unread) == ((), ())


def test_a_processing_accelerator_without_a_driver(machine):
    machine.pci(driver=None)
    item = machine.only()
    assert (item.subject, item.nodes) == (NPU, ())
    assert item.driver.status is Status.ABSENT


@pytest.mark.parametrize("base_class", ["20000", "c0330", "10802", "60400", "ff0000", "28000"])
def test_other_pci_devices_are_none(machine, base_class):
    machine.pci(base_class=base_class)
    assert machine.read().items == ()


@pytest.mark.parametrize("base_class", ["120000", "30200", "ff0000", "0b4000"])
def test_a_device_bound_to_vfio(machine, base_class):
    machine.pci(base_class=base_class, driver="vfio-pci")
    machine.link(f"{PCI}/iommu_group", "/sys/kernel/iommu_groups/7")
    machine.node("/dev/vfio/7", major=240, minor=0, mode=0o600)
    (node,) = machine.only().nodes
    assert (node.path, node.kind, node.major, node.minor, node.mode.open()) == ("/dev/vfio/7", "vfio", 240, 0, 0o600)


def test_a_group_without_an_iommu(machine):
    machine.pci(driver="vfio-pci")
    machine.link(f"{PCI}/iommu_group", "/sys/kernel/iommu_groups/0")
    machine.node("/dev/vfio/noiommu-0")
    assert [node.path for node in machine.only().nodes] == ["/dev/vfio/noiommu-0"]


def test_a_network_card_handed_to_a_guest_is_none(machine):
    machine.pci(base_class="20000", driver="vfio-pci")
    assert machine.read().items == ()


def test_a_vfio_device_in_no_group_has_no_node(machine):
    machine.pci(driver="vfio-pci")
    assert machine.only().nodes == ()


def test_a_vfio_node_that_is_known_not_to_be_there(machine):
    machine.pci(driver="vfio-pci")
    machine.link(f"{PCI}/iommu_group", "/sys/kernel/iommu_groups/7")
    machine.file("/dev/vfio/vfio")
    assert machine.only().nodes == ()


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        (base.link(f"{PCI}/iommu_group"), Reply(Status.DENIED, errno=13)),
        (base.link(f"{PCI}/iommu_group"), base.UNASKED),
        (base.stat("/dev/vfio/7"), Reply(Status.DENIED, errno=13)),
        (base.stat("/dev/vfio/noiommu-7"), base.UNASKED),
        (base.names("/dev/vfio"), Reply(Status.DENIED, errno=13)),
        (base.names("/dev/vfio"), Reply(Status.ABSENT, errno=2)),
    ],
)
def test_a_vfio_node_that_may_be_there_is_unread(machine, question, reply):
    machine.pci(driver="vfio-pci")
    machine.link(f"{PCI}/iommu_group", "/sys/kernel/iommu_groups/7")
    machine.file("/dev/vfio/vfio")
    machine.given[question] = reply
    listing = machine.read()
    assert subjects(listing) == [NPU]
    assert [each.status for each in listing.unread] == [reply.status]


@pytest.mark.parametrize(
    "properties",
    [
        {"OF_COMPATIBLE_0": "rockchip,rk3588-rknn-core"},
        {"OF_COMPATIBLE_0": "vendor,own", "OF_COMPATIBLE_1": "arm,ethos-u85", "OF_COMPATIBLE_N": "2"},
        {"OF_COMPATIBLE_0": "mediatek,mt8195-apusys"},
        {"OF_COMPATIBLE_0": "qcom,fastrpc-compute-cb"},
        {"OF_COMPATIBLE_0": "vendor,thing", "DRIVER": "rknpu"},
        {"OF_COMPATIBLE_0": "vendor,thing", "DRIVER": "vfio-platform"},
    ],
)
def test_a_device_of_the_device_tree(machine, properties):
    path = machine.platform("/sys/devices/platform/fdab0000.npu", OF_FULLNAME="/soc/npu@fdab0000", MODALIAS="of:Nnpu", **properties)
    item = machine.only()
    assert (item.subject, item.bus, item.sysfs) == ("of:/soc/npu@fdab0000", "platform", path)
    assert item.ids == {"compatible": properties["OF_COMPATIBLE_0"]}


@pytest.mark.parametrize(
    "properties", [{"OF_COMPATIBLE_0": "mediatek,mt8195-uart"}, {"OF_COMPATIBLE_0": "x"}, {"DRIVER": "serial8250"}, {}]
)
def test_other_platform_devices_are_none(machine, properties):
    machine.platform("/sys/devices/platform/x", OF_FULLNAME="/soc/x", **properties)
    assert machine.read().items == ()


def test_a_platform_device_without_a_device_tree(machine):
    machine.platform("/sys/devices/platform/galcore", DRIVER="galcore")
    item = machine.only()
    assert (item.subject, item.bus, item.ids) == ("platform:galcore", "platform", {})


@pytest.mark.parametrize("name", ["galcore", "rknpu", "apusys0", "fastrpc-adsp", "mali0"])
def test_a_character_device_outside_drm(machine, name):
    path = machine.device("/sys/devices/platform/npu", OF_FULLNAME="/soc/npu")
    machine.member("misc", path, name, name)
    assert [(node.path, node.kind) for node in machine.only().nodes] == [(f"/dev/{name}", "misc")]


def test_an_edge_tpu(machine):
    machine.pci(base_class="ff0000", driver="apex")
    machine.member("apex", PCI, "apex_0", "apex_0")
    assert [(node.path, node.kind) for node in machine.only().nodes] == [("/dev/apex_0", "misc")]


@pytest.mark.parametrize("name", ["fuse", "kvm", "vfio", "hw_random", "my-galcore"])
def test_other_misc_devices_are_none(machine, name):
    machine.member("misc", None, name, name)
    listing = machine.read()
    assert (listing.items, listing.unread) == ((), ())


@pytest.mark.parametrize("path", ["/sys/devices/platform/vgem", "/sys/devices/platform/vkms", "/sys/devices/faux/vgem"])
def test_drm_without_hardware_is_none(machine, path):
    machine.platform(path, DRIVER="vgem")
    machine.member("drm", path, "renderD129", "dri/renderD129")
    listing = machine.read()
    assert (listing.items, listing.unread) == ((), ())


def test_a_vendor_does_not_hide_by_a_name(machine):
    path = machine.device("/sys/devices/platform/soc/vgem", OF_FULLNAME="/soc/vgem")
    machine.member("drm", path, "renderD128", "dri/renderD128")
    assert machine.only().subject == "of:/soc/vgem"


# --- one device, seen in several places --------------------------------------------------------------------------------------------------


def test_a_device_seen_everywhere_is_one(machine):
    machine.pci(driver="npu")
    machine.member("drm", PCI, "renderD128", "dri/renderD128")
    machine.member("accel", PCI, "accel0", "accel/accel0")
    item = machine.only()
    assert [node.path for node in item.nodes] == ["/dev/accel/accel0", "/dev/dri/renderD128"]
    assert item.found_in == ("/sys/bus/pci/devices", "/sys/class/accel", "/sys/class/drm")


def virtio(machine):
    machine.pci(base_class="38000", driver="virtio-pci")
    child = machine.device(f"{PCI}/virtio3", DRIVER="virtio_gpu", MODALIAS="virtio:d00000010v00001AF4")
    machine.link(f"{child}/driver", "/sys/bus/virtio/drivers/virtio_gpu")
    return child


@pytest.mark.parametrize("wanted", [(), (NPU,)])
def test_a_virtio_device_is_the_function_that_carries_it(machine, wanted):
    child = virtio(machine)
    machine.member("drm", child, "renderD128", "dri/renderD128")
    item = machine.only(*wanted)
    assert (item.subject, item.bus, item.sysfs, item.driver.open()) == (NPU, "pci", child, "virtio_gpu")
    assert [node.path for node in item.nodes] == ["/dev/dri/renderD128"]


def test_a_virtio_transport_that_is_asked_for_leads_to_what_it_carries(machine):
    child = virtio(machine)
    assert machine.only(NPU).sysfs == child
    machine.given[base.names(PCI)] = Reply(Status.DENIED, errno=13)
    listing = machine.read(NPU)
    assert (listing.items, [each.status for each in listing.unread]) == ((), [Status.DENIED])


def test_a_virtio_transport_that_carries_nothing(machine):
    machine.pci(driver="virtio-pci")
    assert machine.only().sysfs == PCI


def test_the_order_is_that_of_sysfs(machine):
    for slot in ("0000:00:07.0", "0000:00:05.0", "0000:00:06.0"):
        machine.pci(f"/sys/devices/pci0000:00/{slot}")
    assert subjects(machine.read()) == ["pci:0000:00:05.0", "pci:0000:00:06.0", "pci:0000:00:07.0"]


# --- those asked for ---------------------------------------------------------------------------------------------------------------------


def test_only_those_asked_for_are_read(machine):
    machine.pci()
    machine.pci("/sys/devices/pci0000:00/0000:00:06.0")
    machine.platform("/sys/devices/platform/npu", OF_FULLNAME="/soc/npu", DRIVER="rocket")
    assert subjects(machine.read(NPU)) == [NPU]
    assert subjects(machine.read("of:/soc/npu", NPU)) == [NPU, "of:/soc/npu"]
    assert machine.read("pci:0000:00:09.0").items == ()


def test_any_device_may_be_asked_for(machine):
    machine.pci(base_class="20000", driver="e1000")
    machine.platform("/sys/devices/platform/uart", OF_FULLNAME="/soc/uart")
    assert subjects(machine.read()) == []
    assert subjects(machine.read(NPU, "of:/soc/uart")) == [NPU, "of:/soc/uart"]


# --- what must not hide one --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subsystem", ["accel", "drm", "misc", "pci", "platform"])
@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (Reply(Status.DENIED, errno=13), Remedy.ROOT),
        (Reply(Status.FAILED, errno=5), Remedy.EVIDENCE),
        (base.UNASKED, Remedy.LIVE),
    ],
)
def test_a_place_that_cannot_be_listed_is_unread(machine, subsystem, reply, remedy):
    machine.pci()
    machine.given[base.udev(subsystem)] = reply
    listing = machine.read()
    place = f"/sys/bus/{subsystem}/devices" if subsystem in {"pci", "platform"} else f"/sys/class/{subsystem}"
    assert [(each.status, each.evidence[0].path, each.remedy) for each in listing.unread] == [(reply.status, place, remedy)]


def test_an_empty_device_says_where_it_was_looked_at(machine):
    listing = machine.read()
    assert (listing.items, listing.unread) == ((), ())
    assert {(each.path, each.status) for each in listing.evidence} == {
        (f"/sys/{place}", Status.ABSENT) for place in ("class/accel", "class/drm", "class/misc", "bus/pci/devices", "bus/platform/devices")
    }


def test_a_node_without_its_device_is_unread(machine):
    """A tree that holds the class but not what it leads to: something was there."""
    machine.link("/sys/class/accel/accel0", "/sys/devices/gone/accel/accel0")
    machine.member("accel", None, "accel1", "accel/accel1")
    listing = machine.read()
    assert listing.items == ()
    assert [each.status for each in listing.unread] == [Status.ABSENT, Status.ABSENT]


@pytest.mark.parametrize("status", [Status.DENIED, Status.UNASKED, Status.FAILED])
def test_a_device_that_a_node_leads_to_and_that_cannot_be_told_is_unread(machine, status):
    machine.pci(base_class="30000")
    machine.member("accel", PCI, "accel0", "accel/accel0")
    machine.given[base.stat(f"{PCI}/accel/accel0/device")] = Reply(status)
    assert [each.status for each in machine.read().unread] == [status]


@pytest.mark.parametrize("wanted", [(), (NPU,)])
@pytest.mark.parametrize("status", [Status.DENIED, Status.UNASKED, Status.FAILED, Status.ABSENT])
def test_a_device_whose_name_cannot_be_told_is_unread(machine, wanted, status):
    machine.pci()
    machine.given[base.read(f"{PCI}/uevent")] = Reply(status, errno=0)
    listing = machine.read(*wanted)
    assert (listing.items, [each.status for each in listing.unread]) == ((), [status])


def test_a_node_without_its_numbers_is_unread(machine):
    machine.pci()
    machine.device(f"{PCI}/accel/accel0", DEVNAME="accel/accel0")
    machine.link(f"{PCI}/accel/accel0/device", PCI)
    machine.link("/sys/class/accel/accel0", f"{PCI}/accel/accel0")
    listing = machine.read()
    assert subjects(listing) == [NPU]
    assert [each.status for each in listing.unread] == [Status.FAILED]


def test_a_pci_device_without_a_class_is_unread(machine):
    machine.device(PCI, PCI_SLOT_NAME="0000:00:05.0")
    machine.link("/sys/bus/pci/devices/0000:00:05.0", PCI)
    listing = machine.read()
    assert (listing.items, [each.status for each in listing.unread]) == ((), [Status.FAILED])


def test_a_node_that_is_something_else_has_no_mode(machine):
    machine.pci()
    machine.member("accel", PCI, "accel0", "accel/accel0")
    machine.node("/dev/accel/accel0", kind="file")
    (node,) = machine.only().nodes
    assert node.mode.status is Status.FAILED
    assert "expected a character device, found a file" in node.mode.note
    machine.node("/dev/accel/accel0", major=226, minor=129)
    assert "expected the device 261:3, found 226:129" in machine.only().nodes[0].mode.note
    del machine.given[base.stat("/dev/accel/accel0")]
    assert machine.only().nodes[0].mode.status is Status.ABSENT


# --- odd text ----------------------------------------------------------------------------------------------------------------------------


def test_names_with_other_bytes_are_escaped(machine):
    machine.platform("/sys/devices/platform/n\udcffpu\u2028x", DRIVER="galcore", OF_FULLNAME="/soc/n\udcffpu\u2028PCI_SLOT_NAME=1")
    item = machine.only()
    assert item.subject == "of:/soc/n\\xffpu\u2028PCI_SLOT_NAME=1"
    assert item.sysfs == "/sys/devices/platform/n\udcffpu\u2028x"
    assert item.driver.open() == "galcore"
    machine.platform("/sys/devices/platform/a\udcff", DRIVER="galcore")
    assert "platform:a\\xff" in subjects(machine.read())


@pytest.mark.parametrize(
    "document",
    [
        3,
        None,
        "x",
        {},
        {"sys": "x"},
        [3],
        [None],
        [{}],
        [{"sys": "/x"}],
        [{"sys": 3, "properties": {}}],
        [{"sys": "/x", "properties": None}],
        [{"sys": "/x", "properties": {"PCI_SLOT_NAME": 3}}],
        [{"sys": [], "properties": {"PCI_SLOT_NAME": "x", "PCI_CLASS": "120000"}}],
    ],
)
@pytest.mark.parametrize("subsystem", ["pci", "accel", "platform"])
def test_a_recorded_document_of_another_shape_is_unread(machine, subsystem, document):
    machine.given[base.udev(subsystem)] = Reply(Status.OK, json.dumps(document).encode())
    listing = machine.read()
    assert listing.items == ()
    assert document == {} or [each.status for each in listing.unread] == [Status.FAILED]


TEXTS = st.sampled_from(["120000", "accel0", "renderD128", "/sys/x", "npu", "vfio-pci", "0000:00:05.0", "", "\ud800"]) | st.text(max_size=5)
KEYS = st.sampled_from(["PCI_CLASS", "PCI_SLOT_NAME", "DRIVER", "DEVNAME", "MAJOR", "MINOR", "OF_FULLNAME", "OF_COMPATIBLE_0"])
ENTRIES = st.lists(st.fixed_dictionaries({"sys": TEXTS, "properties": st.dictionaries(KEYS, TEXTS)}), max_size=3)


@given(st.dictionaries(st.sampled_from(["pci", "accel", "drm", "misc", "platform"]), ENTRIES))
def test_no_recorded_document_makes_reading_raise(documents):
    class Recorded:
        kind = name = "x"

        def ask(self, question):
            if question.kind == "udev":
                return Reply(Status.OK, json.dumps(documents.get(question.path, [])).encode())
            return Reply(Status.OK, b"PCI_SLOT_NAME=x\n") if question.kind == "read" else base.UNASKED

    found = read_accelerators(Device(Recorded()), unknown(Kernel))
    assert isinstance(found, Ok)


# --- records -----------------------------------------------------------------------------------------------------------------------------


def test_a_record_gives_the_same_accelerators_and_no_degraded_answer_hides_one(machine):
    machine.pci(driver="vfio-pci")
    machine.link(f"{PCI}/iommu_group", "/sys/kernel/iommu_groups/7")
    machine.node("/dev/vfio/7")
    machine.pci("/sys/devices/pci0000:00/0000:00:06.0")
    machine.member("accel", "/sys/devices/pci0000:00/0000:00:06.0", "accel0", "accel/accel0")
    recorder = Recorder(machine)
    whole = read_accelerators(Device(recorder), unknown(Kernel)).open()
    record = recorder.record("c", "t")
    assert read_accelerators(Device(Replay(record)), unknown(Kernel)).open() == whole
    for question in record.answers:
        answers = {**record.answers, question: Reply(Status.DENIED, errno=13)}
        degraded = read_accelerators(Device(Replay(type(record)("s", "n", "c", "t", answers))), unknown(Kernel)).open()
        nodes = {node.path for item in degraded.items for node in item.nodes}
        assert degraded.unread or ({"/dev/vfio/7", "/dev/accel/accel0"} <= nodes and len(degraded.items) == 2), question


def test_this_machine_can_be_asked():
    found = read_accelerators(Device(Tree("/")), unknown(Kernel))
    assert not isinstance(found, Missing)
    assert all(os.path.isdir(item.sysfs) for item in found.value.items)
