"""`crosml-audit device`: audit a device."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from auditor import files
from auditor.bench.options import ZooOptions
from auditor.cli.common import (
    Force,
    FormatOption,
    OutputDir,
    Unknown,
    UnknownAs,
    Verbose,
    formats,
    give,
    id_names,
    outputs,
    progress,
    settings,
    show_changes,
)
from auditor.cli.history import check_database, keep
from auditor.cli.options import JUDGING, OUTPUT, TARGET, read_date, takes
from auditor.errors import AuditError
from auditor.model import EXIT_CODES, Report, visible
from auditor.request import Judging, Target


@takes(Target, ZooOptions, Judging)
def device(
    asked: dict[str, Any],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the probes would change on the device, and undo.", rich_help_panel=TARGET)
    ] = False,
    expect_accelerator: Annotated[
        bool,
        typer.Option("--expect-accelerator", help="Exit with 4 where no accelerator with a bound driver is found.", rich_help_panel=TARGET),
    ] = False,
    only: Annotated[
        list[str],
        typer.Option(
            metavar="ID,…",
            help="Judge only these requirements, checks or findings; zoo or security-3 names all that begin so.",
            rich_help_panel=JUDGING,
            autocompletion=id_names,
        ),
    ] = [],
    skip: Annotated[
        list[str],
        typer.Option(
            metavar="ID,…", help="Leave these out; what is left out is unknown.", rich_help_panel=JUDGING, autocompletion=id_names
        ),
    ] = [],
    today: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The day that decides which waivers are in force (UTC).", rich_help_panel=JUDGING),
    ] = None,
    save_snapshot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep the record that was judged.", rich_help_panel=OUTPUT)
    ] = None,
    history: Annotated[
        str | None, typer.Option("--history", metavar="DB", help="Add the report to this database.", rich_help_panel=OUTPUT)
    ] = None,
    format: FormatOption = [],
    output_dir: OutputDir = None,
    unknown_as: Unknown = UnknownAs.ERROR,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Audit a device: this machine, one over ssh, a directory, a snapshot, or the demonstration.

    Exit codes: 0 compliant, 1 non-compliant, 2 wrong usage, 3 incomplete, 4 the audit could not be carried out.
    """
    from auditor import audit, gather
    from auditor.engine import Selection
    from auditor.request import Request
    from auditor.sources.recording import pack

    forms = formats(format, output_dir)
    outputs(save_snapshot, *(path for _, path in forms), folder=output_dir, force=force)
    check_database(history)
    request = Request(**asked, selection=Selection(tuple(only), tuple(skip)), today=read_date(today))
    if dry_run:
        show_changes(gather.would_change(request))
        return
    with progress() as tell:
        audited = audit.audit(request, tell)
    if save_snapshot is not None:
        files.write(save_snapshot, pack(audited.record))
    for form, path in forms:
        give(form, audited.report, path, **settings(verbose=verbose, unknown_as=unknown_as))
    if history is not None:
        keep(history, [(None, audited.report)])
    if expect_accelerator:
        _expect_driven(audited.report)
    raise typer.Exit(EXIT_CODES[audited.report.verdict])


def _expect_driven(report: Report) -> None:
    """Raise AuditError where no accelerator was found, or one has no driver: on a board that had one, that is a regression."""
    idle = [each.id for each in report.accelerators if not each.driver]
    if not report.accelerators:
        raise AuditError("--expect-accelerator: expected an accelerator with a bound driver; none was found")
    if idle:
        raise AuditError(f"--expect-accelerator: {visible(idle[0])}: expected a bound driver")
