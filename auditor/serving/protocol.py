"""The Open Inference Protocol, version 2, with binary tensors: requests read and answers written. No network here.

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; triton-inference-server/server,
docs/protocol/extension_binary_data.md. Whatever comes is a stranger's: sizes, counts and types are checked before they are used, and what
is wrong is a BadRequest with the ML service's own code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.inference.results import ExecuteResult
from auditor.model import visible
from auditor.zoo.published import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from auditor.tflite.tensors import TensorSpec

BINARY_HEADER = "Inference-Header-Content-Length"
MAX_HEADER = 1 << 20
"""Bytes of a request's JSON before binary tensors."""
MAX_JSON = 16 << 20
"""Bytes of a request that is JSON as a whole."""
MAX_BODY = (1 << 28) + MAX_HEADER
MAX_TENSORS = 256
MAX_RANK = 16

TYPES = {
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
}
"""The protocol's names of types, and numpy's."""
_NAMES = {numpy: name for name, numpy in TYPES.items()}


class BadRequest(Exception):  # noqa: N818 - it is what a stranger sent
    """A request that cannot be read. The message says what was expected where."""

    def __init__(self, code: ExecuteResult, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for, and whether as bytes behind the JSON."""

    name: str
    is_binary: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A request to infer. No `wanted`: all outputs, as bytes if `is_binary`."""

    id: str
    inputs: Mapping[str, Tensor]
    wanted: tuple[Wanted, ...]
    is_binary: bool


def read_request(body: bytes | bytearray, header_length: str | None) -> Request:
    """Read a request. Binary tensors are parts of `body`, not copies. Raises BadRequest."""
    size = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 10 and int(header_length) <= size):
            raise _bad(f"{BINARY_HEADER}: expected a number of bytes of the body, which has {size}")
        size = int(header_length)
    limit = MAX_JSON if header_length is None else MAX_HEADER
    if size > limit:
        raise _bad(f"{size} bytes of JSON, expected {limit} at most; send tensors as binary data")
    view = memoryview(body)
    document = _object(_parse(bytes(view[:size])), "the request")
    binary, inputs = view[size:], {}
    for number, each in enumerate(_list(document.get("inputs"), "inputs")):
        where = f"inputs[{number}]"
        name, tensor, binary = _tensor(_object(each, where), where, binary)
        if name in inputs:
            raise _bad(f"{where}: input {visible(name)[:100]} is given twice")
        inputs[name] = tensor
    if len(binary):
        raise _bad(f"{len(binary)} bytes behind the last tensor, expected none")
    parameters = _object(document.get("parameters", {}), "parameters")
    is_binary = _flag(parameters.get("binary_data_output", False), "parameters.binary_data_output")
    wanted = []
    for number, each in enumerate(_list(document.get("outputs", []), "outputs")):
        where = f"outputs[{number}]"
        named = _object(each, where)
        own = _object(named.get("parameters", {}), f"{where}.parameters")
        wanted.append(
            Wanted(_text(named.get("name"), f"{where}.name"), _flag(own.get("binary_data", is_binary), f"{where}.parameters.binary_data"))
        )
    return Request(_text(document.get("id", ""), "id"), inputs, tuple(wanted), is_binary)


def answer(model: str, version: str, request: Request, outputs: Mapping[str, Tensor]) -> tuple[bytes, int | None]:
    """The body of an answer, and the bytes of JSON in front of its binary tensors; None where it has none."""
    wanted = request.wanted or tuple(Wanted(name, request.is_binary) for name in outputs)
    described, parts = [], []
    for each in wanted:
        tensor = outputs[each.name]
        item: dict[str, Any] = {"name": each.name, "datatype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
        if each.is_binary:
            item["parameters"] = {"binary_data_size": len(tensor.data)}
            parts.append(tensor.data)
        else:
            item["data"] = _values(tensor)
        described.append(item)
    document = {"model_name": model, "model_version": version, "outputs": described, **({"id": request.id} if request.id else {})}
    text = json.dumps(document, separators=(",", ":")).encode()
    return b"".join((text, *parts)), len(text) if parts else None


def metadata(model: str, version: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> dict[str, Any]:
    """What a model's metadata say."""
    return {
        "name": model,
        "versions": [version],
        "platform": "tensorflow_lite",
        "inputs": [_described(each) for each in inputs],
        "outputs": [_described(each) for each in outputs],
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": _NAMES[spec.dtype], "shape": list(spec.shape)}


def _tensor(item: Mapping[str, Any], where: str, binary: memoryview) -> tuple[str, Tensor, memoryview]:
    """A tensor's name, the tensor, and what is left of the binary data."""
    name = _text(item.get("name"), f"{where}.name")
    shape = _shape(item.get("shape"), f"{where}.shape")
    datatype = _text(item.get("datatype"), f"{where}.datatype")
    dtype = TYPES.get(datatype)
    if dtype is None:
        raise BadRequest(
            ExecuteResult.INPUT_TYPE_ERROR, f"{where}.datatype: {visible(datatype)[:40]}, expected one of {', '.join(sorted(TYPES))}"
        )
    parameters = _object(item.get("parameters", {}), f"{where}.parameters")
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in item):
        raise _bad(f"{where}: expected either data or parameters.binary_data_size")
    if size is None:
        return name, Tensor(dtype, shape, _bytes(item["data"], dtype, where)), binary
    if type(size) is not int or not 0 <= size <= len(binary):
        raise _bad(f"{where}.parameters.binary_data_size: {str(size)[:40]}, expected at most the {len(binary)} bytes that are left")
    # a view of the body: copied by nobody
    return name, Tensor(dtype, shape, binary[:size]), binary[size:]


def _bytes(data: object, dtype: str, where: str) -> bytes:
    """Values in JSON, nested or flat, as bytes."""
    import numpy as np  # noqa: PLC0415 - only for those who send JSON

    if not isinstance(data, list):
        raise _bad(f"{where}.data: expected a list")
    try:
        array = np.array(data)
    except (ValueError, OverflowError, RecursionError) as problem:
        raise _bad(f"{where}.data: expected a list of numbers, or lists of one length: {str(problem)[:80]}") from None
    target = np.dtype(dtype)
    if not array.size:
        return b""
    kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[target.kind]
    if array.dtype.kind not in kinds:
        raise _bad(f"{where}.data: expected numbers of type {dtype}")
    if target.kind in "iu" and not (np.iinfo(target).min <= array.min() and array.max() <= np.iinfo(target).max):
        raise _bad(f"{where}.data: expected values in the range of {dtype}")
    with np.errstate(over="ignore"):
        return bytes(array.astype(target.newbyteorder("<")).tobytes())


def _values(tensor: Tensor) -> list[Any]:
    """Values for JSON, flat; NaN and infinity, which JSON has not, as null."""
    import numpy as np  # noqa: PLC0415 - only for those who ask for JSON

    values = np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<")).tolist()
    return [None if isinstance(each, float) and not math.isfinite(each) else each for each in values]


def _shape(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_RANK or any(type(each) is not int or not 0 <= each < 1 << 31 for each in value):
        raise BadRequest(ExecuteResult.INPUT_SHAPE_ERROR, f"{where}: expected a list of at most {MAX_RANK} sizes of 0 or more")
    return tuple(value)


def _parse(text: bytes) -> object:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as problem:
        raise _bad(f"expected JSON: {visible(str(problem))[:200]}") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{where}: expected an object")
    return value


def _list(value: object, where: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise _bad(f"{where}: expected a list")
    if len(value) > MAX_TENSORS:
        raise _bad(f"{where}: {len(value)} tensors, expected {MAX_TENSORS} at most")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _bad(f"{where}: expected text")
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _bad(f"{where}: expected true or false")
    return value


def _bad(message: str) -> BadRequest:
    return BadRequest(ExecuteResult.INPUT_FORMAT_ERROR, message)
