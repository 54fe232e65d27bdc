"""What an audit was asked to look at, as its record holds it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.plan import MAX_MODELS, MAX_RUNS, plan_document, read_plan
from auditor.facts.reading import Device
from auditor.facts.types import Missing, Ok, Plan
from auditor.model import Status, ZooModelUsed
from auditor.sources import base
from auditor.sources.base import Reply

WHOLE = Plan(
    accelerators=("pci:0000:00:05.0",),
    delegate="/usr/lib64/lib\udcffnpu.so",
    delegate_options=(("a", "b=c"), ("a", "")),
    stable_delegate="/etc/tflite/settings.json",
    zoo_version="0.0.2",
    models=(ZooModelUsed("m", "ab" * 32, "given"),),
    runs=(("m", 3),),
    demonstration=True,
    zoo_left_out=True,
    zoo_note="why",
    probe_dma=True,
    command=("crosml-audit", "device", "--zoo", "a b\udcff"),
    user="lab",
    uid=0,
)


class Planned:
    kind = name = "x"

    def __init__(self, reply):
        self.reply = reply

    def ask(self, question):
        assert question == base.plan()
        return self.reply


def read(data):
    return read_plan(Device(Planned(Reply(Status.OK, data))))


def changed(**changes):
    return read(json.dumps({**json.loads(plan_document(WHOLE)), **changes}).encode())


@pytest.mark.parametrize("plan", [WHOLE, Plan()])
def test_a_plan_comes_back_as_it_was(plan):
    assert read(plan_document(plan)).open() == plan


def test_the_same_plan_is_the_same_text():
    assert plan_document(WHOLE) == plan_document(read(plan_document(WHOLE)).open())


@pytest.mark.parametrize("reply", [base.UNASKED, Reply(Status.ABSENT, errno=2), Reply(Status.FAILED, errno=5)])
def test_a_record_without_a_plan_does_not_say_which_accelerators_it_is_about(reply):
    assert read_plan(Device(Planned(reply))).status is reply.status


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"null", b"[]", b"3", b"{}", b"[" * 100_000])
def test_what_is_no_plan_says_so(data):
    assert read(data).status is Status.FAILED


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "crosml-audit/plan/2"},
        {"schema": None},
        {"accelerators": 3},
        {"accelerators": None},
        {"delegate_options": [["a"]]},
        {"delegate_options": [["a", "b", "c"]]},
        {"delegate_options": 1},
        {"models": [{"name": "m"}]},
        {"models": [3]},
        {"runs": [["m", "many"]]},
        {"runs": [["m", None]]},
        {"runs": [["m", float("inf")]]},
        {"runs": [["m", float("nan")]]},
        {"runs": [["m"]]},
        {"runs": {"m": 3}},
        {"runs": 3},
        {"runs": [["m", 1]] * (MAX_MODELS + 1)},
        {"command": 3},
        {"uid": "root"},
        {"uid": -1},
        {"uid": True},
    ],
)
def test_a_plan_of_another_shape_is_none(changes):
    assert changed(**changes).status is Status.FAILED


LATER = {"archive", "stable_delegate", "not_accelerators", "command", "user", "uid", "firmware_images"}
"""Keys that records of earlier collectors do not have."""


@pytest.mark.parametrize("key", sorted({*json.loads(plan_document(WHOLE))} - LATER))
def test_every_key_must_be_there(key):
    document = json.loads(plan_document(WHOLE))
    del document[key]
    assert read(json.dumps(document).encode()).status is Status.FAILED


def test_a_plan_of_an_earlier_collector():
    document = {key: value for key, value in json.loads(plan_document(WHOLE)).items() if key not in LATER}
    assert read(json.dumps(document).encode()).open() == replace(WHOLE, stable_delegate=None, command=(), user="", uid=None)


def test_as_many_runs_as_the_limit_are_looked_at():
    assert changed(runs=[["m", 10**9], ["n", 2]]).open().runs == (("m", MAX_RUNS), ("n", 2))
    assert len(changed(runs=[["m", 1]] * MAX_MODELS).open().runs) == MAX_MODELS


def test_only_true_is_true():
    assert not changed(demonstration="true").open().demonstration
    assert not changed(zoo_left_out=1).open().zoo_left_out
    assert not changed(probe_dma=1).open().probe_dma


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(plan_document(WHOLE)))), JSON))
def test_any_document_gives_a_plan(changes):
    assert isinstance(changed(**changes), (Ok, Missing))
