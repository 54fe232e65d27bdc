"""Listing and helping import nothing heavy: whoever types `--help` must not wait for numpy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"numpy", "cryptography", "msgspec", "rich", "jinja2", "ai_edge_litert", "tflite_runtime", "pydantic", "PIL"}
SCRIPT = """
import json, sys
from auditor import cli
try:
    cli.main()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["device", "--help"], ["zoo", "--help"], ["checks"], ["explain", "security-3"]]
)
def test_what_needs_nothing_heavy_imports_nothing_heavy(arguments):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stderr))
    assert {"auditor", "typer"} <= imported
    assert not HEAVY & imported


def test_the_test_would_see_a_heavy_import():
    done = subprocess.run([sys.executable, "-c", SCRIPT, "zoo", "list"], check=False, capture_output=True, text=True)
    assert {"msgspec"} <= HEAVY & set(json.loads(done.stderr))
