"""What clients of one service may do to each other, which is nothing: cancelled requests, many clients, rates, workers that lie or end."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import replace

import pytest

from auditor.inference import group, metrics, scratch
from auditor.inference.client import Client, PredictionError
from auditor.inference.executor import Options
from auditor.inference.process import Worker
from auditor.inference.rates import Rates
from auditor.inference.results import Budget, CreateGraphExecutorResult, ExecuteResult, LoadModelResult, ServiceError
from auditor.inference.service import InferenceService
from auditor.inference.watch import Limits
from auditor.tflite.tensors import TensorSpec
from auditor.zoo.published import Published, Tensor

OPTIONS = Options(xnnpack=False)
X = Tensor("float32", (2, 4), struct.pack("<8f", *range(8)))
Y = Tensor("float32", (2, 4), struct.pack("<8f", *((x + 0.5) * 0.5 + 0.5 for x in range(8))))


def within(use, model, options=OPTIONS, budget=None):
    """What `use(model, service)` gives, of a loaded model."""

    async def scene():
        async with InferenceService(budget=budget, options=options) as service:
            loaded = await service.load_flat_buffer_model(model, "Chain")
            assert loaded.result is LoadModelResult.OK, loaded
            return await use(loaded.model, service)

    return asyncio.run(scene())


async def executor_of(model, options=None):
    created = await model.create_graph_executor(options)
    assert created.result is CreateGraphExecutorResult.OK, created
    return created.executor


async def until(condition):
    """Wait for something that is to come, and that a broken service never shows."""
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come")


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


# --- codes --------------------------------------------------------------------------------------------------------------------------------


def test_codes_have_the_numbers_of_the_ml_service():
    assert [each.name for each in ExecuteResult][:10] == [
        *("OK", "INPUT_MISSING_ERROR", "UNKNOWN_INPUT_ERROR", "INPUT_TYPE_ERROR", "INPUT_SHAPE_ERROR", "INPUT_FORMAT_ERROR"),
        *("OUTPUT_MISSING_ERROR", "UNKNOWN_OUTPUT_ERROR", "DUPLICATE_OUTPUT_ERROR", "EXECUTION_ERROR"),
    ]
    assert [each.value for each in ExecuteResult][:10] == list(range(10))
    names = "OK MODEL_INTERPRETATION_ERROR MEMORY_ALLOCATION_ERROR NNAPI_UNAVAILABLE NNAPI_USE_ERROR GPU_UNAVAILABLE GPU_USE_ERROR"
    named = {CreateGraphExecutorResult[name].value for name in names.split()}
    assert named == set(range(7))
    assert (CreateGraphExecutorResult.DELEGATE_CONFIG_ERROR.value, CreateGraphExecutorResult.NOT_FULLY_DELEGABLE.value) == (7, 8)
    assert [each.value for each in LoadModelResult] == list(range(5))


@pytest.mark.parametrize(
    ("with_delegate", "asked", "result"),
    [
        (False, {"use_nnapi": True}, CreateGraphExecutorResult.NNAPI_UNAVAILABLE),
        (False, {"use_nnapi": True, "use_gpu": True}, CreateGraphExecutorResult.DELEGATE_CONFIG_ERROR),
        (True, {"use_nnapi": True}, CreateGraphExecutorResult.DELEGATE_CONFIG_ERROR),
        (False, {"use_gpu": True}, CreateGraphExecutorResult.GPU_UNAVAILABLE),
        (True, {"use_gpu": True}, CreateGraphExecutorResult.OK),
    ],
)
def test_delegates_that_are_asked_for(delegate, model, with_delegate, asked, result):
    async def use(loaded, _service):
        return (await loaded.create_graph_executor(Options(delegate=delegate if with_delegate else None), **asked)).result

    assert within(use, model) is result


def test_a_delegate_takes_the_whole_graph_or_is_refused(delegate, model):
    async def use(loaded, _service):
        part = await loaded.create_graph_executor(Options(delegate=delegate, options=(("ops", "18"),)))
        return part, await loaded.create_graph_executor(Options(delegate=delegate))

    part, whole = within(use, model)
    assert (part.result, part.message) == (
        CreateGraphExecutorResult.NOT_FULLY_DELEGABLE,
        "the delegate takes 1 of 3 operators, expected all",
    )
    assert whole.result is CreateGraphExecutorResult.OK


def test_a_model_without_a_name_for_metrics_is_refused(model):
    async def scene():
        async with InferenceService() as service:
            return await service.load_flat_buffer_model(model, "")

    assert asyncio.run(scene()).result is LoadModelResult.MODEL_SPEC_ERROR


def test_outputs_that_the_ml_service_does_not_take(write):
    write_model, tensor, op = write
    cast, reduce_max = 53, 82
    to_int16 = write_model([tensor((2, 4)), tensor((2, 4), type=7)], (0,), (1,), [op(cast, (0,), (1,))])
    to_scalar = write_model([tensor((8,)), tensor(()), tensor((1,), bytes(4), 2)], (0,), (1,), [op(reduce_max, (0, 2), (1,))])

    async def use(loaded, _service):
        executor = await executor_of(loaded)
        (spec,) = executor.inputs.values()
        done = await executor.execute({"t0": Tensor("float32", spec.shape, bytes(32))}, ("t1",))
        assert done.result is ExecuteResult.EXECUTION_ERROR
        return done.message

    assert within(use, to_int16) == "t1: output of type int16, expected one of float32, int32, uint8, int64, bool"
    assert within(use, to_scalar) == "t1: output of shape [], expected one or more sizes of 1 or more"


def test_an_input_that_the_ml_service_does_not_take(write):
    write_model, tensor, op = write
    from_int16 = write_model([tensor((2, 4), type=7), tensor((2, 4))], (0,), (1,), [op(53, (0,), (1,))])

    async def use(loaded, _service):
        return await (await executor_of(loaded)).execute({"t0": Tensor("int16", (2, 4), bytes(16))}, ("t1",))

    done = within(use, from_int16)
    assert (done.result, done.message) == (
        ExecuteResult.EXECUTION_ERROR,
        "t0: input of type int16, expected one of float32, int32, uint8, int64, bool",
    )


# --- what a worker says -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        lambda specs, data: ((*specs, *specs), data * 2),
        lambda specs, data: ((), b""),
        lambda specs, data: ((TensorSpec("", (8,), "float32"),), data),
        lambda specs, data: ((TensorSpec("", (2, 4), "int32"),), data),
        lambda specs, data: ((TensorSpec("", (4, 2), "float32"),), data),
        lambda specs, data: ((TensorSpec("", (), "float32"),), data[:4]),
    ],
)
def test_a_worker_that_lies_about_its_outputs_gives_none(monkeypatch, model, lie):
    true = Worker.run

    def run(worker, *arguments):
        specs, data, ns = true(worker, *arguments)
        return (*lie(specs, data), ns)

    async def use(loaded, _service):
        executor = await executor_of(loaded)
        monkeypatch.setattr(Worker, "run", run)
        return await executor.execute({"t0": X}, ("t4",))

    done = within(use, model)
    assert (done.result, dict(done.outputs)) == (ExecuteResult.EXECUTION_ERROR, {})
    assert done.message.startswith("the worker's outputs: ")


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_a_worker_that_lies_about_the_model_has_no_executor(monkeypatch, model, what):
    true = Worker.load_model

    def load(worker, *arguments, **named):
        loaded = true(worker, *arguments, **named)
        (spec,) = getattr(loaded, what)
        return replace(loaded, **{what: (replace(spec, shape=(2, 5)),)})

    monkeypatch.setattr(Worker, "load_model", load)

    async def use(loaded, _service):
        return await loaded.create_graph_executor()

    answer = within(use, model)
    assert answer.result is CreateGraphExecutorResult.MODEL_INTERPRETATION_ERROR
    assert "[2, 5], the model's file states" in answer.message


# --- many clients, one model --------------------------------------------------------------------------------------------------------------


def test_one_of_four_queued_requests_is_cancelled_and_the_others_get_their_results(delegate, model):
    options = Options(delegate=delegate, options=(("fault", "slow"), ("value", "200")))

    async def use(loaded, _service):
        executors = [await executor_of(loaded) for _ in range(4)]
        tasks = [asyncio.ensure_future(each.execute({"t0": X}, ("t4",))) for each in executors]
        await asyncio.sleep(0.1)
        for number in (0, 2):  # the one that runs, and one that waits
            tasks[number].cancel()
        return (
            await asyncio.gather(*tasks, return_exceptions=True),
            executors[0].pid,
            (await executors[0].execute({"t0": X}, ("t4",))).result,
        )

    answers, pid, after = within(use, model, options)
    assert [type(each) for each in answers[::2]] == [asyncio.CancelledError] * 2
    assert [each.outputs for each in answers[1::2]] == [{"t4": Y}] * 2
    assert after is ExecuteResult.OK
    assert gone(pid)


def test_clients_of_one_model_share_a_worker_and_the_last_of_them_ends_it(model):
    async def use(loaded, service):
        clients = []
        for number in range(33):
            own = (await service.load_flat_buffer_model(model, "Chain", str(number))).model
            clients.append(await executor_of(own))
            await own.close()
        pids = {each.pid for each in clients}
        answers = await asyncio.gather(*(each.execute({"t0": X}, ("t4",)) for each in clients))
        await loaded.close()
        for each in clients[:-1]:
            await each.close()
        assert not gone(clients[-1].pid)
        assert (await clients[-1].execute({"t0": X}, ("t4",))).outputs == {"t4": Y}
        async with clients[-1]:
            pass
        return pids, answers, service

    pids, answers, service = within(use, model)
    assert len(pids) == 1
    assert all(each.outputs == {"t4": Y} for each in answers)
    assert all(map(gone, pids))
    assert service.metrics.events()[metrics.EXIT_STATUS] == {"ended by the service": 1}


def test_executors_of_one_worker_have_interpreters_and_delegates_of_their_own(delegate, model):
    """The reference delegate counts its inferences: the second one of each executor fails."""
    options = Options(delegate=delegate, options=(("fault", "fail"), ("after", "1")))

    async def use(loaded, _service):
        first, second = await executor_of(loaded), await executor_of(loaded)
        assert first.pid == second.pid
        return [(await each.execute({"t0": X}, ("t4",))).result.name for each in (first, first, second, second)]

    assert within(use, model, options) == ["OK", "EXECUTION_ERROR"] * 2


def test_loading_waits_for_no_inference_that_hangs(delegate, chain_of):
    options = Options(delegate=delegate, options=(("fault", "hang"),))

    async def scene():
        async with InferenceService(budget=Budget(seconds=600)) as service:
            hung = []
            for number in range(6):  # more than there are control threads
                loaded = await service.load_flat_buffer_model(chain_of(number / 4), "Hung")
                executor = await executor_of(loaded.model, options)
                hung.append(asyncio.ensure_future(executor.execute({"t0": X}, ("t4",))))
            await asyncio.sleep(0.2)
            loads = [await service.load_flat_buffer_model(chain_of(number / 8), "Fine") for number in range(8)]
            done = await (await executor_of(loads[4].model, OPTIONS)).execute({"t0": X}, ("t4",))
            assert not any(task.done() for task in hung)
            await service.close()
            return done, await asyncio.gather(*hung)

    done, hung = asyncio.run(scene())
    assert done.outputs == {"t4": Y}
    assert {each.result for each in hung} == {ExecuteResult.EXECUTION_ERROR}


def test_a_cancelled_creation_leaves_the_worker_to_others(model):
    async def use(loaded, _service):
        other = await executor_of(loaded)
        tasks = [asyncio.ensure_future(loaded.create_graph_executor()) for _ in range(3)]
        await asyncio.sleep(0)
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await other.execute({"t0": X}, ("t4",)), other._host.executors

    done, executors = within(use, model)
    assert done.outputs == {"t4": Y}
    assert executors == 1


# --- idle ---------------------------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_while_idle_is_noticed(model):
    async def use(loaded, service):
        executor = await executor_of(loaded)
        os.kill(executor.pid, signal.SIGKILL)
        await until(lambda: executor.over)
        assert executor.over == "the worker has ended while it was idle"
        done = await executor.execute({"t0": X}, ("t4",))
        again = await executor_of(loaded)
        return done, await again.execute({"t0": X}, ("t4",)), service.metrics.events()[metrics.EXIT_STATUS]

    done, after, exits = within(use, model)
    assert done.result is ExecuteResult.EXECUTION_ERROR
    assert after.outputs == {"t4": Y}
    assert exits == {"SIGKILL": 1}


def test_processor_time_after_a_reply_is_counted_and_ends_the_worker(model):
    async def use(loaded, service):
        executor = await executor_of(loaded)
        assert (await executor.execute({"t0": X}, ("t4",))).result is ExecuteResult.OK
        executor._host._cpu_after_reply -= 10**9  # as if it had worked on for a second
        await until(lambda: executor.over)
        return executor.over, service

    over, service = within(use, model, budget=Budget(idle_cpu_seconds=0.5))
    assert over.startswith("the worker was ended: 1.")
    assert "s of processor time after its reply, the limit is 0.5" in over
    assert service.metrics.samples()["MachineLearningService.Chain.CpuTimeAfterReplyMicrosec"].greatest >= 1e6
    assert service.metrics.events()[metrics.EXIT_STATUS] == {"cpu-exceeded": 1}


def test_a_worker_that_nobody_asks_is_ended(model):
    async def use(loaded, _service):
        executor = await executor_of(loaded)
        await until(lambda: executor.over)
        return executor.over, executor.pid

    over, pid = within(use, model, budget=Budget(idle_seconds=0.1))
    assert over == "the worker was ended: idle"
    assert gone(pid)


# --- budgets and rates --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["seconds", "cpu_seconds", "idle_cpu_seconds", "idle_seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0, "3", True])
def test_a_budget_of_no_seconds_is_refused(name, value):
    with pytest.raises(ValueError, match=f"budget: {name}: .*, expected a number above 0"):
        Budget(**{name: value})


@pytest.mark.parametrize("name", ["memory_bytes", "requests_per_minute", "requests_per_hour", "requests_per_day", "waiting"])
@pytest.mark.parametrize("value", [float("nan"), -1, 0, 1.5, True])
def test_a_budget_of_no_whole_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"budget: {name}: .*, expected a whole number of 1 or more"):
        Budget(**{name: value})


def test_rates_are_of_a_client_and_a_model_and_outlive_executors(model, chain_of):
    async def use(loaded, service):
        async def ask(client, content):
            own = (await service.load_flat_buffer_model(content, "Chain", client)).model
            async with own, await executor_of(own) as executor:
                return (await executor.execute({"t0": X}, ("t4",))).result.name

        return [await ask(*each) for each in (("a", model), ("a", model), ("a", model), ("b", model), ("a", chain_of(0.25)))]

    answers = within(use, model, budget=Budget(requests_per_minute=2))
    assert answers == ["OK", "OK", "RATE_ERROR", "OK", "OK"]


@pytest.mark.parametrize(("name", "seconds"), [("minute", 60), ("hour", 3600), ("day", 86400)])
def test_rates_over_each_window(name, seconds):
    rates = Rates(Budget(**{f"requests_per_{name}": 3}))
    first = 1_000_000.5
    asked = [rates.refusal("c", "m", first + seconds * part) for part in (0, 0.3, 0.9, 0.95)]
    assert asked == ["", "", "", f"3 requests within {'an' if name == 'hour' else 'a'} {name} already"]
    assert rates.refusal("c", "m", first + seconds * 0.999), "not before the window has passed"
    assert rates.refusal("c", "m", first + seconds * 1.05) == "", "what was refused did not count"
    assert rates.refusal("c", "m", first + seconds * 1.1)


def test_clients_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr("auditor.inference.rates.MAX_PAIRS", 2)
    rates = Rates(Budget())
    assert [rates.refusal(client, "m", 0.0) for client in "abc"] == ["", "", "2 clients and models asked within a day already"]
    assert rates.refusal("c", "m", 90_000.0) == ""


def test_more_requests_than_may_wait_are_refused(delegate, model):
    options = Options(delegate=delegate, options=(("fault", "slow"), ("value", "200")))

    async def use(loaded, _service):
        executor = await executor_of(loaded)
        return await asyncio.gather(*(executor.execute({"t0": X}, ("t4",)) for _ in range(4)))

    results = [each.result.name for each in within(use, model, options, Budget(waiting=2))]
    assert results == ["OK", "OK", "RATE_ERROR", "RATE_ERROR"]


# --- wrong use ----------------------------------------------------------------------------------------------------------------------------


def test_a_second_event_loop_is_refused(model):
    async def load(service):
        return await service.load_flat_buffer_model(model, "Chain")

    service = InferenceService()
    loaded = asyncio.run(load(service))
    for use in (lambda: load(service), service.close, loaded.model.create_graph_executor, loaded.model.close):

        async def scene(use=use):
            with pytest.raises(ServiceError, match="belongs to another event loop"):
                await use()

        asyncio.run(scene())


def test_use_after_close_is_refused(model):
    async def use(loaded, service):
        executor = await executor_of(loaded)
        await executor.close()
        await executor.close()
        await loaded.close()
        for late, said in (
            (executor.execute({"t0": X}, ("t4",)), r"executor 1 of Chain is closed"),
            (loaded.create_graph_executor(), "model Chain is closed"),
        ):
            with pytest.raises(ServiceError, match=said):
                await late
        await service.close()
        for late in (service.load_builtin_model("m"), service.load_flat_buffer_model(model, "Chain")):
            with pytest.raises(ServiceError, match="the service is closed"):
                await late

    within(use, model)


def test_a_client_takes_another_executor_when_its_own_has_ended(model, tmp_path):
    (tmp_path / "m.tflite").write_bytes(model)
    published = {"m": Published(str(tmp_path / "m.tflite"), hashlib.sha256(model).hexdigest())}

    async def scene():
        async with InferenceService(published, options=OPTIONS) as service, Client(service, "c") as client:
            assert await client.predict("m", {"t0": X}) == {"t4": Y}
            os.kill((await client.executor("m")).pid, signal.SIGKILL)
            await until(lambda: client._executors["m"].over)
            assert await client.predict("m", {"t0": X}) == {"t4": Y}
            with pytest.raises(PredictionError):
                await client.predict("none", {})
            return list(client._turns)

    assert asyncio.run(scene()) == ["m"]


# --- what it leaves and what it costs -----------------------------------------------------------------------------------------------------

KILLED = """
import asyncio, os, signal, sys
from auditor.inference.service import InferenceService

async def main():
    async with InferenceService() as service:
        loaded = await service.load_flat_buffer_model(open(sys.argv[1], "rb").read(), "Chain")
        created = await loaded.model.create_graph_executor()
        print(created.executor.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_what_a_killed_service_leaves_the_next_one_removes(model, tmp_path):
    (tmp_path / "m.tflite").write_bytes(model)
    place = tmp_path / "tmp"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "m.tflite")],
        check=False,
        capture_output=True,
        env={**os.environ, "TMPDIR": str(place)},
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))),
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 30
    while not (gone(int(done.stdout)) and not os.listdir(place)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(int(done.stdout)), "the worker ends with its controller"
    assert os.listdir(place) == [], "its supervisor removes its folder"
    left = place / f"{scratch.PREFIX}left"
    left.mkdir()
    groups = group.plan(left.name, 1 << 30, 100)
    group.make(groups)
    (place / "other").mkdir()
    old, tempfile.tempdir = tempfile.tempdir, str(place)
    try:
        assert scratch.sweep() == (), "it is young"
        with_worker = Worker("test", model, Limits())
        try:
            assert scratch.sweep(young_seconds=-1) == (str(left),)
            assert os.path.isdir(with_worker.scratch)
        finally:
            with_worker.close()
    finally:
        tempfile.tempdir = old
    assert [each.name for each in place.iterdir()] == ["other"]
    assert not any(os.path.exists(folder) for folder, _settings in groups), "its worker's groups are removed, where this user can have any"


def test_a_large_input_is_not_copied(write):
    write_model, tensor, op = write
    size = 50 << 20
    content = write_model(
        [tensor((1, size), type=3), tensor((1,), struct.pack("<i", 1), 2), tensor((1,), type=3)], (0,), (2,), [op(82, (0, 1), (2,))]
    )

    async def use(loaded, _service):
        executor = await executor_of(loaded)
        given = Tensor("uint8", (1, size), bytes(size))
        gc.collect()
        tracemalloc.start()
        try:
            done = await executor.execute({"t0": given}, ("t2",))
            return done, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    done, most = within(use, content)
    assert done.result is ExecuteResult.OK, done
    assert most < 0.2 * size
