"""One model in one worker, ready for requests: the ML service's graph executor."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import signal
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from auditor.inference import metrics
from auditor.inference.metrics import CREATE, EXECUTE, Metrics
from auditor.inference.results import Budget, Executed, ExecuteResult, Model
from auditor.inference.wire import Outcome, Status, WorkerFailure, bounded
from auditor.model import visible
from auditor.zoo.published import Tensor

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Mapping, Sequence

    from auditor.inference.executor import Executor
    from auditor.tflite.tensors import TensorSpec

MAX_NAME = 100
"""Characters of a name that metrics are kept under."""

T = TypeVar("T")

_EXCEEDED = frozenset({Outcome.TIMED_OUT, Outcome.CPU_EXCEEDED, Outcome.OUT_OF_MEMORY})


class Owner(Protocol):
    """What an executor needs of the service that it belongs to."""

    metrics: Metrics

    def note(self, model: str, request: str, result: enum.Enum, started: float) -> None:
        """Count the result of a request, and how long it took."""

    async def in_thread(self, function: Callable[[], T], kill: Callable[[], None]) -> T:
        """Wait for what blocks; where the wait is cancelled, `kill` what is waited for."""

    def ended(self, executor: GraphExecutor, status: str) -> None:
        """Note that a worker has ended, and how."""


class GraphExecutor:
    """A model in a worker of its own, ready for requests, which wait for each other. `inputs` and `outputs` are its tensors by name.

    Once its worker has ended, for whatever reason, every request is answered with EXECUTION_ERROR: create another one.
    """

    def __init__(self, service: Owner, model: Model, executor: Executor, budget: Budget) -> None:
        self.model = model
        self.inputs: Mapping[str, TensorSpec] = {}
        self.outputs: Mapping[str, TensorSpec] = {}
        self._service, self._executor, self._budget = service, executor, budget
        self._turn = asyncio.Lock()
        self._begun = time.monotonic()
        self._requests: collections.deque[float] = collections.deque()
        self._executed = False
        self._over = ""

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._executor.worker.pid

    @property
    def over(self) -> str:
        """Why this executor answers no more requests; empty while it does."""
        return self._over

    async def load(self) -> None:
        """Load delegate and model. Raises WorkerFailure. The service does this."""
        async with self._turn:
            loaded, _ns = await self._observed(CREATE, self._executor.load)
        self.inputs = {tensor.name: tensor for tensor in loaded.inputs}
        self.outputs = {tensor.name: tensor for tensor in loaded.outputs}
        if len(self.inputs) < len(loaded.inputs) or len(self.outputs) < len(loaded.outputs):
            raise WorkerFailure(Status(Outcome.LOAD_FAILED, self.model.name, "tensors", message="two inputs, or two outputs, of one name"))

    async def execute(self, inputs: Mapping[str, Tensor], output_names: Sequence[str]) -> Executed:
        """Run the model on named inputs and return its outputs; all of them must be named, as the ML service has it."""
        started = time.monotonic()
        async with self._turn:
            done = self._refused(inputs, output_names) or await self._execute(inputs)
        self._service.note(self.model.name, EXECUTE, done.result, started)
        return done

    async def close(self) -> None:
        """End the worker, and with it the request that it is at. May be called again."""
        self._over = self._over or "closed"
        self._executor.worker.kill()
        async with self._turn:
            self._end("closed", "ended by the service")

    def _refused(self, inputs: Mapping[str, Tensor], output_names: Sequence[str]) -> Executed | None:
        """What can be said of a request without running it."""
        if self._over:
            return Executed(ExecuteResult.EXECUTION_ERROR, message=self._over)
        wrong = _wrong_input(self.inputs, inputs) or _wrong_output(self.outputs, output_names)
        return wrong or self._too_often()

    def _too_often(self) -> Executed | None:
        now, requests = time.monotonic(), self._requests
        while requests and requests[0] < now - 60:
            requests.popleft()
        if len(requests) >= self._budget.requests_per_minute:
            return Executed(ExecuteResult.BUDGET_ERROR, message=f"{self._budget.requests_per_minute} requests within a minute already")
        requests.append(now)
        return None

    async def _execute(self, inputs: Mapping[str, Tensor]) -> Executed:
        payload = b"".join(inputs[name].data for name in self.inputs)
        worker = self._executor.worker

        def request() -> tuple[tuple[TensorSpec, ...], bytes]:
            worker.set_inputs(payload)
            worker.invoke()
            return worker.outputs()[:2]

        try:
            specs, answer = await self._observed(EXECUTE, request)
        except WorkerFailure as failure:
            status = failure.status
            # a runtime that only says no lives on
            if status.outcome is not Outcome.INVOKE_FAILED:
                self._end(f"the worker has ended: {status.message}", _exit_status(status))
            result = ExecuteResult.BUDGET_ERROR if status.outcome in _EXCEEDED else ExecuteResult.EXECUTION_ERROR
            return Executed(result, message=status.message, status=status)
        if not self._executed:
            self._executed = True
            self._service.metrics.sample(
                metrics.of_model(self.model.name, "TimeToFirstExecuteMicrosec"), (time.monotonic() - self._begun) * 1e6
            )
        outputs, offset = {}, 0
        for name, spec in zip(self.outputs, specs, strict=False):
            outputs[name] = Tensor(spec.dtype, spec.shape, answer[offset : offset + spec.nbytes])
            offset += spec.nbytes
        return Executed(ExecuteResult.OK, outputs)

    async def _observed(self, request: str, function: Callable[[], T]) -> T:
        """Do what blocks, and note the processor time and the memory that it took the worker; cancelled, it takes the worker with it."""
        worker, figures = self._executor.worker, self._service.metrics
        cpu, memory = worker.cpu_ns(), worker.memory_bytes()
        try:
            done = await self._service.in_thread(function, worker.kill)
        except asyncio.CancelledError:
            self._end("a request was cancelled", "cancelled")
            raise
        finally:
            name = self.model.name
            after = worker.memory_bytes()
            figures.sample(metrics.of_request(name, request, "CpuTimeMicrosec"), max(0, worker.cpu_ns() - cpu) / 1e3)
            if after is not None and memory is not None:
                figures.sample(metrics.of_request(name, request, "TotalMemoryDeltaKb"), (after - memory) / 1024)
                figures.sample(metrics.of_model(name, "TotalMemoryKb"), after / 1024)
        return done

    def _end(self, why: str, status: str) -> None:
        self._over = self._over or why
        self._executor.worker.close()
        self._service.ended(self, status)


def _wrong_input(known: Mapping[str, TensorSpec], given: Mapping[str, Tensor]) -> Executed | None:
    for name in known:
        if name not in given:
            return Executed(ExecuteResult.INPUT_MISSING_ERROR, message=f"{visible(name)}: not given")
    for name, tensor in given.items():
        if name not in known:
            return Executed(ExecuteResult.UNKNOWN_INPUT_ERROR, message=f"{visible(name)[:MAX_NAME]}: expected {_names(known)}")
        spec = known[name]
        for result, found, expected in (
            (ExecuteResult.INPUT_TYPE_ERROR, tensor.dtype, spec.dtype),
            (ExecuteResult.INPUT_SHAPE_ERROR, tensor.shape, spec.shape),
            (ExecuteResult.INPUT_FORMAT_ERROR, f"{len(tensor.data)} bytes", f"{spec.nbytes} bytes"),
        ):
            if found != expected:
                return Executed(result, message=f"{visible(name)}: {visible(str(found))[:MAX_NAME]}, expected {expected}")
    return None


def _wrong_output(known: Mapping[str, TensorSpec], names: Sequence[str]) -> Executed | None:
    for name in names:
        if name not in known:
            return Executed(ExecuteResult.UNKNOWN_OUTPUT_ERROR, message=f"{visible(name)[:MAX_NAME]}: expected {_names(known)}")
    if len(set(names)) < len(names):
        return Executed(ExecuteResult.DUPLICATE_OUTPUT_ERROR, message="an output is named twice")
    for name in known:
        if name not in names:
            return Executed(ExecuteResult.OUTPUT_MISSING_ERROR, message=f"{visible(name)}: not named")
    return None


def _names(known: Mapping[str, TensorSpec]) -> str:
    return bounded(", ".join(map(visible, known)), 200)


def _exit_status(status: Status) -> str:
    if status.signal is not None:
        with contextlib.suppress(ValueError):
            return signal.Signals(status.signal).name
    return status.outcome.value if status.exit is None else f"exit {status.exit}"
