"""Runs over a fleet: hosts that misbehave, what is tried again, interrupted and killed controllers, the outputs for the whole."""

from __future__ import annotations

import datetime
import io
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import junitparser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kcidb_io import schema

from auditor import cli
from auditor.errors import AuditError, UsageError
from auditor.fleet import combined, controller, page
from auditor.fleet.controller import begin, carry_out, folder_of
from auditor.fleet.inventory import load
from auditor.fleet.journal import SCHEMA, Journal, read, runs
from auditor.fleet.results import Ended, Failure, exit_code
from auditor.fleet.watching import Lines, Table
from auditor.model import Verdict
from auditor.reporting import load_report

TODAY = datetime.date(2026, 12, 1)
QUICK = "pause = 0.1\nattempts = 2\ndeadline = 60\n"


def carried_out(lab, watcher=None, *, resume=False):
    """A run in this process: it, and what is told of it."""
    inventory = load(str(lab.inventory), TODAY)
    said = io.StringIO()
    folder, _ = begin(str(lab.output), inventory, resume=resume)
    run = carry_out(inventory, folder, watcher or Lines(said), lambda _run: None)
    return inventory, run, said.getvalue()


class Command:
    """`crosml-audit fleet` in a process of its own, forked: what it would import is here already."""

    def __init__(self, lab, *more):
        self._files = [str(lab.folder / name) for name in ("stdout", "stderr")]
        self.pid = os.fork()
        if not self.pid:
            for number, path in enumerate(self._files, 1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
            sys.argv = ["crosml-audit", "fleet", str(lab.inventory), "-o", str(lab.output), *more]
            try:
                cli.main()
            except SystemExit as ended:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(ended.code)
            finally:
                os._exit(99)

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self):
        """Exit code, stdout and stderr."""
        return (self.wait(), *(open(path, encoding="utf-8").read() for path in self._files))


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_hosts_that_misbehave_cost_a_line_each_and_the_rest_goes_on(lab):
    kinds = ("refused", "changed", "off", "bare", "endless", "garbage", "reboots", "dies")
    lab.write("good-1", *kinds, "good-2", head=QUICK)
    inventory, run, said = carried_out(lab)
    failures = {name: ended.failure for name, ended in run.ended.items()}
    assert failures == {
        "good-1": None,
        "good-2": None,
        "reboots": None,
        "refused": Failure.REFUSED,
        "changed": Failure.REFUSED,
        "off": Failure.UNREACHABLE,
        "bare": Failure.UNSUITED,
        "endless": Failure.WRONG_ANSWER,
        "garbage": Failure.WRONG_ANSWER,
        "dies": Failure.LOST,
    }
    assert {name for name, count in Counter(lab.calls()).items() if count > 1} == {
        "off",
        "reboots",
        "dies",
        "bare",
    }  # the last by its shell
    assert all(ended.attempt == (2 if ended.device in {"off", "reboots", "dies"} else 1) for ended in run.ended.values())
    assert "changed: not carried out (refused): Host key verification failed." in said
    assert said.count("\n") == 2 * (len(run.ended) + 3)
    assert (run.exit, run.complete) == (4 if run.ended["good-1"].verdict is not Verdict.NON_COMPLIANT else 1, True)
    outputs_of_the_whole(inventory, run)


def test_a_host_that_never_answers_is_ended_at_the_deadline(lab):
    lab.write("silent", head="deadline = 1")
    _, run, said = carried_out(lab)
    assert run.ended["silent"].failure is Failure.DEADLINE
    assert said.endswith("silent: not carried out (deadline passed): not finished within 1 s (1.0 s)\n")


def outputs_of_the_whole(inventory, run):
    """Every device is in every format, and no format takes one that was not audited for success."""
    names = [member.name for member in inventory.members]
    failed = {name for name, ended in run.ended.items() if ended.verdict is None}
    for name in set(names) - failed:
        folder = folder_of(run.folder, name)
        assert load_report(os.path.join(folder, "report.json")).verdict is run.ended[name].verdict
        assert {"device.snapshot", "report.html", "log.txt"} < set(os.listdir(folder))
    suites = junitparser.JUnitXml.fromstring(combined.render("junit", inventory, run))
    assert {suite.name.partition(":")[0] for suite in suites} == set(names)
    for name in failed:
        (suite,) = (suite for suite in suites if suite.name.startswith(f"{name}:"))
        assert suite.errors == 1
    assert suites.tests == sum(suite.tests for suite in suites)
    tests = json.loads(combined.render("ctrf", inventory, run))["results"]["tests"]
    assert {test["suite"][0] for test in tests} == set(names)
    assert {test["status"] for test in tests if test["suite"][0] in failed} == {"other"}
    kcidb = json.loads(combined.render("kcidb", inventory, run))
    schema.V5_3.validate(kcidb)
    ids = [test["id"] for test in kcidb["tests"]]
    assert len(set(ids)) == len(ids)
    assert len(kcidb["builds"]) == len(names)
    document = json.loads(combined.render("json", inventory, run))
    assert [each["device"] for each in document["devices"]] == names
    text = combined.render("text", inventory, run).decode()
    assert all(f"\n{name}" in text for name in failed)
    index = page.render(inventory, run, None)
    assert all(f">{name}<" in index for name in names)


def test_what_changed_since_the_run_before_is_on_the_page(lab):
    lab.write("good-1", "off", head=QUICK)
    inventory, run, _ = carried_out(lab)
    old = {"good-1": Ended("good-1", 1, Verdict.COMPLIANT, None, kernel="6.1", outcomes={"functional-1": "pass"}), "left": run.ended["off"]}
    index = page.render(inventory, run, ("before", old))
    for said in (
        "compliant, now ",
        "functional-1: pass, now ",
        "kernel 6.1, now ",
        "new device: not carried out (unreachable)",
        "no longer in",
    ):
        assert said in index
    assert "Nothing changed since run before" in page.render(inventory, run, ("before", run.ended))
    assert page.earlier(str(lab.output), run) is None
    (lab.output / "99991231T235959Z").mkdir()
    shutil.copy(os.path.join(run.folder, "journal.jsonl"), lab.output / "99991231T235959Z")
    later = controller.Run("", "99991231T235959Z", run.ended, 4, complete=True)
    assert page.earlier(str(lab.output), later) == (run.name, run.ended)


def test_what_a_host_says_is_escaped_on_the_page_and_in_lines(lab):
    lab.write("off", head=QUICK)
    inventory, run, _ = carried_out(lab)
    hostile = Ended("off", 1, Verdict.INCOMPLETE, Failure.LOST, "<script>\x1b[2J\n", kernel="<b>", outcomes={"<i>": "fail"})
    run = controller.Run(run.folder, run.name, {"off": hostile}, 3, complete=True)
    index = page.render(inventory, run, ("<u>", {"off": Ended("off", 1, None, None, kernel="k")}))
    assert not any(text in index for text in ("<script>", "<i>", "<u>", "\x1b"))
    said = io.StringIO()
    Lines(said).ended(hostile, None)
    assert said.getvalue().count("\n") == 1
    assert "\x1b" not in said.getvalue()


def test_a_killed_controller_is_resumed_and_nothing_is_lost_or_audited_twice(lab):
    names = [f"slow-{number}" for number in range(6)]
    lab.write(*names, head="parallel = 2\n")
    process = Command(lab)
    until(lambda: len(lab.calls("answered")) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = runs(str(lab.output))
    finished = set(read(folder).ended)
    before = Counter(lab.calls())
    code, out, err = Command(lab, "--resume").said()
    assert code == exit_code(read(folder).ended.values(), len(names)), err
    assert set(read(folder).ended) == set(names)
    assert not (set(lab.calls()[sum(before.values()) :]) & finished)  # of those, none is asked again
    twice = [name for name, count in Counter(lab.calls()).items() if count > 1]
    assert len(twice) <= 2  # those that were being audited
    reports = {load_report(os.path.join(folder_of(folder, name), "report.json")).counts["unknown"] for name in names}
    assert len(reports) == 1
    assert "6 devices" in out
    calls = len(lab.calls())
    assert Command(lab, "--resume").wait() == code  # nothing is left to do
    assert len(lab.calls()) == calls
    assert len(list(runs(str(lab.output)))) == 1


def test_an_attempt_that_came_to_its_end_unseen_counts(lab):
    lab.write("good-1", head=QUICK)
    _, run, _ = carried_out(lab)
    journal = Path(run.folder, "journal.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"ended"' not in line and '"closed"' not in line))
    _, resumed, _ = carried_out(lab, resume=True)
    assert resumed.ended == run.ended
    assert lab.calls() == ["good-1"]


def test_another_inventory_is_not_resumed(lab):
    lab.write("good-1", head=QUICK)
    inventory = load(str(lab.inventory), TODAY)
    folder, _ = begin(str(lab.output), inventory, resume=True)
    with Journal(folder) as journal:
        journal.write("run", schema=SCHEMA, run="r", at="", inventory=inventory.sha256, devices=["good-1"])
    lab.write("good-2")
    with pytest.raises(UsageError, match="began with another inventory"):
        begin(str(lab.output), load(str(lab.inventory), TODAY), resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order(lab, number):
    (lab.folder / "slow").write_text("600")
    lab.write("good-1", "slow-1", "slow-2", "slow-3", head="parallel = 2\n")
    process = Command(lab, "--format", "json")
    until(lambda: set(lab.calls()) == {"good-1", "slow-1", "slow-2"})
    os.kill(process.pid, number)
    code, out, err = process.said()
    assert code == 4
    assert err.splitlines()[-2:] == [
        "crosml-audit: interrupted: 1 of 4 devices were audited",
        f"help: crosml-audit fleet {lab.inventory} --output {lab.output} --resume",
    ]
    document = json.loads(out)
    assert [each["verdict"] is None for each in document["devices"]] == [False, True, True, True]
    assert not document["complete"]
    (folder,) = runs(str(lab.output))
    assert read(folder).closed is None
    assert set(read(folder).ended) == {"good-1"}


def test_a_folder_that_cannot_be_written_is_one_line(lab):
    lab.write("good-1")
    lab.output.write_text("a file")
    code, _, err = Command(lab).said()
    assert code == 4
    assert err == f"crosml-audit: {lab.output}: File exists\n"


def test_a_report_that_cannot_be_written_ends_the_run_in_one_line(lab):
    lab.write("good-1", head=QUICK)
    inventory = load(str(lab.inventory), TODAY)
    folder, _ = begin(str(lab.output), inventory, resume=False)
    with open(folder_of(folder, "good-1"), "w", encoding="utf-8"):
        pass
    with pytest.raises(AuditError, match=r"devices/good-1: File exists$"):
        carry_out(inventory, folder, Lines(io.StringIO()), lambda _run: None)


def test_the_table_shows_what_is_at_work_and_what_ended(monkeypatch):
    import rich.console

    out = io.StringIO()
    real = rich.console.Console
    monkeypatch.setattr(rich.console, "Console", lambda **_: real(file=out, force_terminal=True, width=100, height=20))
    with Table(3, 1) as table:
        table.started("board-1", 1)
        table.stage("board-1", "reading [red]board-1[/red]\x1b[2J")
        table.started("board-2", 2)
        table.tick(1)
        table.ended(Ended("board-2", 2, None, Failure.REFUSED, "Permission denied"), None)
    text = out.getvalue()
    assert "reading [red]board-1[/red]\\x1b" in text
    assert "board-2: not carried out (refused): Permission denied" in text
    assert "3 devices: 1 finished before, 1 not carried out; 1 at work, 1 waiting" in text


@given(
    groups=st.lists(st.sets(st.sampled_from("abc")), min_size=1, max_size=40),
    bounds=st.fixed_dictionaries({name: st.integers(1, 3) for name in "abc"}),
    order=st.randoms(use_true_random=False),
)
def test_no_group_is_ever_over_its_bound_and_every_device_has_its_turn(groups, bounds, order):
    queue = controller._Queue(bounds)
    members = [controller.Member(str(number), tuple(sorted(each)), None) for number, each in enumerate(groups)]
    for member in members:
        queue.add(member, 1)
    busy, done = [], []
    while len(queue) or busy:
        while found := queue.next():
            busy.append(found[0])
            assert all(sum(name in member.groups for member in busy) <= bound for name, bound in bounds.items())
        member = busy.pop(order.randrange(len(busy)))
        queue.done(member)
        done.append(member.name)
    assert sorted(done) == sorted(member.name for member in members)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.COMPLIANT, Verdict.COMPLIANT], 0),
        ([Verdict.COMPLIANT, Verdict.INCOMPLETE], 3),
        ([Verdict.INCOMPLETE, None], 4),
        ([None, Verdict.NON_COMPLIANT], 1),
        ([Verdict.COMPLIANT], 4),
        ([], 4),
    ],
)
def test_the_exit_code_is_that_of_the_worst(verdicts, code):
    ended = [Ended(str(number), 1, verdict, None) for number, verdict in enumerate(verdicts)]
    assert exit_code(ended, 2) == code
