"""Work that may crash, hang or be killed, done in a process of its own, with what it changed put back in any case.

Two processes are forked. The *worker* does the work and writes its result to a pipe. The *keeper* does nothing but wait for the caller to
close another pipe, which also happens when the caller dies; a caller that is stopped, or hangs, it gives the worker's time and no more.
Then it ends the worker and restores. They share a session that is not the caller's, so that a terminal's signals reach neither. Forked,
not started: on a device this code may have no file that could be executed.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import time
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from auditor.model import Status
from auditor.sources.base import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULT_LIMIT = 1 << 20
"""Bytes of a result."""

GRACE = 5.0
"""Seconds that a worker has to die, and its keeper to restore."""

_MEMORY = 1 << 30
"""Bytes of address space that the work may add."""
_FILE = 16 << 20
"""Bytes of a file that the work may make (a memfd counts)."""


def supervised(work: Callable[[], dict[str, Any]], restore: Callable[[], None], seconds: int) -> Reply:
    """The document that `work` gives, as JSON with sorted keys; `restore` is called after it, in any case.

    An OSError of the work is `denied` or `failed` with its errno. Failed as well: too late (ETIMEDOUT), too long (EFBIG), ended without
    a result, or by any other exception (ECHILD), no document (EBADMSG).
    """
    result, give = os.pipe()
    wait, alive = os.pipe()
    keeper = _fork()
    if keeper == 0:
        status = 1
        try:
            os.setsid()
            _forget({give, wait})
            _keep(work, restore, give, wait, seconds)
            status = 0
        finally:
            os._exit(status)
    os.close(give)
    os.close(wait)
    try:
        data = _read(result, time.monotonic() + seconds)
    except OSError as error:
        return _refused(error.errno or errno.EIO)
    finally:
        os.close(result)
        os.close(alive)
        if _reap(keeper) != 0:  # the keeper was killed, or still waits for a worker that does not die
            with suppress(ProcessLookupError):
                os.killpg(keeper, signal.SIGKILL)
            restore()
    return _reply(data)


@contextmanager
def restored(restore: Callable[[], None]) -> Iterator[None]:
    """Have `restore` called in the end, in any case: a keeper waits for it, and outlives this process. It may be called twice."""
    wait, alive = os.pipe()
    keeper = _fork()
    if keeper == 0:
        status = 1
        try:
            os.setsid()
            _forget({wait})
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            os.read(wait, 1)  # nothing is ever written: it ends with the caller's side
            restore()
            status = 0
        finally:
            os._exit(status)
    os.close(wait)
    try:
        yield
    finally:
        os.close(alive)
        if _reap(keeper) != 0:  # it was killed
            restore()


def _keep(work: Callable[[], dict[str, Any]], restore: Callable[[], None], give: int, wait: int, seconds: int) -> None:
    """Start the worker; when the caller is done or dead, or should long have been, end it and restore."""
    worker = os.fork()
    if worker == 0:
        try:
            os.close(wait)
            signal.alarm(seconds + int(GRACE))  # a last resort, for when both of the others are killed
            _work(work, give)
        finally:
            os._exit(1)
    os.close(give)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    select.select([wait], [], [], seconds + GRACE)
    os.kill(worker, signal.SIGKILL)
    _reap(worker)
    restore()


def _work(work: Callable[[], dict[str, Any]], give: int) -> None:
    pages = int(_text("/proc/self/statm").split()[0])
    for what, limit in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + _MEMORY),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    answer: dict[str, Any]
    try:
        answer = {"document": work()}
    except OSError as error:
        answer = {"errno": error.errno or errno.EIO}
    data = json.dumps(answer, sort_keys=True).encode()
    while data:
        data = data[os.write(give, data) :]


def _fork() -> int:
    with warnings.catch_warnings():
        # That other threads hold locks is no matter: the child starts no thread, and imports nothing that they may be importing.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _forget(kept: set[int]) -> None:
    """Let go of what the caller had open (a connection would stay open with it), and of how it takes signals."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept | {0, 1, 2}:
            with suppress(OSError):
                os.close(int(name))


def _read(descriptor: int, deadline: float) -> bytes:
    """What the worker wrote until it ended; raises OSError."""
    data = b""
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(descriptor, 65_536)
        if not piece:
            return data
        data += piece
        if len(data) > RESULT_LIMIT:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _reap(child: int) -> int | None:
    """The status of a child that ends within the time it has; None for one that does not."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    return None


def _reply(data: bytes) -> Reply:
    if not data:
        return Reply(Status.FAILED, errno=errno.ECHILD)
    try:
        answer = json.loads(data)
        if "errno" in answer:
            return _refused(int(answer["errno"]))
        return Reply(Status.OK, json.dumps(answer["document"], sort_keys=True).encode())
    except (ValueError, KeyError, TypeError, RecursionError):
        return Reply(Status.FAILED, errno=errno.EBADMSG)


def _refused(number: int) -> Reply:
    """Never `absent`, which says something of a device: that a probe did not find what it needs does not."""
    return Reply(Status.DENIED if number in {errno.EACCES, errno.EPERM} else Status.FAILED, errno=number)


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
