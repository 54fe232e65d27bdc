"""The embedded runner: measure one model once on a TFLite runtime of Python's, in fresh processes, and write down what was seen (run.py).

`measure` starts three workers, one after the other, on the same inputs:

* *reference*: no delegate, one thread; its outputs are what is right. No vendor code ever enters this process.
* *test*: with the delegate, if there is one. Warmed up and timed as benchmark_model does it; every inference gets another input, and
  every timed output is compared with the reference's, so speed and accuracy are one measurement. Golden images come in between,
  timed and compared like the others.
* *memory*: as *test*, for memory alone; its outputs are compared, too.

A custom operator that neither the runtime nor the delegate has is rewritten for *test* and *memory* as it is for *reference*.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from auditor.bench.conditions import conditions, mean_power, read_power
from auditor.bench.document import Job, Run, blank, identify, note_who_worked, noted
from auditor.bench.protocol import WARMUP_RUNS
from auditor.bench.tracking import Tracking
from auditor.inference import wire
from auditor.inference.executor import Access, Executor, Options
from auditor.inference.wire import Claims, Outcome, Status, WorkerFailure
from auditor.statistics import spread
from auditor.tflite.graph import MEDIAPIPE_DECONVOLUTION, BadModel, read_graph
from auditor.tflite.tensors import OutputError, TensorSpec, compare, make_inputs, split
from auditor.zoo import golden
from auditor.zoo.golden import Picture, Variation

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from auditor.inference.process import Batch, Loaded, Worker

MAX_POOL_BYTES = 256 << 20
"""Bytes of inputs and reference outputs that a run may hold; a model with large tensors gets fewer different inputs."""

BATCH, BATCH_BYTES, BATCH_NS = 16, 16 << 20, 50_000_000
"""Inferences that follow each other without the controller between them, at most: so many, with inputs of so many bytes, for so long.

Between two exchanges with another process, caches go cold: alone, an inference of a millisecond takes a tenth longer.
"""

_UNRESOLVED = "unresolved custom op"
"""What TFLite says of an operator that it does not have (core/subgraph.cc)."""

Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One set of inputs, and what the reference answered: the bytes of each output. Noise, or a golden image and how it was varied."""

    inputs: bytes
    specs: tuple[TensorSpec, ...]
    outputs: tuple[bytes, ...]
    picture: Picture | None = None
    variation: Variation | None = None


def measure(job: Job, progress: Progress | None = None) -> Run:
    """Measure one model once. Nothing that a model or a vendor's library does makes this raise; the status says what it did."""
    tell = progress or (lambda _text: None)
    seed = int.from_bytes(os.urandom(6), "little")
    run = blank(job, "embedded", seed)
    run["conditions"]["before"] = conditions()
    try:
        identify(job, run)
        _measure(job, run, seed, tell)
    except WorkerFailure as failure:
        run["status"] = failure.status.to_json()
        run["worker_output"] = failure.output
    run["conditions"]["after"] = conditions()
    return run


def _measure(job: Job, run: Run, seed: int, tell: Progress) -> None:
    try:
        import numpy as np  # noqa: PLC0415 - only those who measure pay for it
    except ImportError as problem:  # on a device: it comes with every runtime
        raise WorkerFailure(Status(Outcome.RUNTIME_MISSING, "reference", "hello", message=wire.not_imported(problem))) from problem

    generator = np.random.default_rng(seed)
    tell(f"{job.name}: reference")
    pool, photos = _reference(job, run, generator)
    seen = _Seen(job, pool, photos)
    try:
        tell(f"{job.name}: latency and accuracy")
        try:
            _test(job, run, seen, generator)
        except WorkerFailure as failure:
            if job.reference is None or _UNRESOLVED not in failure.status.message:
                raise
            job = _rewritten(job, run, job.reference)
            _test(job, run, seen, generator)
        tell(f"{job.name}: memory")
        _memory(job, run, seen)
    finally:
        run["accuracy"] = seen.accuracy()
        if run["golden"]:
            run["golden"] |= seen.golden()


def _rewritten(job: Job, run: Run, model: bytes) -> Job:
    """The same job with the model that the reference runs: neither the delegate nor the runtime has an operator of the other one.

    What stands in its place is the processor's work, whoever takes it: the delegate did not take the operator itself.
    """
    places = [
        [index, node]
        for index, subgraph in enumerate(read_graph(job.model).subgraphs)
        for node, operator in enumerate(subgraph.operators)
        if operator.name == MEDIAPIPE_DECONVOLUTION
    ]
    run["conditions"]["rewritten"] = {"operator": MEDIAPIPE_DECONVOLUTION, "nodes": places}
    return replace(job, model=model)


def _reference(job: Job, run: Run, generator: np.random.Generator) -> tuple[list[_Sample], list[_Sample]]:
    """Make the inputs and have the reference answer each, for at most the time that a run may take. Returns noise, and golden images."""
    pool: list[_Sample] = []
    held = 0
    options = Options(
        access=Access(allow_unconfined=job.access.allow_unconfined), runtime=job.runtime, import_path=job.import_path, xnnpack=job.xnnpack
    )
    with Executor(job.reference or job.model, options, job.limits, "reference") as executor:
        worker = executor.worker
        run["python"], run["runtime"] = executor.python, executor.runtime
        run["conditions"]["operators"] = dict(executor.require_operators())
        loaded, _ns = executor.load()
        deadline = time.monotonic() + job.max_seconds
        # two at least: an answer that does not depend on the input must show
        while len(pool) < 2 or (len(pool) < job.inputs and held < MAX_POOL_BYTES and time.monotonic() < deadline):
            sample, bracket_ns = _answered(worker, _draw(loaded, generator))
            pool.append(sample)
            held += len(sample.inputs) + sum(map(len, sample.outputs))
        overhead_ns, cpu_ns = _overhead_ns(worker, pool, bracket_ns)
        run["overhead_us"], run["conditions"]["reference_cpu_us"] = overhead_ns / 1e3, cpu_ns / 1e3
        photos = _photos(job, run, worker, loaded, generator)
        worker.quit()
    run["inputs"] = len(pool) + len(photos)
    return pool, photos


def _answered(worker: Worker, inputs: bytes) -> tuple[_Sample, int]:
    """The reference's answer to some inputs, and the bracket in ns."""
    worker.set_inputs(inputs)
    inference = worker.invoke()
    specs, answer, _ns = worker.outputs()
    return _Sample(inputs, specs, split(specs, answer)), inference.bracket_ns


def _overhead_ns(worker: Worker, pool: list[_Sample], bracket_ns: int) -> tuple[float, float]:
    """By how much the bracket of an inference in a batch is longer than the inference, where both are honest; and its processor time.

    The first is the least of three batches, the second their mean.
    """
    size = _batch_size(pool, bracket_ns)
    found, cpu_ns = [], 0
    for _ in range(3):
        batch = worker.run_batch([pool[number % len(pool)].inputs for number in range(size)])
        found.append((batch.bracket_ns - sum(batch.worker_ns)) / size)
        cpu_ns += batch.cpu_ns
    return min(found), cpu_ns / (3 * size)


def _batch_size(samples: list[_Sample], bracket_ns: int) -> int:
    held = max(len(sample.inputs) + sum(map(len, sample.outputs)) for sample in samples)
    return max(1, min(BATCH, BATCH_BYTES // max(1, held), BATCH_NS // max(1, bracket_ns)))


def _photos(job: Job, run: Run, worker: Worker, loaded: Loaded, generator: np.random.Generator) -> list[_Sample]:
    """Vary each golden image and have the reference answer it."""
    if job.golden is None:
        return []
    photos = []
    note = job.golden.note
    for picture in job.golden.pictures:
        variation = golden.draw(generator)
        try:
            (spec,) = loaded.inputs
            inputs = golden.input_bytes(picture, spec, job.golden.recipe, variation)
        except ValueError as problem:
            note = f"the model takes no image: {problem}"
            break
        sample, _ns = _answered(worker, inputs)
        if not sample.specs:
            note = "the model has no output"
            break
        photos.append(replace(sample, picture=picture, variation=variation))
    if photos or note:
        run["golden"] = {"metric": job.golden.recipe.metric.value, "note": note, "idle_error": None, "pictures": []}
    return photos


def _test(job: Job, run: Run, seen: _Seen, generator: np.random.Generator) -> None:
    """Warm up, then time and compare until `min_runs` and `min_seconds` are met and each input was seen, or `max_seconds` are over."""
    with _confined(job, run, "test") as executor:
        worker = executor.worker
        loaded, ns = executor.load()
        run["init_us"] = ns / 1e3
        _note_claims(run, loaded.claims, job.model)
        first_ns, last_ns = _warm_up(job, worker, _draw(loaded, generator))
        run["first_us"], most = first_ns / 1e3, _batch_size(seen.samples, last_ns)
        counted, power = worker.counted(), read_power()
        started = time.monotonic()
        samples = _endless(seen.samples, generator)
        while (elapsed := time.monotonic() - started) <= job.max_seconds:
            # no batch holds both inputs that are new and such that come again
            new = run["inputs"] - len(run["samples_us"])
            wanted = min(most, new) if new > 0 else most
            if elapsed >= job.min_seconds and seen.all_photos:
                wanted = min(wanted, job.min_runs - seen.runs)
            if wanted <= 0:
                break
            _time(worker, run, list(itertools.islice(samples, wanted)), seen)
        drawn = mean_power(power, read_power())
        if drawn:
            run["conditions"]["power"] = drawn
        note_who_worked(run, sum(run["cpu_us"]), worker.counted().since(counted), sum(run["bracket_us"]), len(run["bracket_us"]))
        worker.quit()
        run["worker_output"] = worker.output


def _memory(job: Job, run: Run, seen: _Seen) -> None:
    """Run a fixed number of inferences, and read the peak; a figure only if all went well.

    The answers are compared here, too: a delegate that takes this process for what it is and computes nothing holds nothing.
    """
    with _confined(job, run, "memory") as executor:
        worker = executor.worker
        before = worker.peak_bytes()
        executor.load()
        counted, cpu_ns, timed_ns, count = worker.counted(), 0, 0, 0
        deadline = time.monotonic() + job.max_seconds
        for sample in itertools.islice(itertools.cycle(seen.pool), job.memory_runs):
            batch = worker.run_batch([sample.inputs])
            _compare(worker, "memory", [sample], batch, seen)
            cpu_ns, timed_ns, count = cpu_ns + batch.cpu_ns, timed_ns + batch.bracket_ns, count + 1
            worker.peak_bytes()
            worker.device_bytes()
            if time.monotonic() > deadline:
                break
        peak, group, device = worker.peak_bytes(), worker.group_bytes(), worker.device_bytes()
        note_who_worked(run, cpu_ns / 1e3, worker.counted().since(counted), timed_ns / 1e3, count, process="memory_")
        worker.quit()
    if before and peak:
        run["memory"] = {"before_bytes": before, "peak_bytes": peak, "group_bytes": group, "device_bytes": device}


@contextlib.contextmanager
def _confined(job: Job, run: Run, role: str) -> Iterator[Executor]:
    """Start a worker for the delegate, confined."""
    with (
        Executor(job.model, replace(job, runtime=_runtime(run)), job.limits, role) as executor,
        noted(job, run, executor.worker, executor.confinement),
    ):
        yield executor


def _warm_up(job: Job, worker: Worker, inputs: bytes) -> tuple[int, int]:
    """Run as benchmark_model's warm-up does, on an input that is never timed. Returns the first and the last bracket in ns."""
    worker.set_inputs(inputs)
    started = time.monotonic()
    first = last = worker.invoke().bracket_ns
    runs = 1
    while runs < WARMUP_RUNS or time.monotonic() - started < job.warmup_seconds:
        last = worker.invoke().bracket_ns
        runs += 1
    return first, last


def _endless(pool: list[_Sample], generator: np.random.Generator) -> Iterator[_Sample]:
    """Give every sample once, in an order of its own, then all again in another order."""
    while True:
        for index in generator.permutation(len(pool)):
            yield pool[index]


def _time(worker: Worker, run: Run, samples: list[_Sample], seen: _Seen) -> None:
    """Run timed inferences, compare their outputs, and note their times."""
    count, batch = len(samples), worker.run_batch([sample.inputs for sample in samples])
    _compare(worker, "test", samples, batch, seen)
    run["samples_us"] += [ns / 1e3 for ns in batch.worker_ns]
    run["bracket_us"] += [batch.bracket_ns / count / 1e3] * count
    run["exchange_us"] += [batch.exchange_ns / count / 1e3] * count
    run["cpu_us"] += [batch.cpu_ns / count / 1e3] * count


def _compare(worker: Worker, role: str, samples: list[_Sample], batch: Batch, seen: _Seen) -> None:
    """Compare the outputs of a batch, which must all be like the reference's, with these."""
    for sample, (specs, _payload) in zip(samples, batch.answers, strict=True):
        if len(specs) != len(sample.specs) or not all(map(TensorSpec.same_values, specs, sample.specs)):
            message = f"outputs {_shapes(specs)}, the reference's are {_shapes(sample.specs)}"
            status = Status(Outcome.OUTPUT_SHAPE_MISMATCH, role, "output", message=wire.bounded(message))
            raise WorkerFailure(status, worker.output)
    for sample, (specs, payload) in zip(samples, batch.answers, strict=True):
        seen.add(sample, split(specs, payload))


def _shapes(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.dtype}{list(spec.shape)}" for spec in specs)


def _draw(loaded: Loaded, generator: np.random.Generator) -> bytes:
    try:
        return make_inputs(loaded.inputs, generator)
    except ValueError as problem:
        raise WorkerFailure(Status(Outcome.LOAD_FAILED, "reference", "input", message=str(problem))) from problem


def _runtime(run: Run) -> str:
    """Return the runtime that the reference ran on; the others must not find another one."""
    assert run["runtime"] is not None
    return run["runtime"]["name"]


def _note_claims(run: Run, claims: Claims | None, model: bytes) -> None:
    """Write down what the delegate took. The number of operators is the file's, where our own reader can read it."""
    if claims is None or run["delegate"] is None:
        return
    try:
        total = sum(len(subgraph.operators) for subgraph in read_graph(model).subgraphs)
    except BadModel:
        total = sum(claims.operators)
    others = run["conditions"].get("rewritten", {}).get("nodes", [])
    partitions: list[dict[str, Any]] = [
        {"subgraph": part.subgraph, "name": part.name, "nodes": [node for node in part.nodes if [part.subgraph, node] not in others]}
        for part in claims.partitions
    ]
    run["nodes"] = {"total": total, "delegated": sum(len(part["nodes"]) for part in partitions), "partitions": partitions}
    run["delegate"]["name"] = claims.partitions[0].name if claims.partitions else None


class _Seen:
    """What came of comparing outputs with the reference's, those of golden images apart."""

    def __init__(self, job: Job, pool: list[_Sample], photos: list[_Sample]) -> None:
        self._job, self.pool, self._photos = job, pool, photos
        self._errors: list[tuple[OutputError, ...]] = []
        self._tracking = tuple(Tracking() for _ in pool[0].specs)
        self._golden: dict[str, dict[str, Any]] = {}

    @property
    def samples(self) -> list[_Sample]:
        """Noise and golden images."""
        return [*self.pool, *self._photos]

    @property
    def runs(self) -> int:
        """Inferences on noise."""
        return len(self._errors)

    @property
    def all_photos(self) -> bool:
        """Whether each golden image was answered."""
        return len(self._golden) == len(self._photos)

    def add(self, sample: _Sample, outputs: tuple[bytes, ...]) -> None:
        """Compare one inference's outputs."""
        errors = tuple(map(compare, sample.specs, sample.outputs, outputs))
        if sample.picture is not None:
            self._add_photo(sample, sample.picture, outputs[0], errors[0])
            return
        self._errors.append(errors)
        for tracking, spec, reference, test in zip(self._tracking, sample.specs, sample.outputs, outputs, strict=True):
            tracking.add(spec.dtype, reference, test)

    def _add_photo(self, sample: _Sample, picture: Picture, output: bytes, error: OutputError) -> None:
        """Keep the worst answer to each image."""
        assert self._job.golden is not None
        reference, spec = sample.outputs[0], sample.specs[0]
        agreed = golden.agreement(self._job.golden, spec, reference, output)
        known = self._golden.get(picture.sha256)
        runs = known["runs"] + 1 if known else 1
        if known and (known["agreement"], -(known["avg_error"] or 0.0)) <= (agreed, -(error.mean or 0.0)):
            known["runs"] = runs
            return
        self._golden[picture.sha256] = {
            "name": picture.name,
            "sha256": picture.sha256,
            "output": 0,
            "runs": runs,
            "variation": asdict(sample.variation) if sample.variation else None,
            "reference": golden.figures(self._job.golden, reference, spec),
            "test": golden.figures(self._job.golden, output, spec),
            "agreement": agreed,
            "avg_error": error.mean,
        }

    def golden(self) -> dict[str, Any]:
        """Return what a run document says of golden images."""
        idle = golden.idle_error([photo.outputs[0] for photo in self._photos], self._photos[0].specs[0]) if self._photos else None
        return {"idle_error": idle, "pictures": list(self._golden.values())}

    def accuracy(self) -> dict[str, Any] | None:
        """Return what a run document says of accuracy."""
        if not self._errors:
            return None
        return {"runs": self.runs, "outputs": [self._output(index) for index in range(len(self._errors[0]))]}

    def _output(self, index: int) -> dict[str, Any]:
        tracking, references = self._tracking[index], [sample.outputs[index] for sample in self.pool]
        return _output_accuracy(index, [run[index] for run in self._errors], self.pool) | {
            "idle_error": golden.idle_error(references, self.pool[0].specs[index]),
            "correlation": tracking.correlation(),
            "offset": tracking.offset(len(self.pool)),
        }


def _output_accuracy(index: int, runs: list[OutputError], pool: list[_Sample]) -> dict[str, Any]:
    means = [run.mean for run in runs if run.mean is not None]
    maxima = [run.maximum for run in runs if run.maximum is not None]
    complete = spread(means) if len(means) == len(runs) else None
    elements = sum(run.elements for run in runs)
    return {
        "index": index,
        "avg_error": complete.mean if complete else None,
        "std_dev": complete.deviation if complete else None,
        "max_error": max(maxima) if complete else None,
        "exact_share": sum(run.exact for run in runs) / elements if elements else None,
        "reference_nan_runs": sum(not run.reference_finite for run in runs),
        "test_nan_runs": sum(not run.test_finite for run in runs),
        "two_input_distance": _two_input_distance(index, pool),
    }


def _two_input_distance(index: int, pool: list[_Sample]) -> float | None:
    distances = [
        compare(one.specs[index], one.outputs[index], two.outputs[index]).mean
        for one, two in pairwise(pool)
        if one.specs[index].same_values(two.specs[index])
    ]
    finite = [distance for distance in distances if distance is not None]
    return statistics.fmean(finite) if finite else None
