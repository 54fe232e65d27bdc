"""Buffers of others, which an accelerator is asked to import: from dma-buf heaps, udmabuf, and V4L2 capture devices.

No stream of a camera is started: a queue of buffers is set up, one is shared, and the queue ends with the descriptor.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.probes.ioctl import READ, WRITE, call, number, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

HEAPS = "/dev/dma_heap"
UDMABUF = "/dev/udmabuf"
V4L2_LIMIT = 16
"""V4L2 nodes that are looked at."""

HEAP_ALLOC = number(READ | WRITE, "H", 0x0, 24)
UDMABUF_CREATE = number(WRITE, "u", 0x42, 24)
FASTRPC_ALLOC = number(READ | WRITE, "R", 1, 16)

QUERYCAP = number(READ, "V", 0, 104)
GET_FORMAT = number(READ | WRITE, "V", 4, 208)
REQUEST_BUFFERS = number(READ | WRITE, "V", 8, 20)
QUEUE_BUFFER = number(READ | WRITE, "V", 15, 88)
EXPORT_BUFFER = number(READ | WRITE, "V", 16, 64)
_BUFFER_LAYOUT = "=5I4x2q6IQ3I4x"
_STREAMING, _CAPTURE, _CAPTURE_PLANES = 0x04000000, 0x1, 0x1000
_TYPES = {_CAPTURE: 1, _CAPTURE_PLANES: 9}
"""enum v4l2_buf_type, by the capability."""
_MMAP, _DMABUF = 1, 4
"""enum v4l2_memory."""

_F_ADD_SEALS, _F_SEAL_SHRINK = 1033, 2
_ACCESS = os.O_RDWR | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Heap:
    """A dma-buf heap (include/uapi/linux/dma-heap.h)."""

    name: str
    path: str

    def buffer(self, stack: ExitStack) -> int:
        """The descriptor of a new buffer of one page, which every driver takes that needs contiguous memory."""
        node = stack.enter_context(opened(self.path))
        return closing(stack, call(node, HEAP_ALLOC, "=QIIQ", mmap.PAGESIZE, 0, _ACCESS, 0)[1])


@dataclass(frozen=True, slots=True)
class Udmabuf:
    """User memory as a dma-buf (include/uapi/linux/udmabuf.h)."""

    name: str = "udmabuf"

    def buffer(self, stack: ExitStack) -> int:
        """The descriptor of a page of memory."""
        node = stack.enter_context(opened(UDMABUF))
        memory = closing(stack, os.memfd_create("crosml-audit", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC))
        os.ftruncate(memory, mmap.PAGESIZE)
        fcntl.fcntl(memory, _F_ADD_SEALS, _F_SEAL_SHRINK)
        request = bytearray(struct.pack("=IIQQ", memory, 1, 0, mmap.PAGESIZE))
        return closing(stack, fcntl.ioctl(node, UDMABUF_CREATE, request, True))  # the descriptor is the result


@dataclass(frozen=True, slots=True)
class Capture:
    """A V4L2 device that captures (include/uapi/linux/videodev2.h)."""

    name: str
    path: str
    device: str
    """The kernel's name of the device behind it."""
    planes: bool
    """Whether it has the multi-planar interface."""

    def buffer(self, stack: ExitStack) -> int:
        """The descriptor of a buffer of its own."""
        node = stack.enter_context(opened(self.path))
        self._request(node, _MMAP)
        exported = call(node, EXPORT_BUFFER, "=4Ii11I", self._type, 0, 0, _ACCESS, -1, *[0] * 11)
        return closing(stack, exported[4])

    def take(self, stack: ExitStack, buffer: int, size: int) -> None:
        """Import a buffer, as far as its queue; raises OSError: EFBIG where a frame is larger than the buffer."""
        if struct.calcsize("P") != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        node = stack.enter_context(opened(self.path))
        found = bytearray(struct.pack("=I", self._type).ljust(208, b"\0"))
        fcntl.ioctl(node, GET_FORMAT, found, True)
        if struct.unpack_from("=I", found, 28)[0] > size:  # sizeimage, of the first plane
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._request(node, _DMABUF)
        plane = array.array("B", struct.pack("=2Iq12I", 0, size, buffer, *[0] * 12))
        where, length = (plane.buffer_info()[0], 1) if self.planes else (buffer, size)
        call(node, QUEUE_BUFFER, _BUFFER_LAYOUT, 0, self._type, *[0] * 10, _DMABUF, where, length, 0, 0)

    @property
    def _type(self) -> int:
        return _TYPES[_CAPTURE_PLANES if self.planes else _CAPTURE]

    def _request(self, node: int, memory: int) -> None:
        call(node, REQUEST_BUFFERS, "=5I", 1, self._type, memory, 0, 0)


def closing(stack: ExitStack, descriptor: int) -> int:
    """A descriptor that is closed with a stack."""
    stack.callback(os.close, descriptor)
    return descriptor


def heaps() -> Iterator[Heap]:
    """The dma-buf heaps of this machine."""
    try:
        names = sorted(os.listdir(HEAPS))
    except OSError:
        return
    for name in names[:16]:
        yield Heap(f"dma_heap:{name}", f"{HEAPS}/{name}")


def udmabuf() -> Iterator[Udmabuf]:
    """The device that makes dma-bufs of user memory, where this machine has it."""
    if os.path.exists(UDMABUF):
        yield Udmabuf()


def captures() -> Iterator[Capture]:
    """The V4L2 capture devices, one a driver."""
    try:
        names = sorted(name for name in os.listdir("/sys/class/video4linux") if name.startswith("video"))
    except OSError:
        return
    seen: set[str] = set()
    for name in names[:V4L2_LIMIT]:
        try:
            with opened(f"/dev/{name}") as node:
                found = call(node, QUERYCAP, "=104B", *[0] * 104)
        except OSError:
            continue
        driver = bytes(found[:16]).split(b"\0")[0].decode("utf-8", "backslashreplace")
        capabilities = struct.unpack_from("=I", bytes(found), 88)[0]
        if capabilities & _STREAMING and capabilities & (_CAPTURE | _CAPTURE_PLANES) and driver not in seen:
            seen.add(driver)
            device = os.path.basename(os.path.realpath(f"/sys/class/video4linux/{name}/device"))
            yield Capture(f"v4l2:{driver}", f"/dev/{name}", device, planes=not capabilities & _CAPTURE)


def fastrpc(stack: ExitStack, node: int, size: int) -> int:
    """The descriptor of a new buffer of a Hexagon DSP (include/uapi/misc/fastrpc.h)."""
    return closing(stack, call(node, FASTRPC_ALLOC, "=iIQ", -1, 0, size)[0])
