"""What commands share: how they end, show progress, and write what was asked for."""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from auditor import files
from auditor.errors import AuditError, UsageError
from auditor.model import EXIT_FAILED, EXIT_USAGE, printable, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from auditor.model import Format, Report


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Usage and audit errors become one line on stderr and their exit code; so does output that cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except UsageError as error:
        _end(str(error), EXIT_USAGE)
    except AuditError as error:
        _end(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        _end("interrupted", EXIT_FAILED)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered for it goes nowhere
        broken = isinstance(error, BrokenPipeError)
        _end("" if broken else f"{error.filename or 'standard output'}: {error.strerror or error}", EXIT_FAILED)


def _end(message: str, code: int) -> NoReturn:
    """End with one line on stderr; with none where the reader of our output went away, as `head` does."""
    if message:
        print(f"crosml-audit: {visible(message)}", file=sys.stderr)
    raise typer.Exit(code) from None


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Progress on stderr: one line that changes where that is a terminal, else a line a stage.

    Nothing ends because of it: a terminal that went away takes no more lines.
    """
    if not sys.stderr.isatty():
        yield _Stages().tell
        return
    try:
        yield lambda text: _say(f"\r\033[K{visible(text)[:79]}", end="")
    finally:
        _say("\r\033[K", end="")


class _Stages:
    """Lines for a log: one where a stage begins, none for each step of it.

    The first one waits for the second: what ends before that, or at once, has nothing to tell.
    """

    def __init__(self) -> None:
        self._stages: list[str] = []

    def tell(self, text: str) -> None:
        """Print a line where `text` tells of another stage than the last one did."""
        stage = _STEP.sub("", text)
        if stage not in self._stages[-1:]:
            self._stages.append(stage)
            for each in self._stages if len(self._stages) == 2 else self._stages[2:][-1:]:
                _say(f"crosml-audit: {visible(each)}")


_STEP = re.compile(r"(?<=: )\d+ of \d+ MiB$|(?<=[^ ]): [a-z ]+$")
"""What changes within a stage: how much was copied, and what is done with a model."""


def _say(text: str, end: str = "\n") -> None:
    with contextlib.suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)


def formats(wanted: Sequence[str], folder: str | None = None) -> list[tuple[Format, str | None]]:
    """The formats asked for with their paths; at most one of them goes to stdout.

    Those without a path go to `folder`, if there is one; the path `-` is stdout.
    """
    from auditor import registry
    from auditor.vocabulary import near

    known = registry.formats()
    found: list[tuple[Format, str | None]] = []
    for each in wanted or ["text"]:
        name, equals, path = each.partition("=")
        if name not in known or (equals and not path):
            meant = near(name, known) if name not in known else ""
            raise UsageError(f"--format {visible(each)}: expected NAME or NAME=PATH, NAME one of {', '.join(sorted(known))}{meant}")
        placed = os.path.join(folder, f"report{known[name].suffix}") if folder is not None and not path else path
        found.append((known[name], None if placed in {"", "-"} else placed))
    if sum(path is None for _, path in found) > 1:
        raise UsageError("--format: only one format can go to stdout; give the others a path: NAME=PATH")
    return found


def format_names(incomplete: str) -> list[str]:
    """The formats whose names begin so, for the shell's completion."""
    from auditor import registry

    return [name for name in sorted(registry.formats()) if name.startswith(incomplete)]


def id_names(incomplete: str) -> list[str]:
    """The ids of requirements and checks that begin so, for the shell's completion; the last one of a list with commas."""
    from auditor import registry, requirements
    from auditor.vocabulary import vocabulary

    given, comma, last = incomplete.rpartition(",")
    pairs = vocabulary(requirements.shipped(), registry.checks()).pairs
    known = dict.fromkeys(name for each, check in pairs for name in (each.family, check.id, each.id))
    return [f"{given}{comma}{name}" for name in ("zoo", *known) if name.startswith(last)]


def outputs(*paths: str | None, folder: str | None = None, force: bool = False) -> None:
    """Refuse now what could not be written once a long audit is done, what exists already, and two outputs to one file.

    `folder` is made where it does not exist.
    """
    if folder is not None:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output-dir: {printable(folder)}: expected a folder that can be written: {error.strerror}") from None
    named = [path for path in paths if path is not None]
    for path in named:
        wrong = files.why_not_written(path, force=force)
        if wrong:
            raise UsageError(f"{printable(path)}: cannot be written: {wrong}")
    if len({os.path.realpath(path) for path in named}) < len(named):
        raise UsageError("--format, --save-snapshot: expected another file for each of them")


def show_changes(changes: Sequence[str]) -> None:
    """What the probes of an audit would change on the device, a line each."""
    print("\n".join(changes) or "nothing: no probe would run")


def give(form: Format, report: Report, path: str | None, **settings: Any) -> None:
    """Write a report in a format, to a file or to stdout, with those of the settings that the format takes."""
    if path is None and sys.stdout.isatty():
        width = shutil.get_terminal_size((80, 24)).columns
        settings |= {"width": max(40, min(width, 120)), "colour": "NO_COLOR" not in os.environ}
    text = form.render(report, **{name: value for name, value in settings.items() if name in form.takes})
    if path is not None:
        files.write(path, text.encode())
    elif form.name == "text":
        sys.stdout.write(text)
    else:
        sys.stdout.buffer.write(text.encode())


def settings(*, verbose: bool, unknown_as: UnknownAs) -> dict[str, Any]:
    """What a command line says of how formats show a report, by the names that `Format.takes` has."""
    return {"verbose": verbose, "unknown": unknown_as.value}


class UnknownAs(enum.Enum):
    """What an unknown counts as in a JUnit report."""

    ERROR = "error"
    FAILURE = "failure"
    ONCE = "once"


FormatOption = Annotated[
    list[str],
    typer.Option(
        "--format",
        metavar="NAME[=PATH]",
        help="text, json, html, junit …; PATH - is standard output; may repeat.",
        rich_help_panel="Output",
        autocompletion=format_names,
    ),
]
OutputDir = Annotated[
    str | None,
    typer.Option(
        "--output-dir", metavar="DIR", help="Folder for the formats without a path: report.json, report.html …", rich_help_panel="Output"
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite output files that exist.", rich_help_panel="Output")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Text: every finding, with the evidence of those that pass.", rich_help_panel="Output")
]
Unknown = Annotated[
    UnknownAs,
    typer.Option("--unknown-as", help="JUnit: what an unknown finding is; once = one error for all of them.", rich_help_panel="Output"),
]
