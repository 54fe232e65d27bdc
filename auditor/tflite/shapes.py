"""Whether the shapes that a model's file states are those that its operators produce.

A runtime computes shapes from the graph's inputs and the operators' options, and ignores what the file says of the
tensors between. So a file may state the shapes of a large network, have strides that make it a tiny one, and both the
multiply-accumulates counted from the file and a comparison of operators would be deceived. The rules here are those
of the zoo's operators (tensorflow/lite/kernels, their Prepare functions).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from auditor.tflite.graph import MEDIAPIPE_DECONVOLUTION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from auditor.tflite.graph import Operator, Subgraph, Tensor

    Shape: TypeAlias = tuple[int, ...]
    Rule: TypeAlias = Callable[[Operator, list[Tensor]], Shape | None]


def _slide(size: int, kernel: int, stride: int, dilation: int, *, same: bool) -> int:
    if min(kernel, stride, dilation) < 1:
        return -1
    return -(-size // stride) if same else -(-(size - (kernel - 1) * dilation) // stride)


def _windowed(op: Operator, image: Tensor, kernel: tuple[int, int], channels: int) -> Shape | None:
    if op.window is None:
        return None
    sizes = zip(image.shape[1:3], kernel, op.window.stride, op.window.dilation, strict=True)
    return (image.shape[0], *(_slide(*size, same=op.window.same) for size in sizes), channels)


def _convolution(op: Operator, inputs: list[Tensor]) -> Shape | None:
    image, weights = inputs[0], inputs[1]
    channels, height, width, depth = weights.shape
    return _windowed(op, image, (height, width), channels) if depth == image.shape[3] else None


def _depthwise(op: Operator, inputs: list[Tensor]) -> Shape | None:
    image, weights = inputs[0], inputs[1]
    one, height, width, depth = weights.shape
    fits = one == 1 and depth % image.shape[3] == 0
    return _windowed(op, image, (height, width), depth) if fits else None


def _pool(op: Operator, inputs: list[Tensor]) -> Shape | None:
    if op.window is None or op.window.kernel is None:
        return None
    return _windowed(op, inputs[0], op.window.kernel, inputs[0].shape[3])


def _enlarge(op: Operator, image: Tensor, weights: Tensor) -> Shape | None:
    channels, *kernel, depth = weights.shape
    if op.window is None or depth != image.shape[3]:
        return None
    rows = zip(image.shape[1:3], kernel, op.window.stride, strict=True)
    sizes = (n * stride if op.window.same else (n - 1) * stride + k for n, k, stride in rows)
    return (image.shape[0], *sizes, channels)


def _deconvolution(op: Operator, inputs: list[Tensor]) -> Shape | None:
    shape = _enlarge(op, inputs[2], inputs[1])
    return shape if shape == inputs[0].values else None


def _broadcast(_op: Operator, inputs: list[Tensor]) -> Shape | None:
    left, right = inputs[0].shape, inputs[1].shape
    if len(left) != len(right) or any(a != b and 1 not in {a, b} for a, b in zip(left, right, strict=True)):
        return None
    return tuple(map(max, left, right))


def _join(_op: Operator, inputs: list[Tensor]) -> Shape | None:
    """Along the channels; the zoo's models join nowhere else."""
    heads = {t.shape[:-1] for t in inputs}
    return (*heads.pop(), sum(t.shape[-1] for t in inputs)) if len(heads) == 1 else None


def _mean(_op: Operator, inputs: list[Tensor]) -> Shape | None:
    return tuple(1 if i in inputs[1].values else n for i, n in enumerate(inputs[0].shape))


def _resize(_op: Operator, inputs: list[Tensor]) -> Shape | None:
    batch, _, _, depth = inputs[0].shape
    return (batch, *inputs[1].values, depth)


_RULES: Mapping[str, Rule] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "AVERAGE_POOL_2D": _pool,
    "TRANSPOSE_CONV": _deconvolution,
    MEDIAPIPE_DECONVOLUTION: lambda op, inputs: _enlarge(op, inputs[0], inputs[1]),
    "ADD": _broadcast,
    "MUL": _broadcast,
    "CONCATENATION": _join,
    "MEAN": _mean,
    "RESIZE_BILINEAR": _resize,
    **dict.fromkeys(("RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "SOFTMAX", "DEQUANTIZE"), lambda _op, inputs: inputs[0].shape),
}


def _follows(op: Operator, inputs: list[Tensor], output: Tensor) -> bool:
    if op.name in {"RESHAPE", "SQUEEZE"}:
        return inputs[0].elements == output.elements and math.prod(inputs[0].shape) > 0
    try:
        return _RULES[op.name](op, inputs) == output.shape
    except (ArithmeticError, IndexError, ValueError):  # no inputs or dimensions that this operator takes
        return False


def first_inconsistency(subgraph: Subgraph) -> str:
    """Name the first operator whose output does not have the shape that it computes; empty where all have.

    An operator without a rule here counts as inconsistent: nothing is known of its work.
    """
    for i, op in enumerate(subgraph.operators):
        if op.name not in _RULES and op.name not in {"RESHAPE", "SQUEEZE"}:
            return f"operator {i} is {op.name}, whose shapes are not known here"
        inputs = [subgraph.tensors[j] for j in op.inputs if j >= 0]
        if not inputs or len(op.outputs) != 1:
            return f"operator {i}, {op.name}, has {len(inputs)} inputs and {len(op.outputs)} outputs"
        output = subgraph.tensors[op.outputs[0]]
        if not _follows(op, inputs, output):
            return f"operator {i}, {op.name}, does not produce the shape {list(output.shape)} that the file states"
    return ""
