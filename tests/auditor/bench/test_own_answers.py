"""A tool's answers beside those of the auditor's own runtime: of one that computes the model, of those that do not, and of nonsense."""

from __future__ import annotations

import base64
import importlib.util
import json

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

from hypothesis import given
from hypothesis import strategies as st

from auditor.bench import own_answers
from auditor.bench.answers import draw, signature
from auditor.bench.own_answers import ToolAnswers, carried, compare_carried, compare_here
from auditor.inference.executor import Executor, Options
from auditor.inference.watch import Limits
from auditor.inference.wire import RUNTIMES
from auditor.tflite.graph import read_graph
from auditor.tflite.rewrite import without_custom_deconvolution
from auditor.tflite.tensors import split
from auditor.zoo.generate import generate

INSTALLED = [name for name, package in RUNTIMES.items() if importlib.util.find_spec(package)]
NAMES = ("convolution_benchmark_1_144x256", "mobilenet_v2_1.0_224_quant")

needs_runtime = pytest.mark.skipif(not INSTALLED, reason="no TFLite runtime is installed")


def computed(name, *, xnnpack):
    """A tool that computes the model: with the kernels that are XNNPACK's, or the builtin ones."""
    model = without_custom_deconvolution(generate(name))
    inputs, outputs = signature(read_graph(model))
    given = tuple(tuple(map(draw, inputs)) for _ in range(4))
    found = []
    with Executor(model, Options(xnnpack=xnnpack), Limits(), "reference") as executor:
        executor.load()
        for parts in given:
            executor.worker.set_inputs(b"".join(parts))
            executor.worker.invoke()
            found.append(split(outputs, executor.worker.outputs()[1]))
        executor.worker.quit()
    return model, ToolAnswers(inputs, outputs, given, tuple(found))


@needs_runtime
@pytest.mark.parametrize("name", NAMES)
def test_a_tool_that_computes_the_model_agrees_whatever_its_kernels_are(name):
    model, tool = computed(name, xnnpack=False)
    document = compare_here(model, tool)
    assert document["inputs"] == 4
    assert document["runtime"].partition(" ")[0] in RUNTIMES
    for output in document["outputs"]:
        assert output["correlation"] >= 0.65
        assert output["error"] < output["distance"]
    # over a connection, the same figures
    assert compare_carried(model, json.loads(json.dumps(carried(model, tool)))) == document


@needs_runtime
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["always the first answer", "each to the next input", "zeros"])
def test_a_tool_that_does_not_is_off_by_as_much_as_inputs_are_apart(name, how):
    model, tool = computed(name, xnnpack=True)
    forged = {
        "always the first answer": (tool.answered[0],) * 4,
        "each to the next input": (*tool.answered[1:], tool.answered[0]),
        "zeros": (tuple(bytes(len(part)) for part in tool.answered[0]),) * 4,
    }[how]
    for output in compare_here(model, ToolAnswers(tool.inputs, tool.outputs, tool.given, forged))["outputs"]:
        assert output["correlation"] < 0.1


@needs_runtime
def test_a_model_that_the_own_runtime_cannot_run_is_a_note(monkeypatch):
    model, tool = computed(NAMES[0], xnnpack=True)
    assert "the auditor's own runtime does not run the model: " in compare_here(b"\0" * 64, tool)["note"]
    short = ToolAnswers(tool.inputs, tool.outputs * 2, tool.given, tuple(each * 2 for each in tool.answered))
    assert "its outputs are of another size" in compare_here(model, short)["note"]

    def missing(*_arguments):
        raise ImportError("numpy", name="numpy")

    monkeypatch.setattr(own_answers, "_output", missing)
    assert compare_here(model, tool).keys() == {"note"}


MODEL = without_custom_deconvolution(generate(NAMES[0]))
SIZES = [sum(spec.nbytes for spec in specs) for specs in signature(read_graph(MODEL))]
WHOLE = [base64.b64encode(bytes(size)).decode() for size in SIZES]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"carried": None},
        {"carried": 1},
        {"carried": [[]]},
        {"carried": [[WHOLE[0]]]},
        {"carried": [[WHOLE[0], "AA=="]]},
        {"carried": [[WHOLE[0], "*"]]},
        {"carried": [[WHOLE[0], 1]]},
        {"carried": [["ä", WHOLE[1]]]},
        {"carried": [WHOLE] * 17},
        {"outputs": [{"index": 0, "correlation": 1.0, "error": 0.0, "distance": 1.0}]},
    ],
)
def test_what_a_device_sends_instead_of_answers_is_a_note(document):
    found = compare_carried(MODEL, document)
    assert found.keys() == {"note"}
    assert "that came from the device are none" in found["note"]


def test_a_devices_own_note_is_kept_and_bounded():
    assert compare_carried(MODEL, {"note": "answers cannot be compared"}) == {"note": "answers cannot be compared"}
    assert len(compare_carried(MODEL, {"note": "x" * 100_000})["note"]) < 10_000


@given(st.binary(max_size=200))
def test_a_model_that_is_none_is_a_note(content):
    assert compare_carried(content, {"carried": [WHOLE]}).keys() == {"note"}
