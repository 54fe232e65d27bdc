"""`crosml-audit report`: JSON reports shown, converted and compared."""

from __future__ import annotations

from typing import Annotated

import typer

from auditor.cli.common import (
    Force,
    FormatOption,
    OutputDir,
    Unknown,
    UnknownAs,
    Verbose,
    errors,
    formats,
    give,
    outputs,
    settings,
)
from auditor.cli.options import PLAIN

app = typer.Typer(help="Show, convert and compare JSON reports.", no_args_is_help=True, **PLAIN)


@app.command("show")
def report_show(file: Annotated[str, typer.Argument(metavar="FILE")], verbose: Verbose = False) -> None:
    """A JSON report as text."""
    report_convert(file, ["text"], verbose=verbose)


@app.command("convert")
def report_convert(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    format: FormatOption = [],
    output_dir: OutputDir = None,
    unknown_as: Unknown = UnknownAs.ERROR,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """A JSON report in other formats."""
    with errors():
        from auditor.reporting import load_report

        forms = formats(format, output_dir)
        outputs(*(path for _, path in forms), folder=output_dir, force=force)
        report = load_report(file)
        for form, path in forms:
            give(form, report, path, **settings(verbose=verbose, unknown_as=unknown_as))


@app.command("diff")
def report_diff(
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
) -> None:
    """What changed between two JSON reports, and why."""
    with errors():
        from auditor.reporting import diff, load_report

        print("\n".join(diff(load_report(old), load_report(new))) or "no difference")
