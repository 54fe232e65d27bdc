"""What a published set of models needs of a runtime: the input of a build that has only these operators (selective registration)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from auditor import files
from auditor.errors import UsageError
from auditor.model import visible
from auditor.tflite import operators
from auditor.tflite.graph import BadModel, read_graph
from auditor.zoo.published import MAX_MODEL, Published, read_published

if TYPE_CHECKING:
    from collections.abc import Mapping


def operators_of(folder: str) -> dict[str, int]:
    """The union of the operators of a folder's models, each with its greatest version. Raises UsageError."""
    return union(read_published(folder))


def union(published: Mapping[str, Published]) -> dict[str, int]:
    """The same of published models."""
    found: dict[str, int] = {}
    for each in published.values():
        content = files.read(each.path, MAX_MODEL, each.path, UsageError)
        if hashlib.sha256(content).hexdigest() != each.sha256:
            raise UsageError(visible(f"{each.path}: its sha256 is not the one that was published"))
        try:
            needed = operators.needed(read_graph(content))
        except BadModel as problem:
            raise UsageError(visible(f"{each.path}: expected a TFLite model: {problem}")) from None
        for name, version in needed.items():
            found[name] = max(version, found.get(name, 0))
    return found
