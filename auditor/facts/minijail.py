"""What minijail is told: its command line, its configuration files, its seccomp policies.

Sources: google/minijail, minijail0_cli.c (optstring, long_options), config_parser.c, syscall_filter.c, tools/parser.py.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auditor.facts.reading import parse
from auditor.facts.types import Fact, Missing, Ok, SeccompPolicy
from auditor.model import Remedy, Status, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from auditor.facts.reading import Device
    from auditor.model import Evidence

LIMIT = 1 << 18
"""Bytes of a job, configuration or policy; the longest in ChromeOS have 20 kB."""

INCLUDES = 16
"""Policies that one policy may include, each once."""

WORD = 4096
"""Characters of an option's value; a path has no more (PATH_MAX)."""

_OPTSTRING = "a:b:c:de::f:g:hik:lm::nprst::u:vwyzB:C:GHIK::LM::NP:R:S:T:UV:Y"
_LETTERS = {letter: len(colons) for letter, colons in re.findall(r"([A-Za-z])(:*)", _OPTSTRING)}
"""By letter how many colons follow: 0 without a value, 1 with one, 2 with one that may be left out."""

_NAMED_LETTERS = {"h": "help", "d": "mount-dev", "k": "mount", "b": "bind-mount", "v": "ns-mount"}
_LONG = {
    "help": 0, "mount-dev": 0, "ambient": 0, "uts": 2, "logging": 1, "profile": 1, "preload-library": 1, "seccomp-bpf-binary": 1,
    "add-suppl-group": 1, "allow-speculative-execution": 0, "config": 1, "gen-config": 1, "env-add": 1, "env-reset": 0, "mount": 1,
    "bind-mount": 1, "ns-mount": 0, "enable-profile-fs-restrictions": 0, "fs-default-paths": 0, "fs-path-rx": 1, "fs-path-ro": 1,
    "fs-path-rw": 1, "fs-path-advanced-rw": 1, "no-default-runtime-environment": 0, "no-fs-restrictions": 0, "no-new-sessions": 0,
    "preserve-fd": 1,
}  # fmt: skip

_MS_BIND, _MS_REC = 0x1000, 0x4000
"""Flags of mount(2); minijail takes them by name and by number (util.c, parse_constants)."""

_FIRST_LINE = "% minijail-config-file v0"

_RULE = re.compile(r"(?P<names>\{[^{}]*\}|[^\s:{}]+)\s*:\s*(?P<filter>\S.*)", re.DOTALL)


@dataclass(slots=True)
class Jail:
    """The options of one minijail, collected; `variables` are the words that a shell would put options in place of."""

    options: dict[str, list[str]] = field(default_factory=dict)
    variables: list[str] = field(default_factory=list)

    def add(self, name: str, value: str | None) -> None:
        """Add an option by its letter or long name, with its value; raises ValueError for one that is too long."""
        values = self.options.setdefault(_NAMED_LETTERS.get(name, name), [])
        if value and len(value) > WORD:
            raise ValueError(f"a value of more than {WORD} characters")
        if value:
            values.append(value)

    def merge(self, other: Jail) -> None:
        """Add all that another jail has."""
        for name, values in other.options.items():
            self.options.setdefault(name, []).extend(values)
        self.variables += other.variables

    def frozen(self) -> Mapping[str, tuple[str, ...]]:
        """The options as facts hold them."""
        return {visible(name): tuple(map(visible, values)) for name, values in sorted(self.options.items())}

    def binds(self) -> tuple[str, ...]:
        """The sources of bind mounts: of `-b SOURCE[,TARGET[,WRITABLE]]`, and of `-k SOURCE,TARGET,TYPE,FLAGS` with MS_BIND.

        A devtmpfs has the nodes of all devices, and so has the root with all that is mounted below it: both count as /dev.
        """
        bound = [value.partition(",")[0] for value in self.options.get("bind-mount", ())]
        for mount in self.options.get("mount", ()):
            source, _, kind, flags, *_ = (part.strip() for part in f"{mount},,,".split(","))
            bits = _mount_flags(flags)
            if kind == "devtmpfs":
                bound.append("/dev")
            elif bits & _MS_BIND:
                bound.append("/dev" if bits & _MS_REC and _plain(source) == "/" else source)
        return tuple(sorted({visible(_plain(path)) for path in bound}))


def parse_command_line(words: list[str]) -> tuple[Jail, list[str]]:
    """The options that follow the word `minijail0`, and the command that is confined; raises ValueError for an option that is none."""
    jail = Jail()
    rest = iter(range(len(words)))
    for at in rest:
        word = words[at]
        if word == "--":
            return jail, words[at + 1 :]
        if word.startswith("$"):
            jail.variables.append(word)
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = _long_name(name)
            if _LONG[name] == 1 and not equals:
                value = _value(words, next(rest, None))
            jail.add(name, value)
        elif word.startswith("-") and len(word) > 1:
            _letters(jail, words, word[1:], rest)
        else:
            return jail, words[at:]
    return jail, []


def parse_configuration(text: str) -> Jail:
    """The options in a configuration file; raises ValueError where it is none."""
    first, *lines = joined_lines(text)
    if first.rstrip() != _FIRST_LINE:
        raise ValueError(f"expected {_FIRST_LINE!r} in the first line")
    jail = Jail()
    for line in map(str.strip, lines):
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or (equals and not value):
            raise ValueError(f"expected 'name' or 'name = value', found {line[:80]!r}")
        if name not in _LETTERS and name not in _LONG:
            raise ValueError(f"no option of minijail: {name[:80]!r}")
        jail.add(name, value)
    return jail


def parse_policy(text: str) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The filters by system call, and the paths that are included; raises ValueError for what is no policy."""
    rules: dict[str, list[str]] = {}
    includes: list[str] = []
    for line in _statements(text):
        if line.startswith("@"):
            directive, _, value = line.partition(" ")
            if directive == "@include":
                includes.append(_included(value.strip()))
            else:
                rules.setdefault(directive, []).append(value.strip())
            continue
        match = _RULE.fullmatch(line)
        if not match:
            raise ValueError(f"expected 'system call: filter', found {line[:80]!r}")
        for name in match["names"].strip("{} ").split(","):
            rules.setdefault(_system_call(name.strip()), []).append(match["filter"].strip())
    if not rules and not includes:  # a program under it could not even end: a copy that lost its content
        raise ValueError("a policy without a rule")
    return rules, tuple(includes)


def read_policy(device: Device, path: str) -> Fact[SeccompPolicy]:
    """A policy with what it includes; Missing where any of it is."""
    rules: dict[str, list[str]] = {}
    evidence: list[Evidence] = []
    paths = [path]
    for at in paths:
        found = parse(device.data(at, length=LIMIT), lambda data: parse_policy(decode(data)))
        if isinstance(found, Missing):
            return found
        evidence += found.evidence
        own, includes = found.value
        for name, filters in own.items():
            rules.setdefault(visible(name), []).extend(map(visible, filters))
        folder = at.rpartition("/")[0]
        paths += [each for each in (f"{folder}/{name[2:]}" if name.startswith("./") else name for name in includes) if each not in paths]
        if len(paths) > INCLUDES + 1:
            return Missing(Status.FAILED, found.evidence, f"more than {INCLUDES} policies are included", Remedy.EVIDENCE)
    return Ok(SeccompPolicy(visible(path), {name: tuple(filters) for name, filters in sorted(rules.items())}), tuple(evidence))


def decode(data: bytes) -> str:
    """The text of a whole file, whose comments may be in any encoding; raises ValueError where it is longer than LIMIT."""
    if len(data) >= LIMIT:
        raise ValueError(f"longer than {LIMIT} bytes")
    return data.decode("utf-8", "surrogateescape")


def joined_lines(text: str) -> list[str]:
    """Lines, with those that end in a backslash joined to the next."""
    return text.replace("\\\n", " ").split("\n")


def _plain(path: str) -> str:
    """A path without repeated slashes, `.` and `..`."""
    return posixpath.normpath(re.sub("/+", "/", path))


def _mount_flags(text: str) -> int:
    """The two flags that matter here, and the bits of numbers: decimal, hexadecimal or octal, as in C."""
    bits = 0
    for word in map(str.strip, text.split("|")):
        number = re.fullmatch("0[xX](?P<hex>[0-9a-fA-F]+)|0(?P<octal>[0-7]*)|(?P<decimal>[1-9][0-9]*)", word)
        if number and number.lastgroup:
            bits |= int(number[number.lastgroup] or "0", {"hex": 16, "octal": 8, "decimal": 10}[number.lastgroup])
        bits |= {"MS_BIND": _MS_BIND, "MS_REC": _MS_REC}.get(word, 0)
    return bits


def _value(words: list[str], at: int | None) -> str:
    if at is None:
        raise ValueError("an option without its value")
    return words[at]


def _long_name(name: str) -> str:
    """As getopt, take any beginning of a long option that is no other's."""
    found = [name] if name in _LONG else [each for each in _LONG if each.startswith(name)]
    if len(found) != 1:
        raise ValueError(f"no option of minijail0: --{name[:80]}")
    return found[0]


def _letters(jail: Jail, words: list[str], letters: str, rest: Iterator[int]) -> None:
    """The options in one word: letters, of which the last may have its value behind it or in the next word."""
    for at, letter in enumerate(letters):
        if letter not in _LETTERS:
            raise ValueError(f"no option of minijail0: -{letter}")
        if _LETTERS[letter]:
            value = letters[at + 1 :]
            jail.add(letter, value or (_value(words, next(rest, None)) if _LETTERS[letter] == 1 else None))
            return
        jail.add(letter, None)


def _statements(text: str) -> Iterable[str]:
    """The statements of a policy: lines without comments; one whose braces are open goes on."""
    held: list[str] = []
    depth = 0
    for line in joined_lines("\n".join(each.partition("#")[0] for each in text.split("\n"))):
        held.append(line.strip())
        depth += line.count("{") - line.count("}")
        if depth <= 0:
            statement = " ".join(filter(None, held))
            held, depth = [], 0
            if statement:
                yield statement
    if depth:
        raise ValueError("a brace that is not closed")


def _included(path: str) -> str:
    if not path.startswith(("/", "./")):
        raise ValueError(f"@include: expected a path that begins with / or ./, found {path[:80]!r}")
    return path


def _system_call(name: str) -> str:
    """A system call's name, without the architectures that a rule may be bound to in brackets."""
    call = name.partition("[")[0]
    if not call.isascii() or not call.isidentifier():
        raise ValueError(f"expected the name of a system call, found {name[:80]!r}")
    return call
