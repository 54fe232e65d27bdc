"""When a model is measured again, what is timed, and how long it may still take; what is measured is a stand-in for the runner."""

from __future__ import annotations

import itertools
import json
import re

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

from auditor import requirements
from auditor.bench import embedded
from auditor.bench import schedule as measure
from auditor.bench.document import blank
from auditor.bench.options import BenchTime, ZooOptions
from auditor.bench.schedule import SCHEDULES, MeasureOptions, measure_zoo
from auditor.facts.collect import collect
from auditor.facts.types import Ok, Plan
from auditor.model import Status, ZooModelUsed
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.recording import Record, Replay
from auditor.statistics import LOOKS, Verdict, judge
from auditor.zoo.models import ModelFile

ZOO = requirements.load(requirements.DEFAULT).zoo
FIRST, SECOND = ZOO.models[:2]
LIMIT = FIRST.baseline.latency_ms * 1000


@pytest.fixture
def zoo(monkeypatch):
    """Measure with given process means (µs) for each model; returns what was told, which jobs were run, and the documents."""

    def run(means, bench_time=BenchTime.ADAPTIVE, status="completed"):
        jobs, told, clock = [], [], iter(range(10**6))
        left = {name: iter(each) for name, each in means.items()}

        def measured(job, progress):
            progress(f"{job.name}: latency and accuracy")
            jobs.append(job)
            times = next(left[job.name])
            times = times if isinstance(times, list) else [times] * 9
            document = blank(job, "embedded")
            document["status"]["outcome"] = status
            return {**document, "samples_us": times, "bracket_us": times}

        monkeypatch.setattr(embedded, "measure", measured)
        monkeypatch.setattr(measure.time, "monotonic", lambda: 10.0 * next(clock))
        files = [ModelFile(model, b"no model", "", "given") for model in (FIRST, SECOND) if model.name in means]
        documents = list(measure_zoo(files, MeasureOptions(ZooOptions(bench_time=bench_time.value)), told.append))
        return told, jobs, documents

    return run


def around(mean, spread, count=9):
    return [mean * (1 + spread * (-1) ** index) for index in range(count)]


def judged(documents):
    """The verdict of the record that these runs make, by the way every audit takes."""
    runs = [(name, document) for name, document in documents if name == FIRST.name]
    plan = Plan(delegate="/lib.so", models=(ZooModelUsed(FIRST.name, "", "given"),), runs=((FIRST.name, len(runs)),))
    answers = {base.run(name, index): Reply(Status.OK, json.dumps(each).encode()) for index, (name, each) in enumerate(runs)}
    answers[base.plan()] = Reply(Status.OK, measure_plan(plan))
    facts = collect(Replay(Record("", "", "", "", answers)))
    (result,) = facts.models.open()
    assert all(isinstance(each, Ok) for each in result.runs)
    return judge(result.latency.open(), result.bracket.open(), LIMIT, result.drift)


def measure_plan(plan):
    from auditor.facts.plan import plan_document

    return plan_document(plan)


@pytest.mark.parametrize(
    ("means", "runs", "verdict"),
    [
        (around(0.5 * LIMIT, 0.01), 3, Verdict.MET),
        (around(1.5 * LIMIT, 0.01), 3, Verdict.MISSED),
        (around(0.96 * LIMIT, 0.02), 8, Verdict.MET),
        (around(LIMIT, 0.05), 9, Verdict.UNDECIDED),
        # within the limit at first, and slower from process to process
        ([LIMIT * (0.96 + 0.008 * index) for index in range(9)], 9, Verdict.UNDECIDED),
    ],
)
def test_the_record_is_judged_as_the_measurement_stopped(zoo, means, runs, verdict):
    _, _, documents = zoo({FIRST.name: means})
    assert (len(documents), judged(documents)) == (runs, verdict)


def test_throttling_within_each_process_is_no_pass(zoo):
    times = [[LIMIT * 0.9] * 10 + [LIMIT * 0.95] * 10 + [LIMIT * 1.01] * 10] * 9
    _, _, documents = zoo({FIRST.name: times})
    assert (len(documents), judged(documents)) == (9, Verdict.UNDECIDED)


@pytest.mark.parametrize("bench_time", BenchTime)
def test_no_more_than_the_plan_is_run(zoo, bench_time):
    _, jobs, documents = zoo({FIRST.name: around(LIMIT, 0.05)}, bench_time)
    assert len(documents) == SCHEDULES[bench_time].most
    assert {job.min_seconds for job in jobs} == {SCHEDULES[bench_time].seconds}


def test_page_times_what_the_page_does_in_every_process(zoo):
    _, jobs, _ = zoo({FIRST.name: around(LIMIT, 0.05)}, BenchTime.PAGE)
    assert {(job.min_seconds, job.min_runs, job.warmup_seconds) for job in jobs} == {(20.0, 50, 0.5)}
    assert all(job.max_seconds > 20 for job in jobs)


def test_adaptive_takes_at_most_a_quarter_of_the_page():
    plan, page = SCHEDULES[BenchTime.ADAPTIVE], SCHEDULES[BenchTime.PAGE]
    assert plan.most * plan.seconds <= 0.25 * page.seconds
    assert plan.least * plan.inferences >= page.inferences
    assert (plan.least, plan.most) == (LOOKS[0], LOOKS[-1])


def test_a_run_that_ended_badly_is_the_last(zoo):
    assert len(zoo({FIRST.name: around(LIMIT, 0.05)}, status="died")[2]) == 1


def test_a_document_that_is_none_is_the_last(zoo):
    assert len(zoo({FIRST.name: [[-1.0]] * 9})[2]) == 1


def test_the_time_left_is_told_from_finished_runs(zoo):
    told, _, documents = zoo({FIRST.name: around(0.5 * LIMIT, 0.01), SECOND.name: around(SECOND.baseline.latency_ms * 1000, 0.05)})
    assert [name for name, _ in documents[:4]] == [FIRST.name, SECOND.name, FIRST.name, SECOND.name]
    assert told[0] == f"zoo: round 1, model 1 of 2: {FIRST.name}: latency and accuracy"  # nothing is known yet
    assert told[1].startswith("zoo: round 1, model 2 of 2, at least 50 s left: ")
    assert told[2].startswith("zoo: round 2, model 1 of 2, at least 40 s left: ")
    # the first is decided; the second is at its limit
    assert told[6].startswith("zoo: round 4, model 1 of 1, about 60 s left: ")
    assert told[-1].startswith("zoo: round 9, model 1 of 1, about 10 s left: ")
    seconds = [int(found[1]) for found in (re.search(r"(\d+) s left", line) for line in told) if found]
    assert all(later <= earlier for earlier, later in itertools.pairwise(seconds[5:]))


def test_a_long_time_is_told_in_minutes(zoo):
    told, _, _ = zoo({FIRST.name: around(LIMIT, 0.05)})
    assert "at least 20 s left" in told[1]
    assert measure._time_left({"m": [60.0]}, {"m": 5}, at_least=False) == ", about 5 min left"
