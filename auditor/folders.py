"""Temporary folders of our own that strangers write to: how one is removed, whatever is in it. Standard library's smallest part only."""

from __future__ import annotations

import contextlib
import os


def remove(folder: str) -> None:
    """Remove a folder and whatever a stranger left in it: folders that may not be read, or that lie deeper than a path is long.

    It goes from folder to folder, so this needs neither recursion nor long paths. Who filled it must have ended. What the kernel does not
    let this user remove stays.
    """
    with contextlib.suppress(OSError):
        _empty(folder)
        os.rmdir(folder)


def _empty(folder: str) -> None:
    here = _opened(folder, None)
    try:
        way: list[str] = []
        left = [_unlink_files(here)]
        while way or left[-1]:
            name = left[-1].pop() if left[-1] else ".."
            try:
                there = _opened(name, here)
            except OSError:
                if name == "..":
                    raise
                continue
            os.close(here)
            here = there
            if name == "..":
                left.pop()
                with contextlib.suppress(OSError):
                    os.rmdir(way.pop(), dir_fd=here)
            else:
                way.append(name)
                left.append(_unlink_files(here))
    finally:
        os.close(here)


def _opened(name: str, folder: int | None) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def _unlink_files(folder: int) -> list[str]:
    """Remove all but folders. Returns these, which may now be read and changed."""
    return [name for name in os.listdir(folder) if _is_folder(name, folder)]


def _is_folder(name: str, folder: int) -> bool:
    """Remove what has that name, and tell if it is a folder, which stays."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        with contextlib.suppress(OSError):
            # it is no link: that would have been removed
            os.chmod(name, 0o700, dir_fd=folder)
        return True
    except OSError:
        pass
    return False
