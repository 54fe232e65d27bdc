"""The service behind a socket, asked by clients that we did not write (curl, tritonclient), and by strangers that send what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from auditor import cli
from auditor.serving.protocol import BINARY_HEADER

pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra: serve)")

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
MAIN = [sys.executable, "-c", "from auditor.cli import main; main()"]
MOBILENET = os.path.join(os.path.dirname(ROOT), "shared", "models", "mobilenet_v2_1.0_224_quant.tflite")
X = struct.pack("<8f", *range(8))
Y = struct.pack("<8f", *((x + 0.5) * 0.5 + 0.5 for x in range(8)))
INPUT = {"name": "t0", "datatype": "FP32", "shape": [2, 4]}
FEW = """
import asyncio, os, sys
from auditor.inference.executor import Options
from auditor.inference.results import Budget
from auditor.inference.service import InferenceService
from auditor.serving import listen
from auditor.serving.http import Limits, serve
from auditor.zoo.published import read_published
bounds = dict(connections=4, requests=2, body_bytes=4096, bodies_bytes=6000, header_seconds=0.5, body_seconds=0.5)
limits = Limits(**bounds, uids=frozenset({os.geteuid()}))
options = Options(delegate=sys.argv[3], options=(("fault", "slow"), ("value", "300"))) if len(sys.argv) > 3 else Options()
with listen.opened(listen.read_place(sys.argv[2]), 0o600) as listening:
    print("listening on", listen.shown(listening), file=sys.stderr, flush=True)
    service = InferenceService(read_published(sys.argv[1]), Budget(seconds=20), options)
    asyncio.run(serve(service, listening, limits))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("published")
    (folder / "m.tflite").write_bytes(model)
    digests = {"m.tflite": hashlib.sha256(model).hexdigest(), "gone.tflite": "0" * 64}
    if os.path.exists(MOBILENET):
        shutil.copy(MOBILENET, folder / "mobilenet.tflite")
        digests["mobilenet.tflite"] = hashlib.sha256((folder / "mobilenet.tflite").read_bytes()).hexdigest()
    (folder / "sha256sums").write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    return str(folder)


@contextlib.contextmanager
def running(command, **more):
    """A server that listens: its process, and where."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, **more)
    try:
        line = process.stderr.readline()
        assert line.startswith("listening on "), line + process.stderr.read()
        yield process, line.removeprefix("listening on ").strip()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="module")
def on_unix(published, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("s") / "s")
    with running([*MAIN, "service", "serve", published, "--listen", f"unix:{path}"]):
        yield path


@pytest.fixture(scope="module")
def on_tcp(published):
    with running([*MAIN, "service", "serve", published, "--listen", "tcp:127.0.0.1:0", "--requests-per-minute", "40"]) as (_, where):
        yield int(where.rpartition(":")[2])


@pytest.fixture(scope="module")
def strict(published, tmp_path_factory):
    """A server with limits that are soon reached."""
    path = str(tmp_path_factory.mktemp("s") / "s")
    with running([sys.executable, "-c", FEW, published, f"unix:{path}"]):
        yield path


def connected(where):
    if isinstance(where, int):
        return socket.create_connection(("127.0.0.1", where), 20)
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(20)
    found.connect(where)
    return found


class Asked(http.client.HTTPConnection):
    def __init__(self, where):
        super().__init__("localhost", timeout=20)
        self.where = where

    def connect(self):
        self.sock = connected(self.where)


def ask(where, method, path, body=None, headers=()):
    """Status, headers and body of an answer."""
    connection = Asked(where)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def infer(where, document, binary=b"", headers=None, model="m"):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    more = {BINARY_HEADER: str(len(text))} if binary else {}
    status, headers, body = ask(where, "POST", f"/v2/models/{model}/infer", text + binary, {**more, **(headers or {})})
    size = int(headers.get(BINARY_HEADER, len(body)))
    return status, json.loads(body[:size]), body[size:]


def fine(where):
    """Whether an honest request gets its result."""
    return (
        infer(where, {"inputs": [{**INPUT, "parameters": {"binary_data_size": 32}}], "parameters": {"binary_data_output": True}}, X)[2] == Y
    )


def soon_fine(where):
    """The same, once the server has seen that strangers left: it has few connections."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return fine(where)
    return False


# --- clients that we did not write --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_reads_metadata_and_is_told_of_a_missing_model(on_unix):
    def curl(path, *more):
        done = subprocess.run(
            ["curl", "-sS", "--unix-socket", on_unix, "-w", "\n%{http_code}", *more, f"http://localhost{path}"],
            check=True,
            capture_output=True,
        )
        body, _, code = done.stdout.decode().rpartition("\n")
        return int(code), json.loads(body) if body else None

    assert curl("/v2/models/m") == (
        200,
        {
            "name": "m",
            "versions": ["1"],
            "platform": "tensorflow_lite",
            "inputs": [{"name": "t0", "datatype": "FP32", "shape": [2, 4]}],
            "outputs": [{"name": "t4", "datatype": "FP32", "shape": [2, 4]}],
        },
    )
    code, document = curl("/v2/models/none")
    assert (code, document["code"], document["number"]) == (404, "MODEL_SPEC_ERROR", 1)
    assert curl("/v2/health/ready") == (200, None)
    code, document = curl("/v2/models/m/infer", "-d", json.dumps({"id": "a", "inputs": [{**INPUT, "data": list(range(8))}]}))
    assert (code, document["id"], document["outputs"][0]["data"]) == (200, "a", list(struct.unpack("<8f", Y)))


def test_tritonclient_infers(on_tcp):
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    import numpy as np

    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{on_tcp}")) as client:
        assert client.is_server_live()
        assert client.is_model_ready("m")
        assert {"name": "m", "version": "1", "state": "READY"} in client.get_model_repository_index()
        given = triton.InferInput("t0", [2, 4], "FP32")
        for binary in (True, False):
            given.set_data_from_numpy(np.frombuffer(X, np.float32).reshape(2, 4), binary_data=binary)
            assert client.infer("m", [given], request_id="7").as_numpy("t4").tobytes() == Y
            wanted = triton.InferRequestedOutput("t4", binary_data=not binary)
            assert client.infer("m", [given], outputs=[wanted]).as_numpy("t4").tobytes() == Y
        with pytest.raises(Exception, match="not published"):
            client.infer("none", [given])


@pytest.mark.skipif(not os.path.exists(MOBILENET), reason="../shared/models is not here")
def test_tritonclient_infers_mobilenet(on_tcp):
    """On noise whose class the runtime itself names in this process's stead: the same bytes through a worker of our own."""
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    import numpy as np

    from auditor.inference.executor import Executor, Options
    from auditor.inference.watch import Limits

    image = np.random.default_rng(3).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    with open(MOBILENET, "rb") as file, Executor(file.read(), Options(), Limits(), "test") as executor:
        executor.load()
        executor.worker.set_inputs(image.tobytes())
        executor.worker.invoke()
        expected = executor.worker.outputs()[1]
    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{on_tcp}")) as client:
        given = triton.InferInput("input", [1, 224, 224, 3], "UINT8")
        given.set_data_from_numpy(image)
        found = client.infer("mobilenet", [given]).as_numpy("output")
    assert found.shape == (1, 1001)
    assert found.tobytes() == expected


# --- what is wrong ------------------------------------------------------------------------------------------------------------------------

BINARY = {**INPUT, "parameters": {"binary_data_size": 32}}


@pytest.mark.parametrize(
    ("document", "binary", "status", "code", "said"),
    [
        (b"", b"", 400, "INPUT_FORMAT_ERROR", "expected JSON"),
        (b"[" * 100_000, b"", 400, "INPUT_FORMAT_ERROR", "expected JSON"),
        (b"[]", b"", 400, "INPUT_FORMAT_ERROR", "the request: expected an object"),
        ({}, b"", 400, "INPUT_FORMAT_ERROR", "inputs: expected a list"),
        ({"inputs": []}, b"", 400, "INPUT_MISSING_ERROR", "t0: not given"),
        ({"inputs": [{}] * 1_000_000}, b"", 400, "INPUT_FORMAT_ERROR", "1000000 tensors, expected 256 at most"),
        ({"inputs": [{**BINARY, "name": "other"}]}, X, 400, "UNKNOWN_INPUT_ERROR", "other: expected t0"),
        ({"inputs": [BINARY, BINARY]}, X * 2, 400, "INPUT_FORMAT_ERROR", "input t0 is given twice"),
        ({"inputs": [{**BINARY, "datatype": "INT32"}]}, X, 400, "INPUT_TYPE_ERROR", "t0: int32, expected float32"),
        ({"inputs": [{**BINARY, "datatype": "BYTES"}]}, X, 400, "INPUT_TYPE_ERROR", "inputs[0].datatype: BYTES"),
        ({"inputs": [{**BINARY, "shape": [4, 2]}]}, X, 400, "INPUT_SHAPE_ERROR", "t0: (4, 2), expected (2, 4)"),
        ({"inputs": [{**BINARY, "shape": [-1]}]}, X, 400, "INPUT_SHAPE_ERROR", "inputs[0].shape"),
        ({"inputs": [{**BINARY, "shape": [2, 5]}]}, X, 400, "INPUT_FORMAT_ERROR", "t0: 32 bytes, expected 40 bytes"),
        ({"inputs": [BINARY]}, X[:-1], 400, "INPUT_FORMAT_ERROR", "expected at most the 31 bytes that are left"),
        ({"inputs": [BINARY]}, X + b"x", 400, "INPUT_FORMAT_ERROR", "1 bytes behind the last tensor"),
        ({"inputs": [{**INPUT, "data": ["a"] * 8}]}, b"", 400, "INPUT_FORMAT_ERROR", "expected numbers of type float32"),
        ({"inputs": [{**INPUT, "data": [[1], [1, 2]]}]}, b"", 400, "INPUT_FORMAT_ERROR", "lists of one length"),
        ({"inputs": [INPUT]}, b"", 400, "INPUT_FORMAT_ERROR", "expected either data or"),
        ({"inputs": [BINARY], "outputs": [{"name": "t9"}]}, X, 400, "UNKNOWN_OUTPUT_ERROR", "t9: expected t4"),
        ({"inputs": [BINARY], "outputs": [{"name": "t4"}] * 2}, X, 400, "DUPLICATE_OUTPUT_ERROR", "t4: named twice"),
        (
            b'{"inputs": [{"name": "t0", "datatype": "FP32", "shape": [2, 4], "data": [NaN]}]}',
            b"",
            400,
            "INPUT_FORMAT_ERROR",
            "NaN is not JSON",
        ),
    ],
)
def test_a_wrong_request_gets_its_code_and_others_notice_nothing(on_unix, document, binary, status, code, said):
    found, answer, _ = infer(on_unix, document, binary)
    assert (found, answer["code"]) == (status, code), answer
    assert said in answer["error"]
    assert fine(on_unix)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/models/none", 404, "MODEL_SPEC_ERROR"),
        ("POST", "/v2/models/%0a%1b/infer", 404, "MODEL_SPEC_ERROR"),
        ("GET", "/v2/models/m/versions/2", 404, "MODEL_SPEC_ERROR"),
        ("GET", "/v2/models/gone", 503, "LOAD_MODEL_ERROR"),
        ("GET", "/elsewhere", 404, "MODEL_SPEC_ERROR"),
        ("DELETE", "/v2/models/m", 405, "INPUT_FORMAT_ERROR"),
        ("GET", "/metrics?format=other", 400, "INPUT_FORMAT_ERROR"),
    ],
)
def test_what_does_not_exist_is_said_with_a_code(on_unix, method, path, status, code):
    found, _, body = ask(on_unix, method, path, b"{}" if method == "POST" else None)
    assert (found, json.loads(body)["code"]) == (status, code)


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:80"}, {"Origin": "http://localhost"}])
def test_a_page_of_another_host_is_refused_on_tcp(on_tcp, headers):
    status, _, body = ask(on_tcp, "GET", "/v2", headers=headers)
    assert (status, json.loads(body)["code"]) == (400, "INPUT_FORMAT_ERROR")
    assert ask(on_tcp, "GET", "/v2", headers={"Host": f"localhost:{on_tcp}"})[0] == 200


def test_a_compressed_body_is_refused(on_unix):
    status, answer, _ = infer(on_unix, {"inputs": []}, headers={"Content-Encoding": "gzip"})
    assert (status, answer["code"]) == (400, "INPUT_FORMAT_ERROR")


def test_rates_are_429(on_tcp):
    results = [infer(on_tcp, {"inputs": [BINARY]}, X)[:2] for _ in range(42)]
    assert results[-1][0] == 429
    assert results[-1][1]["code"] == "RATE_ERROR"


def test_metrics_are_read_by_the_command(on_unix, capsysbinary, monkeypatch):
    assert fine(on_unix)

    def metrics(form):
        monkeypatch.setattr("sys.argv", ["crosml-audit", "service", "metrics", "--connect", f"unix:{on_unix}", "--format", form])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsysbinary.readouterr()

    code, found = metrics("json")
    assert code == 0
    assert json.loads(found.out)["events"]["MachineLearningService.m.ExecuteResult.Event"]["OK"] >= 1
    assert metrics("uma")[1].out.count(b"MachineLearningService.m.ExecuteResult.Event 0 10") >= 1
    assert b"# TYPE crosml_events_total counter" in metrics("prometheus")[1].out
    code, found = metrics("yaml")
    assert (code, found.err) == (2, b"crosml-audit: --format yaml: expected one of json, prometheus, uma\n")


# --- limits -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"Content-Length": "5000"}, {"Transfer-Encoding": "chunked"}])
def test_a_body_that_is_too_long_is_413(strict, headers):
    with connected(strict) as stranger:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        stranger.sendall(f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        if "Transfer-Encoding" in headers:
            stranger.sendall(b"1388\r\n" + bytes(5000) + b"\r\n0\r\n\r\n")
        assert stranger.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    assert soon_fine(strict)


def test_a_slow_body_is_408_and_a_slow_header_is_cut(strict):
    with connected(strict) as slow, connected(strict) as silent:
        slow.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        silent.sendall(b"POST /v2")
        assert soon_fine(strict)
        answer = b""
        while part := slow.recv(1 << 16):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        with contextlib.suppress(ConnectionError):
            assert silent.recv(1) == b""
    assert soon_fine(strict)


def test_a_worker_that_ends_while_a_body_comes_costs_nothing(published, tmp_path):
    path = str(tmp_path / "s")
    with running([*MAIN, "service", "serve", published, "--listen", f"unix:{path}"]) as (process, _):
        assert fine(path)
        text = json.dumps({"inputs": [BINARY], "parameters": {"binary_data_output": True}}).encode()
        with connected(path) as slow:
            head = (
                f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n{BINARY_HEADER}: {len(text)}\r\nContent-Length: {len(text) + 32}\r\n\r\n"
            )
            slow.sendall(head.encode() + text)
            for task in os.listdir(f"/proc/{process.pid}/task"):
                with open(f"/proc/{process.pid}/task/{task}/children", encoding="ascii") as file:
                    for worker in file.read().split():
                        os.kill(int(worker), signal.SIGKILL)
            deadline = time.monotonic() + 20
            while not soon_fine(path) and time.monotonic() < deadline:
                time.sleep(0.05)
            slow.sendall(X)
            assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_leaves_and_one_that_does_not_speak_http_cost_nothing(strict):
    for sent in (b"", b"\0" * 100, b"GET\r\n\r\n", b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"):
        with connected(strict) as stranger:
            stranger.sendall(sent)
    assert soon_fine(strict)


def test_more_connections_than_may_be_are_cut_and_those_that_are_there_are_served(strict):
    first = Asked(strict)
    first.request("GET", "/v2")
    assert first.getresponse().read()
    others = [connected(strict) for _ in range(8)]
    cut = 0
    for each in others:
        each.settimeout(0.3)
        try:
            cut += each.recv(1) == b""
        except ConnectionError:
            cut += 1
        except TimeoutError:
            pass
    assert cut >= 5
    first.request("GET", "/v2")
    assert first.getresponse().status == 200
    for each in (first, *others):
        each.close()
    assert soon_fine(strict)


# --- its life -----------------------------------------------------------------------------------------------------------------------------


def test_the_socket_is_for_its_user_alone(on_unix):
    assert stat.S_IMODE(os.stat(on_unix).st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("curl") is None, reason="only root can be another user; curl asks for it")
def test_another_user_is_cut(published):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # the socket alone is to keep it out
        path = os.path.join(folder, "s")
        with running([sys.executable, "-c", FEW, published, f"unix:{path}"]):
            os.chmod(path, 0o666)
            command = ["curl", "-sS", "--unix-socket", path, "http://localhost/v2"]
            other = subprocess.run(command, check=False, capture_output=True, user=65534, group=65534, cwd="/")
            # no answer, or nothing more to write to; 7: it was cut before curl had looked whether it is connected
            assert (other.stdout, other.returncode in {7, 52, 55, 56}) == (b"", True), other
            assert b"crosml-audit" in subprocess.run(command, check=True, capture_output=True).stdout


def test_sigterm_drains(published, delegate, tmp_path):
    path = str(tmp_path / "s")
    with running([sys.executable, "-c", FEW, published, f"unix:{path}", delegate]) as (process, _):
        assert ask(path, "GET", "/v2/models/m/ready")[0] == 200
        answers = []
        asking = threading.Thread(target=lambda: answers.append(infer(path, {"inputs": [BINARY]}, X)[0]))
        asking.start()
        time.sleep(0.15)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert process.wait(20) == 0
    assert answers == [200], "what was begun is finished"
    assert not os.path.exists(path)


def test_it_ends_when_nobody_asks_and_a_socket_that_is_left_is_taken_over(published, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with running([*MAIN, "service", "serve", published, "--listen", f"unix:{path}", "--idle", "0.3"]) as (process, _):
        assert ask(path, "GET", "/v2")[0] == 200
        assert process.wait(20) == 0


def test_systemd_may_open_the_socket(published, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path)
        opened.listen()
        # what systemd does between fork and exec
        script = (
            "import os, sys\nos.dup2(int(sys.argv.pop(1)), 3)\nos.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}\n"
            "from auditor.cli import main\nmain()"
        )
        command = [sys.executable, "-c", script, str(opened.fileno()), "service", "serve", published, "--idle", "5"]
        with running(command, pass_fds=(opened.fileno(),)) as (_, where):
            assert where == f"unix:{path}"
            assert fine(path)
