"""The commands. This module imports nothing heavy before a command needs it.

Exit codes: 0 compliant, 1 non-compliant, 2 wrong usage, 3 incomplete, 4 the audit could not be carried out.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import io
import os
import shutil
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from auditor import __version__, files
from auditor.errors import AuditError, UsageError
from auditor.model import EXIT_CODES, EXIT_FAILED, EXIT_USAGE, printable, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from auditor.model import Format, Report

DEFAULT_SET = "r113-zoo-0.0.2"
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}
app = typer.Typer(name="crosml-audit", help="Compliance auditor for ChromeOS ML accelerators.", no_args_is_help=True, **PLAIN)
zoo_app = typer.Typer(help="The ChromeOS ML Model Zoo: list its models, generate stand-ins, run it.", no_args_is_help=True, **PLAIN)
report_app = typer.Typer(help="Show, convert and compare JSON reports.", no_args_is_help=True, **PLAIN)
snapshot_app = typer.Typer(help="Collect a device's record without judging it, or list what one holds.", **PLAIN)
app.add_typer(zoo_app, name="zoo")
app.add_typer(report_app, name="report")
app.add_typer(snapshot_app, name="snapshot")


class TFLite(enum.Enum):
    """--tflite."""

    AUTO = "auto"
    AI_EDGE_LITERT = "ai-edge-litert"
    TFLITE_RUNTIME = "tflite-runtime"


class Bench(enum.Enum):
    """--bench-time."""

    PAGE = "page"
    ADAPTIVE = "adaptive"
    QUICK = "quick"


Root = Annotated[str | None, typer.Option(metavar="DIR", help="Audit a directory laid out like a device's file system; nothing is run.")]
Host = Annotated[str | None, typer.Option(metavar="[USER@]HOST", help="Audit a device over ssh; it needs python3 of at least 3.10.")]
Snapshot = Annotated[str | None, typer.Option(metavar="FILE", help="Judge a snapshot; nothing is run.")]
Demo = Annotated[bool, typer.Option("--demo", help="Audit the recorded virtual device that ships with the program, and run the zoo here.")]
Accelerators = Annotated[
    list[str], typer.Option("--accelerator", metavar="ID", help="Audit this accelerator only (pci:…, of:…); may repeat.")
]
DelegateLibrary = Annotated[
    str | None,
    typer.Option("--delegate", metavar="LIB", help="The accelerator's external TFLite delegate; with --host on the device, or local:LIB."),
]
DelegateOptions = Annotated[list[str], typer.Option("--delegate-option", metavar="K=V", help="An option of the delegate; may repeat.")]
StableDelegate = Annotated[
    str | None, typer.Option("--stable-delegate", metavar="SETTINGS", help="The settings file of the accelerator's stable TFLite delegate.")
]
Zoo = Annotated[
    str | None, typer.Option("--zoo", metavar="DIR|ARCHIVE", help="Where the zoo's model files are; with --host on the device, or local:….")
]
Manifest = Annotated[
    str | None, typer.Option("--zoo-manifest", metavar="FILE", help="Pinned digests of model files, as sha256sum writes them.")
]
Requirements = Annotated[str, typer.Option("--requirements", metavar="SET", help="The requirement set: a shipped name, or a .toml file.")]
BenchTime = Annotated[Bench, typer.Option("--bench-time", help="Seconds in each of 3 to 9 processes: the page's 20, or 0.5; or a glance.")]
RuntimeName = Annotated[TFLite, typer.Option("--tflite", help="The TFLite runtime that runs the zoo, by name.")]
Runtime = Annotated[
    str | None,
    typer.Option("--runtime", metavar="DIR", help="A TFLite runtime for a Python that has none: what `pip install --target DIR` made."),
]
DeviceDir = Annotated[
    str | None,
    typer.Option("--device-dir", metavar="DIR", help="With --host: the device's folder for what must be copied there meanwhile."),
]
TrustRoots = Annotated[
    list[str],
    typer.Option("--trust-root", metavar="SHA256|FILE", help="A firmware root trusted as production: fingerprint, certificate, key."),
]
NoProbes = Annotated[bool, typer.Option("--no-probes", help="Only read; try nothing (no dma-buf, VFIO or tracing probe).")]
ProbeDma = Annotated[
    bool, typer.Option("--probe-dma", help="Have a device that VFIO drives read where nothing is mapped: the IOMMU must stop it.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what the probes would change on the device, and undo.")]
AllowPaths = Annotated[
    list[str], typer.Option("--allow-path", metavar="P", help="A path that the delegate may use beside its own folder; may repeat.")
]
AllowUnconfined = Annotated[
    bool, typer.Option("--allow-unconfined", help="Run the delegate even where the kernel cannot confine it; the report says so.")
]
NoZoo = Annotated[bool, typer.Option("--no-zoo", help="Do not run the zoo; its requirements are unknown.")]


@app.callback(invoke_without_command=True)
def main_options(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Compliance auditor for ChromeOS ML accelerators."""
    if version:
        print(f"crosml-audit {__version__}")
        raise typer.Exit


@app.command()
def device(
    host: Host = None,
    root: Root = None,
    snapshot: Snapshot = None,
    demo: Demo = False,
    accelerator: Accelerators = [],
    delegate: DelegateLibrary = None,
    delegate_option: DelegateOptions = [],
    stable_delegate: StableDelegate = None,
    zoo: Zoo = None,
    zoo_manifest: Manifest = None,
    requirements: Requirements = DEFAULT_SET,
    waivers: Annotated[str | None, typer.Option(metavar="FILE", help="Dated exceptions (TOML); each covers one finding.")] = None,
    only: Annotated[list[str], typer.Option(metavar="ID", help="Ask only this requirement or check; the rest is unknown.")] = [],
    skip: Annotated[list[str], typer.Option(metavar="ID", help="Leave this requirement or check out; it is unknown.")] = [],
    no_probes: NoProbes = False,
    probe_dma: ProbeDma = False,
    dry_run: DryRun = False,
    no_zoo: NoZoo = False,
    bench_time: BenchTime = Bench.ADAPTIVE,
    tflite: RuntimeName = TFLite.AUTO,
    runtime: Runtime = None,
    device_dir: DeviceDir = None,
    allow_path: AllowPaths = [],
    allow_unconfined: AllowUnconfined = False,
    trust_root: TrustRoots = [],
    base_image: Annotated[str | None, typer.Option(metavar="LIST", help="Files of the base image, one absolute path a line.")] = None,
    save_snapshot: Annotated[str | None, typer.Option(metavar="FILE", help="Keep the record that was judged.")] = None,
    format: Annotated[list[str], typer.Option(metavar="NAME[=PATH]", help="text, json, junit …; may repeat.")] = [],
    today: Annotated[str | None, typer.Option(metavar="DATE", help="The day that decides which waivers are in force (UTC).")] = None,
) -> None:
    """Audit a device: this machine, one over ssh, a directory, a snapshot, or the demonstration.

    Exit codes: 0 compliant, 1 non-compliant, 2 wrong usage, 3 incomplete, 4 the audit could not be carried out.
    """
    with _errors():
        from auditor import audit
        from auditor.engine import Selection
        from auditor.sources.recording import pack

        forms = _formats(format)
        _outputs(save_snapshot, *(path for _, path in forms))
        request = audit.Request(
            host=host,
            root=root,
            snapshot=snapshot,
            demo=demo,
            accelerators=tuple(accelerator),
            delegate=delegate,
            delegate_options=_pairs(delegate_option),
            stable_delegate=stable_delegate,
            zoo=zoo,
            manifest=zoo_manifest,
            probes=not no_probes,
            probe_dma=probe_dma,
            run_zoo=not no_zoo,
            tflite=tflite.value,
            runtime=runtime,
            device_dir=device_dir,
            allow_paths=tuple(allow_path),
            allow_unconfined=allow_unconfined,
            bench_time=bench_time.value,
            requirements=requirements,
            waivers=waivers,
            trust_roots=tuple(trust_root),
            base_image=base_image,
            selection=Selection(tuple(only), tuple(skip)),
            today=_date(today),
        )
        if dry_run:
            _show_changes(audit.would_change(request))
            return
        with _progress() as progress:
            audited = audit.audit(request, progress)
        if save_snapshot is not None:
            files.write(save_snapshot, pack(audited.record))
        for form, path in forms:
            _give(form, audited.report, path)
    raise typer.Exit(EXIT_CODES[audited.report.verdict])


@snapshot_app.callback(invoke_without_command=True)
def snapshot_main(
    context: typer.Context,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the record.")] = None,
    host: Host = None,
    root: Root = None,
    accelerator: Accelerators = [],
    delegate: DelegateLibrary = None,
    delegate_option: DelegateOptions = [],
    stable_delegate: StableDelegate = None,
    zoo: Zoo = None,
    no_probes: NoProbes = False,
    probe_dma: ProbeDma = False,
    dry_run: DryRun = False,
    no_zoo: NoZoo = False,
    bench_time: BenchTime = Bench.ADAPTIVE,
    tflite: RuntimeName = TFLite.AUTO,
    runtime: Runtime = None,
    device_dir: DeviceDir = None,
    allow_path: AllowPaths = [],
    allow_unconfined: AllowUnconfined = False,
    requirements: Requirements = DEFAULT_SET,
) -> None:
    """Collect a device's record without judging it: `crosml-audit snapshot -o FILE`."""
    if context.invoked_subcommand is not None:
        return
    with _errors():
        from auditor import audit
        from auditor.sources.recording import pack

        request = audit.Request(
            host=host,
            root=root,
            accelerators=tuple(accelerator),
            delegate=delegate,
            delegate_options=_pairs(delegate_option),
            stable_delegate=stable_delegate,
            zoo=zoo,
            probes=not no_probes,
            probe_dma=probe_dma,
            run_zoo=not no_zoo,
            tflite=tflite.value,
            runtime=runtime,
            device_dir=device_dir,
            allow_paths=tuple(allow_path),
            allow_unconfined=allow_unconfined,
            bench_time=bench_time.value,
            requirements=requirements,
            today=_date(None),
        )
        if dry_run:
            _show_changes(audit.would_change(request))
            return
        if output is None:
            raise UsageError("snapshot: --output FILE: expected, but it is not there")
        _outputs(output)
        with _progress() as progress:
            record = audit.gather(request, progress)
        files.write(output, pack(record))


@snapshot_app.command("show")
def snapshot_show(file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """List what a snapshot holds, before it leaves the building: each question, its answer's status and size."""
    with _errors():
        from auditor.sources.recording import digest, load

        record = load(file)
        print(visible(f"{record.name}: {record.source}, {record.collector}, {record.collected_at}, sha256 {digest(record)}"))
        for question, reply in sorted(record.answers.items(), key=lambda item: (item[0].kind, item[0].path, str(item[0].args))):
            arguments = " ".join(str(argument) for argument in question.args)
            print(visible(f"{question.kind:<10} {reply.status.value:<7} {len(reply.data):>9}  {question.path} {arguments}".rstrip()))


@app.command()
def checks() -> None:
    """Every check, a line each."""
    with _errors():
        from auditor import registry

        for each in registry.checks():
            print(f"{each.id:<28} {each.level.value:<7} {each.expected}")


@app.command()
def explain(id: Annotated[str, typer.Argument(metavar="ID", help="A check, or a requirement.")]) -> None:
    """The manual page of a check, or of each check of a requirement."""
    with _errors():
        from auditor import registry
        from auditor.manual import manual_page

        found = [each for each in registry.checks() if id in {each.id, each.requirement}]
        if not found:
            raise UsageError(f"explain: {visible(id)}: no such check or requirement; `crosml-audit checks` lists them")
        print("\n\n".join(manual_page(each) for each in found))


@zoo_app.command("list")
def zoo_list(requirements: Requirements = DEFAULT_SET) -> None:
    """The models of the zoo, their baselines, and which have a stand-in."""
    with _errors():
        from auditor import requirements as sets
        from auditor.zoo.generate import stand_ins

        zoo = sets.load(requirements).zoo
        generated = set(stand_ins(zoo.version))
        for model in zoo.models:
            limits = model.baseline
            accuracy = "" if limits.avg_error is None else f", avg_error <= {limits.avg_error:g}, std_dev <= {limits.std_dev:g}"
            memory = "" if limits.memory_mb is None else f", {limits.memory_mb:g} MB"
            stand_in = "stand-in" if model.name in generated else f"no stand-in: {model.no_graph}"
            print(f"{model.name:<40} {limits.latency_ms:g} ms{memory}{accuracy} ({stand_in})")


@zoo_app.command("generate")
def zoo_generate(folder: Annotated[str, typer.Argument(metavar="DIR")], requirements: Requirements = DEFAULT_SET) -> None:
    """Write the stand-ins of a zoo version to a folder, with golden cases, and a manifest in sha256sum's format."""
    with _errors():
        import hashlib

        from auditor import requirements as sets
        from auditor.bench.cases import NotRecorded, record
        from auditor.inference.executor import Options
        from auditor.zoo.generate import generate, stand_ins
        from auditor.zoo.published import GOLDEN, MANIFEST, golden_document

        lines: list[str] = []

        def put(name: str, content: bytes) -> None:
            files.write(os.path.join(folder, name), content)
            lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
            print(lines[-1], end="")

        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UsageError(f"zoo generate: {printable(folder)}: {error.strerror}") from None
        not_recorded = ""
        for name in stand_ins(sets.load(requirements).zoo.version):
            content = generate(name)
            put(f"{name}.tflite", content)
            try:
                put(f"{name}{GOLDEN}", golden_document(record(content, name, Options())))
            except NotRecorded as error:
                not_recorded = str(error)
        files.write(os.path.join(folder, MANIFEST), "".join(lines).encode())
        if not_recorded:
            print(f"crosml-audit: no golden cases: {visible(not_recorded)}", file=sys.stderr)


@zoo_app.command("run")
def zoo_run(
    delegate: DelegateLibrary = None,
    delegate_option: DelegateOptions = [],
    stable_delegate: StableDelegate = None,
    zoo: Zoo = None,
    bench_time: BenchTime = Bench.ADAPTIVE,
    tflite: RuntimeName = TFLite.AUTO,
    runtime: Runtime = None,
    allow_path: AllowPaths = [],
    allow_unconfined: AllowUnconfined = False,
    requirements: Requirements = DEFAULT_SET,
) -> None:
    """Measure the zoo on this machine, without judging: one JSON document (crosml-audit/run/1) a line."""
    with _errors():
        import json

        from auditor import audit
        from auditor import requirements as sets
        from auditor.bench.access import sandbox
        from auditor.bench.schedule import BenchTime, Means, measure_zoo
        from auditor.zoo.models import model_files

        audit.no_local(**{"--delegate": delegate, "--zoo": zoo})
        files = model_files(sets.load(requirements).zoo, zoo)
        library = audit.delegate(delegate, _pairs(delegate_option), stable_delegate)
        means = Means(
            delegate=library,
            bench_time=BenchTime(bench_time.value),
            runtime=tflite.value,
            import_path=audit.runtime_path(runtime, tflite.value, library) if runtime is not None else (),
            sandbox=sandbox(tuple(allow_path), allow_unconfined),
        )
        with _progress() as progress:
            for _name, document in measure_zoo(files, means, progress):
                print(json.dumps(document, sort_keys=True, allow_nan=False), flush=True)


@report_app.command("show")
def report_show(file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """A JSON report as text."""
    report_convert(file, ["text"])


@report_app.command("convert")
def report_convert(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    format: Annotated[list[str], typer.Option(metavar="NAME[=PATH]")] = [],
) -> None:
    """A JSON report in other formats."""
    with _errors():
        from auditor.reporting import load_report

        forms = _formats(format)
        _outputs(*(path for _, path in forms))
        report = load_report(file)
        for form, path in forms:
            _give(form, report, path)


@report_app.command("diff")
def report_diff(
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
) -> None:
    """What changed between two JSON reports, and why."""
    with _errors():
        from auditor.reporting import diff, load_report

        print("\n".join(diff(load_report(old), load_report(new))) or "no difference")


def main() -> NoReturn:
    """Run the command line; typer's own usage errors already end in 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us; what is printed to no stderr would go to stdout
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no … gets \\u2026
    try:
        with _errors():  # help and version, which no command gives
            app()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except Exception:  # noqa: BLE001  # a defect of ours must not end in Python's 1, which says non-compliant
        traceback.print_exc()
        print("crosml-audit: a defect of the auditor: please report the lines above", file=sys.stderr)
    sys.exit(EXIT_FAILED)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Usage and audit errors become one line on stderr and their exit code; so does output that cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except UsageError as error:
        _end(str(error), EXIT_USAGE)
    except AuditError as error:
        _end(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        _end("interrupted", EXIT_FAILED)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered for it goes nowhere
        broken = isinstance(error, BrokenPipeError)
        _end("" if broken else f"{error.filename or 'standard output'}: {error.strerror or error}", EXIT_FAILED)


def _end(message: str, code: int) -> NoReturn:
    """End with one line on stderr; with none where the reader of our output went away, as `head` does."""
    if message:
        print(f"crosml-audit: {visible(message)}", file=sys.stderr)
    raise typer.Exit(code) from None


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """One line of progress on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    try:
        yield lambda text: print(f"\r\033[K{visible(text)[:79]}", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _formats(wanted: Sequence[str]) -> list[tuple[Format, str | None]]:
    """The formats asked for with their paths; at most one of them goes to stdout."""
    from auditor import registry

    known = registry.formats()
    found: list[tuple[Format, str | None]] = []
    for each in wanted or ["text"]:
        name, equals, path = each.partition("=")
        if name not in known or (equals and not path):
            raise UsageError(f"--format {visible(each)}: expected NAME or NAME=PATH, NAME one of {', '.join(sorted(known))}")
        found.append((known[name], path or None))
    if sum(path is None for _, path in found) > 1:
        raise UsageError("--format: only one format can go to stdout; give the others a path: NAME=PATH")
    return found


def _outputs(*paths: str | None) -> None:
    """Refuse now what could not be written once a long audit is done, and two outputs to one file."""
    named = [path for path in paths if path is not None]
    for path in named:
        wrong = files.why_not_written(path)
        if wrong:
            raise UsageError(f"{printable(path)}: cannot be written: {wrong}")
    if len({os.path.realpath(path) for path in named}) < len(named):
        raise UsageError("--format, --save-snapshot: expected another file for each of them")


def _show_changes(changes: Sequence[str]) -> None:
    print("\n".join(changes) or "nothing: no probe would run")


def _give(form: Format, report: Report, path: str | None) -> None:
    if path is not None:
        files.write(path, form.render(report).encode())
    elif form.name == "text":
        width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        sys.stdout.write(form.render(report, colour=colour, width=max(40, min(width, 120))))
    else:
        sys.stdout.buffer.write(form.render(report).encode())


def _pairs(options: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [each.partition("=") for each in options]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise UsageError(f"--delegate-option {visible(key)}: expected K=V")
    return tuple((key, value) for key, _, value in pairs)


def _date(text: str | None) -> datetime.date:
    if text is None:
        return datetime.datetime.now(datetime.timezone.utc).date()
    with contextlib.suppress(ValueError):
        date = datetime.date.fromisoformat(text)
        if date.isoformat() == text:  # later Pythons also read 20261122 and 2026-W47-7
            return date
    raise UsageError(f"--today {visible(text)}: expected a date, YYYY-MM-DD")
