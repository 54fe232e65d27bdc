"""`crosml-audit waivers`: waiver files looked over and drafted."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from auditor.cli.common import errors
from auditor.cli.options import PLAIN, read_date
from auditor.model import visible

app = typer.Typer(help="Look waivers over, or draft them.", no_args_is_help=True, **PLAIN)

Today = Annotated[str | None, typer.Option(metavar="DATE", help="The day that decides which waivers are in force (UTC).")]


@app.command("check")
def waivers_check(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    report: Annotated[str | None, typer.Option(metavar="REPORT", help="JSON report that the waivers are for.")] = None,
    today: Today = None,
) -> None:
    """What is to be said of each waiver of a file: expired, expiring soon; with a report also unused, too broad, or for another board.

    Exit codes: 0, or 1 where a waiver needs attention; 2 wrong usage, or a file that is not complete; 4 the report cannot be read.
    """
    with errors():
        from auditor.audit import load_waivers
        from auditor.engine import waived
        from auditor.reporting import load_report
        from auditor.waivers import states

        waivers, day = load_waivers(file), read_date(today)
        found = None if report is None else waived(load_report(report), waivers, day)
        results, board = (found.requirements, found.device.board) if found else (None, "")
        told = list(states(waivers, results, day, board))
        for each in told:
            print(visible(each.remark or f"The waiver of {each.name} is in force until {each.waiver.expires.isoformat()}."))
    raise typer.Exit(1 if any(each.wrong for each in told) else 0)


@app.command("draft")
def waivers_draft(report: Annotated[str, typer.Argument(metavar="REPORT")], today: Today = None) -> None:
    """A waivers file (TOML) for what fails in a JSON report, to be filled in: reason and author are empty, and it expires in 90 days."""
    with errors():
        from auditor.reporting import load_report
        from auditor.waivers import draft

        sys.stdout.write(draft(load_report(report), read_date(today)))
