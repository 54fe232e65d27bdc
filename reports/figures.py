"""The zoo's figures as a report shows them: what was measured of each model, against which limits. Holds no format.

A vendor's process may have reported anything: what is no number of a sensible size is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auditor.model import ModelRun, Outcome, PinnedBy, RequirementResult, visible
from reports.summary import QUANTITIES, model_of
from reports.wording import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from auditor.model import ModelSummary, Report

DISAGREE = 1.05
"""By how much the auditor's clock may exceed a process's own time before a report says that they disagree."""
PROVENANCE = {
    "same-graph": "the zoo's graph, not pinned",
    "stand-in": "generated stand-in",
    "other": "another file",
}
PINS = {
    PinnedBy.MANIFEST: "pinned by the manifest",
    PinnedBy.REQUIREMENT_SET: "pinned by the requirement set",
    PinnedBy.ARCHIVE: "of the published archive",
}


@dataclass(frozen=True, slots=True)
class Output:
    """The error of one output of a model, in its own units: the largest of the runs."""

    index: int
    error: float
    deviation: float | None


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model of the zoo: its file, its figures over all runs, the limits, and the requirements that they decide.

    Times in milliseconds, memory in bytes, shares from 0 to 1. None and empty where nothing was measured.
    """

    name: str
    origin: str
    sha256: str
    pinned_by: PinnedBy | None
    identity: str
    results: Mapping[str, RequirementResult]
    """By quantity: `latency`, `accuracy`, `memory`."""
    runs: tuple[ModelRun, ...]
    latencies: tuple[float, ...]
    """The mean of each process, by the auditor's clock where it was read."""
    interval: tuple[float, float, float] | None
    clock: str
    """Whose clock the latencies are by."""
    own_latency: float | None
    """What the processes say themselves, where that is much less."""
    load: float | None
    first: float | None
    outputs: tuple[Output, ...]
    memory: tuple[tuple[str, int], ...]
    """By kind, in the process with the highest peak."""
    share: float | None
    partitions: int | None
    nodes: tuple[int, int] | None
    conditions: tuple[tuple[str, str], ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def provenance(self) -> str:
        """Where the file came from and what it is worth, in words."""
        kind = PINS[self.pinned_by] if self.pinned_by else PROVENANCE.get(self.identity, self.identity)
        return ", ".join(dict.fromkeys(part for part in (kind, self.origin if self.origin != self.identity else "") if part))

    @property
    def peak(self) -> int | None:
        """The highest peak of memory, of all kinds together."""
        return sum(size for _, size in self.memory) if self.memory else None


def models(report: Report) -> tuple[ModelFigures, ...]:
    """Every model that a requirement or a run is about, in the order of the requirement set."""
    results: dict[str, dict[str, RequirementResult]] = {}
    for result in report.requirements:
        if model_of(result):
            results.setdefault(model_of(result), {})[result.id.rpartition("-")[2]] = result
    runs: dict[str, list[ModelRun]] = {}
    for run in report.model_runs:
        runs.setdefault(run.model, []).append(run)
    summaries = {each.model: each for each in report.details.models}
    files = {used.name: used for used in report.zoo.models}
    found = []
    for name in dict.fromkeys((*results, *runs)):
        of_model, file = runs.get(name, []), files.get(name)
        origin = file.origin if file else of_model[0].origin if of_model else ""
        sha256 = file.sha256 if file else of_model[0].sha256 if of_model else ""
        found.append(_model(name, origin, sha256, report.zoo.pins.get(name), results.get(name, {}), of_model, summaries.get(name)))
    return tuple(found)


def _model(
    name: str,
    origin: str,
    sha256: str,
    pinned_by: PinnedBy | None,
    results: Mapping[str, RequirementResult],
    runs: Sequence[ModelRun],
    summary: ModelSummary | None,
) -> ModelFigures:
    own = _all([run.latency_us for run in runs])
    wall = _all([run.bracket_us for run in runs])
    span = (summary.wall if wall else summary.own) if summary else None
    ends = (span.low / 1e3, span.mean / 1e3, span.high / 1e3) if span and span.low is not None and span.high is not None else None
    times = wall or own
    slower = bool(own and wall and statistics.fmean(wall) > DISAGREE * statistics.fmean(own))
    nodes = [(run.delegated_nodes, run.total_nodes) for run in runs if run.delegated_nodes is not None and run.total_nodes is not None]
    partitions = [run.partitions for run in runs if run.partitions is not None]
    return ModelFigures(
        name=name,
        origin=origin,
        sha256=sha256,
        pinned_by=pinned_by,
        identity=_same([run.identity for run in runs]) or ("stand-in" if origin == "stand-in" else "" if not runs else "other"),
        results=results,
        runs=tuple(runs),
        latencies=tuple(time / 1e3 for time in times),
        interval=ends,
        clock="" if not times else "the auditor's clock" if wall else "the process's own clock",
        own_latency=statistics.fmean(own) / 1e3 if slower else None,
        load=_mean([run.init_us for run in runs]),
        first=_mean([run.first_us for run in runs]),
        outputs=tuple(_outputs(runs)),
        memory=_memory(runs),
        share=_over(min, [run.delegated_macs for run in runs]),
        partitions=max(partitions) if partitions else None,
        nodes=min(nodes) if nodes else None,
        conditions=tuple(_conditions(runs)),
        limits={key: value for result in results.values() for key, value in result.limits.items()},
    )


def _same(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ""


def number(value: Any) -> float | None:
    """A figure that a table can hold; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e15 else None


def _all(values: Sequence[Any]) -> list[float]:
    """The figures; none where one of them is missing."""
    numbers = [each for each in map(number, values) if each is not None]
    return numbers if len(numbers) == len(values) else []


def _over(fold: Callable[[list[float]], float], values: Sequence[Any]) -> float | None:
    numbers = _all(values)
    return fold(numbers) if numbers else None


def _mean(values: Sequence[Any]) -> float | None:
    mean = _over(statistics.fmean, values)
    return None if mean is None else mean / 1e3


def _outputs(runs: Sequence[ModelRun]) -> Iterator[Output]:
    """Each output that every run compared, with its largest error."""
    compared = [run.accuracy for run in runs]
    if not compared or not all(compared):
        return
    for index, outputs in enumerate(zip(*(each or () for each in compared), strict=False)):
        error = _over(max, [output.get("avg_error") for output in outputs])
        if error is not None:
            yield Output(index, error, _over(max, [output.get("std_dev") for output in outputs]))


def _memory(runs: Sequence[ModelRun]) -> tuple[tuple[str, int], ...]:
    """Of the run with the highest peak: before the model was loaded, since then, and on the device."""
    sizes = [{key: int(size) for key in run.memory if (size := number(run.memory[key])) is not None} for run in runs if run.memory]
    if not sizes or len(sizes) < len(runs):
        return ()
    most = max(sizes, key=lambda each: each.get("peak_bytes", 0) + each.get("device_bytes", 0))
    peak, before = most.get("peak_bytes", 0), most.get("before_bytes", 0)
    parts = (
        ("before the load", min(before, peak)),
        ("since the load", max(peak - before, 0)),
        ("on the device", most.get("device_bytes", 0)),
    )
    return tuple((name, size) for name, size in parts if size)


def _conditions(runs: Sequence[ModelRun]) -> Iterator[tuple[str, str]]:
    """What may explain that a figure differs from another day's, as pairs of a name and a text."""
    if not runs:
        return
    yield "runs", f"{len(runs)} {'process' if len(runs) == 1 else 'processes'}, {sum(run.samples for run in runs)} inferences"
    runtimes = dict.fromkeys(f"{run.runner}, {run.runtime}, {run.delegate or 'no delegate'}" for run in runs)
    yield "runner", "; ".join(runtimes)
    states = [state for run in runs for side in ("before", "after") if isinstance(state := run.conditions.get(side), Mapping)]
    governors = {str(name) for state in states for name in _values(state.get("governor"))}
    if governors:
        yield "governor", ", ".join(sorted(governors))
    loads = [first for state in states if (first := _first(state.get("load_average"))) is not None]
    if loads:
        yield "load average", f"{min(loads):.2f} to {max(loads):.2f}"
    heat = [
        value / 1e3 for state in states for each in _values(state.get("temperature_millicelsius")) if (value := number(each)) is not None
    ]
    if heat:
        yield "temperature", f"{min(heat):.0f} to {max(heat):.0f} °C"
    chargers = {state.get("on_charger") for state in states} - {None}
    if chargers:
        yield "charger", "connected" if chargers == {True} else "not connected" if chargers == {False} else "connected for a part"
    shares = [share for run in runs if (share := number(run.conditions.get("cpu_share"))) is not None]
    if shares:
        yield "processor time", f"{max(shares):.0%} of the time of an inference"
    busy = [run.conditions.get("accelerator_busy") is True for run in runs]
    yield "accelerator", "seen working in every run" if all(busy) else "not seen working in every run"
    watts = dict(power(runs))
    if watts:
        yield "power", ", ".join(f"{name} {mean:.3g} W" for name, mean in list(watts.items())[:4])


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else [value] if isinstance(value, str) else []


def _first(value: Any) -> float | None:
    return number(value[0]) if isinstance(value, (list, tuple)) and value else None


def power(runs: Sequence[ModelRun]) -> Iterator[tuple[str, float]]:
    """The mean power in watts by sensor, of those that every run read."""
    sensors: dict[str, list[Any]] = {}
    for run in runs:
        found = run.conditions.get("power")
        watts = found.get("watts") if isinstance(found, Mapping) else None
        for name, value in watts.items() if isinstance(watts, Mapping) else ():
            sensors.setdefault(cut(visible(str(name)), 60), []).append(value)
    for name, values in sensors.items():
        mean = _over(statistics.fmean, values)
        if mean is not None:
            yield name, mean


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that the confinement refused, or should have. `reason` is the errno's name; empty where it was let through."""

    what: str
    reason: str
    times: int


@dataclass(frozen=True, slots=True)
class SandboxSeen:
    """What the confinement of the runs did: its states, the auditor's own attempts to get out, what the delegate was refused."""

    states: tuple[str, ...]
    escapes: tuple[Refused, ...]
    refused: tuple[Refused, ...]


def sandbox(report: Report) -> SandboxSeen | None:
    """What was refused in all runs, the same things together; None where no run was confined."""
    states: dict[str, None] = {}
    escapes: dict[tuple[str, str], int] = {}
    refused: dict[tuple[str, str], int] = {}
    for run in report.model_runs:
        confinement = run.conditions.get("confinement")
        if isinstance(confinement, Mapping):
            states[visible(str(confinement.get("state")))] = None
        for each in _list(run.conditions.get("escapes")):
            key = visible(str(each.get("attempt"))), visible(str(each.get("refused") or ""))
            escapes[key] = escapes.get(key, 0) + 1
        for each in _list(run.conditions.get("refused")):
            key = visible(f"{each.get('call')} {each.get('path') or ''}".strip()), visible(str(each.get("errno") or ""))
            refused[key] = refused.get(key, 0) + int(number(each.get("times")) or 1)
    if not states and not escapes and not refused:
        return None
    return SandboxSeen(tuple(states), _refused(escapes), _refused(refused))


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, (list, tuple)) else []


def _refused(counts: Mapping[tuple[str, str], int]) -> tuple[Refused, ...]:
    found = [Refused(what, reason, times) for (what, reason), times in counts.items()]
    return tuple(sorted(found, key=lambda each: (bool(each.reason), -each.times, each.what)))


def met(result: RequirementResult | None) -> bool | None:
    """Whether a requirement is met; None where that is not decided."""
    return {Outcome.PASS: True, Outcome.FAIL: False}.get(result.outcome) if result else None


def cell(result: RequirementResult) -> str:
    """The quantity that a requirement of the zoo is about; empty for another."""
    quantity = result.id.rpartition("-")[2]
    return quantity if model_of(result) and quantity in QUANTITIES else ""
