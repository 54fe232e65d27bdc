"""A TFLite runtime of Python's: whether one is installed, and a folder that has one (`pip install --target`) where none is.

Source: the platform compatibility tags of Python's packages (PEP 425, 600; a distribution's own are in its WHEEL file).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.errors import UsageError
from auditor.inference.process import Worker, descriptors_of, own_import_path
from auditor.inference.watch import Limits
from auditor.inference.wire import AUTO, RUNTIMES, WorkerFailure
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

_TAG = re.compile(r"(?P<python>[a-z0-9.]+)-(?P<abi>[a-z0-9_.]+)-(?P<platform>[a-z0-9_.]+)")
_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
"""The C library that the older names of platforms ask for."""

_COMPILE_SECONDS = 300
_COMPILE = """\
import json, py_compile, sys
folder, package, sys.path[:] = json.loads(sys.argv[1])
sys.path.insert(0, folder)
sys.dont_write_bytecode = True
try:
    __import__(package + ".interpreter")
except Exception:
    pass  # a worker will say why
files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
for file in files:
    if file.startswith(folder + "/") and file.endswith(".py"):
        py_compile.compile(file)
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a runtime must be made for. `glibc` is None where the C library is another, or not known."""

    python: tuple[int, int]
    machine: str
    glibc: tuple[int, int] | None

    def __str__(self) -> str:
        libc = "" if self.glibc is None else f" with glibc {self.glibc[0]}.{self.glibc[1]}"
        return f"Python {self.python[0]}.{self.python[1]} on {self.machine}{libc}"


def this_machine() -> Machine:
    """The machine and the Python that this runs on."""
    name, version = platform.libc_ver()
    numbers = re.match(r"(\d+)\.(\d+)", version) if name == "glibc" else None
    machine = platform.machine()
    if sys.maxsize < 1 << 32:  # a kernel of 64 bits below a user space of 32
        machine = {"x86_64": "i686", "aarch64": "armv7l"}.get(machine, machine)
    return Machine(sys.version_info[:2], machine, (int(numbers[1]), int(numbers[2])) if numbers else None)


def why_none(choice: str) -> str:
    """Why a worker finds no runtime where this process finds its packages; empty where it finds one."""
    try:
        with Worker("reference", b"", Limits()) as worker:
            worker.hello(choice)
    except WorkerFailure as failure:
        return failure.status.message or failure.status.outcome.value
    return ""


def check_folder(folder: str, choice: str, machine: Machine | None = None) -> str:
    """The package of the runtime in a folder. Raises UsageError where it has none, or (`machine`) one that was made for another."""
    label = f"--runtime: {visible(folder)}"
    wanted = RUNTIMES if choice == AUTO else {choice: RUNTIMES[choice]}
    found = [package for package in wanted.values() if os.path.isfile(os.path.join(folder, package, "interpreter.py"))]
    if not found:
        raise UsageError(f"{label}: expected a folder that `pip install --target` made, with {' or '.join(wanted)} in it")
    for name, tags in _distributions(folder) if machine else ():
        if tags and not any(_fits(tag, machine) for tag in tags if machine):
            raise UsageError(f"{label}: {visible(name)} is made for {visible(tags[0])}, expected {machine}")
    return found[0]


def compile_used(folder: str, package: str) -> None:
    """Compile what the import of a runtime in a folder takes from there: workers write no bytecode, and there are many of them."""
    path = own_import_path()
    command = [sys.executable, "-I", "-S", "-c", _COMPILE, json.dumps([folder, package, path])]
    null = subprocess.DEVNULL
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, check=False, stdin=null, stdout=null, stderr=null, pass_fds=descriptors_of(path), timeout=_COMPILE_SECONDS)


def _distributions(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Each distribution in a folder, and the tags of what it was made for; none where it does not say."""
    for name in sorted(os.listdir(folder)):
        if name.endswith(".dist-info"):
            try:
                with open(os.path.join(folder, name, "WHEEL"), encoding="utf-8", errors="replace") as file:
                    lines = file.read(1 << 16).splitlines()
            except OSError:
                continue
            yield name[: -len(".dist-info")], [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]


def _fits(tag: str, machine: Machine) -> bool:
    """Whether what has a tag (which may be a compressed set of several) can be used on a machine."""
    parts = _TAG.fullmatch(tag)
    if parts is None:
        return True  # not known, so it is tried
    pythons = any(_fits_python(python, abi, machine.python) for python in parts["python"].split(".") for abi in parts["abi"].split("."))
    return pythons and any(_fits_platform(each, machine) for each in parts["platform"].split("."))


def _fits_python(python: str, abi: str, version: tuple[int, int]) -> bool:
    if python.startswith("py"):
        return python in {"py3", "py{}{}".format(*version)}
    own = "cp{}{}".format(*version)
    if abi == "abi3":
        numbers = re.fullmatch(r"cp(\d)(\d+)", python)
        return numbers is not None and (int(numbers[1]), int(numbers[2])) <= version
    return python == own and abi in {own, "none"}


def _fits_platform(name: str, machine: Machine) -> bool:
    if name == "any":
        return True
    if not name.endswith(f"_{machine.machine}"):
        return False
    system = name[: -len(machine.machine) - 1]
    numbers = re.fullmatch(r"manylinux_(\d+)_(\d+)", system)
    needed = (int(numbers[1]), int(numbers[2])) if numbers else _GLIBC.get(system)
    return needed is None or machine.glibc is None or needed <= machine.glibc
