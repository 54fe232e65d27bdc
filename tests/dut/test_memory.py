"""Who counts the memory of buffers that a process has a driver make: its own peak (VmHWM), its control group's, or neither. Measured.

What it comes to is written down in docs/dut.md, with what a memory requirement can make of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.dut.packing import worker_package

if TYPE_CHECKING:
    import machine

pytestmark = pytest.mark.dut

# Each case runs in a process and a control group of its own, and says by how much the peaks of both have grown.
MEASURE = r"""
import fcntl, json, mmap, os, struct
GROUPS, SIZE = "/sys/fs/cgroup", 32 << 20

def call(fd, request, layout, *values):
    data = bytearray(struct.pack(layout, *values))
    fcntl.ioctl(fd, request, data, True)
    return struct.unpack(layout, data)

def drm(path):
    fd = os.open(path, os.O_RDWR)
    return fd, call(fd, 0xC02064B2, "=6IQ", 2048, 4096, 32, 0, 0, 0, 0)[4]  # DRM_IOCTL_MODE_CREATE_DUMB

def touched(fd, offset=0):
    memory = mmap.mmap(fd, SIZE, offset=offset)
    for page in range(0, SIZE, mmap.PAGESIZE):
        memory[page] = 1
    return memory

def by_the_processor(path):
    fd, handle = drm(path)
    return fd, touched(fd, call(fd, 0xC01064B3, "=IIQ", handle, 0, 0)[2])      # DRM_IOCTL_MODE_MAP_DUMB

def by_the_device(path):
    fd, handle = drm(path)
    return fd, call(fd, 0xC0186440, "=IIQQ", handle, 64, 0, 2048)              # DRM_IOCTL_EDU_COPY

def heap(path):
    fd = os.open(path, os.O_RDWR)
    buffer = call(fd, 0xC0184800, "=QIIQ", SIZE, 0, os.O_RDWR | os.O_CLOEXEC, 0)[1]  # DMA_HEAP_IOCTL_ALLOC
    return fd, buffer, touched(buffer)

def anonymous(_path):
    return touched(-1)

def card(name):
    return next(f"/dev/dri/{each}" for each in os.listdir("/dev/dri") if each.startswith("card")
                and name in os.path.realpath(f"/sys/class/drm/{each}/device/driver") + os.path.realpath(f"/sys/class/drm/{each}"))

def peaks():
    with open("/proc/self/status") as status:
        own = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    with open(f"{group}/memory.peak") as peak:
        return own, int(peak.read())

def measured(make, path):
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        with open(f"{group}/cgroup.procs", "w") as procs:
            procs.write("0")
        before = peaks()
        held = make(path)
        grown = [after - earlier for earlier, after in zip(before, peaks())]
        os.write(into, json.dumps(grown).encode())
        os._exit(0)
    os.close(into)
    with open(out) as said:
        grown = json.load(said)
    os.waitpid(child, 0)
    return [each / SIZE for each in grown]

with open(f"{GROUPS}/cgroup.subtree_control", "w") as control:
    control.write("+memory")
group = f"{GROUPS}/measured"
found = {}
for name, make, path in (
    ("memory of its own", anonymous, ""),
    ("edu_accel, mapped", by_the_processor, "/dev/accel/accel0"),
    ("edu_accel, used by the device", by_the_device, "/dev/accel/accel0"),
    ("virtio_gpu, mapped", by_the_processor, card("virtio")),
    ("vgem, mapped", by_the_processor, card("vgem")),
    ("dma_heap", heap, "/dev/dma_heap/system"),
):
    os.mkdir(group)
    try:
        found[name] = measured(make, path)
    finally:
        os.rmdir(group)
print(json.dumps(found))
"""


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_a_control_group_counts_gem_shmem_but_no_heap_and_the_process_counts_neither(dut: machine.Machine) -> None:
    found = json.loads(dut.run("python3 -", user="root", stdin=MEASURE.encode()))
    counted = {name: (own >= 1, group >= 1) for name, (own, group) in found.items()}
    buffers = {name: each for name, each in found.items() if name != "memory of its own"}
    assert counted == {
        "memory of its own": (True, True),
        "edu_accel, mapped": (False, True),
        "edu_accel, used by the device": (False, True),
        "virtio_gpu, mapped": (False, True),
        "vgem, mapped": (False, True),
        "dma_heap": (False, False),
    }, found
    assert all(own < 0.25 for own, _group in buffers.values()), found
    assert buffers["dma_heap"][1] < 0.25, found


# A worker that takes memory in a file and gives it back, below a group of version 2 that hands memory down.
WORKER = r"""
import json, sys
sys.path.insert(0, "/tmp/crosml-auditor.zip")
with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as control:
    control.write("+memory +pids")
from auditor.inference import process
from auditor.inference.watch import Limits
from auditor.inference.wire import WorkerFailure
code = process.BOOTSTRAP.replace("main(int", '''import os
import auditor.inference.worker.main as worker
class Taker(worker.Session):
    def do_hello(self, header, payload): return {"python": "3", "runtime": {"name": "none", "version": "0"}, "folders": []}, b""
    def do_input(self, header, payload):
        descriptor = os.memfd_create("taken")
        for _ in range(48):
            os.write(descriptor, bytes(1 << 20))
        os.close(descriptor)
        return {}, b""
worker.Session = Taker
worker.main(int''')
process._COMMAND = (*process._COMMAND[:-1], code)
found = []
for limit in (256 << 20, 32 << 20):
    with process.Worker("test", b"", Limits(memory_bytes=limit)) as worker:
        worker.hello("auto")
        before = worker.group_bytes()
        try:
            worker.set_inputs()
            found.append([before, worker.group_bytes(), worker.peak_bytes()])
        except WorkerFailure as failure:
            found.append(failure.status.outcome.value)
import os
found.append([name for name in os.listdir("/sys/fs/cgroup") if name.startswith("crosml")])
print(json.dumps(found))
"""


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_a_workers_own_group_of_version_2(dut: machine.Machine) -> None:
    """It counts what was taken between two looks, holds the limit, and is removed."""
    dut.put({"/tmp/crosml-auditor.zip": worker_package()})
    (before, after, seen), limited, left = json.loads(dut.run("cd /; python3 -", user="root", stdin=WORKER.encode()))
    assert 48 << 20 <= after <= before + (80 << 20)
    assert seen < 48 << 20
    assert limited == "out-of-memory"
    assert left == []
