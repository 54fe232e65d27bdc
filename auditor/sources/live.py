"""This machine, asked directly."""

from __future__ import annotations

import errno
import os
import platform
import re
from typing import TYPE_CHECKING

from auditor.model import Status, printable
from auditor.sources.base import LOG_DEVICE, UNASKED, Question, Reply, refused
from auditor.sources.filesystem import Tree, kernel_properties, udev_document
from auditor.sources.kernel_log import LOG_LIMIT

MOUNTS = "/proc/self/mountinfo"
KERNELS = {
    "/proc": "proc",
    "/sys": "sysfs",
    "/sys/kernel/debug": "debugfs",
    "/sys/kernel/debug/tracing": "tracefs",
    "/sys/kernel/security": "securityfs",
    "/sys/kernel/tracing": "tracefs",
}
"""Where the kernel speaks for itself, and by which file system."""

if TYPE_CHECKING:
    from collections.abc import Callable


_OCTAL = re.compile(rb"\\([0-7]{3})")


class Live(Tree):
    """The machine that the auditor runs on. pyudev answers the udev question where it is installed."""

    kind = "live"

    def __init__(self, probe: Callable[[Question], Reply] = lambda _question: UNASKED) -> None:
        """`probe` answers the questions that must be tried; without it they are `unasked`."""
        self._probe = probe
        self._covered = covered(MOUNTS)
        super().__init__("/", printable(platform.node()) or "this machine")

    def ask(self, question: Question) -> Reply:
        """Answer from this machine."""
        if question.kind == "kernel_log":
            return _kernel_log()
        if question.kind == "probe":
            return self._probe(question)
        return super().ask(question)

    def _target(self, path: str) -> str | None:
        """As of any tree; but what someone mounted over the kernel's own files is not the kernel's word, and is not read."""
        if path in self._covered:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return super()._target(path)

    def _devices(self, subsystem: str, paths: list[str]) -> Reply:
        try:
            import pyudev  # noqa: PLC0415  # the agent on a device does without it

            found = [(each.sys_path, kernel_properties(each.properties)) for each in pyudev.Context().list_devices(subsystem=subsystem)]
        except (ImportError, ValueError):  # no pyudev, or no libudev behind it; a property that is not UTF-8, which pyudev does not read
            return super()._devices(subsystem, paths)
        if not self._covered.isdisjoint(f"{path}/uevent" for path, _ in found):  # libudev reads whatever lies there
            return super()._devices(subsystem, paths)
        return Reply(Status.OK, udev_document([{"sys": path, "properties": properties} for path, properties in found]))


def covered(mounts: str) -> frozenset[str]:
    """The paths in /proc and /sys where something else is mounted than belongs there, by a mountinfo file; both, where it cannot be read.

    What belongs there is the kernel's file system, or a part of it in its own place (/proc/sys, made read-only).
    Source: Documentation/filesystems/proc.rst.
    """
    try:
        with open(mounts, "rb") as file:
            return covered_by(file.read())
    except OSError:
        return covered_by(b"")


def covered_by(mountinfo: bytes) -> frozenset[str]:
    """As `covered`, of a mountinfo file's content; both, where it is none."""
    own: set[str] = set()
    foreign: set[str] = set()
    try:
        for line in (line.split(b" ") for line in mountinfo.splitlines()):
            root, point = (os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8)]), field)) for field in line[3:5])
            kind = os.fsdecode(line[line.index(b"-") + 1])
            belongs = any(kind == wanted and (place + root).rstrip("/") == point for place, wanted in KERNELS.items())
            (own if belongs else foreign).add(point)
    except (ValueError, IndexError):
        own, foreign = set(), set()
    return frozenset({*(each for each in foreign if each.startswith(("/proc", "/sys"))), *({"/proc", "/sys"} - own)})


def _kernel_log() -> Reply:
    """The kernel's own records of /dev/kmsg, one a line, without their prefixes: what user space wrote there is left out.

    The kernel marks that with the facility, above bit 3 of the priority (Documentation/ABI/testing/dev-kmsg); 0 cannot be claimed.
    """
    try:
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return refused(error)
    lines: list[bytes] = []
    size = 0
    try:
        if os.fstat(descriptor).st_rdev != LOG_DEVICE:
            return Reply(Status.FAILED, errno=errno.ENXIO)
        while size < LOG_LIMIT:
            try:
                record = os.read(descriptor, 8192)
            except BrokenPipeError:  # overwritten while we read: go on with the next
                continue
            if not record:  # the kernel's log has no end: this is something else in its place
                return Reply(Status.FAILED, errno=errno.EIO)
            prefix, _, text = record.partition(b";")
            priority = prefix.partition(b",")[0]
            if priority.isdigit() and int(priority) >> 3 == 0:
                lines.append(text.split(b"\n", 1)[0])
                size += len(lines[-1]) + 1
    except BlockingIOError:
        pass
    except OSError as error:
        return refused(error)
    finally:
        os.close(descriptor)
    return Reply(Status.OK, b"\n".join(lines))
