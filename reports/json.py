"""The JSON report: the report model as it is, for programs. Its JSON Schema ships as `auditor/data/report.schema.json`.

Every key is always there; enums are their values, dates ISO 8601. What JSON cannot say is written so that it can be read: a number that is
not finite is null, a byte of a name that is not UTF-8 an escape. The text is ASCII, so printing it cannot drive a terminal.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
from collections.abc import Mapping
from typing import Any

from auditor.model import Format, Report, printable

_DEPTH = 32
"""Levels of nesting that are written; the report itself has 9, the rest is for what a worker reports of its conditions."""


def render(report: Report) -> str:
    """The report as one JSON document."""
    return json.dumps({"schema": report.schema} | _plain(report), indent=2, allow_nan=False) + "\n"


def _plain(value: Any, depth: int = 0) -> Any:
    """A value of the report model in JSON's own types."""
    if depth > _DEPTH:
        return "(nested too deeply)"
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str):
        return printable(value)
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name), depth + 1) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {printable(str(key)): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


FORMAT = Format("json", "application/json", ".json", render)
