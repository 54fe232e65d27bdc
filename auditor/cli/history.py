"""`crosml-audit history`: what devices came to over many runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from auditor import files
from auditor.cli.common import Force, errors, outputs
from auditor.cli.options import PLAIN
from auditor.errors import UsageError
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.history.store import History
    from auditor.model import Report

app = typer.Typer(
    help="What devices came to over many runs: lists, trends, findings that flap, what came with what.", no_args_is_help=True, **PLAIN
)

Database = Annotated[str, typer.Argument(metavar="DB", help="The database that --history names.")]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="This device only.")]


def check_database(path: str | None) -> None:
    """Refuse now what could not be written once a long audit is done. Raises UsageError."""
    wrong = "" if path is None else files.why_not_written(path, force=True)
    if wrong:
        raise UsageError(f"--history {visible(path or '')}: cannot be written: {wrong}")


def keep(path: str, reports: Sequence[tuple[str | None, Report]] | Iterator[tuple[str | None, Report]]) -> int:
    """Add reports to a database, which is made where it does not exist; how many were new."""
    from auditor.history.store import History

    with History(path, create=True) as history:
        return sum([history.add(report, name) for name, report in reports])


@app.command("add")
def history_add(
    database: Database,
    reports: Annotated[list[str], typer.Argument(metavar="REPORT...", help="JSON reports.")],
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="Keep them under this name, not the report's.")] = None,
) -> None:
    """Add JSON reports; one that is there already is left as it is."""
    with errors():
        from auditor.reporting import load_report

        new = keep(database, ((device, load_report(path)) for path in reports))
        print(f"{new} new, {len(reports) - new} known")


@app.command("list")
def history_list(database: Database, device: Device = None) -> None:
    """Every run, a line each: device, time, verdict, findings that fail, what changed since the run before."""
    with errors():
        from auditor.history.store import History
        from auditor.history.views import short, turns

        with History(database) as history:
            for name in _devices(history, device):
                entries = history.runs(name)
                changed = {turn.at: turn.traits for turn in turns(entries)}
                for each in entries:
                    failed = sum(outcome == "fail" for outcome in each.findings.values())
                    came = "; ".join(f"{trait}: {short(was)}, now {short(now)}" for trait, was, now in changed.get(each.at, ())[:3])
                    print(visible(f"{name}  {each.at}  {each.verdict}  {failed} failed{f'  ({came})' if came else ''}"))


@app.command("trend")
def history_trend(
    database: Database,
    device: Device = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="This model only.")] = None,
    html: Annotated[str | None, typer.Option("--html", metavar="FILE", help="Write a page with drawings, too.")] = None,
    force: Force = False,
) -> None:
    """The latency of each model over the runs, and where it changed: a rank test against the last good runs tells that from noise."""
    with errors():
        from auditor.history import page
        from auditor.history.store import History
        from auditor.history.views import told, trends

        outputs(html, force=force)
        with History(database) as history:
            found = [each for name in _devices(history, device) for each in trends(history.runs(name)) if model in {None, each.model}]
        if model is not None and not found:
            raise UsageError(f"--model {visible(model)}: expected a model that was measured")
        for each in found:
            print("\n".join(map(visible, told(each))))
        if html is not None:
            files.write(html, page.render(found).encode())


@app.command("flaky")
def history_flaky(database: Database, device: Device = None) -> None:
    """Findings whose outcome changed and changed back although nothing of the device did."""
    with errors():
        from auditor.history.store import History
        from auditor.history.views import flaps

        with History(database) as history:
            for name in _devices(history, device):
                for each in flaps(history.runs(name)):
                    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in each.outcomes)
                    print(visible(f"{name}  {each.finding}  changed {each.changes} times in {each.runs} runs: {outcomes}"))


@app.command("blame")
def history_blame(database: Database, device: Device = None) -> None:
    """Which change (kernel, driver, firmware, delegate …) came with which verdict, finding or latency."""
    with errors():
        from auditor.history.store import History
        from auditor.history.views import blame, turns

        with History(database) as history:
            found = [turn for name in _devices(history, device) for turn in turns(history.runs(name))]
        for name, group in blame(found):
            devices = len({turn.device for turn in group})
            print(visible(f"{name or 'without a change that is known'} ({devices} {'device' if devices == 1 else 'devices'})"))
            for turn in group:
                print(visible(f"    {turn.device}  {turn.at}  {turn.what}"))


def _devices(history: History, device: str | None) -> list[str]:
    known = history.devices()
    if device is not None and device not in known:
        raise UsageError(f"--device {visible(device)}: expected a device of the history")
    return known if device is None else [device]
