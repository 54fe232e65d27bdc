"""Judging: every rule of outcomes, waivers and verdicts, over checks made for the purpose."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor import engine
from auditor.engine import Context, Selection, judge, verdict, worst
from auditor.facts.types import Accelerator, Listing, Missing, Node, Ok, Plan
from auditor.model import (
    Answer,
    DeviceSummary,
    Evidence,
    Level,
    Outcome,
    Owner,
    Remedy,
    Requirement,
    RequirementResult,
    Status,
    Tool,
    Verdict,
    Waiver,
    ZooUsed,
    check,
)
from fixtures.facts import GONE
from fixtures.facts import facts as no_facts

TODAY = datetime.date(2026, 3, 1)
NPU = "pci:0000:00:05.0"
PLACE = Evidence("/sys/class/accel", Status.OK)
DENIED = Missing(Status.DENIED, (Evidence("/sys/class/accel", Status.DENIED),), "Permission denied", Remedy.ROOT)
CONTEXT = Context(Tool("t", "1"), "set", DeviceSummary("root", "d", "0" * 64, "2026-03-01T00:00:00+00:00"), ZooUsed("0"), ("a note",))
OUTCOMES = list(Outcome)


def accelerator(subject=NPU, **changes):
    given = {
        "subject": subject,
        "bus": "pci",
        "sysfs": "/sys/devices/x",
        "found_in": (),
        "ids": {"vendor": "1234", "device": "11e8"},
        "modalias": "",
        "nodes": (),
        "driver": GONE,
        "module": GONE,
        "group": GONE,
    }
    return Accelerator(**{**given, **changes})


def facts(**changes):
    """A device of which nothing is known but its one accelerator."""
    return no_facts(**{"accelerators": Ok(Listing((accelerator(),), (PLACE,)), (PLACE,)), **changes})


def requirement(name="r-1", level=Level.MUST, **changes):
    return Requirement(**{"id": name, "title": name, "text": "", "source": "", "level": level, "family": name, **changes})


def question(name, *answers, each=None, level=Level.MUST, needs=()):
    """A check that gives the answers, or raises those that are exceptions."""

    def body(facts, *about):
        """Say what it was told."""
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            yield answer if isinstance(answer, Answer) else Answer(answer, f"{answer.value} seen")

    return check(
        name,
        expected="something",
        passes="It passes.",
        fails="It fails.",
        remediation="Mend it.",
        owner=Owner.VENDOR,
        each=each,
        level=level,
        needs=needs,
    )(body)


def audit(*checks, on=None, requirements=None, waivers=(), selection=None, today=TODAY):
    return judge(
        on or facts(),
        checks,
        requirements or (requirement(),),
        waivers,
        today,
        selection or Selection(),
        CONTEXT,
    )


def waiver(finding, expires=TODAY):
    return Waiver(finding, "known", "A. Reviewer", expires)


def only(report):
    """The one requirement's one finding."""
    ((finding,),) = [result.findings for result in report.requirements]
    return finding


ORDER = [Outcome.FAIL, Outcome.ERROR, Outcome.UNKNOWN, Outcome.PASS, Outcome.NOT_APPLICABLE]


def test_the_worst_outcome_is_that_of_the_contract():
    for index, bad in enumerate(ORDER):
        for better in ORDER[index:]:
            assert worst((bad, better)) is worst((better, bad)) is bad
    assert worst(()) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "outcomes", [(Outcome.PASS, Outcome.FAIL), (Outcome.UNKNOWN, Outcome.PASS), (Outcome.PASS, Outcome.NOT_APPLICABLE)]
)
def test_a_requirement_has_the_worst_outcome_of_its_checks(outcomes):
    report = audit(*(question(f"r-1.{index}", each) for index, each in enumerate(outcomes)))
    assert report.requirements[0].outcome is worst(outcomes)
    assert [finding.outcome for finding in report.requirements[0].findings] == list(outcomes)


def test_no_finding_at_all_is_unknown():
    for checks in ((), (question("r-1.silent"),), (question("other.check", Outcome.PASS),)):
        report = audit(*checks)
        assert (report.requirements[0].outcome, report.verdict) == (Outcome.UNKNOWN, Verdict.INCOMPLETE)
        assert report.requirements[0].findings == ()


def test_no_requirement_at_all_is_incomplete():
    assert verdict(()) is Verdict.INCOMPLETE


def result(outcome, level=Level.MUST):
    return RequirementResult("r", "r", level, outcome, waived=False, findings=())


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("pass", "compliant"),
        ("pass not-applicable", "compliant"),
        ("not-applicable", "incomplete"),
        ("not-applicable not-applicable", "incomplete"),
        ("pass unknown", "incomplete"),
        ("pass error", "incomplete"),
        ("error unknown", "incomplete"),
        ("pass fail", "non-compliant"),
        ("error fail", "non-compliant"),
        ("unknown fail", "non-compliant"),
        ("not-applicable fail", "non-compliant"),
    ],
)
def test_verdicts(outcomes, expected):
    results = [result(Outcome(each)) for each in outcomes.split()]
    assert verdict(results) is Verdict(expected)
    assert verdict([*results, result(Outcome.FAIL, Level.SHOULD)]) is Verdict(expected)


def test_should_requirements_alone_leave_the_verdict_open():
    assert verdict([result(Outcome.PASS, Level.SHOULD)]) is Verdict.INCOMPLETE
    assert verdict([result(Outcome.FAIL, Level.SHOULD)]) is Verdict.INCOMPLETE


@pytest.mark.parametrize("beside", OUTCOMES)
def test_a_should_finding_is_shown_and_decides_nothing(beside):
    alone = audit(question("r-1.must", Outcome.PASS))
    report = audit(question("r-1.must", Outcome.PASS), question("r-1.should", beside, level=Level.SHOULD))
    assert report.requirements[0].outcome is alone.requirements[0].outcome is Outcome.PASS
    assert report.verdict is Verdict.COMPLIANT
    assert [finding.outcome for finding in report.requirements[0].findings] == [Outcome.PASS, beside]


def test_a_should_pass_does_not_make_up_for_a_missing_must():
    assert audit(question("r-1.should", Outcome.PASS, level=Level.SHOULD)).requirements[0].outcome is Outcome.UNKNOWN


def test_a_finding_is_complete():
    evidence = (Evidence("/x", Status.OK, "0" * 64, "text"), Evidence("/x", Status.OK, "0" * 64, "text"))
    finding = only(audit(question("r-1.word", Answer(Outcome.FAIL, "saw it", evidence))))
    assert finding.id == "r-1.word@device"
    assert (finding.check, finding.subject, finding.level) == ("r-1.word", "device", Level.MUST)
    assert (finding.observed, finding.expected, finding.reason) == ("saw it", "something", "It fails.")
    assert (finding.remediation, finding.owner, finding.waiver) == ("Mend it.", Owner.VENDOR, None)
    assert finding.evidence == evidence[:1]


def test_an_answer_overrides_the_metadata():
    answer = Answer(Outcome.FAIL, "x", because="Because.", subject="file:/x", remediation="Do.", owner=Owner.FIRMWARE, remedy=Remedy.ROOT)
    finding = only(audit(question("r-1.word", answer)))
    assert (finding.subject, finding.reason, finding.remediation, finding.owner) == ("file:/x", "Because.", "Do.", Owner.FIRMWARE)
    assert finding.remedy is Remedy.ROOT


@pytest.mark.parametrize("remedy", list(Remedy))
def test_every_remedy_says_how(remedy):
    finding = only(audit(question("r-1.word", Answer(Outcome.UNKNOWN, "x", remedy=remedy))))
    assert finding.remediation not in {"", "Mend it."}
    assert finding.owner is (Owner.VENDOR if remedy is Remedy.VENDOR else Owner.LAB)


def test_a_missing_fact_is_unknown_with_its_place_and_what_would_collect_it():
    need = Missing(Status.DENIED, (Evidence("/sys/kernel/x", Status.DENIED),), "Permission denied", Remedy.ROOT)

    def opens(facts):
        """Open what is missing."""
        yield Answer(Outcome.PASS, str(need.open()))

    report = audit(
        replace(question("r-1.opens"), judge=opens), question("r-1.needs", Outcome.PASS, needs=("closure",)), on=facts(closure=need)
    )
    for finding in report.requirements[0].findings:
        assert finding.outcome is Outcome.UNKNOWN
        assert finding.observed == "/sys/kernel/x cannot be read by this user: Permission denied"
        assert (finding.remedy, finding.remediation) == (Remedy.ROOT, "Audit again as root.")
        assert finding.evidence == need.evidence


def test_root_is_not_told_to_become_root():
    """The agent notes for whom it asked (Plan.uid)."""
    denied = Answer(Outcome.UNKNOWN, "x", remedy=Remedy.ROOT)
    for uid, remedy in ((0, Remedy.EVIDENCE), (1000, Remedy.ROOT), (None, Remedy.ROOT)):
        finding = only(audit(question("r-1.word", denied), on=facts(plan=Plan(uid=uid))))
        assert finding.remedy is remedy
        assert ("as root" in finding.remediation) is (uid != 0)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.ABSENT, "does not exist"),
        (Status.DENIED, "cannot be read by this user"),
        (Status.FAILED, "could not be read"),
        (Status.UNASKED, "was not recorded"),
    ],
)
def test_denied_is_told_from_absent(status, words):
    missing = Missing(status, (Evidence("/x", status),))
    assert only(audit(question("r-1.needs", needs=("closure",)), on=facts(closure=missing))).observed == f"/x {words}"


@pytest.mark.parametrize(("note", "observed"), [("", "not recorded"), ("no delegate was named", "no delegate was named")])
def test_a_fact_without_evidence_says_why(note, observed):
    finding = only(audit(question("r-1.needs", needs=("closure",)), on=facts(closure=Missing(Status.UNASKED, note=note))))
    assert (finding.outcome, finding.observed) == (Outcome.UNKNOWN, observed)


def test_needs_that_are_there_are_asked():
    on = facts(firmware=Ok(Listing(())))
    assert only(audit(question("r-1.needs", Outcome.PASS, needs=("firmware",)), on=on)).outcome is Outcome.PASS


def test_a_check_is_asked_about_each_item():
    on = facts(accelerators=Ok(Listing((accelerator("pci:a"), accelerator("pci:b")))))
    report = audit(question("r-1.word", Outcome.PASS, each="accelerators"), on=on)
    assert [finding.id for finding in report.requirements[0].findings] == ["r-1.word@pci:a", "r-1.word@pci:b"]


def test_a_place_that_could_not_be_looked_at_is_unknown():
    nowhere = Missing(Status.FAILED)
    on = facts(accelerators=Ok(Listing((accelerator(),), (PLACE,), (DENIED, nowhere))))
    report = audit(question("r-1.word", Outcome.PASS, each="accelerators"), on=on)
    assert {finding.subject: finding.outcome for finding in report.requirements[0].findings} == {
        NPU: Outcome.PASS,
        "place:/sys/class/accel": Outcome.UNKNOWN,
        "place:a place that could not be looked at": Outcome.UNKNOWN,
    }
    assert report.verdict is Verdict.INCOMPLETE


def test_no_accelerator_is_unknown_and_says_where_it_was_looked_for():
    finding = only(audit(question("r-1.word", Outcome.PASS, each="accelerators"), on=facts(accelerators=Ok(Listing((), (PLACE,))))))
    assert (finding.outcome, finding.observed) == (Outcome.UNKNOWN, "no accelerator in /sys/class/accel")
    assert finding.remedy is Remedy.DRIVER
    unread = facts(accelerators=Ok(Listing((), (PLACE,), (DENIED,))))
    assert only(audit(question("r-1.word", Outcome.PASS, each="accelerators"), on=unread)).subject == "place:/sys/class/accel"


def test_another_empty_listing_has_no_finding():
    report = audit(question("r-1.word", Outcome.PASS, each="firmware"), on=facts(firmware=Ok(Listing(()))))
    assert report.requirements[0].outcome is Outcome.UNKNOWN
    assert report.requirements[0].findings == ()


def test_a_listing_that_is_missing_is_unknown():
    assert only(audit(question("r-1.word", Outcome.PASS, each="firmware"), on=facts(firmware=DENIED))).subject == "device"


def test_a_zoo_check_is_asked_about_the_requirement_itself():
    seen = []

    def body(facts, about):
        """Keep what it was given."""
        seen.append(about)
        yield Answer(Outcome.PASS, "ran")

    cell = requirement("zoo-m-latency", family="zoo-latency", model="m", limits={"latency_ms": 6.0})
    report = audit(replace(question("zoo-latency.baseline", each="model"), judge=body), requirements=(cell,))
    assert only(report).id == "zoo-m-latency.baseline@model:m"
    assert seen == [cell]


# --- a check that breaks -----------------------------------------------------------------------------------------------------------------


def test_a_broken_check_is_an_error_and_the_audit_goes_on():
    report = audit(
        question("r-1.breaks", KeyError("x\x1b\udcff")),
        question("r-2.fine", Outcome.PASS),
        requirements=(requirement(), requirement("r-2")),
    )
    assert [each.outcome for each in report.requirements] == [Outcome.ERROR, Outcome.PASS]
    assert report.requirements[0].findings[0].observed.startswith("KeyError: ")
    assert report.verdict is Verdict.INCOMPLETE


def test_other_items_of_a_broken_check_are_still_asked_about():
    def body(facts, item):
        """Break on the first."""
        if item.subject == "pci:a":
            raise ZeroDivisionError
        yield Answer(Outcome.FAIL, "seen")

    on = facts(accelerators=Ok(Listing((accelerator("pci:a"), accelerator("pci:b")))))
    report = audit(replace(question("r-1.word", each="accelerators"), judge=body), on=on)
    assert [(each.subject, each.outcome) for each in report.requirements[0].findings] == [("pci:a", Outcome.ERROR), ("pci:b", Outcome.FAIL)]


@pytest.mark.parametrize(
    "broken",
    [
        question("r-1.word", Outcome.PASS, needs=("nonsense",)),
        question("r-1.word", Outcome.PASS, each="nonsense"),
        question("r-1.word", Outcome.PASS, each="kernel"),
        question("r-1.word", Outcome.PASS, each="dma_buf"),
        replace(question("r-1.word"), judge=lambda facts: [Outcome.PASS]),
        replace(question("r-1.word"), judge=lambda facts: [Answer("pass", "a word is no outcome")]),
        replace(question("r-1.word"), judge=lambda facts: None),
        replace(question("r-1.word"), judge=list),
        question("r-1.word", RecursionError()),
    ],
)
def test_whatever_a_plug_in_does_wrong_is_an_error(broken):
    report = audit(broken, question("r-1.fine", Outcome.PASS), on=facts(dma_buf=Ok(())))
    assert report.requirements[0].outcome is Outcome.ERROR
    assert [each.outcome for each in report.requirements[0].findings] == [Outcome.ERROR, Outcome.PASS]


def test_an_interrupt_is_no_error_of_a_check():
    with pytest.raises(KeyboardInterrupt):
        audit(question("r-1.word", KeyboardInterrupt()))


# --- ids ---------------------------------------------------------------------------------------------------------------------------------


def test_two_answers_about_one_subject_are_one_finding_with_the_worse_outcome():
    one, two = Evidence("/a", Status.OK), Evidence("/b", Status.OK)
    report = audit(question("r-1.word", Answer(Outcome.FAIL, "first", (one,)), Answer(Outcome.PASS, "fine", (two,))))
    assert (only(report).outcome, only(report).observed, only(report).evidence) == (Outcome.FAIL, "first", (one,))
    report = audit(question("r-1.word", Answer(Outcome.PASS, "first", (one,)), Answer(Outcome.PASS, "second", (two,))))
    assert (only(report).outcome, only(report).observed, only(report).evidence) == (Outcome.PASS, "first; second", (one, two))


def test_what_a_waiver_of_a_finding_would_cover_is_all_in_it():
    report = audit(question("r-1.word", Answer(Outcome.UNKNOWN, "unread"), Answer(Outcome.FAIL, "seen")))
    assert (only(report).outcome, only(report).observed) == (Outcome.FAIL, "seen; unread")


@pytest.mark.parametrize("other", [Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS])
def test_a_waiver_does_not_cover_the_error_of_the_same_subject(other):
    report = audit(question("r-1.word", other, ValueError("broke")), waivers=[waiver("r-1.word@device"), waiver("r-1.word@device#error")])
    assert {finding.id: finding.outcome for finding in report.requirements[0].findings} == {
        "r-1.word@device": other,
        "r-1.word@device#error": Outcome.ERROR,
    }
    assert report.requirements[0].outcome is Outcome.ERROR
    assert all(finding.waiver is None for finding in report.requirements[0].findings if finding.outcome is Outcome.ERROR)


ANSWERS = st.builds(Answer, st.sampled_from(OUTCOMES), st.sampled_from(["a", "b"]), subject=st.sampled_from([None, "x", "y"]))
BODIES = st.lists(ANSWERS | st.just(ValueError("broke")) | st.just(TypeError("too")), max_size=5)
CHECKS = st.lists(st.tuples(st.sampled_from(["r-1", "r-2"]), BODIES, st.sampled_from(Level)), max_size=5)
REQUIREMENTS = (requirement("r-1"), requirement("r-2"))


def made(checks):
    return [question(f"{name}.c{index}", *answers, level=level) for index, (name, answers, level) in enumerate(checks)]


@given(CHECKS)
def test_ids_are_unique_and_say_check_and_subject(checks):
    report = audit(*made(checks), requirements=REQUIREMENTS)
    findings = [finding for each in report.requirements for finding in each.findings]
    assert len({finding.id for finding in findings}) == len(findings)
    assert all(finding.id == f"{finding.check}@{finding.subject}" for finding in findings)


# --- laws --------------------------------------------------------------------------------------------------------------------------------


@given(CHECKS, st.randoms(use_true_random=False))
def test_the_order_of_checks_does_not_matter(checks, random):
    given_order = made(checks)
    other_order = list(given_order)
    random.shuffle(other_order)
    one, two = (audit(*each, requirements=REQUIREMENTS) for each in (given_order, other_order))
    assert [each.outcome for each in one.requirements] == [each.outcome for each in two.requirements]
    assert (one.verdict, one.counts) == (two.verdict, two.counts)
    assert {f.id: f for each in one.requirements for f in each.findings} == {f.id: f for each in two.requirements for f in each.findings}


@given(CHECKS)
def test_counts_are_of_findings_and_waived_ones_count_again(checks):
    names = [finding.id for each in audit(*made(checks), requirements=REQUIREMENTS).requirements for finding in each.findings]
    report = audit(*made(checks), requirements=REQUIREMENTS, waivers=[waiver(name) for name in names[::2]])
    findings = [finding for each in report.requirements for finding in each.findings]
    assert sum(report.counts[outcome.value] for outcome in Outcome) == len(findings)
    assert report.counts["waived"] == sum(finding.waiver is not None for finding in findings)
    assert set(report.counts) == {*(outcome.value for outcome in Outcome), "waived"}


@given(CHECKS)
def test_waivers_of_everything_cover_fail_and_unknown_and_never_an_error(checks):
    plain = audit(*made(checks), requirements=REQUIREMENTS)
    waivers = [waiver(finding.id) for each in plain.requirements for finding in each.findings]
    report = audit(*made(checks), requirements=REQUIREMENTS, waivers=waivers)
    for before, after in zip(plain.requirements, report.requirements, strict=True):
        assert [finding.outcome for finding in before.findings] == [finding.outcome for finding in after.findings]
        for finding in after.findings:
            assert (finding.waiver is not None) is (finding.outcome in {Outcome.FAIL, Outcome.UNKNOWN})
        decisive = {finding.outcome for finding in before.findings if finding.level is Level.MUST}
        if Outcome.ERROR in decisive:
            assert after.outcome is Outcome.ERROR
        if not decisive:
            assert after.outcome is Outcome.UNKNOWN


@given(CHECKS, BODIES, st.sampled_from(["r-1", "r-2"]))
def test_a_should_finding_never_changes_outcome_or_verdict(checks, answers, name):
    plain = audit(*made(checks), requirements=REQUIREMENTS)
    report = audit(*made(checks), question(f"{name}.beside", *answers, level=Level.SHOULD), requirements=REQUIREMENTS)
    assert report.verdict is plain.verdict
    assert [each.outcome for each in report.requirements] == [each.outcome for each in plain.requirements]


@given(CHECKS, CHECKS)
def test_a_further_must_finding_never_improves_an_outcome(checks, more):
    plain = audit(*made(checks), requirements=REQUIREMENTS)
    report = audit(*made([*checks, *more]), requirements=REQUIREMENTS)
    for before, after in zip(plain.requirements, report.requirements, strict=True):
        decided = any(finding.level is Level.MUST for finding in before.findings)
        assert not decided or ORDER.index(after.outcome) <= ORDER.index(before.outcome)


# --- waivers -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.UNKNOWN])
def test_a_waiver_counts_as_a_pass_and_is_shown(outcome):
    given_waiver = waiver("r-1.word@device", datetime.date(2027, 1, 1))
    report = audit(question("r-1.word", outcome), waivers=[given_waiver])
    result = report.requirements[0]
    assert (result.outcome, result.waived, result.standing) == (outcome, True, Outcome.PASS)
    assert (only(report).outcome, only(report).waiver) == (outcome, given_waiver)
    assert report.verdict is Verdict.COMPLIANT
    assert report.counts[outcome.value] == report.counts["waived"] == 1
    assert report.notes == ("a note", f"The waivers in force are those of {TODAY.isoformat()}.")


def test_a_waiver_covers_one_finding_only():
    checks = question("r-1.one", Outcome.FAIL), question("r-1.two", Outcome.FAIL)
    report = audit(*checks, waivers=[waiver("r-1.one@device")])
    result = report.requirements[0]
    assert (result.outcome, result.waived, result.standing) == (Outcome.FAIL, False, Outcome.FAIL)
    assert [finding.waiver is not None for finding in result.findings] == [True, False]
    assert audit(*checks, waivers=[waiver("r-1")]).counts["waived"] == 0


def test_a_waived_should_finding_does_not_make_the_requirement_waived():
    report = audit(question("r-1.a", Outcome.PASS), question("r-1.b", Outcome.FAIL, level=Level.SHOULD), waivers=[waiver("r-1.b@device")])
    assert not report.requirements[0].waived
    assert report.counts["waived"] == 1


def test_a_waiver_is_in_force_up_to_its_day():
    day = datetime.timedelta(days=1)
    check_ = question("r-1.word", Outcome.FAIL)
    assert audit(check_, waivers=[waiver("r-1.word@device", TODAY + day)]).verdict is Verdict.COMPLIANT
    assert audit(check_, waivers=[waiver("r-1.word@device", TODAY)]).verdict is Verdict.COMPLIANT
    late = audit(check_, waivers=[waiver("r-1.word@device", TODAY - day)])
    assert late.verdict is Verdict.NON_COMPLIANT
    assert late.notes == ("a note", "The waiver of r-1.word@device expired on 2026-02-28 and covers nothing.")


def test_the_day_that_a_waiver_was_in_force_on_is_said():
    """Evasion: an expired waiver, and a day in the past."""
    check_, old = question("r-1.word", Outcome.FAIL), waiver("r-1.word@device", datetime.date(2020, 1, 1))
    assert "The waivers in force are those of 2020-01-01." in audit(check_, waivers=[old], today=datetime.date(2020, 1, 1)).notes
    assert not any("in force" in note for note in audit(check_, waivers=[old]).notes)


def test_a_renewed_waiver_covers_although_the_old_one_has_expired():
    both = [waiver("r-1.word@device"), waiver("r-1.word@device", datetime.date(2020, 1, 1))]
    for waivers in (both, both[::-1]):
        assert audit(question("r-1.word", Outcome.FAIL), waivers=waivers).verdict is Verdict.COMPLIANT


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.ERROR, Outcome.NOT_APPLICABLE])
def test_an_unused_waiver_is_noted(outcome):
    report = audit(question("r-1.word", outcome), waivers=[waiver("r-1.word@device"), waiver("\udcff@x")])
    assert report.requirements[0].outcome is outcome
    assert not report.requirements[0].waived
    assert report.notes[1:] == (
        "The waiver of r-1.word@device matches no failed or unknown finding.",
        "The waiver of \\xff@x matches no failed or unknown finding.",
    )


# --- what was left out -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skip", "left_out"),
    [
        (("r-1.a",), {"r-1.a"}),
        (("r-1",), {"r-1.a", "r-1.b"}),
        (("r",), {"r-1.a", "r-1.b"}),
        (("r-1.a@device",), {"r-1.a"}),
        (("r-2", "r-1.c", "r-", "r-1.a@other"), set()),
        ((), set()),
    ],
)
def test_what_was_skipped_is_unknown(skip, left_out):
    broken = ValueError("must not be asked")
    checks = question("r-1.a", broken if left_out and "@" not in skip[0] else Outcome.PASS), question("r-1.b", Outcome.PASS)
    report = audit(*checks, selection=Selection(skip=skip))
    assert len(report.requirements[0].findings) == 2
    for finding in report.requirements[0].findings:
        if finding.check in left_out:
            assert (finding.outcome, finding.observed) == (Outcome.UNKNOWN, "left out by --skip")
            assert finding.remedy is Remedy.SELECTED
        else:
            assert finding.outcome is Outcome.PASS
    assert report.verdict is (Verdict.INCOMPLETE if left_out else Verdict.COMPLIANT)
    assert not report.partial


@pytest.mark.parametrize(
    ("only", "asked"),
    [
        (("r-1.b",), {"r-1.b@device"}),
        (("r-1",), {"r-1.a@device", "r-1.b@device"}),
        (("r-2",), {"r-2.c@device"}),
        (("r",), {"r-1.a@device", "r-1.b@device", "r-2.c@device"}),
        (("r-1.a", "r-2"), {"r-1.a@device", "r-2.c@device"}),
        (("r-1.a@device",), {"r-1.a@device"}),
        (("r-1.a@other",), set()),
    ],
)
def test_only_judges_its_selection(only, asked):
    outcomes = {"r-1.a": Outcome.PASS, "r-1.b": Outcome.PASS, "r-2.c": Outcome.FAIL}
    checks = [question(name, outcome if any(each.startswith(name) for each in only + tuple(asked)) else ValueError("asked"))
              for name, outcome in outcomes.items()]  # fmt: skip
    report = audit(*checks, requirements=REQUIREMENTS, selection=Selection(only=only))
    assert {finding.id for each in report.requirements for finding in each.findings} == asked
    assert (report.partial, report.selection) == (True, only)
    assert {each.id for each in report.requirements if each.selected} == {name.partition(".")[0] for name in (asked or {"r-1"})}
    expected = Verdict.NON_COMPLIANT if "r-2.c@device" in asked else Verdict.COMPLIANT if asked else Verdict.INCOMPLETE
    assert report.verdict is expected


def test_what_is_skipped_of_a_selection_is_unknown():
    checks = question("r-1.a", Outcome.PASS), question("r-1.b", ValueError("asked")), question("r-2.c", ValueError("asked"))
    report = audit(*checks, requirements=REQUIREMENTS, selection=Selection(("r-1",), ("r-1.b",)))
    assert [finding.outcome for finding in report.requirements[0].findings] == [Outcome.PASS, Outcome.UNKNOWN]
    assert report.verdict is Verdict.INCOMPLETE


def test_an_id_that_goes_on_is_another():
    """`security-1` is not how `security-10` begins."""
    checks = question("r-1.a", Outcome.PASS), question("r-10.a", ValueError("asked"))
    report = audit(*checks, requirements=(requirement("r-1"), requirement("r-10")), selection=Selection(("r-1",)))
    assert [each.selected for each in report.requirements] == [True, False]


# --- the report around it ----------------------------------------------------------------------------------------------------------------


def test_the_report_shows_context_and_accelerators():
    node = Node("/dev/accel/accel0", "accel", 261, 0, GONE, GONE, GONE)
    on = facts(accelerators=Ok(Listing((accelerator(driver=Ok("npu"), nodes=(node,)), accelerator("pci:b")))))
    report = audit(on=on)
    assert (report.tool, report.requirements_set, report.device, report.zoo) == (CONTEXT.tool, "set", CONTEXT.device, CONTEXT.zoo)
    assert [(each.id, each.driver, each.nodes, each.name) for each in report.accelerators] == [
        (NPU, "npu", ("/dev/accel/accel0",), "vendor 1234 device 11e8"),
        ("pci:b", None, (), "vendor 1234 device 11e8"),
    ]
    assert report.model_runs == ()
    assert audit(on=facts(accelerators=DENIED)).accelerators == ()


def test_judging_twice_gives_the_same():
    checks = [question("r-1.a", Outcome.FAIL), question("r-1.b", ValueError("x"))]
    assert audit(*checks) == audit(*checks)
    assert engine.counts(audit(*checks).requirements) == audit(*checks).counts
