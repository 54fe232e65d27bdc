"""security-3: an IOMMU must control access to system memory from the accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.model import Answer, Outcome, Owner, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Accelerator, Facts

TRANSLATING = frozenset({"DMA", "DMA-FQ"})
"""Domain types in which every access is translated; DMA-FQ flushes lazily, which the page allows."""


@check(
    "security-3.domain",
    each="accelerators",
    expected="an IOMMU group whose domain type is DMA or DMA-FQ",
    passes="The IOMMU translates every access of the accelerator to system memory.",
    fails="No IOMMU stands between the accelerator and system memory.",
    remediation="Put the accelerator behind an IOMMU and leave its group in a translating domain: no iommu=pt, no intel_iommu=off, no "
    "identity type; on device tree systems give the node its `iommus`.",
    owner=Owner.FIRMWARE,
)
def domain(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The accelerator is in an IOMMU group, and the group's default domain translates.

    `identity` maps all of memory one to one, so it fails; so does a device that the kernel put in no group at all. Any other type
    (`blocked`, `auto`, a name this auditor does not know) is unknown: it is not evidence of translation.
    """
    group = accelerator.group.open()
    kind = group.type.open()
    evidence = (*accelerator.group.evidence, *group.type.evidence)
    if kind in TRANSLATING:
        yield Answer(Outcome.PASS, f"domain type {kind}", evidence)
    elif kind == "identity":
        yield Answer(Outcome.FAIL, "domain type identity", evidence)
    else:
        yield Answer(Outcome.UNKNOWN, f"domain type {kind!r}", evidence)
