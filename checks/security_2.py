"""security-2: only signed and verified firmware must be allowed to be loaded onto the accelerator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from auditor.facts.types import FIRMWARE_MARKS, Missing, Ok
from auditor.families import FAMILIES, Loader
from auditor.model import Answer, Level, Outcome, Owner, Remedy, Status, check, printable
from auditor.verify import State, verify_image
from auditor.verify.origin import Cover, Origin, covered, enforced
from checks.functional_1 import bound_to_vfio
from checks.security_2_kernel import by_origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Accelerator, ElfObject, Envelope, Facts, FirmwareImage, Module
    from auditor.model import Evidence

UNSAFE = frozenset({State.BAD, State.UNSIGNED, State.TEST})
"""States of an image that anyone could have made: what loads it does not ask who did."""

GIVEN = "--firmware-image"
"""What names an image that user space loads."""

UPLOAD = "firmware_upload_register"
"""The function with which a driver lets user space write an image (drivers/base/firmware_loader/sysfs_upload.c)."""

SHOWN = 5
"""Files that are named in one finding."""

KEEP_ON_ROOT = "Ship the images on the verified root, enforce LoadPin there (no loadpin.exclude=firmware), and boot in normal mode."


@check(
    "security-2.loading",
    each="accelerators",
    needs=("firmware",),
    expected="every image that can be loaded is authenticated before it is",
    passes="The kernel takes the accelerator's firmware from the verified root and from nowhere else.",
    fails="Unauthenticated firmware can be loaded onto the accelerator.",
    unknown="That only authenticated firmware can be loaded is not proven here.",
    not_applicable="The driver loads no firmware onto this accelerator.",
    remediation=KEEP_ON_ROOT,
    owner=Owner.CHROMEOS,
)
def loading(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """Every image that the driver names lies where verified boot covers it, and the kernel lets firmware come from nowhere else.

    Covered is a file on the root file system, where that is the dm-verity device whose digest is on the command line of a kernel that
    ChromeOS firmware started in normal mode. Nowhere else is LoadPin, enforcing, pinned to that root, read-only, without an exception
    for firmware: then a search path, a driver's parameter or a helper in user space cannot bring in another file. It fails where
    something that was read lets other images in, IMA does not check their signatures either, and the image that is there is unsigned,
    altered or signed with a test key: then the device takes such images. Signed with another key the device may verify it, which nobody
    can see offline: unknown, until a device is seen to refuse an altered image.

    Images that user space loads, by VFIO, are those that `--firmware-image` names: one that is unsigned, altered or signed with a test key
    fails, for nothing authenticates what user space reads. Signed by a root of production it is unknown, until the device is seen to refuse
    an altered one: that the images shown are those that are loaded is the vendor's word.

    Unknown too: developer mode; a parameter that names an image that is not there; no image of those that are named; a driver that
    takes firmware in under names that its modinfo does not have, holds images itself, or lets user space upload them; a VFIO driver; code
    for another processor among what the driver's user space loads, since nothing checks where that comes from. Images that are named
    and not installed cannot be loaded and are left out. A driver that names none, and takes none in by any function of the kernel, and
    whose mainline namesake needs none, is not concerned: the requirement is about what is loaded. Firmware in the device's own flash is
    not seen. Sources: ChromeOS, Peripheral Firmware Security; drivers/base/firmware_loader; Documentation/admin-guide/LSM/LoadPin.rst.
    """
    shown = [each for each in facts.firmware.open().items if (each.wanted_by, each.named_by) == (accelerator.subject, GIVEN)]
    if shown:
        yield _by_user_space(facts, accelerator, shown)
        return
    if isinstance(accelerator.driver, Missing) and accelerator.driver.status is Status.ABSENT:
        yield Answer(Outcome.UNKNOWN, "no driver is bound", accelerator.driver.evidence, remedy=Remedy.DRIVER)
        return
    accelerator.driver.open()
    if bound_to_vfio(accelerator.driver):
        yield _by_user_space(facts, accelerator, shown)
        return
    module = accelerator.module.open()
    info = module.info.open()
    wanted = [each for each in facts.firmware.open().items if each.wanted_by == accelerator.subject]
    if UPLOAD in info.loaders and not module.built_in.open():
        observed = f"{module.name} lets user space upload firmware"
        yield Answer(Outcome.UNKNOWN, observed, module.info.evidence, remedy=Remedy.VENDOR)
    elif wanted:
        yield _images(facts, accelerator, module, wanted)
    elif _takes_none(module) and not info.images and (module.built_in.open() or not info.loaders):
        observed = f"{module.name} names no firmware and takes none in"
        yield Answer(Outcome.NOT_APPLICABLE, observed, (*module.built_in.evidence, *module.info.evidence))
    else:
        observed = f"{module.name} names no firmware, which does not mean that it takes none in"
        yield Answer(Outcome.UNKNOWN, observed, module.info.evidence, remedy=Remedy.VENDOR)


def _by_user_space(facts: Facts, accelerator: Accelerator, images: list[FirmwareImage]) -> Answer:
    """The verdict over images that user space loads: nothing but the device can authenticate them."""
    if not images:
        observed = "the driver in user space may load firmware through VFIO; its images were not shown"
        advice = "Name each image that the driver in user space loads: `--firmware-image FILE`."
        return Answer(Outcome.UNKNOWN, observed, accelerator.driver.evidence, remedy=Remedy.VENDOR, remediation=advice)
    read = [(each, verify_image(each.envelope.value, facts.settings)) for each in images if isinstance(each.envelope, Ok)]
    for each, found in read:
        if found.state in UNSAFE:
            observed = (
                f"{each.name}: {found.state.value}: {', '.join(found.remarks) or found.scheme}; nothing authenticates what user space loads"
            )
            return Answer(Outcome.FAIL, observed, (*accelerator.driver.evidence, *_read(each)))
    for each in images:
        each.path.open()
        each.envelope.open()
    states = ", ".join(f"{each.name}: {found.state.value}" for each, found in read[:SHOWN])
    evidence = (*accelerator.driver.evidence, *(item for each in images for item in _read(each)))
    observed = f"{states}; that the device refuses an altered image was not seen"
    return Answer(Outcome.UNKNOWN, observed, evidence, remedy=Remedy.VENDOR)


def _takes_none(module: Module) -> bool:
    """Whether mainline's driver of a module's name takes no firmware."""
    family = FAMILIES.by_module(module.name)
    return family is not None and family.firmware is Loader.NONE


def _images(facts: Facts, accelerator: Accelerator, module: Module, wanted: list[FirmwareImage]) -> Answer:
    """The verdict over all images: one that fails decides, then one that is not known."""
    images = [each for each in wanted if not _is_left_out(each)]
    if not images:
        named = ", ".join(each.name for each in wanted)
        observed = f"{module.name} names {printable(named)}; none of them is there"
        return Answer(Outcome.UNKNOWN, observed, wanted[0].path.evidence, remedy=Remedy.EVIDENCE)
    origins = [(each, _origin(facts, each)) for each in images]
    for each, origin in origins:
        if origin.cover is Cover.OPEN:
            why = _taken_anyway(facts, each)
            if why:
                return Answer(Outcome.FAIL, f"{each.name}: {origin.reason}; {why}", (*origin.evidence, *each.path.evidence))
    for each, origin in origins:
        if origin.cover is not Cover.ENFORCED:
            remedy = origin.missing.remedy if origin.missing else Remedy.VENDOR if origin.cover is Cover.OPEN else None
            return Answer(Outcome.UNKNOWN, f"{each.name}: {origin.reason}", (*origin.evidence, *each.path.evidence), remedy=remedy)
    for given in module.parameters.open().values():
        given.open()
    held = module.info.open().images
    if held:
        observed = f"{module.name} holds images, which are not looked at: {', '.join(held[:SHOWN])}"
        return Answer(Outcome.UNKNOWN, observed, module.info.evidence, remedy=Remedy.VENDOR)
    foreign = _foreign(facts)
    if foreign:
        observed = f"code for another processor is loaded from user space: {', '.join(foreign)}"
        return Answer(Outcome.UNKNOWN, observed, facts.closure.evidence, remedy=Remedy.VENDOR)
    evidence = (
        *accelerator.driver.evidence,
        *accelerator.module.evidence,
        *module.info.evidence,
        *module.parameters.evidence,
        *(item for each, origin in origins for item in (*each.path.evidence, *origin.evidence)),
        *facts.closure.evidence,
    )
    observed = f"{len(images)} of {len(wanted)} images are there: {', '.join(each.name for each in images)}; {origins[0][1].reason}"
    return Answer(Outcome.PASS, observed, evidence)


def _is_left_out(image: FirmwareImage) -> bool:
    """Whether an image is one that is merely named: it is not there, and so cannot be loaded."""
    return image.named_by in {"modinfo", "catalogue"} and isinstance(image.path, Missing) and image.path.status is Status.ABSENT


def _origin(facts: Facts, image: FirmwareImage) -> Origin:
    if isinstance(image.path, Missing):
        return Origin(Cover.UNDECIDED, image.path.note or "not read", image.path.evidence, image.path)
    return enforced(facts.loading, image.path.value, "firmware")


def _taken_anyway(facts: Facts, image: FirmwareImage) -> str:
    """What shows that the device takes images that nobody vouches for; empty where it may verify them itself, or the kernel does."""
    ima = facts.loading.ima_appraises_firmware
    if isinstance(ima, Missing) or ima.value or isinstance(image.envelope, Missing):
        return ""
    found = verify_image(image.envelope.value, facts.settings)
    return f"{found.state.value}: {', '.join(found.remarks) or found.scheme}" if found.state in UNSAFE else ""


def _foreign(facts: Facts) -> list[str]:
    """Files among what the delegate loads that are for another processor. Raises MissingFact where not all of it was read."""
    closure = facts.closure.open()
    for place in closure.unread:
        place.open()
    return [each.path for each in closure.foreign]


@check(
    "security-2.user-space",
    level=Level.SHOULD,
    needs=("closure",),
    expected="no code for another processor among what the driver's user space loads",
    passes="The driver's user space loads no code for another processor, and nothing in it speaks of firmware.",
    fails="The driver's user space brings code for another processor, which the kernel's loader never sees.",
    unknown="The driver's user space may hold firmware, or hand it to the device itself.",
    remediation="Load the accelerator's code as firmware, by the kernel, from the verified root.",
    owner=Owner.VENDOR,
)
def user_space(facts: Facts) -> Iterator[Answer]:
    """No file of the delegate's closure is an ELF file for another machine than the delegate itself.

    Code for a DSP or NPU that is shipped as a shared library (Hexagon's `*Skel.so`) is firmware in all but name: LoadPin, IMA and the
    firmware search path are about what the kernel loads. A file that holds the first bytes of AMD's or Intel's images ($PS1, $CPD, $MN2),
    or the path of the firmware folder or of the kernel's upload interfaces, is unknown. ELF images and packed ones inside a library are
    not seen, nor are daemons that the delegate does not load.
    """
    foreign = _foreign(facts)
    if foreign:
        yield Answer(Outcome.FAIL, f"for another processor: {', '.join(foreign)}", facts.closure.evidence)
        return
    own = [each for each in facts.closure.open().objects if not (each.base or each.runtime)]
    found = [f"{each.path} holds {', '.join(marks)}" for each in own if (marks := _marks(each))]
    evidence = (*facts.closure.evidence, *(item for each in own for item in each.marks.evidence))
    if found:
        yield Answer(Outcome.UNKNOWN, "; ".join(found[:SHOWN]), evidence, remedy=Remedy.VENDOR)
        return
    yield Answer(Outcome.PASS, "all files are for one machine, and none speaks of firmware", evidence)


def _marks(each: ElfObject) -> list[str]:
    return [mark for mark in each.marks.open() if mark in FIRMWARE_MARKS]


@check(
    "security-2.embedded",
    level=Level.SHOULD,
    each="accelerators",
    expected="no firmware image inside the driver's module",
    passes="The driver's module holds no firmware image.",
    fails="The driver's module holds what looks like firmware, which none of the checks of images sees.",
    unknown="Whether the driver holds firmware is not known.",
    remediation="Ship the image as a file of its own, and name it in the driver (MODULE_FIRMWARE).",
    owner=Owner.VENDOR,
)
def embedded(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """No ELF file, no image of AMD's or Intel's formats, no device tree (FIT) and nothing packed (xz, zstd, gzip) lies inside the module.

    What is inside is as trustworthy as the module (functional-1), and is replaced with it. Only what its format's reader takes, or what
    unpacks, counts; an image of another format is not seen. A driver that is built into the kernel is not searched.
    """
    module = accelerator.module.open()
    info = module.info.open()
    if module.built_in.open():
        yield Answer(Outcome.UNKNOWN, f"{module.name} is built into the kernel", module.built_in.evidence, remedy=Remedy.VENDOR)
        return
    outcome = Outcome.FAIL if info.images else Outcome.PASS
    observed = f"{module.name} holds {', '.join(info.images[:SHOWN])}" if info.images else f"{module.name} holds no image"
    yield Answer(outcome, observed, (*module.built_in.evidence, *module.info.evidence))


@check(
    "security-2.signature",
    level=Level.SHOULD,
    each="firmware",
    expected="an image that is signed, down to a root of production",
    passes="The image is signed by a root of production.",
    fails="The image is unsigned, altered, or signed with a test key.",
    unknown="Who signed the image, or whether anyone did, is not known.",
    not_applicable="The image is not installed, so it cannot be loaded.",
    remediation="Ship an image that the vendor's production key signs.",
    owner=Owner.VENDOR,
)
def signature(facts: Facts, image: FirmwareImage) -> Iterator[Answer]:
    """The image's own signature verifies, with all that it covers, down to a root that is pinned as one of production.

    A chain that verifies proves nothing by itself: an image that was signed again with a root of one's own differs in the root's
    fingerprint alone. So roots are pinned, in a list that ships with this program and by `--trust-root`; another is unknown. An image of
    an unknown format is unknown, never unsigned; unsigned is one whose format accounts for every byte. Dates are information: boot ROMs
    have no clock. Whether the device verifies the signature is another question (security-2.device).
    """
    if _is_left_out(image):
        yield _not_there(image)
        return
    found = verify_image(image.envelope.open(), facts.settings)
    outcome = {State.PRODUCTION: Outcome.PASS, **dict.fromkeys(UNSAFE, Outcome.FAIL)}.get(found.state, Outcome.UNKNOWN)
    root = f", root {found.root[:16]}… {printable(found.signer)}" if found.root else ""
    remarks = "".join(f"; {printable(each)}" for each in found.remarks)
    observed = f"{found.state.value}{f' ({found.scheme})' if found.scheme else ''}{root}{remarks}"
    remedy = Remedy.VENDOR if outcome is Outcome.UNKNOWN else None
    yield Answer(outcome, observed, _read(image), remedy=remedy)


@check(
    "security-2.strength",
    level=Level.SHOULD,
    each="firmware",
    expected="keys and digests that are strong enough for a signature today",
    passes="The keys and the digest of the image's signature are strong enough.",
    fails="A key or the digest of the image's signature is too weak to tell who made it.",
    unknown="No signature of the image verifies, so its strength is not known.",
    not_applicable="The image carries no signature that is understood, or is not installed.",
    remediation="Sign with RSA-2048 or more, or ECDSA on a curve of 224 bits or more, and SHA-256 or better.",
    owner=Owner.VENDOR,
)
def strength(facts: Facts, image: FirmwareImage) -> Iterator[Answer]:
    """No key of the chain is RSA below 2048 bits or on a curve below 224, and the signature is not over SHA-1 (NIST SP 800-131A).

    ChromeOS's page asks for no sizes; this is advice.
    """
    if _is_left_out(image):
        yield _not_there(image)
        return
    if not image.envelope.open().signatures:
        yield Answer(Outcome.NOT_APPLICABLE, f"format {image.envelope.open().format}, no signature", _read(image))
        return
    found = verify_image(image.envelope.open(), facts.settings)
    if found.state is State.BAD or not found.root:
        yield Answer(Outcome.UNKNOWN, found.state.value, _read(image), remedy=Remedy.VENDOR)
        return
    yield Answer(Outcome.FAIL if found.weak else Outcome.PASS, ", ".join(found.weak) or found.scheme, _read(image))


@check(
    "security-2.coverage",
    level=Level.SHOULD,
    each="firmware",
    expected="no byte of a signed image outside what its signature covers",
    passes="The signature covers every byte of the image that is no padding.",
    fails="There are bytes in the image that no signature and no digest covers.",
    not_applicable="The image carries no signature that is understood, or is not installed.",
    remediation="Leave nothing in the file beside what is signed.",
    owner=Owner.VENDOR,
)
def coverage(facts: Facts, image: FirmwareImage) -> Iterator[Answer]:
    """Every byte of the image, but for padding (0x00, 0xff), is covered by the signature or by a digest that it covers.

    Bytes that were appended, or a segment whose digest is left out, verify as well as the rest; whether a device ever reads them is not
    known offline.
    """
    if _is_left_out(image):
        yield _not_there(image)
        return
    envelope: Envelope = image.envelope.open()
    evidence = _read(image)
    if not envelope.signatures:
        yield Answer(Outcome.NOT_APPLICABLE, f"format {envelope.format}, no signature", evidence)
    elif envelope.unchecked:
        yield Answer(Outcome.UNKNOWN, envelope.unchecked, evidence, remedy=Remedy.VENDOR)
    else:
        outcome = Outcome.FAIL if envelope.uncovered else Outcome.PASS
        yield Answer(outcome, f"{envelope.uncovered} bytes are not covered", evidence)


@check(
    "security-2.origin",
    level=Level.SHOULD,
    each="firmware",
    expected="an image on the verified root",
    passes="Verified boot covers the image.",
    fails="Verified boot does not cover the image.",
    not_applicable="The image is not installed, so it cannot be loaded.",
    remediation="Ship the image on the verified root.",
    owner=Owner.CHROMEOS,
)
def origin(facts: Facts, image: FirmwareImage) -> Iterator[Answer]:
    """The file, with links followed, lies on the root file system, and that is verified.

    Images on another file system are unknown: a verified DLC may be one, and what LoadPin was told to trust cannot be read back.
    Source: ChromeOS, Peripheral Firmware Security, 1.
    """
    if _is_left_out(image):
        yield _not_there(image)
        return
    found = covered(facts.loading, image.path.open())
    yield by_origin(found, image.path)


@check(
    "security-2.shadowed",
    level=Level.SHOULD,
    each="firmware",
    expected="one file for each image that the driver names",
    passes="The image that is loaded hides no other.",
    fails="More than one file answers to the image's name, and one hides the others.",
    not_applicable="The image is not installed, so it cannot be loaded.",
    remediation="Remove the files that are not meant to be loaded.",
    owner=Owner.CHROMEOS,
)
def shadowed(facts: Facts, image: FirmwareImage) -> Iterator[Answer]:
    """No second file lies where the kernel would find it under this name: a plain file hides a compressed one, `updates` hides the rest.

    Source: drivers/base/firmware_loader/main.c.
    """
    if _is_left_out(image):
        yield _not_there(image)
        return
    path = image.path.open()
    others = ", ".join(image.shadowed)
    outcome = Outcome.FAIL if others else Outcome.PASS
    yield Answer(outcome, f"{printable(path)}{f' hides {others}' if others else ''}", image.path.evidence)


def _read(image: FirmwareImage) -> tuple[Evidence, ...]:
    """What was read of an image; its digest is shown, and decides nothing."""
    return (*image.path.evidence, *image.envelope.evidence, *(replace(each, necessary=False) for each in image.sha256.evidence))


def _not_there(image: FirmwareImage) -> Answer:
    return Answer(Outcome.NOT_APPLICABLE, f"{image.name} is named by the driver and not installed", image.path.evidence)


@check(
    "security-2.override",
    level=Level.SHOULD,
    each="accelerators",
    expected="no module parameter that names another firmware file",
    passes="No module parameter names another firmware file.",
    fails="A module parameter makes the driver load another firmware file.",
    remediation="Take the parameter out of the kernel command line and of modprobe's configuration.",
    owner=Owner.CHROMEOS,
)
def override(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The driver's parameters that override its firmware (`intel_vpu.firmware`, `i915.guc_firmware_path` …) are not set.

    Read as they are now, from sysfs; those that sysfs does not show, from the kernel command line.
    """
    module = accelerator.module.open()
    values = {name: fact.open() for name, fact in module.parameters.open().items()}
    given = ", ".join(f"{name}={value}" for name, value in values.items() if value)
    evidence = (*accelerator.module.evidence, *module.parameters.evidence)
    evidence += tuple(item for fact in module.parameters.open().values() for item in fact.evidence)
    yield Answer(Outcome.FAIL if given else Outcome.PASS, printable(given) or f"none of {module.name}'s is set", evidence)


@check(
    "security-2.device",
    level=Level.SHOULD,
    each="accelerators",
    expected="a device that refuses an image that was altered",
    passes="The device was seen to refuse an altered image.",
    fails="The device was seen to take an altered image.",
    unknown="Whether the device itself verifies its firmware cannot be seen from outside.",
    not_applicable="No image is loaded onto this accelerator.",
    remediation="State how the device verifies its firmware, or what blocks updates after boot; attach the record of a refused image.",
    owner=Owner.VENDOR,
)
def device(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """Whether the accelerator itself checks what it is given: only a recorded attempt with an altered image shows that.

    No such attempt is made here: it may leave a device without working firmware, and belongs into a lab. A signature in the file says
    that a device can verify, not that it does: fuses decide. Source: ChromeOS, Peripheral Firmware Security, 2 and 3.
    """
    module = accelerator.module.open()
    info = module.info.open()
    if not info.firmware and not info.loaders:
        yield Answer(Outcome.NOT_APPLICABLE, f"{module.name} takes no firmware in", module.info.evidence)
        return
    yield Answer(Outcome.UNKNOWN, "no attempt with an altered image is recorded", module.info.evidence, remedy=Remedy.VENDOR)
