from __future__ import annotations

import json
import subprocess
import sys

import pytest

from auditor import probes
from auditor.model import Status
from auditor.probes import PROBES, answer, would_change
from auditor.sources import base
from auditor.sources.ssh import agent_zip


def test_a_probe_that_there_is_not_is_unasked():
    assert answer(base.probe("phlogiston")) == base.UNASKED
    assert answer(base.probe("vfio", "phlogiston")) == base.UNASKED


def test_a_document_says_what_probe_it_is_of_and_under_which_conditions(monkeypatch):
    monkeypatch.setattr(probes, "PROBES", {("made-up",): probes.Probe(lambda: {"found": [1]}, lambda: None, 20, ())})
    reply = answer(base.probe("made-up"))
    document = json.loads(reply.data)
    assert sorted(document.pop("conditions")) == ["kernel", "machine", "uid"]
    assert document == {"schema": "crosml-audit/probe/1", "probe": "made-up", "found": [1]}


def test_what_every_probe_would_change_is_known_without_doing_it():
    for name, *arguments in PROBES:
        changes = would_change(str(name), *arguments)
        assert changes
        assert all(isinstance(each, str) and each for each in changes)
    assert would_change("phlogiston") == ()


IN_MEMORY = """
import os, sys
memory = os.memfd_create("program")
with os.fdopen(os.dup(memory), "wb") as file:
    file.write(sys.stdin.buffer.read())
sys.path.insert(0, f"/proc/self/fd/{memory}")
from auditor.probes import answer
from auditor.sources.base import probe
print(answer(probe("vfio")).status.value)
print(answer(probe("dma-buf")).status.value)
"""


def test_probes_run_from_a_program_that_is_only_in_memory():
    done = subprocess.run([sys.executable, "-I", "-S", "-c", IN_MEMORY], input=agent_zip(), capture_output=True, check=True, cwd="/")
    vfio, dma_buf = done.stdout.decode().split()
    assert vfio == Status.OK.value
    assert dma_buf in {Status.OK.value, Status.DENIED.value}


@pytest.mark.parametrize("name", ["dma-buf", "vfio"])
def test_this_machine_is_asked_without_an_exception(name):
    assert answer(base.probe(name)).status in {Status.OK, Status.DENIED}
