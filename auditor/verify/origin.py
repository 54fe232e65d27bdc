"""Whether what the kernel loads from a file can be relied on to be what was built: verified boot covers it, and LoadPin insists on it.

Three answers, each with what it rests on. `OPEN` needs something that was read to say so; what was not read leaves it `UNDECIDED`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.facts.types import Missing, Ok, mount_of
from auditor.model import Evidence, Remedy, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Fact, Loading, LoadPin


class Cover(enum.Enum):
    """Whether an origin is relied on."""

    ENFORCED = "enforced"
    OPEN = "open"
    UNDECIDED = "undecided"


DEVELOPER = "the device is in developer mode, where verified boot covers nothing"


@dataclass(frozen=True, slots=True)
class Origin:
    """The answer, in words too; `missing` is the first thing that was not read, where that is what left it undecided."""

    cover: Cover
    reason: str
    evidence: tuple[Evidence, ...] = ()
    missing: Missing | None = None


def verified_root(loading: Loading) -> Origin:
    """Whether the root is one that firmware in normal mode, the kernel's command line and dm-verity vouch for.

    In developer mode the kernel may be anyone's, so nothing about the device as it is sold can be said.
    """
    boot = loading.verified_boot
    if isinstance(boot.mode, Missing):
        return _undecided(boot.mode)
    if boot.mode.value == "developer":
        return Origin(Cover.UNDECIDED, DEVELOPER, boot.mode.evidence)
    if isinstance(boot.verity, Ok) and not boot.verity.value:
        return Origin(Cover.OPEN, "the root is no dm-verity device", boot.verity.evidence)
    if isinstance(boot.verity, Ok) and not boot.mode.value:
        return Origin(Cover.UNDECIDED, "nothing says that ChromeOS firmware verified this kernel", boot.mode.evidence)
    if isinstance(boot.verity, Ok) and isinstance(boot.root_read_only, Ok) and not boot.root_read_only.value:
        return Origin(Cover.UNDECIDED, "the root is mounted writable, which no dm-verity device can be", boot.root_read_only.evidence)
    return _all("the root is verified by dm-verity, in normal mode", boot.verity, boot.root_read_only, boot.mode)


def covered(loading: Loading, path: str) -> Origin:
    """Whether a file, by its resolved path, lies on the verified root."""
    root = verified_root(loading)
    if root.cover is not Cover.ENFORCED:
        return root
    if isinstance(loading.mounts, Missing):
        return _undecided(loading.mounts)
    holder, whole = mount_of(loading.mounts.value, path), mount_of(loading.mounts.value, "/")
    evidence = (*root.evidence, *loading.mounts.evidence)
    if holder is None or whole is None or holder.device != whole.device:
        return Origin(Cover.UNDECIDED, f"{path} is on another file system than the verified root", evidence)
    return Origin(Cover.ENFORCED, f"{path} lies on the verified root", evidence)


def pinned(loading: Loading, kind: str) -> Origin:
    """Whether LoadPin lets the kernel load files of a kind, `firmware` or `kernel-module`, from the root file system only."""
    loadpin = loading.loadpin
    faults = [reason for reason in _faults(loadpin, kind) if reason]
    if faults:
        return Origin(Cover.OPEN, *faults[0])
    known = _all("LoadPin enforces", loadpin.enforcing, loadpin.excluded, loadpin.pinned, loading.mounts)
    if known.cover is not Cover.ENFORCED:
        return known
    whole = mount_of(loading.mounts.open(), "/")
    if whole is None or whole.device != loadpin.pinned.open().device:
        return Origin(Cover.OPEN, f"LoadPin pinned {loadpin.pinned.open().device}, which is not the root file system", known.evidence)
    return Origin(Cover.ENFORCED, f"LoadPin holds {kind} to the root file system", known.evidence)


def enforced(loading: Loading, path: str, kind: str) -> Origin:
    """Whether what the kernel loads as `kind` from `path` is on the verified root, and can come from nowhere else."""
    mode = loading.verified_boot.mode
    if isinstance(mode, Missing) or mode.value == "developer":
        return verified_root(loading)
    parts = (covered(loading, path), pinned(loading, kind))
    worst = next((each for cover in (Cover.OPEN, Cover.UNDECIDED) for each in parts if each.cover is cover), None)
    if worst:
        return worst
    evidence = tuple(dict.fromkeys(item for each in parts for item in each.evidence))
    return Origin(Cover.ENFORCED, "; ".join(each.reason for each in parts), evidence)


def _faults(loadpin: LoadPin, kind: str) -> Iterator[tuple[str, tuple[Evidence, ...]] | None]:
    """What was read that lets other files in."""
    if isinstance(loadpin.enforcing, Missing):
        if loadpin.enforcing.status is Status.ABSENT:
            yield "the kernel has no LoadPin", loadpin.enforcing.evidence
    elif not loadpin.enforcing.value:
        yield "LoadPin does not enforce", loadpin.enforcing.evidence
    if isinstance(loadpin.excluded, Ok) and kind in loadpin.excluded.value:
        yield f"LoadPin is told to leave {kind} out", loadpin.excluded.evidence
    if isinstance(loadpin.pinned, Ok) and not loadpin.pinned.value.read_only:
        yield f"LoadPin pinned {loadpin.pinned.value.device}, which can be written", loadpin.pinned.evidence


def _all(reason: str, *facts: Fact[object]) -> Origin:
    missing = next((fact for fact in facts if isinstance(fact, Missing)), None)
    if missing:
        return _undecided(missing)
    return Origin(Cover.ENFORCED, reason, tuple(dict.fromkeys(item for fact in facts for item in fact.evidence)))


def _undecided(missing: Missing) -> Origin:
    where = missing.evidence[0].path.removesuffix(":") if missing.evidence else "what decides it"
    reason = f"{where}: {missing.note or 'not read'}"
    return Origin(
        Cover.UNDECIDED, reason, missing.evidence, Missing(missing.status, missing.evidence, missing.note, missing.remedy or Remedy.LIVE)
    )
