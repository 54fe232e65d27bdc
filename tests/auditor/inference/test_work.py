"""What the kernel counts of an accelerator's work: readings of each kind, and what two of them say."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.families import FAMILIES, Work
from auditor.inference import work

RUN = "  kworker/u8:1-77 [001] ..... {}: drm_sched_job_run: dev=0000:00:02.0, id=1, fence={}, ring=rcs0, job count:0, client_id:{}\n"
DONE = "          <idle>-0  [001] d.h1. {}: drm_sched_job_done: fence={} signaled\n"


@pytest.mark.parametrize(("text", "found"), [("1234\n", 1234), ("-1\n", None), ("", None), (None, None)])
def test_the_busy_time_of_a_device(tmp_path, text, found):
    if text is not None:
        (tmp_path / "npu_busy_time_us").write_text(text)
    assert work.busy_time_us(str(tmp_path)) == found


def test_others_that_hold_a_node_are_seen():
    descriptor = os.open("/dev/full", os.O_RDONLY)
    try:
        holders = work.other_holders(["/dev/full"], ())
        assert holders is None or os.getpid() in holders
        alone = work.other_holders(["/dev/full"], {os.getpid()})
        assert alone is None or os.getpid() not in alone
    finally:
        os.close(descriptor)


def test_others_that_have_a_node_mapped_are_seen(tmp_path):
    """Their descriptor is closed, and their first thread has ended."""
    node = tmp_path / "node"
    node.write_bytes(bytes(4096))
    code = """
import ctypes, mmap, os, sys, threading, time
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 4096)
os.close(next(int(each) for each in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{each}") == sys.argv[1]))
def rest():
    time.sleep(0.2)
    print(flush=True)
    time.sleep(60)
threading.Thread(target=rest).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(node)], stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            # only this process: others here may be such that nobody may look at
            (tmp_path / "proc").mkdir()
            (tmp_path / "proc" / str(child.pid)).symlink_to(f"/proc/{child.pid}")
            assert work.other_holders([str(node)], (), str(tmp_path / "proc")) == [child.pid]
            assert work.other_holders([str(node)], {child.pid}, str(tmp_path / "proc")) == []
            assert work.other_holders([str(tmp_path)], (), str(tmp_path / "proc")) == []
        finally:
            child.kill()


def test_a_process_that_cannot_be_looked_at_may_hold_it(tmp_path, monkeypatch):
    (tmp_path / "7/task/7/fd").mkdir(parents=True)
    listdir = os.listdir

    def refuse(path):
        if str(path).endswith("/fd"):
            raise PermissionError(errno.EACCES, "refused")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert work.other_holders(["/dev/full"], (), str(tmp_path)) is None


def busy(trace, *clients):
    return work.Jobs().add(trace, clients)


def test_pairs_of_a_clients_jobs_are_its_time():
    trace = RUN.format("10.000100", "3:1", 7) + RUN.format("10.000200", "4:1", 9) + DONE.format("10.000300", "4:1")
    trace += DONE.format("10.000600", "3:1") + RUN.format("10.000700", "3:2", 7)
    assert busy(trace, 7) == 500_000
    assert busy(trace, 9) == 100_000
    assert busy(trace, 8) == 0


def test_jobs_at_the_same_time_count_once():
    trace = RUN.format("10.000100", "3:1", 7) + RUN.format("10.000100", "3:2", 7)
    assert busy(trace + DONE.format("10.000300", "3:1") + DONE.format("10.000400", "3:2"), 7) == 300_000


def test_a_trace_is_read_on_wherever_it_was_cut():
    trace = RUN.format("10.000100", "3:1", 7) + DONE.format("10.000300", "3:1") + RUN.format("10.000400", "3:2", 7)
    trace += DONE.format("10.000500", "3:2")
    for cut in range(len(trace)):
        jobs = work.Jobs()
        assert jobs.add(trace[:cut], {7}) + jobs.add(trace[cut:], {7}) == 300_000


@pytest.mark.parametrize(
    "line",
    [
        "  x-1 [000] ..... 10.000001: tracing_mark_write: 1 10.000002: drm_sched_job_run: fence=3:1 client_id:7\n",
        "  x-1 [000] ..... 10.000001: drm_sched_job_run: dev=x client_id:7\n",
    ],
)
def test_what_a_process_writes_or_lacks_a_fence_is_no_job(line):
    quoted = line.replace("1 10.000002: drm", "drm")
    assert busy(quoted + DONE.format("11.000000", "3:1"), 7) == 0


@given(st.text(max_size=200))
def test_any_trace_is_read(text):
    assert busy(text, 7) >= 0


def told(*entries):
    def ask(_node, _request, _layout, _parameter, size, most, _pad, address):
        assert (size, most) == (144, work.CLIENTS)
        for at, (pid, done) in enumerate(entries):
            raw = struct.pack("=I12xqQQ", at, pid, 0, done).ljust(144, b"\0")
            ctypes.memmove(address + at * 144, raw, 144)
        return 0, size, len(entries), 0, address

    return ask


def test_completed_commands_of_a_process():
    ask = told((100, 5), (200, 7), (100, 1))
    assert work.completions(3, {100}, ask) == {(0, 100): 5, (2, 100): 1}
    assert work.completions(3, {100, 200}, ask) == {(0, 100): 5, (1, 200): 7, (2, 100): 1}
    assert work.completions(3, {300}, ask) == {}


def test_a_driver_that_does_not_tell():
    def refuse(*_):
        raise OSError(errno.ENOTTY, "no")

    assert work.completions(3, {100}, refuse) is None


def test_a_family_that_must_be_switched_on_counts_engine_time():
    assert {each.name for each in FAMILIES.families if each.profiling} == {"panfrost", "panthor"}
    assert all(Work.ENGINE_TIME in each.work for each in FAMILIES.families if each.profiling)
