"""The delegates that the zoo is run through: libraries that are what they must be, before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass

from auditor import files
from auditor.errors import UsageError
from auditor.facts.elf import BadElf, read_elf
from auditor.facts.stable_delegate import MAX_SETTINGS, read_settings
from auditor.inference.worker.confine import SYSTEM_LIBRARIES
from auditor.model import visible


@dataclass(frozen=True, slots=True)
class Delegate:
    """A delegate's library, and the options of an external one, or the settings file of a stable one."""

    path: str
    options: tuple[tuple[str, str], ...] = ()
    settings: str | None = None


def shared_library(path: str, options: tuple[tuple[str, str], ...] = ()) -> Delegate:
    """The delegate in a file. Raises UsageError for one that no dynamic linker would load: missing, empty, cut short, something else."""
    _check_library(path, f"--delegate: {visible(path)}")
    return Delegate(path, options)


def stable_delegate(settings: str) -> Delegate:
    """The stable delegate that a settings file names. Raises UsageError where the file, or the library in it, is not what it must be.

    A name without a folder is looked for where the dynamic linker does by default.
    """
    label = f"--stable-delegate: {visible(settings)}"
    try:
        path = read_settings(files.read(settings, MAX_SETTINGS, label, UsageError).decode("utf-8", "surrogateescape")).path
    except ValueError as error:
        raise UsageError(visible(f"{label}: {error}")) from None
    label = visible(f"{label}: delegate_path: {path}")
    if "/" not in path:
        places = (os.path.join(folder, path) for folder in SYSTEM_LIBRARIES)
        path = next(filter(os.path.isfile, places), path)
    if not os.path.isabs(path):
        raise UsageError(f"{label}: expected an absolute path, or a library of {', '.join(SYSTEM_LIBRARIES[:-1])}")
    _check_library(path, label)
    return Delegate(path, settings=os.path.abspath(settings))


def _check_library(path: str, label: str) -> None:
    try:
        if not os.path.isfile(path):
            raise UsageError(f"{label}: expected a shared library, and there is no such file")
        with open(path, "rb") as file:
            read_elf(lambda offset, length: os.pread(file.fileno(), length, offset), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UsageError(f"{label}: {error.strerror}") from None
    except BadElf as error:
        raise UsageError(f"{label}: expected a shared library: {visible(str(error))}") from None
