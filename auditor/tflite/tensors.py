"""Tensors: their shapes and types, random ones as the native tools make them, and how far two of them lie apart.

Source: tensorflow/lite/tools/evaluation/stages/inference_profiler_stage.cc (inference_diff). Numbers made here can be set beside its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    import numpy as np
    import numpy.typing as npt

    Bytes: TypeAlias = bytes | memoryview
    """The values of a tensor, its own or in a larger whole."""

MEAN, DEVIATION = 0.5, 1 / 3
"""Of the normal distribution that inference_diff draws from, until a value is in [0, 1)."""

_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16", "float16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64"), 8),
}

_RANGES = {"float32": (-1.0, 1.0)} | {
    name: (-float(1 << bits), float((1 << bits) - 1)) for name, bits in (("int8", 7), ("int32", 31), ("int64", 63))
}
_RANGES |= {"uint8": (0.0, 255.0), "bool": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: its shape, and its type by numpy's name. Raises ValueError for what cannot be one."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in _BYTES:
            raise ValueError(f"tensor type {self.dtype!r}, expected one of {', '.join(sorted(_BYTES))}")
        if len(self.shape) > 16 or any(not 0 <= size < 1 << 31 for size in self.shape):
            raise ValueError(f"tensor shape {self.shape!r}, expected at most 16 sizes of 0 or more")

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the values in memory."""
        return self.elements * _BYTES[self.dtype]

    def same_values(self, other: TensorSpec) -> bool:
        """Tell whether the values of both can be compared one to one; names are free."""
        return (self.shape, self.dtype) == (other.shape, other.dtype)


@dataclass(frozen=True, slots=True)
class OutputError:
    """How one output of one inference differs from the reference's, in the output's raw units.

    `mean` and `maximum` are of |reference - test| over the elements, None where either side holds a NaN or an infinity.
    """

    mean: float | None
    maximum: float | None
    exact: int
    """Elements that are equal to the bit."""
    elements: int
    reference_finite: bool
    test_finite: bool


def make_inputs(inputs: Sequence[TensorSpec], generator: np.random.Generator) -> bytes:
    """Return the bytes of all inputs of one inference, made as inference_diff makes them.

    Gaussian(0.5, 1/3), redrawn until in [0, 1), then mapped to [-1, 1) for float32 and to the type's whole range for integers,
    cut towards zero (so uint8 never holds 255, and bool is always false). Raises ValueError for a type that inference_diff refuses.
    """
    return b"".join(_values(tensor, generator).tobytes() for tensor in inputs)


def _values(tensor: TensorSpec, generator: np.random.Generator) -> npt.NDArray[Any]:
    if tensor.dtype not in _RANGES:
        message = f"input {tensor.name!r} is of type {tensor.dtype}, expected one of {', '.join(sorted(_RANGES))}"
        raise ValueError(message)
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    low, high = _RANGES[tensor.dtype]
    drawn = generator.normal(MEAN, DEVIATION, tensor.elements)
    while (outside := (drawn < 0) | (drawn >= 1)).any():
        drawn[outside] = generator.normal(MEAN, DEVIATION, int(outside.sum()))
    values = low + (high - low) * drawn
    return (values if tensor.dtype == "float32" else np.trunc(values)).astype(tensor.dtype)


def compare(spec: TensorSpec, reference: Bytes, test: Bytes) -> OutputError:
    """Compare one output with the reference's; both are the bytes of one tensor of `spec`."""
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    left, right = (np.frombuffer(data, spec.dtype) for data in (reference, test))
    # doubles: uint8 would wrap, and inference_diff's float32 sum loses digits over a large output
    with np.errstate(invalid="ignore"):
        distance = np.abs(left.astype(np.float64) - right.astype(np.float64))
    left_finite, right_finite = bool(np.isfinite(left).all()), bool(np.isfinite(right).all())
    comparable = left_finite and right_finite and spec.elements > 0
    return OutputError(
        mean=float(distance.mean()) if comparable else None,
        maximum=float(distance.max()) if comparable else None,
        exact=int((left == right).sum()),
        elements=spec.elements,
        reference_finite=left_finite,
        test_finite=right_finite,
    )


def split(outputs: Sequence[TensorSpec], payload: bytes) -> tuple[bytes, ...]:
    """Cut the bytes of all outputs into those of each. The sizes must add up to the payload's."""
    parts, offset = [], 0
    for tensor in outputs:
        parts.append(payload[offset : offset + tensor.nbytes])
        offset += tensor.nbytes
    return tuple(parts)
