"""Records the demonstration's device from the virtual one: `python tests/dut/record.py`, after which the snapshot is committed.

The configuration `in-place` is audited over ssh as root, by the program itself; the record goes to auditor/data/demo.snapshot.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import machine
from configurations import CONFIGURATIONS

from auditor.cli import app

DEMO = Path(__file__).resolve().parents[2] / "auditor" / "data" / "demo.snapshot"
LIMIT = 1 << 20


def ssh_on_path(running: machine.Machine, folder: Path) -> None:
    """Put an `ssh` in front of the system's that knows the virtual machine, as a user's ~/.ssh/config would."""
    wrapper = folder / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {running.ssh_config} "$@"\n')
    wrapper.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def main() -> None:
    configuration = next(each for each in CONFIGURATIONS if each.name == "in-place")
    with machine.boot(configuration) as running, tempfile.TemporaryDirectory() as folder:
        ssh_on_path(running, Path(folder))
        accelerator = f"pci:{configuration.accelerator}"
        app(["snapshot", "--host", "dut", "--accelerator", accelerator, "--output", str(DEMO)], standalone_mode=False)
    size = DEMO.stat().st_size
    print(f"{DEMO}: {size} bytes")
    if size >= LIMIT:
        sys.exit(f"expected less than {LIMIT} bytes")


if __name__ == "__main__":
    main()
