"""The inference service: models are loaded, executors created and inputs executed by the calls and result codes of the ChromeOS ML service.

Its control process is the process that holds an `InferenceService`; each graph executor is one confined worker (executor.py), so nothing of
one client's is in another's, and nothing of a model's or a vendor's ever in the control process. All calls are asynchronous, and requests
to one executor wait for each other. A call that is cancelled ends its worker; so does a request that exceeds its budget.

Sources: chromeos/services/machine_learning/public/mojom (machine_learning_service, model, graph_executor), chromiumos/platform2 ml/.
Codes that the ML service does not have say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from auditor import files
from auditor.errors import UsageError
from auditor.inference import metrics
from auditor.inference.executor import Executor, Options
from auditor.inference.graph_executor import MAX_NAME, GraphExecutor
from auditor.inference.metrics import CREATE, LOAD, Metrics
from auditor.inference.results import Budget, CreateGraphExecutorResult, ExecuteResult, Loaded, LoadModelResult, Model
from auditor.inference.wire import Outcome, Status, WorkerFailure, bounded
from auditor.model import visible
from auditor.tflite import operators
from auditor.tflite.graph import BadModel, read_graph
from auditor.tflite.tensors import TensorSpec, compare
from auditor.zoo.published import MAX_MODEL, Golden, Published, Tensor

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

MAX_WORKERS = 32
"""Workers of a service at one time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to a request to create a graph executor. `status` says how the worker failed, where one did."""

    result: CreateGraphExecutorResult
    executor: GraphExecutor | None = None
    message: str = ""
    status: Status | None = None


class InferenceService:
    """One service. An asynchronous context manager: on leaving, none of its workers is left."""

    def __init__(
        self,
        published: Mapping[str, Published] | None = None,
        budget: Budget | None = None,
        options: Options | None = None,
    ) -> None:
        self.published = dict(published or {})
        self.metrics = Metrics()
        self._budget, self._options = budget or Budget(), options or Options()
        self._pool = ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="inference")
        self._executors: set[GraphExecutor] = set()
        self._starting, self._closing = 0, False
        self._operators: dict[tuple[str, str], Mapping[str, int]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._closing = True
        while self._starting or self._executors:
            for executor in tuple(self._executors):
                await executor.close()
            await asyncio.sleep(0.01 if self._starting else 0)
        self._pool.shutdown()

    async def load_builtin_model(self, name: str) -> Loaded:
        """Load a published model by its name."""
        started = time.monotonic()
        published = self.published.get(name)
        if published is None:
            # a client's own names would fill the metrics
            return self._loaded("Unknown", started, LoadModelResult.MODEL_SPEC_ERROR, message=f"{visible(name)[:MAX_NAME]}: not published")
        try:
            content = await self.in_thread(lambda: files.read(published.path, MAX_MODEL, published.path, UsageError))
        except UsageError as problem:
            return self._loaded(name, started, LoadModelResult.LOAD_MODEL_ERROR, message=str(problem))
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != published.sha256:
            message = f"{published.path}: sha256 {sha256}, expected {published.sha256}"
            return self._loaded(name, started, LoadModelResult.LOAD_MODEL_ERROR, message=visible(message))
        return await self._read(name, started, content)

    async def load_flat_buffer_model(self, content: bytes, metrics_model_name: str) -> Loaded:
        """Load a model from its bytes."""
        return await self._read(visible(metrics_model_name)[:MAX_NAME], time.monotonic(), content)

    async def create_graph_executor(self, model: Model, options: Options | None = None) -> Created:
        """Start a confined worker with the model, and with the options' delegate."""
        started = time.monotonic()
        if len(self._executors) + self._starting >= MAX_WORKERS:
            return self._created(
                model, started, CreateGraphExecutorResult.MEMORY_ALLOCATION_ERROR, message=f"{MAX_WORKERS} workers run already"
            )
        if self._closing:
            return self._created(model, started, CreateGraphExecutorResult.WORKER_ERROR, message="the service is closed")
        self._starting += 1
        try:
            executor = GraphExecutor(self, model, await self._start(model, options or self._options), self._budget)
        except WorkerFailure as failure:
            return self._failed(model, started, failure)
        finally:
            self._starting -= 1
        self._executors.add(executor)
        self.metrics.sample(metrics.WORKERS, len(self._executors))
        try:
            await executor.load()
        except WorkerFailure as failure:
            await executor.close()
            return self._failed(model, started, failure)
        except BaseException:
            await executor.close()
            raise
        return self._created(model, started, CreateGraphExecutorResult.OK, executor)

    async def check_golden(self, name: str, options: Options | None = None) -> tuple[str, ...]:
        """Run a published model on its golden inputs. Returns what does not come out as it should, empty for nothing.

        A model that cannot be run, or has no golden case, is one of these too.
        """
        loaded = await self.load_builtin_model(name)
        if loaded.model is None:
            return (f"{loaded.result.value}: {loaded.message}",)
        return await self.check_cases(loaded.model, self.published[name].golden, options)

    async def check_cases(self, model: Model, cases: Sequence[Golden], options: Options | None = None) -> tuple[str, ...]:
        """Run a loaded model on golden inputs; as `check_golden`."""
        if not cases:
            return ("no golden case",)
        created = await self.create_graph_executor(model, options)
        if created.executor is None:
            return (f"{created.result.value}: {created.message}",)
        try:
            wrong: list[str] = []
            for number, case in enumerate(cases):
                done = await created.executor.execute(case.inputs, tuple(case.outputs))
                if done.result is not ExecuteResult.OK:
                    wrong.append(f"case {number}: {done.result.value}: {done.message}")
                    continue
                differing = (_difference(case.outputs[output], done.outputs[output], case.tolerance) for output in case.outputs)
                wrong += [f"case {number}: {visible(output)}: {text}" for output, text in zip(case.outputs, differing, strict=True) if text]
            return tuple(wrong)
        finally:
            await created.executor.close()

    def ended(self, executor: GraphExecutor, status: str) -> None:
        """Note that a worker has ended, and how."""
        if executor in self._executors:
            self._executors.remove(executor)
            self.metrics.count(metrics.EXIT_STATUS, status)

    async def in_thread(self, function: Callable[[], T], kill: Callable[[], None] = lambda: None) -> T:
        """Wait for what blocks; where the wait is cancelled, `kill` what is waited for, and see it end."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            kill()
            while not future.done():  # cancelled again or not: what it uses is closed next
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            future.exception()  # it ended as it was told to; nobody else will ask
            raise

    async def _start(self, model: Model, options: Options) -> Executor:
        """Start the worker; one that is there by the time its start is cancelled is closed."""
        held: list[Executor] = []

        def start() -> Executor:
            held.append(Executor(model.content, options, self._budget.limits(), model.name))
            self._compare_operators(model, held[0])
            return held[0]

        try:
            return await self.in_thread(start)
        except BaseException:
            for each in held:
                each.worker.close()
            raise

    def _compare_operators(self, model: Model, executor: Executor) -> None:
        """Compare what the model needs with what the runtime has, before the model is loaded; a runtime is asked once."""
        key = executor.runtime["name"], executor.runtime["version"]
        if key not in self._operators:
            self._operators[key] = executor.worker.operators()
        if missing := operators.missing(model.operators, self._operators[key]):
            raise WorkerFailure(Status(Outcome.OPERATOR_MISSING, model.name, "operators", message=bounded("; ".join(missing))))

    async def _read(self, name: str, started: float, content: bytes) -> Loaded:
        if len(content) > MAX_MODEL:
            return self._loaded(
                name, started, LoadModelResult.LOAD_MODEL_ERROR, message=f"{len(content)} bytes, expected {MAX_MODEL} at most"
            )
        try:
            graph = await self.in_thread(lambda: read_graph(content))
        except BadModel as problem:
            return self._loaded(name, started, LoadModelResult.LOAD_MODEL_ERROR, message=visible(str(problem)))
        model = Model(name, hashlib.sha256(content).hexdigest(), content, operators.needed(graph))
        return self._loaded(name, started, LoadModelResult.OK, model)

    def _loaded(self, name: str, started: float, result: LoadModelResult, model: Model | None = None, message: str = "") -> Loaded:
        self.note(name, LOAD, result, started)
        return Loaded(result, model, message)

    def _created(
        self,
        model: Model,
        started: float,
        result: CreateGraphExecutorResult,
        executor: GraphExecutor | None = None,
        message: str = "",
        status: Status | None = None,
    ) -> Created:
        self.note(model.name, CREATE, result, started)
        return Created(result, executor, message, status)

    def _failed(self, model: Model, started: float, failure: WorkerFailure) -> Created:
        result = _CREATION.get(failure.status.outcome, CreateGraphExecutorResult.WORKER_ERROR)
        return self._created(model, started, result, message=failure.status.message, status=failure.status)

    def note(self, model: str, request: str, result: enum.Enum, started: float) -> None:
        """Count the result of a request, and how long it took."""
        self.metrics.count(metrics.of_request(model, request, "Event"), result.name)
        self.metrics.sample(metrics.of_request(model, request, "ElapsedTimeMicrosec"), (time.monotonic() - started) * 1e6)


_CREATION = {
    Outcome.LOAD_FAILED: CreateGraphExecutorResult.MODEL_INTERPRETATION_ERROR,
    Outcome.OPERATOR_MISSING: CreateGraphExecutorResult.MODEL_INTERPRETATION_ERROR,
    Outcome.OUT_OF_MEMORY: CreateGraphExecutorResult.MEMORY_ALLOCATION_ERROR,
    Outcome.DELEGATE_MISSING: CreateGraphExecutorResult.DELEGATE_UNAVAILABLE,
    Outcome.DELEGATE_NOT_LOADABLE: CreateGraphExecutorResult.DELEGATE_UNAVAILABLE,
    Outcome.DELEGATE_NOT_A_DELEGATE: CreateGraphExecutorResult.DELEGATE_UNAVAILABLE,
    Outcome.DELEGATE_UNSUPPORTED: CreateGraphExecutorResult.DELEGATE_UNAVAILABLE,
    Outcome.DELEGATE_CREATE_FAILED: CreateGraphExecutorResult.DELEGATE_USE_ERROR,
    Outcome.PREPARE_FAILED: CreateGraphExecutorResult.DELEGATE_USE_ERROR,
}


def _difference(expected: Tensor, found: Tensor, tolerance: float) -> str:
    """How an output differs from a golden one; empty where it does not."""
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return f"{found.dtype}{list(found.shape)}, expected {expected.dtype}{list(expected.shape)}"
    most = compare(TensorSpec("", expected.shape, expected.dtype), expected.data, found.data).maximum
    if most is None:
        return "NaN or infinity, or no element"
    return "" if most <= tolerance else f"an element differs by {most:g}, expected {tolerance:g} at most"
