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

    def __init__(self) -> None:
        super().__init__("/", printable(platform.node()) or "this machine")

    def ask(self, question: Question) -> Reply:
        """Answer from this machine."""
        if question.kind == "kernel_log":
            return _kernel_log()
        return super().ask(question)

    def _udev(self, question: Question) -> Reply:
        try:
            import pyudev  # noqa: PLC0415  # the agent on a device does without it
        except ImportError:
            return super()._udev(question)
        if not any(os.path.isdir(path) for path in (f"/sys/class/{question.path}", f"/sys/bus/{question.path}")):
            return Reply(Status.ABSENT, errno=errno.ENOENT)
        devices = pyudev.Context().list_devices(subsystem=question.path)
        return Reply(
            Status.OK,
            udev_document([{"sys": device.sys_path, "properties": kernel_properties(device.properties)} for device in devices]),
        )


def _kernel_log() -> Reply:
    """The records of /dev/kmsg, one a line, without their prefixes."""
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
            line = record.partition(b";")[2].split(b"\n", 1)[0]
            lines.append(line)
            size += len(line) + 1
    except BlockingIOError:
        pass
    except OSError as error:
        return refused(error)
    finally:
        os.close(descriptor)
    return Reply(Status.OK, b"\n".join(lines))
