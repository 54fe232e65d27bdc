from __future__ import annotations

import pytest

from auditor.facts import accelerators, discovery
from auditor.facts.kernel import read_kernel
from auditor.facts.reading import Device
from auditor.probes import nodes
from auditor.probes.nodes import Hardware, find
from auditor.sources import base
from auditor.sources.filesystem import Tree
from fixtures.devices import document
from fixtures.judging import collected
from fixtures.trees import built, fastrpc, rocket

PCI = "devices/pci0000:00/0000:00:05.0"
VIRTIO = "devices/pci0000:00/0000:00:06.0/virtio1"
TREE = "devices/platform/fdab0000.npu"
VGEM = "devices/platform/vgem"


@pytest.fixture
def sysfs(tmp_path):
    """A device of each kind: PCI with an accel node, virtio and device tree with render nodes, software, misc; and nodes of others."""

    def device(place: str, uevent: str) -> None:
        (tmp_path / "sys" / place).mkdir(parents=True)
        (tmp_path / "sys" / place / "uevent").write_text(uevent)

    def node(kind: str, name: str, devname: str, number: str, place: str = "") -> None:
        home = tmp_path / "sys" / (place or "devices/virtual") / kind / name
        home.mkdir(parents=True)
        major, minor = number.split(":")
        (home / "uevent").write_text(f"MAJOR={major}\nMINOR={minor}\n" + (f"DEVNAME={devname}\n" if devname else ""))
        if place:
            (home / "device").symlink_to(tmp_path / "sys" / place)
        (tmp_path / "sys/class" / kind).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/class" / kind / name).symlink_to(home)

    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    device(PCI, "DRIVER=edu_accel\nPCI_CLASS=FF00\nPCI_ID=1234:11E8\nPCI_SLOT_NAME=0000:00:05.0\n")
    device(VIRTIO, "DRIVER=virtio_gpu\nMODALIAS=virtio:d00000010v00001AF4\n")
    device(TREE, "DRIVER=rocket\nOF_FULLNAME=/npu@fdab0000\nOF_COMPATIBLE_0=rockchip,rk3588-rknn-core\n")
    device(VGEM, "DRIVER=vgem\n")
    device("devices/platform/soc/apu", "OF_FULLNAME=/soc/apu\n")
    node("accel", "accel0", "accel/accel0", "261:0", PCI)
    node("drm", "card0", "dri/card0", "226:0", VIRTIO)
    node("drm", "card0-Virtual-1", "", "0:0", VIRTIO)
    node("drm", "renderD128", "dri/renderD128", "226:128", VIRTIO)
    node("accel", "accel1", "accel/accel1", "261:1", TREE)
    node("drm", "card1", "dri/card1", "226:1", VGEM)
    node("drm", "renderD129", "dri/renderD129", "226:129", VGEM)
    node("misc", "apusys", "apusys", "10:120", "devices/platform/soc/apu")
    node("misc", "rtc", "rtc", "10:121", "devices/platform/soc/apu")
    node("misc", "mali0", "mali0", "10:122")
    return tmp_path


def test_nodes_are_found_by_the_device_that_they_belong_to(sysfs):
    root = f"{sysfs}/sys"
    assert find(root) == (
        Hardware("node:/dev/mali0", f"{root}/devices/virtual/misc/mali0", other=("/dev/mali0",)),
        Hardware("of:/npu@fdab0000", f"{root}/{TREE}", drm=("/dev/accel/accel1",)),
        Hardware("of:/soc/apu", f"{root}/devices/platform/soc/apu", other=("/dev/apusys",)),
        Hardware("pci:0000:00:05.0", f"{root}/{PCI}", drm=("/dev/accel/accel0",)),
        Hardware("pci:0000:00:06.0", f"{root}/{VIRTIO}", drm=("/dev/dri/renderD128",), card="/dev/dri/card0"),
        Hardware("platform:vgem", f"{root}/{VGEM}", drm=("/dev/dri/renderD129",), card="/dev/dri/card1", software=True),
    )


def test_the_facts_call_the_same_devices_accelerators_by_the_same_subjects(sysfs):
    tried = {each.subject: set(each.drm + each.other) for each in find(f"{sysfs}/sys") if each.is_accelerator}
    for link in [each for each in (sysfs / "sys").rglob("*") if each.is_symlink()]:
        target = str(link.readlink()).removeprefix(str(sysfs))  # as it lies on a device, whose root is the tree
        link.unlink()
        link.symlink_to(target)
    device = Device(Tree(str(sysfs)))
    listing = accelerators.read_accelerators(device, read_kernel(device)).open()
    known = {each.subject: {node.path for node in each.nodes} for each in listing.items}
    assert tried == {**known, "node:/dev/mali0": {"/dev/mali0"}}
    assert [each.subject for each in listing.unrecognised] == ["node:/dev/mali0"]


def test_the_names_that_decide_are_the_facts():
    assert nodes.SOFTWARE == discovery.SOFTWARE


def test_a_machine_without_any_has_none(tmp_path):
    assert find(str(tmp_path)) == ()


def test_results_of_a_facade_and_of_nodes_without_a_device_are_the_accelerators():
    record = built(rocket, fastrpc)
    both = [
        {"accelerator": name, "driver": driver, "claimed": None, "note": "", "imports": [],
         "exports": [{"exporter": name, "importer": "", "error": "", "proof": ""}]}
        for name, driver in (("platform:rknn", "rocket"), ("node:/dev/fastrpc-cdsp", ""), ("node:/dev/fastrpc-cdsp-secure", ""))
    ]  # fmt: skip
    found = {"schema": "crosml-audit/probe/1", "probe": "dma-buf", "accelerators": both}
    facts = collected(document(record, base.probe("dma-buf"), found))
    known = [each.subject for each in facts.accelerators.open().items]
    tried = facts.dma_buf.open()
    assert [each.accelerator for each in tried] == sorted(known)
    assert {each.accelerator: [one.exporter for one in each.exports] for each in tried} == {known[0]: [known[0]] * 2, known[1]: [known[1]]}
