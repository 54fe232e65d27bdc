"""A lab's own rule, judged and reported with the checks that ship."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from auditor.model import Answer, Level, Outcome, Owner, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Facts

OLDEST = (6, 6)
"""The oldest kernel, major and minor, that this lab takes."""


@check(
    "functional-1.lab-kernel",
    level=Level.SHOULD,
    expected="Linux 6.6 or later",
    passes="The kernel is one that the lab takes.",
    fails="The kernel is older than the lab takes.",
    unknown="The kernel's release is not known.",
    remediation="Use a board image with a later kernel.",
    owner=Owner.CHROMEOS,
)
def lab_kernel(facts: Facts) -> Iterator[Answer]:
    """Compare the running kernel's release with the oldest that this lab takes.

    The release is what /proc/sys/kernel/osrelease says. A kernel that was patched can say anything; functional-1 itself decides on more.
    """
    release = facts.kernel.release.open()
    if (version := re.match(r"(\d{1,4})\.(\d{1,4})", release)) is None:
        yield Answer(Outcome.UNKNOWN, release, facts.kernel.release.evidence)
    else:
        recent = (int(version[1]), int(version[2])) >= OLDEST
        yield Answer(Outcome.PASS if recent else Outcome.FAIL, release, facts.kernel.release.evidence)
