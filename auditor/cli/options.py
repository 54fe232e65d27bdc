"""The options of the commands, made from the fields of the classes that they fill (`auditor/request.py`, `auditor/bench/options.py`)."""

from __future__ import annotations

import datetime
import enum
import functools
import inspect
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from auditor.cli.common import errors
from auditor.errors import UsageError
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from dataclasses import Field

    from auditor.bench.options import Shown

PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}
"""Of every typer application: nothing heavy is imported for help."""

TARGET, ZOO, JUDGING, OUTPUT = "Target", "Delegate and zoo", "Judging", "Output"
"""The groups of options in a command's help."""

_GROUPS = {"Target": TARGET, "ZooOptions": ZOO, "Judging": JUDGING}
"""By the class whose fields the options fill."""


class Grouped(TyperCommand):
    """A command whose help shows its options in groups, in the order of their first members."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, and each group of options below its name."""
        _write_groups(self.get_params(ctx), ctx, formatter)


class GroupedApp(TyperGroup):
    """The same for a command that has others below it."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the groups of options, then the commands."""
        _write_groups(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)


def _write_groups(parameters: Sequence[Any], ctx: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            panel = "Arguments" if parameter.param_type_name == "argument" else getattr(parameter, "rich_help_panel", None)
            groups.setdefault(panel or "Options", []).append(record)
    for name in sorted(groups, key=lambda each: each == "Options"):
        with formatter.section(name):
            formatter.write_dl(groups[name])


def takes(*groups: type, without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of each field of `groups`, but for those named by `without`.

    The command gets them as its first argument, a dict by the fields' names with the types that the fields have.
    """
    panels = {each.name: _GROUPS.get(group.__name__) for group in groups for each in fields(group)}
    chosen = [each for group in groups for each in fields(group) if "shown" in each.metadata and each.name not in without]

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]
        hints = get_type_hints(command, include_extras=True)
        parameters = [_parameter(each, panels[each.name]) for each in chosen]
        parameters += [each.replace(annotation=hints[each.name]) for each in own]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            with errors():
                command({each.name: _read(each, given.pop(each.name)) for each in chosen}, **given)

        del called.__wrapped__  # the options are those of the signature set here
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        return called

    return wrap


def _flag(field: Field[Any]) -> str:
    shown: Shown = field.metadata["shown"]
    return shown.flag or f"--{field.name.replace('_', '-')}"


def _parameter(field: Field[Any], panel: str | None) -> inspect.Parameter:
    shown: Shown = field.metadata["shown"]
    default: Any = field.default
    kind: Any = str | None
    if shown.choices:
        kind, default = _choices(shown.choices, default)
    elif isinstance(default, bool):
        kind, default = bool, default and not shown.negated
    elif isinstance(default, tuple):
        kind, default = list[str], []
    elif default is not None and default is not MISSING:
        kind = str
    annotation = Annotated[kind, typer.Option(_flag(field), metavar=shown.metavar, help=shown.help, rich_help_panel=panel)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _choices(values: Sequence[str], default: str) -> tuple[Any, Any]:
    """The enum that typer shows and checks values by, and its member for the default."""
    members: Any = [(each, each) for each in values]
    made = enum.Enum("Choice", members)  # type: ignore[misc]  # its members are known at run time
    return made, made(default)


def _read(field: Field[Any], given: Any) -> Any:
    """A value with the field's type. Raises UsageError for a pair that is not one."""
    shown: Shown = field.metadata["shown"]
    if isinstance(given, enum.Enum):
        return given.value
    if isinstance(given, bool):
        return given is not shown.negated
    if isinstance(given, list):
        return tuple(_pairs(_flag(field), given) if shown.metavar == "K=V" else given)
    return given


def _pairs(flag: str, given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key, equals, value in (each.partition("=") for each in given):
        if not key or not equals:
            raise UsageError(f"{flag} {visible(key)}: expected K=V")
        yield key, value


def read_date(text: str | None) -> datetime.date:
    """The day of --today, or today's in UTC. Raises UsageError."""
    if text is None:
        return datetime.datetime.now(datetime.timezone.utc).date()
    with suppress(ValueError):
        date = datetime.date.fromisoformat(text)
        if date.isoformat() == text:  # later Pythons also read 20261122 and 2026-W47-7
            return date
    raise UsageError(f"--today {visible(text)}: expected a date, YYYY-MM-DD")
