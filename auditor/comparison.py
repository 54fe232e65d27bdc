"""A comparison of two reports as text, JSON and HTML. Every text of the reports is made visible, and escaped in HTML."""

from __future__ import annotations

import json
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any

from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.comparing import Change, Comparison, Measured

SCHEMA = "crosml-audit/comparison/1"

LONGEST = 600
"""Characters of one text that are shown to people; JSON has all of it."""
MOST = 2000
"""Findings, requirements or measurements that are shown to people; JSON has all of them."""
CITED = 8
"""Pieces of evidence of one finding that are shown to people."""

_UNITS = {"latency": (1e3, "ms"), "memory": (1e6, "MB"), "accuracy": (1.0, "")}
"""What a figure is divided by for people, and its unit then."""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Comparison of two audits</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ border-bottom: 1px solid #8886; overflow-wrap: anywhere; padding: .4rem .6rem; text-align: left; vertical-align: top }}
@media (max-width: 40rem) {{
  thead {{ display: none }}
  table, tbody, tr, td {{ display: block }}
  tr {{ border-bottom: 1px solid #8886; padding: .4rem 0 }}
  td {{ border: 0; padding: 0 }}
  td::before {{ content: attr(data-label) " "; opacity: .75 }}
}}
</style>
<main>
<h1>Comparison of two audits</h1>
<p>{summary}</p>
{sections}
</main>
</html>
"""


def as_text(comparison: Comparison) -> str:
    """The comparison in lines, for people."""
    return "".join(f"{_short(line)}\n" for line in _lines(comparison))


def as_json(comparison: Comparison) -> str:
    """The comparison as one JSON document (crosml-audit/comparison/1): latencies in microseconds, memory in bytes."""
    document = {
        "schema": SCHEMA,
        "regression": comparison.regression,
        "about": [{"name": name, "before": before, "after": after} for name, before, after in comparison.about],
        "requirements": [{"id": name, "before": before, "after": after} for name, before, after in comparison.requirements],
        "findings": [_change(each) for each in comparison.findings],
        "measurements": [_measured(each) for each in comparison.measured],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def as_html(comparison: Comparison) -> str:
    """The comparison as one self-contained page."""
    about = [(name, before, after) for name, before, after in comparison.about]
    requirements = [(name, before or "not there", after or "gone") for name, before, after in comparison.requirements]
    findings = [
        (
            each.finding,
            each.before or "not there",
            each.after or "gone",
            ", ".join(cause.value for cause in each.causes),
            "; ".join(
                (
                    *(f"{one} → {other}" for one, other in (each.observed,) if one != other),
                    *(f"{read.path}: {read.change}" for read in each.evidence[:CITED]),
                )
            ),
        )
        for each in comparison.findings
    ]
    measured = [
        (f"{each.model} {each.quantity}", _figure(each, each.before), _figure(each, each.after), _moved(each), each.cause.value)
        for each in comparison.measured
    ]
    sections = (
        _section("Reports", ("", "before", "now"), about),
        _section("Requirements", ("requirement", "before", "now"), requirements),
        _section("Findings", ("finding", "before", "now", "cause", "what changed"), findings),
        _section("Measurements", ("figure", "before", "now", "change", "cause"), measured),
    )
    summary = (
        "No difference."
        if comparison.empty
        else ("Something is worse than it was." if comparison.regression else "Nothing is worse than it was.")
    )
    return _PAGE.format(summary=summary, sections="\n".join(section for section in sections if section))


def _lines(comparison: Comparison) -> Iterator[str]:
    if comparison.empty:
        yield "no difference"
        return
    yield from (f"{name}: {before}, now {after}" for name, before, after in comparison.about)
    told: set[str] = set()
    outcomes = {name: _became(before, after) for name, before, after in comparison.requirements}
    for each in comparison.findings[:MOST]:
        if each.requirement not in told:
            told.add(each.requirement)
            yield f"{each.requirement}: {outcomes.get(each.requirement, 'outcome unchanged')}"
        yield from _finding(each)
    if len(comparison.findings) > MOST:
        yield f"  and {len(comparison.findings) - MOST} more findings, which --format json lists"
    else:
        yield from islice((f"{name}: {change}" for name, change in outcomes.items() if name not in told), MOST)
    if comparison.measured:
        yield "measurements"
    for measured in comparison.measured[:MOST]:
        runs = f"{measured.runs[0]} and {measured.runs[1]} processes, rank test p = {measured.probability:.2g}"
        means = f"{_figure(measured, measured.before)}, now {_figure(measured, measured.after)} ({_moved(measured)})"
        yield f"  {measured.model} {measured.quantity}: {means}, {measured.cause.value} ({runs})"


def _figure(measured: Measured, value: float) -> str:
    factor, unit = _UNITS[measured.quantity]
    return f"{value / factor:.4g} {unit}".rstrip()


def _moved(measured: Measured) -> str:
    return "from zero" if measured.relative is None else f"{measured.relative:+.1%}"


def _finding(change: Change) -> Iterator[str]:
    yield f"  {change.finding}: {_became(change.before, change.after)}"
    yield f"    cause: {', '.join(each.value for each in change.causes)}"
    if change.before is not None:
        yield f"    was: {change.observed[0]}. {change.reason[0]}"
    if change.after is not None:
        yield f"    now: {change.observed[1]}. {change.reason[1]}"
    yield from (f"    {each.path}: {each.change}" for each in change.evidence[:CITED])
    if len(change.evidence) > CITED:
        yield f"    and {len(change.evidence) - CITED} more, which --format json lists"


def _short(text: str) -> str:
    """A text as one line of bounded length."""
    return visible(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def _became(before: str | None, after: str | None) -> str:
    if before == after:
        return f"still {after}"
    if before is None:
        return f"new, {after}"
    return f"{before}, now {after if after is not None else 'gone'}"


def _change(change: Change) -> dict[str, Any]:
    return {
        "requirement": change.requirement,
        "finding": change.finding,
        "before": change.before,
        "after": change.after,
        "causes": [each.value for each in change.causes],
        "observed": list(change.observed),
        "reason": list(change.reason),
        "evidence": [{"path": each.path, "before": each.before, "after": each.after} for each in change.evidence],
        "regression": change.regression,
    }


def _measured(measured: Measured) -> dict[str, Any]:
    return {
        "model": measured.model,
        "quantity": measured.quantity,
        "before": measured.before,
        "after": measured.after,
        "relative": measured.relative,
        "runs": list(measured.runs),
        "probability": measured.probability,
        "cause": measured.cause.value,
    }


def _section(title: str, header: tuple[str, ...], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th scope=col>{escape(each)}" for each in header)
    cells = [[f'<td data-label="{name}">{escape(_short(each))}' for name, each in zip(header, row, strict=True)] for row in rows[:MOST]]
    body = "\n".join(f"<tr>{''.join(row)}" for row in cells)
    more = f"\n<p>{len(rows) - MOST} more, which <code>--format json</code> lists.</p>" if len(rows) > MOST else ""
    return f"<h2>{title}</h2>\n<table>\n<thead><tr>{head}\n<tbody>\n{body}\n</table>{more}"
