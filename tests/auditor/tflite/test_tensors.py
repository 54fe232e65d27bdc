from __future__ import annotations

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed")

from auditor.tflite.tensors import TensorSpec, compare, make_inputs, split  # noqa: E402 - after the skip

SHAPE = (40, 500)
RANGES = {
    "float32": (-1, 1),
    "uint8": (0, 254),
    "int8": (-128, 126),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "bool": (0, 0),
}


def values_of(dtype, seed=7):
    return np.frombuffer(make_inputs([TensorSpec("x", SHAPE, dtype)], np.random.default_rng(seed)), dtype)


@pytest.mark.parametrize("dtype", RANGES)
def test_inputs_keep_to_their_range(dtype):
    low, high = RANGES[dtype]
    values = values_of(dtype)
    assert values.size == 20_000
    assert low <= int(values.min())
    assert int(values.max()) <= high


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "int32", "int64"])
def test_inputs_are_the_cut_gaussian(dtype):
    """Mean and deviation of Gaussian(0.5, 1/3) cut to [0, 1): 0.5 and 0.2464 (by the formula of the truncated normal)."""
    low, high = (-1, 1) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    unit = (values_of(dtype).astype(np.float64) - low) / (float(high) - low)
    assert unit.mean() == pytest.approx(0.5, abs=0.01)
    assert unit.std() == pytest.approx(0.2464, abs=0.01)


def test_the_ends_of_the_range_are_reached():
    assert values_of("uint8").max() == 254
    assert values_of("int8").min() in {-127, -128}


def test_a_seed_gives_its_inputs_and_another_gives_others():
    assert (values_of("float32") == values_of("float32")).all()
    assert (values_of("float32", 7) != values_of("float32", 8)).any()


def test_several_inputs_follow_each_other():
    specs = [TensorSpec("a", (3,), "float32"), TensorSpec("b", (5,), "uint8")]
    assert [len(part) for part in split(specs, make_inputs(specs, np.random.default_rng(1)))] == [12, 5]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int16"])
def test_inputs_that_inference_diff_refuses(dtype):
    with pytest.raises(ValueError, match="input 'x' is of type"):
        values_of(dtype)


@pytest.mark.parametrize(("shape", "dtype"), [((1,), "object"), ((-1,), "int8"), ((1,) * 17, "int8"), ((1 << 40,), "int8")])
def test_tensors_that_cannot_be(shape, dtype):
    with pytest.raises(ValueError, match="expected"):
        TensorSpec("x", shape, dtype)


def error_of(left, right, dtype):
    left, right = np.array(left, dtype), np.array(right, dtype)
    return compare(TensorSpec("x", left.shape, dtype), left.tobytes(), right.tobytes())


def test_errors_are_in_raw_units_and_do_not_wrap():
    error = error_of([0, 255, 10], [255, 0, 10], "uint8")
    assert (error.mean, error.maximum, error.exact, error.elements) == (170, 255, 1, 3)


@pytest.mark.parametrize(
    ("left", "right", "finite"),
    [([np.nan, 1], [0, 1], (False, True)), ([0, 1], [0, np.inf], (True, False)), ([np.inf, 1], [np.inf, 1], (False, False))],
)
def test_what_is_not_finite_has_no_mean(left, right, finite):
    error = error_of(left, right, "float32")
    assert (error.mean, error.maximum) == (None, None)
    assert (error.reference_finite, error.test_finite) == finite


def test_nan_equals_nothing():
    assert error_of([np.nan], [np.nan], "float32").exact == 0


def test_an_empty_output_has_no_mean():
    assert error_of([], [], "float32").mean is None
