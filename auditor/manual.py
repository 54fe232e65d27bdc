"""The manual page of a check, from its metadata: what `explain` prints and what docs/checks holds."""

from __future__ import annotations

import inspect
import os
import sys
from typing import TYPE_CHECKING

from auditor.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auditor.model import Check, Requirement

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


def clause(requirement: Requirement) -> str:
    """A requirement as the page has it: its text, where that is from, and how the auditor reads it where it leaves room."""
    family = f", and so for each model of the zoo ({requirement.family})" if requirement.model else ""
    lines = [f"# {requirement.id}: {requirement.title}", "", f"Level: {requirement.level.value}{family}", "", requirement.text.strip(), ""]
    lines += [f"Source: {requirement.source}"]
    return "\n".join([*lines, *(["", f"Read as: {requirement.interpretation}"] if requirement.interpretation else [])])


def write_pages(folder: str, found: Iterable[Check]) -> None:
    """Write a page a check and an index to a folder, in place of those that are there."""
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        if name.endswith(".md"):
            os.unlink(os.path.join(folder, name))
    lines = ["# Checks", "", "Made by `make docs` from the checks' own metadata.", ""]
    for check in found:
        lines.append(f"* [{check.id}]({check.id}.md) ({check.level.value}): {check.expected}")
        with open(os.path.join(folder, f"{check.id}.md"), "w", encoding="utf-8") as page:
            page.write(manual_page(check) + "\n")
    with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as index:
        index.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    from auditor import registry

    write_pages(sys.argv[1], registry.checks(plugins=False))
