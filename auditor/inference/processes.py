"""Which processes a process has started."""

from __future__ import annotations

import contextlib
import os


def descendants(pid: int, proc: str = "/proc") -> set[int]:
    """A process and all that it started, as far as they still have it for an ancestor: a delegate may work in a helper."""
    found, waiting = {pid}, [pid]
    while waiting:
        try:
            more = _children(f"{proc}/{waiting.pop()}/task") - found
        except FileNotFoundError:  # this kernel does not list them
            return _descendants(pid, proc)
        found |= more
        waiting += more
    return found


def _children(tasks_of: str) -> set[int]:
    """The processes that a process's threads started (proc(5), Linux 3.5 with PROC_CHILDREN); none once it has ended."""
    found: set[int] = set()
    for task in _names(tasks_of):
        with contextlib.suppress(ProcessLookupError):
            try:
                with open(f"{tasks_of}/{task}/children", encoding="ascii") as file:
                    found.update(map(int, file.read().split()))
            except FileNotFoundError:
                if os.path.exists(f"{tasks_of}/{task}"):
                    raise
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _descendants(pid: int, proc: str) -> set[int]:
    parents: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir(proc)):
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"{proc}/{name}/stat", encoding="ascii", errors="replace") as file:
            parents[int(name)] = int(file.read(4096).rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
