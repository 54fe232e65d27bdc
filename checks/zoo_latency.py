"""zoo-<model>-latency: the model's mean latency through the delegate is at most the zoo's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from auditor.facts.types import Ok
from auditor.model import Answer, Level, Outcome, Owner, Remedy, check
from auditor.statistics import LOOKS, MOST_FURTHER, Verdict, further, judge
from checks.zoo_runs import TIMED, cited, counted, invalid, judge_baseline, judge_stand_in, judge_unpinned, witnessed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Facts, ModelResult
    from auditor.model import ModelRun, Requirement
    from auditor.statistics import Drift, Interval

EXPECTED = "a mean latency of at most the zoo's limit, on the accelerator"
PASSES = "The model runs through the delegate, on the accelerator, within the zoo's latency."
FAILS = "The model takes longer than the zoo allows."
REMEDIATION = "Look at which operators fall back and where time goes (ftrace, Perfetto), and submit again with a faster driver or delegate."


_asked = partial(check, each="model", expected=EXPECTED, passes=PASSES, fails=FAILS, remediation=REMEDIATION, owner=Owner.VENDOR)
"""One question, asked of each kind of file that may be under a model's name."""


@_asked("zoo-latency.baseline")
def baseline(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The mean time of an inference, over fresh processes, is at most the zoo's limit.

    The clock is the auditor's, outside the process that holds the delegate: the delegate's own process can only make its figure worse,
    never better. Inputs cannot be read before the clock starts, nor outputs changed after it has stopped. A delegate may remember answers:
    of the first inferences, each of an input that it had never seen, and of all, the auditor's clock takes the slower mean. The limit is
    met where the whole interval of the auditor's clock is within it (Student's, over the means of 3 to 9 fresh processes, a quarter wider,
    for those that follow each other are alike), missed where the whole interval of the process's own figure is above it. The verdict is
    looked at after each process from the third on, and each look has an equal part of an error of 5 % in all; the finding is judged by the
    bound at which the measurement stopped. Where times drift beyond noise, within a process (it warms up, or is throttled) or from one to
    the next, the verdict must also hold for the times at the end. Otherwise unknown, with the number of further processes that would
    decide.

    Only a pinned model is judged: by a manifest, by the requirement set, or from the archive that it is published as.

    No verdict unless the delegate took 95 % of the model's multiply-accumulates. That is read in the delegate's own process and so is a
    claim: it can keep a pass away, and never makes one. No pass unless the kernel counted the accelerator's work in each run, and the
    processor did not do enough beside it to have computed the model: a delegate can compute on the CPU. That one keeps the accelerator busy
    with other work, as long as the inferences take, is not excluded. Loading and the first inference are shown and are not in the figure.

    Where the device's own benchmark_model measured it, the process's own figure is the tool's mean, and the auditor's clock is around
    the whole process, its start and all compiling included, over the inferences that the tool says there were: over the limit on a
    short run, it may be within it on a long one (`--bench-time page`). What the delegate took is the tool's word, and each line of it
    must be there once and fit the others. It passes only with a tool that answers as the auditor's own runtime does, without the
    delegate, to inputs that were drawn for the run; and, as the number of inferences is the tool's word, with one that is pinned
    (`--tool-manifest`) or lies on the verified root, or where the kernel counted as many commands of the accelerator's (amdxdna). That
    a delegate ends that process early, with lines that it forged in the tool's name, or remembers the answer to the one input of a
    process, is not excluded there; the embedded runner (`--tflite`) excludes it.
    """
    yield from judge_baseline(facts, requirement, _judge)


@_asked("zoo-latency.stand-in", level=Level.SHOULD)
def stand_in(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The same question about a generated stand-in: the zoo's public graph with random weights. It never decides the baseline."""
    yield from judge_stand_in(facts, requirement, _judge)


@_asked("zoo-latency.unpinned", level=Level.SHOULD)
def unpinned(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The same question about a file that has the model's graph and that nothing pins: its weights are its own.

    It never decides the baseline, neither way: on some accelerators, weights of zeros, or that compress well, are faster, and others are
    slower.
    """
    yield from judge_unpinned(facts, requirement, _judge)


def _judge(facts: Facts, result: ModelResult, runs: tuple[ModelRun, ...], requirement: Requirement) -> Iterator[Answer]:
    void = invalid(facts, result, runs, broken=Outcome.FAIL)
    if void:
        yield void
        return
    limit = requirement.limits["latency_ms"]
    own, outside = result.latency.open(), result.bracket.open()
    observed = (
        f"{own.mean / 1000:.2f} ms (±{own.half_width / 1000:.2f}), {outside.mean / 1000:.2f} ms by the auditor's clock, limit {limit:g} ms"
    )
    observed = ", ".join((observed, f"{own.count} processes", *_drifts(result.drift)))
    verdict = judge(own, outside, limit * 1000, result.drift)
    if verdict is Verdict.MISSED:
        yield Answer(Outcome.FAIL, observed, cited(result))
    elif verdict is Verdict.UNDECIDED:
        yield _undecided(result, own, outside, limit, observed)
    else:
        yield counted(facts, witnessed(Answer(Outcome.PASS, observed, cited(result)), runs, TIMED), runs)


def _drifts(drift: Drift) -> Iterator[str]:
    """What is beyond noise of a drift, in words."""
    for change, where in ((drift.within, "within a process"), (drift.across, "from the first process to the last")):
        if change:
            yield f"{'rising' if change > 0 else 'falling'} by {abs(change):.1%} {where}"


def _undecided(result: ModelResult, own: Interval, outside: Interval, limit: float, observed: str) -> Answer:
    """Why neither verdict stands, and what would decide."""
    needed, more = further(own, outside, limit * 1000), LOOKS[-1] - own.count
    if judge(own, outside, limit * 1000) is not Verdict.UNDECIDED:
        because = f"Times drift, and what they come to ({result.drift.late:+.1%} against the mean) may lie on the other side of the limit."
        advice = "Let the device come to its steady state, with its power and cooling as in use, and measure longer: `--bench-time page`."
    elif needed is None:
        observed += f"; {MOST_FURTHER} further processes would not decide"
        apart = own.mean <= limit * 1000 < outside.mean
        where = "The limit lies between the process's own figure and the auditor's clock" if apart else "The mean is at the limit"
        because = f"{where}: no number of runs decides it."
        advice = "Make the model clearly faster than the limit; a longer measurement cannot settle it."
    else:
        observed += f"; about {needed} further processes like these would decide"
        few = own.count < LOOKS[0]
        because = f"Fewer than {LOOKS[0]} processes were measured." if few else "The interval of the measurement spans the limit."
        longer = f"Measure again with `--bench-time adaptive`, which goes on to {LOOKS[-1]} processes."
        quieter = f"More than {LOOKS[-1]} are not run: measure on a quieter machine, or longer in each: `--bench-time page`."
        advice = longer if needed <= more else quieter
    return Answer(Outcome.UNKNOWN, observed, cited(result), because + _busy(result), remedy=Remedy.MORE_RUNS, remediation=advice)


def _busy(result: ModelResult) -> str:
    """That others wanted the processors meanwhile, where a run's conditions say so: it is what most widens an interval."""
    conditions = [run.value.conditions.get(when) for run in result.runs if isinstance(run, Ok) for when in ("before", "after")]
    known = [each for each in conditions if isinstance(each, dict)]
    loads = [each["load_average"][0] for each in known if isinstance(each.get("load_average"), list) and each["load_average"]]
    cpus = [each["cpus"] for each in known if isinstance(each.get("cpus"), int)]
    busiest = max((load for load in loads if isinstance(load, float)), default=0.0)
    return f" The machine was busy: a load average of {busiest:.1f} on {max(cpus)} processors." if cpus and busiest > max(cpus) else ""
