"""The reference run's copy of a model: MediaPipe's custom deconvolution as the builtin operator that computes the same.

TFLite's reference kernels do not know Convolution2DTransposeBias, so the published segmentation model has no reference
without this. TRANSPOSE_CONV, version 3, takes the same weights (OHWI) and the same bias; it wants the output's shape too.

A flatbuffer only points forward. So the old file stays whole, as the tail of the new one, and the few tables that
change are written in front of it and point into it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from auditor.tflite.flatbuffer import BadModel, Builder, Field
from auditor.tflite.graph import CUSTOM, MEDIAPIPE_DECONVOLUTION, OPERATORS, TENSOR_TYPES, open_model, read_graph

if TYPE_CHECKING:
    from auditor.tflite.flatbuffer import Reader, Table
    from auditor.tflite.graph import Operator, Subgraph

_TRANSPOSE_CONV = OPERATORS.index("TRANSPOSE_CONV")
_TRANSPOSE_CONV_OPTIONS = 49


class _Copy:
    """A Builder whose tail is the old file, so that new tables can point at old ones."""

    def __init__(self, data: bytes) -> None:
        self.reader, self.model = open_model(data)
        self.builder = Builder()
        self.start = self.builder.tail(data)

    def old(self, position: int) -> int:
        """Return what the Builder calls a position of the old file."""
        self.reader.bounds(position, 4, "what a field points to")
        return self.start - position

    def kept(self, table: Table, *slots: int) -> list[Field]:
        """Fields of a new table that point where the old table's do."""
        reader = self.reader
        return [Field(s, "o", self.old(reader.follow(table.field(s), "field"))) for s in slots if table.field(s)]

    def positions(self, table: Table, slot: int) -> list[int]:
        """Return the elements of an old vector of tables, for a new one."""
        return [self.old(child.at) for child in self.reader.tables(table, slot, "table")]


def _operator(copy: _Copy, table: Table, operator: Operator, shape: int) -> int:
    """Write the builtin in place of the custom operator; `shape` is the tensor with the output's shape."""
    window = operator.window
    assert window is not None
    source, *weights = operator.inputs
    inputs = copy.builder.int32s((shape, weights[0], source, *weights[1:]))
    stride = (Field(1, "i", window.stride[1]), Field(2, "i", window.stride[0]))
    options = copy.builder.table(Field(0, "b", 0 if window.same else 1), *stride)
    index = copy.reader.scalar(table, 0, "<I")
    chosen = (Field(3, "B", _TRANSPOSE_CONV_OPTIONS), Field(4, "o", options))
    return copy.builder.table(Field(0, "I", index), Field(1, "o", inputs), *copy.kept(table, 2), *chosen)


def _subgraph(copy: _Copy, table: Table, subgraph: Subgraph, buffers: list[int]) -> int:
    """Write a subgraph without the custom operator; the contents of new tensors are appended to `buffers`."""
    tensors, operators = copy.positions(table, 0), copy.positions(table, 3)
    for i, (old, operator) in enumerate(zip(copy.reader.tables(table, 3, "operator"), subgraph.operators, strict=True)):
        if operator.name != MEDIAPIPE_DECONVOLUTION:
            continue
        if len(operator.inputs) not in {2, 3} or len(operator.outputs) != 1:
            raise BadModel(f"operator {i} {operator.name} needs input, weights, bias and one output")
        shape = subgraph.tensors[operator.outputs[0]].shape
        buffers.append(copy.builder.buffer(struct.pack(f"<{len(shape)}i", *shape)))
        name = copy.builder.text(f"operator {i} output shape")
        dims = copy.builder.int32s([len(shape)])
        kind = Field(1, "b", TENSOR_TYPES.index("INT32"))
        fields = (Field(0, "o", dims), kind, Field(2, "I", len(buffers) - 1), Field(3, "o", name))
        tensors.append(copy.builder.table(*fields))
        operators[i] = _operator(copy, old, operator, len(tensors) - 1)
    changed = [Field(0, "o", copy.builder.tables(tensors)), Field(3, "o", copy.builder.tables(operators))]
    return copy.builder.table(*changed, *copy.kept(table, 1, 2, 4))


def _far_data(reader: Reader, model: Table) -> bool:
    """Whether buffers lie behind the flatbuffer, where only positions counted from the start of the file find them."""
    return any(reader.scalar(buffer, 1, "<Q") > 1 for buffer in reader.tables(model, 4, "buffer"))


def without_custom_deconvolution(data: bytes) -> bytes:
    """Return the model with TRANSPOSE_CONV for Convolution2DTransposeBias; one that has none comes back as it is.

    Inputs, outputs and weights are the same. A BadModel for what is no model or has the operator in an unknown form.
    """
    graph = read_graph(data)
    if MEDIAPIPE_DECONVOLUTION not in graph.operator_counts():
        return data
    copy = _Copy(data)
    reader, model = copy.reader, copy.model
    if _far_data(reader, model):
        raise BadModel("the model keeps weights outside its flatbuffer, expected them inside")
    codes, buffers = copy.positions(model, 1), copy.positions(model, 4)
    for i, code in enumerate(reader.tables(model, 1, "operator code")):
        is_custom = max(reader.scalar(code, 0, "<b"), reader.scalar(code, 3, "<i")) == CUSTOM
        if is_custom and reader.text(code, 1, "custom operator name") == MEDIAPIPE_DECONVOLUTION:
            number = (Field(0, "b", _TRANSPOSE_CONV), Field(3, "i", _TRANSPOSE_CONV))
            codes[i] = copy.builder.table(*number, Field(2, "i", 3))
    tables = reader.tables(model, 2, "subgraph")
    subgraphs = [_subgraph(copy, t, sub, buffers) for t, sub in zip(tables, graph.subgraphs, strict=True)]
    vectors = [Field(slot, "o", copy.builder.tables(part)) for slot, part in ((1, codes), (2, subgraphs), (4, buffers))]
    root = copy.builder.table(Field(0, "I", graph.version), *vectors, *copy.kept(model, 3, 5, 6, 7))
    return copy.builder.finish(root)
