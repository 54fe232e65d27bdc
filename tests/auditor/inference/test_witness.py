"""Which counts of an accelerator's work are a worker's own; each way to be mistaken, and that all is set back."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.families import FAMILIES, Work
from auditor.inference import witness, work
from auditor.inference.fdinfo import DeviceUse
from auditor.inference.witness import Counted, Watched, Witness, counting

KEY = ("0000:00:02.0", "7", "rcs")
RUN = "  kworker/u8:1-77 [001] ..... 10.{}: drm_sched_job_run: dev=0000:00:02.0, id=1, fence={}, ring=rcs0, job count:0, client_id:{}\n"
DONE = "          <idle>-0  [001] d.h1. 10.{}: drm_sched_job_done: fence={} signaled\n"


class Npu:
    """An NPU that counts its busy time, in a /proc where its worker and another process are; the clock is ours to turn."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.now = folder, 1_000_000_000
        monkeypatch.setattr(work, "sees_all_processes", lambda: True)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)
        self.proc = folder / "proc"
        self.process(5, 1)
        self.process(9, 1)
        (folder / "sysfs").mkdir()
        self.count(0)
        self.witness = Witness(5, (Watched("intel-npu", ("/dev/full",), (str(folder / "sysfs"),)),), str(self.proc))

    def process(self, pid, parent):
        (self.proc / f"{pid}/task/{pid}/fd").mkdir(parents=True)
        (self.proc / f"{pid}/stat").write_text(f"{pid} (it) S {parent} 0")
        (self.proc / f"{pid}/comm").write_text(f"name{pid}\n")

    def hold(self, pid, task=None):
        folder = self.proc / f"{pid}/task/{task or pid}/fd"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "3").symlink_to("/dev/full")

    def count(self, busy_us):
        (self.folder / "sysfs/npu_busy_time_us").write_text(f"{busy_us}\n")

    def work(self, passed_us, busy_us):
        self.now += passed_us * 1000
        self.count(busy_us)
        self.witness.look(DeviceUse(), thoroughly=True)

    def counted(self):
        found = self.witness.counted()
        return found.amounts[Work.BUSY_TIME], " ".join(found.notes)


@pytest.fixture
def npu(tmp_path, monkeypatch):
    monkeypatch.setattr(witness, "descendants", lambda pid: {pid})
    return Npu(tmp_path, monkeypatch)


def test_the_busy_time_of_a_device_that_nobody_else_holds(npu):
    npu.hold(5)
    npu.witness.begin()
    npu.work(100_000, 80_000)
    npu.work(100_000, 160_000)
    assert npu.counted() == (160_000_000, "")


@pytest.mark.parametrize("task", [None, 10], ids=["a process", "a thread of it"])
def test_another_that_holds_it_is_named(npu, task):
    npu.witness.begin()
    npu.work(100_000, 80_000)
    npu.hold(9, task)
    npu.work(100_000, 160_000)
    assert npu.counted()[0] == 0
    assert "other processes hold the device: name9 (9)" in npu.counted()[1]


def test_another_is_no_longer_forgotten_once_it_let_go(npu):
    npu.hold(9)
    npu.witness.begin()
    npu.work(100_000, 80_000)
    (npu.proc / "9/task/9/fd/3").unlink()
    npu.work(100_000, 160_000)
    assert npu.counted()[0] == 0


def test_who_cannot_be_looked_at_may_hold_it(npu, monkeypatch):
    npu.witness.begin()
    monkeypatch.setattr(work, "other_holders", lambda *_: None)
    npu.work(100_000, 80_000)
    assert npu.counted()[0] == 0
    assert "it takes root" in npu.counted()[1]


def test_in_a_container_nobody_knows_who_holds_it(npu, monkeypatch):
    monkeypatch.setattr(work, "sees_all_processes", lambda: False)
    hidden = Witness(5, (Watched("intel-npu", (), (str(npu.folder / "sysfs"),)),), str(npu.proc))
    npu.count(80_000)
    hidden.look(DeviceUse(), thoroughly=True)
    assert hidden.counted().amounts[Work.BUSY_TIME] == 0
    assert "namespace" in hidden.counted().notes[0]


def test_a_device_that_works_before_the_run(npu):
    npu.now += 100_000_000
    npu.count(1)
    npu.witness.begin()
    npu.work(100_000, 80_000)
    assert npu.counted()[0] == 0
    assert "before the run" in npu.counted()[1]


@pytest.mark.parametrize(
    ("readings", "why"),
    [((50_000, 40_000), "went back"), ((50_000, 500_000), "more time than passed"), ((50_000, "x"), "could not be read")],
)
def test_a_count_that_cannot_be_true(npu, readings, why):
    npu.witness.begin()
    for reading in (*readings, 600_000):
        npu.work(100_000, reading)
    assert npu.counted()[0] == 0
    assert why in npu.counted()[1]


def test_a_kernel_without_the_count(tmp_path):
    notes = Witness(5, (Watched("intel-npu", (), (str(tmp_path),)),), str(tmp_path)).counted().notes
    assert notes == (f"{tmp_path}/npu_busy_time_us: does not exist, or cannot be read",)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(-(10**6), 2 * 10**6)), max_size=20))
def test_no_more_is_counted_than_passed(tmp_path_factory, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(witness, "descendants", lambda pid: {pid})
        npu = Npu(tmp_path_factory.mktemp("npu"), patch)
        npu.witness.begin()
        count = passed = 0
        for each, more in steps:
            count, passed = max(0, count + more), passed + each
            npu.work(each, count)
        assert npu.counted()[0] <= passed * 1050 + 10_000_000 * len(steps)


def test_cycles_are_a_share_of_the_time(monkeypatch):
    clock = itertools.count(0, 1_000_000_000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(clock))
    seen = Witness(5)
    for busy, total in ((100, 1000), (700, 2000), (600, 2500), (950, 2500), (1200, 3000)):
        seen.look(DeviceUse(cycles={KEY: (busy, total)}))
    # the third and the fourth are passed over; from the second to the fifth, 3 s passed: 500 of 1000 cycles
    assert seen.counted().amounts[Work.CYCLES] == 600_000_000 + 1_500_000_000


def test_one_reading_of_cycles_shows_nothing():
    seen = Witness(5)
    seen.look(DeviceUse(cycles={KEY: (900, 1000)}))
    assert seen.counted().amounts[Work.CYCLES] == 0


def test_engines_that_go_back_stay_where_they_were():
    seen = Witness(5)
    for ns in (10, 30, 20, 25):
        seen.look(DeviceUse(engines={KEY: ns}))
    assert seen.counted().amounts[Work.ENGINE_TIME] == 30
    seen.look(DeviceUse(engines={("0000:00:02.0", "8", "rcs"): 4}))
    assert seen.counted().since(Counted({Work.ENGINE_TIME: 30})).amounts[Work.ENGINE_TIME] == 4, "a new client counts from 0"


@pytest.fixture
def tracefs(tmp_path, monkeypatch):
    """A tracefs whose events are those of 7.2; a pipe stands for trace_pipe."""
    for event in witness.EVENTS:
        (tmp_path / f"events/gpu_scheduler/{event}").mkdir(parents=True)
    (tmp_path / "instances").mkdir()
    monkeypatch.setattr(witness, "instances", lambda: str(tmp_path / "instances"))

    def make(place):
        for event in witness.EVENTS:
            os.makedirs(f"{place}/events/gpu_scheduler/{event}")
        os.mkfifo(f"{place}/trace_pipe")

    monkeypatch.setattr(witness, "make_instance", make)
    return tmp_path / "instances" / witness.NAME


ROCKET = Watched("rocket", ("/dev/full",), ())


def test_jobs_of_the_workers_clients(tracefs):
    with counting((ROCKET,)):
        assert (tracefs / "events/gpu_scheduler/drm_sched_job_run/enable").read_text() == "1"
        seen = Witness(5, (ROCKET,))
        with open(tracefs / "trace_pipe", "w") as pipe:
            pipe.write(RUN.format("000100", "3:1", 7) + RUN.format("000200", "4:1", 9) + DONE.format("000300", "4:1"))
            pipe.write(DONE.format("000600", "3:1") + RUN.format("000700", "3:2", 7))
            pipe.flush()
            seen.look(DeviceUse(clients=frozenset({7})))
            pipe.write(DONE.format("000800", "3:2"))
            pipe.flush()
            seen.look(DeviceUse())  # its descriptors are closed by now
        assert seen.counted().amounts[Work.SCHEDULER] == 600_000
        assert seen.counted().notes == ()
        seen.close()


def test_a_kernel_without_the_events_says_so(tracefs):
    (tracefs.parent.parent / "events/gpu_scheduler/drm_sched_job_done").rmdir()
    with counting((ROCKET,)):
        assert not tracefs.exists()
        assert "Linux 7.2" in Witness(5, (ROCKET,)).counted().notes[0]


def test_commands_that_amdxdna_completed(monkeypatch):
    told = iter([{(1, 5): 3}, {(1, 5): 9, (2, 5): 1}, None, {(2, 5): 4}])
    monkeypatch.setattr(work, "completions", lambda _node, own: next(told) if 5 in own else {})
    monkeypatch.setattr(witness, "opened", lambda _node: contextlib.nullcontext(3))
    monkeypatch.setattr(witness, "descendants", lambda pid: {pid})
    seen = Witness(5, (Watched("amd-xdna", ("/dev/null",), ()),))
    for _ in range(4):
        seen.look(DeviceUse())
    assert seen.counted().amounts[Work.COMPLETIONS] == 9 + 4


def test_a_node_that_cannot_be_opened_says_so(tmp_path):
    seen = Witness(5, (Watched("amd-xdna", (str(tmp_path / "none"),), ()),))
    seen.look(DeviceUse())
    assert any("DRM_AMDXDNA_GET_ARRAY" in note for note in seen.counted().notes)


@pytest.mark.parametrize("family", [each for each in FAMILIES.families if not each.work], ids=lambda each: each.name)
def test_a_family_without_evidence_says_what_it_would_have_to_offer(family):
    (note,) = Witness(5, (Watched(family.name, (), ()),)).counted().notes
    assert note.startswith(family.title)
    assert "drm-engine-NAME" in note


def test_vfio_says_that_the_kernel_counts_nothing():
    assert Witness(5, (Watched("", ("/dev/vfio/7",), ()),)).counted().notes == (
        "VFIO: user space drives the device, and the kernel counts nothing of its work.",
    )


PANTHOR = [each for each in FAMILIES.families if each.profiling][-1]


def test_profiling_is_set_and_set_back(tmp_path):
    (tmp_path / "profiling").write_text("0\n")
    with counting((Watched(PANTHOR.name, (), (str(tmp_path), str(tmp_path / "none"))),)):
        assert (tmp_path / "profiling").read_text() == PANTHOR.profiling
    assert (tmp_path / "profiling").read_text() == "0"


def test_profiling_is_set_back_whatever_happens(tmp_path):
    (tmp_path / "profiling").write_text("1")
    with pytest.raises(KeyError), counting((Watched(PANTHOR.name, (), (str(tmp_path),)),)):
        raise KeyError
    assert (tmp_path / "profiling").read_text() == "1"


def test_profiling_is_set_back_by_the_keeper_of_a_process_that_is_killed(tmp_path):
    (tmp_path / "profiling").write_text("0")
    child = os.fork()
    if child == 0:
        with counting((Watched(PANTHOR.name, (), (str(tmp_path),)),)):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 30
    while (tmp_path / "profiling").read_text() != "0" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "profiling").read_text() == "0"


def test_nothing_is_changed_for_other_families(tmp_path, monkeypatch):
    monkeypatch.setattr(witness, "restored", lambda _: pytest.fail("something was to be set back"))
    (tmp_path / "profiling").write_text("0")
    with counting((Watched("i915", (), (str(tmp_path),)),)):
        assert (tmp_path / "profiling").read_text() == "0"
