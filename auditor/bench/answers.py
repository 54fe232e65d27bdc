"""Inputs that nobody can foresee, and how far the answers to them lie from the reference's: standard library only, for a few of them.

The same as protocol.py does with numpy for each inference of the embedded runner; a device need not have numpy.
"""

from __future__ import annotations

import math
import os
from array import array
from functools import cache
from operator import eq, sub
from statistics import NormalDist
from typing import TYPE_CHECKING

from auditor.tflite.tensors import DEVIATION, MEAN, OutputError, TensorSpec

if TYPE_CHECKING:
    from auditor.tflite.graph import Graph

MAX_ELEMENTS = 1 << 22
"""Of all inputs, and of all outputs."""

_CODES = {"float32": "f", "int8": "b", "uint8": "B", "bool": "B", "int32": "i", "int64": "q"}


def signature(graph: Graph) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and the outputs of a model's main graph. Raises ValueError where their values cannot be made, or compared, here."""
    main = graph.subgraphs[0]
    found = []
    for indexes in (main.inputs, main.outputs):
        tensors = [main.tensors[index] for index in indexes]
        specs = tuple(TensorSpec(tensor.name[:80], tensor.shape, tensor.type.lower()) for tensor in tensors)
        if not all(spec.dtype in _CODES and spec.elements for spec in specs):
            raise ValueError(f"inputs or outputs of types {', '.join(sorted({spec.dtype for spec in specs}))}")
        if not specs or sum(spec.elements for spec in specs) > MAX_ELEMENTS:
            raise ValueError("no inputs or outputs, or too large ones")
        found.append(specs)
    return found[0], found[1]


def draw(spec: TensorSpec) -> bytes:
    """Values for one input, distributed as inference_diff's are (tflite/tensors.py); 0 to 99 for integers that may be an index."""
    if spec.dtype not in {"float32", "int8", "uint8"}:
        drawn = array("I", os.urandom(spec.elements * array("I").itemsize))
        return array(_CODES[spec.dtype], (value % (2 if spec.dtype == "bool" else 100) for value in drawn)).tobytes()
    levels = array("H", os.urandom(spec.elements * array("H").itemsize))
    return array(_CODES[spec.dtype], map(_levels(spec.dtype).__getitem__, levels)).tobytes()


@cache
def _levels(dtype: str) -> array[float] | array[int]:
    """The value at each of 65536 equally likely places of the distribution."""
    normal = NormalDist(MEAN, DEVIATION)
    low, high = normal.cdf(0), normal.cdf(1)
    shares = (normal.inv_cdf(low + (high - low) * (level + 0.5) / 65536) for level in range(65536))
    if dtype == "float32":
        return array("f", (2 * share - 1 for share in shares))
    least = -128 if dtype == "int8" else 0
    return array(_CODES[dtype], (math.trunc(least + 255 * share) for share in shares))


def compare(spec: TensorSpec, reference: bytes, test: bytes) -> OutputError:
    """Compare one output with the reference's; both are the bytes of one tensor of `spec`."""
    left, right = (array(_CODES[spec.dtype], data) for data in (reference, test))
    left_finite, right_finite = all(map(math.isfinite, left)), all(map(math.isfinite, right))
    distances = list(map(abs, map(sub, left, right))) if left_finite and right_finite else []
    return OutputError(
        mean=math.fsum(distances) / len(distances) if distances else None,
        maximum=float(max(distances)) if distances else None,
        exact=sum(map(eq, left, right)),
        elements=len(left),
        reference_finite=left_finite,
        test_finite=right_finite,
    )
