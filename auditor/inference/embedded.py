"""The embedded runner: measure one model once on a TFLite runtime of Python's, in fresh processes, and write down what was seen (run.py).

`measure` starts three workers, one after the other, on the same inputs:

* *reference*: no delegate, one thread; its outputs are what is right. No vendor code ever enters this process.
* *test*: with the delegate, if there is one. Warmed up and timed as benchmark_model does it; every inference gets another input, and
  every timed output is compared with the reference's, so speed and accuracy are one measurement.
* *memory*: as *test*, for memory alone.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from auditor.inference import wire
from auditor.inference.conditions import conditions
from auditor.inference.confine import Policy
from auditor.inference.fdinfo import busy_ns
from auditor.inference.process import Loaded, Status, Worker, WorkerFailure
from auditor.inference.run import Job, Run, blank, identify
from auditor.inference.wire import Claims, Outcome
from auditor.statistics import spread
from auditor.zoo.graph import BadModel, read_graph
from auditor.zoo.protocol import (
    WARMUP_RUNS,
    OutputError,
    TensorSpec,
    compare,
    make_inputs,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

MAX_POOL_BYTES = 256 << 20
"""Bytes of inputs and reference outputs that a run may hold; a model with large tensors gets fewer different inputs."""

BUSY_SHARE = 0.1
"""Of the time that inferences take, the share that a device's engines must have worked for the accelerator to count as seen working: a
token job beside the work on the processor is less."""

Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One set of inputs, and what the reference answered to it: the bytes of each output."""

    inputs: bytes
    specs: tuple[TensorSpec, ...]
    outputs: tuple[bytes, ...]


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
        raise WorkerFailure(Status(Outcome.RUNTIME_MISSING, "reference", "hello", message=str(problem))) from problem

    generator = np.random.default_rng(seed)
    tell(f"{job.name}: reference")
    pool = _reference(job, run, generator)
    tell(f"{job.name}: latency and accuracy")
    _test(job, run, pool, generator)
    tell(f"{job.name}: memory")
    _memory(job, run, pool)


def _reference(job: Job, run: Run, generator: np.random.Generator) -> list[_Sample]:
    """Make the inputs and have the reference answer each, for at most the time that a run may take."""
    pool: list[_Sample] = []
    overheads, held = [], 0
    with Worker("reference", job.reference or job.model, job.limits, import_path=job.import_path) as worker:
        run["python"], run["runtime"] = worker.hello(job.runtime)
        worker.confine(Policy(), required=not job.allow_unconfined)
        loaded = worker.load_model(1, xnnpack=job.xnnpack)
        deadline = time.monotonic() + job.max_seconds
        # two at least: an answer that does not depend on the input must show
        while len(pool) < 2 or (len(pool) < job.inputs and held < MAX_POOL_BYTES and time.monotonic() < deadline):
            inputs = _draw(loaded, generator)
            worker.set_inputs(inputs)
            inference = worker.invoke()
            specs, answer, _ns = worker.outputs()
            pool.append(_Sample(inputs, specs, split(specs, answer)))
            overheads.append(inference.bracket_ns - inference.worker_ns)
            held += len(inputs) + len(answer)
        worker.quit()
    run["inputs"] = len(pool)
    run["overhead_us"] = statistics.median(overheads) / 1e3
    return pool


def _test(job: Job, run: Run, pool: list[_Sample], generator: np.random.Generator) -> None:
    """Warm up, then time and compare until both `min_runs` and `min_seconds` are met, or `max_seconds` are over."""
    errors: list[tuple[OutputError, ...]] = []
    try:
        with _confined(job, run, "test") as worker:
            loaded, ns = _load(job, worker)
            run["init_us"] = ns / 1e3
            _note_claims(run, loaded.claims, job.model)
            run["first_us"] = _warm_up(job, worker, _draw(loaded, generator)) / 1e3
            engines = worker.engines()
            started = time.monotonic()
            for sample in _endless(pool, generator):
                elapsed = time.monotonic() - started
                wanted = len(errors) < job.min_runs or elapsed < job.min_seconds
                if not wanted or elapsed > job.max_seconds:
                    break
                errors.append(_timed(worker, run, sample))
            _note_who_worked(run, busy_ns(engines, worker.engines()) / 1e3)
            worker.quit()
            run["worker_output"] = worker.output
    finally:
        run["accuracy"] = _accuracy(errors, pool)


def _note_who_worked(run: Run, busy_us: float) -> None:
    """Write down how long the processor and the device's engines worked, beside how long the inferences took."""
    timed_us = sum(run["bracket_us"])
    if not timed_us:
        return
    conditions = run["conditions"]
    conditions["cpu_share"] = sum(run["cpu_us"]) / timed_us
    if busy_us:
        conditions["engines"] = {"source": "drm-engine-* of the process's descriptors (fdinfo)", "busy_us": busy_us, "timed_us": timed_us}
    if busy_us >= BUSY_SHARE * timed_us:
        conditions["accelerator_busy"] = True


def _memory(job: Job, run: Run, pool: list[_Sample]) -> None:
    """Run as many inferences as a timed run has at least, and read the peak; a figure only if all went well."""
    with _confined(job, run, "memory") as worker:
        before = worker.peak_bytes()
        _load(job, worker)
        deadline = time.monotonic() + job.max_seconds
        for count in range(job.min_runs):
            worker.set_inputs(pool[count % len(pool)].inputs)
            worker.invoke()
            worker.peak_bytes()
            worker.device_bytes()
            if time.monotonic() > deadline:
                break
        peak, device = worker.peak_bytes(), worker.device_bytes()
        worker.quit()
    if before and peak:
        run["memory"] = {"before_bytes": before, "peak_bytes": peak, "device_bytes": device}


@contextlib.contextmanager
def _confined(job: Job, run: Run, role: str) -> Iterator[Worker]:
    """Start a worker for the delegate, confined before anything of the vendor's is in it; write down how, and what it was refused."""
    conditions = run["conditions"]
    with Worker(role, job.model, job.limits, job.library_path, job.import_path) as worker:
        worker.hello(_runtime(run))
        confinement = worker.confine(_policy(job), required=not job.allow_unconfined)
        conditions["confinement"] = {**confinement.to_json(), "allowed": list(map(wire.shown, job.allow_paths))}
        conditions["escapes"] = [{"attempt": attempt, "refused": error} for attempt, error in confinement.escapes]
        try:
            yield worker
        finally:
            seen = worker.refused()
            known = conditions.get("refused", [])
            conditions["refused"] = None if seen is None or known is None else known + [each for each in seen if each not in known]


def _policy(job: Job) -> Policy:
    """What the delegate may open: its own folder and those of its libraries, the accelerator's nodes, and what was allowed."""
    if job.delegate is None:
        return Policy()
    path = os.path.abspath(job.delegate)
    folders = [os.path.dirname(each) for each in (path, os.path.realpath(path))]
    # in the root folder, everything lies
    own = [path if folder == "/" else folder for folder in folders]
    return Policy(
        tuple(dict.fromkeys((*own, *map(os.path.abspath, job.library_path)))), job.allow_paths, (*job.device_nodes, *job.allow_paths)
    )


def _load(job: Job, worker: Worker) -> tuple[Loaded, int]:
    """Load delegate and model. Returns the model, and the bracket of both in ns."""
    ns = worker.load_delegate(os.path.abspath(job.delegate), dict(job.options)) if job.delegate else 0
    loaded = worker.load_model(job.threads, xnnpack=job.xnnpack)
    return loaded, ns + loaded.ns


def _warm_up(job: Job, worker: Worker, inputs: bytes) -> int:
    """Run as benchmark_model's warm-up does, on an input that is never timed. Returns the first bracket in ns."""
    worker.set_inputs(inputs)
    started = time.monotonic()
    first, runs = worker.invoke().bracket_ns, 1
    while runs < WARMUP_RUNS or time.monotonic() - started < job.warmup_seconds:
        worker.invoke()
        runs += 1
    return first


def _endless(pool: list[_Sample], generator: np.random.Generator) -> Iterator[_Sample]:
    """Give every sample once, in an order of its own, then all again in another order."""
    while True:
        for index in generator.permutation(len(pool)):
            yield pool[index]


def _timed(worker: Worker, run: Run, sample: _Sample) -> tuple[OutputError, ...]:
    """Run one timed inference, note its times, and return how each output differs from the reference's."""
    set_ns = worker.set_inputs(sample.inputs)
    inference = worker.invoke()
    specs, payload, output_ns = worker.outputs()
    if len(specs) != len(sample.specs) or not all(map(TensorSpec.same_values, specs, sample.specs)):
        message = f"outputs {_shapes(specs)}, the reference's are {_shapes(sample.specs)}"
        status = Status(Outcome.OUTPUT_SHAPE_MISMATCH, "test", "output", message=wire.bounded(message))
        raise WorkerFailure(status, worker.output)
    run["samples_us"].append(inference.worker_ns / 1e3)
    run["bracket_us"].append(inference.bracket_ns / 1e3)
    run["exchange_us"].append((set_ns + inference.bracket_ns + output_ns) / 1e3)
    run["cpu_us"].append(inference.cpu_ns / 1e3)
    return tuple(map(compare, specs, sample.outputs, split(specs, payload)))


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
    run["nodes"] = {
        "total": total,
        "delegated": sum(len(part.nodes) for part in claims.partitions),
        "partitions": [{"subgraph": part.subgraph, "name": part.name, "nodes": list(part.nodes)} for part in claims.partitions],
    }
    run["delegate"]["name"] = claims.partitions[0].name if claims.partitions else None


def _accuracy(errors: list[tuple[OutputError, ...]], pool: list[_Sample]) -> dict[str, Any] | None:
    if not errors:
        return None
    outputs = [_output_accuracy(index, [run[index] for run in errors], pool) for index in range(len(errors[0]))]
    return {"runs": len(errors), "outputs": outputs}


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
