"""Which devices of a machine may be accelerators: what the kernel shows of them in sysfs, place by place.

User space reaches an accelerator through a character device. So the classes of /sys/class, the buses of /sys/bus and the registered
numbers of /proc/devices are gone through, and of each character device it is told whether it is an accelerator's (auditor.families), is
known not to be one (auditor.families.others), or is *doubtful*: a person must say. Functions of PCI that have no node are told by class.
A Missing among what is found is a place that could not be looked at, where more may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from auditor.facts.reading import Device, parse
from auditor.facts.types import Missing, Node, Ok
from auditor.families import FAMILIES, Family, is_vfio, others, plain
from auditor.model import Evidence, Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.reading import FileStat

ACCELERATOR_CLASS = "12"
"""PCI base class of processing accelerators (PCI Code and ID Assignment Specification)."""

_NEVER_CLASSES = frozenset({"01", "02", "04", "05", "06", "07", "09", "0a", "0c", "0d", "0e", "0f", "10"})
"""PCI base classes that are handed to guests through VFIO and are no accelerators: storage, network, sound, bridges, USB …"""

_DOUBTFUL_BEHIND_VFIO = frozenset({"08", "11"})
"""System peripherals and signal processing: NPUs are among them, and much that is not."""

_COPROCESSOR = "0b40"

SOFTWARE = frozenset(f"/sys/devices/{bus}/{name}" for bus in ("platform", "faux") for name in ("vgem", "vkms"))
"""DRM drivers without hardware (drivers/gpu/drm/vgem, vkms), by path: their render nodes are no accelerators."""

_PLAIN_FOLDERS = frozenset({"pts", "shm", "mqueue", "hugepages", "fd", "block", "char", "disk", "input", "mapper", "bus"})
"""Folders of /dev whose nodes are all in a class, or are none of its own."""

ALWAYS = frozenset({"accel", "drm", "misc", "pci", "platform"})
"""Classes and buses that are looked at whether they are listed or not, so that a report can say that they are not there."""

LIMIT = 64
"""Doubtful devices that are named; a machine with more is not understood."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device seen in one place: the resolved sysfs path of the device itself (empty: none is linked), and the node that led there.

    `doubt` says why it is not known what the device is; empty for an accelerator.
    """

    sysfs: str
    place: str
    node: Node | None = None
    family: Family | None = None
    doubt: str = ""
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was seen. `channels` are the rpmsg devices behind which a family's cores are, by their path."""

    sightings: tuple[Sighting, ...]
    channels: Mapping[str, Family]
    looked: tuple[Evidence, ...]
    unread: tuple[Missing, ...]


@dataclass(slots=True)
class _Search:
    """One look at a device, as it goes."""

    device: Device
    wanted: tuple[str, ...]
    looked: list[Evidence] = field(default_factory=list)
    unread: list[Missing] = field(default_factory=list)
    found: list[Sighting] = field(default_factory=list)
    channels: dict[str, Family] = field(default_factory=dict)

    def names(self, folder: str) -> tuple[str, ...] | None:
        """The names in a folder; None where there is none."""
        listed = self.device.names(folder)
        if isinstance(listed, Ok):
            return listed.value
        if listed.status is not Status.ABSENT:
            self.unread.append(listed)
        return None

    def entries(self, subsystem: str, *, known: bool = True) -> list[tuple[str, dict[str, str]]]:
        """The devices of a class or bus: path and properties. `known` is whether it is one that is always looked at."""
        asked = parse(self.device.document(base.udev(subsystem)), _entries)
        if known:
            self.looked += [Evidence(place(subsystem), item.status) for item in asked.evidence]
        if isinstance(asked, Ok):
            return list(asked.value)
        if asked.status is not Status.ABSENT:
            self.unread.append(Missing(asked.status, (Evidence(place(subsystem), asked.status),), asked.note, asked.remedy))
        return []

    def tell(self, subsystem: str, entry: tuple[str, dict[str, str]], how: Any) -> None:
        """Add what `how` makes of an entry; one whose properties are not understood is a place that could not be looked at."""
        asked = Ok(entry, (Evidence(place(subsystem), Status.OK),))
        shown = parse(asked, lambda each: tuple(how(subsystem, each[0], each[1])))
        for each in (shown,) if isinstance(shown, Missing) else shown.value:
            if isinstance(each, Missing):
                self.unread.append(each)
            else:
                self.found.append(each)

    # --- classes -------------------------------------------------------------------------------------------------------------------------

    def classes(self) -> None:
        """The classes: those of accelerators' nodes, and those that are not known."""
        listed = self.names("/sys/class")
        wanted = ("accel", "drm", *FAMILIES.node_classes())
        for subsystem in wanted:
            if subsystem in ALWAYS or subsystem in (listed or ()):
                for entry in self.entries(subsystem):
                    self.tell(subsystem, entry, self._member)
        for subsystem in sorted(set(listed or ()) - others.CLASSES - set(wanted)):
            for entry in self.entries(subsystem, known=False):
                self.tell(subsystem, entry, self._stranger)

    def _member(self, subsystem: str, sysfs: str, properties: dict[str, str]) -> Iterator[Sighting | Missing]:
        """A device of a class that accelerators' nodes are in."""
        name = properties.get("DEVNAME", "")
        family = FAMILIES.by_node(subsystem, name)
        if subsystem in {"accel", "drm"}:
            if subsystem == "drm" and not name.startswith("dri/renderD"):  # `card0` may be a mere display
                return
        elif family is None:
            if name and not (subsystem == "misc" and _is_plain_misc(sysfs, name)):
                yield from self._stranger(subsystem, sysfs, properties)
            return
        parent = self.device.stat(f"{sysfs}/device")
        shared = family is not None  # a node of a family's own may have no parent
        if isinstance(parent, Missing) and not (shared and parent.status is Status.ABSENT):
            yield parent
        elif isinstance(parent, Missing):
            yield Sighting("", place(subsystem), self.class_node(subsystem, properties), family)
        elif parent.value.real not in SOFTWARE:
            yield Sighting(parent.value.real, place(subsystem), self.class_node(subsystem, properties), family)

    def _stranger(self, subsystem: str, sysfs: str, properties: dict[str, str]) -> Iterator[Sighting | Missing]:
        """A device of a class, or on a bus, that is not known: doubtful where user space can reach it by a node."""
        if "MAJOR" not in properties or not properties.get("DEVNAME") or properties.get("DEVTYPE") == "disk":
            return
        parent = self.device.stat(f"{sysfs}/device")
        if isinstance(parent, Missing) and parent.status is not Status.ABSENT:
            yield parent
            return
        node = self.class_node(subsystem, properties)
        doubt = f"{node.path}, a character device of the {_kind(subsystem)} {printable(subsystem)}"
        yield Sighting(parent.value.real if isinstance(parent, Ok) else "", place(subsystem), node, doubt=doubt, evidence=parent.evidence)

    def class_node(self, subsystem: str, properties: dict[str, str]) -> Node:
        """The node that a class device's properties name."""
        kind = {"accel": "accel", "drm": "render"}.get(subsystem, "misc")
        return self.node(f"/dev/{properties['DEVNAME']}", kind, int(properties["MAJOR"]), int(properties["MINOR"]))

    def node(self, path: str, kind: str, major: int, minor: int) -> Node:
        """A node as it lies."""
        found = parse(self.device.stat(path), lambda each: _is_node(each, major, minor))
        own = (parse(found, attrgetter(name)) for name in ("mode", "uid", "gid"))
        return Node(path, kind, major, minor, *own)

    # --- buses ---------------------------------------------------------------------------------------------------------------------------

    def buses(self) -> None:
        """The buses: PCI and the platform by what their devices are, rpmsg and USB by name, and those that are not known."""
        listed = self.names("/sys/bus")
        looks = {"pci": self._pci, "platform": self._platform, "rpmsg": self._rpmsg, "usb": self._usb, "mhi": self._stranger}
        for subsystem, how in looks.items():
            if subsystem in ALWAYS or subsystem in (listed or ()):
                for entry in self.entries(subsystem):
                    self.tell(subsystem, entry, how)
        for subsystem in sorted(set(listed or ()) - others.BUSES - looks.keys()):
            for entry in self.entries(subsystem, known=False):
                self.tell(subsystem, entry, self._stranger)

    def _pci(self, subsystem: str, sysfs: str, properties: dict[str, str]) -> Iterator[Sighting | Missing]:
        kind, driver = properties["PCI_CLASS"].zfill(6)[:4].lower(), properties.get("DRIVER", "")
        family = FAMILIES.by_pci(properties.get("PCI_ID", "")) or FAMILIES.by_driver(driver)
        asked = f"pci:{properties['PCI_SLOT_NAME']}" in self.wanted
        vfio = is_vfio(driver)
        doubt = ""
        if not (asked or family or kind.startswith(ACCELERATOR_CLASS)):
            if kind[:2] in _NEVER_CLASSES or plain(driver) in others.DRIVERS or (not vfio and kind != _COPROCESSOR):
                return
            if not vfio or kind[:2] in _DOUBTFUL_BEHIND_VFIO:
                words = {"0b": "a co-processor", "08": "a system peripheral", "11": "a signal processing controller"}[kind[:2]]
                doubt = f"{words} (PCI class 0x{kind}), {f'bound to {printable(driver)}' if driver else 'without a driver'}"
        yield from self._bus_device(subsystem, sysfs, driver, family, doubt)

    def _platform(self, subsystem: str, sysfs: str, properties: dict[str, str]) -> Iterator[Sighting | Missing]:
        driver = properties.get("DRIVER", "")
        compatible = [value for key, value in properties.items() if key.startswith("OF_COMPATIBLE_") and key != "OF_COMPATIBLE_N"]
        family = FAMILIES.by_driver(driver) or FAMILIES.by_compatible(*compatible)
        asked = {f"of:{properties.get('OF_FULLNAME')}", f"platform:{sysfs.rpartition('/')[2]}"} & set(self.wanted)
        if family or asked or is_vfio(driver):
            yield from self._bus_device(subsystem, sysfs, driver, family, "")

    def _rpmsg(self, subsystem: str, sysfs: str, properties: dict[str, str]) -> Iterator[Sighting | Missing]:
        """A channel to another processor: behind some are accelerators, which are looked for from there."""
        name = properties.get("MODALIAS", "").removeprefix("rpmsg:") or sysfs.rpartition("/")[2]
        compatible = [value for key, value in properties.items() if key.startswith("OF_COMPATIBLE_") and key != "OF_COMPATIBLE_N"]
        family = next(filter(None, map(FAMILIES.by_channel, (*compatible, name))), None)
        if family:
            self.channels[sysfs] = family
        elif properties.get("DRIVER") and not name.startswith(others.CHANNELS):
            doubt = f"a channel to another processor (rpmsg {printable(name)}), bound to {printable(properties['DRIVER'])}"
            yield Sighting(sysfs, place(subsystem), doubt=doubt)

    def _usb(self, subsystem: str, sysfs: str, properties: dict[str, str]) -> Iterator[Sighting | Missing]:
        maker, model, *_ = [*properties.get("PRODUCT", "").split("/"), "", ""]
        family = FAMILIES.by_usb(f"{maker.zfill(4)}:{model.zfill(4)}") if maker and model else None
        asked = f"usb:{sysfs.rpartition('/')[2]}" in self.wanted
        if (family or asked) and properties.get("DEVTYPE") == "usb_device":
            node = self.node(f"/dev/{properties['DEVNAME']}", "usb", int(properties["MAJOR"]), int(properties["MINOR"]))
            yield Sighting(sysfs, place(subsystem), node, family)

    def _bus_device(self, subsystem: str, sysfs: str, driver: str, family: Family | None, doubt: str) -> Iterator[Sighting | Missing]:
        yield Sighting(sysfs, place(subsystem), None, family, doubt)
        for node in self._vfio_nodes(sysfs) if is_vfio(driver) else ():
            yield node if isinstance(node, Missing) else Sighting(sysfs, place(subsystem), node, family, doubt)

    def _vfio_nodes(self, sysfs: str) -> Iterator[Node | Missing]:
        """Both of VFIO's interfaces: the group's node, and with iommufd the device's own (Documentation/driver-api/vfio.rst)."""
        group = self.device.link_name(f"{sysfs}/iommu_group")
        if isinstance(group, Ok):
            yield from self._group_node(group.value)
        elif group.status is not Status.ABSENT:
            yield group
        own = self.device.names(f"{sysfs}/vfio-dev")
        if isinstance(own, Missing) and own.status is not Status.ABSENT:
            yield own
        for name in own.value if isinstance(own, Ok) else ():
            found = self.device.stat(f"/dev/vfio/devices/{name}")
            if isinstance(found, Ok):
                yield self.node(f"/dev/vfio/devices/{name}", "vfio", found.value.major, found.value.minor)
            elif found.status is not Status.ABSENT:
                yield found

    def _group_node(self, group: str) -> Iterator[Node | Missing]:
        for path in (f"/dev/vfio/{group}", f"/dev/vfio/noiommu-{group}"):
            found = self.device.stat(path)
            if isinstance(found, Ok):
                yield self.node(path, "vfio", found.value.major, found.value.minor)
                return
            if found.status is not Status.ABSENT:
                yield found
                return
        listed = self.device.names("/dev/vfio")
        if isinstance(listed, Missing):
            yield listed

    # --- character devices that are in no class ------------------------------------------------------------------------------------------

    def numbers(self) -> None:
        """What registered numbers for character devices and shows none of them in sysfs: not every driver may make a class."""
        registered = parse(self.device.text("/proc/devices"), _registered)
        if isinstance(registered, Missing):
            if registered.status is not Status.ABSENT:
                self.unread.append(registered)
            return
        strange = {major: name for major, name in registered.value.items() if not _is_plain_number(name)}
        if not strange:
            return
        shown = self.names("/sys/dev/char")
        classed = {each.partition(":")[0] for each in shown or ()}
        hidden = {int(major): name for major, name in strange.items() if shown is None or major not in classed}
        for path, stat in self._hidden_nodes(set(hidden)):
            name = path.removeprefix("/dev/")
            family = FAMILIES.by_node("", name)
            node = self.node(path, "misc", stat.major, stat.minor)
            doubt = "" if family else f"{printable(path)}, a character device of {printable(hidden[stat.major])} that is in no class"
            self.found.append(Sighting("", "/dev", node, family, doubt, registered.evidence))

    def _hidden_nodes(self, majors: set[int]) -> Iterator[tuple[str, FileStat]]:
        """The nodes with these numbers in /dev and in its folders. Only looked for where there are such numbers."""
        for name in self.names("/dev") or () if majors else ():
            found = self.device.stat(f"/dev/{name}")
            if isinstance(found, Missing):
                if found.status is not Status.ABSENT:
                    self.unread.append(found)
            elif found.value.kind == "character" and found.value.major in majors:
                yield f"/dev/{name}", found.value
            elif found.value.kind == "directory" and name not in _PLAIN_FOLDERS:
                inner = ((each, self.device.stat(f"/dev/{name}/{each}")) for each in self.names(f"/dev/{name}") or ())
                for each, stat in inner:
                    if isinstance(stat, Ok) and stat.value.kind == "character" and stat.value.major in majors:
                        yield f"/dev/{name}/{each}", stat.value


def search(device: Device, wanted: tuple[str, ...]) -> Seen:
    """Go through everything that may be an accelerator; `wanted` are subjects to take for one, whatever they are."""
    each = _Search(device, wanted)
    each.classes()
    each.buses()
    each.numbers()
    doubtful = [one for one in each.found if one.doubt]
    if len(doubtful) > LIMIT:
        note = f"{len(doubtful)} devices are not recognised, more than {LIMIT}"
        each.unread.append(Missing(Status.FAILED, (Evidence("/sys", Status.OK),), note, Remedy.EVIDENCE))
    kept = set(map(id, doubtful[:LIMIT]))
    found = tuple(one for one in each.found if not one.doubt or id(one) in kept)
    return Seen(found, each.channels, tuple(each.looked), tuple(each.unread))


def place(subsystem: str) -> str:
    """Where a class or bus is in sysfs."""
    return f"/sys/bus/{subsystem}/devices" if _kind(subsystem) == "bus" else f"/sys/class/{subsystem}"


def _kind(subsystem: str) -> str:
    return "bus" if subsystem in others.BUSES else "class"


def _is_plain_misc(sysfs: str, node: str) -> bool:
    return bool({sysfs.rpartition("/")[2], node} & others.MISC) or node.startswith(others.MISC_BEGINS)


def _is_plain_number(name: str) -> bool:
    return name in others.NODE_KINDS or name.rstrip("0123456789") in others.NODE_KINDS or name.startswith("tty")


def _entries(document: Any) -> list[tuple[str, dict[str, str]]]:
    """The devices of a udev answer: path and properties."""
    entries = [(entry["sys"], entry["properties"]) for entry in document]
    if not all(isinstance(text, str) for sysfs, properties in entries for text in (sysfs, *properties, *properties.values())):
        raise ValueError("expected texts")
    return entries


def _registered(text: str) -> dict[str, str]:
    """The first part of /proc/devices: `major name` of character devices, by major."""
    lines = text.partition("Block devices:")[0].splitlines()
    if not lines or lines[0].strip() != "Character devices:":
        raise ValueError("expected the list of character devices")
    return {major: name for major, _, name in (line.strip().partition(" ") for line in lines[1:]) if major.isdecimal()}


def _is_node(found: FileStat, major: int, minor: int) -> FileStat:
    if found.kind != "character":
        raise ValueError(f"expected a character device, found a {found.kind}")
    if (found.major, found.minor) != (major, minor):
        raise ValueError(f"expected the device {major}:{minor}, found {found.major}:{found.minor}")
    return found
