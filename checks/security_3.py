"""security-3: an IOMMU must control access to system memory from the accelerator."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from auditor.facts.types import Missing, Ok
from auditor.families import FAMILIES
from auditor.model import Answer, Level, Outcome, Owner, Remedy, Status, check, printable
from checks.functional_1 import bound_to_vfio, refusal_remedy, unless_vfio, unlike_vfio
from checks.wording import some

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from auditor.facts.types import Accelerator, DmaTrial, Facts, GroupMate
    from auditor.model import Evidence

TRANSLATING = frozenset({"DMA", "DMA-FQ"})
"""Domain types in which every access is translated; DMA-FQ flushes lazily, which the page allows."""

WEAKENING: Mapping[str, bool | frozenset[str]] = {
    "iommu": frozenset({"pt", "off", "soft"}),
    "iommu.passthrough": True,
    "iommu.strict": False,
    "intel_iommu": frozenset({"off", "igfx_off", "tboot_noforce"}),
    "amd_iommu": frozenset({"off"}),
    "intremap": frozenset({"off", "nosid"}),
    "arm_smmu.disable_bypass": False,
    "arm_smmu_v3.disable_bypass": False,
    "iommufd.allow_unsafe_interrupts": True,
    "vfio.enable_unsafe_noiommu_mode": True,
    "vfio_iommu_type1.allow_unsafe_interrupts": True,
}
"""Kernel parameters, by name with `_` for `-`, and the values that weaken an IOMMU (admin-guide/kernel-parameters.txt)."""

_YES = ("1", "y", "t", "on")
_NO = ("0", "n", "f", "of")
"""How a switch's value begins (lib/kstrtox.c, kstrtobool)."""

PCI_OPTIONS = ("config_acs=", "disable_acs_redir=", "noats")
"""Beginnings of options of the parameter `pci` that let devices reach each other past the IOMMU."""

ACS_OVERRIDE = "pcie_acs_override"
"""Not a parameter of the mainline kernel: with the patch that adds it, groups are reported that the hardware does not keep apart."""

_ADDRESS = re.compile(r"([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
_TRANSLATION_FAULT = re.compile(r"arm-smmu-v3 .*0x[0-9a-f]{4}([0-9a-f]{4})[0-9a-f]{6}10$")
"""The first word of an SMMUv3 event record: the stream in bits 63:32, and F_TRANSLATION, 0x10, in 7:0 (Arm IHI 0070, 7.3)."""

NOTHING = (b"\0", b"\xff")
"""The bytes that a device gets for a read that is not let through: cleared, or as a bus without an answer reads."""


@check(
    "security-3.domain",
    each="cores",
    expected="an IOMMU group whose domain type is DMA or DMA-FQ, or another translating domain that is proven to be in force",
    passes="The IOMMU translates every access of the accelerator to system memory.",
    fails="No IOMMU stands between the accelerator and system memory.",
    remediation="Put the accelerator behind an IOMMU and leave its group in a translating domain: no iommu=pt, no intel_iommu=off, no "
    "identity type; on device tree systems give the node its `iommus`.",
    owner=Owner.FIRMWARE,
)
def domain(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The accelerator is in an IOMMU group, and the group's default domain translates.

    `identity` maps all of memory one to one, so it fails; so does a device that the kernel put in no group at all, where the kernel's
    groups could be listed, and a group that VFIO made up in its unsafe no-IOMMU mode. Without a driver, no group is unknown: with a
    device tree, and with ACPI on Arm, the kernel puts a device into its group when a driver is first bound to it. Any other type
    (`blocked`, `auto`, a name that this auditor does not know) is unknown: it is not evidence of translation.

    A driver can attach another domain than the default. What is in force decides: VFIO attaches one of its own whenever the device is
    open (what the default is, security-3.default-domain looks at); amdxdna does with its parameter `force_iova`; msm says that it has
    page tables for each process by giving their size (MSM_PARAM_VA_SIZE), which the dma-buf probe asks. Below a hypervisor that owns the
    IOMMU, as Xen's, the kernel sees none, and nothing can be said.

    A memory management unit of the accelerator's own is no IOMMU here: it is a part of what must be kept in check. What the type does
    not say is whether the hardware obeys; a fault on an address that is not mapped proves that. The type can be written while no driver
    is bound, so it holds for the boot that was looked at. Source: Documentation/ABI/testing/sysfs-kernel-iommu_groups;
    drivers/vfio/group.c.
    """
    group = accelerator.group
    if isinstance(group, Missing) and group.status is Status.ABSENT:
        yield _in_no_group(facts, accelerator)
        return
    found = group.open()
    kind, made_up = found.type.open(), found.no_iommu.open()
    evidence = (*group.evidence, *found.no_iommu.evidence, *found.type.evidence)
    if made_up:
        yield Answer(Outcome.FAIL, "in a group that VFIO made up without an IOMMU (vfio-noiommu)", evidence)
    elif kind == "identity":
        yield _behind_identity(facts, accelerator, evidence)
    elif kind in TRANSLATING:
        yield Answer(Outcome.PASS, f"domain type {kind}", evidence)
    elif any(node.path.startswith("/dev/vfio/noiommu-") for node in accelerator.nodes):
        yield Answer(Outcome.FAIL, f"domain type {kind!r}, and its node is one of VFIO's no-IOMMU mode", evidence)
    else:
        yield Answer(Outcome.UNKNOWN, f"domain type {kind!r}", evidence, remedy=Remedy.DRIVER)


def _in_no_group(facts: Facts, accelerator: Accelerator) -> Answer:
    """A device that the kernel put in no group: no IOMMU, or one that a hypervisor keeps to itself."""
    hypervisor = facts.iommu.hypervisor
    if isinstance(hypervisor, Ok) or hypervisor.status is not Status.ABSENT:
        name = hypervisor.open()
        observed = f"in no IOMMU group; the hypervisor {printable(name)} may own the IOMMU, which the kernel below it does not see"
        advice = "Show the hypervisor's own account of its IOMMU (`xl dmesg`), or audit the device without it."
        return Answer(
            Outcome.UNKNOWN, observed, (*accelerator.group.evidence, *hypervisor.evidence), remediation=advice, remedy=Remedy.LIVE
        )
    groups, units, driver = facts.iommu.groups.open(), facts.iommu.units, accelerator.driver
    evidence = (*accelerator.group.evidence, *facts.iommu.groups.evidence)
    if not groups and not (isinstance(units, Ok) and units.value):
        return Answer(Outcome.FAIL, "in no IOMMU group; the kernel has none at all", evidence)
    if isinstance(driver, Missing) and driver.status is Status.ABSENT:
        observed = f"in no IOMMU group, and no driver is bound; the kernel has {len(groups) or 'none yet'}"
        return Answer(Outcome.UNKNOWN, observed, (*evidence, *driver.evidence), remedy=Remedy.DRIVER)
    driver.open()
    return Answer(Outcome.FAIL, f"in no IOMMU group; the kernel has {len(groups) or 'none'}", (*evidence, *driver.evidence))


def _behind_identity(facts: Facts, accelerator: Accelerator, evidence: tuple[Evidence, ...]) -> Answer:
    """A device whose group's default domain translates nothing: whether another one is in force."""
    observed = "domain type identity"
    if bound_to_vfio(accelerator.driver):
        if posing := unlike_vfio(accelerator, accelerator.module.open()):
            return posing
        observed += "; VFIO attaches a domain of its own whenever the device is open"
        module = accelerator.module.open()
        own = (*accelerator.driver.evidence, *accelerator.module.evidence, *module.built_in.evidence, *module.path.evidence)
        return Answer(Outcome.PASS, observed, (*evidence, *own))
    family = FAMILIES.by_name(accelerator.family)
    paging = accelerator.paging
    if isinstance(paging, Ok) and paging.value:
        return Answer(Outcome.PASS, f"{observed}; the driver is told to attach a translating one", (*evidence, *paging.evidence))
    if isinstance(paging, Missing) and paging.status is not Status.ABSENT:
        paging.open()
    if family and family.own_tables:
        tried = next((each for each in facts.dma_buf.open() if each.accelerator == accelerator.subject), None)
        if tried and tried.address_space:
            observed += f"; the driver gives each process page tables of its own, of {tried.address_space:#x} bytes"
            return Answer(Outcome.PASS, observed, (*evidence, *facts.dma_buf.evidence))
        if tried is None:
            return Answer(Outcome.UNKNOWN, f"{observed}; the driver was not asked for page tables", evidence, remedy=Remedy.PROBES)
        observed += "; the driver has no page tables for each process"
        evidence = (*evidence, *facts.dma_buf.evidence)
    return Answer(Outcome.FAIL, observed, evidence, remediation=family.identity if family and family.identity else None)


@check(
    "security-3.default-domain",
    level=Level.SHOULD,
    each="cores",
    expected="an IOMMU group whose default domain translates too",
    passes="The IOMMU also translates while no user-space driver has the device open.",
    fails="While no user-space driver has the device open, the IOMMU translates nothing for it.",
    not_applicable="Only of a device that is bound to VFIO is the default domain another than the one in force.",
    remediation="Leave devices in a translating domain: no iommu=pt, no iommu.passthrough=1.",
    owner=Owner.FIRMWARE,
)
def default_domain(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The group's default domain, of a device that VFIO drives.

    It says nothing of what user space reaches through VFIO; it does say what the device reaches while it is not open, and what it would
    reach with a kernel driver. Source: Documentation/ABI/testing/sysfs-kernel-iommu_groups; drivers/vfio/vfio_iommu_type1.c.
    """
    if elsewhere := unless_vfio(accelerator):
        yield elsewhere
        return
    group = accelerator.group.open()
    kind = group.type.open()
    outcome = Outcome.FAIL if kind == "identity" else Outcome.PASS if kind in TRANSLATING else Outcome.UNKNOWN
    yield Answer(outcome, f"default domain type {kind}", (*accelerator.driver.evidence, *accelerator.group.evidence, *group.type.evidence))


@check(
    "security-3.reserved",
    level=Level.SHOULD,
    each="cores",
    expected="no reserved region of the type `direct` in the accelerator's IOMMU group",
    passes="No memory is mapped to the accelerator for good.",
    fails="The firmware has memory mapped one to one to the accelerator, whatever its driver asks for.",
    remediation="Take the accelerator out of the firmware's reserved memory regions (RMRR in DMAR, IVMD in IVRS, RMR in IORT).",
    owner=Owner.FIRMWARE,
)
def reserved(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The firmware reserves no memory that the IOMMU must keep mapped to the accelerator.

    A region of the type `direct` stays mapped one to one in every domain. `direct-relaxable` is one that an assignment to a guest may
    drop, `msi` is where interrupts are written, `reserved` is never mapped: these are information. The list is the kernel's reading of
    the firmware's tables; what firmware does without saying so is not in it.
    Source: Documentation/ABI/testing/sysfs-kernel-iommu_groups.
    """
    group = accelerator.group.open()
    regions = group.reserved.open()
    evidence = (*accelerator.group.evidence, *group.reserved.evidence)
    shown = some(f"{each.kind} {each.start:#x}-{each.end:#x}" for each in regions) or "none"
    direct = any(each.kind == "direct" for each in regions)
    yield Answer(Outcome.FAIL if direct else Outcome.PASS, f"reserved regions: {shown}", evidence)


@check(
    "security-3.group",
    level=Level.SHOULD,
    each="cores",
    expected="no other device, save for bridges, in the accelerator's IOMMU group",
    passes="The IOMMU keeps the accelerator apart from every other device.",
    fails="The accelerator shares its IOMMU group: the devices in it can reach each other's memory.",
    remediation="Give the accelerator a port of its own with access control services (ACS), or a stream of its own on the IOMMU.",
    owner=Owner.FIRMWARE,
)
def group(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The accelerator is alone in its IOMMU group, save for PCI bridges on the way to it.

    Devices in one group are those that the hardware cannot keep apart: behind a bridge without access control services, or with the
    same requester id. A bridge does no DMA of its own, so bridges are named and not counted. Groups come from the hardware's own
    description, which `pcie_acs_override` overrides (see security-3.command-line). Source: Documentation/driver-api/vfio.rst.
    """
    found = accelerator.group.open()
    mates = found.mates.open()
    others = [each for each in mates if isinstance(each.is_bridge, Ok) and not each.is_bridge.value]
    evidence = (*accelerator.group.evidence, *found.mates.evidence)
    if others:
        observed = f"in one group with {_named(others)}"
        yield Answer(Outcome.FAIL, observed, (*evidence, *(item for each in others for item in each.is_bridge.evidence)))
        return
    bridges = [each for each in mates if each.is_bridge.open()]
    observed = f"alone in its group, behind the bridges {_named(bridges)}" if bridges else "alone in its group"
    yield Answer(Outcome.PASS, observed, (*evidence, *(item for each in bridges for item in each.is_bridge.evidence)))


def _named(mates: Sequence[GroupMate]) -> str:
    drivers = (printable(each.driver.value) if isinstance(each.driver, Ok) else "no driver known" for each in mates)
    return some(f"{each.subject} ({driver})" for each, driver in zip(mates, drivers, strict=True))


@check(
    "security-3.command-line",
    level=Level.SHOULD,
    expected="no kernel parameter that turns an IOMMU off, bypasses it or weakens it",
    passes="The kernel command line leaves the IOMMU as it is.",
    fails="The kernel command line weakens the IOMMU, for this device or for others.",
    remediation="Take the parameter out of the kernel command line.",
    owner=Owner.CHROMEOS,
)
def command_line(facts: Facts) -> Iterator[Answer]:
    """No parameter of the running kernel weakens an IOMMU.

    It may turn it off (`intel_iommu=off`), pass devices through (`iommu=pt`) or let freed mappings live on a while (`iommu.strict=0`).
    Any occurrence counts, also where a later parameter takes it back: what came of it for the accelerator is what security-3.domain
    reads. A kernel can be built so as to pass devices through without a parameter (CONFIG_IOMMU_DEFAULT_PASSTHROUGH); that shows in the
    domain's type as well. Source: Documentation/admin-guide/kernel-parameters.txt.
    """
    parameters = facts.kernel.command_line.open()
    weak = [each for each in parameters if _weakens(each)]
    evidence = facts.kernel.command_line.evidence
    if weak:
        yield Answer(Outcome.FAIL, some(weak, " "), evidence, subject="kernel")
    else:
        yield Answer(Outcome.PASS, "no parameter that weakens an IOMMU", evidence, subject="kernel")


def _weakens(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    name = name.replace("-", "_")
    if name == "pci":
        return any(each.startswith(PCI_OPTIONS) for each in value.split(","))
    bad = WEAKENING.get(name, frozenset())
    if isinstance(bad, bool):
        return value.lower().startswith(_YES if bad else _NO)
    return name == ACS_OVERRIDE or not bad.isdisjoint(value.split(","))


@check(
    "security-3.units",
    level=Level.SHOULD,
    expected="at least one IOMMU that the kernel drives",
    passes="The kernel drives an IOMMU.",
    fails="The kernel drives no IOMMU.",
    remediation="Turn the IOMMU on in the firmware, describe it in the firmware's tables (DMAR, IVRS, IORT, device tree), and build its "
    "driver into the kernel.",
    owner=Owner.FIRMWARE,
)
def units(facts: Facts) -> Iterator[Answer]:
    """/sys/class/iommu names the IOMMUs that a driver has registered.

    An empty list is what a machine shows whose firmware has the IOMMU turned off: it says why security-3.domain fails. That there is one
    does not say that the accelerator is behind it. Source: Documentation/ABI/testing/sysfs-class-iommu.
    """
    names = facts.iommu.units.open()
    evidence = facts.iommu.units.evidence
    if names:
        yield Answer(Outcome.PASS, some(map(printable, names)), evidence, subject="kernel")
    else:
        yield Answer(Outcome.FAIL, "/sys/class/iommu is empty", evidence, subject="kernel")


@check(
    "security-3.no-iommu-mode",
    level=Level.SHOULD,
    expected="VFIO's unsafe no-IOMMU mode is off",
    passes="VFIO gives no device to user space without an IOMMU.",
    fails="VFIO may give devices to user space that no IOMMU is in front of.",
    remediation="Set vfio.enable_unsafe_noiommu_mode=0, or build the kernel without CONFIG_VFIO_NOIOMMU.",
    owner=Owner.CHROMEOS,
)
def no_iommu_mode(facts: Facts) -> Iterator[Answer]:
    """The switch is off, or there is none: VFIO is not loaded, or was built without that mode.

    It can be written at any time by root, so it holds for the moment that was looked at; each accelerator's own group is judged by
    security-3.domain. Source: drivers/vfio/vfio_main.c; Documentation/driver-api/vfio.rst.
    """
    unsafe = facts.iommu.unsafe_noiommu.open()
    outcome, state = (Outcome.FAIL, "on") if unsafe else (Outcome.PASS, "off")
    yield Answer(outcome, f"unsafe no-IOMMU mode is {state}", facts.iommu.unsafe_noiommu.evidence, subject="kernel")


@check(
    "security-3.isolation",
    level=Level.SHOULD,
    each="accelerators",
    expected="the accelerator reads memory that is mapped for it, reads nothing where none is, and the kernel reports the fault",
    passes="The IOMMU stopped the accelerator where nothing is mapped for it.",
    fails="The accelerator read memory through an address at which nothing is mapped for it.",
    not_applicable="Only an accelerator that is bound to VFIO can be driven by the auditor.",
    remediation="Find out why the IOMMU lets accesses through that it should stop.",
    owner=Owner.FIRMWARE,
)
def isolation(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """On request (--probe-dma), the accelerator was told to copy from an address that is mapped for it, and from one that is not.

    It passes where the first read brought what lay there, the second brought nothing, and the kernel's log names this device in a fault.
    All three are needed: without the first the device may not have copied at all, without the fault something else may have stopped it.
    The probe drives a device through VFIO, and knows how to make only some copy; for others this stays unknown.

    It shows one address at one time. Source: Documentation/driver-api/vfio.rst; drivers/iommu/intel/dmar.c, dmar_fault_do_one;
    drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c, arm_smmu_evtq_thread, which up to 6.12 writes the words of an event record: the first has
    the stream, whose lower 16 bits are the requester id where the device tree's `iommu-map` or IORT maps a whole bus.
    """
    if elsewhere := unless_vfio(accelerator):
        yield elsewhere
        return
    evidence = (*accelerator.driver.evidence, *facts.vfio.evidence)
    if not facts.plan.probe_dma:
        asking = "Audit the device itself, as root, with --probe-dma."
        yield Answer(Outcome.UNKNOWN, "not tried: it was not asked for", evidence, remedy=Remedy.PROBES, remediation=asking)
        return
    found = facts.vfio.open()
    trial = next((each for each in found.trials if each.accelerator == accelerator.subject), None)
    if trial is None or trial.error:
        errors = [each.error for each in found.groups if each.accelerator == accelerator.subject]
        error = trial.error if trial else next(iter(errors), "")
        observed = f"not tried: {error or 'the probe cannot make this device copy'}"
        yield Answer(Outcome.UNKNOWN, observed, evidence, remedy=refusal_remedy(error))
        return
    fault = next((line for line in trial.faults if _is_about(line, accelerator.subject)), "")
    shown = tuple(replace(item, excerpt=fault) for item in facts.vfio.evidence)
    mapped = "was read" if trial.mapped else "was not read"
    observed = f"mapped memory {mapped}; where nothing is mapped, {trial.unmapped_read or 'nothing'} was read; "
    observed += fault or f"no fault of this device in the kernel's log {trial.log_error}".rstrip()
    yield Answer(_isolated(trial, fault), observed, (*accelerator.driver.evidence, *shown))


def _is_about(line: str, subject: str) -> bool:
    """Whether a line of the kernel's log is about a fault of a PCI device."""
    named = subject.removeprefix("pci:").partition(":")[2]  # the kernel leaves the PCI domain out
    numbers, event = _ADDRESS.fullmatch(named), _TRANSLATION_FAULT.search(line)
    if named in line or not numbers or not event:
        return named in line
    bus, slot, function = (int(number, 16) for number in numbers.groups())
    return int(event[1], 16) == bus << 8 | slot << 3 | function


def _isolated(trial: DmaTrial, fault: str) -> Outcome:
    if trial.mapped and trial.unmapped:
        return Outcome.FAIL
    seen = bytes.fromhex(trial.unmapped_read)
    nothing = trial.unmapped is False and seen and any(not seen.strip(byte) for byte in NOTHING)
    return Outcome.PASS if trial.mapped and nothing and fault else Outcome.UNKNOWN
