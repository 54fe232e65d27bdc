"""The record that an audit is judged from: asked of a device now, or an earlier one."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from auditor import __version__, registry, requirements
from auditor.bench import over_ssh
from auditor.bench.access import access
from auditor.bench.delegates import Delegate, shared_library, stable_delegate
from auditor.bench.schedule import MeasureOptions, measure_zoo, runner
from auditor.errors import AuditError, UsageError
from auditor.facts.collect import collect
from auditor.facts.plan import plan_document, read_plan
from auditor.facts.reading import Device, parse
from auditor.facts.runs import UNDER_ROOT, read_run
from auditor.facts.types import Ok, Plan
from auditor.inference.runtime import check_folder, this_machine, why_none
from auditor.inference.witness import CHANGES as RUNS_CHANGE
from auditor.model import Status, Tool, printable, visible
from auditor.probes import answer as answer_probe
from auditor.probes import would_change as changes_of
from auditor.sources import base, recording
from auditor.sources.base import Question, Reply, Source
from auditor.sources.filesystem import Tree
from auditor.sources.kernel_log import LOG_LIMIT, saved_log
from auditor.sources.live import Live
from auditor.sources.recording import Record, Recorder, Replay
from auditor.sources.shell import Shell
from auditor.sources.ssh import Loss, Lost, Order, Ssh
from auditor.zoo.models import model_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from auditor.bench.options import ZooOptions
    from auditor.model import ModelRun
    from auditor.request import Request
    from auditor.zoo.catalogue import ZooVersion

TOOL = Tool("crosml-audit", __version__)
COLLECTOR = f"{TOOL.name} {TOOL.version}"
DEMO = "demo.snapshot"


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


def gather(request: Request, progress: Callable[[str], None]) -> Record:
    """The record that an audit is judged from: an earlier one, or one made now by asking everything the facts ask."""
    if request.host is None:
        no_local(request)
    if request.snapshot is not None:
        return recording.load(request.snapshot)
    if request.host is not None:
        return _over_ssh(request, request.host, progress)
    answers = {**_here(request, progress), **_kernel_log(request.kernel_log)}
    source = _source(request)
    recorder = Recorder(Answered(source, answers, "demo" if request.demo else source.kind))
    progress("reading the device")
    collect(recorder)
    return recorder.record(COLLECTOR, _now())


def _kernel_log(path: str | None) -> dict[Question, Reply]:
    """The answer that a saved log is, where one was given. Raises UsageError for a file that cannot be read, or is none."""
    if path is None:
        return {}
    try:
        with open(path, "rb") as file:
            data = file.read(LOG_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"--kernel-log: {printable(path)}: {error.strerror}") from None
    found = saved_log(data)
    if len(data) > LOG_LIMIT or b"\0" in data or not found:
        raise UsageError(f"--kernel-log: {printable(path)}: expected the text of a kernel log, of at most {LOG_LIMIT >> 20} MiB")
    return {base.kernel_log(): Reply(Status.OK, found)}


def would_change(request: Request) -> tuple[str, ...]:
    """What probes and runs of an audit change on the device meanwhile, a line each; nothing is asked of the device."""
    live = request.root is None and request.snapshot is None and not request.demo
    runs = live and request.run_zoo and (request.delegate is not None or request.stable_delegate is not None)
    return (*_probes_change(request), *(f"zoo: {change}" for change in RUNS_CHANGE if runs))


def _probes_change(request: Request) -> tuple[str, ...]:
    if not request.may_try:
        return ()
    plan = Reply(Status.OK, plan_document(Plan(probe_dma=request.probe_dma)))
    recorder = Recorder(Replay(Record("", "", COLLECTOR, "", {base.plan(): plan})))
    collect(recorder)
    probes = [each for each in recorder.unasked() if each.kind == "probe"]
    return tuple(f"{each.path}: {change}" for each in probes for change in changes_of(each.path, *each.args))


def _over_ssh(request: Request, host: str, progress: Callable[[str], None]) -> Record:
    """The record of a device under test: what its facts ask there, what they still ask of that record here, and the runs of its zoo.

    The zoo is last: what ends it, be it the connection's end, leaves the record with what was finished.
    """
    plan, job = _plan(request), _remote_job(request)
    progress(f"reading {host}")
    try:
        return _by_agent(request, host, plan, job, progress)
    except Lost as lost:
        if lost.loss is not Loss.UNSUITED:
            raise
        return _by_shell(request, host, plan, lost)


def _by_shell(request: Request, host: str, plan: Plan, lost: Lost) -> Record:
    """The record of a device that has a shell and no usable Python: what is read, nothing that is tried or run."""
    plan = replace(plan, zoo_note=plan.zoo_note or "the device has no usable python3, and its shell only reads")
    with contextlib.ExitStack() as stack:
        try:
            device = stack.enter_context(Shell(host, request.ssh_options))
        except Lost:
            raise lost from None
        recorder = Recorder(Answered(device, _noted(plan, Runs()), device.kind))
        collect(recorder)
        return recorder.record(COLLECTOR, _now())


def _by_agent(request: Request, host: str, plan: Plan, job: over_ssh.RemoteJob | None, progress: Callable[[str], None]) -> Record:
    """The record that the agent makes on a device, with the runs of its zoo."""
    upload = over_ssh.pack(job) if job else None
    with Ssh(host, request.ssh_options, zoo=job is not None) as device:
        setup = over_ssh.equip(device, job, upload, progress) if job and upload else None
        if setup:
            plan = replace(plan, delegate=setup.delegate, stable_delegate=setup.stable_delegate, zoo_note=plan.zoo_note or setup.note)
            progress(f"reading {host}")
        record = _read(device, plan, probes=request.probes)
        runs = Runs()
        if job and setup and not plan.zoo_note:
            runs = _measured(over_ssh.measure(device, job, setup, progress))
            plan = replace(plan, models=setup.models, archive=setup.archive)
    plan = replace(plan, uid=read_plan(Device(Replay(record))).open().uid)  # the agent knows whom it runs as
    return replace(record, answers={**record.answers, **_noted(plan, runs)})


def _read(device: Ssh, plan: Plan, *, probes: bool) -> Record:
    """What the facts ask on a device, and here of the answers from there, as one more batch."""
    order = Order(plan_document(plan).decode(), probes, COLLECTOR, _now())
    record = device.collect(order)
    recorder = Recorder(Replay(record))
    collect(recorder)
    unasked = [question for question in recorder.unasked() if question.kind not in {"run", "probe"}]
    more = device.collect(order, unasked).answers if unasked else {}
    return replace(record, answers={**record.answers, **more})


def _remote_job(request: Request) -> over_ssh.RemoteJob | None:
    """What a device is to have its zoo measured with; None where there is nothing to measure with, or to put there."""
    put = request.delegate is not None and request.delegate.startswith(over_ssh.LOCAL)
    if _why_no_run(request) and not put:
        return None
    return over_ssh.RemoteJob(_asked_zoo(request), request.options(), request.accelerators, run=not _why_no_run(request))


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
        return Live(answer_probe) if request.probes else Live()
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
    asked = Plan(
        request.accelerators, request.not_accelerators, request.firmware_images, uid=os.geteuid() if here else None
    )  # over ssh, the agent notes its own
    return replace(
        read_plan(Device(Replay(demo_record()))).open() if request.demo else asked,
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
    plan, zoo = _plan(request), _asked_zoo(request)
    here = request.root is None
    library = delegate(request) if here else None
    models = model_files(zoo, request.zoo) if not plan.zoo_note or (here and request.zoo is not None) else ()
    if plan.zoo_note:
        return _noted(plan, Runs())
    # of a demonstration, the models are our own, and there is no delegate
    options = replace(request.options(), allow_unconfined=request.allow_unconfined or (request.demo and request.zoo is None))
    runs = _measured(measure_zoo(models, measure_options(options, library, request.accelerators), progress))
    archive = next((file.archive for file in models), "")
    return _noted(replace(plan, models=tuple(file.used for file in models), archive=archive), runs)


def _asked_zoo(request: Request) -> ZooVersion:
    """The zoo, of its models those that `--only` asks for; all, where it asks for anything that is not about one model."""
    known = requirements.load(request.requirements)
    only = request.selection.only
    asked = [
        (requirement.model, check.id)
        for requirement in known.requirements
        for check in registry.checks()
        if check.requirement == requirement.family and request.selection.asks(requirement, check)
    ]
    if not only or not asked or not all(model for model, _check in asked):
        return known.zoo
    # a finding's id names its model, too
    named = {name.partition("@model:")[2] for name in only if "@model:" in name}
    wanted = named if named and all("@model:" in name for name in only) else {model for model, _check in asked}
    return replace(known.zoo, models=tuple(model for model in known.zoo.models if model.name in wanted))


def measure_options(options: ZooOptions, library: Delegate | None, accelerators: tuple[str, ...] = ()) -> MeasureOptions:
    """With what this machine measures. Raises UsageError for a runtime's folder, or a path, that is not what it must be."""
    folders: tuple[str, ...] = ()
    if options.runtime is not None:
        check_folder(options.runtime, options.tflite, this_machine())
        if runner(library, options.tflite) is None and why_none(options.tflite):
            folders = (os.path.abspath(options.runtime),)
    return MeasureOptions(options, library, folders, access(options, accelerators))


def run_table(zoo: ZooVersion, documents: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What was measured, a line a model: means over its processes by the auditor's clock, beside the limits; nothing is judged."""
    limits = {model.name: model.baseline for model in zoo.models}
    runs: dict[str, list[ModelRun]] = {}
    for document in documents:
        run = parse(Ok(document), read_run)
        if isinstance(run, Ok):
            runs.setdefault(run.value.model, []).append(run.value)
    yield f"{'model':<42}{'processes':>10}{'latency':>12}{'limit':>10}{'avg error':>11}{'memory':>11}{'delegated':>11}  file"
    for name, found in runs.items():
        good = [run for run in found if run.status == "completed"]
        latency = statistics.fmean([run.bracket_us for run in good if run.bracket_us is not None] or [math.nan])
        errors = [output.get("avg_error") for run in good for output in run.accuracy or ()]
        memory = [run.memory["peak_bytes"] for run in good if run.memory and "peak_bytes" in run.memory]
        shares = [run.delegated_macs for run in good if run.delegated_macs is not None]
        cells = (
            f"{len(good)} of {len(found)}",
            _cell(latency / 1e3, "{:.3g} ms"),
            f"{limits[name].latency_ms:g} ms" if name in limits else "-",
            _cell(max((each for each in errors if isinstance(each, float)), default=math.nan), "{:.3g}"),
            _cell(max(memory, default=math.nan) / 1e6, "{:.4g} MB"),
            _cell(min(shares, default=math.nan), "{:.1%}"),
        )
        yield visible(f"{name:<42}" + "".join(map(str.rjust, cells, (10, 12, 10, 11, 11, 11))) + f"  {found[0].origin}")
        yield from (visible(f"  {run.process}: {run.status}: {run.message}"[:200]) for run in found if run.status != "completed")


def _cell(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "-"


def delegate(options: ZooOptions) -> Delegate | None:
    """The delegate that is named on this machine: an external one's library with its options, or a stable one's settings.

    Raises UsageError for files that are not what they must be.
    """
    if options.stable_delegate is not None:
        return stable_delegate(options.stable_delegate)
    return None if options.delegate is None else shared_library(options.delegate, options.delegate_options)


def no_local(options: ZooOptions) -> None:
    """Raise UsageError for a `local:` path where there is no other machine that a file could be copied to."""
    for option, path in (("--delegate", options.delegate), ("--zoo", options.zoo)):
        if path is not None and path.startswith(over_ssh.LOCAL):
            raise UsageError(f"{option}: {printable(path)}: expected local: only with --host; without it, every path is this machine's")


def _why_no_run(request: Request) -> str:
    if not request.run_zoo:
        return "left out by --no-zoo"
    if request.demo:
        return ""
    if request.root is not None:
        return UNDER_ROOT
    return "no delegate was named" if request.delegate is None and request.stable_delegate is None else ""


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, allow_nan=False).encode()
