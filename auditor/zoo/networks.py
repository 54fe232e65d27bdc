"""The zoo's public graphs, built layer by layer with random weights, the same bytes on every machine.

Weights come from a counter-mode SplitMix64 stream of integers, so nothing depends on a library's random generator,
on the numpy release or on the processor. The graphs were read from the published files: MobileNet v2 1.0 224 as hosted
by TensorFlow, and the 0.0.1 files of the ChromeOS zoo (platform2, commit 82dbdce8f5) for the segmentation and the
convolution benchmarks, whose weights ChromeOS itself draws at random.
Needs numpy, and no TFLite runtime.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from auditor.tflite.flatbuffer import Builder, Field
from auditor.tflite.graph import OPERATORS, TENSOR_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

NONE, RELU, RELU6 = 0, 1, 3
"""ActivationFunctionType."""

# BuiltinOptions: the type of each operator's options table; an operator not named here has no fields to set.
_OPTIONS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 2,
    "AVERAGE_POOL_2D": 5,
    "SOFTMAX": 9,
    "CONCATENATION": 10,
    "ADD": 11,
    "RESIZE_BILINEAR": 15,
    "RESHAPE": 17,
    "MUL": 21,
    "MEAN": 27,
    "TRANSPOSE_CONV": 49,
}


def codes(seed: int, layer: int, count: int) -> Array:
    """Return `count` int8 in -127..127: SplitMix64 (Steele, Lea, Flood 2014) of a counter; layers do not overlap."""
    start = np.uint64((seed << 48) + (layer << 32))
    with np.errstate(over="ignore"):
        z = (np.arange((count + 7) // 8, dtype=np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    stream = (z ^ (z >> np.uint64(31))).astype("<u8").view(np.int8)[:count]
    bounded: Array = np.maximum(stream, np.int8(-127))
    return bounded


@dataclass(frozen=True, slots=True)
class _Quantization:
    """real = scale * (code - zero_point), one for the whole tensor."""

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> _Quantization:
        scale = (high - low) / 255
        return cls(float(np.float32(scale)), round(-low / scale))


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    type: str
    shape: tuple[int, ...]
    buffer: int
    quantization: _Quantization | None


@dataclass(frozen=True, slots=True)
class _Operator:
    code: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[Field, ...]


class Network:
    """A network while it is built, layer by layer; a layer takes indices of tensors and returns that of its output.

    `weights` is FLOAT32, FLOAT16 (half-precision constants behind DEQUANTIZE, arithmetic in float), or UINT8 (all
    quantised, per tensor).
    """

    def __init__(self, name: str, weights: str, seed: int) -> None:
        self.name, self.weights, self.seed = name, weights, seed
        self.tensors: list[_Tensor] = []
        self.buffers = [b""]
        self.operators: list[_Operator] = []
        self.layers = 0

    @property
    def quantized(self) -> bool:
        """Whether activations are uint8, too."""
        return self.weights == "UINT8"

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.tensors[tensor].shape

    def constant(self, name: str, kind: str, array: Array, quantization: _Quantization | None = None) -> int:
        """Add a tensor with content."""
        self.buffers.append(array.tobytes())
        self.tensors.append(_Tensor(name, kind, array.shape, len(self.buffers) - 1, quantization))
        return len(self.tensors) - 1

    def integers(self, name: str, *values: int) -> int:
        """Add a constant vector of integers, such as axes."""
        return self.constant(name, "INT32", np.array(values, "<i4"))

    def variable(self, name: str, shape: Sequence[int], quantization: _Quantization | None = None) -> int:
        """Add a tensor that is computed."""
        kind = "UINT8" if self.quantized else "FLOAT32"
        self.tensors.append(_Tensor(name, kind, tuple(shape), 0, quantization if self.quantized else None))
        return len(self.tensors) - 1

    def operator(self, code: str, inputs: Sequence[int], output: int, *options: Field, version: int = 1) -> int:
        """Add an operator and return its output."""
        self.operators.append(_Operator(code, version, tuple(inputs), (output,), options))
        return output

    def floats(self, name: str, array: Array) -> int:
        """Add a constant of floats, in half precision where the network keeps its weights so."""
        if self.weights == "FLOAT32":
            return self.constant(name, "FLOAT32", array.astype("<f4"))
        half = self.constant(f"{name}/half", "FLOAT16", array.astype("<f2"))
        return self.operator("DEQUANTIZE", [half], self.variable(name, array.shape))

    def draw(
        self, source: int, shape: tuple[int, ...], fan_in: int, channels: int, *, gain: float, bias: int | None = None
    ) -> tuple[int, int]:
        """Weights, uniform with He's variance times `gain`, and a bias of up to 0.2; `bias` gives one already drawn.

        Float weights have 16 random bits: with 8, a delegate that silently rounds weights to int8 would make no error.
        """
        self.layers += 1
        name = f"layer{self.layers}"
        drawn = codes(self.seed, self.layers, math.prod(shape)).reshape(shape)
        offsets = codes(self.seed, 0x8000 + self.layers, channels).astype(np.float32) * np.float32(0.2 / 127)
        scale = np.float32(gain * math.sqrt(3.0 / fan_in) / 127)
        if not self.quantized:
            low = codes(self.seed, 0x4000 + self.layers, drawn.size).reshape(shape).astype(np.float32) / np.float32(256)
            values = (drawn.astype(np.float32) + low) * scale
            return self.floats(f"{name}/weights", values), self.floats(f"{name}/bias", offsets) if bias is None else bias
        quantization = self.tensors[source].quantization
        assert quantization is not None
        unit = scale * np.float32(quantization.scale)
        shifted = (drawn.astype(np.int16) + 128).astype(np.uint8)
        return (
            self.constant(f"{name}/weights", "UINT8", shifted, _Quantization(float(scale), 128)),
            self.constant(f"{name}/bias", "INT32", np.round(offsets / unit).astype("<i4"), _Quantization(float(unit), 0)),
        )

    def convolution(
        self,
        source: int,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        activation: int = NONE,
        *,
        gain: float = math.sqrt(2),
        limits: tuple[float, float] = (-8, 8),
        same: bool = True,
    ) -> int:
        """CONV_2D with weights and bias of its own."""
        batch, height, width, depth = self.shape(source)
        weights = self.draw(source, (channels, kernel, kernel, depth), kernel * kernel * depth, channels, gain=gain)
        shape = (batch, -(-height // stride), -(-width // stride), channels)
        output = self.variable(f"layer{self.layers}/output", shape, self.range_of(activation, limits))
        fused = Field(3, "b", NONE if self.quantized else activation)
        window = (Field(0, "b", 0 if same else 1), Field(1, "i", stride), Field(2, "i", stride), fused)
        dilation = (Field(4, "i", 1), Field(5, "i", 1))
        return self.operator("CONV_2D", (source, *weights), output, *window, *dilation)

    def depthwise(
        self,
        source: int,
        kernel: int,
        stride: int = 1,
        activation: int = NONE,
        *,
        gain: float = math.sqrt(2),
        bias: int | None = None,
    ) -> int:
        """DEPTHWISE_CONV_2D; `bias` shares one already drawn."""
        batch, height, width, depth = self.shape(source)
        weights = self.draw(source, (1, kernel, kernel, depth), kernel * kernel, depth, gain=gain, bias=bias)
        shape = (batch, -(-height // stride), -(-width // stride), depth)
        output = self.variable(f"layer{self.layers}/output", shape, self.range_of(activation, (-8, 8)))
        fused = Field(4, "b", NONE if self.quantized else activation)
        window = (Field(0, "b", 0), Field(1, "i", stride), Field(2, "i", stride), Field(3, "i", 1), fused)
        dilation = (Field(5, "i", 1), Field(6, "i", 1))
        return self.operator("DEPTHWISE_CONV_2D", (source, *weights), output, *window, *dilation)

    @staticmethod
    def range_of(activation: int, limits: tuple[float, float]) -> _Quantization:
        """Quantisation of an output. In a quantised network its range clips: the operator has no activation."""
        return _Quantization.of_range(*((0, 6) if activation == RELU6 else limits))

    def deconvolution(self, source: int, channels: int) -> int:
        """Double height and width by a 2x2 TRANSPOSE_CONV of stride 2."""
        batch, height, width, depth = self.shape(source)
        weights, bias = self.draw(source, (channels, 2, 2, depth), depth, channels, gain=math.sqrt(2))
        shape = (batch, 2 * height, 2 * width, channels)
        inputs = (self.integers("deconvolution/shape", *shape), weights, source, bias)
        window = (Field(0, "b", 0), Field(1, "i", 2), Field(2, "i", 2))
        return self.operator("TRANSPOSE_CONV", inputs, self.variable("deconvolution", shape), *window, version=3)

    def named(self, code: str) -> str:
        """Return a name for the next operator's output."""
        return f"{code.lower()}{len(self.operators)}"

    def unary(self, code: str, source: int) -> int:
        """Add an operator without options that keeps the shape."""
        return self.operator(code, [source], self.variable(self.named(code), self.shape(source)))

    def add(self, left: int, right: int) -> int:
        """ADD of equal shapes."""
        output = self.variable(self.named("ADD"), self.shape(left), _Quantization.of_range(-12, 12))
        return self.operator("ADD", (left, right), output, Field(0, "b", NONE), Field(1, "?", 1))

    def multiply(self, left: int, right: int) -> int:
        """MUL; the right side may be one value a channel."""
        return self.operator("MUL", (left, right), self.variable(self.named("MUL"), self.shape(left)), Field(0, "b", NONE))

    def concatenation(self, left: int, right: int) -> int:
        """Join along the channels."""
        shape = (*self.shape(left)[:3], self.shape(left)[3] + self.shape(right)[3])
        output = self.variable(self.named("CONCATENATION"), shape)
        return self.operator("CONCATENATION", (left, right), output, Field(0, "i", 3), Field(1, "b", NONE))

    def mean(self, source: int) -> int:
        """Average over height and width."""
        batch, _, _, depth = self.shape(source)
        inputs = (source, self.integers(self.named("axes"), 1, 2))
        return self.operator("MEAN", inputs, self.variable(self.named("MEAN"), (batch, 1, 1, depth)), Field(0, "?", 1))

    def upscale(self, source: int, version: int) -> int:
        """Double height and width, bilinear, half-pixel centres."""
        batch, height, width, depth = self.shape(source)
        inputs = (source, self.integers(self.named("size"), 2 * height, 2 * width))
        output = self.variable(self.named("RESIZE_BILINEAR"), (batch, 2 * height, 2 * width, depth))
        return self.operator("RESIZE_BILINEAR", inputs, output, Field(3, "?", 1), version=version)

    def average_pool(self, source: int) -> int:
        """Average over the whole image."""
        batch, height, width, depth = self.shape(source)
        output = self.variable("pool", (batch, 1, 1, depth), self.tensors[source].quantization)
        stride = (Field(1, "i", 1), Field(2, "i", 1))
        window = (Field(0, "b", 1), *stride, Field(3, "i", width), Field(4, "i", height), Field(5, "b", NONE))
        return self.operator("AVERAGE_POOL_2D", [source], output, *window)

    def reshape(self, source: int, *shape: int) -> int:
        """RESHAPE, which moves no data."""
        output = self.variable("reshape", shape, self.tensors[source].quantization)
        return self.operator("RESHAPE", (source, self.integers("reshape/shape", *shape)), output)

    def softmax(self, source: int) -> int:
        """SOFTMAX over the channels."""
        return self.operator("SOFTMAX", [source], self.variable("softmax", self.shape(source)), Field(0, "f", 1.0))

    def finish(self, source: int, result: int) -> bytes:
        """Return the file. Operators that only unpack constants come first, as public converters order them."""
        builder = Builder()
        buffers = builder.tables([builder.buffer(content) for content in self.buffers])
        ordered = sorted(self.operators, key=lambda op: op.code != "DEQUANTIZE")
        kinds = sorted({(op.code, op.version) for op in ordered})
        tensors = builder.tables([_write_tensor(builder, tensor) for tensor in self.tensors])
        inputs, outputs = builder.int32s([source]), builder.int32s([result])
        operators = builder.tables([_write_operator(builder, op, kinds.index((op.code, op.version))) for op in ordered])
        graph_parts = (tensors, inputs, outputs, operators, builder.text("main"))
        graph = builder.table(*(Field(slot, "o", part) for slot, part in enumerate(graph_parts)))
        codes = builder.tables([_write_code(builder, code, version) for code, version in kinds])
        description = builder.text(f"crosml-audit stand-in for {self.name}: random weights, seed {self.seed}")
        model_parts = (codes, builder.tables([graph]), description, buffers)
        fields = (Field(slot, "o", part) for slot, part in enumerate(model_parts, 1))
        return builder.finish(builder.table(Field(0, "I", 3), *fields))


def _write_tensor(builder: Builder, tensor: _Tensor) -> int:
    fields = [
        Field(0, "o", builder.int32s(tensor.shape)),
        Field(1, "b", TENSOR_TYPES.index(tensor.type)),
        Field(2, "I", tensor.buffer),
        Field(3, "o", builder.text(tensor.name)),
    ]
    if tensor.quantization is not None:
        scale = builder.vector(1, struct.pack("<f", tensor.quantization.scale))
        zero_point = builder.vector(1, struct.pack("<q", tensor.quantization.zero_point), alignment=8)
        fields.append(Field(4, "o", builder.table(Field(2, "o", scale), Field(3, "o", zero_point))))
    return builder.table(*fields)


def _write_operator(builder: Builder, operator: _Operator, code: int) -> int:
    inputs, outputs = builder.int32s(operator.inputs), builder.int32s(operator.outputs)
    fields = [Field(0, "I", code), Field(1, "o", inputs), Field(2, "o", outputs)]
    if operator.code in _OPTIONS:
        options = builder.table(*operator.options)
        fields += [Field(3, "B", _OPTIONS[operator.code]), Field(4, "o", options)]
    return builder.table(*fields)


def _write_code(builder: Builder, code: str, version: int) -> int:
    number = OPERATORS.index(code)
    return builder.table(Field(0, "b", number), Field(2, "i", version), Field(3, "i", number))


def mobilenet_v2(name: str, weights: str, seed: int) -> bytes:
    """MobileNet v2 (Sandler et al. 2018, table 2), width 1.0, 1001 classes; TensorFlow's uint8 file ends in logits."""
    net = Network(name, weights, seed)
    image = net.variable("input", (1, 224, 224, 3), _Quantization(1 / 128, 128))
    x = net.convolution(image, 32, 3, 2, RELU6)
    blocks = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, channels, repeats, first_stride in blocks:
        for repeat in range(repeats):
            hidden = x if expansion == 1 else net.convolution(x, net.shape(x)[3] * expansion, activation=RELU6)
            hidden = net.depthwise(hidden, 3, first_stride if repeat == 0 else 1, RELU6)
            hidden = net.convolution(hidden, channels, gain=1.2)
            x = net.add(x, hidden) if repeat else hidden
    x = net.average_pool(net.convolution(x, 1280, activation=RELU6))
    x = net.reshape(net.convolution(x, 1001, gain=2.0, limits=(-32, 32)), 1, 1001)
    return net.finish(image, x if net.quantized else net.softmax(x))


def convolution_benchmark(name: str, channels: int, seed: int) -> bytes:
    """Build the U-Net of both convolution benchmarks, which differ in the channels of their output (3 and 1)."""
    net = Network(name, "FLOAT16", seed)
    image = net.variable("srgb", (1, 144, 256, 3))
    x = net.convolution(image, 8, 3, activation=RELU)
    skips = []
    for depth in (16, 32):
        skips.append(x)
        x = net.convolution(net.depthwise(x, 4, 2), depth, 3, activation=RELU)
    for depth in (64, 128):
        skips.append(x)
        x = net.depthwise(x, 4, 2, gain=1.0)
        x = net.depthwise(x, 3, gain=1.0, bias=net.operators[-1].inputs[2])
        x = net.convolution(x, depth, activation=RELU, same=False)
    x = net.concatenation(net.upscale(x, 3), skips.pop())
    x = net.convolution(net.depthwise(x, 3, gain=1.0), 64, activation=RELU, same=False)
    for depth in (32, 16, 8):
        x = net.convolution(net.concatenation(net.upscale(x, 3), skips.pop()), depth, 3, activation=RELU)
    return net.finish(image, net.convolution(x, channels, 3, gain=1.0))


def selfie_segmentation(name: str, seed: int) -> bytes:
    """MediaPipe's landscape segmentation: MobileNetV3-like encoder, gated decoder, here a builtin deconvolution."""
    net = Network(name, "FLOAT16", seed)
    image = net.variable("input_1", (1, 144, 256, 3))

    def gate(x: int, hidden: int, channels: int) -> int:
        squeezed = net.unary("RELU", net.convolution(net.mean(x), hidden, same=False))
        return net.unary("LOGISTIC", net.convolution(squeezed, channels, same=False))

    x = stem = net.unary("HARD_SWISH", net.convolution(image, 16, 3, 2))
    skips = [stem]
    # expanded channels, output channels, kernel, stride, hidden channels of the gate (0: none), activation
    for expanded, channels, kernel, stride, hidden, activation in (
        (16, 16, 3, 2, 8, "RELU"),
        (72, 24, 3, 2, 0, "RELU"),
        (88, 24, 3, 1, 0, "RELU"),
        (96, 32, 5, 2, 24, "HARD_SWISH"),
        (128, 32, 5, 1, 32, "HARD_SWISH"),
        (128, 32, 5, 1, 32, "HARD_SWISH"),
        (96, 32, 5, 1, 24, "HARD_SWISH"),
        (96, 32, 5, 1, 24, "HARD_SWISH"),
    ):
        if stride == 2 and x != stem:
            skips.append(x)
        h = net.unary(activation, net.convolution(x, expanded))
        h = net.unary(activation, net.depthwise(h, kernel, stride))
        h = net.multiply(h, gate(h, hidden, expanded)) if hidden else h
        h = net.convolution(h, channels, gain=1.2)
        x = net.add(h, x) if stride == 1 else h
    pooled = net.mean(x)
    wide = net.unary("RELU", net.convolution(x, 128, same=False))
    x = net.multiply(wide, net.unary("LOGISTIC", net.convolution(pooled, 128, same=False)))
    for skip in reversed(skips):
        depth = net.shape(skip)[3]
        up = net.convolution(net.upscale(x, 1), depth, same=False, gain=1.0)
        gated = net.multiply(skip, gate(net.add(skip, up), depth, depth))
        y = net.unary("RELU", net.convolution(net.add(gated, up), depth, same=False))
        x = net.add(y, net.unary("RELU", net.depthwise(y, 3)))
    return net.finish(image, net.unary("LOGISTIC", net.deconvolution(x, 1)))
