"""How often each client asks each model, over a minute, an hour and a day. The figures outlive executors, models and connections."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor.inference.results import Budget

MAX_PAIRS = 4096
"""Pairs of client and model that are remembered; while all of them asked within a day, a new one is refused."""
PARTS = 60
"""Parts of a window. A request counts until the part that it fell in has left the window whole, so never too short."""

_WINDOWS = (("minute", 60.0), ("hour", 3600.0), ("day", 86400.0))


@dataclass(slots=True)
class _Window:
    """Requests in a sliding window, by its parts' numbers."""

    name: str
    part_seconds: float
    counts: collections.deque[tuple[int, int]] = field(default_factory=collections.deque)
    total: int = 0

    def forget(self, now: float) -> None:
        oldest = int(now / self.part_seconds) - PARTS
        while self.counts and self.counts[0][0] < oldest:
            self.total -= self.counts.popleft()[1]

    def add(self, now: float) -> None:
        part = int(now / self.part_seconds)
        before = self.counts.pop()[1] if self.counts and self.counts[-1][0] == part else 0
        self.counts.append((part, before + 1))
        self.total += 1


class Rates:
    """What was asked, by client and model."""

    def __init__(self, budget: Budget) -> None:
        self._limits = (budget.requests_per_minute, budget.requests_per_hour, budget.requests_per_day)
        self._windows: dict[tuple[str, str], tuple[_Window, ...]] = {}

    def refusal(self, client: str, model: str, now: float) -> str:
        """Count a request at `now`, in seconds of a clock that only grows; or say why it is refused, and do not count it."""
        windows = self._windows.get((client, model))
        if windows is None:
            if len(self._windows) >= MAX_PAIRS and not self._forget(now):
                return f"{MAX_PAIRS} clients and models asked within a day already"
            windows = self._windows[client, model] = tuple(_Window(name, seconds / PARTS) for name, seconds in _WINDOWS)
        for window, limit in zip(windows, self._limits, strict=True):
            window.forget(now)
            if window.total >= limit:
                return f"{limit} requests within {'an' if window.name == 'hour' else 'a'} {window.name} already"
        for window in windows:
            window.add(now)
        return ""

    def _forget(self, now: float) -> int:
        """Drop the pairs that did not ask within a day, and say how many."""
        for windows in self._windows.values():
            windows[-1].forget(now)
        idle = [pair for pair, windows in self._windows.items() if not windows[-1].total]
        for pair in idle:
            del self._windows[pair]
        return len(idle)
