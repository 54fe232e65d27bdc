"""A running virtual device under test for each configuration that a test names.

    @pytest.mark.dut
    @pytest.mark.parametrize("dut", ["in-place"], indirect=True)
    def test_something(dut): ...

pytest runs the tests of one configuration together, so a configuration is booted once a session and one machine runs at a time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import machine
from configurations import CONFIGURATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

BY_NAME = {configuration.name: configuration for configuration in CONFIGURATIONS}


@pytest.fixture(scope="session", params=list(BY_NAME))
def dut(request: pytest.FixtureRequest) -> Iterator[machine.Machine]:
    """Boot the configuration that the parameter names; every one, for a test that names none."""
    if reason := machine.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the virtual device needs: {reason}")
        pytest.skip(f"the virtual device needs: {reason}")
    with machine.boot(BY_NAME[request.param]) as running:
        yield running
