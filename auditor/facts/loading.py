"""What the kernel lets itself load, and from where: verified boot, LoadPin, the firmware loader, module signing, lockdown, IMA.

Sources: drivers/base/firmware_loader/, security/loadpin/loadpin.c, Documentation/admin-guide/LSM/LoadPin.rst,
Documentation/admin-guide/device-mapper/{verity,dm-init}.rst, drivers/md/dm-verity-chromeos.c of ChromeOS kernels,
security/integrity/ima/ima_policy.c. Most of these files do not exist in a container or in an unpacked image: that proves nothing, and
absence decides only beside a neighbour that was read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from auditor.facts.device_mapper import PARAMETERS, read_tables, root_minor
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Fact, Loading, LoadPin, Missing, Mount, Ok, Pin, VerifiedBoot, mount_of
from auditor.model import Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from auditor.facts.device_mapper import Target
    from auditor.facts.reading import Device
    from auditor.facts.types import Kernel

_MAX_MOUNTS = 100_000
_PINNED = re.compile(r"LoadPin: (?:\S+ \((\d+:\d+)\)|dev\((\d+,\d+)\)|(mnt_sb) lacks block device, treating as): (read-only|writable)\b")
"""What is pinned, as every kernel from 4.7 to 7.2 says it; some downstream ones do without the device's name."""

_STARTED = re.compile(r"LoadPin: ready to pin \(currently (not enforcing|enforcing|enabled|disabled)\)")
"""How LoadPin was started; kernels before 4.20 say `enabled`."""

_ENGAGED = "LoadPin: load pinning engaged."


def read_loading(device: Device, kernel: Kernel) -> Loading:
    """What decides which firmware and modules this kernel accepts."""
    mounts = parse(device.text("/proc/self/mountinfo"), _mounts)
    log = parse(device.ask(base.kernel_log()), printable)
    return Loading(
        verified_boot=VerifiedBoot(
            verity=_verity(device, kernel, mounts),
            root_read_only=parse(mounts, lambda found: _root(found).read_only),
            mode=parse(kernel.command_line, _mode),
        ),
        mounts=mounts,
        loadpin=LoadPin(
            enforcing=_enforcing(device, kernel, log),
            excluded=parse(kernel.command_line, _excluded),
            pinned=parse(log, _pinned),
        ),
        search_path=_search_path(device, kernel),
        user_helper=_user_helper(device, kernel),
        module_signatures_enforced=_module_signatures(device, kernel),
        lockdown=parse(device.text("/sys/kernel/security/lockdown"), _bracketed),
        ima_appraises_firmware=_ima(device, kernel),
    )


def _values(parameters: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The values of a kernel parameter, in order; `-` and `_` are the same in its name (kernel/params.c, parameq)."""
    pairs = (parameter.partition("=") for parameter in parameters)
    return tuple(value for key, _, value in pairs if key.replace("-", "_") == name.replace("-", "_"))


# --- verified boot -----------------------------------------------------------------------------------------------------------------------


def _mounts(text: str) -> tuple[Mount, ...]:
    """Lines of mountinfo: `id parent major:minor root point options [optional]… - type source super-options`."""
    lines = text.splitlines()
    if not lines or len(lines) > _MAX_MOUNTS:
        raise ValueError(f"{len(lines)} mounted file systems")
    found = []
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(rest) < 3:
            raise ValueError(f"expected mountinfo's fields, found {line[:80]!r}")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        found.append(Mount(int(fields[0]), int(fields[1]), point, fields[2], rest[0], "ro" in rest[2].split(",")))
    return tuple(found)


def _root(mounts: tuple[Mount, ...]) -> Mount:
    root = mount_of(mounts, "/")
    if root is None:
        raise ValueError("nothing is mounted at /")
    return root


def _verity(device: Device, kernel: Kernel, mounts: Fact[tuple[Mount, ...]]) -> Fact[bool]:
    """Whether the mounted root is a dm-verity device with its root digest on the command line.

    The table alone proves nothing: with root file system verification turned off, ChromeOS keeps it there and mounts a partition.
    """
    line = kernel.command_line
    if isinstance(line, Missing):
        return line
    root = next((found for value in _values(line.value, "root")[-1:] if (found := root_minor(value))), None)
    given = [(name, value) for name in PARAMETERS for value in _values(line.value, name)]
    verifies = any(re.search(r"\bverity\b", value) for _, value in given)
    if _values(line.value, "roothash") and not verifies:
        return Missing(Status.FAILED, line.evidence, "dm-verity set up by an initial RAM disk is not understood", Remedy.EVIDENCE)
    if root is None or not verifies or {"2", "none"} & set(_values(line.value, "dm_verity.error_behavior")):
        return Ok(False, line.evidence)
    number, device_number = root
    target = _target(given, number)
    if target is None:
        note = "a dm-verity table that is not understood, or not of the root"
        return Missing(Status.FAILED, line.evidence, note, Remedy.EVIDENCE)
    if target.goes_on:
        return Ok(False, line.evidence)
    named = device.text(f"/sys/block/dm-{number}/dev")
    mounted = parse(mounts, lambda found: _root(found).device)
    for fact in (named, mounted):
        if isinstance(fact, Missing):
            return Missing(fact.status, all_of(fact, line, named, mounted), fact.note, fact.remedy)
    evidence = all_of(mounted, named, line)
    if named.open() != mounted.open() or device_number not in {"", named.open()}:  # a container's root, or another that it was switched to
        return Missing(Status.FAILED, evidence, f"what is mounted at / is not dm-{number}", Remedy.EVIDENCE)
    return Ok(True, evidence)


def _target(given: list[tuple[str, str]], minor: int) -> Target | None:
    """The dm-verity target that the device of this number is made of, and nothing else; None where that is not so, or not understood.

    What lies below it, ChromeOS's bootcache or another device, does not matter: what is read through it is verified.
    """
    if len(given) != 1:  # the kernel takes one of them
        return None
    try:
        devices = read_tables(*given[0])
    except ValueError:
        return None
    found = [each for each in devices if each.minor == minor]
    if len(found) != 1 or not found[0].read_only or len(found[0].targets) != 1 or not found[0].targets[0].is_verity:
        return None
    return found[0].targets[0]


def _mode(parameters: tuple[str, ...]) -> str:
    """In developer mode the firmware writes cros_debug beside cros_secure."""
    if "cros_debug" in parameters:
        return "developer"
    return "normal" if "cros_secure" in parameters else ""


# --- LoadPin -----------------------------------------------------------------------------------------------------------------------------


def _enforcing(device: Device, kernel: Kernel, log: Fact[str]) -> Fact[bool]:
    """Whether LoadPin refuses: by its sysctl; kernels before 6.2 have that only on a writable pinned device, and say so in the log else."""
    parameter: Fact[bool] = Missing(Status.ABSENT)
    for name in ("enforce", "enabled"):
        parameter = device.switch(f"/proc/sys/kernel/loadpin/{name}")
        if not (isinstance(parameter, Missing) and parameter.status is Status.ABSENT):
            return parameter
    modules = device.line("/sys/kernel/security/lsm")
    if isinstance(modules, Ok):
        loaded, proof = "loadpin" in modules.value.split(","), modules.evidence
    elif modules.status is Status.ABSENT and isinstance(kernel.config, Ok):
        loaded, proof = "CONFIG_SECURITY_LOADPIN" in kernel.config.value, kernel.config.evidence
    elif modules.status is Status.ABSENT:  # a tree without securityfs: that says nothing about the kernel
        note = "neither the list of security modules nor the kernel's configuration is there"
        return Missing(Status.FAILED, all_of(modules, kernel.config), note, Remedy.LIVE)
    else:
        return modules
    if not loaded:
        return Missing(Status.ABSENT, proof, "this kernel has no LoadPin")
    return parse(log, _engaged)


def _engaged(log: str) -> bool:
    """What the log says where there is no sysctl: how LoadPin was started, and that it pinned what cannot be written.

    That it is engaged it says whether it enforces or not, so both lines are needed; nothing changes the former without a sysctl.
    """
    lines = log.splitlines()
    started = {match[1] for line in lines if _said(line, "LoadPin: ") and (match := _STARTED.search(line))}
    if len(started) != 1 or not any(_said(line, _ENGAGED) for line in lines):
        raise ValueError("neither a sysctl nor the kernel's log says whether LoadPin enforces")
    return started <= {"enforcing", "enabled"}


def _said(line: str, text: str) -> bool:
    """Whether a line of the log is the kernel's own, not a quotation in another message."""
    return re.sub(r"^\[[ \d.]+\] ?(\[[^\]]*\] ?)?", "", line).startswith(text)


_NOWHERE = "a file system without a block device"


def _excluded(parameters: tuple[str, ...]) -> frozenset[str]:
    """What every loadpin.exclude names; a second one does not take back the first (kernel/params.c, param_array)."""
    return frozenset(word for value in _values(parameters, "loadpin.exclude") for word in value.split(",") if word)


def _pinned(log: str) -> Pin:
    """The first file system that something was loaded from. Once it is unmounted while enforcing, nothing can be loaded at all."""
    lines = [match for line in log.splitlines() if _said(line, "LoadPin: ") and (match := _PINNED.search(line))]
    found = {((match[1] or match[2] or _NOWHERE).replace(",", ":"), match[4]) for match in lines}
    if not found:
        raise ValueError("the kernel's log does not say what LoadPin pinned")
    if len(found) > 1:  # a module can write such a line as well
        raise ValueError("the kernel's log says twice what LoadPin pinned, each time another")
    ((device, state),) = found
    return Pin(device, state == "read-only")


# --- the firmware loader, module signing, lockdown, IMA ----------------------------------------------------------------------------------


def _search_path(device: Device, kernel: Kernel) -> Fact[str]:
    """firmware_class.path as it is now; in a tree without /sys, as the command line sets it."""
    now = device.line("/sys/module/firmware_class/parameters/path")
    if isinstance(now, Ok) or now.status is not Status.ABSENT or isinstance(kernel.command_line, Missing):
        return now
    given = _values(kernel.command_line.value, "firmware_class.path")
    return Ok(given[-1], kernel.command_line.evidence) if given else now


def _user_helper(device: Device, kernel: Kernel) -> Fact[bool]:
    """Whether an image that is not found is asked of user space (drivers/base/firmware_loader/fallback_table.c).

    The folder of its two switches is there exactly where the fallback is compiled in.
    """
    switches = device.names("/proc/sys/kernel")
    if isinstance(switches, Missing):
        if switches.status is Status.ABSENT and isinstance(kernel.config, Ok):
            compiled = kernel.config.value.get("CONFIG_FW_LOADER_USER_HELPER") == "y"
            return switches if compiled else Ok(False, kernel.config.evidence)
        return switches
    if "firmware_config" not in switches.value:
        if "osrelease" in switches.value:  # every kernel has that one
            return Ok(False, switches.evidence)
        return Missing(Status.FAILED, switches.evidence, "it does not list the kernel's switches", Remedy.EVIDENCE)
    forced = device.switch("/proc/sys/kernel/firmware_config/force_sysfs_fallback")
    ignored = device.switch("/proc/sys/kernel/firmware_config/ignore_sysfs_fallback")
    if isinstance(forced, Missing):
        return forced
    if isinstance(ignored, Missing):
        return ignored
    return Ok(forced.value and not ignored.value, all_of(forced, ignored))


def _module_signatures(device: Device, kernel: Kernel) -> Fact[bool]:
    """Whether unsigned modules are refused; a kernel without module signing has no such switch (kernel/module/signing.c)."""
    now = device.switch("/sys/module/module/parameters/sig_enforce")
    if isinstance(now, Ok) or now.status is not Status.ABSENT or isinstance(kernel.config, Missing):
        return now
    if "CONFIG_MODULE_SIG" not in kernel.config.value:
        return Ok(False, kernel.config.evidence)
    return Ok(True, kernel.config.evidence) if "CONFIG_MODULE_SIG_FORCE" in kernel.config.value else now


def _bracketed(text: str) -> str:
    """The chosen one of a list of choices, which the kernel puts in brackets."""
    (chosen,) = re.findall(r"\[([a-z]+)\]", text)
    return str(chosen)


def _ima(device: Device, kernel: Kernel) -> Fact[bool]:
    """Whether IMA refuses firmware without a signature: by its policy; where that cannot be read, by how the kernel was built and started.

    `ima_appraise=` fix, log and off turn the refusal into a remark.
    """
    line, config = kernel.command_line, kernel.config
    if isinstance(line, Missing):
        return line
    if isinstance(config, Ok) and "CONFIG_IMA_APPRAISE" not in config.value:
        return Ok(False, config.evidence)
    if {"fix", "log", "off"} & set(_values(line.value, "ima_appraise")):
        return Ok(False, line.evidence)
    policy = device.text("/sys/kernel/security/ima/policy")
    if isinstance(policy, Ok):
        return parse(Ok(policy.value, all_of(line, policy)), _appraises_firmware)
    if isinstance(config, Ok) and "CONFIG_IMA_APPRAISE_REQUIRE_FIRMWARE_SIGS" in config.value:
        return Ok(True, all_of(line, config))
    if any("secure_boot" in value.replace("|", " ").split() for value in _values(line.value, "ima_policy")):
        return Ok(True, line.evidence)
    if policy.status is Status.DENIED and isinstance(config, Ok) and "CONFIG_IMA_READ_POLICY" not in config.value:
        note = "the kernel shows its policy to nobody: it is built without CONFIG_IMA_READ_POLICY"
        return Missing(policy.status, all_of(policy, config), note, Remedy.EVIDENCE)
    return policy


def _appraises_firmware(policy: str) -> bool:
    """Whether IMA wants a signature of all firmware. The first rule that fits a file decides (ima_policy.c, ima_match_policy).

    Raises ValueError where that depends on the file, or on what is not understood.
    """
    answers: set[bool | None] = set()
    for action, *words in filter(None, map(str.split, policy.splitlines())):
        values = {key: value for key, _, value in (word.partition("=") for word in words)}
        if action in _IMA_WITHOUT_APPRAISAL or values.get("func", _FIRMWARE_CHECK) != _FIRMWARE_CHECK:
            continue
        if action == "dont_appraise":
            answers.add(False)
        elif action != "appraise":
            answers.add(None)
        else:
            answers.add(_IMA_SIGNED.get(values.get("appraise_type", "")))
        if _IMA_NO_CONDITION.issuperset(values) and action in {"appraise", "dont_appraise"}:
            break
    else:
        answers.add(False)
    if len(answers) > 1 or None in answers:
        raise ValueError("a rule for some firmware only, or one that is not understood")
    return answers == {True}


_FIRMWARE_CHECK = "FIRMWARE_CHECK"
_IMA_WITHOUT_APPRAISAL = frozenset({"measure", "dont_measure", "audit", "dont_audit", "hash", "dont_hash"})
_IMA_SIGNED = {"": False, "imasig": True, "imasig|modsig": True, "sigv3": True}
"""Values of `appraise_type`, and whether a hash that anyone could have written does not do."""

_IMA_NO_CONDITION = frozenset({
    "func", "appraise_type", "appraise_flag", "appraise_algos", "digest_type", "permit_directio", "pcr", "template",
})  # fmt: skip
"""Words of a rule that do not say which files it is about (Documentation/ABI/testing/ima_policy)."""
