"""`crosml-audit zoo`: the ChromeOS ML Model Zoo."""

from __future__ import annotations

import enum
import os
import sys
from typing import Annotated, Any

import typer

from auditor import files
from auditor.bench.options import ZooOptions
from auditor.cli.common import errors, progress
from auditor.cli.options import OUTPUT, PLAIN, Grouped, takes
from auditor.errors import UsageError
from auditor.model import printable, visible
from auditor.request import DEFAULT_SET

app = typer.Typer(help="The ChromeOS ML Model Zoo: list, generate, pin or run its models.", no_args_is_help=True, **PLAIN)

RequirementSet = Annotated[str, typer.Option("--requirements", metavar="SET", help="Requirement set: a shipped name, or a .toml file.")]


@app.command("list")
def zoo_list(requirements: RequirementSet = DEFAULT_SET) -> None:
    """The models of the zoo, their baselines, and which have a stand-in."""
    with errors():
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


@app.command("generate")
def zoo_generate(folder: Annotated[str, typer.Argument(metavar="DIR")], requirements: RequirementSet = DEFAULT_SET) -> None:
    """Write the stand-ins of a zoo version to a folder, with golden cases, and a manifest in sha256sum's format."""
    with errors():
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


@app.command("pin")
def zoo_pin(
    source: Annotated[str, typer.Argument(metavar="DIR|ARCHIVE")],
    requirements: RequirementSet = DEFAULT_SET,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The manifest to write.")] = "zoo.sha256sums",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the manifest.")] = False,
) -> None:
    """Write a manifest that pins the models and tools of a folder or an archive, for --zoo-manifest and --tool-manifest.

    Whoever judges makes it, of a copy that they trust; one from the vendor proves nothing.
    """
    with errors():
        from auditor import requirements as sets
        from auditor.zoo.find import find_models, find_named
        from auditor.zoo.pins import TOOLS, manifest_of, remarks

        zoo = sets.load(requirements).zoo
        found = tuple(find_models(source, zoo.models).values())
        tools = find_named(source, TOOLS)
        if not found and not tools:
            wanted = f"model files of zoo {zoo.version} (`crosml-audit zoo list`), or {' or '.join(TOOLS)}"
            raise UsageError(visible(f"zoo pin: {source}: expected {wanted}, found none"))
        manifest = manifest_of(found, tools)
        files.create(output, manifest, overwrite=force)
        print(manifest.decode(), end="")
        for remark in remarks(found, zoo):
            print(f"crosml-audit: {visible(remark)}", file=sys.stderr)


class RunFormat(enum.Enum):
    """What `zoo run` prints."""

    TABLE = "table"
    JSON = "json"


@app.command("run", cls=Grouped)
@takes(ZooOptions, without=("device_dir",))
def zoo_run(
    asked: dict[str, Any],
    *,
    requirements: RequirementSet = DEFAULT_SET,
    format: Annotated[
        RunFormat,
        typer.Option(help="A table, or one JSON document (crosml-audit/run/1) per line as it is measured.", rich_help_panel=OUTPUT),
    ] = RunFormat.TABLE,
) -> None:
    """Measure the zoo on this machine, without judging."""
    import json

    from auditor import gather
    from auditor import requirements as sets
    from auditor.bench.schedule import measure_zoo
    from auditor.zoo.models import model_files

    options = ZooOptions(**asked)
    options.check()
    gather.no_local(options)
    zoo = sets.load(requirements).zoo
    models = model_files(zoo, options.zoo)
    measure = gather.measure_options(options, gather.delegate(options))
    documents = []
    try:
        with progress() as tell:
            for _name, document in measure_zoo(models, measure, tell):
                if format is RunFormat.JSON:
                    print(json.dumps(document, sort_keys=True, allow_nan=False), flush=True)
                documents.append(document)
    finally:  # an interruption leaves what was finished
        if format is RunFormat.TABLE and documents:
            print("\n".join(gather.run_table(zoo, documents)))
