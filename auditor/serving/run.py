"""One request to a model: its inputs read from .npy files, and its outputs written to them."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from auditor import files
from auditor.errors import UsageError
from auditor.inference.wire import MAX_PAYLOAD
from auditor.model import visible
from auditor.zoo.published import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable


def read_inputs(given: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of NAME=X.npy by name. Raises UsageError, in one line, for what is no such pair or no such file."""
    found: dict[str, Tensor] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--input {visible(each)}: expected NAME=X.npy")
        if name in found:
            raise UsageError(f"--input {visible(name)}: given more than once")
        found[name] = read_npy(files.read(path, MAX_PAYLOAD, path, UsageError), path)
    return found


def read_npy(data: bytes, label: str) -> Tensor:
    """The tensor in a .npy file; nothing in it is run. Raises UsageError."""
    import numpy as np  # noqa: PLC0415  # comes with every runtime; nobody pays for it before a model is run

    try:
        array = _array(np, data)
    except (ValueError, KeyError, EOFError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError) as problem:
        raise UsageError(visible(f"{label}: expected a .npy file of numbers: {str(problem)[:200]}")) from None
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(array.shape)
    return Tensor(array.dtype.name, tuple(array.shape), array.tobytes())


def _array(np: Any, data: bytes) -> Any:
    """The array; nothing is allocated by what the header says before it is compared with the file's size."""
    file, form = io.BytesIO(data), np.lib.format
    shape, is_fortran, dtype = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}[form.read_magic(file)](file)
    values = memoryview(data)[file.tell() :]
    if dtype.kind not in "biuf" or any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"{len(values)} bytes for {list(shape)} of {dtype}")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if is_fortran else "C")


def npy(tensor: Tensor) -> bytes:
    """A tensor as a .npy file."""
    import numpy as np  # noqa: PLC0415

    file = io.BytesIO()
    np.save(file, np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape))
    return file.getvalue()


def described(tensor: Tensor) -> dict[str, Any]:
    """A tensor in a few words: type, shape, and its least, greatest and mean value where it has any."""
    import numpy as np  # noqa: PLC0415

    values = np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<"))
    wide = values.astype(np.float64)
    is_finite = bool(values.size) and bool(np.isfinite(wide).all())
    found: dict[str, Any] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "finite": is_finite}
    if is_finite:
        found |= {"min": float(wide.min()), "max": float(wide.max()), "mean": float(wide.mean()), "argmax": int(wide.argmax())}
    return found
