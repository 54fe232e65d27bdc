"""zoo-<model>-accuracy: the delegate's outputs differ from the CPU's by at most what the zoo allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor.model import Answer, Level, Outcome, Owner, Remedy, check, visible
from auditor.statistics import Spread, pool, within
from checks.zoo_runs import cited, invalid, of_baseline, of_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.facts.types import Facts, ModelResult
    from auditor.model import ModelRun, Requirement

EXPECTED = "for each output, an average error and a deviation of at most the zoo's limits"
PASSES = "The delegate computes what the CPU computes, within the zoo's limits."
FAILS = "The delegate's outputs differ from the CPU's by more than the zoo allows."
REMEDIATION = (
    "Compare operator by operator which output drifts; a delegate that computes in a lower precision must say so and stay within the limit."
)


@check(
    "zoo-accuracy.baseline",
    each="model",
    expected=EXPECTED,
    passes=PASSES,
    fails=FAILS,
    remediation=REMEDIATION,
    owner=Owner.VENDOR,
)
def baseline(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The outputs through the delegate agree with those of a process without it, on the same inputs, as inference_diff measures it.

    Errors are in raw units of each output: the mean of |reference - test| averaged over runs, and its population deviation between runs.
    Every output must keep both limits. A NaN or infinity in the reference is unknown (the model cannot be measured), in the delegate's
    output alone a failure. An error within the limit, but no smaller than the distance between the answers to two different inputs,
    proves nothing and is unknown. Every timed output is compared, so a delegate cannot be exact while it is measured and fast while timed.

    Where the device's own inference_diff_eval measured it, delegate, reference and comparison share a process, and its figures are a claim:
    over the limit they fail. They pass only where the auditor's own comparison, of answers to two inputs that it drew for this run (one in
    the timed process), with those of processes without the delegate, agrees; of both errors the worse counts. inference_diff_eval does not
    say on which side a NaN was: where the auditor's own answers show none, that is unknown.
    """
    yield from of_baseline(facts, requirement, _judge)


@check(
    "zoo-accuracy.stand-in",
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
    measured = [run.accuracy for run in runs if run.accuracy]
    if len(measured) < len(runs) or len(set(map(len, measured))) > 1:
        because = _notes([run for run in runs if not run.accuracy])
        yield Answer(Outcome.UNKNOWN, "not every output compared in every run", cited(result), because, remedy=Remedy.MORE_RUNS)
        return
    answers = [_output(outputs, requirement, _notes(runs)) for outputs in zip(*measured, strict=True)]
    worst = min(answers, key=lambda answer: (Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS).index(answer.outcome))
    observed = "; ".join(answer.observed for answer in answers)
    yield Answer(worst.outcome, observed, cited(result), worst.because, remedy=worst.remedy)


def _notes(runs: Sequence[ModelRun]) -> str:
    """What the runner noted on the accuracy of runs, each remark once."""
    notes = [note for run in runs if isinstance(note := run.conditions.get("accuracy_note"), str)]
    return visible("; ".join(dict.fromkeys(notes)))


def _output(runs: tuple[Any, ...], requirement: Requirement, note: str) -> Answer:
    """The answer about one output, from its figures in every run."""
    name = f"output {runs[0]['index']}"
    if any(run["reference_nan_runs"] for run in runs):
        because = "The reference itself gives NaN or infinity, so the model cannot be measured."
        return Answer(Outcome.UNKNOWN, f"{name}: NaN in the reference", because=because, remedy=Remedy.ZOO)
    if any(run["test_nan_runs"] for run in runs):
        return Answer(Outcome.FAIL, f"{name}: NaN or infinity from the delegate alone")
    spread = pool([Spread(1, run["avg_error"], run["std_dev"]) for run in runs])
    average, deviation = requirement.limits["avg_error"], requirement.limits["std_dev"]
    observed = f"{name}: avg_error {spread.mean:.3g} (limit {average:g}), std_dev {spread.deviation:.3g} (limit {deviation:g})"
    if not (within(spread.mean, average) and within(spread.deviation, deviation)):
        return Answer(Outcome.FAIL, observed)
    if any(run["two_input_distance"] is None for run in runs):
        because = f"Nothing shows that answers to two different inputs differ by more than this error{f': {note}' if note else ''}."
        return Answer(Outcome.UNKNOWN, observed, because=because, remedy=Remedy.ZOO)
    distance = min(run["two_input_distance"] for run in runs)
    if spread.mean >= distance:
        because = f"Answers to two different inputs differ by {distance:.3g} only: an error of this size proves nothing."
        return Answer(Outcome.UNKNOWN, observed, because=because, remedy=Remedy.ZOO)
    return Answer(Outcome.PASS, observed)
