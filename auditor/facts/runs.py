"""The measured runs of the zoo's models, and what they add up to (`crosml-audit/run/1`, written by auditor/inference)."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from auditor.facts.reading import parse
from auditor.facts.types import Fact, Missing, ModelResult, Ok
from auditor.model import ModelRun, Remedy, Status
from auditor.sources import base
from auditor.statistics import CONFIDENCE, Interval, student_interval

if TYPE_CHECKING:
    from auditor.facts.reading import Device
    from auditor.facts.types import Plan

RUN_SCHEMA = "crosml-audit/run/1"


def read_models(device: Device, plan: Plan) -> Fact[tuple[ModelResult, ...]]:
    """What was measured of each planned model; Missing where no model was run at all."""
    if not plan.runs:
        remedy = Remedy.ZOO if plan.delegate else Remedy.DELEGATE
        return Missing(Status.UNASKED, (), plan.zoo_note or "no model was run", remedy)
    digests = {each.name: each.sha256 for each in plan.models}
    return Ok(tuple(_result(device, name, count, digests.get(name, "")) for name, count in plan.runs))


def _result(device: Device, name: str, count: int, sha256: str) -> ModelResult:
    documents = [device.document(base.run(name, index)) for index in range(count)]
    runs = tuple(parse(document, _run) for document in documents)
    return ModelResult(
        model=name,
        sha256=sha256,
        runs=runs,
        latency=_interval([run.value.latency_us for run in runs if isinstance(run, Ok)], runs),
        bracket=_interval([run.value.bracket_us for run in runs if isinstance(run, Ok)], runs),
    )


def _interval(means: list[float | None], runs: tuple[Fact[ModelRun], ...]) -> Fact[Interval]:
    """The interval over processes; Missing unless every run has its mean."""
    evidence = tuple(item for run in runs for item in run.evidence)
    known = [mean for mean in means if mean is not None]
    if not known or len(known) < len(runs):
        return Missing(Status.FAILED, evidence, "not every run was timed", Remedy.MORE_RUNS)
    return Ok(student_interval(known, CONFIDENCE), evidence)


def _run(document: dict[str, Any]) -> ModelRun:
    if document["schema"] != RUN_SCHEMA:
        raise ValueError(f"schema {document['schema']!r}, expected {RUN_SCHEMA!r}")
    model, status, nodes, runtime = document["model"], document["status"], document["nodes"], document["runtime"]
    samples, brackets = _times(document["samples_us"]), _times(document["bracket_us"])
    accuracy, macs, identity = document["accuracy"], document.get("macs"), document.get("identity")
    overhead = document["overhead_us"] or 0.0
    return ModelRun(
        model=str(model["name"]),
        sha256=str(model["sha256"]),
        origin=str(model["origin"]),
        runner=str(document["runner"]),
        runtime=f"{runtime['name']} {runtime['version']}" if runtime else "",
        delegate=str(document["delegate"]["path"]) if document["delegate"] else None,
        status=str(status["outcome"]),
        process=str(status["process"] or ""),
        message=_trouble(status),
        delegated_nodes=nodes["delegated"] if nodes else None,
        total_nodes=nodes["total"] if nodes else None,
        partitions=len(nodes["partitions"]) if nodes else None,
        delegated_macs=macs["delegated"] / macs["total"] if macs and macs["total"] else None,
        latency_us=statistics.fmean(samples) if samples else None,
        # never below the worker's own figure: what the exchange cost an honest worker is only an estimate
        bracket_us=max(statistics.fmean(brackets) - overhead, statistics.fmean(samples)) if brackets else None,
        samples=len(samples),
        init_us=_time(document["init_us"]),
        first_us=_time(document["first_us"]),
        cpu_us=statistics.fmean(_times(document["cpu_us"])) if document["cpu_us"] else None,
        accuracy=tuple(dict(output) for output in accuracy["outputs"]) if accuracy else None,
        memory={str(key): int(value) for key, value in document["memory"].items()} if document["memory"] else None,
        conditions=dict(document["conditions"]),
        threads=int(document["threads"]),
        identity=str(identity["kind"]) if identity else "other",
        identity_reason=str(identity["reason"]) if identity else "",
    )


def _trouble(status: dict[str, Any]) -> str:
    """How a run ended badly, in one line; empty where it did not."""
    parts = [
        f"at {status['stage']}" if status["stage"] else "",
        f"signal {status['signal']}" if status["signal"] is not None else "",
        f"exit code {status['exit']}" if status["exit"] is not None else "",
        str(status["message"] or ""),
    ]
    return ", ".join(part for part in parts if part)


def _time(value: Any) -> float | None:
    return None if value is None else _times([value])[0]


def _times(values: Any) -> list[float]:
    """Durations; raises ValueError for what cannot be one."""
    times = [float(value) for value in values]
    if not all(0 <= value < 1e12 for value in times):
        raise ValueError("a duration that is none")
    return times
