"""What the audit was asked to look at, as its record holds it (`crosml-audit/plan/1`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from auditor.facts.reading import parse
from auditor.facts.types import Plan
from auditor.model import ZooModelUsed
from auditor.sources import base

if TYPE_CHECKING:
    from auditor.facts.reading import Device
    from auditor.facts.types import Fact

PLAN_SCHEMA = "crosml-audit/plan/1"
MAX_MODELS = 256
"""Models in a plan; the zoo has less than 20."""
MAX_ARGUMENTS = 256
"""Arguments of a command line that are looked at."""
MAX_RUNS = 64
"""Repetitions of a model that are looked at."""


def plan_document(plan: Plan) -> bytes:
    """A plan as the answer to the question for it."""
    return json.dumps({"schema": PLAN_SCHEMA, **asdict(plan)}, sort_keys=True).encode()


def read_plan(device: Device) -> Fact[Plan]:
    """The recorded plan. Without one, it is not known which accelerators a record is about."""
    return parse(device.document(base.plan()), _plan)


def _plan(document: dict[str, Any]) -> Plan:
    if document["schema"] != PLAN_SCHEMA:
        raise ValueError(document["schema"])
    delegate, stable, runs = document["delegate"], document.get("stable_delegate"), document["runs"]
    if len(runs) > MAX_MODELS:
        raise ValueError(f"{len(runs)} models")
    return Plan(
        accelerators=tuple(str(item) for item in document["accelerators"]),
        not_accelerators=tuple(str(item) for item in document.get("not_accelerators", ())),  # not in records of an earlier collector
        firmware_images=tuple(str(item) for item in document.get("firmware_images", ())[:MAX_ARGUMENTS]),
        delegate=None if delegate is None else str(delegate),
        delegate_options=tuple((str(key), str(value)) for key, value in document["delegate_options"]),
        # not in records of an earlier collector
        stable_delegate=None if stable is None else str(stable),
        zoo_version=str(document["zoo_version"]),
        models=tuple(ZooModelUsed(str(each["name"]), str(each["sha256"]), str(each["origin"])) for each in document["models"]),
        archive=str(document.get("archive", "")),  # not in records of an earlier collector
        runs=tuple((str(name), min(int(count), MAX_RUNS)) for name, count in runs),
        demonstration=document["demonstration"] is True,
        zoo_left_out=document["zoo_left_out"] is True,
        zoo_note=str(document["zoo_note"]),
        probe_dma=document["probe_dma"] is True,
        command=tuple(str(item) for item in document.get("command", ())[:MAX_ARGUMENTS]),
        user=str(document.get("user", "")),
        uid=_uid(document.get("uid")),
    )


def _uid(value: Any) -> int | None:
    """A user id; raises ValueError for what is none."""
    if value is not None and (type(value) is not int or not 0 <= value < 1 << 32):
        raise ValueError(f"uid {value!r:.80}")
    return None if value is None else int(value)
