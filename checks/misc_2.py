"""misc-2: tools to analyse the performance of inference should be provided, such as ftrace or Perfetto instrumentation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from auditor.facts.types import Ok
from auditor.model import Answer, Level, Outcome, Owner, check
from checks.wording import some

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Accelerator, DriverEvents, Facts
    from auditor.model import Evidence


@check(
    "misc-2.tools",
    level=Level.MUST,
    each="accelerators",
    expected="trace events of the accelerator's driver, or Perfetto in its user space",
    passes="There is instrumentation that performance tools can record.",
    fails="Neither the driver nor its user space has instrumentation that performance tools can record.",
    remediation="Add trace events to the kernel driver (TRACE_EVENT), or track events to the user-space driver (the Perfetto SDK).",
    owner=Owner.VENDOR,
)
def tools(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The driver has trace events of its own, or a file of the user-space driver holds Perfetto's names: either is enough.

    The driver's events show in two ways: as its trace system in tracefs (known for mainline drivers, of its own name for others), and as
    a section of its module in sysfs, which an ordinary user may list. Generic events of dma-fence or the IOMMU are not the driver's own;
    those of the DRM scheduler count where a mainline driver runs its jobs through it. That a driver has none needs both ways to say so.

    That events exist does not say that they tell anything: misc-2.emitted is about that. Source: Documentation/trace/events.rst.
    """
    own, perfetto = facts.tracing.own[accelerator.subject], facts.tracing.perfetto
    shown: list[tuple[str, tuple[Evidence, ...]]] = []
    if isinstance(own, Ok) and _described(own.value):
        shown.append((_described(own.value), own.evidence))
    if isinstance(perfetto, Ok) and perfetto.value:
        shown.append((f"Perfetto in {', '.join(perfetto.value)}", perfetto.evidence))
    if shown:
        observed = "; ".join(what for what, _ in shown)
        alone = len(shown) == 1
        evidence = tuple(item if alone else replace(item, necessary=False) for _, items in shown for item in items)
        yield Answer(Outcome.PASS, observed, evidence)
        return
    own.open()
    perfetto.open()
    observed = "no trace event of the driver's, and nothing of Perfetto in its user space"
    yield Answer(Outcome.FAIL, observed, (*own.evidence, *perfetto.evidence))


def _described(events: DriverEvents) -> str:
    systems = [f"trace system {name}" for name in events.systems]
    return ", ".join([*systems, *([f"trace events in the module {events.module}"] if events.module else [])])


@check(
    "misc-2.emitted",
    level=Level.SHOULD,
    each="accelerators",
    expected="events of the driver's own trace systems, counted while the accelerator worked",
    passes="The driver's events were emitted while the accelerator worked.",
    fails="The driver has trace events, and emitted none while the accelerator worked.",
    remediation="Emit events where jobs are submitted, begin and end.",
    owner=Owner.VENDOR,
)
def emitted(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """A probe enabled the trace events around work on the accelerator, and counted those of the driver's own systems.

    Events that are defined and never emitted analyse nothing, so the count decides; what the events say is for people to look at.
    Source: Documentation/trace/events.rst.
    """
    own, counts = facts.tracing.own[accelerator.subject], facts.tracing.emitted
    systems = own.open().systems
    counted = {event: count for event, count in counts.open().items() if event.partition(":")[0] in systems}
    evidence = (*own.evidence, *counts.evidence)
    shown = some(f"{event} {count}" for event, count in counted.items()) or "none of the driver's events was recorded"
    if any(counted.values()):
        yield Answer(Outcome.PASS, shown, evidence)
    elif counted:
        yield Answer(Outcome.FAIL, shown, evidence)
    else:
        yield Answer(Outcome.UNKNOWN, shown, evidence)
