"""The libraries that a program or a library brings along beside itself: what the dynamic linker loads for it by DT_RUNPATH and DT_RPATH.

A confined process can open those of the system anyway. Only ELF libraries that are needed by name are named here, one by one: a vendor
writes these paths, and a whole folder, or whatever else lies in it, is not its own to open. Sources: ld.so(8), gABI chapter 5.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from auditor.facts.elf import BadElf, read_elf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.elf import Elf

MAX_LIBRARIES = 128
"""Libraries of one file that are looked for."""


def libraries_beside(path: str) -> tuple[str, ...]:
    """The paths of the libraries that `path` and they themselves need, where their own search paths find them; links as they are."""
    found: dict[str, None] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(path, ())]
    while waiting and len(found) < MAX_LIBRARIES:
        file, inherited = waiting.pop()
        elf = _read(file)
        if elf is None:
            continue
        # DT_RPATH also holds for what is needed by what is needed, unless that has a DT_RUNPATH
        handed_on = (*_folders(elf.rpath, file), *inherited) if not elf.runpath else ()
        folders = tuple(_folders(elf.runpath, file)) if elf.runpath else handed_on
        for name in elf.needed:
            places = (name,) if os.path.isabs(name) else () if "/" in name else (os.path.join(folder, name) for folder in folders)
            library = next(filter(_read, places), None)
            if library and library not in found:
                found[library] = None
                waiting.append((library, handed_on))
    return tuple(found)


def _read(path: str) -> Elf | None:
    try:
        with open(path, "rb") as file:
            return read_elf(lambda offset, length: os.pread(file.fileno(), length, offset), os.fstat(file.fileno()).st_size)
    except (OSError, BadElf):
        return None


def _folders(text: str, path: str) -> Iterator[str]:
    """The folders of a search path; of each way that $LIB and the object's own folder may be meant, one."""
    for each in filter(None, text.split(":")):
        for origin in dict.fromkeys(map(os.path.dirname, (os.path.abspath(path), os.path.realpath(path)))):
            for library in ("lib64", "lib"):
                folder = each
                for name, value in (("ORIGIN", origin), ("LIB", library)):
                    folder = folder.replace(f"${{{name}}}", value).replace(f"${name}", value)
                if os.path.isabs(folder):
                    yield folder
