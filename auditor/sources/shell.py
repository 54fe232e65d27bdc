"""A device without a usable Python, asked over ssh: a loop in POSIX sh answers the few questions, one at a time, over one connection.

It takes sh, stat, readlink and head (BusyBox, toybox or GNU); with dmesg and sha256sum it also has the kernel's log and digests without
copying the file. Nothing is written on the device. What is searched or hashed in pieces is copied here and read here, by the code that
reads a tree. Extended attributes and probes are `unasked`.

A request is a line: a letter, a path with its bytes as octal escapes, a number. The reply is data, and a line with a token that no data
can know, and the error that there was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import select
import shlex
import string
import subprocess
import time
from typing import IO, TYPE_CHECKING, NoReturn

from auditor.errors import AuditError
from auditor.model import Status, printable, visible
from auditor.sources.base import LIST_LIMIT, Question, Reply, refused
from auditor.sources.filesystem import CHUNK, Tree, check_regular, stat_document
from auditor.sources.kernel_log import LOG_LIMIT
from auditor.sources.live import covered_by
from auditor.sources.ssh import Lost, check_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

FILE_LIMIT = 256 << 20
"""Bytes of a file that are copied here to be searched."""
LIST_BYTES = LIST_LIMIT * 256
_SLACK = 1 << 16
"""Bytes that a reply may have in addition to the data: the token and the error."""
_BANNER_LIMIT = 1 << 20

# Errors are the last words of what a tool says, or the name that is printed here. File descriptor 3 is for data.
_RESPONDER = r"""
LC_ALL=C; export LC_ALL; PATH=$PATH:/bin:/usr/bin:/sbin:/usr/sbin; T=TOKEN; exec 3>&1
w() {
  d=${p%/*}/
  if [ -e "$p" ]; then echo "$1"
  elif ! [ -d "$d" ] && [ -e "${d%/}" ]; then echo ENOTDIR
  elif [ -d "$d" ] && ! [ -x "$d" ]; then echo EACCES
  else echo ENOENT; fi
}
printf '\n%s \n' "$T"
while read -r k a n; do
  p=$(printf '%bx' "$a"); p=${p%x}
  e=$({ case $k in
    l) if [ -L "$p" ]; then readlink "$p" >&3; else w EINVAL; fi;;
    s) if [ -e "$p" ] || [ -L "$p" ]; then stat -c '%f %u %g %s %b %d %i %t %T' "$p" >&3; else w EIO; fi;;
    r) head -c "$n" "$p" >&3;;
    h) sha256sum <"$p" >&3;;
    k) dmesg -r >&3;;
    i) uname -n >&3; echo "$$" >&3;;
    d) if ! [ -d "$p" ]; then w ENOTDIR; elif ! [ -r "$p" ] || ! cd "$p"; then echo EACCES; else
         for f in * .*; do
           case $f in .|..) continue;; \*|.\*) [ -e "./$f" ] || [ -L "./$f" ] || continue;; esac
           printf '%s\0' "$f" >&3
         done
       fi;;
  esac; } 2>&1)
  printf '\n%s %s\n' "$T" "$(printf '%s' "$e" | tail -n 1)" >&3
done
"""
_PLAIN = frozenset(f"/{string.ascii_letters}{string.digits}")
_STAT = re.compile(rb"([0-9a-f]+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+)\n")
_ERRORS = {name: number for number, name in errno.errorcode.items()}
_MESSAGES = {os.strerror(number): number for number in errno.errorcode}
_ODD = re.compile(rb"[^ -~]|\\")
"""What /dev/kmsg escapes (kernel/printk/printk.c: msg_add_ext_text), and dmesg does not."""
_RAW_LOG = re.compile(rb"<(\d+)>(?:\[ *\d+\.\d+\] ?)?(.*)")


class Shell(Tree):
    """One connection to a device that has a POSIX shell; use as a context manager. Raises AuditError where it ends."""

    kind = "ssh"

    def __init__(self, host: str, options: Sequence[str] = (), timeout: float = 120.0) -> None:
        check_host(host)
        self.host = host
        self._timeout = timeout
        self._token = secrets.token_hex(16)
        command = f"exec sh -c {shlex.quote(_RESPONDER.replace('TOKEN', self._token))}"
        self._arguments = ["ssh", "-T", "-o", "BatchMode=yes", *options, "--", host, command]
        self._process: subprocess.Popen[bytes] | None = None
        self._copies: dict[str, int] = {}
        self._copied = 0
        self._covered: frozenset[str] = frozenset()
        super().__init__("/", host)

    def __enter__(self) -> Self:
        """Connect, and ask who answers."""
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                self._arguments, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True
            )
            self._reply(_BANNER_LIMIT)
            self._begin()
        except OSError as error:
            self.__exit__()
            raise AuditError(f"--host {self.host}: ssh cannot be run: {error.strerror}") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up; the loop ends with its input."""
        for descriptor in self._copies.values():
            os.close(descriptor)
        self._copies = {}
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            self._process.kill()
            self._process.wait()

    def _begin(self) -> None:
        name, _, own = self._get("i", "", _SLACK)[0].partition(b"\n")
        self._names = printable(name) or self.host
        self._links["/proc/self"] = os.fsdecode(own.strip()) or None  # not of the readlink that would say so, and is gone
        self._covered = covered_by(self._get("r", "/proc/self/mountinfo", CHUNK)[0])

    def _target(self, path: str) -> str | None:
        if path in self._covered:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if path not in self._links:
            data, error = self._get("l", path, _SLACK)
            if error not in {0, errno.EINVAL}:
                raise OSError(error, os.strerror(error))
            self._links[path] = None if error else os.fsdecode(data.removesuffix(b"\n"))
        return self._links[path]

    def _link(self, question: Question) -> Reply:
        target = self._target(self._resolve(question.path, follow=False))
        return Reply(Status.FAILED, errno=errno.EINVAL) if target is None else Reply(Status.OK, os.fsencode(target))

    def _found(self, real: str) -> os.stat_result:
        """What lies at a resolved path."""
        data = self._wanted("s", real or "/", _SLACK)
        match = _STAT.fullmatch(data)
        if not match:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        mode, major, minor = (int(match[at], 16) for at in (1, 8, 9))
        uid, gid, size, blocks, dev, ino = (int(match[at]) for at in range(2, 8))
        more = {"st_blocks": blocks, "st_rdev": os.makedev(major, minor)}
        return os.stat_result((mode, ino, dev, 1, uid, gid, size, 0, 0, 0), more)

    def _stat(self, question: Question) -> Reply:
        real = self._resolve(question.path)
        return Reply(Status.OK, stat_document(real, self._found(real)))

    def _list(self, question: Question) -> Reply:
        data, error = self._get("d", self._resolve(question.path), LIST_BYTES)
        if error == errno.ENOTDIR:  # there, and no folder
            return Reply(Status.FAILED, errno=error)
        if error:
            raise OSError(error, os.strerror(error))
        found = data.split(b"\0")[:-1]
        if len(found) > LIST_LIMIT:
            return Reply(Status.FAILED, errno=errno.E2BIG)
        return Reply(Status.OK, b"".join(name + b"\0" for name in sorted(found)))

    def _read(self, question: Question) -> Reply:
        """The beginning of a file by itself; of a file that is read elsewhere, too, the whole is copied once."""
        offset, length = (int(number) for number in question.args)
        real = self._resolve(question.path)
        if offset or real in self._copies or length > CHUNK:
            return super()._read(question)
        check_regular(self._found(real))
        return Reply(Status.OK, self._wanted("r", real, length))

    def _open(self, path: str) -> int:
        real = self._resolve(path)
        if real not in self._copies:
            found = self._found(real)
            check_regular(found)
            if found.st_size > FILE_LIMIT - self._copied:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            data = self._wanted("r", real, max(found.st_size, CHUNK))
            self._copied += len(data)
            descriptor = os.memfd_create("crosml-audit-copy")
            self._copies[real] = descriptor
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        return os.dup(self._copies[real])

    def _digest(self, question: Question) -> Reply:
        real = self._resolve(question.path)
        if question.args == ("sha256",) and real not in self._copies:
            check_regular(self._found(real))
            data, error = self._get("h", real, _SLACK)
            if not error and re.match(rb"[0-9a-f]{64}\b", data):
                return Reply(Status.OK, data[:64])
        return super()._digest(question)

    def _xattr(self, question: Question) -> Reply:
        raise ValueError(question.kind)  # no tool of a base system reads them: unasked

    def _kernel_log(self, question: Question) -> Reply:
        """The kernel's own messages: what user space wrote there has a facility, above bit 3 of the priority."""
        del question
        data, error = self._get("k", "", LOG_LIMIT)
        if error:
            return refused(OSError(error, ""))
        found = (_RAW_LOG.fullmatch(line) for line in data.split(b"\n"))
        own = (match[2] for match in found if match and int(match[1]) >> 3 == 0)
        return Reply(Status.OK, b"\n".join(_ODD.sub(lambda byte: b"\\x%02x" % byte[0][0], line) for line in own))

    def _wanted(self, kind: str, path: str, limit: int) -> bytes:
        """The data of a reply. Raises OSError for its error."""
        data, error = self._get(kind, path, limit)
        if error:
            raise OSError(error, os.strerror(error))
        return data

    def _get(self, kind: str, path: str, limit: int) -> tuple[bytes, int]:
        """Ask, and take at most `limit` bytes: the data, and the number of the error, 0 where there was none."""
        escaped = "".join(chr(byte) if chr(byte) in _PLAIN else f"\\0{byte:03o}" for byte in os.fsencode(path))
        stdin = self._streams()[0]
        try:
            stdin.write(f"{kind} {escaped or '/'} {limit}\n".encode("ascii"))
        except OSError:
            self._lose("the connection ended")
        data, said = self._reply(limit)
        if not said:
            return data, 0
        words = said.rpartition(": ")[2].strip()
        return data, _ERRORS.get(words) or _MESSAGES.get(words) or errno.EIO

    def _reply(self, limit: int) -> tuple[bytes, str]:
        """Data up to the token, and the error that follows it."""
        stdout = self._streams()[1]
        mark = b"\n%s " % self._token.encode()
        data = bytearray()
        at = -1
        end = time.monotonic() + self._timeout
        while at < 0 or not data.endswith(b"\n"):
            if not select.select([stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                self._lose(f"no answer within {self._timeout:.0f} s")
            piece = os.read(stdout.fileno(), 1 << 16)
            if not piece:
                self._lose("the connection ended")
            data += piece
            if len(data) > limit + _SLACK:
                raise AuditError(f"--host {self.host}: its shell sends more than it was asked for")
            at = data.find(mark, max(0, len(data) - len(piece) - _SLACK))
        return bytes(data[:at]), bytes(data[at + len(mark) : -1]).decode("utf-8", "replace")

    def _lose(self, why: str) -> NoReturn:
        raise Lost(visible(f"--host {self.host}: {why}"))

    def _streams(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process is not None, "used outside its context"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout
