"""A TFLite runtime for the guest's Python, as a user makes one for --runtime: `pip install --target`, from this machine's own index.

Kept in ``$XDG_CACHE_HOME/crosml-audit/dut`` beside the image; the folder may be removed at any time.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests import archive

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("ai-edge-litert", "numpy")


def build(python: str, machine: str) -> Path:
    """The folder, for a version of Python on a machine (as `uname -m` says it). ArchiveError where the packages cannot be had."""
    platforms = ("--platform", f"manylinux_2_27_{machine}", "--platform", f"manylinux2014_{machine}")
    options = ("--python-version", python, "--only-binary=:all:", *platforms)

    def make(place: Path) -> None:
        archive.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(place), *options, *PACKAGES])

    return archive.cached(archive.cache_folder("dut"), f"runtime-{python}", [*options, *PACKAGES], make)
