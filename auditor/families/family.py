"""What an entry of the table of families has, and how an entry is found."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_READ_WRITE = 3


class Work(enum.Enum):
    """What the kernel counts of an accelerator's work. The value is what a record calls it."""

    ENGINE_TIME = "fdinfo-engine"
    """`drm-engine-NAME: N ns` of the worker's own descriptor (Documentation/gpu/drm-usage-stats.rst)."""
    CYCLES = "fdinfo-cycles"
    """`drm-cycles-NAME` and `drm-total-cycles-NAME`, each as a difference (the same)."""
    BUSY_TIME = "device-busy-time"
    """`npu_busy_time_us` of the whole device (Documentation/ABI, ivpu_sysfs.c): counts only while nobody else holds a node of it."""
    SCHEDULER = "scheduler-events"
    """`drm_sched_job_run` and `drm_sched_job_done` of the clients that the worker's descriptors name (drivers/gpu/drm/scheduler)."""
    COMPLETIONS = "command-completions"
    """The completed commands that DRM_AMDXDNA_GET_ARRAY gives for a process (include/uapi/drm/amdxdna_accel.h)."""

    @property
    def whole_device(self) -> bool:
        """Whether it counts everyone's work on the device, not the worker's alone."""
        return self is Work.BUSY_TIME

    @property
    def in_time(self) -> bool:
        """Whether it is a time; else it is a number of commands, and says nothing of how long they took."""
        return self is not Work.COMPLETIONS

    @property
    def source(self) -> str:
        """What is read, in words."""
        return _SOURCES[self]

    @property
    def worth(self) -> str:
        """What it proves, in words."""
        if self.whole_device:
            return "of the whole device: proof while nobody else holds a node of it, and where it rested before the run"
        if not self.in_time:
            return "of the process: proof where each inference has a command and the processor did less than half of its work"
        return "of the process: proof"


_SOURCES = {
    Work.ENGINE_TIME: "drm-engine-* of the process's descriptors (fdinfo)",
    Work.CYCLES: "drm-cycles-* by drm-total-cycles-* of the process's descriptors (fdinfo)",
    Work.BUSY_TIME: "npu_busy_time_us of the device (sysfs)",
    Work.SCHEDULER: "drm_sched_job_run to drm_sched_job_done of the process's clients (trace events of Linux 7.2)",
    Work.COMPLETIONS: "commands completed for the process (DRM_AMDXDNA_GET_ARRAY)",
}


class Loader(enum.Enum):
    """Who loads an accelerator's firmware."""

    NONE = "none"
    """Nobody: the driver takes none."""
    DRIVER = "driver"
    REMOTEPROC = "remoteproc"
    MHI = "mhi"
    FLASH = "flash"
    """It starts from memory of its own."""
    USER_SPACE = "user space"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A driver in mainline: its folders in the kernel's tree, and the devices that it takes, as beginnings and parts (`C…`) of modaliases.

    `since` is the release it first came with; empty where it is older than any kernel that ships today.
    """

    folders: tuple[str, ...]
    devices: tuple[str, ...]
    since: str = ""

    def takes(self, modalias: str) -> bool:
        """Whether the driver takes devices with this modalias, of the maker if not of the very model."""
        return any(part in modalias if part.startswith("C") else modalias.startswith(part) for part in self.devices)


@dataclass(frozen=True, slots=True)
class NodeName:
    """A kind of device node: the sysfs class that has it (empty: none, the driver registers numbers only), and how its name begins.

    `shared` is a node that belongs to all devices of the family, with no link to one.
    """

    subsystem: str
    begins: str
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Allocation:
    """The DRM command that allocates a buffer: what the header calls it, its index, and its structure by C names with what goes in.

    The result is in the field `handle` (or `bo_handle`). `layout` (struct's) has no padding that is not a field.
    """

    header: str
    macro: str
    struct: str
    index: int
    layout: str
    fields: tuple[tuple[str, int], ...]

    @property
    def request(self) -> int:
        """The number of the command (include/uapi/asm-generic/ioctl.h): reads and writes its structure."""
        return _READ_WRITE << 30 | struct.calcsize(self.layout) << 16 | ord("d") << 8 | self.index

    @property
    def handle(self) -> int:
        """Where in the structure the kernel leaves the handle."""
        return next(at for at, (name, _) in enumerate(self.fields) if name in {"handle", "bo_handle"})


@dataclass(frozen=True, slots=True)
class Family:
    """One driver's accelerators. Driver and module names have `_` for `-`."""

    name: str
    title: str
    source: str
    """Where the entry was read."""
    modules: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    """The drivers, as sysfs names them, of the devices that do the work (its cores)."""
    pci: tuple[str, ...] = ()
    """`vendor:device`: devices that are accelerators whatever their class, and without a driver too."""
    compatible: tuple[str, ...] = ()
    """Beginnings of device tree compatibles of the cores; `*` stands for any text."""
    rpmsg: tuple[str, ...] = ()
    """Beginnings of the names of channels on the rpmsg bus behind which the cores are."""
    usb: tuple[str, ...] = ()
    """`vendor:product`."""
    nodes: tuple[NodeName, ...] = ()
    """Nodes beside those of the accel class and DRM's render nodes, which every family may have."""
    facades: tuple[str, ...] = ()
    """Devices that own the node and do no work: by the beginning of their name in sysfs, or by their driver."""
    gathers: bool = False
    """Whether all its cores are one accelerator, behind one facade."""
    below_channel: bool = False
    """Whether its cores are below its channel on the rpmsg bus; else the device above it does the work."""
    upstream: Upstream | None = None
    elsewhere: str = ""
    """Why it is known not to be in mainline."""
    drm: str = ""
    """What the driver calls itself in DRM_IOCTL_VERSION, where that is not its module's name."""
    trace: tuple[str, ...] = ()
    """Its trace systems: TRACE_SYSTEM of its own header, or the DRM scheduler's where that runs its jobs."""
    allocation: Allocation | None = None
    copies: int | None = None
    """The command by which its device copies inside of a buffer."""
    dma_buf: str = ""
    """What is known of how it shares buffers."""
    images: tuple[str, ...] = ()
    """Images that its modinfo does not name, as patterns below the firmware folder: those of a catalogue inside of the driver."""
    work: tuple[Work, ...] = ()
    profiling: str = ""
    """What to write to sysfs `profiling` so that it counts at all."""
    memory: bool = False
    """Whether its fdinfo says how much memory a client holds."""
    firmware: Loader = Loader.UNKNOWN
    paging: str = ""
    """The module's parameter that has it attach a translating domain, whatever the group's default is."""
    own_tables: bool = False
    """Whether the driver may attach page tables of its own for each process, which only it can tell."""
    identity: str = ""
    """Why the kernel makes identity the default of its group, and what helps then."""

    def __post_init__(self) -> None:
        """Raise ValueError for an entry that contradicts itself."""
        if not (self.name and self.title and self.source):
            raise ValueError(f"{self.name or 'an entry'}: expected a name, a title and a source")
        if any("-" in each for each in (*self.modules,)):
            raise ValueError(f"{self.name}: modules: expected names with _ for -")
        if self.upstream and self.elsewhere:
            raise ValueError(f"{self.name}: upstream and elsewhere are mutually exclusive")
        if not (self.drivers or self.modules or self.usb or self.nodes):
            raise ValueError(f"{self.name}: expected drivers, modules, usb or nodes")
        for each in (*self.pci, *self.usb):
            if len(each) != 9 or each[4] != ":" or not set(each.replace(":", "")) <= set("0123456789abcdef"):
                raise ValueError(f"{self.name}: {each}: expected vendor:device, four lower-case hexadecimal digits each")

    @property
    def unseen(self) -> str:
        """Why nothing shows its work, and what the driver would have to offer; empty where something does."""
        if self.work:
            return ""
        if not self.modules and not self.drivers:
            return f"{self.title}: no kernel driver drives it, so the kernel counts nothing of its work. {_TO_OFFER}"
        return f"{self.title}: its driver counts nothing of its work where the kernel shows it. {_TO_OFFER}"

    @property
    def drm_names(self) -> tuple[str, ...]:
        """What its drivers call themselves in DRM_IOCTL_VERSION."""
        return (self.drm,) if self.drm else self.modules


_TO_OFFER = (
    "A driver has to write drm-driver, drm-client-id and drm-engine-NAME to the fdinfo of its node "
    "(Documentation/gpu/drm-usage-stats.rst), or run its jobs by the DRM scheduler."
)


def plain(name: str) -> str:
    """A driver's or module's name as the table has it: `-` and `_` are the same (kernel/params.c, parameq)."""
    return name.replace("-", "_").replace(",", "_")


VFIO_BUSES = frozenset({"vfio_pci", "vfio_platform", "vfio_amba", "vfio_fsl_mc", "vfio_cdx"})
VFIO_VARIANTS = frozenset({
    "hisi_acc_vfio_pci", "mlx5_vfio_pci", "nvgrace_gpu_vfio_pci", "pds_vfio_pci", "qat_vfio_pci", "virtio_vfio_pci", "xe_vfio_pci",
    "ism_vfio_pci",
})  # fmt: skip
"""Variant drivers: each is vfio-pci with what a device's migration or memory takes (drivers/vfio/pci of 6.12 and 7.2)."""


def is_vfio(driver: str) -> bool:
    """Whether a driver of this name is one that hands devices to user space (drivers/vfio). Any driver may call itself so."""
    return plain(driver) in VFIO_BUSES | VFIO_VARIANTS


@dataclass(frozen=True, slots=True)
class Table:
    """The families, with the ways to find one."""

    families: tuple[Family, ...]

    def __post_init__(self) -> None:
        """Raise ValueError where two entries claim the same name, driver, module or device."""
        _unique("name", (each.name for each in self.families))
        _unique("driver", (name for each in self.families for name in each.drivers))
        _unique("module", (name for each in self.families for name in each.modules))
        _unique("device", (name for each in self.families for name in (*each.pci, *each.usb)))
        _unique("DRM name", (name for each in self.families for name in each.drm_names))

    def by_name(self, name: str) -> Family | None:
        """The family of this name."""
        return next((each for each in self.families if each.name == name), None)

    def by_driver(self, driver: str) -> Family | None:
        """The family whose cores a driver of this name runs."""
        return next((each for each in self.families if plain(driver) in each.drivers), None)

    def by_module(self, module: str) -> Family | None:
        """The family whose driver is this kernel module."""
        return next((each for each in self.families if plain(module) in each.modules), None)

    def by_pci(self, identity: str) -> Family | None:
        """The family of a PCI function, `vendor:device` in hexadecimal."""
        return next((each for each in self.families if identity.lower() in each.pci), None)

    def by_usb(self, identity: str) -> Family | None:
        """The family of a USB device, `vendor:product` in hexadecimal."""
        return next((each for each in self.families if identity.lower() in each.usb), None)

    def by_compatible(self, *compatibles: str) -> Family | None:
        """The family of a device tree node; its first compatible decides before its second."""
        begun = ((text, each) for text in compatibles for each in self.families)
        return next((each for text, each in begun if any(fnmatchcase(text, f"{one}*") for one in each.compatible)), None)

    def by_channel(self, name: str) -> Family | None:
        """The family behind a channel of the rpmsg bus."""
        return next((each for each in self.families if name.startswith(each.rpmsg or ("\0",))), None)

    def by_node(self, subsystem: str, node: str) -> Family | None:
        """The family that a node of a class belongs to, by its name below /dev."""
        return next((each for each in self.families if any(_names(one, subsystem, node) for one in each.nodes)), None)

    def by_drm_name(self, name: str) -> Family | None:
        """The family whose driver has this name in DRM_IOCTL_VERSION."""
        return next((each for each in self.families if name in each.drm_names), None)

    def node_classes(self) -> tuple[str, ...]:
        """The sysfs classes, beside accel and drm, in which a family's nodes are; sorted."""
        return tuple(sorted({node.subsystem for each in self.families for node in each.nodes if node.subsystem}))

    def trace_systems(self) -> frozenset[str]:
        """All families' trace systems."""
        return frozenset(system for each in self.families for system in each.trace)


def _names(pattern: NodeName, subsystem: str, node: str) -> bool:
    return pattern.subsystem == subsystem and node.startswith(pattern.begins)


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name}: two families have it")
        seen.add(name)
