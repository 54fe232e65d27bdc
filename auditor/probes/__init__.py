"""What must be tried on a device, not read: each probe is one question, answered with one JSON document (`crosml-audit/probe/1`).

    {"schema": "crosml-audit/probe/1", "probe": NAME, "conditions": {"kernel": release, "machine": …, "uid": …}, …}

The rest of a document is described in the module of facts that reads it. A probe runs in a process of its own, within a time, and leaves
nothing changed. Standard library only: this code goes to the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from auditor.probes import dma_buf, tracing, vfio
from auditor.probes.child import supervised
from auditor.sources.base import UNASKED, Question, Reply

SCHEMA = "crosml-audit/probe/1"


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe: what it does within how many seconds, what undoes it, and in words what it changes meanwhile."""

    run: Callable[[], dict[str, Any]]
    restore: Callable[[], None]
    seconds: int
    changes: tuple[str, ...]


def _nothing() -> None:
    """Restore nothing: all that was made ends with its process."""


PROBES: Mapping[tuple[str | int, ...], Probe] = {
    ("dma-buf",): Probe(dma_buf.run, _nothing, 30, dma_buf.CHANGES),
    ("tracing",): Probe(tracing.run, tracing.restore, 40, tracing.CHANGES),
    ("vfio",): Probe(vfio.run, _nothing, 20, vfio.CHANGES),
    ("vfio", "dma"): Probe(vfio.run_dma, _nothing, 30, vfio.DMA_CHANGES),
}
"""By name and arguments."""


def answer(question: Question) -> Reply:
    """The answer to a `probe` question; `unasked` for a probe that there is not."""
    probe = PROBES.get((question.path, *question.args))
    if probe is None:
        return UNASKED
    return supervised(lambda: _document(question.path, probe), probe.restore, probe.seconds)


def would_change(name: str, *arguments: str | int) -> tuple[str, ...]:
    """What a probe does to the device while it runs, a sentence each; all of it is undone when it ends. Empty for an unknown probe."""
    probe = PROBES.get((name, *arguments))
    return probe.changes if probe else ()


def _document(name: str, probe: Probe) -> dict[str, Any]:
    system = os.uname()
    conditions = {"kernel": system.release, "machine": system.machine, "uid": os.geteuid()}
    return {"schema": SCHEMA, "probe": name, "conditions": conditions, **probe.run()}
