"""This machine, asked directly."""

from __future__ import annotations

import errno
import os
import platform

from auditor.model import Status, printable
from auditor.sources.base import Question, Reply, refused
from auditor.sources.filesystem import Tree, kernel_properties, udev_document

LOG_LIMIT = 8 << 20
"""Bytes of the kernel's log that are kept."""


class Live(Tree):
    """The machine that the auditor runs on. pyudev answers the udev question where it is installed."""

    kind = "live"

    def __init__(self, *, probes: bool = True) -> None:
        self._probes = probes
        super().__init__("/", printable(platform.node()) or "this machine")

    def ask(self, question: Question) -> Reply:
        """Answer from this machine; what must be tried is `unasked` where nothing may be."""
        if question.kind == "kernel_log":
            return _kernel_log()
        if question.kind == "probe" and self._probes:
            from auditor.probes import answer  # noqa: PLC0415  # most uses of this machine ask for none

            return answer(question)
        return super().ask(question)

    def _devices(self, subsystem: str, paths: list[str]) -> Reply:
        try:
            import pyudev  # noqa: PLC0415  # the agent on a device does without it

            found = [(each.sys_path, kernel_properties(each.properties)) for each in pyudev.Context().list_devices(subsystem=subsystem)]
        except (ImportError, ValueError):  # no pyudev, or no libudev behind it; a property that is not UTF-8, which pyudev does not read
            return super()._devices(subsystem, paths)
        return Reply(Status.OK, udev_document([{"sys": path, "properties": properties} for path, properties in found]))


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
