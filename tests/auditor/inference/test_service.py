"""The inference service through its calls and its client: result codes, budgets, cancellation, metrics, golden cases, workers killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import struct

import pytest

from auditor.errors import UsageError
from auditor.inference import metrics
from auditor.inference.client import Client, PredictionError
from auditor.inference.executor import Executor, Options
from auditor.inference.results import Budget, CreateGraphExecutorResult, ExecuteResult, LoadModelResult
from auditor.inference.service import InferenceService
from auditor.inference.watch import Limits
from auditor.tflite import operators
from auditor.tflite.graph import read_graph
from auditor.zoo.published import Golden, Published, Tensor, golden_document, read_golden, read_published

OPTIONS = Options(xnnpack=False)
X = Tensor("float32", (2, 4), struct.pack("<8f", *range(8)))
Y = Tensor("float32", (2, 4), struct.pack("<8f", *((x + 0.5) * 0.5 + 0.5 for x in range(8))))


def with_executor(use, model, options=OPTIONS, budget=None):
    """What `use(executor, service)` gives, of a model in a worker."""

    async def scene():
        async with InferenceService(budget=budget) as service:
            loaded = await service.load_flat_buffer_model(model, "Chain")
            assert loaded.result is LoadModelResult.OK, loaded
            created = await loaded.model.create_graph_executor(options)
            assert created.result is CreateGraphExecutorResult.OK, created
            return await use(created.executor, service)

    return asyncio.run(scene())


def created(model, options=OPTIONS):
    """The answer to creating an executor, and the service that gave it."""

    async def scene():
        async with InferenceService() as service:
            loaded = await service.load_flat_buffer_model(model, "Chain")
            return await loaded.model.create_graph_executor(options), service

    return asyncio.run(scene())


def run_once(tensors, names):
    async def use(executor, _service):
        return await executor.execute(tensors, names)

    return use


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


@pytest.fixture(scope="module")
def published(tmp_path_factory, chain_of):
    """Eight published models, each with a golden case."""
    folder = tmp_path_factory.mktemp("published")
    digests = {}
    for number in range(8):
        constant = number / 4
        outputs = struct.pack("<8f", *((x + constant) * constant + constant for x in range(8)))
        golden = Golden({"t0": X}, {"t4": Tensor("float32", (2, 4), outputs)}, 1e-6)
        for name, content in ((f"m{number}.tflite", chain_of(constant)), (f"m{number}.golden.json", golden_document((golden,)))):
            (folder / name).write_bytes(content)
            digests[name] = hashlib.sha256(content).hexdigest()
    (folder / "sha256sums").write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    return folder


# --- load ---------------------------------------------------------------------------------------------------------------------------------


def load(name, models):
    async def scene():
        async with InferenceService(models) as service:
            return await service.load_builtin_model(name)

    return asyncio.run(scene())


def test_a_published_model_is_loaded_and_others_are_not(published, tmp_path):
    models = read_published(str(published))
    assert sorted(models) == [f"m{number}" for number in range(8)]
    assert load("m1", models).result is LoadModelResult.OK
    missing = load("m9\n", models)
    assert (missing.result, missing.message) == (LoadModelResult.MODEL_SPEC_ERROR, "m9\\n: not published")
    gone_file = load("m", {"m": Published(str(tmp_path / "absent.tflite"), "0" * 64)})
    assert gone_file.result is LoadModelResult.LOAD_MODEL_ERROR
    assert "No such file" in gone_file.message


def test_an_altered_model_is_refused(published, tmp_path):
    content = bytearray((published / "m1.tflite").read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    (tmp_path / "m1.tflite").write_bytes(content)
    found = load("m1", {"m1": Published(str(tmp_path / "m1.tflite"), digest)})
    assert found.result is LoadModelResult.LOAD_MODEL_ERROR
    assert f"expected {digest}" in found.message


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x10\0\0\0TFL3" + bytes(40)])
def test_bytes_that_are_no_model_are_refused(content):
    async def scene():
        async with InferenceService() as service:
            return await service.load_flat_buffer_model(content, "None")

    assert asyncio.run(scene()).result is LoadModelResult.LOAD_MODEL_ERROR


# --- create -------------------------------------------------------------------------------------------------------------------------------


def test_a_model_that_needs_a_later_version_of_an_operator_never_reaches_the_runtime(monkeypatch, model, runtime):
    monkeypatch.setattr(operators, "needed", lambda _graph: {"ADD": 99, "NO_SUCH": 1})
    answer, service = created(model, Options(runtime=runtime))
    assert answer.result is CreateGraphExecutorResult.MODEL_INTERPRETATION_ERROR
    assert "ADD version 99 (the runtime has up to" in answer.message
    assert "NO_SUCH version 1 (the runtime has none)" in answer.message
    assert service.metrics.events()["MachineLearningService.Chain.CreateGraphExecutorResult.Event"] == {"MODEL_INTERPRETATION_ERROR": 1}


def test_a_custom_operator_that_is_not_there(write, runtime):
    write_model, tensor, op = write
    model = write_model([tensor((2, 4)), tensor((2, 4))], (0,), (1,), [op(32, (0,), (1,), "NoSuchOperator")])
    answer, _service = created(model, Options(runtime=runtime, xnnpack=False))
    assert answer.result is CreateGraphExecutorResult.MODEL_INTERPRETATION_ERROR
    assert "NoSuchOperator" in answer.message


@pytest.mark.parametrize(
    ("options", "result"),
    [
        ({"fault": "fail", "at": "create"}, CreateGraphExecutorResult.GPU_USE_ERROR),
        ({"fault": "fail", "at": "prepare"}, CreateGraphExecutorResult.GPU_USE_ERROR),
        ({"fault": "crash", "at": "create"}, CreateGraphExecutorResult.WORKER_ERROR),
    ],
)
def test_a_delegate_that_fails(delegate, model, options, result):
    answer, service = created(model, Options(delegate=delegate, options=tuple(options.items())))
    assert answer.result is result
    assert answer.status is not None
    assert sum(service.metrics.events()[metrics.EXIT_STATUS].values()) == 1


def test_a_delegate_that_is_not_there(tmp_path, model):
    answer, _service = created(model, Options(delegate=str(tmp_path / "absent.so")))
    assert answer.result is CreateGraphExecutorResult.GPU_UNAVAILABLE


def test_no_more_workers_than_there_may_be(monkeypatch, model):
    monkeypatch.setattr("auditor.inference.service.MAX_WORKERS", 1)

    async def use(executor, service):
        assert executor.over == ""
        other = (await service.load_flat_buffer_model(model, "Other")).model
        return await other.create_graph_executor(OPTIONS)

    assert with_executor(use, model).result is CreateGraphExecutorResult.MEMORY_ALLOCATION_ERROR


# --- execute ------------------------------------------------------------------------------------------------------------------------------


def test_named_inputs_give_named_outputs(model, runtime):
    done = with_executor(run_once({"t0": X}, ("t4",)), model, Options(runtime=runtime))
    assert (done.result, done.outputs) == (ExecuteResult.OK, {"t4": Y})


@pytest.mark.parametrize(
    ("inputs", "outputs", "result", "said"),
    [
        ({}, ("t4",), ExecuteResult.INPUT_MISSING_ERROR, "t0: not given"),
        ({"t0": X, "more\x1b": X}, ("t4",), ExecuteResult.UNKNOWN_INPUT_ERROR, "more\\x1b: expected t0"),
        ({"t0": Tensor("int32", (2, 4), bytes(32))}, ("t4",), ExecuteResult.INPUT_TYPE_ERROR, "t0: int32, expected float32"),
        ({"t0": Tensor("float32", (4, 2), bytes(32))}, ("t4",), ExecuteResult.INPUT_SHAPE_ERROR, "t0: (4, 2), expected (2, 4)"),
        ({"t0": Tensor("float32", (2, 4), bytes(31))}, ("t4",), ExecuteResult.INPUT_FORMAT_ERROR, "t0: 31 bytes, expected 32 bytes"),
        ({"t0": X}, (), ExecuteResult.OUTPUT_MISSING_ERROR, "t4: not named"),
        ({"t0": X}, ("t4", "t5"), ExecuteResult.UNKNOWN_OUTPUT_ERROR, "t5: expected t4"),
        ({"t0": X}, ("t4", "t4"), ExecuteResult.DUPLICATE_OUTPUT_ERROR, "t4: named twice"),
        ({"more": X}, (), ExecuteResult.UNKNOWN_INPUT_ERROR, "more: expected t0"),
        ({}, ("t5",), ExecuteResult.INPUT_MISSING_ERROR, "t0: not given"),
        ({"t0": Tensor("int8", (1,), b"")}, ("t4", "t4", "t5"), ExecuteResult.DUPLICATE_OUTPUT_ERROR, "t4: named twice"),
        ({"t0": Tensor("int8", (1,), b"")}, (), ExecuteResult.OUTPUT_MISSING_ERROR, "t4: not named"),
        ({"t0": Tensor("int8", (1,), b"")}, ("t4",), ExecuteResult.INPUT_TYPE_ERROR, "t0: int8, expected float32"),
        ({"t0": Tensor("float32", (4, 2), bytes(31))}, ("t4",), ExecuteResult.INPUT_FORMAT_ERROR, "t0: 31 bytes, expected 32 bytes"),
        ({"t0": Tensor("float32", (-1,), bytes(32))}, ("t4",), ExecuteResult.INPUT_FORMAT_ERROR, "t0: 32 bytes, expected -1 bytes"),
    ],
)
def test_a_request_that_does_not_fit_the_model(model, inputs, outputs, result, said):
    async def use(executor, _service):
        refused = await executor.execute(inputs, outputs)
        return refused, await executor.execute({"t0": X}, ("t4",))

    refused, after = with_executor(use, model)
    assert (refused.result, refused.message) == (result, said)
    assert after.result is ExecuteResult.OK, "the executor goes on"


@pytest.mark.parametrize(
    ("options", "budget", "result", "outcome"),
    [
        ("fault=crash after=1", Budget(), ExecuteResult.EXECUTION_ERROR, "died"),
        ("fault=fail after=1", Budget(), ExecuteResult.EXECUTION_ERROR, "invoke-failed"),
        ("fault=hang after=1", Budget(seconds=2), ExecuteResult.BUDGET_ERROR, "timed-out"),
        ("fault=spin after=1", Budget(seconds=60, cpu_seconds=0.5), ExecuteResult.BUDGET_ERROR, "cpu-exceeded"),
        ("fault=leak value=400 after=1", Budget(memory_bytes=300 << 20), ExecuteResult.BUDGET_ERROR, "out-of-memory"),
    ],
)
def test_what_fails_or_exceeds_its_budget_costs_that_executor_only(delegate, model, options, budget, result, outcome):
    pairs = tuple(tuple(option.split("=")) for option in options.split())

    async def use(executor, service):
        other = (await (await service.load_flat_buffer_model(model, "Chain")).model.create_graph_executor(OPTIONS)).executor
        answers = [await executor.execute({"t0": X}, ("t4",)) for _ in range(4)]
        return answers, await other.execute({"t0": X}, ("t4",)), executor, service

    (first, *failed), other, executor, service = with_executor(use, model, Options(delegate=delegate, options=pairs), budget)
    assert first.result is ExecuteResult.OK
    # memory is looked at ten times a second: the request that took it may be over by then
    bad = next(each for each in failed if each.result is not ExecuteResult.OK)
    assert (bad.result, bad.status.outcome.value) == (result, outcome)
    assert failed[-1].result is ExecuteResult.EXECUTION_ERROR, "what has ended stays so"
    assert other.result is ExecuteResult.OK
    assert gone(executor.pid)
    assert service.metrics.events()[f"MachineLearningService.Chain.{metrics.EXECUTE}.Event"]["OK"] >= 2


def test_leaving_the_service_ends_a_request_that_hangs(delegate, model):
    options = Options(delegate=delegate, options=(("fault", "hang"),))

    async def use(executor, _service):
        task = asyncio.ensure_future(executor.execute({"t0": X}, ("t4",)))
        await asyncio.sleep(0.3)
        await executor.close()
        return await task, executor

    done, executor = with_executor(use, model, options)
    assert done.result is ExecuteResult.EXECUTION_ERROR
    assert gone(executor.pid)


def test_leaving_the_service_while_an_executor_is_created_leaves_no_worker(model):
    async def scene():
        async with InferenceService() as service:
            loaded = await service.load_flat_buffer_model(model, "Chain")
            creating = [asyncio.ensure_future(loaded.model.create_graph_executor(OPTIONS)) for _ in range(3)]
            await asyncio.sleep(0.02)
        return [await each for each in creating], await loaded.model.create_graph_executor(OPTIONS)

    answers, late = asyncio.run(scene())
    assert all(each.executor is None or gone(each.executor.pid) for each in answers)
    assert (late.result, late.message) == (CreateGraphExecutorResult.WORKER_ERROR, "the service is closed")


def test_requests_to_one_executor_wait_for_each_other(model):
    async def use(executor, _service):
        inputs = [Tensor("float32", (2, 4), struct.pack("<8f", *[float(number)] * 8)) for number in range(20)]
        return await asyncio.gather(*(executor.execute({"t0": each}, ("t4",)) for each in inputs))

    answers = with_executor(use, model)
    assert [struct.unpack("<8f", each.outputs["t4"].data)[0] for each in answers] == [(x + 0.5) * 0.5 + 0.5 for x in range(20)]


def test_metrics_have_the_names_of_the_ml_service(model):
    async def use(executor, service):
        await executor.execute({"t0": X}, ("t4",))
        await executor.execute({}, ("t4",))
        return service

    kept = with_executor(use, model).metrics
    assert kept.events()["MachineLearningService.Chain.LoadModelResult.Event"] == {"OK": 1}
    assert kept.events()["MachineLearningService.Chain.ExecuteResult.Event"] == {"OK": 1, "INPUT_MISSING_ERROR": 1}
    assert kept.events()["MachineLearningService.WorkerProcessExitStatus"] == {"ended by the service": 1}
    figures = kept.samples()
    for name in ("CreateGraphExecutorResult", "ExecuteResult"):
        assert figures[f"MachineLearningService.Chain.{name}.CpuTimeMicrosec"].total > 0
        assert f"MachineLearningService.Chain.{name}.TotalMemoryDeltaKb" in figures
    assert figures["MachineLearningService.Chain.TotalMemoryKb"].least > 1000
    assert figures["MachineLearningService.Chain.TimeToFirstExecuteMicrosec"].count == 1
    assert figures["MachineLearningService.NumWorkerProcess"].greatest == 1


# --- golden -------------------------------------------------------------------------------------------------------------------------------


def check_golden(models, name):
    async def scene():
        async with InferenceService(models, options=OPTIONS) as service:
            return await service.check_golden(name)

    return asyncio.run(scene())


def test_golden_cases_are_met_or_what_differs_is_said(published, chain_of, tmp_path):
    models = read_published(str(published))
    assert check_golden(models, "m3") == ()
    other = models["m3"]
    wrong = Published(models["m2"].path, models["m2"].sha256, other.golden)
    assert "case 0: t4: an element differs by" in check_golden({"m": wrong}, "m")[0]
    bare = Published(other.path, other.sha256)
    assert check_golden({"m": bare}, "m") == ("no golden case",)
    unnamed = Published(other.path, other.sha256, (Golden({"x": X}, {"t4": Y}, 0.1),))
    assert check_golden({"m": unnamed}, "m")[0].startswith("case 0: UNKNOWN_INPUT_ERROR")
    assert check_golden({}, "m")[0].startswith("MODEL_SPEC_ERROR")
    content = chain_of(float("nan"))
    (tmp_path / "nan.tflite").write_bytes(content)
    nan = Published(str(tmp_path / "nan.tflite"), hashlib.sha256(content).hexdigest(), other.golden)
    assert check_golden({"m": nan}, "m") == ("case 0: t4: NaN or infinity, or no element",)


def test_golden_cases_survive_their_file():
    cases = (Golden({"a": X}, {"b": Y, "c": X}, 0.25),)
    assert read_golden(golden_document(cases), "g") == cases


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"schema": "other", "cases": []}',
        b'{"schema": "crosml-audit/golden/1", "cases": 3}',
        golden_document((Golden({"a": X}, {}, 0.25),)),
        golden_document((Golden({"a": X}, {"b": Y}, -1.0),)),
        golden_document((Golden({"a": X}, {"b": Tensor("float32", (2, 4), bytes(31))}, 0.0),)),
        golden_document((Golden({"a": X}, {"b": Tensor("object", (2, 4), bytes(32))}, 0.0),)),
        golden_document((Golden({"a": X}, {"b": Y}, 0.0),)).replace(b'"tolerance": 0.0', b'"tolerance": NaN'),
        golden_document((Golden({"a": X}, {"b": Y}, 0.0),)).replace(b'"tolerance": 0.0', b'"tolerance": 1' + b"0" * 400),
        b"[" * 100_000,
    ],
)
def test_what_is_no_golden_file_is_refused_in_one_line(document):
    with pytest.raises(UsageError, match=r"^file: expected golden cases") as raised:
        read_golden(document, "file")
    assert "\n" not in str(raised.value)


def test_an_altered_golden_file_is_refused(published, tmp_path):
    for each in published.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    with (tmp_path / "m1.golden.json").open("ab") as file:
        file.write(b" ")
    with pytest.raises(UsageError, match=r"m1\.golden\.json: its sha256 is not the one in sha256sums"):
        read_published(str(tmp_path))


# --- operators ----------------------------------------------------------------------------------------------------------------------------


def test_a_runtime_has_what_the_model_needs_and_a_digest_names_it(model, runtime):
    with Executor(model, Options(runtime=runtime), Limits(), "test") as executor:
        there = executor.worker.operators()
    wanted = operators.needed(read_graph(model))
    assert wanted == {"ADD": 1, "MUL": 1}
    assert operators.missing(wanted, there) == ()
    assert len(there) > 100
    assert there["CONV_2D"] >= 3
    assert operators.digest(there) == operators.digest(dict(reversed(there.items()))) != operators.digest(wanted)


def test_operators_are_found_by_what_a_runtime_accepts():
    files = {operators.model_with(code, version): (code, version) for code in range(operators.CODES) for version in range(1, 4)}
    has = {0: 2, 200: 1}
    found = operators.present(lambda file: files[file][1] <= has.get(files[file][0], 0))
    assert found == {"ADD": 2, operators.name_of(200): 1}
    assert read_graph(operators.model_with(3, 1)).operators == ()


# --- client -------------------------------------------------------------------------------------------------------------------------------


def test_the_client_says_why_there_is_no_prediction(published):
    async def scene():
        async with InferenceService(read_published(str(published)), options=OPTIONS) as service:
            client = Client(service)
            assert await client.predict("m2", {"t0": X}) == {"t4": Y}
            codes = []
            for name, inputs in (("none", {"t0": X}), ("m2", {}), ("m2", {"t0": Tensor("int8", (2, 4), bytes(8))})):
                with pytest.raises(PredictionError) as raised:
                    await client.predict(name, inputs)
                codes.append(raised.value.result)
            return codes

    assert asyncio.run(scene()) == [LoadModelResult.MODEL_SPEC_ERROR, ExecuteResult.INPUT_MISSING_ERROR, ExecuteResult.INPUT_TYPE_ERROR]


def resident():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def test_a_thousand_requests_over_eight_models_with_workers_killed(published):
    """Every request is answered, with its own result or with an error; no worker is left behind, and memory stays flat."""
    chance = random.Random(7)
    pids = set()

    async def scene():
        async with InferenceService(read_published(str(published)), options=OPTIONS) as service:
            client = Client(service)

            async def ask(number):
                model = number % 8
                values = [float(number)] * 8
                try:
                    outputs = await client.predict(f"m{model}", {"t0": Tensor("float32", (2, 4), struct.pack("<8f", *values))})
                except PredictionError as problem:
                    return problem.result
                c = model / 4
                expected = struct.unpack("<f", struct.pack("<f", (number + c) * c + c))[0]
                assert struct.unpack("<8f", outputs["t4"].data) == pytest.approx([expected] * 8)
                return "result"

            async def kill():
                while True:
                    await asyncio.sleep(0.15)
                    running = [each for each in service._hosts if each.pid and not each.over]
                    pids.update(each.pid for each in running)
                    if running:
                        os.kill(chance.choice(running).pid, signal.SIGKILL)

            async def hundred(first):
                return await asyncio.gather(*(ask(first + number) for number in range(100)))

            killer = asyncio.ensure_future(kill())
            answers = await hundred(0)
            before = resident()
            for first in range(100, 1000, 100):
                answers += await hundred(first)
            killer.cancel()
            pids.update(each.pid for each in service._hosts if each.pid)
            return answers, resident() - before, service.metrics.events()

    answers, grown, events = asyncio.run(scene())
    assert len(answers) == 1000
    assert set(answers) <= {"result", ExecuteResult.EXECUTION_ERROR, CreateGraphExecutorResult.WORKER_ERROR}
    assert answers.count("result") > 500, "most are answered"
    assert events[metrics.EXIT_STATUS].get("SIGKILL", 0) > 0, "some were killed"
    assert grown < 32 << 10, f"{grown} kB more"
    assert all(map(gone, pids))
    assert not [task for task in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{task}").startswith("/memfd:model")]
