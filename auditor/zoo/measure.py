"""The zoo, run: which files stand for its models, how often each is measured, and when a verdict needs no further run."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError, UsageError
from auditor.facts.elf import BadElf, read_elf
from auditor.facts.reading import parse
from auditor.facts.runs import model_result, read_run
from auditor.facts.types import Ok
from auditor.model import visible
from auditor.statistics import LOOKS, Verdict, further, judge
from auditor.zoo.catalogue import ZooModel, recognise
from auditor.zoo.find import find_models
from auditor.zoo.generate import generate, stand_ins
from auditor.zoo.graph import BadModel, read_graph
from auditor.zoo.protocol import RUNS, WARMUP_SECONDS
from auditor.zoo.rewrite import without_custom_deconvolution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from auditor.facts.types import Fact
    from auditor.inference.run import Run
    from auditor.model import ModelRun
    from auditor.zoo.catalogue import ZooVersion
    from auditor.zoo.graph import Graph

DEVICE_FOLDERS = ("/usr/local/share/ml-test-assets", "/usr/local/mlbenchmark/data")
"""Where ChromeOS test images keep the zoo (chromeos-base/ml-test-assets; the Tast test's own data)."""


class BenchTime(enum.Enum):
    """How long to measure in each process: the page's own 20 s (`--min_secs=20`), a part of it, or a glance."""

    PAGE = "page"
    ADAPTIVE = "adaptive"
    QUICK = "quick"


@dataclass(frozen=True, slots=True)
class Plan:
    """Least and most processes of a model, and what is timed in each: at least these seconds, and at least so many inferences."""

    least: int
    most: int
    seconds: float
    inferences: int


PLANS = {
    BenchTime.PAGE: Plan(LOOKS[0], LOOKS[-1], 20.0, RUNS),
    BenchTime.ADAPTIVE: Plan(LOOKS[0], LOOKS[-1], 0.5, 17),
    BenchTime.QUICK: Plan(LOOKS[0], LOOKS[0], 0.1, RUNS),
}
"""Nine processes of 0.5 s are less than a quarter of the page's 20 s; three of 17 inferences have the 50 that both native tools make."""


class NoRuntime(AuditError):  # noqa: N818  # what is missing is no error of the audit
    """No TFLite runtime is installed that can run the zoo."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that stands for a zoo model. `origin` is `device`, `given` or `stand-in`."""

    model: ZooModel
    content: bytes
    sha256: str
    origin: str


@dataclass(frozen=True, slots=True)
class Delegate:
    """An external delegate's library and its options."""

    path: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a delegate may use beside its own folder: the accelerator's nodes, and paths that were allowed.

    `allow_unconfined` is whether to go on where the kernel cannot confine it.
    """

    device_nodes: tuple[str, ...] = ()
    allow_paths: tuple[str, ...] = ()
    allow_unconfined: bool = False


def shared_library(path: str, options: tuple[tuple[str, str], ...] = ()) -> Delegate:
    """The delegate in a file. Raises UsageError for one that no dynamic linker would load: missing, empty, cut short, something else."""
    label = f"--delegate: {visible(path)}"
    try:
        if not os.path.isfile(path):
            raise UsageError(f"{label}: expected a shared library, and there is no such file")
        with open(path, "rb") as file:
            read_elf(lambda offset, length: os.pread(file.fileno(), length, offset), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UsageError(f"{label}: {error.strerror}") from None
    except BadElf as error:
        raise UsageError(f"{label}: expected a shared library: {visible(str(error))}") from None
    return Delegate(path, options)


def model_files(zoo: ZooVersion, given: str | None) -> tuple[ModelFile, ...]:
    """The files to run, in the zoo's order: those given (a folder or an archive), else the device's own, else generated stand-ins.

    A model whose graph is not public has no stand-in. Raises UsageError for a folder or an archive that cannot be read, or holds no model.
    """
    places = [(given, "given")] if given is not None else [(folder, "device") for folder in DEVICE_FOLDERS if os.path.isdir(folder)]
    found: dict[str, ModelFile] = {}
    for place, origin in places:
        for name, each in find_models(place, zoo.models).items():
            found.setdefault(name, ModelFile(each.model, each.content, each.sha256, origin))
    if given is not None and not found:
        raise UsageError(f"--zoo: {visible(given)}: expected model files of zoo {zoo.version} (`crosml-audit zoo list`), found none")
    generated = set() if given is not None else set(stand_ins(zoo.version))
    files = (found.get(model.name) or (_stand_in(model) if model.name in generated else None) for model in zoo.models)
    return tuple(file for file in files if file)


def _stand_in(model: ZooModel) -> ModelFile:
    content = generate(model.name)
    return ModelFile(model, content, hashlib.sha256(content).hexdigest(), "stand-in")


def measure_zoo(
    files: Sequence[ModelFile],
    delegate: Delegate | None,
    bench_time: BenchTime,
    runtime: str,
    progress: Callable[[str], None],
    sandbox: Sandbox = Sandbox(),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the models, interleaved, each time in fresh processes; yields (model name, run document) as each is done.

    Raises NoRuntime where there is none to measure with.
    """
    plan = PLANS[bench_time]
    runs: dict[str, list[Fact[ModelRun]]] = {file.model.name: [] for file in files}
    took: dict[str, list[float]] = {file.model.name: [] for file in files}
    for turn in range(plan.most):
        wanted = [file for file in files if _runs_left(runs[file.model.name], file.model, plan)]
        for number, file in enumerate(wanted, 1):
            left = {each.model.name: _runs_left(runs[each.model.name], each.model, plan) for each in files}
            where = f"zoo: round {turn + 1}, model {number} of {len(wanted)}{_time_left(took, left, at_least=turn < plan.least)}"
            started = time.monotonic()
            document = _measure(file, delegate, sandbox, plan, runtime, functools.partial(_tell, progress, where))
            status = document["status"]
            if (status["outcome"], status["process"]) == ("runtime-missing", "reference"):  # no delegate is in that process
                raise NoRuntime(f"no TFLite runtime: {visible(status['message'])}; install one: pip install 'crosml-audit[litert]'")
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


def _runs_left(runs: Sequence[Fact[ModelRun]], model: ZooModel, plan: Plan) -> int:
    """How many further runs of a model its verdict is likely to take; none once it stands, or none will come of it.

    The verdict is the one that the finding will have: of the same facts, by the same rule.
    """
    if not all(isinstance(run, Ok) and run.value.status == "completed" for run in runs):
        return 0
    if len(runs) < plan.least:
        return plan.least - len(runs)
    result = model_result(model.name, "", tuple(runs))
    if len(runs) >= plan.most or not isinstance(result.latency, Ok) or not isinstance(result.bracket, Ok):
        return 0
    own, outside, limit = result.latency.value, result.bracket.value, model.baseline.latency_ms * 1000
    if judge(own, outside, limit, result.drift) is not Verdict.UNDECIDED:
        return 0
    # a verdict that only a drift keeps open may stand with the next run
    return min(further(own, outside, limit) or plan.most, plan.most - len(runs))


def _measure(
    file: ModelFile, delegate: Delegate | None, sandbox: Sandbox, plan: Plan, runtime: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    from auditor.inference.embedded import measure  # noqa: PLC0415  # numpy, only for those who measure
    from auditor.inference.run import Job  # noqa: PLC0415

    job = Job(
        name=file.model.name,
        model=file.content,
        reference=_reference(file),
        origin=file.origin,
        delegate=delegate.path if delegate else None,
        options=delegate.options if delegate else (),
        device_nodes=sandbox.device_nodes,
        allow_paths=sandbox.allow_paths,
        allow_unconfined=sandbox.allow_unconfined,
        runtime=runtime,
        min_seconds=plan.seconds,
        warmup_seconds=min(WARMUP_SECONDS, plan.seconds),
    )
    run: Run = measure(replace(job, min_runs=min(job.min_runs, plan.inferences)), progress)
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
    """The model's multiply-accumulates, and those of the operators that the delegate took; None where that is not known."""
    if run["nodes"] is None:
        return None
    taken = {(part["subgraph"], node) for part in run["nodes"]["partitions"] for node in part["nodes"]}
    counted = sum(
        operator.macs
        for index, subgraph in enumerate(graph.subgraphs)
        for node, operator in enumerate(subgraph.operators)
        if (index, node) in taken
    )
    return {"total": graph.macs, "delegated": counted}
