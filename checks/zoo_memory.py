"""zoo-<model>-memory: a process that runs the model through the delegate needs at most the zoo's memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from auditor.model import Answer, Level, Outcome, Owner, Remedy, check
from checks.zoo_runs import MEMORY, cited, invalid, judge_baseline, judge_stand_in, judge_unpinned, witnessed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Facts, ModelResult
    from auditor.model import ModelRun, Requirement

EXPECTED = "a peak of memory of at most the zoo's limit"
PASSES = "The process that runs the model stays within the zoo's memory."
FAILS = "The model and its delegate need more memory than the zoo allows."
REMEDIATION = "Reduce what the delegate keeps: copies of weights, compiler memory after preparation, buffers that are not shared."


_asked = partial(check, each="model", expected=EXPECTED, passes=PASSES, fails=FAILS, remediation=REMEDIATION, owner=Owner.VENDOR)
"""One question, asked of each kind of file that may be under a model's name."""


@_asked("zoo-memory.baseline")
def baseline(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The peak of the process's memory and of device memory that it holds, read by the auditor from outside it, keeps the zoo's limit.

    All memory counts: mapped, swapped out, in huge pages, in files that lie in memory; where the process could have a control group of
    its own, the peak of that must be within the limit, too.
    The page says MB: at most 10^6 bytes each passes whichever is meant, more than 2^20 each fails whichever is meant. The absolute peak
    within the limit passes; what was added since before the model was loaded, above the limit, fails; between the two lies our own
    interpreter's share, and that is unknown. Of the device's own benchmark_model all counts, as it does on the page: it is within the limit
    or not. The tool's own figure is not used, and it passes only with a tool that answers, without the delegate, as the auditor's own
    runtime does. A delegate that ends its process leaves no peak to judge.
    It passes only where the kernel counted the accelerator's work in that very process. Answers are compared in it, too; not excluded is
    that a delegate computes more slowly there in less memory, or keeps data in a file on a disk and reads it a piece at a time.
    """
    yield from judge_baseline(facts, requirement, _judge)


@_asked("zoo-memory.stand-in", level=Level.SHOULD)
def stand_in(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The same question about a generated stand-in: the zoo's public graph with random weights. It never decides the baseline."""
    yield from judge_stand_in(facts, requirement, _judge)


@_asked("zoo-memory.unpinned", level=Level.SHOULD)
def unpinned(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """The same question about a file that has the model's graph and that nothing pins: its weights are its own.

    It never decides the baseline, neither way: weights that are equal, or zero, need no memory of their own.
    """
    yield from judge_unpinned(facts, requirement, _judge)


_LESS = "Stay within the limit with all that is taken at any moment: files in memory, the kernel's buffers, files that are read."


def _judge(facts: Facts, result: ModelResult, runs: tuple[ModelRun, ...], requirement: Requirement) -> Iterator[Answer]:
    void = invalid(facts, result, runs, broken=Outcome.UNKNOWN)
    if void:
        yield void
        return
    sizes = [run.memory for run in runs if run.memory]
    if len(sizes) < len(runs):
        yield Answer(Outcome.UNKNOWN, "no peak read", cited(result), remedy=Remedy.MORE_RUNS)
        return
    seen = max(size["peak_bytes"] + size.get("device_bytes", 0) for size in sizes)
    peak = max(seen, *(size.get("group_bytes", 0) for size in sizes))
    added = max(size["peak_bytes"] + size.get("device_bytes", 0) - size["before_bytes"] for size in sizes)
    complete = all("device_bytes" in size for size in sizes)
    enough, too_much = requirement.limits["memory_bytes"], requirement.limits["memory_fail_bytes"]
    observed = f"peak {peak / 1e6:.1f} MB, {added / 1e6:.1f} MB of it since before the load, limit {enough / 1e6:g} MB"
    if added > too_much:
        yield Answer(Outcome.FAIL, observed, cited(result))
    elif peak <= enough and complete:
        yield witnessed(Answer(Outcome.PASS, observed, cited(result)), runs, MEMORY)
    elif peak <= enough:
        because = "Within the limit, but the memory that the device itself holds for the process was not read."
        advice = "Have the driver account for its memory in DRM fdinfo (drm-resident-…)."
        yield Answer(Outcome.UNKNOWN, observed, cited(result), because, remedy=Remedy.VENDOR, remediation=advice)
    elif seen <= enough:
        because = "The control group's peak is above the limit, and may hold pages of files that others read as well."
        yield Answer(Outcome.UNKNOWN, observed, cited(result), because, remedy=Remedy.VENDOR, remediation=_LESS)
    else:
        own = any(size["before_bytes"] for size in sizes)
        because = "The excess is smaller than what the auditor's own interpreter takes." if own else "Over 10^6 bytes a MB, within 2^20."
        smaller = "Have the device's own benchmark_model measure, or stay within the limit with the interpreter." if own else None
        yield Answer(Outcome.UNKNOWN, observed, cited(result), because, remedy=Remedy.VENDOR, remediation=smaller)
