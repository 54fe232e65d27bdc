"""An audit of a virtual device over ssh, as a lab makes it, with the state of the device before and after."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import record

from auditor.audit import Audited, audit
from auditor.request import Request
from auditor.sources.ssh import Ssh

if TYPE_CHECKING:
    from pathlib import Path

    import machine

TODAY = datetime.date(2026, 11, 22)
# What an audit could change: trace settings, instances, drivers bound, buffers that are still there, files, processes.
STATE = r"""
cat /sys/kernel/tracing/events/enable
ls /sys/kernel/tracing/instances
cat /sys/kernel/tracing/tracing_on /sys/kernel/tracing/current_tracer /sys/kernel/tracing/buffer_size_kb
find /sys/bus/*/devices/*/driver -maxdepth 0 -printf '%p %l\n'
grep '^Total' /sys/kernel/debug/dma_buf/bufinfo
find / -xdev \( -path /proc -o -path /sys \) -prune -o -newer /run/booted -print
grep -las 'crosml[-]audit' /proc/[0-9]*/cmdline
true
"""


@dataclass(frozen=True, slots=True)
class Visit:
    """One audit: what it found, how often it connected and asked, and the device's state around it."""

    audited: Audited
    connections: int
    requests: int
    before: str
    after: str


def state(dut: machine.Machine) -> str:
    """What an audit could change, as text."""
    return dut.run(STATE, user="root")


def visit(dut: machine.Machine, folder: Path) -> Visit:
    """Audit the configuration's accelerator with every probe; the folder is for the `ssh` that knows the machine."""
    calls = folder / "calls"
    requests: list[object] = []
    collect = Ssh.collect

    def counted(*arguments: object) -> object:
        requests.append(arguments)
        return collect(*arguments)  # type: ignore[arg-type]

    dut.run("touch /run/booted", user="root")  # by itself: to log in writes files
    before = state(dut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"])
        patch.setattr(Ssh, "collect", counted)
        record.ssh_on_path(dut, folder)
        wrapper = folder / "ssh"
        wrapper.write_text(wrapper.read_text().replace("exec ", f"echo x >>{calls}\nexec "))
        accelerators = (f"pci:{dut.configuration.accelerator}",)
        host = f"{dut.configuration.user}@dut"
        audited = audit(Request(host=host, accelerators=accelerators, probe_dma=True, today=TODAY), lambda _text: None)
    return Visit(audited, calls.read_text().count("x"), len(requests), before, state(dut))
