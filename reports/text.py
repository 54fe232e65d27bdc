"""The text report, for people: what failed and why first, and in the last lines what would decide the unknowns."""

from __future__ import annotations

import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor.model import Finding, Format, Level, Outcome, PinnedBy, Remedy, Report, RequirementResult, Verdict, visible
from reports.summary import QUANTITIES, Cause, actions, causes, model_named, open_findings, remedies, shares, tally, verdict, why
from reports.wording import CITED, binding, cut, shown, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from auditor.model import ModelRun, ZooUsed

MINIMUM_WIDTH = 60
DISAGREE = 1.25
"""By how much the auditor's clock is beyond the process's own figure where they do not agree: what lies between is the exchange's."""
OTHERWISE = "otherwise"
SENSORS = 4
"""Sensors of power that are listed for a model; the JSON report has all of them."""
ACTIONS = 3
"""Fixes that the first screen lists."""
LISTED = 3
"""Findings of one cause that are named one by one; more are counted by requirement."""
_PINNED_BY = {
    PinnedBy.MANIFEST: "by the manifest",
    PinnedBy.REQUIREMENT_SET: "by the requirement set",
    PinnedBy.ARCHIVE: "from the published archive",
    None: "not pinned",
}
_CELLS = {Outcome.NOT_APPLICABLE: "n/a"}

_BOLD = "1"
_STYLES = {
    Outcome.PASS: "32",
    Outcome.FAIL: "1;31",
    Outcome.UNKNOWN: "33",
    Outcome.NOT_APPLICABLE: "2",
    Outcome.ERROR: "1;35",
    Verdict.COMPLIANT: "1;32",
    Verdict.NON_COMPLIANT: "1;31",
    Verdict.INCOMPLETE: "1;33",
}


@dataclass(frozen=True, slots=True)
class _Page:
    """How wide lines are, whether they may be coloured, and whether everything is told."""

    width: int
    colour: bool
    verbose: bool

    def paint(self, text: str, style: str | None) -> str:
        """Text in a style of SGR, where colour is wanted."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style else text

    def wrap(self, text: str, first: str = "", rest: str | None = None, style: str | None = None) -> list[str]:
        """Text in lines, the first one led by `first` and the others by `rest` (as many blanks); `style` is that of `first`."""
        rest = " " * len(first) if rest is None else rest
        lines = textwrap.wrap(text, self.width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [first.rstrip()]
        return [self.paint(lines[0][: len(first)], style) + lines[0][len(first) :], *lines[1:]]

    def heading(self, text: str, style: str = _BOLD) -> list[str]:
        """A heading in lines."""
        return [self.paint(line, style) for line in self.wrap(text)]

    def name(self, finding: Finding, first: str = "", after: str = "", style: str | None = None) -> str:
        """A finding's id, on one line however long it is: it is there to be copied."""
        return self.paint(first, style) + finding.id + after


def render(report: Report, *, colour: bool = False, width: int = 80, verbose: bool = False) -> str:
    """The report in lines of at most `width` characters (60 at least), but for ids, which are never wrapped.

    The caller knows whether a terminal shows colour. `verbose` lists every finding, those that pass too, with its evidence.
    """
    report = shown(report)
    page = _Page(max(width, MINIMUM_WIDTH), colour, verbose)
    nothing = not report.accelerators and not report.partial and not verbose and not any(map(_failing, report.requirements))
    sections = (
        _head(page, report),
        _failures(page, report),
        _errors(page, report),
        _unknowns(page, report, only=Remedy.WHAT_IT_IS if nothing else None),
        () if nothing else _should(page, report),
        _waived(page, report),
        _passes(page, report),
        () if nothing else _requirements(page, report),
        () if nothing else _zoo(page, report),
        _notes(page, report),
        _summary(page, report),
    )
    return "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines) + "\n"


def _failing(result: RequirementResult) -> bool:
    return any(finding.outcome in {Outcome.FAIL, Outcome.ERROR} and binding(result, finding) for finding in result.findings)


def _head(page: _Page, report: Report) -> Iterator[str]:
    device = report.device
    yield from page.heading(f"{report.tool.name} {report.tool.version}")
    if device.demonstration:
        yield from page.wrap(
            "A DEMONSTRATION on a device recorded for it, with the zoo run on this machine. This says nothing about any product."
        )
    yield ""
    yield from page.wrap(report.requirements_set, "Judged by    ")
    yield from page.wrap(f"{device.name} ({device.source})" + (f", kernel {device.kernel}" if device.kernel else ""), "Device       ")
    yield from page.wrap(device.collected_at or "at an unknown time", "Recorded     ")
    yield from page.wrap(device.snapshot_sha256 or "unknown", "Record sha256 ")
    for each in report.accelerators:
        driver = f"driver {each.driver}" if each.driver else "no driver known"
        yield from page.wrap(", ".join(part for part in (each.id, each.name, driver, *each.nodes) if part), "Accelerator  ")
    if not report.accelerators:
        places = ", ".join(device.looked_in) or "no place that could be read"
        yield from page.wrap(f"none was found; looked in {places}", "Accelerator  ")
    yield from page.wrap(verdict(report), "Verdict      ")
    yield from page.wrap(why(report), "Why          ")
    yield from _tally(page, report)
    yield from _next(page, report)


def _tally(page: _Page, report: Report) -> Iterator[str]:
    """How the clauses stand, each level apart; a clause that passes because of a waiver is named."""
    for level, label in ((Level.MUST, "Clauses      "), (Level.SHOULD, "Recommended  ")):
        found = tally(report, level)
        parts = [
            f"{found.passed} passed",
            f"{found.failed} failed",
            f"{found.open} open",
            f"{found.not_applicable} not applicable",
            *([f"{len(found.waived)} waived ({', '.join(found.waived)})"] if found.waived else []),
        ]
        if found.total:
            yield from page.wrap(", ".join(parts), label)
    left = sum(not result.selected for result in report.requirements)
    if left:
        yield from page.wrap(f"{left} of {len(report.requirements)} requirements, by --only", "Not selected ")


def _next(page: _Page, report: Report) -> Iterator[str]:
    """Whose move it is, and the fixes that most of what is open waits for: failures first."""
    if not report.accelerators:
        steps = _without_accelerator(report)
    else:
        owners = sorted(shares(report), key=lambda each: -each.failed - each.unknown)
        if owners:
            yield from page.wrap(", ".join(f"{each.owner.value} {each.failed + each.unknown}" for each in owners), "Open, by owner  ")
        steps = [f"{each.fix} ({each.owner.value}; {', '.join(_families(each.requirements))})" for each in actions(report)]
    for number, step in enumerate(steps[:ACTIONS], 1):
        yield from page.wrap(step, f"{number}. ")


def _without_accelerator(report: Report) -> list[str]:
    """What to do where no accelerator was found: what the checks advise on that, then what else could be audited."""
    found = [each.fix for each in actions(report)]
    waiting = {finding.remediation for _, finding in open_findings(report) if finding.remedy in {Remedy.DRIVER, Remedy.WHAT_IT_IS}}
    other = "To audit something else: --demo (a recorded device), --root DIR (an unpacked image), --host [USER@]HOST (another machine)."
    return [*[fix for fix in found if fix in waiting][: ACTIONS - 1], other]


def _families(requirements: Sequence[str]) -> list[str]:
    """Requirements by how `--only` and `explain` take them together: those of the zoo's models as one, `zoo`."""
    return list(dict.fromkeys("zoo" if model_named(each) else each for each in requirements))


def _failures(page: _Page, report: Report) -> Iterator[str]:
    yield from _section(page, "FAILED", report, Outcome.FAIL, binding)


def _errors(page: _Page, report: Report) -> Iterator[str]:
    yield from _section(page, "ERROR: check crashed (auditor defect)", report, Outcome.ERROR)


def _should(page: _Page, report: Report) -> Iterator[str]:
    heading = "RECOMMENDED FIXES (not part of the verdict)"
    yield from _section(page, heading, report, Outcome.FAIL, lambda result, finding: not binding(result, finding))


def _section(
    page: _Page,
    heading: str,
    report: Report,
    outcome: Outcome,
    wanted: Callable[[RequirementResult, Finding], bool] = lambda _result, _finding: True,
) -> Iterator[str]:
    """The findings of one outcome that no waiver covers, each in full."""
    findings = [finding for result, finding in open_findings(report) if finding.outcome is outcome and wanted(result, finding)]
    if findings:
        yield from page.heading(f"{heading} ({len(findings)})", _STYLES[outcome])
    for finding in findings:
        yield ""
        yield page.name(finding)
        yield from _fields(page, "  ", finding)


def _unknowns(page: _Page, report: Report, only: Remedy | None) -> Iterator[str]:
    """The unknowns by what would decide them; those that say the same are told once."""
    unknowns = [each for each in open_findings(report) if each[1].outcome is Outcome.UNKNOWN and only in {None, each[1].remedy}]
    decided = [each for each in report.requirements if any(finding.level is Level.MUST or report.partial for finding in each.findings)]
    undecided = [each.id for each in report.requirements if each.selected and each not in decided and not only]
    if unknowns or undecided:
        yield from page.heading(f"UNKNOWN ({len(unknowns)}), by what would decide them", _STYLES[Outcome.UNKNOWN])
    for remedy, count in remedies(report):
        if only not in {None, remedy}:
            continue
        yield ""
        yield from page.heading(f"{_way(remedy)} ({count})")
        for cause in causes(each for each in unknowns if each[1].remedy is remedy):
            yield from _members(page, cause)
            evidence = tuple(dict.fromkeys(each for _, finding in cause.findings for each in finding.evidence))
            yield from _fields(page, "    ", replace(cause.first, evidence=evidence), expected=len(cause.findings) == 1)
    if undecided:
        yield ""
        yield from page.wrap(f"No check answered: {', '.join(undecided)}")


def _members(page: _Page, cause: Cause) -> Iterator[str]:
    """The findings of one cause: named, where they are few or everything is told, else counted by requirement."""
    after = "" if cause.binding else " (should)"
    if page.verbose or len(cause.findings) <= LISTED:
        yield from (page.name(finding, "  ", after) for _, finding in cause.findings)
        return
    groups: dict[str, list[Finding]] = {}
    for result, finding in cause.findings:
        groups.setdefault(_families([result.id])[0], []).append(finding)
    for name, found in groups.items():
        yield page.name(found[0], "  ", after) if len(found) == 1 else f"  {name} ({len(found)} findings){after}"


def _waived(page: _Page, report: Report) -> Iterator[str]:
    findings = [finding for result in report.requirements for finding in result.findings if finding.waiver]
    if findings:
        yield from page.heading(f"WAIVED ({len(findings)})")
    for finding in findings:
        yield ""
        yield page.name(finding, f"{finding.outcome.value}  ", style=_STYLES[finding.outcome])
        yield from _fields(page, "  ", finding)


def _fields(page: _Page, indent: str, finding: Finding, *, expected: bool = True) -> Iterator[str]:
    """What a finding says of itself, a label each."""
    for label, line in told(finding, cited=None if page.verbose else CITED):
        if expected or label != "expected":
            yield from page.wrap(line, f"{indent}{label:<10}")


def _passes(page: _Page, report: Report) -> Iterator[str]:
    """What passes and what does not apply, with its evidence, where everything is told."""
    for heading, outcome in (("PASSED", Outcome.PASS), ("NOT APPLICABLE", Outcome.NOT_APPLICABLE)):
        findings = [each for result in report.requirements for each in result.findings if each.outcome is outcome and page.verbose]
        if findings:
            yield from ([""] if outcome is Outcome.NOT_APPLICABLE else [])
            yield from page.heading(f"{heading} ({len(findings)})", _STYLES[outcome])
        for finding in findings:
            yield ""
            yield page.name(finding)
            yield from _fields(page, "  ", finding)


def _requirements(page: _Page, report: Report) -> Iterator[str]:
    """A row for each requirement; those of the zoo's models, which have a table of their own, in one row for each outcome."""
    for heading, level in (("REQUIREMENTS", Level.MUST), ("RECOMMENDATIONS (not part of the verdict)", Level.SHOULD)):
        results = [result for result in report.requirements if result.level is level and result.selected]
        if results:
            yield from ([""] if level is Level.SHOULD else [])
            yield from page.heading(heading)
        rows: dict[tuple[str, Outcome, str], list[RequirementResult]] = {}
        for result in results:
            word = result.outcome.value + (", waived" if result.standing is not result.outcome else "")
            rows.setdefault((word, result.outcome, result.id if page.verbose else _families([result.id])[0]), []).append(result)
        for (word, outcome, name), found in rows.items():
            label = found[0].id if len(found) == 1 else f"{name} ({len(found)})"
            title = found[0].title if len(found) == 1 else "Latency, accuracy and memory of the zoo's models"
            lead = f"{word:<16}{label:<17}"
            if len(label) < 17:
                yield from page.wrap(title, lead, style=_STYLES[outcome])
            else:
                yield page.paint(f"{word:<16}", _STYLES[outcome]) + label
                yield from page.wrap(title, " " * 18)


def _zoo(page: _Page, report: Report) -> Iterator[str]:
    """A row for each model: its figures, and below them its outcomes."""
    results = {result.id: result for result in report.requirements}
    of_page = filter(None, (model_named(result.id) for result in report.requirements))
    models = list(dict.fromkeys((*of_page, *(run.model for run in report.model_runs))))
    if not models:
        return
    files = {used.name: used for used in report.zoo.models}
    room = page.width - 43
    yield from page.heading(f"ZOO {report.zoo.version}")
    if report.device.demonstration:
        yield from page.wrap("A DEMONSTRATION: the models ran on this machine, not on the device above.")
    yield f"{'':<{room}}{'latency':>11}{'avg error':>11}{'memory':>11}{'delegated':>10}"
    for model in models:
        yield f"{cut(model, room):<{room}}{_figures([run for run in report.model_runs if run.model == model])}"
        file = files.get(model)
        line = f"{cut(f'  {file.origin}, sha256 {cut(file.sha256, 13)}' if file else '  no file', room):<{room}}"
        for quantity in QUANTITIES:
            result = results.get(f"zoo-{model}-{quantity}")
            word = _CELLS.get(result.outcome, result.outcome.value) + ("*" if result.waived else "") if result else "-"
            line += " " * (11 - len(word)) + page.paint(word, _STYLES[result.outcome] if result else None)
        yield line
        beside = _beside([run for run in report.model_runs if run.model == model])
        yield from page.wrap(beside, "  ") if beside else ()
    if any(result.waived for result in results.values() if model_named(result.id)):
        yield "* waived"
    yield from page.wrap(_pins(report.zoo), "Pinned  ") if report.zoo.models else ()
    for runner, runtime, delegate in dict.fromkeys((run.runner, run.runtime, run.delegate) for run in report.model_runs):
        parts = (f"runner {runner}", runtime, f"delegate {delegate}" if delegate else "no delegate")
        yield from page.wrap(", ".join(part for part in parts if part), "Run by  ")


def _pins(zoo: ZooUsed) -> str:
    """What pins the model files that were measured, and the manifest that was given."""
    parts = []
    for how, said in _PINNED_BY.items():
        names = [each.name for each in zoo.models if zoo.pins.get(each.name) is how]
        parts += [f"{said}: {', '.join(names)}"] if names else []
    for name, manifest in (("manifest", zoo.manifest), ("tool manifest", zoo.tool_manifest)):
        parts += [f"{name} {manifest.path}, sha256 {manifest.sha256}"] if manifest else []
    return "; ".join(parts)


def _figures(runs: Sequence[ModelRun]) -> str:
    """Of a model's runs: the mean latency, the worst error of an output, the highest peak of memory, the smallest delegated share.

    The latency is the process's own figure, and the auditor's where the two clocks disagree: the process could have said anything.
    """
    own, outside = _latencies(runs)
    latency = own if outside is None else outside
    error = _over(max, [output.get("avg_error") for run in runs for output in run.accuracy or ({},)])
    memory = _over(max, [run.memory and run.memory.get("peak_bytes", 0) + run.memory.get("device_bytes", 0) for run in runs])
    share = _over(min, [run.delegated_macs for run in runs])
    cells = (
        "-" if latency is None else f"{latency / 1e3:.3g} ms",
        "-" if error is None else f"{error:.3g}",
        "-" if memory is None else f"{memory / 1e6:.4g} MB",
    )
    return "".join(f"{cell:>11}" for cell in cells) + f"{'-' if share is None else f'{share:.1%}':>10}"


def _latencies(runs: Sequence[ModelRun]) -> tuple[float | None, float | None]:
    """The mean latency by the process's own clock, and by the auditor's outside it; that one is None where they do not disagree."""
    own, outside = (_over(statistics.fmean, [getattr(run, key) for run in runs]) for key in ("latency_us", "bracket_us"))
    return own, outside if own is not None and outside is not None and outside > DISAGREE * own else None


def _beside(runs: Sequence[ModelRun]) -> str:
    """Of a model's runs, what is measured and never judged: how long loading and the first inference took, and what power was drawn."""
    parts = [f"{len(runs)} {'process' if len(runs) == 1 else 'processes'}"] if runs else []
    own, outside = _latencies(runs)
    if own is not None and outside is not None:
        parts.append(f"latency by the auditor's clock; {own / 1e3:.3g} ms by the process's own")
    for what, values in (("load", [run.init_us for run in runs]), ("first inference", [run.first_us for run in runs])):
        mean = _over(statistics.fmean, values)
        parts += [] if mean is None else [f"{what} {mean / 1e3:.3g} ms"]
    sensors: dict[str, list[Any]] = {}
    for run in runs:
        power = run.conditions.get("power")
        watts = power.get("watts") if isinstance(power, Mapping) else None
        for name, value in watts.items() if isinstance(watts, Mapping) else ():
            sensors.setdefault(visible(str(name)), []).append(value)
    means = {name: _over(statistics.fmean, values) for name, values in sensors.items()}
    known = [f"{cut(name, 60)} {mean:.3g} W" for name, mean in means.items() if mean is not None]
    return ", ".join((*parts, *known[:SENSORS], *([f"{len(known) - SENSORS} more sensors"] if len(known) > SENSORS else [])))


def _notes(page: _Page, report: Report) -> Iterator[str]:
    if report.notes:
        yield from page.heading("NOTES")
    for note in report.notes:
        yield from page.wrap(note, "* ")


def _summary(page: _Page, report: Report) -> Iterator[str]:
    every = [(binding(result, finding), finding.outcome) for result in report.requirements for finding in result.findings]
    for bears, label in ((True, "Findings  "), (False, "Advisory  ")):
        counts = Counter(outcome for each, outcome in every if each is bears)
        if counts:
            waived = f"; {report.counts.get('waived', 0)} waived" if bears else ""
            yield from page.wrap(", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome) + waived, label)
    yield from page.wrap(verdict(report), "Verdict   ")
    parts = [f"{_way(remedy)}: {count}" for remedy, count in remedies(report)]
    yield from page.wrap("To decide the unknowns: " + "; ".join(parts) if parts else "No finding is unknown.")
    if not page.verbose:
        yield from page.wrap("--verbose lists every finding, with the evidence of those that pass.")


def _way(remedy: Remedy | None) -> str:
    """What would decide an unknown, in the words of the text report."""
    if remedy is Remedy.SELECTED:
        return "not selected in this run"
    return remedy.value if remedy else OTHERWISE


def _over(fold: Callable[[list[float]], float], values: Sequence[Any]) -> float | None:
    """One number of many; None where one of them is missing, or is none that a table can hold (a vendor's process may report anything)."""
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and abs(value) < 1e15]
    return fold(numbers) if numbers and len(numbers) == len(values) else None


FORMAT = Format("text", "text/plain; charset=utf-8", ".txt", render, takes=("colour", "width", "verbose"))
