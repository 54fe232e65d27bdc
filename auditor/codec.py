"""JSON, TOML and JSON Schema of the program's dataclasses; the only module that imports msgspec.

Decoding is strict, and whatever is wrong with a document becomes one line that names the file, the field and what was expected.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from auditor.errors import AuditError, UsageError
from auditor.model import REPORT_SCHEMA, Outcome, Report, Waiver, visible

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def decode_json(data: bytes, kind: type[T], label: str, error: type[Exception] = AuditError) -> T:
    """A dataclass from a JSON document that a program wrote. Keys that the dataclass does not have are left aside.

    `label` names the document in the message of the `error` that is raised where it is not what it must be.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise error(_line(label, kind, wrong)) from wrong


def decode_toml(text: bytes, kind: type[T], label: str, error: type[Exception] = UsageError) -> T:
    """A dataclass from a TOML document that a person wrote. Unknown keys and numbers that are not finite are errors.

    `label` names the document in the message of the `error` that is raised where it is not what it must be.
    """
    try:
        raw = tomllib.loads(text.decode("utf-8"))
        value = msgspec.convert(raw, kind)
    except (ValueError, RecursionError) as wrong:
        raise error(_line(label, kind, wrong)) from wrong
    for remark in _remarks(raw, value, ""):
        raise error(visible(f"{label}: {remark}"))
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class _Waivers:
    """A waivers file: `[[waiver]]` with `finding`, `reason`, `author` and `expires`, a date."""

    waiver: tuple[Waiver, ...]


def decode_waivers(text: bytes, label: str) -> tuple[Waiver, ...]:
    """The waivers of a TOML file; UsageError where an entry is not complete."""
    waivers = decode_toml(text, _Waivers, label).waiver
    for number, waiver in enumerate(waivers):
        for name in ("finding", "reason", "author"):
            if not getattr(waiver, name).strip():
                raise UsageError(visible(f"{label}: waiver[{number}].{name}: expected text, got an empty string"))
    return waivers


def report_schema() -> dict[str, Any]:
    """The JSON Schema of the JSON report, which always has every key."""
    schema = msgspec.json.schema(Report)
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
        if "properties" in definition:
            definition["required"] = list(definition["properties"])
            for each in definition["properties"].values():
                each.pop("default", None)
    report = schema["$defs"]["Report"]["properties"]
    names = [*(outcome.value for outcome in Outcome), "waived"]
    report["schema"] = {"const": REPORT_SCHEMA}
    report["counts"] = {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0} for name in names},
        "required": names,
    }
    return {"$schema": SCHEMA_DIALECT, "title": REPORT_SCHEMA, **schema}


def _line(label: str, kind: Any, wrong: Exception) -> str:
    """What msgspec or tomllib says of a document, as one line: file, field, what was expected."""
    if isinstance(wrong, RecursionError):
        return visible(f"{label}: nested too deeply")
    if isinstance(wrong, UnicodeDecodeError):
        return visible(f"{label}: byte {wrong.start}: expected UTF-8")
    at = re.search(r" - at `\$\.?([^`]*)`$", str(wrong))
    where = at[1] if at else ""
    text = str(wrong)[: at.start() if at else None].replace("`", "")
    absent = text.removeprefix("Object missing required field ")
    if absent != text:
        where, text = _join(where, absent), "expected, but it is not there"
    elif text.startswith("Invalid enum value"):
        names = _choices(msgspec.inspect.type_info(kind), re.sub(r"\[.*?\]", "", where).split("."))
        text = f"expected {' or '.join(names)}, got{text.removeprefix('Invalid enum value')}"
    elif isinstance(wrong, tomllib.TOMLDecodeError):
        text = f"expected TOML: {text[:1].lower()}{text[1:]}"
    elif text == "Input data was truncated":
        text = "expected JSON: it ends too early"
    elif text == "Invalid RFC3339 encoded date":
        text = "expected a date, YYYY-MM-DD"
    elif not text.startswith("JSON"):
        text = text[:1].lower() + text[1:]
    return visible(": ".join(part for part in (label, where, text) if part))


def _choices(info: Any, names: list[str]) -> Iterator[str]:
    """The values of the enum to which the field names of a path lead from a type, through containers and unions."""
    if isinstance(info, msgspec.inspect.EnumType):
        yield from (member.value for member in info.cls)
    elif isinstance(info, msgspec.inspect.DataclassType):
        for field in info.fields:
            if [field.name] == names[:1]:
                yield from _choices(field.type, names[1:])
    else:
        within = getattr(info, "types", ()) or (getattr(info, "item_type", None), getattr(info, "value_type", None))
        for each in within:
            if each:
                yield from _choices(each, names)


def _remarks(raw: Any, value: Any, where: str) -> Iterator[str]:
    """What is wrong in a document although it could be decoded as `value`."""
    if dataclasses.is_dataclass(value):
        known = [field.name for field in dataclasses.fields(value)]
        for key in raw:
            if key not in known:
                yield f"{_join(where, key)}: unknown, expected one of {', '.join(known)}"
            else:
                yield from _remarks(raw[key], getattr(value, key), _join(where, key))
    elif isinstance(value, Mapping):
        for key, each in raw.items():
            yield from _remarks(each, value[key], _join(where, key))
    elif isinstance(value, tuple):
        for number, (one, each) in enumerate(zip(raw, value, strict=True)):
            yield from _remarks(one, each, f"{where}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: expected a finite number, got {value}"


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
