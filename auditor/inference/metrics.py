"""What the service counts and times, under the ML service's names (chromiumos/platform2, ml/metrics.cc and ml/request_metrics.h).

`MachineLearningService.<Model>.<Request>.Event` counts results; `.TotalMemoryDeltaKb` and `.CpuTimeMicrosec` are of the model's worker
during the request, memory as VmRSS + VmSwap. The design asks for three that have no name there: `.ElapsedTimeMicrosec` of each request,
`MachineLearningService.<Model>.TimeToFirstExecuteMicrosec`, and `MachineLearningService.<Model>.TotalMemoryKb`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import enum
    from collections.abc import Mapping

SERVICE = "MachineLearningService"
LOAD, CREATE, EXECUTE = "LoadModelResult", "CreateGraphExecutorResult", "ExecuteResult"
EXIT_STATUS = f"{SERVICE}.WorkerProcessExitStatus"
WORKERS = f"{SERVICE}.NumWorkerProcess"

MAX_NAMES = 4096
"""Names above which new ones are not kept: models are named by their clients."""


@dataclass(frozen=True, slots=True)
class Samples:
    """How many figures there were, their sum, and the least and greatest of them."""

    count: int
    total: float
    least: float
    greatest: float


class Metrics:
    """Counts by event and figures by name, of one service."""

    def __init__(self) -> None:
        self._events: dict[str, Counter[str]] = {}
        self._samples: dict[str, Samples] = {}
        self._turn = threading.Lock()  # workers' threads count, too

    def count(self, name: str, event: str) -> None:
        """Count an event."""
        with self._turn:
            if name in self._events or len(self._events) < MAX_NAMES:
                self._events.setdefault(name, Counter())[event] += 1

    def sample(self, name: str, figure: float) -> None:
        """Keep a figure."""
        with self._turn:
            known = self._samples.get(name)
            if known is not None:
                least, greatest = min(known.least, figure), max(known.greatest, figure)
                self._samples[name] = replace(known, count=known.count + 1, total=known.total + figure, least=least, greatest=greatest)
            elif len(self._samples) < MAX_NAMES:
                self._samples[name] = Samples(1, figure, figure, figure)

    def note(self, model: str, request: str, result: enum.Enum, started: float) -> None:
        """Count the result of a request to a model that began at `started`, by the monotonic clock, and how long it took."""
        self.count(of_request(model, request, "Event"), result.name)
        self.sample(of_request(model, request, "ElapsedTimeMicrosec"), (time.monotonic() - started) * 1e6)

    def events(self) -> Mapping[str, Mapping[str, int]]:
        """What was counted so far."""
        with self._turn:
            return {name: dict(counted) for name, counted in self._events.items()}

    def samples(self) -> Mapping[str, Samples]:
        """What was kept so far."""
        with self._turn:
            return dict(self._samples)


def of_request(model: str, request: str, figure: str) -> str:
    """The name of a figure of a request to a model."""
    return f"{SERVICE}.{model}.{request}.{figure}"


def of_model(model: str, figure: str) -> str:
    """The name of a figure of a model."""
    return f"{SERVICE}.{model}.{figure}"
