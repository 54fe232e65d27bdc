"""The one way through: ask a source, record the answers, read facts, judge them. The only module that knows all its stages."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from auditor import __version__, files, registry, requirements
from auditor.bench import over_ssh
from auditor.bench.access import sandbox
from auditor.bench.delegates import Delegate, shared_library, stable_delegate
from auditor.bench.schedule import BenchTime, Means, measure_zoo, runner
from auditor.codec import decode_waivers
from auditor.engine import Context, Selection, judge, names
from auditor.errors import AuditError, UsageError
from auditor.facts.collect import collect
from auditor.facts.plan import plan_document, read_plan
from auditor.facts.reading import Device
from auditor.facts.types import Facts, Ok, Plan, PublicKey, Settings
from auditor.inference.runtime import check_folder, this_machine, why_none
from auditor.inference.wire import AUTO
from auditor.model import DeviceSummary, Report, Status, Tool, Waiver, ZooModelUsed, ZooUsed, printable
from auditor.sources import base, recording
from auditor.sources.base import Question, Reply, Source
from auditor.sources.filesystem import Tree
from auditor.sources.live import Live
from auditor.sources.recording import Record, Recorder, Replay
from auditor.sources.ssh import Order, Ssh
from auditor.zoo.models import model_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from auditor.model import Check
    from auditor.requirements import RequirementSet

TOOL = Tool("crosml-audit", __version__)
COLLECTOR = f"{TOOL.name} {TOOL.version}"
DEMO = "demo.snapshot"
LIST_LIMIT = 1 << 20
"""Bytes of a waivers, manifest, base image or key file."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to audit, and by what. At most one of `host`, `root`, `snapshot` and `demo`; none of them is this machine."""

    host: str | None = None
    root: str | None = None
    snapshot: str | None = None
    demo: bool = False
    accelerators: tuple[str, ...] = ()
    delegate: str | None = None
    delegate_options: tuple[tuple[str, str], ...] = ()
    stable_delegate: str | None = None
    zoo: str | None = None
    manifest: str | None = None
    run_zoo: bool = True
    probes: bool = True
    probe_dma: bool = False
    tflite: str = AUTO
    """Name of the TFLite runtime, or `auto`."""
    runtime: str | None = None
    """A folder of this machine with a TFLite runtime, for a Python that has none."""
    device_dir: str | None = None
    allow_paths: tuple[str, ...] = ()
    allow_unconfined: bool = False
    bench_time: str = BenchTime.ADAPTIVE.value
    requirements: str = requirements.DEFAULT
    waivers: str | None = None
    trust_roots: tuple[str, ...] = ()
    base_image: str | None = None
    selection: Selection = field(default_factory=Selection)
    today: datetime.date


@dataclass(frozen=True, slots=True)
class Answered:
    """A source with some questions answered beforehand: what was run, and what was asked for."""

    source: Source
    answers: Mapping[Question, Reply]
    kind: str

    @property
    def name(self) -> str:
        """The name of the source behind."""
        return self.source.name

    def ask(self, question: Question) -> Reply:
        """The answer given beforehand, else the source's."""
        return self.answers.get(question) or self.source.ask(question)


@dataclass(frozen=True, slots=True)
class Audited:
    """A report, and the record that it was judged from."""

    report: Report
    record: Record


def audit(request: Request, progress: Callable[[str], None]) -> Audited:
    """Carry out an audit. Raises UsageError for what the request names wrongly, AuditError where a device cannot be asked."""
    if sum(each not in {None, False} for each in (request.host, request.root, request.snapshot, request.demo)) > 1:
        raise UsageError("--host, --root, --snapshot, --demo: expected one of them, or none for this machine")
    if request.demo and (request.accelerators or request.delegate or request.stable_delegate):
        raise UsageError("--demo: the recorded device has its own accelerator, and no delegate runs on it")
    judged_by = requirements.load(request.requirements)
    waivers = _waivers(request.waivers)
    settings = _settings(request, judged_by)
    selection, checks = request.selection, registry.checks()
    _known(selection, judged_by, checks)
    record = gather(request, progress)
    facts = collect(Replay(record), settings)
    _wanted(request, facts)
    summary = _summary(record, facts)
    context = Context(TOOL, judged_by.name, summary, ZooUsed(judged_by.zoo.version, facts.plan.models), tuple(_notes(request, facts)))
    report = judge(facts, checks, judged_by.requirements, waivers, request.today, selection, context)
    return Audited(report, record)


def would_change(request: Request) -> tuple[str, ...]:
    """What the probes of an audit change on the device while they run, a line each; nothing is asked of the device."""
    from auditor.probes import would_change as changes  # noqa: PLC0415  # most audits do not ask

    if not _may_try(request):
        return ()
    plan = Reply(Status.OK, plan_document(Plan(probe_dma=request.probe_dma)))
    recorder = Recorder(Replay(Record("", "", COLLECTOR, "", {base.plan(): plan})))
    collect(recorder, Settings())
    probes = [each for each in recorder.unasked() if each.kind == "probe"]
    return tuple(f"{each.path}: {change}" for each in probes for change in changes(each.path, *each.args))


def _may_try(request: Request) -> bool:
    """Whether there is a device to try things on; raises UsageError where --probe-dma asks for that, and there is none."""
    device = request.probes and not request.demo and request.root is None and request.snapshot is None
    if request.probe_dma and not device:
        raise UsageError("--probe-dma: expected a device to try it on: this machine or --host, without --no-probes")
    return device


def gather(request: Request, progress: Callable[[str], None]) -> Record:
    """The record that an audit is judged from: an earlier one, or one made now by asking everything the facts ask."""
    _may_try(request)
    _one_delegate(request.delegate, request.delegate_options, request.stable_delegate)
    if request.host is None:
        no_local(**{"--delegate": request.delegate, "--zoo": request.zoo})
    if request.device_dir is not None and request.host is None:
        raise UsageError("--device-dir: expected with --host: it is a folder of the device for what is copied there")
    if request.snapshot is not None:
        named = {request.delegate, request.stable_delegate, request.zoo, request.runtime}
        if request.accelerators or not request.run_zoo or named != {None}:
            raise UsageError("--snapshot: holds its own delegate, zoo and accelerators; nothing is run under it, or left out of it")
        shaped = (request.allow_paths, request.allow_unconfined, request.tflite, request.bench_time)
        if shaped != ((), False, AUTO, BenchTime.ADAPTIVE.value):
            raise UsageError(
                "--allow-path, --allow-unconfined, --tflite, --bench-time: expected a zoo to run; nothing is run under --snapshot"
            )
        return recording.load(request.snapshot)
    if request.host is not None:
        return _over_ssh(request, request.host, progress)
    answers = _here(request, progress)
    source = _source(request)
    recorder = Recorder(Answered(source, answers, "demo" if request.demo else source.kind))
    progress("reading the device")
    collect(recorder, Settings())
    return recorder.record(COLLECTOR, _now())


def _over_ssh(request: Request, host: str, progress: Callable[[str], None]) -> Record:
    """The record of a device under test: what its facts ask there, what they still ask of that record here, and the runs of its zoo.

    The zoo is last: what ends it, be it the connection's end, leaves the record with what was finished.
    """
    plan, errand = _plan(request), _errand(request)
    luggage = over_ssh.pack(errand) if errand else None
    progress(f"reading {host}")
    with Ssh(host, zoo=errand is not None) as device:
        equipped = over_ssh.equip(device, errand, luggage, progress) if errand and luggage else None
        if equipped:
            plan = replace(
                plan, delegate=equipped.delegate, stable_delegate=equipped.stable_delegate, zoo_note=plan.zoo_note or equipped.note
            )
            progress(f"reading {host}")
        record = _read(device, plan, probes=request.probes)
        runs = Runs()
        if errand and equipped and not plan.zoo_note:
            runs = _measured(over_ssh.measure(device, errand, equipped, progress))
            plan = replace(plan, models=equipped.models)
    return replace(record, answers={**record.answers, **_noted(plan, runs)})


def _read(device: Ssh, plan: Plan, *, probes: bool) -> Record:
    """What the facts ask on a device, and here of the answers from there, as one more batch."""
    order = Order(plan_document(plan).decode(), probes, COLLECTOR, _now())
    record = device.collect(order)
    recorder = Recorder(Replay(record))
    collect(recorder, Settings())
    unasked = [question for question in recorder.unasked() if question.kind not in {"run", "probe"}]
    more = device.collect(order, unasked).answers if unasked else {}
    return replace(record, answers={**record.answers, **more})


def _errand(request: Request) -> over_ssh.Errand | None:
    """What a device is to have its zoo measured with; None where there is nothing to measure with, or to put there."""
    put = request.delegate is not None and request.delegate.startswith(over_ssh.LOCAL)
    if _why_no_run(request) and not put:
        return None
    return over_ssh.Errand(
        zoo=requirements.load(request.requirements).zoo,
        run=not _why_no_run(request),
        delegate=request.delegate,
        delegate_options=request.delegate_options,
        stable_delegate=request.stable_delegate,
        models=request.zoo,
        tflite=request.tflite,
        runtime=request.runtime,
        device_dir=request.device_dir,
        accelerators=request.accelerators,
        allow_paths=request.allow_paths,
        allow_unconfined=request.allow_unconfined,
        bench_time=request.bench_time,
    )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat()


def demo_record() -> Record:
    """The device that ships with the program: recorded from a virtual one."""
    file = resources.files("auditor.data") / DEMO
    if not file.is_file():
        raise AuditError("--demo: this installation has no recorded device")
    return recording.unpack(file.read_bytes(), "--demo")


def _source(request: Request) -> Source:
    if request.demo:
        return Replay(demo_record())
    if request.root is None:
        return Live(probes=request.probes)
    if not os.path.isdir(request.root):
        raise UsageError(f"--root: {printable(request.root)}: expected a directory laid out like a device's file system")
    return Tree(request.root)


@dataclass(frozen=True, slots=True)
class Runs:
    """What was measured: the answers to `run` questions, how many of each model, and what ended it before its time."""

    answers: Mapping[Question, Reply] = field(default_factory=dict)
    counts: tuple[tuple[str, int], ...] = ()
    note: str = ""


def _measured(documents: Iterator[tuple[str, dict[str, Any]]]) -> Runs:
    """The runs that are finished, whatever ends the measurement."""
    answers: dict[Question, Reply] = {}
    counts: dict[str, int] = {}
    note = ""
    try:
        for name, document in documents:
            answers[base.run(name, counts.get(name, 0))] = Reply(Status.OK, _json(document))
            counts[name] = counts.get(name, 0) + 1
    except KeyboardInterrupt:
        note = "The measurement was interrupted; the report holds what was finished."
    except AuditError as error:
        note = str(error)
    return Runs(answers, tuple(counts.items()), note)


def _noted(plan: Plan, runs: Runs) -> dict[Question, Reply]:
    """The answers to what is not asked of a device: the runs, and the plan with them."""
    noted = replace(plan, runs=runs.counts, zoo_note=runs.note or plan.zoo_note)
    return {**runs.answers, base.plan(): Reply(Status.OK, plan_document(noted))}


def _plan(request: Request) -> Plan:
    """What an audit is asked to look at, before anything was measured."""
    here = request.root is None and request.host is None
    return replace(
        read_plan(Device(Replay(demo_record()))).open() if request.demo else Plan(request.accelerators),
        delegate=os.path.abspath(request.delegate) if here and request.delegate else request.delegate,
        delegate_options=request.delegate_options,
        stable_delegate=os.path.abspath(request.stable_delegate) if here and request.stable_delegate else request.stable_delegate,
        zoo_version=requirements.load(request.requirements).zoo.version,
        zoo_left_out=not request.run_zoo,
        zoo_note=_why_no_run(request),
        demonstration=request.demo,
        probe_dma=request.probe_dma,
    )


def _here(request: Request, progress: Callable[[str], None]) -> dict[Question, Reply]:
    """The plan, and the runs of the zoo where they can be had on this machine: through the delegate, or as a demonstration."""
    plan, zoo = _plan(request), requirements.load(request.requirements).zoo
    here = request.root is None
    library = delegate(request.delegate, request.delegate_options, request.stable_delegate) if here else None
    models = model_files(zoo, request.zoo) if not plan.zoo_note or (here and request.zoo is not None) else ()
    if plan.zoo_note:
        return _noted(plan, Runs())
    import_path = () if request.runtime is None else runtime_path(request.runtime, request.tflite, library)
    # of a demonstration, the models are our own, and there is no delegate
    unconfined = request.allow_unconfined or (request.demo and request.zoo is None)
    means = Means(
        delegate=library,
        bench_time=BenchTime(request.bench_time),
        runtime=request.tflite,
        import_path=import_path,
        sandbox=sandbox(request.allow_paths, unconfined, request.accelerators),
    )
    runs = _measured(measure_zoo(models, means, progress))
    used = tuple(ZooModelUsed(file.model.name, file.sha256, file.origin) for file in models)
    return _noted(replace(plan, models=used), runs)


def runtime_path(folder: str, tflite: str, library: Delegate | None) -> tuple[str, ...]:
    """Where workers find a runtime before anything else: in a folder, where nothing is installed that runs the zoo. Raises UsageError."""
    check_folder(folder, tflite, this_machine())
    return (os.path.abspath(folder),) if runner(library, tflite) is None and why_none(tflite) else ()


def delegate(library: str | None, options: tuple[tuple[str, str], ...], settings: str | None) -> Delegate | None:
    """The delegate that is named on this machine: an external one's library with its options, or a stable one's settings.

    Raises UsageError for files that are not what they must be, and for both kinds at once.
    """
    _one_delegate(library, options, settings)
    if settings is not None:
        return stable_delegate(settings)
    return None if library is None else shared_library(library, options)


def no_local(**given: str | None) -> None:
    """Raise UsageError for a `local:` path where there is no other machine that a file could be copied to; options by name."""
    for option, path in given.items():
        if path is not None and path.startswith(over_ssh.LOCAL):
            raise UsageError(f"{option}: {printable(path)}: expected local: only with --host; without it, every path is this machine's")


def _one_delegate(library: str | None, options: tuple[tuple[str, str], ...], settings: str | None) -> None:
    if library is not None and settings is not None:
        raise UsageError("--delegate, --stable-delegate: expected one of them")
    if options and library is None:
        raise UsageError("--delegate-option: expected a --delegate to give it to")


def _why_no_run(request: Request) -> str:
    if not request.run_zoo:
        return "left out by --no-zoo"
    if request.demo:
        return ""
    if request.root is not None:
        return "nothing is run under --root"
    return "no delegate was named" if request.delegate is None and request.stable_delegate is None else ""


def _json(document: Mapping[str, Any]) -> bytes:
    import json  # noqa: PLC0415

    return json.dumps(document, sort_keys=True, allow_nan=False).encode()


def _known(selection: Selection, judged_by: RequirementSet, checks: tuple[Check, ...]) -> None:
    """A name in --only or --skip that names nothing would silently leave out everything, or nothing."""
    pairs = [(each, check) for each in judged_by.requirements for check in checks if check.requirement == each.family]
    for name in (*selection.only, *selection.skip):
        if not any(names(name.partition("@")[0], *pair) for pair in pairs):
            raise UsageError(f"--only, --skip: {printable(name)}: no such requirement or check; `crosml-audit checks` lists them")


def _wanted(request: Request, facts: Facts) -> None:
    """Say so where an accelerator that was asked for is not there: an audit of nothing would help nobody."""
    if isinstance(facts.accelerators, Ok) and not facts.accelerators.value.unread:
        missing = sorted(set(facts.plan.accelerators) - {each.subject for each in facts.accelerators.value.items})
        if missing and request.snapshot is not None:
            raise AuditError(f"{request.snapshot}: plan: {missing[0]}: expected one of the accelerators of the recorded device")
        if missing:
            raise UsageError(f"--accelerator: {missing[0]}: expected one of this device's accelerators")


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
    )


def _notes(request: Request, facts: Facts) -> Iterator[str]:
    """What a reader must know of how a report came about, and no finding says."""
    plan = facts.plan
    if request.snapshot is not None:
        yield "Judged from a snapshot: what it holds is the word of whoever made it."
    if plan.accelerators:
        yield f"Of this device, only what --accelerator named was judged: {printable(', '.join(plan.accelerators))}."
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


def _settings(request: Request, judged_by: RequirementSet) -> Settings:
    manifest: dict[str, str] = {}
    if request.manifest is not None:
        from auditor.zoo.find import read_manifest  # noqa: PLC0415

        listed = read_manifest(request.manifest)
        names = {name: model.name for model in judged_by.zoo.models for name in model.files}
        manifest = {names[name]: sha for name, sha in listed.items() if name in names}
        if not manifest:
            raise UsageError(f"--zoo-manifest: {request.manifest}: expected model files of zoo {judged_by.zoo.version}, found none")
    roots = [_trust_root(text) for text in request.trust_roots]
    return Settings(
        trust_roots=frozenset(root for root in roots if isinstance(root, str)),
        keys=tuple(root for root in roots if isinstance(root, PublicKey)),
        base_image=frozenset() if request.base_image is None else _base_image(request.base_image),
        manifest=manifest,
    )


def _trust_root(text: str) -> str | PublicKey:
    """A fingerprint as it is given, or what a file holds."""
    from auditor.verify import crypto  # noqa: PLC0415  # cryptography, only for those who name a root

    if _SHA256.fullmatch(text.lower()):
        return text.lower()
    label = f"--trust-root: {printable(text)}"
    if not os.path.exists(text):
        raise UsageError(f"{label[:100]}: expected 64 hexadecimal digits, or a file with a certificate or a key")
    return crypto.read_root(_small(text, "--trust-root"), label)


def _waivers(path: str | None) -> tuple[Waiver, ...]:
    return () if path is None else decode_waivers(_small(path, "--waivers"), path)


def _base_image(path: str) -> frozenset[str]:
    """The paths in a list of files; a list without any would silently exclude nothing."""
    lines = os.fsdecode(_small(path, "--base-image")).split("\n")
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for line in found or ["no line"]:
        if not line.startswith("/"):
            raise UsageError(f"--base-image: {path}: {line[:80]}: expected one absolute path a line")
    return frozenset(found)


def _small(path: str, option: str) -> bytes:
    """A small file named on the command line; raises UsageError with one line."""
    return files.read(path, LIST_LIMIT, f"{option}: {path}", UsageError)
