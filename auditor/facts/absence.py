"""Absence that can be relied on: a file is gone where the folder that would hold it was listed and does not name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.facts.reading import parse

if TYPE_CHECKING:
    from auditor.facts.reading import Device
    from auditor.facts.types import Fact


def is_listed(device: Device, path: str) -> Fact[bool]:
    """Whether the folder of a path names it; Missing where the folder could not be listed. A link that dangles is named."""
    folder, _, name = path.rpartition("/")
    return parse(device.names(folder or "/"), lambda names: name in names)
