"""A delegate that tries to get out, at every occasion that it has: nothing comes of it, as root and as nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from auditor.bench.document import Job
from auditor.bench.embedded import measure
from auditor.inference import process
from auditor.inference.worker.confine import landlock_abi

NOBODY = 65534
QUICK = {"inputs": 2, "min_runs": 2, "min_seconds": 0, "warmup_seconds": 0}
STAGES = ("load", "create", "prepare", "invoke")
KEPT = "nobody may touch this"

pytestmark = pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, so nothing here can be confined")


@pytest.fixture
def scene(hostile_delegate):
    """A folder that everyone may enter, with the library in a folder of its own and its victim beside that."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.mkdir(os.path.join(folder, "lib"))
        shutil.copy(hostile_delegate, os.path.join(folder, "lib", "hostile.so"))
        with open(os.path.join(folder, "outside"), "w") as file:
            file.write(KEPT)
        yield folder


def library(scene):
    return os.path.join(scene, "lib", "hostile.so")


def attempts(text):
    """What became of each attempt, by (stage, attempt)."""
    lines = [line.split() for line in text.splitlines() if line.startswith("hostile ")]
    return {(stage, attempt.rstrip(":")): result for _hostile, stage, attempt, result in lines}


def unharmed(scene, before):
    """What lies outside is as it was, to the time of its last change."""
    assert sorted(os.listdir(scene)) == ["lib", "outside"]
    assert os.listdir(os.path.join(scene, "lib")) == ["hostile.so"]
    after = os.stat(os.path.join(scene, "outside"))
    with open(os.path.join(scene, "outside")) as file:
        assert file.read() == KEPT
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_ctime_ns) == before


def state(scene):
    found = os.stat(os.path.join(scene, "outside"))
    return found.st_mode, found.st_uid, found.st_mtime_ns, found.st_ctime_ns


def judge(run, scene, victim):
    assert run["status"]["outcome"] == "completed", (run["status"], run["worker_output"])
    tried = attempts(run["worker_output"])
    assert {stage for stage, _attempt in tried} == set(STAGES)
    assert len(tried) > 4 * 60
    assert [each for each, result in tried.items() if result == "managed"] == []
    unharmed(scene, victim)
    assert run["conditions"]["confinement"]["state"] == "confined"
    assert run["conditions"]["confinement"]["capabilities"] == 0
    assert all(each["refused"] for each in run["conditions"]["escapes"])
    seen = {(each["call"], each["path"]) for each in run["conditions"]["refused"]}
    assert {("openat", "/etc/passwd"), ("openat", f"{scene}/lib/../outside"), ("socket", None), ("ptrace", None), ("kill", None)} <= seen


def test_it_would_do_all_that_if_it_could(scene):
    """What the other tests are measured against: outside of a confinement nearly everything works."""
    command = [sys.executable, "-c", f"import ctypes; ctypes.CDLL({library(scene)!r})"]
    ended = subprocess.run(command, cwd=scene, capture_output=True, text=True, check=True)
    managed = {attempt for (_stage, attempt), result in attempts(ended.stderr).items() if result == "managed"}
    assert {"read-outside", "write-beside", "fork", "internet", "signal-parent", "raise-limit", "chmod-outside", "execute"} <= managed
    assert {"lease-a-file", "notice-a-folder", "watch-outside", "own-descriptors"} <= managed
    assert len(managed) > 40


def test_nothing_comes_of_it(scene, model, runtime):
    victim = state(scene)
    judge(measure(Job("chain", model, delegate=library(scene), runtime=runtime, **QUICK)), scene, victim)


def test_nothing_comes_of_it_as_nobody(scene, model, runtime):
    if os.getuid():
        pytest.skip("only root can become nobody")
    python = next(filter(_nobody_runs, (sys.executable, "/usr/bin/python3")), None)
    if python is None:
        pytest.skip("nobody may not execute this Python, nor is there another of the same version")
    os.chown(os.path.join(scene, "outside"), NOBODY, NOBODY)
    victim = state(scene)
    with open(os.path.join(scene, "model"), "wb") as file:
        file.write(model)
    code = f"""
import json, sys
sys.path += {process.own_import_path()!r}
from auditor.bench.embedded import measure
from auditor.bench.document import Job
with open({os.path.join(scene, "model")!r}, "rb") as file:
    model = file.read()
run = measure(Job("chain", model, delegate={library(scene)!r}, runtime={runtime!r}, **{QUICK!r}))
print(json.dumps(run))
"""
    ended = subprocess.run([python, "-I", "-S", "-c", code], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=True)
    os.unlink(os.path.join(scene, "model"))
    judge(json.loads(ended.stdout), scene, victim)


def _nobody_runs(python):
    code = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]!r})"
    try:
        return subprocess.run([python, "-I", "-S", "-c", code], user=NOBODY, group=NOBODY, extra_groups=[], check=False).returncode == 0
    except OSError:
        return False
