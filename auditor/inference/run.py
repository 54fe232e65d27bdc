"""What one measurement of one model is asked and what it writes down, whichever runner did it.

The document (`Run`), schema `crosml-audit/run/1`. It holds JSON types only, and no NaN or infinity: those are counted, and what they
spoil is null. Whatever happens to a worker, there is a document; what was measured before a failure stays in it.

    schema        "crosml-audit/run/1"
    model         {name, sha256, origin, bytes}
    runner        "embedded"
    runtime       {name, version} of the TFLite runtime | null if no worker came that far
    python        version of Python in the workers | null
    threads       given to the interpreter of test and memory; the reference has one
    xnnpack       whether the runtime's own XNNPACK delegate took what the delegate left (in all three workers)
    delegate      {path, sha256 | null, options, name: of its kernel | null} | null without one
    status        {outcome (wire.Outcome), process: reference|test|memory, stage, signal, exit, message}
    nodes         {total: operators in the file, delegated, partitions: [{subgraph, name, nodes: indexes of operators}]}
                  | null without a delegate, or before it was applied
    seed, inputs  of the random inputs; how many different ones there were. The first `inputs` samples are each of an input that
                  the worker had never seen
    init_us       load of delegate and model, delegate applied, tensors allocated (bracket) | null
    first_us      first inference (bracket) | null
    samples_us    Invoke alone, as the worker says; each lies within its bracket
    bracket_us    the controller's clock around the same Invoke: request sent to reply received
    exchange_us   the controller's clock from before the inputs were sent until the outputs were there: nothing done for an
                  inference can hide outside it
    cpu_us        processor time of all threads of the worker's process within the bracket, by the kernel's count. One figure may be
                  off by a scheduler's tick (1 to 10 ms) either way, their sum by no more than that. Work of other processes and
                  of the kernel's own threads is not in it
    overhead_us   median of bracket less sample in the reference worker, where both are honest | null
    accuracy      {runs, outputs: [{index, avg_error, std_dev, max_error, exact_share, reference_nan_runs, test_nan_runs,
                  two_input_distance}]} | null. Raw output units; avg_error and std_dev as inference_diff has them, null if any run
                  held a NaN or an infinity; exact_share of all elements; two_input_distance is what avg_error would be between the
                  reference's answers to two different inputs
    memory        {before_bytes, peak_bytes, device_bytes} | null: VmHWM before anything was loaded, and at the end; the most that the
                  process's descriptors were seen to hold of device memory (fdinfo.py), null where that could not be read
    conditions    {before, after}: see conditions.py; and where a worker for the delegate was started:
      confinement {state: confined|unconfined, problems, landlock_abi, no_new_privs, seccomp, capabilities, refusals_seen, readable,
                  writable, devices, allowed: of these paths, those that were asked for}: as the controller read it of the kernel, before
                  anything of the vendor's was loaded
      escapes     [{attempt, refused: name of the errno | null}]: attempts to get out that the auditor made in that same process
      cpu_share   processor time of the timed inferences over their brackets: about 1 for each thread that computes or waits busily
      engines     {source, busy_us, timed_us}: where engines of a device were seen working for the process meanwhile
      accelerator_busy  true where they worked for BUSY_SHARE of the time at least; else absent: not seen, which is not the same as idle
      refused     [{call, path | null, errno, times}] that the confinement refused to the delegate | null where that could not be seen
    worker_output what the failed (else the test) worker's process printed, its two ends
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any, TypedDict

from auditor.inference import wire
from auditor.inference.process import Limits, Status, WorkerFailure
from auditor.inference.wire import AUTO, RUNTIMES, Outcome
from auditor.zoo.protocol import MAX_SECONDS, MIN_SECONDS, RUNS, WARMUP_SECONDS

SCHEMA = "crosml-audit/run/1"


@dataclass(frozen=True, slots=True)
class Job:
    """One model to be measured once. The defaults are those of benchmark_model and inference_diff.

    `delegate` is the path of an external delegate's library; `library_path` is the only thing that its process finds in its
    environment (LD_LIBRARY_PATH). `inputs` is how many different inputs there are. Raises ValueError for a runtime that is none.
    """

    name: str
    model: bytes = field(repr=False)
    reference: bytes | None = field(default=None, repr=False)
    """The model that the reference process runs, where it is not the same file: one rewritten without custom operators."""
    origin: str = ""
    delegate: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    library_path: tuple[str, ...] = ()
    device_nodes: tuple[str, ...] = ()
    """The accelerator's nodes: what the delegate may open beside libraries, its own folder and a folder to write to."""
    allow_paths: tuple[str, ...] = ()
    """More paths that it may read, write and drive, each with all below it."""
    allow_unconfined: bool = False
    """Whether to run where the kernel cannot confine."""
    runtime: str = AUTO
    import_path: tuple[str, ...] = ()
    """Folders that the workers look for the runtime in before they look where this process finds its packages."""
    threads: int = 1
    xnnpack: bool = True
    inputs: int = RUNS
    min_runs: int = RUNS
    min_seconds: float = MIN_SECONDS
    max_seconds: float = MAX_SECONDS
    warmup_seconds: float = WARMUP_SECONDS
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.runtime not in (AUTO, *RUNTIMES):
            raise ValueError(f"runtime {self.runtime!r}, expected one of {', '.join((AUTO, *RUNTIMES))}")


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
    accuracy: dict[str, Any] | None
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
        accuracy=None,
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
