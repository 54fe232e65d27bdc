"""What TFLite's own tools print: benchmark_model, and inference_diff_eval (run_eval of inference_diff), of every vintage known.

The delegate is in the tool's process and prints to the same streams, so a line may be forged. A line that must be there once and is
there twice, or that contradicts another, is a `problem`, and then its figures are not known. What cannot be told from here is text of a
process that a delegate took over altogether: it can print all that the tool would have.

Sources: tensorflow/lite/tools/benchmark/benchmark_model.cc and benchmark_tflite_model.cc, tensorflow/core/util/stats_calculator.h,
tools/delegates/delegate_provider.cc, tools/evaluation/tasks/inference_diff/run_eval.cc, core/subgraph.cc. Pure; the text may be hostile.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TEXT = 1 << 20
"""Characters of a tool's output that are read; of more, nothing is known."""
MAX_OUTPUTS = 64
"""Outputs of a model that are looked at."""

_NUMBER = r"([-+]?(?:\d{1,30}(?:\.\d{0,30})?(?:e[-+]?\d{1,3})?|nan|inf))(?![\w.])"
_KEYS = "count|first|curr|min|max|avg|std|p5|median|p95"
_STATISTICS = re.compile(rf"(?<!\w)(?:(?:{_KEYS})={_NUMBER}(?:\(all same\))?[ \t]{{0,8}}){{2,10}}", re.IGNORECASE)
_PAIR = re.compile(rf"({_KEYS})={_NUMBER}(\(all same\))?", re.IGNORECASE)
_LOOP_MARK = re.compile(r"(?<!\w)count=\d+ (?:first|curr)=|(?<!\w)curr=\S{1,40} count=")
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}",
    re.IGNORECASE,
)
_TIMINGS_MARK = "Inference timings in us:"
_FOOTPRINT = re.compile(
    rf"(?:Memory footprint delta from the start of the tool|(?<!Overall )Peak memory footprint) \(MB\): init={_NUMBER} overall={_NUMBER}"
)
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_NUMBER}")
_APPLIED = re.compile(
    r"Explicitly applied (\w{1,40}) delegate, and the model graph will be (completely|partially) executed by the delegate"
    r"(?: w/ (\d{1,6}) delegate kernels)?"
)
_NOT_APPLIED = re.compile(r"Though (\w{1,40}) delegate is explicitly applied, the model (?:graph )?will not be executed by the delegate")
_REFUSED = re.compile(r"Failed to apply (\w{1,40}) delegate")
_CREATED = re.compile(r"(?<!\w)(\w{1,40}) delegate (?:is )?created\.")
_REPLACING = re.compile(
    r"Replacing (\d{1,7}) out of (\d{1,7}) node\(s\) with delegate \(([^()\n]{1,200})\) node, yielding (\d{1,7}) partitions"
)
_DELEGATED = re.compile(r"(?:(\w{1,80}) delegate: )?(\d{1,7}) nodes delegated out of (\d{1,7}) nodes with (\d{1,7}) partitions")
_UNCONSUMED = re.compile(r"Unconsumed cmdline flags:[ \t]*([^\n]{1,8192})")
_RUNS = re.compile(r"Num evaluation runs: (\d{1,9})(?![\w.])")
_LATENCY = re.compile(rf"(Reference|Test) run latency: avg={_NUMBER}\(us\), std_dev={_NUMBER}\(us\)")
_DIFFERENCE = re.compile(rf"OutputDiff\[(\d{{1,4}})\]: avg_error={_NUMBER}, std_dev={_NUMBER}")
_DIFFERENCE_MARK = "OutputDiff["

_ROUNDING = 1e-4
"""Both tools print six digits."""


class Applied(enum.Enum):
    """What the tool says that the delegate it was given took of the model's main graph."""

    COMPLETELY = "completely"
    PARTIALLY = "partially"
    NOT = "not"


@dataclass(frozen=True, slots=True)
class Taken:
    """How many nodes a delegate took: `nodes` out of `total`, in `partitions`. The runtime's line, or the delegate's own."""

    name: str
    nodes: int
    total: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of benchmark_model (warm-up, or timed); microseconds. `deviation` is None where the tool printed none."""

    count: int
    first: float
    average: float
    deviation: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One output as inference_diff sums it up, in the output's raw units; NaN where a run's was, of whichever side."""

    average: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Delegation:
    """What an output says of the delegate that the tool was told to use. `taken` are the nodes' counts, printed before `applied`."""

    created: bool
    """The tool had it created. A library that cannot be loaded, or that refuses its options, is passed over, and the tool goes on."""
    applied: Applied | None
    refused: bool
    """Applying it failed."""
    taken: tuple[Taken, ...]
    unconsumed: tuple[str, ...]
    """Names of flags that the tool does not know, without their dashes."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What benchmark_model printed; times in microseconds, memory in MiB (as it prints). None is not there, or not to be trusted."""

    delegation: Delegation
    init: float | None
    warm_up: Loop | None
    timed: Loop | None
    footprint: tuple[float, float] | None
    """Growth of the peak until the session was there, and in all."""
    peak: float | None
    problems: tuple[str, ...]

    @property
    def inferences(self) -> int | None:
        """How many there were, by the tool's word."""
        return self.warm_up.count + self.timed.count if self.warm_up and self.timed else None


@dataclass(frozen=True, slots=True)
class Differences:
    """What inference_diff_eval printed. `outputs` is None where it is not complete, or not to be trusted."""

    delegation: Delegation
    runs: int | None
    outputs: tuple[Difference, ...] | None
    problems: tuple[str, ...]


def read_benchmark(text: str, provider: str) -> Benchmark:
    """Read benchmark_model's output; `provider` is the tool's name for the kind of delegate (EXTERNAL, STABLE_DELEGATE)."""
    if len(text) > MAX_TEXT:
        return Benchmark(_no_delegation(), None, None, None, None, None, (_too_long(text),))
    problems: list[str] = []
    delegation = _delegation(text, provider, problems)
    loops = _loops(text, problems)
    timings = _once(_TIMINGS, text, "the line of the inference timings", problems, text.count(_TIMINGS_MARK))
    init = None
    if timings and loops:
        init, first, *averages = map(_figure, timings.groups())
        said = (loops[0].first, loops[0].average, loops[1].average)
        if init is None or not all(map(_same, (first, *averages), said)):
            problems.append("the inference timings are not those of the two loops")
            init, loops = None, None
    elif loops:
        loops = None
    footprint = _pair(_once(_FOOTPRINT, text, "the line of the memory footprint", problems, optional=True))
    peak = _once(_PEAK, text, "the line of the peak memory footprint", problems, optional=True)
    return Benchmark(
        delegation,
        init,
        loops[0] if loops else None,
        loops[1] if loops else None,
        footprint,
        _figure(peak[1]) if peak else None,
        tuple(problems),
    )


def read_differences(text: str, provider: str) -> Differences:
    """Read inference_diff_eval's output; `provider` as for `read_benchmark`."""
    if len(text) > MAX_TEXT:
        return Differences(_no_delegation(), None, None, (_too_long(text),))
    problems: list[str] = []
    delegation = _delegation(text, provider, problems)
    runs = _once(_RUNS, text, "the number of runs", problems)
    found = list(_DIFFERENCE.finditer(text))
    outputs: tuple[Difference, ...] | None = tuple(Difference(float(each[2]), float(each[3])) for each in found)
    if not found:
        problems.append("no line of an output's difference")
        outputs = None
    elif [int(each[1]) for each in found] != list(range(len(found))) or len(found) > MAX_OUTPUTS:
        problems.append("the lines of the outputs' differences are doubled, or not all there")
        outputs = None
    elif text.count(_DIFFERENCE_MARK) != len(found) or any(float(each[column]) < 0 for each in found for column in (2, 3)):
        problems.append("a line of an output's difference is not understood")
        outputs = None
    kinds = [each[1] for each in _LATENCY.finditer(text)]
    if sorted(kinds) != ["Reference", "Test"]:
        problems.append("the two lines of the runs' latencies are not there once each")
        outputs = None
    return Differences(delegation, int(runs[1]) if runs else None, outputs if runs else None, tuple(problems))


def _delegation(text: str, provider: str, problems: list[str]) -> Delegation:
    applied = [(match.start(), Applied(match[2])) for match in _APPLIED.finditer(text) if match[1] == provider]
    applied += [(match.start(), Applied.NOT) for match in _NOT_APPLIED.finditer(text) if match[1] == provider]
    if len(applied) > 1:
        problems.append("more than one line says what the delegate took")
    position, state = applied[0] if len(applied) == 1 else (0, None)
    before = text[:position]
    taken = [Taken(match[3], int(match[1]), int(match[2]), int(match[4])) for match in _REPLACING.finditer(before)]
    taken += [Taken(match[1] or "", int(match[2]), int(match[3]), int(match[4])) for match in _DELEGATED.finditer(before)]
    return Delegation(
        created=provider in {match[1] for match in _CREATED.finditer(text)},
        applied=state,
        refused=provider in {match[1] for match in _REFUSED.finditer(text)},
        taken=tuple(taken),
        unconsumed=tuple(_flags(match[1] for match in _UNCONSUMED.finditer(text))),
    )


def _no_delegation() -> Delegation:
    return Delegation(created=False, applied=None, refused=False, taken=(), unconsumed=())


def _flags(lists: Iterable[str]) -> Iterable[str]:
    for words in lists:
        for word in words.split():
            if word.startswith("--"):
                yield word[2:].partition("=")[0][:80]


def _loops(text: str, problems: list[str]) -> tuple[Loop, Loop] | None:
    """The statistics of the warm-up and of the timed loop; None unless both are there, and no more."""
    found = [match[0] for match in _STATISTICS.finditer(text) if "count=" in match[0] and "curr=" in match[0]]
    marks = sum(1 for _ in _LOOP_MARK.finditer(text))
    if len(found) != 2 or marks != 2:
        problems.append(f"{max(len(found), marks)} lines of a loop's statistics, expected two")
        return None
    loops = [_loop(line) for line in found]
    if loops[0] is None or loops[1] is None:
        problems.append("the statistics of a loop contradict themselves")
        return None
    return loops[0], loops[1]


def _loop(line: str) -> Loop | None:
    """One line of tsl's Stat: all figures, or only `curr` where there was one value, or `curr` and that all were the same."""
    pairs = _PAIR.findall(line)
    values = {key.lower(): _figure(number) for key, number, _same_all in pairs}
    count, current = values.get("count"), values.get("curr")
    if len(values) != len(pairs) or None in values.values() or current is None or not count or not count.is_integer():
        return None
    if "avg" not in values:
        alone = count == 1 or any(same for _key, _number, same in pairs)
        return Loop(int(count), current, current, 0.0) if alone and values.keys() == {"count", "curr"} else None
    average, low, high = values["avg"], values.get("min"), values.get("max")
    first = values.get("first", current)
    assert average is not None
    assert first is not None
    if low is None or high is None:
        return None
    slack = _ROUNDING * max(high, 1.0)
    if not all(low - slack <= value <= high + slack for value in (average, first, current)):
        return None
    return Loop(int(count), first, average, values.get("std"))


def _once(
    pattern: re.Pattern[str], text: str, what: str, problems: list[str], marks: int | None = None, *, optional: bool = False
) -> re.Match[str] | None:
    """The only match; `marks` is how often the line's own words are there, understood or not."""
    found = list(pattern.finditer(text))
    number = len(found) if marks is None else max(marks, len(found))
    if number == len(found) == 1:
        return found[0]
    if number or not optional:
        problems.append(f"{what} is there {number} times, expected once" if number != 1 else f"{what} is not understood")
    return None


def _pair(match: re.Match[str] | None) -> tuple[float, float] | None:
    figures = [_figure(text) for text in match.groups()] if match else []
    first, second = figures or (None, None)
    return None if first is None or second is None else (first, second)


def _figure(text: str) -> float | None:
    """A duration or a size; None for what is none."""
    value = float(text)
    return value if 0 <= value < 1e12 else None


def _same(one: float | None, two: float) -> bool:
    return one is not None and math.isclose(one, two, rel_tol=_ROUNDING, abs_tol=1.0)


def _too_long(text: str) -> str:
    return f"{len(text)} characters of output, expected at most {MAX_TEXT}"
