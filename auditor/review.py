"""A submission reviewed: verified, judged again by the reviewer's own rules, and every difference from the vendor's report explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor import audit, submit
from auditor.comparing import Cause, Comparison, compare
from auditor.engine import claimed
from auditor.errors import AuditError, UsageError
from auditor.model import Report, visible
from auditor.reporting import read_report
from auditor.sources import recording
from auditor.submission import bundle, statement
from auditor.submission.keys import PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auditor.audit import Rules
    from auditor.request import Request
    from auditor.submission.keys import Signer

MOST_DECIDED = 1000
"""Differences that a decision lists: an envelope has bounds."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What came of a review: `stated` is the vendor's report, `report` the reviewer's, on the same record."""

    signers: tuple[PublicKey, ...]
    trusted: tuple[PublicKey, ...]
    stated: Report
    report: Report
    differences: Comparison
    """From the vendor's report to the reviewer's, each finding with its causes."""
    members: Mapping[str, bytes]


def review(data: bytes, label: str, trust: Sequence[PublicKey], request: Request, rules: Rules) -> Reviewed:
    """Verify a submission and judge its record by the reviewer's rules. Raises AuditError with the reason where it does not hold."""
    members, signed = verified(data, label, trust)
    record = recording.unpack(members[bundle.SNAPSHOT], f"{label}: {bundle.SNAPSHOT}")
    stated = read_report(members[bundle.REPORT], f"{label}: {bundle.REPORT}")
    if stated.device.snapshot_sha256 != recording.digest(record):
        raise AuditError(f"{label}: {bundle.REPORT}: device.snapshot_sha256: the report is not about the record in {bundle.SNAPSHOT}")
    if members[bundle.ZOO] != submit.used_models(stated):
        raise AuditError(f"{label}: {bundle.ZOO}: expected the model files of {bundle.REPORT}")
    try:
        theirs = submit.asked(members, label)
        steps = _steps(members, label, theirs, request, rules)
        claims = submit.claims(members, label)
    except UsageError as error:  # no file of the user's: a member
        raise AuditError(f"{label}: {error}") from None
    reports = [claimed(audit.judged(record, by, asked), claims) for _cause, by, asked in steps]
    changed: dict[str, list[Cause]] = {}
    for (cause, _, _), before, after in zip(steps, (stated, *reports), reports, strict=False):
        for change in compare(before, after).findings:
            why = Cause.STATED if cause is Cause.AUDITOR and before.tool == after.tool else cause
            changed.setdefault(change.finding, []).append(why)
    found = compare(stated, reports[-1])
    differences = replace(
        found, findings=tuple(replace(each, causes=tuple(changed.get(each.finding, each.causes))) for each in found.findings)
    )
    return Reviewed(signed.signers, signed.trusted, stated, reports[-1], differences, members)


def verified(data: bytes, label: str, trust: Sequence[PublicKey]) -> tuple[Mapping[str, bytes], statement.Statement]:
    """The members of a submission with what was signed of them. Raises AuditError with the reason where they are not what was signed."""
    members = bundle.unpack(data, label)
    signed = statement.read(members[bundle.ATTESTATION], trust, f"{label}: {bundle.ATTESTATION}")
    if signed.predicate_type != statement.SUBMISSION:
        raise AuditError(visible(f"{label}: {bundle.ATTESTATION}: predicateType: expected {statement.SUBMISSION}"))
    statement.check(signed, {name: content for name, content in members.items() if name != bundle.ATTESTATION}, label)
    return members, signed


def decision(reviewed: Reviewed, data: bytes, comment: str, signers: Sequence[Signer]) -> bytes:
    """The reviewer's signed decision on a submission: an envelope about the submission's file and the reviewer's report."""
    report = reviewed.report
    predicate = {
        "tool": {"name": report.tool.name, "version": report.tool.version},
        "requirements_set": report.requirements_set,
        "judged_with": list(report.judged_with),
        "verdict": report.verdict.value,
        "comment": comment,
        "vendor": {"requirements_set": reviewed.stated.requirements_set, "verdict": reviewed.stated.verdict.value},
        "differences": _differences(reviewed.differences),
        "limits": statement.DISCLAIMER,
    }
    files = {"submission.crosml": data, bundle.REPORT: submit.as_json(report)}
    return statement.signed(files, statement.REVIEW, predicate, signers)


def _steps(
    members: Mapping[str, bytes], label: str, theirs: Request, mine: Request, rules: Rules
) -> tuple[tuple[Cause, Rules, Request], ...]:
    """From the vendor's rules to the reviewer's, one kind of rule after another: what changes at a step has that one cause.

    The first step is the vendor's rules on this auditor: what changes there is the auditor's version, or a report that was made up.
    """
    first = submit.rules(members, theirs, label)
    second = replace(first, requirements=rules.requirements)
    third = replace(second, settings=rules.settings)
    options = replace(mine, waivers=theirs.waivers, today=theirs.today)
    return (
        (Cause.AUDITOR, first, theirs),
        (Cause.REQUIREMENTS, second, replace(theirs, requirements=mine.requirements)),
        (Cause.OPTIONS, third, options),
        (Cause.WAIVER, rules, mine),
    )


def _differences(differences: Comparison) -> dict[str, Any]:
    """The differences as a decision has them: what became of each finding, and why. `count` is of all of them."""
    shown = differences.findings[:MOST_DECIDED]
    return {
        "count": len(differences.findings),
        "findings": [
            {"finding": each.finding, "before": each.before, "after": each.after, "causes": [cause.value for cause in each.causes]}
            for each in shown
        ],
    }
