"""The models of a zoo version, their baselines, and whether a file is one of them.

The dataclasses are the shape of `data/requirements/zoo-*.toml`, field for field. A file name proves nothing: a small
model under a zoo name would meet every baseline. So a model is known by a pinned sha256, or by its graph: operators,
types, shapes, parameters and multiply-accumulates, and nothing in the file that only pretends to work. The right graph
with weights of its own is not the model: what is computed, how long it takes and how much memory it needs depend on them.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from auditor.tflite.graph import MEDIAPIPE_DECONVOLUTION
from auditor.tflite.shapes import first_inconsistency
from auditor.zoo.generate import digests

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auditor.tflite.graph import Graph, Operator, Subgraph


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type (TFLite's name) and shape of an input or an output."""

    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExpectedGraph:
    """What a file must hold to be the model, whatever its weights are."""

    operators: Mapping[str, int]
    """How often each operator occurs, by the names that `working_operators` gives."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    macs: int
    weights: tuple[str, ...]
    """Types in which weights and biases may be stored."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The page's limits for one model; each is met by a value less than or equal to it, and None where it gives none."""

    latency_ms: float
    memory_mb: float | None = None
    avg_error: float | None = None
    """Mean absolute error against the reference in raw units of the output, averaged over runs; for each output."""
    std_dev: float | None = None
    """Standard deviation of that mean between runs; for each output."""
    power: str = "TBD"

    @property
    def memory_pass_bytes(self) -> float | None:
        """At most this many bytes meet the memory limit, whichever MB is meant: 10^6."""
        return None if self.memory_mb is None else self.memory_mb * 10**6

    @property
    def memory_fail_bytes(self) -> float | None:
        """More than this many bytes miss the memory limit, whichever MB is meant: 2^20, as benchmark_model divides."""
        return None if self.memory_mb is None else self.memory_mb * 2**20


class Metric(enum.Enum):
    """How two answers to a golden image are compared."""

    TOP_1 = "top-1"
    """The class of the greatest value is the same."""
    MASK = "mask"
    """The pixels above one half are the same, by intersection over union."""


@dataclass(frozen=True, slots=True)
class Golden:
    """How an image is made an input of a model, and how two answers to it are compared."""

    metric: Metric
    range: tuple[float, float] = (0.0, 1.0)
    """What 0 and 255 become where the input is of floats; one of bytes takes the pixels as they are."""
    crop: bool = False
    """Whether the image's top is cut out in the input's proportions; else it is stretched."""


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One row of the zoo's tables."""

    name: str
    use_case: str
    files: tuple[str, ...]
    """File names under which it is installed, the preferred one first."""
    baseline: Baseline
    device: str = "accelerator"
    """Where the page has it run: `accelerator`, or `cpu` for the audio models."""
    run_delay_s: float | None = None
    """Pause between runs that the page asks for."""
    sha256: tuple[str, ...] = ()
    """Digests that the page publishes; a file with another digest is then not the model."""
    graph: ExpectedGraph | None = None
    """None where the graph is not public; `no_graph` says why."""
    no_graph: str = ""
    golden: Golden | None = None
    """None where an image means nothing to the model."""


def model_document(model: ZooModel) -> dict[str, Any]:
    """A model as JSON types, for a device that has no reader of requirement sets."""
    return {**asdict(model), "golden": model.golden and {**asdict(model.golden), "metric": model.golden.metric.value}}


def read_model(document: Mapping[str, Any]) -> ZooModel:
    """The model in a document."""
    graph, golden = document["graph"], document["golden"]
    return ZooModel(
        **{
            **document,
            "files": tuple(document["files"]),
            "baseline": Baseline(**document["baseline"]),
            "sha256": tuple(document["sha256"]),
            "graph": None if graph is None else ExpectedGraph(**{**graph, **_tuples(graph)}),
            "golden": None
            if golden is None
            else Golden(Metric(golden["metric"]), (golden["range"][0], golden["range"][1]), golden["crop"]),
        }
    )


def _tuples(graph: Mapping[str, Any]) -> dict[str, Any]:
    specs = {key: tuple(TensorSpec(each["type"], tuple(each["shape"])) for each in graph[key]) for key in ("inputs", "outputs")}
    return {**specs, "weights": tuple(graph["weights"])}


@dataclass(frozen=True, slots=True)
class PublishedArchive:
    """The archive that a zoo version is published as; every model in it is the zoo's own."""

    name: str
    bytes: int
    sha512: str


@dataclass(frozen=True, slots=True)
class ZooVersion:
    """One zoo-*.toml."""

    version: str
    source: str
    models: tuple[ZooModel, ...]
    archives: tuple[PublishedArchive, ...] = ()


class IdentityKind(enum.Enum):
    """How a file relates to the model whose name it bears."""

    PINNED = "pinned"
    """Its sha256 is one that the requirement set has."""
    SAME_GRAPH = "same-graph"
    """Its graph is the model's; its weights are its own."""
    STAND_IN = "stand-in"
    """It is this program's stand-in: the model's graph with random weights."""
    OTHER = "other"
    """It is something else, or nothing is known to compare it with."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file was recognised as, and why."""

    kind: IdentityKind
    reason: str


_SAME_WORK = {MEDIAPIPE_DECONVOLUTION: "TRANSPOSE_CONV", "SQUEEZE": "RESHAPE"}
"""Operators that converters and rewrites exchange; the second moves no data, either."""


def _unpacks_weights(op: Operator, subgraph: Subgraph) -> bool:
    """Whether the operator only turns half-precision constants into floats: storage, not work."""
    return (
        op.code == "DEQUANTIZE"
        and all(subgraph.tensors[i].type == "FLOAT16" for i in op.inputs)
        and all(subgraph.tensors[i].constant for i in op.inputs)
    )


def working_operators(subgraph: Subgraph) -> tuple[Operator, ...]:
    """Operators but those that unpack constant weights."""
    return tuple(op for op in subgraph.operators if not _unpacks_weights(op, subgraph))


def _idle(subgraph: Subgraph) -> str:
    """Name the first operator that does not lie between the graph's inputs and outputs; empty where all do."""
    operators = working_operators(subgraph)
    fed = set(subgraph.inputs)
    for op in operators:
        if fed.intersection(op.inputs):
            fed.update(op.outputs)
    wanted = set(subgraph.outputs)
    for op in reversed(operators):
        if wanted.intersection(op.outputs):
            wanted.update(op.inputs)
    for op in operators:
        if not fed.intersection(op.inputs) or not wanted.intersection(op.outputs):
            return f"an operator {op.name} does not lie between the input and the output"
    return ""


def _specs(tensors: Iterable[TensorSpec]) -> str:
    return ", ".join(f"{t.type} {'x'.join(map(str, t.shape))}" for t in tensors)


def _difference(graph: Graph, expected: ExpectedGraph) -> str:
    """Name the first way in which a file's graph is not the expected one; empty where it is."""
    if len(graph.subgraphs) != 1:
        return f"{len(graph.subgraphs)} subgraphs, expected 1"
    (subgraph,) = graph.subgraphs
    for what, found, wanted in (
        ("inputs", graph.inputs, expected.inputs),
        ("outputs", graph.outputs, expected.outputs),
    ):
        specs = tuple(TensorSpec(t.type, t.shape) for t in found)
        if specs != wanted:
            return f"{what} {_specs(specs)}, expected {_specs(wanted)}"
    counts = Counter(_SAME_WORK.get(op.name, op.name) for op in working_operators(subgraph))
    for name in sorted(counts.keys() | expected.operators.keys()):
        if counts[name] != expected.operators.get(name, 0):
            return f"{counts[name]} operators {name}, expected {expected.operators.get(name, 0)}"
    if graph.parameters != expected.parameters:
        return f"{graph.parameters} parameters, expected {expected.parameters}"
    if graph.macs != expected.macs:
        return f"{graph.macs} multiply-accumulates, expected {expected.macs}"
    for tensor in subgraph.tensors:
        allowed = expected.weights if tensor.parameter else (expected.inputs[0].type,)
        if tensor.sparse or (tensor.type not in allowed and (tensor.parameter or not tensor.constant)):
            kind = f"{'sparse ' if tensor.sparse else ''}{tensor.type}"
            return f"tensor {tensor.name!r} is {kind}, expected {' or '.join(allowed)}"
    return _idle(subgraph) or first_inconsistency(subgraph)


def recognise(graph: Graph, sha256: str, model: ZooModel) -> Identity:
    """Say whether a file, by its graph and its sha256, is the model whose name it bears."""
    if sha256 in model.sha256:
        return Identity(IdentityKind.PINNED, f"its sha256 is the one pinned for {model.name}")
    origin = next((name for name, digest in digests().items() if digest == sha256), "")
    if origin and digests().get(model.name) == sha256:
        return Identity(IdentityKind.STAND_IN, f"it is the generated stand-in for {model.name}, with random weights")
    if origin:
        return Identity(IdentityKind.OTHER, f"it is the generated stand-in for {origin}")
    if model.sha256:
        return Identity(IdentityKind.OTHER, f"its sha256 is {sha256}, expected {' or '.join(model.sha256)}")
    if model.graph is None:
        reason = f"{model.no_graph}, so only a pinned sha256 identifies it, expected one in a manifest"
        return Identity(IdentityKind.OTHER, reason)
    difference = _difference(graph, model.graph)
    if difference:
        return Identity(IdentityKind.OTHER, f"it is not {model.name}: {difference}")
    return Identity(IdentityKind.SAME_GRAPH, f"operators, shapes, parameters and operations are those of {model.name}")
