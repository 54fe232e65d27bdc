from __future__ import annotations

import struct

import pytest

from auditor.bench.answers import MAX_ELEMENTS, compare, draw, signature
from auditor.tflite.graph import Graph, Subgraph, Tensor, read_graph
from auditor.tflite.tensors import OutputError, TensorSpec, make_inputs
from auditor.zoo.generate import generate

CODES = {"float32": "f", "int8": "b", "uint8": "B", "bool": "B", "int32": "i", "int64": "q"}


def spec(dtype, *shape):
    return TensorSpec("x", shape or (3,), dtype)


@pytest.mark.parametrize("dtype", CODES)
def test_what_is_drawn_is_new_each_time_and_in_range(dtype):
    wanted = spec(dtype, 1, 40, 50)
    values = struct.unpack(f"<2000{CODES[dtype]}", draw(wanted))
    low, high = {"float32": (-1, 1), "int8": (-128, 127), "uint8": (0, 255), "bool": (0, 1)}.get(dtype, (0, 99))
    assert low <= min(values) < max(values) <= high
    assert draw(wanted) != draw(wanted)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_what_is_drawn_is_distributed_as_inference_diff_has_it(dtype):
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    wanted = spec(dtype, 200_000)
    ours, theirs = (numpy.frombuffer(data, dtype) for data in (draw(wanted), make_inputs([wanted], numpy.random.default_rng(1))))
    span = 1.0 if dtype == "float32" else 127.5
    quantiles = [(numpy.quantile(each, (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)) / span).tolist() for each in (ours, theirs)]
    assert quantiles[0] == pytest.approx(quantiles[1], abs=0.02)
    assert (ours.min() / span, ours.max() / span) == pytest.approx((theirs.min() / span, theirs.max() / span), abs=0.01)


def test_answers_are_compared_as_the_embedded_runner_does():
    protocol = pytest.importorskip("numpy", reason="numpy is not installed") and __import__("auditor.tflite.tensors", fromlist=["compare"])
    for dtype in ("float32", "int8", "uint8"):
        for _ in range(5):
            one, two = draw(spec(dtype, 500)), draw(spec(dtype, 500))
            ours, theirs = compare(spec(dtype, 500), one, two), protocol.compare(spec(dtype, 500), one, two)
            assert ours.mean == pytest.approx(theirs.mean)
            assert (ours.maximum, ours.exact, ours.elements) == (pytest.approx(theirs.maximum), theirs.exact, 500)


def test_a_nan_has_its_side():
    good, bad = struct.pack("<3f", 1, 2, 3), struct.pack("<3f", 1, float("nan"), float("inf"))
    assert compare(spec("float32"), good, good) == OutputError(0.0, 0.0, 3, 3, True, True)
    assert compare(spec("float32"), bad, good) == OutputError(None, None, 1, 3, False, True)
    assert compare(spec("float32"), good, bad) == OutputError(None, None, 1, 3, True, False)


def test_the_signature_of_a_model():
    inputs, outputs = signature(read_graph(generate("mobilenet_v2_1.0_224_quant")))
    assert [(each.shape, each.dtype) for each in (*inputs, *outputs)] == [((1, 224, 224, 3), "uint8"), ((1, 1001), "uint8")]


@pytest.mark.parametrize(
    ("kind", "shape", "inputs"),
    [
        ("FLOAT16", (3,), (0,)),
        ("STRING", (3,), (0,)),
        ("FLOAT32", (0,), (0,)),
        ("FLOAT32", (-1, 3), (0,)),
        ("FLOAT32", (MAX_ELEMENTS + 1,), (0,)),
        ("FLOAT32", (3,), ()),
    ],
)
def test_a_model_whose_answers_cannot_be_had(kind, shape, inputs):
    tensor = Tensor("t", kind, shape, 0, 0, 0, False, False, ())
    with pytest.raises(ValueError, match=r"inputs|outputs|type|shape"):
        signature(Graph(3, "", (Subgraph((tensor,), (), inputs, (0,)),), 0, 0, 0))
