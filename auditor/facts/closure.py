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

import re
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from auditor.facts.indirection import WORDS, Indirections
from auditor.facts.linker import (
    MAX_BESIDE,
    MAX_FOLDERS,
    File,
    Loaded,
    NotFound,
    Search,
    Unusable,
    default_folders,
    last,
    limit,
    not_elf,
    read_text,
)
from auditor.facts.reading import parse
from auditor.facts.stable_delegate import delegate_paths, read_settings
from auditor.facts.types import (
    Archive,
    Closure,
    ElfObject,
    Missing,
    MissingFact,
    MissingLibrary,
    Ok,
)
from auditor.model import Evidence, Remedy, Status, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from auditor.facts import elf as elves
    from auditor.facts.reading import Device
    from auditor.facts.types import Fact, Plan

MAX_OBJECTS = 1024
MAX_EDGES = 20_000


MIN_LITERAL = 10
"""Characters of a name's format that must be literal, `lib` and `.so` among them."""

MAX_FORMATS = 256
"""Formats for names in one object; each is held against all names in a folder."""


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


_SHARED = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/local/lib", "/usr/local/lib64"})
_PACKAGES = ("/opt/", "/run/imageloader/")
_CONVERSION = re.compile(r"%[-+ #0-9.]{0,8}[hlz]{0,2}[a-zA-Z]")


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


class _Edge(NamedTuple):
    """A name that an object asks for, or alternatives; `kind` as in ElfObject.edge."""

    loader: Loaded
    kind: str
    names: tuple[str, ...]
    optional: bool = True


class _Walk:
    """Builds a closure, one root after the other. Each root is a process of its own: what one has loaded does not serve another."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._search = Search(device)
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
            text = read_text(self._device, path)
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
        text = read_text(self._device, PRELOAD)
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
            raise MissingFact(not_elf(file))
        self.roots[printable(file.stat.real)] = None
        _Process(self, self._search, file, file.elf, certain=certain).run(edge)

    def _by_name(self, name: str) -> File | None:
        """A library that is named without a folder, where the image's linker finds it, for whichever machine it is."""
        for path in self._search.by_name(name):
            file = self._search.file(path)
            if file:
                return file
        return None


class _Process:
    """The objects of one process: those that its start loads first, then those that it opens, last those that it may open."""

    def __init__(self, walk: _Walk, search: Search, root: File, elf: elves.Elf, *, certain: bool) -> None:
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
        self._walk.unread.append(limit(self._root.stat.real, f"more than {MAX_OBJECTS} objects or {MAX_EDGES} names"))

    def _follow(self, edge: _Edge, how: Callable[[_Edge], None]) -> None:
        if self._loaded.isdisjoint(edge.names):
            self._walk.attempt(lambda: how(edge))

    def _link(self, edge: _Edge) -> None:
        """A library that the linker must find, or the first of some alternatives."""
        searched: tuple[str, ...] = ()
        for name in edge.names:
            try:
                files = self._search.find(name, edge.loader)
            except NotFound as error:
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

    def _at_root(self, loader: Loaded, file: File) -> bool:
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
            self._take([found] if isinstance(found, File) else [], name, edge)
            return
        try:
            self._take(self._search.find(name if name.startswith("/") else last(name), edge.loader), name, edge)
        except (NotFound, Unusable):  # the vendor's code would not get it either
            self._walk.nowhere.append(printable(name))

    def _sweep(self, folder: str, loader: Loaded) -> None:
        """Note all that lies in a folder of the vendor's, once; a link from there to a folder that others share leads to nothing of his."""
        if folder in self._swept or _shared(folder, loader.elf):
            return
        self._swept.add(folder)
        paths = self._search.files(folder)
        self._beside += len(paths)
        if len(self._swept) > MAX_FOLDERS or self._beside > MAX_BESIDE:
            what = f"more than {MAX_FOLDERS} folders or {MAX_BESIDE} files beside the driver and below"
            raise MissingFact(limit(folder, what))
        self._perhaps.extend(_Edge(loader, "beside", (path,)) for path in paths)

    def _take(self, files: list[File], name: str, edge: _Edge) -> None:
        for file in files:
            if file.elf:
                self._load(file, file.elf, name, edge.kind, edge.loader, alone=len(files) == 1)

    def _load(self, file: File, elf: elves.Elf, name: str, kind: str, loader: Loaded | None = None, *, alone: bool = True) -> None:
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

    def _expect(self, loaded: Loaded, item: ElfObject) -> None:
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
        names = [name for name in self._search.sonames(loaded.file.stat.real) if not last(name).startswith(".so")]
        queue = self._opened if own else self._perhaps
        queue.extend(_Edge(loaded, "string", (name,)) for name in names if "%" not in name)
        if own:
            formats = [name for name in names if "%" in name]
            if len(formats) > MAX_FORMATS:
                raise MissingFact(limit(loaded.file.stat.real, f"{len(formats)} formats for names"))
            fitting = dict.fromkeys(path for name in formats for path in self._fitting(loaded, name))
            self._perhaps.extend(_Edge(loaded, "string", (path,)) for path in fitting)
        if own and shared:
            self._perhaps.extend(self._below(loaded, names))

    def _indirect(self, loaded: Loaded) -> None:
        """What configuration names for the loader that an object is: it may be loaded, wherever it lies."""
        elf, path = loaded.elf, loaded.file.stat.real
        held = self._search.words(path, WORDS)
        if isinstance(held, Missing):
            self._walk.unread.append(held)
            return
        named, unread = self._walk.indirections.of(path, held.value, default_folders(elf.machine, elf.bits))
        self._walk.unread += unread
        self._perhaps.extend(_Edge(loaded, each.how, (each.name,)) for each in named)

    def _fitting(self, loaded: Loaded, name: str) -> list[str]:
        """The files that a format may become, in the folder that it begins with or else the object's own."""
        place, _, last = name.rpartition("/")
        folder = place if place.startswith("/") else f"{loaded.file.folder}/{place}".rstrip("/")
        pattern = None if "%" in place else _pattern(last, MIN_LITERAL if _shared(folder, loaded.elf) else 0)
        return sorted(f"{folder}/{each}" for each in self._search.names(folder) if pattern.fullmatch(each)) if pattern else []

    def _below(self, loaded: Loaded, names: list[str]) -> Iterator[_Edge]:
        """Of the folders in the root's folder, which others share: those that its bytes name, and files there whose names they are."""
        elf, folder = loaded.elf, loaded.file.folder
        found = {name: real for name, real in self._search.folders(folder).items() if not _shared(real, elf)}
        if not found:
            return
        spelled = {part for name in names for part in name.split("/")[:-1]}
        held = self._search.held(loaded.file.stat.real, tuple(f"{last(folder)}/{name}" for name in found))
        for name, real in found.items():
            if name in spelled or f"{last(folder)}/{name}" in held:
                yield _Edge(loaded, "beside", (real,))
                continue
            present = self._search.names(real)
            yield from (_Edge(loaded, "string", (f"{real}/{each}",)) for each in names if each in present)


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
    return parse(read_text(device, settings), lambda text: read_settings(text).path)
