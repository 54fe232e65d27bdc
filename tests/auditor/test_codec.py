"""Decoding: strict, and every error is one line that names file and field."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import auditor
from auditor.codec import decode_json, decode_toml, decode_waivers, report_schema
from auditor.errors import AuditError, UsageError
from auditor.model import Level, Report, Waiver

WAIVER = b'[[waiver]]\nfinding = "security-3.domain@device"\nreason = "known"\nauthor = "A"\nexpires = 2026-12-31\n'


@dataclass(frozen=True, slots=True)
class Part:
    """A part."""

    level: Level | None = None
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole."""

    name: str
    parts: tuple[Part, ...] = ()
    named: Mapping[str, Part] | None = None


def test_schema_that_ships_is_fresh():
    """Run with CROSML_AUDIT_REGENERATE=1 to write it anew after a change of the report model."""
    path = Path(auditor.__file__).parent / "data" / "report.schema.json"
    fresh = json.dumps(report_schema(), indent=2) + "\n"
    if os.environ.get("CROSML_AUDIT_REGENERATE"):
        path.write_text(fresh)
    assert path.read_text() == fresh


def test_waivers_are_read():
    (waiver,) = decode_waivers(WAIVER, "w.toml")
    assert waiver == Waiver("security-3.domain@device", "known", "A", datetime.date(2026, 12, 31))
    assert decode_waivers(WAIVER.replace(b"2026-12-31", b'"2026-12-31"'), "w.toml") == (waiver,)
    assert decode_waivers(WAIVER + WAIVER, "w.toml") == (waiver, waiver)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "w.toml: waiver: missing"),
        (b"\xff", "w.toml: byte 0: expected UTF-8"),
        (WAIVER.partition(b"expires")[0], "w.toml: waiver[0].expires: missing"),
        (WAIVER.replace(b"author", b"autor"), "w.toml: waiver[0].author: missing"),
        (WAIVER + b"until = 3\n", "w.toml: waiver[0].until: unknown, expected one of finding, reason, author, expires, ticket, board"),
        (WAIVER + b"[other]\n", "w.toml: other: unknown, expected one of waiver"),
        (WAIVER.replace(b'"known"', b'" "'), "w.toml: waiver[0].reason: expected text, got an empty string"),
        (WAIVER.replace(b'"A"', b"1"), "w.toml: waiver[0].author: expected str, got int"),
        (WAIVER + WAIVER.replace(b"2026-12-31", b'"soon"'), "w.toml: waiver[1].expires: expected a date, YYYY-MM-DD"),
        (WAIVER.replace(b"2026-12-31", b"2026-02-30"), "w.toml: line 5, column 11: expected TOML"),
        (WAIVER.replace(b"2026-12-31", b"2026-12-31T00:00:00Z"), "w.toml: waiver[0].expires: expected date, got datetime"),
        (b"waiver = " + b"[" * 5_000, "w.toml: nested too deeply"),
    ],
)
def test_waivers_that_are_wrong_are_refused(text, message):
    with pytest.raises(UsageError) as caught:
        decode_waivers(text, "w.toml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\n[[parts]]\nlevel = "musst"', "s.toml: parts[0].level: expected must or should, got 'musst'"),
        ('name = "x"\n[named.a]\nlevel = "musst"', "s.toml: named.a.level: expected must or should, got 'musst'"),
        ('name = "x"\n[named.a]\nlimt = 1', "s.toml: named.a.limt: unknown, expected one of level, limit"),
        ('name = "x"\n[[parts]]\nlimit = nan', "s.toml: parts[0].limit: expected a finite number, got nan"),
        ('name = "x"\n[named.a]\nlimit = 1e999', "s.toml: named.a.limit: expected a finite number, got inf"),
        ('name = "x"\n"a\\u001b" = 1', "s.toml: a\\x1b: unknown, expected one of name, parts, named"),
    ],
)
def test_toml_is_strict(text, message):
    with pytest.raises(AuditError) as caught:
        decode_toml(text.encode(), Whole, "s.toml", AuditError)
    assert str(caught.value) == message


def test_toml_is_read():
    text = b'name = "x"\n[[parts]]\nlevel = "must"\nlimit = 3\n[named.a]\n'
    assert decode_toml(text, Whole, "s.toml") == Whole("x", (Part(Level.MUST, 3.0),), {"a": Part()})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "r.json: line 1, column 1: expected JSON"),
        (b"\x00", "r.json: line 1, column 1: expected JSON"),
        (b"[]", "r.json: expected object, got array"),
        (b"[" * 100_000, "r.json: nested too deeply"),
        (b'{"tool": {"name": 1}}', "r.json: tool.name: expected str, got int"),
        (b'{"tool": {"name": "\xff"}}', "r.json: byte 19: expected UTF-8"),
        (b'{"verdict": "fine"}', "r.json: verdict: expected compliant or non-compliant or incomplete, got 'fine'"),
        (b'{"verdict": "compliant"}', "r.json: tool: missing"),
        (b'{"model_runs": [{"conditions": []}]}', "r.json: model_runs[0].conditions: expected object, got array"),
        (b'{"model_runs": [{"latency_us": []}]}', "r.json: model_runs[0].latency_us: expected float, got array"),
        (b'{"schema": NaN}', "r.json: line 1, column 1: expected JSON"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "r.json: a number has too many digits"),
        (b'{"model_runs": [{"conditions": ' + b"[" * 100_000, "r.json: nested too deeply"),
        (b'{"model_runs": [{"conditions": {"a": ' + b"[" * 100_000, "r.json: nested too deeply"),
    ],
)
def test_json_that_is_wrong_is_refused(data, message):
    with pytest.raises(AuditError) as caught:
        decode_json(data, Report, "r.json")
    assert str(caught.value) == message


def test_json_leaves_unknown_keys_aside():
    assert decode_json(b'{"name": "x", "later": 1}', Whole, "r.json", UsageError) == Whole("x")
    with pytest.raises(UsageError):
        decode_json(b"{}", Whole, "r.json", UsageError)


@pytest.mark.parametrize("decode", [decode_toml, decode_json])
@given(data=st.binary() | st.text().map(lambda text: b'name = "' + text.encode("utf-8", "replace")))
def test_no_document_breaks_the_decoders(decode, data):
    said = "x: "
    try:
        decode(data, Whole, "x", UsageError)
    except UsageError as error:
        said = str(error)
    assert said.startswith("x: ")
    assert said.isprintable()
