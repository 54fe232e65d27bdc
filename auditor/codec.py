"""JSON, TOML and JSON Schema of the program's dataclasses; the only module that imports msgspec.

Decoding is strict, and whatever is wrong with a document becomes one line that names the file, the field and what was expected.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from auditor.errors import AuditError, UsageError
from auditor.model import REPORT_SCHEMA, Claim, Outcome, Report, Waiver, visible
from auditor.toml import tomllib
from auditor.waivers import is_pattern, names_a_check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

MOST_WAIVERS = 4096
MOST_CLAIMS = 256
LONGEST_PATTERN = 1000
LONGEST_STATEMENT = 4096
"""Bounds of files that may come from a stranger, in a submission."""

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def decode_json(data: bytes, kind: type[T], label: str, error: type[Exception] = AuditError) -> T:
    """A dataclass from a JSON document that a program wrote. Keys that the dataclass does not have are left aside.

    `label` names the document in the message of the `error` that is raised where it is not what it must be.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise error(_line(label, kind, lambda: json.loads(data.decode("utf-8"), parse_constant=_refuse_constant))) from None


def decode_toml(text: bytes, kind: type[T], label: str, error: type[Exception] = UsageError) -> T:
    """A dataclass from a TOML document that a person wrote. Unknown keys and numbers that are not finite are errors.

    `label` names the document in the message of the `error` that is raised where it is not what it must be.
    """
    try:
        raw = tomllib.loads(text.decode("utf-8"))
        value = msgspec.convert(raw, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise error(_line(label, kind, lambda: tomllib.loads(text.decode("utf-8")))) from None
    for remark in _remarks(raw, value, ""):
        raise error(visible(f"{label}: {remark}"))
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class _Waivers:
    """A waivers file: `[[waiver]]` with `finding`, `reason`, `author` and `expires`, a date."""

    waiver: tuple[Waiver, ...]


def decode_waivers(text: bytes, label: str) -> tuple[Waiver, ...]:
    """The waivers of a TOML file; UsageError where an entry is not complete, or would cover whatever fails."""
    waivers = decode_toml(text, _Waivers, label).waiver
    _few(f"{label}: waiver", waivers, MOST_WAIVERS)
    for number, waiver in enumerate(waivers):
        where = f"{label}: waiver[{number}]"
        _filled(where, waiver, ("finding", "reason", "author"))
        _narrow(where, waiver.finding)
        if len(waiver.board) > LONGEST_PATTERN:
            raise UsageError(visible(f"{where}.board: expected at most {LONGEST_PATTERN} characters"))
    return waivers


@dataclasses.dataclass(frozen=True, slots=True)
class _Statements:
    """A vendor's statements: `[[statement]]` with `finding`, `statement`, `author`, and perhaps `attachment` with its `sha256`."""

    statement: tuple[Claim, ...]


def decode_statements(text: bytes, label: str) -> tuple[Claim, ...]:
    """The vendor's statements of a TOML file; UsageError where an entry is not complete."""
    claims = decode_toml(text, _Statements, label).statement
    _few(f"{label}: statement", claims, MOST_CLAIMS)
    for number, claim in enumerate(claims):
        where = f"{label}: statement[{number}]"
        _filled(where, claim, ("finding", "statement", "author"))
        _narrow(where, claim.finding)
        if len(claim.statement) > LONGEST_STATEMENT:
            raise UsageError(visible(f"{where}.statement: expected at most {LONGEST_STATEMENT} characters; attach the rest"))
        if bool(claim.attachment) != bool(claim.sha256):
            raise UsageError(visible(f"{where}: expected both attachment and sha256, or neither"))
        if claim.sha256 and not re.fullmatch("[0-9a-f]{64}", claim.sha256):
            raise UsageError(visible(f"{where}.sha256: expected 64 hexadecimal digits in lower case"))
    return claims


def _few(where: str, entries: tuple[Any, ...], most: int) -> None:
    if len(entries) > most:
        raise UsageError(visible(f"{where}: expected at most {most} entries"))


def _narrow(where: str, finding: str) -> None:
    """Refuse a pattern that would name whatever there is, or that is no pattern a person writes."""
    if is_pattern(finding) and not names_a_check(finding):
        raise UsageError(visible(f"{where}.finding: expected a check before the @, got {finding[:80]!r}"))
    if is_pattern(finding) and len(finding) > LONGEST_PATTERN:
        raise UsageError(visible(f"{where}.finding: expected a pattern of at most {LONGEST_PATTERN} characters"))


def _filled(where: str, entry: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if not getattr(entry, name).strip():
            raise UsageError(visible(f"{where}.{name}: expected text, got an empty string"))


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


def _line(label: str, kind: Any, parse: Callable[[], Any]) -> str:
    """What is wrong with a document that could not be decoded, as one line: file, field, what was expected.

    The words are ours: what msgspec, json and tomllib say changes with their versions.
    """
    try:
        found = next(_misfits(parse(), msgspec.inspect.type_info(kind), ""), ("", f"expected {kind.__name__}"))
    except RecursionError:
        found = "", "nested too deeply"
    except UnicodeDecodeError as wrong:
        found = f"byte {wrong.start}", "expected UTF-8"
    except json.JSONDecodeError as wrong:
        found = f"line {wrong.lineno}, column {wrong.colno}", "expected JSON"
    except tomllib.TOMLDecodeError as wrong:
        at = re.search(r"line \d+, column \d+", str(wrong))
        found = at[0] if at else "", "expected TOML"
    except ValueError:  # Python's limit on the digits of a number
        found = "", "a number has too many digits"
    return visible(": ".join(part for part in (label, *found) if part))


def _misfits(raw: Any, info: Any, where: str) -> Iterator[tuple[str, str]]:
    """The places in a parsed document that do not fit a type, and what was expected at each; what is missing comes last."""
    if isinstance(info, msgspec.inspect.UnionType):
        if all(any(_misfits(raw, each, where)) for each in info.types):
            for each in info.types:  # of "this or nothing", this is meant
                yield from () if isinstance(each, msgspec.inspect.NoneType) else _misfits(raw, each, where)
    elif isinstance(info, msgspec.inspect.EnumType) and isinstance(raw, str):
        values = [member.value for member in info.cls]
        if raw not in values:
            yield where, f"expected {' or '.join(values)}, got {raw!r}"
    elif isinstance(info, msgspec.inspect.DateType) and isinstance(raw, str):
        if not _is_date(raw):
            yield where, "expected a date, YYYY-MM-DD"
    elif (wanted := _NAMES.get(type(info), "")) and wanted != _name(raw) and not (wanted == "float" and _name(raw) == "int"):
        yield where, f"expected {wanted}, got {_name(raw)}"
    elif isinstance(info, msgspec.inspect.DataclassType):
        for field in info.fields:
            if field.name in raw:
                yield from _misfits(raw[field.name], field.type, _join(where, field.name))
        yield from ((_join(where, field.name), "missing") for field in info.fields if field.required and field.name not in raw)
    elif isinstance(info, msgspec.inspect.DictType):
        for key, each in raw.items():
            yield from _misfits(each, info.value_type, _join(where, key))
    elif isinstance(info, msgspec.inspect.CollectionType):
        for number, each in enumerate(raw):
            yield from _misfits(each, info.item_type, f"{where}[{number}]")
    elif isinstance(raw, float) and not math.isfinite(raw):
        yield where, f"expected a finite number, got {raw}"


#: What a value of each type is called.
_NAMES: dict[type, str] = {
    msgspec.inspect.DataclassType: "object",
    msgspec.inspect.DictType: "object",
    msgspec.inspect.VarTupleType: "array",
    msgspec.inspect.StrType: "str",
    msgspec.inspect.EnumType: "str",
    msgspec.inspect.BoolType: "bool",
    msgspec.inspect.IntType: "int",
    msgspec.inspect.FloatType: "float",
    msgspec.inspect.DateType: "date",
    msgspec.inspect.NoneType: "null",
}


def _name(raw: Any) -> str:
    return {dict: "object", list: "array", type(None): "null"}.get(type(raw), type(raw).__name__)


def _is_date(text: str) -> bool:
    try:
        return bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False


def _refuse_constant(name: str) -> Any:
    """JSON has no NaN and no Infinity, Python's reader does."""
    raise json.JSONDecodeError(name, "", 0)


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
