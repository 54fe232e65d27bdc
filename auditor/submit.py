"""A submission put together: a record, what it was judged by, what came of it, what the vendor states (see `submission`)."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from auditor import audit, files, registry, requirements
from auditor.codec import decode_json, decode_statements
from auditor.engine import claimed
from auditor.errors import AuditError, UsageError
from auditor.model import Report, printable, visible
from auditor.request import Request
from auditor.sources import recording
from auditor.sources.recording import Record
from auditor.submission import bundle, redact, statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auditor.audit import Rules
    from auditor.model import Claim
    from auditor.submission.keys import Signer
    from auditor.submission.redact import Redaction

SCHEMA = "crosml-audit/settings/1"
_SET = bundle.SET[0]


@dataclass(frozen=True, slots=True)
class Settings:
    """`settings.json`: with which options a record was judged. Files are named as members of the submission.

    `requirements` is a shipped set, or the member; `trust_roots` are fingerprints and members.
    """

    requirements: str
    today: datetime.date
    trust_roots: tuple[str, ...] = ()
    schema: str = SCHEMA


@dataclass(frozen=True, slots=True)
class Submission:
    """All of a submission but its signatures."""

    members: Mapping[str, bytes]
    record: Record
    report: Report
    redacted: Mapping[str, int] | None
    """How many identifiers of each kind were taken out; None where nothing was to be."""


def assemble(request: Request, statements: str | None, words: Sequence[str] | None) -> Submission:
    """A submission of the snapshot that a request names, judged by the rules that it names.

    `words`: take identifiers out of the record before it is judged, and these words with them; None leaves the record as it is. Raises
    UsageError for what the request names wrongly, and AuditError where the outcomes would not be those of the record as it was.
    """
    audit.read_rules(request, requirements.load(request.requirements))  # what is wrong in a file is said of the file, not of a member
    path = str(request.snapshot)
    snapshot = files.read(path, recording.MAX_FILE, path, AuditError)
    record = recording.unpack(snapshot, visible(path))
    members = {**_rules(request), **_stated(statements)}
    if words is None:
        members[bundle.SNAPSHOT] = snapshot
        return _complete(members, record, None)
    redaction = redact.find(record, words)
    plain = judge(members, record, "submit")
    members = _redacted(members, redaction)
    record = redact.redacted(record, redaction)
    members[bundle.SNAPSHOT] = recording.pack(record)
    made = _complete(members, record, redaction.counts)
    _same_outcomes(plain, made.report, redaction)
    return made


def signed(submission: Submission, signers: Sequence[Signer]) -> bytes:
    """The file of a submission, with one signature of each signer. Raises AuditError where one does not sign."""
    report = submission.report
    predicate = {
        "tool": {"name": report.tool.name, "version": report.tool.version},
        "requirements_set": report.requirements_set,
        "verdict": report.verdict.value,
        "record_sha256": report.device.snapshot_sha256,
        "redacted": submission.redacted is not None,
    }
    attestation = statement.signed(submission.members, statement.SUBMISSION, predicate, signers)
    return bundle.pack({**submission.members, bundle.ATTESTATION: attestation})


def judge(members: Mapping[str, bytes], record: Record, label: str) -> Report:
    """The report on a record by the rules in a submission, with the vendor's statements beside the findings."""
    request = asked(members, label)
    return claimed(audit.judged(record, rules(members, request, label), request), claims(members, label))


def asked(members: Mapping[str, bytes], label: str) -> Request:
    """The request that a submission was made with. Raises AuditError."""
    settings = decode_json(members[bundle.SETTINGS], Settings, f"{label}: {bundle.SETTINGS}")
    if settings.schema != SCHEMA:
        raise AuditError(visible(f"{label}: {bundle.SETTINGS}: schema: expected {SCHEMA}, got {settings.schema[:80]!r}"))
    return Request(
        snapshot=bundle.SNAPSHOT,
        requirements=settings.requirements,
        today=settings.today,
        trust_roots=settings.trust_roots,
        waivers=_present(members, bundle.WAIVERS),
        manifest=_present(members, bundle.MANIFEST),
        tool_manifest=_present(members, bundle.TOOL_MANIFEST),
        base_image=_present(members, bundle.BASE_IMAGE),
    )


def rules(members: Mapping[str, bytes], request: Request, label: str) -> Rules:
    """The rules in a submission. Raises UsageError, in which files have the names of members."""

    def read(name: str, option: str) -> bytes:
        if name not in members:
            raise UsageError(visible(f"{option}: {name[:200]}: missing in {label}"))
        return members[name]

    return audit.read_rules(request, requirement_set(members, request.requirements), read)


def requirement_set(members: Mapping[str, bytes], name: str) -> requirements.RequirementSet:
    """The requirement set in a submission: known by its shipped name only where its files are those that ship."""
    texts = (members[bundle.SET[0]], members[bundle.SET[1]], members[bundle.SET[2]])
    shipped = name in requirements.names() and texts == requirements.texts(name)
    return requirements.parse(texts, name if shipped else _SET, shipped=shipped)


def claims(members: Mapping[str, bytes], label: str) -> tuple[Claim, ...]:
    """The vendor's statements in a submission; AuditError where an attachment is missing, is another, or belongs to none."""
    stated = decode_statements(members[bundle.STATEMENTS], bundle.STATEMENTS) if bundle.STATEMENTS in members else ()
    wanted = {bundle.attachment(each.sha256) for each in stated if each.sha256}
    held = {name for name in members if name.startswith(bundle.attachment(""))}
    for name in sorted(wanted ^ held):
        wrong = "is missing" if name in wanted else "belongs to no statement"
        raise AuditError(f"{label}: {name} {wrong}")
    for name in sorted(held):
        if bundle.attachment(hashlib.sha256(members[name]).hexdigest()) != name:
            raise AuditError(f"{label}: {name}: its content has another sha256")
    return stated


def as_json(report: Report) -> bytes:
    """A report as it is in a submission, and as it is signed."""
    return registry.formats()["json"].render(report).encode()


def used_models(report: Report) -> bytes:
    """The model files that were measured, in sha256sum's format."""
    return "".join(f"{each.sha256}  {visible(each.name)}\n" for each in report.zoo.models).encode()


def _complete(members: dict[str, bytes], record: Record, redacted: Mapping[str, int] | None) -> Submission:
    report = judge(members, record, "submit")
    members = {**members, bundle.REPORT: as_json(report), bundle.ZOO: used_models(report)}
    return Submission(members, record, report, redacted)


def _rules(request: Request) -> dict[str, bytes]:
    """The members that hold what a request names, and `settings.json`."""

    def small(path: str, option: str) -> bytes:
        return files.read(path, audit.LIST_LIMIT, f"{option}: {path}", UsageError)

    members = dict(zip(bundle.SET, requirements.texts(request.requirements), strict=True))
    roots = []
    for text in request.trust_roots:
        if audit.is_fingerprint(text):
            roots.append(text.lower())
        else:
            roots.append(bundle.root(len(roots)))
            members[roots[-1]] = small(text, "--trust-root")
    named = (
        (bundle.WAIVERS, "--waivers", request.waivers),
        (bundle.MANIFEST, "--zoo-manifest", request.manifest),
        (bundle.TOOL_MANIFEST, "--tool-manifest", request.tool_manifest),
        (bundle.BASE_IMAGE, "--base-image", request.base_image),
    )
    members |= {name: small(path, option) for name, option, path in named if path is not None}
    own = request.requirements not in requirements.names()
    settings = Settings(_SET if own else request.requirements, request.today, tuple(roots))
    document = {field.name: _plain(getattr(settings, field.name)) for field in fields(settings)}
    return {**members, bundle.SETTINGS: json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else list(value) if isinstance(value, tuple) else value.isoformat()


def _stated(path: str | None) -> dict[str, bytes]:
    """The vendor's statements with their attachments, which lie where the file says, from its own folder on."""
    if path is None:
        return {}
    text = files.read(path, audit.LIST_LIMIT, f"--statements: {path}", UsageError)
    members = {bundle.STATEMENTS: text}
    for number, claim in enumerate(decode_statements(text, path)):
        if claim.attachment:
            where = f"{path}: statement[{number}].attachment: {claim.attachment}"
            data = files.read(os.path.join(os.path.dirname(path), claim.attachment), bundle.MAX_ATTACHED, where, UsageError)
            if hashlib.sha256(data).hexdigest() != claim.sha256:
                raise UsageError(visible(f"{where}: expected sha256 {claim.sha256}, got {hashlib.sha256(data).hexdigest()}"))
            members[bundle.attachment(claim.sha256)] = data
    return members


def _present(members: Mapping[str, bytes], name: str) -> str | None:
    return name if name in members else None


def _redacted(members: Mapping[str, bytes], redaction: Redaction) -> dict[str, bytes]:
    """The members without the identifiers. What has a digest that others name cannot be changed here: it is refused.

    Findings are named in waivers and statements, and files in the list of the base image: these names change as those of the record do.
    """
    changed = {name: redaction.apply(data) for name, data in members.items()}
    for name, data in members.items():
        if name.startswith(bundle.attachment("")) and changed[name] != data:
            raise UsageError(f"--redact: {name} names what is to be taken out: redact the attachment, and give its new sha256")
    return changed


def _same_outcomes(plain: Report, redacted: Report, redaction: Redaction) -> None:
    """Raise AuditError where a redacted record gives other outcomes than the record as it was."""
    before, after = (
        Counter(
            (printable(redaction.text(finding.id)), finding.outcome, finding.waiver is not None)
            for result in report.requirements
            for finding in result.findings
        )
        for report in (plain, redacted)
    )
    for name, outcome, _ in sorted((before - after) + (after - before), key=lambda each: each[0]):
        raise AuditError(visible(f"--redact: {name} would not be {outcome.value} both before and after; nothing was written"))
