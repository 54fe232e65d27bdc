"""Published models: those that the service loads by name, each with its pinned digest and its golden inputs and outputs.

A folder of them holds `NAME.tflite`, `sha256sums` (in sha256sum's format) that names every file in use, and where a model has golden
cases `NAME.golden.json`: {"schema": "crosml-audit/golden/1", "cases": [{"inputs": {name: tensor}, "outputs": {name: tensor}, "tolerance":
number}]}, a tensor being {"dtype": numpy's name, "shape": […], "data": base64 of the bytes in C order}. `tolerance` is the greatest
|difference| of an element, in raw units of the output. Source: ChromeOS ML service, TensorFlow versioning (the models predict correctly
using golden inputs and outputs).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from auditor import files
from auditor.errors import UsageError, not_json
from auditor.tflite.tensors import TensorSpec

SCHEMA = "crosml-audit/golden/1"
MANIFEST = "sha256sums"
SUFFIX, GOLDEN = ".tflite", ".golden.json"

MAX_MODEL = 128 << 20
MAX_GOLDEN = 64 << 20
MAX_CASES = 64


@dataclass(frozen=True, slots=True)
class Tensor:
    """The values of one tensor: numpy's name of their type, the shape, and the bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview = field(repr=False)


@dataclass(frozen=True, slots=True)
class Golden:
    """What a model gives for some inputs, by the tensors' names, each element within `tolerance`."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    tolerance: float


@dataclass(frozen=True, slots=True)
class Published:
    """A model that is loaded by name: its file, the digest that the file must have, and its golden cases."""

    path: str
    sha256: str
    golden: tuple[Golden, ...] = ()


def read_published(folder: str) -> dict[str, Published]:
    """The models of a folder by name. Raises UsageError, in one line, for a manifest or golden cases that are none."""
    from auditor.zoo.pins import read_manifest  # noqa: PLC0415  # only for those who have one

    listed = read_manifest(os.path.join(folder, MANIFEST))
    found = {}
    for name, sha256 in listed.items():
        stem = name.removesuffix(SUFFIX)
        if stem != name:
            golden = stem + GOLDEN
            cases = _read_golden(os.path.join(folder, golden), listed[golden]) if golden in listed else ()
            found[stem] = Published(os.path.join(folder, name), sha256, cases)
    return found


def golden_document(cases: tuple[Golden, ...]) -> bytes:
    """The file of golden cases."""
    written = [
        {
            "inputs": {name: _write_tensor(tensor) for name, tensor in case.inputs.items()},
            "outputs": {name: _write_tensor(tensor) for name, tensor in case.outputs.items()},
            "tolerance": case.tolerance,
        }
        for case in cases
    ]
    return json.dumps({"schema": SCHEMA, "cases": written}, sort_keys=True).encode()


def read_golden(document: bytes, label: str) -> tuple[Golden, ...]:
    """The golden cases in a file. Raises UsageError, in one line that begins with `label`."""
    try:
        content = json.loads(document)
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{label}: expected golden cases ({SCHEMA}): {not_json(problem)}") from None
    try:
        return _cases(content)
    except _GoldenError as problem:
        said = ascii(str(problem)[:200])[1:-1]
    except KeyError as problem:
        said = f"{str(problem.args[0])[:40]!a}: missing"
    except binascii.Error:
        said = "data: expected base64"
    except (ValueError, TypeError, AttributeError, OverflowError):
        said = "a value is not of the kind that it must be"
    raise UsageError(f"{label}: expected golden cases ({SCHEMA}): {said}")


def _read_golden(path: str, sha256: str) -> tuple[Golden, ...]:
    document = files.read(path, MAX_GOLDEN, path, UsageError)
    if hashlib.sha256(document).hexdigest() != sha256:
        raise UsageError(f"{path}: its sha256 is not the one in {MANIFEST}")
    return read_golden(document, path)


class _GoldenError(ValueError):
    """What is wrong with golden cases, in our own words."""


def _cases(content: Mapping[str, Any]) -> tuple[Golden, ...]:
    if content["schema"] != SCHEMA:
        raise _GoldenError(f"schema {str(content['schema'])[:80]!a}, expected {SCHEMA!r}")
    if len(content["cases"]) > MAX_CASES:
        raise _GoldenError(f"{len(content['cases'])} cases, expected at most {MAX_CASES}")
    return tuple(_case(case) for case in content["cases"])


def _case(case: Mapping[str, Any]) -> Golden:
    tolerance = case["tolerance"]
    if type(tolerance) not in {int, float} or not 0 <= tolerance < math.inf:
        raise _GoldenError(f"tolerance {tolerance!r}, expected a number of 0 or more")
    inputs, outputs = ({str(name): _tensor(tensor) for name, tensor in case[key].items()} for key in ("inputs", "outputs"))
    if not outputs:
        raise _GoldenError("a case without outputs")
    return Golden(inputs, outputs, float(tolerance))


def _tensor(tensor: Mapping[str, Any]) -> Tensor:
    if any(type(size) is not int for size in tensor["shape"]):
        raise _GoldenError("shape: expected whole numbers")
    spec = TensorSpec("", tuple(tensor["shape"]), str(tensor["dtype"]))
    data = base64.b64decode(tensor["data"], validate=True)
    if len(data) != spec.nbytes:
        raise _GoldenError(f"{len(data)} bytes, expected {spec.nbytes}")
    return Tensor(spec.dtype, spec.shape, data)


def _write_tensor(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "data": base64.b64encode(tensor.data).decode()}
