"""The zoo, run: which files stand for its models, how often each is measured, and when a verdict needs no further run."""

from __future__ import annotations

import enum
import functools
import hashlib
import math
import os
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from auditor import files
from auditor.errors import AuditError, UsageError
from auditor.facts.elf import BadElf, read_elf
from auditor.facts.reading import parse
from auditor.facts.runs import model_result, read_run
from auditor.facts.stable_delegate import MAX_SETTINGS, read_settings
from auditor.facts.types import Ok
from auditor.inference.confine import SYSTEM_LIBRARIES
from auditor.inference.wire import AUTO
from auditor.model import visible
from auditor.statistics import LOOKS, Verdict, further, judge
from auditor.zoo.catalogue import ZooModel, recognise
from auditor.zoo.find import FoundImage, find_images, find_models
from auditor.zoo.generate import generate, stand_ins
from auditor.zoo.golden import Frame, GoldenSet, Picture, frame_of
from auditor.zoo.graph import BadModel, read_graph
from auditor.zoo.protocol import RUNS, WARMUP_SECONDS
from auditor.zoo.rewrite import without_custom_deconvolution

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from auditor.facts.types import Fact
    from auditor.inference.native import Tools
    from auditor.inference.run import Job, Run
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
    """There is nothing that can run the zoo: no TFLite runtime, or not the tools that this delegate needs. Then, a runtime is no help."""

    def __init__(self, problem: str, *, helped_by_runtime: bool = True) -> None:
        self.problem, self.helped_by_runtime = problem, helped_by_runtime
        advice = "; install one: pip install 'crosml-audit[litert]', or give --runtime DIR"
        super().__init__(f"no TFLite runtime: {problem}{advice}" if helped_by_runtime else problem)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that stands for a zoo model. `origin` is `device`, `given` or `stand-in`; `images` lay beside it."""

    model: ZooModel
    content: bytes
    sha256: str
    origin: str
    images: tuple[FoundImage, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Delegate:
    """A delegate's library, and the options of an external one, or the settings file of a stable one."""

    path: str
    options: tuple[tuple[str, str], ...] = ()
    settings: str | None = None


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
    _check_library(path, f"--delegate: {visible(path)}")
    return Delegate(path, options)


def stable_delegate(settings: str) -> Delegate:
    """The stable delegate that a settings file names. Raises UsageError where the file, or the library in it, is not what it must be.

    A name without a folder is looked for where the dynamic linker does by default.
    """
    label = f"--stable-delegate: {visible(settings)}"
    try:
        path = read_settings(files.read(settings, MAX_SETTINGS, label, UsageError).decode("utf-8", "surrogateescape")).path
    except ValueError as error:
        raise UsageError(visible(f"{label}: {error}")) from None
    label = visible(f"{label}: delegate_path: {path}")
    if "/" not in path:
        places = (os.path.join(folder, path) for folder in SYSTEM_LIBRARIES)
        path = next(filter(os.path.isfile, places), path)
    if not os.path.isabs(path):
        raise UsageError(f"{label}: expected an absolute path, or a library of {', '.join(SYSTEM_LIBRARIES[:-1])}")
    _check_library(path, label)
    return Delegate(path, settings=os.path.abspath(settings))


def _check_library(path: str, label: str) -> None:
    try:
        if not os.path.isfile(path):
            raise UsageError(f"{label}: expected a shared library, and there is no such file")
        with open(path, "rb") as file:
            read_elf(lambda offset, length: os.pread(file.fileno(), length, offset), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UsageError(f"{label}: {error.strerror}") from None
    except BadElf as error:
        raise UsageError(f"{label}: expected a shared library: {visible(str(error))}") from None


def runner(delegate: Delegate | None, runtime: str) -> Tools | None:
    """What measures the zoo: TFLite's own tools where both are there and no runtime was asked for, else (None) the embedded runner.

    A stable delegate runs in the tools alone. Raises NoRuntime where it needs one that is not there, UsageError for an option that the
    tools cannot be given.
    """
    from auditor.inference.native import find_tools, unpassable  # noqa: PLC0415  # only for those who measure

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


def model_files(zoo: ZooVersion, given: str | None) -> tuple[ModelFile, ...]:
    """The files to run, in the zoo's order: those given (a folder or an archive), else the device's own, else generated stand-ins.

    A model whose graph is not public has no stand-in. Raises UsageError for a folder or an archive that cannot be read, or holds no model.
    """
    found = found_files(zoo, given)
    generated = {} if given is not None else {each.model.name: each for each in stand_in_files(zoo, found)}
    files = (found.get(model.name) or generated.get(model.name) for model in zoo.models)
    return tuple(file for file in files if file)


def found_files(zoo: ZooVersion, given: str | None) -> dict[str, ModelFile]:
    """The files that are there, by model: those given, else this machine's own. Raises UsageError as `model_files` does."""
    places = [(given, "given")] if given is not None else [(folder, "device") for folder in DEVICE_FOLDERS if os.path.isdir(folder)]
    found: dict[str, ModelFile] = {}
    for place, origin in places:
        images = find_images(place)
        for name, each in find_models(place, zoo.models).items():
            found.setdefault(name, ModelFile(each.model, each.content, each.sha256, origin, images))
    if given is not None and not found:
        raise UsageError(f"--zoo: {visible(given)}: expected model files of zoo {zoo.version} (`crosml-audit zoo list`), found none")
    return found


def stand_in_files(zoo: ZooVersion, found: Collection[str]) -> tuple[ModelFile, ...]:
    """Generated stand-ins for the models that were not found and whose graph is public."""
    generated = set(stand_ins(zoo.version)).difference(found)
    return tuple(_stand_in(model) for model in zoo.models if model.name in generated)


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
    import_path: tuple[str, ...] = (),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the models, interleaved, each time in fresh processes; yields (model name, run document) as each is done.

    `runtime` is a name of one or `auto`; the embedded runner looks for it in the folders of `import_path` first. Raises NoRuntime and
    UsageError as `runner` does, and NoRuntime where the embedded runner has no runtime.
    """
    tools = runner(delegate, runtime)
    plan = PLANS[bench_time]
    golden = {} if tools else _golden_sets(files, sandbox, import_path, progress)
    runs: dict[str, list[Fact[ModelRun]]] = {file.model.name: [] for file in files}
    took: dict[str, list[float]] = {file.model.name: [] for file in files}
    for turn in range(plan.most):
        wanted = [file for file in files if _runs_left(runs[file.model.name], file.model, plan)]
        for number, file in enumerate(wanted, 1):
            left = {each.model.name: _runs_left(runs[each.model.name], each.model, plan) for each in files}
            where = f"zoo: round {turn + 1}, model {number} of {len(wanted)}{_time_left(took, left, at_least=turn < plan.least)}"
            started = time.monotonic()
            job = _job(file, golden.get(file.model.name), delegate, sandbox, plan, runtime, import_path)
            document = _measure(file, job, tools, plan, functools.partial(_tell, progress, where))
            status = document["status"]
            if (status["outcome"], status["process"]) == ("runtime-missing", "reference"):  # no delegate is in that process
                raise NoRuntime(visible(status["message"]))
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


def _golden_sets(
    files: Sequence[ModelFile], sandbox: Sandbox, import_path: tuple[str, ...], progress: Callable[[str], None]
) -> dict[str, GoldenSet]:
    """The golden images of each model that has any, decoded once for all runs."""
    from auditor.inference.pictures import decode_all  # noqa: PLC0415  # starts processes, only for those who measure

    frames = {file.model.name: frame for file in files if file.images and (frame := _frame(file))}
    wanted = tuple(dict.fromkeys(frames.values()))
    images = {image.sha256: image for file in files if file.model.name in frames for image in file.images}
    if not images:
        return {}
    progress(f"zoo: golden images ({len(images)})")
    pictures, problems = decode_all(tuple(images.values()), wanted, allow_unconfined=sandbox.allow_unconfined, import_path=import_path)
    return {
        file.model.name: _golden_set(file, frames[file.model.name], pictures, "; ".join(problems))
        for file in files
        if file.model.name in frames
    }


def _frame(file: ModelFile) -> Frame | None:
    try:
        return frame_of(file.model.golden, read_graph(file.content)) if file.model.golden else None
    except BadModel:
        return None


def _golden_set(file: ModelFile, frame: Frame, pictures: Sequence[Picture], note: str) -> GoldenSet:
    assert file.model.golden is not None
    own = {image.sha256 for image in file.images}
    outputs = read_graph(file.content).outputs
    scale, zero_point = (outputs[0].scale, outputs[0].zero_point) if outputs else (0.0, 0)
    chosen = tuple(each for each in pictures if each.frame == frame and each.sha256 in own)
    return GoldenSet(file.model.golden, chosen, note, scale if math.isfinite(scale) else 0.0, zero_point)


def _job(
    file: ModelFile,
    golden: GoldenSet | None,
    delegate: Delegate | None,
    sandbox: Sandbox,
    plan: Plan,
    runtime: str,
    import_path: tuple[str, ...],
) -> Job:
    from auditor.inference.run import Job  # noqa: PLC0415  # only for those who measure

    return Job(
        name=file.model.name,
        model=file.content,
        reference=_reference(file),
        origin=file.origin,
        delegate=delegate.path if delegate else None,
        options=delegate.options if delegate else (),
        settings=delegate.settings if delegate else None,
        device_nodes=sandbox.device_nodes,
        allow_paths=sandbox.allow_paths,
        allow_unconfined=sandbox.allow_unconfined,
        runtime=runtime,
        import_path=import_path,
        min_seconds=plan.seconds,
        warmup_seconds=min(WARMUP_SECONDS, plan.seconds),
        golden=golden,
    )


def _measure(file: ModelFile, job: Job, tools: Tools | None, plan: Plan, progress: Callable[[str], None]) -> dict[str, Any]:
    from auditor.inference import embedded, native  # noqa: PLC0415  # only for those who measure

    if tools:
        run: Run = native.measure(job, tools, progress)
    else:
        run = embedded.measure(replace(job, min_runs=min(job.min_runs, plan.inferences)), progress)
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
