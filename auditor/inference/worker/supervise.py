"""The supervisor of one worker: a process of ours, in which nothing of a vendor's ever is, that starts it and ends all that it started.

It ends when its worker's controller does, however that goes: by itself, by any signal, or held up for ever by something else. All the
kernel's doing: the controller's end of the pipe of requests is closed then. So no process of the worker's is left, none of its files,
and no control group. The worker is in a session of its own, cannot signal this process once it is confined, and dies with it. What it
started and left behind becomes this process's child (PR_SET_CHILD_SUBREAPER).

It writes two lines to a pipe that the worker never has: {pid}, and when the worker and all that it started have ended, {exit, signal,
cpu_ns, peak_bytes}, as wait4(2) has it of the worker. It is also the worker's only parent: the greatest resident size of getrusage(2)
survives execve, and a program that a large process started would call that size its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NoReturn

from auditor import folders
from auditor.inference import group
from auditor.inference.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from auditor.inference.group import Group

_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36
_END_SECONDS = 10.0
_TICK_SECONDS = 0.002
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
"""What another process may end one with, apart from SIGKILL. They are ignored."""


def main(requests: int, ends: int, folder: str, groups: Sequence[Group], command: list[str], environment: dict[str, str]) -> NoReturn:
    """Make the worker's `folder` and its control `groups`, start `command` in them, and outlive both it and the controller."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(ends, False)
    os.mkdir(folder, 0o700)
    try:
        # as long as it is locked, nobody sweeps it (scratch.py)
        fcntl.flock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_EX | fcntl.LOCK_NB)
        group.make(groups)
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        child = os.fork()
        if not child:
            _become(folder, groups, command, environment)
        _supervise(child, requests, ends)
    finally:
        clean(folder, groups)
    os._exit(0)


def clean(folder: str, groups: Sequence[Group]) -> None:
    """Remove what a worker's supervisor made."""
    folders.remove(folder)
    group.remove(groups)


def _become(folder: str, groups: Sequence[Group], command: list[str], environment: dict[str, str]) -> NoReturn:
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        group.join(groups)
        os.execve(command[0], command, environment)  # noqa: S606 - our own command, no shell
    finally:
        os._exit(127)


def _supervise(child: int, requests: int, ends: int) -> None:
    worker = os.pidfd_open(child)
    try:
        _tell(ends, {"pid": child})
        poll = select.poll()
        poll.register(requests, 0)
        poll.register(worker, select.POLLIN)
        poll.poll()
    finally:
        signal.pidfd_send_signal(worker, signal.SIGKILL)
        _child, status, used = os.wait4(child, 0)
        _end_all()
    code = os.waitstatus_to_exitcode(status)
    _tell(
        ends,
        {
            "exit": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "cpu_ns": round((used.ru_utime + used.ru_stime) * 1e9),
            "peak_bytes": used.ru_maxrss * 1024,
        },
    )
    poll.unregister(worker)
    poll.poll()


def _tell(ends: int, what: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody is there any more
        os.write(ends, json.dumps(what).encode() + b"\n")


def _end_all() -> None:
    """End whatever is left below this process, and what that starts meanwhile, for so long at most."""
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        _kill(descendants(os.getpid()) - {os.getpid()})
        time.sleep(_TICK_SECONDS)


def _kill(pids: Collection[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
