"""What security-1 and the ML service's checks have in common: what the definition of a sandbox lets through. No check of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor.facts.types import SandboxDefinition, SeccompPolicy

_ALLOWED = frozenset({"1", "allow", "log"})
"""Filters that let every call through; `log` writes it down beside (google/minijail, tools/parser.py)."""

_RESTRICTS = re.compile(r"arg1\s*(==|in\b|&(?!&))")
"""A condition on an ioctl's request. `!=` is none: it lets all but one through."""

OWN_ROOT = frozenset({"P", "C", "profile"})
"""minijail's options that give a service a root of its own, without the system's /dev."""


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
