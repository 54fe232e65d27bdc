"""What the auditor's own runtime answers to the inputs that a device's tool was given, beside the tool's answers without the delegate.

Every figure of the device's own tools rests on what they print, and a program that never reads the model can print all of it. It cannot
answer as the model does, to inputs that were drawn for this run. So the answers are computed a second time: on this machine, or on the
controller where the device is another one (`carried` brings them there). What is written down, in `conditions.tool.answers` of a run:

    {runtime, inputs: how many, outputs: [{index, correlation, error, distance}]}   or   {note: why there is nothing to compare}

`correlation` as in bench/tracking.py, null where the own answers to all inputs are alike; `error` is the mean of |own - tool|, `distance`
that of the own answers to two different inputs; raw units, null where one of them is not finite.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from auditor.bench.answers import compare, signature
from auditor.bench.tracking import Tracking
from auditor.inference import wire
from auditor.inference.executor import Access, Executor, Options
from auditor.inference.watch import Limits
from auditor.inference.wire import WorkerFailure
from auditor.tflite.graph import BadModel, read_graph
from auditor.tflite.rewrite import without_custom_deconvolution
from auditor.tflite.tensors import TensorSpec, split

MOST = 16
"""Inferences that are compared."""


@dataclass(frozen=True, slots=True)
class ToolAnswers:
    """What a tool was given without the delegate, and what it answered: of each inference, the bytes of its tensors."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    given: tuple[tuple[bytes, ...], ...]
    answered: tuple[tuple[bytes, ...], ...]


Compare: TypeAlias = Callable[[bytes, ToolAnswers], dict[str, Any]]
"""From a model, as a runtime without its custom operators runs it, and a tool's answers, to what a run's document says of them."""


def carried(_model: bytes, tool: ToolAnswers) -> dict[str, Any]:
    """The answers as they are, for a machine that has a runtime of its own."""
    pairs = zip(tool.given, tool.answered, strict=True)
    return {"carried": [[base64.b64encode(b"".join(each)).decode() for each in pair] for pair in pairs]}


def compare_carried(content: bytes, document: Any, *, allow_unconfined: bool = False) -> dict[str, Any]:
    """Compare what `carried` wrote down; the document and the model may be anything."""
    try:
        model = without_custom_deconvolution(content)
        inputs, outputs = signature(read_graph(model))
        pairs = document["carried"]
        if len(pairs) > MOST:
            raise ValueError(f"{len(pairs)} inferences")  # noqa: TRY301  # as for what else is none
        given, answered = ([_parts(pair[side], specs) for pair in pairs] for side, specs in enumerate((inputs, outputs)))
    except (BadModel, ValueError, KeyError, TypeError, IndexError) as problem:
        if isinstance(document, dict) and isinstance(document.get("note"), str):
            return {"note": wire.bounded(document["note"])}
        return {"note": wire.bounded(f"the answers that came from the device are none: {problem}")}
    return compare_here(model, ToolAnswers(inputs, outputs, tuple(given), tuple(answered)), allow_unconfined=allow_unconfined)


def _parts(text: str, specs: tuple[TensorSpec, ...]) -> tuple[bytes, ...]:
    data = base64.b64decode(text, validate=True)
    if len(data) != sum(spec.nbytes for spec in specs):
        raise ValueError(f"{len(data)} bytes of tensors")
    return split(specs, data)


def compare_here(model: bytes, tool: ToolAnswers, *, allow_unconfined: bool = False) -> dict[str, Any]:
    """Have the runtime of this machine answer the same inputs, in a confined worker. Nothing that a model does there makes this raise."""
    try:
        name, own = _own(model, tool, Access(allow_unconfined=allow_unconfined))
        figures = [_output(index, spec, own, tool) for index, spec in enumerate(tool.outputs)]
    except WorkerFailure as failure:
        return {"note": wire.bounded(f"the auditor's own runtime does not run the model: {failure.status.message}")}
    except ImportError as problem:
        return {"note": wire.not_imported(problem)}
    return {"runtime": name, "inputs": len(own), "outputs": figures}


def _own(model: bytes, tool: ToolAnswers, access: Access) -> tuple[str, list[tuple[bytes, ...]]]:
    """The runtime's name, and its answers to each of the inputs."""
    with Executor(model, Options(access=access), Limits(), "reference") as executor:
        executor.load()
        found = []
        for parts in tool.given:
            executor.worker.set_inputs(b"".join(parts))
            executor.worker.invoke()
            _specs, data, _ns = executor.worker.outputs()
            if len(data) != sum(spec.nbytes for spec in tool.outputs):
                status = wire.Status(wire.Outcome.OUTPUT_SHAPE_MISMATCH, "reference", "output", message="its outputs are of another size")
                raise WorkerFailure(status)
            found.append(split(tool.outputs, data))
        executor.worker.quit()
        return f"{executor.runtime['name']} {executor.runtime['version']}", found


def _output(index: int, spec: TensorSpec, own: list[tuple[bytes, ...]], tool: ToolAnswers) -> dict[str, Any]:
    """The figures of one output."""
    tracking = Tracking()
    for mine, theirs in zip(own, tool.answered, strict=True):
        tracking.add(spec.dtype, mine[index], theirs[index])
    errors = [compare(spec, mine[index], theirs[index]).mean for mine, theirs in zip(own, tool.answered, strict=True)]
    distances = [compare(spec, one[index], two[index]).mean for one, two in pairwise(own)]
    return {"index": index, "correlation": tracking.correlation(), "error": _mean(errors), "distance": _mean(distances)}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
