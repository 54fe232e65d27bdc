"""The controller listens to a worker's seccomp filter: it refuses what is to be refused, and so sees what a delegate was refused.

Files are opened or refused by Landlock alone; the calls that open them are only looked at here, and go on. What they name is read from
the worker's memory, which its other threads may change meanwhile: good for a report, and nothing is decided by it.
Not seen: files that are removed, renamed or linked where Landlock forbids it, and what the kernel itself refuses for want of privilege.
Sources: seccomp_unotify(2), pidfd_getfd(2), include/uapi/linux/seccomp.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import struct
import threading
from typing import TYPE_CHECKING, Any

from auditor.inference.memory import status_bytes
from auditor.inference.wire import bounded
from auditor.inference.worker import seccomp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auditor.inference.worker.confine import Policy

MAX_REFUSALS = 128
"""Different refusals that are kept of a worker."""

_PIDFD_GETFD = 438
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _RESPONSE = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1

_PATHS = {
    **dict.fromkeys(("open", "creat", "mkdir", "mknod", "truncate", "chmod", "chown", "lchown", "execve", "chroot", "utime", "utimes"), 0),
    **dict.fromkeys(("openat", "mkdirat", "mknodat", "fchmodat", "fchownat", "utimensat", "execveat"), 1),
}
"""Which argument is a path; where it is the second, the first is the folder that it is relative to."""
_FLAGS = {"open": 1, "openat": 2}
_AT_FDCWD = -100 & 0xFFFFFFFF
_MAX_PATH = 4096
_TICK_SECONDS = 0.2


class Refusals:
    """What one worker was refused. It listens in a thread of its own until it is closed or the worker has ended."""

    def __init__(self, pid: int, pidfd: int, listener: int, policy: Policy) -> None:
        """Take the worker's `listener`, a descriptor of its own, over. Raises OSError."""
        self._pid = pid
        self.peak_bytes: int | None = None
        """VmHWM of the program that the process had become, when it was about to end by itself; None before that."""
        self._writable = tuple(map(self._real, (*policy.writable, *policy.devices)))
        self._readable = (*map(self._real, (*policy.readable, *policy.executable)), *self._writable)
        self._listable = frozenset(map(self._real, policy.listable))
        self._names = seccomp.names(seccomp.machine())
        self._seen: dict[tuple[str, str | None], dict[str, Any]] = {}
        self._closed = threading.Event()
        self._may_execute = self._executed = False
        self._listener = take_descriptor(pidfd, listener)
        try:
            # held from now on: a process can make itself unreadable
            self._memory = self._open_memory()
        except OSError:
            os.close(self._listener)
            raise
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def seen(self) -> list[dict[str, Any]]:
        """What was refused so far: [{call, path | None, errno: its name, times}], in the order in which it was first seen."""
        return [dict(each) for each in list(self._seen.values())]

    def forget(self) -> None:
        """Begin anew."""
        self._seen = {}

    def let_execute(self) -> None:
        """Let the process execute one program, of those that Landlock lets it execute; what it executes after that is refused."""
        self._may_execute = True

    def close(self) -> None:
        """Listen no more. Whoever still waits for an answer is told that there is no such call."""
        self._closed.set()
        self._thread.join()
        os.close(self._listener)
        os.close(self._memory)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while not self._closed.is_set():
            events = poll.poll(_TICK_SECONDS * 1000)
            if any(event & (select.POLLHUP | select.POLLERR) for _descriptor, event in events):
                return
            if events:
                # the process that asked may be gone by now
                with contextlib.suppress(OSError):
                    self._answer()

    def _answer(self) -> None:
        received = bytearray(_NOTIFICATION.size)
        fcntl.ioctl(self._listener, _RECEIVE, received)
        identity, _task, _flags, number, _architecture, _address, *arguments = _NOTIFICATION.unpack(received)
        try:
            goes_on = self._decide(self._names.get(number, str(number)), arguments)
        except Exception:  # noqa: BLE001 - whatever a stranger's arguments bring about, who waits is answered, and so is the next
            goes_on = False
        response = _RESPONSE.pack(identity, 0, 0, _CONTINUE) if goes_on else _RESPONSE.pack(identity, 0, -errno.EPERM, 0)
        fcntl.ioctl(self._listener, _SEND, bytearray(response))

    def _decide(self, call: str, arguments: list[int]) -> bool:
        """Tell whether a call goes on, and note it where it is refused, here or by Landlock."""
        executes = call == "execve" and self._may_execute
        if executes:
            self._may_execute, self._executed = False, True
        elif self._executed:
            # the first thing that the program asks for: its memory is another one by now
            self._executed = False
            with contextlib.suppress(OSError):
                memory, self._memory = self._memory, self._open_memory()
                os.close(memory)
        path = self._path(call, arguments)
        if call == "exit_group":
            with contextlib.suppress(OSError):
                self.peak_bytes = status_bytes(self._pid)["VmHWM"]
        goes_on = (
            executes or call == "exit_group" or call in seccomp.OPENING or (call in seccomp.OWN_THREADS and self._is_own(call, arguments))
        )
        if call in _FLAGS and arguments[_FLAGS[call]] & (os.O_TRUNC | os.O_ACCMODE) == os.O_TRUNC:
            goes_on = False
        # noted before it is answered: as soon as the process goes on, what was seen may be asked for, or forgotten
        if not goes_on:
            self._note(call, path, "EPERM")
        elif call in seccomp.OPENING and path is not None and self._is_outside(call, arguments, path):
            self._note(call, path, "EACCES")
        return goes_on

    def _open_memory(self) -> int:
        return os.open(f"/proc/{self._pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def _note(self, call: str, path: str | None, reason: str) -> None:
        shown = None if path is None else bounded(path, 200)
        if (call, shown) in self._seen or len(self._seen) < MAX_REFUSALS:
            entry = self._seen.setdefault((call, shown), {"call": call, "path": shown, "errno": reason, "times": 0})
            entry["times"] += 1

    def _is_own(self, call: str, arguments: list[int]) -> bool:
        """Whether a call is about a thread of the worker's; a number that is no pointer cannot change any more."""
        if call == "setpriority" and arguments[0] & 0xFFFFFFFF != os.PRIO_PROCESS:
            return False
        return os.path.exists(f"/proc/{self._pid}/task/{arguments[call == 'setpriority'] & 0xFFFFFFFF}")

    def _path(self, call: str, arguments: list[int]) -> str | None:
        if call not in _PATHS:
            return None
        address, data = arguments[_PATHS[call]], b""
        with contextlib.suppress(OSError, OverflowError):
            # never across more pages than needed: the next one may not be there
            while len(data) < _MAX_PATH and b"\0" not in data:
                size = 4096 - (address + len(data)) % 4096
                part = os.pread(self._memory, size, address + len(data))
                if not part:
                    break
                data += part
        text = data.partition(b"\0")[0]
        return os.fsdecode(text) if text else None

    def _is_outside(self, call: str, arguments: list[int], path: str) -> bool:
        """Whether the policy does not open what a call asks for, as far as can be told from here; what is not there is not refused."""
        try:
            asked = self._absolute(call, arguments, path)
            # a stranger's tree may be deep; a link that leads out of it is not followed here
            if ".." not in asked.split("/") and _is_beneath(asked, self._writable):
                return False
            real = os.path.realpath(asked)
        except (OSError, ValueError):
            return False
        flags = arguments[_FLAGS[call]] if call in _FLAGS else os.O_CREAT | os.O_WRONLY
        if flags & os.O_PATH:
            return False
        there = os.path.lexists(real)
        makes = bool(flags & os.O_CREAT) and os.path.isdir(os.path.dirname(real))
        if there if call in {"mkdir", "mkdirat"} else not there and not makes:
            return False
        if flags & os.O_DIRECTORY and real in self._listable:
            return False
        writes = not there or flags & os.O_ACCMODE != os.O_RDONLY
        return not _is_beneath(real, self._writable if writes else self._readable)

    def _real(self, path: str) -> str:
        """Where a path of the policy leads to, for the process."""
        return path.replace("/proc/self/", f"/proc/{self._pid}/", 1) if path.startswith("/proc/self/") else os.path.realpath(path)

    def _absolute(self, call: str, arguments: list[int], path: str) -> str:
        own = f"/proc/{self._pid}"
        for name in ("/proc/self", "/proc/thread-self"):
            if f"{path}/".startswith(f"{name}/"):
                return own + path[len(name) :]
        if path.startswith("/"):
            return path
        folder = arguments[0] & 0xFFFFFFFF if _PATHS[call] == 1 else _AT_FDCWD
        return os.path.join(os.readlink(f"{own}/cwd" if folder == _AT_FDCWD else f"{own}/fd/{folder}"), path)


def _is_beneath(path: str, folders: Iterable[str]) -> bool:
    return any(f"{path}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)


def take_descriptor(pidfd: int, number: int) -> int:
    """A copy of a descriptor of a process that this one may trace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(*(ctypes.c_long(value) for value in (_PIDFD_GETFD, pidfd, number, 0)))
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"pidfd_getfd: {os.strerror(code)}")
    return int(descriptor)
