"""One worker as the service holds it: in a thread of its own, watched also while it is idle, shared by the executors of one model.

The thread is the queue: it does one thing after another, so requests wait for each other. A caller that goes away while it waits in the
queue was never there; one that goes away while its request runs lets go of it, and the request ends by itself or by its budget. Nobody
else notices either. What blocks for one worker blocks for no other, and loading a model waits for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from auditor.inference import metrics
from auditor.inference.executor import Executor, Options
from auditor.inference.results import Timing
from auditor.inference.watch import cpu_ns
from auditor.inference.wire import Outcome, Status, WorkerFailure, bounded
from auditor.tflite import operators

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from auditor.inference.metrics import Metrics
    from auditor.inference.process import Loaded
    from auditor.inference.results import Budget, Source
    from auditor.tflite.tensors import Bytes, TensorSpec

T = TypeVar("T")

MAX_EXECUTORS = 64
"""Executors in one worker at one time."""
_LOOK_SECONDS = 0.5
"""How often an idle worker is looked at."""


class Ended(Exception):  # noqa: N818 - an end is no error here
    """The worker had ended before the request's turn came. The message says why."""


class Host:
    """A worker with one model and one set of options. It is started by the first `run`, and made and closed on its event loop."""

    def __init__(
        self,
        source: Source,
        options: Options,
        budget: Budget,
        kept: Metrics,
        known: MutableMapping[tuple[str, str], dict[str, int]],
        on_end: Callable[[Host], None],
    ) -> None:
        """Take the operators of runtimes that are `known` already, and add to them. `on_end` is called on the loop, once."""
        self.source, self.options = source, options
        self._budget, self._metrics, self._known, self._on_end = budget, kept, known, on_end
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"inference {source.name}")
        self._executor: Executor | None = None
        self._over = self._noted = ""
        self._waiting = self._executors = self._last = 0
        self._cpu_after_reply, self._idle_since = 0, time.monotonic()
        self._pidfd = -1
        self._looking: asyncio.TimerHandle | None = None
        self._closing: Future[None] | None = None

    @property
    def over(self) -> str:
        """Why this worker answers no more; empty while it does."""
        return self._over

    @property
    def pid(self) -> int:
        """The worker's process id; 0 before it was started."""
        return self._executor.worker.pid if self._executor else 0

    def memory_bytes(self) -> int | None:
        """VmRSS + VmSwap of the worker; None where there is none, or it cannot be read."""
        return self._executor.worker.memory_bytes() if self._executor and not self._over else None

    @property
    def executors(self) -> int:
        """How many executors it has."""
        return self._executors

    @property
    def is_busy(self) -> bool:
        """Whether it is asked for anything."""
        return self._waiting > 0

    @property
    def is_full(self) -> bool:
        """Whether as many requests wait as may."""
        return self._waiting >= self._budget.waiting

    async def create(self) -> tuple[int, Loaded]:
        """Make an executor: its number and its model. Raises WorkerFailure and Ended."""
        if self._executors >= MAX_EXECUTORS:
            message = f"{MAX_EXECUTORS} executors of this model run already"
            raise WorkerFailure(Status(Outcome.OUT_OF_MEMORY, self.source.name, "create", message=message))
        self._last += 1
        self._executors += 1
        number = self._last
        try:
            return number, await self._run(lambda executor: self._load(executor, number), metrics.CREATE)
        except BaseException:
            self.drop(number)
            raise

    def drop(self, number: int) -> None:
        """Give an executor back, in its turn."""
        self._executors -= 1

        def dropped() -> None:
            if self._executor and not self._over:
                self._executor.worker.select(number)
                with contextlib.suppress(WorkerFailure):
                    self._executor.worker.drop()

        with contextlib.suppress(RuntimeError):  # it has ended
            self._thread.submit(dropped)

    async def execute(self, number: int, payload: tuple[Bytes, ...]) -> tuple[tuple[TensorSpec, ...], bytes, Timing]:
        """Run one inference of an executor. Raises WorkerFailure and Ended."""
        asked = time.perf_counter_ns()

        def request(executor: Executor) -> tuple[tuple[TensorSpec, ...], bytes, Timing]:
            begun, worker = time.perf_counter_ns(), executor.worker
            worker.select(number)
            specs, answer, compute = worker.run(*payload)
            return specs, answer, Timing(begun - asked, compute)

        return await self._run(request, metrics.EXECUTE)

    async def close(self, why: str = "closed") -> None:
        """End the worker, and with it the request that it is at; those that wait get Ended."""
        self._over = self._over or why
        if self._executor:
            self._executor.worker.kill()
        self._closing = self._closing or self._submit(lambda: self._end(why, "ended by the service"))
        if self._closing:
            await _settled(self._closing)
        self._forget()

    async def _run(self, function: Callable[[Executor], T], request: str) -> T:
        """Do something with the worker in its turn. Raises WorkerFailure, which ends it unless the runtime only said no, and Ended."""

        def turn() -> T:
            if self._over:
                raise Ended(self._over)
            try:
                executor = self._executor or self._start()
                return self._observed(executor, request, function)
            except WorkerFailure as failure:
                if failure.status.outcome not in _SAYS_NO:
                    self._end(f"the worker has ended: {failure.status.message}", _exit_status(failure.status))
                raise

        future = self._submit(turn)
        if future is None:
            raise Ended(self._over or "closed")
        self._waiting += 1
        future.add_done_callback(self._on_done)
        return await asyncio.wrap_future(future)

    def _submit(self, function: Callable[[], T]) -> Future[T] | None:
        try:
            return self._thread.submit(function)
        except RuntimeError:  # it is shut down
            return None

    def _on_done(self, _future: Future[T]) -> None:
        """Note, in whatever thread, that something was done or given up."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._answered)

    def _answered(self) -> None:
        self._waiting -= 1
        if self._over:
            self._forget()
        elif self._executor and self._looking is None:
            self._begin_to_look()

    # --- in the thread

    def _start(self) -> Executor:
        """Start and confine the worker, and compare what the model needs with what the runtime has, before anything is loaded."""
        source = self.source
        executor = Executor(source.content, self.options, self._budget.limits(), source.name)
        self._executor = executor
        if self._over:
            raise Ended(self._over)
        if missing := operators.missing(source.operators, self._runtime_operators(executor)):
            raise WorkerFailure(Status(Outcome.OPERATOR_MISSING, source.name, "operators", message=bounded("; ".join(missing))))
        return executor

    def _runtime_operators(self, executor: Executor) -> dict[str, int]:
        """Ask each runtime once."""
        key = executor.runtime["name"], executor.runtime["version"]
        if key not in self._known:
            self._known[key] = executor.worker.operators()
        return self._known[key]

    def _load(self, executor: Executor, number: int) -> Loaded:
        executor.worker.select(number)
        return executor.load()[0]

    def _observed(self, executor: Executor, request: str, function: Callable[[Executor], T]) -> T:
        """Do something, and note the processor time and the memory that it took the worker."""
        worker, name = executor.worker, self.source.name
        cpu, memory = worker.cpu_ns(), worker.memory_bytes()
        try:
            return function(executor)
        finally:
            used, after = worker.cpu_ns(), worker.memory_bytes()
            self._cpu_after_reply, self._idle_since = used, time.monotonic()
            self._metrics.sample(metrics.of_request(name, request, "CpuTimeMicrosec"), max(0, used - cpu) / 1e3)
            if after is not None and memory is not None:
                self._metrics.sample(metrics.of_request(name, request, "TotalMemoryDeltaKb"), (after - memory) / 1024)
                self._metrics.sample(metrics.of_model(name, "TotalMemoryKb"), after / 1024)

    def _end(self, why: str, status: str) -> None:
        """See the worker gone. May be called again."""
        self._over = self._over or why
        if self._executor:
            self._executor.worker.close()
        if not self._noted:
            self._noted = status
            if self._executor:
                self._metrics.count(metrics.EXIT_STATUS, status)

    # --- on the loop

    def _begin_to_look(self) -> None:
        """Watch the process from now on: its end, and what it does while nobody asks it for anything."""
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.add_reader(self._pidfd, self._on_process_end)
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _on_process_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # a request that is running tells better; this has its turn after it
        self._end_idle("the worker has ended while it was idle", self._how_ended)

    def _look(self) -> None:
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
        if self._waiting:
            return
        used = (cpu_ns(self.pid) - self._cpu_after_reply) / 1e9
        if used > 0:
            # the most of any gap between requests
            self._metrics.sample(metrics.of_model(self.source.name, "CpuTimeAfterReplyMicrosec"), used * 1e6)
        if used > self._budget.idle_cpu_seconds:
            message = f"{used:.1f} s of processor time after its reply, the limit is {self._budget.idle_cpu_seconds:g}"
            self._end_idle(f"the worker was ended: {message}", lambda: Outcome.CPU_EXCEEDED.value)
        elif self._budget.idle_seconds is not None and time.monotonic() - self._idle_since > self._budget.idle_seconds:
            self._end_idle("the worker was ended: idle", lambda: "idle")

    def _how_ended(self) -> str:
        return _exit_status(self._executor.worker.ended()) if self._executor else ""

    def _end_idle(self, why: str, status: Callable[[], str]) -> None:
        def ending() -> None:
            if not self._over:
                self._end(why, status())

        future = self._submit(ending)
        if future:
            self._waiting += 1
            future.add_done_callback(self._on_done)

    def _forget(self) -> None:
        """Let go of what watches a worker that has ended. May be called again."""
        if self._looking:
            self._looking.cancel()
            self._looking = None
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._thread.shutdown(wait=False)
        self._on_end(self)


_SAYS_NO = frozenset(
    {
        *(Outcome.INVOKE_FAILED, Outcome.LOAD_FAILED, Outcome.PREPARE_FAILED, Outcome.DELEGATE_NOT_LOADABLE),
        *(Outcome.DELEGATE_NOT_A_DELEGATE, Outcome.DELEGATE_UNSUPPORTED, Outcome.DELEGATE_CREATE_FAILED),
    }
)
"""After these the worker lives on, with its other executors."""


async def _settled(future: Future[None]) -> None:
    """Wait for what must be done, also where the wait is cancelled; then it is cancelled."""
    waited = asyncio.wrap_future(future)
    try:
        await asyncio.shield(waited)
    except asyncio.CancelledError:
        while not waited.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([waited])
        raise


def _exit_status(status: Status) -> str:
    if status.signal is not None:
        with contextlib.suppress(ValueError):
            return signal.Signals(status.signal).name
    return status.outcome.value if status.exit is None else f"exit {status.exit}"
