from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from auditor.tflite.graph import count_nonfinite, read_graph
from auditor.zoo import generate as gen
from auditor.zoo import networks

NAMES = gen.stand_ins("0.0.2")


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return request.param, gen.generate(request.param)


def test_known_by_its_digest(model):
    name, content = model
    assert hashlib.sha256(content).hexdigest() == gen.digests()[name]


def test_the_graph_is_the_published_one(model):
    """Operators, parameters and multiply-accumulates as counted on the published files (float: dequantised)."""
    name, content = model
    graph = read_graph(content)
    expected = {
        "selfie_segmentation_landscape_256x256": (246, 106401, 33324928),
        "convolution_benchmark_1_144x256": (57, 70203, 241155072),
        "convolution_benchmark_2_144x256": (57, 70057, 235846656),
        "mobilenet_v2_1.0_224": (66, 3489097, 300775552),
        "mobilenet_v2_1.0_224_quant": (65, 3489097, 300775552),
    }
    assert (len(graph.operators), graph.parameters, graph.macs) == expected[name]
    assert count_nonfinite(content, graph) == 0


def test_both_versions_and_renamed_models():
    assert set(gen.digests()) == set(gen.stand_ins("0.0.2")) | set(gen.stand_ins("0.0.6"))
    assert gen.generate("convolution_benchmark_144_256_2") == gen.generate("convolution_benchmark_2_144x256")
    assert not gen.stand_ins("9.9.9")
    with pytest.raises(KeyError):
        gen.generate("segmentation_benchmark_512x512")


def test_codes_are_splitmix64():
    """SplitMix64 of seed 0 begins with e220a8397b1dcdaf, 6e789e6aa1b965f4; our counter starts one place before."""
    assert networks.codes(0, 0, 24)[8:].tobytes() == bytes.fromhex("afcd1d7b39a820e2f465b9a16a9e786e")
    assert networks.codes(1, 2, 100_000).min() == -127


def test_needs_no_tflite_runtime():
    code = (
        "import sys; sys.modules['ai_edge_litert'] = sys.modules['tflite_runtime'] = None\n"
        "from auditor.zoo.generate import generate; print(len(generate('convolution_benchmark_2_144x256')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(len(gen.generate("convolution_benchmark_2_144x256")))


def test_runs_and_floats_agree_with_reference_kernels(model):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs the ai-edge-litert runtime")
    numpy = pytest.importorskip("numpy")
    name, content = model
    resolvers = interpreter.OpResolverType
    outputs = []
    for resolver in (resolvers.AUTO, resolvers.BUILTIN_REF) if name != "mobilenet_v2_1.0_224" else (resolvers.AUTO, resolvers.BUILTIN):
        run = interpreter.Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
        run.allocate_tensors()
        (given,), (got,) = run.get_input_details(), run.get_output_details()
        noise = numpy.random.default_rng(7).uniform(-1, 1, given["shape"])
        values = (noise * 127 + 127).astype(numpy.uint8) if given["dtype"] == numpy.uint8 else noise.astype(numpy.float32)
        run.set_tensor(given["index"], values)
        run.invoke()
        outputs.append(run.get_tensor(got["index"]).astype(float))
    fast, reference = outputs
    assert numpy.isfinite(reference).all()
    assert reference.std() > 100 * abs(fast - reference).mean() or "quant" in name
    assert abs(fast - reference).mean() < {"mobilenet_v2_1.0_224": 5e-5, "mobilenet_v2_1.0_224_quant": 1.5}.get(name, 3e-4)
