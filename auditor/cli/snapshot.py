"""`crosml-audit snapshot`: collect a device's record without judging it, or list what one holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor import files
from auditor.bench.options import ZooOptions
from auditor.cli.common import Force, errors, outputs, progress, show_changes
from auditor.cli.options import OUTPUT, PLAIN, TARGET, GroupedApp, read_date, takes
from auditor.errors import UsageError
from auditor.model import visible
from auditor.request import Judging, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.sources.recording import Record

app = typer.Typer(help="Collect a device's record without judging it, or list what one holds.", cls=GroupedApp, **PLAIN)


@app.callback(invoke_without_command=True)
@takes(
    Target,
    ZooOptions,
    Judging,
    without=("snapshot", "demo", "manifest", "tool_manifest", "waivers", "apply_waivers", "trust_roots", "base_image"),
)
def snapshot(
    asked: dict[str, Any],
    *,
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the probes would change on the device, and undo.", rich_help_panel=TARGET)
    ] = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the record.", rich_help_panel=OUTPUT)
    ] = None,
    force: Force = False,
) -> None:
    """Collect a device's record without judging it: `crosml-audit snapshot -o FILE`."""
    if context.invoked_subcommand is not None:
        return
    from auditor import gather
    from auditor.request import Request
    from auditor.sources.recording import pack

    request = Request(**asked, today=read_date(None))
    if dry_run:
        show_changes(gather.would_change(request))
        return
    if output is None:
        raise UsageError("snapshot: missing option --output: expected a FILE for the record")
    outputs(output, force=force)
    with progress() as tell:
        record = gather.gather(request, tell)
    files.write(output, pack(record))


@app.command("show")
def snapshot_show(file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """List what a snapshot holds, before it leaves the building: each question, its answer's status and size."""
    with errors():
        from auditor.sources.recording import digest, load

        record = load(file)
        print(visible(f"{record.name}: {record.source}, {record.collector}, {record.collected_at}, sha256 {digest(record)}"))
        for line in entry_lines(record):
            print(visible(line))


def entry_lines(record: Record) -> Iterator[str]:
    """What a record holds, a line for each question: its answer's status and size."""
    for question, reply in sorted(record.answers.items(), key=lambda item: (item[0].kind, item[0].path, str(item[0].args))):
        arguments = " ".join(str(argument) for argument in question.args)
        yield f"{question.kind:<10} {reply.status.value:<7} {len(reply.data):>9}  {question.path} {arguments}".rstrip()
