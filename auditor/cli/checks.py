"""`crosml-audit checks` and `crosml-audit explain`: what is required, and how it is decided."""

from __future__ import annotations

from typing import Annotated

import typer

from auditor.cli.common import errors
from auditor.errors import UsageError
from auditor.model import visible


def checks() -> None:
    """Every check, a line each."""
    with errors():
        from auditor import registry

        for each in registry.checks():
            print(f"{each.id:<28} {each.level.value:<7} {each.expected}")


def explain(id: Annotated[str, typer.Argument(metavar="ID", help="A check, or a requirement.")]) -> None:
    """The manual page of a check, or of each check of a requirement."""
    with errors():
        from auditor import registry
        from auditor.manual import manual_page

        found = [each for each in registry.checks() if id in {each.id, each.requirement}]
        if not found:
            raise UsageError(f"explain: {visible(id)}: no such check or requirement; `crosml-audit checks` lists them")
        print("\n\n".join(manual_page(each) for each in found))
