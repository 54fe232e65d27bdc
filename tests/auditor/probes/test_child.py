from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.model import Status
from auditor.probes import child
from auditor.probes.child import supervised
from auditor.sources.base import Reply


def nothing() -> None:
    pass


def hang() -> dict[str, str]:
    time.sleep(600)
    return {}


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.01)


def test_the_document_is_json_with_sorted_keys():
    assert supervised(lambda: {"b": 1, "a": "é"}, nothing, 20) == Reply(Status.OK, b'{"a": "\\u00e9", "b": 1}')


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.EACCES, Status.DENIED), (errno.EPERM, Status.DENIED), (errno.EIO, Status.FAILED), (None, Status.FAILED)],
)
def test_an_error_of_the_system_is_denied_or_failed(number, status):
    def work():
        raise OSError(number, "no")

    assert supervised(work, nothing, 20) == Reply(status, errno=number or errno.EIO)


def test_what_is_not_there_for_a_probe_is_failed_and_never_absent():
    def work():
        raise FileNotFoundError(errno.ENOENT, "no")

    assert supervised(work, nothing, 20) == Reply(Status.FAILED, errno=errno.ENOENT)


@pytest.mark.parametrize(
    "work",
    [
        lambda: 1 // 0,
        lambda: os.kill(os.getpid(), signal.SIGSEGV),
        lambda: os._exit(0),
        lambda: sys.exit(0),
        lambda: {"x": object()},
        lambda: bytearray(4 << 30),
    ],
    ids=["exception", "crash", "end", "exit", "no JSON", "memory"],
)
def test_work_that_ends_without_a_result_failed(work):
    assert supervised(work, nothing, 20) == Reply(Status.FAILED, errno=errno.ECHILD)


def test_a_result_that_is_too_long_failed():
    assert supervised(lambda: {"x": "y" * child.RESULT_LIMIT}, nothing, 20) == Reply(Status.FAILED, errno=errno.EFBIG)


def written(data: bytes) -> None:
    """Write to whatever descriptor the worker would give its result to: the only pipe that it has."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}") and os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
            os.write(int(name), data)
    os._exit(0)


@pytest.mark.parametrize("garbage", [b"\xff\x00", b"{", b"[]", b"{}", b"1", b"[" * 100_000, b'{"errno": "x"}', b'{"errno": []}'])
def test_garbage_failed(garbage):
    assert supervised(lambda: written(garbage), nothing, 20) == Reply(Status.FAILED, errno=errno.EBADMSG)


def test_work_that_hangs_is_ended_and_undone(tmp_path):
    def work():
        (tmp_path / "worker").write_text(str(os.getpid()))
        return hang()

    assert supervised(work, (tmp_path / "restored").touch, 1) == Reply(Status.FAILED, errno=errno.ETIMEDOUT)
    assert (tmp_path / "restored").exists()
    assert not is_alive(int((tmp_path / "worker").read_text()))


def test_what_was_changed_is_restored_after_work_that_ends_and_after_work_that_crashes(tmp_path):
    for at, work in enumerate((dict, os.abort)):
        supervised(work, (tmp_path / str(at)).touch, 20)
        assert (tmp_path / str(at)).exists()


def test_the_caller_restores_where_the_keeper_was_killed(tmp_path):
    def work():
        os.kill(os.getppid(), signal.SIGKILL)
        return hang()

    assert supervised(work, (tmp_path / "restored").touch, 1).status is Status.FAILED
    assert (tmp_path / "restored").exists()


def test_what_was_changed_for_a_caller_that_is_stopped_is_undone_once_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "GRACE", 1.0)
    caller = os.fork()
    if caller == 0:
        supervised(lambda: (tmp_path / "started").touch() or hang(), (tmp_path / "restored").touch, 2)
        os._exit(0)
    try:
        wait_until((tmp_path / "started").exists)
        os.kill(caller, signal.SIGSTOP)
        wait_until((tmp_path / "restored").exists)
    finally:
        os.kill(caller, signal.SIGKILL)
        os.waitpid(caller, 0)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_caller_that_is_killed_leaves_neither_processes_nor_changes(tmp_path, ending):
    script = (
        "import os, pathlib, sys, time\n"
        "from auditor.probes.child import supervised\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "def work():\n"
        "    (place / 'worker').write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "supervised(work, (place / 'restored').touch, 300)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment, stderr=subprocess.DEVNULL) as caller:
        wait_until(lambda: (tmp_path / "worker").exists() and (tmp_path / "worker").read_text())
        caller.send_signal(ending)
    wait_until((tmp_path / "restored").exists)
    wait_until(lambda: not is_alive(int((tmp_path / "worker").read_text())))


def test_the_worker_holds_nothing_of_the_callers(tmp_path):
    (tmp_path / "secret").touch()
    with (tmp_path / "secret").open():
        reply = supervised(
            lambda: {
                "open": [os.readlink(f"/proc/self/fd/{each}") for each in range(3, 64) if os.path.lexists(f"/proc/self/fd/{each}")],
                "standard": [os.readlink(f"/proc/self/fd/{each}") for each in range(3)],
                "session": os.getsid(0),
                "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
            },
            nothing,
            20,
        )
    found = json.loads(reply.data)
    assert [each.partition(":")[0] for each in found["open"]] == ["pipe"]
    assert found["standard"] == ["/dev/null"] * 3
    assert found["session"] != os.getsid(0)
    assert found["core"] == 0


def left() -> tuple[list[str], str]:
    return sorted(os.listdir("/proc/self/fd")), Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_no_descriptor_and_no_child_is_left():
    before = left()
    for _ in range(3):
        supervised(dict, nothing, 20)
        supervised(os.abort, nothing, 20)
    assert left() == before
