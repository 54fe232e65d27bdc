"""Attempts to get out of a confinement, made by the auditor itself, in the very process that a delegate is about to be loaded into.

Each is harmless where it succeeds, and is made so that only a confinement refuses it: where one lets it through, it succeeds, or fails
for another reason (an argument that makes no sense).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
from typing import TYPE_CHECKING

from auditor.inference.worker import seccomp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from auditor.inference.worker.confine import Policy

REFUSALS = frozenset({"EACCES", "EPERM", "ENOSYS"})
"""What a confinement answers; ENOSYS is for calls that an older kernel would not have."""

_AF_NETLINK = 16
_CLONE_SIGHAND = 0x800
_F_SETOWN, _F_SETLEASE, _F_NOTIFY = 8, 1024, 1026
_FS_IOC_SETFLAGS, _CLOSE_RANGE_UNSHARE = 0x40086602, 2


def attempts(scratch: str, policy: Policy) -> list[dict[str, str | None]]:
    """Make all attempts: [{attempt, refused: name of the errno | None where it succeeded}]. `scratch` is the process's own folder.

    What the policy opens on purpose is not tried.
    """
    tried = [*_on_files(scratch, policy), *_on_others(), *_on_the_kernel(scratch)]
    return [{"attempt": name, "refused": _refused(action)} for name, action in tried]


def _refused(action: Callable[[], object]) -> str | None:
    try:
        action()
    except OSError as problem:
        return errno.errorcode.get(problem.errno or 0, str(problem.errno))
    return None


def _on_files(scratch: str, policy: Policy) -> Iterator[tuple[str, Callable[[], object]]]:
    opened = (*policy.readable, *policy.writable, *policy.devices)
    for name, path, flags in (
        ("read a file outside", "/proc/self/maps", os.O_RDONLY),
        ("list a folder outside", "/", os.O_RDONLY | os.O_DIRECTORY),
        ("open another device node", "/dev/zero", os.O_RDWR),
        ("read the controller's memory", f"/proc/{os.getppid()}/mem", os.O_RDONLY),
    ):
        if not _is_beneath(path, opened) and path not in policy.listable:
            yield name, lambda path=path, flags=flags: os.close(os.open(path, flags))  # type: ignore[misc]
    beside = scratch.rstrip("/") + "-escaped"
    if not _is_beneath(beside, (*policy.writable, *policy.devices)):
        yield "write a file outside", lambda: _make(beside)


def _on_others() -> Iterator[tuple[str, Callable[[], object]]]:
    controller = os.getppid()
    for name, family in (("network", socket.AF_INET), ("local", socket.AF_UNIX), ("netlink", _AF_NETLINK)):
        yield f"open a {name} socket", lambda family=family: socket.socket(family, socket.SOCK_DGRAM).close()  # type: ignore[misc]
    yield "execute a program", lambda: _call("execve", b"", None, None)
    yield "start a process", lambda: _call("clone", _CLONE_SIGHAND, 0, 0, 0, 0)
    yield "trace a process", lambda: _call("ptrace", -1, 0, 0, 0)
    yield "copy the controller's memory", lambda: _call("process_vm_readv", controller, None, 0, None, 0, 0)
    yield "signal the controller", lambda: os.kill(controller, 0)
    yield "have the kernel signal the controller", lambda: _call("fcntl", 0, _F_SETOWN, controller)
    yield "change the controller's limits", lambda: _call("prlimit64", controller, 0, None, None)


def _on_the_kernel(scratch: str) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "raise a limit", _raise_limit
    yield "enter the real-time class", _enter_real_time
    yield "change the mode of a file", lambda: os.chmod(scratch, 0o700)
    yield "leave a namespace", lambda: _call("unshare", 0)
    yield "mount a file system", lambda: _call("mount", None, None, None, 0, None)
    yield "have a table of descriptors that others do not see", lambda: _call("close_range", -1, 0, _CLOSE_RANGE_UNSHARE)
    yield "have others wait for a file", lambda: _call("fcntl", -1, _F_SETLEASE, 0)
    yield "be told of changes in a folder", lambda: _call("fcntl", -1, _F_NOTIFY, 0)
    yield "watch files", lambda: _call("inotify_add_watch", -1, None, 0)
    yield "change the flags of a file", lambda: _call("ioctl", -1, _FS_IOC_SETFLAGS, None)
    yield "set up io_uring", lambda: _call("io_uring_setup", 0, None)
    yield "load a BPF program", lambda: _call("bpf", -1, None, 0)
    yield "use the keyring", lambda: _call("keyctl", -1, 0, 0, 0, 0)
    yield "observe the machine's performance", lambda: _call("perf_event_open", None, 0, -1, -1, 0)


def _is_beneath(path: str, folders: tuple[str, ...]) -> bool:
    return any(f"{path}/".startswith(f"{os.path.realpath(folder).rstrip('/')}/") for folder in folders)


def _make(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(path)


def _raise_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard + 1))
    except ValueError as problem:  # what the module makes of EPERM
        raise PermissionError(errno.EPERM, str(problem)) from problem


def _enter_real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _call(name: str, *arguments: int | bytes | None) -> None:
    """Make a system call by its name in the tables. Raises OSError."""
    numbers = {call: number for number, call in seccomp.names(seccomp.machine()).items()} if seccomp.machine() else {}
    if name not in numbers:
        raise OSError(errno.ENOSYS, name)
    libc = ctypes.CDLL(None, use_errno=True)
    passed = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    if libc.syscall(ctypes.c_long(numbers[name]), *passed) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
