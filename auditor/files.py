"""The files that a person names: read whole and under a limit, written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile

from auditor.errors import AuditError, UsageError
from auditor.model import visible


def read(path: str, limit: int, label: str, error: type[Exception]) -> bytes:
    """The bytes of a regular file. Raises `error` with one line, led by `label`, where it is none or has more than `limit` bytes.

    A pipe or a device may never end, nor even begin: it is refused, not waited for.
    """
    try:
        with open(path, "rb", opener=_unhurried) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise error(visible(f"{label}: expected a regular file"))
            data = file.read(limit + 1)
    except (OSError, ValueError) as wrong:
        raise error(visible(f"{label}: {_reason(wrong)}")) from None
    if len(data) > limit:
        raise error(visible(f"{label}: expected at most {limit} bytes"))
    return data


def write(path: str, data: bytes, *, durable: bool = False) -> None:
    """Write a file by way of a temporary one beside it, so that nothing half-written is ever there; through a link, to where it leads.

    What is there and is no regular file (a terminal, a pipe, /dev/null) is written to, not replaced. `durable`: a power cut after the call
    does not lose it. Raises AuditError with one line.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                file.write(data)
        else:
            _replace(os.path.realpath(path), data, durable=durable)
    except (OSError, ValueError) as wrong:
        raise AuditError(visible(f"{path}: {_reason(wrong)}")) from None


def create(path: str, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file that must not exist yet, unless it is to be overwritten. Raises UsageError where it exists, AuditError as `write`."""
    if os.path.lexists(path) and not overwrite:
        raise UsageError(visible(f"{path}: already exists (--force overwrites it, --output names another file)"))
    write(path, data)


def sync_folder(folder: str) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def why_not_written(path: str, *, force: bool = True) -> str:
    """What keeps a file from being written, so far as it can be told beforehand; empty where nothing does.

    Without `force`, a file that exists keeps it; what is no regular file (a terminal, /dev/null) can always be written to.
    """
    folder = os.path.dirname(os.path.realpath(path))
    if not path or os.path.isdir(path):
        return "expected a file, not a folder"
    if not os.path.isdir(folder):
        return "expected a file in a folder that exists"
    if os.path.isfile(path) and not force:
        return "expected a new file; --force overwrites this one"
    if not os.access(path if os.path.exists(path) and not os.path.isfile(path) else folder, os.W_OK):
        return "expected a file in a folder that may be written"
    return ""


def _unhurried(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _replace(path: str, data: bytes, *, durable: bool) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=".crosml-audit-", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def _reason(wrong: Exception) -> str:
    return getattr(wrong, "strerror", None) or str(wrong)
