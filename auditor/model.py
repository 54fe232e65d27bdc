"""The words of an audit: requirement, check, finding, outcome, evidence, waiver, report.

Frozen dataclasses and closed enums of the standard library; this module also goes to the device, so it imports nothing else of the program.
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

REPORT_SCHEMA = "crosml-audit/report/1"


class Status(enum.Enum):
    """How a question to a device was answered."""

    OK = "ok"
    ABSENT = "absent"
    """There is no such file (ENOENT)."""
    DENIED = "denied"
    """The auditor may not read it (EACCES, EPERM)."""
    FAILED = "failed"
    """Any other error, a limit exceeded, or content that could not be parsed."""
    UNASKED = "unasked"
    """This source cannot answer the question, or the record does not hold it."""


class Outcome(enum.Enum):
    """The answer of a check about one subject. Nothing else is possible."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """The evidence is missing, denied or could not be parsed."""
    NOT_APPLICABLE = "not-applicable"
    ERROR = "error"
    """The check itself broke."""


_WORST_FIRST = (Outcome.FAIL, Outcome.ERROR, Outcome.UNKNOWN, Outcome.PASS, Outcome.NOT_APPLICABLE)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of some outcomes; `unknown` where there are none."""
    return min(outcomes, key=_WORST_FIRST.index, default=Outcome.UNKNOWN)


class Level(enum.Enum):
    """Whether a requirement or a check bears on the verdict (`must`) or is shown beside it (`should`)."""

    MUST = "must"
    SHOULD = "should"


class Owner(enum.Enum):
    """Who can act on a finding."""

    VENDOR = "vendor"
    FIRMWARE = "firmware"
    CHROMEOS = "chromeos"
    LAB = "lab"


class Verdict(enum.Enum):
    """The verdict over the `must` requirements."""

    COMPLIANT = "compliant"
    NON_COMPLIANT = "non-compliant"
    INCOMPLETE = "incomplete"


class Incomplete(enum.Enum):
    """Why a verdict is `incomplete`, the first of these that holds: a device that lost its driver is not one that nobody measured yet."""

    NO_ACCELERATOR = "no-accelerator"
    """None was found, or what was found is not known to be one."""
    NO_DRIVER = "no-driver"
    """No driver is bound to the accelerators that were found."""
    NOTHING_MEASURED = "nothing-measured"
    """Clauses that take a measurement are open, and no model was run."""
    UNDECIDED = "undecided"
    """Other evidence is missing."""


class Remedy(enum.Enum):
    """What would decide an unknown: shown in the finding, and counted in the report's last lines."""

    ROOT = "as root"
    LIVE = "on the device itself"
    DELEGATE = "with --delegate"
    ZOO = "with --zoo"
    RUNTIME = "with a TFLite runtime"
    MANIFEST = "with --zoo-manifest"
    TOOL = "with a tool that is known"
    PROBES = "with probes"
    MORE_RUNS = "with more runs"
    DRIVER = "with a driver bound"
    SELECTED = "without --only, --skip and --no-…"
    VENDOR = "by the vendor"
    WHAT_IT_IS = "with --accelerator or --not-an-accelerator"
    EVIDENCE = "with readable evidence"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where something was read. `necessary` is false where a passing finding would stand without it (one branch of an "or")."""

    path: str
    status: Status
    sha256: str | None = None
    excerpt: str = ""
    necessary: bool = True


@dataclass(frozen=True, slots=True)
class Requirement:
    """One clause of the page, or one cell of the zoo table.

    `family` is what checks name: the id itself for a clause, `zoo-latency`, `zoo-accuracy` or `zoo-memory` for a cell of the table,
    which also has its `model` and its `limits` by name in the unit of the name (`latency_ms`, `avg_error`, `std_dev`, `memory_bytes`).
    `interpretation` says how the auditor reads the text where it leaves room; empty where it leaves none.
    """

    id: str
    title: str
    text: str
    source: str
    level: Level
    family: str
    model: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    interpretation: str = ""


@dataclass(frozen=True, slots=True)
class Waiver:
    """A person's dated, reasoned exception; in force up to and including the day `expires` (UTC).

    `finding` is the id of one, or a pattern of ids; `board` a pattern of the names of boards, empty for any (`auditor.waivers`).
    """

    finding: str
    reason: str
    author: str
    expires: datetime.date
    ticket: str = ""
    board: str = ""

    @property
    def sentence(self) -> str:
        """The waiver in one line: why, its ticket, whose it is, and until when."""
        ticket = f"{self.ticket}, " if self.ticket else ""
        return f"{self.reason} ({ticket}{self.author}, until {self.expires.isoformat()})"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a vendor states on a finding: shown as claimed, and never the proof of anything.

    `attachment` is the name of a file that goes with it and `sha256` that file's digest; both are empty where there is none.
    """

    finding: str
    statement: str
    author: str
    attachment: str = ""
    sha256: str = ""

    @property
    def sentence(self) -> str:
        """The claim in one line that nobody takes for a proof."""
        attachment = f", {self.attachment} sha256 {self.sha256}" if self.attachment else ""
        return f"{self.statement} (the vendor's word: {self.author}{attachment})"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check says about its subject; the engine completes it to a `Finding` from the check's metadata.

    `subject` replaces the subject that the check was called for; `because` replaces the check's sentence for this outcome.
    """

    outcome: Outcome
    observed: str
    evidence: tuple[Evidence, ...] = ()
    because: str | None = None
    subject: str | None = None
    remedy: Remedy | None = None
    remediation: str | None = None
    owner: Owner | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One decidable question that a requirement needs, with its metadata.

    `judge(facts)`, or with `each` `judge(facts, item)` for every item of the facts field of that name (`each="model"`: for the
    requirement itself, whose `model` and `limits` it reads), yields answers. `needs` names the facts fields without which
    the check cannot be asked; the engine answers `unknown` where one is missing.
    """

    requirement: str
    word: str
    level: Level
    each: str | None
    needs: tuple[str, ...]
    expected: str
    sentences: Mapping[Outcome, str]
    remediation: str
    owner: Owner
    doc: str
    judge: Callable[..., Iterable[Answer]]

    @property
    def id(self) -> str:
        """`<requirement>.<word>`; for a zoo check with the family in the requirement's place."""
        return f"{self.requirement}.{self.word}"


def check(
    id: str,  # noqa: A002  # the metadata's own name
    *,
    expected: str,
    passes: str,
    fails: str,
    remediation: str,
    owner: Owner,
    level: Level = Level.MUST,
    each: str | None = None,
    needs: tuple[str, ...] = (),
    unknown: str = "The evidence does not decide it.",
    not_applicable: str = "This does not apply here.",
) -> Callable[[Callable[..., Iterable[Answer]]], Check]:
    """Make a check of a pure generator function: its metadata, a sentence per outcome; the docstring is its manual page."""
    requirement, _, word = id.rpartition(".")

    def make(function: Callable[..., Iterable[Answer]]) -> Check:
        return Check(
            requirement=requirement,
            word=word,
            level=level,
            each=each,
            needs=needs,
            expected=expected,
            sentences={
                Outcome.PASS: passes,
                Outcome.FAIL: fails,
                Outcome.UNKNOWN: unknown,
                Outcome.NOT_APPLICABLE: not_applicable,
                Outcome.ERROR: "The check itself broke; this is a defect of the auditor.",
            },
            remediation=remediation,
            owner=owner,
            doc=function.__doc__ or "",
            judge=function,
        )

    return make


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer of a check about one subject; `id` is `check@subject` and unique in a report."""

    id: str
    check: str
    subject: str
    outcome: Outcome
    level: Level
    observed: str
    expected: str
    reason: str
    remediation: str
    owner: Owner
    waiver: Waiver | None
    evidence: tuple[Evidence, ...]
    remedy: Remedy | None = None
    claims: tuple[Claim, ...] = ()
    """What the vendor states on it; no outcome rests on a claim."""


@dataclass(frozen=True, slots=True)
class RequirementResult:
    """A requirement with its findings and the outcome that they add up to.

    `waived` says that waivers in force cover everything that keeps it from passing; the verdict then counts a pass, and `outcome` is the
    one that they cover. Else `outcome` is the worst of the `must` findings that no waiver covers. `selected` is false where --only left
    the whole requirement out: it has no finding and does not count. `text`, `source`, `interpretation`, `model` and `limits` are the
    requirement's own.
    """

    id: str
    title: str
    level: Level
    outcome: Outcome
    waived: bool
    findings: tuple[Finding, ...]
    text: str = ""
    source: str = ""
    interpretation: str = ""
    model: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    selected: bool = True

    @property
    def standing(self) -> Outcome:
        """The outcome that counts towards the verdict."""
        return Outcome.PASS if self.waived else self.outcome


@dataclass(frozen=True, slots=True)
class Tool:
    """The program that wrote a report."""

    name: str
    version: str


class PinnedBy(enum.Enum):
    """What says that a model file is the zoo's own."""

    MANIFEST = "manifest"
    """The manifest that the report was made with."""
    REQUIREMENT_SET = "requirement-set"
    """The requirement set has the file's sha256."""
    ARCHIVE = "archive"
    """The requirement set has the sha512 of the archive that `--zoo` named."""


@dataclass(frozen=True, slots=True)
class ZooModelUsed:
    """A model file that was measured: where it came from (`device`, `given`, `stand-in`) and its digest."""

    name: str
    sha256: str
    origin: str


@dataclass(frozen=True, slots=True)
class ManifestUsed:
    """A manifest that a report was made with: its path and the digest of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ZooUsed:
    """The zoo of a report. `pins` says by the model's name what pins its file; a file that nothing pins is not in it."""

    version: str
    models: tuple[ZooModelUsed, ...] = ()
    pins: Mapping[str, PinnedBy] = field(default_factory=dict)
    manifest: ManifestUsed | None = None
    tool_manifest: ManifestUsed | None = None


@dataclass(frozen=True, slots=True)
class DeviceSummary:
    """The device of a report, and who recorded it. Texts are empty, and `collected_uid` is None, where the record does not say.

    `snapshot_sha256` is the sha256 of the snapshot file that holds the record which was judged.
    """

    source: str
    name: str
    snapshot_sha256: str
    collected_at: str
    kernel: str | None = None
    looked_in: tuple[str, ...] = ()
    demonstration: bool = False
    board: str = ""
    """The board or product, as the image or the firmware names it."""
    build: str = ""
    """The build of the system image."""
    firmware_version: str = ""
    """The version of the system firmware (BIOS, ChromeOS firmware), not of the accelerator's."""
    collector: str = ""
    """Name and version of the program that recorded it."""
    collected_by: str = ""
    """The user who ran the collector, on the machine where the command was typed."""
    collected_uid: int | None = None
    """The user id as which the device was read; 0 is root."""
    command: tuple[str, ...] = ()
    """The command line that recorded it, an argument each."""


@dataclass(frozen=True, slots=True)
class AcceleratorSummary:
    """An accelerator of a report."""

    id: str
    bus: str
    driver: str | None
    nodes: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class ModelRun:
    """One model measured in one fresh worker process (`crosml-audit/run/1`); times in microseconds, memory in bytes.

    `status` is `completed` or how the run ended; `total_nodes` counts the operators of the file; `delegated_macs` is the share of
    multiply-accumulates that the delegate took, None where partitions are not known. `accuracy` has one entry per output.
    """

    model: str
    sha256: str
    origin: str
    runner: str
    runtime: str
    delegate: str | None
    status: str
    message: str
    delegated_nodes: int | None
    total_nodes: int | None
    partitions: int | None
    delegated_macs: float | None
    latency_us: float | None
    bracket_us: float | None
    samples: int
    init_us: float | None
    first_us: float | None
    cpu_us: float | None
    accuracy: tuple[Mapping[str, Any], ...] | None
    memory: Mapping[str, int] | None
    conditions: Mapping[str, Any]
    threads: int | None = None
    identity: str = "other"
    """How the file relates to the model whose name it bears: `pinned`, `same-graph`, `stand-in` or `other`."""
    identity_reason: str = ""
    golden: Mapping[str, Any] | None = None
    """What came of golden images; None where there are none."""
    reference: str = ""
    """What the outputs were compared with: the kernels, threads, and whether a custom operator was rewritten for them."""
    process: str = ""
    """Of the run's processes, the one that ended badly: `reference`, `test` or `memory`."""
    thirds_us: tuple[float, float, float] | None = None
    """The first, middle and last third of the timed inferences, by the clock of `bracket_us`; None where the samples are not known."""


@dataclass(frozen=True, slots=True)
class ClosureFile:
    """A file that the driver's user space loads, or may load; `size` in bytes.

    `counted` files are the vendor's and count towards the limit of misc-1. `certain` says that the file is loaded, not that it may be.
    `why` says why it is not counted, or else how it was found.
    """

    path: str
    size: int
    counted: bool
    certain: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class ClosureSummary:
    """All that the driver's user space loads, and the limit in bytes that its counted files are held against."""

    files: tuple[ClosureFile, ...]
    limit_bytes: int
    missing: tuple[str, ...] = ()
    """Libraries that are needed and were not found."""
    unread: tuple[str, ...] = ()
    """Places that could not be read."""


@dataclass(frozen=True, slots=True)
class GroupDevice:
    """A device in an IOMMU group; `accelerator` says that it is one of those that were audited."""

    id: str
    driver: str | None
    accelerator: bool
    bridge: bool = False


@dataclass(frozen=True, slots=True)
class IommuGroupSummary:
    """An IOMMU group with an accelerator in it. `domain` is its domain type, empty where it is not known."""

    domain: str
    devices: tuple[GroupDevice, ...]
    reserved: tuple[str, ...] = ()
    """Its reserved regions, as `kind start-end`."""
    no_iommu: bool = False
    """Whether VFIO made the group up: no IOMMU is in front of it."""
    complete: bool = True
    """Whether all of its devices could be listed."""


@dataclass(frozen=True, slots=True)
class FirmwareSummary:
    """A firmware image that an accelerator's driver names.

    `state` is what its own signature is worth: `bad`, `unsigned`, `verified-test`, `unknown-format`, `unknown-key`,
    `verified-unknown-root`, `verified-production`; empty where it was not read. `root` is the sha256 of the root certificate or key.
    """

    accelerator: str
    name: str
    path: str
    """Where it lies; empty where it is not installed."""
    size: int | None
    sha256: str
    format: str
    state: str
    signer: str = ""
    root: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A mean over processes and the ends of its interval (microseconds); the ends are None where too few processes give one."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The latency of a model over its processes, by the auditor's clock (`wall`) and as the processes say themselves (`own`)."""

    model: str
    wall: Span | None
    own: Span | None


@dataclass(frozen=True, slots=True)
class Details:
    """What a report shows of the device in addition to its findings; nothing here decides anything."""

    closure: ClosureSummary | None = None
    iommu_groups: tuple[IommuGroupSummary, ...] = ()
    firmware: tuple[FirmwareSummary, ...] = ()
    models: tuple[ModelSummary, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a format may show. `notes` are remarks on the audit itself (unused waivers, an unconfined run).

    `partial` says that --only left requirements out: the verdict is then over the `selected` ones alone and is no verdict on the device.
    `selection` is what --only named.
    """

    tool: Tool
    requirements_set: str
    zoo: ZooUsed
    device: DeviceSummary
    accelerators: tuple[AcceleratorSummary, ...]
    verdict: Verdict
    counts: Mapping[str, int]
    requirements: tuple[RequirementResult, ...]
    model_runs: tuple[ModelRun, ...] = ()
    notes: tuple[str, ...] = ()
    partial: bool = False
    selection: tuple[str, ...] = ()
    judged_with: tuple[str, ...] = ()
    """The options that decided how the record was judged: requirement set, waivers, roots, date. An argument each."""
    details: Details = field(default_factory=Details)
    incomplete: Incomplete | None = None
    """Why the verdict is `incomplete`; None where it is another one."""
    schema: str = REPORT_SCHEMA


@dataclass(frozen=True, slots=True)
class Format:
    """A report format. `render` takes the report, and as keywords the settings that `takes` names. `suffix` begins with a dot.

    Settings: `colour` (bool), `width` (characters of a line), `verbose` (bool), `unknown` (what an unknown counts as: `error`, `failure`,
    `once`).
    """

    name: str
    media_type: str
    suffix: str
    render: Callable[..., str]
    takes: tuple[str, ...] = ()


EXIT_CODES: Mapping[Verdict, int] = {Verdict.COMPLIANT: 0, Verdict.NON_COMPLIANT: 1, Verdict.INCOMPLETE: 3}
EXIT_USAGE = 2
EXIT_FAILED = 4


_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte: device text that came as JSON may hold them."""


def printable(text: str | bytes) -> str:
    """Any file name or device text as a `str` that every encoder takes: bytes that are not UTF-8 become hexadecimal escapes."""
    if isinstance(text, str):
        text = _NO_BYTE.sub(lambda lone: f"\\u{ord(lone[0]):04x}", text).encode("utf-8", "surrogateescape")
    return text.decode("utf-8", "backslashreplace")


def visible(text: str | bytes) -> str:
    """Any text as one line that a terminal, a log or an XML file may show: controls, line ends, bidi marks … become escapes."""
    if isinstance(text, str) and text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in printable(text))
