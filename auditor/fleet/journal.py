"""The journal of a fleet's run: JSON lines, each on the disk before what it tells of counts (`crosml-audit/fleet/1`).

    {"event": "run", "schema", "run", "at", "inventory", "devices"}     the first line; `inventory` is the sha256 of the file
    {"event": "started", "device", "attempt", "at"}
    {"event": "ended", "device", "attempt", "verdict", "failure", …}    the fields of `results.Ended`
    {"event": "resumed", "at"}
    {"event": "closed", "at", "exit"}                                    the run is complete, with its exit code

A last line that a power cut left unfinished is taken off when the run is resumed. The journal's lock is held by the controller and by all
processes that it started, so that no two write into one run.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auditor import files
from auditor.codec import decode_json
from auditor.errors import AuditError
from auditor.fleet.results import Ended
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from typing_extensions import Self

SCHEMA = "crosml-audit/fleet/1"
NAME = "journal.jsonl"
SIZE_LIMIT = 256 << 20
"""Bytes of a journal: 10,000 devices with 3 attempts each write 60 MB."""
WAIT = 40.0
"""Seconds that a run which is resumed waits for the processes of the controller before it, which end in half of that."""


@dataclass(frozen=True, slots=True)
class State:
    """What a journal says. `ended` has the last attempt of each device that ended, `started` the number of the last that began."""

    run: str = ""
    inventory: str = ""
    devices: tuple[str, ...] = ()
    ended: Mapping[str, Ended] = field(default_factory=dict)
    started: Mapping[str, int] = field(default_factory=dict)
    closed: int | None = None
    """The exit code of a run that is complete."""


@dataclass(frozen=True, slots=True)
class _Line:
    event: str
    schema: str = ""
    run: str = ""
    inventory: str = ""
    devices: tuple[str, ...] = ()
    device: str = ""
    attempt: int = 0
    exit: int = 0


class Journal:
    """The journal of one run, open and locked; use as a context manager. Raises AuditError with one line."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, NAME)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Open and lock it; what the controller before left of its last line is taken off."""
        try:
            self._file = open(self.path, "ab", buffering=0)  # until __exit__
            self._lock()
            _cut_unfinished(self.path)
        except OSError as error:
            self.__exit__()
            raise AuditError(visible(f"{self.path}: {error.strerror}")) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; the lock is held until whoever was started has ended, too."""
        if self._file is not None:
            self._file.close()

    @property
    def descriptor(self) -> int:
        """For processes that are started, to hold the lock."""
        assert self._file is not None, "used outside its context"
        return self._file.fileno()

    def _lock(self) -> None:
        end = time.monotonic() + WAIT
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > end:
                raise AuditError(visible(f"{self.path}: the run is in progress in another process"))
            time.sleep(0.1)

    def write(self, event: str, **more: Any) -> None:
        """Add a line, and have it on the disk."""
        assert self._file is not None, "used outside its context"
        line = json.dumps({"event": event, **more}).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) or 0 :]
            os.fsync(self.descriptor)
        except OSError as error:
            raise AuditError(visible(f"{self.path}: {error.strerror}")) from None

    def ended(self, ended: Ended) -> None:
        """An attempt ended."""
        self.write("ended", **ended.document())


def read(folder: str) -> State:
    """What the journal of a run says. Raises AuditError with one line where it cannot be read, or is none."""
    path = os.path.join(folder, NAME)
    data = files.read(path, SIZE_LIMIT, path, AuditError)
    complete = data.rpartition(b"\n")[0]
    run = _Line("")
    ended: dict[str, Ended] = {}
    started: dict[str, int] = {}
    closed = None
    for number, text in enumerate(complete.split(b"\n") if complete else (), 1):
        label = f"{path}: line {number}"
        line = decode_json(text, _Line, label)
        if (number == 1) is not (line.event == "run"):
            raise AuditError(visible(f"{label}: event: expected {'run' if number == 1 else 'another than run'}, got {line.event[:80]!r}"))
        if number == 1:
            run = line
            if line.schema != SCHEMA:
                raise AuditError(visible(f"{label}: schema: expected {SCHEMA}, got {line.schema[:80]!r}"))
        elif line.event == "started":
            started[line.device] = line.attempt
        elif line.event == "ended":
            ended[line.device] = decode_json(text, Ended, label)
        closed = line.exit if line.event == "closed" else None
    return State(run.run, run.inventory, run.devices, ended, started, closed)


def runs(folder: str) -> Iterator[str]:
    """The folders of the runs in a fleet's folder, the last first."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(folder), reverse=True):
            if os.path.isfile(os.path.join(folder, name, NAME)):
                yield os.path.join(folder, name)


def now() -> str:
    """The time, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat()


def _cut_unfinished(path: str) -> None:
    """Take an unfinished last line off a journal."""
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        at = end
        while at:
            start = max(0, at - 65536)
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            if found >= 0:
                at = start + found + 1
                break
            at = start
        if at < end:
            file.truncate(at)
