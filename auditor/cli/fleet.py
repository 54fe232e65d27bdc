"""`crosml-audit fleet`: audit all devices of an inventory over ssh."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from auditor import files
from auditor.cli.common import Force, errors, outputs
from auditor.cli.history import check_database, keep
from auditor.cli.options import read_date
from auditor.errors import UsageError
from auditor.model import EXIT_FAILED, visible

if TYPE_CHECKING:
    from auditor.fleet.controller import Run


def fleet(
    inventory: Annotated[str, typer.Argument(metavar="INVENTORY", help="TOML file of the devices; docs/lab.md describes it.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Folder of the runs; each has a folder in it.")] = "fleet",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the last run in the folder; begin one where there is none.")] = False,
    format: Annotated[list[str], typer.Option(metavar="NAME[=PATH]", help="text, json, junit, ctrf, kcidb; may repeat.")] = [],
    history: Annotated[str | None, typer.Option("--history", metavar="DB", help="Add every report to this database.")] = None,
    today: Annotated[str | None, typer.Option(metavar="DATE", help="The day that decides which waivers are in force (UTC).")] = None,
    force: Force = False,
) -> None:
    """Audit all devices of an inventory over ssh: a folder per device, a journal, an index page.

    Exit codes: 1 a device is non-compliant, else 4 one could not be audited, else 3 one is incomplete, else 0; 2 wrong usage.
    """
    with errors():
        from auditor.fleet import combined, controller, page, watching
        from auditor.fleet.inventory import load
        from auditor.fleet.journal import NAME, read

        forms = _formats(format)
        outputs(*(path for _, path in forms), force=force or resume)
        check_database(history)
        found = load(inventory, read_date(today))
        folder, continued = controller.begin(output, found, resume=resume)

        said: list[bytes] = []

        def write(run: Run) -> None:
            index = page.render(found, run, page.earlier(output, run))
            files.write(os.path.join(folder, "index.html"), index.encode(), durable=True)
            if history is not None:
                keep(history, combined.reports(found, run, synthetic=False))
            for name, path in forms:
                data = combined.render(name, found, run)
                if path is None:
                    said.append(data)  # when the table is gone
                else:
                    files.write(path, data, durable=True)

        before = len(read(folder).ended) if continued and os.path.exists(os.path.join(folder, NAME)) else 0
        with watching.Table(len(found.members), before) if sys.stderr.isatty() else watching.Lines() as watcher:
            run = controller.carry_out(found, folder, watcher, write)
        sys.stdout.buffer.write(b"".join(said))
        if not run.complete:
            print(visible(f"crosml-audit: interrupted: {len(run.ended)} of {len(found.members)} devices were audited"), file=sys.stderr)
            print(visible(f"help: crosml-audit fleet {inventory} --output {output} --resume"), file=sys.stderr)
            raise typer.Exit(EXIT_FAILED)
        raise typer.Exit(run.exit)


def _formats(wanted: list[str]) -> list[tuple[str, str | None]]:
    """The formats asked for with their paths; at most one of them goes to stdout."""
    from auditor.fleet.combined import FORMATS

    found: list[tuple[str, str | None]] = []
    for each in wanted or ["text"]:
        name, equals, path = each.partition("=")
        if name not in FORMATS or (equals and not path):
            raise UsageError(f"--format {visible(each)}: expected NAME or NAME=PATH, NAME one of {', '.join(FORMATS)}")
        found.append((name, path or None))
    if sum(path is None for _, path in found) > 1:
        raise UsageError("--format: only one format can go to stdout; give the others a path: NAME=PATH")
    return found
