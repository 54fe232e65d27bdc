"""Requirement sets: the clauses of the page and the baselines of a zoo version, as versioned data.

A set is a TOML file with `name`, `clauses` and `zoo`; the two name files shipped in `data/requirements`, or paths relative to the set.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from auditor import files
from auditor.errors import UsageError
from auditor.model import Level, Requirement, visible
from auditor.toml import tomllib
from auditor.zoo.catalogue import Baseline, ZooModel, ZooVersion

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "r113-zoo-0.0.2"
SIZE_LIMIT = 1 << 20
"""Bytes of a requirement file."""

Texts = tuple[bytes, bytes, bytes]

_READ_AS = {
    "latency": "The mean time of an inference over 3 to 9 fresh processes, by the auditor's clock; the upper end of its 95 % interval "
    "counts. Loading and the first inference are outside the limit.",
    "accuracy": "Errors against the same runtime without the delegate, in raw output units, for each output; both limits must hold.",
    "memory": "The peak of the process with the device memory that it holds. 1 MB is 10^6 bytes to pass and 2^20 bytes to fail.",
}
"""How the auditor reads the cells of the zoo's table."""


@dataclass(frozen=True, slots=True)
class RequirementSet:
    """What a device is judged by; `name` is in every report.

    A set that is not shipped could call itself as one that is: its name ends in the sha256 of its set, clauses and zoo, one after another.
    """

    name: str
    requirements: tuple[Requirement, ...]
    zoo: ZooVersion


@dataclass(frozen=True, slots=True)
class _Set:
    name: str
    clauses: str
    zoo: str


@dataclass(frozen=True, slots=True)
class _Clause:
    id: str
    title: str
    text: str
    source: str
    level: Level
    interpretation: str = ""


@dataclass(frozen=True, slots=True)
class _Clauses:
    requirements: tuple[_Clause, ...]


def names() -> tuple[str, ...]:
    """The sets that are shipped."""
    folder = resources.files("auditor.data") / "requirements"
    return tuple(
        sorted(each.name[: -len(".toml")] for each in folder.iterdir() if each.name.startswith("r") and each.name.endswith(".toml"))
    )


def load(name: str = DEFAULT) -> RequirementSet:
    """A shipped set by its name, or one from a path that ends in .toml. Raises UsageError with one line."""
    return parse(texts(name), name, shipped=not name.endswith(".toml"))


def texts(name: str) -> Texts:
    """The three files of a set: the set itself, its clauses, its zoo. Raises UsageError with one line."""
    from auditor.codec import decode_toml  # noqa: PLC0415  # msgspec, which `explain` does without

    folder = os.path.dirname(name) if name.endswith(".toml") else ""
    text = _read(name, "")
    found = decode_toml(text, _Set, name)
    return text, _read(found.clauses, folder), _read(found.zoo, folder)


def parse(given: Texts, name: str, *, shipped: bool) -> RequirementSet:
    """A set from its three files. Raises UsageError with one line that begins with `name`, or with that of a file that it names."""
    from auditor.codec import decode_toml  # noqa: PLC0415

    found = decode_toml(given[0], _Set, name)
    clauses, zoo = decode_toml(given[1], _Clauses, found.clauses), decode_toml(given[2], ZooVersion, found.zoo)
    requirements = (
        *(
            Requirement(each.id, each.title, each.text, each.source, each.level, family=each.id, interpretation=each.interpretation)
            for each in clauses.requirements
        ),
        *(requirement for model in zoo.models for requirement in _of_model(model, zoo)),
    )
    repeated = sorted(each for each, count in Counter(requirement.id for requirement in requirements).items() if count > 1)
    if repeated or not requirements:
        wrong = f"{repeated[0]} is there twice" if repeated else "expected at least one"
        raise UsageError(visible(f"{name}: requirements: {wrong}"))
    pinned = f" (not a shipped set: its three files have sha256 {hashlib.sha256(b''.join(given)).hexdigest()})"
    pinned = "" if shipped else pinned
    return RequirementSet(found.name + pinned, requirements, zoo)


def shipped() -> tuple[Requirement, ...]:
    """The requirements of the default set, as `load` has them: what ships is well-formed, so nothing has to look it over."""
    of_set = tomllib.loads(_read(DEFAULT, "").decode())
    clauses, zoo = (tomllib.loads(_read(of_set[part], "").decode()) for part in ("clauses", "zoo"))
    version = ZooVersion(zoo["version"], zoo["source"], ())
    models = [ZooModel(each["name"], each["use_case"], (), Baseline(**each["baseline"])) for each in zoo["models"]]
    return (
        *(Requirement(**{**each, "level": Level(each["level"]), "family": each["id"]}) for each in clauses["requirements"]),
        *(requirement for model in models for requirement in _of_model(model, version)),
    )


def _read(name: str, folder: str) -> bytes:
    if not name.endswith(".toml"):
        file = resources.files("auditor.data") / "requirements" / f"{os.path.basename(name)}.toml"
        if file.is_file():
            return file.read_bytes()
        raise UsageError(visible(f"{name}: no such requirement set; expected a path ending in .toml, or one of {', '.join(names())}"))
    path = os.path.join(folder, name)
    return files.read(path, SIZE_LIMIT, path, UsageError)


def _of_model(model: ZooModel, zoo: ZooVersion) -> Iterator[Requirement]:
    """The cells of a model's row in the zoo's table; power is TBD on the page and is never judged."""
    limits = model.baseline
    latency = (f"latency of {model.name}", {"latency_ms": limits.latency_ms})
    cells = {"latency": latency}
    if limits.avg_error is not None and limits.std_dev is not None:
        cells["accuracy"] = (f"accuracy of {model.name}", {"avg_error": limits.avg_error, "std_dev": limits.std_dev})
    if limits.memory_pass_bytes is not None and limits.memory_fail_bytes is not None:
        bounds = {"memory_bytes": limits.memory_pass_bytes, "memory_fail_bytes": limits.memory_fail_bytes}
        cells["memory"] = (f"memory of {model.name}", bounds)
    for cell, (title, numbers) in cells.items():
        yield Requirement(
            id=f"zoo-{model.name}-{cell}",
            title=f"Zoo: {title}",
            text=f"{model.name}: {cell} within " + ", ".join(f"{key} {value:g}" for key, value in numbers.items()),
            source=f"{zoo.source} (zoo {zoo.version}), {model.use_case}",
            level=Level.MUST,
            family=f"zoo-{cell}",
            model=model.name,
            limits=numbers,
            interpretation=_READ_AS[cell],
        )
