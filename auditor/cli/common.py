"""What commands share: how they end, show progress, and write what was asked for."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import typer

from auditor import files
from auditor.errors import AuditError, UsageError
from auditor.model import EXIT_FAILED, EXIT_USAGE, printable, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from auditor.model import Format, Report


_PAIR_SECONDS = 3.0


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Usage and audit errors become one line on stderr and their exit code; so does output that cannot be written."""
    try:
        with _interruptible():
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


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, unless they were ignored before (nohup).

    They often come in pairs: one that follows within seconds does not end the end. A later one does; Python can lose the first (an
    exception in a finalizer goes nowhere), and what a worker leaves is its supervisor's to remove in any case.
    """
    taken = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    last = -math.inf

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _PAIR_SECONDS:
            last = now
            raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end(message: str, code: int) -> NoReturn:
    """End with one line on stderr; with none where the reader of our output went away, as `head` does."""
    if message:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"crosml-audit: {visible(message)}", file=sys.stderr)
    raise typer.Exit(code) from None


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """One line of progress on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    try:
        yield lambda text: print(f"\r\033[K{visible(text)[:79]}", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def formats(wanted: Sequence[str]) -> list[tuple[Format, str | None]]:
    """The formats asked for with their paths; at most one of them goes to stdout."""
    from auditor import registry

    known = registry.formats()
    found: list[tuple[Format, str | None]] = []
    for each in wanted or ["text"]:
        name, equals, path = each.partition("=")
        if name not in known or (equals and not path):
            raise UsageError(f"--format {visible(each)}: expected NAME or NAME=PATH, NAME one of {', '.join(sorted(known))}")
        found.append((known[name], path or None))
    if sum(path is None for _, path in found) > 1:
        raise UsageError("--format: only one format can go to stdout; give the others a path: NAME=PATH")
    return found


def outputs(*paths: str | None) -> None:
    """Refuse now what could not be written once a long audit is done, and two outputs to one file."""
    named = [path for path in paths if path is not None]
    for path in named:
        wrong = files.why_not_written(path)
        if wrong:
            raise UsageError(f"{printable(path)}: cannot be written: {wrong}")
    if len({os.path.realpath(path) for path in named}) < len(named):
        raise UsageError("--format, --save-snapshot: expected another file for each of them")


def show_changes(changes: Sequence[str]) -> None:
    """What the probes of an audit would change on the device, a line each."""
    print("\n".join(changes) or "nothing: no probe would run")


def give(form: Format, report: Report, path: str | None) -> None:
    """Write a report in a format, to a file or to stdout."""
    if path is not None:
        files.write(path, form.render(report).encode())
    elif form.name == "text":
        width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        sys.stdout.write(form.render(report, colour=colour, width=max(40, min(width, 120))))
    else:
        sys.stdout.buffer.write(form.render(report).encode())
