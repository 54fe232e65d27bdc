"""A handle on a model, and one on an interpreter of it, ready for requests: the ML service's Model and GraphExecutor."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.inference import metrics
from auditor.inference.hosting import Ended, Host
from auditor.inference.metrics import CREATE, EXECUTE, Metrics
from auditor.inference.results import TYPES, CreateGraphExecutorResult, Executed, ExecuteResult, ServiceError, Source
from auditor.inference.wire import Outcome, Status, WorkerFailure, bounded
from auditor.model import visible
from auditor.tflite.tensors import TensorSpec
from auditor.zoo.published import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from auditor.inference.executor import Options
    from auditor.inference.process import Loaded
    from auditor.inference.rates import Rates
    from auditor.tflite.graph import Tensor as Stated

MAX_NAME = 100
"""Characters of a name that metrics are kept under."""

_EXCEEDED = frozenset({Outcome.TIMED_OUT, Outcome.CPU_EXCEEDED, Outcome.OUT_OF_MEMORY})


class _Handle:
    """What is closed once, on the loop that it was made on; an asynchronous context manager."""

    def __init__(self, what: str) -> None:
        self._what, self._loop, self._closed = what, asyncio.get_running_loop(), False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go. May be called again."""

    def _check(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise ServiceError(f"{self._what} belongs to another event loop")
        if self._closed:
            raise ServiceError(f"{self._what} is closed")


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to a request to create a graph executor. `status` says how the worker failed, where one did."""

    result: CreateGraphExecutorResult
    executor: GraphExecutor | None = None
    message: str = ""
    status: Status | None = None


class Workers:
    """The workers of one model, one for each set of options, and the handles that hold them. The last one that is closed ends them."""

    def __init__(
        self, source: Source, kept: Metrics, rates: Rates, start: Callable[[Source, Options], Host], forget: Callable[[Workers], None]
    ) -> None:
        """Take how a worker is started, and who is to `forget` this once no handle is left."""
        self.source, self.metrics, self.rates = source, kept, rates
        self.handles = 0
        self._start, self._forget = start, forget
        self.hosts: dict[Options, Host] = {}

    def host(self, options: Options) -> Host:
        """The worker with these options, a new one where none runs. Raises WorkerFailure where there may be no more."""
        host = self.hosts.get(options)
        if host is None or host.over:
            host = self.hosts[options] = self._start(self.source, options)
        return host

    async def release(self) -> None:
        """Count a handle less."""
        self.handles -= 1
        if not self.handles:
            hosts, self.hosts = self.hosts, {}
            self._forget(self)
            await asyncio.gather(*(host.close() for host in hosts.values()))


class Model(_Handle):
    """A handle on a model that was loaded. Clients of the same model share its workers."""

    def __init__(self, workers: Workers, client: str, options: Options) -> None:
        super().__init__(f"model {workers.source.name}")
        self.source = workers.source
        self._workers, self._client, self._options = workers, client, options
        workers.handles += 1

    @property
    def name(self) -> str:
        """What metrics call it."""
        return self.source.name

    async def create_graph_executor(self, options: Options | None = None, *, use_nnapi: bool = False, use_gpu: bool = False) -> Created:
        """Make an interpreter in the model's worker, with the options' delegate, which is then what the ML service calls the GPU's.

        It must take the whole graph. `use_gpu` asks for it by name, so without one it is GPU_UNAVAILABLE.
        """
        self._check()
        started, options = time.monotonic(), options or self._options
        created = _configuration(options, use_nnapi=use_nnapi, use_gpu=use_gpu) or await self._create(options, started)
        self._workers.metrics.note(self.name, CREATE, created.result, started)
        return created

    async def _create(self, options: Options, started: float) -> Created:
        self._workers.handles += 1  # until it is the executor's
        host: Host | None = None
        try:
            host = self._workers.host(options)
            number, loaded = await host.create()
            executor = GraphExecutor(self._workers, host, number, loaded, self._client, started)
        except (WorkerFailure, Ended) as failure:
            if host and not host.executors:
                await host.close()
            await self._workers.release()
            if isinstance(failure, Ended):
                return Created(CreateGraphExecutorResult.WORKER_ERROR, message=str(failure))
            result = _CREATION.get(failure.status.outcome, CreateGraphExecutorResult.WORKER_ERROR)
            return Created(result, message=failure.status.message, status=failure.status)
        except BaseException:
            await self._workers.release()
            raise
        problem = _unlike(self.source, loaded) or _undelegated(loaded)
        if problem:
            await executor.close()
            return problem
        return Created(CreateGraphExecutorResult.OK, executor)

    async def close(self) -> None:
        """Let go of the model; the last handle on it and its executors ends its workers."""
        if not self._closed:
            self._check()
            self._closed = True
            await self._workers.release()


class GraphExecutor(_Handle):
    """An interpreter in a model's worker. Requests to one worker wait for each other. `inputs` and `outputs` are its tensors by name.

    Once its worker has ended, for whatever reason, every request is answered with EXECUTION_ERROR: create another one.
    """

    def __init__(self, workers: Workers, host: Host, number: int, loaded: Loaded, client: str, begun: float) -> None:
        super().__init__(f"executor {number} of {workers.source.name}")
        self.source = workers.source
        self.inputs: Mapping[str, TensorSpec] = {tensor.name: tensor for tensor in loaded.inputs}
        self.outputs: Mapping[str, TensorSpec] = {tensor.name: tensor for tensor in loaded.outputs}
        self._workers, self._host, self._number, self._client = workers, host, number, client
        self._begun: float | None = begun
        self._ended = ""

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._host.pid

    def memory_bytes(self) -> int | None:
        """VmRSS + VmSwap of the worker; None where there is none, or it cannot be read."""
        return self._host.memory_bytes()

    @property
    def over(self) -> str:
        """Why this executor answers no more requests; empty while it does."""
        return self._ended or self._host.over

    async def execute(self, inputs: Mapping[str, Tensor], output_names: Sequence[str]) -> Executed:
        """Run the model on named inputs and return its outputs; all of them must be named, as the ML service has it.

        A call that is cancelled while it waits for its turn is not run. One that is cancelled while it runs goes on without its caller, and
        within its budget: others wait for it.
        """
        self._check()
        started = time.monotonic()
        refused = self._refused(inputs, output_names)
        done = refused or await self._execute(inputs)
        self._workers.metrics.note(self.source.name, EXECUTE, done.result, started)
        return done

    async def close(self) -> None:
        """Let go of the interpreter; a request that it is at gets EXECUTION_ERROR. The worker ends with the last handle on it."""
        if not self._closed:
            self._check()
            self._closed, self._ended = True, self.over or "closed"
            is_busy = self._host.is_busy
            self._host.drop(self._number)
            if is_busy and not self._host.executors:
                await self._host.close()  # what it is at is for nobody
            await self._workers.release()

    def _refused(self, inputs: Mapping[str, Tensor], output_names: Sequence[str]) -> Executed | None:
        """What can be said of a request without running it, in the order in which the ML service says it."""
        if self.over:
            return Executed(ExecuteResult.EXECUTION_ERROR, message=self.over)
        return _wrong_names(self.inputs, inputs, self.outputs, output_names) or _wrong_input(self.inputs, inputs) or self._too_often()

    def _too_often(self) -> Executed | None:
        if self._host.is_full:
            return Executed(ExecuteResult.RATE_ERROR, message="too many requests wait for this model")
        message = self._workers.rates.refusal(self._client, self.source.sha256, time.monotonic())
        return Executed(ExecuteResult.RATE_ERROR, message=message) if message else None

    async def _execute(self, inputs: Mapping[str, Tensor]) -> Executed:
        try:
            specs, answer, timing = await self._host.execute(self._number, tuple(inputs[name].data for name in self.inputs))
        except Ended as ended:
            return Executed(ExecuteResult.EXECUTION_ERROR, message=str(ended))
        except WorkerFailure as failure:
            status = failure.status
            result = ExecuteResult.BUDGET_ERROR if status.outcome in _EXCEEDED else ExecuteResult.EXECUTION_ERROR
            return Executed(result, message=status.message, status=status)
        if self._begun is not None:
            name = metrics.of_model(self.source.name, "TimeToFirstExecuteMicrosec")
            self._workers.metrics.sample(name, (time.monotonic() - self._begun) * 1e6)
            self._begun = None
        if self._ended:
            return Executed(ExecuteResult.EXECUTION_ERROR, message=self._ended)
        wrong = _wrong_answer(self.source.outputs, tuple(self.outputs.values()), specs)
        if wrong:
            return Executed(ExecuteResult.EXECUTION_ERROR, message=wrong)
        outputs, offset = {}, 0
        for name, spec in zip(self.outputs, specs, strict=True):
            outputs[name] = Tensor(spec.dtype, spec.shape, answer[offset : offset + spec.nbytes])
            offset += spec.nbytes
        return Executed(ExecuteResult.OK, outputs, timing=timing)


_CREATION = {
    Outcome.LOAD_FAILED: CreateGraphExecutorResult.MODEL_INTERPRETATION_ERROR,
    Outcome.OPERATOR_MISSING: CreateGraphExecutorResult.MODEL_INTERPRETATION_ERROR,
    Outcome.OUT_OF_MEMORY: CreateGraphExecutorResult.MEMORY_ALLOCATION_ERROR,
    Outcome.DELEGATE_MISSING: CreateGraphExecutorResult.GPU_UNAVAILABLE,
    Outcome.DELEGATE_NOT_LOADABLE: CreateGraphExecutorResult.GPU_UNAVAILABLE,
    Outcome.DELEGATE_NOT_A_DELEGATE: CreateGraphExecutorResult.GPU_UNAVAILABLE,
    Outcome.DELEGATE_UNSUPPORTED: CreateGraphExecutorResult.GPU_UNAVAILABLE,
    Outcome.DELEGATE_CREATE_FAILED: CreateGraphExecutorResult.GPU_USE_ERROR,
    Outcome.PREPARE_FAILED: CreateGraphExecutorResult.GPU_USE_ERROR,
}


def _configuration(options: Options, *, use_nnapi: bool, use_gpu: bool) -> Created | None:
    """What can be said of the delegates that are asked for without loading one."""
    if use_nnapi and (use_gpu or options.delegate is not None):
        return Created(CreateGraphExecutorResult.DELEGATE_CONFIG_ERROR, message="expected NNAPI or a delegate, not both")
    if use_nnapi:
        return Created(CreateGraphExecutorResult.NNAPI_UNAVAILABLE, message="ChromeOS has no NNAPI")
    if use_gpu and options.delegate is None:
        return Created(CreateGraphExecutorResult.GPU_UNAVAILABLE, message="no delegate is given")
    return None


def _undelegated(loaded: Loaded) -> Created | None:
    """What the delegate left, where one was used."""
    claims = loaded.claims
    if claims is None:
        return None
    total, taken = sum(claims.operators), sum(len(part.nodes) for part in claims.partitions)
    if taken == total and claims.operators:
        return None
    return Created(CreateGraphExecutorResult.NOT_FULLY_DELEGABLE, message=f"the delegate takes {taken} of {total} operators, expected all")


def _unlike(source: Source, loaded: Loaded) -> Created | None:
    """What the worker says of a model's inputs and outputs and the model's file does not."""
    for what, stated, said in (("input", source.inputs, loaded.inputs), ("output", source.outputs, loaded.outputs)):
        problem = _differs(stated, said)
        if not problem and len({tensor.name for tensor in said}) < len(said):
            problem = "two of one name"
        if problem:
            status = Status(Outcome.LOAD_FAILED, source.name, "tensors", message=f"{what}s: {problem}")
            return Created(CreateGraphExecutorResult.MODEL_INTERPRETATION_ERROR, message=status.message, status=status)
    return None


def _differs(stated: Sequence[Stated], said: Sequence[TensorSpec], *, names: bool = True) -> str:
    if len(stated) != len(said):
        return f"{len(said)}, the model's file states {len(stated)}"
    for tensor, spec in zip(stated, said, strict=True):
        name = bounded(tensor.name, 200)
        # a shape of no sizes, or with a size of 0, is known at run time only
        fixed = tensor.shape and all(tensor.shape)
        if (names and spec.name != name) or spec.dtype != tensor.type.lower() or (fixed and spec.shape != tensor.shape):
            found = f"{f'{visible(spec.name)} ' if names else ''}{spec.dtype}{list(spec.shape)}"
            return f"{found}, the model's file states {visible(name)} {tensor.type.lower()}{list(tensor.shape)}"
    return ""


def _wrong_answer(stated: Sequence[Stated], known: Sequence[TensorSpec], said: Sequence[TensorSpec]) -> str:
    """What is wrong with the outputs that a worker gives: they are held to the model's file, whatever the worker said before."""
    problem = _differs(stated, said, names=False)
    if problem:
        return f"the worker's outputs: {problem}"
    for tensor, spec in zip(known, said, strict=True):
        name = visible(tensor.name)
        if spec.dtype not in TYPES:
            return f"{name}: output of type {spec.dtype}, expected one of {', '.join(TYPES)}"
        if not spec.shape or not all(spec.shape):
            return f"{name}: output of shape {list(spec.shape)}, expected one or more sizes of 1 or more"
    return ""


def _wrong_names(
    inputs: Mapping[str, TensorSpec], given: Mapping[str, Tensor], outputs: Mapping[str, TensorSpec], named: Sequence[str]
) -> Executed | None:
    for name in given:
        if name not in inputs:
            return Executed(ExecuteResult.UNKNOWN_INPUT_ERROR, message=f"{visible(name)[:MAX_NAME]}: expected {_names(inputs)}")
    for name in inputs:
        if name not in given:
            return Executed(ExecuteResult.INPUT_MISSING_ERROR, message=f"{visible(name)}: not given")
    seen: set[str] = set()
    for name in named:
        if name not in outputs:
            return Executed(ExecuteResult.UNKNOWN_OUTPUT_ERROR, message=f"{visible(name)[:MAX_NAME]}: expected {_names(outputs)}")
        if name in seen:
            return Executed(ExecuteResult.DUPLICATE_OUTPUT_ERROR, message=f"{visible(name)}: named twice")
        seen.add(name)
    for name in outputs:
        if name not in seen:
            return Executed(ExecuteResult.OUTPUT_MISSING_ERROR, message=f"{visible(name)}: not named")
    return None


def _wrong_input(known: Mapping[str, TensorSpec], given: Mapping[str, Tensor]) -> Executed | None:
    for name, spec in known.items():
        tensor = given[name]
        if spec.dtype not in TYPES:
            message = f"{visible(name)}: input of type {spec.dtype}, expected one of {', '.join(TYPES)}"
            return Executed(ExecuteResult.EXECUTION_ERROR, message=message)
        size = spec.nbytes
        if tensor.dtype == spec.dtype and tensor.shape != spec.shape:
            size = _size(spec.dtype, tensor.shape)
        for result, found, expected in (
            (ExecuteResult.INPUT_TYPE_ERROR, tensor.dtype, spec.dtype),
            (ExecuteResult.INPUT_FORMAT_ERROR, f"{len(tensor.data)} bytes", f"{size} bytes"),
            (ExecuteResult.INPUT_SHAPE_ERROR, tensor.shape, spec.shape),
        ):
            if found != expected:
                return Executed(result, message=f"{visible(name)}: {visible(str(found))[:MAX_NAME]}, expected {expected}")
    return None


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a shape that a client gives; -1 for what is no shape."""
    try:
        return TensorSpec("", shape, dtype).nbytes
    except ValueError:
        return -1


def _names(known: Mapping[str, TensorSpec]) -> str:
    return bounded(", ".join(map(visible, known)), 200)
