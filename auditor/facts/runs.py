"""The measured runs of the zoo's models, and what they add up to (`crosml-audit/run/1`, written by auditor/inference)."""

from __future__ import annotations

import math
import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

from auditor.facts.reading import parse
from auditor.facts.types import Fact, Missing, ModelResult, Ok
from auditor.model import ModelRun, Remedy, Status
from auditor.sources import base
from auditor.statistics import Interval, find_drift, look

if TYPE_CHECKING:
    from auditor.facts.reading import Device
    from auditor.facts.types import Plan

RUN_SCHEMA = "crosml-audit/run/1"
UNDER_ROOT = "nothing is run under --root"
"""The plan's note where a directory was audited."""
MAX_PICTURES = 64
MAX_OWN = 256
"""Errors on the auditor's own inputs that are looked at."""


def read_models(device: Device, plan: Plan) -> Fact[tuple[ModelResult, ...]]:
    """What was measured of each planned model; Missing where no model was run at all."""
    if not plan.runs:
        remedy, advice = _way_to_run(plan)
        return Missing(Status.UNASKED, (), plan.zoo_note or "no model was run", remedy, advice)
    digests = {each.name: each.sha256 for each in plan.models}
    return Ok(tuple(_result(device, name, count, digests.get(name, "")) for name, count in plan.runs))


def _way_to_run(plan: Plan) -> tuple[Remedy, str | None]:
    """What would have the zoo run, by what kept it from running."""
    if plan.zoo_left_out:
        return Remedy.SELECTED, "Audit the device again without `--no-zoo`."
    if plan.zoo_note == UNDER_ROOT:
        return Remedy.LIVE, "Run the zoo on the device itself: `crosml-audit device --delegate LIB` there, or with `--host`."
    if "TFLite runtime" in plan.zoo_note:
        return Remedy.RUNTIME, None
    if not (plan.delegate or plan.stable_delegate or plan.demonstration):
        return Remedy.DELEGATE, None
    if plan.zoo_note:
        return Remedy.MORE_RUNS, "Audit the device again, with nothing in the way of its zoo: the observation says what ended it."
    return Remedy.ZOO, None


def _result(device: Device, name: str, count: int, sha256: str) -> ModelResult:
    documents = [device.document(base.run(name, index)) for index in range(count)]
    return model_result(name, sha256, tuple(parse(parse(document, read_run), partial(_of, name)) for document in documents))


def model_result(name: str, sha256: str, runs: tuple[Fact[ModelRun], ...]) -> ModelResult:
    """What the runs of a model add up to; it decides when to measure no more, and then what the finding is."""
    known = [run.value for run in runs if isinstance(run, Ok)]
    brackets = [run.bracket_us for run in known if run.bracket_us is not None]
    thirds = [run.thirds_us for run in known if run.thirds_us is not None]
    return ModelResult(
        model=name,
        sha256=sha256,
        runs=runs,
        latency=_interval([run.latency_us for run in known], runs),
        bracket=_interval([run.bracket_us for run in known], runs),
        drift=find_drift(brackets, thirds if len(thirds) == len(runs) else ()),
    )


def _interval(means: list[float | None], runs: tuple[Fact[ModelRun], ...]) -> Fact[Interval]:
    """The interval over processes; Missing unless every run has its mean."""
    evidence = tuple(item for run in runs for item in run.evidence)
    known = [mean for mean in means if mean is not None]
    if not known or len(known) < len(runs):
        return Missing(Status.FAILED, evidence, "not every run was timed", Remedy.MORE_RUNS)
    return Ok(look(known), evidence)


def _of(model: str, run: ModelRun) -> ModelRun:
    """The run, of the model that the record keeps it for: a smaller one's figures would pass."""
    if run.model != model:
        raise ValueError(f"a run of {run.model!r:.80}")
    return run


def read_run(document: dict[str, Any]) -> ModelRun:
    """The figures of a run document. Raises KeyError, TypeError or ValueError for what is none."""
    if document["schema"] != RUN_SCHEMA:
        raise ValueError(f"schema {document['schema']!r}, expected {RUN_SCHEMA!r}")
    model, status, nodes, runtime = document["model"], document["status"], document["nodes"], document["runtime"]
    samples, brackets = _times(document["samples_us"]), _times(document["bracket_us"])
    accuracy, identity = document["accuracy"], document.get("identity")
    overhead = _time(document["overhead_us"]) or 0.0
    # never below the worker's own figure: what the exchange cost an honest worker is only an estimate
    bracket = max(_slower_mean(brackets, _count(document["inputs"])) - overhead, statistics.fmean(samples)) if brackets else None
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
        delegated_nodes=_count(nodes["delegated"]) if nodes else None,
        total_nodes=_count(nodes["total"]) if nodes else None,
        partitions=len(nodes["partitions"]) if nodes else None,
        delegated_macs=_share(document.get("macs")),
        latency_us=statistics.fmean(samples) if samples else None,
        bracket_us=bracket,
        samples=len(samples),
        init_us=_time(document["init_us"]),
        first_us=_time(document["first_us"]),
        cpu_us=statistics.fmean(_times(document["cpu_us"])) if document["cpu_us"] else None,
        accuracy=tuple(_output(output) for output in accuracy["outputs"]) if accuracy else None,
        golden=_golden(document["golden"]) if document.get("golden") else None,
        reference=_reference(document["reference"]) if document.get("reference") else "",
        memory=_memory(document["memory"]) if document["memory"] else None,
        conditions=dict(document["conditions"]),
        threads=int(document["threads"]),
        identity=str(identity["kind"]) if identity else "other",
        identity_reason=str(identity["reason"]) if identity else "",
        thirds_us=_thirds(brackets, bracket),
    )


def _slower_mean(brackets: list[float], inputs: int) -> float:
    """The mean, or that of the first inferences, whose inputs were all new: what comes again may be answered from memory."""
    return max(statistics.fmean(brackets), statistics.fmean(brackets[:inputs] or brackets))


def _thirds(brackets: list[float], mean: float | None) -> tuple[float, float, float] | None:
    """The means of the thirds of some times, moved to where the mean of all is."""
    third = len(brackets) // 3
    if not third or mean is None:
        return None
    moved = mean - statistics.fmean(brackets)
    parts = (brackets[:third], brackets[third:-third], brackets[-third:])
    first, middle, last = (max(0.0, statistics.fmean(part) + moved) for part in parts)
    return first, middle, last


def _trouble(status: dict[str, Any]) -> str:
    """How a run ended badly, in one line; empty where it did not."""
    parts = [
        f"at {status['stage']}" if status["stage"] else "",
        f"signal {status['signal']}" if status["signal"] is not None else "",
        f"exit code {status['exit']}" if status["exit"] is not None else "",
        str(status["message"] or ""),
    ]
    return ", ".join(part for part in parts if part)


def _output(output: dict[str, Any]) -> dict[str, Any]:
    """How one output differs from the reference's; without figures only where a NaN or an infinity spoilt them."""
    counts = {key: _count(output[key]) for key in ("index", "reference_nan_runs", "test_nan_runs")}
    figures: dict[str, Any] = {key: _figure(output[key]) for key in ("avg_error", "std_dev", "two_input_distance")}
    # the device's own tools do not measure these
    figures |= {key: _figure(output[key]) for key in ("idle_error", "offset") if key in output}
    figures |= {key: _between(output[key], -1.0, 1.0) for key in ("correlation",) if key in output}
    figures |= {key: _errors(output[key]) for key in ("own_errors",) if key in output}
    spoilt = counts["reference_nan_runs"] or counts["test_nan_runs"]
    if not spoilt and (figures["avg_error"] is None or figures["std_dev"] is None):
        raise ValueError("an output without its errors")
    return {**output, **counts, **figures}


def _errors(values: Any) -> list[float]:
    errors = [_figure(value) for value in values]
    if len(errors) > MAX_OWN or None in errors:
        raise ValueError("errors that are none, or too many")
    return [error for error in errors if error is not None]


def _golden(golden: dict[str, Any]) -> dict[str, Any]:
    """What came of golden images; raises ValueError where a figure is none."""
    if golden["metric"] not in {"top-1", "mask"} or len(golden["pictures"]) > MAX_PICTURES:
        raise ValueError("golden images by another metric, or too many")
    pictures = tuple(_picture(golden["metric"], picture) for picture in golden["pictures"])
    idle = _figure(golden["idle_error"])
    return {"metric": str(golden["metric"]), "note": str(golden["note"]), "idle_error": idle, "pictures": pictures}


def _picture(metric: str, picture: dict[str, Any]) -> dict[str, Any]:
    agreement = _between(picture["agreement"], 0.0, 1.0)
    if agreement is None:
        raise ValueError("an answer that was not compared")
    sides = {side: _seen(metric, picture[side]) if picture[side] else None for side in ("reference", "test")}
    error = _figure(picture["avg_error"])
    if error is None and all(sides.values()):
        raise ValueError("an answer without its error")
    texts = {key: str(picture[key]) for key in ("name", "sha256")}
    return {**texts, "variation": picture["variation"], **sides, "agreement": agreement, "avg_error": error}


def _seen(metric: str, figures: dict[str, Any]) -> dict[str, Any]:
    names = ("share",) if metric == "mask" else ("probability", "margin")
    shares = {name: _between(figures[name], 0.0, 1.0) for name in names}
    if None in shares.values():
        raise ValueError("an answer that is none")
    return shares if metric == "mask" else {"class": _count(figures["class"]), **shares}


def _reference(reference: dict[str, Any]) -> str:
    """What the answers were compared with, in words."""
    rewritten = ", custom operator rewritten" if reference["rewritten"] else ""
    return f"{reference['kernels']} kernels{rewritten}, threads: {_count(reference['threads'])}"


def _memory(memory: dict[str, Any]) -> dict[str, int]:
    """Bytes by what holds them: `before_bytes`, `peak_bytes`, and `device_bytes` where the device's own were read."""
    counts = {str(key): _count(value) for key, value in memory.items() if value is not None}
    if not {"before_bytes", "peak_bytes"} <= counts.keys():
        raise ValueError("expected before_bytes and peak_bytes")
    return counts


def _figure(value: Any) -> float | None:
    if value is not None and not 0 <= float(value) < math.inf:
        raise ValueError("error out of range")
    return None if value is None else float(value)


def _between(value: Any, low: float, high: float) -> float | None:
    if value is not None and not low <= float(value) <= high:
        raise ValueError(f"a figure outside {low:g} to {high:g}")
    return None if value is None else float(value)


def _share(macs: Any) -> float | None:
    """What the delegate took of all multiply-accumulates; None where it is not known."""
    if not macs or not macs["total"]:
        return None
    share = _count(macs["delegated"]) / _count(macs["total"])
    if share > 1:
        raise ValueError("more multiply-accumulates taken than there are")
    return share


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a count, found {value!r:.80}")
    return value


def _time(value: Any) -> float | None:
    return None if value is None else _times([value])[0]


def _times(values: Any) -> list[float]:
    """Durations; raises ValueError for what cannot be one."""
    times = [float(value) for value in values]
    if not all(0 <= value < 1e12 for value in times):
        raise ValueError("a duration that is none")
    return times
