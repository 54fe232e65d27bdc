"""The zoo, run: which files stand for its models, how often each is measured, and when a verdict needs no further run."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError, UsageError
from auditor.facts.elf import BadElf, read_elf
from auditor.model import visible
from auditor.statistics import CONFIDENCE, Verdict, decide
from auditor.zoo.catalogue import ZooModel, recognise
from auditor.zoo.find import find_models
from auditor.zoo.generate import generate, stand_ins
from auditor.zoo.graph import BadModel, read_graph
from auditor.zoo.rewrite import without_custom_deconvolution

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from auditor.inference.run import Run
    from auditor.zoo.catalogue import ZooVersion
    from auditor.zoo.graph import Graph

DEVICE_FOLDERS = ("/usr/local/share/ml-test-assets", "/usr/local/mlbenchmark/data")
"""Where ChromeOS test images keep the zoo (chromeos-base/ml-test-assets; the Tast test's own data)."""


class BenchTime(enum.Enum):
    """How long to measure: the page's own 20 s in each process, as long as the verdict needs, or a glance."""

    PAGE = "page"
    ADAPTIVE = "adaptive"
    QUICK = "quick"


_PLANS = {BenchTime.PAGE: (3, 3, 20.0), BenchTime.ADAPTIVE: (3, 9, 1.0), BenchTime.QUICK: (3, 3, 0.1)}
"""Least and most processes, and seconds timed in each."""


class NoRuntime(AuditError):  # noqa: N818  # what is missing is no error of the audit
    """No TFLite runtime is installed that can run the zoo; `problem` is what was tried."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"no TFLite runtime: {problem}; install one: pip install 'crosml-audit[litert]', or give --runtime DIR")
        self.problem = problem


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
    found = found_files(zoo, given)
    generated = {} if given is not None else {each.model.name: each for each in stand_in_files(zoo, found)}
    files = (found.get(model.name) or generated.get(model.name) for model in zoo.models)
    return tuple(file for file in files if file)


def found_files(zoo: ZooVersion, given: str | None) -> dict[str, ModelFile]:
    """The files that are there, by model: those given, else this machine's own. Raises UsageError as `model_files` does."""
    places = [(given, "given")] if given is not None else [(folder, "device") for folder in DEVICE_FOLDERS if os.path.isdir(folder)]
    found: dict[str, ModelFile] = {}
    for place, origin in places:
        for name, each in find_models(place, zoo.models).items():
            found.setdefault(name, ModelFile(each.model, each.content, each.sha256, origin))
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

    `runtime` is a name of one or `auto`; it is looked for in the folders of `import_path` first. Raises NoRuntime where there is none.
    """
    least, most, seconds = _PLANS[bench_time]
    documents: dict[str, list[dict[str, Any]]] = {file.model.name: [] for file in files}
    for turn in range(most):
        wanted = [file for file in files if _goes_on(documents[file.model.name], file.model, least)]
        for number, file in enumerate(wanted, 1):
            where = f"zoo: round {turn + 1}, model {number} of {len(wanted)}"
            document = _measure(file, delegate, sandbox, seconds, runtime, import_path, functools.partial(_tell, progress, where))
            status = document["status"]
            if (status["outcome"], status["process"]) == ("runtime-missing", "reference"):  # no delegate is in that process
                raise NoRuntime(visible(status["message"]))
            documents[file.model.name].append(document)
            yield file.model.name, document


def _tell(progress: Callable[[str], None], where: str, text: str) -> None:
    progress(f"{where}: {text}")


def _goes_on(documents: Sequence[dict[str, Any]], model: ZooModel, least: int) -> bool:
    """Whether a further run of a model may change its verdict: none ended badly, and the latency is not yet on one side of the limit."""
    if any(document["status"]["outcome"] != "completed" or not document["samples_us"] for document in documents):
        return False
    if len(documents) < least:
        return True
    limit = model.baseline.latency_ms * 1000
    own = decide([_mean(document["samples_us"]) for document in documents], limit, CONFIDENCE)
    outside = decide([_mean(document["bracket_us"]) for document in documents], limit, CONFIDENCE)
    return own.verdict is not Verdict.MISSED and outside.verdict is not Verdict.MET


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _measure(
    file: ModelFile,
    delegate: Delegate | None,
    sandbox: Sandbox,
    seconds: float,
    runtime: str,
    import_path: tuple[str, ...],
    progress: Callable[[str], None],
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
        import_path=import_path,
        min_seconds=seconds,
        warmup_seconds=min(0.5, seconds),
    )
    run: Run = measure(job, progress)
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
