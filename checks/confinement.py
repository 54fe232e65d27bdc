"""What security-1 and the ML service's checks have in common: what the definition of a sandbox lets through. No check of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor.facts.types import Restraint, SandboxDefinition, SeccompPolicy

_ALLOWED = frozenset({"1", "allow", "log"})
"""Filters that let every call through; `log` writes it down beside (google/minijail, tools/parser.py)."""

_RESTRICTS = re.compile(r"arg1\s*(==|in\b|&(?!&))")
"""A condition on an ioctl's request. `!=` is none: it lets all but one through."""

OWN_ROOT = frozenset({"P", "C", "profile"})
"""minijail's options that give a service a root of its own, without the system's /dev."""


SECCOMP_FILTER = 2
"""`Seccomp:` of /proc/PID/status: 0 off, 1 strict, 2 filter."""

ESCAPES = {16: "CAP_SYS_MODULE", 17: "CAP_SYS_RAWIO", 19: "CAP_SYS_PTRACE", 21: "CAP_SYS_ADMIN"}
"""Capabilities by bit (include/uapi/linux/capability.h) with which a process leaves any sandbox: by code in the kernel, by memory, by
another process, by mounts and namespaces."""


def lets_every_ioctl_through(policy: SeccompPolicy) -> bool:
    """Whether some filter of the policy allows ioctl whatever its request is."""
    if "@denylist" in policy.rules or not _ALLOWED.isdisjoint(policy.rules.get("@default", ())):
        return True
    return any(_is_open(each) for each in policy.rules.get("ioctl", ()))


def _is_open(rule: str) -> bool:
    """Whether one of a rule's alternatives allows the call without a condition on the request."""
    alternatives = (part.strip() for part in re.split(r"\|\||;", rule.strip("{} ")))
    return any(part in _ALLOWED or ("arg" in part and not _RESTRICTS.search(part)) for part in alternatives if part)


def filter_in_doubt(definition: SandboxDefinition) -> str:
    """Why the policy need not be what is enforced, in words; empty where it is.

    With -L a minijail that was built for debugging writes down what the policy refuses, and lets it through (libminijail.c,
    parse_seccomp_filters); how it was built does not show. A compiled filter takes the policy's place.
    """
    if "L" in definition.options:
        return "with -L the filter may only log what it should refuse"
    return "its filter is a compiled one" if "seccomp-bpf-binary" in definition.options else ""


def shows_all_devices(definition: SandboxDefinition) -> bool:
    """Whether the service sees the whole of /dev: taken along, or never taken away. A configuration by itself need not say the latter."""
    return "/dev" in definition.binds or bool(definition.command and OWN_ROOT.isdisjoint(definition.options))


def is_restrained(found: Restraint) -> bool:
    """Whether a process has no new privileges, a seccomp filter, and no capability that leads out of any sandbox."""
    return found.no_new_privs and found.seccomp == SECCOMP_FILTER and not any(found.capabilities >> bit & 1 for bit in ESCAPES)


def restrained(found: Restraint) -> str:
    """How a process is confined, in words."""
    named = [name for bit, name in ESCAPES.items() if found.capabilities >> bit & 1]
    return ", ".join((
        "root" if found.uid == 0 else f"user {found.uid}",
        "no new privileges" if found.no_new_privs else "may gain new privileges",
        {0: "no seccomp", 1: "seccomp strict"}.get(found.seccomp, "seccomp filter"),
        f"capabilities {found.capabilities:#x}{' with ' + ' '.join(named) if named else ''}" if found.capabilities else "no capabilities",
    ))  # fmt: skip
