"""Commands to device nodes: their numbers, and how they are given."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE, WRITE, READ = 0, 1, 2


def number(direction: int, kind: str, index: int, size: int) -> int:
    """The number of a command, as x86, Arm and RISC-V encode it (include/uapi/asm-generic/ioctl.h)."""
    return direction << 30 | size << 16 | ord(kind) << 8 | index


def call(descriptor: int, request: int, layout: str, *values: int) -> tuple[int, ...]:
    """Give a command with a structure, and return the structure as the kernel leaves it; raises OSError."""
    data = bytearray(struct.pack(layout, *values))
    fcntl.ioctl(descriptor, request, data, True)
    return struct.unpack(layout, data)


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of a device node, without waiting for the device; raises OSError: ENXIO where the kernel calls the device otherwise."""
    _is_itself(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_itself(path: str) -> None:
    """Raise ENXIO for a node in the place of another: a name in /dev is anyone's to give, the kernel's own is in sysfs."""
    found = os.stat(path)
    place = f"/sys/dev/char/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}/uevent"
    try:
        with open(place, encoding="utf-8", errors="backslashreplace") as file:
            named = f"DEVNAME={os.path.realpath(path).removeprefix('/dev/')}" in file.read(65_536).splitlines()
    except OSError:
        named = False
    if not (named and stat.S_ISCHR(found.st_mode)):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))


def error_name(error: OSError) -> str:
    """The name of an errno; drivers also let ENOTSUPP out, which is the kernel's own (include/linux/errno.h)."""
    code = error.errno or 0
    return "ENOTSUPP" if code == 524 else errno.errorcode.get(code, f"E{code}")
