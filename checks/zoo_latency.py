"""zoo-<model>-latency: the model's mean latency through the delegate is at most the zoo's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.model import Answer, Level, Outcome, Owner, Remedy, check
from checks.zoo_runs import cited, invalid, of_baseline, of_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Facts, ModelResult
    from auditor.model import ModelRun, Requirement

EXPECTED = "a mean latency of at most the zoo's limit, on the accelerator"
PASSES = "The model runs through the delegate, on the accelerator, within the zoo's latency."
FAILS = "The model takes longer than the zoo allows."
REMEDIATION = "Look at which operators fall back and where time goes (ftrace, Perfetto), and submit again with a faster driver or delegate."


@check(
    "zoo-latency.baseline",
    each="model",
    expected=EXPECTED,
    passes=PASSES,
    fails=FAILS,
    remediation=REMEDIATION,
    owner=Owner.VENDOR,
)
def baseline(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The mean time of an inference, over fresh processes, is at most the zoo's limit.

    The clock is the auditor's, outside the process that holds the delegate: the delegate's own process can only make its figure worse,
    never better. The limit is met where the whole Student interval (95 %, over process means) of the auditor's clock is within it, missed
    where the whole interval of the process's own figure is above it, else unknown. No verdict unless the delegate took 95 % of the
    model's multiply-accumulates, and no pass unless the accelerator was seen working: a delegate can compute on the CPU.

    Where the device's own benchmark_model measured it, the process's own figure is the tool's mean, and the auditor's clock is around the
    whole process, its start and all compiling included, over the inferences that the tool says there were: over the limit on a short run,
    it may be within it on a long one (`--bench-time page`). What the delegate took is the tool's word, and each line of it must be there
    once and fit the others. That a delegate ends that process early, with lines that it forged in the tool's name, or remembers the answer
    to the one input of a process, is not excluded there; the embedded runner (`--tflite`) excludes it.
    """
    yield from of_baseline(facts, requirement, _judge)


@check(
    "zoo-latency.stand-in",
    each="model",
    level=Level.SHOULD,
    expected=EXPECTED,
    passes=PASSES,
    fails=FAILS,
    remediation=REMEDIATION,
    owner=Owner.VENDOR,
)
def stand_in(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The same question about a generated stand-in: the zoo's public graph with random weights. It never decides the baseline."""
    yield from of_stand_in(facts, requirement, _judge)


def _judge(facts: Facts, result: ModelResult, runs: tuple[ModelRun, ...], requirement: Requirement) -> Iterator[Answer]:
    void = invalid(facts, result, runs, broken=Outcome.FAIL)
    if void:
        yield void
        return
    limit = requirement.limits["latency_ms"]
    own, outside = result.latency.open(), result.bracket.open()
    observed = f"{own.mean / 1000:.2f} ms (±{own.half_width / 1000:.2f}), {outside.mean / 1000:.2f} ms outside, limit {limit:g} ms"
    if own.low > limit * 1000:
        yield Answer(Outcome.FAIL, observed, cited(result))
    elif outside.high > limit * 1000:
        because = "The interval of the measurement spans the limit."
        yield Answer(Outcome.UNKNOWN, observed, cited(result), because, remedy=Remedy.MORE_RUNS)
    elif not all(run.conditions.get("accelerator_busy") is True for run in runs):
        because = f"Within the limit, but nothing shows that the accelerator did the work.{_on_the_processor(runs)}"
        yield Answer(Outcome.UNKNOWN, observed, cited(result), because, remedy=Remedy.LIVE)
    else:
        yield Answer(Outcome.PASS, observed, cited(result))


def _on_the_processor(runs: tuple[ModelRun, ...]) -> str:
    """How busy the processor was meanwhile, where every run has it: a delegate that computes there, or waits by spinning, keeps it so."""
    shares = [run.conditions.get("cpu_share") for run in runs]
    known = [share for share in shares if isinstance(share, float)]
    if not known or len(known) < len(shares):
        return ""
    return f" The process kept {min(known):.2f} processors busy."
