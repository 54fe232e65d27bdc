"""security-2: what the running kernel enforces of the firmware that it takes. The images: security_2.py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from auditor.facts.types import Ok
from auditor.model import Answer, Level, Outcome, Owner, check, printable
from auditor.verify.origin import Cover, enforced, pinned, verified_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Fact, Facts
    from auditor.verify.origin import Origin

OUTCOMES = {Cover.ENFORCED: Outcome.PASS, Cover.OPEN: Outcome.FAIL, Cover.UNDECIDED: Outcome.UNKNOWN}


def by_origin(found: Origin, *facts: Fact[str]) -> Answer:
    """An answer by what covers a place: the kernel enforces it, leaves it open, or it is undecided."""
    evidence = (*(item for fact in facts for item in fact.evidence), *found.evidence)
    return Answer(OUTCOMES[found.cover], found.reason, evidence, remedy=found.missing.remedy if found.missing else None)


@check(
    "security-2.verified-boot",
    level=Level.SHOULD,
    expected="a root that dm-verity verifies, read-only, on a device in normal mode",
    passes="Verified boot vouches for the root file system.",
    fails="Nothing vouches for the root file system.",
    remediation="Boot a signed image with root file system verification, in normal mode.",
    owner=Owner.CHROMEOS,
)
def verified_boot(facts: Facts) -> Iterator[Answer]:
    """The kernel that ChromeOS firmware started in normal mode mounted a dm-verity device, whose digest it brought with it, as the root.

    The dm-verity table stays on the command line where verification is turned off, so what is mounted decides. A device that was
    signed with developer keys and runs in normal mode looks the same here. Source: Documentation/admin-guide/device-mapper/verity.rst.
    """
    yield by_origin(verified_root(facts.loading))


@check(
    "security-2.loadpin",
    level=Level.SHOULD,
    expected="LoadPin, enforcing, on the read-only root, without an exception for firmware",
    passes="LoadPin lets the kernel load firmware from the root file system only.",
    fails="The kernel loads firmware from other file systems than the root.",
    remediation="Enable LoadPin (CONFIG_SECURITY_LOADPIN_ENFORCE), and take loadpin.exclude=firmware out of the kernel command line.",
    owner=Owner.CHROMEOS,
)
def loadpin(facts: Facts) -> Iterator[Answer]:
    """LoadPin enforces, pinned the root file system on a read-only device, and `loadpin.exclude` does not name firmware.

    LoadPin pins whatever something is loaded from first, so the kernel's log must say what that was. While the pinned device can be
    written, the sysctl that says "enforce" can be turned off again. Source: security/loadpin/loadpin.c.
    """
    yield by_origin(pinned(facts.loading, "firmware"))


@check(
    "security-2.search-path",
    level=Level.SHOULD,
    expected="an empty firmware_class.path",
    passes="The kernel looks for firmware where the distribution puts it.",
    fails="The kernel looks for firmware elsewhere first.",
    remediation="Take firmware_class.path out of the kernel command line.",
    owner=Owner.CHROMEOS,
)
def search_path(facts: Facts) -> Iterator[Answer]:
    """No folder is searched for firmware before the standard ones. Root can set it at any time; LoadPin is what makes that harmless."""
    path = facts.loading.search_path.open()
    outcome = Outcome.FAIL if path else Outcome.PASS
    yield Answer(outcome, f"firmware_class.path is {printable(path) or 'empty'}", facts.loading.search_path.evidence)


@check(
    "security-2.helper",
    level=Level.SHOULD,
    expected="no fallback to user space for firmware",
    passes="User space is not asked for firmware.",
    fails="User space is asked for firmware that the kernel does not find.",
    remediation="Build the kernel without CONFIG_FW_LOADER_USER_HELPER, or set ignore_sysfs_fallback.",
    owner=Owner.CHROMEOS,
)
def helper(facts: Facts) -> Iterator[Answer]:
    """The firmware loader does not fall back to a helper in user space, which could write any bytes (CONFIG_FW_LOADER_USER_HELPER)."""
    asks = facts.loading.user_helper.open()
    yield Answer(Outcome.FAIL if asks else Outcome.PASS, f"fallback {'on' if asks else 'off'}", facts.loading.user_helper.evidence)


@check(
    "security-2.module-signing",
    level=Level.SHOULD,
    expected="a kernel that takes no module that nobody vouches for",
    passes="The kernel takes only modules that are signed, or that lie on the verified root.",
    fails="The kernel takes modules that nobody vouches for, and a module can hold or load any firmware.",
    remediation="Enforce module signatures (module.sig_enforce), or LoadPin for kernel-module.",
    owner=Owner.CHROMEOS,
)
def module_signing(facts: Facts) -> Iterator[Answer]:
    """Unsigned modules are refused, or LoadPin holds modules to the verified root: a driver in a module decides what its device is given.

    Sources: Documentation/admin-guide/module-signing.rst; Documentation/admin-guide/LSM/LoadPin.rst.
    """
    signed = facts.loading.module_signatures_enforced
    held = enforced(facts.loading, "/", "kernel-module")
    ways = [("module signatures are enforced", signed.evidence)] if isinstance(signed, Ok) and signed.value else []
    if held.cover is Cover.ENFORCED:
        ways.append((held.reason, held.evidence))
    if ways:
        evidence = (replace(item, necessary=len(ways) == 1) for _, items in ways for item in items)
        yield Answer(Outcome.PASS, "; ".join(reason for reason, _ in ways), tuple(evidence))
        return
    signed.open()
    outcome, remedy = OUTCOMES[held.cover], held.missing.remedy if held.missing else None
    yield Answer(outcome, f"module signatures are not enforced; {held.reason}", (*signed.evidence, *held.evidence), remedy=remedy)


@check(
    "security-2.lockdown",
    level=Level.SHOULD,
    expected="a kernel in lockdown: integrity or confidentiality",
    passes="Root cannot reach the kernel's or a device's memory past its driver.",
    fails="Root can reach the kernel's or a device's memory past its driver, and so what runs on it.",
    remediation="Boot with lockdown=integrity.",
    owner=Owner.CHROMEOS,
)
def lockdown(facts: Facts) -> Iterator[Answer]:
    """The kernel is locked down, which closes /dev/mem, PCI configuration and kexec of unsigned kernels; it does not look at firmware.

    Source: security/lockdown.
    """
    state = facts.loading.lockdown.open()
    outcome = Outcome.PASS if state in {"integrity", "confidentiality"} else Outcome.FAIL
    yield Answer(outcome, f"lockdown is {printable(state)}", facts.loading.lockdown.evidence)


@check(
    "security-2.ima",
    level=Level.SHOULD,
    expected="firmware signatures that the kernel checks, or LoadPin, which makes that needless",
    passes="The kernel refuses firmware without a signature.",
    fails="Neither IMA nor LoadPin keeps the kernel from loading any firmware.",
    not_applicable="IMA does not check firmware; LoadPin does without.",
    remediation="Appraise firmware (ima_policy=secure_boot), or enforce LoadPin.",
    owner=Owner.CHROMEOS,
)
def ima(facts: Facts) -> Iterator[Answer]:
    """IMA's policy appraises firmware by signature; where it does not, LoadPin on the verified root takes its place, as in ChromeOS.

    A rule that takes a mere digest proves nothing, and `ima_appraise=fix` or `log` refuses nothing. Source: ima_policy.c.
    """
    appraises = facts.loading.ima_appraises_firmware
    if appraises.open():
        yield Answer(Outcome.PASS, "IMA appraises firmware by signature", appraises.evidence)
        return
    held = enforced(facts.loading, "/", "firmware")
    outcome = Outcome.NOT_APPLICABLE if held.cover is Cover.ENFORCED else OUTCOMES[held.cover]
    remedy = held.missing.remedy if held.missing else None
    yield Answer(outcome, f"IMA does not appraise firmware; {held.reason}", (*appraises.evidence, *held.evidence), remedy=remedy)
