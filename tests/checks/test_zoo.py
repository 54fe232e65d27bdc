"""The zoo's checks: every outcome of latency, accuracy and memory, from runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.types import Missing, MissingFact, ModelResult, Ok, Plan, Settings
from auditor.model import Evidence, Level, Outcome, Remedy, Requirement, Status, ZooModelUsed
from auditor.statistics import NO_DRIFT, Drift, Interval
from checks import zoo_accuracy, zoo_golden, zoo_latency, zoo_memory
from checks.zoo_runs import DELEGATED_SHARE, NOT_MEASURED, RUN_BROKE, RUN_REFUSED
from fixtures import trees
from fixtures.facts import facts as no_facts
from fixtures.judging import collected
from fixtures.report import run as any_run

SHA, OTHER = "ab" * 32, "cd" * 32
OUTPUT = {"index": 0, "avg_error": 1e-8, "std_dev": 2e-9, "reference_nan_runs": 0, "test_nan_runs": 0, "two_input_distance": 0.25}
WITNESSED = {"accelerator_busy": True, "memory_accelerator_busy": True}
PINNED = Settings(manifest={"m": (SHA,)})
LATENCY = Requirement("zoo-m-latency", "", "", "", Level.MUST, "zoo-latency", "m", {"latency_ms": 6.0})
ACCURACY = Requirement("zoo-m-accuracy", "", "", "", Level.MUST, "zoo-accuracy", "m", {"avg_error": 1e-4, "std_dev": 1e-5})
MEMORY = Requirement("zoo-m-memory", "", "", "", Level.MUST, "zoo-memory", "m", {"memory_bytes": 100e6, "memory_fail_bytes": 100 * 2.0**20})
CHECKS = {
    "latency": (zoo_latency.baseline, zoo_latency.stand_in, LATENCY),
    "accuracy": (zoo_accuracy.baseline, zoo_accuracy.stand_in, ACCURACY),
    "memory": (zoo_memory.baseline, zoo_memory.stand_in, MEMORY),
}
UNPINNED = {"latency": zoo_latency.unpinned, "accuracy": zoo_accuracy.unpinned, "memory": zoo_memory.unpinned}
EVERY = pytest.mark.parametrize("what", CHECKS)


def run(**changes):
    """A run of the zoo's own model that went well, on an accelerator that was seen working."""
    given = {
        "sha256": SHA,
        "origin": "given",
        "status": "completed",
        "delegated_macs": 0.99,
        "accuracy": (OUTPUT,),
        "memory": {"before_bytes": 30_000_000, "peak_bytes": 60_000_000, "device_bytes": 1_000_000},
        "conditions": WITNESSED,
        "identity": "pinned",
        **changes,
    }
    return any_run("m", **given)


def evidence(index):
    return Evidence(f"run:m {index}", Status.OK, f"{index:064x}")


def measured(*runs, own=(4000.0, 100.0), outside=(4100.0, 100.0), count=3, drift=NO_DRIFT, **changes):
    """Facts with these runs of the model; latencies (mean, half width) in microseconds, over `count` processes."""
    recorded = tuple(Ok(each, (evidence(index),)) for index, each in enumerate(runs or (run(), run(), run())))
    latency, bracket = (Ok(Interval(*each, count=count)) for each in (own, outside))
    given = {
        "plan": Plan(delegate="/lib.so", models=(ZooModelUsed("m", SHA, "given"),), runs=(("m", len(recorded)),)),
        "models": Ok((ModelResult("m", SHA, recorded, latency, bracket, drift),)),
        "settings": PINNED,
        **changes,
    }
    return no_facts(**given)


def ask(what, facts):
    """The baseline's one answer."""
    baseline, _, requirement = CHECKS[what]
    (answer,) = baseline.judge(facts, requirement)
    assert answer.outcome in {Outcome.PASS, Outcome.FAIL, Outcome.UNKNOWN}
    return answer


# --- what they share ---------------------------------------------------------------------------------------------------------------------


@EVERY
def test_a_good_run_passes_and_cites_every_run(what):
    answer = ask(what, measured())
    assert answer.outcome is Outcome.PASS
    assert answer.evidence == tuple(evidence(index) for index in range(3))
    assert all(item.necessary for item in answer.evidence)


@EVERY
def test_no_model_was_run(what):
    baseline, _, requirement = CHECKS[what]
    missing = Missing(Status.UNASKED, remedy=Remedy.DELEGATE)
    with pytest.raises(MissingFact) as caught:
        list(baseline.judge(no_facts(models=missing), requirement))
    assert caught.value.missing is missing


@EVERY
@pytest.mark.parametrize("note", ["", "The measurement was interrupted."])
def test_this_model_was_not_run(what, note):
    baseline, _, requirement = CHECKS[what]
    empty = ModelResult("m", "", (), Missing(Status.FAILED), Missing(Status.FAILED))
    for models in ((), (empty,), (replace(empty, model="other", runs=(Ok(run()),)),)):
        with pytest.raises(MissingFact) as caught:
            list(baseline.judge(no_facts(models=Ok(models), plan=Plan(delegate="/lib.so", zoo_note=note)), requirement))
        assert caught.value.missing.remedy is Remedy.ZOO
        assert caught.value.missing.note == "no run of m" + (f": {note}" if note else "")


@EVERY
@pytest.mark.parametrize("status", [Status.DENIED, Status.UNASKED, Status.FAILED])
def test_a_run_that_cannot_be_read(what, status):
    baseline, _, requirement = CHECKS[what]
    facts = measured()
    (result,) = facts.models.value
    unread = replace(result, runs=(*result.runs[:2], Missing(status)))
    with pytest.raises(MissingFact):
        list(baseline.judge(replace(facts, models=Ok((unread,))), requirement))


@EVERY
def test_a_run_without_a_delegate_says_nothing_of_the_accelerator(what):
    answer = ask(what, measured(plan=Plan(runs=(("m", 3),))))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.DELEGATE)


BAD = {"status": "died", "message": "signal 11", "process": "test"}


@EVERY
@pytest.mark.parametrize("changes", [{}, BAD])
def test_the_right_graph_decides_no_baseline_unless_it_is_pinned(what, changes):
    facts = measured(run(identity="same-graph", **changes), settings=Settings())
    answer = ask(what, facts)
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.MANIFEST)
    assert SHA in answer.observed
    unpinned, requirement = UNPINNED[what], CHECKS[what][2]
    assert unpinned.level is Level.SHOULD
    (beside,) = unpinned.judge(facts, requirement)
    pinned = measured(run(identity="same-graph", **changes))
    assert beside.outcome is ask(what, pinned).outcome
    assert list(unpinned.judge(pinned, requirement)) == []


@EVERY
@pytest.mark.parametrize("identity", ["pinned", "other", "stand-in"])
def test_what_has_another_graph_or_is_pinned_has_no_unpinned_finding(what, identity):
    facts = measured(run(identity=identity), settings=Settings())
    assert list(UNPINNED[what].judge(facts, CHECKS[what][2])) == []


@EVERY
def test_a_model_that_was_not_run_has_no_unpinned_finding(what):
    missing = no_facts(models=Missing(Status.UNASKED, remedy=Remedy.DELEGATE))
    assert list(UNPINNED[what].judge(missing, CHECKS[what][2])) == []


@EVERY
def test_what_a_record_says_of_a_pin_does_not_count(what):
    answer = ask(what, measured(run(identity="pinned"), settings=Settings()))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.ZOO)
    assert "The record says" in answer.because


@EVERY
def test_the_requirement_set_pins_by_file_and_by_archive(what):
    archive = "ef" * 64
    for settings, outcome in (
        (Settings(published={"m": (OTHER, SHA)}), Outcome.PASS),
        (Settings(published={"m": (OTHER,), "n": (SHA,)}), Outcome.UNKNOWN),
        (Settings(archives=frozenset({archive})), Outcome.PASS),
        (Settings(archives=frozenset({"12" * 64})), Outcome.UNKNOWN),
        (Settings(archives=frozenset({archive}), manifest={"m": (OTHER,)}), Outcome.UNKNOWN),
    ):
        facts = measured(run(identity="same-graph"), settings=settings)
        assert ask(what, replace(facts, plan=replace(facts.plan, archive=archive))).outcome is outcome
    # what lay on the device, or was generated, did not come from the archive
    facts = measured(run(identity="same-graph", origin="device"), settings=Settings(archives=frozenset({archive})))
    assert ask(what, replace(facts, plan=replace(facts.plan, archive=archive))).outcome is Outcome.UNKNOWN
    # no archive was given
    assert ask(what, measured(run(identity="same-graph"), settings=Settings(archives=frozenset({archive})))).outcome is Outcome.UNKNOWN


@EVERY
@pytest.mark.parametrize("identity", ["other", "", "PINNED", "nonsense"])
def test_any_other_file_is_not_judged(what, identity):
    answer = ask(what, measured(run(identity=identity, identity_reason="small"), settings=Settings()))
    assert (answer.outcome, answer.because, answer.remedy) == (Outcome.UNKNOWN, "small", Remedy.ZOO)
    assert SHA in answer.observed


@EVERY
@pytest.mark.parametrize("identity", ["other", "same-graph", "stand-in", "pinned"])
def test_the_manifest_decides_before_the_record(what, identity):
    runs = [run(identity=identity)] * 2
    assert ask(what, measured(*runs, settings=Settings(manifest={"m": (SHA,)}))).outcome is Outcome.PASS
    answer = ask(what, measured(*runs, settings=Settings(manifest={"m": (OTHER,)})))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.ZOO)
    assert OTHER in answer.because
    several = ask(what, measured(*runs, settings=Settings(manifest={"m": (OTHER, SHA)})))
    assert several.outcome is Outcome.PASS
    unrelated = ask(what, measured(*runs, settings=Settings(manifest={"n": (OTHER,)})))
    assert unrelated.outcome is Outcome.UNKNOWN


@EVERY
@pytest.mark.parametrize("changes", [{"sha256": OTHER}, {"identity": "other"}])
def test_runs_of_several_files_are_not_judged(what, changes):
    answer = ask(what, measured(run(), run(**changes)))
    assert (answer.outcome, answer.because) == (Outcome.UNKNOWN, "The runs are not all of one file.")


# --- the device's own tools --------------------------------------------------------------------------------------------------------------

AGREES = {"index": 0, "correlation": 0.65, "error": 0.5, "distance": 1.0}
TOOL_SHA = "0f" * 32


def native_run(outputs=(AGREES,), **tool):
    told = {"path": "/usr/bin/benchmark_model", "sha256": TOOL_SHA, "answers": {"outputs": list(outputs)}, **tool}
    return run(runner="native", conditions={**WITNESSED, "tool": told})


PINNED_TOOL = replace(PINNED, tools=frozenset({TOOL_SHA}))


@EVERY
@pytest.mark.parametrize("outputs", [[AGREES], [AGREES, {**AGREES, "correlation": None, "distance": 0.0}], [AGREES, "nonsense"]])
def test_a_known_tool_that_computes_the_model_passes(what, outputs):
    assert ask(what, measured(native_run(outputs), settings=PINNED_TOOL)).outcome is Outcome.PASS


@EVERY
@pytest.mark.parametrize(
    "changes",
    [
        {"answers": {"note": "no runtime here"}},
        {"answers": {"outputs": [{**AGREES, "correlation": None}]}},
        {"answers": {"outputs": [{**AGREES, "error": None}]}},
        {"answers": {"outputs": [{**AGREES, "correlation": "1"}]}},
        {"answers": {"outputs": [1]}},
        {"answers": {"outputs": {}}},
        {"answers": {"outputs": []}},
        {"answers": {}},
        {"answers": None},
        {"answers": [AGREES]},
    ],
)
def test_a_tool_whose_answers_were_not_compared_passes_nothing(what, changes):
    answer = ask(what, measured(native_run(**changes), native_run(), settings=PINNED_TOOL))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.TOOL)
    assert "pip install" in answer.remediation
    assert ("no runtime here" in answer.because) is ("note" in (changes["answers"] or ()))


@EVERY
def test_a_run_of_tools_that_does_not_name_them_passes_nothing(what):
    for conditions in (WITNESSED, {**WITNESSED, "tool": None}):
        assert ask(what, measured(run(runner="native", conditions=conditions), settings=PINNED_TOOL)).outcome is Outcome.UNKNOWN
    unknown = {**native_run().conditions["tool"], "sha256": None}
    outcome = ask(what, measured(run(runner="native", conditions={**WITNESSED, "tool": unknown}), settings=PINNED_TOOL)).outcome
    assert outcome is (Outcome.UNKNOWN if what == "latency" else Outcome.PASS)


@EVERY
@pytest.mark.parametrize("worse", [{"correlation": 0.49}, {"error": 1.0}])
def test_figures_of_a_tool_that_does_not_compute_the_model_decide_nothing(what, worse):
    # not even a failure: it is no failure of the delegate's
    for limits in ({}, {"own": (9000.0, 100.0), "outside": (9100.0, 100.0)}):
        facts = measured(native_run(), native_run([AGREES, {**AGREES, **worse}]), settings=PINNED_TOOL, **limits)
        answer = ask(what, facts)
        assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.TOOL)
        assert "does not answer as the model does" in answer.because


def test_the_number_of_inferences_is_the_word_of_a_tool_that_is_not_known():
    answer = ask("latency", measured(native_run()))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.TOOL)
    assert TOOL_SHA in answer.because
    for way in ("--tool-manifest", "verified root", "--tflite"):
        assert way in answer.remediation
    slow = measured(native_run(), own=(9000.0, 100.0), outside=(9100.0, 100.0))
    assert ask("latency", slow).outcome is Outcome.FAIL
    for what in ("accuracy", "memory"):
        assert ask(what, measured(native_run())).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("commands", "warm_up", "timed", "outcome"),
    [
        (60, 10, 50, Outcome.PASS),
        (59, 10, 50, Outcome.UNKNOWN),
        (None, 10, 50, Outcome.UNKNOWN),
        (60, None, 50, Outcome.UNKNOWN),
        (60, -10, 50, Outcome.UNKNOWN),
        (True, 0, 1, Outcome.UNKNOWN),
    ],
)
def test_the_kernels_count_of_commands_confirms_the_number(commands, warm_up, timed, outcome):
    known = native_run(warm_up=warm_up, timed=timed)
    counted = replace(known, conditions={**known.conditions, "engines": {"source": "completed commands", "commands": commands}})
    assert ask("latency", measured(counted)).outcome is outcome


def test_a_tool_on_the_verified_root_is_known_and_that_is_cited():
    facts = measured(native_run())
    loading = collected(trees.built(trees.intel_gpu)).loading
    answer = ask("latency", replace(facts, loading=loading))
    assert answer.outcome is Outcome.PASS
    assert {"run:m 0", "/proc/cmdline"} <= {each.path for each in answer.evidence}
    elsewhere = measured(native_run(path="/var/tmp/benchmark_model"))
    assert ask("latency", replace(elsewhere, loading=loading)).outcome is Outcome.UNKNOWN


# --- stand-ins ---------------------------------------------------------------------------------------------------------------------------

STAND_IN_PLAN = Plan(delegate="/lib.so", models=(ZooModelUsed("m", SHA, "stand-in"),), runs=(("m", 1),))


@EVERY
def test_a_stand_in_never_decides_the_baseline(what):
    facts = measured(run(identity="stand-in", identity_reason="random weights"), plan=STAND_IN_PLAN, settings=Settings())
    answer = ask(what, facts)
    assert (answer.outcome, answer.because, answer.remedy) == (Outcome.UNKNOWN, "random weights", Remedy.MANIFEST)


@EVERY
def test_a_stand_in_is_measured_beside_it(what):
    _, stand_in, requirement = CHECKS[what]
    assert stand_in.level is Level.SHOULD
    (answer,) = stand_in.judge(measured(run(identity="stand-in"), plan=STAND_IN_PLAN, settings=Settings()), requirement)
    assert answer.outcome is Outcome.PASS
    died = run(identity="stand-in", status="delegate-create-failed", process="test")
    (answer,) = stand_in.judge(measured(died, plan=STAND_IN_PLAN, settings=Settings()), requirement)
    assert answer.outcome is (Outcome.UNKNOWN if what == "memory" else Outcome.FAIL)


@EVERY
def test_what_is_no_stand_in_or_is_pinned_has_no_such_finding(what):
    _, stand_in, requirement = CHECKS[what]
    assert list(stand_in.judge(measured(), requirement)) == []
    assert list(stand_in.judge(measured(run(), plan=STAND_IN_PLAN), requirement)) == []
    pinned = measured(run(identity="stand-in"), plan=STAND_IN_PLAN, settings=Settings(manifest={"m": (SHA,)}))
    assert list(stand_in.judge(pinned, requirement)) == []
    assert ask(what, pinned).outcome is Outcome.PASS


# --- validity ----------------------------------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("status", sorted(RUN_BROKE | RUN_REFUSED))
@pytest.mark.parametrize("process", ["test", "memory", ""])
@pytest.mark.parametrize("index", [0, 2])
def test_a_delegate_that_ends_badly_fails(what, status, process, index):
    runs = [run(), run(), run()]
    runs[index] = run(status=status, message="signal 11", process=process)
    answer = ask(what, measured(*runs))
    assert answer.outcome is (Outcome.UNKNOWN if what == "memory" else Outcome.FAIL)
    assert answer.observed == f"{status}: signal 11"
    assert ("ended the inference process" in answer.because) is (status in RUN_BROKE)


@EVERY
def test_a_delegate_that_ends_badly_fails_whatever_else_went_wrong(what):
    reference = run(status="died", process="reference")
    answer = ask(what, measured(reference, run(status="died", process="test")))
    assert answer.outcome is (Outcome.UNKNOWN if what == "memory" else Outcome.FAIL)
    assert answer.because == "The delegate ended the inference process."


@EVERY
@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ([{"call": "openat", "path": "/etc/vendor.conf", "errno": "EACCES", "times": 2}], "openat /etc/vendor.conf"),
        ([{"call": "socket", "path": None, "errno": "EPERM", "times": 1}], "socket;"),
        (None, "could not be seen"),
        (["odd"], "odd"),
    ],
)
@pytest.mark.parametrize("status", ["died", "delegate-create-failed", "delegate-not-loadable"])
def test_what_the_confinement_refused_is_not_blamed_on_the_delegate(what, refused, said, status):
    hindered = run(status=status, process="test", conditions={"refused": refused})
    answer = ask(what, measured(hindered, run()))
    assert answer.outcome is Outcome.UNKNOWN
    assert said in answer.because
    assert "--allow-path" in answer.remediation


def test_a_delegate_that_also_fails_unhindered_is_to_blame():
    hindered, free = (run(status="died", process="test", conditions={"refused": refused}) for refused in (None, []))
    assert ask("latency", measured(hindered, free)).outcome is Outcome.FAIL


@EVERY
def test_a_kernel_that_cannot_confine(what):
    answer = ask(what, measured(run(status="unconfinable", process="test")))
    assert answer.outcome is Outcome.UNKNOWN
    assert "--allow-unconfined" in answer.remediation


@EVERY
@pytest.mark.parametrize(
    ("status", "process"),
    [
        ("died", "reference"),
        ("timed-out", "reference"),
        ("runtime-missing", "reference"),
        ("load-failed", "test"),
        ("delegate-missing", ""),
        ("delegate-not-applied", "test"),
        ("tool-unusable", "test"),
        ("output-unreadable", "memory"),
        ("ok", ""),
    ],
)
def test_a_run_that_did_not_come_to_its_end_is_unknown(what, status, process):
    answer = ask(what, measured(run(), run(status=status, process=process)))
    assert (answer.outcome, answer.observed, answer.remedy) == (Outcome.UNKNOWN, status, Remedy.EVIDENCE)


@EVERY
def test_a_share_that_is_not_known_is_unknown(what):
    answer = ask(what, measured(run(), run(delegated_macs=None)))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.VENDOR)


@pytest.mark.parametrize("found", [None, [], "both", [{"source": "a"}], ["x", "y"]])
def test_two_sources_that_differ_on_what_was_delegated_are_both_shown(found):
    said = [{"source": "listing of nodes", "nodes": 36, "total": 65}, {"source": "delegate's own count", "nodes": 60, "total": 65}]
    answer = ask("latency", measured(run(delegated_macs=0.5, conditions={"delegated": said})))
    assert answer.outcome is Outcome.UNKNOWN
    assert answer.observed.endswith(" (listing of nodes: 36 of 65; delegate's own count: 60 of 65)")
    assert "listing" not in ask("latency", measured(run(delegated_macs=0.5, conditions={"delegated": found}))).observed


@EVERY
@pytest.mark.parametrize(("share", "outcome"), [(0.0, "unknown"), (0.9499, "unknown"), (DELEGATED_SHARE, "pass"), (1.0, "pass")])
def test_a_delegate_must_take_the_graph_in_every_run(what, share, outcome):
    answer = ask(what, measured(run(), run(delegated_macs=share, delegated_nodes=3, total_nodes=62), run()))
    assert answer.outcome is Outcome(outcome)
    if outcome == "unknown":
        assert answer.observed.startswith("3 of 62 operators, ")
        assert answer.remedy is Remedy.VENDOR


# --- latency -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "outside", "outcome"),
    [
        ((4000.0, 100.0), (4100.0, 100.0), "pass"),
        ((5900.0, 50.0), (5900.0, 100.0), "pass"),  # the limit itself is met
        ((5900.0, 50.0), (5900.0, 101.0), "unknown"),
        ((4000.0, 100.0), (6500.0, 100.0), "unknown"),  # it says one thing, the auditor's clock another
        ((4000.0, 100.0), (4100.0, 3000.0), "unknown"),
        ((4000.0, math.inf), (4100.0, math.inf), "unknown"),
        ((6050.0, 100.0), (6100.0, 100.0), "unknown"),
        ((6100.0, 100.0), (6200.0, 100.0), "unknown"),
        ((6101.0, 100.0), (6200.0, 100.0), "fail"),
        ((9000.0, 10.0), (9100.0, 10.0), "fail"),
    ],
)
def test_latency(own, outside, outcome):
    answer = ask("latency", measured(own=own, outside=outside))
    assert answer.outcome is Outcome(outcome)
    assert answer.remedy is (Remedy.MORE_RUNS if outcome == "unknown" else None)
    assert "limit 6 ms" in answer.observed


@pytest.mark.parametrize(
    ("own", "outside", "count", "said", "because", "advice"),
    [
        (
            (5900.0, 300.0),
            (5900.0, 300.0),
            3,
            "about 3 further processes like these would decide",
            "spans the limit",
            "--bench-time adaptive",
        ),
        ((5900.0, 300.0), (5900.0, 300.0), 9, "about 41 further processes", "spans the limit", "quieter machine"),
        ((6100.0, 300.0), (6110.0, 300.0), 9, "about 41 further processes", "spans the limit", "quieter machine"),
        (
            (6000.0, 300.0),
            (6000.0, 300.0),
            9,
            "1000 further processes would not decide",
            "The mean is at the limit",
            "a longer measurement",
        ),
        ((5000.0, 10.0), (7000.0, 10.0), 9, "1000 further processes would not decide", "lies between", "clearly faster"),
        ((5900.0, math.inf), (5900.0, math.inf), 1, "about 2 further processes", "Fewer than 3 processes", "--bench-time adaptive"),
        ((3000.0, 0.0), (3000.0, 0.0), 2, "about 1 further processes", "Fewer than 3 processes", "--bench-time adaptive"),
    ],
)
def test_an_undecided_latency_says_what_would_decide(own, outside, count, said, because, advice):
    answer = ask("latency", measured(own=own, outside=outside, count=count))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.MORE_RUNS)
    assert said in answer.observed
    assert because in answer.because
    assert advice in answer.remediation
    assert f"{count} processes" in answer.observed


@pytest.mark.parametrize(
    ("own", "drift", "outcome"),
    [
        (5000.0, Drift(0.3, 0.0, 0.15), "pass"),
        (5500.0, Drift(0.3, 0.0, 0.15), "unknown"),  # throttled: within the limit, and not for long
        (5500.0, Drift(-0.3, 0.0, -0.15), "pass"),
        (6500.0, Drift(0.0, -0.3, -0.15), "unknown"),  # still warming up
        (6500.0, Drift(0.0, 0.3, 0.15), "fail"),
        (7500.0, Drift(-0.3, 0.0, -0.15), "fail"),
    ],
)
def test_no_verdict_that_a_drift_contradicts(own, drift, outcome):
    answer = ask("latency", measured(own=(own, 50.0), outside=(own, 50.0), drift=drift))
    assert answer.outcome is Outcome(outcome)
    way = "rising" if drift.late > 0 else "falling"
    where = "within a process" if drift.within else "from the first process to the last"
    assert f"{way} by 30.0% {where}" in answer.observed
    assert ("Times drift" in answer.because) if outcome == "unknown" else answer.because is None


@pytest.mark.parametrize(
    ("before", "busy"),
    [
        ({"cpus": 2, "load_average": [3.5, 2.0, 1.0]}, True),
        ({"cpus": 2, "load_average": [2.0, 9.0, 9.0]}, False),
        ({"cpus": 2}, False),
        ({"cpus": 2, "load_average": []}, False),
        ({"cpus": 2, "load_average": ["9.5"]}, False),
        ({"load_average": [3.5]}, False),
        ("odd", False),
    ],
)
def test_a_busy_machine_is_named_where_nothing_is_decided(before, busy):
    runs = [run(conditions={"before": before, "after": {}, "accelerator_busy": True})] * 3
    answer = ask("latency", measured(*runs, own=(6000.0, 300.0), outside=(6000.0, 300.0)))
    assert answer.because.endswith(" The machine was busy: a load average of 3.5 on 2 processors.") is busy
    assert ask("latency", measured(*runs)).because is None


@pytest.mark.parametrize("busy", [None, False, 1, "true"])
def test_no_pass_unless_the_accelerator_was_seen_working_in_every_run(busy):
    conditions = {} if busy is None else {"accelerator_busy": busy}
    for figure in ("latency", "accuracy"):
        answer = ask(figure, measured(run(), run(conditions={**WITNESSED, "accelerator_busy": None, **conditions})))
        assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.VENDOR)
        assert "fdinfo" in answer.remediation  # the audit was one of the device itself: to repeat it shows no more
        assert answer.because.startswith("Within the limit, but nothing shows that the accelerator did the work.")
    assert ask("memory", measured(run(), run(conditions={"accelerator_busy": True}))).outcome is Outcome.UNKNOWN
    assert ask("accuracy", measured(run(), run(conditions={"accelerator_busy": True}))).outcome is Outcome.UNKNOWN
    assert ask("latency", measured(run(conditions=conditions), own=(9000.0, 1.0), outside=(9000.0, 1.0))).outcome is Outcome.FAIL


def test_what_keeps_the_accelerator_from_being_seen_is_said():
    held = "/sys/devices/x/npu_busy_time_us: other processes hold the device: camera (41)"
    runs = [run(conditions={"unwitnessed": [held, "a\x1b[31mb" + "c" * 900]})] * 3
    because = ask("latency", measured(*runs)).because
    assert because.count(held) == 1
    assert "\x1b" not in because
    assert len(because) < 1000
    for odd in ("text", None, [None], [["x"]]):
        assert ask("latency", measured(run(conditions={"unwitnessed": odd}))).outcome is Outcome.UNKNOWN


def test_memory_without_the_accelerators_own_may_fail_and_does_not_pass():
    unread = {"before_bytes": 30_000_000, "peak_bytes": 60_000_000}
    assert ask("memory", measured(run(memory=unread))).outcome is Outcome.UNKNOWN
    assert ask("memory", measured(run(memory={**unread, "peak_bytes": 900_000_000}))).outcome is Outcome.FAIL


def test_a_delegate_that_keeps_the_processor_busy():
    shares = (0.97, 1.25)
    answer = ask("latency", measured(*(run(conditions={"cpu_share": share}) for share in shares)))
    assert answer.outcome is Outcome.UNKNOWN
    assert answer.because.endswith("The process kept 0.97 processors busy.")
    for odd in ({}, {"cpu_share": "all"}, {"cpu_share": None}):
        answer = ask("latency", measured(run(conditions={"cpu_share": 0.97}), run(conditions=odd)))
        assert answer.because.endswith("did the work.")


@pytest.mark.parametrize("which", ["latency", "bracket"])
def test_without_both_clocks_nothing_is_decided(which):
    facts = measured()
    (result,) = facts.models.value
    for field in (which,):
        without = replace(result, **{field: Missing(Status.FAILED, remedy=Remedy.MORE_RUNS)})
        with pytest.raises(MissingFact):
            list(zoo_latency.baseline.judge(replace(facts, models=Ok((without,))), LATENCY))


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e5))
def test_the_workers_own_word_never_makes_a_pass(own, own_width, outside, outside_width):
    outcome = ask("latency", measured(own=(own, own_width), outside=(outside, outside_width))).outcome
    assert (outcome is Outcome.FAIL) is (own - own_width > 6000)
    if outcome is Outcome.PASS:
        assert outside + outside_width <= 6000


# --- accuracy ----------------------------------------------------------------------------------------------------------------------------


def accuracy(*outputs):
    """The answer about a model with these outputs, the same in three runs."""
    return ask("accuracy", measured(*[run(accuracy=tuple({**OUTPUT, "index": index, **each} for index, each in enumerate(outputs)))] * 3))


@pytest.mark.parametrize(
    ("output", "outcome"),
    [
        ({}, "pass"),
        ({"avg_error": 1e-4, "std_dev": 1e-5}, "pass"),
        ({"avg_error": 0.0, "std_dev": 0.0}, "pass"),
        # the reference gives the same for every input: so does a delegate that computes nothing
        ({"avg_error": 0.0, "std_dev": 0.0, "two_input_distance": 0.0}, "unknown"),
        ({"avg_error": 1.1e-4}, "fail"),
        ({"std_dev": 1.1e-5}, "fail"),
        ({"avg_error": 1e30, "std_dev": 1e30}, "fail"),
        ({"avg_error": 1.1e-4, "two_input_distance": 0.0}, "fail"),
        ({"two_input_distance": 1e-8}, "unknown"),
        ({"two_input_distance": 0.0}, "unknown"),
        ({"two_input_distance": None}, "unknown"),
        ({"reference_nan_runs": 1, "avg_error": None, "std_dev": None}, "unknown"),
        ({"reference_nan_runs": 1, "test_nan_runs": 1, "avg_error": None, "std_dev": None}, "unknown"),
        ({"test_nan_runs": 1, "avg_error": None, "std_dev": None}, "fail"),
    ],
)
def test_accuracy(output, outcome):
    answer = accuracy(output)
    assert answer.outcome is Outcome(outcome)
    assert answer.remedy is (Remedy.ZOO if outcome == "unknown" else None)
    assert answer.observed.startswith("output 0: ")


@pytest.mark.parametrize(
    ("outputs", "outcome"),
    [
        (({}, {}), "pass"),
        (({}, {"avg_error": 1.0}), "fail"),
        (({"avg_error": 1.0}, {}), "fail"),
        (({}, {"two_input_distance": 0.0}), "unknown"),
        (({"two_input_distance": 0.0}, {"test_nan_runs": 1}), "fail"),
        (({"reference_nan_runs": 1}, {}), "unknown"),
    ],
)
def test_every_output_counts(outputs, outcome):
    answer = accuracy(*outputs)
    assert answer.outcome is Outcome(outcome)
    assert "output 0: " in answer.observed
    assert "; output 1: " in answer.observed


@pytest.mark.parametrize(
    ("output", "outcome", "said"),
    [
        ({"idle_error": 0.1, "correlation": 1.0}, "pass", None),
        ({"idle_error": 1e-8}, "unknown", "computes nothing"),
        ({"idle_error": 2e-9}, "unknown", "off by 2e-09 only"),
        ({"idle_error": 0.1, "correlation": 0.49}, "unknown", "do not follow the inputs (correlation 0.49)"),
        ({"idle_error": 0.1, "correlation": -1.0}, "unknown", "do not follow"),
        ({"idle_error": None, "correlation": None}, "pass", None),
        ({"idle_error": 2e-9, "avg_error": 1.0}, "fail", None),
    ],
)
def test_an_error_that_a_delegate_without_computing_would_have_proves_nothing(output, outcome, said):
    answer = accuracy(output)
    assert answer.outcome is Outcome(outcome)
    assert said is None or said in answer.because


def picture(name, sha256, number, margin):
    seen = {"class": number, "probability": 0.9, "margin": margin}
    return {"name": name, "sha256": sha256, "variation": None, "reference": seen, "test": seen, "agreement": 1.0, "avg_error": 0.125}


PICTURES = (picture("a", SHA, 1, 0.8), picture("b", OTHER, 2, 0.1))


def golden(*pictures, **changes):
    return {"metric": "top-1", "note": "", "idle_error": 2.0, "pictures": pictures, **changes}


def mask(reference, agreement=1.0, error=0.01):
    return {**PICTURES[0], "reference": {"share": reference}, "test": {"share": 0.5}, "agreement": agreement, "avg_error": error}


def changed(index, **changes):
    return {**PICTURES[index], **changes}


GOLDEN = [
    (golden(*PICTURES), "pass", "class 1 (0.900), reference class 1"),
    (golden(*PICTURES, idle_error=1.0), "pass", "mean error 0.125, without computing 1"),
    (golden(*PICTURES, idle_error=0.99), "fail", "too far off"),
    (golden(*PICTURES, idle_error=None), "unknown", "NaN or infinity for one"),
    (golden(PICTURES[0]), "unknown", "different classes"),
    (golden(PICTURES[0], changed(1, reference=PICTURES[0]["reference"])), "unknown", "different classes"),
    (golden(PICTURES[0], changed(1, reference={"class": 2, "probability": 0.5, "margin": 0.09})), "unknown", "different classes"),
    # honest kernels may differ where two classes are close
    (golden(*PICTURES, changed(1, reference={"class": 3, "probability": 0.5, "margin": 0.01}, agreement=0.0)), "pass", "a (abab"),
    (golden(PICTURES[0], changed(1, agreement=0.0)), "fail", "b (cdcd"),
    (golden(PICTURES[0], changed(1, test=None, agreement=0.0, avg_error=None)), "fail", "alone gives NaN"),
    (golden(*PICTURES, changed(1, reference=None, test=None, agreement=0.0, avg_error=None)), "pass", "reference not finite"),
    (golden(*PICTURES, note="c.jpg: no image"), "pass", "c.jpg: no image"),
    (golden(note="Pillow is not installed"), "unknown", "Pillow is not installed"),
    (golden(mask(0.35), metric="mask"), "pass", "mask 0.500, reference mask 0.350"),
    (golden(mask(0.35, 0.95), metric="mask"), "pass", "agreement 0.95"),
    (golden(mask(0.35, 0.949), metric="mask"), "fail", "agreement 0.949"),
    (golden(mask(0.35, error=0.251), metric="mask"), "fail", "too far off"),
    (golden(mask(0.0), mask(1.0), metric="mask"), "unknown", "neither empty nor full"),
    (golden(mask(0.0, 0.0), mask(0.5), metric="mask"), "pass", "agreement 0"),
]


def ask_golden(facts):
    (answer,) = zoo_golden.golden.judge(facts, ACCURACY)
    return answer


@pytest.mark.parametrize(("images", "outcome", "said"), GOLDEN)
@pytest.mark.parametrize("index", [0, 2])
def test_golden_images(images, outcome, said, index):
    assert zoo_golden.golden.level is Level.SHOULD
    runs = [run(golden=golden(*PICTURES) if images["metric"] == "top-1" else golden(mask(0.5), metric="mask"))] * 3
    runs[index] = run(golden=images)
    answer = ask_golden(measured(*runs))
    assert answer.outcome is Outcome(outcome), answer
    if outcome != "pass" or index == 0:
        assert said in f"{answer.observed} {answer.because}"
    assert answer.evidence == tuple(evidence(index) for index in range(3))


def test_no_golden_image_is_not_applicable():
    answer = ask_golden(measured())
    assert (answer.outcome, answer.observed) == (Outcome.NOT_APPLICABLE, "no golden image")


def test_golden_images_in_some_runs_only():
    answer = ask_golden(measured(run(golden=golden(*PICTURES)), run()))
    assert (answer.outcome, answer.observed, answer.remedy) == (Outcome.UNKNOWN, "not in every run", Remedy.ZOO)


def test_golden_images_of_a_delegate_that_ends_badly_or_takes_little():
    assert ask_golden(measured(run(), run(status="died", process="test"))).outcome is Outcome.FAIL
    assert ask_golden(measured(run(golden=golden(*PICTURES), delegated_macs=0.1))).outcome is Outcome.UNKNOWN
    assert ask_golden(measured(run(identity="other", golden=golden(*PICTURES)), settings=Settings())).outcome is Outcome.UNKNOWN
    unread = Missing(Status.DENIED)
    (result,) = measured().models.value
    with pytest.raises(MissingFact):
        ask_golden(measured(models=Ok((replace(result, runs=(unread,)),))))


@pytest.mark.parametrize(
    ("images", "outcome"),
    [
        (golden(*PICTURES), "pass"),
        (golden(PICTURES[0]), "unknown"),
        # the page's bound is met, so the page does not fail it
        (golden(PICTURES[0], changed(1, agreement=0.0)), "unknown"),
        (golden(note="none"), "unknown"),
        (None, "unknown"),
    ],
)
@pytest.mark.parametrize("output", [{"two_input_distance": 0.0}, {"idle_error": 0.0}, {"correlation": 0.0}])
def test_where_noise_proves_nothing_golden_images_decide(images, outcome, output):
    silent = {**OUTPUT, **output}
    runs = [run(accuracy=(silent,), golden=images)] * 3
    answer = ask("accuracy", measured(*runs))
    assert answer.outcome is Outcome(outcome)
    assert ("On golden images it computes" in answer.because) is (outcome == "pass")
    if outcome == "pass":
        # in every run
        assert ask("accuracy", measured(*runs[:2], run(accuracy=(silent,)))).outcome is Outcome.UNKNOWN
        # of the output that they are of
        second = {**OUTPUT, **output, "index": 1}
        assert ask("accuracy", measured(*[run(accuracy=(OUTPUT, second), golden=images)] * 3)).outcome is Outcome.UNKNOWN
        # and never against the limit, or against NaN
        for worse in ({"avg_error": 1.0}, {"std_dev": 1.0}, {"test_nan_runs": 1}):
            assert ask("accuracy", measured(*[run(accuracy=({**silent, **worse},), golden=images)] * 3)).outcome is Outcome.FAIL
        nan = {**silent, "reference_nan_runs": 1, "avg_error": None, "std_dev": None}
        assert ask("accuracy", measured(*[run(accuracy=(nan,), golden=images)] * 3)).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(
    ("output", "outcome"),
    [
        ({"correlation": 0.5, "offset": 0.1}, "pass"),
        ({"correlation": 1.0, "offset": 0.0}, "pass"),
        ({"correlation": 0.49, "offset": 0.0}, "fail"),
        ({"correlation": 1.0, "offset": 0.11}, "fail"),
        ({"correlation": 0.0, "offset": None}, "fail"),
        ({"correlation": 1.0, "offset": None}, "unknown"),
        ({"correlation": None, "offset": None}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_answers_that_follow_the_inputs(output, outcome, pinned):
    assert zoo_accuracy.follows.level is Level.SHOULD
    good = run(identity="stand-in", accuracy=({**OUTPUT, "correlation": 1.0, "offset": 0.0},))
    odd = run(identity="stand-in", accuracy=({**OUTPUT, **output},))
    manifest = Settings(manifest={"m": (SHA,)} if pinned else {})
    (answer,) = zoo_accuracy.follows.judge(measured(good, odd, good, plan=STAND_IN_PLAN, settings=manifest), ACCURACY)
    assert answer.outcome is Outcome(outcome)
    assert list(zoo_accuracy.follows.judge(measured(run(accuracy=odd.accuracy)), ACCURACY)) == []
    assert list(zoo_accuracy.follows.judge(measured(run(accuracy=odd.accuracy), plan=STAND_IN_PLAN), ACCURACY)) == []
    died = run(identity="stand-in", status="died", process="test")
    (answer,) = zoo_accuracy.follows.judge(measured(good, died, plan=STAND_IN_PLAN), ACCURACY)
    assert answer.outcome is Outcome.FAIL
    (answer,) = zoo_accuracy.follows.judge(measured(run(identity="stand-in", accuracy=None), plan=STAND_IN_PLAN), ACCURACY)
    assert answer.outcome is Outcome.UNKNOWN


def test_errors_are_pooled_over_runs():
    def with_error(average):
        return run(accuracy=({**OUTPUT, "avg_error": average, "std_dev": 0.0},))

    assert ask("accuracy", measured(with_error(0.99e-4), with_error(1.01e-4))).outcome is Outcome.PASS
    assert ask("accuracy", measured(with_error(1e-5), with_error(1.8e-4))).outcome is Outcome.FAIL  # by its deviation between runs
    assert ask("accuracy", measured(with_error(1e-4), with_error(3e-4))).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("errors", "outcome", "said"),
    [
        ([1e-9] * 4, Outcome.PASS, "; 1e-09 on 12 inputs of the auditor's own"),
        ([9.9e-5] * 4, Outcome.PASS, ""),
        ([1.1e-4] * 4, Outcome.FAIL, "9.9e-05 (limit 0.0001)"),
        ([1e-9, 3e-4, 1e-9, 1e-9], Outcome.PASS, ""),
        ([9.7e-5], Outcome.UNKNOWN, "on 3 inputs"),
        ([1.3e-4], Outcome.FAIL, "on 3 inputs"),
        ([], Outcome.PASS, ""),
    ],
)
def test_the_auditors_own_inputs_confirm_the_tools_figure(errors, outcome, said):
    """A mean over a few is not held against the limit; what is right for the tool alone fails."""
    own = run(accuracy=({**OUTPUT, "avg_error": 9.9e-5, "own_errors": errors},))
    answer = ask("accuracy", measured(own, own, own))
    assert answer.outcome is outcome
    assert said in answer.observed


def test_where_errors_differ_too_much_between_inputs_the_tools_figure_is_a_claim():
    wide = replace(ACCURACY, limits={"avg_error": 1e-4, "std_dev": 2e-3})
    for errors, outcome in (([1e-6, 1e-5, 0, 0], Outcome.PASS), ([1e-6, 1e-3, 0, 0], Outcome.UNKNOWN), ([2e-2], Outcome.FAIL)):
        own = run(accuracy=({**OUTPUT, "own_errors": errors},))
        (answer,) = zoo_accuracy.baseline.judge(measured(own, own, own), wide)
        assert answer.outcome is outcome
    assert answer.remediation is None


def test_a_nan_in_one_run_is_enough():
    assert ask("accuracy", measured(run(), run(accuracy=({**OUTPUT, "test_nan_runs": 1},)))).outcome is Outcome.FAIL


@pytest.mark.parametrize("status", NOT_MEASURED)
def test_why_the_devices_own_tool_says_nothing_of_the_delegate(status):
    assert ask("latency", measured(run(status=status))).because == NOT_MEASURED[status]


@pytest.mark.parametrize("found", [{"count": 1, "wrong": ["case 0: y\n: off"]}, {"count": 1}, {"wrong": "x"}, [], 3])
def test_a_runtime_that_does_not_give_golden_outputs_is_no_reference(found):
    """Whatever its answers are compared with; a record of an odd shape says nothing good."""
    for each in ({}, {"avg_error": 1e30}):
        runs = [run(accuracy=({**OUTPUT, **each},), conditions={"golden_cases": found}), run(accuracy=({**OUTPUT, **each},))]
        answer = ask("accuracy", measured(*runs))
        assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.ZOO)
        assert "\n" not in answer.observed
    fine = run(conditions={**WITNESSED, "golden_cases": {"count": 2, "wrong": []}})
    assert ask("accuracy", measured(fine, fine)).outcome is Outcome.PASS


def test_what_the_runner_noted_on_the_accuracy_is_the_reason():
    noted = {"conditions": {"accuracy_note": "the tool writes\nno answers"}}
    missing = ask("accuracy", measured(run(), run(accuracy=None, **noted)))
    alone = ask("accuracy", measured(run(accuracy=({**OUTPUT, "two_input_distance": None},), **noted)))
    for answer in (missing, alone):
        assert answer.outcome is Outcome.UNKNOWN
        assert "the tool writes" in answer.because
        assert "\n" not in answer.because
    assert ask("accuracy", measured(run(accuracy=({**OUTPUT, "avg_error": 1.0, "two_input_distance": None},)))).outcome is Outcome.FAIL


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("compared", [None, (), (OUTPUT, {**OUTPUT, "index": 1, "avg_error": 1.0})])
def test_outputs_that_were_not_compared_in_every_run(index, compared):
    runs = [run(), run(), run()]
    runs[index] = run(accuracy=compared)
    answer = ask("accuracy", measured(*runs))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.MORE_RUNS)


# --- memory ------------------------------------------------------------------------------------------------------------------------------


def memory(before, peak, device=0, group=None):
    sizes = {"before_bytes": before * 10**6, "peak_bytes": peak * 10**6}
    if group is not None:
        sizes["group_bytes"] = group * 10**6
    return run(memory=sizes if device is None else {**sizes, "device_bytes": device * 10**6})


@pytest.mark.parametrize(
    ("given_run", "outcome"),
    [
        (memory(30, 60), "pass"),
        (memory(30, 100), "pass"),
        (memory(30, 60, 40), "pass"),
        (memory(30, 60, 0, group=100), "pass"),
        (memory(30, 60, 0, group=101), "unknown"),
        (memory(30, 60, 0, group=700), "unknown"),
        (memory(30, 135, 0, group=20), "fail"),
        (memory(30, 60, 41), "unknown"),
        (memory(30, 101), "unknown"),
        (memory(30, 134), "unknown"),
        (memory(30, 135), "fail"),
        (memory(0, 104), "unknown"),  # between 100 MB and 100 MiB nobody decides
        (memory(0, 105), "fail"),
        (memory(30, 60, 80), "fail"),
        (memory(30, 60, None), "unknown"),
        (memory(30, 120, None), "unknown"),
        (memory(30, 135, None), "fail"),
    ],
)
def test_memory(given_run, outcome):
    answer = ask("memory", measured(given_run))
    assert answer.outcome is Outcome(outcome)
    assert answer.remedy is (Remedy.VENDOR if outcome == "unknown" else None)
    assert "limit 100 MB" in answer.observed


def test_device_memory_that_was_not_read_is_named():
    assert "device itself" in ask("memory", measured(memory(30, 60, None))).because
    assert "interpreter" in ask("memory", measured(memory(30, 101))).because
    assert "control group" in ask("memory", measured(memory(30, 60, group=700))).because
    assert "2^20" in ask("memory", measured(memory(0, 101))).because


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_worst_run_decides(index):
    runs = [memory(30, 60)] * 3
    for worse, outcome in ((memory(30, 135), "fail"), (memory(30, 101), "unknown"), (memory(30, 60, None), "unknown")):
        runs[index] = worse
        assert ask("memory", measured(*runs)).outcome is Outcome(outcome)


@pytest.mark.parametrize("index", [0, 2])
def test_a_peak_that_was_not_read(index):
    runs = [run(), run(), run()]
    runs[index] = run(memory=None)
    answer = ask("memory", measured(*runs))
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.MORE_RUNS)
