"""A client of the inference service: predictions by a model's name, whatever becomes of workers meanwhile.

    async with InferenceService(read_published(folder)) as service, Client(service, "viewer") as client:
        outputs = await client.predict("mobilenet_v2_1.0_224", {"input": Tensor("float32", (1, 224, 224, 3), data)})

As the ML service's own client library, it loads a model when it is first asked for, and keeps its executor; once that has ended, it makes
another.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING

from auditor.inference.results import CreateGraphExecutorResult, ExecuteResult, LoadModelResult

if TYPE_CHECKING:
    import enum
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from auditor.inference.executor import Options
    from auditor.inference.graph_executor import GraphExecutor
    from auditor.inference.service import InferenceService
    from auditor.inference.wire import Status
    from auditor.zoo.published import Tensor


class PredictionError(Exception):
    """A request that has no outputs: the result code of the call that failed, and what is known of why."""

    def __init__(self, result: enum.Enum, message: str, status: Status | None = None) -> None:
        super().__init__(f"{result.name}: {message}")
        self.result, self.message, self.status = result, message, status


class Client:
    """Predictions by published models. An asynchronous context manager: on leaving, it lets go of its executors.

    Rates are counted by its name. Requests to one model wait for each other, those to different ones do not.
    """

    def __init__(self, service: InferenceService, name: str = "", options: Options | None = None) -> None:
        self._service, self._name, self._options = service, name, options
        self._executors: dict[str, GraphExecutor] = {}
        self._turns: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the executors. May be called again."""
        while self._executors:
            await self._executors.popitem()[1].close()

    async def predict(self, model: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The outputs of a model by their names. Raises PredictionError."""
        executor = await self.executor(model)
        done = await executor.execute(inputs, tuple(executor.outputs))
        if done.result is not ExecuteResult.OK:
            raise PredictionError(done.result, done.message, done.status)
        return done.outputs

    async def executor(self, model: str) -> GraphExecutor:
        """The executor of a model, made where there is none that answers. Raises PredictionError."""
        executor = self._executors.get(model)
        if executor and not executor.over:
            return executor
        try:
            async with self._turns[model]:
                executor = self._executors.get(model)
                if executor is None or executor.over:
                    if executor:
                        del self._executors[model]
                        await executor.close()
                    executor = self._executors[model] = await self._create(model)
                return executor
        finally:
            if model not in self._service.published:
                self._turns.pop(model, None)  # a stranger's names are not kept

    async def _create(self, name: str) -> GraphExecutor:
        loaded = await self._service.load_builtin_model(name, self._name)
        if loaded.result is not LoadModelResult.OK or loaded.model is None:
            raise PredictionError(loaded.result, loaded.message)
        async with loaded.model as model:  # its executor holds the worker
            created = await model.create_graph_executor(self._options)
        if created.result is not CreateGraphExecutorResult.OK or created.executor is None:
            raise PredictionError(created.result, created.message, created.status)
        return created.executor
