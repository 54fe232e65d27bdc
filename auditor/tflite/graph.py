"""What a .tflite file holds: operators, tensors, parameters and multiply-accumulates.

A reader of TFLite's flatbuffer schema, version 3 (tensorflow/lite/schema/schema.fbs), made for files that may be
hostile: every offset is checked, every count and the total work are bounded, nothing recurses, and the only exception
is BadModel. Standard library only.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.tflite.flatbuffer import FILE_IDENTIFIER, BadModel, Reader, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from auditor.tflite.flatbuffer import Data

__all__ = ["BadModel", "Graph", "Operator", "Subgraph", "Tensor", "Window", "count_nonfinite", "read_graph"]

MAX_RANK = 16
TENSOR_TYPES = (
    *("FLOAT32", "FLOAT16", "INT32", "UINT8", "INT64", "STRING", "BOOL", "INT16", "COMPLEX64", "INT8", "FLOAT64"),
    *("COMPLEX128", "UINT64", "RESOURCE", "VARIANT", "UINT32", "UINT16", "INT4", "BFLOAT16", "INT2", "UINT4"),
    *("FLOAT8_E4M3FN", "FLOAT8_E5M2"),
)

_BITS = {
    **dict.fromkeys(("BOOL", "INT8", "UINT8", "FLOAT8_E4M3FN", "FLOAT8_E5M2"), 8),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("FLOAT32", "INT32", "UINT32"), 32),
    **dict.fromkeys(("FLOAT64", "INT64", "UINT64", "COMPLEX64"), 64),
    **dict.fromkeys(("INT4", "UINT4"), 4),
    "INT2": 2,
    "COMPLEX128": 128,
}

OPERATORS = tuple(
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
    FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC
    LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX
    SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE
    BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL
    LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT
    RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT
    UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR
    LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK
    ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4
    NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
    PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS
    HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
    READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL
    GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT
    """.split()  # noqa: SIM905 - one block of names is easier to check against the schema than 160 quoted strings
)
"""BuiltinOperator by code, up to where the StableHLO operators begin; those are named BUILTIN_<code>."""

CUSTOM = OPERATORS.index("CUSTOM")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. Its content lies in the file at `offset`, `size` bytes long; size 0: computed at run time."""

    name: str
    type: str
    """Name of TFLite's TensorType, or TYPE_<code>."""
    shape: tuple[int, ...]
    buffer: int
    """Index of the buffer; tensors may share one."""
    offset: int
    size: int
    quantized: bool
    sparse: bool
    """Whether only some elements are kept; then `size` says nothing of the shape."""
    values: tuple[int, ...]
    """Content of a constant INT32 vector of up to 8 elements, such as axes or a new shape; else empty."""
    scale: float = 0.0
    """Of a tensor quantized as a whole: its values are scale * (raw - zero_point). 0 for any other."""
    zero_point: int = 0

    @property
    def constant(self) -> bool:
        """Whether the file itself holds the content."""
        return self.size > 0

    @property
    def parameter(self) -> bool:
        """Whether it is a weight or a bias: constant, and not axes, a shape, indices or text."""
        return self.constant and (self.quantized or self.type not in {"INT32", "INT64", "BOOL", "STRING"})

    @property
    def elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution or a pooling slides: pairs are (height, width)."""

    same: bool
    """Padding SAME; else VALID."""
    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] | None = None
    """Of a pooling; a convolution's kernel is its weights' shape."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator; `inputs` and `outputs` are indices of its subgraph's tensors, -1 for an optional input left out."""

    code: str
    """Builtin name, `CUSTOM`, or BUILTIN_<code> where the code is not in OPERATORS."""
    custom: str
    """Name of a custom operator, else empty."""
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    window: Window | None
    macs: int
    """Multiply-accumulates by the shapes that the file states; 0 for what is no matrix or convolution operator."""

    @property
    def name(self) -> str:
        """The builtin's or the custom operator's own name."""
        return self.custom or self.code


@dataclass(frozen=True, slots=True)
class Subgraph:
    """One function of the model; the first one is what an interpreter runs."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A model as its file states it. `operators`, `tensors`, `inputs` and `outputs` are those of the first subgraph."""

    version: int
    description: str
    subgraphs: tuple[Subgraph, ...]
    parameters: int
    """Elements of distinct constant weights and biases, all subgraphs; axes and shapes are not parameters."""
    macs: int
    """Sum over the operators of all subgraphs, each counted once."""
    bytes: int
    """Size of the file."""

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Of the first subgraph, in the order of execution."""
        return self.subgraphs[0].operators

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Of the first subgraph."""
        return self.subgraphs[0].tensors

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a caller must set."""
        return tuple(self.tensors[i] for i in self.subgraphs[0].inputs)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What a caller gets."""
        return tuple(self.tensors[i] for i in self.subgraphs[0].outputs)

    def operator_counts(self) -> Counter[str]:
        """How often each operator (custom ones by their own name) occurs in the whole file."""
        return Counter(op.name for sub in self.subgraphs for op in sub.operators)


# Operators with a window: type of their options table, and its slots of the dilation or the kernel (width, height).
# Padding is slot 0 and the stride slots 1 and 2 in all of them.
_WINDOWS = {
    "CONV_2D": (1, (4, 5)),
    "DEPTHWISE_CONV_2D": (2, (5, 6)),
    "AVERAGE_POOL_2D": (5, (3, 4)),
    "MAX_POOL_2D": (5, (3, 4)),
    "TRANSPOSE_CONV": (49, None),
}
MEDIAPIPE_DECONVOLUTION = "Convolution2DTransposeBias"
"""MediaPipe's operator: input, weights (OHWI), bias. Options: three int32: padding (1: SAME), stride height, width."""


def _window(reader: Reader, table: Table, name: str) -> Window | None:
    if name == MEDIAPIPE_DECONVOLUTION:
        at, count = reader.vector(table, 5, 1, "custom options")
        if count < 12:
            raise BadModel(f"{name} has {count} bytes of options, expected 12")
        padding, height, width = struct.unpack_from("<3i", reader.data, at)
        return Window(padding == 1, (height, width))
    kind, extra = _WINDOWS.get(name, (0, None))
    options = reader.child(table, 4, "operator options")
    if options is None or not kind or reader.scalar(table, 3, "<B") != kind:
        return None
    same = reader.scalar(options, 0, "<b") == 0
    stride = (reader.scalar(options, 2, "<i"), reader.scalar(options, 1, "<i"))
    if extra is None:
        return Window(same, stride)
    pooling = name.endswith("POOL_2D")
    width, height = (reader.scalar(options, slot, "<i", 0 if pooling else 1) for slot in extra)
    return Window(same, stride, kernel=(height, width)) if pooling else Window(same, stride, dilation=(height, width))


def _data(reader: Reader, buffer: Table, what: str) -> tuple[int, int]:
    """Offset and length of a buffer's content; models over 2 GB keep it behind the flatbuffer, by absolute offset."""
    at, size = reader.vector(buffer, 0, 1, what)
    far, far_size = reader.scalar(buffer, 1, "<Q"), reader.scalar(buffer, 2, "<Q")
    if far > 1:
        reader.bounds(far, far_size, what)
        return far, far_size
    return at, size


def _tensor(reader: Reader, table: Table, buffers: list[tuple[int, int]], what: str) -> Tensor:
    shape = reader.numbers(table, 0, f"{what} shape")
    if len(shape) > MAX_RANK or any(d < 0 for d in shape):
        raise BadModel(f"{what} has the impossible shape {list(shape[:MAX_RANK])}")
    code = reader.scalar(table, 1, "<b")
    kind = TENSOR_TYPES[code] if 0 <= code < len(TENSOR_TYPES) else f"TYPE_{code}"
    buffer = reader.scalar(table, 2, "<I")
    if buffer >= len(buffers):
        raise BadModel(f"{what} names buffer {buffer} of {len(buffers)}")
    offset, size = buffers[buffer]
    sparse = table.field(6) > 0
    if size and not sparse and kind in _BITS and size != (math.prod(shape) * _BITS[kind] + 7) // 8:
        raise BadModel(f"{what} holds {size} bytes, which is not its shape {list(shape)} of {kind}")
    quantization = reader.child(table, 4, f"{what} quantization")
    scales = reader.vector(quantization, 2, 4, f"{what} scale") if quantization is not None else (0, 0)
    zeros = reader.vector(quantization, 3, 8, f"{what} zero point") if quantization is not None else (0, 0)
    quantized, scale, zero_point = scales[1] > 0, 0.0, 0
    if (scales[1], zeros[1]) == (1, 1):
        (scale,), (zero_point,) = struct.unpack_from("<f", reader.data, scales[0]), struct.unpack_from("<q", reader.data, zeros[0])
    values: tuple[int, ...] = ()
    if kind == "INT32" and not quantized and 0 < size <= 32:
        values = struct.unpack_from(f"<{size // 4}i", reader.data, offset)
    return Tensor(reader.text(table, 3, f"{what} name"), kind, shape, buffer, offset, size, quantized, sparse, values, scale, zero_point)


def _rows(weights: Tensor, source: Tensor, _target: Tensor) -> int:
    """Each row of the input, as wide as the weights' rows, meets every weight once."""
    return source.elements // weights.shape[-1] * weights.elements if weights.shape and weights.shape[-1] else 0


def _steps(weights: Tensor, source: Tensor, _target: Tensor) -> int:
    """Each step of the sequence, features last, meets every weight of a matrix once."""
    return math.prod(source.shape[:-1]) * weights.elements if len(weights.shape) == 2 else 0


def _outputs(weights: Tensor, _source: Tensor, target: Tensor) -> int:
    """Each output position meets every weight once; the output's channels are in the weights."""
    return math.prod(target.shape[:-1]) * weights.elements


def _inputs(weights: Tensor, source: Tensor, _target: Tensor) -> int:
    """Each input position meets every weight once."""
    return math.prod(source.shape[:-1]) * weights.elements


def _product(_right: Tensor, left: Tensor, target: Tensor) -> int:
    """Every element of a product of matrices sums over the shared dimension."""
    if len(left.shape) < 2 or len(target.shape) < 2 or not target.shape[-2]:
        return 0
    return target.elements * (left.shape[-2] * left.shape[-1] // target.shape[-2])


_LSTM = (*range(1, 9), 16)
"""Inputs that are weights: input and recurrent matrices of four gates, projection (lite/kernels/lstm_shared.h)."""

_MACS: Mapping[str, tuple[int, tuple[int, ...], Callable[[Tensor, Tensor, Tensor], int]]] = {
    # operator: index of its input, indices of its weights, multiply-accumulates of one weight tensor
    "CONV_2D": (0, (1,), _outputs),
    "CONV_3D": (0, (1,), _outputs),
    "DEPTHWISE_CONV_2D": (0, (1,), _outputs),
    "TRANSPOSE_CONV": (2, (1,), _inputs),
    MEDIAPIPE_DECONVOLUTION: (0, (1,), _inputs),
    "FULLY_CONNECTED": (0, (1,), _rows),
    "BATCH_MATMUL": (0, (1,), _product),
    "LSTM": (0, _LSTM, _steps),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (0, _LSTM, _steps),
}


def _macs(name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], tensors: tuple[Tensor, ...]) -> int:
    source, weights, count = _MACS.get(name, (0, (), _rows))
    if source >= len(inputs) or inputs[source] < 0 or not outputs:
        return 0
    present = (tensors[inputs[i]] for i in weights if i < len(inputs) and inputs[i] >= 0)
    return sum(count(w, tensors[inputs[source]], tensors[outputs[0]]) for w in present)


def _codes(reader: Reader, model: Table) -> list[tuple[str, str, int]]:
    """Builtin name, custom name and version of each operator code: a byte in old files, a wider field too in later."""
    codes = []
    for table in reader.tables(model, 1, "operator code"):
        number = max(reader.scalar(table, 0, "<b"), reader.scalar(table, 3, "<i"))
        code = OPERATORS[number] if 0 <= number < len(OPERATORS) else f"BUILTIN_{number}"
        custom = reader.text(table, 1, "custom operator name") if number == CUSTOM else ""
        codes.append((code, custom, reader.scalar(table, 2, "<i", 1)))
    return codes


def _operator(reader: Reader, table: Table, codes: list[tuple[str, str, int]], tensors: tuple[Tensor, ...], what: str) -> Operator:
    index = reader.scalar(table, 0, "<I")
    if index >= len(codes):
        raise BadModel(f"{what} names operator code {index} of {len(codes)}")
    code, custom, version = codes[index]
    inputs, outputs = reader.numbers(table, 1, f"{what} inputs"), reader.numbers(table, 2, f"{what} outputs")
    if any(not -1 <= i < len(tensors) for i in inputs) or any(not 0 <= i < len(tensors) for i in outputs):
        raise BadModel(f"{what} {code} names a tensor that is not there ({len(tensors)} tensors)")
    name = custom or code
    return Operator(code, custom, version, inputs, outputs, _window(reader, table, name), _macs(name, inputs, outputs, tensors))


def _subgraph(reader: Reader, table: Table, codes: list[tuple[str, str, int]], buffers: list[tuple[int, int]]) -> Subgraph:
    tensors = tuple(_tensor(reader, t, buffers, f"tensor {i}") for i, t in enumerate(reader.tables(table, 0, "tensor")))
    inputs, outputs = reader.numbers(table, 1, "graph inputs"), reader.numbers(table, 2, "graph outputs")
    if any(not 0 <= i < len(tensors) for i in inputs + outputs):
        raise BadModel(f"the graph's inputs or outputs name a tensor that is not there ({len(tensors)} tensors)")
    operators = (_operator(reader, t, codes, tensors, f"operator {i}") for i, t in enumerate(reader.tables(table, 3, "operator")))
    return Subgraph(tensors, tuple(operators), inputs, outputs)


def _parameters(subgraphs: tuple[Subgraph, ...]) -> int:
    weights = {
        t.offset: t.elements
        for sub in subgraphs
        for t in (sub.tensors[i] for op in sub.operators for i in op.inputs if i >= 0)
        if t.parameter
    }
    return sum(weights.values())


def open_model(data: Data) -> tuple[Reader, Table]:
    """Return a reader and the root table, for who needs more of a file than its graph."""
    reader = Reader(data)
    if reader.size < 8 or bytes(data[4:8]) != FILE_IDENTIFIER:
        raise BadModel(f"no TFLite model: {reader.size} bytes without the file identifier TFL3 at offset 4")
    model = reader.table(reader.follow(0, "model"), "model")
    version = reader.scalar(model, 0, "<I")
    if version != 3:
        raise BadModel(f"schema version {version}, expected 3")
    return reader, model


def read_graph(data: Data) -> Graph:
    """Read a .tflite file. Nothing but BadModel is raised, whatever the bytes are."""
    reader, model = open_model(data)
    buffers = [_data(reader, t, f"buffer {i}") for i, t in enumerate(reader.tables(model, 4, "buffer"))]
    if sum(size for _, size in set(buffers)) > reader.size:
        raise BadModel("the buffers overlap: together they are larger than the file")
    codes = _codes(reader, model)
    subgraphs = tuple(_subgraph(reader, t, codes, buffers) for t in reader.tables(model, 2, "subgraph"))
    if not subgraphs:
        raise BadModel("the model has no subgraph")
    macs = sum(op.macs for sub in subgraphs for op in sub.operators)
    return Graph(reader.scalar(model, 0, "<I"), reader.text(model, 3, "description"), subgraphs, _parameters(subgraphs), macs, reader.size)


# Floating types: bytes of an element, and the exponent's bits in its last and last but one byte.
_EXPONENTS = {
    "FLOAT16": (2, 0x7C, 0x00),
    "BFLOAT16": (2, 0x7F, 0x80),
    "FLOAT32": (4, 0x7F, 0x80),
    "FLOAT64": (8, 0x7F, 0xF0),
}


def count_nonfinite(data: Data, graph: Graph) -> int:
    """Count the constant floats that are NaN or infinite: their exponent is all ones. `graph` was read from `data`."""
    floats = {(t.offset, t.size, t.type) for sub in graph.subgraphs for t in sub.tensors if t.constant and t.type in _EXPONENTS}
    total = 0
    for offset, size, kind in floats:
        width, high, low = _EXPONENTS[kind]
        content = bytes(data[offset : offset + size])
        last, before = content[width - 1 :: width], content[width - 2 :: width]
        if any(byte & high == high for byte in set(last)):
            total += sum(1 for a, b in zip(last, before, strict=False) if a & high == high and b & low == low)
    return total
