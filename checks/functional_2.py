"""functional-2: the accelerator shares dma-bufs directly with other devices, as exporter and as importer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.model import Answer, Outcome, Owner, Remedy, check
from checks.wording import some

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from auditor.facts.types import Accelerator, BufferTrial, DmaBuf, Facts

REFUSALS = frozenset({"ENODEV", "EINVAL", "ENOSYS", "ENOTTY", "EOPNOTSUPP", "ENOTSUP"})
"""What a driver says that cannot. Other errors say that it could not now, or that the auditor may not (EACCES)."""

IMPORTS, EXPORTS = 1, 2
"""Bits of DRM_CAP_PRIME (include/uapi/drm/drm.h)."""


@check(
    "functional-2.export",
    each="accelerators",
    expected="a buffer of the accelerator, exported as a dma-buf, whose data another device or the CPU was seen to share",
    passes="The accelerator exports its buffers as dma-bufs, and their data was seen through one.",
    fails="The accelerator's driver exports no dma-buf.",
    remediation="Implement the export of dma-bufs (for a DRM driver: get_sg_table, or gem_prime_export).",
    owner=Owner.VENDOR,
)
def export(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """A buffer allocated from the accelerator's own node was exported, and its data was seen on the other side.

    Only what the probe did decides: DRM_CAP_PRIME is always set in today's kernels and counts as a claim. The probe asks the node for a
    buffer and for its file descriptor, and hands that to importers. It passes with one importer that was seen to have the same memory:
    data that a device copied, the same buffer on a second export, or the importer's device in the kernel's list of attachments. An
    importer that refuses says nothing of the exporter; a refusal of the descriptor itself fails. A driver whose allocation the probe
    does not know, and a refusal for lack of rights or memory, are unknown.

    A driver could hand out a copy: a device that copies within the shared buffer shows that too.
    Source: Documentation/driver-api/dma-buf.rst.
    """
    tried = _of(facts, accelerator)
    trials = tried.exports if tried else ()
    own = [each for each in trials if not each.importer]
    yield _decide(facts, tried, EXPORTS, trials, own)


@check(
    "functional-2.import",
    each="accelerators",
    expected="a foreign dma-buf, imported into the accelerator, whose data the accelerator was seen to share",
    passes="The accelerator imports buffers of others, and their data was seen through it.",
    fails="The accelerator's driver refuses every buffer of others.",
    remediation="Implement the import of dma-bufs (for a DRM driver: gem_prime_import_sg_table, or gem_prime_import).",
    owner=Owner.VENDOR,
)
def import_(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """A buffer that is not the accelerator's own was imported into it, and the accelerator was seen to have that memory.

    Buffers come from a dma-buf heap, from udmabuf, from another DRM device, from V4L2. An accelerator's own buffer proves nothing: DRM
    hands back the object that it has already. virtio-gpu claims the import and refuses every foreign buffer, so the capability bit
    counts as a claim. A node is tried where the kernel itself gives the device that name, so another device's in its place proves nothing,
    and refusals of a device that went away meanwhile are taken back. It fails where all foreign buffers were refused as something that the
    driver cannot do; some drivers take only contiguous ones, so one that is taken is enough.
    Source: Documentation/driver-api/dma-buf.rst; drivers/gpu/drm/drm_prime.c.
    """
    tried = _of(facts, accelerator)
    trials = tuple(each for each in tried.imports if each.exporter != accelerator.subject) if tried else ()
    yield _decide(facts, tried, IMPORTS, trials, trials)


def _of(facts: Facts, accelerator: Accelerator) -> DmaBuf | None:
    return next((each for each in facts.dma_buf.open() if each.accelerator == accelerator.subject), None)


def _decide(facts: Facts, tried: DmaBuf | None, bit: int, trials: Iterable[BufferTrial], refusable: Iterable[BufferTrial]) -> Answer:
    """One trial with a proof passes; it fails where all that the accelerator's driver itself could refuse, it refused."""
    evidence = facts.dma_buf.evidence
    if tried is None:
        return Answer(Outcome.UNKNOWN, "the probe did not try this accelerator", evidence, remedy=Remedy.PROBES)
    claimed = "" if tried.claimed is None else "claimed" if tried.claimed & bit else "not claimed"
    proven = [each for each in trials if each.proof and not each.error]
    if proven:
        return Answer(Outcome.PASS, _shown(proven), evidence)
    errors = [each.error for each in refusable]
    if errors and REFUSALS.issuperset(errors):
        said = f"{claimed}, and refused" if claimed else "refused"
        return Answer(Outcome.FAIL, f"{said}: {_shown(refusable)}", evidence)
    observed = "; ".join(part for part in (claimed, _shown(trials), tried.note) if part)
    denied = {"EACCES", "EPERM"}.intersection(errors)
    because = "Nothing was seen through a shared buffer; what a driver claims is no proof."
    return Answer(Outcome.UNKNOWN, observed, evidence, because, remedy=Remedy.ROOT if denied else Remedy.VENDOR)


def _shown(trials: Iterable[BufferTrial]) -> str:
    return some(f"{each.exporter} to {each.importer or 'a descriptor'}: {_result(each)}" for each in trials)


def _result(trial: BufferTrial) -> str:
    return trial.error or trial.proof or "agreed, without proof"
