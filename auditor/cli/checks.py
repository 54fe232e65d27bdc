"""`crosml-audit checks` and `crosml-audit explain`: what is required, how it is decided, and how a finding of a report came about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.common import errors, id_names
from auditor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auditor.model import Check, Requirement

_IDS = "A requirement, a check, a finding, or how several begin (zoo, security-3); commas between."
_NONE = typer.Argument(metavar="[ID,…]", help=_IDS, autocompletion=id_names)


def checks(ids: Annotated[list[str] | None, _NONE] = None) -> None:
    """Every check, or those that are named, a line each."""
    with errors():
        from auditor import registry

        for each in _named(ids)[1] if ids else registry.checks():
            print(f"{each.id:<28} {each.level.value:<7} {each.expected}")


def explain(
    ids: Annotated[list[str], typer.Argument(metavar="ID,…", help=_IDS, autocompletion=id_names)],
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="Explain findings of this JSON report: what was read, and why it decides.")
    ] = None,
) -> None:
    """The clause and the manual page of a check; with --report, how a finding came about."""
    with errors():
        from auditor.manual import clause, manual_page

        if report is not None:
            print("\n\n".join(_came_about(report, ids)))
            return
        required, found = _named(ids)
        print("\n\n".join([*map(clause, required), *map(manual_page, found)]))


def _named(ids: Sequence[str]) -> tuple[list[Requirement], list[Check]]:
    """The requirements and the checks that ids name, each once; of a family of the zoo's requirements, the first. Raises UsageError."""
    from auditor import registry, requirements
    from auditor.vocabulary import vocabulary

    known = vocabulary(requirements.shipped(), registry.checks())
    required: dict[str, Requirement] = {}
    found: dict[str, Check] = {}
    for name in known.split(ids):
        pairs = known.matches(name)
        if not pairs:
            raise UsageError(known.unknown(name))
        for requirement, check in pairs:
            required.setdefault(requirement.family, requirement)
            found[check.id] = check
    return list(required.values()), list(found.values())


def _came_about(path: str, ids: Sequence[str]) -> list[str]:
    """How the findings of a report that ids name came about. Raises UsageError where the report has none of an id."""
    from auditor.manual import chain
    from auditor.reporting import load_report
    from auditor.vocabulary import find

    report = load_report(path)
    return ["\n".join(chain(report, result, finding)) for result, finding in find(report, ids, f"--report {path}")]
