"""What a person sees of a run: a table on a terminal, one line an event elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.model import visible

if TYPE_CHECKING:
    from typing import TextIO

    from typing_extensions import Self

    from auditor.fleet.results import Ended

_EVENTS = 6
"""Of what ended, how many lines the table shows."""
_REFRESH_SECONDS = 0.25


def told(ended: Ended, again: float | None) -> str:
    """An attempt's end in one line."""
    line = f"{ended.device}: {ended.told}{f': {ended.message}' if ended.message else ''} ({ended.seconds:.1f} s)"
    return visible(line if again is None else f"{line}; attempt {ended.attempt + 1} in {again:g} s")


class Lines:
    """One line an event."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, device: str, attempt: int) -> None:
        """Say that an audit began."""
        print(f"{device}: attempt {attempt}" if attempt > 1 else f"{device}: started", file=self._out, flush=True)

    def stage(self, device: str, text: str) -> None:
        """Is in the log."""

    def ended(self, ended: Ended, again: float | None) -> None:
        """Say how an attempt ended."""
        print(told(ended, again), file=self._out, flush=True)

    def tick(self, waiting: int) -> None:
        """Nothing to say."""


@dataclass(slots=True)
class _Audit:
    attempt: int
    since: float
    stage: str = ""


class Table:
    """A live table of what is being audited, with the last ends below; no longer than the terminal."""

    def __init__(self, devices: int, finished: int = 0) -> None:
        import rich.console  # noqa: PLC0415
        import rich.live  # noqa: PLC0415

        self._devices = devices
        self._counts = Counter({"finished before": finished} if finished else {})
        self._running: dict[str, _Audit] = {}
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._waiting = 0
        self._next = 0.0
        self._console = rich.console.Console(stderr=True)
        self._live: Any = rich.live.Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        self._live.stop()

    def started(self, device: str, attempt: int) -> None:
        """Show an audit."""
        self._running[device] = _Audit(attempt, time.monotonic())

    def stage(self, device: str, text: str) -> None:
        """Show what an audit is at."""
        if device in self._running:
            self._running[device].stage = text

    def ended(self, ended: Ended, again: float | None) -> None:
        """Take an audit off the table."""
        self._running.pop(ended.device, None)
        self._events.append(told(ended, again))
        if again is None:
            self._counts[ended.verdict.value if ended.verdict else "not carried out"] += 1

    def tick(self, waiting: int) -> None:
        """Draw it anew, a few times a second."""
        self._waiting = waiting
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _REFRESH_SECONDS
            self._show()

    def _show(self) -> None:
        import rich.console  # noqa: PLC0415
        import rich.table  # noqa: PLC0415
        import rich.text  # noqa: PLC0415

        table = rich.table.Table("device", "attempt", "seconds", "at", expand=True)
        room = max(1, self._console.height - _EVENTS - 6)
        for name, audit in list(self._running.items())[:room]:
            seconds = f"{time.monotonic() - audit.since:.0f}"
            table.add_row(*(rich.text.Text(visible(each), no_wrap=True) for each in (name, str(audit.attempt), seconds, audit.stage)))
        counts = ", ".join(f"{count} {word}" for word, count in sorted(self._counts.items())) or "none finished"
        line = f"{self._devices} devices: {counts}; {len(self._running)} at work, {self._waiting} waiting"
        below = rich.text.Text("\n".join([line, *self._events]), no_wrap=True, overflow="ellipsis")
        self._live.update(rich.console.Group(table, below), refresh=True)
