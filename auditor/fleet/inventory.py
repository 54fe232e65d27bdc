"""The inventory of a lab (TOML): its devices, the groups that share something (a switch, a power supply), and the options of their audits.

    parallel = 16                     # audits at a time on this machine
    attempts = 3                      # at a device that is unreachable, or lost in the middle
    pause = 30                        # seconds before the second attempt; doubled before each further one
    deadline = 3600                   # seconds that one audit may take

    [options]                         # of every device: the options of `crosml-audit device`
    bench-time = "quick"
    identity = { env = "LAB_KEY" }    # a reference: the value is read when the run begins, and is in no file of ours

    [groups.rack-a]
    parallel = 4                      # audits at a time in this group
    options = { delegate = "/usr/lib/libnpu.so" }

    [[hosts]]
    name = "board-01"                 # the name of its folder
    address = "root@10.0.0.11"        # [USER@]HOST; the name, where it is left out
    groups = ["rack-a"]
    options = { accelerator = ["pci:0000:00:04.0"] }

A device's own options replace those of its groups, in their order, and these replace those of every device. Paths are relative to the
inventory's folder.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from auditor import files
from auditor.bench.options import ZooOptions
from auditor.bench.over_ssh import LOCAL
from auditor.codec import decode_toml
from auditor.engine import Selection
from auditor.errors import UsageError
from auditor.model import visible
from auditor.request import Judging, Request, Target

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterator

SIZE_LIMIT = 16 << 20
"""Bytes of an inventory."""
MOST_HOSTS = 10_000
"""Devices of one run: a controller that audits this many in a night has them 16 at a time, in 20 s each."""
SECRET_LIMIT = 1 << 16
"""Bytes of a file that a value is read from."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r"(?!-)[^\s'\"\\]{1,256}")
_PATHS = {"--waivers", "--base-image", "--zoo-manifest", "--runtime", "--ssh-config", "--identity"}
"""Options whose value is a path on this machine; of some others, it may be."""
_NOT_OF_A_FLEET = ("host", "root", "snapshot", "kernel_log", "demo")


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that share something. `parallel` audits at a time; None for as many as the whole fleet may have."""

    parallel: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Host:
    name: str
    address: str = ""
    groups: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    hosts: tuple[_Host, ...]
    parallel: int = 16
    attempts: int = 3
    pause: float = 30
    deadline: float = 3600
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """A device of the fleet. `groups` are those that bound how many are audited at a time."""

    name: str
    groups: tuple[str, ...]
    request: Request


@dataclass(frozen=True, slots=True)
class Inventory:
    """A fleet. `sha256` is the file's; `groups` has how many audits at a time each group bears."""

    members: tuple[Member, ...]
    parallel: int
    attempts: int
    pause: float
    deadline: float
    groups: Mapping[str, int]
    sha256: str


def load(path: str, today: datetime.date) -> Inventory:
    """The inventory in a file. Raises UsageError with one line that names the file, the field and what was expected."""
    data = files.read(path, SIZE_LIMIT, path, UsageError)
    found = decode_toml(data, _File, path)
    for wrong in _mistakes(found):
        raise UsageError(visible(f"{path}: {wrong}"))
    folder = os.path.dirname(os.path.abspath(path))
    read = _Reader(path, folder)
    common = read.options("options", found.options)
    grouped = {name: read.options(f"groups.{name}.options", group.options) for name, group in found.groups.items()}
    bounds = {name: group.parallel for name, group in found.groups.items() if group.parallel is not None}
    members = []
    for number, host in enumerate(found.hosts):
        options = dict(common)
        for name in host.groups:
            options |= grouped[name]
        options |= read.options(f"hosts[{number}] ({host.name}).options", host.options)
        selection = Selection(options.pop("only", ()), options.pop("skip", ()))
        try:
            request = Request(host=host.address or host.name, **options, selection=selection, today=today)
        except UsageError as error:
            raise UsageError(visible(f"{path}: hosts[{number}] ({host.name}): {error}")) from None
        members.append(Member(host.name, tuple(name for name in host.groups if name in bounds), request))
    numbers = found.parallel, found.attempts, found.pause, found.deadline
    return Inventory(tuple(members), *numbers, bounds, hashlib.sha256(data).hexdigest())


def _mistakes(found: _File) -> Iterator[str]:
    """What is wrong with an inventory whose values have the right types."""
    if not 0 < len(found.hosts) <= MOST_HOSTS:
        yield f"hosts: {len(found.hosts)} devices, expected 1 to {MOST_HOSTS}"
    for name, low, high in (("parallel", 1, 1024), ("attempts", 1, 100), ("pause", 0, 86400), ("deadline", 1, 7 * 86400)):
        if not low <= getattr(found, name) <= high:
            yield f"{name}: expected {low} to {high}, got {getattr(found, name):g}"
    for name, group in found.groups.items():
        if not _NAME.fullmatch(name):
            yield f"groups.{name[:80]}: expected a name of at most 64 letters, digits, '.', '_' and '-'"
        if group.parallel is not None and not 1 <= group.parallel <= 1024:
            yield f"groups.{name}.parallel: expected 1 to 1024, got {group.parallel}"
    first: dict[str, int] = {}
    for number, host in enumerate(found.hosts):
        where = f"hosts[{number}]"
        if not _NAME.fullmatch(host.name):
            yield f"{where}.name: expected a name of at most 64 letters, digits, '.', '_' and '-', got {host.name[:80]!r}"
        if first.setdefault(host.name, number) != number:
            yield f"{where}.name: {host.name} is also the name of hosts[{first[host.name]}]"
        if host.address and not _ADDRESS.fullmatch(host.address):
            yield f"{where}.address: expected [USER@]HOST, got {host.address[:80]!r}"
        for name in host.groups:
            if name not in found.groups:
                yield f"{where}.groups: {name[:80]} is not in [groups]{_meant(name, found.groups)}"
        for name, count in Counter(host.groups).items():
            if count > 1:
                yield f"{where}.groups: {name} is named {count} times, expected once"


def _meant(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name[:80], known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _flags() -> dict[str, Any]:
    """The options that a device may have, by their flags without the dashes: the field of the request that each fills."""
    found = {}
    for group in (Target, ZooOptions, Judging):
        for each in fields(group):
            shown = each.metadata.get("shown")
            if shown is not None and each.name not in _NOT_OF_A_FLEET:
                found[(shown.flag or f"--{each.name.replace('_', '-')}").removeprefix("--")] = each
    return found


class _Reader:
    """Reads tables of options of one inventory; what a value refers to is read once."""

    def __init__(self, path: str, folder: str) -> None:
        self._path = path
        self._folder = folder
        self._flags = _flags()
        self._known: dict[str, Any] = {**self._flags, "only": None, "skip": None}

    def options(self, where: str, table: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request that a table of options fills."""
        read: dict[str, Any] = {}
        for key, value in table.items():
            label = f"{where}.{key[:80]}"
            if key in {"only", "skip"}:
                read[key] = self._texts(label, value)
            elif key not in self._flags:
                raise self._wrong(label, f"unknown option of `crosml-audit device --host`{_meant(key, self._known)}")
            else:
                read[self._flags[key].name] = self._value(label, self._flags[key], f"--{key}", value)
        return read

    def _value(self, label: str, option: Any, flag: str, value: Any) -> Any:
        shown = option.metadata["shown"]
        if isinstance(option.default, bool):
            if not isinstance(value, bool):
                raise self._wrong(label, "expected true or false")
            return value is not shown.negated
        if shown.metavar == "K=V":
            if not isinstance(value, dict):
                raise self._wrong(label, 'expected a table, { KEY = "VALUE" }')
            return tuple((key, self._text(f"{label}.{key[:80]}", each)) for key, each in value.items())
        if isinstance(option.default, tuple):
            return tuple(self._path_of(flag, each) for each in self._texts(label, value))
        text = self._text(label, value)
        if shown.choices and text not in shown.choices:
            raise self._wrong(label, f"expected {' or '.join(shown.choices)}, got {text[:80]!r}")
        if "-----BEGIN" in text:
            raise self._wrong(label, "expected the path of a key, not the key itself")
        return self._path_of(flag, text)

    def _texts(self, label: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self._wrong(label, "expected an array of strings")
        return tuple(self._text(f"{label}[{number}]", each) for number, each in enumerate(value))

    def _text(self, label: str, value: Any) -> str:
        """A string, or what `{ env = "NAME" }` or `{ file = "PATH" }` refers to. No message has the value of a reference in it."""
        if isinstance(value, str):
            return value
        if not (isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), str)):
            raise self._wrong(label, 'expected a string, { env = "NAME" } or { file = "PATH" }')
        ((kind, name),) = value.items()
        if kind == "env":
            if not os.environ.get(name):
                raise self._wrong(label, f"the environment variable {name[:80]} is not set")
            return os.environ[name]
        if kind != "file":
            raise self._wrong(label, f"expected env or file, got {kind[:80]!r}")
        data = files.read(self._join(name), SECRET_LIMIT, f"{self._path}: {label}: {name}", UsageError)
        return os.fsdecode(data).strip()

    def _path_of(self, flag: str, text: str) -> str:
        """A path of this machine, made absolute; any other value as it is."""
        if text.startswith(LOCAL):
            return LOCAL + self._join(text.removeprefix(LOCAL))
        own_set = flag == "--requirements" and text.endswith(".toml")
        root_file = flag == "--trust-root" and not re.fullmatch(r"[0-9A-Fa-f]{64}", text)
        return self._join(text) if flag in _PATHS or own_set or root_file else text

    def _join(self, path: str) -> str:
        return os.path.join(self._folder, os.path.expanduser(path))

    def _wrong(self, label: str, what: str) -> UsageError:
        return UsageError(visible(f"{self._path}: {label}: {what}"))
