"""The inference service: models are loaded, executors created and inputs executed by the calls and result codes of the ChromeOS ML service.

Its control process is the process that holds an `InferenceService`. Each model has a confined worker for each set of options
(hosting.py), which the clients of that model share; each executor is an interpreter of its own in it. Nothing of a model's or a vendor's
is ever in the control process. All calls are asynchronous. A request that exceeds its budget ends its worker.

Sources: chromeos/services/machine_learning/public/mojom (machine_learning_service, model, graph_executor), chromiumos/platform2 ml/.
Codes that the ML service does not have say so.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from auditor import files
from auditor.errors import UsageError
from auditor.inference import metrics, scratch
from auditor.inference.executor import Options
from auditor.inference.graph_executor import MAX_NAME, Model, Workers
from auditor.inference.hosting import Host
from auditor.inference.metrics import LOAD, Metrics
from auditor.inference.rates import Rates
from auditor.inference.results import Budget, ExecuteResult, LoadModelResult, ServiceError, Source
from auditor.inference.wire import Outcome, Status, WorkerFailure
from auditor.model import visible
from auditor.tflite import operators
from auditor.tflite.graph import BadModel, read_graph
from auditor.tflite.tensors import TensorSpec, compare
from auditor.zoo.published import MAX_MODEL, Golden, Published, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

MAX_WORKERS = 32
"""Workers of a service at one time."""
T = TypeVar("T")

_CONTROL_THREADS = 4
"""Threads that read models; those that run them are the workers' own."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The answer to a request to load a model."""

    result: LoadModelResult
    model: Model | None = None
    message: str = ""


class InferenceService:
    """One service. An asynchronous context manager: on leaving, none of its workers is left. It belongs to one event loop."""

    def __init__(
        self,
        published: Mapping[str, Published] | None = None,
        budget: Budget | None = None,
        options: Options | None = None,
    ) -> None:
        self.published = dict(published or {})
        self.metrics = Metrics()
        self._budget, self._options = budget or Budget(), options or Options()
        self._rates = Rates(self._budget)
        self._control = ThreadPoolExecutor(_CONTROL_THREADS, thread_name_prefix="inference control")
        self._models: dict[tuple[str, str], Workers] = {}
        self._hosts: set[Host] = set()
        self._operators: dict[tuple[str, str], dict[str, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        scratch.sweep()

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """End every worker; requests get EXECUTION_ERROR, and what is called afterwards raises ServiceError. May be called again."""
        if not self._closed:
            self._check()
        self._closed = True
        while self._hosts:
            await asyncio.gather(*(host.close("the service is closed") for host in tuple(self._hosts)))
        self._control.shutdown(wait=False)

    async def load_builtin_model(self, name: str, client: str = "") -> Loaded:
        """Load a published model by its name, for a client, by whose name and the model requests are counted."""
        self._check()
        started = time.monotonic()
        published = self.published.get(name)
        if published is None:
            # a client's own names would fill the metrics
            return self._loaded("Unknown", started, LoadModelResult.MODEL_SPEC_ERROR, f"{visible(name)[:MAX_NAME]}: not published")
        known = self._models.get((name, published.sha256))
        if known:
            return self._model(known.source, client, started)
        try:
            content = await self._in_thread(lambda: files.read(published.path, MAX_MODEL, published.path, UsageError))
        except UsageError as problem:
            return self._loaded(name, started, LoadModelResult.LOAD_MODEL_ERROR, str(problem))
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != published.sha256:
            message = f"{published.path}: sha256 {sha256}, expected {published.sha256}"
            return self._loaded(name, started, LoadModelResult.LOAD_MODEL_ERROR, visible(message))
        return await self._read(name, client, started, content)

    async def load_flat_buffer_model(self, content: bytes, metrics_model_name: str, client: str = "") -> Loaded:
        """Load a model from its bytes."""
        self._check()
        started = time.monotonic()
        if not metrics_model_name:
            message = "metrics_model_name: expected a name"
            return self._loaded("Unknown", started, LoadModelResult.MODEL_SPEC_ERROR, message)
        return await self._read(visible(metrics_model_name)[:MAX_NAME], client, started, content)

    async def check_golden(self, name: str, options: Options | None = None) -> tuple[str, ...]:
        """Run a published model on its golden inputs. Returns what does not come out as it should, empty for nothing.

        A model that cannot be run, or has no golden case, is one of these too.
        """
        loaded = await self.load_builtin_model(name)
        if loaded.model is None:
            return (f"{loaded.result.name}: {loaded.message}",)
        async with loaded.model:
            return await check_cases(loaded.model, self.published[name].golden, options)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise ServiceError("the service belongs to another event loop")
        if self._closed:
            raise ServiceError("the service is closed")

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._control, function)

    async def _read(self, name: str, client: str, started: float, content: bytes) -> Loaded:
        if len(content) > MAX_MODEL:
            message = f"{len(content)} bytes, expected {MAX_MODEL} at most"
            return self._loaded(name, started, LoadModelResult.LOAD_MODEL_ERROR, message)
        try:
            graph = await self._in_thread(lambda: read_graph(content))
        except BadModel as problem:
            return self._loaded(name, started, LoadModelResult.LOAD_MODEL_ERROR, visible(str(problem)))
        source = Source(name, hashlib.sha256(content).hexdigest(), content, operators.needed(graph), graph.inputs, graph.outputs)
        self._check()
        return self._model(source, client, started)

    def _model(self, source: Source, client: str, started: float) -> Loaded:
        key = source.name, source.sha256
        if key not in self._models:
            self._models[key] = Workers(source, self.metrics, self._rates, self._start, self._forget)
        return self._loaded(source.name, started, LoadModelResult.OK, model=Model(self._models[key], client, self._options))

    def _forget(self, workers: Workers) -> None:
        self._models.pop((workers.source.name, workers.source.sha256), None)

    def _start(self, source: Source, options: Options) -> Host:
        if self._closed:
            raise WorkerFailure(Status(Outcome.EXITED, source.name, "start", message="the service is closed"))
        if len(self._hosts) >= MAX_WORKERS:
            message = f"{MAX_WORKERS} workers run already"
            raise WorkerFailure(Status(Outcome.OUT_OF_MEMORY, source.name, "start", message=message))
        host = Host(source, options, self._budget, self.metrics, self._operators, self._hosts.discard)
        self._hosts.add(host)
        self.metrics.sample(metrics.WORKERS, len(self._hosts))
        return host

    def _loaded(self, name: str, started: float, result: LoadModelResult, message: str = "", model: Model | None = None) -> Loaded:
        self.metrics.note(name, LOAD, result, started)
        return Loaded(result, model, message)


async def check_cases(model: Model, cases: Sequence[Golden], options: Options | None = None) -> tuple[str, ...]:
    """Run a model on golden inputs. Returns what does not come out as it should, empty for nothing; no case is one of these too."""
    if not cases:
        return ("no golden case",)
    created = await model.create_graph_executor(options)
    if created.executor is None:
        return (f"{created.result.name}: {created.message}",)
    async with created.executor as executor:
        wrong: list[str] = []
        for number, case in enumerate(cases):
            done = await executor.execute(case.inputs, tuple(case.outputs))
            if done.result is not ExecuteResult.OK:
                wrong.append(f"case {number}: {done.result.name}: {done.message}")
                continue
            differing = (_difference(case.outputs[output], done.outputs[output], case.tolerance) for output in case.outputs)
            wrong += [f"case {number}: {visible(output)}: {text}" for output, text in zip(case.outputs, differing, strict=True) if text]
        return tuple(wrong)


def _difference(expected: Tensor, found: Tensor, tolerance: float) -> str:
    """How an output differs from a golden one; empty where it does not."""
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return f"{found.dtype}{list(found.shape)}, expected {expected.dtype}{list(expected.shape)}"
    most = compare(TensorSpec("", expected.shape, expected.dtype), expected.data, found.data).maximum
    if most is None:
        return "NaN or infinity, or no element"
    return "" if most <= tolerance else f"an element differs by {most:g}, expected {tolerance:g} at most"
