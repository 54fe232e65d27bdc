"""The files that a driver's user space loads, found as the dynamic linker finds them, without running anything (glibc elf/dl-load.c).

From the delegate on, breadth first: DT_NEEDED, DT_FILTER and DT_AUXILIARY; then what the files say they dlopen (`.note.dlopen`, and names
of shared objects among their bytes); last what only may be loaded: a name found outside the vendor's folders, and every other ELF file in
those folders and in the folders below them, since a name may be composed at run time. In a folder that others share, such as /usr/lib64,
it is only files that fit a format among the driver's names, and the folders below whose names are among the driver's bytes; of other
folders below, the files whose names are. A folder is listed once, and names are looked up in memory.

Between an object's own folders and the default ones the linker looks into `/etc/ld.so.cache`, and nowhere else: `ld.so.conf` only tells
ldconfig what to put there. So does this module; in a tree without a cache (a package that was unpacked), ld.so.conf stands for it.

Where a place that the linker would search before finding a name cannot be read, the name is unread: what lies behind might not be what
is loaded. Whatever is found after that is not `certain`.
"""

from __future__ import annotations

import fnmatch
import re
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from auditor.facts import elf as elves
from auditor.facts.firmware import elf as sections
from auditor.facts.indirection import WORDS, Indirections, read_musl_path
from auditor.facts.linker_cache import MAX_CACHE, BadCache, read_cache
from auditor.facts.reading import FileStat, parse
from auditor.facts.stable_delegate import delegate_paths, read_settings
from auditor.facts.types import (
    DOWNLOAD_MARKS,
    FIRMWARE_MARKS,
    PACKED_MARK,
    Archive,
    Closure,
    ElfObject,
    Missing,
    MissingFact,
    MissingLibrary,
    Ok,
)
from auditor.model import Evidence, Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from auditor.facts.linker_cache import LinkerCache
    from auditor.facts.reading import Device
    from auditor.facts.types import Fact, Plan

MAX_OBJECTS = 1024
MAX_EDGES = 20_000
MAX_FOLDERS = 256
"""Folders that one object's names are searched in, and files and folders of ld.so.conf."""

MAX_BESIDE = 4096
MAX_TRIES = 64
"""Names that are asked for one by one in a large folder, before it is listed."""

SMALL = 4096
"""Bytes that a folder of at most some hundred names has itself."""

MIN_LITERAL = 10
"""Characters of a name's format that must be literal, `lib` and `.so` among them."""

MAX_FORMATS = 256
"""Formats for names in one object; each is held against all names in a folder."""

MAX_WORD = 64
"""Characters of a word that a file's bytes are searched for."""

MAX_INCLUDES = 8

SETTINGS = (
    "/etc/tflite/settings.json",
    "/etc/ml_core/stable_delegate_settings.json",
    "/etc/ml_core/cacher_stable_delegate_settings.json",
    "/etc/camera/npu_stable_delegate_settings.json",
)
"""Where a ChromeOS image names its stable delegate; the first is what TFLite's own tools are given there."""

SETTINGS_FOLDERS = ("/etc/openvino", "/etc/neuron", "/etc/neuropilot", "/etc/tflite", "/etc/ml_core", "/etc/camera")
"""Folders of which every JSON file may name one more: those that only boards with an NPU have, and those of SETTINGS."""

PRELOAD = "/etc/ld.so.preload"

_CACHE = "/etc/ld.so.cache"

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
_MUSL = ("libc.musl-", "ld-musl-")
_MUSL_MACHINES = {elves.ARM: "armhf", elves.X86: "i386", elves.RISCV: "riscv64"}
_SHARED = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/local/lib", "/usr/local/lib64"})
_PACKAGES = ("/opt/", "/run/imageloader/")
_CONVERSION = re.compile(r"%[-+ #0-9.]{0,8}[hlz]{0,2}[a-zA-Z]")
_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM))")


def read_closure(device: Device, plan: Plan) -> Fact[Closure]:
    """The closure of the plan's delegate, or of the one that its settings file names.

    What the device's own settings and its preload list name may be loaded beside it.

    Missing where no delegate is named, or where the delegate itself cannot be read. The evidence is the `stat` of every object, which shows
    what brought it in.
    """
    walk = _Walk(device)
    own = next(((path, name) for path, name in walk.settings()), None) if plan.delegate is None and plan.stable_delegate is None else None
    if plan.delegate is None and plan.stable_delegate is None and own is None:
        unread = walk.unread[0] if walk.unread else None
        evidence = unread.evidence if unread else ()
        return Missing(Status.UNASKED, evidence, "no delegate was named, and the device names none", Remedy.DELEGATE)
    try:
        walk.root(own[1] if own else plan.delegate or _named(device, plan.stable_delegate or "").open(), "root", certain=True)
    except MissingFact as error:
        return error.missing
    for path, edge in walk.further_roots():
        walk.attempt(partial(walk.root, path, edge, certain=False))
    objects = tuple(walk.objects.values())
    found = Closure(
        roots=tuple(walk.roots),
        objects=objects,
        missing=tuple(dict.fromkeys(walk.missing)),
        archives=tuple(dict.fromkeys(walk.archives)),
        unread=tuple(dict.fromkeys(walk.unread)),
        nowhere=tuple(dict.fromkeys(walk.nowhere)),
        named_by=printable(own[0]) if own else "",
    )
    return Ok(found, tuple(walk.evidence[each.inode] for each in objects))


@dataclass(frozen=True, slots=True)
class _File:
    """A file where the linker found it; `path` may hold links, `stat.real` does not. `elf` is None where it is no ELF file."""

    path: str
    stat: FileStat
    evidence: Evidence
    elf: elves.Elf | None

    @property
    def inode(self) -> tuple[int, int]:
        return self.stat.dev, self.stat.ino

    @property
    def folder(self) -> str:
        return _folder(self.stat.real)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An object of the process: `rpath` are its own and its loaders' DT_RPATH folders, `runpath` its own DT_RUNPATH folders."""

    file: _File
    elf: elves.Elf
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


class _Edge(NamedTuple):
    """A name that an object asks for, or alternatives; `kind` as in ElfObject.edge."""

    loader: _Loaded
    kind: str
    names: tuple[str, ...]
    optional: bool = True


class _NotFound(Exception):  # noqa: N818  # an ordinary answer of a search
    """There is no such library in the folders `searched`."""

    def __init__(self, searched: tuple[str, ...]) -> None:
        super().__init__(searched)
        self.searched = searched


class _Unusable(MissingFact):
    """The linker finds a file that is no ELF file, and ends with an error."""


class _Search:
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

    def file(self, path: str) -> _File | None:
        """The file at a path; None where there is none."""
        found = self._device.stat(path)
        if isinstance(found, Missing) and found.status is Status.ABSENT:
            return None
        stat = found.open()
        if stat.kind != "file":
            raise MissingFact(Missing(Status.FAILED, found.evidence, f"a {stat.kind}, not a file", Remedy.EVIDENCE))
        if stat.real not in self._elves:
            self._elves[stat.real] = self._elf(stat, found.evidence)
        return _File(path, stat, found.evidence[0], self._elves[stat.real].open())

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
            raise MissingFact(_limit(folder, f"{len(names)} files beside the driver"))
        return [f"{folder}/{name}" for name in names]

    def beside(self, path: str) -> _File | Archive | str | None:
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
        return file if file and file.elf and (file.elf.type in elves.LOADABLE or ".ko" not in _last(path)) else None

    def _is_for_debuggers(self, stat: FileStat) -> bool:
        """Whether a file holds what debuggers read of another, and none of its code (objcopy --only-keep-debug): it cannot be loaded."""
        if not (_last(stat.real).endswith((".debug", ".dbg", ".dwp", ".dwo")) or "/.debug/" in stat.real or "/debug/" in stat.real):
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
            raise MissingFact(_limit(folder, f"{len(names)} names beside the driver that are no library's"))
        found = {name: self._device.stat(f"{folder}/{name}") for name in names}
        there = {name: each.open() for name, each in found.items() if isinstance(each, Ok) or each.status is not Status.ABSENT}
        folders = {name: stat.real for name, stat in there.items() if stat.kind == "directory"}
        if len(folders) > 4 * MAX_FOLDERS:
            raise MissingFact(_limit(folder, f"{len(folders)} folders beside the driver"))
        return folders

    def held(self, path: str, words: tuple[str, ...]) -> frozenset[str]:
        """Those of some words that are among a file's bytes; what cannot be asked is taken for held."""
        asked = tuple(word for word in words if word.isascii() and len(word) <= MAX_WORD)
        found = parse(self._device.ask(base.holds(path, *asked)), lambda data: data.decode("ascii").split("\0")[:-1]).open()
        return frozenset((*found, *set(words).difference(asked)))

    def words(self, path: str, words: tuple[str, ...]) -> Fact[frozenset[str]]:
        """Those of some words that are among a file's bytes."""
        found = parse(self._device.ask(base.holds(path, *words)), lambda data: frozenset(data.decode("ascii").split("\0")[:-1]))
        return Ok(frozenset()) if found.status is Status.UNASKED else found  # in records of an earlier collector, by its name alone

    def sonames(self, path: str) -> tuple[str, ...]:
        """The names of shared objects among a file's bytes."""
        names: tuple[str, ...] = parse(
            self._device.ask(base.sonames(path)), lambda data: tuple(data.decode("ascii").split("\0")[:-1])
        ).open()
        return names

    def marks(self, path: str) -> Fact[tuple[str, ...]]:
        """What among a file's bytes says that there may be more to it than a library."""
        return parse(self._device.ask(base.holds(path, *_MARKS)), lambda data: tuple(data.decode("ascii").split("\0")[:-1]))

    def find(self, name: str, loaded: _Loaded) -> list[_File]:
        """The files that the linker may load for a name: one, or several where it depends on the processor (glibc-hwcaps).

        Raises _NotFound where there is none. Files of another class, byte order or machine are passed over, as the linker does.
        """
        if "/" in name:
            path = self.expand(name, loaded.file.path, loaded.elf)
            if not path.startswith("/"):
                raise MissingFact(_relative(loaded, path))
            found = self._usable(path, loaded)
            if found is None:
                raise _NotFound((path,))
            return [found]
        variants: list[_File] = []
        for path, varies in self._candidates(name, loaded):
            found = self._usable(path, loaded)
            if found and not varies:
                return [*variants, found]
            variants += [found] if found else []
        if variants:
            return variants
        raise _NotFound(self._searched(loaded))

    def _usable(self, path: str, loaded: _Loaded) -> _File | None:
        """The file at a path where the linker would take it; one that is no ELF file ends the linker's search with an error."""
        file = self.file(path)
        if file and file.elf is None:
            raise _Unusable(_not_elf(file))
        return file if file and file.elf and file.elf.kind == loaded.elf.kind else None

    def _candidates(self, name: str, loaded: _Loaded) -> Iterator[tuple[str, bool]]:
        """Where a name may lie, in the linker's order, and whether only some processors take it from there."""
        own, defaults = _own_folders(loaded), default_folders(loaded.elf.machine, loaded.elf.bits)
        for folder in own:
            if not folder.startswith("/"):
                raise MissingFact(_relative(loaded, folder))
            yield from self._in_folder(folder, name)
        if any(each.startswith(_MUSL) for each in loaded.elf.needed):
            for folder in self.musl(loaded.elf):
                yield from self._in_folder(folder, name)
            return
        skipped = defaults if loaded.elf.no_default else ()
        yield from (each for each in self._cached(name) if _folder(each[0]) not in skipped)
        for folder in () if loaded.elf.no_default else defaults:
            yield from self._in_folder(folder, name)

    def _searched(self, loaded: _Loaded) -> tuple[str, ...]:
        """The places that were searched for a name, for people."""
        cached = (_CACHE,) if self.cache() else self.configured()
        defaults = () if loaded.elf.no_default else default_folders(loaded.elf.machine, loaded.elf.bits)
        return tuple(dict.fromkeys((*_own_folders(loaded), *cached, *defaults)))

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
            raise MissingFact(_limit(_CACHE, str(error))) from None
        if len(found) > MAX_FOLDERS:
            raise MissingFact(_limit(_CACHE, f"more than {MAX_FOLDERS} paths of {printable(name)}"))
        yield from ((path, varies) for path, varies in found if path.startswith("/"))

    def musl(self, elf: elves.Elf) -> tuple[str, ...]:
        """The folders of musl's linker."""
        return read_musl_path(self._device, _MUSL_MACHINES.get(elf.machine, _PLATFORMS.get(elf.machine, ""))).open()

    def by_name(self, name: str) -> Iterator[str]:
        """Where a name may lie for an object of any kind."""
        yield from (path for path, _ in self._cached(name))
        for folder in dict.fromkeys(place for kind in _KINDS for place in default_folders(*kind)):
            yield from (path for path, _ in self._in_folder(folder, name))

    def cache(self) -> LinkerCache | None:
        """The linker's cache; None where there is none."""
        if self._cache is None:
            data = self._device.data(_CACHE, 0, MAX_CACHE + 1)
            absent = isinstance(data, Missing) and data.status is Status.ABSENT
            self._cache = Ok(None) if absent else parse(data, read_cache)
        return self._cache.open()

    def expand(self, text: str, path: str, elf: elves.Elf) -> str:
        """A path with $ORIGIN (the folder that the object was found in, links and all), $LIB and $PLATFORM replaced."""

        def value(match: re.Match[str]) -> str:
            word = match.group(1) or match.group(2)
            if word == "ORIGIN":
                return _folder(path)
            return self._library_folder(elf) if word == "LIB" else _PLATFORMS.get(elf.machine, "")

        return _TOKEN.sub(value, text)

    def loaded(self, file: _File, elf: elves.Elf, loader: _Loaded | None) -> _Loaded:
        """A file as an object of the process, with the folders that its DT_RPATH (its loaders' too) and DT_RUNPATH name."""
        rpath = (*self._split(elf.rpath, file.path, elf), *(loader.rpath if loader else ()))
        folders = tuple(dict.fromkeys(rpath))
        if len(folders) > MAX_FOLDERS:
            raise MissingFact(_limit(file.path, f"an inherited search path of {len(folders)} folders"))
        return _Loaded(file, elf, folders, self._split(elf.runpath, file.path, elf))

    def _split(self, text: str, path: str, elf: elves.Elf) -> tuple[str, ...]:
        """The folders of a DT_RPATH or DT_RUNPATH. An empty one is the working directory, and so relative."""
        parts = text.split(":") if text else []
        if len(parts) > MAX_FOLDERS:
            raise MissingFact(_limit(path, f"a search path of {len(parts)} folders"))
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
            raise MissingFact(_limit(path, "too many or too deep includes"))
        text = _text(self._device, path)
        if isinstance(text, Missing) and text.status is Status.ABSENT:
            return
        for number, line in enumerate(text.open().splitlines()):
            words = line.partition("#")[0].split()
            if number > MAX_FOLDERS * 16:
                raise MissingFact(_limit(path, "too many lines"))
            if not words or words[0] == "hwcap":
                continue
            if words[0] != "include":
                yield words[0].partition("=")[0].rstrip("/") or "/"
                continue
            for pattern in words[1:]:
                absolute = pattern if pattern.startswith("/") else f"{_folder(path)}/{pattern}"
                folder, _, last = absolute.rpartition("/")
                if any(character in folder for character in "*?["):
                    raise MissingFact(_limit(path, f"include {printable(pattern)}: a pattern for folders"))
                for name in sorted(name for name in self.names(folder) if not name.startswith(".") and fnmatch.fnmatchcase(name, last)):
                    yield from self._configuration(f"{folder}/{name}", read, depth + 1)


class _Walk:
    """Builds a closure, one root after the other. Each root is a process of its own: what one has loaded does not serve another."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._search = _Search(device)
        self.indirections = Indirections(device)
        self.roots: dict[str, None] = {}
        self.objects: dict[tuple[int, int], ElfObject] = {}
        self.evidence: dict[tuple[int, int], Evidence] = {}
        self.missing: list[MissingLibrary] = []
        self.archives: list[Archive] = []
        self.unread: list[Missing] = []
        self.nowhere: list[str] = []

    def attempt(self, step: Callable[[], None]) -> None:
        """Do a step; what could not be read in it is noted, and ends it."""
        try:
            step()
        except MissingFact as error:
            self.unread.append(error.missing)

    def settings(self) -> Iterator[tuple[str, str]]:
        """The settings files that name delegates, each with a library that it names. What cannot be read is noted."""
        paths = list(SETTINGS)
        for folder in SETTINGS_FOLDERS:
            names = self._device.names(folder)
            if isinstance(names, Ok):
                paths += [f"{folder}/{name}" for name in names.value[:MAX_FOLDERS] if name.endswith(".json")]
            elif names.status not in {Status.ABSENT, Status.UNASKED}:
                self.unread.append(names)
        for path in dict.fromkeys(paths):
            text = _text(self._device, path)
            if isinstance(text, Ok):
                found = delegate_paths(text.value)
                if not found and "delegate_path" in text.value:
                    self.unread.append(Missing(Status.FAILED, text.evidence, "delegate_path: expected a text", Remedy.EVIDENCE))
                yield from ((path, name) for name in found)
            elif text.status is not Status.ABSENT:
                self.unread.append(text)

    def further_roots(self) -> Iterator[tuple[str, str]]:
        """What the device itself names: its stable delegates, and the libraries that every process loads."""
        yield from ((name, "settings") for _, name in self.settings())
        text = _text(self._device, PRELOAD)
        if isinstance(text, Ok):
            names = " ".join(line.partition("#")[0] for line in text.value.splitlines()).replace(":", " ").split()
            yield from ((name, PRELOAD.rpartition("/")[2]) for name in names[:MAX_FOLDERS])
        elif text.status is not Status.ABSENT:
            self.unread.append(text)

    def root(self, path: str, edge: str, *, certain: bool) -> None:
        """Follow one root. Raises MissingFact where the root itself cannot be read."""
        file = self._search.file(path) if "/" in path else self._by_name(path)
        if file is None:
            evidence = Evidence(printable(path), Status.ABSENT)
            raise MissingFact(Missing(Status.ABSENT, (evidence,), "there is no such library", Remedy.DELEGATE))
        if file.elf is None:
            raise MissingFact(_not_elf(file))
        self.roots[printable(file.stat.real)] = None
        _Process(self, self._search, file, file.elf, certain=certain).run(edge)

    def _by_name(self, name: str) -> _File | None:
        """A library that is named without a folder, where the image's linker finds it, for whichever machine it is."""
        for path in self._search.by_name(name):
            file = self._search.file(path)
            if file:
                return file
        return None


_KINDS = ((elves.X86_64, 64), (elves.AARCH64, 64), (elves.ARM, 32), (elves.X86, 32), (elves.RISCV, 64))


class _Process:
    """The objects of one process: those that its start loads first, then those that it opens, last those that it may open."""

    def __init__(self, walk: _Walk, search: _Search, root: _File, elf: elves.Elf, *, certain: bool) -> None:
        self._walk = walk
        self._search = search
        self._root = root
        self._elf = elf
        self._certain = certain
        self._unread = len(walk.unread)
        self._seen: set[tuple[int, int]] = set()
        self._loaded: set[str] = set()
        self._folders: dict[str, None] = {}
        """The vendor's own: the root's, and those of other objects outside the system's."""
        self._swept: set[str] = set()
        self._beside = 0
        self._linked: deque[_Edge] = deque()
        self._opened: deque[_Edge] = deque()
        self._perhaps: deque[_Edge] = deque()

    def run(self, kind: str) -> None:
        """Load the root and all that follows from it."""
        self._walk.attempt(lambda: self._load(self._root, self._elf, self._root.path, kind))
        for _ in range(MAX_EDGES):
            if len(self._seen) > MAX_OBJECTS:
                break
            if self._linked:
                self._follow(self._linked.popleft(), self._link)
            elif self._opened:
                self._follow(self._opened.popleft(), self._open)
            elif self._perhaps:
                self._certain = False
                self._follow(self._perhaps.popleft(), self._maybe)
            else:
                return
        self._walk.unread.append(_limit(self._root.stat.real, f"more than {MAX_OBJECTS} objects or {MAX_EDGES} names"))

    def _follow(self, edge: _Edge, how: Callable[[_Edge], None]) -> None:
        if self._loaded.isdisjoint(edge.names):
            self._walk.attempt(lambda: how(edge))

    def _link(self, edge: _Edge) -> None:
        """A library that the linker must find, or the first of some alternatives."""
        searched: tuple[str, ...] = ()
        for name in edge.names:
            try:
                files = self._search.find(name, edge.loader)
            except _NotFound as error:
                searched = error.searched
                continue
            self._take(files, name, edge)
            return
        name, by = " | ".join(edge.names), edge.loader.file.stat.real
        optional = edge.optional or not self._certain
        missing = MissingLibrary(printable(name), printable(by), edge.kind, tuple(printable(each) for each in searched), optional)
        self._walk.missing.append(missing)

    def _open(self, edge: _Edge) -> None:
        """What a file says that it opens, as the linker finds it; or a name among its bytes, where one of the vendor's files bears it."""
        if edge.kind != "string":
            self._link(edge)
            return
        (name,) = edge.names
        for folder in ("",) if name.startswith("/") else self._folders:
            file = self._search.file(f"{folder}/{name}") if "/" in name or self._search.may_hold(folder, name) else None
            if file and file.elf and (not _shared(file.folder, file.elf) or self._at_root(edge.loader, file)):
                self._load(file, file.elf, name, edge.kind, edge.loader)
                return
        self._perhaps.append(edge)

    def _at_root(self, loader: _Loaded, file: _File) -> bool:
        """Whether the root itself names a file that lies with it, though others share the folder."""
        return loader.file.inode == self._root.inode and file.folder == self._root.folder

    def _maybe(self, edge: _Edge) -> None:
        """A file beside the vendor's, or a name that the linker finds elsewhere."""
        (name,) = edge.names
        if name in self._folders:
            self._sweep(name, edge.loader)
            return
        if edge.kind == "beside" or (edge.kind != "string" and name.startswith("/")):
            found = self._search.beside(name)
            if isinstance(found, str):
                self._sweep(found, edge.loader)
            elif isinstance(found, Archive):
                self._walk.archives.append(found)
            self._take([found] if isinstance(found, _File) else [], name, edge)
            return
        try:
            self._take(self._search.find(name if name.startswith("/") else _last(name), edge.loader), name, edge)
        except (_NotFound, _Unusable):  # the vendor's code would not get it either
            self._walk.nowhere.append(printable(name))

    def _sweep(self, folder: str, loader: _Loaded) -> None:
        """Note all that lies in a folder of the vendor's, once; a link from there to a folder that others share leads to nothing of his."""
        if folder in self._swept or _shared(folder, loader.elf):
            return
        self._swept.add(folder)
        paths = self._search.files(folder)
        self._beside += len(paths)
        if len(self._swept) > MAX_FOLDERS or self._beside > MAX_BESIDE:
            what = f"more than {MAX_FOLDERS} folders or {MAX_BESIDE} files beside the driver and below"
            raise MissingFact(_limit(folder, what))
        self._perhaps.extend(_Edge(loader, "beside", (path,)) for path in paths)

    def _take(self, files: list[_File], name: str, edge: _Edge) -> None:
        for file in files:
            if file.elf:
                self._load(file, file.elf, name, edge.kind, edge.loader, alone=len(files) == 1)

    def _load(self, file: _File, elf: elves.Elf, name: str, kind: str, loader: _Loaded | None = None, *, alone: bool = True) -> None:
        """Take a file into the process, and note what it asks for in turn."""
        self._loaded.add(name)
        if file.inode in self._seen:
            return
        self._seen.add(file.inode)
        if elf.soname:
            self._loaded.add(elf.soname)
        system = _in_system(file.folder, elf)
        item = ElfObject(
            path=printable(file.stat.real),
            soname=printable(elf.soname),
            size=file.stat.size,
            loaded=elf.loaded,
            memory=elf.memory,
            inode=file.inode,
            machine=elf.machine,
            bits=elf.bits,
            needed_by=printable(loader.file.stat.real) if loader else "",
            edge=kind,
            system=system,
            certain=alone and self._certain and len(self._walk.unread) == self._unread,
        )
        if not (item.base or item.runtime or file.inode in self._walk.objects):
            item = replace(item, marks=self._search.marks(file.stat.real))
        self._walk.objects.setdefault(file.inode, item)
        by = f"{kind}, from {item.needed_by}" if item.needed_by else kind
        self._walk.evidence.setdefault(file.inode, replace(file.evidence, excerpt=f"{item.size:,} bytes: {by}"))
        if elf.kind == self._elf.kind:
            self._expect(self._search.loaded(file, elf, loader), item)

    def _expect(self, loaded: _Loaded, item: ElfObject) -> None:
        """Queue what an object asks for. Names among the bytes of a library in a shared folder may belong to anything, and come last."""
        elf, folder = loaded.elf, loaded.file.folder
        self._linked.extend(_Edge(loaded, "DT_NEEDED", (name,), optional=False) for name in elf.needed)
        self._linked.extend(_Edge(loaded, "DT_AUXILIARY" if need.optional else "DT_FILTER", *need) for need in elf.filters)
        self._opened.extend(_Edge(loaded, "dlopen note", *feature) for feature in elf.dlopen)
        shared = _shared(folder, elf)
        own = not item.needed_by or not shared
        if own and folder not in self._folders:
            self._folders[folder] = None
            if not shared:
                self._perhaps.append(_Edge(loaded, "beside", (_package(folder),)))
        if item.base or item.runtime:
            return
        self._indirect(loaded)
        names = [name for name in self._search.sonames(loaded.file.stat.real) if not _last(name).startswith(".so")]
        queue = self._opened if own else self._perhaps
        queue.extend(_Edge(loaded, "string", (name,)) for name in names if "%" not in name)
        if own:
            formats = [name for name in names if "%" in name]
            if len(formats) > MAX_FORMATS:
                raise MissingFact(_limit(loaded.file.stat.real, f"{len(formats)} formats for names"))
            fitting = dict.fromkeys(path for name in formats for path in self._fitting(loaded, name))
            self._perhaps.extend(_Edge(loaded, "string", (path,)) for path in fitting)
        if own and shared:
            self._perhaps.extend(self._below(loaded, names))

    def _indirect(self, loaded: _Loaded) -> None:
        """What configuration names for the loader that an object is: it may be loaded, wherever it lies."""
        elf, path = loaded.elf, loaded.file.stat.real
        held = self._search.words(path, WORDS)
        if isinstance(held, Missing):
            self._walk.unread.append(held)
            return
        named, unread = self._walk.indirections.of(path, held.value, default_folders(elf.machine, elf.bits))
        self._walk.unread += unread
        self._perhaps.extend(_Edge(loaded, each.how, (each.name,)) for each in named)

    def _fitting(self, loaded: _Loaded, name: str) -> list[str]:
        """The files that a format may become, in the folder that it begins with or else the object's own."""
        place, _, last = name.rpartition("/")
        folder = place if place.startswith("/") else f"{loaded.file.folder}/{place}".rstrip("/")
        pattern = None if "%" in place else _pattern(last, MIN_LITERAL if _shared(folder, loaded.elf) else 0)
        return sorted(f"{folder}/{each}" for each in self._search.names(folder) if pattern.fullmatch(each)) if pattern else []

    def _below(self, loaded: _Loaded, names: list[str]) -> Iterator[_Edge]:
        """Of the folders in the root's folder, which others share: those that its bytes name, and files there whose names they are."""
        elf, folder = loaded.elf, loaded.file.folder
        found = {name: real for name, real in self._search.folders(folder).items() if not _shared(real, elf)}
        if not found:
            return
        spelled = {part for name in names for part in name.split("/")[:-1]}
        held = self._search.held(loaded.file.stat.real, tuple(f"{_last(folder)}/{name}" for name in found))
        for name, real in found.items():
            if name in spelled or f"{_last(folder)}/{name}" in held:
                yield _Edge(loaded, "beside", (real,))
                continue
            present = self._search.names(real)
            yield from (_Edge(loaded, "string", (f"{real}/{each}",)) for each in names if each in present)


def default_folders(machine: int, bits: int) -> tuple[str, ...]:
    """The folders that the linker searches without being told: multiarch (Debian), lib64 (ChromeOS), lib."""
    triplet = _TRIPLETS.get(machine)
    multiarch = (f"/lib/{triplet}", f"/usr/lib/{triplet}") if triplet else ()
    return (*multiarch, *(("/lib64", "/usr/lib64") if bits == 64 else ()), "/lib", "/usr/lib")


def _own_folders(loaded: _Loaded) -> tuple[str, ...]:
    return loaded.runpath if loaded.elf.runpath else loaded.rpath


def _in_system(folder: str, elf: elves.Elf) -> bool:
    """Whether a resolved folder is a default one or its part for a processor; folders that ld.so.conf adds are not the system's."""
    parent, _, last = folder.rpartition("/glibc-hwcaps/")
    return (parent if parent and "/" not in last else folder) in default_folders(elf.machine, elf.bits)


def _shared(folder: str, elf: elves.Elf) -> bool:
    """Whether a folder holds the files of many, so that what lies in it need not be the vendor's."""
    return folder in _SHARED or _in_system(folder, elf)


def _package(folder: str) -> str:
    """The folder of all that belongs to a package: below /opt (Filesystem Hierarchy Standard, 3.13), and of a DLC, it is the topmost."""
    for top in _PACKAGES:
        if folder.startswith(top):
            return top + folder[len(top) :].partition("/")[0]
    return folder


def _pattern(name: str, least: int) -> re.Pattern[str] | None:
    """What a printf format for a name may become, where enough of it is literal to say something."""
    literal = _CONVERSION.split(name)
    if sum(len(part) for part in literal) < least:
        return None
    return re.compile(".*".join(map(re.escape, (literal[0], literal[-1]))))


def _named(device: Device, settings: str) -> Fact[str]:
    """The library that a stable delegate's settings name."""
    return parse(_text(device, settings), lambda text: read_settings(text).path)


def _text(device: Device, path: str) -> Fact[str]:
    """A small file as text; one that is cut is Missing."""
    data = device.data(path)
    if isinstance(data, Ok) and len(data.value) >= base.READ_LIMIT:
        return Missing(Status.FAILED, data.evidence, f"at least {base.READ_LIMIT} bytes", Remedy.EVIDENCE)
    return parse(data, printable)


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _not_elf(file: _File) -> Missing:
    return Missing(Status.FAILED, (file.evidence,), "not an ELF file", Remedy.EVIDENCE)


def _limit(path: str, what: str) -> Missing:
    return Missing(Status.FAILED, (Evidence(printable(path), Status.FAILED),), what, Remedy.EVIDENCE)


def _relative(loaded: _Loaded, path: str) -> Missing:
    what = f"{printable(path)!r} in its search path depends on the working directory"
    return Missing(Status.FAILED, (loaded.file.evidence,), what, Remedy.VENDOR)
