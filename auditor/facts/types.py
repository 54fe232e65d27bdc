"""The facts about a device: frozen dataclasses without verdicts, the seam between reading and judging.

A field of type `Fact[T]` is `Ok(value, evidence)` or `Missing(status, evidence)`. Opening a Missing raises `MissingFact`, which the engine
turns into `unknown` with what would collect it. A `Listing` says beside what was found what could not be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NoReturn, TypeVar

from auditor.model import Evidence, ModelRun, PinnedBy, Remedy, Status, ZooModelUsed, printable
from auditor.statistics import NO_DRIFT, Drift, Interval

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Ok(Generic[T_co]):
    """A fact that was read, and where."""

    value: T_co
    evidence: tuple[Evidence, ...] = ()

    @property
    def status(self) -> Status:
        """`ok`."""
        return Status.OK

    def open(self) -> T_co:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Missing:
    """A fact that could not be had: `status` says how, `remedy` what would collect it, `note` what was wrong with it.

    `advice` says how to collect it where the remedy's own words would not do here.
    """

    status: Status
    evidence: tuple[Evidence, ...] = ()
    note: str = ""
    remedy: Remedy | None = None
    advice: str | None = field(default=None, compare=False)

    def open(self) -> NoReturn:
        """Raise MissingFact: there is no value to judge."""
        raise MissingFact(self)


Fact = Ok[T] | Missing


class MissingFact(Exception):  # noqa: N818  # no error: the ordinary way in which a check ends without evidence
    """A check opened a fact that is missing."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.note)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """A device of which it is not known whether it is an accelerator: a person must say. `what` is why it may be one."""

    subject: str
    what: str
    evidence: tuple[Evidence, ...] = ()
    alone: bool = True
    """Whether it can be audited as an accelerator by itself."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T_co]):
    """What was found, the places that could not be looked at (where more may be), and what may be one more."""

    items: tuple[T_co, ...]
    evidence: tuple[Evidence, ...] = ()
    unread: tuple[Missing, ...] = ()
    unrecognised: tuple[Unrecognised, ...] = ()


# --- what the audit was asked to look at -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What this audit was asked to look at; part of the record. `runs` is the number of recorded repetitions of each model by its name."""

    accelerators: tuple[str, ...] = ()
    not_accelerators: tuple[str, ...] = ()
    """Devices that the user says are none."""
    firmware_images: tuple[str, ...] = ()
    """Files that the user says are the images that a driver in user space loads."""
    delegate: str | None = None
    delegate_options: tuple[tuple[str, str], ...] = ()
    stable_delegate: str | None = None
    """The settings file that names a stable delegate, where there is no `delegate`."""
    zoo_version: str = ""
    models: tuple[ZooModelUsed, ...] = ()
    archive: str = ""
    """sha512 of the archive that `--zoo` named; empty for a folder."""
    runs: tuple[tuple[str, int], ...] = ()
    demonstration: bool = False
    zoo_left_out: bool = False
    zoo_note: str = ""
    """Why no model was run, where none was."""
    probe_dma: bool = False
    """Whether the probe of VFIO was to have devices copy from where nothing is mapped."""
    command: tuple[str, ...] = ()
    """The command line that made the record, an argument each."""
    user: str = ""
    """The user who typed it."""
    uid: int | None = None
    """The user id as which the device was read; None where nothing was run on it, or the record does not say."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a device says it is: texts for people, which decide nothing. None where it does not say, or it could not be read."""

    board: str | None = None
    build: str | None = None
    firmware: str | None = None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An RSA key that whoever audits vouches for; `id` is what images call it, in hexadecimal."""

    id: str
    modulus: int
    exponent: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What the judge is told in addition to the facts: firmware roots, the base image's files, the digests of the zoo's files.

    `trust_roots` are sha256. `manifest` has, by the model's name, the sha256 of each file that the user pins; `published` those that the
    requirement set has; `archives` are sha512 of whole archives that the requirement set has.
    """

    trust_roots: frozenset[str] = frozenset()
    keys: tuple[PublicKey, ...] = ()
    base_image: frozenset[str] = frozenset()
    manifest: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    published: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    archives: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    """sha256 of TFLite's own tools that the user pins."""

    def pinned_by(self, used: ZooModelUsed, archive: str) -> PinnedBy | None:
        """What pins a model's file, given the sha512 of `--zoo`; None where nothing does. A manifest that names the model decides alone."""
        if used.name in self.manifest:
            return PinnedBy.MANIFEST if used.sha256 in self.manifest[used.name] else None
        if used.sha256 in self.published.get(used.name, ()):
            return PinnedBy.REQUIREMENT_SET
        return PinnedBy.ARCHIVE if used.origin == "given" and archive in self.archives else None


# --- the kernel --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """The configuration that a kernel was built with: its text, with a line end before each line. Few of its options are ever asked for."""

    text: str

    def get(self, option: str) -> str | None:
        """`y`, `m`, a number or a text without its quotes; None for an option that is not set."""
        start = self.text.rfind(f"\n{option}=")  # the last one counts, as for the kernel's own tools
        if start < 0:
            return None
        start += len(option) + 2
        value = self.text[start : self.text.index("\n", start)].rstrip()
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value

    def __contains__(self, option: str) -> bool:
        return self.get(option) is not None


@dataclass(frozen=True, slots=True)
class Kernel:
    """The running kernel. `command_line` keeps the order of /proc/cmdline; an option that is not set is not in `config`."""

    release: Fact[str]
    command_line: Fact[tuple[str, ...]]
    config: Fact[KernelConfig]
    taint: Fact[int]
    """/proc/sys/kernel/tainted (Documentation/admin-guide/tainted-kernels.rst)."""
    libraries: str = "/lib"
    """The folder with the kernel's `modules` and `firmware`: /usr/lib in a tree that has no /lib, which is then a link made at start."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as a file carries it, with what it is to be checked against; `auditor.verify` says whether it verifies, and by whom."""

    scheme: str
    """What kind it is, for people: `PKCS#7`, `MBN v6`, `AMD $PS1`, `Intel CSS`."""
    signer: str
    """What the file says of its signer: a serial number or a key identifier; empty where it says nothing."""
    value: bytes
    digests: tuple[tuple[str, bytes], ...]
    """The digests of the signed bytes, by algorithm: the alternatives that the format allows."""
    chain: tuple[bytes, ...] = ()
    """Certificates in the file (DER), the signer's first."""
    key: tuple[int, int] | None = None
    """A bare RSA key in the file: modulus, exponent."""
    altered: bool = False
    """Whether what the signature covers has another digest for the content than the content has."""


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """The .modinfo of a kernel module: what its author typed, and nothing more. Keys that may repeat are tuples."""

    license: str
    intree: bool
    aliases: tuple[str, ...]
    firmware: tuple[str, ...]
    depends: tuple[str, ...]
    loaders: tuple[str, ...]
    """The kernel's functions that take firmware in (include/linux/firmware.h and others) and whose names the module's symbols hold."""
    vermagic: str
    version: str
    srcversion: str
    build_id: str
    """The GNU build id of the file, as hexadecimal; empty for none."""
    signed: bool
    """Whether the file ends in a module signature; whose, and whether it verifies, is another question."""
    images: tuple[str, ...]
    """Firmware images inside the file, as `format at offset`; not looked for in a driver that is built in."""
    file: str = ""
    """Where in the kernel's tree a driver that is built in comes from, without suffix (KBUILD_MODFILE); kernels before 5.3 do not say."""


@dataclass(frozen=True, slots=True)
class Module:
    """The kernel module behind a driver. `path` and `info` are Missing(ABSENT) for a driver that is built in."""

    name: str
    built_in: Fact[bool]
    path: Fact[str]
    """The resolved path of the file that modprobe takes; Missing(ABSENT) where the kernel's module index names none."""
    info: Fact[ModuleInfo]
    signature: Fact[Signature]
    """Missing(ABSENT) where the file was read and carries none."""
    kernel_image: Fact[str]
    """The resolved path of the kernel image that is installed for the running release; looked for only for a signed module."""
    kernel_certificates: Fact[tuple[bytes, ...]]
    """The certificates (DER) in that image."""
    build_id: Fact[str]
    """The GNU build id of the module that is loaded, as hexadecimal: it differs from the file's where another file was loaded."""
    taint: Fact[str]
    """The letters of /sys/module/NAME/taint, empty for none: O out of tree, E unsigned, P proprietary, C staging."""
    parameters: Fact[Mapping[str, Fact[str]]]
    """Those that override firmware, by name."""
    needs: Fact[tuple[str, ...]]
    """The files of the modules that are loaded before it, as modules.dep names them: below the folder of the kernel's modules, or absolute.
    Missing(ABSENT) for a driver that is built in, and where depmod never ran."""
    needs_taint: Mapping[str, Fact[str]] = field(default_factory=dict)
    """The taint letters of those, by name, and of those that its own file says it depends on."""


# --- accelerators ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Node:
    """A device node: its path below /dev, its numbers, who may open it."""

    path: str
    kind: str
    """`accel`, `render`, `misc`, `vfio` or `usb`."""
    major: int
    minor: int
    mode: Fact[int]
    uid: Fact[int]
    gid: Fact[int]


@dataclass(frozen=True, slots=True)
class ReservedRegion:
    """A line of an IOMMU group's reserved_regions; addresses inclusive."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class GroupMate:
    """Another device in an accelerator's IOMMU group. `driver` is Missing(ABSENT) where none is bound."""

    subject: str
    driver: Fact[str]
    is_bridge: Fact[bool]
    """Whether it is a PCI-to-PCI bridge, which does no DMA of its own."""


@dataclass(frozen=True, slots=True)
class IommuGroup:
    """An IOMMU group; its number is only valid until the next boot."""

    number: str
    no_iommu: Fact[bool]
    """Whether VFIO made the group up for a device that no IOMMU is in front of."""
    type: Fact[str]
    """`DMA`, `DMA-FQ`, `identity`, `blocked`, `auto` … (Documentation/ABI/testing/sysfs-kernel-iommu_groups)."""
    reserved: Fact[tuple[ReservedRegion, ...]]
    mates: Fact[tuple[GroupMate, ...]]


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device that ML work may run on. `driver`, `module` and `group` are Missing(ABSENT) where there is none.

    It is the set of its parts: what is said of it here is said of its first core, but for `nodes`, which are all parts' together.
    """

    subject: str
    bus: str
    sysfs: str
    found_in: tuple[str, ...]
    ids: Mapping[str, str]
    """What the bus says: `vendor`, `device`, `class` as hexadecimal (PCI), or `compatible` (device tree)."""
    modalias: str
    nodes: tuple[Node, ...]
    driver: Fact[str]
    module: Fact[Module]
    group: Fact[IommuGroup]
    cores: tuple[Accelerator, ...] = ()
    """The devices that do the work, where there are several; each of them must pass."""
    paging: Fact[bool] = Missing(Status.ABSENT)
    """Whether its driver is told to attach a translating domain, whatever the group's default is; Missing(ABSENT) where it has no such
    parameter."""
    parts: tuple[str, ...] = ()
    """The subjects of all its parts, those included that own a node and do no work."""
    family: str = ""
    """The name of its entry in auditor.families; empty for none."""


@dataclass(frozen=True, slots=True)
class Iommu:
    """The system's IOMMUs and what VFIO is allowed. `units` are the names in /sys/class/iommu."""

    units: Fact[tuple[str, ...]]
    groups: Fact[tuple[str, ...]]
    """The names in /sys/kernel/iommu_groups: where they can be listed, a device without a group is one that the kernel put in none."""
    hypervisor: Fact[str]
    """/sys/hypervisor/type, asked only where the kernel has no group; a hypervisor may own the IOMMU. Missing(ABSENT) for none."""
    unsafe_noiommu: Fact[bool]
    """/sys/module/vfio/parameters/enable_unsafe_noiommu_mode; false where VFIO is not loaded or was built without that mode."""


# --- firmware and what enforces its origin -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Envelope:
    """How an image's own format protects it, as far as its bytes say; `auditor.verify` judges the signatures."""

    format: str
    """`qualcomm-mbn`, `amd-psp`, `intel-css`, `intel-npu`, `elf`, `appended-pkcs7`, or `unrecognised`."""
    signatures: tuple[Signature, ...] = ()
    unsigned: str = ""
    """What proves that the file holds no signature; empty where nothing does."""
    mismatched: tuple[str, ...] = ()
    """The parts whose bytes do not have the digest that the envelope has for them."""
    uncovered: int = 0
    """Bytes, other than the padding 0x00 and 0xff, that neither a digest nor a signature covers."""
    unchecked: str = ""
    """What was not understood of how the signature covers the image; empty for nothing."""


@dataclass(frozen=True, slots=True)
class FirmwareImage:
    """An image that a driver names, as the kernel would find it."""

    name: str
    named_by: str
    """`modinfo`, the module parameter that names it, or the option by which the user does."""
    wanted_by: str
    """The accelerator's subject."""
    path: Fact[str]
    """The resolved path of the file that is loaded (after the kernel's search order); Missing(ABSENT) where there is none."""
    shadowed: tuple[str, ...] = ()
    """Other files that the search would have taken had this one not been there."""
    compressed: str = ""
    """`xz`, `zst` or empty."""
    size: Fact[int] = Missing(Status.ABSENT)
    sha256: Fact[str] = Missing(Status.ABSENT)
    """Of the file as it lies."""
    envelope: Fact[Envelope] = Missing(Status.ABSENT)

    @property
    def subject(self) -> str:
        """`file:` and the resolved path; for an image that is not there, the path where distributions put it."""
        return f"file:{printable(self.path.value if isinstance(self.path, Ok) else f'/lib/firmware/{self.name}')}"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo (Documentation/filesystems/proc.rst); `device` is `major:minor`, `read_only` that of the file system."""

    id: int
    parent: int
    point: str
    device: str
    kind: str
    read_only: bool


def mount_of(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """The file system that a resolved path leads into: from the root down, as the kernel walks; what is mounted over stays hidden."""
    children: dict[int, list[Mount]] = {}
    for mount in mounts:
        children.setdefault(mount.parent, []).append(mount)
    known = {mount.id for mount in mounts}
    here = next((mount for mount in mounts if mount.point == "/" and mount.parent not in known), None)
    while here:
        over = [each for each in children.pop(here.id, ()) if f"{path}/".startswith(f"{each.point.rstrip('/')}/")]
        if not over:
            break
        here = min(over, key=lambda each: len(each.point))
    return here


@dataclass(frozen=True, slots=True)
class VerifiedBoot:
    """What decides whether files on the root are those that were built (reference: vboot, dm-verity)."""

    verity: Fact[bool]
    """Whether the root that is mounted is the dm-verity device whose root digest the kernel command line names."""
    root_read_only: Fact[bool]
    mode: Fact[str]
    """As ChromeOS firmware writes it on the kernel command line: `normal`, `developer`, or empty where it did not start this kernel."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The file system that LoadPin lets the kernel load from: its block device as `major:minor`, and whether that is read-only."""

    device: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class LoadPin:
    """The LoadPin security module (Documentation/admin-guide/LSM/LoadPin.rst). Missing(ABSENT) where the kernel has none."""

    enforcing: Fact[bool]
    excluded: Fact[frozenset[str]]
    """What the command line takes out: `firmware`, `kernel-module` … (include/linux/kernel_read_file.h)."""
    pinned: Fact[Pin]
    """What the kernel's log says is pinned; Missing where the log does not say."""


@dataclass(frozen=True, slots=True)
class Loading:
    """Where the kernel takes firmware and modules from, and what stops it from taking others."""

    verified_boot: VerifiedBoot
    mounts: Fact[tuple[Mount, ...]]
    loadpin: LoadPin
    search_path: Fact[str]
    """firmware_class.path: searched before every other place; empty for none."""
    user_helper: Fact[bool]
    """Whether the kernel asks user space for an image that it does not find."""
    module_signatures_enforced: Fact[bool]
    lockdown: Fact[str]
    """`none`, `integrity` or `confidentiality`."""
    ima_appraises_firmware: Fact[bool]


# --- user space --------------------------------------------------------------------------------------------------------------------------


BASE_LIBRARIES = frozenset({
    "libc.so.6", "libm.so.6", "libmvec.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2",
    "libanl.so.1", "libnsl.so.1", "libgcc_s.so.1", "libatomic.so.1", "libstdc++.so.6", "libc++.so.1", "libc++abi.so.1",
    "libunwind.so.1", "libunwind.so.8", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "ld-linux-armhf.so.3", "ld-linux.so.2",
    "ld-linux-riscv64-lp64d.so.1",
})  # fmt: skip
"""The C and C++ run time of a ChromeOS or Debian image, by soname."""

RUNTIME_LIBRARIES = frozenset({"libtensorflowlite.so", "libtensorflowlite_c.so", "libtensorflow-lite.so", "libLiteRt.so"})
"""The TFLite runtime, which loads the driver and is no part of it."""

LARGEST_KNOWN = 32 * 10**6
"""Bytes that none of these libraries has, with its symbols or without; libLiteRt.so has 8 MB, libc.so.6 with all its symbols 18 MB."""


FIRMWARE_MARKS = ("$CPD", "$MN2", "$PS1", "/lib/firmware", "/sys/class/firmware", "/sys/class/remoteproc")
"""Texts in a file that may hold firmware (Intel's and AMD's image formats) or hand it to the kernel itself."""

DOWNLOAD_MARKS = ("curl_easy_perform", "libcurl/", "urlretrieve")
"""Texts in a file that fetches others: it calls libcurl, holds a copy of it, or a script for Python's urllib."""

SIBLINGS = {62: 3, 183: 40}
"""Machines (e_machine) that run another's code as well: x86-64 that of i386, AArch64 that of Arm."""

PACKED_MARK = "UPX!"
"""What UPX leaves in the files that it packs."""


@dataclass(frozen=True, slots=True)
class ElfObject:
    """An ELF file in a closure; `inode` is (device, inode), `size` its apparent size in bytes.

    `loaded` and `memory` are the bytes that PT_LOAD segments take in the file, and once they are loaded.
    """

    path: str
    soname: str
    size: int
    loaded: int
    memory: int
    inode: tuple[int, int]
    machine: int
    bits: int
    needed_by: str
    """The path of the object that brought it in; empty for the first."""
    edge: str
    """`root`, `DT_NEEDED`, `DT_FILTER`, `DT_AUXILIARY`, `dlopen note`, `string`, `beside` (in a folder of the vendor's, named by nothing),
    `settings` or `ld.so.preload` (the place that names it)."""
    system: bool
    """Whether it lies in a system library directory of the image."""
    certain: bool
    """Whether it is loaded by all that was read; else it may be: beside the driver, by a name found elsewhere, for another processor, or
    after something that could not be read."""
    marks: Fact[tuple[str, ...]] = Missing(Status.UNASKED)
    """Those of FIRMWARE_MARKS, DOWNLOAD_MARKS and PACKED_MARK among its bytes; not asked of the run time's own files."""

    @property
    def base(self) -> bool:
        """Whether it is the operating system's C or C++ run time: by name *and* place, since a vendor may name a file as it likes."""
        return self._known(BASE_LIBRARIES)

    @property
    def runtime(self) -> bool:
        """Whether it is the image's own TFLite runtime."""
        return self._known(RUNTIME_LIBRARIES)

    def _known(self, names: frozenset[str]) -> bool:
        """The file bears the name that it claims: `libm.so.6`, `libstdc++.so.6.0.30`, or as older C libraries have it `libm-2.31.so`.

        The driver itself is neither, whatever it is called, and no file that is larger than any of these.
        """
        name = self.path.rpartition("/")[2]
        stem = self.soname.partition(".so")[0]
        bears = name == self.soname or name.startswith((f"{self.soname}.", f"{stem}-2."))
        likely = self.edge not in {"root", "settings"} and self.size <= LARGEST_KNOWN
        return likely and self.system and self.soname in names and bears


@dataclass(frozen=True, slots=True)
class MissingLibrary:
    """A library that an object of a closure needs and that is not found; `optional` where its absence is allowed by the object itself."""

    name: str
    needed_by: str
    edge: str
    searched: tuple[str, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Archive:
    """A packed file beside a driver; `format` is by its first bytes."""

    path: str
    size: int
    format: str


@dataclass(frozen=True, slots=True)
class Closure:
    """The files that a driver's user space loads: breadth first from `roots`."""

    roots: tuple[str, ...]
    objects: tuple[ElfObject, ...]
    missing: tuple[MissingLibrary, ...]
    archives: tuple[Archive, ...]
    unread: tuple[Missing, ...]
    nowhere: tuple[str, ...] = ()
    """Names of libraries among the objects' bytes that nothing in the tree bears: what the driver would open, were it there."""
    named_by: str = ""
    """The device's own settings file that names the delegate, where whoever audits named none."""

    @property
    def foreign(self) -> tuple[ElfObject, ...]:
        """The files for another processor than the delegate's: not its 32-bit sibling, which the same one runs."""
        if not self.objects:
            return ()
        own = self.objects[0].machine
        return tuple(each for each in self.objects if each.machine not in {own, SIBLINGS.get(own)})


@dataclass(frozen=True, slots=True)
class Restraint:
    """How a running process is confined: as its weakest thread is, for it is as free as that one."""

    uid: int
    """The effective one, but 0 where the real, saved or file system one is 0: it can be taken back."""
    capabilities: int
    """CapEff, as the kernel's bit mask."""
    no_new_privs: bool
    seccomp: int
    """0 off, 1 strict, 2 filter."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A running process that holds an accelerator's node open. The subject is `exe:PATH`."""

    subject: str
    node: str
    accelerator: str
    restraint: Fact[Restraint]
    namespaces: Fact[frozenset[str]]
    """Those that differ from PID 1's: `pid`, `mnt`, `net`, `ipc`, `uts`, `user`, `cgroup`."""
    evidence: tuple[Evidence, ...]
    """That it holds the node, and which executable it is; paths have `[pid]` in place of a number that means nothing tomorrow."""


@dataclass(frozen=True, slots=True)
class SandboxDefinition:
    """How a service is confined, as written: a call of minijail0 in an upstart job, or a minijail configuration that no job names.

    The subject is `file:PATH`; a job that calls minijail0 several times has as many definitions.
    """

    subject: str
    command: str
    """The executable that is confined, with its links resolved; empty for a configuration by itself."""
    options: Mapping[str, tuple[str, ...]]
    """minijail0's options by their long name, or by their letter where they have none; those without a value map to an empty tuple."""
    binds: tuple[str, ...]
    """What of the file system is taken along: the sources of bind mounts."""
    policy: str
    """The path of the seccomp policy; empty for none."""
    trouble: str
    """What of it could not be understood; empty where all of it was."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class SeccompPolicy:
    """A minijail seccomp policy with what it includes: by system call the filters written for it, each of which lets calls through.

    Directives have their names (`@default`, `@denylist`).
    """

    path: str
    rules: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Who holds the accelerators' nodes, and how services are meant to be confined."""

    holders: Fact[Listing[Holder]]
    definitions: Fact[Listing[SandboxDefinition]]
    policies: Mapping[str, Fact[SeccompPolicy]]
    """By path, for the definitions' policies."""


@dataclass(frozen=True, slots=True)
class DriverEvents:
    """Where a driver's own trace events are; both empty where it is known to have none."""

    systems: tuple[str, ...]
    """Its trace systems that are there."""
    module: str
    """Its kernel module, where that defines trace events."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """Tools to analyse performance: ftrace events and Perfetto producers."""

    systems: Fact[Mapping[str, tuple[str, ...]]]
    """The events by system, for the systems of accelerator drivers and the generic ones they use."""
    own: Mapping[str, Fact[DriverEvents]]
    """By accelerator, the trace events of its driver."""
    perfetto: Fact[tuple[str, ...]]
    """Files of the user-space driver that hold Perfetto's names."""
    emitted: Fact[Mapping[str, int]]
    """Events (`system:event`) counted by a probe while the accelerator worked."""


# --- what was tried ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BufferTrial:
    """One attempt to share a dma-buf: `exporter` to `importer`, the errno's name where refused, and what proves that data was seen."""

    exporter: str
    importer: str
    """Empty where only a file descriptor was asked for: what is refused then, the exporter refused."""
    error: str
    """Empty where the kernel agreed."""
    proof: str
    """`device-copy`, `same-inode`, `attachment` or empty."""


@dataclass(frozen=True, slots=True)
class DmaBuf:
    """What the dma-buf probe found for one accelerator's nodes. `claimed` is DRM_CAP_PRIME's value, which proves nothing."""

    accelerator: str
    driver: str
    claimed: int | None
    exports: tuple[BufferTrial, ...]
    imports: tuple[BufferTrial, ...]
    note: str
    address_space: int | None = None
    """Bytes of each process's own address space on the device, where its driver says that there is one; None where it does not."""


@dataclass(frozen=True, slots=True)
class VfioGroup:
    """What VFIO says of the group that an accelerator is in; `error` is the errno's name where it could not be asked."""

    accelerator: str
    node: str
    error: str
    viable: bool | None
    """VFIO_GROUP_FLAGS_VIABLE (include/uapi/linux/vfio.h)."""
    in_use: bool | None
    """Whether someone else drives a device of the group."""


@dataclass(frozen=True, slots=True)
class DmaTrial:
    """An accelerator that was told to copy, with one page of memory mapped for it; `error` is the errno's name where it could not be."""

    accelerator: str
    error: str
    mapped: bool | None
    """Whether it read what lies in that page."""
    unmapped: bool | None
    """Whether it read the same where nothing is mapped."""
    unmapped_read: str
    """What it read there, as hexadecimal digits; empty where it was not told to."""
    faults: tuple[str, ...]
    """The lines of the kernel's log that speak of a fault, from then."""
    log_error: str
    """The errno's name where the log could not be read."""


@dataclass(frozen=True, slots=True)
class Vfio:
    """What the probe of VFIO found, of each accelerator at most once. `trials` is empty where the plan did not ask for any."""

    groups: tuple[VfioGroup, ...]
    trials: tuple[DmaTrial, ...]


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """A file of the ChromeOS ML service: a model or its executable. `on_root` is whether it lies on the root file system."""

    path: str
    size: int
    sha256: Fact[str]
    on_root: Fact[bool]


@dataclass(frozen=True, slots=True)
class MlService:
    """The ChromeOS ML service on the device. `executable` is Missing(ABSENT) where a readable device has none."""

    executable: Fact[ServiceFile]
    models: Fact[Listing[ServiceFile]]
    policies: Fact[Listing[SeccompPolicy]]
    """Those that its workers enter: /usr/share/policy/ml_service-*.policy."""
    switches: Fact[tuple[str, ...]]
    """The names of the command line switches (`--task`) of the running daemon and its workers; empty where none runs."""
    restraints: Fact[tuple[Restraint, ...]]
    """How the running daemon and its workers are confined, each different way once; empty where none runs."""


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The runs of one zoo model, each in fresh processes.

    `latency` and `bracket` are intervals over the processes' means (auditor.statistics.look), in microseconds: of the worker's own times,
    and of the controller's clock around them less what an honest worker's exchange costs. `drift` is that clock's.
    """

    model: str
    sha256: str
    runs: tuple[Fact[ModelRun], ...]
    latency: Fact[Interval]
    bracket: Fact[Interval]
    drift: Drift = NO_DRIFT


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that checks may judge."""

    plan: Plan
    settings: Settings
    accelerators: Fact[Listing[Accelerator]]
    kernel: Kernel
    iommu: Iommu
    loading: Loading
    firmware: Fact[Listing[FirmwareImage]]
    closure: Fact[Closure]
    sandbox: Sandbox
    tracing: Tracing
    dma_buf: Fact[tuple[DmaBuf, ...]]
    vfio: Fact[Vfio]
    ml_service: MlService
    models: Fact[tuple[ModelResult, ...]]
    identity: Identity = Identity()

    @property
    def cores(self) -> Fact[Listing[Accelerator]]:
        """The devices that do the accelerators' work: of each accelerator the cores, or itself where it has no others."""
        found = self.accelerators
        if isinstance(found, Missing):
            return found
        items = tuple(core for each in found.value.items for core in (each.cores or (each,)))
        return Ok(Listing(items, found.value.evidence, found.value.unread, found.value.unrecognised), found.evidence)
