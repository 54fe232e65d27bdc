"""What the kernel lets itself load, and from where: verified boot, LoadPin, the firmware loader, module signing, lockdown, IMA.

Sources: drivers/base/firmware_loader/, security/loadpin/loadpin.c, Documentation/admin-guide/LSM/LoadPin.rst,
Documentation/admin-guide/device-mapper/{verity,dm-init}.rst, drivers/md/dm-verity-chromeos.c of ChromeOS kernels,
security/integrity/ima/ima_policy.c. Most of these files do not exist in a container or in an unpacked image: that proves nothing, and
absence decides only beside a neighbour that was read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from auditor.facts.reading import all_of, parse
from auditor.facts.types import Fact, Loading, LoadPin, Missing, Mount, Ok, Pin, VerifiedBoot, mount_of
from auditor.model import Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from auditor.facts.reading import Device
    from auditor.facts.types import Kernel

_MAX_MOUNTS = 100_000
_DM_TABLES = ("dm", "dm-mod.create")
"""Parameters with a device-mapper table: ChromeOS's own, and mainline's."""

_MAX_TABLE = 8192
"""Characters of a table; the kernel's command line has at most 4096 (COMMAND_LINE_SIZE)."""

_ROOT_DIGEST = re.compile(
    r"(?:1 )?[^\s,]+ [^\s,]+ ro(?: 1)?, ?0 \d+ verity (?:[^,]* )?root_hexdigest=[0-9a-fA-F]{40,128}(?: [^,]*)?"  # ChromeOS: by name
    r"|[^,;]*,[^,;]*,0?,ro,0 \d+ verity \d+ \S+ \S+ \d+ \d+ \d+ \d+ \w+ [0-9a-fA-F]{40,128} [^,;]+"  # mainline: by position
)
"""A table of one device with one target, dm-verity, with its root digest. Of several devices the root could be another; of several
targets, the file system could reach into another."""

_GOES_ON = re.compile(r"\bignore_corruption\b|\berror_behavior=(2|none)\b")
"""A verity table that lets damaged blocks through."""

_PINNED = re.compile(r"LoadPin: \S+ \((\d+:\d+)\): (read-only|writable)\b")
_STARTED = re.compile(r"LoadPin: ready to pin \(currently ((?:not )?enforcing)\)")
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
    number = next((match[1] for value in _values(line.value, "root")[-1:] if (match := re.fullmatch(r"/dev/dm-(\d{1,5})", value))), None)
    given = [value[:_MAX_TABLE] for name in _DM_TABLES for value in _values(line.value, name)]
    tables = [value for value in given if _ROOT_DIGEST.fullmatch(value.strip())]
    careless = [value for value in tables if _GOES_ON.search(value)] or {"2", "none"} & set(_values(line.value, "dm_verity.error_behavior"))
    if _values(line.value, "roothash") and not tables:
        return Missing(Status.FAILED, line.evidence, "dm-verity set up by an initial RAM disk is not understood", Remedy.EVIDENCE)
    if number is None or careless:
        return Ok(False, line.evidence)
    if any(re.search(r"\bverity\b", value) for value in given) and (len(given) > 1 or not tables or number != "0"):
        note = "a dm-verity table that is not understood, or one of several devices"
        return Missing(Status.FAILED, line.evidence, note, Remedy.EVIDENCE)
    if not tables:
        return Ok(False, line.evidence)
    named = device.text(f"/sys/block/dm-{number}/dev")
    mounted = parse(mounts, lambda found: _root(found).device)
    for fact in (named, mounted):
        if isinstance(fact, Missing):
            return Missing(fact.status, all_of(fact, line, named, mounted), fact.note, fact.remedy)
    evidence = all_of(mounted, named, line)
    if named.open() != mounted.open():  # a container's root, or a system that was switched to another
        return Missing(Status.FAILED, evidence, f"what is mounted at / is not dm-{number}", Remedy.EVIDENCE)
    return Ok(True, evidence)


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
    return started == {"enforcing"}


def _said(line: str, text: str) -> bool:
    """Whether a line of the log is the kernel's own, not a quotation in another message."""
    return re.sub(r"^\[[ \d.]+\] ?(\[[^\]]*\] ?)?", "", line).startswith(text)


def _excluded(parameters: tuple[str, ...]) -> frozenset[str]:
    """What every loadpin.exclude names; a second one does not take back the first (kernel/params.c, param_array)."""
    return frozenset(word for value in _values(parameters, "loadpin.exclude") for word in value.split(",") if word)


def _pinned(log: str) -> Pin:
    """The first file system that something was loaded from. Once it is unmounted while enforcing, nothing can be loaded at all."""
    found = {match.groups() for line in log.splitlines() if _said(line, "LoadPin: ") and (match := _PINNED.search(line))}
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
    return policy


def _appraises_firmware(policy: str) -> bool:
    """Whether a rule wants a signature of all firmware. The first rule that fits a file decides, so one before it may make an exception."""
    excepted = False
    for rule in map(str.split, policy.splitlines()):
        funcs = {word for word in rule if word.startswith("func=")}
        if not rule or (funcs and "func=FIRMWARE_CHECK" not in funcs):
            continue
        excepted |= rule[0] == "dont_appraise"
        if rule[0] == "appraise" and funcs and any("imasig" in word for word in rule):
            limited = any(word.partition("=")[0] not in {"appraise", "func", "appraise_type", "appraise_algos"} for word in rule)
            if limited or excepted:
                raise ValueError("a rule for some firmware only, or after one that may except it")
            return True
    return False
