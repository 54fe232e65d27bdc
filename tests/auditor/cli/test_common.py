"""Signals end a command as Ctrl-C does: it cleans up, says so in one line, and a second one does not end the end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from auditor.model import EXIT_FAILED

COMMAND = """
import signal, sys, time, typer
signal.signal(signal.SIGINT, signal.default_int_handler)
{before}
from auditor.cli.common import errors
try:
    with errors():
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            time.sleep({seconds})
            print("clean", flush=True)
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def start(before="", seconds=0):
    command = [sys.executable, "-c", COMMAND.format(before=before, seconds=seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_as_ctrl_c_does(number):
    with start() as process:
        process.send_signal(number)
        assert process.communicate() == ("cleaning\nclean\n", "crosml-audit: interrupted\n")
    assert process.returncode == EXIT_FAILED


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_end_the_end(second):
    with start(seconds=1) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(second)
        assert process.communicate() == ("clean\n", "crosml-audit: interrupted\n")
    assert process.returncode == EXIT_FAILED


def test_what_was_ignored_before_stays_so():
    with start("signal.signal(signal.SIGHUP, signal.SIG_IGN)") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.communicate()[1] == "crosml-audit: interrupted\n"
