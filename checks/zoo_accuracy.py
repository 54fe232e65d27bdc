"""zoo-<model>-accuracy: the delegate's outputs differ from the CPU's by at most what the zoo allows."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

from auditor.model import Answer, Level, Outcome, Owner, Remedy, check, visible
from auditor.statistics import Spread, Verdict, confirm, inputs_needed, pool, within
from checks.wording import some
from checks.zoo_golden import judge_images
from checks.zoo_runs import MEMORY, TIMED, cited, invalid, judge_baseline, judge_generated, judge_stand_in, judge_unpinned, witnessed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.facts.types import Facts, ModelResult
    from auditor.model import ModelRun, Requirement

EXPECTED = "for each output, an average error and a deviation of at most the zoo's limits"
PASSES = "The delegate computes what the CPU computes, within the zoo's limits."
FAILS = "The delegate's outputs differ from the CPU's by more than the zoo allows."
CORRELATED = 0.5
"""Correlation of the answers with the reference's, over inputs. Of honest kernels 0.65 at least (the 8-bit stand-in); of answers to another
input 0, with one dead channel in an early layer 0.34. `benchmarks/accuracy.py` prints these, and those of the offset."""
OFFSET = 0.1
"""Of the answers beside the reference's, by how much the answers to two inputs differ. Of honest kernels 0.02 at most; with one layer's
bias left out 0.12 at least."""
REMEDIATION = (
    "Compare operator by operator which output drifts; a delegate that computes in a lower precision must say so and stay within the limit."
)


_asked = partial(check, each="model", expected=EXPECTED, passes=PASSES, fails=FAILS, remediation=REMEDIATION, owner=Owner.VENDOR)
"""One question, asked of each kind of file that may be under a model's name."""


@_asked("zoo-accuracy.baseline")
def baseline(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The outputs through the delegate agree with those of a process without it, on the same inputs, as inference_diff measures it.

    Errors are in raw units of each output: the mean of |reference - test| averaged over runs, and its population deviation between runs.
    Every output must keep both limits. A NaN or infinity in the reference is unknown (the model cannot be measured), in the delegate's
    output alone a failure. An error within the limit proves nothing where a delegate that computes nothing (zeros, the answer before, one
    answer to all) would have no larger one, or where the answers do not follow the inputs as the reference's do (correlation below 0.5).
    Then golden images decide (zoo-accuracy.golden): with a pass on them the limit counts, without one it is unknown.
    Every timed output is compared, so a delegate cannot be exact while it is measured and fast while timed. It passes only where the kernel
    counted the accelerator's work in the processes whose answers are compared: the CPU agrees with itself.
    The reference is the same runtime without the delegate, on one thread, with the runtime's default kernels (XNNPACK's where it has them,
    as inference_diff_eval has it). A custom operator that it does not know is replaced there by the builtin one that computes the same.

    Where the device's own inference_diff_eval measured it, its figure over its 50 runs is the one that the limit is for; its inputs are the
    same in every audit. But delegate, reference and comparison share a process, so within the limit it is a claim. It passes only where
    the auditor's own comparison confirms it: of answers to inputs that it drew for this audit, distributed like the tool's (one in each
    timed process, one in each that is looked at for memory, two in processes of their own), with those of processes without the delegate.
    Inputs differ by up to the limit of std_dev, so there are as many as tell a mean error of 0.9 from one of 1.1 times the limit, 12 at
    most (four in each of three measurements). An honest delegate at 0.9 times the limit or below then fails in at most 1 % of audits, and
    one at 1.1 times the limit or above that computes right for the tool alone passes in at most 1 %. Not so on the segmentation model,
    whose limit of std_dev is 17 times that of avg_error: there a figure is confirmed where the own errors, as they are spread, leave the
    limit well above their mean, else it is unknown. No honest delegate fails for it, but one that is right for the tool alone may pass: at
    1.1 times the limit 2 in 10, at twice the limit 1 in 10 (`benchmarks/accuracy.py` simulates all of this).
    Both tools are the device's: what they say passes only where the auditor's own runtime, on the controller over ssh, gives the answers
    that benchmark_model gives without the delegate.
    inference_diff_eval does not say on which side a NaN was: where the auditor's own answers show none, that is unknown.
    """
    yield from judge_baseline(facts, requirement, _judge)


@_asked("zoo-accuracy.stand-in", level=Level.SHOULD)
def stand_in(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The same question about a generated stand-in: the zoo's public graph with random weights. It never decides the baseline."""
    yield from judge_stand_in(facts, requirement, _judge)


@_asked("zoo-accuracy.unpinned", level=Level.SHOULD)
def unpinned(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The same question about a file that has the model's graph and that nothing pins: its weights are its own.

    It never decides the baseline, neither way: errors depend on the weights, and with weights of zeros every answer is the same.
    """
    yield from judge_unpinned(facts, requirement, _judge)


@check(
    "zoo-accuracy.follows",
    each="model",
    level=Level.SHOULD,
    expected="answers that follow the inputs as the reference's do, and do not lie beside them all alike",
    passes="The delegate's answers follow the inputs, without an offset.",
    fails="The delegate's answers do not follow the inputs, or lie beside the reference's all alike.",
    remediation="Look for a layer whose bias is lost, a channel that is not computed, or outputs that are not those of this inference.",
    owner=Owner.VENDOR,
)
def follows(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """What the page's bound lets through on a stand-in: with random weights in 8 bits, rounding changes as much as gross faults do.

    The bound of 1.5 there passes the answer to another input (1.2), a layer without its bias (0.5) and a dead channel (0.96), while honest
    kernels differ by 0.66. But honest kernels' answers follow the inputs (correlation 0.65 and more; the answer to another input: 0, a dead
    channel in an early layer: 0.34), and their differences cancel out over the inputs (offset 0.02 at most; a lost bias: 0.12 and more).
    The limits are 0.5 and 0.1. What remains: a dead channel of a late layer, whose effect is below that of rounding, passes.
    """
    yield from judge_generated(facts, requirement, _judge_follows)


def _judge_follows(facts: Facts, result: ModelResult, runs: tuple[ModelRun, ...], _requirement: Requirement) -> Iterator[Answer]:
    void = invalid(facts, result, runs, broken=Outcome.FAIL)
    if void:
        yield void
        return
    figures = [(output.get("correlation"), output.get("offset")) for run in runs for output in run.accuracy or ({},)]
    correlations = [correlation for correlation, _ in figures if correlation is not None]
    offsets = [offset for _, offset in figures if offset is not None]
    said = [f"correlation {min(correlations):.3g} (at least {CORRELATED:g})"] if correlations else []
    said += [f"offset {max(offsets):.3g} (at most {OFFSET:g})"] if offsets else []
    observed = ", ".join(said) or "not measured"
    if min(correlations, default=1.0) < CORRELATED or max(offsets, default=0.0) > OFFSET:
        yield Answer(Outcome.FAIL, observed, cited(result))
    elif min(len(correlations), len(offsets)) < len(figures):
        yield Answer(Outcome.UNKNOWN, f"{observed}, not in every run", cited(result), remedy=Remedy.MORE_RUNS)
    else:
        yield witnessed(Answer(Outcome.PASS, observed, cited(result)), runs, TIMED, MEMORY)


def _judge(facts: Facts, result: ModelResult, runs: tuple[ModelRun, ...], requirement: Requirement) -> Iterator[Answer]:
    void = invalid(facts, result, runs, broken=Outcome.FAIL)
    if void:
        yield void
        return
    wrong = sorted({text for run in runs for text in _wrong_cases(run)})
    if wrong:
        because = "The runtime does not give the model's golden outputs, so its answers are no reference."
        yield Answer(Outcome.UNKNOWN, visible(some(wrong, "; ")), cited(result), because, remedy=Remedy.ZOO)
        return
    measured = [run.accuracy for run in runs if run.accuracy]
    if len(measured) < len(runs) or len(set(map(len, measured))) > 1:
        because = _notes([run for run in runs if not run.accuracy])
        yield Answer(Outcome.UNKNOWN, "not every output compared in every run", cited(result), because, remedy=Remedy.MORE_RUNS)
        return
    images, note = judge_images(runs), _notes(runs)
    answers = [_output(outputs, requirement, images, note) for outputs in zip(*measured, strict=True)]
    worst = min(answers, key=lambda answer: (Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS).index(answer.outcome))
    observed = "; ".join((*(answer.observed for answer in answers), _reference(runs)))
    answer = Answer(worst.outcome, observed, cited(result), worst.because, remedy=worst.remedy, remediation=worst.remediation)
    yield witnessed(answer, runs, TIMED, MEMORY)


def _wrong_cases(run: ModelRun) -> list[str]:
    """In what the runtime does not give the model's golden outputs; a record of another shape says nothing good, either."""
    found = run.conditions.get("golden_cases")
    if found is None:
        return []
    wrong = found.get("wrong") if isinstance(found, dict) else None
    return list(map(str, wrong)) if isinstance(wrong, list) else ["golden cases of an unknown shape"]


def _reference(runs: tuple[ModelRun, ...]) -> str:
    """What the answers were compared with."""
    return "reference: " + ", ".join(dict.fromkeys(f"{run.runtime}, {run.reference or 'kernels not recorded'}" for run in runs))


def _notes(runs: Sequence[ModelRun]) -> str:
    """What the runner noted on the accuracy of runs, each remark once."""
    notes = [note for run in runs if isinstance(note := run.conditions.get("accuracy_note"), str)]
    return visible("; ".join(dict.fromkeys(notes)))


def _output(runs: tuple[Any, ...], requirement: Requirement, images: Answer, note: str) -> Answer:
    """The answer about one output, from its figures in every run, and from what golden images say of the first output."""
    name = f"output {runs[0]['index']}"
    if any(run["reference_nan_runs"] for run in runs):
        because = "The reference itself gives NaN or infinity, so the model cannot be measured."
        advice = "Give another copy of the model file, `--zoo DIR`: of this one, TFLite's own kernels make NaN or infinity."
        return Answer(Outcome.UNKNOWN, f"{name}: NaN in the reference", because=because, remedy=Remedy.ZOO, remediation=advice)
    if any(run["test_nan_runs"] for run in runs):
        return Answer(Outcome.FAIL, f"{name}: NaN or infinity from the delegate alone")
    spread = pool([Spread(1, run["avg_error"], run["std_dev"]) for run in runs])
    average, deviation = requirement.limits["avg_error"], requirement.limits["std_dev"]
    observed = f"{name}: avg_error {spread.mean:.3g} (limit {average:g}), std_dev {spread.deviation:.3g} (limit {deviation:g})"
    if not (within(spread.mean, average) and within(spread.deviation, deviation)):
        return Answer(Outcome.FAIL, observed)
    own = [error for run in runs for error in run.get("own_errors") or ()]
    if own:
        observed += f"; {statistics.fmean(own):.3g} on {len(own)} inputs of the auditor's own"
        answer = _confirmed(observed, confirm(own, average, deviation), inputs_needed(average, deviation))
        if answer:
            return answer
    void = _proves_nothing(runs, max(spread.mean, statistics.fmean(own or [0.0])), note)
    if not void:
        return Answer(Outcome.PASS, observed)
    if images.outcome is Outcome.PASS and runs[0]["index"] == 0:
        return Answer(Outcome.PASS, f"{observed}; {images.observed}", because=f"{void} On golden images it computes what the CPU computes.")
    return Answer(Outcome.UNKNOWN, observed, because=f"{void} Golden images: {images.observed}.", remedy=Remedy.ZOO)


def _confirmed(observed: str, verdict: Verdict, needed: int | None) -> Answer | None:
    """Why the auditor's own inputs do not confirm a figure within the limit; None where they do."""
    if verdict is Verdict.MISSED:
        because = "The device's own tool says that the limit is kept; on inputs that nobody could foresee, it is not."
        return Answer(Outcome.FAIL, observed, because=because)
    if verdict is Verdict.UNDECIDED and needed:
        because = f"Whether inputs of the auditor's own confirm the tool's figure takes {needed} of them."
        return Answer(Outcome.UNKNOWN, observed, because=because, remedy=Remedy.MORE_RUNS)
    if verdict is Verdict.UNDECIDED:
        because = "Errors differ too much between inputs for a few of the auditor's own to confirm the tool's figure."
        advice = "Have the embedded runner measure it, with golden images beside the model: `--tflite ai-edge-litert`."
        return Answer(Outcome.UNKNOWN, observed, because=because, remedy=Remedy.ZOO, remediation=advice)
    return None


def _proves_nothing(runs: tuple[Any, ...], error: float, note: str) -> str:
    """Why an error within the limit says nothing on these inputs; empty where it does."""
    if any(run["two_input_distance"] is None for run in runs):
        return f"Nothing shows that answers to two different inputs differ by more than this error{f': {note}' if note else ''}."
    idle = min(run[key] for run in runs for key in ("two_input_distance", "idle_error") if run.get(key) is not None)
    if error >= idle:
        return f"A delegate that computes nothing would be off by {idle:.3g} only: an error of this size proves nothing."
    correlations = [run["correlation"] for run in runs if run.get("correlation") is not None]
    if correlations and min(correlations) < CORRELATED:
        return f"The answers do not follow the inputs (correlation {min(correlations):.2g}): an error of this size proves nothing."
    return ""
