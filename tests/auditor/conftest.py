"""Small models and the reference delegate, for tests that run a TFLite runtime."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass

import pytest

from auditor.inference.wire import RUNTIMES

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

ADD, MUL, CUSTOM = 0, 18, 32
FLOAT32, FLOAT16, INT32, STRING = 0, 1, 2, 5


@dataclass(frozen=True)
class Op:
    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: str = ""


@dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    data: bytes = b""
    type: int = FLOAT32


def write_model(tensors: list[Tensor], inputs: tuple[int, ...], outputs: tuple[int, ...], ops: list[Op]) -> bytes:
    """Write a .tflite file with one subgraph; each operator has its default options."""
    flatbuffers = pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    builder = flatbuffers.Builder(1024)
    put = {"b": "PrependInt8Slot", "i": "PrependInt32Slot", "I": "PrependUint32Slot", "o": "PrependUOffsetTRelativeSlot"}

    def table(**fields):
        """Write a table; a field is named by its kind and its slot in the schema."""
        builder.StartObject(8)
        for name, value in fields.items():
            getattr(builder, put[name[0]])(int(name[1:]), value, 0)
        return builder.EndObject()

    def vector(values, prepend):
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            prepend(value)
        return builder.EndVector()

    def numbers(values):
        return vector(values, builder.PrependInt32)

    def tables(values):
        return vector(values, builder.PrependUOffsetTRelative)

    buffers = [table()] + [table(**({"o0": builder.CreateByteVector(tensor.data)} if tensor.data else {})) for tensor in tensors]
    written = []
    for index, tensor in enumerate(tensors):
        name, shape = builder.CreateString(f"t{index}"), numbers(tensor.shape)
        written.append(table(o0=shape, b1=tensor.type, I2=index + 1 if tensor.data else 0, o3=name))
    codes, operators = [], []
    for index, op in enumerate(ops):
        custom = {"o1": builder.CreateString(op.custom)} if op.custom else {}
        codes.append(table(b0=min(op.code, 127), i2=1, i3=op.code, **custom))
        ins, outs = numbers(op.inputs), numbers(op.outputs)
        operators.append(table(I0=index, o1=ins, o2=outs))
    parts = tables(written), numbers(inputs), numbers(outputs), tables(operators)
    subgraph = table(o0=parts[0], o1=parts[1], o2=parts[2], o3=parts[3])
    lists = tables(codes), tables([subgraph]), tables(buffers)
    builder.Finish(table(I0=3, o1=lists[0], o2=lists[1], o4=lists[2]), b"TFL3")
    return bytes(builder.Output())


def chain(constant: float = 0.5, dtype: int = FLOAT32) -> bytes:
    """x + c, * c, + c over 2x4 values: three operators, of which the first and the last are ADD."""
    values = struct.pack("<4i" if dtype == INT32 else "<4f", *([int(constant) if dtype == INT32 else constant] * 4))
    tensors = [Tensor((2, 4), type=dtype), Tensor((4,), values, dtype), *(Tensor((2, 4), type=dtype) for _ in range(3))]
    return write_model(tensors, (0,), (4,), [Op(ADD, (0, 1), (2,)), Op(MUL, (2, 1), (3,)), Op(ADD, (3, 1), (4,))])


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.skipif(not _installed(package), reason=f"{name} is not installed"))
        for name, package in RUNTIMES.items()
    ]
)
def runtime(request):
    return request.param


@pytest.fixture(scope="session")
def model():
    return chain()


@pytest.fixture(scope="session")
def write():
    """The writer of odd models, and the shapes it takes."""
    return write_model, Tensor, Op


@pytest.fixture(scope="session")
def chain_of():
    return chain


def _build(name):
    spec = importlib.util.spec_from_file_location("build", os.path.join(ROOT, "fixtures", "delegates", "build.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = module.build(os.path.join(ROOT, ".cache", "delegates"), name)
    if path is None:
        pytest.skip(f"no C compiler (cc) to build the {name} delegate with")
    return path


@pytest.fixture(scope="session")
def delegate():
    """Path of the compiled reference delegate."""
    return _build("reference")


@pytest.fixture(scope="session")
def hostile_delegate():
    """Path of the compiled hostile delegate."""
    return _build("hostile")


@pytest.fixture
def compiled(tmp_path):
    """Compile C source to a shared library and return its path."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to build a library with")

    def compile_source(source):
        path = tmp_path / "library.so"
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
        subprocess.run(command, input=source.encode(), check=True)
        return str(path)

    return compile_source
