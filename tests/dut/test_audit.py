"""The auditor comes in over ssh, as a lab does: what it must say of each configuration, and what it must leave behind (nothing)."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import machine  # noqa: TC002  # pytest reads the annotation
import record

from auditor.audit import Request, audit
from auditor.errors import AuditError
from auditor.sources import recording
from auditor.sources.ssh import Order, Ssh

pytestmark = pytest.mark.dut

REQUIREMENTS = ("functional-1", "functional-2", "security-1", "security-2", "security-3", "misc-1", "misc-2")
# Nothing here is on a verified root, so a signed in-tree module is claimed and not verified (virtio-gpu), and firmware that may be checked
# by the device itself is unknown; without peers to share with, an export cannot be proven.
EXPECTED = {
    "in-place": ("fail", "pass", "unknown", "unknown", "pass", "unknown", "pass"),
    "vfio": ("pass", "unknown", "unknown", "unknown", "pass", "unknown", "unknown"),
    "not-viable": ("fail", "unknown", "unknown", "unknown", "pass", "unknown", "unknown"),
    "passthrough": ("fail", "unknown", "unknown", "unknown", "fail", "unknown", "pass"),
    "no-iommu": ("fail", "unknown", "unknown", "unknown", "fail", "unknown", "pass"),
    "sig-enforce": ("unknown", "unknown", "unknown", "unknown", "pass", "unknown", "unknown"),
    "typed-intree": ("fail", "unknown", "unknown", "unknown", "pass", "unknown", "pass"),
    "proprietary": ("fail", "unknown", "unknown", "unknown", "pass", "unknown", "unknown"),
    "virtio-gpu": ("unknown", "fail", "unknown", "not-applicable", "pass", "unknown", "pass"),
    "unprivileged": ("fail", "unknown", "unknown", "unknown", "pass", "unknown", "pass"),
    "no-driver": ("unknown", "unknown", "unknown", "unknown", "pass", "unknown", "unknown"),
}
TODAY = datetime.date(2026, 11, 22)


@pytest.fixture
def host(dut: machine.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    record.ssh_on_path(dut, tmp_path)
    return f"{dut.configuration.user}@dut"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "auditor", *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("dut", list(EXPECTED), indirect=True)
def test_every_configuration_has_its_outcomes(dut: machine.Machine, host: str) -> None:
    accelerator = f"pci:{dut.configuration.accelerator}"
    audited = audit(Request(host=host, accelerators=(accelerator,), today=TODAY), lambda _text: None)
    outcomes = {each.id: each.outcome.value for each in audited.report.requirements}
    assert tuple(outcomes[name] for name in REQUIREMENTS) == EXPECTED[dut.configuration.name]
    broken = [each.id for requirement in audited.report.requirements for each in requirement.findings if each.outcome.value == "error"]
    assert not broken


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_the_snapshot_is_judged_as_the_device_was(dut: machine.Machine, host: str, tmp_path: Path) -> None:
    snapshot = str(tmp_path / "s")
    live = command("device", "--host", host, "--save-snapshot", snapshot, "--format", "json")
    again = command("device", "--snapshot", snapshot, "--format", "json")
    assert live.returncode == again.returncode == 1, live.stderr + again.stderr
    assert json.loads(live.stdout)["requirements"] == json.loads(again.stdout)["requirements"]


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_one_connection_and_nothing_left_behind(dut: machine.Machine, host: str, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    wrapper = tmp_path / "ssh"
    wrapper.write_text(wrapper.read_text().replace("exec ", f"echo x >> {calls}\nexec "))
    files = "find / -xdev \\( -path /proc -o -path /sys \\) -prune -o -newer /tmp/before -print; ls /sys/kernel/tracing/instances"
    dut.run("touch /tmp/before; busybox sleep 1")
    before = dut.run(files)
    plain = _seconds(lambda: dut.run("true"))
    calls.unlink()
    whole = _seconds(lambda: audit(Request(host=host, today=TODAY), lambda _text: None))
    print(f"ssh HOST true {plain:.2f} s, the whole audit with probes {whole:.2f} s")
    assert calls.read_text().count("x") == 1
    assert dut.run(files) == before


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_a_connection_that_ends_half_way_is_one_clear_line(dut: machine.Machine, host: str) -> None:
    order = Order("{}", probes=False, collector="t", collected_at="t")
    with Ssh(host) as device:
        assert device._process is not None
        device._process.kill()
        with pytest.raises(AuditError, match=f"^--host {host}: "):
            device.collect(order)


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_a_banner_before_the_agent_is_passed_over(dut: machine.Machine, host: str) -> None:
    dut.put({"/root/.profile": b"", "/etc/profile": b"echo hello from profile\n", "/root/.bashrc": b"echo hello\n"})
    order = Order("{}", probes=False, collector="t", collected_at="t")
    with Ssh(host, options=("-o", "RequestTTY=no")) as device:
        assert recording.digest(device.collect(order))


def _seconds(action: object) -> float:
    start = time.monotonic()
    action()  # type: ignore[operator]
    return time.monotonic() - start
