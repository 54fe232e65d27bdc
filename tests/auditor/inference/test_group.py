"""A worker's control group: real ones, of the kernel that the tests run on, where this user may make one."""

from __future__ import annotations

import os

import pytest

from auditor.inference import group, process
from auditor.inference.process import Worker
from auditor.inference.watch import Limits
from auditor.inference.wire import Outcome, WorkerFailure

TAKES = """
import os
class Taker(worker.Session):
    def do_hello(self, header, payload): return {"python": "3", "runtime": {"name": "none", "version": "0"}, "folders": []}, b""
    def do_input(self, header, payload):
        descriptor = os.memfd_create("taken")
        for _ in range(96):
            os.write(descriptor, bytes(1 << 20))
        os.close(descriptor)
        return {}, b""
worker.Session = Taker
"""
MIB = 1 << 20


@pytest.fixture
def takes(monkeypatch):
    """Have workers take 96 MiB in a file in memory, and give them back at once."""
    code = process.BOOTSTRAP.replace("main(int", f"import auditor.inference.worker.main as worker\n{TAKES}\nworker.main(int")
    monkeypatch.setattr(process, "_COMMAND", (*process._COMMAND[:-1], code))


@pytest.fixture
def groups():
    """Skip where there is nothing to test."""
    parents = [os.path.dirname(folder) for folder, _ in group.plan("x", 1, 1)]
    if not any(os.path.exists(f"{parent}/{name}") for parent in parents for name in (*group._PEAKS, "cgroup.subtree_control")):
        pytest.skip("this user can make no control group of memory here")


def test_what_was_taken_between_two_looks_counts(groups, takes):
    with Worker("test", b"", Limits(request_seconds=10)) as worker:
        worker.hello("auto")
        before = worker.group_bytes()
        worker.set_inputs(b"")
        assert 96 * MIB <= worker.group_bytes() <= before + 128 * MIB
        assert worker.peak_bytes() < 96 * MIB, "seen only by the group"
        folders = [folder for folder, _ in worker._groups]
    assert not any(map(os.path.exists, folders))


def test_the_limit_holds_for_what_is_not_mapped(groups, takes):
    with Worker("test", b"", Limits(request_seconds=10, memory_bytes=64 * MIB)) as worker:
        worker.hello("auto")
        with pytest.raises(WorkerFailure) as caught:
            worker.set_inputs(b"")
    assert caught.value.status.outcome is Outcome.OUT_OF_MEMORY


def test_without_a_group_there_is_no_peak(monkeypatch):
    monkeypatch.setattr(group, "_mounts", lambda: iter(()))
    with Worker("test", b"", Limits()) as worker:
        assert worker._groups == []
        assert worker.group_bytes() is None


@pytest.fixture
def second(tmp_path, monkeypatch):
    """A hierarchy of version 2 in which this process is deep down, and memory is handed down as far as `/a`."""
    for path, handed in (("", "cpu memory pids"), ("a", "memory pids"), ("a/b", "cpu"), ("a/b/c", "")):
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.subtree_control").write_text(handed)
    monkeypatch.setattr(group, "_mounts", lambda: iter([("", ("/", str(tmp_path)))]))
    monkeypatch.setattr(group, "_own_groups", lambda pid="self": iter([("", "/a/b/c")]))
    return tmp_path


def test_the_nearest_that_hands_memory_down(second):
    [(folder, settings)] = group.plan("x", 5, 7)
    assert folder == f"{second}/a/x"
    assert settings == {"memory.max": "5", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "7"}


def test_none_hands_memory_down(second):
    for path in ("", "a"):
        (second / path / "cgroup.subtree_control").write_text("cpu")
    assert group.plan("x", 5, 7) == []


def test_a_group_that_may_not_be_made(second, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert group.plan("x", 5, 7) == []


def test_what_cannot_be_made_is_left(second):
    groups = [("/proc/none", {"memory.max": "5"}), (f"{second}/a/x", {"none/of/it": "5"})]
    group.make(groups)
    assert os.path.isdir(f"{second}/a/x")
    assert group.peak_bytes(groups, os.getpid()) is None
    group.remove(groups)
    assert not os.path.exists(f"{second}/a/x")


def test_a_mount_of_a_part_of_the_hierarchy():
    assert group._below(("/docker/1", "/sys/fs/cgroup/memory"), "/docker/1/own") == "/sys/fs/cgroup/memory/own"
    assert group._below(("/", "/sys/fs/cgroup/memory"), "/") == "/sys/fs/cgroup/memory/"
