"""Manual pages, from the checks' own metadata."""

from __future__ import annotations

import runpy
import sys

import pytest

from auditor import manual, registry, requirements
from auditor.manual import manual_page, write_pages
from auditor.model import Level, Outcome, Owner, check
from fixtures.report import sample as whole_report


@check(
    "r-1.word",
    expected="a thing",
    passes="It is there.",
    fails="It is not.",
    unknown="Who knows.",
    not_applicable="Not here.",
    remediation="Put it there.",
    owner=Owner.FIRMWARE,
    level=Level.SHOULD,
    each="accelerators",
)
def sample(facts, item):
    """Whether the thing is there.

    It is looked for.
        Indented.
    """


def test_a_page_says_all_that_the_metadata_says():
    assert manual_page(sample) == (
        "# r-1.word\n\n"
        "Level: should. Asked for each item of the accelerators. Who can act: firmware.\n\n"
        "Expected: a thing\n\n"
        "Whether the thing is there.\n\nIt is looked for.\n    Indented.\n\n"
        "* pass: It is there.\n* fail: It is not.\n* unknown: Who knows.\n* not-applicable: Not here.\n\n"
        "What to do: Put it there."
    )


@pytest.mark.parametrize("each", registry.checks(plugins=False), ids=lambda each: each.id)
def test_every_built_in_check_has_a_page(each):
    page = manual_page(each)
    assert page.startswith(f"# {each.id}\n")
    asked = {None: "once for the device", "model": "for each zoo model"}.get(each.each, f"for each item of the {each.each}")
    assert asked in page
    assert all(each.sentences[outcome] in page for outcome in Outcome if outcome is not Outcome.ERROR)
    assert each.sentences[Outcome.ERROR] not in page


def test_pages_replace_those_that_are_there(tmp_path):
    (tmp_path / "gone.md").write_text("old")
    (tmp_path / "kept.txt").write_text("mine")
    write_pages(str(tmp_path), [sample])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["README.md", "kept.txt", "r-1.word.md"]
    assert (tmp_path / "r-1.word.md").read_text() == manual_page(sample) + "\n"
    assert "* [r-1.word](r-1.word.md) (should): a thing\n" in (tmp_path / "README.md").read_text()


def test_the_module_writes_every_page(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["manual", str(tmp_path / "docs")])
    monkeypatch.delitem(sys.modules, "auditor.manual")
    runpy.run_module("auditor.manual", run_name="__main__")
    written = {each.name for each in (tmp_path / "docs").iterdir()}
    assert written == {"README.md", *(f"{each.id}.md" for each in registry.checks(plugins=False))}


def test_the_chain_of_a_finding_is_told_in_order():
    report = whole_report()
    for result in report.requirements:
        for finding in result.findings:
            told = list(manual.chain(report, result, finding))
            steps = [int(line[0]) for line in told if line[:1].isdigit()]
            assert steps == [1, 2, 3, 4, 5, 6]
            places = [next(at for at, line in enumerate(told) if each.path in line and line.startswith("   ")) for each in finding.evidence]
            assert places == sorted(places)
            text = "\n".join(told)
            for part in (finding.id, result.title, finding.expected, finding.observed, finding.reason, report.verdict.value):
                assert part in text
            assert (finding.remediation in text) is (finding.outcome not in {Outcome.PASS, Outcome.NOT_APPLICABLE})
            assert finding.waiver is None or finding.waiver.reason in text
            assert all(line.isprintable() for line in told)


def test_a_clause_says_its_text_and_its_source():
    for each in requirements.shipped():
        told = manual.clause(each)
        assert all(part in told for part in (each.id, each.text.strip(), f"Source: {each.source}", each.interpretation))
