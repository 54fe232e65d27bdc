"""The kernel's log as it is kept in files: by dmesg, by reading /dev/kmsg, by a syslog daemon, by journalctl.

Sources: dmesg(1) (`--raw`, `--decode`), Documentation/ABI/testing/dev-kmsg, RFC 3164 and RFC 5424 as rsyslog writes them.
"""

from __future__ import annotations

import re

LOG_LIMIT = 8 << 20
"""Bytes of a log that are kept."""

LOG_FILES = ("/dev/kmsg", "/var/log/dmesg")
"""Where a tree of a device may hold its log, as a regular file."""

_RECORD = re.compile(rb"(\d{1,10}),\d+,\d+,[^;]{0,256};(.*)")
"""A record of /dev/kmsg: priority, number, time, flags; and the text."""

_RAW = re.compile(rb"<(\d{1,10})>(.*)")
_DECODED = re.compile(rb"(kern|user|daemon|syslog|auth|\w{2,8}) *:\w+ *: (\[.*)")
_DAEMON = re.compile(
    rb"(?:<\d{1,10}>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+)(?: [^\s:]+){0,2} ([^\s:\[]+)(?:\[\d+\])?: (.*)"
)
"""A line of syslog: a date, a host or a priority, the program, and the text."""


def saved_log(data: bytes) -> bytes:
    """The kernel's own messages of a log, one a line; what other programs wrote is left out where the file says who wrote what."""
    lines: list[bytes] = []
    for line in data[:LOG_LIMIT].splitlines():
        if (match := _RECORD.fullmatch(line)) or (match := _RAW.fullmatch(line)):
            text = match[2] if int(match[1]) >> 3 == 0 else None
        elif match := _DECODED.fullmatch(line):
            text = match[2] if match[1] == b"kern" else None
        elif match := _DAEMON.fullmatch(line):
            text = match[2] if match[1] == b"kernel" else None
        else:
            text = None if line.startswith(b" ") else line  # a record's further lines, ` KEY=value`
        if text is not None:
            lines.append(text)
    return b"\n".join(lines)
