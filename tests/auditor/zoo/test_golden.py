"""How an image becomes an input, and how two answers to it are compared: by hand-made pictures, whatever runtime there is."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from auditor.tflite.graph import read_graph
from auditor.tflite.tensors import TensorSpec
from auditor.zoo import golden
from auditor.zoo.catalogue import Golden, Metric
from auditor.zoo.generate import generate
from auditor.zoo.golden import Frame, GoldenSet, Picture, Variation

TOP_1, MASK = Golden(Metric.TOP_1, (-1.0, 1.0)), Golden(Metric.MASK)
PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
PICTURE = Picture("p", "ab" * 32, Frame(3, 2, crop=False), PIXELS.tobytes())
FLOATS, BYTES = (TensorSpec("x", (1, 2, 3, 3), dtype) for dtype in ("float32", "uint8"))


def made(variation=None, spec=BYTES, recipe=TOP_1):
    return np.frombuffer(golden.input_bytes(PICTURE, spec, recipe, *([variation] if variation else [])), spec.dtype).reshape(2, 3, 3)


def test_a_picture_is_the_input_as_it_is():
    assert (made() == PIXELS).all()
    assert (made(spec=TensorSpec("x", (1, 2, 3, 3), "int8")) == PIXELS.astype(int) - 128).all()
    assert made(spec=FLOATS) == pytest.approx((PIXELS - 127.5) / 127.5, abs=1e-6)
    assert made(spec=FLOATS, recipe=MASK) == pytest.approx(PIXELS / 255, abs=1e-6)


def test_variations():
    assert (made(Variation(mirrored=True)) == PIXELS[:, ::-1]).all()
    assert (made(Variation(right=1))[:, 1:] == PIXELS[:, :-1]).all()
    assert (made(Variation(right=1))[:, 0] == PIXELS[:, 0]).all(), "edges are repeated"
    assert (made(Variation(down=-1)) == PIXELS[[1, 1]]).all()
    assert (made(Variation(brightness=1.1)) == np.rint(PIXELS * 1.1)).all()
    assert made(Variation(brightness=9.0)).max() == 255


def test_what_is_drawn_differs_and_is_small():
    generator = np.random.default_rng(1)
    drawn = [golden.draw(generator) for _ in range(200)]
    assert len(set(drawn)) == 200
    assert {each.mirrored for each in drawn} == {True, False}
    assert {abs(each.right) for each in drawn} == {abs(each.down) for each in drawn} == set(range(5))
    assert all(0.9 <= each.brightness <= 1.1 for each in drawn)
    # no digest of an input that was published, or seen in an earlier run, is met again
    assert len({made(each).tobytes() for each in drawn[:50]}) > 40


@pytest.mark.parametrize(
    "spec", [TensorSpec("x", (1, 3, 2, 3), "uint8"), TensorSpec("x", (2, 3, 3), "uint8"), TensorSpec("x", (1, 2, 3, 3), "int32")]
)
def test_an_input_that_takes_no_picture(spec):
    with pytest.raises(ValueError, match="expected float32, int8 or uint8"):
        golden.input_bytes(PICTURE, spec, TOP_1)


def test_the_frame_of_a_model():
    assert golden.frame_of(TOP_1, read_graph(generate("mobilenet_v2_1.0_224_quant"))) == Frame(224, 224, crop=False)
    selfie = read_graph(generate("selfie_segmentation_landscape_256x256"))
    assert golden.frame_of(Golden(Metric.MASK, crop=True), selfie) == Frame(256, 144, crop=True)


def test_the_output_of_the_8_bit_model_has_its_scale():
    (output,) = read_graph(generate("mobilenet_v2_1.0_224_quant")).outputs
    assert 0 < output.scale < 1
    assert 0 <= output.zero_point <= 255
    (output,) = read_graph(generate("mobilenet_v2_1.0_224")).outputs
    assert (output.scale, output.zero_point) == (0.0, 0)


def floats(*values):
    return np.array(values, np.float32).tobytes()


def spec_of(count, dtype="float32"):
    return TensorSpec("y", (1, count), dtype)


def test_classes_of_probabilities_and_of_logits():
    images = GoldenSet(TOP_1)
    assert golden.figures(images, floats(0.1, 0.7, 0.2), spec_of(3)) == pytest.approx({"class": 1, "probability": 0.7, "margin": 0.5})
    odds = [math.exp(value) / sum(map(math.exp, (1, 3, 2))) for value in (1, 3, 2)]
    expected = {"class": 1, "probability": odds[1], "margin": odds[1] - odds[2]}
    assert golden.figures(images, floats(1, 3, 2), spec_of(3)) == pytest.approx(expected)
    quantized = GoldenSet(TOP_1, scale=0.5, zero_point=10)
    assert golden.figures(quantized, bytes((12, 16, 14)), spec_of(3, "uint8")) == pytest.approx(expected)
    assert golden.figures(images, floats(5), spec_of(1)) == {"class": 0, "probability": 1.0, "margin": 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_figures(value):
    for recipe in (TOP_1, MASK):
        assert golden.figures(GoldenSet(recipe), floats(0.1, value), spec_of(2)) is None
        assert golden.agreement(GoldenSet(recipe), spec_of(2), floats(0.1, 0.2), floats(0.1, value)) == 0
        assert golden.agreement(GoldenSet(recipe), spec_of(2), floats(value, 0.2), floats(value, 0.2)) == 0
    assert golden.idle_error([floats(0.1, value), floats(1, 2)], spec_of(2)) is None
    assert golden.figures(GoldenSet(TOP_1), b"", spec_of(0)) is None
    assert golden.idle_error([], spec_of(2)) is None


def test_agreement():
    top_1, mask = GoldenSet(TOP_1), GoldenSet(MASK)
    assert golden.agreement(top_1, spec_of(2), floats(0.1, 0.2), floats(-3, 9)) == 1
    assert golden.agreement(top_1, spec_of(2), floats(0.1, 0.2), floats(9, -3)) == 0
    assert golden.figures(mask, floats(0.5, 0.51, 1, 0), spec_of(4)) == {"share": 0.5}
    assert golden.agreement(mask, spec_of(3), floats(1, 1, 0), floats(1, 0, 0)) == 0.5
    assert golden.agreement(mask, spec_of(3), floats(0, 0, 0), floats(0.4, 0, 0)) == 1
    assert golden.agreement(mask, spec_of(3), floats(0, 0, 0), floats(0.6, 0, 0)) == 0


def test_the_error_of_computing_nothing():
    spec = spec_of(2)
    assert golden.idle_error([floats(1, 3)], spec) == 2, "zeros"
    assert golden.idle_error([floats(10, 10), floats(12, 12)], spec) == 2, "the answer before"
    assert golden.idle_error([floats(9, 9), floats(11, 11), floats(9, 9), floats(11, 11)], spec) == pytest.approx(4 / 3), (
        "one answer to all"
    )
    assert golden.idle_error([floats(0, 1e-6), floats(0, 0)], spec) == pytest.approx(2.5e-7), "zeros, where most answers are"


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), min_size=2, max_size=6))
def test_nobody_without_computing_is_below_it(rows):
    answers, spec = [floats(*row) for row in rows], spec_of(3)
    array = np.array([np.frombuffer(each, np.float32) for each in answers], np.float64)
    idle = golden.idle_error(answers, spec)
    others = [(array.sum(0) - each) / (len(rows) - 1) for each in array]
    for candidate in (array, array[1:] - array[:-1], array - np.array(others)):
        assert idle <= np.abs(candidate).mean() * (1 + 1e-9) + 1e-9
