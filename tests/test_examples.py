"""The plug-in in examples/ is installed by pip, found by its entry points, and works as what ships does."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"
DEMO = str(resources.files("auditor.data") / "demo.snapshot")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the program beside the plug-in, which is installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--target", folder)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, PLUGIN], check=True)

    def command(*arguments):
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}
        return subprocess.run([sys.executable, "-m", "auditor", *arguments], check=False, capture_output=True, text=True, env=environment)

    return command


def test_its_check_has_a_page(run):
    done = run("explain", "functional-1.lab-kernel")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Compare the running kernel's release with the oldest that this lab takes." in done.stdout


def test_its_format_shows_the_audit_in_which_its_check_takes_part(run):
    alone = run("device", "--snapshot", DEMO, "--only", "functional-1.lab-kernel", "--format", "line")
    assert (alone.stdout, alone.stderr) == (f"{VERDICT}\n", "")


VERDICT = "partial, compliant: 1 pass (chromeos-ml-accelerator R113, zoo 0.0.2)"
