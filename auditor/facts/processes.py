"""The processes of a running system. Their numbers mean nothing tomorrow, so what is shown of them has none."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from auditor.facts.reading import parse
from auditor.facts.types import Fact, Listing, Missing, Ok
from auditor.model import Remedy, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auditor.facts.reading import Device
    from auditor.model import Evidence

_NUMBERED = re.compile(r"^/proc/[0-9]+(?=/|$)")
_PART = re.compile(r"/(task|fd)/[0-9]+(?=/|$)")


def read_processes(device: Device) -> Fact[Listing[str]]:
    """The processes by their numbers, as texts in numerical order; `unread` where only a part of them may be in sight."""
    listed = device.names("/proc")
    if isinstance(listed, Missing):
        return listed
    numbers = sorted((name for name in listed.value if name.isascii() and name.isdecimal()), key=int)
    shown = unnumbered(listed.evidence)
    if "1" not in numbers:
        return Missing(Status.UNASKED, shown, "nothing runs there, or only this user's own processes are in sight", Remedy.LIVE)
    return Ok(Listing(tuple(numbers), shown, _out_of_sight(device)), shown)


def has_ended(device: Device, process: str, missing: Missing) -> bool:
    """Whether what could not be read of a process is missing because the process has ended since it was listed."""
    return missing.status is Status.ABSENT or (
        missing.status is Status.FAILED and device.stat(f"/proc/{process}").status is Status.ABSENT  # ESRCH, EINVAL
    )


def unnumbered(items: Iterable[Evidence], excerpt: str = "") -> tuple[Evidence, ...]:
    """Evidence about a process with `[pid]` in its paths, and in place of what the kernel says there, an excerpt that names no process."""
    return tuple(
        replace(
            item,
            path=_PART.sub(r"/\1/[n]", _NUMBERED.sub("/proc/[pid]", item.path)),
            excerpt=excerpt if item.status is Status.OK else "",
        )
        for item in items
    )


def _out_of_sight(device: Device) -> tuple[Missing, ...]:
    """In the first namespace of processes, number 2 is the kernel's own thread `kthreadd`; in any other, other processes are hidden."""
    second = parse(device.text("/proc/2/status"), lambda text: text.splitlines()[0])
    shown = unnumbered(second.evidence)
    if isinstance(second, Ok):
        if second.value == "Name:\tkthreadd":
            return ()
        return (Missing(Status.UNASKED, shown, "the processes outside of this namespace are not in sight", Remedy.LIVE),)
    if second.status is Status.ABSENT:
        return (Missing(Status.UNASKED, shown, "the kernel's threads are not in sight, so other processes may not be either", Remedy.LIVE),)
    return (replace(second, evidence=shown),)
