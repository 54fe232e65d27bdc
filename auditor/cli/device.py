"""`crosml-audit device`: audit a device."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from auditor import files
from auditor.bench.options import ZooOptions
from auditor.cli.common import formats, give, outputs, progress, show_changes
from auditor.cli.options import read_date, takes
from auditor.model import EXIT_CODES
from auditor.request import Judging, Target


@takes(Target, ZooOptions, Judging)
def device(
    asked: dict[str, Any],
    *,
    only: Annotated[list[str], typer.Option(metavar="ID", help="Ask only this requirement or check; the rest is unknown.")] = [],
    skip: Annotated[list[str], typer.Option(metavar="ID", help="Leave this requirement or check out; it is unknown.")] = [],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the probes would change on the device, and undo.")] = False,
    save_snapshot: Annotated[str | None, typer.Option(metavar="FILE", help="Keep the record that was judged.")] = None,
    format: Annotated[list[str], typer.Option(metavar="NAME[=PATH]", help="text, json, junit …; may repeat.")] = [],
    history: Annotated[str | None, typer.Option("--history", metavar="DB", help="Add the report to this database.")] = None,
    today: Annotated[str | None, typer.Option(metavar="DATE", help="The day that decides which waivers are in force (UTC).")] = None,
) -> None:
    """Audit a device: this machine, one over ssh, a directory, a snapshot, or the demonstration.

    Exit codes: 0 compliant, 1 non-compliant, 2 wrong usage, 3 incomplete, 4 the audit could not be carried out.
    """
    from auditor import audit, gather
    from auditor.engine import Selection
    from auditor.request import Request
    from auditor.sources.recording import pack

    forms = formats(format)
    outputs(save_snapshot, history, *(path for _, path in forms))
    request = Request(**asked, selection=Selection(tuple(only), tuple(skip)), today=read_date(today))
    if dry_run:
        show_changes(gather.would_change(request))
        return
    with progress() as tell:
        audited = audit.audit(request, tell)
    if save_snapshot is not None:
        files.write(save_snapshot, pack(audited.record))
    for form, path in forms:
        give(form, audited.report, path)
    if history is not None:
        from auditor.cli.history import keep

        keep(history, [(None, audited.report)])
    raise typer.Exit(EXIT_CODES[audited.report.verdict])
