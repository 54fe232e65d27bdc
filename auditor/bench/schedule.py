"""The zoo, run: by what, how often each model is measured, and when a verdict needs no further run."""

from __future__ import annotations

import functools
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from auditor.bench.delegates import Delegate
from auditor.bench.libraries import libraries_beside
from auditor.bench.options import BenchTime, ZooOptions
from auditor.bench.pictures import golden_sets
from auditor.bench.protocol import RUNS, WARMUP_SECONDS
from auditor.errors import AuditError, UsageError
from auditor.facts.reading import parse
from auditor.facts.runs import model_result, read_run
from auditor.facts.types import Ok
from auditor.inference.executor import Access
from auditor.inference.wire import AUTO
from auditor.model import visible
from auditor.statistics import LOOKS, Verdict, further, judge
from auditor.tflite.graph import BadModel, read_graph
from auditor.tflite.rewrite import without_custom_deconvolution
from auditor.zoo.catalogue import ZooModel, recognise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from auditor.bench.document import Job, Run
    from auditor.bench.native import Tools
    from auditor.bench.own_answers import Compare
    from auditor.facts.types import Fact
    from auditor.model import ModelRun
    from auditor.tflite.graph import Graph
    from auditor.zoo.golden import GoldenSet
    from auditor.zoo.models import ModelFile


@dataclass(frozen=True, slots=True)
class Schedule:
    """Least and most processes of a model, and what is timed in each: at least these seconds, and at least so many inferences."""

    least: int
    most: int
    seconds: float
    inferences: int


SCHEDULES = {
    BenchTime.PAGE: Schedule(LOOKS[0], LOOKS[-1], 20.0, RUNS),
    BenchTime.ADAPTIVE: Schedule(LOOKS[0], LOOKS[-1], 0.5, 17),
    BenchTime.QUICK: Schedule(LOOKS[0], LOOKS[0], 0.1, RUNS),
}
"""Nine processes of 0.5 s are less than a quarter of the page's 20 s; three of 17 inferences have the 50 that both native tools make."""


class NoRuntime(AuditError):  # noqa: N818  # what is missing is no error of the audit
    """There is nothing that can run the zoo: no TFLite runtime, or not the tools that this delegate needs. Then, a runtime is no help."""

    def __init__(self, problem: str, *, helped_by_runtime: bool = True) -> None:
        self.problem, self.helped_by_runtime = problem, helped_by_runtime
        advice = "; install one: pip install 'crosml-audit[litert]', or give --runtime DIR"
        super().__init__(f"no TFLite runtime: {problem}{advice}" if helped_by_runtime else problem)


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """With what this machine measures the zoo: the options, and what they name as it was found here.

    The embedded runner looks for its runtime in the folders of `import_path` first.
    """

    options: ZooOptions = field(default_factory=ZooOptions)
    delegate: Delegate | None = None
    import_path: tuple[str, ...] = ()
    access: Access = field(default_factory=Access)

    @property
    def schedule(self) -> Schedule:
        """How often and how long each model is measured."""
        return SCHEDULES[BenchTime(self.options.bench_time)]


def runner(delegate: Delegate | None, runtime: str) -> Tools | None:
    """What measures the zoo: TFLite's own tools where both are there and no runtime was asked for, else (None) the embedded runner.

    A stable delegate runs in the tools alone. Raises NoRuntime where it needs one that is not there, UsageError for an option that the
    tools cannot be given.
    """
    from auditor.bench.native import find_tools, unpassable  # noqa: PLC0415  # only for those who measure

    tools = find_tools()
    if delegate is not None and delegate.settings is not None:
        if tools is None:
            needed = "A stable delegate runs in benchmark_model alone: expected it on PATH, in /usr/local/bin or in /usr/bin."
            raise NoRuntime(needed, helped_by_runtime=False)
        return tools
    if runtime != AUTO or tools is None or tools.difference is None:
        return None
    dropped = unpassable(delegate.options) if delegate is not None else None
    if dropped is not None:
        raise UsageError(
            f"--delegate-option {visible(dropped)[:200]}: {tools.benchmark} takes options as key:value;…, and would drop this one without"
            " a word: expected values without ':' and ';', or another runner (--tflite ai-edge-litert)"
        )
    return tools


def measure_zoo(
    files: Sequence[ModelFile], means: MeasureOptions, progress: Callable[[str], None], opinion: Compare | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the models, interleaved, each time in fresh processes; yields (model name, run document) as each is done.

    `opinion` is that of native.measure. Raises NoRuntime and UsageError as `runner` does, and NoRuntime where the embedded runner has no
    runtime.
    """
    tools = runner(means.delegate, means.options.tflite)
    schedule = means.schedule
    golden = {} if tools else golden_sets(files, means.import_path, progress, allow_unconfined=means.access.allow_unconfined)
    cases = {} if tools else _golden_cases(files, means, progress)
    runs: dict[str, list[Fact[ModelRun]]] = {file.model.name: [] for file in files}
    took: dict[str, list[float]] = {file.model.name: [] for file in files}
    for turn in range(schedule.most):
        wanted = [file for file in files if _runs_left(runs[file.model.name], file.model, schedule)]
        for number, file in enumerate(wanted, 1):
            left = {each.model.name: _runs_left(runs[each.model.name], each.model, schedule) for each in files}
            where = f"zoo: round {turn + 1}, model {number} of {len(wanted)}{_time_left(took, left, at_least=turn < schedule.least)}"
            started = time.monotonic()
            job = _job(file, golden.get(file.model.name), means)
            document = _measure(file, job, tools, schedule, functools.partial(_tell, progress, where), opinion)
            status = document["status"]
            if (status["outcome"], status["process"]) == ("runtime-missing", "reference"):  # no delegate is in that process
                raise NoRuntime(visible(status["message"]))
            document["conditions"] |= cases.get(file.model.name, {})
            took[file.model.name].append(time.monotonic() - started)
            runs[file.model.name].append(parse(Ok(document), read_run))
            yield file.model.name, document


def _tell(progress: Callable[[str], None], where: str, text: str) -> None:
    progress(f"{where}: {text}")


def _time_left(took: Mapping[str, Sequence[float]], left: Mapping[str, int], *, at_least: bool) -> str:
    """How long the runs that are left take, by those that are done; `at_least` while it is open how many there will be."""
    done = [seconds for each in took.values() for seconds in each]
    if not done:
        return ""
    seconds = sum(count * statistics.fmean(took[name] or done) for name, count in left.items())
    shown = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return f", {'at least' if at_least else 'about'} {shown} left"


def _runs_left(runs: Sequence[Fact[ModelRun]], model: ZooModel, schedule: Schedule) -> int:
    """How many further runs of a model its verdict is likely to take; none once it stands, or none will come of it.

    The verdict is the one that the finding will have: of the same facts, by the same rule.
    """
    if not all(isinstance(run, Ok) and run.value.status == "completed" for run in runs):
        return 0
    if len(runs) < schedule.least:
        return schedule.least - len(runs)
    result = model_result(model.name, "", tuple(runs))
    if len(runs) >= schedule.most or not isinstance(result.latency, Ok) or not isinstance(result.bracket, Ok):
        return 0
    own, outside, limit = result.latency.value, result.bracket.value, model.baseline.latency_ms * 1000
    if judge(own, outside, limit, result.drift) is not Verdict.UNDECIDED:
        return 0
    # a verdict that only a drift keeps open may stand with the next run
    return min(further(own, outside, limit) or schedule.most, schedule.most - len(runs))


def _golden_cases(files: Sequence[ModelFile], means: MeasureOptions, progress: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Whether the runtime gives what the models' golden cases say, for a run's conditions; nothing for a model that has none."""
    from auditor.bench.cases import differences  # noqa: PLC0415
    from auditor.inference.executor import Options  # noqa: PLC0415  # only for those who measure

    options = Options(
        runtime=means.options.tflite, import_path=means.import_path, access=Access(allow_unconfined=means.access.allow_unconfined)
    )
    found = {}
    for file in files:
        if file.cases:
            progress(f"zoo: golden cases of {file.model.name}")
            wrong = differences(_reference(file) or file.content, file.model.name, file.cases, options)
            found[file.model.name] = {"golden_cases": {"count": len(file.cases), "wrong": list(wrong)}}
    return found


def _job(file: ModelFile, golden: GoldenSet | None, means: MeasureOptions) -> Job:
    from auditor.bench.document import Job  # noqa: PLC0415  # only for those who measure

    delegate, seconds = means.delegate, means.schedule.seconds
    return Job(
        name=file.model.name,
        model=file.content,
        reference=_reference(file),
        origin=file.origin,
        delegate=delegate.path if delegate else None,
        options=delegate.options if delegate else (),
        settings=delegate.settings if delegate else None,
        libraries=libraries_beside(delegate.path) if delegate else (),
        access=means.access,
        runtime=means.options.tflite,
        import_path=means.import_path,
        min_seconds=seconds,
        warmup_seconds=min(WARMUP_SECONDS, seconds),
        golden=golden,
    )


def _measure(
    file: ModelFile, job: Job, tools: Tools | None, schedule: Schedule, progress: Callable[[str], None], opinion: Compare | None
) -> dict[str, Any]:
    from auditor.bench import embedded, native  # noqa: PLC0415  # only for those who measure
    from auditor.inference.witness import counting  # noqa: PLC0415

    with counting(job.access.accelerators if job.delegate else ()):
        if tools:
            run: Run = native.measure(job, tools, progress, opinion)
        else:
            run = embedded.measure(replace(job, min_runs=min(job.min_runs, schedule.inferences)), progress)
    try:
        graph = read_graph(file.content)
    except BadModel as error:
        return {**run, "macs": None, "identity": {"kind": "other", "reason": str(error)}}
    identity = recognise(graph, file.sha256, file.model)
    return {**run, "macs": _macs(graph, run), "identity": {"kind": identity.kind.value, "reason": identity.reason}}


def _reference(file: ModelFile) -> bytes | None:
    """The model with MediaPipe's custom operator rewritten, which no reference kernel computes; None where it has none."""
    try:
        rewritten = without_custom_deconvolution(file.content)
    except BadModel:
        return None
    return None if rewritten == file.content else rewritten


def _macs(graph: Graph, run: Run) -> dict[str, int] | None:
    """The model's multiply-accumulates, and those of the operators that the delegate took; None where that is not known.

    Where only their number is known, those that it left are taken for the largest: it took that much at least.
    """
    if run["nodes"] is None:
        return None
    if any(part["nodes"] is None for part in run["nodes"]["partitions"]):
        largest = sorted((operator.macs for subgraph in graph.subgraphs for operator in subgraph.operators), reverse=True)
        return {"total": graph.macs, "delegated": graph.macs - sum(largest[: run["nodes"]["total"] - run["nodes"]["delegated"]])}
    taken = {(part["subgraph"], node) for part in run["nodes"]["partitions"] for node in part["nodes"]}
    counted = sum(
        operator.macs
        for index, subgraph in enumerate(graph.subgraphs)
        for node, operator in enumerate(subgraph.operators)
        if (index, node) in taken
    )
    return {"total": graph.macs, "delegated": counted}
