"""A client of the inference service: predictions by a model's name, whatever becomes of workers meanwhile.

    async with InferenceService(read_published(folder)) as service:
        client = Client(service)
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

    from auditor.inference.executor import Options
    from auditor.inference.graph_executor import GraphExecutor
    from auditor.inference.service import InferenceService
    from auditor.zoo.published import Tensor


class PredictionError(Exception):
    """A request that has no outputs: the result code of the call that failed, and what is known of why."""

    def __init__(self, result: enum.Enum, message: str) -> None:
        super().__init__(f"{result.name}: {message}")
        self.result, self.message = result, message


class Client:
    """Predictions by published models. Requests to one model wait for each other, those to different ones do not."""

    def __init__(self, service: InferenceService, options: Options | None = None) -> None:
        self._service, self._options = service, options
        self._executors: dict[str, GraphExecutor] = {}
        self._turns: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)

    async def predict(self, model: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The outputs of a model by their names. Raises PredictionError."""
        async with self._turns[model]:
            executor = self._executors.get(model)
            if executor is None or executor.over:
                executor = self._executors[model] = await self._create(model)
        done = await executor.execute(inputs, tuple(executor.outputs))
        if done.result is not ExecuteResult.OK:
            raise PredictionError(done.result, done.message)
        return done.outputs

    async def _create(self, name: str) -> GraphExecutor:
        loaded = await self._service.load_builtin_model(name)
        if loaded.result is not LoadModelResult.OK or loaded.model is None:
            raise PredictionError(loaded.result, loaded.message)
        created = await self._service.create_graph_executor(loaded.model, self._options)
        if created.result is not CreateGraphExecutorResult.OK or created.executor is None:
            raise PredictionError(created.result, created.message)
        return created.executor
