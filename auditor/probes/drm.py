"""DRM nodes: who drives them, buffers of their own, and PRIME, by which they share them (include/uapi/drm/drm.h).

How a buffer is allocated is each driver's own matter: `ALLOCATIONS` has one structure a driver, as plain data.
"""

from __future__ import annotations

import array
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.probes.ioctl import READ, WRITE, call, number

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZE = 1 << 20
"""Bytes of a buffer of a driver's own: enough for a camera's small frame."""

_BASE = 0x40
"""DRM_COMMAND_BASE: the first command of a driver's own."""

_VERSION_LAYOUT = "@3iNPNPNP"
VERSION = number(READ | WRITE, "d", 0x00, struct.calcsize(_VERSION_LAYOUT))
GET_CAP = number(READ | WRITE, "d", 0x0C, 16)
GEM_CLOSE = number(WRITE, "d", 0x09, 8)
HANDLE_TO_FD = number(READ | WRITE, "d", 0x2D, 12)
FD_TO_HANDLE = number(READ | WRITE, "d", 0x2E, 12)
_CAP_PRIME = 0x5


@dataclass(frozen=True, slots=True)
class Allocation:
    """The command that allocates a buffer: what the header calls it, its number, and its structure by C names with what goes in.

    The result is in the field `handle` (or `bo_handle`). `layout` has no padding that is not a field.
    """

    header: str
    macro: str
    struct: str
    request: int
    layout: str
    fields: tuple[tuple[str, int], ...]

    @property
    def handle(self) -> int:
        """Where in the structure the kernel leaves the handle."""
        return next(at for at, (name, _) in enumerate(self.fields) if name in {"handle", "bo_handle"})


def _own(index: int, size: int) -> int:
    return number(READ | WRITE, "d", _BASE + index, size)


DUMB = Allocation(
    "drm/drm_mode.h", "DRM_IOCTL_MODE_CREATE_DUMB", "drm_mode_create_dumb", number(READ | WRITE, "d", 0xB2, 32), "=6IQ",
    (("height", 512), ("width", 512), ("bpp", 32), ("flags", 0), ("handle", 0), ("pitch", 0), ("size", 0)),
)  # fmt: skip
"""The structure of display drivers; also of vgem, and of drivers that take DRM's shmem buffers as they are."""

_SIZE_FLAGS_HANDLE = (("size", SIZE), ("flags", 0), ("handle", 0))
_EDU_CREATE = Allocation("", "DRM_IOCTL_EDU_CREATE", "edu_create", _own(0x01, 16), "=QII", (("size", SIZE), ("handle", 0), ("pad", 0)))

ALLOCATIONS: Mapping[str, Allocation] = {
    "amdxdna_accel_driver": Allocation(
        "drm/amdxdna_accel.h", "DRM_IOCTL_AMDXDNA_CREATE_BO", "amdxdna_drm_create_bo", _own(0x03, 32), "=QQQII",
        (("flags", 0), ("vaddr", 0), ("size", SIZE), ("type", 1), ("handle", 0)),  # AMDXDNA_BO_SHMEM
    ),
    # the test driver of the virtual devices
    "edu_accel": _EDU_CREATE,
    "edu_accel_intree": _EDU_CREATE,
    "ethosu": Allocation(
        "drm/ethosu_accel.h", "DRM_IOCTL_ETHOSU_BO_CREATE", "drm_ethosu_bo_create", _own(0x01, 16), "=QII", _SIZE_FLAGS_HANDLE,
    ),
    "etnaviv": Allocation(
        "drm/etnaviv_drm.h", "DRM_IOCTL_ETNAVIV_GEM_NEW", "drm_etnaviv_gem_new", _own(0x02, 16), "=QII",
        (("size", SIZE), ("flags", 0x00020000), ("handle", 0)),  # ETNA_BO_WC
    ),
    "i915": Allocation(
        "drm/i915_drm.h", "DRM_IOCTL_I915_GEM_CREATE", "drm_i915_gem_create", _own(0x1B, 16), "=QII",
        (("size", SIZE), ("handle", 0), ("pad", 0)),
    ),
    "intel_vpu": Allocation(
        "drm/ivpu_accel.h", "DRM_IOCTL_IVPU_BO_CREATE", "drm_ivpu_bo_create", _own(0x02, 24), "=QIIQ",
        (*_SIZE_FLAGS_HANDLE, ("vpu_addr", 0)),
    ),
    "msm": Allocation(
        "drm/msm_drm.h", "DRM_IOCTL_MSM_GEM_NEW", "drm_msm_gem_new", _own(0x02, 16), "=QII",
        (("size", SIZE), ("flags", 0x00020000), ("handle", 0)),  # MSM_BO_WC
    ),
    "panfrost": Allocation(
        "drm/panfrost_drm.h", "DRM_IOCTL_PANFROST_CREATE_BO", "drm_panfrost_create_bo", _own(0x02, 24), "=4IQ",
        (*_SIZE_FLAGS_HANDLE, ("pad", 0), ("offset", 0)),
    ),
    "panthor": Allocation(
        "drm/panthor_drm.h", "DRM_IOCTL_PANTHOR_BO_CREATE", "drm_panthor_bo_create", _own(0x05, 24), "=QIIII",
        (("size", SIZE), ("flags", 0), ("exclusive_vm_id", 0), ("handle", 0), ("pad", 0)),
    ),
    "qaic": Allocation(
        "drm/qaic_accel.h", "DRM_IOCTL_QAIC_CREATE_BO", "qaic_create_bo", _own(0x01, 16), "=QII",
        (("size", SIZE), ("handle", 0), ("pad", 0)),
    ),
    "rocket": Allocation(
        "drm/rocket_accel.h", "DRM_IOCTL_ROCKET_CREATE_BO", "drm_rocket_create_bo", _own(0x00, 24), "=IIQQ",
        (("size", SIZE), ("handle", 0), ("dma_address", 0), ("offset", 0)),
    ),
    "vgem": DUMB,
    "virtio_gpu": Allocation(
        "drm/virtgpu_drm.h", "DRM_IOCTL_VIRTGPU_RESOURCE_CREATE", "drm_virtgpu_resource_create", _own(0x04, 56), "=14I",
        # PIPE_TEXTURE_2D, VIRGL_FORMAT_B8G8R8A8_UNORM, VIRGL_BIND_RENDER_TARGET
        (("target", 2), ("format", 1), ("bind", 2), ("width", 512), ("height", 512), ("depth", 1), ("array_size", 1), ("last_level", 0),
         ("nr_samples", 0), ("flags", 0), ("bo_handle", 0), ("res_handle", 0), ("size", SIZE), ("stride", 2048)),
    ),
    "vkms": DUMB,
    "xe": Allocation(
        "drm/xe_drm.h", "DRM_IOCTL_XE_GEM_CREATE", "drm_xe_gem_create", _own(0x01, 56), "=QQ4IHHHHQQ",
        # placement: bit 0 is system memory; DRM_XE_GEM_CPU_CACHING_WB
        (("extensions", 0), ("size", SIZE), ("placement", 1), ("flags", 0), ("vm_id", 0), ("handle", 0), ("cpu_caching", 1),
         ("pad[0]", 0), ("pad[1]", 0), ("pad[2]", 0), ("reserved[0]", 0), ("reserved[1]", 0)),
    ),
}  # fmt: skip
"""By the name that a driver gives itself in DRM_IOCTL_VERSION."""

EDU_COPY = _own(0x00, 24)
"""The test driver's command by which the device itself copies: handle, length, source and destination in the buffer."""

COPIES: Mapping[str, int] = {"edu_accel": EDU_COPY, "edu_accel_intree": EDU_COPY}
"""Drivers whose device can be told to copy inside of a buffer by one command."""


def driver(node: int) -> str:
    """The name of a node's driver; raises OSError: ENOTTY where the node is none of DRM's."""
    name = array.array("B", bytes(64))
    length = call(node, VERSION, _VERSION_LAYOUT, 0, 0, 0, len(name) - 1, name.buffer_info()[0], 0, 0, 0, 0)[3]
    return name.tobytes()[: min(length, len(name) - 1)].decode("utf-8", "backslashreplace")


def prime(node: int) -> int | None:
    """DRM_CAP_PRIME: 1 import, 2 export; None where it cannot be had."""
    try:
        return call(node, GET_CAP, "=QQ", _CAP_PRIME, 0)[1] & 3
    except OSError:
        return None


def allocate(node: int, how: Allocation) -> int:
    """The handle of a new buffer, which ends with the node's descriptor; raises OSError."""
    return call(node, how.request, how.layout, *(value for _, value in how.fields))[how.handle]


def export(node: int, handle: int) -> int:
    """The descriptor of a buffer as a dma-buf; raises OSError."""
    return call(node, HANDLE_TO_FD, "=IIi", handle, os.O_CLOEXEC | os.O_RDWR, -1)[2]


def import_(node: int, buffer: int) -> int:
    """The handle of a dma-buf; raises OSError."""
    return call(node, FD_TO_HANDLE, "=IIi", 0, 0, buffer)[0]


def close(node: int, handle: int) -> None:
    """Give a handle back; raises OSError."""
    call(node, GEM_CLOSE, "=II", handle, 0)
