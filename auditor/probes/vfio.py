"""The VFIO probe: what VFIO itself says of the groups that user space may drive, and, on request, that the IOMMU stops a device.

    {"schema": "crosml-audit/probe/1", "probe": "vfio",
     "container": {"error": "", "api": 0, "type1": true, "type1v2": true, "noiommu": false},
     "unsafe_noiommu": "N",
     "groups": [{"node": "/dev/vfio/1", "error": "", "viable": true, "in_use": false,
                 "devices": [{"device": "pci:0000:00:05.0", "driver": "vfio-pci"}]}],
     "dma": [{"accelerator": "pci:0000:00:05.0", "error": "", "mapped": true, "unmapped": false, "unmapped_read": "0000000000000000",
              "faults": ["DMAR: [DMA Read NO_PASID] Request device [00:05.0] fault addr 0x900000 …"], "log_error": ""}]}

`error` is the name of an errno, and what it kept from being known is null. `viable` is VFIO's own judgement of the whole group
(VFIO_GROUP_FLAGS_VIABLE), `in_use` that someone else drives it. `unsafe_noiommu` is the switch as the kernel shows it, null where there is
none. `dma` is only there where it was asked for: of each device that can be told to copy by itself, whether it read the memory that was
mapped for it, and whether it read the same content at an address where nothing is mapped; `faults` is what the kernel's log said then.

Sources: Documentation/driver-api/vfio.rst; include/uapi/linux/vfio.h; QEMU's docs/specs/edu.rst.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import select
import struct
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from auditor.probes.buffers import closing
from auditor.probes.ioctl import call, error_name, number, opened
from auditor.sources.base import LOG_DEVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANGES = ("opens /dev/vfio/vfio and every VFIO group that nobody uses, and closes them again",)
DMA_CHANGES = (
    *CHANGES,
    "drives a QEMU edu device that is bound to vfio-pci from here: maps a page for it, and lets it go, which resets it",
    "has that device copy 8 bytes from and to the page, and from where nothing is mapped: the kernel's log keeps the fault",
)

VFIO = "/dev/vfio"
GROUPS = "/sys/kernel/iommu_groups"
PCI = "/sys/bus/pci/devices"
SWITCH = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
LIMIT = 256
"""Groups, devices of a group, and lines of the kernel's log."""


def _command(index: int) -> int:
    return number(0, ";", 100 + index, 0)


GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU, GROUP_GET_STATUS, GROUP_SET_CONTAINER = map(_command, range(5))
GROUP_GET_DEVICE_FD, DEVICE_GET_REGION_INFO, IOMMU_MAP_DMA = map(_command, (6, 8, 13))
_TYPE1, _TYPE1V2, _NOIOMMU = 1, 3, 8
_VIABLE, _CONTAINER_SET = 1, 2
_BAR0, _CONFIG = 0, 7
_READ_WRITE = 3

_EDU = ("0x1234", "0x11e8")
_SOURCE, _DESTINATION, _COUNT, _START = 0x80, 0x88, 0x90, 0x98
"""Registers of the edu device's DMA engine."""
_MEMORY = 0x40000
"""Where the edu device's own memory is in its address space."""
_MAPPED, _UNMAPPED = 0x100000, 0x900000
_PAGE = 0x1000
_TOKEN = 8
_FAULT = re.compile(r"fault|arm-smmu-v3 \S+: (event|(\\x09|\s)*0x)", re.IGNORECASE)
"""VT-d and AMD's IOMMU name it; SMMUv3 says `event 0x10 received:` and four words, the device's stream in the first one's upper half."""


def run() -> dict[str, Any]:
    """What VFIO says; nothing but opened."""
    return {"container": _container(), "unsafe_noiommu": _text(SWITCH), "groups": list(_groups())}


def run_dma() -> dict[str, Any]:
    """The same, and what the IOMMU lets through."""
    found = run()
    able = [
        (group["node"], each["device"].partition(":")[2])
        for group in found["groups"]
        if group["viable"]
        for each in group["devices"]
        if each["driver"] == "vfio-pci" and _is_edu(each["device"].partition(":")[2])
    ]
    return {**found, "dma": [_moved(node, address) for node, address in able]}


def _container() -> dict[str, Any]:
    known: dict[str, Any] = {"error": "", "api": None, "type1": None, "type1v2": None, "noiommu": None}
    try:
        with opened(f"{VFIO}/vfio") as container:
            known["api"] = fcntl.ioctl(container, GET_API_VERSION)
            for name, extension in (("type1", _TYPE1), ("type1v2", _TYPE1V2), ("noiommu", _NOIOMMU)):
                known[name] = bool(fcntl.ioctl(container, CHECK_EXTENSION, extension))
    except OSError as error:
        known["error"] = error_name(error)
    return known


def _groups() -> Iterator[dict[str, Any]]:
    nodes = [name for name in _names(VFIO) if name.removeprefix("noiommu-").isdecimal()]
    for name in nodes[:LIMIT]:
        group: dict[str, Any] = {"node": f"{VFIO}/{name}", "error": "", "viable": None, "in_use": None}
        try:
            with opened(group["node"]) as node:
                flags = call(node, GROUP_GET_STATUS, "=II", 8, 0)[1]
                group |= {"viable": bool(flags & _VIABLE), "in_use": bool(flags & _CONTAINER_SET)}
        except OSError as error:
            group["error"] = error_name(error)
            group["in_use"] = True if error.errno == errno.EBUSY else None
        devices = f"{GROUPS}/{name.removeprefix('noiommu-')}/devices"
        group["devices"] = [{"device": _subject(each), "driver": _driver(f"{devices}/{each}")} for each in _names(devices)[:LIMIT]]
        yield group


def _subject(name: str) -> str:
    return f"{'pci' if name.count(':') == 2 else 'platform'}:{name}"


def _driver(place: str) -> str:
    try:
        return os.path.basename(os.readlink(f"{place}/driver"))
    except OSError:
        return ""


def _is_edu(address: str) -> bool:
    return (_text(f"{PCI}/{address}/vendor"), _text(f"{PCI}/{address}/device")) == _EDU


def _moved(node: str, address: str) -> dict[str, Any]:
    """What the device at a PCI address could read, of what was mapped for it and of what was not."""
    result: dict[str, Any] = {"accelerator": f"pci:{address}", "error": "", "mapped": None, "unmapped": None, "unmapped_read": None}
    log = _Log()
    token = os.urandom(_TOKEN)
    try:
        with ExitStack() as stack:
            device = _Edu(stack, node, address)
            result["mapped"] = device.read(_MAPPED, token) == token
            seen = device.read(_UNMAPPED, token)
            result |= {"unmapped": seen == token, "unmapped_read": seen.hex()}
    except OSError as error:
        result["error"] = error_name(error)
    return {**result, "faults": log.faults(), "log_error": log.error}


class _Edu:
    """A QEMU edu device, driven through VFIO, with one page of memory mapped for it."""

    def __init__(self, stack: ExitStack, node: str, address: str) -> None:
        group = stack.enter_context(opened(node))
        container = stack.enter_context(opened(f"{VFIO}/vfio"))
        call(group, GROUP_SET_CONTAINER, "=i", container)
        fcntl.ioctl(container, SET_IOMMU, _TYPE1V2)
        name = bytearray(address.encode() + b"\0")
        self._device = closing(stack, fcntl.ioctl(group, GROUP_GET_DEVICE_FD, name, True))
        config = self._region(_CONFIG)
        os.pwrite(self._device, b"\x06\x00", config + 4)  # the command register: memory space, bus master
        self._registers = self._region(_BAR0)
        self._memory = array.array("B", bytes(2 * _PAGE))
        where = self._memory.buffer_info()[0]
        self._start = -where % _PAGE
        call(container, IOMMU_MAP_DMA, "=IIQQQ", 32, _READ_WRITE, where + self._start, _MAPPED, _PAGE)

    def read(self, address: int, token: bytes) -> bytes:
        """What the device reads at an address of its own, while the token lies at the mapped one. Its memory is overwritten before."""
        self._put(0, token)
        self._put(_PAGE // 2, b"\xff" * _TOKEN)
        self._copy(_MAPPED + _PAGE // 2, _MEMORY, 0)
        self._copy(address, _MEMORY, 0)
        self._copy(_MEMORY, _MAPPED + _PAGE // 2, 2)
        at = self._start + _PAGE // 2
        return self._memory[at : at + _TOKEN].tobytes()

    def _region(self, index: int) -> int:
        return call(self._device, DEVICE_GET_REGION_INFO, "=4IQQ", 32, 0, index, 0, 0, 0)[5]

    def _put(self, offset: int, data: bytes) -> None:
        at = self._start + offset
        self._memory[at : at + len(data)] = array.array("B", data)

    def _copy(self, source: int, destination: int, direction: int) -> None:
        for register, value in ((_SOURCE, source), (_DESTINATION, destination), (_COUNT, _TOKEN), (_START, 1 | direction)):
            os.pwrite(self._device, struct.pack("=Q", value), self._registers + register)
        deadline = time.monotonic() + 5
        while os.pread(self._device, 8, self._registers + _START)[0] & 1:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            time.sleep(0.01)


class _Log:
    """The kernel's log from now on; `error` where it may not be read."""

    def __init__(self) -> None:
        self.error = ""
        try:
            self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_END)
            self.error = "" if os.fstat(self._descriptor).st_rdev == LOG_DEVICE else "ENXIO"
        except OSError as error:
            self.error = error_name(error)

    def faults(self) -> list[str]:
        """The lines since then that speak of a fault; an interrupt writes them, so the first is waited for."""
        found: list[str] = []
        deadline = time.monotonic() + 1
        for _ in range(0 if self.error else LIMIT):
            wait = 0 if found else max(0.0, deadline - time.monotonic())
            if not select.select([self._descriptor], [], [], wait)[0]:
                break
            with suppress(BrokenPipeError):  # overwritten while we read
                prefix, _, text = os.read(self._descriptor, 8192).partition(b";")
                line = text.split(b"\n", 1)[0].decode("utf-8", "backslashreplace")
                found += [line] if _is_kernels(prefix) and _FAULT.search(line) else []
        return found


def _is_kernels(prefix: bytes) -> bool:
    """Whether the kernel itself wrote a record: facility 0, above bit 3 of the priority, which user space cannot claim (dev-kmsg)."""
    priority = prefix.partition(b",")[0]
    return priority.isdigit() and int(priority) >> 3 == 0


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read(256).strip()
    except OSError:
        return None
