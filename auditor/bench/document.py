"""What one measurement of one model is asked and what it writes down, whichever runner did it.

The document (`Run`), schema `crosml-audit/run/1`. It holds JSON types only, and no NaN or infinity: those are counted, and what they
spoil is null. Whatever happens to a worker, there is a document; what was measured before a failure stays in it.

    schema        "crosml-audit/run/1"
    model         {name, sha256, origin, bytes}
    runner        "embedded" | "native": TFLite's own tools (native.py says what of the following is another thing there)
    runtime       {name, version} of the TFLite runtime | null if no worker came that far
    python        version of Python in the workers | null
    threads       given to the interpreter of test and memory; the reference has one
    xnnpack       whether the runtime's own XNNPACK delegate took what the delegate left (in all three workers)
    delegate      {path, sha256 | null, options, name: of its kernel | null} | null without one
    status        {outcome (wire.Outcome), process: reference|test|memory|accuracy, stage, signal, exit, message}
    nodes         {total: operators in the file, delegated, partitions: [{subgraph, name, nodes: indexes of operators | null where only
                  their number is known}]} | null without a delegate, or before it was applied
    seed, inputs  of the random inputs; how many different ones there were. The first `inputs` samples are each of an input that
                  the worker had never seen
    init_us       load of delegate and model, delegate applied, tensors allocated (bracket) | null
    first_us      first inference (bracket) | null
    samples_us    Invoke alone, as the worker says; those of a batch lie within its bracket
    bracket_us    the controller's clock around a batch of Invokes, with their inputs set and their outputs copied: request sent to
                  reply received; of each inference, its equal part
    exchange_us   the same from before the inputs were sent until the outputs were there. Nothing done for them hides outside the
                  bracket: the inputs can be read from its beginning on, and the outputs not be changed after its end (sealing.py)
    cpu_us        processor time of all threads of the worker's process within the bracket, by the kernel's count. One figure may be
                  off by a scheduler's tick (1 to 10 ms) either way, their sum by no more than that. Work of other processes and
                  of the kernel's own threads is not in it
    overhead_us   least of bracket less sample in batches of the reference worker, where both are honest | null
    reference     {kernels: default|builtin, threads, rewritten}: what the answers are compared with. The default kernels are XNNPACK's
                  where the runtime has it and it takes the operator; rewritten, where a custom operator was replaced (zoo/rewrite.py)
    accuracy      {runs, outputs: [{index, avg_error, std_dev, max_error, exact_share, reference_nan_runs, test_nan_runs,
                  two_input_distance, idle_error, correlation, offset, own_errors}]} | null, on noise. Raw output units; avg_error and
                  std_dev as inference_diff has them, null if any run held a NaN or an infinity; exact_share of all elements;
                  two_input_distance is what avg_error would be between the reference's answers to two different inputs, idle_error the
                  least that it would be for a delegate that computes nothing (zoo/golden.py); correlation and offset: see
                  bench/tracking.py; own_errors: on each input of the auditor's own, where the device's own tools measured the rest
    golden        {metric: top-1|mask, note: what could not be used, idle_error: as above, of the images,
                  pictures: [{name, sha256: of the image's file, output, runs, variation, reference, test: {class, probability, margin} or
                  {share} | null where not all is finite, agreement: 0 to 1, avg_error | null}]} | null where there is no golden image.
                  Of several answers to an image, the worst
    memory        {before_bytes, peak_bytes, group_bytes, device_bytes} | null where not all was read: the most memory that the process
                  and what it started were seen to hold (memory.py) before anything was loaded, and until the end; the peak of their
                  control group (group.py), null where there is none; the most that their descriptors were seen to hold of device memory
                  (fdinfo.py), null where that is not all of it
    conditions    {before, after}: see conditions.py; and where a worker for the delegate was started:
      confinement {state: confined|unconfined, problems, landlock_abi, no_new_privs, seccomp, capabilities, refusals_seen, readable,
                  writable, devices, executable, allowed: of these paths, those that were asked for}: as the controller read it of the
                  kernel, before anything of the vendor's was loaded
      operators   {runtime, model}: digests of the operators that each has and needs (operators.py); no model where we cannot read it
      escapes     [{attempt, refused: name of the errno | null}]: attempts to get out that the auditor made in that same process
      power       {seconds, watts: {sensor: mean}} over the timed part, where the machine has a sensor that may be read (conditions.py)
      rewritten   {operator, nodes: [[subgraph, index]]}: a custom operator that neither the runtime nor the delegate has, where it was
                  replaced for the delegate's processes, too; these nodes count as not delegated
      golden_cases {count, wrong: [text]}: of the model's golden cases, in what this runtime, without the delegate, gives something else
      cpu_share   processor time of the timed inferences over their brackets: about 1 for each thread that computes or waits busily
      delegated   [{source, nodes, total, partitions}] of the native tools, where sources say different things; the least counts
      engines     {source, busy_us, or commands, timed_us}: where the accelerator was seen working for the process meanwhile
      unwitnessed [text]: where it was not seen working, what keeps the kernel's counts from showing it (inference/witness.py)
      reference_cpu_us  processor time of an inference in the reference process, by the kernel's count
      accelerator_busy  true where the kernel counted that the accelerator worked for BUSY_SHARE of the time at least, or that it completed
                  a command for each inference, and the processor did not do enough beside it to have computed the model itself
                  (`fits`); else absent: not seen, which is not the same as idle
      memory_engines, memory_unwitnessed, memory_accelerator_busy  the same, in the process that is looked at for memory
      refused     [{call, path | null, errno, times}] that the confinement refused to the delegate | null where that could not be seen
    worker_output what the failed (else the test) worker's process printed, its two ends
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from auditor.bench.protocol import MAX_SECONDS, MIN_SECONDS, RUNS, WARMUP_SECONDS
from auditor.inference import wire
from auditor.inference.executor import Options
from auditor.inference.watch import Limits
from auditor.inference.wire import Outcome, Status, WorkerFailure
from auditor.zoo.golden import GoldenSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.families import Work
    from auditor.inference.confinement import Confinement
    from auditor.inference.process import Worker
    from auditor.inference.witness import Counted

SCHEMA = "crosml-audit/run/1"

BUSY_SHARE = 0.1
"""Of the time that inferences take, the share that a device's engines must have worked for the accelerator to count as seen working: a
token job beside the work on the processor is less."""


@dataclass(frozen=True, slots=True)
class Job(Options):
    """One model to be measured once. The defaults are those of benchmark_model and inference_diff.

    `inputs` is how many different inputs there are.
    """

    name: str
    model: bytes = field(repr=False)
    reference: bytes | None = field(default=None, repr=False)
    """The model that the reference process runs, where it is not the same file: one rewritten without custom operators."""
    origin: str = ""
    inputs: int = RUNS
    min_runs: int = RUNS
    min_seconds: float = MIN_SECONDS
    max_seconds: float = MAX_SECONDS
    warmup_seconds: float = WARMUP_SECONDS
    memory_runs: int = RUNS
    """Inferences of the process that is looked at for memory alone."""
    golden: GoldenSet | None = None
    """Golden images, which are answered between the others."""
    limits: Limits = field(default_factory=Limits)


class Run(TypedDict):
    """A run document; the module's description says what each key holds."""

    schema: str
    model: dict[str, Any]
    runner: str
    runtime: dict[str, str] | None
    python: str | None
    threads: int
    xnnpack: bool
    delegate: dict[str, Any] | None
    status: dict[str, Any]
    nodes: dict[str, Any] | None
    seed: int
    inputs: int
    init_us: float | None
    first_us: float | None
    samples_us: list[float]
    bracket_us: list[float]
    exchange_us: list[float]
    cpu_us: list[float]
    overhead_us: float | None
    reference: dict[str, Any]
    accuracy: dict[str, Any] | None
    golden: dict[str, Any] | None
    memory: dict[str, int | None] | None
    conditions: dict[str, Any]
    worker_output: str


def blank(job: Job, runner: str, seed: int = 0) -> Run:
    """Return the document of a measurement that has not begun."""
    digest = hashlib.sha256(job.model).hexdigest()
    return Run(
        schema=SCHEMA,
        model={"name": job.name, "sha256": digest, "origin": job.origin, "bytes": len(job.model)},
        runner=runner,
        runtime=None,
        python=None,
        threads=job.threads,
        xnnpack=job.xnnpack,
        delegate=None,
        status=Status(Outcome.COMPLETED).to_json(),
        nodes=None,
        seed=seed,
        inputs=0,
        init_us=None,
        first_us=None,
        samples_us=[],
        bracket_us=[],
        exchange_us=[],
        cpu_us=[],
        overhead_us=None,
        reference={"kernels": "default" if job.xnnpack else "builtin", "threads": 1, "rewritten": job.reference is not None},
        accuracy=None,
        golden=None,
        memory=None,
        conditions={},
        worker_output="",
    )


def identify(job: Job, run: Run) -> None:
    """Note the delegate's file and its digest."""
    if job.delegate is None:
        return
    path = os.path.abspath(job.delegate)
    options = {wire.shown(key): wire.shown(value) for key, value in job.options}
    delegate = run["delegate"] = {"path": wire.shown(path), "sha256": None, "options": options, "name": None}
    try:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such file, expected a shared library")
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while part := file.read(1 << 20):
                digest.update(part)
    except OSError as problem:
        status = Status(Outcome.DELEGATE_MISSING, stage="load", message=wire.bounded(str(problem)))
        raise WorkerFailure(status) from problem
    delegate["sha256"] = digest.hexdigest()


@contextlib.contextmanager
def noted(job: Job, run: Run, worker: Worker, confinement: Confinement) -> Iterator[None]:
    """Write down how a worker is confined before anything of the vendor's is in it, and at the end what it was refused."""
    conditions = run["conditions"]
    conditions["confinement"] = {**confinement.to_json(), "allowed": list(map(wire.shown, job.access.allow_paths))}
    conditions["escapes"] = [{"attempt": attempt, "refused": error} for attempt, error in confinement.escapes]
    try:
        yield
    finally:
        seen = worker.refused()
        known = conditions.get("refused", [])
        conditions["refused"] = None if seen is None or known is None else known + [each for each in seen if each not in known]


def note_who_worked(run: Run, cpu_us: float, counted: Counted, timed_us: float, inferences: int, *, process: str = "") -> None:
    """Write down how long the processor and the accelerator worked, and how long so many inferences took.

    `process` is a prefix for another process than the timed one.
    """
    if not timed_us:
        return
    conditions = run["conditions"]
    if not process:
        conditions["cpu_share"] = cpu_us / timed_us
    reference_us = conditions.get("reference_cpu_us", 0.0) * inferences
    seen = [kind for kind, amount in counted.amounts.items() if amount]
    proofs = [kind for kind in seen if _proves(kind, counted.amounts[kind], cpu_us, timed_us, reference_us, inferences)]
    for kind in [*proofs, *seen][:1]:
        amount = {"busy_us": counted.amounts[kind] / 1e3} if kind.in_time else {"commands": counted.amounts[kind]}
        conditions[f"{process}engines"] = {"source": kind.source, **amount, "timed_us": timed_us}
    if proofs:
        conditions[f"{process}accelerator_busy"] = True
    elif counted.notes:
        conditions[f"{process}unwitnessed"] = list(map(wire.shown, counted.notes))


def _proves(kind: Work, amount: int, cpu_us: float, timed_us: float, reference_us: float, inferences: int) -> bool:
    """Whether so much of a kind of evidence shows the accelerator to have done the work."""
    if not kind.in_time:
        return amount >= max(1, inferences) and fits(cpu_us, 0, timed_us, reference_us)
    return amount / 1e3 >= BUSY_SHARE * timed_us and fits(cpu_us, amount / 1e3, timed_us, reference_us)


def fits(cpu_us: float, busy_us: float, timed_us: float, reference_cpu_us: float) -> bool:
    """Whether the accelerator may have done the work: a delegate that computes on the processor keeps that busy, too.

    One that waits by spinning does so as well, so the processor's time only counts where it is as long as half of what the same inferences
    take it without a delegate, and longer than the engines worked, and the engines rested for more than half of the time.
    """
    return cpu_us <= max(busy_us, reference_cpu_us / 2) or busy_us >= timed_us / 2
