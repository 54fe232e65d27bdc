"""Memory in each of the places where a process may put it: all of it is seen from outside, and what is not seen is no 0."""

from __future__ import annotations

import mmap
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from auditor.inference import memory, process
from auditor.inference.memory import read_memory, status_bytes
from auditor.inference.process import Worker
from auditor.inference.processes import descendants
from auditor.inference.watch import Limits

HELD = 64 << 20
NOISE = 1 << 16
"""Bytes by which a process that holds nothing differs from one time to the next."""

HOLDER = """
import ctypes, mmap, os, sys, threading, time
SIZE = 64 << 20
def touched(mapping):
    for at in range(0, SIZE, mmap.PAGESIZE):
        mapping[at] = 1
    return mapping
def filled(descriptor):
    for _ in range(64):
        os.write(descriptor, bytes(1 << 20))
    return descriptor
def exit_leader():
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
def rest():
    time.sleep(60)
"""

PLACES = {
    "mapped": "held = touched(mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))",
    "a descriptor": "held = filled(os.memfd_create('held'))",
    "a descriptor of another name": "held = filled(os.open('/dev/shm', os.O_TMPFILE | os.O_RDWR))",
    "mapped from a closed descriptor, not touched": "fd = filled(os.memfd_create('held')); held = mmap.mmap(fd, SIZE); os.close(fd)",
    "a small part of it mapped": "fd = filled(os.memfd_create('held')); held = mmap.mmap(fd, 4096); os.close(fd)",
    "shared and given back": "held = touched(mmap.mmap(-1, SIZE)); held.madvise(mmap.MADV_DONTNEED)",
    "a child": "if os.fork(): rest()\nheld = touched(mmap.mmap(-1, SIZE))",
    "another thread after the leader's end": (
        "held = touched(mmap.mmap(-1, SIZE)); threading.Thread(target=lambda: (time.sleep(0.2), print(flush=True), rest())).start();"
        "exit_leader()"
    ),
    "a table of descriptors of another thread's, after the leader's end": """
def run():
    ctypes.CDLL(None).unshare(0x400)
    filled(os.memfd_create("held"))
    time.sleep(0.2)
    print(flush=True)
    rest()
threading.Thread(target=run).start()
exit_leader()""",
}


def seen(code, **options):
    """What is read of a process, once it has printed a line, and its status then."""
    with subprocess.Popen([sys.executable, "-c", f"{HOLDER}\n{code}\nprint(flush=True)\nrest()"], stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            return read_memory(descendants(child.pid), **options)
        finally:
            for pid in descendants(child.pid):
                os.kill(pid, 9)


@pytest.fixture(scope="module")
def nothing():
    return seen("")


@pytest.mark.parametrize("place", PLACES)
def test_all_of_it_is_seen(place, nothing):
    if "other name" in place and not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    found = seen(PLACES[place])
    more = found.mapped + found.beside - nothing.mapped
    assert HELD - NOISE <= more <= HELD * 1.5 + (nothing.mapped if place == "a child" else 0), found


def test_what_is_mapped_from_an_open_file_in_memory_counts_once(nothing):
    found = seen("fd = os.memfd_create('held'); os.truncate(fd, SIZE); held = touched(mmap.mmap(fd, SIZE))")
    assert found.beside < HELD / 8
    assert HELD - NOISE <= found.mapped - nothing.mapped <= HELD * 1.25


def test_pages_of_ones_own_do_not_hide_those_of_the_file(nothing):
    found = seen("fd = filled(os.memfd_create('held')); held = touched(mmap.mmap(fd, SIZE, mmap.MAP_PRIVATE))")
    assert found.mapped + found.beside - nothing.mapped >= 2 * HELD - NOISE


def test_files_in_a_folder_in_memory(tmp_path):
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    if folder is None or not memory._is_in_memory(folder):
        pytest.skip("no /dev/shm in memory")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        before = read_memory([os.getpid()], folder=scratch)
        os.makedirs(f"{scratch}/a/b")
        pathlib.Path(f"{scratch}/a/b/held").write_bytes(bytes(HELD))
        assert read_memory([os.getpid()], folder=scratch).beside - before.beside == HELD
    assert read_memory([os.getpid()], folder=str(tmp_path)).beside < HELD


def test_files_of_the_auditors_own_do_not_count():
    descriptor = os.memfd_create("own")
    try:
        os.write(descriptor, bytes(1 << 20))
        with mmap.mmap(descriptor, 1 << 20):
            assert read_memory([os.getpid()], [memory.file_id(descriptor)]).beside == 0
            assert read_memory([os.getpid()]).beside == 1 << 20
    finally:
        os.close(descriptor)


def test_a_line_that_is_missing_is_no_zero(monkeypatch):
    real = memory._read
    for name in (b"VmHWM", b"VmRSS", b"VmSwap"):
        monkeypatch.setattr(memory, "_read", lambda path, limit, name=name: real(path, limit).replace(name, b"Other"))
        with pytest.raises(OSError, match=f"no {name.decode()}"):
            status_bytes(os.getpid())
        with pytest.raises(OSError, match="no Vm"):
            read_memory([os.getpid()])


@pytest.mark.parametrize("kernel", [True, False], ids=["with huge pages", "without"])
def test_a_kernel_without_huge_pages_has_no_line_for_them(monkeypatch, kernel):
    real = memory._read
    monkeypatch.setattr(memory, "_read", lambda path, limit: real(path, limit).replace(b"HugetlbPages", b"Other"))
    monkeypatch.setattr(memory, "_kernel_has_huge_pages", lambda: kernel)
    if kernel:
        with pytest.raises(OSError, match="no HugetlbPages"):
            status_bytes(os.getpid())
    else:
        assert status_bytes(os.getpid())["HugetlbPages"] == 0


def test_a_process_that_has_ended():
    child = os.fork()
    if child == 0:
        os._exit(0)
    while pathlib.Path(f"/proc/{child}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z":
        pass
    with pytest.raises(ProcessLookupError):
        status_bytes(child)  # a zombie has no memory
    os.waitpid(child, 0)
    with pytest.raises(ProcessLookupError):
        status_bytes(child)
    with pytest.raises(ProcessLookupError):
        read_memory([child])


def test_a_mapping_that_may_not_be_looked_at_is_not_all(monkeypatch):
    real = os.stat

    def denied(path, **options):
        if "/map_files/" in str(path):
            raise PermissionError
        return real(path, **options)

    with mmap.mmap(-1, 1 << 20):
        monkeypatch.setattr(os, "stat", denied)
        with pytest.raises(PermissionError):
            read_memory([os.getpid()])


def test_swap_and_huge_pages_count(monkeypatch):
    """By what the kernel writes of them: this machine may have neither."""
    text = b"Name:\tx\nState:\tS (sleeping)\nVmHWM:\t     10 kB\nVmRSS:\t      8 kB\nVmSwap:\t     5 kB\nHugetlbPages:\t   2048 kB\n"
    real = memory._read
    monkeypatch.setattr(memory, "_read", lambda path, limit: text if path.endswith("/status") else real(path, limit))
    found = read_memory([os.getpid()])
    assert (found.peak, found.mapped, found.beside) == (2058 << 10, 2056 << 10, 5 << 10)


def test_real_huge_pages():
    """Where the machine has some to give; its own count is the witness."""
    free = next((int(line.split()[1]) for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if "HugePages_Free" in line), 0)
    if not free:
        pytest.skip("this machine has no free huge pages")
    found = seen("held = mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000); held[0] = 1")
    assert found.peak >= found.mapped >= 2 << 20


def test_a_worker_whose_memory_was_once_not_read_has_no_peak(model, monkeypatch):
    with Worker("test", model, Limits(request_seconds=10)) as worker:
        assert worker.peak_bytes() > 1 << 20
        with monkeypatch.context() as patch:

            def denied(*_arguments):
                raise PermissionError

            patch.setattr(process, "read_memory", denied)
            assert worker.peak_bytes() is None
        assert worker.peak_bytes() is None


def test_many_threads_are_no_many_memories(nothing):
    found = seen("[threading.Thread(target=rest).start() for _ in range(8)]")
    assert found.mapped < nothing.mapped + (8 << 20)
