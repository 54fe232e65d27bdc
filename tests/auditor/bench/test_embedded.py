from __future__ import annotations

import json
import os
import platform
import struct
import time

import pytest

from auditor.bench import embedded
from auditor.bench.document import Job
from auditor.bench.embedded import measure
from auditor.inference import process
from auditor.inference.fdinfo import DeviceUse
from auditor.inference.watch import Limits
from auditor.tflite.graph import read_graph
from auditor.tflite.rewrite import without_custom_deconvolution

QUICK = {"inputs": 3, "min_runs": 6, "min_seconds": 0, "warmup_seconds": 0, "memory_runs": 6}
ADD, DEQUANTIZE, GREATER, FLOOR_MOD, WHERE = 0, 6, 61, 95, 109
FLOAT16, INT32, INT64, STRING, BOOL = 1, 2, 4, 5, 6


def status_of(run):
    return {key: value for key, value in run["status"].items() if value is not None and key != "message"}


def run_with(delegate, model, runtime, limits=None, **options):
    job = Job("chain", model, delegate=delegate, options=tuple(options.items()), runtime=runtime, **QUICK, xnnpack=False)
    return measure(job if limits is None else Job(**{**vars_of(job), "limits": limits}))


def vars_of(job):
    return {name: getattr(job, name) for name in job.__dataclass_fields__}


def output_of(run):
    (output,) = run["accuracy"]["outputs"]
    return output


def test_a_plain_run_is_complete_and_json(model, runtime):
    told = []
    run = measure(Job("chain", model, origin="made here", runtime=runtime, **QUICK), progress=told.append)
    assert json.loads(json.dumps(run, allow_nan=False)) == run
    assert run["status"]["outcome"] == "completed", run["status"]
    assert run["model"]["origin"] == "made here"
    assert run["runtime"]["name"] == runtime
    assert run["delegate"] is None
    assert run["nodes"] is None
    assert run["inputs"] == 3
    assert len(told) == 3
    for key in ("samples_us", "bracket_us", "exchange_us", "cpu_us"):
        assert len(run[key]) == 6
    assert min(run["samples_us"]) > 0
    assert sum(run["samples_us"]) <= sum(run["bracket_us"]) <= sum(run["exchange_us"])
    assert run["overhead_us"] >= 0
    assert 0 < run["memory"]["before_bytes"] < run["memory"]["peak_bytes"]
    assert run["memory"]["device_bytes"] == 0
    assert output_of(run)["avg_error"] == 0
    assert output_of(run)["two_input_distance"] > 0
    known = {"before", "after", "confinement", "escapes", "operators", "refused", "cpu_share", "reference_cpu_us"}
    assert known == set(run["conditions"]) - {"power"}


def test_a_correct_delegate_takes_all_and_is_bit_exact(delegate, model, runtime):
    run = run_with(delegate, model, runtime)
    assert run["status"]["outcome"] == "completed", run["status"]
    assert run["nodes"] == {
        "total": 3,
        "delegated": 3,
        "partitions": [{"subgraph": 0, "name": "ReferenceDelegate", "nodes": [0, 1, 2]}],
    }
    assert run["delegate"]["name"] == "ReferenceDelegate"
    assert run["delegate"]["options"] == {}
    assert output_of(run)["avg_error"] == 0
    assert output_of(run)["exact_share"] == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fault": "fail", "at": "prepare"}, {"outcome": "prepare-failed", "stage": "prepare"}),
        ({"fault": "crash", "after": "4"}, {"outcome": "died", "stage": "invoke", "signal": 11}),
        ({"fault": "exit", "value": "0", "at": "destroy"}, {"outcome": "exited", "stage": "quit", "exit": 0}),
    ],
    ids=["refuses", "crashes", "leaves"],
)
def test_a_failure_is_written_down_with_what_came_before(delegate, model, runtime, options, expected, monkeypatch):
    monkeypatch.setattr(embedded, "BATCH", 2)
    run = run_with(delegate, model, runtime, **options)
    assert status_of(run) == {"process": "test", **expected}
    assert run["status"]["message"]
    assert run["memory"] is None
    assert len(run["samples_us"]) == {"prepare": 0, "invoke": 3, "quit": 6}[expected["stage"]]
    assert (run["nodes"] is None) == (expected["stage"] == "prepare")
    assert run["conditions"]["after"]


@pytest.mark.parametrize("fault", ["hang", "spin"])
def test_a_worker_that_does_not_answer_is_ended(delegate, model, runtime, fault, monkeypatch):
    monkeypatch.setattr(embedded, "BATCH", 2)
    run = run_with(delegate, model, runtime, Limits(request_seconds=1.0), fault=fault, after="3")
    assert status_of(run) == {"outcome": "timed-out", "process": "test", "stage": "invoke"}
    assert len(run["samples_us"]) == 2, "what was measured before stays; the first inference is the warm-up"


def test_a_greedy_delegate_is_ended(delegate, model, runtime):
    run = run_with(delegate, model, runtime, Limits(memory_bytes=256 << 20), fault="leak", value="300")
    assert run["status"]["outcome"] == "out-of-memory", run["status"]


def test_a_leak_shows_in_the_peak(delegate, model, runtime):
    honest, leaking = run_with(delegate, model, runtime), run_with(delegate, model, runtime, fault="leak", value="4")
    assert leaking["status"]["outcome"] == "completed"
    assert leaking["memory"]["peak_bytes"] - honest["memory"]["peak_bytes"] > 15 << 20


def test_a_slow_delegate_is_slow_by_every_clock_and_idle(delegate, model, runtime):
    run = run_with(delegate, model, runtime, fault="slow", value="20")
    assert min(run["samples_us"]) >= 20_000
    assert sum(run["cpu_us"]) < sum(run["bracket_us"]) / 2


def test_a_delegate_that_computes_on_the_processor(delegate, model, runtime):
    """The reference delegate claims every operator, and computes as everybody without an accelerator does."""
    idle, conditions = (run_with(delegate, model, runtime, fault=fault, value="20")["conditions"] for fault in ("slow", "burn"))
    assert conditions["cpu_share"] > 3 * idle["cpu_share"]
    assert "accelerator_busy" not in conditions
    assert "engines" not in conditions


@pytest.mark.parametrize(("share", "seen"), [(0.9, True), (0.02, False)], ids=["at work", "a token job"])
def test_an_accelerator_that_works(delegate, model, runtime, monkeypatch, share, seen):
    def use(_pid, _accelerator):
        return DeviceUse(4096, {("0000:00:04.0", "1", "compute"): int(time.perf_counter_ns() * share)})

    monkeypatch.setattr(process, "read_device_use", use)
    run = run_with(delegate, model, runtime, fault="slow", value="20")
    assert run["conditions"]["engines"]["busy_us"] > share * 0.9 * run["conditions"]["engines"]["timed_us"]
    assert run["conditions"].get("accelerator_busy") is (True if seen else None)
    assert run["memory"]["device_bytes"] == 4096


def test_wrong_by_epsilon(delegate, model, runtime):
    output = output_of(run_with(delegate, model, runtime, fault="eps", value="0.25"))
    assert output["avg_error"] == pytest.approx(0.25, rel=1e-5)
    assert output["std_dev"] == pytest.approx(0, abs=1e-6)
    assert output["exact_share"] == 0


def test_a_fault_that_begins_later_is_still_seen(delegate, model, runtime):
    output = output_of(run_with(delegate, model, runtime, fault="eps", value="1", after="6"))
    assert output["max_error"] == pytest.approx(1, rel=1e-5)
    assert output["exact_share"] == pytest.approx(11 / 12)


def test_a_delegate_that_computes_nothing_where_memory_is_looked_at(delegate, model, runtime):
    """The process for memory makes more inferences than the timed one here: only there are the answers zeros."""
    job = Job("chain", model, delegate=delegate, options=(("fault", "zero"), ("after", "7")), runtime=runtime, xnnpack=False)
    output = output_of(measure(Job(**{**vars_of(job), **QUICK, "memory_runs": 20})))
    assert output["exact_share"] == pytest.approx(13 / 26)
    assert output["avg_error"] > 0.1


def test_inputs_that_are_new_are_timed_apart_from_those_that_come_again(model, runtime, monkeypatch):
    """What comes again may be answered from memory, so no batch holds both."""
    monkeypatch.setattr(embedded, "BATCH", 4)
    run = measure(Job("chain", model, runtime=runtime, inputs=6, min_runs=11, min_seconds=0, warmup_seconds=0))
    brackets = run["bracket_us"]
    assert [brackets.index(each) for each in brackets] == [0, 0, 0, 0, 4, 4, 6, 6, 6, 6, 10]


def test_zeros(delegate, model, runtime):
    output = output_of(run_with(delegate, model, runtime, fault="zero"))
    assert output["avg_error"] > 0.1
    assert output["test_nan_runs"] == output["reference_nan_runs"] == 0


def test_nan_of_the_delegate_alone(delegate, model, runtime):
    output = output_of(run_with(delegate, model, runtime, fault="nan"))
    assert output["avg_error"] is None
    assert (output["reference_nan_runs"], output["test_nan_runs"]) == (0, 12)


def test_nan_of_the_model_itself(chain_of, runtime):
    output = output_of(measure(Job("nan", chain_of(float("nan")), runtime=runtime, **QUICK)))
    assert output["avg_error"] is None
    assert output["two_input_distance"] is None
    assert (output["reference_nan_runs"], output["test_nan_runs"]) == (12, 12)


def test_a_flood_of_output_is_bounded(delegate, model, runtime):
    run = run_with(delegate, model, runtime, fault="flood")
    assert run["status"]["outcome"] == "completed", run["status"]
    assert "bytes left out" in run["worker_output"]
    assert len(run["worker_output"]) < 20_000


def test_no_such_library(model, tmp_path):
    run = measure(Job("chain", model, delegate=str(tmp_path / "none.so"), **QUICK))
    assert status_of(run) == {"outcome": "delegate-missing", "stage": "load"}
    assert run["runtime"] is None


def test_a_directory_is_no_library(model, tmp_path):
    assert measure(Job("chain", model, delegate=str(tmp_path), **QUICK))["status"]["outcome"] == "delegate-missing"


def test_a_file_that_is_no_library(model, tmp_path):
    path = tmp_path / "text.so"
    path.write_text("not a library")
    run = measure(Job("chain", model, delegate=str(path), **QUICK))
    assert status_of(run) == {"outcome": "delegate-not-loadable", "process": "test", "stage": "load"}
    assert str(path) in run["status"]["message"]


@pytest.mark.parametrize(
    ("symbol", "outcome"), [("unrelated", "delegate-not-a-delegate"), ("TFL_TheStableDelegate", "delegate-unsupported")]
)
def test_a_library_that_is_no_external_delegate(model, compiled, symbol, outcome):
    run = measure(Job("chain", model, delegate=compiled(f"const int {symbol} = 1;"), **QUICK))
    assert run["status"]["outcome"] == outcome, run["status"]


def test_what_the_delegate_finds_in_its_process(model, compiled, monkeypatch):
    """No environment but the loader's path, when asked for; no descriptor but the three of the protocol and the model's."""
    monkeypatch.setenv("SECRET", "leaked")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/leaked")
    library = compiled(
        """
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        extern char **environ;
        void *tflite_plugin_create_delegate(char **k, char **v, size_t n, void (*report)(const char *)) {
          (void)k; (void)v; (void)n; (void)report;
          for (char **entry = environ; *entry; entry++) fprintf(stderr, "env %s\\n", *entry);
          int count = 0;
          for (int fd = 3; fd < 256; fd++) count += fcntl(fd, F_GETFD) != -1;
          fprintf(stderr, "descriptors %d\\n", count);
          return NULL;
        }
        void tflite_plugin_destroy_delegate(void *d) { (void)d; }
        """
    )
    held = open(os.devnull, "rb")  # noqa: SIM115 - it must be open while the worker starts
    os.set_inheritable(held.fileno(), True)
    with held:
        run = measure(Job("chain", model, delegate=library, library_path=("/asked/for",), **QUICK))
    assert status_of(run) == {"outcome": "delegate-create-failed", "process": "test", "stage": "create"}
    printed = run["worker_output"].splitlines()
    assert "leaked" not in run["worker_output"]
    assert "env LD_LIBRARY_PATH=/asked/for" in printed
    assert "descriptors 3" in printed


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only here does the least integer divided by -1 trap")
def test_a_model_that_crashes_the_runtime(write, runtime):
    write_model, tensor, op = write
    least, minus_one = (tensor((1,), struct.pack("<i", value), INT32) for value in (-(1 << 31), -1))
    model = write_model([tensor((1,)), least, minus_one, tensor((1,), type=INT32)], (0,), (3,), [op(FLOOR_MOD, (1, 2), (3,))])
    run = measure(Job("crasher", model, runtime=runtime, **QUICK))
    assert status_of(run) == {"outcome": "died", "process": "reference", "stage": "invoke", "signal": 8}


def test_a_missing_operator(write, runtime):
    write_model, tensor, op = write
    model = write_model([tensor((2,)), tensor((2,))], (0,), (1,), [op(32, (0,), (1,), "NobodyHasThis")])
    run = measure(Job("custom", model, runtime=runtime, **QUICK))
    assert status_of(run) == {"outcome": "load-failed", "process": "reference", "stage": "model"}
    assert "NobodyHasThis" in run["status"]["message"]


@pytest.mark.parametrize(("kind", "stage"), [(FLOAT16, "input"), (STRING, "tensors")])
def test_inputs_that_cannot_be_made(write, runtime, kind, stage):
    write_model, tensor, op = write
    model = write_model([tensor((2,), type=kind), tensor((2,))], (0,), (1,), [op(DEQUANTIZE, (0,), (1,))])
    run = measure(Job("odd", model, runtime=runtime, **QUICK))
    assert run["status"]["outcome"] == "load-failed"
    if kind == FLOAT16:
        assert run["status"]["stage"] == stage


@pytest.mark.parametrize("data", [b"", b"x" * 100], ids=["empty", "junk"])
def test_a_file_that_is_no_model(runtime, data):
    run = measure(Job("junk", data, runtime=runtime, **QUICK))
    assert status_of(run) == {"outcome": "load-failed", "process": "reference", "stage": "model"}


def test_a_runtime_that_does_not_exist():
    with pytest.raises(ValueError, match="expected one of auto, ai-edge-litert, tflite-runtime"):
        Job("chain", b"", runtime="tensorflow")


def test_times_end_with_the_budget(delegate, model, runtime):
    job = Job("chain", model, delegate=delegate, options=(("fault", "slow"), ("value", "40")), runtime=runtime, inputs=2)
    run = measure(Job(**{**vars_of(job), "min_runs": 1000, "max_seconds": 0.3, "warmup_seconds": 0}))
    assert run["status"]["outcome"] == "completed", run["status"]
    assert 1 <= len(run["samples_us"]) < 20


def test_outputs_whose_size_goes_by_the_input(write, runtime):
    write_model, tensor, op = write
    tensors = [tensor((64,)), tensor((1,), struct.pack("<f", 0.1)), tensor((64,), type=BOOL), tensor((0, 1), type=INT64)]
    run = measure(Job("m", write_model(tensors, (0,), (3,), [op(GREATER, (0, 1), (2,)), op(WHERE, (2,), (3,))]), runtime=runtime, **QUICK))
    assert run["status"]["outcome"] == "completed", run["status"]
    output = output_of(run)
    assert (output["avg_error"], output["exact_share"]) == (0, 1)
    assert [output[key] for key in ("idle_error", "correlation", "offset")] == [None] * 3


def test_no_output(write, runtime):
    write_model, tensor, op = write
    job = Job("m", write_model([tensor((4,)), tensor((4,))], (0,), (), [op(ADD, (0, 0), (1,))]), runtime=runtime, **QUICK)
    run = measure(job)
    assert run["status"]["outcome"] == "completed", run["status"]
    assert run["accuracy"]["outputs"] == []


@pytest.fixture(scope="module")
def published():
    path = os.path.join(os.path.dirname(__file__), *[os.pardir] * 4, "shared", "models", "selfie_segmentation_landscape_256x256.tflite")
    if not os.path.exists(path):
        pytest.skip("the published selfie_segmentation_landscape_256x256.tflite is not on this machine")
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("operators", ["3", "3,67"])
def test_a_custom_operator_that_nobody_has_is_the_processors_work(delegate, runtime, published, operators):
    """It is rewritten for the delegate's processes, too; even where the delegate takes what stands in its place, it did not take it."""
    rewritten = without_custom_deconvolution(published)
    options = (("ops", operators),)
    found = measure(
        Job("selfie", published, reference=rewritten, delegate=delegate, options=options, runtime=runtime, **QUICK, xnnpack=False)
    )
    assert found["status"]["outcome"] == "completed", found["status"]
    assert found["conditions"]["rewritten"] == {"operator": "Convolution2DTransposeBias", "nodes": [[0, 244]]}
    taken = [node for part in found["nodes"]["partitions"] for node in part["nodes"]]
    assert (found["nodes"]["total"], found["nodes"]["delegated"]) == (246, len(taken))
    assert 244 not in taken
    assert taken == [index for index, each in enumerate(read_graph(published).operators) if each.name == "CONV_2D"]
    assert output_of(found)["avg_error"] < 1e-6


def test_another_failure_is_not_answered_by_rewriting(delegate, runtime, published):
    rewritten = without_custom_deconvolution(published)
    options = (("fault", "fail"), ("at", "prepare"))
    found = measure(
        Job("selfie", published, reference=rewritten, delegate=delegate, options=options, runtime=runtime, **QUICK, xnnpack=False)
    )
    assert found["status"]["outcome"] != "completed"


def test_scalars(runtime, write):
    """Inputs and outputs of no dimensions."""
    write_model, tensor, op = write
    constant = tensor((), struct.pack("<f", 0.5))
    found = measure(
        Job("scalar", write_model([tensor(()), constant, tensor(())], (0,), (2,), [op(ADD, (0, 1), (2,))]), runtime=runtime, **QUICK)
    )
    assert found["status"]["outcome"] == "completed", found["status"]
    assert output_of(found)["avg_error"] == 0
    assert output_of(found)["two_input_distance"] > 0
