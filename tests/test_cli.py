"""The program as people use it: bad input, outputs, exit codes, choices, interruption. In this process where that is enough."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import pytest

from auditor import cli, registry, requirements
from auditor.facts.plan import plan_document
from auditor.facts.types import Plan
from auditor.inference.wire import RUNTIMES
from auditor.model import Status, ZooModelUsed
from auditor.sources import base, recording
from auditor.sources.base import Reply
from auditor.zoo.generate import generate
from fixtures.devices import answered, recorded
from fixtures.elf import Shared
from fixtures.kernel import build_key

DEMO = str(resources.files("auditor.data") / "demo.snapshot")
MAIN = [sys.executable, "-c", "from auditor.cli import main; main()"]
HOSTILE = "x\x1b[31m]]><b>&\u202e\nPASS"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
EXPECTATION = re.compile(r"expected|missing|No such file|Is a directory|not a snapshot")
MODEL = "mobilenet_v2_1.0_224"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.out)

    def refused(self, code: int, *names: str) -> str:
        """The one line that a command which gave nothing else said, with these names in it."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.startswith("crosml-audit: ")
        assert self.err.endswith("\n")
        line = self.err[:-1]
        assert line.isprintable(), line
        assert not [name for name in names if name not in line], line
        assert EXPECTATION.search(line), line
        return line


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process; one that waits for something is ended."""

    def command(*arguments: str) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["crosml-audit", *map(str, arguments)])
        before = signal.signal(signal.SIGALRM, _waited)
        signal.alarm(60)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        return Ended(ended.value.code or 0, *capsys.readouterr())

    return command


def _waited(*_: object) -> None:
    pytest.fail("the command waited for something")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A well-formed file for every place that takes one."""
    folder = tmp_path_factory.mktemp("valid")
    contents = {
        "snapshot": resources.files("auditor.data").joinpath("demo.snapshot").read_bytes(),
        "waivers": _waiver("functional-1.driver@pci:0000:00:05.0").encode(),
        "requirements": b'name = "mine"\nclauses = "accelerator-r113"\nzoo = "zoo-0.0.2"\n',
        "certificate": build_key().der,
        "manifest": f"{'ab' * 32}  {MODEL}.tflite\n".encode(),
        "tool-manifest": f"{'ab' * 32}  benchmark_model\n".encode(),
        "base-image": b"/usr/lib64/libc.so.6\n",
        "archive": _tar({f"{MODEL}.tflite": b"\0" * 5000}),
        "library": Shared(soname="libx.so", needed=("libc.so.6",)).build(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    done = subprocess.run([*MAIN, "device", "--snapshot", DEMO, "--format", f"json={folder / 'report'}"], check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    return folder


def _waiver(finding: str, expires: str = "2026-12-31") -> str:
    return f'[[waiver]]\nfinding = {json.dumps(finding)}\nreason = "known"\nauthor = "lab"\nexpires = {expires}\n'


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


# --- a bad file in every place that takes one ---------------------------------------------------------------------------------------------

PLACES = {
    "snapshot": (4, "snapshot", ["device", "--snapshot"]),
    "snapshot-show": (4, "snapshot", ["snapshot", "show"]),
    "report-show": (4, "report", ["report", "show"]),
    "report-convert": (4, "report", ["report", "convert", "--format", "junit"]),
    "report-diff": (4, "report", ["report", "diff", "VALID"]),
    "waivers": (2, "waivers", ["device", "--snapshot", DEMO, "--waivers"]),
    "waivers-check": (2, "waivers", ["waivers", "check"]),
    "waivers-check-report": (4, "report", ["waivers", "check", "WAIVERS", "--report"]),
    "waivers-draft": (4, "report", ["waivers", "draft"]),
    "requirements": (2, "requirements", ["device", "--snapshot", DEMO, "--requirements"]),
    "zoo-list": (2, "requirements", ["zoo", "list", "--requirements"]),
    "trust-root": (2, "certificate", ["device", "--snapshot", DEMO, "--trust-root"]),
    "base-image": (2, "base-image", ["device", "--snapshot", DEMO, "--base-image"]),
    "zoo-manifest": (2, "manifest", ["device", "--snapshot", DEMO, "--zoo-manifest"]),
    "tool-manifest": (2, "tool-manifest", ["device", "--snapshot", DEMO, "--tool-manifest"]),
    "zoo": (2, "archive", ["device", "--demo", "--zoo"]),
    "zoo-run": (2, "archive", ["zoo", "run", "--zoo"]),
    "zoo-pin": (2, "archive", ["zoo", "pin"]),
    "delegate": (2, "library", ["device", "--delegate"]),
    "delegate-without-zoo": (2, "library", ["device", "--no-zoo", "--delegate"]),
    "delegate-collected": (2, "library", ["snapshot", "-o", "collected", "--delegate"]),
    "zoo-run-delegate": (2, "library", ["zoo", "run", "--delegate"]),
    "root": (2, None, ["device", "--root"]),
}
BAD = ("missing", "empty", "truncated", "junk", "folder", "fifo", "dangling", "endless", "hostile-name", "nothing")
FINE = {
    ("base-image", "truncated"),
    ("root", "truncated"),
    ("root", "folder"),
    ("zoo", "folder"),
    ("zoo-run", "folder"),
    ("zoo-pin", "folder"),
}
"""Half of a list of paths is one, and a folder, which is right in these places, has no half; empty folders have a test of their own."""


@pytest.mark.parametrize(("place", "bad"), [(place, bad) for place in sorted(PLACES) for bad in BAD if (place, bad) not in FINE])
def test_a_bad_file_is_named_in_one_line(place, bad, run, valid, tmp_path, monkeypatch):
    code, kind, arguments = PLACES[place]
    monkeypatch.chdir(tmp_path)
    suffix = ".toml" if kind == "requirements" else ""
    name = {"endless": "endless", "hostile-name": HOSTILE, "nothing": ""}.get(bad, "the-file") + (suffix if bad != "nothing" else "")
    if bad == "folder":
        os.mkdir(name)
    elif bad == "fifo":
        os.mkfifo(name)
    elif bad in {"dangling", "endless"}:
        os.symlink("/dev/zero" if bad == "endless" else "nowhere", name)
    elif bad not in {"missing", "nothing"}:
        half = (valid / kind).read_bytes()[: (valid / kind).stat().st_size // 2] if kind else b"x"
        contents = {"empty": b"", "truncated": half, "junk": b"\x1b[2J\xff\x00<junk>" * 9, "hostile-name": b"\x1b[2J"}
        with open(name, "wb") as file:
            file.write(contents[bad])
    before = sorted(os.listdir())
    files = {"VALID": str(valid / "report"), "WAIVERS": str(valid / "waivers")}
    ended = run(*(files.get(each, each) for each in arguments), name)
    shown = {"hostile-name": r"x\x1b[31m]]><b>&\u202e\nPASS"}.get(bad, name)
    ended.refused(code, shown)
    assert sorted(os.listdir()) == before


def test_the_files_that_the_bad_ones_are_made_of_are_good(run, valid):
    for place in ("snapshot-show", "report-show", "waivers", "requirements", "trust-root", "base-image", "zoo-manifest", "tool-manifest"):
        _, kind, arguments = PLACES[place]
        name = f"{valid / kind}" if kind != "requirements" else f"{valid}/set.toml"
        if kind == "requirements":
            (valid / "set.toml").write_bytes((valid / kind).read_bytes())
        assert run(*arguments, name).err == "", place


@pytest.mark.parametrize("option", ["--delegate", "--zoo"])
@pytest.mark.parametrize("command", ["device", "zoo run"])
def test_a_folder_without_models_and_a_library_that_is_none(option, command, run, tmp_path):
    (tmp_path / "readme").write_text("no model\n")
    ended = run(*command.split(), option, str(tmp_path))
    assert ended.refused(2, option, str(tmp_path)).count("expected") == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "no TFLite model: 0 bytes"), (b"\0" * 1000, "no TFLite model"), (b"\0\0\0\0TFL3", "vtable")],
    ids=["empty", "junk", "truncated"],
)
def test_a_bad_model_is_a_finding_and_the_audit_goes_on(content, expected, run, tmp_path):
    (tmp_path / f"{MODEL}.tflite").write_bytes(content)
    ended = run("device", "--demo", "--zoo", str(tmp_path), "--bench-time", "quick", "--format", "json")
    found = {each["id"]: each for requirement in ended.report["requirements"] for each in requirement["findings"]}
    for figure in ("latency", "accuracy", "memory"):
        each = found[f"zoo-{MODEL}-{figure}.baseline@model:{MODEL}"]
        assert (each["outcome"], expected in each["reason"]) == ("unknown", True), each
    assert ended.report["counts"]["error"] == 0


def test_a_runtime_that_is_not_installed_is_said_once(run):
    absent = [name for name, package in RUNTIMES.items() if importlib.util.find_spec(package) is None]
    if not absent:
        pytest.skip("every TFLite runtime is installed here")
    ended = run("device", "--demo", "--bench-time", "quick", "--tflite", absent[0], "--format", "json")
    found = _findings(ended.report)[f"zoo-{MODEL}-latency.baseline@model:{MODEL}"]
    assert (ended.code, found["outcome"], ended.report["model_runs"]) == (1, "unknown", [])
    assert f"no TFLite runtime: {absent[0]}" in found["observed"]
    assert "pip install 'crosml-audit[litert]'" in found["observed"]
    ended = run("zoo", "run", "--bench-time", "quick", "--tflite", absent[0])
    assert (ended.code, ended.out, ended.err.count("\n")) == (4, "", 1)
    assert f"no TFLite runtime: {absent[0]}" in ended.err


def test_an_archive_that_unpacks_to_too_much(run, tmp_path):
    bomb = tmp_path / "zoo.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{MODEL}.tflite", b"\0" * (64 << 20))
    ended = run("device", "--demo", "--zoo", str(bomb))
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "zoo.zip: member" in ended.err
    assert "unpacks to over 100 times" in ended.err


def test_a_snapshot_that_unpacks_to_too_much(run, tmp_path):
    bomb = tmp_path / "bomb.snapshot"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("record.json", b" " * (100 << 20))
    ended = run("device", "--snapshot", str(bomb))
    assert (ended.code, ended.out, ended.err.count("\n")) == (4, "", 1)
    assert "bomb.snapshot: member record.json is too large" in ended.err


# --- outputs ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", [["--save-snapshot", "{}"], ["--format", "json={}"]])
@pytest.mark.parametrize(
    ("path", "reason"), [("nowhere/x", "a folder that exists"), ("folder", "not a folder"), ("file/x", "a folder that exists")]
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_done(output, path, reason, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    ended = run("device", "--snapshot", "missing", *(each.format(path) for each in output))
    assert reason in ended.refused(2, path)  # not 4, for the snapshot that is missing
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(os.listdir()) == ["file", "folder"]


def test_two_outputs_to_one_file(run, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    other.symlink_to(one)
    for outputs in (["--format", f"json={one}", "--format", f"junit={other}"], ["--save-snapshot", str(one), "--format", f"json={one}"]):
        run("device", "--snapshot", DEMO, *outputs).refused(2, "--format")
    assert not one.exists()


def test_a_disk_that_is_full_leaves_nothing_half_written(tmp_path):
    (tmp_path / "report.json").write_text("the one before")

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    arguments = ["device", "--snapshot", DEMO, "--force", "--format", f"json={tmp_path}/report.json"]
    done = subprocess.run([*MAIN, *arguments], check=False, capture_output=True, text=True, preexec_fn=small)  # no threads
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"crosml-audit: {tmp_path}/report.json: File too large\n"
    assert (os.listdir(tmp_path), (tmp_path / "report.json").read_text()) == (["report.json"], "the one before")


def test_what_is_no_regular_file_is_written_to_and_stays(run, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    assert run("device", "--snapshot", DEMO, "--format", f"json={pipe}").code == 1
    reader.join(20)
    assert pipe.is_fifo()
    assert json.loads(got[0])["verdict"] == "non-compliant"


def test_a_link_is_written_through(run, tmp_path):
    (tmp_path / "link.json").symlink_to("real.json")
    assert run("device", "--snapshot", DEMO, "--format", f"json={tmp_path}/link.json").code == 1
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["verdict"] == "non-compliant"
    assert (tmp_path / "real.json").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("arguments", [["device", "--snapshot", DEMO], ["checks"], ["snapshot", "show", DEMO]])
def test_a_reader_that_goes_away_is_no_trouble(arguments):
    done = subprocess.Popen([*MAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done.stdout.close()
    assert (done.stderr.read(), done.wait()) == (b"", 4)


@pytest.mark.parametrize(
    "arguments", [["device", "--snapshot", DEMO], ["device", "--snapshot", DEMO, "--format", "json"], ["checks"], ["--help"], ["--version"]]
)
def test_a_standard_output_that_is_full(arguments):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*MAIN, *arguments], check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (4, "crosml-audit: standard output: No space left on device\n")


SHAPING = (("--allow-path", "/tmp"), ("--allow-unconfined",), ("--tflite", "ai-edge-litert"), ("--bench-time", "page"))


@pytest.mark.parametrize("option", SHAPING)
def test_what_shapes_a_run_is_not_silently_ignored_under_a_snapshot(option):
    done = subprocess.run([*MAIN, "device", "--snapshot", DEMO, *option], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert option[0] in done.stderr


@pytest.mark.parametrize("option", ["--delegate", "--zoo"])
@pytest.mark.parametrize("command", [["device"], ["zoo", "run"], ["snapshot", "-o", "/dev/null"]])
def test_local_paths_are_refused_without_a_host(command, option):
    done = subprocess.run([*MAIN, *command, option, "local:/x"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"crosml-audit: {option}: local:/x: expected local: only with --host")


def test_streams_that_are_closed_and_terminals_that_have_few_letters():
    closed = f"{sys.executable} -c 'from auditor.cli import main; main()' device --snapshot"
    done = subprocess.run(["sh", "-c", f"{closed} {DEMO} >&-"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    done = subprocess.run(["sh", "-c", f"{closed} /missing 2>&-"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for form in ("text", "junit"):
        done = subprocess.run([*MAIN, "device", "--snapshot", DEMO, "--format", form], check=False, capture_output=True, env=environment)
        assert (done.returncode, done.stderr) == (1, b"")


def test_outputs_are_not_overwritten_without_force(run, tmp_path):
    outputs = {
        "report": ["device", "--snapshot", DEMO, "--format", "json=FILE"],
        "record": ["device", "--snapshot", DEMO, "--save-snapshot", "FILE"],
        "collected": ["snapshot", "--root", str(tmp_path), "-o", "FILE"],
    }
    for name, command in outputs.items():
        path = tmp_path / name
        path.write_text("the one before")
        arguments = [each.replace("FILE", str(path)) for each in command]
        assert "--force" in run(*arguments).refused(2, str(path))
        assert path.read_text() == "the one before"
        run(*arguments, "--force")
        assert path.read_bytes() != b"the one before"
    again = run("report", "convert", str(tmp_path / "report"), "--format", f"html={tmp_path}/record")
    assert "--force" in again.refused(2, "record")


def test_formats_without_a_path_go_to_the_folder(run, tmp_path):
    names = ["json", "html", "junit", "sarif", "markdown", "csv"]
    wanted = [word for name in names for word in ("--format", name)]
    ended = run("device", "--snapshot", DEMO, *wanted, "--output-dir", f"{tmp_path}/a/b")
    assert (ended.code, ended.out, ended.err) == (1, "", "")
    suffixes = {registry.formats()[name].suffix for name in names}
    assert set(os.listdir(tmp_path / "a" / "b")) == {f"report{suffix}" for suffix in suffixes}
    run("device", "--snapshot", DEMO, *wanted, "--output-dir", f"{tmp_path}/a/b").refused(2, "report.json")
    (tmp_path / "file").write_text("")
    run("device", "--snapshot", DEMO, "--format", "json", "--output-dir", f"{tmp_path}/file").refused(2, "--output-dir", "expected")
    named = run("device", "--snapshot", DEMO, "--format", f"json={tmp_path}/own", "--format", "csv", "--output-dir", f"{tmp_path}/c")
    assert (named.code, os.listdir(tmp_path / "c"), (tmp_path / "own").exists()) == (1, ["report.csv"], True)


def test_every_format_has_a_suffix_of_its_own():
    suffixes = [each.suffix for each in registry.formats().values()]
    assert len(suffixes) == len(set(suffixes))


def test_what_an_unknown_counts_as_is_for_the_lab_to_choose(run):
    totals = {}
    for choice in ("error", "failure", "once"):
        ended = run("device", "--snapshot", DEMO, "--format", "junit", "--unknown-as", choice)
        root = ElementTree.fromstring(ended.out)
        totals[choice] = tuple(int(root.get(name, "0")) for name in ("failures", "errors"))
    failures, errors = totals["error"]
    assert errors > 1
    assert totals["failure"] == (failures + errors, 0)
    assert totals["once"] == (failures, 1)
    assert run("device", "--snapshot", DEMO, "--unknown-as", "pass").code == 2


def test_the_record_has_the_digest_that_sha256sum_gives(run, tmp_path):
    saved = tmp_path / "saved"
    report = run("device", "--demo", "--no-zoo", "--save-snapshot", str(saved), "--format", "json").report
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert report["device"]["snapshot_sha256"] == digest
    assert run("device", "--snapshot", str(saved), "--format", "json").report["device"]["snapshot_sha256"] == digest
    assert digest in run("snapshot", "show", str(saved)).out
    shipped = hashlib.sha256(resources.files("auditor.data").joinpath("demo.snapshot").read_bytes()).hexdigest()
    assert run("device", "--snapshot", DEMO, "--format", "json").report["device"]["snapshot_sha256"] == shipped


def test_an_accelerator_that_was_lost_is_told_from_one_that_is_undecided(run, tmp_path):
    """Exit code 3 has a reason; --expect-accelerator makes of a lost accelerator or driver an audit that could not be carried out."""
    _small_tree(str(tmp_path / "undriven"))
    (tmp_path / "empty" / "sys").mkdir(parents=True)
    ends = {"undriven": "no-driver", "empty": "no-accelerator"}
    for name, reason in ends.items():
        tree = ["device", "--root", f"{tmp_path}/{name}"]
        report = run(*tree, "--format", "json")
        assert (report.code, report.report["incomplete"]) == (3, reason)
        ended = run(*tree, "--expect-accelerator")
        assert (ended.code, ended.err.count("\n")) == (4, 1)
        assert "--expect-accelerator" in ended.err
        assert "Verdict      INCOMPLETE" in ended.out
    assert run("device", "--snapshot", DEMO, "--expect-accelerator").code == 1
    assert run("device", "--snapshot", DEMO, "--format", "json").report["incomplete"] is None
    partly = run("device", "--snapshot", DEMO, "--skip", "functional-1", "--format", "json")
    assert (partly.code, partly.report["incomplete"]) == (3, "nothing-measured")
    assert run("device", "--snapshot", DEMO, "--only", "security-2", "--format", "json").report["incomplete"] == "undecided"


def test_a_machine_without_an_accelerator_gets_one_screen(run, tmp_path):
    (tmp_path / "sys").mkdir()
    brief, all_of_it = run("device", "--root", str(tmp_path)).out, run("device", "--root", str(tmp_path), "--verbose").out
    assert len(brief.splitlines()) <= 25
    assert "none was found; looked in" in brief
    assert len(all_of_it.splitlines()) > 100


def test_help_is_short_to_ask_for_and_in_groups(run):
    for command in (["device"], ["snapshot"], ["zoo", "run"]):
        text = run(*command, "-h").out
        assert text == run(*command, "--help").out
        groups = re.findall(r"^(\S[^\n:]*):$", text, re.MULTILINE)
        assert {"Delegate and zoo", "Output"} <= set(groups)
        assert len(groups) == len(set(groups))
    assert re.findall(r"^(\S[^\n:]*):$", run("device", "-h").out, re.MULTILINE) == [
        "Target",
        "Delegate and zoo",
        "Judging",
        "Output",
        "Options",
    ]


def test_several_formats_at_once(run, tmp_path):
    outputs = {name: tmp_path / name for name in sorted(registry.formats())}
    arguments = [each for name, path in outputs.items() for each in ("--format", f"{name}={path}")]
    ended = run("device", "--snapshot", DEMO, *arguments, "--format", "json")
    assert ended.code == 1
    assert outputs["json"].read_text() == ended.out
    assert {"text", "json", "junit"} <= {name for name, path in outputs.items() if path.stat().st_size > 1000}
    assert sorted(os.listdir(tmp_path)) == sorted(outputs)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--format", "nope"], "nope"),
        (["--format", "json="], "json="),
        (["--format", "json", "--format", "junit"], "stdout"),
        (["--only", "nope"], "nope"),
        (["--skip", "security-3.domain\x1b[31m"], r"security-3.domain\x1b[31m"),
        (["--only", ""], "--only"),
        (["--today", "2026-02-30"], "2026-02-30"),
        (["--today", "20261122"], "20261122"),
        (["--today", ""], "--today"),
        (["--root", "/"], "--snapshot"),
        (["--demo"], "--snapshot"),
        (["--host", "x"], "--snapshot"),
        (["--delegate", "/bin/true"], "--snapshot"),
        (["--delegate", ""], "--snapshot"),
        (["--zoo", ""], "--snapshot"),
        (["--no-zoo"], "--snapshot"),
        (["--accelerator", "pci:0000:00:05.0"], "--snapshot"),
        (["--delegate-option", "a"], "a"),
        (["--delegate-option", "=b"], "K=V"),
        (["--delegate-option", "a=b"], "--delegate"),
        (["--requirements", "r0"], "r113-zoo-0.0.2"),
        (["--trust-root", "ab" * 31], "ab" * 31),
    ],
)
def test_wrong_usage_is_one_line(arguments, named, run):
    ended = run("device", "--snapshot", DEMO, *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert named in ended.err
    assert ended.err[:-1].isprintable()


def test_an_accelerator_that_is_not_there(run, tmp_path):
    _small_tree(str(tmp_path / "root"))
    arguments = ["--root", str(tmp_path / "root"), "--accelerator", f"pci:{HOSTILE}"]
    run("device", *arguments).refused(2, "--accelerator", r"pci:x\x1b[31m]]><b>&\u202e\nPASS")
    assert run("snapshot", "-o", f"{tmp_path}/saved", *arguments).code == 0
    run("device", "--snapshot", f"{tmp_path}/saved").refused(4, f"{tmp_path}/saved", "plan")


# --- hostile devices ----------------------------------------------------------------------------------------------------------------------


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _judged(run, *arguments: str) -> dict[str, str]:
    """What each format says of a device, and that none of it can drive a terminal or break an XML file."""
    shown = {}
    for form in ("text", "json", "junit"):
        ended = run("device", *arguments, "--format", form)
        assert (ended.code in {0, 1, 3}, ended.err) == (True, "")
        assert not CONTROLS.search(ended.out), CONTROLS.search(ended.out)
        shown[form] = ended.out
    assert json.loads(shown["json"])["counts"]["error"] == 0
    ElementTree.fromstring(shown["junit"])
    return shown


def test_a_root_whose_name_drives_terminals(run, tmp_path):
    root = tmp_path / HOSTILE
    root.mkdir()
    shown = _judged(run, "--root", str(root))
    assert HOSTILE in _texts(json.loads(shown["json"]))
    assert r"x\x1b[31m]]><b>&\u202e\nPASS" in shown["text"]


def test_a_record_full_of_text_that_drives_terminals(run, tmp_path):
    record = recorded()
    answers = {
        question: Reply(Status.OK, HOSTILE.encode() + b"\xff\xfe")
        for question, reply in record.answers.items()
        if question.kind == "read" and reply.status is Status.OK
    }
    answers[base.plan()] = Reply(Status.OK, plan_document(Plan()))
    hostile = recording.Record(HOSTILE, HOSTILE, HOSTILE, HOSTILE, answered(record, answers).answers)
    (tmp_path / "hostile.snapshot").write_bytes(recording.pack(hostile))
    _judged(run, "--snapshot", str(tmp_path / "hostile.snapshot"))
    ended = run("snapshot", "show", str(tmp_path / "hostile.snapshot"))
    assert (ended.code, CONTROLS.search(ended.out)) == (0, None)


def test_links_out_of_a_root_lead_nowhere(run, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("canary")
    root = tmp_path / "root"
    for path in ("proc/cmdline", "proc/sys/kernel/osrelease", "proc/self/mountinfo", "etc/lsb-release"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to("../" * 9 + f"{tmp_path}/outside/secret")
    (root / "sys/class").mkdir(parents=True)
    (root / "sys/class/accel").symlink_to(tmp_path / "outside")
    (root / "usr").symlink_to("/../../usr")
    ended = run("device", "--root", str(root), "--save-snapshot", f"{tmp_path}/saved", "--format", "json")
    assert ended.code == 3
    record = recording.load(f"{tmp_path}/saved")
    assert not [question for question, reply in record.answers.items() if b"canary" in reply.data or b"secret" in reply.data]
    assert record.answers[base.read("/proc/cmdline")].status is Status.ABSENT


def test_a_folder_with_more_entries_than_anyone_reads(run, tmp_path):
    folder = tmp_path / "root/sys/class/accel"
    folder.mkdir(parents=True)
    for number in range(100_001):
        if number % 30_000:  # a file has at most 65,000 names
            os.link(folder / f"{number - number % 30_000}", folder / f"{number}")
        else:
            (folder / f"{number}").touch()
    ended = run("device", "--root", str(tmp_path / "root"), "--format", "json")
    assert ended.code == 3
    (driver,) = (each for each in ended.report["requirements"] if each["id"] == "functional-1")
    assert driver["outcome"] == "unknown"
    assert "/sys/class/accel could not be read: Argument list too long" in {each["observed"] for each in driver["findings"]}


@pytest.mark.parametrize(
    "place", ["", "proc", "sys", "proc/sys/kernel", "sys/class/accel", "sys/bus/pci/devices", "usr/lib/firmware", "etc"]
)
def test_a_tree_with_nothing_in_it_decides_nothing(place, run, tmp_path):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    ended = run("device", "--root", str(tmp_path), "--format", "json")
    assert (ended.code, {each["outcome"] for each in _findings(ended.report).values()} - {"not-applicable"}) == (3, {"unknown"})
    assert {each["outcome"] for each in ended.report["requirements"] if each["level"] == "must"} == {"unknown"}


# --- exit codes, waivers, selection -------------------------------------------------------------------------------------------------------


def _findings(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for requirement in report["requirements"] for each in requirement["findings"]}


def test_every_failure_and_unknown_waived_is_compliant_until_a_waiver_expires(run, tmp_path):
    found = _findings(run("device", "--snapshot", DEMO, "--format", "json").report)
    open_ = sorted(name for name, each in found.items() if each["outcome"] in {"fail", "unknown"})
    file = tmp_path / "waivers.toml"
    file.write_text("".join(_waiver(name, "2026-12-31" if name != open_[0] else "2026-11-30") for name in open_))
    arguments = ["device", "--snapshot", DEMO, "--waivers", str(file), "--format", "json", "--today"]
    ended = run(*arguments, "2026-11-30")
    assert (ended.code, ended.report["verdict"], ended.report["counts"]["waived"]) == (0, "compliant", len(open_))
    assert {name: each["outcome"] for name, each in _findings(ended.report).items()} == {
        name: each["outcome"] for name, each in found.items()
    }
    for day in ("2026-12-01", "2027-01-01"):
        ended = run(*arguments, day)
        assert (ended.code, ended.report["verdict"]) == (1, "non-compliant")
        assert any(f"{open_[0]} expired on 2026-11-30" in note for note in ended.report["notes"])
    only_failures = [name for name in open_ if found[name]["outcome"] == "fail"]
    file.write_text("".join(_waiver(name) for name in only_failures))
    assert run(*arguments, "2026-11-30").code == 3


def test_a_waiver_covers_what_it_names_and_nothing_else(run, tmp_path):
    failed = "functional-1.driver@pci:0000:00:05.0"
    file = tmp_path / "waivers.toml"
    for name in (
        "functional-1",
        "functional-1.driver",
        failed[:-1],
        failed.upper(),
        f"{failed} ",
        "functional-1.l*@*",
        "functional-1.driver@of:*",
        "security-3.domain@pci:0000:00:05.0",
    ):
        file.write_text(_waiver(name))
        ended = run("device", "--snapshot", DEMO, "--waivers", str(file), "--today", "2026-11-22", "--format", "json")
        assert (ended.code, ended.report["counts"]["waived"]) == (1, 0), name
        assert any("matches no failed or unknown finding" in note for note in ended.report["notes"])
    file.write_text(_waiver(failed))
    ended = run("device", "--snapshot", DEMO, "--waivers", str(file), "--today", "2026-11-22", "--format", "json")
    covered = [name for name, each in _findings(ended.report).items() if each["waiver"]]
    assert (ended.code, covered) == (3, [failed])


def test_what_is_skipped_is_unknown(run):
    every = run("device", "--snapshot", DEMO, "--format", "json").report
    ended = run("device", "--snapshot", DEMO, "--skip", "functional-1", "--skip", "functional-1.driver", "--format", "json")
    assert (ended.code, ended.report["partial"]) == (3, False)
    assert [each["id"] for each in ended.report["requirements"]] == [each["id"] for each in every["requirements"]]
    outcomes = {each["id"]: each["outcome"] for each in ended.report["requirements"]}
    assert (outcomes["functional-1"], outcomes["security-3"]) == ("unknown", "pass")
    left_out = [each for each in _findings(ended.report).values() if "left out by" in each["observed"]]
    assert {each["outcome"] for each in left_out} == {"unknown"}


@pytest.mark.parametrize(
    ("only", "code"),
    [
        (["security-3,functional-2"], 0),
        (["security-3, functional-1"], 1),
        (["security-3"], 0),
        (["security-3.domain"], 0),
        (["security-3.domain@pci:0000:00:05.0"], 0),
        (["security-3", "functional-2"], 0),
        (["functional-1"], 1),
        (["functional"], 1),
        (["security-1", "security-3"], 3),
        (["zoo"], 3),
        (["zoo-latency"], 3),
        (["misc-2"], 0),
    ],
)
def test_only_judges_its_selection(run, only, code):
    every = run("device", "--snapshot", DEMO, "--format", "json").report
    ended = run("device", "--snapshot", DEMO, *(word for each in only for word in ("--only", each)), "--format", "json")
    selected = [name.strip() for each in only for name in each.split(",")]
    assert (ended.code, ended.report["partial"], ended.report["selection"]) == (code, True, selected)
    assert [each["id"] for each in ended.report["requirements"]] == [each["id"] for each in every["requirements"]]
    found, known = _findings(ended.report), _findings(every)
    assert found
    assert all(known[name] == each for name, each in found.items())
    assert all(each["selected"] is bool(each["findings"]) for each in ended.report["requirements"])


@pytest.mark.parametrize(
    ("command", "wrong", "meant"),
    [
        (["device", "--snapshot", DEMO, "--only"], "securty-3", "security-3"),
        (["device", "--snapshot", DEMO, "--only"], "security-3,functional-1.drvier", "functional-1.driver"),
        (["device", "--snapshot", DEMO, "--only"], "security-3.domian@pci:0000:00:05.0", "security-3.domain"),
        (["device", "--snapshot", DEMO, "--only"], "security-3.domain@pci:0000:00:06.0", "security-3.domain@pci:0000:00:05.0"),
        (["device", "--snapshot", DEMO, "--skip"], "zoo-latancy", "zoo-latency"),
        (["explain"], "misc1", "misc-1"),
        (["checks"], "zo", "zoo"),
        (["device", "--snapshot", DEMO, "--format"], "jsn", "json"),
    ],
)
def test_what_is_near_a_name_that_nothing_has_is_offered(command, wrong, meant, run):
    ended = run(*command, wrong)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"did you mean {meant}" in ended.err


@pytest.mark.parametrize(
    ("name", "lines"),
    [("security-3", None), ("security-3.domain", 1), ("security-3.domain@pci:0000:00:05.0", 1), ("zoo-latency", None), ("zoo", None)],
)
def test_explain_and_checks_take_what_only_takes(name, lines, run):
    listed = run("checks", name)
    assert listed.code == 0
    ids = [line.split()[0] for line in listed.out.splitlines()]
    assert lines in {None, len(ids)}
    assert all(each.startswith(name.partition("@")[0]) for each in ids)
    page = run("explain", name)
    assert page.code == 0
    assert all(f"# {each}\n" in page.out for each in ids)
    assert run("checks", f"{name},misc-1").out.count("\n") > len(ids)
    assert "Source: " in page.out


def test_explain_tells_how_a_finding_of_a_report_came_about(run, valid):
    found = next(each for each in _findings(json.loads((valid / "report").read_text())).values() if each["outcome"] == "fail")
    told = run("explain", found["id"], "--report", str(valid / "report"))
    assert told.code == 0
    assert told.out.startswith(f"{found['id']}: fail")
    assert all(each["path"] in told.out and (each["sha256"] or "") in told.out for each in found["evidence"])
    assert run("explain", "security-3,functional-1", "--report", str(valid / "report")).out.count("1. Required by") > 2
    assert "did you mean" in run("explain", "securty-3", "--report", str(valid / "report")).err
    assert run("explain", "security-3", "--report", DEMO).code == 4


def test_what_is_skipped_of_a_selection_is_unknown(run):
    both = run("device", "--snapshot", DEMO, "--only", "security-3", "--skip", "security-3.domain", "--format", "json")
    assert both.code == 3
    assert {each["outcome"] for each in both.report["requirements"] if each["level"] == "must"} == {"unknown"}


def test_a_set_of_ones_own_is_told_from_a_shipped_one(run, tmp_path):
    (tmp_path / "clauses.toml").write_text('[[requirements]]\nid = "security-3"\ntitle = "t"\ntext = "t"\nsource = "s"\nlevel = "must"\n')
    (tmp_path / "zoo.toml").write_text('version = "0"\nsource = "s"\nmodels = []\n')
    shipped = run("device", "--snapshot", DEMO, "--format", "json").report["requirements_set"]
    (tmp_path / "set.toml").write_text(f'name = "{shipped}"\nclauses = "clauses.toml"\nzoo = "zoo.toml"\n')
    ended = run("device", "--snapshot", DEMO, "--requirements", f"{tmp_path}/set.toml", "--format", "json")
    assert (ended.code, ended.report["verdict"]) == (0, "compliant")
    assert ended.report["requirements_set"].startswith(f"{shipped} (not a shipped set: ")


# --- pinned models -----------------------------------------------------------------------------------------------------------------------

STAND_IN = "convolution_benchmark_1_144x256"


@pytest.fixture(scope="module")
def zoo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    content = generate(STAND_IN)
    (folder / f"{STAND_IN}.tflite").write_bytes(content)
    return str(folder), f"{hashlib.sha256(content).hexdigest()}  {STAND_IN}.tflite\n"


def answered_zoo(folder):
    """The demonstration's record, as if a file of each model had been given."""
    zoo = requirements.load().zoo
    used = tuple(ZooModelUsed(model.name, f"{number:064x}", "given") for number, model in enumerate(zoo.models))
    plan = Plan(zoo_version=zoo.version, models=used, archive="ab" * 64)
    record = recording.load(DEMO)
    answers = {**record.answers, base.plan(): Reply(Status.OK, plan_document(plan))}
    (folder / "device").write_bytes(recording.pack(replace(record, answers=answers)))
    return folder / "device"


@pytest.mark.parametrize("form", ["folder", "tar", "tar of a folder"])
def test_pinned_models_are_what_a_manifest_names(run, zoo_folder, tmp_path, form):
    folder, line = zoo_folder
    if form != "folder":
        with tarfile.open(tmp_path / "zoo.tar", "w") as archive:
            archive.add(folder, "." if form == "tar" else "deep")
        folder = str(tmp_path / "zoo.tar")
    manifest = tmp_path / "sums"
    ended = run("zoo", "pin", folder, "--output", manifest)
    assert (ended.code, ended.out, manifest.read_text()) == (0, line, line)
    assert f"{STAND_IN}: pinned as it is: it is the generated stand-in" in ended.err
    assert "no file found, and nothing pinned, for " in ended.err
    assert run("device", "--snapshot", DEMO, "--zoo-manifest", manifest).code == 1


def test_tools_are_pinned_with_or_without_models(run, zoo_folder, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "benchmark_model").write_bytes(b"a program")
    line = f"{hashlib.sha256(b'a program').hexdigest()}  benchmark_model\n"
    ended = run("zoo", "pin", tmp_path / "bin", "--output", tmp_path / "sums")
    assert (ended.code, ended.out, ended.err) == (0, line, "")
    shutil.copy(f"{zoo_folder[0]}/{STAND_IN}.tflite", tmp_path / "bin")
    assert run("zoo", "pin", tmp_path / "bin", "--output", tmp_path / "sums", "--force").out == zoo_folder[1] + line
    given = ["--zoo-manifest", tmp_path / "sums", "--tool-manifest", tmp_path / "sums"]
    found = run("device", "--snapshot", DEMO, *given, "--format", "json").report["zoo"]
    assert found["manifest"]["path"] == str(tmp_path / "sums")
    assert found["tool_manifest"] == found["manifest"]
    assert "; tool manifest " in " ".join(run("device", "--snapshot", answered_zoo(tmp_path), *given).out.split())


def test_a_manifest_is_not_overwritten_unless_that_is_asked_for(run, zoo_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, line = zoo_folder
    assert run("zoo", "pin", folder).code == 0
    manifest = tmp_path / "zoo.sha256sums"
    manifest.write_text("mine")
    ended = run("zoo", "pin", folder)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "zoo.sha256sums: already exists (--force" in ended.err
    assert manifest.read_text() == "mine"
    assert run("zoo", "pin", folder, "--force").code == 0
    assert manifest.read_text() == line
    assert os.listdir() == ["zoo.sha256sums"]


@pytest.mark.parametrize("output", ["nowhere/sums", "."])
def test_a_manifest_that_cannot_be_written_is_named(run, zoo_folder, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    ended = run("zoo", "pin", zoo_folder[0], "--force", "--output", output)
    assert (ended.code, ended.err.count("\n")) == (4, 1)
    assert f"crosml-audit: {output}: " in ended.err


def test_there_must_be_something_to_pin(run, tmp_path):
    ended = run("zoo", "pin", tmp_path)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "expected model files of zoo 0.0.2" in ended.err


def test_the_report_names_the_manifest_and_what_it_pins(run, tmp_path):
    device, models = answered_zoo(tmp_path), requirements.load().zoo.models
    bare = run("device", "--snapshot", device, "--format", "json").report["zoo"]
    assert (bare["pins"], bare["manifest"]) == ({}, None)
    manifest = tmp_path / "sums"
    # of several files of a model, each is pinned
    manifest.write_text("".join(f"{digit * 64}  {name}\n" for digit, name in zip("0f", models[0].files, strict=False)))
    found = run("device", "--snapshot", device, "--zoo-manifest", manifest, "--format", "json").report["zoo"]
    assert found["pins"] == {models[0].name: "manifest"}
    assert found["manifest"] == {"path": str(manifest), "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest()}
    text = run("device", "--snapshot", device, "--zoo-manifest", manifest).out
    assert f"by the manifest: {models[0].name}; not pinned: {models[1].name}" in " ".join(text.split())
    assert found["manifest"]["sha256"] in text


def test_a_defect_of_the_auditor_is_no_verdict(run, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(recording, "load", broken)
    ended = run("device", "--snapshot", DEMO)
    assert (ended.code, ended.out) == (4, "")
    assert ended.err.splitlines()[-1].startswith("crosml-audit: a defect of the auditor")


# --- a snapshot gives the findings of the device ------------------------------------------------------------------------------------------


def _small_tree(root: str) -> None:
    sysfs = f"{root}/sys/devices/pci0000:00/0000:00:0b.0"
    for path, text in {
        f"{sysfs}/uevent": "PCI_CLASS=120000\nPCI_ID=8086:7D1D\nPCI_SLOT_NAME=0000:00:0b.0\nMODALIAS=pci:v00008086d00007D1D\n",
        f"{sysfs}/class": "0x120000\n",
        f"{root}/proc/cmdline": "cros_secure iommu=pt\n",
        f"{root}/proc/sys/kernel/osrelease": "6.12.0\n",
        f"{root}/sys/kernel/iommu_groups/7/type": "DMA-FQ\n",
    }.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    os.makedirs(f"{root}/sys/bus/pci/devices")
    os.symlink("../../../devices/pci0000:00/0000:00:0b.0", f"{root}/sys/bus/pci/devices/0000:00:0b.0")
    os.symlink("../../../kernel/iommu_groups/7", f"{sysfs}/iommu_group")


@pytest.mark.parametrize("target", ["live", "root", "demo"])
def test_a_snapshot_gives_the_findings_of_the_device(target, run, tmp_path):
    _small_tree(str(tmp_path / "root"))
    arguments = {
        "live": [],
        "root": ["--root", str(tmp_path / "root"), "--delegate", "/usr/lib64/libx.so"],
        "demo": ["--demo", "--no-zoo"],
    }[target]
    saved = tmp_path / "saved.snapshot"
    if target == "live":  # its probes may start processes: not in this one
        command = [*MAIN, "device", "--today", "2026-11-22", "--save-snapshot", str(saved), "--format", "json"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        first = Ended(done.returncode, done.stdout, done.stderr)
    else:
        first = run("device", *arguments, "--today", "2026-11-22", "--save-snapshot", str(saved), "--format", "json")
    again = run("device", "--snapshot", str(saved), "--today", "2026-11-22", "--format", "json", "--save-snapshot", f"{saved}.again")
    assert (first.err, again.err, first.code) == ("", "", again.code)
    assert first.report["device"] == again.report["device"]
    assert first.report["accelerators"] == again.report["accelerators"]
    assert json.dumps(first.report["requirements"]) == json.dumps(again.report["requirements"])
    assert saved.read_bytes() == (tmp_path / "saved.snapshot.again").read_bytes()
    if target != "live":  # what this machine has is not known here
        assert len(first.report["accelerators"]) == 1


def test_collecting_alone_gives_the_same_record(run, tmp_path):
    _small_tree(str(tmp_path / "root"))
    arguments = ["--root", str(tmp_path / "root"), "--delegate", "/usr/lib64/libx.so"]
    assert run("snapshot", "-o", f"{tmp_path}/collected", *arguments).code == 0
    run("device", *arguments, "--save-snapshot", f"{tmp_path}/audited", "--format", f"json={tmp_path}/report")
    collected, audited = recording.load(f"{tmp_path}/collected"), recording.load(f"{tmp_path}/audited")
    assert collected.answers == audited.answers
    run("snapshot", "-o", "/nowhere/x", *arguments).refused(2, "/nowhere/x")
    run("snapshot", *arguments).refused(2, "--output")


def test_a_report_says_how_it_came_about(run, tmp_path):
    notes = run("device", "--snapshot", DEMO, "--format", "json").report["notes"]
    assert "Judged from a snapshot: what it holds is the word of whoever made it." in notes
    assert any("only what --accelerator named" in note for note in notes)  # the demonstration's device has a GPU beside its accelerator
    _small_tree(str(tmp_path / "root"))
    assert run("device", "--root", str(tmp_path / "root"), "--format", "json").report["notes"] == []


# --- terminals and interruption -----------------------------------------------------------------------------------------------------------


def _rest(terminal: int) -> bytes:
    """What is printed on a terminal until nobody has it open any more."""
    parts = []
    with contextlib.suppress(OSError):  # EIO, at the end
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts)


def test_an_interrupted_zoo_keeps_what_was_finished_and_progress_is_for_terminals(tmp_path):
    terminal, side = pty.openpty()
    outputs = ["--format", f"json={tmp_path}/report", "--save-snapshot", f"{tmp_path}/saved"]
    command = [*MAIN, "device", "--demo", "--bench-time", "quick", *outputs]
    # whoever runs the tests in the background has them ignore interrupts
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=side, start_new_session=True, preexec_fn=default)  # noqa: PLW1509
    os.close(side)
    shown = b""
    deadline = time.monotonic() + 120
    while b"round 1, model 2 of 5" not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
    shown += _rest(terminal)
    assert (process.wait(), process.stdout.read()) == (1, b"")
    assert shown.startswith(b"\r\x1b[K")
    assert shown.endswith(b"\r\x1b[K")
    assert b"\n" not in shown
    with open(tmp_path / "report", encoding="utf-8") as file:
        report = json.load(file)
    assert [each["model"] for each in report["model_runs"]] == ["selfie_segmentation_landscape_256x256"]
    assert report["model_runs"][0]["status"] == "completed"
    assert "The measurement was interrupted; the report holds what was finished." in report["notes"]
    later = next(each for each in report["requirements"] if each["id"] == f"zoo-{MODEL}-latency")
    assert later["outcome"] == "unknown"
    assert "interrupted" in later["findings"][0]["observed"]
    assert sorted(os.listdir(tmp_path)) == ["report", "saved"]


def test_a_signal_that_ends_the_program_keeps_what_was_finished_and_leaves_nothing(tmp_path):
    """Without a terminal, progress is a line a stage. A terminal that goes away and a service manager send their signals in a row."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    outputs = ["--format", f"json={tmp_path}/report", "--only", f"zoo-{MODEL}_quant"]
    command = [*MAIN, "device", "--demo", "--bench-time", "quick", *outputs]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    stages = []
    for line in process.stderr:
        stages.append(line)
        if "round 2" in line:
            break
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    out, _err = process.communicate(timeout=120)
    assert out == ""
    assert all(line.startswith("crosml-audit: zoo: ") for line in stages)
    assert "left" in stages[-1]
    assert len(stages) == len(set(stages))
    with open(tmp_path / "report", encoding="utf-8") as file:
        report = json.load(file)
    assert process.returncode == 3
    assert "The measurement was interrupted; the report holds what was finished." in report["notes"]
    assert [each["status"] for each in report["model_runs"]] == ["completed"]
    assert os.listdir(temporary) == []
    with pytest.raises(ProcessLookupError):  # no process of its session is left
        os.killpg(process.pid, 0)


def test_text_is_coloured_on_a_terminal_only(run):
    plain = run("device", "--snapshot", DEMO).out
    assert "\x1b" not in plain
    terminal, side = pty.openpty()
    process = subprocess.Popen([*MAIN, "device", "--snapshot", DEMO], stdout=side, stderr=subprocess.PIPE)
    os.close(side)
    assert b"\x1b[1;31m" in _rest(terminal)
    assert (process.wait(), process.stderr.read()) == (1, b"")
