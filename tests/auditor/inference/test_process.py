from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time

import pytest

from auditor.bench import embedded
from auditor.bench.document import Job
from auditor.inference import channel, executor, process
from auditor.inference.fdinfo import DeviceUse
from auditor.inference.process import Worker
from auditor.inference.processes import descendants
from auditor.inference.watch import Limits
from auditor.inference.wire import AUTO, Outcome, WorkerFailure

LIMITS = Limits(request_seconds=10)


def replace_worker(monkeypatch, body):
    """Have workers run another program: the real one with `body` executed before it starts."""
    real = process.BOOTSTRAP
    assert "from auditor.inference.worker.main import main\n" in real
    mended = real.replace(
        "from auditor.inference.worker.main import main\n",
        f"from auditor.inference import wire\nfrom auditor.inference.worker import main as worker\n{body}\n",
    )
    code = mended.replace("main(int", "worker.main(int")
    monkeypatch.setattr(process, "_COMMAND", (*process._COMMAND[:-1], code))


FAKE = """
class Fake(worker.Session):
    def do_hello(self, header, payload): return {"python": "3", "runtime": {"name": "ai-edge-litert", "version": "0"}, "folders": []}, b""
    def do_operators(self, header, payload): return {"operators": {"ADD": 99, "MUL": 99}}, b""
    def do_model(self, header, payload):
        tensor = {"name": "x", "shape": [2, 4], "dtype": "float32"}
        return {"inputs": [tensor], "outputs": [tensor], "claims": None}, b""
    def do_input(self, header, payload): return {}, b""
    said = bytes(32)
    def do_invoke(self, header, payload):
        if "count" not in header: return {"ns": 0}, b""
        return {"ns": [0] * header["count"], "digests": [worker.sealing.digest(self.said)] * header["count"]}, b""
    def do_output(self, header, payload):
        outputs = [{"shape": [2, 4], "dtype": "float32"}]
        count = header.get("count", 1)
        return {"outputs": [outputs] * count if "count" in header else outputs}, self.said * count
"""


def session(method, body):
    """Source of a worker that needs no runtime and answers one request in its own way."""
    return f"{FAKE}\nclass Liar(Fake):\n    def do_{method}(self, header, payload):\n        {body}\nworker.Session = Liar"


def run_delegate(worker, runtime, delegate, options):
    worker.hello(runtime)
    worker.load_delegate(delegate, options)
    loaded = worker.load_model(1, xnnpack=False)
    for _ in range(3):
        worker.set_inputs(bytes(loaded.inputs[0].nbytes))
        worker.invoke()
    worker.quit()


def run_all(worker):
    worker.hello(AUTO)
    loaded = worker.load_model(1, xnnpack=False)
    worker.set_inputs(bytes(loaded.inputs[0].nbytes))
    worker.invoke()
    worker.outputs()
    worker.quit()


def failure(model, limits=LIMITS):
    with Worker("test", model, limits) as worker, pytest.raises(WorkerFailure) as caught:
        run_all(worker)
    assert not os.path.exists(f"/proc/{worker.pid}")
    return caught.value.status


def test_the_honest_worker(model):
    with Worker("test", model, LIMITS) as worker:
        run_all(worker)
    assert not os.path.exists(f"/proc/{worker.pid}")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fault": "fail", "at": "create"}, {"outcome": "delegate-create-failed", "stage": "create"}),
        ({"fault": "no-such-fault"}, {"outcome": "delegate-create-failed", "stage": "create"}),
        ({"fault": "fail", "at": "prepare"}, {"outcome": "prepare-failed", "stage": "prepare"}),
        ({"fault": "fail", "at": "kernel-prepare"}, {"outcome": "prepare-failed", "stage": "kernel-prepare"}),
        ({"fault": "fail", "after": "2"}, {"outcome": "invoke-failed", "stage": "invoke"}),
        ({"fault": "abort", "at": "create"}, {"outcome": "died", "stage": "delegate", "signal": 6}),
        ({"fault": "abort"}, {"outcome": "died", "stage": "invoke", "signal": 6}),
        ({"fault": "crash", "at": "prepare"}, {"outcome": "died", "stage": "model", "signal": 11}),
        ({"fault": "crash", "after": "2"}, {"outcome": "died", "stage": "invoke", "signal": 11}),
        ({"fault": "crash", "at": "destroy"}, {"outcome": "died", "stage": "quit", "signal": 11}),
        ({"fault": "exit", "value": "0", "after": "2"}, {"outcome": "exited", "stage": "invoke", "exit": 0}),
        ({"fault": "exit", "value": "3", "at": "create"}, {"outcome": "exited", "stage": "delegate", "exit": 3}),
        ({"fault": "exit", "value": "0", "at": "destroy"}, {"outcome": "exited", "stage": "quit", "exit": 0}),
        ({"fault": "forge", "after": "2"}, {"outcome": "protocol-error", "stage": "invoke"}),
    ],
    ids=lambda value: "-".join(value.values()) if "fault" in value else "",
)
def test_each_fault_has_its_status(delegate, model, runtime, options, expected):
    with Worker("test", model, LIMITS) as worker, pytest.raises(WorkerFailure) as caught:
        run_delegate(worker, runtime, delegate, options)
    status = {key: value for key, value in caught.value.status.to_json().items() if value is not None}
    assert status.pop("message")
    assert status == {"process": "test", **expected}


@pytest.mark.parametrize(
    ("ops", "partitions"), [("none", []), ("0", [[0], [2]]), ("18", [[1]]), ("0,18", [[0, 1, 2]])], ids=["none", "ADD", "MUL", "both"]
)
@pytest.mark.parametrize("xnnpack", [True, False], ids=["xnnpack", "plain"])
def test_partitions_are_exact(delegate, model, runtime, ops, partitions, xnnpack):
    with Worker("test", model, LIMITS) as worker:
        worker.hello(runtime)
        worker.load_delegate(delegate, {"ops": ops})
        claims = worker.load_model(1, xnnpack=xnnpack).claims
        worker.quit()
    assert claims.operators == (3,)
    assert [list(part.nodes) for part in claims.partitions] == partitions


def claims(nodes):
    return f"return {{'inputs': [], 'outputs': [], 'claims': {{'operators': [2], 'partitions': [{nodes}]}}}}, b''"


def test_the_fake_worker(model, monkeypatch):
    """What the lies are measured against."""
    replace_worker(monkeypatch, session("input", "return {}, b''"))
    with Worker("test", model, LIMITS) as worker:
        run_all(worker)


@pytest.mark.parametrize(
    ("method", "body", "stage"),
    [
        ("invoke", "return {'ns': 10**12}, b''", "invoke"),
        ("invoke", "return {'ns': -1}, b''", "invoke"),
        ("invoke", "return {'ns': 1.5}, b''", "invoke"),
        ("invoke", "return {'ns': True}, b''", "invoke"),
        ("invoke", "return {}, b''", "invoke"),
        ("invoke", "return {'id': 99, 'ns': 1}, b''", "invoke"),
        ("invoke", "return {'error': {'outcome': 'completed', 'stage': 'x', 'message': ''}}, b''", "invoke"),
        ("invoke", "return {'error': {'outcome': ['died'], 'stage': 'x', 'message': ''}}, b''", "invoke"),
        ("invoke", "return {'error': 'oops'}, b''", "invoke"),
        ("output", "return {'outputs': [{'shape': [2, 4], 'dtype': 'float32'}]}, b'short'", "output"),
        ("output", "return {'outputs': [{'shape': [2, -4], 'dtype': 'float32'}]}, b''", "output"),
        ("output", "return {'outputs': [{'shape': [1 << 30] * 9, 'dtype': 'float32'}]}, b''", "output"),
        ("output", "return {'outputs': [{'shape': [2, 4], 'dtype': 'object'}]}, b''", "output"),
        ("output", "return {'outputs': {'shape': 1}}, b''", "output"),
        ("model", "return {'inputs': [], 'outputs': [], 'claims': 7}, b''", "model"),
        ("model", claims("{'subgraph': 0, 'name': '', 'nodes': [2]}"), "model"),
        ("model", claims("{'subgraph': 1, 'name': '', 'nodes': [0]}"), "model"),
        ("model", claims("{'subgraph': 0, 'name': '', 'nodes': [1, 1]}"), "model"),
        ("model", claims("{'subgraph': 0, 'name': 5, 'nodes': [1]}"), "model"),
    ],
)
def test_lies(model, monkeypatch, method, body, stage):
    replace_worker(monkeypatch, session(method, body))
    status = failure(model)
    assert (status.outcome, status.stage) == (Outcome.PROTOCOL_ERROR, stage)


@pytest.mark.parametrize(
    "frame",
    [
        "b'x' * 4096",
        "wire.LENGTHS.pack(2, 1 << 60) + b'{}'",
        "wire.LENGTHS.pack(1 << 31, 0)",
        "wire.LENGTHS.pack(4, 0) + b'[[[['",
        "wire.LENGTHS.pack(200000, 0) + b'[' * 200000",
        "wire.LENGTHS.pack(10, 0) + b'{\"id\": NaN}'[:10]",
        "wire.LENGTHS.pack(2, 0) + b'{}' + wire.LENGTHS.pack(2, 0) + b'{}'",
    ],
    ids=["junk", "large payload", "large header", "no JSON", "deep JSON", "NaN", "two replies"],
)
def test_frames_that_are_none(model, monkeypatch, frame):
    replace_worker(monkeypatch, session("hello", f"import os, sys; os.write(int(sys.argv[3]), {frame}); return {{}}, b''"))
    status = failure(model)
    assert (status.outcome, status.stage) == (Outcome.PROTOCOL_ERROR, "hello")


def test_a_reply_before_its_request_is_found(model, monkeypatch):
    early = "os.write(int(sys.argv[3]), wire.pack({'id': header['id'] + 1, 'ns': 1}))"
    reply = "os.write(int(sys.argv[3]), wire.pack({'id': header['id']}))"
    replace_worker(monkeypatch, session("input", f"import os, sys; {reply}; {early}; import time; time.sleep(60)"))
    assert failure(model).outcome is Outcome.PROTOCOL_ERROR


def test_a_closed_channel_is_waited_for_no_longer_than_the_limit(model, monkeypatch):
    replace_worker(monkeypatch, session("input", "import os, sys, time; os.close(int(sys.argv[3])); time.sleep(60)"))
    assert failure(model, Limits(request_seconds=0.5)).outcome is Outcome.TIMED_OUT


def test_a_worker_that_cannot_start(model, monkeypatch):
    monkeypatch.setattr(process, "_COMMAND", (sys.executable, "-c", "raise SystemExit('no worker today')"))
    with Worker("test", model, LIMITS) as worker, pytest.raises(WorkerFailure) as caught:
        worker.hello(AUTO)
    assert caught.value.status.outcome is Outcome.EXITED
    assert caught.value.status.exit == 1
    assert "no worker today" in caught.value.output


def test_killed_from_outside(model):
    with Worker("test", model, LIMITS) as worker:
        worker.hello(AUTO)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailure) as caught:
            worker.load_model(1, xnnpack=False)
    assert caught.value.status.outcome in {Outcome.DIED, Outcome.OUT_OF_MEMORY}
    assert caught.value.status.signal == signal.SIGKILL


def test_the_runtime_is_missing(model, monkeypatch):
    replace_worker(monkeypatch, "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]")
    status = failure(model)
    assert (status.outcome, status.stage) == (Outcome.RUNTIME_MISSING, "hello")
    assert "ai-edge-litert" in status.message
    assert "tflite-runtime" in status.message


def test_no_memory_in_the_worker(model, monkeypatch):
    replace_worker(monkeypatch, session("input", "raise MemoryError"))
    assert failure(model).outcome is Outcome.OUT_OF_MEMORY


def test_what_the_worker_started_ends_with_it(model, monkeypatch):
    body = "import subprocess; print('child', subprocess.Popen(['sleep', '600']).pid, flush=True); return {}, b''"
    replace_worker(monkeypatch, session("input", body))
    with Worker("test", model, LIMITS) as worker:
        worker.hello(AUTO)
        loaded = worker.load_model(1, xnnpack=False)
        worker.set_inputs(bytes(loaded.inputs[0].nbytes))
        worker.invoke()
        child = int(re.search(r"child (\d+)", worker.output)[1])
    assert gone(child)


RESISTS = """
import ctypes, os, signal, threading
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
os.mkdir("locked", 0o700)
open("locked/file", "w").close()
os.chmod("locked", 0o300)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.PyDLL(None).sleep(600)
    os._exit(0)
threading.Thread(target=lambda: ctypes.PyDLL(None).sleep(600)).start()
ctypes.PyDLL(None).sleep(600)
"""
"""What a worker executes that does not want to end: deaf to signals, the interpreter's lock held, a helper without a parent, and a folder
that may not be listed."""


@pytest.mark.parametrize("confined", [True, False], ids=["confined", "unconfined"])
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_nothing_is_left_when_the_controller_is_ended(tmp_path, number, confined):
    """Even while it is in code that never returns, and the controller has no moment to clean up."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(process.__file__)))
    resists = "import ctypes; ctypes.PyDLL(None).sleep(600)" if confined else RESISTS
    bootstrap = process.BOOTSTRAP.replace("main(int", "import auditor.inference.worker.main as w\nw.Session.do_model = stay\nmain(int")
    bootstrap = f"def stay(*_):\n    import os\n    exec({resists!r}, {{'os': os}})\n{bootstrap}"
    controller = f"""
import sys; sys.path.insert(0, {root!r})
from auditor.inference import process
process._COMMAND = (*process._COMMAND[:-1], {bootstrap!r})
worker = process.Worker("test", b"", process.Limits())
worker.hello("auto")
{"worker.confine(process.Policy(), required=False)" if confined else ""}
print(worker.pid, flush=True)
worker.load_model(1, xnnpack=False)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", controller], stdout=subprocess.PIPE, env=environment) as running:
        pid = int(running.stdout.readline())
        family, deadline = set(), time.monotonic() + 10
        while len(family) < (2 if confined else 3) and time.monotonic() < deadline:
            time.sleep(0.1)
            family = descendants(running.pid) - {running.pid}
        time.sleep(0.2)  # let it get into the call
        assert pid in family
        assert os.listdir(tmp_path)
        running.send_signal(getattr(signal, number))
    assert [each for each in family if not gone(each, seconds=20)] == []
    deadline = time.monotonic() + 20
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert os.listdir(tmp_path) == []


def test_a_supervisor_that_is_ended_takes_its_worker_with_it(model):
    with Worker("test", model, LIMITS) as worker:
        worker.hello(AUTO)
        os.kill(worker._supervisor.pid, signal.SIGKILL)
        assert gone(worker.pid)
        with pytest.raises(WorkerFailure, match="ended from outside") as caught:
            worker.load_model(1, xnnpack=False)
        assert caught.value.status.outcome is Outcome.DIED
        scratch = worker.scratch
    assert not os.path.exists(scratch)


def gone(pid, seconds=5.0):
    """Tell whether a process is no more, or only a zombie that someone else must reap."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == b"Z":
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)


def test_the_greatest_peak_counts(model):
    with Worker("test", model, LIMITS) as worker:
        worker.hello(AUTO)
        before = worker.peak_bytes()
        worker.load_model(1, xnnpack=True)
        assert worker.peak_bytes() >= before > 10 << 20
        last = worker.peak_bytes()
        worker.quit()
        assert worker.peak_bytes() >= last


def test_the_greatest_reading_of_device_memory_counts(model, monkeypatch):
    readings = iter([5, 9, 2])
    monkeypatch.setattr(process, "read_device_use", lambda _pids, _accelerator: DeviceUse(next(readings)))
    with Worker("test", model, LIMITS) as worker:
        assert [worker.device_bytes() for _ in range(3)] == [5, 9, 9]


def test_device_memory_that_was_once_not_read_is_not_known(model, monkeypatch):
    def denied(_pids, _accelerator):
        raise PermissionError

    with Worker("test", model, LIMITS) as worker:
        assert worker.device_bytes() == 0
        with monkeypatch.context() as patch:
            patch.setattr(process, "read_device_use", denied)
            assert worker.device_bytes() is None
        assert worker.device_bytes() is None


@pytest.mark.parametrize(
    "body",
    [
        "return {'outputs': [[{'shape': [8], 'dtype': 'float32'}]]}, bytes(32)",
        "return {'outputs': [[{'shape': [2, 4], 'dtype': 'int32'}]]}, bytes(32)",
        "return {'outputs': [[]]}, self.said",
    ],
    ids=["shape", "type", "number"],
)
def test_outputs_of_another_shape(model, monkeypatch, body):
    with monkeypatch.context() as patch:
        replace_worker(patch, session("input", "return {}, b''"))
        honest = process._COMMAND
    with monkeypatch.context() as patch:
        replace_worker(patch, session("output", body) + ("; Liar.said = b''" if body.startswith("return {'outputs': [[]]}") else ""))
        lying = process._COMMAND

    def start(role, *arguments, **options):
        monkeypatch.setattr(process, "_COMMAND", lying if role == "test" else honest)
        return Worker(role, *arguments, **options)

    monkeypatch.setattr(executor, "Worker", start)
    run = embedded.measure(Job("chain", model, inputs=2, min_runs=1, min_seconds=0, warmup_seconds=0))
    assert run["status"]["outcome"] == "output-shape-mismatch", run["status"]
    assert run["status"]["process"] == "test"
    assert run["samples_us"] == []
    assert run["accuracy"] is None


def batch_of(model, payloads):
    with Worker("test", model, LIMITS) as worker:
        worker.hello(AUTO)
        worker.load_model(1, xnnpack=False)
        return worker.run_batch(payloads)


def test_a_batch(model):
    payloads = [struct.pack("<8f", *([value] * 8)) for value in (1.0, 2.0, 3.0)]
    batch = batch_of(model, payloads)
    answers = [struct.unpack("<8f", answer) for _, answer in batch.answers]
    assert answers == [((value + 0.5) * 0.5 + 0.5,) * 8 for value in (1.0, 2.0, 3.0)]
    assert sum(batch.worker_ns) <= batch.bracket_ns <= batch.exchange_ns


def test_the_inputs_of_a_batch_are_not_there_before_its_clock_starts(model, monkeypatch):
    """A delegate that reads them as they come would have its answers before the bracket begins."""
    body = "import sys; print(payload.hex(), file=sys.stderr, flush=True); return {}, b''"
    replace_worker(monkeypatch, session("input", body))
    with Worker("test", model, LIMITS) as worker:
        worker.hello(AUTO)
        worker.load_model(1, xnnpack=False)
        worker.run_batch([bytes(32), bytes(32)])
        worker.quit()
        seen = bytes.fromhex(worker.output.strip())
    assert len(seen) == 64
    assert seen[:32] != seen[32:]
    assert seen.count(0) < 8


def test_outputs_that_are_put_off_until_they_are_asked_for(model, monkeypatch):
    """A delegate that owes its answers when the bracket ends, and gives them when they are sent."""
    replace_worker(monkeypatch, session("output", "return {'outputs': [[{'shape': [2, 4], 'dtype': 'float32'}]]}, b'\\1' * 32"))
    with pytest.raises(WorkerFailure, match="outputs that were changed after the inference") as caught:
        batch_of(model, [bytes(32)])
    assert caught.value.status.outcome is Outcome.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "body",
    [
        "return {'ns': [0]}, b''",
        "return {'ns': [0], 'digests': []}, b''",
        "return {'ns': [], 'digests': ['']}, b''",
        "return {'ns': [0], 'digests': [5]}, b''",
        "return {'ns': [1 << 60], 'digests': ['']}, b''",
        "return {'ns': [-1], 'digests': ['']}, b''",
    ],
)
def test_a_batch_that_is_not_answered_as_one(model, monkeypatch, body):
    replace_worker(monkeypatch, session("invoke", body))
    with pytest.raises(WorkerFailure) as caught:
        batch_of(model, [bytes(32)])
    assert caught.value.status.outcome is Outcome.PROTOCOL_ERROR


def test_a_page_that_the_kernel_holds_for_a_moment_is_sealed_later(monkeypatch):
    answers = [OSError(16, "Device or resource busy"), OSError(16, "Device or resource busy"), 0]

    def seal(descriptor, command, argument):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer

    monkeypatch.setattr(channel.fcntl, "fcntl", seal)
    channel._seal(-1)
    assert answers == []
    answers = [OSError(9, "Bad file descriptor")]
    with pytest.raises(OSError, match="Bad file"):
        channel._seal(-1)
