"""What a process's descriptors say of the devices behind them: memory of DRM clients and dma-bufs, and time on a device's engines.

Read from outside the process, in /proc/PID/task/*/fdinfo: a thread may have descriptors of its own, and go on after the first thread has
ended. Sources: Documentation/gpu/drm-usage-stats.rst (`drm-*`), drivers/dma-buf/dma-buf.c (`size`, `exp_name`), fs/proc/fd.c (`ino`,
Linux 5.14). A buffer that is only mapped, its descriptor closed and no DRM client holding it, is not seen. Memory that a driver without
these keys holds is nowhere else either (docs/dut.md): where the process has such a device open, what was seen is not all of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAX_DESCRIPTORS = 4096
"""Open files of a worker (its RLIMIT_NOFILE); of a process with more, nothing is said."""
MAX_THREADS = 1024
"""Threads of a worker; of a process with more, nothing is said."""

_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_FILES = 2

_MAX_BYTES = 1 << 16
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
_SIZES = ("drm-resident-", "drm-total-", "drm-memory-")
"""Prefixes of what a client holds of a region; the first that a driver writes counts, the last is the oldest name of the first."""
_ORDINARY = frozenset({1, 4, 5, *range(136, 144)})
"""Majors of character devices: null, zero and random numbers; terminals (Documentation/admin-guide/devices.txt)."""
_HEAPS = "/dev/dma_heap/"
_SHARED, _ENGINE, _CAPACITY = "drm-shared-", "drm-engine-", "drm-engine-capacity-"
_CYCLES, _TOTAL = "drm-cycles-", "drm-total-cycles-"


Engines: TypeAlias = Mapping[tuple[str, str, str], int]
"""Nanoseconds that each engine has worked so far, by device, client and engine."""
Cycles: TypeAlias = Mapping[tuple[str, str, str], tuple[int, int]]
"""The cycles that each engine has worked so far, and those that have passed, by the same."""


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """`bytes` of device memory, and how long engines of the accelerator have worked for which `clients` (drm-client-id) of it.

    Not `complete` where a device does not say what memory it holds.
    """

    bytes: int = 0
    engines: Engines = field(default_factory=dict)
    complete: bool = True
    cycles: Cycles = field(default_factory=dict)
    clients: frozenset[int] = frozenset()


def tasks(pid: int, proc: str = "/proc") -> list[int]:
    """The threads of a process. Raises ProcessLookupError once it has ended, another OSError where there are too many."""
    try:
        found = sorted(map(int, os.listdir(f"{proc}/{pid}/task")))
    except FileNotFoundError:
        raise ProcessLookupError from None
    if len(found) > MAX_THREADS:
        raise OSError(f"{proc}/{pid}: {len(found)} threads, expected at most {MAX_THREADS}")
    return found


def descriptor_tables(pid: int, proc: str = "/proc") -> list[str]:
    """The /proc folder of one thread for each table of descriptors that a process's threads have. Raises as `tasks` does.

    Threads that share one are told by kcmp(2), where the kernel has it.
    """
    found: list[int] = []
    for task in tasks(pid, proc):
        if not any(_share_descriptors(task, other) for other in found):
            found.append(task)
    return [f"{proc}/{pid}/task/{task}" for task in found]


def descriptors(folder: str) -> list[str]:
    """The names in a folder of descriptors; none once the thread has ended. Raises OSError if it cannot be read, or there are too many."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return []
    if len(names) > MAX_DESCRIPTORS:
        raise OSError(f"{folder}: {len(names)} descriptors, expected at most {MAX_DESCRIPTORS}")
    return names


def _share_descriptors(task: int, other: int) -> bool:
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return False
    arguments = (ctypes.c_long(value) for value in (number, task, other, _KCMP_FILES, 0, 0))
    return bool(ctypes.CDLL(None).syscall(*arguments) == 0)


def device_numbers(nodes: Iterable[str]) -> frozenset[int]:
    """The device numbers of character device nodes; of what is no node, none."""
    found = set()
    for node in nodes:
        with contextlib.suppress(OSError):
            status = os.stat(node)
            if stat.S_ISCHR(status.st_mode):
                found.add(status.st_rdev)
    return frozenset(found)


def read_device_use(pids: Iterable[int], accelerator: frozenset[int] = frozenset()) -> DeviceUse:
    """Read all descriptors of processes; `accelerator` are the device numbers whose engines count.

    Raises ProcessLookupError once all have ended, another OSError where this cannot be read.
    """
    folders = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            folders += descriptor_tables(pid)
    if not folders:
        raise ProcessLookupError
    texts: dict[str, str] = {}
    devices: set[str] = set()
    own: set[str] = set()
    for folder in folders:
        for name in descriptors(f"{folder}/fdinfo"):
            # one that is not there was closed since it was listed
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"{folder}/fdinfo/{name}", "rb") as file:
                    texts[f"{folder}/{name}"] = file.read(_MAX_BYTES).decode("ascii", "replace")
                if _holds_memory(f"{folder}/fd/{name}"):
                    devices.add(f"{folder}/{name}")
                if os.stat(f"{folder}/fd/{name}").st_rdev in accelerator:
                    own.add(f"{folder}/{name}")
    try:
        return device_use(texts, devices, frozenset(own))
    except ValueError as problem:
        raise OSError(f"{folders[0]}: {problem}") from problem


def device_use(texts: Mapping[str, str], devices: Collection[str] = (), own: Collection[str] = ()) -> DeviceUse:
    """Add up fdinfo's texts, by descriptor, of which `devices` are of devices and `own` of the accelerator.

    Raises ValueError for a figure that is not understood.

    Each client and each dma-buf counts once. A buffer of a client that is `shared` may be one of the dma-bufs that are held, or one whose
    descriptor was closed after sharing: of the two sums, the greater counts.
    """
    clients: dict[tuple[str, str], dict[str, str]] = {}
    workers: set[tuple[str, str]] = set()
    buffers: dict[str, int] = {}
    complete = True
    for descriptor, text in texts.items():
        keys = _keys(text)
        # the rest of a dma-buf's text is a name that the process itself chose, newlines and all
        if "exp_name" in keys:
            buffers[keys.get("ino", f"descriptor {descriptor}")] = _figure(keys.get("size", ""))
            continue
        client = keys.get("drm-pdev", ""), keys.get("drm-client-id", f"descriptor {descriptor}")
        accounted = "drm-driver" in keys and any(map(_is_size, keys))
        complete = complete and (accounted or ("drm-driver" not in keys and descriptor not in devices))
        if "drm-driver" in keys:
            clients[client] = keys
        if descriptor in own:
            workers.add(client)
    held = [(_total(keys, _SIZES), _total(keys, (_SHARED,))) for keys in clients.values()]
    alone = sum(max(0, size - shared) for size, shared in held)
    shared = sum(min(size, shared) for size, shared in held)
    told = [(client, name, value) for client, keys in clients.items() if client in workers for name, value in keys.items()]
    engines = {
        (*client, name.removeprefix(_ENGINE)): _figure(value, "ns")
        for client, name, value in told
        if name.startswith(_ENGINE) and not name.startswith(_CAPACITY)
    }
    passed = {(*client, name.removeprefix(_TOTAL)): value for client, name, value in told if name.startswith(_TOTAL)}
    worked = {(*client, name.removeprefix(_CYCLES)): value for client, name, value in told if name.startswith(_CYCLES)}
    cycles = {
        key: (int(worked[key]), int(passed[key])) for key in worked.keys() & passed if _is_number(worked[key]) and _is_number(passed[key])
    }
    known = frozenset(int(name) for _, name in workers & clients.keys() if _is_number(name))
    return DeviceUse(alone + max(shared, sum(buffers.values())), engines, complete, cycles, known)


def _holds_memory(path: str) -> bool:
    """Whether a descriptor is of a device that may hold memory: any but memory itself, terminals, and heaps, which give dma-bufs."""
    found = os.stat(path)
    ordinary = os.major(found.st_rdev) in _ORDINARY or os.readlink(path).startswith(_HEAPS)
    return stat.S_ISCHR(found.st_mode) and not ordinary


def _keys(text: str) -> dict[str, str]:
    """The `key: value` lines; the first of a name counts, which is the kernel's."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key, value.strip())
    return found


def _is_size(key: str) -> bool:
    return key.startswith(_SIZES) and not key.startswith(_TOTAL)


def _total(keys: Mapping[str, str], prefixes: tuple[str, ...]) -> int:
    sizes = [name for name in keys if not name.startswith(_TOTAL)]
    regions = {name.removeprefix(prefix): None for prefix in prefixes for name in sizes if name.startswith(prefix)}
    return sum(_figure(next(keys[prefix + region] for prefix in prefixes if prefix + region in keys)) for region in regions)


def _figure(text: str, unit: str | None = None) -> int:
    """`NUMBER [UNIT]`; in bytes, or of the unit that is expected."""
    number, _, written = text.partition(" ")
    if not _is_number(number) or not (written in _UNITS if unit is None else written == unit):
        raise ValueError(f"{text[:80]!r}, expected a number{'' if unit is None else f' of {unit}'}")
    return int(number) * _UNITS.get(written, 1)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
