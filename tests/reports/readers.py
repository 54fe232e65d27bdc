"""Readers of the machine formats that this project did not write: the official schemas, and the libraries of those who made a format."""

from __future__ import annotations

import csv
import functools
import io
import json
import sys
import xml.etree.ElementTree as ET
from typing import Any

import jsonschema
import pytest

from tests.archive import needed, npm

SARIF = ("@microsoft/jest-sarif@1.0.0-beta.0", "lib/schemas/sarif-2.1.0-rtm.5.json")
CTRF = ("ctrf@0.3.0", "dist/ctrf-schema-0.0.json")


@functools.cache
def _validator(package: str, file: str) -> Any:
    with needed():
        schema = json.loads((npm(package) / file).read_text())
    kind = jsonschema.validators.validator_for(schema)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def sarif(text: str) -> dict[str, Any]:
    """A SARIF log that OASIS's schema takes."""
    document = json.loads(text)
    _validator(*SARIF).validate(document)
    return document


def ctrf(text: str) -> dict[str, Any]:
    """A CTRF document that its reference implementation's schema takes."""
    document = json.loads(text)
    _validator(*CTRF).validate(document)
    return document


def kcidb(text: str) -> dict[str, Any]:
    """A KCIDB document that kcidb-io takes, and says is the newest version."""
    from kcidb_io import schema

    document = json.loads(text)
    schema.V5_3.validate_exactly(document)
    assert schema.LATEST.is_compatible_exactly(document)
    return document


def oscal(text: str) -> dict[str, Any]:
    """An OSCAL document that the bindings made from NIST's schema take."""
    if sys.version_info < (3, 11):
        pytest.skip("oscal-bindings needs Python 3.11")
    from oscal_bindings.v1.models import AssessmentResultsDocument

    AssessmentResultsDocument.model_validate_json(text)
    return json.loads(text)


def in_toto(text: str) -> dict[str, Any]:
    """An in-toto statement that the framework's own classes take, its predicate without a field that they do not know."""
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    document = json.loads(text)
    statement = Statement.copy_from_pb(ParseDict({key.removeprefix("_"): each for key, each in document.items()}, Statement([], "", {}).pb))
    statement.validate()
    for each in ParseDict(document["predicate"], TestResult()).configuration:
        ResourceDescriptor.copy_from_pb(each).validate()
    return document


def rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV report."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def suites(text: str) -> ET.Element:
    """A JUnit document."""
    return ET.fromstring(text)
