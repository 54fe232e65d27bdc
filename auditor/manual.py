"""The manual page of a check, from its metadata: what `explain` prints and what docs/checks holds."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from auditor.model import Outcome

if TYPE_CHECKING:
    from auditor.model import Check

_OUTCOMES = (Outcome.PASS, Outcome.FAIL, Outcome.UNKNOWN, Outcome.NOT_APPLICABLE)


def manual_page(check: Check) -> str:
    """A page of Markdown: what is required, how it is decided, a sentence per outcome, what to do and who can do it."""
    sentences = [f"* {outcome.value}: {check.sentences[outcome]}" for outcome in _OUTCOMES]
    asked = {None: "once for the device", "model": "for each zoo model"}.get(check.each, f"for each item of the {check.each}")
    return "\n".join([
        f"# {check.id}",
        "",
        f"Level: {check.level.value}. Asked {asked}. Who can act: {check.owner.value}.",
        "",
        f"Expected: {check.expected}",
        "",
        inspect.cleandoc(check.doc),
        "",
        *sentences,
        "",
        f"What to do: {check.remediation}",
    ])  # fmt: skip
