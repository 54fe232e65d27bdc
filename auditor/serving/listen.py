"""Where the service listens: a Unix socket, a port of this machine's own, or a socket that systemd opened (sd_listen_fds(3))."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.errors import AuditError, UsageError
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BACKLOG = 128
_FIRST = 3
"""SD_LISTEN_FDS_START"""
_LOOPBACK = {"127.0.0.1": socket.AF_INET, "[::1]": socket.AF_INET6}
_CREDENTIALS = struct.Struct("=iII")
_MAX_PATH = 107


@dataclass(frozen=True, slots=True)
class Place:
    """A path of a Unix socket, or a loopback address and a port."""

    path: str | None = None
    host: str = ""
    port: int = 0


def read_place(text: str, option: str = "--listen") -> Place:
    """Read unix:PATH or tcp:127.0.0.1:PORT. Raises UsageError."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        if len(os.fsencode(rest)) > _MAX_PATH:
            raise UsageError(f"{option} {visible(text)[:200]}: expected a path of at most {_MAX_PATH} bytes")
        return Place(path=os.path.abspath(rest))
    found = re.fullmatch(r"(127\.0\.0\.1|\[::1\]):([0-9]{1,5})", rest)
    if kind == "tcp" and found and int(found[2]) < 1 << 16:
        return Place(host=found[1], port=int(found[2]))
    raise UsageError(
        f"{option} {visible(text)[:200]}: expected unix:PATH, tcp:127.0.0.1:PORT or tcp:[::1]:PORT: nothing else is listened at"
    )


def passed(environment: Mapping[str, str]) -> socket.socket | None:
    """The one socket that systemd passed to this process. Raises UsageError for more than one, or for one that does not listen."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    if environment.get("LISTEN_FDS") != "1":
        raise UsageError("LISTEN_FDS: expected one socket")
    try:
        found = socket.socket(fileno=_FIRST)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as problem:
        raise UsageError(f"LISTEN_FDS: descriptor {_FIRST}: {problem.strerror}") from None
    loopback = found.family == socket.AF_UNIX or found.getsockname()[0] in {"127.0.0.1", "::1"}
    if not listens or found.type != socket.SOCK_STREAM or not loopback:
        raise UsageError("LISTEN_FDS: expected a stream socket that listens, a Unix one or a loopback address's")
    found.setblocking(False)
    return found


@contextlib.contextmanager
def opened(place: Place, mode: int) -> Iterator[socket.socket]:
    """Listen at a place; a Unix socket has `mode`, and is gone afterwards. Raises AuditError."""
    try:
        if place.path is None:
            with socket.socket(_LOOPBACK[place.host], socket.SOCK_STREAM) as found:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                found.bind((place.host.strip("[]"), place.port))
                found.listen(BACKLOG)
                found.setblocking(False)
                yield found
            return
        _remove_left(place.path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as found:
            before = os.umask(0o777 & ~mode)
            try:
                found.bind(place.path)
            finally:
                os.umask(before)
            own = os.stat(place.path)
            try:
                found.listen(BACKLOG)
                found.setblocking(False)
                yield found
            finally:
                with contextlib.suppress(OSError):
                    now = os.stat(place.path)
                    if (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino):
                        os.unlink(place.path)
    except OSError as problem:
        raise AuditError(f"--listen: {visible(place.path or f'{place.host}:{place.port}')}: {problem.strerror}") from None


def shown(listening: socket.socket) -> str:
    """Where a socket listens, as --listen has it."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if listening.family == socket.AF_INET6 else name[0]
    return f"tcp:{host}:{name[1]}"


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket (unix(7), SO_PEERCRED). Raises OSError."""
    _pid, uid, _gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _remove_left(path: str) -> None:
    """Remove a socket that nobody listens at any more; another file is left alone. Raises OSError."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "expected no file, or a socket that nobody listens at")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its queue is full
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
