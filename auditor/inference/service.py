"""The inference service: models are loaded, executors created and inputs executed by the calls and result codes of the ChromeOS ML service.

Its control process is the process that holds an `InferenceService`; each graph executor is one confined worker (executor.py), so nothing of
one client's is in another's, and nothing of a model's or a vendor's ever in the control process. All calls are asynchronous, and requests
to one executor wait for each other. A call that is cancelled ends its worker; so does a request that exceeds its budget.

Sources: chromeos/services/machine_learning/public/mojom (machine_learning_service, model, graph_executor), chromiumos/platform2 ml/.
Codes that the ML service does not have say so.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import hashlib
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from auditor import files
from auditor.errors import UsageError
from auditor.inference import metrics, operators
from auditor.inference.executor import Executor, Options
from auditor.inference.metrics import CREATE, EXECUTE, LOAD, Metrics
from auditor.inference.process import Limits, Status, WorkerFailure
from auditor.inference.published import MAX_MODEL, Golden, Published, Tensor
from auditor.inference.wire import Outcome, bounded
from auditor.model import visible
from auditor.zoo.graph import BadModel, read_graph
from auditor.zoo.protocol import TensorSpec, compare

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

MAX_WORKERS = 32
"""Workers of a service at one time."""
MAX_NAME = 100
"""Characters of a name that metrics are kept under."""

T = TypeVar("T")


class LoadModelResult(enum.Enum):
    """How a model was loaded."""

    OK = "OK"
    MODEL_SPEC_ERROR = "MODEL_SPEC_ERROR"
    """No model of that name is published."""
    LOAD_MODEL_ERROR = "LOAD_MODEL_ERROR"
    """The file is not there, is not the one that was published, or is no model."""


class CreateGraphExecutorResult(enum.Enum):
    """How a graph executor was created."""

    OK = "OK"
    MODEL_INTERPRETATION_ERROR = "MODEL_INTERPRETATION_ERROR"
    """The runtime does not have an operator of the model, or refuses its graph."""
    MEMORY_ALLOCATION_ERROR = "MEMORY_ALLOCATION_ERROR"
    DELEGATE_UNAVAILABLE = "DELEGATE_UNAVAILABLE"
    """The delegate's library is absent, or cannot be loaded; the ML service has this for NNAPI and GPU."""
    DELEGATE_USE_ERROR = "DELEGATE_USE_ERROR"
    """The delegate could not be created, or failed on the graph; the ML service has this for NNAPI and GPU."""
    WORKER_ERROR = "WORKER_ERROR"
    """Not of the ML service: the worker could not be started or confined, or ended badly."""


class ExecuteResult(enum.Enum):
    """How a request was executed."""

    OK = "OK"
    INPUT_MISSING_ERROR = "INPUT_MISSING_ERROR"
    UNKNOWN_INPUT_ERROR = "UNKNOWN_INPUT_ERROR"
    INPUT_TYPE_ERROR = "INPUT_TYPE_ERROR"
    INPUT_SHAPE_ERROR = "INPUT_SHAPE_ERROR"
    INPUT_FORMAT_ERROR = "INPUT_FORMAT_ERROR"
    """The values are not as many as the shape has."""
    OUTPUT_MISSING_ERROR = "OUTPUT_MISSING_ERROR"
    UNKNOWN_OUTPUT_ERROR = "UNKNOWN_OUTPUT_ERROR"
    DUPLICATE_OUTPUT_ERROR = "DUPLICATE_OUTPUT_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    BUDGET_ERROR = "BUDGET_ERROR"
    """Not of the ML service, whose design asks for it: more time, processor time, memory or requests than the budget has."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What requests to one executor may use; what is exceeded ends the worker, but for the rate, which only refuses the request."""

    seconds: float = 30.0
    cpu_seconds: float = 60.0
    memory_bytes: int = 1 << 30
    """Resident memory of the worker."""
    requests_per_minute: int = 100_000

    def limits(self) -> Limits:
        """The limits of a worker."""
        return Limits(request_seconds=self.seconds, cpu_seconds=self.cpu_seconds, memory_bytes=self.memory_bytes)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was loaded: its file is what it must be, and a model. `name` is what metrics call it."""

    name: str
    sha256: str
    content: bytes = field(repr=False)
    operators: Mapping[str, int] = field(repr=False)
    """What it needs of a runtime (operators.py)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The answer to a request to load a model."""

    result: LoadModelResult
    model: Model | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to a request to create a graph executor. `status` says how the worker failed, where one did."""

    result: CreateGraphExecutorResult
    executor: GraphExecutor | None = None
    message: str = ""
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Executed:
    """The answer to a request to execute. `status` says how the worker failed, where it did."""

    result: ExecuteResult
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
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
_EXCEEDED = frozenset({Outcome.TIMED_OUT, Outcome.CPU_EXCEEDED, Outcome.OUT_OF_MEMORY})


class GraphExecutor:
    """A model in a worker of its own, ready for requests, which wait for each other. `inputs` and `outputs` are its tensors by name.

    Once its worker has ended, for whatever reason, every request is answered with EXECUTION_ERROR: create another one.
    """

    def __init__(self, service: InferenceService, model: Model, executor: Executor, budget: Budget) -> None:
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
            if after:
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


def _difference(expected: Tensor, found: Tensor, tolerance: float) -> str:
    """How an output differs from a golden one; empty where it does not."""
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return f"{found.dtype}{list(found.shape)}, expected {expected.dtype}{list(expected.shape)}"
    most = compare(TensorSpec("", expected.shape, expected.dtype), expected.data, found.data).maximum
    if most is None:
        return "NaN or infinity, or no element"
    return "" if most <= tolerance else f"an element differs by {most:g}, expected {tolerance:g} at most"
