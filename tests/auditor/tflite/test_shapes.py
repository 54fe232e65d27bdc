from __future__ import annotations

from dataclasses import replace

import pytest

from auditor.tflite.graph import Operator, Subgraph, Tensor, read_graph
from auditor.tflite.shapes import first_inconsistency
from auditor.zoo.generate import generate, stand_ins


@pytest.fixture(scope="module", params=stand_ins("0.0.2"))
def subgraph(request) -> Subgraph:
    return read_graph(generate(request.param)).subgraphs[0]


def test_the_zoo_is_consistent(subgraph):
    assert first_inconsistency(subgraph) == ""


def test_no_stated_shape_can_be_changed(subgraph):
    """Every computed tensor, every dimension: one more than it should be is noticed."""
    for i, tensor in enumerate(subgraph.tensors):
        for axis in range(len(tensor.shape)) if not tensor.constant else ():
            shape = (*tensor.shape[:axis], tensor.shape[axis] + 1, *tensor.shape[axis + 1 :])
            if i in subgraph.inputs and subgraph.operators[0].code != "RESHAPE" and axis in {0, 1, 2}:
                continue  # an input may grow by a row without another output: SAME padding at stride 2
            tensors = (*subgraph.tensors[:i], replace(tensor, shape=shape), *subgraph.tensors[i + 1 :])
            assert first_inconsistency(replace(subgraph, tensors=tensors)), (tensor.name, axis)


def test_no_stride_can_be_changed(subgraph):
    for i, op in enumerate(subgraph.operators):
        if op.window is None or subgraph.tensors[op.outputs[0]].shape[1:3] == (1, 1):
            continue
        window = replace(op.window, stride=(op.window.stride[0], op.window.stride[1] + 1))
        operators = (*subgraph.operators[:i], replace(op, window=window), *subgraph.operators[i + 1 :])
        assert first_inconsistency(replace(subgraph, operators=operators)).startswith(f"operator {i}, ")


@pytest.mark.parametrize(
    ("code", "shapes"),
    [
        ("CONV_2D", [(1, 8, 8, 3)]),
        ("CONV_2D", [(1, 8, 8, 3), (4, 3, 3)]),
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 0), (1, 3, 3, 4)]),
        ("TRANSPOSE_CONV", [(4,), (1, 2, 2, 3)]),
        ("AVERAGE_POOL_2D", [(1, 8, 8, 3)]),
        ("ADD", [(1, 8), (1, 7)]),
        ("ADD", [(1, 8)]),
        ("CONCATENATION", [(1, 8), (2, 8)]),
        ("MEAN", [(1, 8)]),
        ("RESIZE_BILINEAR", [(1, 8)]),
        ("RESHAPE", [(1, 8)]),
        ("RELU", []),
        ("FULLY_CONNECTED", [(1, 8), (8, 8)]),
    ],
)
def test_operators_that_make_no_sense_are_inconsistent(code, shapes):
    tensors = [Tensor("", "FLOAT32", shape, 0, 0, 0, False, False, ()) for shape in [*shapes, (1, 9)]]
    op = Operator(code, "", 1, tuple(range(len(shapes))), (len(shapes),), None, 0)
    assert first_inconsistency(Subgraph(tuple(tensors), (op,), (0,), (len(shapes),)))
