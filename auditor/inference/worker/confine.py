"""A worker confines itself, before the first byte of a vendor's library is loaded into it; what is given up here cannot be taken back.

No new privileges, no capabilities, no real-time class, limits, Landlock (which files), seccomp (which system calls). Whatever the kernel
cannot do is said, and the controller decides what becomes of it. Standard library only; sources: prctl(2), capabilities(7), landlock(7).
Not stopped: looking at the names, sizes and times of any file; processor time and memory, which the controller watches; what an ioctl on
the accelerator's own node does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.inference.fdinfo import MAX_DESCRIPTORS
from auditor.inference.worker import seccomp

if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEM_LIBRARIES = (
    *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"),
    # the dynamic linker's list of them
    "/etc/ld.so.cache",
)
ABOUT_THE_PROCESSOR = ("/proc/cpuinfo", "/sys/devices/system/cpu")
"""How runtimes and drivers learn which kernels to use, and how many threads."""

MAX_FILE = 1 << 30
"""Bytes that a worker may write to one file (a delegate may cache what it compiled)."""
LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: MAX_FILE,
    resource.RLIMIT_NOFILE: MAX_DESCRIPTORS,
    resource.RLIMIT_RTPRIO: 0,
    resource.RLIMIT_NICE: 0,
    resource.RLIMIT_MSGQUEUE: 0,
}

_SET_NO_NEW_PRIVS, _CAPBSET_READ, _CAPBSET_DROP, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 38, 23, 24, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}

# the same numbers on every machine
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE, _READ, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR = (1 << bit for bit in range(8))
_MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM, _REFER, _TRUNCATE, _IOCTL_DEV = (1 << bit for bit in range(8, 16))
_ALL_BY_ABI = ((1, _REFER - 1), (2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL_DEV
_TO_READ = _READ | _READ_DIR
_TO_CHANGE_FOLDERS = _MAKE_REG | _MAKE_DIR | _MAKE_SYM | _MAKE_FIFO | _MAKE_SOCK | _REMOVE_FILE | _REMOVE_DIR | _REFER
_TO_WRITE = _TO_READ | _WRITE | _TRUNCATE | _TO_CHANGE_FOLDERS
_TO_DRIVE = _READ | _WRITE | _IOCTL_DEV

_NETWORK, _SCOPES = 3, 3
"""Binding and connecting of TCP (ABI 4); abstract sockets, and signals (ABI 6)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a confined process may open, each path with all below it: to read, to write, and to drive by ioctl.

    `executable` are the files of the one program that it becomes, once, when its controller says so: the program itself and its dynamic
    linker. Without any, nothing may be executed.
    """

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    executable: tuple[str, ...] = ()
    listable: tuple[str, ...] = ()
    """Folders whose names may be read, and nothing in them."""


def base_policy(scratch: str) -> Policy:
    """What every worker may open; `scratch` is a folder of its own."""
    return Policy((*SYSTEM_LIBRARIES, *ABOUT_THE_PROCESSOR, "/dev/urandom"), (scratch, "/dev/null"))


def confine(policy: Policy, *, notify: bool) -> dict[str, Any]:
    """Confine this process as far as the kernel can: {landlock_abi, listener: descriptor | None, problems: [text]}.

    With `notify`, someone must read the listener: until then, whoever opens a file waits.
    """
    abi, listener = landlock_abi(), None
    steps: dict[str, Callable[[], None]] = {
        # all that follows is of one thread, and inherited by those that it starts
        "threads": _be_alone,
        "limits": _limit,
        "scheduling": _leave_real_time,
        "new privileges": lambda: _prctl(_SET_NO_NEW_PRIVS, 1),
        "capabilities": _drop_capabilities,
        "Landlock": lambda: _landlock(policy, abi),
    }
    problems = [f"{name}: {problem}" for name, step in steps.items() if (problem := _problem_of(step))]
    try:
        listener = seccomp.install(notify=notify, must_listen=bool(policy.executable))
    except OSError as problem:
        problems.append(f"seccomp: {problem.strerror}")
    return {"landlock_abi": abi, "listener": listener, "problems": problems}


def landlock_abi() -> int:
    """The version of Landlock that the kernel offers; 0 for none."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def _problem_of(step: Callable[[], None]) -> str:
    try:
        step()
    except OSError as problem:
        return problem.strerror or str(problem)
    return ""


def _be_alone() -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise OSError(errno.EBUSY, f"{threads} run already, expected one")


def _limit() -> None:
    """Lower limits, soft and hard; without CAP_SYS_RESOURCE, nobody raises them again."""
    for name, most in LIMITS.items():
        hard = resource.getrlimit(name)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(name, (limit, limit))


def _leave_real_time() -> None:
    if os.sched_getscheduler(0) not in {os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE}:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _drop_capabilities() -> None:
    """Give up all five sets. Only who has CAP_SETPCAP may empty the bounding set; for others it only bounds what they cannot get."""
    with contextlib.suppress(PermissionError):
        for number in range(64):
            try:
                _prctl(_CAPBSET_READ, number)
            except OSError:
                break  # the kernel has no more
            _prctl(_CAPBSET_DROP, number)
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    name = seccomp.machine()
    if not name:
        raise OSError(errno.ENOTSUP, "no system call numbers for this machine")
    _call(_CAPSET[name], struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def _landlock(policy: Policy, abi: int) -> None:
    if not abi:
        raise OSError(errno.ENOSYS, "not in this kernel, or turned off")
    handled = sum(rights for version, rights in _ALL_BY_ABI if abi >= version)
    attributes = struct.pack("=QQQ", handled, _NETWORK if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    ruleset = _call(_CREATE_RULESET, attributes, 8 if abi < 4 else 16 if abi < 6 else 24, 0)
    try:
        for paths, rights in (
            (policy.readable, _TO_READ),
            (policy.writable, _TO_WRITE),
            (policy.devices, _TO_DRIVE),
            (policy.executable, _READ | _EXECUTE),
            (policy.listable, _READ_DIR),
        ):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there, or out of reach, cannot be opened anyway
    try:
        of_kind = rights if stat.S_ISDIR(os.fstat(beneath).st_mode) else rights & _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", of_kind, beneath), 0)
    finally:
        os.close(beneath)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    passed = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise _last_error()
    return int(result)


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(value) for value in (argument, 0, 0, 0))) < 0:
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
