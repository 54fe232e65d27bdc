"""docs/devices.md is what the trees give, and every cell of it is decided or says what would decide it."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.model import Level, Outcome
from fixtures import trees
from fixtures.device_table import COLUMNS, audited, page, undecided

PAGE = Path(__file__).resolve().parents[1] / "docs" / "devices.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.parametrize("make", trees.EVERY, ids=lambda each: each.__name__)
def test_every_cell_is_decided_or_names_what_would_decide_it(make):
    report = audited(make)
    cells = {each.id: each for each in report.requirements if each.id in COLUMNS}
    assert set(cells) == set(COLUMNS)
    assert not [each.id for each in cells.values() if each.outcome is Outcome.ERROR]
    reasons = undecided(report)
    for requirement, cell in cells.items():
        if cell.outcome is Outcome.UNKNOWN:
            named = [each for each in reasons if each.check.startswith(f"{requirement}.")]
            assert named
            assert all(each.observed and each.remediation for each in named)


@pytest.mark.parametrize("make", trees.EVERY, ids=lambda each: each.__name__)
def test_no_check_breaks_on_it(make):
    broken = [each.id for result in audited(make).requirements for each in result.findings if each.outcome is Outcome.ERROR]
    assert broken == []
    assert Level.MUST in {result.level for result in audited(make).requirements}
