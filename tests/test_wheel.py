"""The wheel, in an empty environment away from the repository: everything that the program needs is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from auditor import __version__, registry, requirements
from auditor.zoo.generate import stand_ins

ROOT = Path(__file__).resolve().parent.parent
BACKEND = "hatchling>=1.27"


def python(program: str | Path, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python of some environment in a folder, knowing nothing of this one."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True, cwd=folder, env=environment)


def test_the_wheel_runs_the_demonstration(tmp_path):
    here = tmp_path / "elsewhere"
    here.mkdir()
    had = python(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp_path / "had", BACKEND, folder=here)
    if had.returncode and not os.environ.get("CI"):
        pytest.skip(f"the build backend {BACKEND} cannot be had: {(had.stderr.strip() or 'no reason given').splitlines()[-1]}")
    built = python(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT, folder=here)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("crosml_audit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names if ".data/" not in name} == {"auditor", "checks", "reports"}
    assert [name.partition(".data/")[2] for name in names if ".data/" in name] == ["data/share/man/man1/crosml-audit.1"]

    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    installed = python(
        programs / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{wheel}[litert]", folder=here
    )
    assert installed.returncode == 0, installed.stderr

    version = python(programs / "crosml-audit", "--version", folder=here)
    assert (version.returncode, version.stdout, version.stderr) == (0, f"crosml-audit {__version__}\n", "")

    listed = python(programs / "crosml-audit", "checks", folder=here)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [check.id for check in registry.checks(plugins=False)]

    demo = python(programs / "crosml-audit", "device", "--demo", "--bench-time", "quick", "--format", "json", folder=here)
    assert demo.returncode == 1, demo.stderr
    stages = demo.stderr.splitlines()
    assert stages
    assert all(line.startswith("crosml-audit: ") for line in stages), demo.stderr
    report = json.loads(demo.stdout)
    judged_by = requirements.load()
    assert report["device"]["demonstration"] is True
    assert [each["id"] for each in report["requirements"]] == [each.id for each in judged_by.requirements]
    assert {each["model"] for each in report["model_runs"]} == set(stand_ins(judged_by.zoo.version))
    assert {each["status"] for each in report["model_runs"]} == {"completed"}
    assert [each["name"] for each in report["zoo"]["models"]] == [model.name for model in judged_by.zoo.models]
    assert not list(here.iterdir())
