"""Ids as people type them: one by one, with commas, how several begin, of findings whose subjects have commas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor import registry, requirements
from auditor.errors import UsageError
from auditor.vocabulary import find, near, vocabulary
from fixtures.report import NPU, sample

KNOWN = vocabulary(requirements.shipped(), registry.checks())
IDS = sorted({name for each, check in KNOWN.pairs for name in (each.id, each.family, check.id, f"{each.id}.{check.word}")})


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["a,b", "c"], ("a", "b", "c")),
        (["a, b"], ("a", "b")),
        (["misc-1.size@file:/opt/a,b.so"], ("misc-1.size@file:/opt/a,b.so",)),
        (["misc-1.size@file:/opt/a,b.so,security-3"], ("misc-1.size@file:/opt/a,b.so", "security-3")),
        (["misc-1.size@file:/opt/a,security-3.domain@device,zoo"], ("misc-1.size@file:/opt/a", "security-3.domain@device", "zoo")),
    ],
)
def test_commas_separate_ids_and_belong_to_subjects(texts, names):
    assert KNOWN.split(texts) == names


@given(st.lists(st.sampled_from(IDS), min_size=1, max_size=5))
def test_a_list_with_commas_is_its_ids(names):
    assert KNOWN.split([",".join(names)]) == tuple(names) == KNOWN.split(names)


@given(st.sampled_from(IDS))
def test_every_id_names_something_and_a_letter_less_is_near_it(name):
    assert KNOWN.matches(name)
    assert KNOWN.matches(f"{name}@pci:0000:00:05.0") == KNOWN.matches(name)
    assert "did you mean" in near(name[:-1] + "~", IDS)


@given(st.text(max_size=300))
def test_whatever_names_nothing_is_one_line(name):
    if not KNOWN.matches(name):
        assert KNOWN.unknown(name).isprintable()


def test_findings_of_a_report_by_the_same_words():
    report = sample()
    every = [finding.id for result in report.requirements for finding in result.findings]
    assert [finding.id for _, finding in find(report, ["functional-1,security-1.nodes"], "r")] == [
        each for each in every if each.startswith(("functional-1.", "security-1.nodes@"))
    ]
    assert {finding.id for _, finding in find(report, ["zoo"], "r")} == {each for each in every if each.startswith("zoo-")}
    assert [finding.id for _, finding in find(report, [f"functional-1.in-tree@{NPU}"], "r")] == [f"functional-1.in-tree@{NPU}"]
    with pytest.raises(UsageError, match=r"did you mean functional-1\.in-tree"):
        find(report, ["functional-1.intree"], "r")
