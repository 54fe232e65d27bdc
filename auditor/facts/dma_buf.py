"""What the dma-buf probe found, as its record holds it.

The answer to the question `probe dma-buf` is one JSON document:

    {"schema": "crosml-audit/probe/1", "probe": "dma-buf", "accelerators": [{
        "accelerator": "pci:0000:00:05.0", "driver": "edu_accel", "claimed": 3, "note": "", "address_space": null,
        "exports": [{"exporter": "pci:0000:00:05.0", "importer": "vgem", "error": "", "proof": "same-inode"}],
        "imports": [{"exporter": "dma_heap:system", "importer": "pci:0000:00:05.0", "error": "ENODEV", "proof": ""}]}]}

`accelerator` is a subject; an `exporter` or `importer` that is the accelerator has its subject, another its name; `importer` is empty
where only a file descriptor was asked for. `address_space` is the size of each process's own address space on the device, where the driver
says that there is one (msm does only where it attached page tables for each process). `claimed` is the value of DRM_CAP_PRIME (1 import, 2
export), null where the node has no such capability. `error` is the name of an errno, empty where the kernel agreed; `proof` says how it
was seen that the importer has the exporter's memory: `device-copy` (the device moved data that the other side then read), `same-inode`
(the importer's handle exported again is the same buffer), `attachment` (the kernel lists the importer's device as attached), or empty.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from auditor.facts.probing import read_probe, text
from auditor.facts.types import BufferTrial, DmaBuf, Fact, Listing, Missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from auditor.facts.reading import Device
    from auditor.facts.types import Accelerator

PROOFS = frozenset({"", "device-copy", "same-inode", "attachment"})

LIMIT = 1024
"""Accelerators of a document, and trials of an accelerator."""

_ERROR = re.compile("E[A-Z0-9]{1,15}")
"""The name of an errno: also those that the kernel has for itself and a driver lets out (ENOTSUPP)."""


def read_dma_buf(device: Device, accelerators: Fact[Listing[Accelerator]]) -> Fact[tuple[DmaBuf, ...]]:
    """What was tried with each accelerator's nodes; of subjects that are accelerators here, each once."""
    if isinstance(accelerators, Missing):
        return accelerators
    known = {name: each.subject for each in accelerators.value.items for name in _names(each)}
    return read_probe(device, "dma-buf", lambda document: _results(document["accelerators"], known))


def _names(accelerator: Accelerator) -> tuple[str, ...]:
    """What the probe may call an accelerator: it knows the device that owns a node, else the node."""
    return accelerator.subject, *accelerator.parts, *(f"node:{each.path}" for each in accelerator.nodes)


def _results(entries: Any, known: Mapping[str, str]) -> tuple[DmaBuf, ...]:
    if len({entry["accelerator"] for entry in _list(entries)}) < len(entries):
        raise ValueError("accelerators: one is there twice")
    results: dict[str, DmaBuf] = {}
    for each in (_result(entry, known) for entry in entries):
        earlier = results.get(each.accelerator)
        results[each.accelerator] = _together(earlier, each) if earlier else each
    return tuple(results[subject] for subject in sorted(set(known.values()) & results.keys()))


def _together(first: DmaBuf, second: DmaBuf) -> DmaBuf:
    """What was tried at two nodes of one accelerator."""
    return DmaBuf(
        accelerator=first.accelerator,
        driver=first.driver or second.driver,
        claimed=second.claimed if first.claimed is None else first.claimed,
        exports=(*first.exports, *second.exports),
        imports=(*first.imports, *second.imports),
        note="; ".join(filter(None, (first.note, second.note))),
        address_space=first.address_space or second.address_space,
    )


def _result(entry: dict[str, Any], known: Mapping[str, str]) -> DmaBuf:
    claimed = entry["claimed"]
    if claimed is not None and (type(claimed) is not int or not 0 <= claimed <= 3):
        raise ValueError("claimed: expected null or 0 to 3")
    return DmaBuf(
        accelerator=known.get(text(entry["accelerator"]), text(entry["accelerator"])),
        driver=text(entry["driver"]),
        claimed=claimed,
        exports=tuple(_trial(each, known) for each in _list(entry["exports"])),
        imports=tuple(_trial(each, known) for each in _list(entry["imports"])),
        note=text(entry["note"]),
        address_space=_size(entry.get("address_space")),  # not in records of an earlier collector
    )


def _size(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 0 < value < 1 << 64):
        raise ValueError("address_space: expected null or a number of bytes")
    return value


def _trial(entry: dict[str, Any], known: Mapping[str, str]) -> BufferTrial:
    exporter, importer = (known.get(name, name) for name in (text(entry["exporter"]), text(entry["importer"])))
    trial = BufferTrial(exporter, importer, text(entry["error"]), text(entry["proof"]))
    if trial.error and not _ERROR.fullmatch(trial.error):
        raise ValueError("error: expected the name of an errno")
    if trial.proof not in PROOFS or (trial.proof and (trial.error or not trial.importer)):
        raise ValueError("proof: expected one that goes with an importer and without an error")
    return trial


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > LIMIT:
        raise ValueError(f"expected a list of at most {LIMIT}")
    return value
