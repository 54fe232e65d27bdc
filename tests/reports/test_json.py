"""The JSON report: its keys, its schema, and that it survives a hostile device."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import auditor
from auditor.codec import decode_json
from auditor.model import Report
from fixtures.hostile import reports
from fixtures.report import run, sample
from reports.json import FORMAT, render

SCHEMA = json.loads((Path(auditor.__file__).parent / "data" / "report.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_keys_are_those_that_will_not_move():
    document = json.loads(render(sample()))
    assert next(iter(document)) == "schema"
    assert document["schema"] == "crosml-audit/report/1"
    wanted = {"schema", "tool", "requirements_set", "zoo", "device", "accelerators", "verdict", "counts", "requirements", "model_runs"}
    assert wanted <= set(document)
    assert set(document["tool"]) == {"name", "version"}
    assert set(document["zoo"]["models"][0]) == {"name", "sha256", "origin"}
    assert {"source", "name", "snapshot_sha256"} <= set(document["device"])
    assert {"id", "bus", "driver", "nodes"} <= set(document["accelerators"][0])
    assert document["verdict"] == "non-compliant"
    assert set(document["counts"]) == {"pass", "fail", "unknown", "not-applicable", "error", "waived"}
    assert {"id", "title", "level", "outcome", "waived", "findings"} <= set(document["requirements"][0])
    first = document["requirements"][0]["findings"][0]
    keys = "id check subject outcome level observed expected reason remediation owner waiver evidence"
    assert set(keys.split()) <= set(first)
    assert first["waiver"]["expires"] == "2026-12-31"
    evidence = document["requirements"][1]["findings"][0]["evidence"][0]
    assert {"path", "status", "sha256", "excerpt"} <= set(evidence)
    assert evidence["status"] == "denied"
    keys = "model runner runtime delegate delegated_nodes total_nodes partitions latency_us accuracy memory conditions"
    assert set(keys.split()) <= set(document["model_runs"][0])


def test_report_survives_the_round_trip():
    assert decode_json(render(sample()).encode(), Report, "report") == sample()


def test_schema_takes_the_report_and_nothing_less():
    document = json.loads(render(sample()))
    VALIDATOR.check_schema(SCHEMA)
    VALIDATOR.validate(document)
    for key in document:
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({name: value for name, value in document.items() if name != key})
    document["requirements"][0]["findings"][0]["outcome"] = "maybe"
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(document)


def test_what_json_cannot_say_is_null():
    (measured,) = json.loads(render(sample(model_runs=(run("m", latency_us=float("nan"), accuracy=({"avg_error": float("inf")},)),))))[
        "model_runs"
    ]
    assert measured["latency_us"] is None
    assert measured["accuracy"] == [{"avg_error": None}]


def test_nested_conditions_are_bounded():
    conditions: dict[str, object] = {}
    for _ in range(5_000):
        conditions = {"deeper": conditions}
    document = render(sample(model_runs=(run("m", conditions=conditions),)))
    assert "(nested too deeply)" in document
    VALIDATOR.validate(json.loads(document))


@given(reports(st.text(st.characters(codec="utf-8"), max_size=20)))
def test_any_text_survives_the_round_trip(report):
    document = render(report)
    assert document.isascii()
    assert not any(ord(char) < 32 and char != "\n" for char in document)
    assert decode_json(document.encode(), Report, "report") == report


@given(reports())
def test_names_that_are_not_text_become_escapes(report):
    document = json.loads(render(report))
    VALIDATOR.validate(document)
    assert json.dumps(document, ensure_ascii=False).encode()


def test_format_says_what_it_is():
    assert (FORMAT.name, FORMAT.media_type, FORMAT.suffix, FORMAT.render) == ("json", "application/json", ".json", render)
