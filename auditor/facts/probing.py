"""Documents of probes (`crosml-audit/probe/1`): what was tried on the device, and is read here without trust."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from auditor.facts.reading import parse
from auditor.facts.types import Fact, Missing
from auditor.model import Remedy, Status, visible
from auditor.sources import base

if TYPE_CHECKING:
    from collections.abc import Callable

    from auditor.facts.reading import Device

PROBE_SCHEMA = "crosml-audit/probe/1"

TEXT_LIMIT = 400
"""Characters of a text in a document."""


def read_probe(device: Device, name: str, reader: Callable[[dict[str, Any]], Any], *arguments: str) -> Fact[Any]:
    """What `reader` makes of a probe's document; a ValueError, KeyError or TypeError of it is Missing(FAILED)."""

    def checked(document: Any) -> Any:
        if not isinstance(document, dict) or (document.get("schema"), document.get("probe")) != (PROBE_SCHEMA, name):
            raise ValueError(f"expected a {PROBE_SCHEMA} document of the probe {name}")
        return reader(document)

    found = device.document(base.probe(name, *arguments))
    if isinstance(found, Missing) and found.status is Status.UNASKED:
        return replace(found, remedy=Remedy.PROBES)
    return parse(found, checked)


def text(value: Any) -> str:
    """A short text out of a document."""
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise ValueError(f"expected a text of at most {TEXT_LIMIT} characters")
    return visible(value)
