"""The zoo over ssh, with an `ssh` on PATH that runs the command on this machine: as this user, and as nobody."""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from auditor import audit as audits
from auditor.bench import over_ssh, remote
from auditor.bench.options import ZooOptions
from auditor.errors import AuditError, UsageError
from auditor.inference.wire import RUNTIMES
from auditor.inference.worker.confine import landlock_abi
from auditor.model import Outcome
from auditor.request import Request
from auditor.requirements import load
from auditor.sources import base, recording, ssh
from auditor.sources.ssh import MARK, Ssh, agent_zip
from auditor.zoo.catalogue import model_document, read_model
from fixtures.stand_in import build_delegate, build_tools

NAME = "selfie_segmentation_landscape_256x256"
TODAY = datetime.date(2026, 1, 1)
BASE = os.path.realpath(sys.executable)
SYSTEM = "/usr/bin/python3"

confines = pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, so nothing here can be confined")


@dataclass(frozen=True)
class Device:
    """A device that is this machine: its own folder, and how it is reached."""

    host: str
    folder: Path

    def left(self) -> list[str]:
        return sorted(os.listdir(self.folder))


@pytest.fixture
def device(tmp_path, monkeypatch):
    """Make a device whose python3 is a given program; commands run as the user that is named."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "python").mkdir()
    ssh_program = tmp_path / "bin" / "ssh"
    ssh_program.write_text(
        f"""#!/bin/sh
while [ "$1" != -- ]; do shift; done
cd / && export PATH={tmp_path}/python:/usr/bin:/bin
case "$2" in
nobody@*) exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c "$3" ;;
*) exec sh -c "$3" ;;
esac
"""
    )
    ssh_program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    shared = tmp_path / "device"
    shared.mkdir()
    shared.chmod(0o1777)
    for each in (tmp_path, *tmp_path.parents):  # those that pytest made; its workers have one more
        each.chmod(0o755)
        if each.name.startswith("pytest-of-"):
            break

    def make(python=sys.executable, user="tester"):
        program = tmp_path / "python" / "python3"
        program.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        program.chmod(0o755)
        return Device(f"{user}@board", shared)

    return make


@pytest.fixture
def zoo(tmp_path, model):
    """A zoo of one small model under the name of a larger one."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / f"{NAME}.tflite").write_bytes(model)
    return str(folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder as `pip install --target` makes one, of what is installed here."""
    folder = tmp_path_factory.mktemp("runtime")
    name = next((each for each in RUNTIMES if _version(each)), None)
    if name is None:
        pytest.skip("no TFLite runtime is installed here to make a folder of")
    for distribution in map(metadata.distribution, (name, "numpy")):
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and source.is_file() and "__pycache__" not in file.parts:
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    _link(source, target)
    return str(folder)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copy(source, target)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def asked(device: Device, delegate: str, zoo: str, **more):
    options = {"device_dir": str(device.folder), "bench_time": "quick", "probes": False, "today": TODAY, **more}
    return Request(host=device.host, delegate=f"local:{delegate}", zoo=f"local:{zoo}", **options)


def audit(request: Request, progress=lambda _text: None):
    return audits.audit(request, progress)


def documents(audited, count=3):
    return [json.loads(audited.record.answers[base.run(NAME, number)].data) for number in range(count)]


def note(audited) -> str:
    return json.loads(audited.record.answers[base.plan()].data)["zoo_note"]


def reasons(audited) -> set[str]:
    return {each.reason for result in audited.report.requirements if NAME in result.id for each in result.findings}


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end in the time that even a busy machine needs."""
    return not psutil.wait_procs(processes, timeout=60)[1]


def running(*words: str) -> list[psutil.Process]:
    found = []
    for each in descendants():
        with contextlib.suppress(psutil.Error):
            if all(any(word in argument for argument in each.cmdline()) for word in words):
                found.append(each)
    return found


@confines
def test_the_device_runs_its_own_runtime_and_the_record_is_judged_as_a_local_one(device, delegate, zoo, tmp_path):
    board = device()
    audited = audit(asked(board, delegate, zoo))
    assert note(audited) == ""
    for each in documents(audited):
        assert each["status"]["outcome"] == "completed", each["status"]
        assert (each["model"]["origin"], each["nodes"]["delegated"], each["nodes"]["total"]) == ("given", 3, 3)
        assert each["conditions"]["confinement"]["state"] == "confined"
        assert each["conditions"]["refused"] == []
        assert each["delegate"]["path"].startswith(f"{board.folder}/crosml-audit-")
    plan = json.loads(audited.record.answers[base.plan()].data)
    assert plan["delegate"] == documents(audited)[0]["delegate"]["path"]
    assert plan["uid"] == audited.report.device.collected_uid == os.geteuid()
    (closure,) = (each for result in audited.report.requirements for each in result.findings if each.id == "misc-1.closure@device")
    assert closure.outcome is Outcome.PASS
    assert os.path.basename(delegate) in closure.observed
    assert board.left() == []
    assert gone(descendants())
    (tmp_path / "s").write_bytes(recording.pack(audited.record))
    again = audit(Request(snapshot=str(tmp_path / "s"), today=TODAY))
    assert again.report.requirements == audited.report.requirements


@confines
@pytest.mark.parametrize("user", ["tester", "nobody"])
def test_a_runtime_is_copied_where_python_has_none(device, delegate, zoo, made, user):
    python = BASE
    if user == "nobody":
        if os.geteuid():
            pytest.skip("only root becomes nobody")
        version = "{}.{}".format(*sys.version_info)
        said = subprocess.run([SYSTEM, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], check=False, capture_output=True)
        if said.stdout.decode().strip() != version:
            pytest.skip(f"{SYSTEM}, which nobody may run, is not Python {version}")
        python = SYSTEM
    board, told = device(python, user), []
    audited = audit(asked(board, delegate, zoo, runtime=made), told.append)
    assert note(audited) == ""
    assert any(text.startswith("copying to the device") for text in told)
    for each in documents(audited):
        assert each["status"]["outcome"] == "completed", each["status"]
        readable = each["conditions"]["confinement"]["readable"]
        assert any(path.startswith(str(board.folder)) and path.endswith("/runtime/numpy") for path in readable), readable
        assert each["conditions"]["refused"] == []
    assert board.left() == []
    assert gone(descendants())


def test_what_the_device_has_is_not_copied(device, delegate, zoo, made):
    board, told = device(), []
    audited = audit(asked(board, delegate, zoo, runtime=made), told.append)
    assert note(audited) == ""
    assert not any("/runtime/" in path for each in documents(audited) for path in each["conditions"]["confinement"]["readable"])


def test_models_and_a_delegate_of_the_device(device, delegate, zoo, monkeypatch):
    board = device()
    request = Request(
        host=board.host, delegate=delegate, zoo=zoo, device_dir=str(board.folder), bench_time="quick", probes=False, today=TODAY
    )
    audited = audit(request)
    assert note(audited) == ""
    assert {each["delegate"]["path"] for each in documents(audited)} == {delegate}
    assert [(each.name, each.origin) for each in audited.report.zoo.models] == [(NAME, "given")]


def test_without_a_runtime_the_three_ways_are_named(device, delegate, zoo):
    board = device(BASE)
    audited = audit(asked(board, delegate, zoo))
    (reason,) = reasons(audited)
    for way in ("benchmark_model and inference_diff_eval", "a TFLite runtime for its python3", "--runtime DIR", "for Python 3."):
        assert way in reason
    assert "\n" not in note(audited)
    assert board.left() == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"delegate": "/no/such.so"}, "--delegate: /no/such.so: expected a shared library, and there is no such file (on tester@board)"),
        ({"zoo": "/etc/ssl"}, "--zoo: /etc/ssl: expected model files"),
        ({"device_dir": "/no/such"}, "--device-dir: /no/such: No such file or directory (on tester@board)"),
        ({"allow_paths": ("/no/such",)}, "--allow-path: /no/such: expected a file or a folder that is there (on tester@board)"),
        ({"stable_delegate": "/no/such.json", "delegate": None}, "--stable-delegate: /no/such.json: No such file"),
        ({"runtime": "/etc/ssl"}, "--runtime: /etc/ssl: expected a folder that `pip install --target` made"),
        ({"delegate": "local:/no/such.so"}, "--delegate: /no/such.so: expected a shared library, and there is no such file"),
    ],
)
def test_what_is_named_wrongly_is_one_line(device, delegate, zoo, changed, line):
    board = device()
    named = {"delegate": f"local:{delegate}", "zoo": f"local:{zoo}", "device_dir": str(board.folder), **changed}
    with pytest.raises(UsageError) as refused:
        audit(Request(host=board.host, bench_time="quick", probes=False, today=TODAY, **named))
    assert str(refused.value).startswith(line)
    assert str(refused.value).isprintable()
    assert board.left() == []
    assert gone(descendants())


def test_a_runtime_for_another_python_is_named_before_it_is_copied(device, delegate, zoo, tmp_path):
    folder = tmp_path / "other"
    (folder / "ai_edge_litert").mkdir(parents=True)
    (folder / "ai_edge_litert" / "interpreter.py").write_text("")
    (folder / "ai_edge_litert-2.1.0.dist-info").mkdir()
    (folder / "ai_edge_litert-2.1.0.dist-info" / "WHEEL").write_text("Wheel-Version: 1.0\nTag: cp39-cp39-manylinux_2_27_mips\n")
    with pytest.raises(UsageError) as refused:
        audit(asked(device(BASE), delegate, zoo, runtime=str(folder)))
    assert str(refused.value).startswith(
        f"--runtime: {folder}: ai_edge_litert-2.1.0 is made for cp39-cp39-manylinux_2_27_mips, expected Python 3."
    )


def test_device_dir_is_for_a_device():
    with pytest.raises(UsageError, match="--device-dir: expected with --host"):
        audit(Request(device_dir="/tmp", today=TODAY))


# --- what ends it half way ----------------------------------------------------------------------------------------------------------------


def half_way(then):
    """A progress that does something once the second round begins; and what was running then."""
    seen: list[psutil.Process] = []

    def progress(text: str) -> None:
        if "round 2" in text and not seen:
            seen.extend(descendants())
            then()

    return seen, progress


def interrupt() -> None:
    raise KeyboardInterrupt


def kill(*words: str):
    def action() -> None:
        # what it has just forked is still called as it is
        victim = min(running(*words), key=psutil.Process.create_time)
        victim.send_signal(signal.SIGKILL)

    return action


@confines
@pytest.mark.parametrize(
    ("then", "said"),
    [
        (interrupt, "The measurement was interrupted; the report holds what was finished."),
        (kill("auditor.agent"), "--host tester@board: the connection ended"),
        (kill("auditor.bench.remote"), "--host tester@board: what measures the zoo there ended: signal 9 (Killed)"),
    ],
    ids=["interrupt", "agent", "zoo"],
)
def test_what_was_finished_is_reported_and_nothing_is_left(device, delegate, zoo, made, then, said):
    board = device(BASE)
    seen, progress = half_way(then)
    audited = audit(asked(board, delegate, zoo, runtime=made), progress)
    assert seen
    assert note(audited).startswith(said)
    plan = json.loads(audited.record.answers[base.plan()].data)
    assert plan["runs"] == [[NAME, 1]]
    assert documents(audited, 1)[0]["status"]["outcome"] == "completed"
    # the static part had been finished before
    assert any(result.id == "misc-1" and result.outcome is Outcome.PASS for result in audited.report.requirements)
    assert gone(seen)
    deadline = time.monotonic() + 60
    while board.left():
        assert time.monotonic() < deadline, board.left()
        time.sleep(0.05)


def test_a_worker_that_does_not_end_with_the_zoo_is_ended_by_the_agent(device, delegate, zoo):
    """The zoo's process and, at the same moment, the ability of its worker to notice are taken away."""

    def then() -> None:
        workers = running("auditor.inference.worker.main")
        for each in workers:
            each.suspend()
        kill("auditor.bench.remote")()

    seen, progress = half_way(then)
    audit(asked(device(), delegate, zoo), progress)
    assert gone(seen)


# --- a device that says something else ----------------------------------------------------------------------------------------------------

SPEAKER = """
import sys
sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "big"))
out = sys.stdout.buffer
out.write({mark!r})
out.flush()
for reply in {replies!r}:
    sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "big"))
    out.write(reply)
    out.flush()
sys.stdin.buffer.read()
"""


def frame(content: object) -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(data).to_bytes(8, "big") + data


@pytest.fixture
def speaker(tmp_path, monkeypatch):
    """An `ssh` that replies what it is told to."""

    def make(*replies: bytes) -> None:
        program = tmp_path / "ssh"
        (tmp_path / "speaker.py").write_text(SPEAKER.format(mark=MARK, replies=replies))
        program.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/speaker.py\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return make


SURVEY = {
    "python": [3, 13],
    "machine": "x86_64",
    "glibc": [2, 41],
    "no_runtime": "",
    "delegate": "/d.so",
    "settings": None,
    "found": [],
    "archive": "",
    "tools": False,
}
FOUND = {"name": NAME, "sha256": "0" * 64, "origin": "device"}


def job() -> over_ssh.RemoteJob:
    return over_ssh.RemoteJob(load("r113-zoo-0.0.2").zoo, ZooOptions(delegate="/d.so", zoo="/zoo", bench_time="quick"))


@pytest.mark.parametrize(
    "survey",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"a": 1, "b": 2}',
        b'{"end": NaN}',
        b"[" * 100_000,
        {"end": []},
        {"end": {**SURVEY, "python": [3]}},
        {"end": {**SURVEY, "python": ["3", "13"]}},
        {"end": {**SURVEY, "glibc": "2.41"}},
        {"end": {**SURVEY, "found": ["x"]}},
        {"end": {**SURVEY, "found": [{**FOUND, "name": "x"}]}},
        {"end": {**SURVEY, "found": [{**FOUND, "sha256": "x"}]}},
        {"end": {**SURVEY, "found": [{**FOUND, "origin": "stand-in"}]}},
        {"end": {**SURVEY, "delegate": 1}},
        {"end": {**SURVEY, "archive": None}},
        {"end": {**SURVEY, "tools": 1}},
    ],
)
def test_a_survey_that_is_none_is_one_line(speaker, survey):
    speaker(frame(survey))
    with (
        pytest.raises(AuditError, match=r"^--host x: unexpected reply from the agent$"),
        Ssh("x", zoo=True) as connection,
    ):
        over_ssh.equip(connection, job(), over_ssh.Upload(), lambda _text: None)


@pytest.mark.parametrize(
    "run", [1, [], [NAME], [1, {}], [NAME, []], ["other", {}], ["mobilenet_v2_1.0_224", {}]], ids=lambda each: str(each)[:20]
)
def test_a_run_that_is_none_is_one_line(speaker, run):
    speaker(frame({"run": run}))
    equipped = over_ssh.RemoteSetup("/d.so", models=(over_ssh.ZooModelUsed(NAME, "0" * 64, "device"),))
    with pytest.raises(AuditError, match="unexpected reply from the agent"), Ssh("x", zoo=True) as connection:
        list(over_ssh.measure(connection, job(), equipped, lambda _text: None))


def test_more_runs_than_can_be_are_refused(speaker):
    speaker(frame({"run": [NAME, {}]}) * (over_ssh.MAX_RUNS + 1))
    equipped = over_ssh.RemoteSetup("/d.so", models=(over_ssh.ZooModelUsed(NAME, "0" * 64, "device"),))
    got = []
    with pytest.raises(AuditError, match="unexpected reply from the agent"), Ssh("x", zoo=True) as connection:
        got += [name for name, _document in over_ssh.measure(connection, job(), equipped, lambda _text: None)]


def test_a_reply_that_is_too_long_is_refused(speaker, monkeypatch):
    monkeypatch.setattr(ssh, "MESSAGE_LIMIT", 100)
    speaker(frame(b" " * 101))
    with pytest.raises(AuditError, match="a reply has 101 bytes, expected at most 100"), Ssh("x", zoo=True) as connection:
        list(connection.call({"do": "survey"}))


def test_words_of_a_device_are_made_visible(speaker):
    speaker(frame({"usage": "\x1b[31m\n"}))
    with pytest.raises(UsageError) as refused, Ssh("x", zoo=True) as connection:
        list(connection.call({"do": "survey"}))
    assert str(refused.value).isprintable()


def test_signs_of_life_are_passed_over(speaker):
    speaker(frame(b"") * 3 + frame({"progress": "x"}) + frame(b"") + frame({"end": {}}))
    with Ssh("x", zoo=True) as connection:
        assert list(connection.call({"do": "survey"})) == [("progress", "x"), ("end", {})]


# --- what goes over -----------------------------------------------------------------------------------------------------------------------


def test_the_zoo_goes_over_only_where_it_is_run():
    names = set(zipfile.ZipFile(io.BytesIO(agent_zip())).namelist())
    more = set(zipfile.ZipFile(io.BytesIO(agent_zip(zoo=True))).namelist())
    assert not [name for name in names if name.startswith(("auditor/bench/", "auditor/tflite/", "auditor/zoo/", "auditor/inference/"))]
    assert names < more
    assert "auditor/bench/remote.py" in more
    assert not [name for name in more if not name.endswith(".py")]


WRITE = """
import os, sys
program = sys.path[0]
try:
    descriptor = os.open(program, os.O_RDWR)
    os.write(descriptor, b"x")
except PermissionError as error:
    print(error.errno, file=sys.stderr)
"""


def test_the_program_in_memory_cannot_be_changed(tmp_path):
    """A worker's vendor code has a descriptor of it, and further workers are started from it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("auditor/__init__.py", "")
        archive.writestr("auditor/agent.py", f"def main():\n    exec({WRITE!r})\n")
    sent = len(out.getvalue()).to_bytes(8, "big") + out.getvalue()
    done = subprocess.run(
        ["sh", "-c", ssh._PYTHON.replace("python3", sys.executable, 1)], input=sent, capture_output=True, check=True, cwd="/"
    )
    assert done.stderr.decode().strip() == "1"


@pytest.mark.parametrize("name", ["r113-zoo-0.0.2", "r113-zoo-0.0.6"])
def test_the_catalogue_arrives_as_it_left(name):
    models = load(name).zoo.models
    assert tuple(read_model(json.loads(json.dumps(model_document(each)))) for each in models) == models


# --- tools of the device -----------------------------------------------------------------------------------------------------------------

CLAIMED = {"outputs": [{"index": 0, "correlation": 1.0, "error": 0.0, "distance": 1.0}]}


def ran(answers):
    return {"runner": "native", "conditions": {"tool": {"path": "/t", "answers": answers}}}


@pytest.mark.parametrize("why", ["", "no runtime here"])
def test_what_a_device_says_of_its_own_tools_answers_is_dropped(speaker, monkeypatch, why):
    monkeypatch.setattr(over_ssh.runtime, "why_none", lambda _choice: why)
    ended = {"end": {"no_runtime": "", "problem": ""}}
    content = {"end": {"model": base64.b64encode(b"another file").decode()}}
    speaker(*([] if why else [frame(content)]), frame({"run": [NAME, ran(CLAIMED)]}) + frame(ended))
    equipped = over_ssh.RemoteSetup("/d.so", models=(over_ssh.ZooModelUsed(NAME, "0" * 64, "device"),), tools=True)
    with Ssh("x", zoo=True) as connection:
        ((_name, document),) = over_ssh.measure(connection, job(), equipped, lambda _text: None)
    assert document["conditions"]["tool"] == {"path": "/t", "answers": {"note": why or "the device did not send the model"}}


@pytest.mark.parametrize("name", ["", "x"])
def test_a_model_that_was_not_found_is_not_sent(name, capfd):
    assert remote.Job(0, 1).do_content({"name": name}) == {"model": ""}


@confines
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) to build the stand-in tools with")
@pytest.mark.parametrize("place", ["controller", "device"])
def test_the_controllers_runtime_answers_what_the_devices_tool_was_asked(device, zoo, tmp_path, place):
    """The tools are stand-ins that never read the model: their answers have nothing to do with those of the controller's runtime."""
    if not any(map(_version, RUNTIMES)):
        pytest.skip("no TFLite runtime is installed")
    board = device()
    build_tools(str(tmp_path / "python"))
    request = replace(
        asked(board, build_delegate(str(tmp_path / "libvendor.so")), zoo),
        zoo=zoo if place == "device" else f"local:{zoo}",
        bench_time="quick",
    )
    report = audit(request).report
    runs = report.model_runs
    assert runs, report.notes
    assert {run.runner for run in runs} == {"native"}
    for run in runs:
        answers = run.conditions["tool"]["answers"]
        assert answers["inputs"] == 4, answers
        assert answers["runtime"].partition(" ")[0] in RUNTIMES
        assert "carried" not in answers
    assert board.left() == []
