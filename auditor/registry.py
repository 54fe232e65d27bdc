"""Finds checks and formats: the modules of `checks` and `reports`, and plug-ins through entry points.

Modules are read for what they hold; importing one registers nothing. A plug-in's entry point in the group `crosml_audit.checks`
names a module (or a Check) and in `crosml_audit.reports` a module (or a Format).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import checks as built_in_checks
import reports as built_in_reports
from auditor.errors import AuditError
from auditor.model import Check, Format, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T", Check, Format)

CHECKS = "crosml_audit.checks"
FORMATS = "crosml_audit.reports"


def checks(*, plugins: bool = True) -> tuple[Check, ...]:
    """Every check, by module name and in the order of its module; an id is there once."""
    return tuple(_once((check.id, check) for check in _found(Check, built_in_checks, CHECKS if plugins else None)).values())


def formats(*, plugins: bool = True) -> dict[str, Format]:
    """Every report format by its name; a name is there once."""
    return _once((each.name, each) for each in _found(Format, built_in_reports, FORMATS if plugins else None))


def _once(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Things by their names. Raises AuditError where two have one name: a plug-in must not take the place of another."""
    found: dict[str, T] = {}
    for name, each in named:
        if found.setdefault(name, each) is not each:
            raise AuditError(f"duplicate {type(each).__name__.lower()} id: {visible(name)}")
    return found


def _found(kind: type[T], package: ModuleType, group: str | None) -> Iterator[T]:
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        yield from _members(kind, importlib.import_module(f"{package.__name__}.{module.name}"))
    for point in sorted(importlib.metadata.entry_points(group=group), key=lambda each: each.name) if group else ():
        try:
            loaded = point.load()
        except Exception as error:
            raise AuditError(visible(f"the plug-in {point.name} = {point.value} cannot be loaded: {error}")) from error
        if isinstance(loaded, kind):
            yield loaded
        elif isinstance(loaded, ModuleType):
            yield from _members(kind, loaded)
        else:
            raise AuditError(visible(f"the plug-in {point.name} = {point.value}: expected a module or a {kind.__name__}"))


def _members(kind: type[T], module: ModuleType) -> Iterator[T]:
    return (value for value in vars(module).values() if isinstance(value, kind))
