"""A control group of a worker's own, where this user may make one: the kernel counts what its processes take together, and limits it.

Version 1 of memory and pids below the group that this process is in, or version 2 below the nearest one that hands memory down to its
children (Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst). A group counts what was taken between two looks as well,
what the kernel holds for a process, and GEM buffers in shared memory; the first that reads a file has its pages counted, so a group's
peak is no proof of too much. Huge pages and memory that a driver takes elsewhere are in no such count (docs/dut.md).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Group: TypeAlias = "tuple[str, Mapping[str, str]]"
"""The folder of a group that is to be made, and what is to be written to its files."""

_REMOVE_SECONDS = 2.0
_PEAKS = ("memory.peak", "memory.memsw.max_usage_in_bytes", "memory.max_usage_in_bytes")


def plan(name: str, memory_bytes: int, threads: int) -> list[Group]:
    """The groups of that name that this user may be able to make; none where there is nothing to make them in."""
    mounts, own = dict(_mounts()), dict(_own_groups())
    found: list[Group] = []
    if "memory" in mounts:
        limit = str(memory_bytes)
        for controller, settings in (
            ("memory", {"memory.swappiness": "0", "memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": limit}),
            ("pids", {"pids.max": str(threads)}),
        ):
            if controller in mounts and controller in own:
                found.append((os.path.join(_below(mounts[controller], own[controller]), name), settings))
    elif "" in mounts and "" in own:
        parent = _parent(mounts[""], own[""])
        if parent is not None:
            limits = {"memory.max": str(memory_bytes), "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": str(threads)}
            found.append((os.path.join(parent, name), limits))
    return [(folder, settings) for folder, settings in found if os.access(os.path.dirname(folder), os.W_OK | os.X_OK)]


def make(groups: Sequence[Group]) -> None:
    """Make them, as far as that is possible."""
    for folder, settings in groups:
        with contextlib.suppress(OSError):
            os.mkdir(folder, 0o755)
            for name, text in settings.items():
                with contextlib.suppress(OSError):  # this kernel does not have it
                    _write(os.path.join(folder, name), text)


def join(groups: Sequence[Group]) -> None:
    """Have this process in them, before it has taken anything that is to be counted."""
    for folder, _settings in groups:
        with contextlib.suppress(OSError):
            _write(os.path.join(folder, "cgroup.procs"), "0")


def remove(groups: Sequence[Group]) -> None:
    """Remove them. The last process in one must have ended; the kernel may take a moment to see that."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    for folder, _settings in groups:
        while os.path.isdir(folder) and not _is_removed(folder) and time.monotonic() < deadline:
            time.sleep(0.005)


def peak_bytes(groups: Sequence[Group], pid: int) -> int | None:
    """The most memory that the group of a process had at once, in bytes; None where it is not in one of these, or that is not counted."""
    for folder, _settings in groups:
        for name in _PEAKS:
            with contextlib.suppress(OSError, ValueError):
                if _is_in(folder, pid):
                    return int(_read(os.path.join(folder, name)))
    return None


def _is_in(folder: str, pid: int) -> bool:
    return any(path.endswith(f"/{os.path.basename(folder)}") for _controller, path in _own_groups(str(pid)))


def _is_removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True


def _mounts() -> Iterator[tuple[str, tuple[str, str]]]:
    """Where each controller of version 1 is mounted, and version 2 by the name "": (root of the mount, where it is)."""
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        root, place = before.split(" ")[3:5]
        if kind == "cgroup2":
            yield "", (root, place)
        elif kind == "cgroup":
            for controller in {"memory", "pids"} & set(options.split(",")):
                yield controller, (root, place)


def _own_groups(pid: str = "self") -> Iterator[tuple[str, str]]:
    """The group that a process is in, of each controller, and of version 2 by the name ""."""
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        _number, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _below(mount: tuple[str, str], path: str) -> str:
    root, place = mount
    inside = path[len(root) :] if root != "/" and f"{path}/".startswith(f"{root}/") else path
    return os.path.join(place, inside.strip("/"))


def _parent(mount: tuple[str, str], path: str) -> str | None:
    """The nearest group from a process's own upwards that gives its children the memory controller."""
    folder, top = _below(mount, path), mount[1]
    while f"{folder}/".startswith(f"{top}/"):
        with contextlib.suppress(OSError):
            if "memory" in _read(os.path.join(folder, "cgroup.subtree_control")).split():
                return folder
        folder = os.path.dirname(folder)
    return None


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read(1 << 20)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
