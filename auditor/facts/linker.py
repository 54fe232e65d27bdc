"""Looking a library's name up as the dynamic linker does (glibc elf/dl-load.c), in files alone: nothing is run.

Between an object's own folders and the default ones the linker looks into `/etc/ld.so.cache`, and nowhere else: `ld.so.conf` only tells
ldconfig what to put there. So does this module; in a tree without a cache (a package that was unpacked), ld.so.conf stands for it.

A folder is listed once, and names are looked up in memory.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from auditor.facts import elf as elves
from auditor.facts.firmware import elf as sections
from auditor.facts.indirection import read_musl_path
from auditor.facts.linker_cache import MAX_CACHE, BadCache, read_cache
from auditor.facts.reading import FileStat, parse
from auditor.facts.types import DOWNLOAD_MARKS, FIRMWARE_MARKS, PACKED_MARK, Archive, Missing, MissingFact, Ok
from auditor.model import Evidence, Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.linker_cache import LinkerCache
    from auditor.facts.reading import Device
    from auditor.facts.types import Fact

MAX_FOLDERS = 256
"""Folders that one object's names are searched in, and files and folders of ld.so.conf."""
MAX_BESIDE = 4096
MAX_TRIES = 64
"""Names that are asked for one by one in a large folder, before it is listed."""
SMALL = 4096
"""Bytes that a folder of at most some hundred names has itself."""
MAX_WORD = 64
"""Characters of a word that a file's bytes are searched for."""
MAX_INCLUDES = 8
CACHE = "/etc/ld.so.cache"
_ARCHIVES = {
    b"PK\3\4": "zip",
    b"\x1f\x8b\x08\0": "gzip",
    b"\x1f\x8b\x08\x08": "gzip",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf": "7z",
    b"hsqs": "squashfs",
    b"!<ar": "ar",
    b"BC\xc0\xde": "LLVM bitcode",
}
"""First bytes of packed files, and of code that is compiled when it is loaded."""
_MARKS = (*FIRMWARE_MARKS, *DOWNLOAD_MARKS, PACKED_MARK)
_TRIPLETS = {
    elves.X86_64: "x86_64-linux-gnu",
    elves.AARCH64: "aarch64-linux-gnu",
    elves.ARM: "arm-linux-gnueabihf",
    elves.X86: "i386-linux-gnu",
    elves.RISCV: "riscv64-linux-gnu",
}
_PLATFORMS = {elves.X86_64: "x86_64", elves.AARCH64: "aarch64", elves.ARM: "v7l", elves.X86: "i686", elves.RISCV: "riscv64"}
_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM))")
_MUSL = ("libc.musl-", "ld-musl-")
_MUSL_MACHINES = {elves.ARM: "armhf", elves.X86: "i386", elves.RISCV: "riscv64"}
KINDS = ((elves.X86_64, 64), (elves.AARCH64, 64), (elves.ARM, 32), (elves.X86, 32), (elves.RISCV, 64))


@dataclass(frozen=True, slots=True)
class File:
    """A file where the linker found it; `path` may hold links, `stat.real` does not. `elf` is None where it is no ELF file."""

    path: str
    stat: FileStat
    evidence: Evidence
    elf: elves.Elf | None

    @property
    def inode(self) -> tuple[int, int]:
        """What tells it from every other file: its device and inode."""
        return self.stat.dev, self.stat.ino

    @property
    def folder(self) -> str:
        """The folder that it really lies in."""
        return folder_of(self.stat.real)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An object of the process: `rpath` are its own and its loaders' DT_RPATH folders, `runpath` its own DT_RUNPATH folders."""

    file: File
    elf: elves.Elf
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


class NotFound(Exception):  # noqa: N818  # an ordinary answer of a search
    """There is no such library in the folders `searched`."""

    def __init__(self, searched: tuple[str, ...]) -> None:
        super().__init__(searched)
        self.searched = searched


class Unusable(MissingFact):
    """The linker finds a file that is no ELF file, and ends with an error."""


class Search:
    """Looks names up as the linker of one kind of object does. Every method raises MissingFact for what cannot be read."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._names: dict[str, Fact[frozenset[str]]] = {}
        self._large: dict[str, int] = {}
        self._variants: dict[str, list[str]] = {}
        self._elves: dict[str, Fact[elves.Elf | None]] = {}
        self._conf: Fact[tuple[str, ...]] | None = None
        self._cache: Fact[LinkerCache | None] | None = None

    def names(self, folder: str) -> frozenset[str]:
        """The names in a folder; none where there is no such folder, which the linker passes over."""
        return self._listed(folder).open()

    def _listed(self, folder: str) -> Fact[frozenset[str]]:
        found = self._names.get(folder)
        if found is None:
            listed = self._device.names(folder)
            absent = isinstance(listed, Missing) and listed.status is Status.ABSENT
            found = self._names[folder] = Ok(frozenset()) if absent else parse(listed, frozenset)
        return found

    def may_hold(self, folder: str, name: str) -> bool:
        """Whether it is worth asking for a name in a folder: small folders are listed, large ones only once many names are looked up.

        Where a folder cannot be listed the file itself must be asked for, as the linker does: it lists none.
        """
        if folder not in self._large:
            found = self._device.stat(folder)
            self._large[folder] = MAX_TRIES if isinstance(found, Ok) and found.value.size > SMALL else 0
        if self._large[folder]:
            self._large[folder] -= 1
            return True
        listed = self._listed(folder)
        return isinstance(listed, Missing) or name in listed.value

    def file(self, path: str) -> File | None:
        """The file at a path; None where there is none."""
        found = self._device.stat(path)
        if isinstance(found, Missing) and found.status is Status.ABSENT:
            return None
        stat = found.open()
        if stat.kind != "file":
            raise MissingFact(Missing(Status.FAILED, found.evidence, f"a {stat.kind}, not a file", Remedy.EVIDENCE))
        if stat.real not in self._elves:
            self._elves[stat.real] = self._elf(stat, found.evidence)
        return File(path, stat, found.evidence[0], self._elves[stat.real].open())

    def _elf(self, stat: FileStat, evidence: tuple[Evidence, ...]) -> Fact[elves.Elf | None]:
        try:
            return Ok(elves.read_elf(partial(self._device.piece, stat.real), stat.size))
        except elves.NotElf:
            return Ok(None)
        except elves.BadElf as error:
            return Missing(Status.FAILED, evidence, printable(str(error)), Remedy.EVIDENCE)
        except MissingFact as error:
            return error.missing

    def files(self, folder: str) -> list[str]:
        """The paths of what lies in a folder."""
        names = sorted(self.names(folder))
        if len(names) > MAX_BESIDE:
            raise MissingFact(limit(folder, f"{len(names)} files beside the driver"))
        return [f"{folder}/{name}" for name in names]

    def beside(self, path: str) -> File | Archive | str | None:
        """The ELF file, the archive or the folder at a path that nothing names; None for all else.

        Of other files four bytes are asked for, no more. A folder is given by its resolved path.
        """
        found = self._device.stat(path)
        if isinstance(found, Missing) and found.status is Status.ABSENT:
            return None
        stat = found.open()
        if stat.kind == "directory":
            return stat.real
        magic = self._device.piece(stat.real, 0, 4) if stat.kind == "file" else b""
        if magic in _ARCHIVES:
            return Archive(printable(stat.real), stat.size, _ARCHIVES[magic])
        if magic == elves.MAGIC and self._is_for_debuggers(stat):
            return None
        file = self.file(path) if magic == elves.MAGIC else None
        return file if file and file.elf and (file.elf.type in elves.LOADABLE or ".ko" not in last(path)) else None

    def _is_for_debuggers(self, stat: FileStat) -> bool:
        """Whether a file holds what debuggers read of another, and none of its code (objcopy --only-keep-debug): it cannot be loaded."""
        if not (last(stat.real).endswith((".debug", ".dbg", ".dwp", ".dwo")) or "/.debug/" in stat.real or "/debug/" in stat.real):
            return False
        read = partial(self._device.piece, stat.real)
        try:
            found = {each.name: each for each in sections.read_sections(read, sections.read_header(read))}
        except ValueError:
            return False
        code = [each.size for name, each in found.items() if name in {b".text", b".dynamic", b".dynstr"}]
        return any(name.startswith((b".debug", b".zdebug")) for name in found) and not any(code)

    def folders(self, folder: str) -> dict[str, str]:
        """The folders in a folder, by name, each resolved; nothing whose name is a library's is looked at."""
        names = sorted(name for name in self.names(folder) if ".so" not in name)
        if len(names) > MAX_BESIDE:
            raise MissingFact(limit(folder, f"{len(names)} names beside the driver that are no library's"))
        found = {name: self._device.stat(f"{folder}/{name}") for name in names}
        there = {name: each.open() for name, each in found.items() if isinstance(each, Ok) or each.status is not Status.ABSENT}
        folders = {name: stat.real for name, stat in there.items() if stat.kind == "directory"}
        if len(folders) > 4 * MAX_FOLDERS:
            raise MissingFact(limit(folder, f"{len(folders)} folders beside the driver"))
        return folders

    def held(self, path: str, words: tuple[str, ...]) -> frozenset[str]:
        """Those of some words that are among a file's bytes; what cannot be asked is taken for held."""
        asked = tuple(word for word in words if word.isascii() and len(word) <= MAX_WORD)
        found = parse(self._device.ask(base.holds(path, *asked)), lambda data: data.decode("ascii").split("\0")[:-1]).open()
        return frozenset((*found, *set(words).difference(asked)))

    def words(self, path: str, words: tuple[str, ...]) -> Fact[frozenset[str]]:
        """Those of some words that are among a file's bytes."""
        return parse(self._device.ask(base.holds(path, *words)), lambda data: frozenset(data.decode("ascii").split("\0")[:-1]))

    def sonames(self, path: str) -> tuple[str, ...]:
        """The names of shared objects among a file's bytes."""
        names: tuple[str, ...] = parse(
            self._device.ask(base.sonames(path)), lambda data: tuple(data.decode("ascii").split("\0")[:-1])
        ).open()
        return names

    def marks(self, path: str) -> Fact[tuple[str, ...]]:
        """What among a file's bytes says that there may be more to it than a library."""
        return parse(self._device.ask(base.holds(path, *_MARKS)), lambda data: tuple(data.decode("ascii").split("\0")[:-1]))

    def find(self, name: str, loaded: Loaded) -> list[File]:
        """The files that the linker may load for a name: one, or several where it depends on the processor (glibc-hwcaps).

        Raises NotFound where there is none. Files of another class, byte order or machine are passed over, as the linker does.
        """
        if "/" in name:
            path = self.expand(name, loaded.file.path, loaded.elf)
            if not path.startswith("/"):
                raise MissingFact(relative(loaded, path))
            found = self._usable(path, loaded)
            if found is None:
                raise NotFound((path,))
            return [found]
        variants: list[File] = []
        for path, varies in self._candidates(name, loaded):
            found = self._usable(path, loaded)
            if found and not varies:
                return [*variants, found]
            variants += [found] if found else []
        if variants:
            return variants
        raise NotFound(self._searched(loaded))

    def _usable(self, path: str, loaded: Loaded) -> File | None:
        """The file at a path where the linker would take it; one that is no ELF file ends the linker's search with an error."""
        file = self.file(path)
        if file and file.elf is None:
            raise Unusable(not_elf(file))
        return file if file and file.elf and file.elf.kind == loaded.elf.kind else None

    def _candidates(self, name: str, loaded: Loaded) -> Iterator[tuple[str, bool]]:
        """Where a name may lie, in the linker's order, and whether only some processors take it from there."""
        own, defaults = own_folders(loaded), default_folders(loaded.elf.machine, loaded.elf.bits)
        for folder in own:
            if not folder.startswith("/"):
                raise MissingFact(relative(loaded, folder))
            yield from self._in_folder(folder, name)
        if any(each.startswith(_MUSL) for each in loaded.elf.needed):
            for folder in self.musl(loaded.elf):
                yield from self._in_folder(folder, name)
            return
        skipped = defaults if loaded.elf.no_default else ()
        yield from (each for each in self._cached(name) if folder_of(each[0]) not in skipped)
        for folder in () if loaded.elf.no_default else defaults:
            yield from self._in_folder(folder, name)

    def _searched(self, loaded: Loaded) -> tuple[str, ...]:
        """The places that were searched for a name, for people."""
        cached = (CACHE,) if self.cache() else self.configured()
        defaults = () if loaded.elf.no_default else default_folders(loaded.elf.machine, loaded.elf.bits)
        return tuple(dict.fromkeys((*own_folders(loaded), *cached, *defaults)))

    def _in_folder(self, folder: str, name: str) -> Iterator[tuple[str, bool]]:
        """A name in a folder, after those in its parts for some processors."""
        if folder not in self._variants:
            names = sorted(self.names(f"{folder}/glibc-hwcaps")) if self.may_hold(folder, "glibc-hwcaps") else []
            self._variants[folder] = [f"{folder}/glibc-hwcaps/{each}" for each in names]
        for place in (*self._variants[folder], folder):
            if self.may_hold(place, name):
                yield f"{place}/{name}", place is not folder

    def _cached(self, name: str) -> Iterator[tuple[str, bool]]:
        """A name in the linker's cache, or in what the cache would be made of."""
        cache = self.cache()
        if cache is None:
            for folder in self.configured():
                yield from self._in_folder(folder, name)
            return
        try:
            found = tuple(islice(cache.paths(name), MAX_FOLDERS + 1))
        except BadCache as error:
            raise MissingFact(limit(CACHE, str(error))) from None
        if len(found) > MAX_FOLDERS:
            raise MissingFact(limit(CACHE, f"more than {MAX_FOLDERS} paths of {printable(name)}"))
        yield from ((path, varies) for path, varies in found if path.startswith("/"))

    def musl(self, elf: elves.Elf) -> tuple[str, ...]:
        """The folders of musl's linker."""
        return read_musl_path(self._device, _MUSL_MACHINES.get(elf.machine, _PLATFORMS.get(elf.machine, ""))).open()

    def by_name(self, name: str) -> Iterator[str]:
        """Where a name may lie for an object of any kind."""
        yield from (path for path, _ in self._cached(name))
        for folder in dict.fromkeys(place for kind in KINDS for place in default_folders(*kind)):
            yield from (path for path, _ in self._in_folder(folder, name))

    def cache(self) -> LinkerCache | None:
        """The linker's cache; None where there is none."""
        if self._cache is None:
            data = self._device.data(CACHE, 0, MAX_CACHE + 1)
            absent = isinstance(data, Missing) and data.status is Status.ABSENT
            self._cache = Ok(None) if absent else parse(data, read_cache)
        return self._cache.open()

    def expand(self, text: str, path: str, elf: elves.Elf) -> str:
        """A path with $ORIGIN (the folder that the object was found in, links and all), $LIB and $PLATFORM replaced."""

        def value(match: re.Match[str]) -> str:
            word = match.group(1) or match.group(2)
            if word == "ORIGIN":
                return folder_of(path)
            return self._library_folder(elf) if word == "LIB" else _PLATFORMS.get(elf.machine, "")

        return _TOKEN.sub(value, text)

    def loaded(self, file: File, elf: elves.Elf, loader: Loaded | None) -> Loaded:
        """A file as an object of the process, with the folders that its DT_RPATH (its loaders' too) and DT_RUNPATH name."""
        rpath = (*self._split(elf.rpath, file.path, elf), *(loader.rpath if loader else ()))
        folders = tuple(dict.fromkeys(rpath))
        if len(folders) > MAX_FOLDERS:
            raise MissingFact(limit(file.path, f"an inherited search path of {len(folders)} folders"))
        return Loaded(file, elf, folders, self._split(elf.runpath, file.path, elf))

    def _split(self, text: str, path: str, elf: elves.Elf) -> tuple[str, ...]:
        """The folders of a DT_RPATH or DT_RUNPATH. An empty one is the working directory, and so relative."""
        parts = text.split(":") if text else []
        if len(parts) > MAX_FOLDERS:
            raise MissingFact(limit(path, f"a search path of {len(parts)} folders"))
        return tuple(self.expand(part, path, elf).rstrip("/") or ("/" if part else ".") for part in parts)

    def _library_folder(self, elf: elves.Elf) -> str:
        """What $LIB stands for on this image: the folder of its C library, below / or /usr."""
        for folder in default_folders(elf.machine, elf.bits):
            if "libc.so.6" in self.names(folder):
                return folder.removeprefix("/usr").removeprefix("/")
        return "lib64" if elf.bits == 64 else "lib"

    def configured(self) -> tuple[str, ...]:
        """The folders of /etc/ld.so.conf and what it includes."""
        if self._conf is None:
            try:
                self._conf = Ok(tuple(dict.fromkeys(self._configuration("/etc/ld.so.conf", [], 0))))
            except MissingFact as error:
                self._conf = error.missing
        return self._conf.open()

    def _configuration(self, path: str, read: list[str], depth: int) -> Iterator[str]:
        if path in read:
            return
        read.append(path)
        if len(read) > MAX_FOLDERS or depth > MAX_INCLUDES:
            raise MissingFact(limit(path, "too many or too deep includes"))
        text = read_text(self._device, path)
        if isinstance(text, Missing) and text.status is Status.ABSENT:
            return
        for number, line in enumerate(text.open().splitlines()):
            words = line.partition("#")[0].split()
            if number > MAX_FOLDERS * 16:
                raise MissingFact(limit(path, "too many lines"))
            if not words or words[0] == "hwcap":
                continue
            if words[0] != "include":
                yield words[0].partition("=")[0].rstrip("/") or "/"
                continue
            for pattern in words[1:]:
                absolute = pattern if pattern.startswith("/") else f"{folder_of(path)}/{pattern}"
                folder, _, last = absolute.rpartition("/")
                if any(character in folder for character in "*?["):
                    raise MissingFact(limit(path, f"include {printable(pattern)}: a pattern for folders"))
                for name in sorted(name for name in self.names(folder) if not name.startswith(".") and fnmatch.fnmatchcase(name, last)):
                    yield from self._configuration(f"{folder}/{name}", read, depth + 1)


def default_folders(machine: int, bits: int) -> tuple[str, ...]:
    """The folders that the linker searches without being told: multiarch (Debian), lib64 (ChromeOS), lib."""
    triplet = _TRIPLETS.get(machine)
    multiarch = (f"/lib/{triplet}", f"/usr/lib/{triplet}") if triplet else ()
    return (*multiarch, *(("/lib64", "/usr/lib64") if bits == 64 else ()), "/lib", "/usr/lib")


def own_folders(loaded: Loaded) -> tuple[str, ...]:
    """The folders that an object names itself, in the order in which the linker searches them."""
    return loaded.runpath if loaded.elf.runpath else loaded.rpath


def read_text(device: Device, path: str) -> Fact[str]:
    """A small file as text; one that is cut is Missing."""
    data = device.data(path)
    if isinstance(data, Ok) and len(data.value) >= base.READ_LIMIT:
        return Missing(Status.FAILED, data.evidence, f"at least {base.READ_LIMIT} bytes", Remedy.EVIDENCE)
    return parse(data, printable)


def last(path: str) -> str:
    """The last part of a path."""
    return path.rpartition("/")[2]


def folder_of(path: str) -> str:
    """The folder of a path."""
    return path.rpartition("/")[0] or "/"


def not_elf(file: File) -> Missing:
    """What is said of a file that is no ELF file."""
    return Missing(Status.FAILED, (file.evidence,), "not an ELF file", Remedy.EVIDENCE)


def limit(path: str, what: str) -> Missing:
    """What is said where a bound is exceeded."""
    return Missing(Status.FAILED, (Evidence(printable(path), Status.FAILED),), what, Remedy.EVIDENCE)


def relative(loaded: Loaded, path: str) -> Missing:
    """What is said of a search path that depends on the working directory."""
    what = f"{printable(path)!r} in its search path depends on the working directory"
    return Missing(Status.FAILED, (loaded.file.evidence,), what, Remedy.VENDOR)
