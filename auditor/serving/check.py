"""Would ChromeOS's ML service run a model, under its rules: one answer for each question, with a sentence that says why.

The rules are those of chromiumos/platform2 ml/graph_executor_delegate.cc and ml/model_delegate.cc: five types of inputs and outputs, no
scalar outputs, TFLite's builtin operators and one custom one, a delegate that takes the whole graph. The runtime that is asked is the one
on this machine, so an answer on operators names it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import files
from auditor.errors import UsageError
from auditor.inference.executor import Executor
from auditor.inference.results import TYPES, CreateGraphExecutorResult, ExecuteResult
from auditor.inference.service import check_cases
from auditor.model import Outcome, visible
from auditor.tflite import operators
from auditor.tflite.graph import CUSTOM, MEDIAPIPE_DECONVOLUTION, OPERATORS, BadModel, read_graph
from auditor.zoo.published import GOLDEN, MAX_GOLDEN, MAX_MODEL, SUFFIX, Golden, Tensor, read_golden

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.inference.executor import Options
    from auditor.inference.graph_executor import GraphExecutor, Model
    from auditor.inference.service import InferenceService
    from auditor.inference.watch import Limits
    from auditor.tflite.graph import Graph
    from auditor.tflite.graph import Tensor as Stated

SHOWN = 3
"""Things of a kind that a sentence names."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question about a model."""

    question: str
    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Runtime:
    """The runtime on this machine: its name and version, and its operators."""

    name: str
    version: str
    operators: Mapping[str, int]


def ask_runtime(options: Options, limits: Limits) -> Runtime:
    """Ask the runtime for its operators, in a worker. Raises WorkerFailure."""
    with Executor(operators.model_with(0, 1), options, limits, "operators") as executor:
        return Runtime(executor.runtime["name"], executor.runtime["version"], executor.worker.operators())


def read_model(path: str) -> bytes | int:
    """The bytes of a model's file, or its size where that is more than the service takes. Raises UsageError."""
    try:
        size = os.path.getsize(path) if os.path.isfile(path) else 0
    except (OSError, ValueError):
        size = 0
    return size if size > MAX_MODEL else files.read(path, MAX_MODEL, path, UsageError)


def golden_beside(path: str) -> tuple[Golden, ...]:
    """The golden cases beside a model, NAME.golden.json; none where that does not exist. Raises UsageError."""
    golden = path.removesuffix(SUFFIX) + GOLDEN
    return read_golden(files.read(golden, MAX_GOLDEN, golden, UsageError), golden) if os.path.exists(golden) else ()


async def check(
    service: InferenceService, name: str, content: bytes | int, golden: Sequence[Golden], options: Options, runtime: Runtime
) -> tuple[Answer, ...]:
    """Every answer on one model, in the order in which the ML service would come to it."""
    size = content if isinstance(content, int) else len(content)
    answers = [Answer("size", Outcome.PASS if size <= MAX_MODEL else Outcome.FAIL, f"{size} bytes; the service takes up to {MAX_MODEL}")]
    if isinstance(content, int):
        return tuple(answers)
    try:
        graph = read_graph(content)
    except BadModel as problem:
        return (*answers, Answer("format", Outcome.FAIL, f"{visible(str(problem))}: LOAD_MODEL_ERROR"))
    answers += [*_types(graph), _operators(graph, runtime)]
    loaded = await service.load_flat_buffer_model(content, name)
    if loaded.model is None:
        return (*answers, Answer("load", Outcome.FAIL, f"{loaded.result.name}: {loaded.message}"))
    async with loaded.model as model:
        created = await model.create_graph_executor(options)
        answers.append(_delegation(options, created.result, created.message))
        if created.executor is None:
            code, text = created.result, f"{created.result.name}: {created.message}"
            ours = code is CreateGraphExecutorResult.WORKER_ERROR or _lacks(graph, runtime)
            answers.append(Answer("run", Outcome.UNKNOWN if ours else Outcome.FAIL, text))
            return tuple(answers)
        async with created.executor as executor:
            answers.append(await _run(executor))
        answers.append(await _golden(model, golden, options))
    return tuple(answers)


def _types(graph: Graph) -> Iterator[Answer]:
    """What the file states of inputs and outputs; a shape of no sizes may be one that is known at run time only, which `run` decides."""
    named: tuple[tuple[str, Stated], ...] = (*(("input", each) for each in graph.inputs), *(("output", each) for each in graph.outputs))
    wrong = [f"{what} {visible(each.name)} is {each.type.lower()}" for what, each in named if each.type.lower() not in TYPES]
    if wrong:
        yield Answer("types", Outcome.FAIL, f"{_some(wrong)}; the ML service takes {', '.join(TYPES)}: EXECUTION_ERROR")
    else:
        yield Answer("types", Outcome.PASS, f"inputs and outputs are {', '.join(sorted({each.type.lower() for _, each in named}))}")
    for what, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        names = [each.name for each in tensors]
        if not names or not all(names) or len(set(names)) < len(names):
            yield Answer("names", Outcome.FAIL, f"expected one or more {what}s, each with a name of its own: requests go by names")


def _operators(graph: Graph, runtime: Runtime) -> Answer:
    label = f"{runtime.name} {runtime.version}"
    custom = {each.custom for sub in graph.subgraphs for each in sub.operators if each.custom or each.code == OPERATORS[CUSTOM]}
    missing = [*operators.missing(operators.needed(graph), runtime.operators)]
    missing += [f"custom operator {visible(each)}" for each in sorted(custom - {MEDIAPIPE_DECONVOLUTION})]
    if missing:
        return Answer("operators", Outcome.FAIL, f"not in {label}: {_some(missing)}: MODEL_INTERPRETATION_ERROR")
    own = f"; {MEDIAPIPE_DECONVOLUTION} is the ML service's own" if custom else ""
    return Answer("operators", Outcome.PASS, f"{label} has all {len(operators.needed(graph))}{own}")


def _lacks(graph: Graph, runtime: Runtime) -> bool:
    """Whether the model has the ML service's own operator, which no runtime here has, and lacks nothing else."""
    named = {each.custom for sub in graph.subgraphs for each in sub.operators}
    return MEDIAPIPE_DECONVOLUTION in named and _operators(graph, runtime).outcome is Outcome.PASS


def _delegation(options: Options, result: CreateGraphExecutorResult, message: str) -> Answer:
    if options.delegate is None:
        return Answer("delegation", Outcome.NOT_APPLICABLE, "no --delegate is given")
    if result is CreateGraphExecutorResult.OK:
        return Answer("delegation", Outcome.PASS, "the delegate takes every operator")
    if result in _DELEGATES:
        return Answer("delegation", Outcome.FAIL, f"{message}: {result.name}")
    return Answer("delegation", Outcome.UNKNOWN, f"the delegate was not asked: {result.name}")


_DELEGATES = (
    *(CreateGraphExecutorResult.GPU_UNAVAILABLE, CreateGraphExecutorResult.GPU_USE_ERROR),
    *(CreateGraphExecutorResult.DELEGATE_CONFIG_ERROR, CreateGraphExecutorResult.NOT_FULLY_DELEGABLE),
)


async def _run(executor: GraphExecutor) -> Answer:
    """One inference on zeros."""
    inputs = {name: Tensor(spec.dtype, spec.shape, bytes(spec.nbytes)) for name, spec in executor.inputs.items()}
    done = await executor.execute(inputs, tuple(executor.outputs))
    if done.result is not ExecuteResult.OK:
        return Answer("run", Outcome.FAIL, f"{done.message}: {done.result.name}")
    shown = (f"{visible(name)} {tensor.dtype}{list(tensor.shape)}" for name, tensor in done.outputs.items())
    return Answer("run", Outcome.PASS, f"one inference on zeros gives {_some(list(shown))}")


async def _golden(model: Model, golden: Sequence[Golden], options: Options) -> Answer:
    if not golden:
        return Answer("golden", Outcome.NOT_APPLICABLE, "no golden case is given")
    wrong = await check_cases(model, golden, options)
    if wrong:
        return Answer("golden", Outcome.FAIL, _some(list(wrong)))
    return Answer("golden", Outcome.PASS, f"{len(golden)} of {len(golden)} golden cases come out as recorded")


def _some(things: Sequence[str]) -> str:
    more = len(things) - SHOWN
    return "; ".join(things[:SHOWN]) + (f" and {more} more" if more > 0 else "")
