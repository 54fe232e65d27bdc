"""Whether answers follow the inputs: made-up answers, and a stand-in's with faults in its weights, on each runtime."""

from __future__ import annotations

import importlib.util

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

import numpy as np

from auditor.bench.tracking import FEWEST, Tracking
from auditor.inference.process import Worker
from auditor.inference.watch import Limits
from auditor.inference.wire import RUNTIMES
from auditor.inference.worker.confine import Policy
from auditor.tflite.tensors import TensorSpec, compare, make_inputs
from auditor.zoo.generate import generate
from auditor.zoo.golden import idle_error
from checks.zoo_accuracy import CORRELATED, OFFSET
from fixtures import faults

INSTALLED = [name for name, package in RUNTIMES.items() if importlib.util.find_spec(package)]
QUANT = "mobilenet_v2_1.0_224_quant"


def tracked(reference, test, repeat=1):
    tracking = Tracking()
    for _ in range(repeat):
        for left, right in zip(reference, test, strict=True):
            tracking.add("float32", np.asarray(left, np.float32).tobytes(), np.asarray(right, np.float32).tobytes())
    return tracking.correlation(), tracking.offset(len(reference))


@pytest.fixture(scope="module")
def answers():
    generator = np.random.default_rng(3)
    return generator.normal(10, 2, (40, 500)), generator.normal(0, 1, (40, 500))


def test_honest_rounding_follows(answers):
    reference, noise = answers
    assert tracked(reference, reference) == (pytest.approx(1), 0)
    correlation, offset = tracked(reference, reference + noise)
    assert correlation == pytest.approx(2 / 5**0.5, abs=0.02)
    assert offset < 0.05


def test_what_does_not_depend_on_the_input_does_not_follow(answers):
    reference, noise = answers
    for test in (reference * 0, reference * 0 + reference.mean(0), np.roll(reference, 1, 0), noise):
        assert abs(tracked(reference, test)[0]) < 0.1


def test_an_offset_is_seen_below_the_noise(answers):
    reference, noise = answers
    bias = np.random.default_rng(4).normal(0, 0.5, 500)
    correlation, offset = tracked(reference, reference + noise + bias)
    assert offset == pytest.approx(0.25, abs=0.03)
    # the same inputs again are no new evidence
    assert tracked(reference, reference + noise + bias, repeat=5) == (pytest.approx(correlation), pytest.approx(offset, abs=1e-3))
    assert tracked(reference, reference + noise, repeat=5)[1] < 0.05


def test_what_cannot_be_said(answers):
    reference, _ = answers
    same = np.broadcast_to(reference[0], reference.shape)
    assert tracked(same, reference) == (None, None), "the reference answers every input alike"
    assert tracked(reference[:1], reference[:1]) == (None, None)
    few = tracked(reference[: FEWEST - 1], reference[: FEWEST - 1] + 1)
    assert few == (pytest.approx(1), None), "by chance, few inputs show an offset"
    assert Tracking().correlation() is None
    assert tracked(reference * np.nan, reference) == (None, None)


def runs(model, inputs, runtime, *, xnnpack=True):
    found = []
    with Worker("reference", model, Limits()) as worker:
        worker.hello(runtime)
        worker.confine(Policy(), required=True)
        worker.load_model(1, xnnpack=xnnpack)
        for each in inputs:
            worker.set_inputs(each)
            worker.invoke()
            found.append(worker.outputs()[1])
        worker.quit()
    return found


@pytest.mark.parametrize("runtime", INSTALLED)
def test_faults_that_the_pages_bound_lets_through_on_the_8_bit_stand_in(runtime):
    """The limits hold with room on both sides; `benchmarks/accuracy.py` prints how much."""
    model, generator = generate(QUANT), np.random.default_rng(11)
    inputs = [make_inputs([TensorSpec("x", (1, 224, 224, 3), "uint8")], generator) for _ in range(24)]
    spec = TensorSpec("y", (1, 1001), "uint8")
    reference = runs(model, inputs, runtime)

    def figures(test):
        tracking = Tracking()
        for left, right in zip(reference, test, strict=True):
            tracking.add("uint8", left, right)
        return (
            np.mean([compare(spec, *pair).mean for pair in zip(reference, test, strict=True)]),
            tracking.correlation(),
            tracking.offset(24),
        )

    error, correlation, offset = figures(runs(model, inputs, runtime, xnnpack=False))
    assert error <= 1.5
    assert correlation > 1.2 * CORRELATED
    assert offset < OFFSET / 1.2
    for name, test in {
        "another input's answer": reference[1:] + reference[:1],
        "a dead channel": runs(faults.dead_channel(model, 5), inputs, runtime),
        "a lost bias": runs(faults.lost_bias(model, 20), inputs, runtime),
    }.items():
        error, correlation, offset = figures(test)
        assert error <= 1.5, "the page lets it through"
        assert correlation < CORRELATED / 1.2 or offset > OFFSET * 1.2, name


def test_of_outputs_whose_size_goes_by_the_input_nothing_is_known():
    generator = np.random.default_rng(1)
    for sizes in ([5, 6, 5], [0, 5, 5], [5] * 30 + [6]):
        values = [generator.normal(0, 1, size) for size in sizes]
        assert tracked(values, values) == (None, None)
        assert idle_error([value.astype(np.float32).tobytes() for value in values], TensorSpec("", (5,), "float32")) is None
