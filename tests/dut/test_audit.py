"""The auditor comes in over ssh, as a lab does: what it must say of each configuration, and what it must leave behind (nothing)."""

from __future__ import annotations

import errno
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import machine  # noqa: TC002  # pytest reads the annotations
from visits import TODAY, Visit, state

from auditor.audit import audit
from auditor.facts.plan import plan_document
from auditor.facts.types import Plan
from auditor.model import Outcome, Status
from auditor.request import Request
from auditor.sources import base
from auditor.sources.ssh import Order, Ssh, agent_zip

if TYPE_CHECKING:
    from collections.abc import Callable

    from auditor.model import Finding

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
    "arm64.in-place": ("fail", "pass", "unknown", "unknown", "pass", "unknown", "pass"),
    "arm64.vfio": ("pass", "unknown", "unknown", "unknown", "pass", "unknown", "unknown"),
    "arm64.not-viable": ("fail", "unknown", "unknown", "unknown", "pass", "unknown", "unknown"),
    "arm64.no-driver": ("unknown", "unknown", "unknown", "unknown", "unknown", "unknown", "unknown"),
    "arm64.passthrough": ("fail", "unknown", "unknown", "unknown", "fail", "unknown", "pass"),
}
ALL = pytest.mark.parametrize("dut", list(EXPECTED), indirect=True)


def finding(visit: Visit, check: str) -> Finding:
    (found,) = (each for result in visit.audited.report.requirements for each in result.findings if each.check == check)
    return found


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "auditor", *arguments]


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False)


@ALL
def test_every_configuration_has_its_outcomes(dut: machine.Machine, visit: Visit) -> None:
    results = visit.audited.report.requirements
    outcomes = {each.id: each.outcome.value for each in results}
    assert tuple(outcomes[name] for name in REQUIREMENTS) == EXPECTED[dut.configuration.name]
    assert not [each.id for result in results for each in result.findings if each.outcome is Outcome.ERROR]


@ALL
def test_one_connection_and_at_most_three_round_trips(dut: machine.Machine, visit: Visit) -> None:
    assert visit.connections == 1
    assert 1 <= visit.requests <= 2  # one more for the agent itself


@ALL
def test_an_audit_leaves_the_device_as_it_was(dut: machine.Machine, visit: Visit) -> None:
    assert "/sys/bus/" in visit.before
    assert visit.after == visit.before


FAULT = {"vfio": ("DMAR", "[00:05.0]", "fault addr 0x900000"), "arm64.vfio": ("arm-smmu-v3 9050000.smmuv3", "0x0000002800000010")}


@pytest.mark.parametrize("dut", list(FAULT), indirect=True)
def test_a_device_that_the_iommu_stops_is_shown_with_the_fault(dut: machine.Machine, visit: Visit) -> None:
    assert finding(visit, "functional-1.viability").outcome is Outcome.PASS
    found = finding(visit, "security-3.isolation")
    assert found.outcome is Outcome.PASS
    assert f"where nothing is mapped, {'00' * 8} was read" in found.observed
    (probe,) = (each for each in found.evidence if each.path == "probe:vfio")
    assert all(word in probe.excerpt for word in FAULT[dut.configuration.name])


@pytest.mark.parametrize("dut", ["not-viable"], indirect=True)
def test_a_group_that_a_kernel_driver_shares_is_not_viable_to_vfio(dut: machine.Machine, visit: Visit) -> None:
    assert finding(visit, "functional-1.viability").outcome is Outcome.FAIL
    assert finding(visit, "security-3.isolation").outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("dut", ["virtio-gpu"], indirect=True)
def test_a_signature_that_verifies_is_said_although_the_root_is_not_verified(dut: machine.Machine, visit: Visit) -> None:
    found = finding(visit, "functional-1.driver")
    assert found.outcome is Outcome.UNKNOWN
    assert "its signature verifies with the running kernel's key" in found.observed
    assert found.observed.endswith("only their origin is not verified: the root is no dm-verity device")
    shown = [each.path for each in found.evidence]
    assert any(path.endswith("/virtio-gpu.ko.xz") for path in shown), shown
    assert any("/boot/vmlinuz-" in path for path in shown), shown


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_the_snapshot_is_judged_as_the_device_was(dut: machine.Machine, host: str, tmp_path: Path) -> None:
    snapshot = str(tmp_path / "s")
    accelerator = f"pci:{dut.configuration.accelerator}"
    live = ran("device", "--host", host, "--accelerator", accelerator, "--save-snapshot", snapshot, "--format", "json")
    again = ran("device", "--snapshot", snapshot, "--format", "json")
    assert live.returncode == again.returncode == 1, live.stderr + again.stderr
    assert json.loads(live.stdout)["requirements"] == json.loads(again.stdout)["requirements"]


# In the guest: wait until a probe has its trace instance, then find the agent, the keeper and the worker, which are started in this order
# from each other, and end one of them.
HALF_WAY = """
import os, signal, sys, time

def half_way():
    deadline = time.monotonic() + 240
    while not os.path.exists("/sys/kernel/tracing/instances/crosml-audit"):
        if time.monotonic() > deadline:
            sys.exit("no probe was seen")
        time.sleep(0.005)  # the probe needs the only processor too

def parents():
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if b"crosml-audit" in open(f"/proc/{name}/cmdline", "rb").read():
                yield int(name), int(open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[1])
        except OSError:
            pass

half_way()
found = dict(parents())
(agent,) = (each for each in found if found[each] not in found)
(keeper,) = (each for each in found if found[each] == agent)
(worker,) = (each for each in found if found[each] == keeper)
victim = {"agent": agent, "probe": worker}.get(sys.argv[1])
if victim:
    os.kill(victim, signal.SIGKILL)
print("half way", flush=True)
"""
ENDED = "for each in $(seq 120); do grep -qas 'crosml[-]audit' /proc/[0-9]*/cmdline || exit 0; sleep 0.5; done; exit 1"


@pytest.mark.parametrize("victim", ["connection", "agent", "probe"])
@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_what_is_killed_half_way_leaves_the_device_as_it_was(dut: machine.Machine, host: str, tmp_path: Path, victim: str) -> None:
    wrapper, number = tmp_path / "ssh", tmp_path / "number"
    wrapper.write_text(wrapper.read_text().replace("exec ", f"echo $$ >{number}\nexec "))
    before = state(dut)
    options = ("--host", host, "--accelerator", f"pci:{dut.configuration.accelerator}", "--format", "json")
    watcher = subprocess.Popen([*dut.ssh(), f"python3 - {victim}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with watcher, subprocess.Popen(command("device", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as auditor:
        said, _ = watcher.communicate(HALF_WAY, timeout=300)
        assert said == "half way\n"
        if victim == "connection":
            subprocess.run(["kill", "-KILL", number.read_text().strip()], check=True)
        out, err = auditor.communicate(timeout=120)
    if victim == "probe":
        assert auditor.returncode == 1
        results = {each["id"]: each for each in json.loads(out)["requirements"]}
        (emitted,) = (each for each in results["misc-2"]["findings"] if each["check"] == "misc-2.emitted")
        assert emitted["outcome"] == "unknown"
    else:
        assert (auditor.returncode, out) == (4, "")
        assert err.startswith(f"crosml-audit: --host {host}: ")
        assert err.count("\n") == 1
    dut.run(ENDED)
    assert state(dut) == before


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_a_banner_before_the_agent_is_passed_over(dut: machine.Machine, host: str) -> None:
    dut.put({"/root/.profile": b"", "/etc/profile": b"echo hello from profile\n", "/root/.bashrc": b"echo hello\n"})
    order = Order("{}", probes=False, collector="t", collected_at="t")
    question = base.read("/proc/version")
    try:
        with Ssh(host, options=("-o", "RequestTTY=no")) as device:
            assert device.collect(order, [question]).answers[question].data.startswith(b"Linux ")
    finally:
        dut.run("rm /root/.profile /etc/profile /root/.bashrc")


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_what_is_mounted_over_the_kernels_files_is_not_its_word(dut: machine.Machine, host: str) -> None:
    device = f"/sys/bus/pci/devices/{dut.configuration.accelerator}"
    group = dut.run(f"readlink -f {device}/iommu_group").strip()
    dut.run(f"echo DMA-FQ >/run/type; mount --bind /run/type {group}/type")
    try:
        with Ssh(host) as connected:
            questions = [base.read(f"{group}/type"), base.names(f"{group}/devices")]
            answers = connected.collect(Order("{}", probes=False, collector="t", collected_at="t"), questions).answers
    finally:
        dut.run(f"umount {group}/type; rm /run/type")
    assert [(answers[each].status, answers[each].errno) for each in questions] == [(Status.FAILED, errno.EXDEV), (Status.OK, 0)]


# What a device takes to answer everything that is read, without a connection or a probe.
READ = """
import json, os, sys, time
memory = os.memfd_create("program")
with os.fdopen(os.dup(memory), "wb") as file:
    file.write(sys.stdin.buffer.read())
sys.dont_write_bytecode = True
sys.path.insert(0, f"/proc/self/fd/{memory}")
start = time.monotonic()
from auditor.agent import answer
answer({"plan": sys.argv[1], "probes": False, "questions": [], "collector": "t", "collected_at": "t"})
print(time.monotonic() - start)
"""


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_how_long_it_takes(dut: machine.Machine, host: str, record_property: Callable[[str, object], None]) -> None:
    """The static part is meant to stay below three times `ssh HOST true` and the device's own reading time.

    That is printed and not asserted: the processor is emulated, on a machine that does other work meanwhile (another virtual device, for
    one), so that each of these times differs by a factor from one run to the next, and a limit would test the machine.
    """
    plan = Plan(accelerators=(f"pci:{dut.configuration.accelerator}",))
    connecting = _seconds(lambda: dut.run("true"))
    whole = _seconds(lambda: audit(Request(host=host, accelerators=plan.accelerators, probes=False, today=TODAY), lambda _text: None))
    own = float(dut.run(f"python3 -c {shlex.quote(READ)} {shlex.quote(plan_document(plan).decode())}", stdin=agent_zip()))
    record_property("ssh HOST true", f"{connecting:.2f} s")
    record_property("the static part of an audit over ssh", f"{whole:.2f} s")
    record_property("of that, the device's own reading", f"{own:.2f} s")
    assert own > 0


def _seconds(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start
