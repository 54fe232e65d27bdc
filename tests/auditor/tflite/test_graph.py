from __future__ import annotations

import contextlib
import os
import struct
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.tflite import graph as g
from auditor.tflite.flatbuffer import Builder, Field
from auditor.zoo.generate import digests, generate

MODELS = os.path.join(os.path.dirname(__file__), "..", "..", "..", "..", "shared", "models")
SMALL = "convolution_benchmark_1_144x256"


@cache
def stand_in(name: str) -> bytes:
    return generate(name)


def published(name: str) -> bytes:
    path = os.path.join(MODELS, f"{name}.tflite")
    if not os.path.exists(path):
        pytest.skip(f"the published {name}.tflite is not on this machine")
    with open(path, "rb") as file:
        return file.read()


def test_tables_equal_the_schema():
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="the generated schema comes with ai-edge-litert")
    builtin = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    assert list(g.OPERATORS) == [builtin[i] for i in range(len(g.OPERATORS))]
    assert all(name.startswith(("STABLEHLO_", "DILATE", "REDUCE_WINDOW")) for i, name in builtin.items() if i >= len(g.OPERATORS))
    types = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    assert list(g.TENSOR_TYPES) == [types[i] for i in range(len(g.TENSOR_TYPES))]
    options = vars(schema.BuiltinOptions)
    for name, owner in (
        ("CONV_2D", "Conv2DOptions"),
        ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"),
        ("MAX_POOL_2D", "Pool2DOptions"),
        ("TRANSPOSE_CONV", "TransposeConvOptions"),
    ):
        assert g._WINDOWS[name][0] == options[owner]


# Counted on the published files by another reader (of the `tflite` package); that one left out MediaPipe's own
# deconvolution: 72 * 128 positions times 64 weights.
@pytest.mark.parametrize(
    ("name", "operators", "parameters", "macs", "nonfinite"),
    [
        ("selfie_segmentation_landscape_256x256", 246, 106401, 32735104 + 72 * 128 * 64, 0),
        ("convolution_benchmark_1_144x256", 57, 70203, 241155072, 2178 + 5),
        ("convolution_benchmark_2_144x256", 57, 70057, 235846656, 2177),
        ("mobilenet_v2_1.0_224_quant", 65, 3489097, 300775552, 0),
    ],
)
def test_published_models(name, operators, parameters, macs, nonfinite):
    data = published(name)
    graph = g.read_graph(data)
    assert (len(graph.operators), graph.parameters, graph.macs, graph.bytes) == (operators, parameters, macs, len(data))
    assert sum(op.macs for op in graph.operators) == macs
    assert g.count_nonfinite(data, graph) == nonfinite


def test_what_a_caller_sees():
    graph = g.read_graph(stand_in("selfie_segmentation_landscape_256x256"))
    (image,), (mask,) = graph.inputs, graph.outputs
    assert (image.name, image.type, image.shape) == ("input_1", "FLOAT32", (1, 144, 256, 3))
    assert (mask.type, mask.shape, mask.constant) == ("FLOAT32", (1, 144, 256, 1), False)
    up = next(op for op in graph.operators if op.code == "TRANSPOSE_CONV")
    assert up.window == g.Window(same=True, stride=(2, 2))
    assert graph.tensors[up.inputs[0]].values == (1, 144, 256, 1)
    pool = next(op for op in g.read_graph(stand_in("mobilenet_v2_1.0_224_quant")).operators if op.code == "AVERAGE_POOL_2D")
    assert pool.window == g.Window(same=False, stride=(1, 1), kernel=(7, 7))


def test_published_custom_operator_has_its_window():
    graph = g.read_graph(published("selfie_segmentation_landscape_256x256"))
    (custom,) = (op for op in graph.operators if op.code == "CUSTOM")
    assert (custom.name, custom.window) == ("Convolution2DTransposeBias", g.Window(same=True, stride=(2, 2)))


@pytest.mark.parametrize("name", sorted(set(digests()) - {"convolution_benchmark_144_256_1", "convolution_benchmark_144_256_2"}))
def test_agrees_with_the_generated_schema(name):
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="the generated schema comes with ai-edge-litert")
    data = stand_in(name)
    graph, model = g.read_graph(data), schema.ModelT.InitFromPackedBuf(data, 0)
    (sub,) = model.subgraphs
    assert graph.description == model.description.decode()
    codes = [(g.OPERATORS[c.builtinCode], c.version) for c in model.operatorCodes]
    expected = [(*codes[o.opcodeIndex], tuple(o.inputs), tuple(o.outputs)) for o in sub.operators]
    assert [(o.code, o.version, o.inputs, o.outputs) for o in graph.operators] == expected
    for ours, theirs in zip(graph.tensors, sub.tensors, strict=True):
        assert (ours.name, ours.shape, ours.type) == (
            theirs.name.decode(),
            tuple(theirs.shape),
            g.TENSOR_TYPES[theirs.type],
        )
        content = model.buffers[theirs.buffer].data
        assert data[ours.offset : ours.offset + ours.size] == (b"" if content is None else content.tobytes())


def test_nonfinite_weights_are_counted():
    data = bytearray(stand_in(SMALL))
    graph = g.read_graph(bytes(data))
    weights = [t for t in graph.tensors if t.constant and t.type == "FLOAT16"]
    assert g.count_nonfinite(data, graph) == 0
    struct.pack_into("<3H", data, weights[0].offset, 0x7C00, 0xFC00, 0x7E01)  # infinity, its negative, a NaN
    struct.pack_into("<H", data, weights[1].offset, 0x7BFF)  # the largest finite half
    assert g.count_nonfinite(data, graph) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no TFLite model"),
        (b"\x7fELF" + bytes(60), "no TFLite model"),
        (b"\x10\x00\x00\x00TFL3", "outside the file"),
        (b"\xff\xff\xff\xffTFL3" + bytes(64), "outside the file"),
        (b"\x08\x00\x00\x00TFL3\x00\x00\x00\x00", "impossible length"),
    ],
)
def test_what_is_no_model_is_named(content, reason):
    with pytest.raises(g.BadModel, match=reason):
        g.read_graph(content)


def test_content_must_fill_its_shape():
    data = stand_in(SMALL)
    first = struct.pack("<I4i", 4, 8, 3, 3, 3)
    assert data.count(first) == 2  # the half-precision weights and what unpacks them
    with pytest.raises(g.BadModel, match="not its shape"):
        g.read_graph(data.replace(first, struct.pack("<I4i", 4, 8, 3, 3, 4)))


def read(data: bytes) -> None:
    """Only a graph or BadModel may come of it."""
    with contextlib.suppress(g.BadModel):
        g.count_nonfinite(data, g.read_graph(data))


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_random_bytes(content):
    read(content)
    read(struct.pack("<I", 8 + len(content) // 2) + b"TFL3" + content)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_mutated_models(data):
    content = bytearray(stand_in(data.draw(st.sampled_from([SMALL, "selfie_segmentation_landscape_256x256"]))))
    head = len(content) // 4  # tables lie in front of the weights
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.one_of(st.integers(0, head), st.integers(0, len(content) - 4)))
        word = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=4),
                st.sampled_from([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"]),
            )
        )
        content[at : at + len(word)] = word
    read(bytes(content))


@given(st.integers(0, 149_000))
@settings(deadline=None, max_examples=60)
def test_truncated_models(length):
    content = stand_in(SMALL)[:length]
    read(content)


def test_many_pointers_to_one_long_vector_are_refused():
    """A small file whose tables all share one vector must not cost their product."""
    builder = Builder()
    inputs = builder.int32s([0] * 50_000)
    operators = builder.tables([builder.table(Field(1, "o", inputs))] * 20_000)
    tensors = builder.tables([builder.table()])
    subgraphs = builder.tables([builder.table(Field(0, "o", tensors), Field(3, "o", operators))])
    codes = builder.tables([builder.table()])
    parts = (codes, subgraphs, builder.text(""), builder.tables([builder.buffer(b"")]))
    fields = [Field(0, "I", 3), *(Field(slot, "o", part) for slot, part in enumerate(parts, 1))]
    content = builder.finish(builder.table(*fields))
    with pytest.raises(g.BadModel, match=r"more than \d+ tables and elements"):
        g.read_graph(content)


def test_overlapping_buffers_are_refused():
    """Parameters that are not there must not be counted: two buffers over nearly the same bytes."""
    content = bytearray(stand_in(SMALL))
    graph = g.read_graph(bytes(content))
    biggest = max(graph.tensors, key=lambda t: t.size)
    struct.pack_into("<I", content, biggest.offset - 4, len(content) - biggest.offset)
    with pytest.raises(g.BadModel, match="overlap"):
        g.read_graph(bytes(content))
