"""What all tests share."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, settings

from auditor import cli

# a busy machine is no failure of the code: time is compared in benchmarks, never here
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


@pytest.fixture
def run(capsys, monkeypatch):
    """A command in this process: its exit code and what it printed."""

    def command(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["crosml-audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return command
