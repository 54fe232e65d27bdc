"""`crosml-audit submit` and `crosml-audit review`: a vendor's signed submission, and what a reviewer makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor import files
from auditor.cli.common import Force, formats, give, outputs
from auditor.cli.options import read_date, takes
from auditor.cli.signing import Keys, Signers, Trust, signed_by, signers, trusted
from auditor.errors import AuditError, UsageError
from auditor.model import EXIT_CODES, visible
from auditor.request import Judging, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.review import Reviewed
    from auditor.submit import Submission

Today = Annotated[str | None, typer.Option(metavar="DATE", help="The day that decides which waivers are in force (UTC).")]


@takes(Judging, without=("apply_waivers",))
def submit(
    asked: dict[str, Any],
    *,
    snapshot: Annotated[str, typer.Option(metavar="FILE", help="The record to submit.")],
    statements: Annotated[str | None, typer.Option(metavar="FILE", help="The vendor's statements on findings (TOML).")] = None,
    key: Keys = [],
    signer: Signers = [],
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the submission.")] = None,
    redact: Annotated[bool, typer.Option("--redact", help="Take serial numbers, MACs, host and user names, secrets out first.")] = False,
    redact_word: Annotated[list[str], typer.Option(metavar="WORD", help="Take this word out, too; may repeat.")] = [],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be inside; sign and write nothing.")] = False,
    today: Today = None,
    force: Force = False,
) -> None:
    """Put a snapshot, its report, the rules and your statements in one signed file for a reviewer.

    Exit codes: 0 written (whatever the verdict), 2 wrong usage, 4 the snapshot cannot be read or nothing could be signed.
    """
    from auditor import submit as submitting

    request = Request(**asked, snapshot=snapshot, today=read_date(today))
    words = [*redact_word] if redact or redact_word else None
    if not dry_run and output is None:
        raise UsageError("submit: missing option --output: expected a FILE for the submission, or --dry-run")
    outputs(output, force=force)
    sign_with = () if dry_run else signers(key, signer)
    made = submitting.assemble(request, statements, words)
    data = b"" if dry_run else submitting.signed(made, sign_with)
    for line in _contents(made, entries=dry_run):
        print(visible(line))
    if not dry_run and output is not None:
        files.write(output, data)
        print(visible(f"Written to {output}, signed by {signed_by(each.key for each in sign_with)}."))
    _limits()


@takes(Judging, without=("apply_waivers",))
def review(
    asked: dict[str, Any],
    *,
    file: Annotated[str, typer.Argument(metavar="FILE")],
    trust: Trust = [],
    key: Keys = [],
    signer: Signers = [],
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write your signed decision.")] = None,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="What you say in the decision.")] = "",
    format: Annotated[list[str], typer.Option(metavar="NAME=PATH", help="Write your own report, too; may repeat.")] = [],
    today: Today = None,
    force: Force = False,
) -> None:
    """Verify a submission, judge its record by your own rules, and explain each difference from the vendor's report.

    Exit codes: your verdict: 0 compliant, 1 non-compliant, 3 incomplete; 2 wrong usage; 4 refused, nothing is written.
    """
    from auditor import comparison, requirements
    from auditor.audit import read_rules
    from auditor.review import decision
    from auditor.review import review as review_it
    from auditor.submission import bundle

    forms = formats(format) if format else []
    if any(path is None for _, path in forms):
        raise UsageError("--format: expected NAME=PATH: standard output is for the review")
    if (output is None) is not (not key and not signer):
        raise UsageError("--output: a decision is signed: expected --output with --key or --signer")
    outputs(output, *(path for _, path in forms), force=force)
    trusts = trusted(trust)
    sign_with = signers(key, signer) if output is not None else ()
    request = Request(**asked, snapshot=file, today=read_date(today))
    rules = read_rules(request, requirements.load(request.requirements))
    data = files.read(file, bundle.MAX_FILE, file, AuditError)
    reviewed = review_it(data, visible(file), trusts, request, rules)
    for line in _reviewed(reviewed):
        print(visible(line))
    print(comparison.as_text(reviewed.differences), end="")
    envelope = decision(reviewed, data, comment, sign_with) if output is not None else b""
    for form, path in forms:
        give(form, reviewed.report, path)
    if output is not None:
        files.write(output, envelope)
    _limits()
    raise typer.Exit(EXIT_CODES[reviewed.report.verdict])


def _contents(made: Submission, *, entries: bool) -> Iterator[str]:
    """What is in a submission: its members, and of a dry run every answer of the record."""
    import hashlib

    from auditor.cli.snapshot import entry_lines

    for name, content in sorted(made.members.items()):
        yield f"{len(content):>10}  {hashlib.sha256(content).hexdigest()}  {name}"
    if entries:
        yield from entry_lines(made.record)
    if made.redacted is not None:
        found = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(made.redacted.items())) or "nothing to take out"
        yield f"Redacted: {found}. Identifiers that are compressed or encoded are not found: look at the list above."
    yield f"Verdict: {made.report.verdict.value}, by {made.report.requirements_set}."


def _reviewed(reviewed: Reviewed) -> Iterator[str]:
    stated, report = reviewed.stated, reviewed.report
    yield f"signed by   {signed_by(reviewed.signers, reviewed.trusted)}"
    yield f"record      {report.device.name}, {report.device.collected_at}, sha256 {report.device.snapshot_sha256}"
    yield f"vendor      {stated.verdict.value}, by {stated.requirements_set}, {stated.tool.name} {stated.tool.version}"
    yield f"reviewer    {report.verdict.value}, by {report.requirements_set}, {report.tool.name} {report.tool.version}"
    claims = [claim for result in report.requirements for finding in result.findings for claim in finding.claims]
    if claims:
        yield f"claimed     statements of the vendor, which decide nothing: {len(claims)}"
    yield "Differences from the vendor's report:"


def _limits() -> None:
    from auditor.submission.statement import DISCLAIMER

    print(DISCLAIMER)
