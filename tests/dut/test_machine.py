"""The virtual device is what its configuration says, asked with plain shell: nothing of the auditor takes part."""

from __future__ import annotations

import errno
import json
import re
from typing import TYPE_CHECKING

import machine
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.dut

# What each device must show, by a shell expression in the guest ($D is the accelerator's folder in sysfs).
DRIVER = 'basename "$(readlink $D/driver)"'
GROUP_TYPE = "cat $D/iommu_group/type"
MATES = "ls $D/iommu_group/devices | wc -w"
ACCEL = "ls /dev/accel"
TAINT = "cat /sys/module/%s/taint"
SHOWS: Mapping[str, Mapping[str, str]] = {
    "in-place": {
        DRIVER: "edu_accel",
        GROUP_TYPE: "DMA",
        MATES: "1",
        ACCEL: "accel0",
        TAINT % "edu_accel": "OE",
        "dmesg | grep -o 'firmware edu/edu_fw.bin loaded'": "firmware edu/edu_fw.bin loaded",
        "cat /sys/kernel/tracing/events/edu_accel/edu_copy/enable": "0",
        "ls -d /dev/dma_heap/system /dev/udmabuf /dev/dri/card1 /dev/video0": (
            "/dev/dma_heap/system\n/dev/dri/card1\n/dev/udmabuf\n/dev/video0"
        ),
        "cat /proc/sys/kernel/tainted": str(1 << 12 | 1 << 13),
    },
    "vfio": {DRIVER: "vfio-pci", GROUP_TYPE: "DMA", MATES: "1", "ls $D/vfio-dev": "vfio0", "ls -d /dev/vfio/1": "/dev/vfio/1"},
    "not-viable": {DRIVER: "vfio-pci", MATES: "3", 'basename "$(readlink $D/../0000:02:02.0/driver)"': "virtio-pci"},
    "passthrough": {DRIVER: "edu_accel", GROUP_TYPE: "identity", ACCEL: "accel0"},
    "no-iommu": {DRIVER: "edu_accel", "ls /sys/class/iommu /sys/kernel/iommu_groups | grep -c [0-9]": "0", ACCEL: "accel0"},
    "sig-enforce": {"ls $D/driver": "", GROUP_TYPE: "DMA", "cat /proc/sys/kernel/tainted": "0", TAINT % "vgem": ""},
    "typed-intree": {
        DRIVER: "edu_accel_intree",
        TAINT % "edu_accel_intree": "E",
        "modinfo -F intree edu_accel_intree": "Y",
        ACCEL: "accel0",
    },
    "proprietary": {DRIVER: "edu_proprietary", TAINT % "edu_proprietary": "POE", ACCEL: ""},
    "virtio-gpu": {DRIVER: "virtio-pci", TAINT % "virtio_gpu": "", "cat /proc/sys/kernel/tainted": "0", GROUP_TYPE: "DMA"},
    "unprivileged": {
        "id -un": "tester",
        DRIVER: "edu_accel",
        "test -r /dev/accel/accel0 || echo denied": "denied",
        "ls /sys/kernel/debug": "",
    },
    "zoo": {"id -un": "tester", DRIVER: "edu_accel", "test -w /dev/accel/accel0 && echo allowed": "allowed"},
    "no-driver": {"cat $D/class": "0x120000", "ls $D/driver": "", GROUP_TYPE: "DMA"},
    "arm64.in-place": {
        "uname -m": "aarch64",
        "tr '\\0' ' ' </proc/device-tree/compatible": "linux,dummy-virt",
        "ls /sys/class/iommu": "smmu3.0x0000000009050000",
        DRIVER: "edu_accel",
        GROUP_TYPE: "DMA",
        MATES: "1",
        "ls $D/drm": "card0\nrenderD128",
        TAINT % "edu_accel": "OE",
        "dmesg | grep -o 'firmware edu/edu_fw.bin loaded'": "firmware edu/edu_fw.bin loaded",
        "ls -d /dev/accel /dev/dma_heap /dev/udmabuf /dev/video0": "/dev/udmabuf\n/dev/video0",
        "cat /proc/sys/kernel/tainted": str(1 << 12 | 1 << 13),
    },
    "arm64.vfio": {DRIVER: "vfio-pci", GROUP_TYPE: "DMA", MATES: "1", "ls $D/vfio-dev": "vfio0", "ls /dev/vfio | wc -w": "2"},
    "arm64.not-viable": {DRIVER: "vfio-pci", MATES: "2", 'basename "$(readlink $D/../0000:00:05.1/driver)"': "virtio-pci"},
    "arm64.passthrough": {DRIVER: "edu_accel", GROUP_TYPE: "identity"},
    "arm64.no-driver": {"ls $D/driver $D/iommu_group": "", "ls /sys/class/iommu | wc -w": "1"},
    "arm64.zoo": {"id -un": "tester", DRIVER: "edu_accel", "test -w /dev/dri/renderD128 && echo allowed": "allowed"},
}


def test_shows_what_its_configuration_says(dut: machine.Machine) -> None:
    wanted = SHOWS[dut.configuration.name]
    # One connection: ask everything in one shell, which answers a JSON string a line.
    script = [f"D=/sys/bus/pci/devices/{dut.configuration.accelerator}"]
    quote = "python3 -c 'import json,sys; print(json.dumps(sys.stdin.read().strip()))'"
    script += [f"{{ {expression}; }} 2>/dev/null | {quote}" for expression in wanted]
    answers = map(json.loads, dut.run("\n".join(script)).splitlines())
    assert dict(zip(wanted, answers, strict=True)) == wanted


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_files_arrive_whole(dut: machine.Machine) -> None:
    content = bytes(range(256)) * 1000
    dut.put({"/tmp/some/where": content})
    assert dut.run("cksum </tmp/some/where; rm -r /tmp/some") == dut.run("cksum", stdin=content)


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_a_failing_command_raises_what_it_said(dut: machine.Machine) -> None:
    with pytest.raises(machine.MachineError, match=r"ended with 3: enough"):
        dut.run("echo enough >&2; exit 3")


# A dma-heap buffer imported into the accelerator, whose own DMA engine copies inside it.
COPY = r"""
import fcntl, mmap, os, struct, sys

def call(fd, request, layout, *values):
    data = bytearray(struct.pack(layout, *values))
    fcntl.ioctl(fd, request, data, True)
    return struct.unpack(layout, data)

accelerator = os.open("/dev/accel/accel0", os.O_RDWR)
heap = os.open("/dev/dma_heap/system", os.O_RDWR)
buffer = call(heap, 0xC0184800, "=QIIQ", 4096, 0, os.O_RDWR | os.O_CLOEXEC, 0)[1]  # DMA_HEAP_IOCTL_ALLOC
handle = call(accelerator, 0xC00C642E, "=IIi", 0, 0, buffer)[0]                     # DRM_IOCTL_PRIME_FD_TO_HANDLE
memory = mmap.mmap(buffer, 4096)
memory[:8] = sys.argv[1].encode()
call(accelerator, 0xC0186440, "=IIQQ", handle, 8, 0, 2048)                          # DRM_IOCTL_EDU_COPY
print(memory[2048:2056].decode())
for offset, length in ((4090, 8), (1 << 63, 8), (0, 0), (0, 4097)):
    try:
        call(accelerator, 0xC0186440, "=IIQQ", handle, length, 0, offset)
    except OSError as error:
        print(error.errno)
print(open(f"/proc/self/fdinfo/{accelerator}").read())
"""


@pytest.mark.parametrize("dut", ["in-place", "no-iommu"], indirect=True)
def test_the_accelerator_copies_by_its_own_dma_and_shows_it(dut: machine.Machine) -> None:
    tracing = "/sys/kernel/tracing"
    dut.run(f"echo 1 >{tracing}/events/edu_accel/enable; echo >{tracing}/trace")
    said = dut.run("python3 - CROSMLDT", stdin=COPY.encode()).split("\n", 5)
    trace = dut.run(f"cat {tracing}/trace; echo 0 >{tracing}/events/edu_accel/enable; echo >{tracing}/trace")
    assert said[:5] == ["CROSMLDT", str(errno.E2BIG), str(errno.E2BIG), str(errno.EINVAL), str(errno.EINVAL)]
    engine = re.search(r"drm-engine-dma:\s+(\d+) ns", said[5])
    assert engine
    assert int(engine[1]) > 0
    assert "drm-driver:\tedu_accel" in said[5]
    assert re.findall(r"edu_copy: (\S+) handle=\d+ length=(\d+) result=(-?\d+)", trace) == [
        ("0000:00:05.0", "8", "0"),
        ("0000:00:05.0", "8", str(-errno.E2BIG)),
        ("0000:00:05.0", "8", str(-errno.E2BIG)),
    ]


# Two jobs of a buffer of the accelerator's own, or none; the process that has them made, and the time that the engine worked.
JOBS = r"""
import fcntl, os, re, struct, sys

def call(request, layout, *values):
    data = bytearray(struct.pack(layout, *values))
    fcntl.ioctl(accelerator, request, data, True)
    return struct.unpack(layout, data)

accelerator = os.open(sys.argv[1], os.O_RDWR)
handle = call(0xC0106441, "=QII", 1 << 20, 0, 0)[1]           # DRM_IOCTL_EDU_CREATE
for _ in range(int(sys.argv[2])):
    call(0xC0186440, "=IIQQ", handle, 64, 0, 2048)            # DRM_IOCTL_EDU_COPY
fdinfo = open(f"/proc/self/fdinfo/{accelerator}").read()
print(os.getpid(), re.search(r"drm-engine-dma:\s+(\d+) ns", fdinfo)[1])
"""
NODE = {"in-place": "/dev/accel/accel0", "arm64.in-place": "/dev/dri/renderD128"}


@pytest.mark.parametrize("dut", list(NODE), indirect=True)
def test_the_schedulers_events_show_whose_job_ran_and_how_long(dut: machine.Machine) -> None:
    """Of 6.12: the task that queues a job, and its fence, by which its start and its end are told; no client, which 7.2 has."""
    events = "/sys/kernel/tracing/events/gpu_scheduler"

    def traced(jobs: int) -> tuple[int, int, str]:
        script = f"echo 1 >{events}/enable; echo >{events}/../../trace; python3 - {NODE[dut.configuration.name]} {jobs}"
        process, busy = dut.run(script, stdin=JOBS.encode()).split()
        return int(process), int(busy), dut.run(f"cat {events}/../../trace; echo 0 >{events}/enable; echo >{events}/../../trace")

    _, busy, trace = traced(0)
    assert (busy, re.findall(r": drm_\w+:", trace)) == (0, [])
    process, busy, trace = traced(2)
    queued = re.findall(r"-(\d+) .*: drm_sched_job: .* fence=(\w+), ring=edu", trace)
    started = re.findall(r" (\d+\.\d+): drm_run_job: .* fence=(\w+), ring=edu", trace)
    ended = re.findall(r" (\d+\.\d+): drm_sched_process_job: fence=(\w+) signaled", trace)
    fences = [fence for _, fence in queued]
    assert [int(task) for task, _ in queued] == [process, process]
    assert [fence for _, fence in started] == [fence for _, fence in ended] == fences
    worked = sum(float(end) - float(start) for (start, _), (end, _) in zip(started, ended, strict=True))
    assert busy / 1e9 <= worked  # the engine's time lies inside of its jobs'
