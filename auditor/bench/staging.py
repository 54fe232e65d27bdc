"""A folder of a device's own for what is copied there while its zoo is measured: chosen, made, filled. Standard library only."""

from __future__ import annotations

import mmap
import os
import shutil
import tarfile
import tempfile
from typing import IO, TYPE_CHECKING

from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/usr/local/tmp")  # noqa: S108  # a folder with a new name is made in one of them
"""Where a folder is made, behind $XDG_RUNTIME_DIR; on ChromeOS, only below /usr/local anything may be executed."""

SLACK = 16 << 20
"""Bytes that are wanted beside those of the files: for bytecode, and for what a delegate writes."""


class NoPlace(Exception):  # noqa: N818  # that is what is the matter
    """There is no folder to be had. The message names each place, and what is wrong with it."""


def places() -> tuple[str, ...]:
    """Where a folder may be made, in the order in which they are tried."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    return tuple(place for place in (own, *PLACES) if os.path.isdir(place))


def make(where: Sequence[str], size: int, *, execute: bool) -> str:
    """Make a folder in the first place that has room for so many bytes, and lets code be loaded from there. Raises NoPlace."""
    problems = []
    for place in where:
        folder, problem = _try(place, size, execute=execute)
        if not problem:
            return folder
        problems.append(f"{visible(place)}: {problem}")
    raise NoPlace("; ".join(problems) or "no folder to try")


def _try(place: str, size: int, *, execute: bool) -> tuple[str, str]:
    """A new folder in a place, or why there is none."""
    try:
        folder = tempfile.mkdtemp(prefix="crosml-audit-", dir=os.path.abspath(place))
    except OSError as error:
        return "", error.strerror or str(error)
    problem = _lacks(folder, size, execute=execute)
    if problem:
        shutil.rmtree(folder, ignore_errors=True)
    return folder, problem


def _lacks(folder: str, size: int, *, execute: bool) -> str:
    found = os.statvfs(folder)
    room = found.f_bavail * found.f_frsize
    # a ramfs counts nothing
    if size and found.f_blocks and room < size + SLACK:
        return f"has room for {room >> 20} MiB, expected at least {(size + SLACK) >> 20}"
    try:
        if execute:
            _load_from(folder)
    except PermissionError:
        return "lets no code be loaded from there (is it mounted noexec?)"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _load_from(folder: str) -> None:
    """Map a file of this folder as the dynamic linker maps code. Raises OSError."""
    path = os.path.join(folder, "code")
    with open(path, "w+b") as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        mmap.mmap(file.fileno(), mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
    os.unlink(path)


def unpack(stream: IO[bytes], folder: str) -> None:
    """Unpack a tar stream of folders and regular files into a folder. Raises OSError, and ValueError for anything else in it."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise ValueError(f"{visible(member.name)}: expected a path inside the folder")
            target = os.path.join(folder, member.name)
            os.makedirs(target if member.isdir() else os.path.dirname(target), exist_ok=True)
            content = None if member.isdir() else archive.extractfile(member)
            if content is not None:
                with open(target, "xb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
