"""`crosml-audit report`: JSON reports shown, converted and compared."""

from __future__ import annotations

import enum
import sys
from typing import Annotated

import typer

from auditor.cli.common import errors, formats, give, outputs
from auditor.cli.options import PLAIN

app = typer.Typer(help="Show, convert and compare JSON reports.", no_args_is_help=True, **PLAIN)

NoWaivers = Annotated[bool, typer.Option("--no-waivers", help="As it would be if no waiver were in force.")]


class DiffFormat(enum.Enum):
    """--format of `report diff`."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


class FailOn(enum.Enum):
    """--fail-on of `report diff`."""

    NOTHING = "nothing"
    REGRESSION = "regression"


@app.command("show")
def report_show(file: Annotated[str, typer.Argument(metavar="FILE")], no_waivers: NoWaivers = False) -> None:
    """A JSON report as text."""
    report_convert(file, ["text"], no_waivers)


@app.command("convert")
def report_convert(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    format: Annotated[list[str], typer.Option(metavar="NAME[=PATH]")] = [],
    no_waivers: NoWaivers = False,
) -> None:
    """A JSON report in other formats."""
    with errors():
        from auditor.engine import unwaived
        from auditor.reporting import load_report

        forms = formats(format)
        outputs(*(path for _, path in forms))
        report = load_report(file)
        report = unwaived(report) if no_waivers else report
        for form, path in forms:
            give(form, report, path)


@app.command("diff")
def report_diff(
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
    tolerance: Annotated[float, typer.Option(min=0, metavar="SHARE", help="Leave out a figure that moved by at most this share.")] = 0.05,
    format: Annotated[DiffFormat, typer.Option(help="How to show the comparison.")] = DiffFormat.TEXT,
    fail_on: Annotated[FailOn, typer.Option("--fail-on", help="Exit with 1 where something is worse than it was.")] = FailOn.NOTHING,
) -> None:
    """What changed between two JSON reports, and the cause of each change.

    Exit codes: 0; 1 with --fail-on regression where a must finding, the verdict, or a measurement beyond noise is worse; 2 wrong usage;
    4 a report cannot be read.
    """
    with errors():
        from auditor import comparison
        from auditor.comparing import compare
        from auditor.reporting import load_report

        found = compare(load_report(old), load_report(new), tolerance)
        shown = {DiffFormat.TEXT: comparison.as_text, DiffFormat.JSON: comparison.as_json, DiffFormat.HTML: comparison.as_html}
        sys.stdout.write(shown[format](found))
    raise typer.Exit(1 if found.regression and fail_on is FailOn.REGRESSION else 0)
