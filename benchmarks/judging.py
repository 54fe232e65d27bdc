"""Snapshots judged a second on one core, and memory over many: the budget is 200 a second and a flat line."""

from __future__ import annotations

import datetime
import resource
import sys
import time

from auditor import registry, requirements
from auditor.engine import Context, Selection, judge
from auditor.facts.collect import collect
from auditor.gather import demo_record
from auditor.model import DeviceSummary, Tool, ZooUsed
from auditor.sources.recording import Replay, pack, unpack

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 500


def main() -> None:
    snapshot = pack(demo_record())
    checks, judged_by = registry.checks(plugins=False), requirements.load()
    context = Context(Tool("benchmark", "0"), judged_by.name, DeviceSummary("snapshot", "d", "", ""), ZooUsed(judged_by.zoo.version))
    today = datetime.date(2026, 11, 22)
    peaks = []
    start = time.process_time()
    for number in range(COUNT):
        facts = collect(Replay(unpack(snapshot, "benchmark")))
        judge(facts, checks, judged_by.requirements, (), today, Selection(), context)
        if number in {COUNT // 10, COUNT - 1}:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    rate = COUNT / (time.process_time() - start)
    print(f"{COUNT} snapshots of {len(snapshot)} bytes: {rate:.0f} a second on one core; ratio to the budget of 200: {rate / 200:.2f}")
    print(f"peak memory at a tenth {peaks[0] / 1024:.1f} MiB, at the end {peaks[-1] / 1024:.1f} MiB; ratio {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
