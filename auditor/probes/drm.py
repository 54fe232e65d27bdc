"""DRM nodes: who drives them, buffers of their own, and PRIME, by which they share them (include/uapi/drm/drm.h).

How a buffer is allocated is each driver's own matter: the table of families has one structure a driver, as plain data.
"""

from __future__ import annotations

import array
import os
import struct
from typing import TYPE_CHECKING

from auditor.families import FAMILIES
from auditor.families.table import PEERS, SIZE
from auditor.probes.ioctl import READ, WRITE, call, number

if TYPE_CHECKING:
    from auditor.families import Allocation

__all__ = ["SIZE", "address_space", "allocate", "close", "copies", "driver", "export", "import_", "known", "prime"]

_VERSION_LAYOUT = "@3iNPNPNP"
VERSION = number(READ | WRITE, "d", 0x00, struct.calcsize(_VERSION_LAYOUT))
GET_CAP = number(READ | WRITE, "d", 0x0C, 16)
GEM_CLOSE = number(WRITE, "d", 0x09, 8)
HANDLE_TO_FD = number(READ | WRITE, "d", 0x2D, 12)
FD_TO_HANDLE = number(READ | WRITE, "d", 0x2E, 12)
_CAP_PRIME = 0x5
_MSM_GET_PARAM = number(READ | WRITE, "d", 0x40, 24)
_MSM_PIPE_3D0, _MSM_PARAM_VA_SIZE = 0x10, 0x0F


def known(driver: str) -> Allocation | None:
    """How a driver of this name allocates a buffer."""
    family = FAMILIES.by_drm_name(driver)
    return family.allocation if family else PEERS.get(driver)


def copies(driver: str) -> int | None:
    """The command by which a driver's device copies inside of a buffer; None where there is none that is known."""
    family = FAMILIES.by_drm_name(driver)
    return family.copies if family else None


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


def address_space(node: int, driver: str) -> int | None:
    """The size of this process's own address space on the device; None where the driver does not say that there is one.

    msm answers MSM_PARAM_VA_SIZE only where it has page tables for each process (drivers/gpu/drm/msm/adreno/adreno_gpu.c).
    """
    if driver != "msm":
        return None
    try:
        return call(node, _MSM_GET_PARAM, "=IIQII", _MSM_PIPE_3D0, _MSM_PARAM_VA_SIZE, 0, 0, 0)[2] or None
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
