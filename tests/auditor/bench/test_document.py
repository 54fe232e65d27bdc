"""Whether the accelerator was seen at work: every kind of evidence, and what the processor did beside it."""

from __future__ import annotations

import pytest

from auditor.bench.document import Job, blank, note_who_worked
from auditor.families import Work
from auditor.inference.witness import Counted

TIMED_US = 1_000_000.0


def noted(counted, cpu_us=0.0, inferences=50, reference_us=20_000.0, process=""):
    run = blank(Job(name="m", model=b""), "embedded")
    run["conditions"]["reference_cpu_us"] = reference_us
    note_who_worked(run, cpu_us, counted, TIMED_US, inferences, process=process)
    return run["conditions"]


@pytest.mark.parametrize("kind", [each for each in Work if each.in_time], ids=lambda each: each.value)
@pytest.mark.parametrize(
    ("busy_us", "cpu_us", "seen"),
    [(900_000, 1_000_000, True), (200_000, 100_000, True), (200_000, 900_000, None), (90_000, 0, None), (0, 0, None)],
    ids=["busy", "little of either", "the processor computed", "a token job", "nothing"],
)
def test_time_that_the_accelerator_worked(kind, busy_us, cpu_us, seen):
    found = noted(Counted({kind: busy_us * 1000}, ("why",)), cpu_us)
    assert found.get("accelerator_busy") is seen
    assert found.get("unwitnessed") == (None if seen else ["why"])
    expected = {"source": kind.source, "busy_us": busy_us, "timed_us": TIMED_US} if busy_us else None
    assert found.get("engines") == expected


@pytest.mark.parametrize(
    ("commands", "cpu_us", "reference_us", "seen"),
    [(50, 400_000, 20_000, True), (49, 400_000, 20_000, None), (50, 600_000, 20_000, None), (50, 1, 0, None)],
    ids=["one an inference", "fewer", "the processor computed", "what the processor needs is not known"],
)
def test_commands_that_were_completed(commands, cpu_us, reference_us, seen):
    found = noted(Counted({Work.COMPLETIONS: commands}), cpu_us, reference_us=reference_us)
    assert found.get("accelerator_busy") is seen
    assert found["engines"]["commands"] == commands


def test_commands_without_an_inference_are_none():
    assert "accelerator_busy" not in noted(Counted({Work.COMPLETIONS: 0}), inferences=0)


def test_what_proves_is_named_before_what_does_not():
    found = noted(Counted({Work.ENGINE_TIME: 1000, Work.SCHEDULER: 900_000_000, Work.COMPLETIONS: 1}))
    assert found["engines"]["source"] == Work.SCHEDULER.source


def test_the_process_that_is_looked_at_for_memory():
    found = noted(Counted({Work.CYCLES: 900_000_000}), process="memory_")
    assert found["memory_accelerator_busy"] is True
    assert "accelerator_busy" not in found
