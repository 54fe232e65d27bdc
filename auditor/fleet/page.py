"""The index page of a run: what changed since the run before, and the matrix of devices and requirements.

One file, no script, loads nothing. It is made from the journals alone, so it costs the same however large the reports are.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.errors import AuditError
from auditor.fleet.controller import DEVICES, folder_of
from auditor.fleet.journal import read, runs
from auditor.model import Verdict, visible
from auditor.pages import template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from auditor.fleet.controller import Run
    from auditor.fleet.inventory import Inventory
    from auditor.fleet.results import Ended

ROWS = 2000
"""Devices in the matrix, the worst first; the rest are counted."""
CHANGES = 500
COLUMNS = 120
_LONGEST = 300

_GLYPHS = {"pass": ("✓", "g"), "fail": ("✗", "b"), "error": ("!", "b"), "unknown": ("?", "o"), "not-applicable": ("-", "p")}
_WAIVED = ("~", "p")
_VERDICTS = {
    Verdict.NON_COMPLIANT: ("✗", "b", 0),
    None: ("!", "b", 1),
    Verdict.INCOMPLETE: ("?", "o", 2),
    Verdict.COMPLIANT: ("✓", "g", 3),
}


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    glyph: str
    tone: str
    told: str
    message: str
    report: str
    log: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Change:
    device: str
    what: str
    tone: str


def render(inventory: Inventory, run: Run, before: tuple[str, Mapping[str, Ended]] | None) -> str:
    """The page. `before` is the run to compare with: its name, and how its devices ended."""
    columns = tuple(itertools.islice(dict.fromkeys(key for ended in run.ended.values() for key in ended.outcomes), COLUMNS))
    order = sorted(inventory.members, key=lambda member: _weight(run.ended.get(member.name)))
    names = [member.name for member in order]
    changes = list(itertools.islice(_changes(names, run.ended, before[1]), CHANGES + 1)) if before else []
    words = Counter(_told(run.ended.get(name)) for name in names)
    return template("auditor.fleet", "index.html").render(
        run=run,
        devices=len(names),
        words=sorted(words.items()),
        columns=columns,
        rows=[_row(name, run, columns) for name in names[:ROWS]],
        omitted=max(0, len(names) - ROWS),
        before=before[0] if before else "",
        changes=changes[:CHANGES],
        more_changes=len(changes) > CHANGES,
    )


def earlier(output: str, run: Run) -> tuple[str, Mapping[str, Ended]] | None:
    """The run before, in the same folder: its name, and how its devices ended. One whose journal cannot be read is passed over."""
    for folder in runs(output):
        if os.path.basename(folder) < run.name:
            try:
                state = read(folder)
            except AuditError:
                continue
            if state.ended:
                return state.run, state.ended
    return None


def _weight(ended: Ended | None) -> int:
    return _VERDICTS[ended.verdict if ended else None][2]


def _told(ended: Ended | None) -> str:
    if ended is None:
        return "not begun"
    return ended.verdict.value if ended.verdict else "not carried out"


def _row(name: str, run: Run, columns: tuple[str, ...]) -> _Row:
    ended = run.ended.get(name)
    glyph, tone, _ = _VERDICTS[ended.verdict if ended else None]
    outcomes = ended.outcomes if ended else {}
    cells = tuple(_cell(outcomes.get(column, "")) for column in columns)
    where = f"{DEVICES}/{name}"
    has_report = ended is not None and ended.verdict is not None
    has_log = os.path.exists(os.path.join(folder_of(run.folder, name), "log.txt"))
    message = visible(ended.message[:_LONGEST]) if ended else ""
    told = ended.told if ended else "not begun"
    return _Row(
        name, glyph, tone, told, message, f"{where}/report.html" if has_report else "", f"{where}/log.txt" if has_log else "", cells
    )


def _cell(outcome: str) -> tuple[str, str]:
    if outcome.endswith(", waived"):
        return _WAIVED
    return _GLYPHS.get(outcome, ("", ""))


def _changes(names: list[str], now: Mapping[str, Ended], before: Mapping[str, Ended]) -> Iterator[_Change]:
    """What a device's audit came to that it did not come to before; a device that is new or gone."""
    for name in names:
        new, old = now.get(name), before.get(name)
        if new is None:
            continue
        if old is None:
            yield _Change(name, f"new device: {new.told}", "p")
            continue
        if (old.verdict, old.failure) != (new.verdict, new.failure):
            yield _Change(name, f"{old.told}, now {new.told}", _tone(_weight(new) - _weight(old)))
        if old.kernel and new.kernel and old.kernel != new.kernel:
            yield _Change(name, visible(f"kernel {old.kernel[:80]}, now {new.kernel[:80]}"), "p")
        if new.verdict is None or old.verdict is None:
            continue
        for key in dict.fromkeys((*old.outcomes, *new.outcomes)):
            was, became = old.outcomes.get(key, "not asked"), new.outcomes.get(key, "not asked")
            if was != became:
                yield _Change(name, visible(f"{key}: {was}, now {became}"), {"pass": "g", "fail": "b", "error": "b"}.get(became, "o"))
    for name in before.keys() - set(names):
        yield _Change(name, "no longer in the inventory", "p")


def _tone(step: int) -> str:
    return "g" if step > 0 else "b" if step < 0 else "o"
