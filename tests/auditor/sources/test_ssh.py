"""The ssh source over an `ssh` that is a script on this machine: it runs the agent here, or misbehaves as devices and networks do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor import agent
from auditor.errors import AuditError
from auditor.sources import base, ssh
from auditor.sources.ssh import MARK, Order, Ssh

QUESTION = base.read("/proc/version")
ORDER = Order("{}", probes=False, collector="t", collected_at="t")

# What the device is told to run is the last argument.
HERE = 'for command; do :; done; eval "$command"'
TAKING = "exec 3<&0; cat <&3 >/dev/null &\n"


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """Connects by a script that is found as `ssh`."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def connecting(script: str, timeout: float = 60) -> Ssh:
        (tmp_path / "bin").mkdir(exist_ok=True)
        for name, content in (("ssh", script), ("python3", f'exec {sys.executable} "$@"')):
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{content}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        return Ssh("root@dut", timeout=timeout)

    return connecting


def asked(device: Ssh) -> bytes:
    with device:
        return device.collect(ORDER, [QUESTION]).answers[QUESTION].data


def wrong(device: Ssh) -> str:
    with pytest.raises(AuditError) as error:
        asked(device)
    said = str(error.value)
    assert said.startswith("--host root@dut: ")
    assert "\n" not in said
    return said.removeprefix("--host root@dut: ")


def test_the_agent_answers_behind_whatever_a_login_shell_prints(connect):
    assert asked(connect(f"head -c 100000 /dev/zero; echo hello; echo warned >&2\n{HERE}")) == Path("/proc/version").read_bytes()


def test_modules_in_the_folder_that_one_logs_in_to_and_the_users_environment_take_no_part(connect, tmp_path, monkeypatch):
    for name in ("json", "sitecustomize", "select"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the folder')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    monkeypatch.setenv("PYTHONINSPECT", "1")
    assert asked(connect(HERE))
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'sh: exec: python3: not found' >&2; exit 127", "the device has no python3 (sh: exec: python3: not found)"),
        ("echo 'ssh: Could not resolve hostname dut' >&2; exit 255", "ssh: Could not resolve hostname dut"),
        ("echo 'This account is currently not available.'; exit 1", "This account is currently not available."),
        ("exit 3", "the connection ended (exit code 3)"),
        ("printf 'x\\033[2J\\n\\n' >&2; exit 1", "x\\x1b[2J"),
        (f"{TAKING}yes", "its shell prints without end where the agent should answer"),
        (f"{TAKING}printf '{MARK.decode()}unasked'; exec sleep 600", "no answer within 1 s"),
    ],
    ids=["no python", "no host", "no login", "nothing", "escapes", "endless", "speaks unasked"],
)
def test_a_connection_that_comes_to_nothing_is_one_line(connect, script, said):
    assert wrong(connect(script, timeout=1)) == said


@pytest.mark.parametrize(
    "script",
    ["exec sleep 600", "yes >&2", "trap '' PIPE; while :; do echo; sleep 0.1; done"],
    ids=["takes nothing", "only errors", "drips"],
)
def test_a_device_that_does_not_answer_is_not_waited_for_for_ever(connect, script, monkeypatch):
    """A host that takes a connection and says nothing leaves ssh waiting, and us with more to send than a pipe holds."""
    monkeypatch.setattr(ssh, "WHOLE", 2.0)
    assert wrong(connect(script, timeout=1)).startswith("no answer within ")


def test_what_ssh_leaves_running_is_not_waited_for(connect):
    """A connection that the user's configuration shares (ControlPersist) keeps the errors' pipe open."""
    start = time.monotonic()
    found = wrong(connect("sleep 600 & echo $! >left; exec >&-; echo refused >&2; exit 255"))
    subprocess.run(["kill", Path("left").read_text().strip()], check=True)
    assert found == "refused"
    assert time.monotonic() - start < 300


def test_a_device_that_is_slow_says_that_it_is_at_it(connect, tmp_path, monkeypatch):
    slow = "import time,auditor.agent as agent;agent.PULSE=0.5;ask=agent.Live.ask;agent.Live.ask=lambda *a:(time.sleep(1),ask(*a))[1];"
    script = HERE.replace('eval "$command"', f'eval "$(printf %s "$command" | sed "s/from auditor.agent import main;/{slow}&/")"')
    questions = [base.stat(f"/{number}") for number in range(6)]
    with connect(script, timeout=4) as device:
        assert len(device.collect(ORDER, questions).answers) == len(questions)


def test_what_the_two_sides_call_the_mark_is_the_same():
    assert agent.MARK == MARK
