"""What the zoo's checks share: which runs count, for which model, and what keeps a run from being judged. Holds no check."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from auditor.facts.types import Missing as MissingEvidence
from auditor.facts.types import MissingFact, Ok
from auditor.model import Answer, Evidence, Outcome, Remedy, Status, ZooModelUsed, visible
from auditor.verify.origin import Cover, covered
from checks.wording import some

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from auditor.facts.types import Facts, ModelResult
    from auditor.model import ModelRun, Requirement

DELEGATED_SHARE = 0.95
"""Of a model's multiply-accumulates, the share that the delegate must take for its figures to be the accelerator's."""

TIMED, MEMORY = "accelerator_busy", "memory_accelerator_busy"
"""The conditions of a run that say of a process of it that the kernel counted the accelerator's work in it."""
AGREES = 0.5
"""Correlation of a tool's answers with those of the auditor's own runtime, over inputs. Of honest kernels 0.65 at least (the 8-bit
stand-in); of a program that does not know the model, 0."""
OWN_RUNTIME = "Have a TFLite runtime where the auditor runs: `pip install 'crosml-audit[litert]'`; over ssh, on the controller."
COUNTABLE = (
    "Pin the tool with `--tool-manifest FILE`, which `crosml-audit zoo pin DIR` writes for a trusted copy; or have it on the verified "
    "root; or measure with the embedded runner: `--tflite ai-edge-litert`."
)
UNWITNESSED = {TIMED: "unwitnessed", MEMORY: "memory_unwitnessed"}
"""The conditions that say what kept the kernel's counts from showing it."""
SHOWN_NOTE = 300
"""Characters of each."""
TO_BE_SEEN = (
    "Have the delegate do its work on the accelerator, and its driver account for it: drm-engine-… or drm-cycles-… in fdinfo, or the DRM "
    "scheduler's events. Measure as root, with nobody else on the accelerator."
)

RUN_BROKE = frozenset({"died", "exited", "timed-out", "cpu-exceeded", "protocol-error", "output-shape-mismatch", "out-of-memory"})
RUN_REFUSED = frozenset({"delegate-create-failed", "prepare-failed", "invoke-failed"})
NOT_MEASURED = {
    "delegate-not-applied": "The device's own tool went on without the delegate, on the CPU: nothing of the delegate was measured.",
    "tool-unusable": "The device's own tool cannot be used for this measurement.",
    "operator-missing": "What ran the model does not have one of its operators, and the delegate did not take it.",
    "output-unreadable": "What the device's own tool printed does not hold together (a line is missing, doubled or contradicted).",
}
"""Why a run of the native tools that did not come to its end says nothing about the delegate."""
_EMBEDDED = "Have the embedded runner measure it: `--tflite ai-edge-litert`."
WAYS_OUT = {
    "delegate-not-applied": "Have the delegate take the model in the device's own tool: see there why it did not, with its verbose log.",
    "tool-unusable": _EMBEDDED,
    "output-unreadable": _EMBEDDED,
    "operator-missing": "Have the delegate take the operator, or measure on a runtime that has it: give one with `--runtime DIR`.",
    "load-failed": "Give a model file that TFLite reads: `--zoo DIR`.",
    "runtime-missing": "Install a TFLite runtime (`pip install 'crosml-audit[litert]'`), or give one with `--runtime DIR`.",
    **dict.fromkeys(
        ("delegate-missing", "delegate-not-loadable", "delegate-not-a-delegate", "delegate-unsupported"),
        "Name a library for this machine that exports `tflite_plugin_create_delegate`: `--delegate LIB`.",
    ),
}
"""What to do about a run that did not come to its end, by its status."""


def judge_baseline(facts: Facts, requirement: Requirement, judge: Callable[..., Iterator[Answer]]) -> Iterator[Answer]:
    """The answers about the zoo's own model: only a pinned file is judged.

    The right graph is not enough: a vendor can fill it with weights that cost nothing, and compute the answers without it. Nor does such a
    file fail the baseline: its weights may be the cause (values that do not compress, numbers below the normal range). So it is unknown.
    """
    result, runs = _runs(facts, requirement)
    kind, reason = _identity(facts, result, runs)
    if kind == "pinned":
        yield from judge(facts, result, runs, requirement)
    elif kind == "stand-in":
        yield Answer(Outcome.UNKNOWN, "measured on a generated stand-in", cited(result), reason, remedy=Remedy.MANIFEST)
    elif kind == "same-graph":
        observed = f"sha256 {runs[0].sha256}, which nothing pins"
        because = f"The graph is that of {result.model}; nothing shows that the weights are, and what is measured depends on them."
        yield Answer(Outcome.UNKNOWN, observed, cited(result), because, remedy=Remedy.MANIFEST)
    else:
        yield Answer(Outcome.UNKNOWN, f"sha256 {runs[0].sha256}", cited(result), reason, remedy=Remedy.ZOO)


def judge_unpinned(facts: Facts, requirement: Requirement, judge: Callable[..., Iterator[Answer]]) -> Iterator[Answer]:
    """The answers about a file with the model's graph and weights of its own: in addition to the baseline, never instead of it."""
    if any(run.identity == "same-graph" for run in _read_runs(facts, requirement)):
        result, runs = _runs(facts, requirement)
        if _identity(facts, result, runs)[0] == "same-graph":
            yield from judge(facts, result, runs, requirement)


def judge_file(facts: Facts, requirement: Requirement, judge: Callable[..., Iterator[Answer]]) -> Iterator[Answer]:
    """The answers about any file that is the zoo's model, has its graph, or is its stand-in."""
    result, runs = _runs(facts, requirement)
    kind, reason = _identity(facts, result, runs)
    if kind in {"pinned", "same-graph", "stand-in"}:
        yield from judge(facts, result, runs, requirement)
    else:
        yield Answer(Outcome.UNKNOWN, f"sha256 {runs[0].sha256}", cited(result), reason, remedy=Remedy.ZOO)


def judge_generated(facts: Facts, requirement: Requirement, judge: Callable[..., Iterator[Answer]]) -> Iterator[Answer]:
    """The answers about a generated stand-in, pinned or not."""
    if _generated(facts, requirement):
        result, runs = _runs(facts, requirement)
        if all(run.identity == "stand-in" for run in runs):
            yield from judge(facts, result, runs, requirement)


def judge_stand_in(facts: Facts, requirement: Requirement, judge: Callable[..., Iterator[Answer]]) -> Iterator[Answer]:
    """The answers about a generated stand-in that is not pinned: in addition to the baseline, never instead of it."""
    if _generated(facts, requirement):
        result, runs = _runs(facts, requirement)
        if _identity(facts, result, runs)[0] == "stand-in":
            yield from judge(facts, result, runs, requirement)


def _generated(facts: Facts, requirement: Requirement) -> bool:
    """Whether a stand-in was run for a model, or was to be run."""
    known = any(run.identity == "stand-in" for run in _read_runs(facts, requirement))
    return known or any(each.origin == "stand-in" for each in facts.plan.models if each.name == requirement.model)


def _read_runs(facts: Facts, requirement: Requirement) -> Iterator[ModelRun]:
    """The runs of a model that could be read; whether a check applies at all does not depend on those that could not."""
    for result in facts.models.value if isinstance(facts.models, Ok) else ():
        if result.model == requirement.model:
            yield from (run.value for run in result.runs if isinstance(run, Ok))


def invalid(facts: Facts, result: ModelResult, runs: tuple[ModelRun, ...], broken: Outcome) -> Answer | None:
    """What keeps the runs from being judged, or None: a delegate that ended badly, or that did not take the graph.

    `broken` is the outcome of a figure whose delegate ended badly.
    """
    evidence = cited(result)
    if facts.plan.delegate is None and facts.plan.stable_delegate is None:
        return Answer(Outcome.UNKNOWN, "run without a delegate", evidence, "Without its delegate, nothing runs on the accelerator.",
                      remedy=Remedy.DELEGATE)  # fmt: skip
    incomplete = [run for run in runs if run.status != "completed"]
    broke = [run for run in incomplete if run.status in RUN_BROKE | RUN_REFUSED and run.process != "reference"]
    unhindered = [run for run in broke if not _hindrance(run)]
    for run in unhindered or broke or incomplete:
        observed = f"{run.status}: {run.message}" if run.message else run.status
        if unhindered:
            ended = "ended the inference process" if run.status in RUN_BROKE else "refused the model or failed in it"
            return Answer(broken, observed, evidence, f"The delegate {ended}.")
        because = _hindrance(run) or NOT_MEASURED.get(run.status, "The model could not be run to the end.")
        return Answer(Outcome.UNKNOWN, observed, evidence, because, remedy=Remedy.EVIDENCE, remediation=_way_out(run))
    if any(_tool_agrees(run) is False for run in runs):
        because = "Without the delegate, the device's own tool does not answer as the model does; none of its figures is one of the model."
        advice = "Use the benchmark_model that TensorFlow builds, or the embedded runner: `--tflite ai-edge-litert`."
        return Answer(Outcome.UNKNOWN, _compared(runs), evidence, because, remedy=Remedy.TOOL, remediation=advice)
    shares = [run.delegated_macs for run in runs]
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return Answer(
            Outcome.UNKNOWN, "delegated share not known", evidence, "It is not known what the delegate took.", remedy=Remedy.VENDOR
        )
    if min(known) < DELEGATED_SHARE:
        run = runs[shares.index(min(known))]
        observed = f"{run.delegated_nodes} of {run.total_nodes} operators, {min(known):.1%} of the multiply-accumulates claimed{_said(run)}"
        because = f"The delegate left more than {1 - DELEGATED_SHARE:.0%} of the work to the CPU, so the figures are not the accelerator's."
        return Answer(Outcome.UNKNOWN, observed, evidence, because, remedy=Remedy.VENDOR)
    return None


def witnessed(answer: Answer, runs: tuple[ModelRun, ...], *processes: str) -> Answer:
    """The answer; a pass only where the kernel counted the accelerator's work in these processes of every run (bench/document.py).

    What the delegate took, and every other figure that is read in its own process, is a claim of the vendor's: it can make an answer
    worse, and never a pass. `processes` are `TIMED` and `MEMORY`. What the device's own tools measured passes only where the auditor's own
    runtime gives the answers that the tool gives without the delegate: else it may be a program that never reads the model.
    """
    if answer.outcome is not Outcome.PASS:
        return answer
    if not all(_tool_agrees(run) for run in runs):
        because = f"Within the limit, but nothing shows that the device's own tool computes the model: {_compared(runs)}."
        return replace(answer, outcome=Outcome.UNKNOWN, because=because, remedy=Remedy.TOOL, remediation=OWN_RUNTIME)
    if all(run.conditions.get(each) is True for run in runs for each in processes):
        return answer
    because = "Within the limit, but nothing shows that the accelerator did the work."
    because += _unwitnessed(runs, processes) + _on_the_processor(runs)
    return replace(answer, outcome=Outcome.UNKNOWN, because=because, remedy=Remedy.VENDOR, remediation=TO_BE_SEEN)


def counted(facts: Facts, answer: Answer, runs: tuple[ModelRun, ...]) -> Answer:
    """The answer; a pass only where it is known how many inferences there were. The embedded runner asks for each; a tool says a number.

    The tool is known where it is pinned, or lies on the verified root. Else the kernel must have counted as many commands of the process.
    """
    evidence = list(answer.evidence)
    for run in runs if answer.outcome is Outcome.PASS else ():
        tool = run.conditions.get("tool")
        path, sha256 = (tool.get("path"), tool.get("sha256")) if isinstance(tool, dict) else (None, None)
        if run.runner == "embedded" or sha256 in facts.settings.tools or _as_many_commands(run):
            continue
        place = covered(facts.loading, str(path))
        if place.cover is not Cover.ENFORCED:
            shown = visible(f"{path}, sha256 {sha256}: not pinned, and {place.reason}")
            because = f"Within the limit, but how many inferences there were is the word of the device's own tool ({shown})."
            return replace(answer, outcome=Outcome.UNKNOWN, because=because, remedy=Remedy.TOOL, remediation=COUNTABLE)
        evidence += [each for each in place.evidence if each not in evidence]
    return replace(answer, evidence=tuple(evidence))


def _as_many_commands(run: ModelRun) -> bool:
    """Whether the kernel counted a command of the accelerator's for each inference that the tool says there were (bench/document.py)."""
    said, counts = run.conditions.get("tool"), run.conditions.get("engines")
    commands = counts.get("commands") if isinstance(counts, dict) else None
    inferences = [said.get(key) for key in ("warm_up", "timed")] if isinstance(said, dict) else []
    numbers = [each for each in (commands, *inferences) if type(each) is int and each > 0]
    return len(numbers) == 3 and numbers[0] >= sum(numbers[1:])


def _tool_agrees(run: ModelRun) -> bool | None:
    """Whether the tool that measured answers as the auditor's own runtime does (bench/own_answers.py); None where that is not known.

    An output that the runtime answers alike for every input says nothing. The embedded runner is the auditor's own.
    """
    if run.runner == "embedded":
        return True
    outputs = _own_answers(run).get("outputs")
    known = []
    for output in outputs if isinstance(outputs, list) else ():
        figures = [output.get(key) if isinstance(output, dict) else None for key in ("correlation", "error", "distance")]
        correlation, error, distance = (figure if isinstance(figure, (int, float)) else None for figure in figures)
        if correlation is not None and error is not None and distance is not None:
            known.append(correlation >= AGREES and error < distance)
    return all(known) if known else None


def _own_answers(run: ModelRun) -> Mapping[str, Any]:
    """What a run's record says of the answers of the auditor's own runtime; empty where it says nothing."""
    tool = run.conditions.get("tool")
    answers = tool.get("answers") if isinstance(tool, dict) else None
    return answers if isinstance(answers, dict) else {}


def _compared(runs: tuple[ModelRun, ...]) -> str:
    """How a tool's answers compare with the auditor's own, in the runs that do not show that it computes the model."""
    said = []
    for answers in (_own_answers(run) for run in runs if not _tool_agrees(run)):
        outputs = answers.get("outputs")
        found = [each for each in outputs if isinstance(each, dict)] if isinstance(outputs, list) else []
        figures = [f"output {each.get('index')}: correlation {each.get('correlation')}, error {each.get('error')}" for each in found]
        said.append("; ".join(figures) or str(answers.get("note") or "its answers were not compared with those of the auditor's runtime"))
    return visible(some(list(dict.fromkeys(said)), "; "))


def _unwitnessed(runs: tuple[ModelRun, ...], processes: tuple[str, ...]) -> str:
    """What kept the kernel's counts from showing it, of the runs' conditions; empty where they do not say."""
    found = [run.conditions.get(UNWITNESSED[each]) for run in runs for each in processes if run.conditions.get(each) is not True]
    said = [str(text)[:SHOWN_NOTE] for each in found if isinstance(each, list) for text in each]
    return visible(f" {some(list(dict.fromkeys(said)), '; ')}") if said else ""


def _on_the_processor(runs: tuple[ModelRun, ...]) -> str:
    """How busy the processor was meanwhile, where every run has it: a delegate that computes there, or waits by spinning, keeps it so."""
    shares = [run.conditions.get("cpu_share") for run in runs]
    known = [share for share in shares if isinstance(share, float)]
    if not known or len(known) < len(shares):
        return ""
    return f" The process kept {min(known):.2f} processors busy."


def _said(run: ModelRun) -> str:
    """What each source says that the delegate took, where they say different things; empty where they do not."""
    found = run.conditions.get("delegated")
    if not isinstance(found, list) or len(found) < 2:
        return ""
    said = [f"{each.get('source')}: {each.get('nodes')} of {each.get('total')}" for each in found if isinstance(each, dict)]
    return visible(f" ({some(said, '; ')})")


def _hindrance(run: ModelRun) -> str:
    """What the auditor's confinement refused to the delegate of a run, and may have made it fail; empty for nothing."""
    refused = run.conditions.get("refused", [])
    if not isinstance(refused, list):
        return "What the confinement refused to the delegate could not be seen, and it may have failed for that."
    if not refused:
        return ""
    shown = [f"{each.get('call')} {each.get('path') or ''}".rstrip() if isinstance(each, dict) else str(each) for each in refused]
    return visible(f"The confinement refused to the delegate: {some(shown)}; it may have failed for that.")


def _way_out(run: ModelRun) -> str:
    """What would let an incomplete run come to its end."""
    if run.status == "unconfinable":
        return "Measure on a kernel with Landlock and seccomp, or accept an unconfined run with `--allow-unconfined`."
    if _hindrance(run):
        return "Open a path with `--allow-path PATH`, or have the delegate do without what was refused; network and processes stay closed."
    return WAYS_OUT.get(
        run.status, "Measure again, alone on the device; where it ends so again, with the other runner: `--tflite ai-edge-litert`."
    )


def _runs(facts: Facts, requirement: Requirement) -> tuple[ModelResult, tuple[ModelRun, ...]]:
    results = [each for each in facts.models.open() if each.model == requirement.model]
    if not results or not results[0].runs:
        note = f"no run of {requirement.model}" + (f": {facts.plan.zoo_note}" if facts.plan.zoo_note else "")
        ended = facts.plan.zoo_note and any(each.name == requirement.model for each in facts.plan.models)
        remedy = Remedy.MORE_RUNS if ended else Remedy.ZOO
        advice = "Audit again, and let the zoo's measurement come to its end." if ended else None
        raise MissingFact(MissingEvidence(Status.UNASKED, (Evidence(f"run:{requirement.model}", Status.UNASKED),), note, remedy, advice))
    return results[0], tuple(run.open() for run in results[0].runs)


def _identity(facts: Facts, result: ModelResult, runs: tuple[ModelRun, ...]) -> tuple[str, str]:
    """How the file that was run relates to the zoo's model. What pins it is decided here; what the record says of that does not count."""
    first, settings = runs[0], facts.settings
    if any((run.sha256, run.identity) != (first.sha256, first.identity) for run in runs):
        return "other", "The runs are not all of one file."
    if settings.pinned_by(ZooModelUsed(result.model, first.sha256, first.origin), facts.plan.archive):
        return "pinned", ""
    if result.model in settings.manifest:
        return "other", f"The manifest pins sha256 {' or '.join(settings.manifest[result.model])} for {result.model}; this is another file."
    if first.identity == "pinned":
        return "other", "The record says that the file is pinned; neither the requirement set nor a manifest has its sha256."
    return first.identity, first.identity_reason


def cited(result: ModelResult) -> tuple[Evidence, ...]:
    """The evidence of a model's runs."""
    return tuple(item for run in result.runs if isinstance(run, Ok) for item in run.evidence)
