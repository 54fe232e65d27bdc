"""Which operators a runtime has and which a model needs, compared before the model is loaded (ChromeOS ML service, TensorFlow versioning).

A runtime lists its operators nowhere. But it looks up every operator code of a file before anything else of it, so a file with one code and
nothing to run tells whether that one is there. Versions of an operator are numbered from 1, and a runtime that has one has those before it.
What a delegate takes must be there all the same: the runtime looks codes up before it asks a delegate. Custom operators cannot be asked
for this way: that one is missing shows when the model is loaded.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from auditor.tflite.flatbuffer import Builder, Field
from auditor.tflite.graph import CUSTOM, OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from auditor.tflite.graph import Graph

CODES = 256
"""Operator codes that are asked for; TFLite 2.20 has 210."""
MAX_VERSION = 64
"""Versions of one operator that are asked for; TFLite 2.20 has at most 14."""

_FLOAT32 = 0
_CODE_BYTE = 127
"""The greatest code that old files had room for; where that byte holds it, a wider field holds the code."""


def name_of(code: int) -> str:
    """The name of an operator code, as graph.py has it."""
    return OPERATORS[code] if code < len(OPERATORS) else f"BUILTIN_{code}"


def needed(graph: Graph) -> dict[str, int]:
    """Name to greatest version of the builtin operators of a model, all subgraphs."""
    found: dict[str, int] = {}
    for subgraph in graph.subgraphs:
        for operator in subgraph.operators:
            if not operator.custom and operator.code != OPERATORS[CUSTOM]:
                found[operator.code] = max(operator.version, found.get(operator.code, 0))
    return found


def present(accepts: Callable[[bytes], bool]) -> dict[str, int]:
    """Name to greatest version of the operators of a runtime that `accepts` the files that have them, and refuses all others."""
    found = {}
    for code in range(CODES):
        version = 0
        while version < MAX_VERSION and accepts(model_with(code, version + 1)):
            version += 1
        if version:
            found[name_of(code)] = version
    return found


def missing(wanted: Mapping[str, int], there: Mapping[str, int]) -> tuple[str, ...]:
    """What a model needs and a runtime does not have, as text."""
    return tuple(
        f"{name} version {version} ({f'the runtime has up to {there[name]}' if name in there else 'the runtime has none'})"
        for name, version in sorted(wanted.items())
        if version > there.get(name, 0)
    )


def digest(operators: Mapping[str, int]) -> str:
    """The sha256 of a set of operators with their versions: the same for a runtime and for a model that needs just what it has."""
    return hashlib.sha256("".join(f"{name} {version}\n" for name, version in sorted(operators.items())).encode()).hexdigest()


def model_with(code: int, version: int) -> bytes:
    """A .tflite file that names one operator, and has one tensor and nothing to run."""
    builder = Builder()
    buffers = builder.tables([builder.table()])
    tensor = builder.table(Field(0, "o", builder.int32s([1])), Field(1, "b", _FLOAT32), Field(3, "o", builder.text("x")))
    tensors, ends, operators = builder.tables([tensor]), builder.int32s([0]), builder.tables([])
    graph = builder.table(*(Field(slot, "o", part) for slot, part in enumerate((tensors, ends, ends, operators))))
    codes = builder.tables([builder.table(Field(0, "b", min(code, _CODE_BYTE)), Field(2, "i", version), Field(3, "i", code))])
    parts = (codes, builder.tables([graph]), builder.text(""), buffers)
    return builder.finish(builder.table(Field(0, "I", 3), *(Field(slot, "o", part) for slot, part in enumerate(parts, 1))))
