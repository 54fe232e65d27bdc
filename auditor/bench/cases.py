"""Golden cases of the zoo's models: recorded when stand-ins are generated, and asked for again before a runtime's answers are a reference.

A runtime that an operator was dropped from, or whose kernels have changed, shows here (ChromeOS ML service, TensorFlow versioning).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from auditor.errors import AuditError
from auditor.inference.results import CreateGraphExecutorResult, ExecuteResult
from auditor.inference.service import InferenceService, check_cases
from auditor.tflite.tensors import make_inputs, split
from auditor.zoo.published import Golden, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auditor.inference.executor import Options

SEED = 1
FLOAT_TOLERANCE, INTEGER_TOLERANCE = 1e-4, 8.0
"""Fifty times, and twice, what the kernels of both runtimes differ by on the stand-ins; answers to other inputs are off by more."""


class NotRecorded(AuditError):  # noqa: N818  # not every machine has a runtime
    """No golden case could be recorded."""


def record(content: bytes, name: str, options: Options) -> tuple[Golden, ...]:
    """One case: what the runtime on this machine gives for an input that is always the same. Raises NotRecorded."""
    return asyncio.run(_record(content, name, options))


def differences(content: bytes, name: str, cases: Sequence[Golden], options: Options) -> tuple[str, ...]:
    """In what a runtime does not give what the golden cases say; empty for nothing."""
    return asyncio.run(_differences(content, name, cases, options))


async def _record(content: bytes, name: str, options: Options) -> tuple[Golden, ...]:
    import numpy as np  # noqa: PLC0415  # only for those who generate

    async with InferenceService(options=options) as service:
        loaded = await service.load_flat_buffer_model(content, name)
        if loaded.model is None:
            raise NotRecorded(loaded.message)
        created = await loaded.model.create_graph_executor()
        if created.result is not CreateGraphExecutorResult.OK or created.executor is None:
            raise NotRecorded(created.message)
        executor = created.executor
        specs = tuple(executor.inputs.values())
        parts = split(specs, make_inputs(specs, np.random.default_rng(SEED)))
        inputs = {spec.name: Tensor(spec.dtype, spec.shape, part) for spec, part in zip(specs, parts, strict=True)}
        done = await executor.execute(inputs, tuple(executor.outputs))
        if done.result is not ExecuteResult.OK:
            raise NotRecorded(done.message)
        floats = all(each.dtype.startswith("float") for each in done.outputs.values())
        return (Golden(inputs, done.outputs, FLOAT_TOLERANCE if floats else INTEGER_TOLERANCE),)


async def _differences(content: bytes, name: str, cases: Sequence[Golden], options: Options) -> tuple[str, ...]:
    async with InferenceService(options=options) as service:
        loaded = await service.load_flat_buffer_model(content, name)
        return await check_cases(loaded.model, cases) if loaded.model else (loaded.message,)
