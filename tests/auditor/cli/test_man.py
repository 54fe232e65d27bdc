"""The man page has every command and option, and groff takes it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import typer.main

from auditor import cli
from auditor.cli.man import _text, page


def _walk(command, name=()):
    yield name, command
    for below, each in getattr(command, "commands", {}).items():
        yield from _walk(each, (*name, below))


def test_it_has_every_command_and_every_option():
    shown = page().replace("\\-", "-")
    for name, command in _walk(typer.main.get_command(cli.app)):
        if hasattr(command, "commands") and not command.invoke_without_command:
            continue
        if name:
            assert re.search(rf"^\.SS {re.escape(' '.join(name))}( |$)", shown, re.MULTILINE), name
        section = shown.partition(f".SS {' '.join(name)}")[2].partition("\n.SS ")[0]
        for option in (each for each in command.params if name and each.param_type_name == "option" and not each.hidden):
            assert all(re.search(rf"{re.escape(flag)}\b", section) for flag in option.opts), (name, option.opts)


def test_no_text_is_a_request_or_an_escape():
    assert _text(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert _text("'x\\n--y …") == "\\&'x\\en\\-\\-y \\[u2026]"
    assert all(re.match(r"\.(TH|SH|SS|TP|PP|B|I)\b", line) for line in page().splitlines() if line.startswith((".", "'")))


def test_groff_takes_it():
    if shutil.which("groff") is None:
        pytest.skip("no groff here (apt-get install groff-base)")
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8"], input=page(), check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert "DESCRIPTION" in re.sub(".\b", "", done.stdout)
