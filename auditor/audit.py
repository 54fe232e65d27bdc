"""The one way through: ask a source, record the answers, read facts, judge them. The only module that knows all its stages."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor import files, registry, requirements
from auditor.codec import decode_waivers
from auditor.details import details
from auditor.engine import Context, Selection, judge, unwaived
from auditor.errors import AuditError, UsageError
from auditor.facts.collect import collect
from auditor.facts.types import Facts, Ok, PublicKey, Settings
from auditor.gather import TOOL, gather
from auditor.model import DeviceSummary, ManifestUsed, PinnedBy, Report, Waiver, ZooUsed, printable, visible
from auditor.requirements import RequirementSet
from auditor.sources import recording
from auditor.sources.recording import Record, Replay
from auditor.vocabulary import near, vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Read = Callable[[str, str], bytes]

    from auditor.request import Request
    from auditor.vocabulary import Vocabulary
    from auditor.zoo.catalogue import ZooVersion

LIST_LIMIT = 1 << 20
"""Bytes of a waivers, manifest, base image or key file."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Audited:
    """A report, and the record that it was judged from."""

    report: Report
    record: Record


@dataclass(frozen=True, slots=True)
class Rules:
    """By what a record is judged."""

    requirements: RequirementSet
    waivers: tuple[Waiver, ...]
    settings: Settings
    manifest: ManifestUsed | None = None
    tool_manifest: ManifestUsed | None = None


def audit(request: Request, progress: Callable[[str], None]) -> Audited:
    """Carry out an audit. Raises UsageError for what the request names wrongly, AuditError where a device cannot be asked."""
    rules = read_rules(request, requirements.load(request.requirements))
    request = replace(request, selection=_selection(request.selection, vocabulary(rules.requirements.requirements, registry.checks())))
    record = gather(request, progress)
    return Audited(judged(record, rules, request), record)


def read_rules(request: Request, judged_by: RequirementSet, read: Read | None = None) -> Rules:
    """The rules that a request names. Raises UsageError; `read` gives the bytes of a file by its path and the option that names it."""
    read = read or _small
    waivers = () if request.waivers is None else decode_waivers(read(request.waivers, "--waivers"), request.waivers)
    pinned, manifest = ({}, None) if request.manifest is None else _manifest(request.manifest, judged_by.zoo, read)
    tools, tool_manifest = (frozenset[str](), None) if request.tool_manifest is None else _tool_manifest(request.tool_manifest, read)
    settings = replace(_settings(request, judged_by, read), manifest=pinned, tools=tools)
    return Rules(judged_by, waivers, settings, manifest, tool_manifest)


def judged(record: Record, rules: Rules, request: Request) -> Report:
    """What a record comes to by some rules; of the request, its selection, its date and what it says of the device count."""
    judged_by, selection, checks = rules.requirements, request.selection, registry.checks()
    facts = _told_apart(replace(collect(Replay(record)), settings=rules.settings), request.not_accelerators)
    _wanted(request, facts)
    summary = _summary(record, facts)
    context = Context(
        TOOL,
        judged_by.name,
        summary,
        ZooUsed(judged_by.zoo.version, facts.plan.models, _pins(facts), rules.manifest, rules.tool_manifest),
        tuple(_notes(request, facts)),
        tuple(_judged_with(request)),
        details(facts),
    )

    def selected(selection: Selection) -> Report:
        return judge(facts, checks, judged_by.requirements, rules.waivers, request.today, selection, context)

    report = selected(selection)
    _found(selection, report, selected)
    return report if request.apply_waivers else unwaived(report)


def _selection(asked: Selection, known: Vocabulary) -> Selection:
    """The selection, an id each. A name in --only or --skip that names nothing would silently leave out everything, or nothing."""
    selection = Selection(known.split(asked.only), known.split(asked.skip))
    for name in (*selection.only, *selection.skip):
        if not known.matches(name):
            raise UsageError(f"--only, --skip: {known.unknown(name)}")
    return selection


def _found(selection: Selection, report: Report, judged: Callable[[Selection], Report]) -> None:
    """A finding in --only that this device does not have would give a report on nothing."""
    for name in selection.only:
        if "@" in name and name not in _ids(report):
            there = _ids(judged(Selection((name.partition("@")[0],))))
            raise UsageError(f"--only: {visible(name)[:200]}: expected a finding of this device{near(name, there)}")


def _ids(report: Report) -> set[str]:
    return {finding.id for result in report.requirements for finding in result.findings}


def _wanted(request: Request, facts: Facts) -> None:
    """Say so where an accelerator that was asked for is not there: an audit of nothing would help nobody."""
    if isinstance(facts.accelerators, Ok) and not facts.accelerators.value.unread:
        known = {part for each in facts.accelerators.value.items for part in (each.subject, *each.parts)}
        missing = sorted(set(facts.plan.accelerators) - known)
        if missing and request.snapshot is not None:
            raise AuditError(f"{request.snapshot}: plan: {missing[0]}: expected one of the accelerators of the recorded device")
        if missing:
            raise UsageError(f"--accelerator: {missing[0]}: expected one of this device's accelerators")


def _told_apart(facts: Facts, none: tuple[str, ...]) -> Facts:
    """The facts without the unrecognised devices that the user now says are no accelerators; a record knows what was said then."""
    found = facts.accelerators
    if not none or not isinstance(found, Ok):
        return facts
    left = tuple(each for each in found.value.unrecognised if each.subject not in none)
    return replace(facts, accelerators=replace(found, value=replace(found.value, unrecognised=left)))


def _pins(facts: Facts) -> dict[str, PinnedBy]:
    """What pins the model files that were measured, by model; of an earlier record, what pins them now."""
    found = {each.name: facts.settings.pinned_by(each, facts.plan.archive) for each in facts.plan.models}
    return {name: how for name, how in found.items() if how}


def _summary(record: Record, facts: Facts) -> DeviceSummary:
    looked = facts.accelerators.value.evidence if isinstance(facts.accelerators, Ok) else ()
    return DeviceSummary(
        source=record.source,
        name=printable(record.name),
        snapshot_sha256=recording.digest(record),
        collected_at=record.collected_at,
        kernel=facts.kernel.release.value if isinstance(facts.kernel.release, Ok) else None,
        looked_in=tuple(f"{item.path} ({item.status.value})" for item in looked),
        demonstration=facts.plan.demonstration,
        board=facts.identity.board or "",
        build=facts.identity.build or "",
        firmware_version=facts.identity.firmware or "",
        collector=printable(record.collector),
        collected_by=printable(facts.plan.user),
        collected_uid=facts.plan.uid,
        command=tuple(map(printable, facts.plan.command)),
    )


def _judged_with(request: Request) -> Iterator[str]:
    """The options that decide how a record is judged, where they are not the default."""
    if request.requirements != requirements.DEFAULT:
        yield from ("--requirements", printable(request.requirements))
    if request.waivers is not None:
        yield from ("--waivers", printable(request.waivers), "--today", request.today.isoformat())
    if not request.apply_waivers:
        yield "--no-waivers"
    for option, values in (
        ("--trust-root", request.trust_roots),
        ("--only", request.selection.only),
        ("--skip", request.selection.skip),
    ):
        for value in values:
            yield from (option, printable(value))
    for option, path in (
        ("--zoo-manifest", request.manifest),
        ("--tool-manifest", request.tool_manifest),
        ("--base-image", request.base_image),
    ):
        if path is not None:
            yield from (option, printable(path))


def _notes(request: Request, facts: Facts) -> Iterator[str]:
    """What a reader must know of how a report came about, and no finding says."""
    plan = facts.plan
    if request.snapshot is not None:
        yield "Judged from a snapshot: what it holds is the word of whoever made it."
    if plan.accelerators:
        yield f"Of this device, only what --accelerator named was judged: {printable(', '.join(plan.accelerators))}."
    told = sorted({*plan.not_accelerators, *request.not_accelerators})
    if told:
        yield f"Taken for no accelerators, by --not-an-accelerator: {printable(', '.join(told))}."
    if isinstance(facts.closure, Ok) and facts.closure.value.named_by:
        yield f"No delegate was given: the one that {facts.closure.value.named_by} names was read. --delegate names another."
    if plan.zoo_note and plan.runs:
        yield plan.zoo_note
    yield from _confinement_notes(facts)


def _confinement_notes(facts: Facts) -> Iterator[str]:
    models = facts.models.value if isinstance(facts.models, Ok) else ()
    found = [run.value.conditions.get("confinement") for each in models for run in each.runs if isinstance(run, Ok)]
    states = [each for each in found if isinstance(each, dict)]
    if any(each.get("state") == "unconfined" for each in states):
        yield "The zoo was run without a confinement that holds."
    lists = [each.get("allowed") for each in states]
    allowed = sorted({str(path) for each in lists if isinstance(each, list) for path in each})
    if allowed:
        yield f"To the delegate, --allow-path opened: {printable(', '.join(allowed))}."


def _settings(request: Request, judged_by: RequirementSet, read: Read) -> Settings:
    roots = [_trust_root(text, read) for text in request.trust_roots]
    return replace(
        published(judged_by.zoo),
        trust_roots=frozenset(root for root in roots if isinstance(root, str)),
        keys=tuple(root for root in roots if isinstance(root, PublicKey)),
        base_image=frozenset() if request.base_image is None else _base_image(request.base_image, read),
    )


def published(zoo: ZooVersion) -> Settings:
    """What a requirement set pins by itself: files, and whole archives."""
    return Settings(
        published={model.name: model.sha256 for model in zoo.models if model.sha256},
        archives=frozenset(each.sha512 for each in zoo.archives),
    )


def _manifest(path: str, zoo: ZooVersion, read: Read) -> tuple[dict[str, tuple[str, ...]], ManifestUsed]:
    """The sha256 of the files that a manifest names, by the models of a zoo; and the manifest's own. A model may have several files."""
    listed, used = _listed(path, "--zoo-manifest", read)
    found = {model.name: tuple(listed[name] for name in model.files if name in listed) for model in zoo.models}
    pinned = {name: digests for name, digests in found.items() if digests}
    if not pinned:
        raise UsageError(f"--zoo-manifest: {printable(path)}: expected model files of zoo {zoo.version}, found none")
    return pinned, used


def _tool_manifest(path: str, read: Read) -> tuple[frozenset[str], ManifestUsed]:
    """The sha256 of the tools that a manifest names, and the manifest's own."""
    from auditor.zoo.pins import TOOLS  # noqa: PLC0415  # only for those who have one

    listed, used = _listed(path, "--tool-manifest", read)
    found = frozenset(listed[name] for name in TOOLS if name in listed)
    if not found:
        raise UsageError(f"--tool-manifest: {printable(path)}: expected {' or '.join(TOOLS)}, found none")
    return found, used


def _listed(path: str, option: str, read: Read) -> tuple[Mapping[str, str], ManifestUsed]:
    from auditor.zoo.pins import parse_manifest  # noqa: PLC0415  # only for those who have one

    data = read(path, option)
    return parse_manifest(data, path), ManifestUsed(printable(path), hashlib.sha256(data).hexdigest())


def is_fingerprint(text: str) -> bool:
    """Whether a trusted root is named by its sha256, not by a file."""
    return bool(_SHA256.fullmatch(text.lower()))


def _trust_root(text: str, read: Read) -> str | PublicKey:
    """A fingerprint as it is given, or what a file holds."""
    from auditor.verify import crypto  # noqa: PLC0415  # cryptography, only for those who name a root

    if is_fingerprint(text):
        return text.lower()
    label = f"--trust-root: {printable(text)}"
    if read is _small and not os.path.exists(text):
        raise UsageError(f"{label[:100]}: expected 64 hexadecimal digits, or a file with a certificate or a key")
    return crypto.read_root(read(text, "--trust-root"), label)


def load_waivers(path: str) -> tuple[Waiver, ...]:
    """The waivers of a file. Raises UsageError with one line."""
    return decode_waivers(_small(path, "--waivers"), path)


def _base_image(path: str, read: Read) -> frozenset[str]:
    """The paths in a list of files; a list without any would silently exclude nothing."""
    lines = os.fsdecode(read(path, "--base-image")).split("\n")
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for line in found or ["no line"]:
        if not line.startswith("/"):
            raise UsageError(f"--base-image: {path}: {line[:80]}: expected one absolute path a line")
    return frozenset(found)


def _small(path: str, option: str) -> bytes:
    """A small file named on the command line; raises UsageError with one line."""
    return files.read(path, LIST_LIMIT, f"{option}: {path}", UsageError)
