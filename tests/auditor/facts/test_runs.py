"""Recorded runs of the zoo: the document's figures as facts; what contradicts itself is no run."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.reading import Device
from auditor.facts.runs import RUN_SCHEMA, read_models
from auditor.facts.types import Missing, Ok, Plan
from auditor.model import Remedy, Status, ZooModelUsed
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.statistics import NO_DRIFT, look

SHA = "ab" * 32
OUTPUT = {
    "index": 0,
    "avg_error": 1e-8,
    "std_dev": 2e-9,
    "max_error": 3e-8,
    "exact_share": 0.5,
    "reference_nan_runs": 0,
    "test_nan_runs": 0,
    "two_input_distance": 0.25,
}
DOCUMENT = {
    "schema": RUN_SCHEMA,
    "model": {"name": "m", "sha256": SHA, "origin": "given", "bytes": 9},
    "runner": "embedded",
    "runtime": {"name": "ai-edge-litert", "version": "2.1.0"},
    "python": "3.11.2",
    "threads": 1,
    "xnnpack": True,
    "delegate": {"path": "/usr/lib64/libnpu.so", "sha256": SHA, "options": {}, "name": "npu"},
    "status": {"outcome": "completed", "process": None, "stage": None, "signal": None, "exit": None, "message": ""},
    "nodes": {"total": 62, "delegated": 60, "partitions": [{"subgraph": 0, "name": "npu", "nodes": [0]}]},
    "seed": 1,
    "inputs": 2,
    "init_us": 5000.0,
    "first_us": 700.0,
    "samples_us": [100.0, 110.0],
    "bracket_us": [130.0, 140.0],
    "exchange_us": [150.0, 160.0],
    "cpu_us": [10.0, 20.0],
    "overhead_us": 12.0,
    "accuracy": {"runs": 2, "outputs": [OUTPUT]},
    "memory": {"before_bytes": 40_000_000, "peak_bytes": 60_000_000, "device_bytes": 0},
    "conditions": {"before": {}, "after": {}, "accelerator_busy": True},
    "worker_output": "",
    "macs": {"delegated": 97, "total": 100},
    "identity": {"kind": "pinned", "reason": "as the page has it"},
}


def document(**changes):
    return {**DOCUMENT, **changes}


class Recorded:
    kind = name = "x"

    def __init__(self, *documents):
        self.documents = documents

    def ask(self, question):
        assert question.kind == "run"
        (index,) = question.args
        if question.path != "m" or index >= len(self.documents):
            return base.UNASKED
        each = self.documents[index]
        return Reply(Status.OK, each if isinstance(each, bytes) else json.dumps(each).encode())


def results(*documents, runs=None):
    plan = Plan(models=(ZooModelUsed("m", SHA, "given"),), runs=runs or (("m", len(documents)),))
    return read_models(Device(Recorded(*documents)), plan).open()


def run(**changes):
    ((each,),) = [result.runs for result in results(document(**changes))]
    return each


PICTURE = {
    "name": "p.jpg",
    "sha256": SHA,
    "output": 0,
    "runs": 2,
    "variation": {"mirrored": True, "right": 1, "down": -1, "brightness": 1.05},
    "reference": {"class": 653, "probability": 0.92, "margin": 0.91},
    "test": {"class": 653, "probability": 0.91, "margin": 0.9},
    "agreement": 1.0,
    "avg_error": 0.7,
}
MASK = {**PICTURE, "reference": {"share": 0.35}, "test": {"share": 0.34}, "agreement": 0.97}


def golden(*pictures, **changes):
    return {"metric": "top-1", "note": "", "idle_error": 12.5, "pictures": list(pictures), **changes}


def test_golden_images_are_read():
    each = run(golden=golden(PICTURE)).open().golden
    assert (each["metric"], each["note"], each["idle_error"]) == ("top-1", "", 12.5)
    (picture,) = each["pictures"]
    assert picture == {key: value for key, value in PICTURE.items() if key not in {"output", "runs"}}
    assert run(golden=golden(MASK, metric="mask")).open().golden["pictures"][0]["test"] == {"share": 0.34}
    spoilt = {**PICTURE, "test": None, "avg_error": None, "agreement": 0.0}
    assert run(golden=golden(spoilt)).open().golden["pictures"][0]["test"] is None
    assert run(golden=golden(note="no decoder")).open().golden["note"] == "no decoder"
    assert run(golden=None).open().golden is None
    assert run().open().golden is None


@pytest.mark.parametrize(
    "wrong",
    [
        golden(PICTURE, metric="vibes"),
        golden(*[PICTURE] * 65),
        golden(PICTURE, idle_error=-1),
        golden({**PICTURE, "agreement": 1.01}),
        golden({**PICTURE, "agreement": None}),
        golden({**PICTURE, "avg_error": None}),
        golden({**PICTURE, "avg_error": math.nan}),
        golden({**PICTURE, "test": {"class": -1, "probability": 0.5, "margin": 0.1}}),
        golden({**PICTURE, "test": {"class": 1.5, "probability": 0.5, "margin": 0.1}}),
        golden({**PICTURE, "test": {"class": 1, "probability": 1.5, "margin": 0.1}}),
        golden({**PICTURE, "test": {"class": 1, "probability": 0.5, "margin": None}}),
        golden(PICTURE, metric="mask"),
        golden(MASK),
        golden("x"),
        {"metric": "mask"},
    ],
)
def test_golden_images_that_cannot_be(wrong):
    assert isinstance(run(golden=wrong), Missing)


def test_what_the_outputs_were_compared_with():
    reference = {"kernels": "default", "threads": 1, "rewritten": False}
    assert run(reference=reference).open().reference == "default kernels, threads: 1"
    rewritten = run(reference={"kernels": "builtin", "threads": 1, "rewritten": True}).open()
    assert rewritten.reference == "builtin kernels, custom operator rewritten, threads: 1"
    assert run().open().reference == ""


@pytest.mark.parametrize(("key", "value"), [("idle_error", -1.0), ("offset", -0.1), ("correlation", 1.1), ("correlation", "x")])
def test_how_answers_follow_the_inputs(key, value):
    tracked = {**OUTPUT, "idle_error": 0.2, "offset": 0.01, "correlation": -0.5}
    assert run(accuracy={"runs": 2, "outputs": [tracked]}).open().accuracy == (tracked,)
    unknown = {**OUTPUT, key: None}
    assert run(accuracy={"runs": 2, "outputs": [unknown]}).open().accuracy == (unknown,)
    assert isinstance(run(accuracy={"runs": 2, "outputs": [{**tracked, key: value}]}), Missing)


def test_a_run_is_read():
    each = run().open()
    assert (each.model, each.sha256, each.origin, each.runner) == ("m", SHA, "given", "embedded")
    assert (each.runtime, each.delegate, each.threads) == ("ai-edge-litert 2.1.0", "/usr/lib64/libnpu.so", 1)
    assert (each.status, each.process, each.message) == ("completed", "", "")
    assert (each.delegated_nodes, each.total_nodes, each.partitions, each.delegated_macs) == (60, 62, 1, 0.97)
    assert (each.latency_us, each.bracket_us, each.samples) == (105.0, 123.0, 2)
    assert (each.init_us, each.first_us, each.cpu_us) == (5000.0, 700.0, 15.0)
    assert each.accuracy == (OUTPUT,)
    assert each.memory == {"before_bytes": 40_000_000, "peak_bytes": 60_000_000, "device_bytes": 0}
    assert (each.identity, each.identity_reason) == ("pinned", "as the page has it")
    assert each.conditions["accelerator_busy"] is True


def test_a_run_that_ended_early_is_read():
    status = {"outcome": "died", "process": "test", "stage": "invoke", "signal": 11, "exit": None, "message": "core"}
    each = run(
        runtime=None,
        delegate=None,
        status=status,
        nodes=None,
        init_us=None,
        first_us=None,
        samples_us=[],
        bracket_us=[],
        cpu_us=[],
        overhead_us=None,
        accuracy=None,
        memory=None,
        macs=None,
        identity=None,
    ).open()
    assert (each.status, each.process, each.message) == ("died", "test", "at invoke, signal 11, core")
    for value in (each.delegate, each.delegated_nodes, each.total_nodes, each.partitions, each.delegated_macs, each.cpu_us):
        assert value is None
    for value in (each.latency_us, each.bracket_us, each.init_us, each.first_us, each.accuracy, each.memory):
        assert value is None
    assert (each.runtime, each.samples, each.identity, each.identity_reason) == ("", 0, "other", "")


def test_how_a_run_ended_is_one_line():
    status = {"outcome": "exited", "process": "test", "stage": None, "signal": None, "exit": 0, "message": None}
    assert run(status=status).open().message == "exit code 0"


def test_the_clock_outside_is_never_below_the_workers_own():
    assert run(overhead_us=1000.0).open().bracket_us == 105.0
    assert run(overhead_us=None).open().bracket_us == 135.0


def test_what_is_answered_from_memory_does_not_make_a_delegate_fast():
    """Inputs come again once each was seen: the clock outside goes by those that were new, where they took longer."""
    remembered = {"samples_us": [10.0] * 6, "bracket_us": [900.0, 900.0, 20.0, 20.0, 20.0, 20.0], "overhead_us": 0.0}
    assert run(inputs=2, **remembered).open().bracket_us == 900.0
    assert run(inputs=50, **remembered).open().bracket_us == pytest.approx(1880 / 6)
    throttled = {**remembered, "bracket_us": [20.0, 20.0, 900.0, 900.0, 900.0, 900.0]}
    assert run(inputs=2, **throttled).open().bracket_us == pytest.approx(3640 / 6)
    assert isinstance(run(inputs=-1), Missing)


@pytest.mark.parametrize("macs", [None, {}, {"total": 0, "delegated": 0}])
def test_a_share_that_is_not_known(macs):
    assert run(macs=macs).open().delegated_macs is None


def test_memory_of_the_device_that_was_not_read():
    memory = run(memory={"before_bytes": 1, "peak_bytes": 2, "device_bytes": None}).open().memory
    assert memory == {"before_bytes": 1, "peak_bytes": 2}


@pytest.mark.parametrize("spoilt", ["reference_nan_runs", "test_nan_runs"])
def test_errors_that_a_nan_spoilt(spoilt):
    output = {**OUTPUT, "avg_error": None, "std_dev": None, spoilt: 1}
    assert run(accuracy={"runs": 1, "outputs": [output]}).open().accuracy == (output,)


NAN, INFINITY = math.nan, math.inf


def outputs(**changes):
    return {"accuracy": {"runs": 1, "outputs": [{**OUTPUT, **changes}]}}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "crosml-audit/run/2"},
        {"schema": None},
        {"model": None},
        {"model": {"name": "m"}},
        {"status": {}},
        {"samples_us": None},
        {"samples_us": [NAN]},
        {"samples_us": [-1.0]},
        {"samples_us": [INFINITY]},
        {"samples_us": [1e13]},
        {"samples_us": ["fast"]},
        {"samples_us": [10**400]},
        {"samples_us": []},  # a clock outside, and no figure inside it
        {"bracket_us": [NAN, 1.0]},
        {"overhead_us": NAN},
        {"overhead_us": -1.0},
        {"overhead_us": INFINITY},
        {"init_us": NAN},
        {"first_us": "x"},
        {"cpu_us": [NAN]},
        {"nodes": {"total": 1}},
        {"nodes": {"total": "62", "delegated": 60, "partitions": []}},
        {"nodes": {"total": 62, "delegated": -1, "partitions": []}},
        {"nodes": {"total": 62, "delegated": 60, "partitions": None}},
        {"macs": {"delegated": NAN, "total": 100}},
        {"macs": {"delegated": 101, "total": 100}},
        {"macs": {"delegated": -1, "total": 100}},
        {"macs": {"delegated": True, "total": True}},
        {"macs": {"delegated": 1, "total": "100"}},
        {"macs": {"delegated": 1, "total": NAN}},
        {"macs": {"total": 100}},
        outputs(avg_error=None),
        outputs(std_dev=None),
        outputs(avg_error=NAN),
        outputs(avg_error=-1.0),
        outputs(std_dev=INFINITY),
        outputs(two_input_distance=NAN),
        outputs(reference_nan_runs=-1),
        outputs(test_nan_runs=None),
        outputs(index="0"),
        {"accuracy": {"runs": 1}},
        {"accuracy": {"outputs": [{}]}},
        {"accuracy": {"outputs": [3]}},
        {"memory": {"before_bytes": 1}},
        {"memory": {"before_bytes": 1, "peak_bytes": -2}},
        {"memory": {"before_bytes": 1, "peak_bytes": 2.5}},
        {"memory": {"before_bytes": NAN, "peak_bytes": 2}},
        {"memory": {"before_bytes": None, "peak_bytes": 2}},
        {"memory": {"before_bytes": 1, "peak_bytes": 2, "device_bytes": -1}},
        {"memory": [1, 2]},
        {"conditions": 3},
        {"model": {**DOCUMENT["model"], "name": "a smaller one"}},
        {"threads": None},
        {"threads": INFINITY},
        {"identity": {"kind": "pinned"}},
        {"identity": "pinned"},
        {"delegate": "x"},
        {"runtime": 3},
    ],
)
def test_a_document_that_contradicts_itself_is_no_run(changes):
    found = run(**changes)
    assert (found.status, found.remedy) == (Status.FAILED, Remedy.EVIDENCE)
    assert found.evidence[0].path == "run:m"


@pytest.mark.parametrize("key", sorted(DOCUMENT.keys() - {"python", "xnnpack", "seed", "exchange_us", "worker_output", "macs", "identity"}))
def test_every_key_that_is_used_must_be_there(key):
    found = {each: value for each, value in DOCUMENT.items() if each != key}
    assert results(found)[0].runs[0].status is Status.FAILED


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_document(data):
    assert results(data)[0].runs[0].status is Status.FAILED


# --- what runs add up to -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "remedy", "note"),
    [
        (Plan(), Remedy.DELEGATE, "no model was run"),
        (Plan(zoo_note="no delegate was named"), Remedy.DELEGATE, "no delegate was named"),
        (Plan(delegate="/lib.so"), Remedy.ZOO, "no model was run"),
        (Plan(delegate="/lib.so", zoo_left_out=True, zoo_note="left out by --no-zoo"), Remedy.SELECTED, "left out by --no-zoo"),
    ],
)
def test_no_run_at_all(plan, remedy, note):
    assert read_models(Device(Recorded()), plan) == Missing(Status.UNASKED, (), note, remedy)


def test_the_intervals_are_over_processes():
    (result,) = results(*(document(samples_us=[mean], bracket_us=[mean + 20], overhead_us=0.0) for mean in (100.0, 110.0, 120.0)))
    assert (result.model, result.sha256) == ("m", SHA)
    assert (result.latency.open().mean, result.latency.open().count) == (110.0, 3)
    assert result.bracket.open().mean == 130.0
    assert result.bracket.open().half_width == pytest.approx(result.latency.open().half_width)
    assert len(result.latency.evidence) == 3


def test_one_process_alone_has_no_spread():
    (result,) = results(document())
    assert math.isinf(result.latency.open().half_width)


@pytest.mark.parametrize("other", [document(samples_us=[], bracket_us=[]), b"broken"])
def test_a_run_without_times_leaves_the_interval_open(other):
    (result,) = results(document(), other)
    for interval in (result.latency, result.bracket):
        assert (interval.status, interval.remedy) == (Status.FAILED, Remedy.MORE_RUNS)
        assert len(interval.evidence) == 2


def test_a_run_that_was_planned_and_is_not_recorded():
    (result,) = results(document(), runs=(("m", 2),))
    assert [each.status for each in result.runs] == [Status.OK, Status.UNASKED]
    assert isinstance(result.latency, Missing)


def test_a_model_that_was_run_and_not_planned_has_no_digest():
    first, second = results(document(), runs=(("m", 1), ("n", 0)))
    assert (first.sha256, second.sha256, second.runs) == (SHA, "", ())
    assert isinstance(second.latency, Missing)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*DOCUMENT, *OUTPUT, "total", "peak_bytes"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(DOCUMENT)), JSON, max_size=3))
def test_no_document_makes_reading_raise_or_gives_an_odd_figure(changes):
    (result,) = results(document(**changes))
    (found,) = result.runs
    if isinstance(found, Ok):
        each = found.value
        assert each.delegated_macs is None or 0 <= each.delegated_macs <= 1
        assert each.memory is None or all(size >= 0 for size in each.memory.values())
        for value in (each.latency_us, each.bracket_us, each.init_us, each.first_us, each.cpu_us):
            assert value is None or 0 <= value < math.inf


# --- drift, and the rule that stops the measurement --------------------------------------------------------------------------------------


def test_thirds_are_of_the_clock_that_is_judged():
    times = {"samples_us": [100.0] * 7, "bracket_us": [110.0, 110.0, 120.0, 130.0, 140.0, 150.0, 150.0], "overhead_us": 10.0}
    each = run(**times).open()
    assert each.bracket_us == 120.0
    assert each.thirds_us == (100.0, 120.0, 140.0)
    assert run(samples_us=[1.0, 1.0], bracket_us=[2.0, 2.0]).open().thirds_us is None  # no thirds of two
    assert run(samples_us=[], bracket_us=[]).open().thirds_us is None


@given(st.lists(st.floats(0, 1e7), min_size=3, max_size=40), st.floats(0, 1e6))
def test_thirds_have_the_mean_that_is_judged(brackets, overhead):
    each = run(samples_us=[0.0] * len(brackets), bracket_us=brackets, overhead_us=overhead).open()
    third = len(brackets) // 3
    if min(each.thirds_us) > 0:  # what lies below zero is cut there
        first, middle, last = each.thirds_us
        mean = (third * (first + last) + (len(brackets) - 2 * third) * middle) / len(brackets)
        assert mean == pytest.approx(each.bracket_us, rel=1e-6, abs=1e-3)


def rising(mean, change):
    times = [mean * (1 - change / 2)] * 3 + [mean] * 3 + [mean * (1 + change / 2)] * 3
    return document(samples_us=[1.0] * 9, bracket_us=times, overhead_us=None)


def test_throttling_is_seen_over_processes():
    (result,) = results(rising(100.0, 0.2), rising(101.0, 0.21), rising(100.5, 0.19))
    assert result.drift.within == pytest.approx(0.22, abs=0.02)
    assert result.drift.late == pytest.approx(0.1, abs=0.01)
    (steady,) = results(rising(100.0, 0.01), rising(101.0, -0.01), rising(100.5, 0.0))
    assert steady.drift == NO_DRIFT


def test_a_run_without_samples_leaves_the_drift_within_unknown():
    (result,) = results(rising(100.0, 0.2), rising(100.1, 0.2), rising(99.9, 0.2), document(samples_us=[100.0], bracket_us=[100.0]))
    assert result.drift == NO_DRIFT


def test_the_interval_is_that_of_the_look():
    (result,) = results(rising(100.0, 0.0), rising(110.0, 0.0), rising(90.0, 0.0))
    assert result.bracket.value == look([100.0, 110.0, 90.0])
