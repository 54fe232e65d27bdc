"""functional-1: the kernel driver must be open source and upstream, or the driver lives in user space through VFIO."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from auditor.facts.types import Missing, Ok
from auditor.families import FAMILIES, is_vfio
from auditor.model import Answer, Level, Outcome, Owner, Remedy, Status, check, printable
from auditor.verify import State, verify_module
from auditor.verify.origin import Cover, Origin, covered, enforced, pinned, verified_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Accelerator, Fact, Facts, Module
    from auditor.families import Upstream
    from auditor.model import Evidence

HARMLESS_MATES = frozenset({"pci-stub", "pcieport", "shpchp"})
"""Drivers beside VFIO's that leave DMA alone, so that VFIO takes a group for viable (struct pci_driver, driver_managed_dma)."""

OPEN_LICENSES = frozenset({
    "GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL", "GPL v2 or later",
})  # fmt: skip
"""The licences that the kernel takes for compatible (include/linux/license.h)."""

FOREIGN = frozenset("PO")
"""Taint letters of a module that its own maker calls proprietary or does not call in-tree."""

BAD_TAINT = {"P": "proprietary", "O": "out of tree", "E": "unsigned", "F": "force-loaded", "C": "from staging"}
"""Taint letters that tell against a driver (Documentation/admin-guide/tainted-kernels.rst)."""

TAKEN_IN = "Have the driver taken into mainline Linux, or bind the device to vfio-pci and drive it from user space."


@check(
    "functional-1.driver",
    each="cores",
    expected="a driver that is verified to be mainline Linux's, or vfio-pci or vfio-platform with a viable group",
    passes="The accelerator is driven by mainline Linux's driver, or from user space through VFIO.",
    fails="The accelerator's kernel driver is not open source and upstream, or its VFIO set-up is not what VFIO asks for.",
    unknown="The driver may be upstream; that is not proven here.",
    remediation=TAKEN_IN,
    owner=Owner.VENDOR,
)
def driver(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The driver that is bound is verified to be mainline's, or it is VFIO's and the accelerator's group is viable.

    *Verified* is a driver that mainline Linux has (name, folder and maker of the device, from a table that ships with this program) and
    whose origin is authenticated: its file lies on the verified root and LoadPin lets modules come from nowhere else, or it is signed
    with the key of this very kernel, whose image lies on the verified root. A driver that is built into a verified kernel is its own
    proof. An older kernel with a newer driver has a backport, which is upstream.

    *Claimed* is `intree=Y`, an upstream name, an absent taint: anyone can type these, so they are unknown on their own; so is a driver
    that the table does not have, and one that needs a module from outside the kernel's own folder. *Contradicted*, and so failed, is a
    driver that lacks `intree`, has a licence that the kernel does not take for open, taints the kernel as out of tree or proprietary or
    needs a module that does, is known to live outside mainline, lies outside the kernel's own folder, or is unsigned or altered where
    nothing else vouches for it.

    Through VFIO, the driver must be VFIO's module by name and folder (any driver may call itself vfio-pci), every other device of the
    group must be without a driver, a bridge, or VFIO's too, and VFIO's unsafe no-IOMMU mode must be off. What remains: a kernel whose own
    tree holds a vendor's driver under a name of mainline's.
    Sources: Documentation/driver-api/vfio.rst; Documentation/admin-guide/{module-signing,LSM/LoadPin,tainted-kernels}.rst.
    """
    if accelerator.bus == "usb" and isinstance(accelerator.driver, Missing) and accelerator.driver.status is Status.ABSENT:
        nodes = ", ".join(node.path for node in accelerator.nodes)
        observed = f"a USB device without a kernel driver{f', driven from user space by {nodes} (libusb)' if nodes else ''}"
        yield Answer(Outcome.FAIL, observed, accelerator.driver.evidence, "libusb is neither an upstream kernel driver nor VFIO.")
        return
    if isinstance(accelerator.driver, Missing) and accelerator.driver.status is Status.ABSENT:
        note = accelerator.module.note if isinstance(accelerator.module, Missing) else ""
        yield Answer(Outcome.UNKNOWN, note or "no driver is bound", accelerator.driver.evidence, remedy=Remedy.DRIVER)
        return
    name = accelerator.driver.open()
    module = accelerator.module.open()
    against = list(_contradictions(facts, accelerator, module))
    if against:
        observed = f"{printable(name)}: contradicted: {'; '.join(reason for reason, _ in against)}"
        yield Answer(Outcome.FAIL, observed, tuple(item for _, evidence in against for item in evidence))
    elif is_vfio(name):
        yield _through_vfio(facts, accelerator, module)
    elif not (known := _upstream(module)):
        observed = f"{module.name}: claimed: mainline Linux is not known to have this driver"
        yield Answer(Outcome.UNKNOWN, observed, accelerator.module.evidence, remedy=Remedy.VENDOR)
    elif not known.takes(accelerator.modalias):
        observed = f"{module.name}: claimed: mainline's driver of this name is for other devices than {accelerator.modalias or 'this one'}"
        yield Answer(Outcome.UNKNOWN, observed, accelerator.module.evidence, remedy=Remedy.VENDOR)
    elif module.built_in.open():
        yield _built_in(facts, accelerator, module, known)
    else:
        yield _loaded(facts, accelerator, module, known)


def _upstream(module: Module) -> Upstream | None:
    """Mainline's driver of a module's name."""
    family = FAMILIES.by_module(module.name)
    return family.upstream if family else None


def _contradictions(facts: Facts, accelerator: Accelerator, module: Module) -> Iterator[tuple[str, tuple[Evidence, ...]]]:
    """What was read that a driver of mainline's cannot have, each with where."""
    family = FAMILIES.by_module(module.name)
    if family and family.elsewhere:
        yield family.elsewhere, accelerator.module.evidence
    if isinstance(module.info, Ok):
        if not module.info.value.intree:
            yield "its modinfo does not say intree", module.info.evidence
        if module.info.value.license not in OPEN_LICENSES:
            yield f"its licence is {printable(module.info.value.license)!r}", module.info.evidence
    letters = module.taint.value if isinstance(module.taint, Ok) else ""
    if FOREIGN & set(letters):
        yield f"it taints the kernel: {', '.join(BAD_TAINT[each] for each in sorted(FOREIGN & set(letters)))}", module.taint.evidence
    blobs = [f"{name} ({', '.join(BAD_TAINT[each] for each in sorted(FOREIGN & set(bad.value)))})" for name, bad in _tainted(module)]
    if blobs:
        yield f"it needs {', '.join(blobs)}", tuple(item for _, bad in _tainted(module) for item in bad.evidence)
    if isinstance(module.path, Ok) and enforced(facts.loading, module.path.value, "kernel-module").cover is Cover.OPEN:
        if "E" in letters:
            yield "it is unsigned, and nothing else vouches for it", module.taint.evidence
        if _is_altered(module):
            yield "its file was altered after it was signed, and nothing else vouches for it", module.signature.evidence


def _tainted(module: Module) -> list[tuple[str, Ok[str]]]:
    """The modules that it needs and that the kernel itself calls proprietary or out of tree, by name."""
    return [(name, taint) for name, taint in module.needs_taint.items() if isinstance(taint, Ok) and FOREIGN & set(taint.value)]


def _is_altered(module: Module) -> bool:
    """Whether the kernel image has the key that the module names as its signer's, and the signature does not verify with it."""
    signature, certificates = module.signature, module.kernel_certificates
    both = isinstance(signature, Ok) and isinstance(certificates, Ok)
    return both and verify_module(signature.open(), certificates.open()).state is State.BAD


def _through_vfio(facts: Facts, accelerator: Accelerator, module: Module) -> Answer:
    """Bound to VFIO: whether VFIO would hand the group over, and an IOMMU stands behind it."""
    if posing := unlike_vfio(accelerator, module):
        return posing
    unsafe = facts.iommu.unsafe_noiommu
    if isinstance(unsafe, Ok) and unsafe.value:
        return Answer(Outcome.FAIL, "VFIO's unsafe no-IOMMU mode is on", unsafe.evidence, owner=Owner.CHROMEOS)
    group = accelerator.group.open()
    if group.no_iommu.open():
        return Answer(Outcome.FAIL, "in a group that VFIO made up without an IOMMU", group.no_iommu.evidence, owner=Owner.CHROMEOS)
    mates = group.mates.open()
    evidence = (*accelerator.driver.evidence, *accelerator.group.evidence, *group.no_iommu.evidence, *group.mates.evidence)
    for mate in mates:
        bridge = isinstance(mate.is_bridge, Ok) and mate.is_bridge.value
        harmless = _leaves_dma_alone(mate.driver)
        if not bridge and not harmless:
            mate.is_bridge.open()
            observed = f"not viable: {mate.subject} of its group is bound to {mate.driver.open()}"
            return Answer(Outcome.FAIL, observed, mate.driver.evidence, remediation="Unbind the other devices of the IOMMU group.")
        either = (mate.is_bridge if bridge else mate.driver).evidence
        evidence += tuple(replace(each, necessary=not (bridge and harmless)) for each in either)
    unsafe.open()
    module.info.open()
    own = (*module.built_in.evidence, *module.info.evidence)
    if not module.built_in.open():
        module.taint.open()
        own += (*module.taint.evidence, *module.path.evidence)
    observed = f"{accelerator.driver.open()}, with a viable group of {1 + len(mates)}"
    return Answer(Outcome.PASS, observed, (*evidence, *unsafe.evidence, *accelerator.module.evidence, *own))


def unlike_vfio(accelerator: Accelerator, module: Module) -> Answer | None:
    """Unknown for a driver that merely calls itself by the name of one of VFIO's: its module has another name, or lies elsewhere."""
    name = accelerator.driver.open()
    if module.name != name.replace("-", "_"):
        observed = f"{module.name}: claimed: its driver calls itself {name}"
        return Answer(Outcome.UNKNOWN, observed, accelerator.module.evidence, remedy=Remedy.VENDOR)
    if not module.built_in.open() and "/kernel/drivers/vfio/" not in module.path.open():
        observed = f"{module.name}: claimed: mainline has it in drivers/vfio, this is {printable(module.path.open())}"
        return Answer(Outcome.UNKNOWN, observed, module.path.evidence, remedy=Remedy.VENDOR)
    return None


def _leaves_dma_alone(name: Fact[str]) -> bool:
    if isinstance(name, Missing):
        return name.status is Status.ABSENT
    return is_vfio(name.value) or name.value in HARMLESS_MATES


def _built_in(facts: Facts, accelerator: Accelerator, module: Module, known: Upstream) -> Answer:
    """A driver in the kernel image: verified with the kernel."""
    info = module.info.open()
    if info.file and info.file.rpartition("/")[0] not in known.folders:
        observed = f"{module.name}: claimed: mainline has it in {known.folders[0]}, this kernel in {printable(info.file)}"
        return Answer(Outcome.UNKNOWN, observed, module.info.evidence, remedy=Remedy.VENDOR)
    root = verified_root(facts.loading)
    if root.cover is not Cover.ENFORCED:
        return _claimed(module, root)
    own = (*accelerator.module.evidence, *module.built_in.evidence, *module.info.evidence)
    evidence = (*accelerator.driver.evidence, *own, *root.evidence)
    return Answer(Outcome.PASS, f"{module.name}: in-tree verified: built into the kernel, which firmware verified", evidence)


def _loaded(facts: Facts, accelerator: Accelerator, module: Module, known: Upstream) -> Answer:
    """A driver in a module: in mainline's folder, the file that was loaded, and authenticated."""
    info, path, taint = module.info.open(), module.path.open(), module.taint.open()
    folder = path.rpartition("/")[0]
    if f"/{facts.kernel.release.open()}/kernel/" not in path:
        return Answer(
            Outcome.FAIL, f"{module.name}: contradicted: {printable(path)} is outside the kernel's own modules", module.path.evidence
        )
    if not folder.endswith(tuple(f"/kernel/{each}" for each in known.folders)):
        observed = f"{module.name}: claimed: mainline has it in {known.folders[0]}, this is {printable(path)}"
        return Answer(Outcome.UNKNOWN, observed, module.path.evidence, remedy=Remedy.VENDOR)
    foreign = [each for each in _needs(module) if not each.startswith("kernel/") or ".." in each.split("/")]
    if foreign:
        observed = f"{module.name}: claimed: it needs {', '.join(foreign[:3])}, outside the kernel's own modules"
        return Answer(Outcome.UNKNOWN, observed, module.needs.evidence, remedy=Remedy.VENDOR)
    running = module.build_id
    if isinstance(running, Missing) and running.status is not Status.ABSENT:
        running.open()
    if isinstance(running, Ok) and running.value != info.build_id:
        observed = f"{module.name}: claimed: what is loaded is not {printable(path)}: its build id is another"
        return Answer(Outcome.UNKNOWN, observed, running.evidence, remedy=Remedy.VENDOR)
    origin = _of_module(facts, module)
    if origin.cover is not Cover.ENFORCED:
        return _claimed(module, origin)
    for letters in module.needs_taint.values():
        letters.open()
    evidence = (
        *accelerator.driver.evidence,
        *accelerator.module.evidence,
        *module.built_in.evidence,
        *module.info.evidence,
        *module.path.evidence,
        *module.taint.evidence,
        *(item for letters in module.needs_taint.values() for item in letters.evidence),
        *running.evidence,
        *origin.evidence,
    )
    since = f", upstream since Linux {known.since}" if known.since else ""
    tainted = f"; taint {taint}" if taint else ""
    return Answer(Outcome.PASS, f"{module.name}: in-tree verified{since}: {origin.reason}{tainted}", evidence)


def _needs(module: Module) -> tuple[str, ...]:
    """The files of the modules that a module needs; none are known where depmod never ran."""
    absent = isinstance(module.needs, Missing) and module.needs.status is Status.ABSENT
    return () if absent else module.needs.open()


def _claimed(module: Module, origin: Origin) -> Answer:
    remedy = origin.missing.remedy if origin.missing else None
    return Answer(Outcome.UNKNOWN, f"{module.name}: claimed, not authenticated: {origin.reason}", origin.evidence, remedy=remedy)


def _of_module(facts: Facts, module: Module) -> Origin:
    """Who vouches for a module's file: the verified root with LoadPin, or the verified root's kernel image with the module's signature."""
    path = module.path
    if isinstance(path, Missing):
        return Origin(Cover.UNDECIDED, path.note or "its file is not known", path.evidence, path)
    place = covered(facts.loading, path.value)
    if place.cover is not Cover.ENFORCED:
        return _where_nothing_is_verified(place, module)
    ways = (pinned(facts.loading, "kernel-module"), _signature(facts, module))
    proofs = [each for each in ways if each.cover is Cover.ENFORCED]
    if not proofs:
        decided = all(each.cover is Cover.OPEN for each in ways)
        why = "; ".join(each.reason for each in ways)
        missing = next((each.missing for each in ways if each.missing), None)
        return Origin(Cover.OPEN if decided else Cover.UNDECIDED, why, tuple(item for each in ways for item in each.evidence), missing)
    own = tuple(replace(item, necessary=len(proofs) == 1 and item.necessary) for each in proofs for item in each.evidence)
    evidence = (*place.evidence, *(item for item in own if item.path not in {each.path for each in place.evidence}))
    return Origin(Cover.ENFORCED, "; ".join(each.reason for each in (place, *proofs)), evidence)


def _where_nothing_is_verified(place: Origin, module: Module) -> Origin:
    """What is known of a module whose place nothing vouches for: its signature may verify, with a key that nothing vouches for either."""
    signature, certificates = module.signature, module.kernel_certificates
    if isinstance(signature, Missing) or isinstance(certificates, Missing):
        return place
    found = verify_module(signature.value, certificates.value)
    if found.state is not State.PRODUCTION:
        return place
    reason = f"its signature verifies with the running kernel's key ({found.signer}); only their origin is not verified: {place.reason}"
    return replace(place, reason=reason, evidence=(*place.evidence, *signature.evidence, *certificates.evidence))


def _signature(facts: Facts, module: Module) -> Origin:
    """Whether the module is signed with a key of the kernel image, and the image lies on the verified root."""
    signature, image, certificates = module.signature, module.kernel_image, module.kernel_certificates
    if isinstance(signature, Missing):
        cover = Cover.OPEN if signature.status is Status.ABSENT else Cover.UNDECIDED
        return Origin(cover, signature.note or "its signature was not read", signature.evidence, signature)
    for fact in (image, certificates, module.build_id):
        if isinstance(fact, Missing):
            return Origin(Cover.UNDECIDED, "no kernel image to check its signature with", fact.evidence, fact)
    found = verify_module(signature.value, certificates.open())
    if found.state is State.BAD:
        return Origin(Cover.OPEN, "its signature does not verify", (*signature.evidence, *certificates.evidence))
    if found.state is State.UNKNOWN_FORMAT:
        return Origin(Cover.UNDECIDED, f"its signature is not understood: {', '.join(found.remarks)}", signature.evidence)
    if found.state is not State.PRODUCTION:
        return Origin(Cover.UNDECIDED, "it is signed by a key that the kernel image does not hold", signature.evidence)
    place = covered(facts.loading, image.open())
    evidence = (*signature.evidence, *image.evidence, *certificates.evidence, *module.build_id.evidence)
    return replace(place, reason=f"signed by {found.signer}", evidence=(*place.evidence, *evidence))


@check(
    "functional-1.taint",
    level=Level.SHOULD,
    each="cores",
    expected="a driver that does not taint the kernel",
    passes="The driver does not taint the kernel.",
    fails="The driver taints the kernel: the kernel itself says what is wrong with it.",
    not_applicable="A driver that is built in cannot taint the kernel by itself.",
    remediation="Build the driver with the kernel, in its tree, and sign it with the kernel's key.",
    owner=Owner.CHROMEOS,
)
def taint(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The module's own taint letters are none that tell against it: P proprietary, O out of tree, E unsigned, F forced, C staging.

    The kernel's global taint stays after a module is gone and cannot be told apart by module, so it is not used. E is information where
    the verified root with LoadPin authenticates the module: it needs no signature then. A module that types `intree=Y` loses its O.
    Source: Documentation/admin-guide/tainted-kernels.rst.
    """
    module = accelerator.module.open()
    if module.built_in.open():
        yield Answer(Outcome.NOT_APPLICABLE, f"{module.name} is built in", module.built_in.evidence)
        return
    letters = module.taint.open()
    bad = [letter for letter in letters if letter in BAD_TAINT]
    shown = f"{module.name}: taint {letters or 'none'}"
    if bad != ["E"]:
        yield Answer(Outcome.FAIL if bad else Outcome.PASS, shown, (*module.built_in.evidence, *module.taint.evidence))
        return
    origin = enforced(facts.loading, module.path.open(), "kernel-module")
    outcome = {Cover.ENFORCED: Outcome.PASS, Cover.OPEN: Outcome.FAIL, Cover.UNDECIDED: Outcome.UNKNOWN}[origin.cover]
    evidence = (*module.built_in.evidence, *module.taint.evidence, *module.path.evidence, *origin.evidence)
    yield Answer(outcome, f"{shown}; {origin.reason}", evidence, remedy=origin.missing.remedy if origin.missing else None)


@check(
    "functional-1.licence",
    level=Level.SHOULD,
    each="cores",
    expected="a licence that the kernel takes for open source",
    passes="The driver says that it is open source.",
    fails="The driver does not say that it is open source.",
    remediation="Publish the driver's source under the GPL, and say so with MODULE_LICENSE.",
    owner=Owner.VENDOR,
)
def licence(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The module's MODULE_LICENSE is one of those that the kernel takes for compatible with its own.

    It is what the author typed: a shim under the GPL around a binary object says the same. That the source is mainline's is what
    functional-1.driver looks into. Source: include/linux/license.h.
    """
    module = accelerator.module.open()
    found = module.info.open().license
    outcome = Outcome.PASS if found in OPEN_LICENSES else Outcome.FAIL
    yield Answer(outcome, f"{module.name}: licence {printable(found)!r}", (*accelerator.module.evidence, *module.info.evidence))


@check(
    "functional-1.viability",
    level=Level.SHOULD,
    each="accelerators",
    expected="a group that VFIO itself calls viable",
    passes="VFIO would hand the accelerator's whole group to user space.",
    fails="VFIO would not hand the accelerator's group to user space.",
    not_applicable="Only an accelerator that is bound to VFIO needs a viable group.",
    remediation="Unbind the other devices of the IOMMU group, and turn VFIO's no-IOMMU mode off.",
    owner=Owner.CHROMEOS,
)
def viability(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The probe opened the accelerator's VFIO group, and the kernel called it viable (VFIO_GROUP_GET_STATUS).

    This is VFIO's own judgement of what functional-1.driver works out from the drivers in the group. A group that user space may not
    open, or that someone has open already, is unknown. In the no-IOMMU mode every group is called viable, so a node of that mode fails.
    Source: Documentation/driver-api/vfio.rst; drivers/vfio/group.c, vfio_group_ioctl_get_status.
    """
    if elsewhere := unless_vfio(accelerator):
        yield elsewhere
        return
    group = next((each for each in facts.vfio.open().groups if each.accelerator == accelerator.subject), None)
    evidence = (*accelerator.driver.evidence, *facts.vfio.evidence)
    if group is None:
        yield Answer(Outcome.UNKNOWN, "the probe found no VFIO group of this accelerator", evidence, remedy=Remedy.PROBES)
    elif group.node.rpartition("/")[2].startswith("noiommu-"):
        yield Answer(Outcome.FAIL, f"{group.node} is of VFIO's no-IOMMU mode", evidence)
    elif group.viable is None:
        observed = f"{group.node} could not be asked: {group.error or 'no answer'}{', someone has it open' if group.in_use else ''}"
        yield Answer(Outcome.UNKNOWN, observed, evidence, remedy=refusal_remedy(group.error))
    else:
        word = "viable" if group.viable else "not viable"
        yield Answer(Outcome.PASS if group.viable else Outcome.FAIL, f"VFIO calls {group.node} {word}", evidence)


def unless_vfio(accelerator: Accelerator) -> Answer | None:
    """`not-applicable` for an accelerator that is not bound to VFIO, None for one that is; raises MissingFact where that was not read."""
    name = accelerator.driver
    if bound_to_vfio(name):
        return None
    bound = "no driver" if isinstance(name, Missing) and name.status is Status.ABSENT else printable(name.open())
    return Answer(Outcome.NOT_APPLICABLE, f"bound to {bound}", name.evidence)


def refusal_remedy(error: str) -> Remedy:
    """What may help where VFIO refused with an errno of this name."""
    return Remedy.ROOT if error in {"EACCES", "EPERM"} else Remedy.PROBES


def bound_to_vfio(name: Fact[str]) -> bool:
    """Whether the driver that is bound is one of VFIO's."""
    return isinstance(name, Ok) and is_vfio(name.value)
