"""Would the ML service run a model: the right sentence for each kind of model that it would not, through the command and below it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct

import numpy as np
import pytest

from auditor import cli
from auditor.errors import AuditError, UsageError
from auditor.inference.executor import Options
from auditor.inference.hosting import Host
from auditor.inference.results import Budget
from auditor.inference.service import InferenceService
from auditor.inference.wire import Outcome as RunEnd
from auditor.inference.wire import Status, WorkerFailure
from auditor.serving import bench, check, run
from auditor.zoo.published import MAX_MODEL, Golden, Tensor, golden_document

CAST, REDUCE_MAX, CUSTOM = 53, 82, 32
X = Tensor("float32", (2, 4), struct.pack("<8f", *range(8)))
Y = Tensor("float32", (2, 4), struct.pack("<8f", *((x + 0.5) * 0.5 + 0.5 for x in range(8))))


HUGE = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}".ljust(117) + b"\n"


@pytest.fixture(scope="module")
def there():
    return check.ask_runtime(Options(), Budget().limits())


def answers(content, there, options=None, golden=()):
    """Outcome and text by question."""
    options = options or Options(xnnpack=False)

    async def scene():
        async with InferenceService(options=options) as service:
            return await check.check(service, "m", content, golden, options, there)

    return {each.question: (each.outcome.value, each.text) for each in asyncio.run(scene())}


def test_a_model_that_is_fine(model, there):
    found = answers(model, there, golden=(Golden({"t0": X}, {"t4": Y}, 0.0),))
    assert {question: outcome for question, (outcome, _) in found.items()} == {
        **dict.fromkeys(("size", "types", "operators", "run", "golden"), "pass"),
        "delegation": "not-applicable",
    }
    assert found["run"][1] == "one inference on zeros gives t4 float32[2, 4]"
    assert found["golden"][1] == "1 of 1 golden cases come out as recorded"


def test_types_that_the_ml_service_does_not_take(write, there):
    write_model, tensor, op = write
    found = answers(write_model([tensor((2, 4)), tensor((2, 4), type=7)], (0,), (1,), [op(CAST, (0,), (1,))]), there)
    assert found["types"] == (
        "fail",
        "output t1 is int16; the ML service takes float32, int32, uint8, int64, bool: EXECUTION_ERROR",
    )
    assert found["run"][0] == "fail"


def test_a_scalar_output(write, there):
    write_model, tensor, op = write
    content = write_model([tensor((8,)), tensor(()), tensor((1,), bytes(4), 2)], (0,), (1,), [op(REDUCE_MAX, (0, 2), (1,))])
    found = answers(content, there)
    assert found["run"] == ("fail", "t1: output of shape [], expected one or more sizes of 1 or more: EXECUTION_ERROR")


def test_an_operator_that_the_runtime_lacks_and_one_that_is_too_new(write, model, there):
    write_model, tensor, op = write
    custom = write_model([tensor((2, 4)), tensor((2, 4))], (0,), (1,), [op(CUSTOM, (0,), (1,), "NoSuch\x1bOperator")])
    found = answers(custom, there)
    label = f"{there.name} {there.version}"
    assert found["operators"] == ("fail", f"not in {label}: custom operator NoSuch\\x1bOperator: MODEL_INTERPRETATION_ERROR")
    assert found["run"][0] == "fail"
    older = check.Runtime("old", "1", {"ADD": 1})
    assert answers(model, older)["operators"] == ("fail", "not in old 1: MUL version 1 (the runtime has none): MODEL_INTERPRETATION_ERROR")
    newest = check.Runtime("old", "1", {"ADD": 0, "MUL": 1})
    assert "ADD version 1 (the runtime has up to 0)" in answers(model, newest)["operators"][1]


def test_a_delegate_that_takes_a_part(delegate, model, there):
    part = answers(model, there, Options(delegate=delegate, options=(("ops", "18"),)))
    assert part["delegation"] == ("fail", "the delegate takes 1 of 3 operators, expected all: NOT_FULLY_DELEGABLE")
    whole = answers(model, there, Options(delegate=delegate))
    assert whole["delegation"] == ("pass", "the delegate takes every operator")


def test_a_file_that_is_too_large_or_no_model(tmp_path, there):
    path = tmp_path / "large.tflite"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    content = check.read_model(str(path))
    assert answers(content, there) == {"size": ("fail", f"200000000 bytes; the service takes up to {MAX_MODEL}")}
    none = answers(b"no model at all", there)
    assert none["format"][0] == "fail"
    assert none["format"][1].endswith(": LOAD_MODEL_ERROR")


def test_golden_cases_that_do_not_come_out(model, there):
    found = answers(model, there, golden=(Golden({"t0": X}, {"t4": X}, 0.0),))
    assert found["golden"] == ("fail", "case 0: t4: an element differs by 2.75, expected 0 at most")


# --- the commands -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys, monkeypatch):
    """What a command prints and how it ends."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["crosml-audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def file(tmp_path, model):
    path = tmp_path / "m.tflite"
    path.write_bytes(model)
    (tmp_path / "m.golden.json").write_bytes(golden_document((Golden({"t0": X}, {"t4": Y}, 1e-6),)))
    np.save(tmp_path / "x.npy", np.arange(8, dtype=np.float32).reshape(2, 4))
    return path


def test_check_says_it_in_text_and_json(command, file, tmp_path):
    other = tmp_path / "other.tflite"
    other.write_bytes(b"none")
    code, out, _err = command("service", "check", file)
    assert code == 0
    assert out.startswith(f"{file}: the ML service would run it\n  pass           size ")
    assert "  pass           golden     1 of 1 golden cases" in out
    code, out, _err = command("service", "check", file, other, "--format", "json")
    document = json.loads(out)
    assert (code, document["schema"]) == (1, "crosml-audit/service-check/1")
    assert [each["verdict"] for each in document["models"]] == ["compliant", "non-compliant"]


def test_what_a_worker_could_not_answer_is_not_known(command, file, monkeypatch):
    async def create(_host):
        raise WorkerFailure(Status(RunEnd.DIED, "m", "model", signal=9, message="the process died of signal 9 (Killed)"))

    monkeypatch.setattr(Host, "create", create)
    code, out, _err = command("service", "check", file)
    assert code == 3
    assert "  unknown        run        WORKER_ERROR: the process died of signal 9 (Killed)\n" in out


def test_an_output_that_cannot_be_written(command, file, tmp_path, monkeypatch):
    def write(path, _data):
        raise AuditError(f"{path}: No space left on device")

    monkeypatch.setattr("auditor.files.write", write)
    code, _out, err = command("service", "run", file, "--input", f"t0={tmp_path}/x.npy", "--output", f"t4={tmp_path}/y.npy")
    assert (code, err) == (4, f"crosml-audit: {tmp_path}/y.npy: No space left on device\n")


def test_run_gives_outputs(command, file, tmp_path):
    code, out, err = command("service", "run", file, "--input", f"t0={tmp_path}/x.npy", "--output", f"t4={tmp_path}/y.npy")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "OK"
    assert np.load(tmp_path / "y.npy").tobytes() == Y.data
    np.save(tmp_path / "x.npy", np.zeros((2, 5), dtype=np.float32))
    code, out, _err = command("service", "run", file, "--input", f"t0={tmp_path}/x.npy", "--format", "json")
    assert code == 1
    assert (json.loads(out)["result"], json.loads(out)["message"]) == ("INPUT_SHAPE_ERROR", "t0: (2, 5), expected (2, 4)")
    assert command("service", "run", file, "--golden", f"{tmp_path}/m.golden.json")[:2] == (0, "OK\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "{0}/absent.tflite"], "absent.tflite: No such file or directory"),
        (["check", "{0}/m.tflite", "{0}/m.tflite", "--golden", "{0}/m.golden.json"], "--golden: expected one MODEL"),
        (["check", "{0}/m.tflite", "--format", "yaml"], "--format yaml: expected text or json"),
        (["check", "{0}/m.tflite", "--golden", "{0}/m.tflite"], "expected golden cases"),
        (["run", "{0}/m.tflite"], "expected either --input for each of the model's inputs, or --golden"),
        (["run", "{0}/m.tflite", "--input", "t0"], "--input t0: expected NAME=X.npy"),
        (["run", "{0}/m.tflite", "--input", "t0={0}/m.tflite"], "m.tflite: expected a .npy file"),
        (["run", "{0}/m.tflite", "--input", "t0={0}/x.npy", "--input", "t0={0}/x.npy"], "--input t0: given more than once"),
        (
            ["run", "{0}/m.tflite", "--input", "t0={0}/x.npy", "--output", "t9={0}/y.npy"],
            "--output t9: expected an output of the model: t4",
        ),
        (["run", "{0}/m.tflite", "--input", "t0={0}/x.npy", "--output", "t4={0}/no/y.npy"], "cannot be written"),
        (["operators", "{0}"], "sha256sums: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line(command, file, tmp_path, arguments, said):
    code, out, err = command("service", *(each.format(tmp_path) for each in arguments))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_operators_of_a_published_set(command, file, tmp_path, chain_of, monkeypatch):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "sha256sums").write_text(f"{digest}  m.tflite\n")
    code, out, _err = command("service", "operators", tmp_path)
    assert (code, out) == (0, "ADD 1\nMUL 1\n")
    document = json.loads(command("service", "operators", tmp_path, "--format", "json")[1])
    assert document["missing"] == []
    assert document["operators"] == {"ADD": 1, "MUL": 1}
    monkeypatch.setattr(check, "ask_runtime", lambda *_: check.Runtime("old", "1", {"ADD": 1}))
    code, out, _err = command("service", "operators", tmp_path)
    assert (code, out) == (1, "ADD 1\nMUL 1\nnot in old 1: MUL version 1 (the runtime has none)\n")
    file.write_bytes(chain_of(0.25))
    assert command("service", "operators", tmp_path)[0] == 2


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 100, b"PK\x03\x04", HUGE, HUGE[:-20]])
def test_what_is_no_npy_file_is_refused(data):
    with pytest.raises(UsageError, match=r"^x: expected a \.npy file"):
        run.read_npy(data, "x")


def test_an_npy_file_of_objects_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"^x: expected a \.npy file"):
        run.read_npy((tmp_path / "x.npy").read_bytes(), "x")


def test_other_byte_orders_and_memory_orders_are_read_as_their_values(tmp_path):
    given = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    np.save(tmp_path / "x.npy", given)
    found = run.read_npy((tmp_path / "x.npy").read_bytes(), "x")
    assert found == Tensor("float32", (2, 3), np.arange(6, dtype="<f4").tobytes())
    assert run.described(found) == {"dtype": "float32", "shape": [2, 3], "finite": True, "min": 0.0, "max": 5.0, "mean": 2.5, "argmax": 5}
    assert run.described(Tensor("float32", (1,), struct.pack("<f", float("nan"))))["finite"] is False


@pytest.mark.parametrize("name", ["check", "operators"])
def test_no_runtime_is_4(command, file, tmp_path, name, monkeypatch):
    def none(*_):
        raise WorkerFailure(Status(RunEnd.RUNTIME_MISSING, "operators", "hello", message="no module"))

    (tmp_path / "sha256sums").write_text(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  m.tflite\n")
    monkeypatch.setattr(check, "ask_runtime", none)
    code, out, err = command("service", name, file if name == "check" else tmp_path)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "no module" in err


# --- bench --------------------------------------------------------------------------------------------------------------------------------


def test_bench_measures_each_number_of_clients(command, file):
    code, out, _err = command("service", "bench", file, "--concurrency", "1:3:2", "--seconds", "0.1", "--format", "json")
    levels = json.loads(out)["levels"]
    assert (code, [each["concurrency"] for each in levels]) == (0, [1, 3])
    for each in levels:
        latency = each["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert each["requests"] > 0 == each["failed"]
        assert each["compute_ms"] > 0
    code, out, _err = command("service", "bench", file, "--seconds", "0.2", "--rate", "50")
    assert (code, out.splitlines()[1].split()[0]) == (0, "1")


@pytest.mark.parametrize("text", ["", "0", "1:65", "2:1", "1:2:0", "a", "1:2:3:4", "-1", "9" * 30])
def test_a_range_of_clients_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"^--concurrency .*: expected A"):
        bench.read_range(text)


def test_latency_counts_from_when_a_request_was_due(model):
    """A service that takes longer than the rate allows falls behind, and the figures show it."""

    async def scene():
        async with InferenceService(options=Options(xnnpack=False)) as service:
            loaded = await service.load_flat_buffer_model(model, "m")
            return await bench.measure(loaded.model, 1, 0.05, 4000.0)

    level = asyncio.run(scene())
    assert level.requests == 200
    assert level.p99 > level.p50 > level.compute
