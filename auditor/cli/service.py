"""`crosml-audit service`: the inference service, as ChromeOS's ML service would answer, and as a service for other programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor.bench.options import ZooOptions
from auditor.cli.common import errors, progress
from auditor.cli.options import PLAIN, takes
from auditor.errors import AuditError, UsageError
from auditor.model import EXIT_CODES, Outcome, Verdict, printable, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from auditor.inference.executor import Options
    from auditor.serving.check import Answer
    from auditor.zoo.published import Golden, Tensor

app = typer.Typer(
    help="The inference service: check and run models under the ChromeOS ML service's rules, or serve them.", no_args_is_help=True, **PLAIN
)

_NOT_HERE = ("stable_delegate", "zoo", "bench_time", "device_dir")
_NO_DELEGATE = (*_NOT_HERE, "delegate", "delegate_options", "allow_paths")

Format = Annotated[str, typer.Option("--format", metavar="text|json", help="How the answer is written.")]
GoldenFile = Annotated[
    str | None, typer.Option("--golden", metavar="FILE", help="Golden cases; without it NAME.golden.json beside a model.")
]


@app.command("check")
@takes(ZooOptions, without=_NOT_HERE)
def service_check(
    asked: dict[str, Any],
    *,
    models: Annotated[list[str], typer.Argument(metavar="MODEL…")],
    golden: GoldenFile = None,
    format: Format = "text",
) -> None:
    """Check whether the ChromeOS ML service would run a model: size, types, operators, delegation, one inference, golden cases.

    Without --golden, the golden cases are those of NAME.golden.json beside a model, if it exists.

    Exit codes: 0 yes, 1 no, 2 wrong usage, 3 not known, 4 no model can be run here.
    """
    import asyncio

    from auditor.inference.results import Budget
    from auditor.inference.service import InferenceService
    from auditor.inference.wire import WorkerFailure
    from auditor.serving import check

    _is_json(format)
    options = _options(asked)
    if golden is not None and len(models) > 1:
        raise UsageError("--golden: expected one MODEL")
    contents = [(path, check.read_model(path), _golden(path, golden)) for path in models]
    try:
        runtime = check.ask_runtime(options, Budget().limits())
    except WorkerFailure as failure:
        raise AuditError(f"no model can be run here: {failure.status.message}") from None

    async def scene() -> list[tuple[Answer, ...]]:
        async with InferenceService(options=options) as service:
            return [await check.check(service, _name(path), content, cases, options, runtime) for path, content, cases in contents]

    with progress() as tell:
        tell("running the models")
        answers = asyncio.run(scene())
    documents = [_checked(path, each) for path, each in zip(models, answers, strict=True)]
    _give(
        {"schema": "crosml-audit/service-check/1", "runtime": {"name": runtime.name, "version": runtime.version}, "models": documents},
        "\n".join(_check_text(path, each) for path, each in zip(models, answers, strict=True)),
        format,
    )
    raise typer.Exit(EXIT_CODES[_verdict([answer for each in answers for answer in each])])


@app.command("run")
@takes(ZooOptions, without=_NOT_HERE)
def service_run(
    asked: dict[str, Any],
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    input: Annotated[list[str], typer.Option("--input", metavar="NAME=X.npy", help="An input; may repeat.")] = [],
    output: Annotated[list[str], typer.Option("--output", metavar="NAME=Y.npy", help="Write an output to a file; may repeat.")] = [],
    golden: GoldenFile = None,
    format: Format = "text",
) -> None:
    """Run one request through the service, or golden cases.

    Exit codes: 0 it ran, 1 the service refused the request or a golden case differs, 2 wrong usage, 4 output cannot be written.
    """
    import asyncio

    from auditor import files
    from auditor.inference.results import CreateGraphExecutorResult, ExecuteResult, LoadModelResult
    from auditor.inference.service import InferenceService, check_cases
    from auditor.serving import run
    from auditor.zoo.published import MAX_MODEL

    _is_json(format)
    options = _options(asked)
    inputs = run.read_inputs(input)
    targets = _pairs("--output", output)
    for path in targets.values():
        if wrong := files.why_not_written(path):
            raise UsageError(f"--output {visible(path)}: cannot be written: {wrong}")
    content = files.read(model, MAX_MODEL, model, UsageError)
    cases = _golden(model, golden) if golden is not None else ()
    if bool(cases) == bool(inputs):
        raise UsageError("service run: expected either --input for each of the model's inputs, or --golden")

    async def scene() -> tuple[str, str, Mapping[str, Tensor]]:
        async with InferenceService(options=options) as service:
            loaded = await service.load_flat_buffer_model(content, _name(model))
            if loaded.result is not LoadModelResult.OK or loaded.model is None:
                return loaded.result.name, loaded.message, {}
            if cases:
                wrong = await check_cases(loaded.model, cases)
                return ("GOLDEN_DIFFERS" if wrong else "OK"), "; ".join(wrong), {}
            created = await loaded.model.create_graph_executor()
            if created.result is not CreateGraphExecutorResult.OK or created.executor is None:
                return created.result.name, created.message, {}
            done = await created.executor.execute(inputs, tuple(created.executor.outputs))
            return done.result.name, done.message, done.outputs

    result, message, found = asyncio.run(scene())
    if result == ExecuteResult.OK.name:
        for name, path in targets.items():
            if name not in found:
                raise UsageError(f"--output {visible(name)}: expected an output of the model: {', '.join(map(visible, found))}")
            files.write(path, run.npy(found[name]))
    document = {
        "schema": "crosml-audit/service-run/1",
        "model": printable(model),
        "result": result,
        "message": message,
        "outputs": {name: run.described(tensor) for name, tensor in found.items()},
    }
    text = [f"{result}{f': {message}' if message else ''}"]
    text += [f"{visible(name)}: {json.dumps(run.described(tensor))}" for name, tensor in found.items()]
    _give(document, "\n".join(text), format)
    raise typer.Exit(0 if result == ExecuteResult.OK.name else 1)


@app.command("bench")
@takes(ZooOptions, without=_NOT_HERE)
def service_bench(
    asked: dict[str, Any],
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    concurrency: Annotated[str, typer.Option("--concurrency", metavar="A:B[:STEP]", help="Clients at one time.")] = "1",
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="R", help="Requests a second; without it, each when the last is done.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="Time for each number of clients.")] = 2.0,
    format: Format = "text",
) -> None:
    """Measure the service with a model: throughput, latency, queue and compute time, and memory, for each number of clients.

    Exit codes: 0 measured, 2 wrong usage, 4 the model cannot be run.
    """
    import asyncio

    from auditor import files
    from auditor.inference.service import InferenceService
    from auditor.serving import bench
    from auditor.zoo.published import MAX_MODEL

    _is_json(format)
    levels = bench.read_range(concurrency)
    for flag, value in (("--rate", rate), ("--seconds", seconds)):
        if value is not None and not 0 < value <= 1e5:
            raise UsageError(f"{flag} {value}: expected a number above 0, of at most 100000")
    options = _options(asked)
    content = files.read(model, MAX_MODEL, model, UsageError)

    async def scene() -> list[bench.Level]:
        async with InferenceService(options=options) as service:
            loaded = await service.load_flat_buffer_model(content, _name(model))
            if loaded.model is None:
                raise AuditError(f"{loaded.result.name}: {loaded.message}")
            async with loaded.model:
                return [await bench.measure(loaded.model, each, seconds, rate) for each in levels]

    with progress() as tell:
        tell("running the model")
        found = asyncio.run(scene())
    columns = "{:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8}"
    text = [columns.format("clients", "req/s", "p50 ms", "p95 ms", "p99 ms", "queue ms", "compute", "added ms", "failed", "MB")]
    for each in found:
        times = (each.p50, each.p95, each.p99, each.queue, each.compute, each.added)
        memory = "-" if each.memory_bytes is None else f"{each.memory_bytes / 1e6:.1f}"
        shown = (f"{each.requests / each.seconds:.1f}", *(f"{time:.3f}" for time in times), each.failed, memory)
        text.append(columns.format(each.concurrency, *shown))
    document = {"schema": "crosml-audit/service-bench/1", "model": printable(model), "levels": [each.to_json() for each in found]}
    _give(document, "\n".join(text), format)


@app.command("operators")
@takes(ZooOptions, without=_NO_DELEGATE)
def service_operators(asked: dict[str, Any], *, folder: Annotated[str, typer.Argument(metavar="DIR")], format: Format = "text") -> None:
    """The operators that the published models of DIR need, with versions, and those that the runtime here does not have.

    Exit codes: 0 the runtime has all, 1 it lacks some, 2 wrong usage, 4 the runtime cannot be asked.
    """
    from auditor.inference.results import Budget
    from auditor.inference.wire import WorkerFailure
    from auditor.serving import check
    from auditor.serving.published import operators_of
    from auditor.tflite import operators

    _is_json(format)
    needed = operators_of(folder)
    try:
        runtime = check.ask_runtime(
            _options({**dict.fromkeys(("delegate",)), "delegate_options": (), "allow_paths": (), **asked}), Budget().limits()
        )
    except WorkerFailure as failure:
        raise AuditError(f"the runtime cannot be asked: {failure.status.message}") from None
    missing = operators.missing(needed, runtime.operators)
    document = {
        "schema": "crosml-audit/service-operators/1",
        "operators": needed,
        "digest": operators.digest(needed),
        "runtime": {"name": runtime.name, "version": runtime.version, "digest": operators.digest(runtime.operators)},
        "missing": list(missing),
    }
    text = [f"{name} {version}" for name, version in sorted(needed.items())]
    text += [f"not in {runtime.name} {runtime.version}: {visible(each)}" for each in missing]
    _give(document, "\n".join(text), format)
    raise typer.Exit(1 if missing else 0)


@app.command("serve")
@takes(ZooOptions, without=_NOT_HERE)
def service_serve(
    asked: dict[str, Any],
    *,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Published models: files and sha256sums, as zoo generate writes them.")],
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="unix:PATH|tcp:127.0.0.1:PORT", help="Where; without it, systemd's socket.")
    ] = None,
    allow_uid: Annotated[
        list[int], typer.Option("--allow-uid", metavar="UID", help="Another user who may connect to the Unix socket; may repeat.")
    ] = [],
    idle: Annotated[float | None, typer.Option("--idle", metavar="S", help="End after S seconds without a connection.")] = None,
    seconds: Annotated[float, typer.Option("--request-seconds", metavar="S", help="Time that one inference may take.")] = 30.0,
    per_minute: Annotated[int, typer.Option("--requests-per-minute", metavar="N", help="Of one user and one model.")] = 100_000,
) -> None:
    """Serve published models to other programs, by the Open Inference Protocol (v2) over HTTP.

    SIGTERM ends it: it takes no more connections, and finishes what it was asked. Exit codes: 0 told to end or
    idle, 2 wrong usage, 4 it cannot listen there or aiohttp is missing.
    """
    import asyncio
    import os

    from auditor.inference.results import Budget
    from auditor.inference.service import InferenceService
    from auditor.serving import listen as places
    from auditor.zoo.published import read_published

    try:
        from auditor.serving.http import Limits, own_uids, serve
    except ImportError:
        raise AuditError("service serve needs aiohttp: install crosml-audit[serve]") from None

    try:
        budget = Budget(seconds=seconds, requests_per_minute=per_minute)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    if idle is not None and not 0 < idle < float("inf"):
        raise UsageError(f"--idle {idle}: expected a number of seconds above 0")
    published, options = read_published(folder), _options(asked)
    place = None if listen is None else places.read_place(listen)
    limits = Limits(idle_seconds=idle, uids=own_uids() | frozenset(allow_uid))

    def run(listening: Any) -> None:
        print(f"listening on {visible(places.shown(listening))}", file=sys.stderr, flush=True)
        asyncio.run(serve(InferenceService(published, budget, options), listening, limits))

    if place is not None:
        # who may connect is asked of each; the file's mode keeps out others where nobody else may
        with places.opened(place, 0o666 if allow_uid else 0o600) as listening:
            run(listening)
        return
    passed = places.passed(os.environ)
    if passed is None:
        raise UsageError("service serve: expected --listen, or a socket that systemd passes")
    with passed:
        run(passed)


@app.command("metrics")
def service_metrics(
    connect: Annotated[str, typer.Option("--connect", metavar="unix:PATH|tcp:127.0.0.1:PORT", help="Where the service listens.")],
    format: Annotated[
        str, typer.Option("--format", metavar="prometheus|json|uma", help="uma: records of ChromeOS's uma-events.")
    ] = "prometheus",
) -> None:
    """The metrics of a service that runs, under the ML service's names."""
    with errors():
        from auditor.serving.asking import ask
        from auditor.serving.figures import FORMATS
        from auditor.serving.listen import read_place

        if format not in FORMATS:
            raise UsageError(f"--format {visible(format)}: expected one of {', '.join(FORMATS)}")
        sys.stdout.buffer.write(ask(read_place(connect, "--connect"), f"/metrics?format={format}"))


def _options(asked: Mapping[str, Any]) -> Options:
    """How models are run. Raises UsageError."""
    from auditor import gather
    from auditor.bench.libraries import libraries_beside
    from auditor.inference.executor import Options

    options = ZooOptions(**asked)
    options.check()
    gather.no_local(options)
    found = gather.measure_options(options, gather.delegate(options))
    return Options(
        delegate=found.delegate.path if found.delegate else None,
        options=found.delegate.options if found.delegate else (),
        libraries=libraries_beside(found.delegate.path) if found.delegate else (),
        access=found.access,
        runtime=options.tflite,
        import_path=found.import_path,
    )


def _golden(path: str, golden: str | None) -> tuple[Golden, ...]:
    from auditor import files
    from auditor.serving.check import golden_beside
    from auditor.zoo.published import MAX_GOLDEN, read_golden

    return golden_beside(path) if golden is None else read_golden(files.read(golden, MAX_GOLDEN, golden, UsageError), golden)


def _name(path: str) -> str:
    """What metrics and failures call a model of a file."""
    import os

    return printable(os.path.basename(path)).removesuffix(".tflite") or "model"


def _pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not (name and equals and path) or name in found:
            raise UsageError(f"{flag} {visible(each)}: expected NAME=FILE, each name once")
        found[name] = path
    return found


def _is_json(format: str) -> None:
    if format not in {"text", "json"}:
        raise UsageError(f"--format {visible(format)}: expected text or json")


def _give(document: Mapping[str, Any], text: str, format: str) -> None:
    sys.stdout.write(f"{json.dumps(document, sort_keys=True, allow_nan=False) if format == 'json' else text}\n")


def _verdict(answers: Sequence[Answer]) -> Verdict:
    outcomes = {each.outcome for each in answers}
    if Outcome.FAIL in outcomes:
        return Verdict.NON_COMPLIANT
    return Verdict.INCOMPLETE if Outcome.UNKNOWN in outcomes else Verdict.COMPLIANT


_WOULD = {
    Verdict.COMPLIANT: "the ML service would run it",
    Verdict.NON_COMPLIANT: "the ML service would not run it",
    Verdict.INCOMPLETE: "not known",
}


def _checked(path: str, answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "model": printable(path),
        "verdict": _verdict(answers).value,
        "answers": [{"question": each.question, "outcome": each.outcome.value, "text": each.text} for each in answers],
    }


def _check_text(path: str, answers: Sequence[Answer]) -> str:
    lines = [f"{visible(path)}: {_WOULD[_verdict(answers)]}"]
    return "\n".join(lines + [f"  {each.outcome.value:<14} {each.question:<10} {each.text}" for each in answers])
