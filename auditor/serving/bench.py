"""How fast the service answers, and what it adds to the runtime: throughput and latency at one number of clients after the other.

A closed loop by default: each client asks again when it has its answer. With a rate, requests are sent when they are due, whether or not
earlier ones were answered, and latency counts from when a request was due, so a service that falls behind cannot hide it.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError, UsageError
from auditor.inference.results import CreateGraphExecutorResult, ExecuteResult
from auditor.model import visible
from auditor.zoo.published import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from auditor.inference.graph_executor import GraphExecutor, Model
    from auditor.inference.results import Executed

MAX_CONCURRENCY = 64
"""Executors in one worker."""
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Level:
    """What was measured with so many clients. Times are in milliseconds; what the service adds to the runtime is in `added`."""

    concurrency: int
    rate: float | None
    requests: int
    failed: int
    seconds: float
    p50: float
    p95: float
    p99: float
    queue: float
    """Mean time until a request's turn came."""
    compute: float
    """Mean time of the runtime's own Invoke."""
    added: float
    """Mean of what is neither queue nor compute."""
    memory_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """The level as JSON."""
        return {
            "concurrency": self.concurrency,
            "rate": self.rate,
            "requests": self.requests,
            "failed": self.failed,
            "throughput": self.requests / self.seconds,
            "latency_ms": {"p50": self.p50, "p95": self.p95, "p99": self.p99},
            "queue_ms": self.queue,
            "compute_ms": self.compute,
            "added_ms": self.added,
            "memory_bytes": self.memory_bytes,
        }


@dataclass(slots=True)
class _Samples:
    latency: list[float] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    compute: list[float] = field(default_factory=list)
    failed: int = 0

    def add(self, done: Executed, latency: float) -> None:
        if done.result is ExecuteResult.OK and done.timing:
            self.latency.append(latency)
            self.queue.append(done.timing.queue_ns / 1e6)
            self.compute.append(done.timing.compute_ns / 1e6)
        else:
            self.failed += 1


def read_range(text: str) -> range:
    """The numbers of A, A:B or A:B:STEP. Raises UsageError."""
    parts = text.split(":")
    if len(parts) < 4 and all(each.isascii() and each.isdigit() and len(each) < 4 for each in parts):
        first, last, step = (*map(int, parts), *([1] if len(parts) == 2 else [int(parts[0]), 1] if len(parts) == 1 else []))
        if 1 <= first <= last <= MAX_CONCURRENCY and step:
            return range(first, last + 1, step)
    raise UsageError(f"--concurrency {visible(text)[:40]}: expected A, A:B or A:B:STEP, from 1 to {MAX_CONCURRENCY}")


async def measure(model: Model, concurrency: int, seconds: float, rate: float | None = None) -> Level:
    """Ask a model for so many seconds, with one executor a client. Raises AuditError where it cannot be run."""
    executors: list[GraphExecutor] = []
    try:
        for _ in range(concurrency):
            created = await model.create_graph_executor()
            if created.result is not CreateGraphExecutorResult.OK or created.executor is None:
                raise AuditError(f"the model cannot be run: {created.result.name}: {created.message}")
            executors.append(created.executor)
        inputs = {name: Tensor(spec.dtype, spec.shape, bytes(spec.nbytes)) for name, spec in executors[0].inputs.items()}
        for executor in executors:
            for _ in range(_WARM_UP):
                done = await executor.execute(inputs, tuple(executor.outputs))
                if done.result is not ExecuteResult.OK:
                    raise AuditError(f"the model cannot be run: {done.result.name}: {done.message}")
        samples, started = _Samples(), time.perf_counter()
        if rate is None:
            await asyncio.gather(*(_closed(each, inputs, started + seconds, samples) for each in executors))
        else:
            await _open(executors, inputs, seconds, rate, samples)
        return _level(concurrency, rate, samples, time.perf_counter() - started, executors[0].memory_bytes())
    finally:
        for executor in executors:
            await executor.close()


async def _closed(executor: GraphExecutor, inputs: Mapping[str, Tensor], until: float, samples: _Samples) -> None:
    names = tuple(executor.outputs)
    while (began := time.perf_counter()) < until:
        samples.add(await executor.execute(inputs, names), (time.perf_counter() - began) * 1e3)


async def _open(executors: Sequence[GraphExecutor], inputs: Mapping[str, Tensor], seconds: float, rate: float, samples: _Samples) -> None:
    async def ask(executor: GraphExecutor, due: float) -> None:
        samples.add(await executor.execute(inputs, tuple(executor.outputs)), (time.perf_counter() - due) * 1e3)

    started, tasks = time.perf_counter(), []
    for number in range(max(1, math.ceil(seconds * rate))):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(executors[number % len(executors)], due)))
    await asyncio.gather(*tasks)


def _level(concurrency: int, rate: float | None, samples: _Samples, seconds: float, memory: int | None) -> Level:
    count = len(samples.latency)
    if not count:
        raise AuditError(f"none of {samples.failed} requests had a result")
    ordered = sorted(samples.latency)
    p50, p95, p99 = (ordered[min(count - 1, math.ceil(count * part) - 1)] for part in (0.5, 0.95, 0.99))
    latency, queue, compute = (sum(each) / count for each in (samples.latency, samples.queue, samples.compute))
    return Level(concurrency, rate, count, samples.failed, seconds, p50, p95, p99, queue, compute, latency - queue - compute, memory)
