"""The zoo, measured over ssh on the virtual device: as an ordinary user, confined, on a runtime that is copied there and removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import machine  # noqa: TC002  # pytest reads the annotations
import record
from visits import TODAY, state

from auditor.audit import Audited, audit
from auditor.bench.native import OWN_INPUTS
from auditor.model import Outcome
from auditor.request import Request
from auditor.sources import base, recording
from auditor.sources.recording import pack
from auditor.zoo.generate import generate

if TYPE_CHECKING:
    from collections.abc import Callable

    from auditor.model import Finding

pytestmark = pytest.mark.dut
ZOO = pytest.mark.parametrize("dut", ["zoo"], indirect=True)
BOTH = pytest.mark.parametrize("dut", ["zoo", "arm64.zoo"], indirect=True)

NODE = {"zoo": "/dev/accel/accel0", "arm64.zoo": "/dev/dri/renderD128"}
MODEL = "selfie_segmentation_landscape_256x256"
"""The one with the least multiply-accumulates: the processor is emulated."""
ROOT = Path(__file__).parents[2]
LEFT = "ls -A /tmp /var/tmp /dev/shm; grep -las 'auditor[.]\\|crosml[-]audit' /proc/[0-9]*/cmdline; true"
ENDED = "for each in $(seq 240); do grep -qas 'auditor[.]' /proc/[0-9]*/cmdline || exit 0; sleep 0.5; done; exit 1"


@pytest.fixture(scope="session")
def delegate(dut: machine.Machine) -> str:
    """The reference delegate, compiled for the guest."""
    return str(dut.built.delegates / "libreference.so")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("zoo")
    (folder / f"{MODEL}.tflite").write_bytes(generate(MODEL))
    return str(folder)


def everything(dut: machine.Machine) -> str:
    return state(dut) + dut.run(LEFT, user="root")


def settle(dut: machine.Machine) -> None:
    """From now on, changes count; that something was made in a folder and removed changes that folder's own time."""
    dut.run("touch /run/booted; sleep 0.1; touch /tmp /var/tmp", user="root")


def finding(audited: Audited, identity: str) -> Finding:
    (found,) = (each for result in audited.report.requirements for each in result.findings if each.id == identity)
    return found


@pytest.fixture(scope="session")
def measured(
    dut: machine.Machine, delegate: str, models: str, made: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Audited, str, str, list[str]]:
    """One audit with its zoo; the state before and after, and what was told meanwhile."""
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"])
        record.ssh_on_path(dut, tmp_path_factory.mktemp("ssh"))
        settle(dut)
        before = everything(dut)
        request = Request(
            host=f"{dut.configuration.user}@dut",
            accelerators=(f"pci:{dut.configuration.accelerator}",),
            delegate=f"local:{delegate}",
            zoo=f"local:{models}",
            runtime=made,
            bench_time="quick",
            probes=False,
            today=TODAY,
        )
        audited = audit(request, told.append)
    return audited, before, everything(dut), told


@BOTH
def test_a_model_is_measured_as_an_ordinary_user_inside_the_confinement(
    dut: machine.Machine, measured: tuple[Audited, str, str, list[str]], record_property: Callable[[str, object], None]
) -> None:
    audited, _before, _after, told = measured
    assert json.loads(audited.record.answers[base.plan()].data)["zoo_note"] == ""
    assert any(text.startswith("copying to the device") for text in told)
    assert [(each.name, each.origin) for each in audited.report.zoo.models] == [(MODEL, "given")]
    documents = [json.loads(audited.record.answers[base.run(MODEL, number)].data) for number in range(3)]
    for each in documents:
        assert each["status"]["outcome"] == "completed", each["status"]
        assert each["runtime"]["name"] == "ai-edge-litert"
        assert each["nodes"]["delegated"] == each["nodes"]["total"]
        assert len(each["samples_us"]) > 10  # how many there is time for is the emulated processor's matter
        confinement = each["conditions"]["confinement"]
        assert (confinement["state"], confinement["capabilities"], confinement["seccomp"]) == ("confined", 0, 2)
        assert NODE[dut.configuration.name] in confinement["devices"]
        assert {refused["refused"] for refused in each["conditions"]["escapes"]} <= {"EPERM", "EACCES", "ENOSYS"}
        assert each["conditions"]["refused"] == []
    record_property("latency on the emulated processor", f"{audited.report.model_runs[0].latency_us or 0:.0f} us")
    # the delegate computes on the processor: nothing shows the accelerator at work
    assert finding(audited, "security-1.confined-run@device").outcome is Outcome.UNKNOWN
    closure = finding(audited, "misc-1.closure@device")
    assert closure.outcome is Outcome.PASS
    assert "libreference" in closure.observed
    accuracy = finding(audited, f"zoo-{MODEL}-accuracy.stand-in@model:{MODEL}")
    assert accuracy.outcome is Outcome.UNKNOWN
    assert "nothing shows that the accelerator did the work" in (accuracy.reason or "")


@BOTH
def test_it_leaves_nothing_behind(measured: tuple[Audited, str, str, list[str]]) -> None:
    _audited, before, after, _told = measured
    assert "/sys/bus/" in before
    assert after == before


@BOTH
def test_its_record_is_judged_again_as_it_was(measured: tuple[Audited, str, str, list[str]], tmp_path: Path) -> None:
    audited = measured[0]
    (tmp_path / "s").write_bytes(pack(audited.record))
    again = audit(Request(snapshot=str(tmp_path / "s"), today=TODAY), lambda _text: None)
    assert again.report.requirements == audited.report.requirements
    assert recording.digest(again.record) == recording.digest(audited.record)


# In the guest: wait until a worker holds the delegate.
HALF_WAY = """
import os, sys, time
deadline = time.monotonic() + 900
def maps():
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            yield open(f"/proc/{name}/maps", "rb").read()
        except OSError:
            pass
while not any(b"libreference" in each for each in maps()):
    if time.monotonic() > deadline:
        sys.exit("no worker was seen")
    time.sleep(0.2)
print("half way", flush=True)
"""


@ZOO
def test_a_connection_lost_half_way_leaves_nothing_and_the_rest_is_reported(
    dut: machine.Machine, host: str, delegate: str, models: str, made: str, tmp_path: Path
) -> None:
    wrapper, number = tmp_path / "ssh", tmp_path / "number"
    wrapper.write_text(wrapper.read_text().replace("exec ", f"echo $$ >{number}\nexec "))
    settle(dut)
    before = everything(dut)
    options = ("--host", host, "--no-probes", "--delegate", f"local:{delegate}", "--zoo", f"local:{models}", "--runtime", made)
    command = [sys.executable, "-m", "auditor", "device", *options, "--bench-time", "quick", "--format", "json"]
    watcher = subprocess.Popen([*dut.ssh("root"), "python3 -"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with watcher, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as auditor:
        said, _ = watcher.communicate(HALF_WAY, timeout=1000)
        if said != "half way\n":
            auditor.kill()  # it would be waited for
        assert said == "half way\n"
        subprocess.run(["kill", "-KILL", number.read_text().strip()], check=True)
        out, err = auditor.communicate(timeout=600)
    assert auditor.returncode in {1, 3}, err
    report = json.loads(out)
    (closure,) = (each for result in report["requirements"] for each in result["findings"] if each["id"] == "misc-1.closure@device")
    assert closure["outcome"] == "pass"
    reasons = {each["reason"] for result in report["requirements"] for each in result["findings"] if result["id"].startswith("zoo-")}
    assert any(f"--host {host}: " in each for each in reasons), reasons
    dut.run(ENDED, user="root", timeout=300)
    time.sleep(1)
    assert everything(dut) == before


@ZOO
def test_a_folder_that_cannot_take_the_runtime_is_refused_in_one_line(
    dut: machine.Machine, host: str, delegate: str, models: str, made: str
) -> None:
    kinds = {"noexec": "noexec", "small": "size=32m"}
    mounts = [f"mkdir -p /run/{name} && mount -t tmpfs -o {kind},mode=1777 none /run/{name}" for name, kind in kinds.items()]
    dut.run(" && ".join(mounts), user="root")
    try:
        for folder, reason in (
            ("/run/noexec", "lets no code be loaded from there"),
            ("/run/small", "has room for 32 MiB, expected at least"),
        ):
            options = ("--delegate", f"local:{delegate}", "--zoo", f"local:{models}", "--runtime", made, "--device-dir", folder)
            done = subprocess.run(
                [sys.executable, "-m", "auditor", "device", "--host", host, *options],
                check=False,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert (done.returncode, done.stdout) == (2, ""), done
            said = done.stderr.splitlines()[-1]  # after a line a stage
            assert said.startswith(f"crosml-audit: --device-dir: {folder}: {reason}")
            assert all(line.startswith("crosml-audit: ") for line in done.stderr.splitlines()), done.stderr
            assert not dut.run(f"ls -A {folder}").strip()
    finally:
        dut.run("umount /run/noexec /run/small; rmdir /run/noexec /run/small", user="root")


@ZOO
def test_a_device_without_anything_that_runs_the_zoo_says_the_three_ways(host: str, delegate: str, models: str) -> None:
    request = Request(host=host, delegate=f"local:{delegate}", zoo=f"local:{models}", bench_time="quick", probes=False, today=TODAY)
    report = audit(request, lambda _text: None).report
    (result,) = (each for each in report.requirements if each.id == f"zoo-{MODEL}-latency")
    assert result.outcome is Outcome.UNKNOWN
    reason = result.findings[0].reason
    assert all(way in reason for way in ("benchmark_model and inference_diff_eval", "a TFLite runtime for its python3", "--runtime DIR"))


# What a stand-in for the native tools takes for a delegate: it has the entry points, and does nothing.
VENDOR = """
void *tflite_plugin_create_delegate(char **keys, char **values, unsigned long count, void (*report)(const char *)) {
  (void)keys; (void)values; (void)count; (void)report;
  return (void *)1;
}
void tflite_plugin_destroy_delegate(void *delegate) { (void)delegate; }
"""
TOOLS = ("/usr/local/bin/benchmark_model", "/usr/local/bin/inference_diff_eval")


@ZOO
def test_the_device_s_own_tools_come_first(dut: machine.Machine, host: str, models: str, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to build the stand-in tools with")
    tool, vendor = tmp_path / "tool", tmp_path / "libvendor.so"
    source = str(ROOT / "fixtures" / "tools" / "stand_in.c")
    subprocess.run(["cc", "-O2", "-o", str(tool), source, "-ldl", "-lm"], check=True)
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(vendor)], input=VENDOR.encode(), check=True)
    dut.put(dict.fromkeys(TOOLS, tool.read_bytes()), mode=0o755)
    try:
        settle(dut)
        before = everything(dut)
        request = Request(host=host, delegate=f"local:{vendor}", zoo=f"local:{models}", bench_time="quick", probes=False, today=TODAY)
        audited = audit(request, lambda _text: None)
        assert everything(dut) == before
    finally:
        dut.run(f"rm {' '.join(TOOLS)}", user="root")
    for number in range(3):
        document = json.loads(audited.record.answers[base.run(MODEL, number)].data)
        assert (document["runner"], document["status"]["outcome"]) == ("native", "completed"), document["status"]
        assert document["conditions"]["tool"]["path"] == TOOLS[0]
        assert document["conditions"]["confinement"]["state"] == "confined"
        assert document["conditions"]["refused"] == []
        (part,) = document["nodes"]["partitions"]
        assert part["nodes"] == list(range(document["nodes"]["total"]))
        assert [len(output["own_errors"]) for output in document["accuracy"]["outputs"]] == [OWN_INPUTS]
