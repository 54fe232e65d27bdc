"""The probes on the virtual device: what they find, and that they leave nothing behind.

What they find is in the record of the configuration's audit. Where a probe is to be disturbed, the program goes over as the ssh source
sends it: a zip in memory.
"""

from __future__ import annotations

import errno
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from visits import Visit, state

from auditor.facts import dma_buf, tracing
from auditor.sources import base
from auditor.sources.ssh import agent_zip

if TYPE_CHECKING:
    import machine

pytestmark = pytest.mark.dut

EDU, GPU = "pci:0000:00:05.0", "pci:0000:00:06.0"

BOOT = """
import os, sys
memory = os.memfd_create("program")
with os.fdopen(os.dup(memory), "wb") as file:
    file.write(sys.stdin.buffer.read())
sys.dont_write_bytecode = True
sys.path.insert(0, f"/proc/self/fd/{memory}")
"""

ASK = """
import json  # noqa: PLC0415
from auditor.probes import answer
from auditor.sources.base import probe
reply = answer(probe(*sys.argv[1:]))
print(json.dumps([reply.status.value, reply.errno, json.loads(reply.data or "null")]))
"""


def inside(dut: machine.Machine, script: str, *arguments: str, user: str | None = None) -> str:
    return dut.run(f"python3 -c {shlex.quote(BOOT + script)} {shlex.join(arguments)}", user=user, stdin=agent_zip())


def ask(dut: machine.Machine, *question: str, user: str | None = None) -> tuple[str, int, Any]:
    status, number, document = json.loads(inside(dut, ASK, *question, user=user))
    return status, number, document


def document_of(visit: Visit, *question: str) -> Any:
    reply = visit.audited.record.answers[base.probe(*question)]
    assert (reply.status.value, reply.errno) == ("ok", 0)
    document = json.loads(reply.data)
    assert document["conditions"]["uid"] == 0
    assert document["probe"] == question[0]
    return document


def refusal_of(visit: Visit, *question: str) -> tuple[str, int]:
    reply = visit.audited.record.answers[base.probe(*question)]
    return reply.status.value, reply.errno


def shown(trials: list[dict[str, str]]) -> dict[tuple[str, str], str]:
    """Each trial's error, or proof, or nothing."""
    return {(each["exporter"], each["importer"]): each["error"] or each["proof"] for each in trials}


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_buffers_are_shared_with_proof_or_refused_with_an_errno(visit):
    document = document_of(visit, "dma-buf")
    edu, gpu = document["accelerators"]
    assert (edu["accelerator"], edu["driver"], edu["claimed"], edu["note"]) == (EDU, "edu_accel", 3, "")
    assert shown(edu["exports"]) == {(EDU, ""): "", (EDU, GPU): "ENODEV", (EDU, "vgem"): "device-copy", (EDU, "v4l2:vivid"): ""}
    sources = ("dma_heap:system", "udmabuf", "v4l2:vivid", "vgem")
    assert shown(edu["imports"]) == dict.fromkeys([(each, EDU) for each in (*sources, GPU)], "device-copy")
    assert (gpu["accelerator"], gpu["driver"], gpu["claimed"], gpu["note"]) == (GPU, "virtio_gpu", 3, "")
    assert shown(gpu["exports"]) == {(GPU, ""): "", (GPU, EDU): "same-inode", (GPU, "vgem"): "same-inode", (GPU, "v4l2:vivid"): ""}
    assert shown(gpu["imports"]) == dict.fromkeys([(each, GPU) for each in (*sources, EDU)], "ENODEV")
    read = dma_buf._results(document["accelerators"], {EDU: EDU, GPU: GPU})
    assert [each.accelerator for each in read] == [EDU, GPU]


@pytest.mark.parametrize("dut", ["virtio-gpu"], indirect=True)
def test_a_claimed_import_is_refused(visit):
    (gpu,) = document_of(visit, "dma-buf")["accelerators"]
    assert gpu["claimed"] == 3
    assert shown(gpu["imports"]) == {(each, GPU): "ENODEV" for each in ("dma_heap:system", "udmabuf", "vgem")}
    assert shown(gpu["exports"]) == {(GPU, ""): "", (GPU, "vgem"): "same-inode"}


@pytest.mark.parametrize("dut", ["no-iommu", "passthrough"], indirect=True)
def test_buffers_are_shared_without_translation_too(visit):
    (edu,) = document_of(visit, "dma-buf")["accelerators"]
    assert shown(edu["imports"]) == {("dma_heap:system", EDU): "device-copy", ("udmabuf", EDU): "device-copy"}
    assert shown(edu["exports"]) == {(EDU, ""): ""}


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_events_are_counted_while_the_device_works(visit):
    document = document_of(visit, "tracing")
    counts = tracing._counts(document)
    assert document["work"] == [
        {"accelerator": EDU, "driver": "edu_accel", "work": "device-copy"},
        {"accelerator": GPU, "driver": "virtio_gpu", "work": "exchange"},
    ]
    assert counts["edu_accel:edu_copy"] == 6  # five imports, one export
    assert counts["virtio_gpu:virtio_gpu_cmd_queue"] > 0
    assert counts["iommu:map"] > 0
    assert document["samples"]["edu_accel:edu_copy"].startswith("edu_copy: 0000:00:05.0 ")


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_the_node_of_another_device_in_the_accelerators_place_is_not_tried(dut):
    """vgem imports what it is offered; as /dev/accel/accel0 it would do so for any accelerator."""
    dut.run("cd /dev/accel; mv accel0 kept; cp -a /dev/$(sed -n s/^DEVNAME=//p /sys/devices/*/vgem/drm/renderD*/uevent) accel0")
    try:
        _, _, document = ask(dut, "dma-buf")
    finally:
        dut.run("mv /dev/accel/kept /dev/accel/accel0")
    edu, gpu = document["accelerators"]
    note = "/dev/accel/accel0: is not the kernel's node of this name (ENXIO)"
    assert (edu["exports"], edu["imports"], edu["claimed"], edu["note"]) == ([], [], None, note)
    assert shown(gpu["exports"])[GPU, "vgem"] == "same-inode"


# The dma-buf probe, whose accelerator is taken away when the first buffer is imported.
VANISHING = """
import json  # noqa: PLC0415
from auditor.probes import dma_buf, drm
imports = drm.import_

def gone(node, buffer):
    drm.import_ = imports
    with open("/sys/bus/pci/drivers/edu_accel/unbind", "w") as file:
        file.write("0000:00:05.0")
    return imports(node, buffer)

drm.import_ = gone
print(json.dumps(dma_buf.run()["accelerators"][0]))
"""


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_an_accelerator_that_goes_away_meanwhile_has_refused_nothing(dut):
    try:
        edu = json.loads(inside(dut, VANISHING))
    finally:
        dut.run("echo 0000:00:05.0 >/sys/bus/pci/drivers/edu_accel/bind; test -c /dev/accel/accel0")
    assert (edu["exports"], edu["imports"]) == ([], [])
    assert edu["note"].endswith("/dev/accel/accel0: went away while it was tried (ENODEV)")


# A tracing probe whose work hangs: says when its events are enabled; its processes; waiting for what they leave.
HALF_WAY = """
import signal, time
from auditor.probes import answer, tracing, dma_buf
from auditor.sources.base import probe
place = "/sys/kernel/tracing/instances/crosml-audit"
dma_buf.run = lambda: time.sleep(600)

def children(process):
    return [int(each) for each in open(f"/proc/{process}/task/{process}/children").read().split()]

def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False

def enabled():
    try:
        return open(f"{place}/events/edu_accel/edu_copy/enable").read().startswith("1")
    except OSError:
        return False

def gone():
    return not os.path.exists(place)

def start():
    caller = os.fork()
    if caller == 0:
        answer(probe("tracing"))
        os._exit(0)
    print("enabled", until(enabled))
    keeper, = children(caller)
    worker, = children(keeper)
    return {"caller": caller, "keeper": keeper, "worker": worker}

def kill(*processes):
    for process in processes:
        os.kill(process, signal.SIGKILL)
"""


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_a_probe_that_is_killed_half_way_leaves_the_device_as_it_was(dut):
    script = """
for names in (["caller"], ["worker"], ["keeper", "worker"]):
    processes = start()
    kill(*(processes[name] for name in names))
    print(*names, until(gone))
    os.waitpid(processes["caller"], 0)
"""
    before = state(dut)
    assert inside(dut, HALF_WAY + script).splitlines() == [
        *("enabled True", "caller True"),
        *("enabled True", "worker True"),
        *("enabled True", "keeper worker True"),
    ]
    assert state(dut) == before


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_what_a_probe_left_behind_that_was_killed_with_all_its_processes_is_removed_by_the_next(dut):
    before = state(dut)
    script = "kill(*start().values())\nprint('gone', until(gone, 1))"
    assert inside(dut, HALF_WAY + script).splitlines() == ["enabled True", "gone False"]
    assert state(dut) != before
    status, number, document = ask(dut, "tracing")
    assert (status, number, document["counts"]["edu_accel:edu_copy"]) == ("ok", 0, 6)
    assert state(dut) == before


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_two_probes_at_a_time_do_not_undo_each_other(dut):
    script = """
first = start()
print(answer(probe("tracing")))
print("enabled", enabled())
kill(first["caller"])
print("gone", until(gone))
"""
    assert inside(dut, HALF_WAY + script).splitlines() == [
        "enabled True",
        f"Reply(status=<Status.FAILED: 'failed'>, data=b'', errno={errno.EBUSY})",
        "enabled True",
        "gone True",
    ]


@pytest.mark.parametrize("dut", ["unprivileged"], indirect=True)
def test_an_ordinary_user_is_denied(visit):
    assert refusal_of(visit, "dma-buf") == ("denied", errno.EACCES)
    assert refusal_of(visit, "tracing") == ("denied", errno.EACCES)


@pytest.mark.parametrize("dut", ["vfio"], indirect=True)
def test_vfio_finds_the_group_viable_and_the_iommu_stops_what_is_not_mapped(visit):
    document = document_of(visit, "vfio", "dma")
    assert document["container"] == {"error": "", "api": 0, "type1": True, "type1v2": True, "noiommu": False}
    (group,) = document["groups"]
    assert group == {
        "node": group["node"],
        "error": "",
        "viable": True,
        "in_use": False,
        "devices": [{"device": EDU, "driver": "vfio-pci"}],
    }
    (moved,) = document["dma"]
    assert {**moved, "faults": []} == {
        "accelerator": EDU,
        "error": "",
        "mapped": True,
        "unmapped": False,
        "unmapped_read": "00" * 8,
        "faults": [],
        "log_error": "",
    }
    assert any("DMA Read" in line and "00:05.0" in line and "0x900000" in line for line in moved["faults"])


# A probe of VFIO whose device hangs: whether its group is open to others.
HANGING = """
import errno, signal, time
from auditor.probes import answer, vfio
from auditor.sources.base import probe
vfio._Edu.read = lambda *_: time.sleep(600)
(node,) = (f"/dev/vfio/{name}" for name in os.listdir("/dev/vfio") if name.isdecimal())

def busy():
    try:
        os.close(os.open(node, os.O_RDWR))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False

def until(wanted):
    end = time.monotonic() + 20
    while busy() != wanted and time.monotonic() < end:
        time.sleep(0.01)
    return busy() == wanted

caller = os.fork()
if caller == 0:
    answer(probe("vfio", "dma"))
    os._exit(0)
print("driven", until(True))
os.kill(caller, signal.SIGKILL)
print("let go", until(False))
"""


@pytest.mark.parametrize("dut", ["vfio"], indirect=True)
def test_a_device_that_is_driven_is_let_go_where_the_probe_is_killed(dut):
    before = state(dut)
    assert inside(dut, HANGING).splitlines() == ["driven True", "let go True"]
    assert state(dut) == before
    status, number, document = ask(dut, "vfio", "dma")
    assert (status, number, document["groups"][0]["in_use"]) == ("ok", 0, False)
    (moved,) = document["dma"]
    assert (moved["error"], moved["mapped"], moved["unmapped"]) == ("", True, False)


@pytest.mark.parametrize("dut", ["vfio"], indirect=True)
def test_vfio_says_what_an_ordinary_user_may_not_open(dut):
    status, _, document = ask(dut, "vfio", user="tester")
    assert status == "ok"
    (group,) = document["groups"]
    assert (group["error"], group["viable"], group["in_use"]) == ("EACCES", None, None)
    assert group["devices"] == [{"device": EDU, "driver": "vfio-pci"}]


@pytest.mark.parametrize("dut", ["not-viable"], indirect=True)
def test_vfio_finds_a_group_not_viable_that_a_kernel_driver_shares(visit):
    document = document_of(visit, "vfio", "dma")
    (group,) = document["groups"]
    assert group["viable"] is False
    assert {each["device"]: each["driver"] for each in group["devices"]} == {
        "pci:0000:01:00.0": "",
        "pci:0000:02:01.0": "vfio-pci",
        "pci:0000:02:02.0": "virtio-pci",
    }
    assert document["dma"] == []


@pytest.mark.parametrize("dut", ["no-driver"], indirect=True)
def test_a_device_without_a_node_is_not_tried(visit):
    assert document_of(visit, "dma-buf")["accelerators"] == []
    assert refusal_of(visit, "tracing") == ("failed", errno.ENODEV)
