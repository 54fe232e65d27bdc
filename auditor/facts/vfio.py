"""What VFIO itself says of the accelerators' groups, and what a device read that was told to copy. Document: auditor/probes/vfio.py."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from auditor.facts.probing import read_probe, text
from auditor.facts.reading import EXCERPT
from auditor.facts.types import DmaTrial, Fact, Listing, Missing, Vfio, VfioGroup
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from auditor.facts.reading import Device
    from auditor.facts.types import Accelerator, Plan

LIMIT = 256
"""Groups of a document, devices of a group, trials, and lines of the kernel's log."""

_ERROR = re.compile("(E[A-Z0-9]{1,15})?")
"""The name of an errno, or none."""
_READ = re.compile("([0-9a-f]{2}){0,64}")


def read_vfio(device: Device, plan: Plan, accelerators: Fact[Listing[Accelerator]]) -> Fact[Vfio]:
    """What the probe says of the accelerators here; with the trials of DMA where the plan asks for them."""
    if isinstance(accelerators, Missing):
        return accelerators
    known = {each.sysfs.rpartition("/")[2]: each.subject for each in accelerators.value.items}
    arguments = ("dma",) if plan.probe_dma else ()
    return read_probe(device, "vfio", lambda document: _vfio(document, known, plan), *arguments)


def _vfio(document: dict[str, Any], known: Mapping[str, str], plan: Plan) -> Vfio:
    groups = tuple(group for entry in _list(document["groups"]) for group in _groups(entry, known))
    trials = tuple(map(_trial, _list(document["dma"]))) if plan.probe_dma else ()
    for found in (groups, trials):
        if len({each.accelerator for each in found}) < len(found):
            raise ValueError("an accelerator is there twice")
    return Vfio(groups, trials)


def _groups(entry: dict[str, Any], known: Mapping[str, str]) -> list[VfioGroup]:
    """The group once for each accelerator in it. A device is called `BUS:NAME`, as sysfs names it."""
    what = (text(entry["node"]), _error(entry["error"]), _flag(entry["viable"]), _flag(entry["in_use"]))
    names = [text(each["device"]).partition(":")[2] for each in _list(entry["devices"])]
    return [VfioGroup(known[name], *what) for name in names if name in known]


def _trial(entry: dict[str, Any]) -> DmaTrial:
    read = entry["unmapped_read"]
    seen = "" if read is None else text(read)
    if not _READ.fullmatch(seen):
        raise ValueError("unmapped_read: expected null or hexadecimal digits")
    return DmaTrial(
        accelerator=text(entry["accelerator"]),
        error=_error(entry["error"]),
        mapped=_flag(entry["mapped"]),
        unmapped=_flag(entry["unmapped"]),
        unmapped_read=seen,
        faults=tuple(visible(str(line))[:EXCERPT] for line in _list(entry["faults"])),
        log_error=_error(entry["log_error"]),
    )


def _error(value: Any) -> str:
    name = text(value)
    if not _ERROR.fullmatch(name):
        raise ValueError("expected the name of an errno, or an empty text")
    return name


def _flag(value: Any) -> bool | None:
    if value is not None and type(value) is not bool:
        raise ValueError("expected true, false or null")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > LIMIT:
        raise ValueError(f"expected a list of at most {LIMIT}")
    return value
