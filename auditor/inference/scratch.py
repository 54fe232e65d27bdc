"""What workers leave, their folders and control groups, where a supervisor was killed: the next service removes it.

Nobody holds the lock of such a folder any more.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time

from auditor import folders
from auditor.inference import group

PREFIX = "crosml-audit-worker-"
_YOUNG_SECONDS = 60.0
"""A folder is locked this soon after it is made."""


def sweep(young_seconds: float = _YOUNG_SECONDS) -> tuple[str, ...]:
    """Remove the folders of this user that nobody holds, and the groups of their workers where this process would make its own.

    Returns the paths of the folders.
    """
    place = tempfile.gettempdir()
    try:
        found = sorted(os.path.join(place, name) for name in os.listdir(place) if name.startswith(PREFIX))
    except OSError:
        return ()
    left = tuple(path for path in found if _is_left(path, young_seconds))
    for path in left:
        folders.remove(path)
        group.remove(group.plan(os.path.basename(path), 0, 0))
    return left


def _is_left(path: str, young_seconds: float) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or time.time() - status.st_mtime < young_seconds:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
