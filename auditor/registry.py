"""Finds checks and formats: the modules of `checks` and `reports`, and plug-ins through entry points.

Modules are read for what they hold; importing one registers nothing. A plug-in's entry point in the group `crosml_audit.checks`
names a module (or a Check) and in `crosml_audit.reports` a module (or a Format).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from typing import TYPE_CHECKING, TypeVar

import checks as built_in_checks
import reports as built_in_reports
from auditor.errors import AuditError
from auditor.model import Check, Format

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

T = TypeVar("T", Check, Format)

CHECKS = "crosml_audit.checks"
FORMATS = "crosml_audit.reports"


def checks(*, plugins: bool = True) -> tuple[Check, ...]:
    """Every check, by module name and in the order of its module; an id is there once."""
    found: dict[str, Check] = {}
    for check in _found(Check, built_in_checks, CHECKS if plugins else None):
        if check.id in found and found[check.id] is not check:
            raise AuditError(f"two checks have the id {check.id}")
        found[check.id] = check
    return tuple(found.values())


def formats(*, plugins: bool = True) -> dict[str, Format]:
    """Every report format by its name."""
    return {each.name: each for each in _found(Format, built_in_reports, FORMATS if plugins else None)}


def _found(kind: type[T], package: ModuleType, group: str | None) -> Iterator[T]:
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        yield from _members(kind, importlib.import_module(f"{package.__name__}.{module.name}"))
    for point in sorted(importlib.metadata.entry_points(group=group), key=lambda each: each.name) if group else ():
        try:
            loaded = point.load()
        except Exception as error:
            raise AuditError(f"the plug-in {point.name} = {point.value} cannot be loaded: {error}") from error
        yield from (loaded,) if isinstance(loaded, kind) else _members(kind, loaded)


def _members(kind: type[T], module: ModuleType) -> Iterator[T]:
    return (value for value in vars(module).values() if isinstance(value, kind))
