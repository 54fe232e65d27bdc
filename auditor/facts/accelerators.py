"""The accelerators of a machine: what was seen of each (auditor.facts.discovery), put together.

One accelerator is the set of its parts. The device that owns a node may be a facade that does no work (a display controller, a device
that a driver made up for several cores, a partition); the cores do DMA, and driver, module and IOMMU group are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from auditor.facts.discovery import Sighting, search
from auditor.facts.iommu import read_group
from auditor.facts.modules import read_module
from auditor.facts.reading import parse
from auditor.facts.types import Accelerator, Fact, Listing, Missing, Node, Ok, Unrecognised
from auditor.families import FAMILIES, Family, plain
from auditor.model import Evidence, Status, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from auditor.facts.reading import Device
    from auditor.facts.types import IommuGroup, Kernel

_UP = 32
"""Parents of a device that are looked at."""

SECURE = "-secure"
"""How the node of a family's protected channel ends (drivers/misc/fastrpc.c, fastrpc_device_register)."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a device is called: a PCI address or a device tree path outlives a boot, an index does not. `home` is its bus device's path."""

    sysfs: str
    home: str
    bus: str
    subject: str
    properties: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Thing:
    """A device with everything that was seen of it."""

    identity: _Identity
    seen: tuple[Sighting, ...]
    driver: Fact[str]
    family: Family | None

    @property
    def doubt(self) -> str:
        """Why it is not known what it is; empty where a sighting tells."""
        return "" if any(not each.doubt for each in self.seen) else "; ".join(dict.fromkeys(each.doubt for each in self.seen))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that led to it."""
        return tuple(each.node for each in self.seen if each.node)


@dataclass(frozen=True, slots=True)
class _Group:
    """The parts of one accelerator: the cores, what stands before them, and nodes that are linked to neither."""

    cores: tuple[_Thing, ...]
    facades: tuple[_Thing, ...] = ()
    loose: tuple[Sighting, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The subjects of all of them."""
        return tuple(each.identity.subject for each in (*self.cores, *self.facades))


def read_accelerators(
    device: Device, kernel: Kernel, wanted: tuple[str, ...] = (), left_out: tuple[str, ...] = ()
) -> Fact[Listing[Accelerator]]:
    """The accelerators, each by the subject of its first core.

    `wanted` names the subjects to audit, of any part, whatever their class and driver; empty for all. `left_out` names devices that are
    none.
    """
    seen = search(device, wanted)
    unread = list(seen.unread)
    things, missing = _things(device, seen.sightings)
    unread += missing
    nameless = [each for each in seen.sightings if not each.sysfs]
    things = [each for each in things if each.identity.subject not in left_out]
    things += _behind(device, seen.channels, things)
    certain = [each for each in things if not each.doubt or each.identity.subject in wanted]
    groups, lone = _grouped(device, certain, nameless, seen.channels)
    known = _Reader(device, kernel)
    items = tuple(known.accelerator(each) for each in groups if not wanted or set(wanted) & set(each.parts))
    doubtful = [] if wanted else [_unrecognised(each) for each in things if each.doubt]
    doubtful += [] if wanted else lone
    doubtful = [each for each in doubtful if each.subject not in left_out]
    return Ok(Listing(items, seen.looked, tuple(unread), tuple(doubtful)), seen.looked)


def _things(device: Device, sightings: Iterable[Sighting]) -> tuple[list[_Thing], list[Missing]]:
    """The devices that were seen, a bus device before what it carries."""
    merged: dict[str, list[Sighting]] = {}
    for sighting in sightings:
        if sighting.sysfs:
            merged.setdefault(sighting.sysfs, []).append(sighting)
    unread: list[Missing] = []
    chosen: dict[str, tuple[_Identity, tuple[Sighting, ...]]] = {}
    for sysfs, seen in sorted(merged.items()):
        identity = _identity(device, sysfs)
        if isinstance(identity, Missing):
            unread.append(identity)
            continue
        _, earlier = chosen.get(identity.home, (identity, ()))
        chosen[identity.home] = identity, (*earlier, *seen)
    return [_thing(device, *each) for each in chosen.values()], unread


def _thing(device: Device, identity: _Identity, seen: tuple[Sighting, ...]) -> _Thing:
    driver = _interface_driver(device, identity.sysfs) if identity.bus == "usb" else device.link_name(f"{identity.sysfs}/driver")
    family = FAMILIES.by_driver(driver.value) if isinstance(driver, Ok) else None
    return _Thing(identity, seen, driver, family or next((each.family for each in seen if each.family), None))


def _interface_driver(device: Device, sysfs: str) -> Fact[str]:
    """The driver of a USB device's interfaces that is not user space's own (usbfs); Missing(ABSENT) where there is none."""
    names = device.names(sysfs)
    if isinstance(names, Missing):
        return names
    links = [device.link_name(f"{sysfs}/{name}/driver") for name in names.value if ":" in name]
    bound = [each for each in links if isinstance(each, Ok) and each.value != "usbfs"]
    unread = [each for each in links if isinstance(each, Missing) and each.status is not Status.ABSENT]
    told: list[Fact[str]] = [*bound, *unread]
    return told[0] if told else Missing(Status.ABSENT, names.evidence, "no kernel driver is bound to its interfaces")


def _identity(device: Device, sysfs: str) -> _Identity | Missing:
    """What a device is called; Missing where it cannot be told, since another name would be another subject."""
    uevent = device.text(f"{sysfs}/uevent")
    if isinstance(uevent, Missing):
        return uevent
    properties = dict(line.split("=", 1) for line in uevent.value.split("\n") if "=" in line)
    parent, _, name = sysfs.rpartition("/")
    address = parent.rpartition("/")[2]
    if "PCI_SLOT_NAME" in properties:
        function = _function(device, sysfs)
        if isinstance(function, Missing):
            return function
        return _Identity(function.value, sysfs, "pci", f"pci:{properties['PCI_SLOT_NAME']}", properties)
    if properties.get("DEVTYPE") == "usb_device":
        return _Identity(sysfs, sysfs, "usb", f"usb:{printable(name)}", properties)
    if "OF_FULLNAME" in properties:
        return _Identity(sysfs, sysfs, "platform", f"of:{properties['OF_FULLNAME']}", properties)
    if name.startswith("virtio") and address.count(":") == 2:  # a virtio device is the PCI function that carries it
        return _Identity(sysfs, parent, "pci", f"pci:{printable(address)}", properties)
    bus = "rpmsg" if properties.get("MODALIAS", "").startswith("rpmsg:") else "platform"
    return _Identity(sysfs, sysfs, bus, f"{bus}:{printable(name)}", properties)


def _function(device: Device, sysfs: str) -> Fact[str]:
    """The path of the device that a driver for the work is bound to: below a virtio transport, the virtio device that it carries."""
    driver = device.link_name(f"{sysfs}/driver")
    if isinstance(driver, Missing) or driver.value != "virtio-pci":
        return Ok(sysfs)
    return parse(device.names(sysfs), lambda names: next((f"{sysfs}/{name}" for name in names if name.startswith("virtio")), sysfs))


# --- parts -------------------------------------------------------------------------------------------------------------------------------


def _grouped(
    device: Device, things: Sequence[_Thing], nameless: Sequence[Sighting], channels: Mapping[str, Family]
) -> tuple[list[_Group], list[Unrecognised]]:
    """The devices by the accelerator that they are parts of, and what is a part of none: a facade or a node without a core."""
    facades = {id(each): family for each in things if (family := _facade_of(device, each))}
    cores = [each for each in things if id(each) not in facades]
    hidden = [each for each in cores if _may_be_facade(device, each, [one.family for one in cores if one.family])]
    cores = [each for each in cores if each not in hidden]
    keyed = sorted(((_key(device, each, channels), each) for each in cores), key=lambda pair: pair[0])
    groups = {key: _Group(tuple(each for _, each in pairs)) for key, pairs in groupby(keyed, key=lambda pair: pair[0])}
    lone = [Unrecognised(each.identity.subject, _MAY_BE_FACADE, each.driver.evidence, alone=False) for each in hidden]
    for each in things:
        family = facades.get(id(each))
        if family is None:
            continue
        own = [key for key, group in groups.items() if group.cores[0].family is family]
        for key in own:
            groups[key] = replace(groups[key], facades=(*groups[key].facades, each))
        if not own:
            what = f"it owns a node of {family.title} and does no work itself; no device that does was found"
            lone.append(Unrecognised(each.identity.subject, what, each.driver.evidence, alone=False))
    for sighting in nameless:
        node = sighting.node
        own = [key for key, group in groups.items() if sighting.family and _belongs(key, group, sighting)]
        for key in own:
            groups[key] = replace(groups[key], loose=(*groups[key].loose, sighting))
        if not own and node:
            no_core = f"{node.path}, a node of {sighting.family.title}; no device that does its work was found" if sighting.family else ""
            evidence = (*sighting.evidence, *node.mode.evidence)
            lone.append(Unrecognised(f"node:{printable(node.path)}", sighting.doubt or no_core, evidence, alone=False))
    return list(groups.values()), lone


def _belongs(key: tuple[str, ...], group: _Group, sighting: Sighting) -> bool:
    """Whether a node without a link belongs to an accelerator: of its family, and of its channel where the family has several."""
    if group.cores[0].family is not sighting.family or sighting.node is None:
        return False
    label = _node_label(sighting)
    return not label or key[2:] in {(), (label,)}


def _node_label(sighting: Sighting) -> str:
    """What a node's name says of its channel: the `cdsp` of `fastrpc-cdsp-secure`."""
    if sighting.node is None or sighting.family is None or not sighting.family.rpmsg:
        return ""
    name = sighting.node.path.removeprefix("/dev/")
    begins = next((each.begins for each in sighting.family.nodes if each.begins.endswith("-") and name.startswith(each.begins)), name)
    return name.removeprefix(begins).removesuffix(SECURE)


def _facade_of(device: Device, thing: _Thing) -> Family | None:
    """The family for which a device is a mere facade. It must be the family's own: without a driver, or driven by its module."""
    name, driver = thing.identity.sysfs.rpartition("/")[2], thing.driver
    own = plain(driver.value) if isinstance(driver, Ok) else ""
    if FAMILIES.by_driver(own):
        return None
    for family in FAMILIES.families:
        named = own in family.facades or any(name == each or name.startswith(f"{each}.") for each in family.facades)
        if named and _is_the_families(device, thing, family):
            return family
    return None


_MAY_BE_FACADE = "it may own a node for another device that does the work: its driver, or the driver's module, could not be read"


def _may_be_facade(device: Device, thing: _Thing, families: Sequence[Family]) -> bool:
    """Whether it cannot be told that a device is no facade of one of these families: alone, it must not be judged."""
    if thing.family is not None:
        return False
    if isinstance(thing.driver, Missing):
        return thing.driver.status is not Status.ABSENT and any(each.facades for each in families)
    if not any(plain(thing.driver.value) in each.facades for each in families):
        return False
    module = device.link_name(f"{thing.identity.sysfs}/driver/module")
    return isinstance(module, Missing) and module.status is not Status.ABSENT


def _is_the_families(device: Device, thing: _Thing, family: Family) -> bool:
    if isinstance(thing.driver, Missing):
        return thing.driver.status is Status.ABSENT
    module = device.link_name(f"{thing.identity.sysfs}/driver/module")
    if isinstance(module, Missing):
        return module.status is Status.ABSENT and plain(thing.driver.value) in family.facades
    return plain(module.value) in family.modules


def _key(device: Device, thing: _Thing, channels: Mapping[str, Family]) -> tuple[str, ...]:
    """What the cores of one accelerator have in common: the facade of their family, the channel they are behind, else only themselves."""
    family = thing.family
    if family and family.rpmsg:
        channel = next((path for path in sorted(channels) if thing.identity.sysfs.startswith(f"{path}/")), None)
        label = device.data(f"{channel}/of_node/label") if channel else Missing(Status.ABSENT)
        return ("family", family.name, printable(label.value.rstrip(b"\0")) if isinstance(label, Ok) else channel or "")
    if family and family.gathers:
        return "family", family.name
    return "device", thing.identity.home


def _behind(device: Device, channels: Mapping[str, Family], things: Sequence[_Thing]) -> list[_Thing]:
    """The cores behind a channel, where none of its family was seen as such: the first device above it that an IOMMU or a tree knows."""
    found: dict[str, _Thing] = {}
    for path, family in sorted(channels.items()):
        if any(each.family is family for each in things) or family.below_channel:
            continue
        above = _above(device, path)
        identity = _identity(device, above) if above else None
        if isinstance(identity, _Identity):
            sighting = Sighting(identity.sysfs, "/sys/bus/rpmsg/devices", None, family)
            found[identity.home] = replace(_thing(device, identity, (sighting,)), family=family)
    return list(found.values())


def _above(device: Device, sysfs: str) -> str:
    """The nearest parent with an IOMMU group, else the nearest on the platform bus; empty where there is neither."""
    parents = [sysfs.rsplit("/", count)[0] for count in range(1, min(_UP, sysfs.count("/") - 2))]
    grouped = (path for path in parents if isinstance(device.link(f"{path}/iommu_group"), Ok))
    placed = (path for path in parents if getattr(device.link_name(f"{path}/subsystem"), "value", "") == "platform")
    return next(grouped, "") or next(placed, "")


def _unrecognised(thing: _Thing) -> Unrecognised:
    evidence = (*thing.driver.evidence, *(item for each in thing.seen for item in each.evidence))
    return Unrecognised(thing.identity.subject, thing.doubt, tuple(dict.fromkeys(evidence)) or (Evidence(thing.identity.sysfs, Status.OK),))


# --- the facts of one --------------------------------------------------------------------------------------------------------------------


class _Reader:
    """What reads the facts of an accelerator from a device."""

    __slots__ = ("device", "kernel")

    def __init__(self, device: Device, kernel: Kernel) -> None:
        self.device, self.kernel = device, kernel

    def accelerator(self, group: _Group) -> Accelerator:
        """The accelerator that is made of these parts."""
        cores = tuple(self._core(each) for each in group.cores)
        parts = (*group.cores, *group.facades)
        nodes = {node.path: node for each in parts for node in each.nodes}
        nodes |= {each.node.path: each.node for each in group.loose if each.node}
        places = {each.place for part in parts for each in part.seen} | {each.place for each in group.loose}
        family = group.cores[0].family
        return replace(
            cores[0],
            found_in=tuple(sorted(places)),
            nodes=tuple(nodes[path] for path in sorted(nodes)),
            cores=cores if len(cores) > 1 else (),
            parts=group.parts,
            family=family.name if family else "",
        )

    def _core(self, thing: _Thing) -> Accelerator:
        identity = thing.identity
        return Accelerator(
            subject=identity.subject,
            bus=identity.bus,
            sysfs=identity.sysfs,
            found_in=tuple(sorted({each.place for each in thing.seen})),
            ids=_ids(identity.bus, identity.properties),
            modalias=identity.properties.get("MODALIAS", ""),
            nodes=(),
            driver=thing.driver,
            module=read_module(self.device, self.kernel, identity.sysfs, thing.driver),
            group=self._group(identity),
            paging=self._paging(thing.family),
            parts=(identity.subject,),
            family=thing.family.name if thing.family else "",
        )

    def _paging(self, family: Family | None) -> Fact[bool]:
        """What the driver's parameter says that has it attach a translating domain."""
        if family is None or not family.paging:
            return Missing(Status.ABSENT)
        return self.device.switch(f"/sys/module/{family.modules[0]}/parameters/{family.paging}")

    def _group(self, identity: _Identity) -> Fact[IommuGroup]:
        """The device's group; of a USB device, which does no DMA itself, that of the controller that it hangs on."""
        if identity.bus != "usb":
            return read_group(self.device, identity.home)
        above = _above(self.device, identity.sysfs)
        return read_group(self.device, above or identity.home)


def _ids(bus: str, properties: dict[str, str]) -> dict[str, str]:
    if bus == "pci" and ":" in properties.get("PCI_ID", ""):
        vendor, found = properties["PCI_ID"].lower().split(":", 1)
        return {"vendor": vendor, "device": found, "class": properties.get("PCI_CLASS", "").zfill(6).lower()}
    if bus == "usb" and properties.get("PRODUCT", "").count("/") == 2:
        vendor, found, _ = properties["PRODUCT"].lower().split("/")
        return {"vendor": vendor.zfill(4), "product": found.zfill(4)}
    compatible = properties.get("OF_COMPATIBLE_0")
    return {"compatible": compatible} if compatible else {}
