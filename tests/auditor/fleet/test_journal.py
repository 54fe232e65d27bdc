"""The journal of a run: what a power cut leaves, what is no journal, who may write."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.errors import AuditError
from auditor.fleet import journal
from auditor.fleet.journal import SCHEMA, Journal, read, runs
from auditor.fleet.results import Ended, Failure
from auditor.model import Verdict

ENDED = Ended("a", 2, Verdict.INCOMPLETE, Failure.LOST, "gone", 1.5, "6.12", {"functional-1": "pass", "zoo-x": "fail, waived"})


def begun(folder):
    with Journal(str(folder)) as book:
        book.write("run", schema=SCHEMA, run="r", at="", inventory="i", devices=["a", "b"])
        book.write("started", device="a", attempt=2, at="")
        book.ended(ENDED)
        book.write("started", device="b", attempt=1, at="")
    return folder / journal.NAME


def test_what_was_written_is_read(tmp_path):
    begun(tmp_path)
    state = read(str(tmp_path))
    assert (state.run, state.inventory, state.devices) == ("r", "i", ("a", "b"))
    assert state.ended == {"a": ENDED}
    assert state.started == {"a": 2, "b": 1}
    assert state.closed is None


@settings(max_examples=25)
@given(cut=st.integers(0, 700))
def test_a_power_cut_at_any_byte_loses_the_unfinished_line_alone(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("run")
    path = begun(folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")
    with Journal(str(folder)) as book:
        assert (read(str(folder)).run == "r") is (lines > 0)
        assert ("a" in read(str(folder)).ended) is (lines > 2)
        if lines:
            book.write("closed", at="", exit=3)
            assert read(str(folder)).closed == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}\n", "line 1: event: missing"),
        ('{"event": "started"}\n', "line 1: event: expected run, got 'started'"),
        ('{"event": "run", "schema": "crosml-audit/fleet/9"}\n', f"line 1: schema: expected {SCHEMA}, got 'crosml-audit/fleet/9'"),
        (f'{{"event": "run", "schema": "{SCHEMA}"}}\nx\n', "line 2: line 1, column 1: expected JSON"),
        (
            f'{{"event": "run", "schema": "{SCHEMA}"}}\n{{"event": "ended", "device": "a", "attempt": 1, "verdict": "x"}}\n',
            "line 2: verdict: expected compliant or non-compliant or incomplete, got 'x'",
        ),
    ],
)
def test_what_is_no_journal_is_one_line(tmp_path, text, said):
    (tmp_path / journal.NAME).write_text(text)
    with pytest.raises(AuditError) as error:
        read(str(tmp_path))
    assert str(error.value) == f"{tmp_path / journal.NAME}: {said}"


def test_a_second_controller_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "WAIT", 0.1)
    with Journal(str(tmp_path)), pytest.raises(AuditError, match="the run is in progress in another process"), Journal(str(tmp_path)):
        pass


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(str(tmp_path)) as book:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(AuditError, match=r"journal.jsonl: No space left on device$"):
            book.write("resumed", at="")


def test_runs_are_those_with_a_journal_the_last_first(tmp_path):
    for name in ("20260101T000000Z", "20260102T000000Z", "20260101T000000Z-001"):
        (tmp_path / name).mkdir()
        begun(tmp_path / name)
    (tmp_path / "20260103T000000Z").mkdir()
    assert [os.path.basename(each) for each in runs(str(tmp_path))] == ["20260102T000000Z", "20260101T000000Z-001", "20260101T000000Z"]
    assert not list(runs(str(tmp_path / "none")))
