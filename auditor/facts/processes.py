"""The processes of a running system. Their numbers mean nothing tomorrow, so what is shown of them has none."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from auditor.facts.reading import parse
from auditor.facts.types import Fact, Listing, Missing, Ok, Restraint
from auditor.model import Remedy, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from auditor.facts.reading import Device
    from auditor.model import Evidence

THREADS = 4096
"""Threads of a process above which its confinement is not understood."""

_NUMBERED = re.compile(r"^/proc/[0-9]+(?=/|$)")
_PART = re.compile(r"/(task|fd)/[0-9]+(?=/|$)")


@dataclass(frozen=True, slots=True)
class _Thread:
    """The confinement of a thread, from its `status`."""

    uids: tuple[int, ...]
    capabilities: int
    no_new_privs: bool
    seccomp: int


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


def read_restraint(device: Device, process: str) -> Fact[Restraint] | None:
    """How a process is confined; None where it has ended. Seccomp, capabilities and user ids are a thread's own, not the process's."""
    numbers = device.names(f"/proc/{process}/task")
    if isinstance(numbers, Missing):
        return None if has_ended(device, process, numbers) else replace(numbers, evidence=unnumbered(numbers.evidence))
    if len(numbers.value) > THREADS:
        return Missing(Status.FAILED, unnumbered(numbers.evidence), f"more than {THREADS} threads", Remedy.EVIDENCE)
    threads: list[_Thread] = []
    evidence: list[Evidence] = [*unnumbered(numbers.evidence)]
    for number in numbers.value:
        found = parse(device.text(f"/proc/{process}/task/{number}/status"), _thread)
        if isinstance(found, Ok):
            threads.append(found.value)
            evidence += unnumbered(found.evidence, _shown(found.value))
        elif not has_ended(device, process, found):
            return Missing(found.status, unnumbered(found.evidence), found.note, found.remedy)
    if not threads:
        return None
    return Ok(_weakest(threads), tuple(dict.fromkeys(replace(item, sha256=None) for item in evidence)))


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


def _weakest(threads: Sequence[_Thread]) -> Restraint:
    return Restraint(
        uid=min(min(thread.uids) and thread.uids[1] for thread in threads),
        capabilities=reduce(or_, (thread.capabilities for thread in threads)),
        no_new_privs=all(thread.no_new_privs for thread in threads),
        seccomp=min(thread.seccomp for thread in threads),
    )


def _thread(text: str) -> _Thread:
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    uids = tuple(int(each) for each in fields["Uid"].split())
    if len(uids) != 4:
        raise ValueError("Uid: expected four numbers")
    return _Thread(
        uids=uids,
        capabilities=int(fields["CapEff"], 16),
        no_new_privs={"0": False, "1": True}[fields["NoNewPrivs"].strip()],
        seccomp={"0": 0, "1": 1, "2": 2}[fields["Seccomp"].strip()],
    )


def _shown(thread: _Thread) -> str:
    uids = " ".join(map(str, thread.uids))
    return f"Uid {uids} CapEff {thread.capabilities:x} NoNewPrivs {thread.no_new_privs:d} Seccomp {thread.seccomp}"


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
