"""A running virtual device under test for each configuration that a test names.

    @pytest.mark.dut
    @pytest.mark.parametrize("dut", ["in-place"], indirect=True)
    def test_something(dut): ...

The tests of one configuration run together, so a configuration is booted once a session; `-n 2` keeps it so, and has two machines run
at a time. Each is audited once, too: a test that looks at what an audit finds, or leaves, takes the fixture `visit`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(Path(__file__).parent))

import machine
import record
import runtime
import visits
from configurations import CONFIGURATIONS

from tests import archive

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

BY_NAME = {configuration.name: configuration for configuration in CONFIGURATIONS}


class ByConfiguration(LoadScopeScheduling):
    """Gives the tests of a configuration to one process. (xdist's own loadgroup names groups in a way that pytest 9.2 does not take.)"""

    def _split_scope(self, nodeid: str) -> str:
        parameters = f"-{nodeid.rpartition('[')[2].rstrip(']')}-"
        return next((name for name in BY_NAME if f"-{name}-" in parameters), nodeid)


@pytest.hookimpl(optionalhook=True)  # what failed is tried again without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByConfiguration:
    """Keep the tests of a configuration together where they are spread over several processes."""
    return ByConfiguration(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the times that tests took of a device: the output of a test that passed is not shown."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show beside a test that failed what its machine said last."""
    report = yield
    running = getattr(item, "funcargs", {}).get("dut")
    if report.failed and running:
        report.sections.append(("the virtual device", running.last_words()))
    return report


@pytest.fixture(scope="session", params=list(BY_NAME))
def dut(request: pytest.FixtureRequest) -> Iterator[machine.Machine]:
    """Boot the configuration that the parameter names; every one, for a test that names none."""
    configuration = BY_NAME[request.param]
    if reason := machine.missing(configuration.board):
        if os.environ.get("CI") == "true":
            pytest.fail(f"the virtual device needs: {reason}")
        pytest.skip(f"the virtual device needs: {reason}")
    with machine.boot(configuration) as running:
        yield running


@pytest.fixture(scope="session")
def visit(dut: machine.Machine, tmp_path_factory: pytest.TempPathFactory) -> visits.Visit:
    """The one audit of a configuration."""
    return visits.visit(dut, tmp_path_factory.mktemp(dut.configuration.name))


@pytest.fixture(scope="session")
def made(dut: machine.Machine) -> str:
    """A folder with a TFLite runtime for the guest's Python."""
    version, machine_ = dut.run("python3 -c 'import os, sys; print(\"%d.%d\" % sys.version_info[:2], os.uname().machine)'").split()
    with archive.needed():
        return str(runtime.build(version, machine_))


@pytest.fixture
def host(dut: machine.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The machine's name, for an `ssh` found before the system's, which knows it."""
    monkeypatch.setenv("PATH", os.environ["PATH"])
    record.ssh_on_path(dut, tmp_path)
    return f"{dut.configuration.user}@dut"
