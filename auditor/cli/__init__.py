"""The commands, a file each. Nothing heavy is imported before a command needs it.

Exit codes: 0 compliant, 1 non-compliant, 2 wrong usage, 3 incomplete, 4 the audit could not be carried out.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from auditor import __version__
from auditor.cli import checks, device, fleet, history, report, service, snapshot, submit, waivers, zoo
from auditor.cli.common import errors
from auditor.cli.options import PLAIN, Grouped
from auditor.model import EXIT_FAILED

app = typer.Typer(
    name="crosml-audit",
    help="Compliance auditor for ChromeOS ML accelerators.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **{**PLAIN, "add_completion": True},
)
app.add_typer(zoo.app, name="zoo")
app.add_typer(service.app, name="service")
app.add_typer(report.app, name="report")
app.add_typer(history.app, name="history")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(waivers.app, name="waivers")
app.command(cls=Grouped)(device.device)
app.command(cls=Grouped)(fleet.fleet)
app.command(cls=Grouped)(submit.submit)
app.command(cls=Grouped)(submit.review)
app.command()(checks.checks)
app.command()(checks.explain)


@app.callback(invoke_without_command=True)
def main_options(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Compliance auditor for ChromeOS ML accelerators."""
    if version:
        print(f"crosml-audit {__version__}")
        raise typer.Exit


def _interrupt(_number: int, _frame: object) -> None:
    """End as on Ctrl-C: what was started is ended, what was finished is reported. Once: what cleans up is left to do so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    if signal.getsignal(signal.SIGINT) in {signal.SIG_IGN, None}:  # as in a shell's background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def main() -> NoReturn:
    """Run the command line; typer's own usage errors already end in 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us; what is printed to no stderr would go to stdout
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no … gets \\u2026
    try:
        with errors():  # help and version, which no command gives
            app()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except Exception:  # noqa: BLE001  # a defect of ours must not end in Python's 1, which says non-compliant
        traceback.print_exc()
        print("crosml-audit: a defect of the auditor: please report the lines above", file=sys.stderr)
    sys.exit(EXIT_FAILED)
