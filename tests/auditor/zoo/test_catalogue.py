from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.tflite.flatbuffer import Field
from auditor.tflite.graph import BadModel, read_graph
from auditor.tflite.rewrite import without_custom_deconvolution
from auditor.zoo import networks
from auditor.zoo.catalogue import IdentityKind, ZooModel, ZooVersion, recognise
from auditor.zoo.generate import digests, generate, stand_ins

HERE = os.path.dirname(__file__)
DATA = os.path.join(HERE, "..", "..", "..", "auditor", "data", "requirements")
MODELS = os.path.join(HERE, "..", "..", "..", "..", "shared", "models")
VERSIONS = ("0.0.2", "0.0.6")
SELFIE, CONV, FLOAT, QUANT = (
    "selfie_segmentation_landscape_256x256",
    "convolution_benchmark_1_144x256",
    "mobilenet_v2_1.0_224",
    "mobilenet_v2_1.0_224_quant",
)


@cache
def zoo(version: str) -> ZooVersion:
    msgspec = pytest.importorskip("msgspec")
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    with open(os.path.join(DATA, f"zoo-{version}.toml"), "rb") as file:
        content = tomllib.load(file)
    decoded = msgspec.convert(content, ZooVersion)
    assert fields(msgspec.to_builtins(decoded)) >= fields(content)  # nothing in the file is unknown to the dataclasses
    return decoded


def fields(content) -> set[str]:
    if isinstance(content, dict):
        return set(content) | {name for value in content.values() for name in fields(value)}
    return {name for value in content for name in fields(value)} if isinstance(content, (list, tuple)) else set()


def row(name: str, version: str = "0.0.2") -> ZooModel:
    return next(model for model in zoo(version).models if model.name == name)


def identify(content: bytes, model: ZooModel):
    return recognise(read_graph(content), hashlib.sha256(content).hexdigest(), model)


def test_the_page_of_0_0_2():
    limits = {m.name: (b.latency_ms, b.avg_error, b.std_dev, b.memory_mb) for m in zoo("0.0.2").models for b in [m.baseline]}
    assert limits == {
        SELFIE: (6, 0.0000003, 5e-06, 100),
        CONV: (4, 0.0003, 5e-06, 100),
        "convolution_benchmark_2_144x256": (4, 0.0003, 5e-06, 100),
        FLOAT: (5, 0.00005, 6e-06, 150),
        QUANT: (5, 1.5, 0.2, 150),
    }


def test_the_page_of_0_0_6():
    models = {m.name: m for m in zoo("0.0.6").models}
    assert {n: m.baseline.latency_ms for n, m in models.items()} == {
        SELFIE: 6,
        "segmentation_benchmark_512x512": 10,
        "convolution_benchmark_144_256_1": 4,
        "convolution_benchmark_144_256_2": 4,
        "convolution_benchmark_288_512_1": 6,
        "convolution_benchmark_288_512_2": 6,
        FLOAT: 5,
        QUANT: 5,
        "lstm": 1,
        "seanet_wave": 2,
        "seanet_stft": 2,
    }
    assert {n for n, m in models.items() if m.baseline.avg_error is not None} == {SELFIE, FLOAT, QUANT}
    assert {n: m.run_delay_s for n, m in models.items() if m.device == "cpu"} == {
        "lstm": 0.01,
        "seanet_wave": 0.02,
        "seanet_stft": 0.02,
    }
    assert all(m.sha256 for m in models.values() if m.device == "cpu")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_model_is_complete(version):
    models = zoo(version).models
    assert zoo(version).version == version
    names = [name for m in models for name in m.files]
    assert len(names) == len(set(names))
    for m in models:
        assert m.baseline.power == "TBD"
        assert m.files[0] == f"{m.name}.tflite"
        assert (m.graph is None) == bool(m.no_graph)
        assert all(len(digest) == 64 for digest in m.sha256)
    assert {m.name for m in models if m.graph} == set(stand_ins(version))


def test_memory_is_between_for_what_either_mb_decides_otherwise():
    baseline = row(CONV).baseline
    assert (baseline.memory_pass_bytes, baseline.memory_fail_bytes) == (100_000_000, 104_857_600)
    assert row("lstm", "0.0.6").baseline.memory_pass_bytes is None


@pytest.mark.parametrize("name", [SELFIE, CONV, "convolution_benchmark_2_144x256", QUANT])
@pytest.mark.parametrize("version", VERSIONS)
def test_published_models_are_recognised(name, version):
    path = os.path.join(MODELS, f"{name}.tflite")
    if not os.path.exists(path):
        pytest.skip(f"the published {name}.tflite is not on this machine")
    with open(path, "rb") as file:
        content = file.read()
    model = next(m for m in zoo(version).models if f"{name}.tflite" in m.files)
    assert identify(content, model).kind is IdentityKind.SAME_GRAPH
    assert identify(without_custom_deconvolution(content), model).kind is IdentityKind.SAME_GRAPH


@pytest.mark.parametrize("version", VERSIONS)
def test_stand_ins_are_known_and_are_nothing_else(version):
    for name in stand_ins(version):
        content = generate(name)
        assert identify(content, row(name, version)).kind is IdentityKind.STAND_IN
        assert recognise(read_graph(content), "0" * 64, row(name, version)).kind is IdentityKind.SAME_GRAPH


def test_a_pinned_digest_decides_for_and_against():
    content = generate(CONV)
    assert identify(content, replace(row(CONV), sha256=(digests()[CONV],))).kind is IdentityKind.PINNED
    against = recognise(read_graph(content), "2" * 64, replace(row(CONV), sha256=("1" * 64,)))
    assert against.kind is IdentityKind.OTHER
    assert "1" * 64 in against.reason
    audio = recognise(read_graph(content), "2" * 64, row("lstm", "0.0.6"))
    assert "expected a1f13295" in audio.reason
    unknown = recognise(read_graph(content), "2" * 64, row("segmentation_benchmark_512x512", "0.0.6"))
    assert (unknown.kind, "not public" in unknown.reason) == (IdentityKind.OTHER, True)


def refused(content: bytes, name: str, reason: str) -> None:
    identity = identify(content, row(name))
    assert identity.kind is IdentityKind.OTHER
    assert reason in identity.reason


def test_another_model_under_the_name():
    refused(generate(CONV), SELFIE, f"stand-in for {CONV}")
    refused(networks.convolution_benchmark("other", channels=1, seed=9), CONV, "outputs FLOAT32 1x144x256x1, expected")
    refused(networks.mobilenet_v2("other", "UINT8", seed=9), FLOAT, "inputs UINT8 1x224x224x3, expected FLOAT32")


class Cheat(networks.Network):
    """The selfie network, tampered with while it is built."""

    def finish(self, source: int, result: int) -> bytes:
        self.tamper(source, result)
        return super().finish(source, result)

    def tamper(self, source: int, result: int) -> None:
        raise NotImplementedError

    def change(self, index: int, **changes) -> None:
        op = self.operators[index]
        made = {"code": op.code, "version": op.version, "inputs": op.inputs, "outputs": op.outputs, "options": op.options}
        self.operators[index] = type(op)(**{**made, **changes})

    def work(self) -> list[int]:
        return [i for i, op in enumerate(self.operators) if op.code != "DEQUANTIZE"]


class Narrow(Cheat):
    """Half of the channels of every hidden layer."""

    def convolution(self, source: int, channels: int, *args, **options) -> int:
        return super().convolution(source, max(channels // 2, 1), *args, **options)

    def tamper(self, source: int, result: int) -> None:
        pass


class Strides(Cheat):
    """Strides that make everything behind the first layer small, and the shapes of the large network."""

    def tamper(self, source: int, result: int) -> None:
        first = self.work()[0]
        wide = (Field(0, "b", 0), Field(1, "i", 64), Field(2, "i", 36), *self.operators[first].options[3:])
        self.change(first, options=wide)


class Shortcut(Cheat):
    """The last layers read the stem; all between is computed by nobody who looks."""

    def tamper(self, source: int, result: int) -> None:
        work = self.work()
        stem = self.operators[work[1]].outputs[0]
        last = next(i for i in work if self.operators[i].code == "TRANSPOSE_CONV")
        shape, weights, _, bias = self.operators[last].inputs
        self.change(last, inputs=(shape, weights, stem, bias))


class Hybrid(Cheat):
    """Weights of eight bits, which runtimes take beside float activations."""

    def floats(self, name: str, array) -> int:
        scale = networks._Quantization(0.01, 0)
        return self.constant(name, "INT8", (array * 100).astype("i1"), scale)

    def tamper(self, source: int, result: int) -> None:
        pass


class Fused(Cheat):
    """One operator less."""

    def tamper(self, source: int, result: int) -> None:
        relu = next(i for i, op in enumerate(self.operators) if op.code == "RELU")
        self.change(relu, code="RELU6")


@pytest.mark.parametrize(
    ("cheat", "reason"),
    [
        (Narrow, "parameters, expected 106401"),
        (Strides, "CONV_2D, does not produce the shape [1, 72, 128, 16]"),
        (Shortcut, "does not lie between the input and the output"),
        (Hybrid, "is INT8, expected FLOAT32 or FLOAT16"),
        (Fused, "21 operators RELU, expected 22"),
    ],
)
def test_a_small_model_in_disguise_is_found(cheat, reason, monkeypatch):
    monkeypatch.setattr(networks, "Network", cheat)
    refused(networks.selfie_segmentation(SELFIE, seed=4), SELFIE, reason)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_damaged_models_are_recognised_or_refused(data):
    content = bytearray(stand_in())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) // 5))
        content[at] = data.draw(st.integers(0, 255))
    try:
        graph = read_graph(bytes(content))
    except BadModel:
        return
    assert "\n" not in recognise(graph, "0" * 64, row(CONV)).reason


@cache
def stand_in() -> bytes:
    return generate(CONV)
