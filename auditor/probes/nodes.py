"""The device nodes that an accelerator may have, and whose they are: by the same subjects as the facts have.

Probes go to the device without the facts' reading code between them and sysfs; a test holds the two together.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from auditor.families import FAMILIES

SOFTWARE = frozenset(f"/sys/devices/{bus}/{name}" for bus in ("platform", "faux") for name in ("vgem", "vkms"))
"""DRM devices without hardware, by path: they share buffers, and are no accelerators."""

_CLASSES = ("accel", "drm", *FAMILIES.node_classes())
_CARD = re.compile(r"dri/card[0-9]+")


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device and its nodes. `sysfs` is its resolved folder, `drm` its accel and render nodes, `card` its first display node or empty."""

    subject: str
    sysfs: str
    drm: tuple[str, ...] = ()
    card: str = ""
    other: tuple[str, ...] = ()
    software: bool = False

    @property
    def name(self) -> str:
        """The kernel's name of the device, as its own lists of attachments have it."""
        return os.path.basename(self.sysfs)

    @property
    def is_accelerator(self) -> bool:
        """Whether ML work may run on it."""
        return bool(self.drm or self.other) and not self.software


def find(sysfs: str = "/sys", dev: str = "/dev") -> tuple[Hardware, ...]:
    """The devices with a node of the accel or DRM class, or of a family's own, sorted by subject."""
    places: dict[str, str] = {}
    nodes: dict[str, list[tuple[str, str]]] = {}
    for kind in _CLASSES:
        for name in _names(f"{sysfs}/class/{kind}"):
            place = f"{sysfs}/class/{kind}/{name}"
            node = _properties(place).get("DEVNAME", "")
            if not node or not (kind in {"accel", "drm"} or FAMILIES.by_node(kind, node)):
                continue
            linked = os.path.exists(f"{place}/device")
            if linked or kind not in {"accel", "drm"}:  # a node of a family's own may have no parent
                device = os.path.realpath(f"{place}/device" if linked else place)
                subject = _subject(device) if linked else f"node:{dev}/{node}"
                places.setdefault(subject, device)
                nodes.setdefault(subject, []).append((kind, node))
    return tuple(
        Hardware(
            subject=subject,
            sysfs=places[subject],
            drm=tuple(f"{dev}/{node}" for kind, node in having if kind == "accel" or node.startswith("dri/renderD")),
            card=next((f"{dev}/{node}" for _, node in having if _CARD.fullmatch(node)), ""),
            other=tuple(f"{dev}/{node}" for kind, node in having if kind not in {"accel", "drm"}),
            software=f"/sys{places[subject].removeprefix(sysfs)}" in SOFTWARE,
        )
        for subject, having in sorted(nodes.items())
    )


def _subject(place: str) -> str:
    properties = _properties(place)
    if "PCI_SLOT_NAME" in properties:
        return f"pci:{properties['PCI_SLOT_NAME']}"
    if "OF_FULLNAME" in properties:
        return f"of:{properties['OF_FULLNAME']}"
    parent, name = os.path.split(place)
    address = os.path.basename(parent)
    if name.startswith("virtio") and address.count(":") == 2:  # a virtio device is the PCI function that carries it
        return f"pci:{address}"
    return f"platform:{name}"


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _properties(place: str) -> dict[str, str]:
    try:
        with open(f"{place}/uevent", encoding="utf-8", errors="backslashreplace") as file:
            lines = file.read(65_536).splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)
