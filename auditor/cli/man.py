"""The man page, from the commands themselves: `make docs` writes it to docs/crosml-audit.1 (man-pages(7), groff's man macros)."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import typer.main

from auditor import __version__, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXIT = (
    (0, "Compliant, or the command did what it was asked."),
    (1, "Non-compliant, or what the command looks for was found."),
    (2, "Wrong usage: an option, or a file that you named, is not what it must be."),
    (3, "Incomplete: no verdict yet."),
    (4, "The audit could not be carried out, a file from elsewhere is refused, or a defect of the auditor."),
)
_EXAMPLES = (
    ("crosml-audit device", "Audit this machine."),
    ("crosml-audit device --host root@board --delegate /usr/lib64/libvendor.so", "Audit a board over ssh, and run the zoo."),
    ("crosml-audit device --snapshot board.snapshot --format json --format html --output-dir reports", "Judge a record again."),
    ("crosml-audit explain security-3", "Show a clause, and how each of its checks decides."),
)


def page() -> str:
    """The page in roff."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    root = typer.main.get_command(cli.app)
    yield f'.TH CROSML\\-AUDIT 1 "" "crosml\\-audit {_text(__version__)}" "User Commands"'
    yield from (".SH NAME", f"crosml\\-audit \\- {_text('compliance auditor for ChromeOS ML accelerators')}")
    yield from (".SH SYNOPSIS", ".B crosml\\-audit", ".I COMMAND", "[\\fIOPTION\\fR].\\|.\\|.")
    yield ".SH DESCRIPTION"
    yield _text("Asks a device what it is, judges the answers against the ChromeOS requirements for ML accelerators,")
    yield _text("and reports what failed, what is unknown, what to do and who can do it. Missing evidence is unknown, never a pass.")
    yield ".SH COMMANDS"
    for name, command in _commands(root, ()):
        yield from _command(name, command)
    yield from (".SH EXIT STATUS", *(line for code, text in _EXIT for line in (".TP", f".B {code}", _text(text))))
    yield from (".SH EXAMPLES", *(line for example, text in _EXAMPLES for line in (".TP", f".B {_text(example)}", _text(text))))


def _commands(group: Any, before: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Every command with its full name; a group only where it is a command itself."""
    for name, each in group.commands.items():
        below = hasattr(each, "commands")
        if not below or each.invoke_without_command:
            yield " ".join((*before, name)), each
        if below:
            yield from _commands(each, (*before, name))


def _command(name: str, command: Any) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    arguments = [each.make_metavar(context) for each in command.params if each.param_type_name == "argument"]
    yield f".SS {_text(' '.join((name, *arguments)))}"
    yield from (line for part in (command.help or "").split("\n\n") for line in (".PP", _text(" ".join(part.split()))))
    for record in (each.get_help_record(context) for each in command.params if each.param_type_name != "argument"):
        if record is not None:
            yield from (".TP", f".B {_text(record[0])}", _text(" ".join(record[1].split())))


def _text(text: str) -> str:
    """Text as roff shows it: nothing in it is a request or an escape, and a hyphen is one that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped))


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as written:
        written.write(page())
