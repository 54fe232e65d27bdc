"""The A/A study of the zoo's latency verdict: adaptive measurement against the page's 20 s, on one device that does not change.

Each stand-in is recorded once, by the embedded runner without a delegate (so on the CPU), as a stream of fresh processes like the zoo's:
`--record 600` makes ten minutes of timed inferences a model in processes of the page's own 20 s; where there is no such record, one
minute a model in processes of 5 s, and the study says that it is short. Records are kept in `$XDG_CACHE_HOME/crosml-audit/study`, by
model, runtime and threads.

By resampling, a draw is a contiguous stretch of a stream: as many processes, one after the other, as the verdict takes, of each the same
part, as long as `--bench-time adaptive` times it. They are judged by the rule itself (auditor.statistics) against a limit of 0.90 to 1.10
times the stream's mean. The page's verdict is whether the mean of 20 s is within the limit: of a process in that stretch ("beside"), and
of one anywhere in the stream ("else"). The page's verdict against itself, beside and elsewhere, is the yardstick: nothing can agree with
it more than it does.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from auditor.bench.document import Job
from auditor.bench.embedded import measure
from auditor.bench.options import BenchTime
from auditor.bench.schedule import SCHEDULES
from auditor.statistics import LOOKS, Verdict, find_drift, judge, look
from auditor.zoo.generate import generate, stand_ins

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.statistics import Drift, Interval

SEED = 20230113
DRAWS = 1000
PLAN, PAGE_SECONDS = SCHEDULES[BenchTime.ADAPTIVE], SCHEDULES[BenchTime.PAGE].seconds
FACTORS = [round(0.9 + 0.01 * step, 2) for step in range(21)]
NEAR = 0.03
LONG, SHORT = (600.0, PAGE_SECONDS), (60.0, 5.0)
"""Seconds timed of a model, and in each process."""


@dataclass(frozen=True)
class Process:
    """One process of a stream: the worker's own times, the controller's less the exchange, when each inference began and the last ended."""

    own: npt.NDArray[np.float64]
    outside: npt.NDArray[np.float64]
    at: npt.NDArray[np.float64]
    load: float
    wall: float

    def stretch(self, start: float, seconds: float, inferences: int) -> slice:
        first = int(np.searchsorted(self.at, start))
        last = max(int(np.searchsorted(self.at, self.at[first] + seconds)), first + inferences)
        last = min(last, len(self.own))
        return slice(min(first, max(0, last - inferences)), last)


@dataclass(frozen=True)
class Part:
    """What is timed of one process in a draw: as the runner's document would have it."""

    own: float
    outside: float
    thirds: tuple[float, float, float]
    seconds: float


# --- recording ---------------------------------------------------------------------------------------------------------------------------


def folder() -> Path:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosml-audit" / "study"
    place.mkdir(parents=True, exist_ok=True)
    return place


def pattern(name: str, seconds: float) -> str:
    """A record's file name, but for runtime and threads, which the first process tells."""
    return f"{name}-{hashlib.sha256(generate(name)).hexdigest()[:16]}-{{}}-{seconds:g}s.jsonl.gz"


def record(name: str, total: float, seconds: float) -> None:
    """Add processes to a model's stream until it has as many seconds as wanted."""
    known = list(folder().glob(pattern(name, seconds).format("*")))
    done = sum(1 for _ in _lines(known[0])) * seconds if known else 0.0
    while done < total:
        started = time.monotonic()
        run = measure(Job(name=name, model=generate(name), min_seconds=seconds))
        if run["status"]["outcome"] != "completed":
            raise SystemExit(f"{name}: {run['status']['message']}")
        kept = {key: [round(value, 1) for value in run[key]] for key in ("samples_us", "bracket_us", "exchange_us")}
        kept |= {key: run[key] for key in ("overhead_us", "init_us", "first_us")}
        kept |= {"load_average": run["conditions"]["before"].get("load_average"), "wall_seconds": time.monotonic() - started}
        runtime = run["runtime"] or {}
        path = folder() / pattern(name, seconds).format(f"{runtime['name']}-{runtime['version']}-{run['threads']}t")
        with gzip.open(path, "at") as file:
            file.write(json.dumps(kept) + "\n")
        done += seconds
        print(f"recorded {done:.0f} of {total:.0f} s of {name}", flush=True)


def _lines(path: Path) -> Iterator[dict[str, object]]:
    with gzip.open(path, "rt") as file:
        for line in file:
            yield json.loads(line)


def read(path: Path, seconds: float) -> Iterator[Process]:
    for run in _lines(path):
        own, bracket, exchange = (np.array(run[key]) for key in ("samples_us", "bracket_us", "exchange_us"))
        at = np.concatenate([[0.0], np.cumsum(exchange)]) * seconds / exchange.sum()  # comparing outputs is in the process's seconds, too
        load = run["load_average"]
        yield Process(own, bracket - run["overhead_us"], at, load[0] if load else 0.0, float(run["wall_seconds"]))


# --- resampling --------------------------------------------------------------------------------------------------------------------------


def part(each: Process, where: slice) -> Part:
    own, outside = float(each.own[where].mean()), each.outside[where]
    mean, third = max(float(outside.mean()), own), len(outside) // 3
    moved = mean - float(outside.mean())
    first, middle, last = (float(values.mean()) + moved for values in (outside[:third], outside[third:-third], outside[-third:]))
    return Part(own, mean, (first, middle, last), float(each.at[where.stop] - each.at[where.start]))


def looks(of: Sequence[Part]) -> list[tuple[Interval, Interval, Drift]]:
    """What the rule is given at each look."""
    given = []
    for count in LOOKS:
        seen = of[:count]
        outside = [each.outside for each in seen]
        drift = find_drift(outside, [each.thirds for each in seen])
        given.append((look([each.own for each in seen]), look(outside), drift))
    return given


def adaptive(given: Sequence[tuple[Interval, Interval, Drift]], limit: float) -> tuple[Verdict, int]:
    """The verdict at which the measurement stops, and after how many processes."""
    for count, (own, outside, drift) in zip(LOOKS, given, strict=True):
        verdict = judge(own, outside, limit, drift)
        if verdict is not Verdict.UNDECIDED:
            return verdict, count
    return Verdict.UNDECIDED, LOOKS[-1]


def page(mean: float, limit: float) -> Verdict:
    return Verdict.MET if mean <= limit else Verdict.MISSED


def page_means(stream: Sequence[Process], seconds: float) -> list[float]:
    """The means of every contiguous 20 s: of one process, or of the fewest shorter ones."""
    size = round(PAGE_SECONDS / seconds)
    return [float(np.concatenate([each.own for each in stream[at : at + size]]).mean()) for at in range(len(stream) - size + 1)]


def resample(name: str, stream: Sequence[Process], seconds: float) -> tuple[Counter[str], list[float], list[int]]:
    """How often verdicts differ, by whether the limit is near the mean; the seconds and the processes that each verdict took."""
    draw = random.Random(f"{SEED} {name} {len(stream)}")  # noqa: S311  # a study, no secret
    truth = statistics.fmean(each.own.mean() for each in stream)
    pages, counts, took, sizes = page_means(stream, seconds), Counter[str](), [], []
    whole = [part(each, slice(0, len(each.own))) for each in stream]
    in_full = [looks(whole[first : first + LOOKS[-1]]) for first in range(len(stream) - LOOKS[-1] + 1)]
    for _ in range(DRAWS):
        first = draw.randrange(len(stream) - LOOKS[-1] + 1)
        start = draw.random() * (seconds - 3 * PLAN.seconds)
        processes = stream[first : first + LOOKS[-1]]
        drawn = [part(each, each.stretch(start, PLAN.seconds, PLAN.inferences)) for each in processes]
        given = looks(drawn)
        elsewhere, other = draw.choice(pages), draw.choice(pages)
        for factor in FACTORS:
            limit = factor * truth
            verdict, count = adaptive(given, limit)
            beside, next_to_it = (pages[min(first + each, len(pages) - 1)] for each in draw.sample(range(count), 2))
            full, _ = adaptive(in_full[first], limit)
            took.append(sum(each.seconds for each in drawn[:count]))
            sizes.append(count)
            zone = "near" if abs(factor - 1) <= NEAR + 1e-9 else "far"
            counts[zone] += 1
            counts[f"{zone} page beside"] += page(beside, limit) is not page(next_to_it, limit)
            counts[f"{zone} page elsewhere"] += page(elsewhere, limit) is not page(other, limit)
            counts[f"{zone} other"] += verdict is not full
            counts[f"{zone} opposite"] += {verdict, full} == {Verdict.MET, Verdict.MISSED}
            if verdict is Verdict.UNDECIDED:
                counts[f"{zone} none"] += 1
                continue
            counts[f"{zone} beside"] += verdict is not page(beside, limit)
            counts[f"{zone} elsewhere"] += verdict is not page(elsewhere, limit)
            counts[f"{zone} wrong"] += verdict is not page(truth, limit)
    return counts, took, sizes


def quiet(stream: Sequence[Process]) -> Sequence[Process]:
    """The longest stretch of processes before each of which no more ran than there are processors."""
    best: Sequence[Process] = ()
    first = 0
    for index, each in enumerate(stream):
        if each.load > (os.cpu_count() or 1):
            first = index + 1
        elif index + 1 - first > len(best):
            best = stream[first : index + 1]
    return best


# --- telling -----------------------------------------------------------------------------------------------------------------------------


def tell(name: str, stream: Sequence[Process], seconds: float) -> tuple[Counter[str], list[float]]:
    means = np.array([each.own.mean() for each in stream])
    spread, follows = means.std(ddof=1) / means.mean(), np.corrcoef(means[:-1], means[1:])[0, 1]
    gap = statistics.fmean(max(each.outside.mean() / each.own.mean(), 1.0) for each in stream) - 1
    counts, took, sizes = resample(name, stream, seconds)
    cells = (
        f"{name[:27]:<28}{len(stream):>4}{means.mean() / 1e3:>8.2f}{spread:>7.1%}{follows:>+7.2f}{gap:>+7.1%}"
        f" |{share(took):>6.1%}{max(took) / PAGE_SECONDS:>6.0%}{statistics.fmean(sizes):>5.1f}"
    )
    print(cells + "".join(f" |{zone_cells(counts, zone)}" for zone in ("far", "near")), flush=True)
    return counts, took


def zone_cells(counts: Counter[str], zone: str) -> str:
    keys = ("beside", "elsewhere", "wrong", "none", "page beside", "page elsewhere", "opposite", "other")
    return "".join(f"{counts[f'{zone} {key}'] / counts[zone]:>7.1%}" for key in keys)


_ZONES = "".join(f" | {where:<55}" for where in (f"limit more than {NEAR:.0%} off the mean", f"limit within {NEAR:.0%} of the mean"))
_ZONE = f" |{'opposite to page':>16}{'page/page':>26}{'rule/rule':>14}"
_KEYS = " |" + "".join(f"{key:>7}" for key in ("beside", "else", "wrong", "none", "beside", "else", "opp.", "other"))
HEAD = f"""
{"":28}stream of the CPU                 | adaptive time   {_ZONES}
{"":62}|                 {_ZONE * 2}
{"model":<28}runs mean ms     sd  lag-1  clock |  mean   max runs{_KEYS * 2}"""


def table(title: str, streams: dict[str, Sequence[Process]], seconds: float) -> None:
    enough = {name: stream for name, stream in streams.items() if len(stream) > LOOKS[-1]}
    print(f"\n{title}{HEAD}")
    told = {name: tell(name, stream, seconds) for name, stream in enough.items()}
    for name in streams.keys() - enough.keys():
        print(f"{name[:27]:<28}{len(streams[name]):>4}   too few in a row to draw from")
    if not told:
        return
    total: Counter[str] = sum((counts for counts, _ in told.values()), Counter())
    took = [each for _, times in told.values() for each in times]
    print(f"{'all':<28}{'':33} |{share(took):>6.1%}{'':11}" + "".join(f" |{zone_cells(total, zone)}" for zone in ("far", "near")))
    print("target: at most 25 % of page time, and at most 1 % of verdicts, where the limit is not near the mean, that are")
    for what, keys in (
        ("opposite to the page's mean", ("beside",)),
        ("opposite to it, or none", ("beside", "none")),
        ("other than the same rule's at page time", ("other",)),
    ):
        missed = [name for name, (counts, times) in told.items() if share(times) > 0.25 or differing(counts, keys) > 0.01]
        kept = "reached" if share(took) <= 0.25 and differing(total, keys) <= 0.01 else "MISSED"
        alone = f"; MISSED for {len(missed)} of {len(told)} models alone: {', '.join(missed)}" if missed else ""
        print(f"  {what}: {kept} over all with {share(took):.1%} and {differing(total, keys):.2%}{alone}")


def share(took: Sequence[float]) -> float:
    return statistics.fmean(took) / PAGE_SECONDS


def differing(counts: Counter[str], keys: Sequence[str]) -> float:
    return sum(counts[f"far {key}"] for key in keys) / counts["far"]


def main() -> None:
    parser = argparse.ArgumentParser(description="The A/A study of the zoo's latency verdict.")
    parser.add_argument("--record", type=float, metavar="SECONDS", help="record so long of each model first; 600 for a full study")
    options = parser.parse_args()
    names = stand_ins("0.0.2")
    total, seconds = LONG
    if options.record:
        total = options.record
        seconds = LONG[1] if total >= LONG[0] else SHORT[1]
    elif not all(list(folder().glob(pattern(name, seconds).format("*"))) for name in names):
        total, seconds = SHORT
        print(f"no long record: {total:.0f} s of each model are recorded in processes of {seconds:g} s; a SHORT study, for its form alone")
    streams: dict[str, Sequence[Process]] = {}
    walls = []
    for name in names:
        record(name, total, seconds)
        for path in sorted(folder().glob(pattern(name, seconds).format("*"))):
            streams[name] = list(read(path, seconds))
            walls += [each.wall - seconds for each in streams[name]]
            print(f"{path.name}: {len(streams[name])} processes of {seconds:g} s, load average {min(each.load for each in streams[name])}"
                  f" to {max(each.load for each in streams[name])} on {os.cpu_count()} processors")  # fmt: skip
    extra = statistics.median(walls)
    kind = f"{PLAN.least} to {PLAN.most} processes of {PLAN.seconds:g} s, each at least {PLAN.inferences} inferences"
    print(f"""
Seed {SEED}, {DRAWS} draws a row, limits {FACTORS[0]:.2f} to {FACTORS[-1]:.2f} of the stream's mean.
Adaptive: {kind}; page: the mean of {PAGE_SECONDS:g} s. Time is what is timed, as a share of those.
Start, load, warm-up, reference and memory processes come to {extra:.1f} s a process (median) beside it, with the page's time as well.
sd, lag-1: of the means of successive processes. clock: the auditor's mean above the process's own. wrong: opposite to the verdict
of the whole stream. none: left unknown. page/page: how often the page's verdict is opposite to its own. rule/rule: against the same
rule on the same processes in full ({seconds:g} s each, as `--bench-time page` has 20): opposite, and other in any way, unknown or not.""")
    table("THE WHOLE STREAMS", streams, seconds)
    table("THEIR LONGEST QUIET STRETCH (load average before each process at most the number of processors)",
          {name: quiet(stream) for name, stream in streams.items()}, seconds)  # fmt: skip
    print("""
What this sees: how fresh processes of a model differ on this machine while they are recorded: neighbours' load, memory layout, clock speed.
What it cannot see: other machines and days, a warm room, an accelerator (these are the CPU's times), a drift slower than a stream.
A machine whose processors others share is not the zoo's device, which does nothing else: the quiet stretch is nearer to that.""")


if __name__ == "__main__":
    main()
