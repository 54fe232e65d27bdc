"""The HTML report, for people: one file that needs no script and loads nothing. What blocks the verdict and whose move it is come first.

The templates escape every text; the drawings escape theirs (reports/svg.py). A report may have any number of findings: those that matter
most are told in full, the next in a line each, and the rest are counted, so that a browser opens the page at once.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.model import Evidence, Finding, Format, Level, Outcome, Report, RequirementResult, Verdict
from reports import figures, summary, svg
from reports.wording import binding, cut, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from auditor.model import ClosureSummary, FirmwareSummary, IommuGroupSummary

FULL_BYTES = 6_000_000
"""Of the page, what findings told in full may take together."""
BRIEF_BYTES = 1_500_000
"""Of the page, what findings told in a line each may take together."""
LONGEST = 1200
"""Characters of one text that are shown."""
CITED = 8
"""Evidence of one finding that is shown."""
OPENED = 12
"""Findings and clauses that are open when the page is."""
TOP = 3
ROWS = 200
"""Rows of a table of files or images."""
MODELS = 64
GROUPS = 24
PROCESSES = 32

_MARKUP = 420
"""Bytes of the markup around a finding, and of that around each of its evidence."""
_ORDER = (Outcome.FAIL, Outcome.ERROR, Outcome.UNKNOWN, Outcome.PASS, Outcome.NOT_APPLICABLE)
_TONES = {Outcome.PASS: "good", Outcome.FAIL: "bad", Outcome.ERROR: "bad", Outcome.UNKNOWN: "open", Outcome.NOT_APPLICABLE: "plain"}
_GLYPHS = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.ERROR: "!", Outcome.UNKNOWN: "?", Outcome.NOT_APPLICABLE: "-"}
_VERDICTS = {Verdict.COMPLIANT: ("good", "✓"), Verdict.NON_COMPLIANT: ("bad", "✗"), Verdict.INCOMPLETE: ("open", "?")}
_OWNERS = {"vendor": "Vendor", "firmware": "Firmware", "chromeos": "ChromeOS", "lab": "Lab"}
_STATES = {
    "bad": ("bad", "does not verify"),
    "unsigned": ("bad", "unsigned"),
    "verified-test": ("bad", "signed by a test root"),
    "unknown-format": ("open", "format not understood"),
    "unknown-key": ("open", "signed by an unknown key"),
    "verified-unknown-root": ("open", "signed, root not known"),
    "verified-production": ("good", "signed by a production root"),
    "": ("plain", "not read"),
}


def render(report: Report) -> str:
    """The report as one HTML document."""
    import jinja2  # noqa: PLC0415  # no other format needs it

    report = shown(report)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["tone"] = _tone
    environment.filters["glyph"] = _glyph
    return environment.get_template("report.html").render(report=report, view=_view(report)) + "\n"


def _tone(outcome: Outcome, waived: object = False) -> str:
    return "plain" if waived else _TONES[outcome]


def _glyph(outcome: Outcome, waived: object = False) -> str:
    return "~" if waived else _GLYPHS[outcome]


@dataclass(frozen=True, slots=True)
class _Row:
    """A finding that is told in full."""

    anchor: str
    check: str
    subject: str
    outcome: Outcome
    should: bool
    opened: bool
    observed: str
    expected: str
    reason: str
    fix: str
    owner: str
    waiver: str
    claims: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    further: int


@dataclass(frozen=True, slots=True)
class _Clause:
    """A requirement with its findings: told in full, in a line each, and counted."""

    anchor: str
    id: str
    title: str
    text: str
    source: str
    interpretation: str
    quantity: str
    outcome: Outcome
    waived: bool
    selected: bool
    opened: bool
    counts: str
    findings: tuple[_Row, ...]
    brief: tuple[str, ...]
    omitted: int


class _Budget:
    """How much of the page is left for findings; the ones that come first are told in full."""

    def __init__(self, report: Report) -> None:
        pairs = [(result, finding) for result in report.requirements for finding in result.findings]
        self.anchors = {finding.id: f"f{number}" for number, (_, finding) in enumerate(pairs)}
        self.full: set[str] = set()
        self.brief: set[str] = set()
        self.opened: set[str] = set()
        full, brief = FULL_BYTES, BRIEF_BYTES
        for result, finding in sorted(pairs, key=lambda pair: _weight(*pair)):
            if len(self.opened) < OPENED and finding.outcome is Outcome.FAIL and binding(result, finding):
                self.opened.add(finding.id)
            if full > 0:
                full -= _size(finding)
                self.full.add(finding.id)
            elif brief > 0:
                brief -= 40 + len(finding.id[:LONGEST].encode())
                self.brief.add(finding.id)


def _weight(result: RequirementResult, finding: Finding) -> tuple[int, int]:
    """Where a finding stands by how much it matters: what bears on the verdict before the rest."""
    return (0 if finding.outcome in summary.OPEN and binding(result, finding) and not finding.waiver else 1), _ORDER.index(finding.outcome)


def _size(finding: Finding) -> int:
    """About how many bytes a finding takes on the page; what is escaped takes up to six times as many."""
    texts = (finding.check, finding.subject, finding.observed, finding.expected, finding.reason, finding.remediation)
    evidence = [text for each in finding.evidence[:CITED] for text in (each.path, each.excerpt[:200], "x" * 64, "x" * 80)]
    return _MARKUP + sum(len(_escaped(text[:LONGEST])) for text in (*texts, *evidence))


def _escaped(text: str) -> bytes:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;").replace("'", "&#39;").encode()


def _view(report: Report) -> dict[str, Any]:
    """What the template shows of a report, in the order in which it does."""
    budget = _Budget(report)
    anchors = {result.id: f"r{number}" for number, result in enumerate(report.requirements)}
    clauses = {result.id: _clause(result, anchors[result.id], budget) for result in report.requirements}
    plain = [result for result in report.requirements if not figures.cell(result)]
    tone, glyph = _VERDICTS[report.verdict]
    details = report.details
    models = figures.models(report)
    view: dict[str, Any] = {
        "verdict": summary.verdict(report),
        "tone": tone,
        "glyph": glyph,
        "why": summary.why(report),
        "shares": [{"owner": _OWNERS[share.owner.value], "text": _share(share)} for share in summary.shares(report)],
        **_actions(report, anchors),
        "tallies": [(name, summary.tally(report, level)) for name, level in (("Mandatory", Level.MUST), ("Recommended", Level.SHOULD))],
        "waived": [text for level in Level for text in summary.tally(report, level).waived],
        "groups": [group for level in Level if (group := _group(level, plain, clauses))["clauses"]],
        "models": [_model(model, f"m{number}", clauses) for number, model in enumerate(models[:MODELS])],
        "clock": next((model.clock for model in models if model.clock), ""),
        "zoo_causes": list(_zoo_causes(report)),
        "closure": _closure(details.closure) if details.closure else None,
        "iommu": [_iommu(each) for each in details.iommu_groups[:GROUPS]],
        "firmware": [_firmware(each) for each in details.firmware[:ROWS]],
        "firmware_omitted": max(0, len(details.firmware) - ROWS),
        "firmware_anchor": anchors.get("security-2", "requirements"),
        "sandbox": _sandbox(report),
        "about": list(_about(report)),
        "command": shlex.join(report.device.command),
        "judge": shlex.join(("crosml-audit", "device", "--snapshot", "FILE", *report.judged_with)),
        "notes": [cut(note, LONGEST) for note in report.notes[:ROWS]],
        "counts": ", ".join(f"{report.counts.get(outcome.value, 0)} {outcome.value}" for outcome in _ORDER),
    }
    view["sections"] = [
        (anchor, name)
        for anchor, name, there in (
            ("requirements", "Requirements", True),
            ("zoo", "Model zoo", view["models"]),
            ("size", "Driver size", view["closure"]),
            ("iommu", "IOMMU groups", view["iommu"]),
            ("firmware", "Firmware images", view["firmware"]),
            ("sandbox", "Sandbox", view["sandbox"]),
            ("about", "About this report", True),
        )
        if there
    ]
    return view


def _share(share: summary.Share) -> str:
    parts = [f"{share.failed} to fix" if share.failed else "", f"{share.unknown} to decide" if share.unknown else ""]
    return " and ".join(part for part in parts if part)


def _actions(report: Report, anchors: dict[str, str]) -> dict[str, Any]:
    """The first things to do, and how many more there are."""
    found = summary.actions(report)
    top = [
        {
            "owner": _OWNERS[action.owner.value],
            "fix": cut(action.fix, LONGEST),
            "fails": action.fails,
            "requirements": [{"id": each, "anchor": anchors[each]} for each in action.requirements[:TOP]],
            "more": max(0, len(action.requirements) - TOP),
        }
        for action in found[:TOP]
    ]
    more = len(found) - len(top)
    nothing = (
        "Nothing: no finding that bears on the verdict is open." if report.verdict is Verdict.COMPLIANT else "See the requirements below."
    )
    further = f"{more} more {'action' if more == 1 else 'actions'} with the requirements below." if more > 0 else ""
    return {"actions": top, "further": further, "nothing": nothing}


def _group(level: Level, results: Iterable[RequirementResult], clauses: dict[str, _Clause]) -> dict[str, Any]:
    title = "Mandatory" if level is Level.MUST else "Recommended (not part of the verdict)"
    return {"title": title, "clauses": [clauses[result.id] for result in results if result.level is level]}


def _clause(result: RequirementResult, anchor: str, budget: _Budget) -> _Clause:
    ordered = sorted(result.findings, key=lambda finding: (finding.waiver is not None, _ORDER.index(finding.outcome)))
    counts = Counter(finding.outcome for finding in ordered)
    full = tuple(_row(result, finding, budget) for finding in ordered if finding.id in budget.full)
    brief = tuple(f"{finding.outcome.value}: {cut(finding.id, LONGEST)}" for finding in ordered if finding.id in budget.brief)
    return _Clause(
        anchor=anchor,
        id=result.id,
        title=result.title,
        text=cut(result.text, LONGEST),
        source=result.source,
        interpretation=cut(result.interpretation, LONGEST),
        quantity=figures.cell(result),
        outcome=result.outcome,
        waived=result.waived,
        selected=result.selected,
        opened=any(finding.id in budget.opened for finding in ordered),
        counts=", ".join(f"{counts[outcome]} {outcome.value}" for outcome in _ORDER if counts[outcome]) if len(ordered) > 1 else "",
        findings=full,
        brief=brief,
        omitted=len(ordered) - len(full) - len(brief),
    )


def _row(result: RequirementResult, finding: Finding, budget: _Budget) -> _Row:
    unmet = finding.outcome in summary.OPEN
    return _Row(
        anchor=budget.anchors[finding.id],
        check=finding.check,
        subject=cut(finding.subject, LONGEST),
        outcome=finding.outcome,
        should=result.level is Level.MUST and finding.level is Level.SHOULD,
        opened=finding.id in budget.opened,
        observed=cut(finding.observed, LONGEST),
        expected=cut(finding.expected, LONGEST),
        reason=cut(finding.reason, LONGEST),
        fix=cut(finding.remediation, LONGEST) if unmet else "",
        owner=_OWNERS[finding.owner.value],
        waiver=cut(finding.waiver.sentence, LONGEST) if finding.waiver else "",
        claims=tuple(cut(claim.sentence, LONGEST) for claim in finding.claims[:CITED]),
        evidence=tuple(
            Evidence(cut(each.path, LONGEST), each.status, each.sha256 and cut(each.sha256, 128), cut(each.excerpt, 160))
            for each in finding.evidence[:CITED]
        ),
        further=max(0, len(finding.evidence) - CITED),
    )


def _zoo_causes(report: Report) -> Iterator[dict[str, Any]]:
    """Why requirements of the zoo are open, those with one cause together."""
    pairs = [pair for pair in summary.open_findings(report) if figures.cell(pair[0]) and binding(*pair)]
    for cause in summary.causes(pairs)[:TOP]:
        if len(cause.requirements) > 1:
            first = cause.first
            yield {
                "outcome": cause.outcome,
                "count": len(cause.requirements),
                "reason": cut(first.reason, LONGEST),
                "fix": cut(first.remediation, LONGEST),
                "owner": _OWNERS[first.owner.value],
            }


def _model(model: figures.ModelFigures, anchor: str, clauses: dict[str, _Clause]) -> dict[str, Any]:
    results, limits = model.results, model.limits
    error = max((output.error for output in model.outputs), default=None)
    latency = model.interval[1] if model.interval else sum(model.latencies) / len(model.latencies) if model.latencies else None
    memory = limits.get("memory_bytes")
    return {
        "name": model.name,
        "anchor": anchor,
        "opened": any(result.outcome is Outcome.FAIL and not result.waived for result in results.values()),
        "provenance": model.provenance or "no file",
        "sha256": model.sha256,
        "share": "-" if model.share is None else f"{model.share:.1%}",
        "cells": [
            {"value": value, "limit": limit, "result": results.get(quantity)}
            for quantity, value, limit in (
                ("latency", _figure(latency, "ms"), _figure(limits.get("latency_ms"), "ms")),
                ("accuracy", _figure(error), _figure(limits.get("avg_error"))),
                ("memory", _megabytes(model.peak), _megabytes(memory)),
            )
        ],
        "clauses": [clauses[result.id] for result in results.values()],
        "drawings": list(_drawings(model)),
        "conditions": model.conditions,
    }


def _figure(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.3g} {unit}".rstrip()


def _megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.4g} MB"


def _drawings(model: figures.ModelFigures) -> Iterator[dict[str, Any]]:
    """The figures of a model against their limits."""
    results, limits = model.results, model.limits
    if model.latencies:
        yield _latency(model)
    for output in model.outputs[:8]:
        limit = limits.get("avg_error")
        text = f"Output {output.index}: error {output.error:.3g}"
        if output.deviation is not None:
            text += f", deviation between runs {output.deviation:.3g} (limit {_figure(limits.get('std_dev'))})"
        drawn = svg.lane(
            f"Error of output {output.index} of {model.name}",
            [output.error],
            limit=limit,
            limit_text=f"limit {_figure(limit)}",
            met=figures.met(results.get("accuracy")),
            description=f"{text}. The limit is {_figure(limit)}.",
        )
        yield {"caption": text, "drawing": drawn, "legend": ()}
    if model.memory:
        limit = limits.get("memory_bytes")
        keys = [(number, f"{name} {_megabytes(size)}") for number, (name, size) in enumerate(model.memory)]
        drawn = svg.bars(
            f"Memory of {model.name}",
            model.memory,
            limit=limit,
            limit_text=f"limit {_megabytes(limit)}",
            description="; ".join(text for _, text in keys) + f". The limit is {_megabytes(limit)}.",
        )
        yield {"caption": f"Memory: peak {_megabytes(model.peak)}", "drawing": drawn, "legend": keys}
    if model.share is not None:
        text = f"Delegated: {model.share:.1%} of the multiply-accumulates"
        if model.nodes and model.partitions is not None:
            parts = f"{model.partitions} {'partition' if model.partitions == 1 else 'partitions'}"
            text += f", {model.nodes[0]} of {model.nodes[1]} operators, in {parts}"
        yield {"caption": text, "drawing": svg.share(f"Delegated share of {model.name}", model.share, 0.95), "legend": ()}


def _latency(model: figures.ModelFigures) -> dict[str, Any]:
    limit, count = model.limits.get("latency_ms"), len(model.latencies)
    text = f"Latency by {model.clock}, {count} {'process' if count == 1 else 'processes'}: "
    text += ", ".join(f"{value:.3g}" for value in model.latencies[:PROCESSES]) + " ms"
    if model.interval:
        low, mean, high = model.interval
        text += f"; mean {mean:.3g} ms, interval {low:.3g} to {high:.3g} ms"
    if model.own_latency is not None:
        text += f"; the processes themselves say {model.own_latency:.3g} ms"
    drawn = svg.lane(
        f"Latency of {model.name}",
        model.latencies[:PROCESSES],
        limit=limit,
        limit_text=f"limit {_figure(limit, 'ms')}",
        interval=model.interval,
        met=figures.met(model.results.get("latency")),
        description=f"{text}. The limit is {_figure(limit, 'ms')}.",
    )
    return {"caption": text, "drawing": drawn, "legend": ()}


def _closure(found: ClosureSummary) -> dict[str, Any]:
    counted = [each for each in found.files if each.counted]
    certain = sum(each.size for each in counted if each.certain)
    possible = sum(each.size for each in counted)
    limit = f"{found.limit_bytes / 1e6:g} MB"
    number = len(counted)
    text = f"{certain / 1e6:.2f} MB in {number} {'file' if number == 1 else 'files'}; the limit is {limit} ({found.limit_bytes:,} bytes)."
    if possible > certain:
        text = (
            f"{certain / 1e6:.2f} MB are loaded, up to {possible / 1e6:.2f} MB may be; the limit is {limit} ({found.limit_bytes:,} bytes)."
        )
    largest = sorted(counted, key=lambda each: -each.size)
    tiles = [
        (each.path.rpartition("/")[2], f"{each.size:,} bytes, {each.why}", each.size, "" if each.certain else "maybe")
        for each in largest[:60]
    ]
    rest = largest[60:]
    if rest:
        tiles.append((f"{len(rest)} smaller files", f"{sum(each.size for each in rest):,} bytes", sum(each.size for each in rest), "maybe"))
    drawn = svg.treemap("Files of the driver by size", tiles, limit=found.limit_bytes, limit_text=limit, description=text)
    ordered = [*largest, *(each for each in found.files if not each.counted)]
    return {
        "text": text,
        "drawing": drawn,
        "count": len(found.files),
        "files": ordered[:ROWS],
        "omitted": max(0, len(ordered) - ROWS),
        "missing": [cut(name, LONGEST) for name in found.missing[:ROWS]],
        "unread": [cut(name, LONGEST) for name in found.unread[:ROWS]],
    }


def _iommu(group: IommuGroupSummary) -> dict[str, Any]:
    notes = [f"Reserved: {', '.join(group.reserved[:ROWS])}"] if group.reserved else []
    notes += [] if group.complete else ["Not all devices of the group could be listed"]
    return {"drawing": svg.iommu(group), "notes": notes}


def _firmware(image: FirmwareSummary) -> dict[str, Any]:
    tone, state = _STATES.get(image.state, ("plain", image.state))
    return {
        "name": cut(image.name, LONGEST),
        "state": state if image.path else "not installed",
        "tone": tone if image.path else "plain",
        "remarks": [cut(remark, 200) for remark in image.remarks[:CITED]],
        "signer": cut(image.signer, 200),
        "root": cut(image.root, 128),
        "path": cut(image.path, LONGEST),
        "size": image.size,
        "format": image.format,
        "sha256": cut(image.sha256, 128),
    }


def _sandbox(report: Report) -> dict[str, Any] | None:
    seen = figures.sandbox(report)
    if seen is None:
        return None
    through = [each for each in seen.escapes if not each.reason]
    if through:
        text = f"{len(through)} of {len(seen.escapes)} attempts to escape were not refused."
    elif seen.escapes:
        text = f"All {len(seen.escapes)} attempts to escape were refused."
    else:
        text = "No attempt to escape was recorded."
    states = " and ".join(seen.states) or "not recorded"
    return {"text": f"State of the workers: {states}. {text}", "escapes": seen.escapes[:ROWS], "refused": seen.refused[:ROWS]}


def _about(report: Report) -> Iterator[tuple[str, str]]:
    device = report.device
    yield "device", f"{device.name} ({device.source})"
    for name, text in (
        ("board", device.board),
        ("build", device.build),
        ("system firmware", device.firmware_version),
        ("kernel", device.kernel or ""),
    ):
        if text:
            yield name, text
    for each in report.accelerators[:ROWS]:
        driver = f"driver {each.driver}" if each.driver else "driver not known"
        yield "accelerator", ", ".join(part for part in (each.id, each.name, driver, *each.nodes) if part)
    if not report.accelerators:
        yield "accelerator", f"none found; searched {', '.join(device.looked_in) or 'no readable place'}"
    yield "judged by", report.requirements_set
    yield "recorded", " ".join(recorded(report))


def recorded(report: Report) -> Iterator[str]:
    """When a record was made, with what, by whom."""
    device = report.device
    yield device.collected_at or "at an unknown time"
    if device.collector:
        yield f"with {device.collector}"
    if device.collected_by:
        yield f"by {device.collected_by}"
    if device.collected_uid is not None:
        yield "as root" if device.collected_uid == 0 else f"as uid {device.collected_uid}, not root"


FORMAT = Format("html", "text/html; charset=utf-8", ".html", render)
