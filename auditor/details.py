"""What a report shows of the device in addition to its findings: the closure, IOMMU groups, firmware images, latencies. Pure.

Nothing here decides anything: the checks judge the same facts by themselves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from auditor.facts.types import Missing, Ok
from auditor.model import (
    ClosureFile,
    ClosureSummary,
    Details,
    FirmwareSummary,
    GroupDevice,
    IommuGroupSummary,
    ModelSummary,
    Span,
    printable,
)
from auditor.verify import verify_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Accelerator, Closure, ElfObject, Fact, Facts, FirmwareImage, IommuGroup, Settings
    from auditor.statistics import Interval

CLOSURE_LIMIT = 64 * 10**6
"""Bytes: the limit of misc-1, as its check reads it."""


def details(facts: Facts) -> Details:
    """The pictures of a report. What is missing in the facts is left out."""
    models = facts.models.value if isinstance(facts.models, Ok) else ()
    images = facts.firmware.value.items if isinstance(facts.firmware, Ok) else ()
    return Details(
        closure=_closure(facts.closure.value, facts.settings) if isinstance(facts.closure, Ok) else None,
        iommu_groups=tuple(_groups(facts)),
        firmware=tuple(_image(image, facts.settings) for image in images),
        models=tuple(ModelSummary(each.model, _span(each.bracket), _span(each.latency)) for each in models),
    )


def _closure(found: Closure, settings: Settings) -> ClosureSummary:
    return ClosureSummary(
        files=tuple(_file(each, settings) for each in found.objects),
        limit_bytes=CLOSURE_LIMIT,
        missing=tuple(printable(each.name) for each in found.missing if not each.optional),
        unread=tuple(printable(each.evidence[0].path if each.evidence else each.note) for each in found.unread),
    )


def _file(item: ElfObject, settings: Settings) -> ClosureFile:
    why = (
        "the system's C or C++ run time"
        if item.base
        else "the image's TFLite runtime"
        if item.runtime
        else "listed by --base-image"
        if item.path in settings.base_image
        else ""
    )
    found = f"{item.edge} of {item.needed_by.rpartition('/')[2]}" if item.needed_by else "the driver"
    return ClosureFile(printable(item.path), item.size, counted=not why, certain=item.certain, why=why or printable(found))


def _groups(facts: Facts) -> Iterator[IommuGroupSummary]:
    """The groups of the accelerators, each once."""
    accelerators = facts.accelerators.value.items if isinstance(facts.accelerators, Ok) else ()
    audited = {each.subject for each in accelerators}
    seen: set[str] = set()
    for each in accelerators:
        if isinstance(each.group, Ok) and each.group.value.number not in seen:
            seen.add(each.group.value.number)
            yield _group(each, each.group.value, audited)


def _group(accelerator: Accelerator, group: IommuGroup, audited: set[str]) -> IommuGroupSummary:
    mates = group.mates.value if isinstance(group.mates, Ok) else ()
    own = GroupDevice(accelerator.subject, _value(accelerator.driver), accelerator=True)
    others = (
        GroupDevice(
            mate.subject,
            _value(mate.driver),
            accelerator=mate.subject in audited,
            bridge=isinstance(mate.is_bridge, Ok) and mate.is_bridge.value,
        )
        for mate in mates
    )
    regions = group.reserved.value if isinstance(group.reserved, Ok) else ()
    return IommuGroupSummary(
        domain=_value(group.type) or "",
        devices=(own, *others),
        reserved=tuple(f"{region.kind} {region.start:#x}-{region.end:#x}" for region in regions),
        no_iommu=isinstance(group.no_iommu, Ok) and group.no_iommu.value,
        complete=isinstance(group.mates, Ok),
    )


def _value(fact: Fact[str]) -> str | None:
    return printable(fact.value) if isinstance(fact, Ok) else None


def _image(image: FirmwareImage, settings: Settings) -> FirmwareSummary:
    envelope = image.envelope
    found = None if isinstance(envelope, Missing) else verify_image(envelope.value, settings)
    return FirmwareSummary(
        accelerator=image.wanted_by,
        name=printable(image.name),
        path=_value(image.path) or "",
        size=image.size.value if isinstance(image.size, Ok) else None,
        sha256=_value(image.sha256) or "",
        format="" if isinstance(envelope, Missing) else envelope.value.format,
        state=found.state.value if found else "",
        signer=printable(found.signer) if found else "",
        root=found.root if found else "",
        remarks=tuple(map(printable, (*found.remarks, *found.weak))) if found else (),
    )


def _span(interval: Fact[Interval]) -> Span | None:
    if isinstance(interval, Missing) or not math.isfinite(interval.value.mean):
        return None
    found, ends = interval.value, math.isfinite(interval.value.half_width)
    return Span(found.mean, found.low if ends else None, found.high if ends else None, found.count)
