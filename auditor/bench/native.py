"""The native runner: measure one model once with TFLite's own tools, benchmark_model and inference_diff_eval, and write it down (run.py).

`measure` runs them in fresh confined processes, one after the other:

* *reference*: benchmark_model without a delegate, four times, each time on another input that nobody could foresee; its outputs are what
  is right. No delegate ever enters these processes, and they show that the tool itself works. The tool is the device's: the auditor's own
  runtime answers the same inputs (own_answers.py), or a program that never reads the model might be what is measured.
* *test*: benchmark_model through the delegate, timed, on the first of these inputs; *memory*: the same with the tool's own monitor, which
  disturbs the timing, on the second one; *accuracy*: the others. Their outputs are compared with the reference's here.
* *accuracy*, too: inference_diff_eval, whose figure over its own runs is the one that the page's limit is for. Its inputs are the same in
  every audit. The auditor's own, distributed like them, show that the delegate does not compute for the tool alone.

Delegate and measurement share a process, as on every ChromeOS device that is tested with these tools. What is taken from outside it: the
clock around the whole process (its start, and all that the delegate compiles, are in it, so the bracket can only be worse than the truth),
its peak of memory, its processor time, the device's engines, and whether the answers to unforeseen inputs are right. What is not, and
cannot be excluded: that a delegate ends the process itself after fewer inferences than the lines say that it forged in the tool's name,
or remembers the answer to an input that is always the same. The embedded runner excludes both (`--tflite`).

In the document, what differs from the embedded runner's: one entry each in samples_us (the tool's mean), bracket_us (clock around the
process over all inferences that the tool says there were) and cpu_us; init_us and first_us are the tool's word; exchange_us is empty;
memory has before_bytes 0, since the zoo's figure counts the tool itself; nodes, of a graph that the delegate took in part, without the
nodes' indexes; conditions have `tool` {path, sha256, difference: {path, sha256} of
inference_diff_eval | null, warm_up, timed: numbers of inferences, deviation_us, peak_mb: its own figure, answers: see own_answers.py},
`accuracy_note`: why there is no accuracy, or what it rests on, and of a stable delegate `settings` {path, sha256, text}.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor.bench.answers import compare, draw, signature
from auditor.bench.conditions import conditions
from auditor.bench.document import Job, Run, blank, identify, note_who_worked, noted
from auditor.bench.libraries import libraries_beside
from auditor.bench.native_output import (
    Benchmark,
    Delegation,
    Differences,
    End,
    ending,
    read_benchmark,
    read_differences,
    repeated,
    shares,
)
from auditor.bench.own_answers import ToolAnswers, compare_here
from auditor.bench.protocol import WARMUP_RUNS
from auditor.facts.elf import BadElf, read_interpreter
from auditor.facts.stable_delegate import unknown_fields
from auditor.inference import wire
from auditor.inference.executor import policy
from auditor.inference.process import MAX_OUTPUT, Ended, Worker
from auditor.inference.wire import Outcome, Status, WorkerFailure
from auditor.tflite.graph import BadModel, Graph, read_graph
from auditor.tflite.tensors import OutputError, TensorSpec, split
from auditor.zoo.pins import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from auditor.bench.own_answers import Compare
    from auditor.inference.worker.confine import Policy

FOLDERS = ("/usr/local/bin", "/usr/bin")
"""Where ChromeOS test images have the tools, beside PATH."""

EXTERNAL, STABLE = "EXTERNAL", "STABLE_DELEGATE"
"""The tools' names for the two kinds of delegates (GetName of tools/delegates/*_provider.cc)."""
_DELEGATE_FLAGS = frozenset({"external_delegate_path", "external_delegate_options", "stable_delegate_settings_file"})
_ANSWER_FLAGS = frozenset({"input_layer", "input_layer_shape", "input_layer_value_files", "output_filepath"})
_LISTING_FLAG = "print_preinvoke_state"
"""Has the tool list which node of the graph is whose, once, before the first inference."""
_OPTIONAL_FLAGS = _ANSWER_FLAGS | {_LISTING_FLAG}
"""Older tools do not know all of these; only the answers and the listing cannot be had without."""

_OUTCOMES = {
    End.OPERATOR: Outcome.OPERATOR_MISSING,
    End.REFUSED: Outcome.PREPARE_FAILED,
    End.INVOKE: Outcome.INVOKE_FAILED,
    End.CODE: Outcome.EXITED,
    End.NOT_APPLIED: Outcome.DELEGATE_NOT_APPLIED,
    End.UNREADABLE: Outcome.OUTPUT_UNREADABLE,
}
_DELEGATES_FAULTS = frozenset({Outcome.PREPARE_FAILED, Outcome.INVOKE_FAILED, Outcome.EXITED, Outcome.DIED})
_STAGES = {End.OPERATOR: "operators", End.REFUSED: "prepare", End.INVOKE: "invoke", End.NOT_APPLIED: "prepare"}

MAX_OPTIONS = 256
"""Of an external delegate (delegates/external/external_delegate.h)."""
MEMORY_SECONDS = 0.5
"""How long inferences go on in the process whose memory is read, at least: what it holds of a device is looked at ten times a second."""
MAX_SETTINGS = 1 << 16
"""Bytes of a stable delegate's settings that the document holds."""
OWN_INPUTS = 4
"""Inputs of the auditor's own in each measurement: three have as many as are ever asked for (statistics.MOST_INPUTS)."""
MAX_TRIED = 8
"""Options of a delegate that are tried one by one, where it is not created with all."""
OWN_SIZE = "/proc/self/statm"
"""What benchmark_model reads of itself for its report of memory (tools/utils.cc, profiling/memory_info.cc)."""
_OUTPUTS = "outputs"


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of benchmark_model, and of inference_diff_eval where there is one."""

    benchmark: str
    difference: str | None


@dataclass(frozen=True, slots=True)
class _Answers:
    """Inputs that were drawn for this measurement, by tensor, and the reference's outputs to each."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    drawn: tuple[tuple[bytes, ...], ...]
    reference: tuple[tuple[bytes, ...], ...] = ()


def find_tools(path: str | None = None) -> Tools | None:
    """The tools on `path` (PATH where it is None) and in the usual folders; None without a benchmark_model that may be executed."""
    folders = os.pathsep.join(filter(None, (os.environ.get("PATH") if path is None else path, *FOLDERS)))
    benchmark, difference = (shutil.which(name, path=folders) for name in TOOLS)
    return Tools(os.path.realpath(benchmark), difference and os.path.realpath(difference)) if benchmark else None


def unpassable(options: Sequence[tuple[str, str]]) -> str | None:
    """What of a delegate's options the tools would drop without a word, if anything: they split at ; and : and keep pairs only."""
    for key, value in options:
        if not value or {":", ";"} & {*key, *value}:
            return f"{key}={value}"
    return f"the option after {MAX_OPTIONS} others" if len(options) > MAX_OPTIONS else None


def measure(job: Job, tools: Tools, progress: Callable[[str], None] | None = None, opinion: Compare | None = None) -> Run:
    """Measure one model once. Nothing that a model, a tool or a vendor's library does makes this raise; the status says what it did.

    `opinion` says what the tool's answers are worth: without one, by the runtime of this machine.
    """
    opinion = opinion or functools.partial(compare_here, allow_unconfined=job.access.allow_unconfined)
    run = blank(job, "native")
    tools_own: list[dict[str, Any]] = []
    run["conditions"]["before"] = conditions()
    try:
        identify(job, run)
        _note_settings(job, run)
        _measure(job, tools, run, progress or (lambda _text: None), tools_own, opinion)
    except WorkerFailure as failure:
        run["status"] = failure.status.to_json()
        run["worker_output"] = _ends(failure.output)
    # what the tool asks for without the delegate is not what the delegate was refused
    asked = {(each["call"], each["path"]) for each in tools_own}
    refused = run["conditions"].get("refused")
    if refused:
        run["conditions"]["refused"] = [each for each in refused if (each["call"], each["path"]) not in asked]
    run["conditions"]["after"] = conditions()
    return run


def _measure(job: Job, tools: Tools, run: Run, tell: Callable[[str], None], tools_own: list[dict[str, Any]], opinion: Compare) -> None:
    tool = run["conditions"]["tool"] = _program_file(tools.benchmark)
    tool["difference"] = tools.difference and _program_file(tools.difference)
    # they do not say their version
    version = f"sha256:{tool['sha256'][:16]}" if tool["sha256"] else "unreadable"
    run["runtime"] = {"name": os.path.basename(tools.benchmark), "version": version}
    try:
        graph = read_graph(job.model)
    except BadModel as problem:
        raise _failure(Outcome.LOAD_FAILED, "reference", "model", str(problem)) from problem
    tell(f"{job.name}: reference")
    answers = _reference(job, tools, run, graph, tools_own)
    tell(f"{job.name}: the auditor's own answers")
    tool["answers"] = _second(job, run, answers, opinion)
    try:
        tell(f"{job.name}: latency")
        errors = [_test(job, tools, run, graph, answers)]
        tell(f"{job.name}: memory")
        errors.append(_memory(job, tools, run, answers))
        tell(f"{job.name}: answers")
        errors += [_answer(job, tools, run, answers, number) for number in range(2, len(answers.drawn) if answers else 0)]
    except WorkerFailure as failure:
        raise _whose(job, tools, failure) from failure
    tell(f"{job.name}: accuracy")
    _accuracy(job, tools, run, answers, [each for each in errors if each])


def _reference(job: Job, tools: Tools, run: Run, graph: Graph, tools_own: list[dict[str, Any]]) -> _Answers | None:
    """Have the tool run the model without the delegate. Its answers; None where this tool, or this model, does not give any.

    What the confinement refuses to the tool itself is added to `tools_own`.
    """
    try:
        inputs, outputs = _feedable(graph)
        answers = _Answers(inputs, outputs, tuple(tuple(map(draw, inputs)) for _ in range(OWN_INPUTS if tools.difference else 2)))
    except ValueError as problem:
        run["conditions"]["accuracy_note"] = wire.bounded(f"answers cannot be compared by the auditor: {problem}")
        answers = None
    found = []
    for number in range(len(answers.drawn) if answers else 1):
        with _without(job, tools.benchmark, "reference", job.reference or job.model) as worker:
            ended, text = _become(job, worker, [tools.benchmark, *_once_flags(job, worker), *_answer_flags(worker, answers, number)])
            read = read_benchmark(text, EXTERNAL)
            how = ending(read, ended.exit, None)
            if how and ended.exit:
                outcome = Outcome.OPERATOR_MISSING if how.end is End.OPERATOR else Outcome.LOAD_FAILED
                raise _failure(outcome, "reference", "run", how.message, text)
            _check_flags("reference", read.delegation, text)
            if how:
                raise _failure(Outcome.OUTPUT_UNREADABLE, "reference", "run", how.message, text)
            parts = _read_outputs(worker, answers)
            tools_own += worker.refused() or []
        if answers and parts is None:
            missing = sorted(_ANSWER_FLAGS & set(read.delegation.unconsumed))
            why = f"does not know --{missing[0]}" if missing else "wrote no outputs"
            run["conditions"]["accuracy_note"] = f"answers cannot be compared by the auditor: {os.path.basename(tools.benchmark)} {why}"
            return None
        found.append(parts)
    return replace(answers, reference=tuple(part for part in found if part)) if answers else None


def _second(job: Job, run: Run, answers: _Answers | None, opinion: Compare) -> dict[str, Any]:
    """What the tool's answers without the delegate are beside others to the same inputs."""
    if answers is None:
        return {"note": run["conditions"]["accuracy_note"]}
    return opinion(job.reference or job.model, ToolAnswers(answers.inputs, answers.outputs, answers.drawn, answers.reference))


def _feedable(graph: Graph) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a model. Raises ValueError for those that benchmark_model's flags cannot name."""
    inputs, outputs = signature(graph)
    if [spec.shape for spec in inputs] == [()]:
        raise ValueError("benchmark_model wants a shape for each input, and a scalar alone has none to give")
    return inputs, outputs


def _test(job: Job, tools: Tools, run: Run, graph: Graph, answers: _Answers | None) -> tuple[OutputError, ...] | None:
    """The timed process. Returns how its answers differ from the reference's; None where that is not known."""
    with _confined(job, run, tools.benchmark, "test") as worker:
        seconds = (f"--min_secs={job.min_seconds:g}", f"--warmup_min_secs={job.warmup_seconds:g}")
        flags = (f"--num_runs={job.min_runs}", *seconds, f"--{_LISTING_FLAG}=true", *_answer_flags(worker, answers, 0))
        ended, text = _become(job, worker, [tools.benchmark, *_graph_flags(job, worker), *flags, *_delegate_flags(job)])
        run["worker_output"] = _ends(text)
        read = _applied(job, worker, "test", ended, text)
        counted = worker.counted()
        _note_nodes(job, run, graph, read.delegation)
        _note_times(job, run, read, ended, text)
        note_who_worked(run, ended.cpu_ns / 1e3, counted, ended.bracket_ns / 1e3, read.inferences or 0)
        return _errors(worker, answers, 0, "test")


def _memory(job: Job, tools: Tools, run: Run, answers: _Answers | None) -> tuple[OutputError, ...] | None:
    """As many inferences as a timed process has at least, for memory alone; and how its answers differ."""
    with _confined(job, run, tools.benchmark, "memory") as worker:
        monitor = (f"--min_secs={MEMORY_SECONDS:g}", "--warmup_min_secs=0", "--report_peak_memory_footprint=true")
        flags = (f"--num_runs={job.min_runs}", *monitor, *_answer_flags(worker, answers, 1))
        ended, text = _become(job, worker, [tools.benchmark, *_graph_flags(job, worker), *flags, *_delegate_flags(job)])
        read = _applied(job, worker, "memory", ended, text)
        counted = worker.counted()
        note_who_worked(run, ended.cpu_ns / 1e3, counted, ended.bracket_ns / 1e3, read.inferences or 0, process="memory_")
        if ended.peak_bytes is not None:
            run["memory"] = {"before_bytes": 0, "peak_bytes": ended.peak_bytes, "device_bytes": worker.device_bytes()}
        run["conditions"]["tool"]["peak_mb"] = read.peak
        return _errors(worker, answers, 1, "memory")


def _answer(job: Job, tools: Tools, run: Run, answers: _Answers | None, number: int) -> tuple[OutputError, ...] | None:
    """One more process, for its answer to another input alone."""
    with _confined(job, run, tools.benchmark, "accuracy") as worker:
        flags = (*_once_flags(job, worker), *_answer_flags(worker, answers, number), *_delegate_flags(job))
        ended, text = _become(job, worker, [tools.benchmark, *flags])
        _applied(job, worker, "accuracy", ended, text)
        return _errors(worker, answers, number, "accuracy")


def _accuracy(job: Job, tools: Tools, run: Run, answers: _Answers | None, errors: list[tuple[OutputError, ...]]) -> None:
    """Have inference_diff_eval compare; write down an accuracy, or why there is none."""
    note = _difference(job, tools, run, answers, errors)
    if note:
        run["accuracy"] = None
        run["conditions"]["accuracy_note"] = wire.bounded(note)


def _difference(job: Job, tools: Tools, run: Run, answers: _Answers | None, errors: list[tuple[OutputError, ...]]) -> str:
    """Why there is no accuracy; empty where there is."""
    if tools.difference is None:
        return "there is no inference_diff_eval on this device"
    name = os.path.basename(tools.difference)
    try:
        with _confined(job, run, tools.difference, "accuracy") as worker:
            command = [tools.difference, *_difference_flags(job, worker), *_delegate_flags(job)]
            ended, text = _become(job, worker, command)
            read = read_differences(text, _provider(job))
            how = ending(read, ended.exit, None)
            if how and ended.exit:
                raise _failure(_OUTCOMES[how.end], "accuracy", _STAGES.get(how.end, "run"), how.message, text, ended.exit)
            whole = worker.is_output_whole
    except WorkerFailure as failure:
        trouble = "" if failure.status.outcome is Outcome.TOOL_UNUSABLE else _trouble_without(job, tools.difference)
        if trouble or failure.status.outcome is Outcome.TOOL_UNUSABLE:
            return f"{name} cannot evaluate this model: {trouble or failure.status.message}"
        raise
    if not whole:
        return f"{name} prints too much to be read"
    if job.delegate and not read.delegation.created:
        unknown = sorted(_DELEGATE_FLAGS & set(read.delegation.unconsumed))
        why = f"does not know --{unknown[0]}" if unknown else "does not say that the delegate was created"
        return f"{name} {why}, so it compared the CPU with itself"
    if read.outputs is None or read.runs != job.min_runs:
        return f"{name}: {'; '.join(read.problems) or f'{read.runs} runs, expected {job.min_runs}'}"
    return _note_accuracy(run, read, answers, errors)


def _trouble_without(job: Job, tool: str) -> str:
    """How inference_diff_eval fails on a model even without the delegate; empty where it does not: then it is the delegate's."""
    try:
        with _without(job, tool, "accuracy", job.model) as worker:
            ended, text = _become(job, worker, [tool, *_difference_flags(job, worker)])
    except WorkerFailure as failure:
        return failure.status.message
    how = ending(read_differences(text, EXTERNAL), ended.exit, None)
    return how.message if how and ended.exit else ""


def _whose(job: Job, tools: Tools, failure: WorkerFailure) -> WorkerFailure:
    """The failure of a process with the delegate, as the one that it is: the delegate's, the tool's, or that of what it was given."""
    status = failure.status
    if status.outcome is Outcome.DELEGATE_NOT_APPLIED:
        because = _why_not_created(job)
        return _again(failure, status.outcome, f"{status.message}; {because}" if because else status.message)
    operator = status.outcome is Outcome.OPERATOR_MISSING
    if not operator and (job.reference is None or status.outcome not in _DELEGATES_FAULTS):
        return failure
    # the reference ran another file, or with the runtime's own delegate, which takes operators that the tool does not have
    trouble = _benchmark_without(job, tools.benchmark, xnnpack=job.xnnpack and not operator)
    if trouble:
        outcome = Outcome.OPERATOR_MISSING if operator else Outcome.TOOL_UNUSABLE
        return _again(failure, outcome, f"{status.message} (without the delegate: {trouble})")
    return _again(failure, Outcome.PREPARE_FAILED, f"{status.message} (without the delegate, the tool runs it)") if operator else failure


def _again(failure: WorkerFailure, outcome: Outcome, message: str) -> WorkerFailure:
    return WorkerFailure(replace(failure.status, outcome=outcome, message=wire.bounded(message)), failure.output)


def _benchmark_without(job: Job, tool: str, *, xnnpack: bool) -> str:
    """How benchmark_model fails on the model itself without the delegate; empty where it does not."""
    try:
        with _without(job, tool, "test", job.model) as worker:
            ended, text = _become(job, worker, [tool, *_once_flags(replace(job, xnnpack=xnnpack), worker)])
    except WorkerFailure as failure:
        return failure.status.message
    how = ending(read_benchmark(text, EXTERNAL), ended.exit, None)
    return how.message if how and ended.exit else ""


def _why_not_created(job: Job) -> str:
    """Why a tool went on without the delegate, where it does not say it itself: fields, options, or the library.

    It passes no function to a delegate that would report an error, and says nothing of a library that it could not load. The service's
    worker, confined like the tool, does both.
    """
    if job.settings is not None:
        fields = unknown_fields(_read_settings(job.settings).decode(errors="replace"))
        return f"TFLiteSettings has no field {', '.join(fields[:4])}" if fields else ""
    trouble = _created(job, job.options)
    if not trouble or not job.options or _created(job, ()):
        return trouble
    refused = [pair for pair in job.options[:MAX_TRIED] if _created(job, (pair,))]
    named = ", ".join(f"{key}={value}" for key, value in refused) or "these options together"
    return f"{trouble}: it is created without options, and not with {wire.shown(named)}"


def _created(job: Job, options: tuple[tuple[str, str], ...]) -> str:
    """Why the library gives no delegate with these options; empty where it does."""
    assert job.delegate is not None
    try:
        with Worker("test", job.model, job.limits, job.library_path) as worker:
            worker.confine(policy(job), required=not job.access.allow_unconfined)
            worker.load_delegate(os.path.abspath(job.delegate), dict(options))
    except WorkerFailure as failure:
        return failure.status.message
    return ""


def _note_accuracy(run: Run, read: Differences, answers: _Answers | None, errors: list[tuple[OutputError, ...]]) -> str:
    """Write the tool's figures down, and the errors on the auditor's own inputs. Returns why that cannot be, where it cannot."""
    assert read.outputs is not None
    if answers and len(answers.outputs) != len(read.outputs):
        return f"inference_diff_eval compared {len(read.outputs)} outputs, the model has {len(answers.outputs)}"
    outputs = []
    for index, tool in enumerate(read.outputs):
        own = [each[index] for each in errors]
        reference_nan, test_nan = (sum(not getattr(each, side) for each in own) for side in ("reference_finite", "test_finite"))
        finite = tool.average < float("inf") and tool.deviation < float("inf")  # which a NaN is not
        if not finite and not reference_nan and not test_nan:
            return "inference_diff_eval met a NaN or an infinity, and does not say on which side"
        complete = finite and not reference_nan and not test_nan
        means = [each.mean for each in own if each.mean is not None]
        maxima = [each.maximum for each in own if each.maximum is not None]
        elements = sum(each.elements for each in own)
        outputs.append(
            {
                "index": index,
                "avg_error": tool.average if complete else None,
                "std_dev": tool.deviation if complete else None,
                "own_errors": means,
                "max_error": max(maxima) if maxima and complete else None,
                "exact_share": sum(each.exact for each in own) / elements if elements else None,
                "reference_nan_runs": reference_nan,
                "test_nan_runs": test_nan,
                "two_input_distance": compare(answers.outputs[index], *(each[index] for each in answers.reference[:2])).mean
                if answers
                else None,
            }
        )
    run["accuracy"] = {"runs": read.runs, "outputs": outputs}
    return ""


@contextlib.contextmanager
def _confined(job: Job, run: Run, tool: str, role: str) -> Iterator[Worker]:
    """A worker that is to become a tool with the delegate in it."""
    with Worker(
        role, job.model, job.limits, job.library_path, nodes=job.access.device_nodes, accelerators=job.access.accelerators, tool=True
    ) as worker:
        confinement = worker.confine(_policy(job, tool, role), required=not job.access.allow_unconfined)
        with noted(job, run, worker, confinement):
            yield worker


@contextlib.contextmanager
def _without(job: Job, tool: str, role: str, model: bytes) -> Iterator[Worker]:
    """A worker that is to become a tool without the delegate. It may read what was allowed: a library of the tool's may be there."""
    alone = replace(job, delegate=None, settings=None)
    opened = _policy(alone, tool, role)
    with Worker(role, model, job.limits, tool=True) as worker:
        worker.confine(replace(opened, readable=(*opened.readable, *job.access.allow_paths)), required=not job.access.allow_unconfined)
        yield worker


def _policy(job: Job, tool: str, role: str) -> Policy:
    """What a tool may open: what the delegate may, the tool's own libraries, and its own size."""
    opened = policy(job)
    return replace(opened, readable=(*opened.readable, *libraries_beside(tool), OWN_SIZE), executable=_program(tool, role))


def _become(job: Job, worker: Worker, command: Sequence[str]) -> tuple[Ended, str]:
    """Run a tool to its end, for as long as it may take by its own flags, and a little longer: it never interrupts an inference."""
    limits = job.limits
    ended = worker.become(command, limits.start_seconds + 2 * _most_seconds(job) + limits.request_seconds)
    return ended, worker.output


def _applied(job: Job, worker: Worker, role: str, ended: Ended, text: str) -> Benchmark:
    """What benchmark_model printed, of a process that went on to its end, through the delegate where there is one."""
    read = read_benchmark(text, _provider(job))
    how = ending(read, ended.exit, _provider(job) if job.delegate else None)
    if how is None or how.end not in {End.OPERATOR, End.REFUSED}:
        _check_flags(role, read.delegation, text)
    if how and ended.exit:
        # a failing inference does not end the tool: it prints its error as often as the warm-up goes on, too much to be kept
        raise _failure(_OUTCOMES[how.end], role, _STAGES.get(how.end, "run"), how.message, text, ended.exit)
    if not worker.is_output_whole:
        raise _failure(Outcome.OUTPUT_UNREADABLE, role, "run", "it prints too much to be read", text)
    if how and how.end is not End.UNREADABLE:
        raise _failure(_OUTCOMES[how.end], role, _STAGES.get(how.end, "run"), how.message, text)
    return read


def _check_flags(role: str, delegation: Delegation, text: str) -> None:
    """A flag that the tool does not know is passed over: one that matters makes it another measurement."""
    unknown = [flag for flag in delegation.unconsumed if flag not in _OPTIONAL_FLAGS]
    if unknown:
        raise _failure(Outcome.TOOL_UNUSABLE, role, "flags", f"the tool does not know --{unknown[0]}", text)


def _note_nodes(job: Job, run: Run, graph: Graph, delegation: Delegation) -> None:
    """Write down what the tool says that the delegate took. Only the main graph's nodes are offered to it, and named by it.

    Of sources that say different things, the least counts, and all are kept.
    """
    if run["delegate"] is None:
        return
    total, main = sum(len(subgraph.operators) for subgraph in graph.subgraphs), len(graph.subgraphs[0].operators)
    said = shares(delegation, main)
    names = [each.name for each in said if each.name]
    run["delegate"]["name"] = wire.bounded(names[0], 200) if names else None
    if len(said) > 1:
        run["conditions"]["delegated"] = [
            {"source": each.source, "nodes": each.nodes, "total": each.total, "partitions": each.partitions} for each in said
        ]
    known = [each for each in said if each.total == main and each.nodes <= main]
    if not known:
        return
    least = min(known, key=lambda each: each.nodes)
    name = run["delegate"]["name"] or _provider(job)
    nodes = least.parts if least.parts is not None else [None] * (least.partitions or min(1, least.nodes))
    partitions = [{"subgraph": 0, "name": name, "nodes": part and list(part)} for part in nodes]
    run["nodes"] = {"total": total, "delegated": least.nodes, "partitions": partitions}


def _note_times(job: Job, run: Run, read: Benchmark, ended: Ended, text: str) -> None:
    """Write down the times, where the lines say them once, and the clock does not gainsay them."""
    if read.timed is None or read.warm_up is None or read.inferences is None:
        raise _failure(Outcome.OUTPUT_UNREADABLE, "test", "run", "; ".join(read.problems), text)
    claimed_us = read.warm_up.count * read.warm_up.average + read.timed.count * read.timed.average
    wall_us = ended.bracket_ns / 1e3
    if claimed_us > wall_us:
        message = f"{read.inferences} inferences in {claimed_us / 1e6:.3f} s, but the process was there for {wall_us / 1e6:.3f} s"
        raise _failure(Outcome.OUTPUT_UNREADABLE, "test", "run", message, text)
    if read.timed.count < job.min_runs and wall_us < _most_seconds(job) * 1e6:
        message = f"{read.timed.count} timed inferences, expected at least {job.min_runs}"
        raise _failure(Outcome.OUTPUT_UNREADABLE, "test", "run", message, text)
    run["inputs"] = 1
    run["init_us"], run["first_us"] = read.init, read.warm_up.first
    run["samples_us"], run["bracket_us"] = [read.timed.average], [wall_us / read.inferences]
    run["cpu_us"] = [ended.cpu_ns / 1e3 / read.inferences]
    run["conditions"]["tool"] |= {"warm_up": read.warm_up.count, "timed": read.timed.count, "deviation_us": read.timed.deviation}


def _read_settings(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_SETTINGS + 1)
    except OSError as problem:
        raise _failure(Outcome.DELEGATE_MISSING, "test", "load", f"{path}: {problem.strerror}") from problem


def _note_settings(job: Job, run: Run) -> None:
    """Keep a stable delegate's settings beside the figures: they may trade accuracy for speed."""
    if job.settings is None:
        return
    data = _read_settings(job.settings)
    text = wire.bounded(data.decode(errors="replace"), MAX_SETTINGS)
    run["conditions"]["settings"] = {"path": wire.shown(job.settings), "sha256": hashlib.sha256(data).hexdigest(), "text": text}


def _graph_flags(job: Job, worker: Worker) -> list[str]:
    return [
        f"--graph={worker.model_path}",
        f"--num_threads={job.threads}",
        f"--max_secs={_most_seconds(job):g}",
        f"--warmup_runs={WARMUP_RUNS}",
        *([] if job.xnnpack else ["--use_xnnpack=false"]),
    ]


def _once_flags(job: Job, worker: Worker) -> list[str]:
    """For one inference, with all that the tool opens for itself."""
    once = ("--num_runs=1", "--min_secs=0", "--warmup_min_secs=0", "--report_peak_memory_footprint=true")
    return [*_graph_flags(job, worker), *once]


def _difference_flags(job: Job, worker: Worker) -> list[str]:
    return [f"--model_file={worker.model_path}", f"--num_runs={job.min_runs}", f"--num_interpreter_threads={job.threads}"]


def _delegate_flags(job: Job) -> list[str]:
    if job.settings is not None:
        return [f"--stable_delegate_settings_file={os.path.abspath(job.settings)}"]
    if job.delegate is None:
        return []
    options = ";".join(f"{key}:{value}" for key, value in job.options)
    return [f"--external_delegate_path={os.path.abspath(job.delegate)}", *([f"--external_delegate_options={options}"] if options else [])]


def _answer_flags(worker: Worker, answers: _Answers | None, number: int) -> list[str]:
    """Have an input taken from files, and the last outputs written to one. The names are ours: the tool goes by their order.

    Of several inputs, the shape of a scalar is empty between its colons.
    """
    if answers is None:
        return []
    names = [f"input{index}" for index in range(len(answers.inputs))]
    for name, values in zip(names, answers.drawn[number], strict=True):
        with open(os.path.join(worker.scratch, name), "xb") as file:
            file.write(values)
    shapes = ":".join(",".join(map(str, spec.shape)) for spec in answers.inputs)
    files = ",".join(f"{name}:{worker.scratch}/{name}" for name in names)
    return [
        f"--input_layer={','.join(names)}",
        f"--input_layer_shape={shapes}",
        f"--input_layer_value_files={files}",
        f"--output_filepath={worker.scratch}/{_OUTPUTS}",
    ]


def _read_outputs(worker: Worker, answers: _Answers | None) -> tuple[bytes, ...] | None:
    """The outputs that a tool wrote last, by tensor; None where they are not all there, and no more. The file may be a stranger's."""
    if answers is None:
        return None
    size = sum(spec.nbytes for spec in answers.outputs)
    try:
        descriptor = os.open(os.path.join(worker.scratch, _OUTPUTS), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        data = file.read(size + 1) if stat.S_ISREG(found.st_mode) and found.st_size == size else b""
    return split(answers.outputs, data) if len(data) == size else None


def _errors(worker: Worker, answers: _Answers | None, number: int, role: str) -> tuple[OutputError, ...] | None:
    """How the answers to an input differ from the reference's, which the same tool wrote down in the same way."""
    if answers is None:
        return None
    test = _read_outputs(worker, answers)
    if test is None:
        message = "its outputs are not written down as the reference's were, in as many bytes"
        raise _failure(Outcome.OUTPUT_SHAPE_MISMATCH, role, "output", message, worker.output)
    return tuple(map(compare, answers.outputs, answers.reference[number], test))


def _program(tool: str, role: str) -> tuple[str, ...]:
    """What must be executable for a tool to run: itself, and its dynamic linker."""
    try:
        with open(tool, "rb") as file:
            linker = read_interpreter(lambda offset, length: os.pread(file.fileno(), length, offset), os.fstat(file.fileno()).st_size)
    except OSError as problem:
        raise _failure(Outcome.TOOL_UNUSABLE, role, "start", f"{tool}: {problem.strerror}") from problem
    except BadElf as problem:
        raise _failure(Outcome.TOOL_UNUSABLE, role, "start", f"{tool}: expected an ELF program: {problem}") from problem
    return (tool, linker) if linker else (tool,)


def _program_file(tool: str) -> dict[str, Any]:
    """Which program it is; its digest is None where it may be run, but not be read."""
    digest = hashlib.sha256()
    try:
        with open(tool, "rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except OSError:
        return {"path": wire.shown(tool), "sha256": None}
    return {"path": wire.shown(tool), "sha256": digest.hexdigest()}


def _provider(job: Job) -> str:
    return EXTERNAL if job.settings is None else STABLE


def _most_seconds(job: Job) -> float:
    """After how long the tool begins no further inference: its loops have one limit each."""
    return min(job.max_seconds, job.min_seconds + job.limits.request_seconds)


def _ends(text: str) -> str:
    """The two ends of a long text, what repeats itself once."""
    text = repeated(text)
    if len(text) <= 2 * MAX_OUTPUT:
        return text
    return f"{text[:MAX_OUTPUT]}\n… {len(text) - 2 * MAX_OUTPUT} characters left out …\n{text[-MAX_OUTPUT:]}"


def _failure(outcome: Outcome, role: str, stage: str, message: str, output: str = "", code: int | None = None) -> WorkerFailure:
    return WorkerFailure(Status(outcome, role, stage, exit=code, message=wire.bounded(message)), output)
