from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.tflite.graph import BadModel, read_graph
from auditor.tflite.rewrite import without_custom_deconvolution
from auditor.zoo.generate import generate

MODEL = os.path.join(os.path.dirname(__file__), "..", "..", "..", "..", "shared", "models", "selfie_segmentation_landscape_256x256.tflite")


@pytest.fixture(scope="module")
def published() -> bytes:
    if not os.path.exists(MODEL):
        pytest.skip("the published selfie_segmentation_landscape_256x256.tflite is not on this machine")
    with open(MODEL, "rb") as file:
        return file.read()


def test_a_model_without_it_is_left_alone():
    content = generate("convolution_benchmark_1_144x256")
    assert without_custom_deconvolution(content) is content


def test_only_the_custom_operator_changes(published):
    before, after = read_graph(published), read_graph(without_custom_deconvolution(published))
    assert (after.parameters, after.macs, after.description) == (before.parameters, before.macs, before.description)
    assert after.tensors[: len(before.tensors)] == tuple(
        type(t)(*(t.name, t.type, t.shape, t.buffer, new.offset, t.size, t.quantized, t.sparse, t.values))
        for t, new in zip(before.tensors, after.tensors, strict=False)
    )
    changed = [(a, b) for a, b in zip(before.operators, after.operators, strict=True) if a != b]
    assert [(a.name, b.name, b.version) for a, b in changed] == [("Convolution2DTransposeBias", "TRANSPOSE_CONV", 3)]
    ((old, new),) = changed
    assert (new.window, new.outputs, new.macs) == (old.window, old.outputs, old.macs)
    assert after.tensors[new.inputs[0]].values == (1, 144, 256, 1)
    assert (after.inputs[0].name, after.outputs[0].name) == (before.inputs[0].name, before.outputs[0].name)


def test_the_file_is_sound_to_the_generated_schema(published):
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="the generated schema comes with ai-edge-litert")
    content = without_custom_deconvolution(published)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    assert len(model.subgraphs[0].operators) == 246
    assert all(t.offset % 16 == 0 for t in read_graph(content).tensors if t.size >= 16)


def run(content: bytes, noise, resolver) -> bytes:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], noise)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tobytes()


def test_output_is_the_same_bit_by_bit_and_reference_kernels_run(published):
    """The runtime's XNNPACK delegate is what knows the custom operator; the reference kernels do not."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs the ai-edge-litert runtime")
    numpy = pytest.importorskip("numpy")
    resolvers = interpreter.OpResolverType
    rewritten = without_custom_deconvolution(published)
    for seed in range(3):
        noise = numpy.random.default_rng(seed).uniform(0, 1, (1, 144, 256, 3)).astype(numpy.float32)
        fast = run(published, noise, resolvers.AUTO)
        assert run(rewritten, noise, resolvers.AUTO) == fast
    reference = numpy.frombuffer(run(rewritten, noise, resolvers.BUILTIN_REF), numpy.float32)
    assert abs(reference - numpy.frombuffer(fast, numpy.float32)).max() < 1e-3
    with pytest.raises(RuntimeError, match="custom op"):
        run(published, noise, resolvers.BUILTIN_REF)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=150)
def test_mutated_models(published, changes):
    content = bytearray(published)
    for near_root, place, value in changes:
        (root,) = struct.unpack_from("<I", content)
        at = (root + place % 65 if near_root else place) % (len(content) - 3)
        struct.pack_into("<I", content, at, value)
    try:
        rewritten = without_custom_deconvolution(bytes(content))
    except BadModel:
        return
    assert "Convolution2DTransposeBias" not in read_graph(rewritten).operator_counts()
