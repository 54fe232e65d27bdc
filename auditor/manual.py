"""The manual page of a check, from its metadata: what `explain` prints and what docs/checks holds."""

from __future__ import annotations

import inspect
import os
import sys
from typing import TYPE_CHECKING

from auditor.model import Level, Outcome, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from auditor.model import Check, Finding, Report, Requirement, RequirementResult

_OUTCOMES = (Outcome.PASS, Outcome.FAIL, Outcome.UNKNOWN, Outcome.NOT_APPLICABLE)


def manual_page(check: Check) -> str:
    """A page of Markdown: what is required, how it is decided, a sentence per outcome, what to do and who can do it."""
    sentences = [f"* {outcome.value}: {check.sentences[outcome]}" for outcome in _OUTCOMES]
    asked = {None: "once for the device", "model": "for each zoo model"}.get(check.each, f"for each item of the {check.each}")
    return "\n".join([
        f"# {check.id}",
        "",
        f"Level: {check.level.value}. Asked {asked}. Who can act: {check.owner.value}.",
        "",
        f"Expected: {check.expected}",
        "",
        inspect.cleandoc(check.doc),
        "",
        *sentences,
        "",
        f"What to do: {check.remediation}",
    ])  # fmt: skip


def clause(requirement: Requirement) -> str:
    """A requirement as the page has it: its text, where that is from, and how the auditor reads it where it leaves room."""
    family = f", and so for each model of the zoo ({requirement.family})" if requirement.model else ""
    lines = [f"# {requirement.id}: {requirement.title}", "", f"Level: {requirement.level.value}{family}", "", requirement.text.strip(), ""]
    lines += [f"Source: {requirement.source}"]
    return "\n".join([*lines, *(["", f"Read as: {requirement.interpretation}"] if requirement.interpretation else [])])


def chain(report: Report, result: RequirementResult, finding: Finding) -> Iterator[str]:
    """How a finding came about, in lines and in order: what is required, what was read, what that says, what follows."""
    return map(visible, _chain(report, result, finding))


def _chain(report: Report, result: RequirementResult, finding: Finding) -> Iterator[str]:
    should = " (should)" if finding.level is Level.SHOULD else ""
    yield f"{finding.id}: {finding.outcome.value}{should}{', waived' if finding.waiver else ''}"
    yield ""
    yield f"1. Required by {result.id} ({result.level.value}): {result.title}"
    yield from (f"   {label:<10}{text}" for label, text in (("text", result.text), ("source", result.source)) if text)
    yield from ([f"   {'read as':<10}{result.interpretation}"] if result.interpretation else [])
    yield f"2. Asked by {finding.check} ({finding.level.value}) about {finding.subject}"
    yield f"   {'expected':<10}{finding.expected}"
    when = f", recorded {report.device.collected_at}" if report.device.collected_at else ""
    yield f"3. Read from {report.device.name} ({report.device.source}){when}"
    if report.device.snapshot_sha256:
        yield f"   {'record':<10}sha256 {report.device.snapshot_sha256}"
    for number, each in enumerate(finding.evidence, 1):
        role = "" if each.necessary else ", not needed alone"
        yield f"   {number}. {each.path} ({each.status.value}{role})"
        yield from (f"      {line}" for line in (each.excerpt, each.sha256 and f"sha256 {each.sha256}") if line)
    yield from ([] if finding.evidence else ["   nothing that can be cited"])
    yield f"4. Observed: {finding.observed}"
    yield f"5. Therefore {finding.outcome.value}: {finding.reason}"
    waiver = finding.waiver
    if waiver:
        yield f"   {'waived':<10}{waiver.sentence}"
    yield from (f"   {'claimed':<10}{claim.sentence}" for claim in finding.claims)
    if finding.outcome not in {Outcome.PASS, Outcome.NOT_APPLICABLE}:
        yield f"   {'fix':<10}{finding.remediation}"
        yield f"   {'owner':<10}{finding.owner.value}"
    standing = result.outcome.value + (", waived" if result.waived else "")
    bears = result.level is Level.MUST and finding.level is Level.MUST
    alike = sum(each.outcome is result.outcome and each.level is Level.MUST for each in result.findings)
    shared = f"; findings of it with that outcome: {alike}" if alike > 1 and finding.outcome is result.outcome else ""
    yield (f"6. So {result.id} is {standing}{shared}" if bears else f"6. {result.id} is {standing}; this is advice beside it")
    yield f"   {'verdict':<10}{report.verdict.value}, by {report.requirements_set}"


def write_pages(folder: str, found: Iterable[Check]) -> None:
    """Write a page a check and an index to a folder, in place of those that are there."""
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        if name.endswith(".md"):
            os.unlink(os.path.join(folder, name))
    lines = ["# Checks", "", "Made by `make docs` from the checks' own metadata.", ""]
    for check in found:
        lines.append(f"* [{check.id}]({check.id}.md) ({check.level.value}): {check.expected}")
        with open(os.path.join(folder, f"{check.id}.md"), "w", encoding="utf-8") as page:
            page.write(manual_page(check) + "\n")
    with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as index:
        index.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    from auditor import registry

    write_pages(sys.argv[1], registry.checks(plugins=False))
