"""What processes hold of memory, read from outside them: mapped, put out to swap, in huge pages, or in a file that lies in memory.

The lines of /proc/PID/task/TID/status are those of the whole process, and stay with its other threads when the first has ended. A file in
memory (a memfd, shared memory, one of a tmpfs) has all its pages, also those in swap, in `st_blocks`; what of them is mapped is in VmRSS
already. Such a file is found by the descriptor of any thread, or by its mapping. A reading is whole or an error: what a live process does
not show is not 0. Sources: proc(5), Documentation/filesystems/proc.rst, mm/shmem.c (shmem_recalc_inode). Not seen: what the kernel
itself holds for a process (full pipes, page tables), and what was held between two readings alone; a control group counts both.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from auditor.inference.fdinfo import descriptor_tables, descriptors, tasks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

FileId: TypeAlias = tuple[int, int]
"""A file's device and inode."""

MAX_FILES = 4096
"""Files of a folder in memory that are looked at; of one with more, nothing is said."""

_MAX_STATUS, _MAX_MAPS = 1 << 16, 1 << 25
_REQUIRED = ("VmHWM", "VmRSS", "VmSwap")
_HUGE = "HugetlbPages"
_EXITING = 0x4
"""PF_EXITING of the flags in /proc/PID/stat: such a thread has given its memory back, or is about to."""
_IN_MEMORY = frozenset({0x01021994, 0x858458F6, 0x958458F6})
"""f_type of tmpfs, ramfs and hugetlbfs (include/uapi/linux/magic.h)."""
_HUGE_SIZES = (21, 30, 16, 25, 29)
"""Binary logarithms of the sizes of huge pages on x86-64 and aarch64."""
_MFD_HUGETLB, _MFD_HUGE_SHIFT = 0x4, 26
_MAPPING = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) [rwxsp-]{4} [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ([0-9]+)(?: |$)")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory: the greatest that were mapped at once, those mapped now, and those held beside what is mapped."""

    peak: int
    mapped: int
    beside: int


def read_memory(pids: Collection[int], own: Collection[FileId] = (), folder: str | None = None) -> Memory:
    """Add up what processes hold; `folder` is one that is theirs, and files of the auditor's `own` do not count.

    Raises ProcessLookupError once all have ended, another OSError where not everything can be read.
    """
    lines, files, mapped = [], dict[FileId, int](), dict[FileId, int]()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            lines.append(status_bytes(pid))
            files |= _held(pid)
            for file, (size, resident) in _mapped(pid, frozenset(own), frozenset(device for device, _ in files)).items():
                files.setdefault(file, size)
                mapped[file] = mapped.get(file, 0) + resident
    if not lines:
        raise ProcessLookupError
    if folder is not None and _is_in_memory(folder):
        files |= dict(_beneath(folder))
    beside = sum(max(0, size - mapped.get(file, 0)) for file, size in files.items() if file not in own)
    return Memory(
        peak=sum(each["VmHWM"] + each[_HUGE] for each in lines),
        mapped=sum(each["VmRSS"] + each[_HUGE] for each in lines),
        beside=beside + sum(each["VmSwap"] for each in lines),
    )


def status_bytes(pid: int) -> dict[str, int]:
    """Return the `kB` lines of a process's status in bytes: VmHWM, VmRSS, VmSwap and HugetlbPages among them.

    Raises ProcessLookupError once it has ended, another OSError where one of these is not there.
    """
    for task in tasks(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = _lines(_read(f"/proc/{pid}/task/{task}/status", _MAX_STATUS))
            if "VmRSS" not in lines and _is_ending(f"/proc/{pid}/task/{task}/stat"):
                continue
            if _HUGE not in lines and not _kernel_has_huge_pages():
                lines[_HUGE] = 0
            missing = [name for name in (*_REQUIRED, _HUGE) if name not in lines]
            if missing:
                raise OSError(f"/proc/{pid}/task/{task}/status: no {missing[0]}")
            return lines
    raise ProcessLookupError


def file_id(descriptor: int) -> FileId:
    """What a file is told by."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _lines(text: bytes) -> dict[str, int]:
    found = (line.split() for line in text.splitlines() if line.endswith(b" kB"))
    return {name.decode("ascii", "replace").rstrip(":"): int(number) * 1024 for name, number, _unit in found}


def _is_ending(path: str) -> bool:
    fields = _read(path, _MAX_STATUS).rpartition(b")")[2].split()
    return fields[0] in {b"Z", b"X"} or bool(int(fields[6]) & _EXITING)


@functools.cache
def _kernel_has_huge_pages() -> bool:
    return b"\nHugePages_Total:" in _read("/proc/meminfo", _MAX_STATUS)


def _held(pid: int) -> dict[FileId, int]:
    """The files in memory that descriptors of any thread hold, and their bytes."""
    found = {}
    for folder in descriptor_tables(pid):
        for name in descriptors(f"{folder}/fd"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                path = f"{folder}/fd/{name}"
                status = os.stat(path)
                if stat.S_ISREG(status.st_mode) and _is_in_memory(path):
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found


def _mapped(pid: int, own: Collection[FileId], devices: Collection[int]) -> dict[FileId, tuple[int, int]]:
    """The files in memory that a process maps: their bytes, and how many of them count as mapped already."""
    wanted = {*devices, *_devices_of_memory()}
    for task in tasks(pid):
        folder = f"/proc/{pid}/task/{task}"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            places = _places(_read(f"{folder}/maps", _MAX_MAPS), wanted, own)
            if not places and _is_ending(f"{folder}/stat"):
                continue  # the memory is with another thread
            resident = _resident(_read(f"{folder}/smaps", _MAX_MAPS)) if places else {}
            found = {}
            for file, place in places.items():
                with contextlib.suppress(FileNotFoundError):  # it is mapped no more
                    found[file] = os.stat(f"/proc/{pid}/map_files/{place}").st_blocks * 512, resident.get(file, 0)
            return found
    return {}


def _places(maps: bytes, devices: Collection[int], own: Collection[FileId]) -> dict[FileId, str]:
    """Where files of these devices are mapped, as map_files names it."""
    found = {}
    for line in maps.split(b"\n"):
        mapping = _MAPPING.match(line)
        if mapping and (file := _file(mapping))[0] in devices and file not in own:
            found[file] = f"{int(mapping[1], 16):x}-{int(mapping[2], 16):x}"
    return found


def _resident(smaps: bytes) -> dict[FileId, int]:
    """The bytes of each file that smaps counts as mapped, without a process's own copies of its pages."""
    found: dict[FileId, int] = {}
    file = None
    for line in smaps.split(b"\n"):
        if mapping := _MAPPING.match(line):
            file = _file(mapping)
            continue
        name, _, rest = line.partition(b":")
        sign = _SIGNS.get(name, 0)
        if file and sign:
            found[file] = found.get(file, 0) + sign * int(rest.split()[0]) * 1024
    return found


_SIGNS = {b"Rss": 1, b"Anonymous": -1, b"Shared_Hugetlb": 1, b"Private_Hugetlb": 1}


def _file(mapping: re.Match[bytes]) -> FileId:
    return os.makedev(int(mapping[3], 16), int(mapping[4], 16)), int(mapping[5])


@functools.cache
def _devices_of_memory() -> frozenset[int]:
    """The device numbers of what the kernel makes files in memory on; they have no mount that mountinfo would show."""
    found = set()
    for flags in (0, *(_MFD_HUGETLB | size << _MFD_HUGE_SHIFT for size in _HUGE_SIZES)):
        with contextlib.suppress(OSError):  # no pages of that size
            descriptor = os.memfd_create("device", os.MFD_CLOEXEC | flags)
            found.add(file_id(descriptor)[0])
            os.close(descriptor)
    return frozenset(found)


def _beneath(folder: str) -> Iterator[tuple[FileId, int]]:
    """The files in a folder that a stranger fills. Raises OSError where it is too much, or cannot be read."""
    count = 0
    for parent, _folders, names in os.walk(folder, onerror=_raise):
        for name in names:
            count += 1
            if count > MAX_FILES:
                raise OSError(f"{folder}: expected at most {MAX_FILES} files")
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(parent, name))
                yield (status.st_dev, status.st_ino), status.st_blocks * 512


def _raise(problem: OSError) -> None:
    if not isinstance(problem, FileNotFoundError):
        raise problem


def _is_in_memory(path: str) -> bool:
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int.from_bytes(buffer.raw[:4], "little") in _IN_MEMORY


def _read(path: str, limit: int) -> bytes:
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path}: expected at most {limit} bytes")
    return data
