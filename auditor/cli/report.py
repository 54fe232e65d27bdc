"""`crosml-audit report`: JSON reports shown, converted, compared, signed and verified."""

from __future__ import annotations

import enum
import sys
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
from auditor.cli.signing import Keys, Signers, Trust, signed_by, signers, trusted
from auditor.model import visible

app = typer.Typer(help="Show, convert, compare, sign and verify JSON reports.", no_args_is_help=True, **PLAIN)

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
def report_show(file: Annotated[str, typer.Argument(metavar="FILE")], no_waivers: NoWaivers = False, verbose: Verbose = False) -> None:
    """A JSON report as text."""
    report_convert(file, ["text"], no_waivers=no_waivers, verbose=verbose)


@app.command("convert")
def report_convert(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    format: FormatOption = [],
    output_dir: OutputDir = None,
    unknown_as: Unknown = UnknownAs.ERROR,
    verbose: Verbose = False,
    force: Force = False,
    no_waivers: NoWaivers = False,
) -> None:
    """A JSON report in other formats."""
    with errors():
        from auditor.engine import unwaived
        from auditor.reporting import load_report

        forms = formats(format, output_dir)
        outputs(*(path for _, path in forms), folder=output_dir, force=force)
        report = load_report(file)
        report = unwaived(report) if no_waivers else report
        for form, path in forms:
            give(form, report, path, **settings(verbose=verbose, unknown_as=unknown_as))


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


REPORT = "report.json"
"""What a signature calls a report, whatever the name of its file."""
SIGNATURE = ".dsse.json"
"""What the name of a report's signature adds to that of the report."""


@app.command("sign")
def report_sign(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    key: Keys = [],
    signer: Signers = [],
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Default: the report's name + .dsse.json.")] = None,
    force: Force = False,
) -> None:
    """Sign a JSON report: an in-toto statement (test-result v0.1) about the file, in a DSSE envelope.

    Exit codes: 0; 2 wrong usage; 4 the report cannot be read or nothing could be signed.
    """
    with errors():
        import json

        from auditor import files, registry
        from auditor.errors import AuditError
        from auditor.reporting import SIZE_LIMIT, read_report
        from auditor.submission import statement

        path = output or file + SIGNATURE
        outputs(path, force=force)
        sign_with = signers(key, signer)
        data = files.read(file, SIZE_LIMIT, file, AuditError)
        result = json.loads(registry.formats()["in-toto"].render(read_report(data, file)))
        files.write(path, statement.signed({REPORT: data}, result["predicateType"], result["predicate"], sign_with))
        print(statement.DISCLAIMER)


@app.command("verify")
def report_verify(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    trust: Trust = [],
    signature: Annotated[
        str | None, typer.Option(metavar="FILE", help="The signature, or a reviewer's decision. Default: the report's name + .dsse.json.")
    ] = None,
) -> None:
    """Verify that a trusted key signed a JSON report, by itself (`report sign`) or in a decision (`review`).

    Exit codes: 0 verified; 2 wrong usage; 4 refused.
    """
    with errors():
        from auditor import files
        from auditor.errors import AuditError
        from auditor.reporting import SIZE_LIMIT, read_report
        from auditor.submission import dsse, statement

        path = signature or file + SIGNATURE
        keys = trusted(trust)
        data = files.read(file, SIZE_LIMIT, file, AuditError)
        found = statement.read(files.read(path, dsse.SIZE_LIMIT, path, AuditError), keys, visible(path))
        if found.predicate_type not in {statement.TEST_RESULT, statement.REVIEW}:
            raise AuditError(visible(f"{path}: expected the signature of a report, got {found.predicate_type[:80]!r}"))
        statement.check_one(found, REPORT, data, visible(path))
        report = read_report(data, file)
        print(visible(f"{file}: {report.verdict.value}, signed by {signed_by(found.signers, found.trusted)}"))
        print(statement.DISCLAIMER)
