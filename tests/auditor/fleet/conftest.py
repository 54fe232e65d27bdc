"""A lab on one machine: an `ssh` that is a script, whose hosts answer with a recorded device, or misbehave as their names say."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from auditor.gather import demo_record
from auditor.sources.recording import pack

if TYPE_CHECKING:
    from pathlib import Path

SSH = """\
import os, sys, time

def say(text):
    os.write(2, text.encode() + b"\\n")

host = sys.argv[sys.argv.index("--") + 1]
lab = os.path.dirname(os.path.abspath(__file__))
kind = host.partition("@")[2].partition("-")[0]

def note(what):
    with open(os.path.join(lab, "calls"), "a") as file:
        file.write(f"{what} {host}\\n")

note("call")
calls = open(os.path.join(lab, "calls")).read().count(f"call {host}\\n")
if kind == "refused":
    say("root@refused: Permission denied (publickey)."); sys.exit(255)
if kind == "changed":
    say("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @"); say("Host key verification failed."); sys.exit(255)
if kind == "off":
    say("ssh: connect to host off port 22: Connection refused"); sys.exit(255)
if kind == "bare":
    say("sh: exec: python3: not found"); sys.exit(127)
if kind == "silent":
    time.sleep(600)
if kind == "endless":
    while True:
        os.write(1, b"x" * 65536)
if kind == "garbage":
    os.write(1, b"SSH-1.5-toaster\\n" * 3); time.sleep(0.1)

def take(length):
    data = b""
    while len(data) < length:
        more = os.read(0, min(length - len(data), 1 << 16))
        if not more:
            note("left"); sys.exit(0)
        data += more
    return data

def frame():
    return take(int.from_bytes(take(8), "big"))

frame()
os.write(1, b"crosml-audit/agent/1\\n")
if kind == "reboots" and calls == 1:
    frame(); say("Connection to reboots closed by remote host."); sys.exit(255)
if kind == "dies":
    frame(); sys.exit(137)
reply = open(os.path.join(lab, "reply"), "rb").read()
if kind == "garbage":
    reply = b"no snapshot"
if kind == "slow":
    frame(); time.sleep(float(open(os.path.join(lab, "slow")).read()))
    os.write(1, len(reply).to_bytes(8, "big")); sys.stdout.buffer.write(reply); sys.stdout.buffer.flush(); note("answered")
while True:
    frame()
    sys.stdout.buffer.write(len(reply).to_bytes(8, "big") + reply); sys.stdout.buffer.flush(); note("answered")
"""


class Lab:
    """The folder of a lab, its inventory, and what its `ssh` was called for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.inventory = folder / "lab.toml"
        (folder / "reply").write_bytes(pack(demo_record()))
        (folder / "slow").write_text("0.2")
        (folder / "calls").write_text("")
        (folder / "ssh.py").write_text(SSH)
        (folder / "bin").mkdir()
        (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {folder / "ssh.py"} "$@"\n')
        (folder / "bin" / "ssh").chmod(0o755)

    def write(self, *names: str, head: str = "") -> None:
        """Write an inventory of these hosts; `head` comes before them."""
        hosts = "".join(f'[[hosts]]\nname = "{name}"\naddress = "root@{name}"\n' for name in names)
        self.inventory.write_text(f"{head}\n{hosts}")

    def calls(self, what: str = "call") -> list[str]:
        """The hosts of the lines of one kind."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line.partition("@")[2] for line in lines if line.startswith(f"{what} ")]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Lab(tmp_path)
