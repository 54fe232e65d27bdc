"""Taking out of a record what names a unit, a machine or a person, before it is judged.

That is serial numbers, MAC addresses, UUIDs, host and user names, and secrets on command lines. An identifier is found by its form (a MAC
address, a UUID, `user@host`), by the key before it (`serialno=`, `--password`), or by where it was read
(`/sys/class/dmi/id/product_serial`, `/home/NAME`). Then it is replaced wherever it stands, in answers, in paths and in names, by
another of the same length that keeps its form: sizes and offsets stay, and what was equal stays equal. Only bytes that are spelled out are
found: what is compressed, or in a form of its own, is the vendor's to look at (`submit --dry-run` lists what there is).

Law: a redacted record gives the same outcomes. Digests and signatures are not recomputed; whoever redacts judges both records and compares.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from auditor.sources.base import Question, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from auditor.sources.recording import Record

SHORTEST = 3
"""Letters of a name that is looked for everywhere: a shorter one is part of too many words."""

MAC, UUID, SERIAL, SECRET, HOST, USER, WORD = "MAC address", "UUID", "serial number", "secret", "host name", "user name", "given word"

_HEX = rb"[0-9A-Fa-f]"
_MAC = re.compile(rb"(?<![0-9A-Fa-f:.-])" + _HEX + rb"{2}(?:([:-])" + _HEX + rb"{2})(?:\1" + _HEX + rb"{2}){4}(?![0-9A-Fa-f:-])")
_UUID = re.compile(rb"(?<![0-9A-Za-z-])" + _HEX + rb"{8}(?:-" + _HEX + rb"{4}){3}-" + _HEX + rb"{12}(?![0-9A-Za-z-])")
_VALUE = rb"[\"']?([^\s\"',;\0]{4,})"
_SECRET = rb"(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|credentials?|psk)"
_KEYED = {
    SERIAL: re.compile(
        rb"(?i)(?<![a-z0-9])[\w.-]*(?:serial(?:[ _.-]?(?:number|num|no|short))?|service[ _-]?tag|asset[ _-]?tag|imei|meid|iccid)"
        rb"[\"']?\s*[=:]\s*" + rb"[\"']?([\w.-]{4,})(?![\w/])"
        rb"|(?<![a-z0-9])(?:serial[ _-]?(?:number|no\.?|#)|serial#|s/n|mlb|ein)[ ]?[:=#]?[ ]?(?=[\w-]*\d)([\w-]{4,})(?![\w/.])"
        rb"|(?<![\w.])((?:naa|eui|nguid|uuid)\.[0-9a-f]{8,32})(?![\w.])"
    ),
    SECRET: re.compile(
        rb"(?i)(?:(?<![a-z0-9])[\w.-]*"
        + _SECRET
        + rb"[\"']?\s*[=:]\s*|(?<![\w-])--?[\w-]*"
        + _SECRET
        + rb"[\0 ](?=[^-\s\0]))"
        + _VALUE
        + rb"|(?:bearer|basic)[ ]([\w.~+/=-]{6,})"
        rb"|(?<![\w-])(?:-u|--user)[\0 =][\w.+-]+:([^\s\0@]{3,})"
        rb"|[a-z][a-z0-9+.-]*://[^\s/:@\0]+:([^\s/@\0]{3,})@"
        rb"|(?<![\w])((?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{12,}|xox[abprs]-[\w-]{8,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)"
    ),
    MAC: re.compile(rb"(?i)(?<![a-z0-9])(?:[\w.-]*_)?(?:mac|ethaddr|mac_?addr(?:ess)?)[\"']?\s*[=:]\s*[\"']?([0-9a-f]{12})(?![0-9a-z])"),
    HOST: re.compile(rb"(?i)(?:hostname|host_name|nodename)(?:[\"']?\s*[=:]\s*[\"']?| set to <?)([a-z0-9][a-z0-9.-]{2,62})"),
    USER: re.compile(
        rb"(?:^|[\0\s;\"{,])(?:USER|LOGNAME|SUDO_USER|username|user_name|login)[\"']?\s*[=:]\s*[\"']?([A-Za-z_][\w.-]{2,31})"
        rb"|(?:^|[\s\0])(?:sudo|su|sshd)(?:\[\d+\])?:\s+([a-z_][\w.-]{2,31}) :"
        rb"|://([^\s/:@\0]{3,32})(?::[^\s/@\0]*)?@"
        rb"|(?<![\w-])(?:-u|--user)[\0 =]([\w.+-]{3,32}):[^\s\0]"
    ),
}
_LOGIN = re.compile(
    rb"(?<![\w.+-])([A-Za-z_][\w.+-]{2,31})@([A-Za-z][A-Za-z0-9-]{2,62}(?:\.[A-Za-z0-9-]+)*|\d{1,3}(?:\.\d{1,3}){3}(?![\w.]))"
)
_DOTTED_MAC = re.compile(rb"(?<![\w.:])(?:" + _HEX + rb"{4}\.){2}" + _HEX + rb"{4}(?![\w.])")
_EUI64 = re.compile(
    rb"(?<![\w:])(?:" + _HEX + rb"{0,4}:){2,6}" + _HEX + rb"{1,2}ff:fe" + _HEX + rb"{2}:" + _HEX + rb"{1,4}(?![\w:])", re.IGNORECASE
)
"""An IPv6 address that is made of a MAC address (RFC 4291, appendix A)."""
_HOME = re.compile(rb"/(?:home|Users|var/home|export/home)/([A-Za-z_][\w.-]{2,31})(?![\w.-])")
_PLACES = {
    SERIAL: re.compile(r"/(?:[\w-]*serial(?:[_-]?(?:number|no))?|[\w-]*asset_tag|attested_device_id|[gu]bind_attribute|wwid|imei|meid)$"),
    UUID: re.compile(r"/(?:[\w-]*uuid|machine-id|boot_id|stable_device_secret\w*)$"),
    MAC: re.compile(r"/(?:address|[\w-]*mac(?:_?addr(?:ess)?)?\d*)$"),
    HOST: re.compile(r"^/(?:etc|proc/sys/kernel)/hostname$"),
}
_KEYS = {
    HOST: frozenset({"host", "hostname", "nodename"}),
    USER: frozenset({"user", "username", "login", "collected_by"}),
    SERIAL: frozenset({"serial", "serial_number", "serialno", "ID_SERIAL", "ID_SERIAL_SHORT"}),
}
"""Members of the program's own documents, and of udev's properties."""

_NAME = re.compile(r"[\w.-]+")

_COMMON = frozenset(
    b"root chronos localhost localdomain nobody daemon user users test none unknown default admin lists device chromeos debian linux"
    b" this machine crosml-audit-dut redacted null true false shared guest android kernel build builder kernel-hosted-system".split()
)
"""Names that name nobody."""
_UNIT = re.compile(rb"[0-9a-f]+|.*\.(?:service|socket|timer|slice|target|path|mount)|tty\w+")
"""What stands behind an `@` and is no host: a device tree's address, an instance of a unit of systemd."""
_BUILDERS = re.compile(rb"@(?:lists\.|\w+\.(?:kernel|debian|chromium)\.org)")


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is replaced by what, and how many identifiers of each kind there are."""

    words: Mapping[bytes, bytes]
    """By the identifier in lower case."""
    counts: Mapping[str, int]

    def apply(self, data: bytes) -> bytes:
        """The data with every identifier replaced; of the same length."""
        if not self.words:
            return data
        pattern = _compiled(tuple(sorted(self.words, key=lambda word: (-len(word), word))))
        return pattern.sub(lambda found: self.words[found[0].lower()], data)

    def text(self, text: str) -> str:
        """The same, of a text that may hold bytes that are not UTF-8."""
        return os.fsdecode(self.apply(os.fsencode(text)))


def find(record: Record, words: Iterable[str] = ()) -> Redaction:
    """The identifiers in a record, and those of some words of the user's own, with what would stand in their places."""
    kinds: dict[bytes, str] = {}
    for kind, found in _found(record):
        word = found.strip().lower()
        if len(word) >= SHORTEST and word not in _COMMON and word.strip(b"0:-xX. *"):
            kinds.setdefault(word, kind)
    for given in words:
        kinds[os.fsencode(given).lower()] = WORD
    counts: Counter[str] = Counter()
    places: dict[bytes, bytes] = {}
    for word, kind in sorted(kinds.items()):
        counts[kind] += 1
        places[word] = _placeholder(word, kind, len(places) + 1)
    return Redaction(places, counts)


def redacted(record: Record, redaction: Redaction) -> Record:
    """The record with every identifier replaced."""
    answers = {}
    for question, reply in record.answers.items():
        asked = Question(
            question.kind,
            redaction.text(question.path),
            tuple(redaction.text(each) if isinstance(each, str) else each for each in question.args),
        )
        data = redaction.apply(reply.data)
        if question.kind == "list" and data != reply.data:
            data = b"".join(sorted(name + b"\0" for name in data.split(b"\0") if name))
        answers[asked] = replace(reply, data=data)
    return replace(record, name="redacted", answers=answers)


def _found(record: Record) -> Iterator[tuple[str, bytes]]:
    host = os.fsencode(record.name.rpartition("@")[2])
    if re.fullmatch(rb"[A-Za-z][\w.-]*", host):
        yield HOST, host
    if "@" in record.name:
        yield USER, os.fsencode(record.name.partition("@")[0])
    for question, reply in record.answers.items():
        where = os.fsencode(question.path)
        yield from _by_form(where)
        yield from _by_place(question, reply)
        if _is_text(reply.data):
            yield from _by_form(reply.data)
            for kind, pattern in _KEYED.items():
                yield from ((kind, found[found.lastindex or 0]) for found in pattern.finditer(reply.data))
        if question.kind in {"probe", "run", "plan", "udev"}:
            yield from _in_document(reply.data)


def _by_form(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield from ((MAC, found[0]) for found in _MAC.finditer(data) if found[0].lower() != b"ff:ff:ff:ff:ff:ff")
    yield from ((MAC, found[0]) for pattern in (_DOTTED_MAC, _EUI64) for found in pattern.finditer(data))
    yield from ((UUID, found[0]) for found in _UUID.finditer(data))
    yield from ((USER, found[1]) for found in _HOME.finditer(data))
    for found in _LOGIN.finditer(data):
        if not _BUILDERS.match(data, found.end(1)) and not _UNIT.fullmatch(found[2]):
            yield USER, found[1]
            yield HOST, found[2]


def _by_place(question: Question, reply: Reply) -> Iterator[tuple[str, bytes]]:
    for kind, place in _PLACES.items():
        if question.kind == "read" and place.search(question.path):
            value = reply.data.strip(b"\0 \n")
            if value and _is_text(value) and b"\n" not in value:
                yield kind, value
    if question.kind == "read" and question.path == "/etc/passwd":
        for line in reply.data.splitlines():
            name, *fields = line.split(b":")
            if len(fields) > 1 and fields[1].isdigit() and int(fields[1]) >= 1000:
                yield USER, name


def _in_document(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    waiting: list[Any] = [document]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            for key, value in each.items():
                waiting.append(value)
                for kind, keys in _KEYS.items():
                    if key in keys and isinstance(value, str) and _NAME.fullmatch(value):
                        yield kind, value.encode("utf-8", "surrogatepass")
        elif isinstance(each, list):
            waiting += each


def _is_text(data: bytes) -> bool:
    """Whether an answer reads as text; names that are parted by NULs do."""
    try:
        return all(char.isprintable() or char in "\0\t\n\r" for char in data[:4096].decode("utf-8", "surrogateescape"))
    except ValueError:  # pragma: no cover  # surrogateescape takes every byte
        return False


def _placeholder(word: bytes, kind: str, number: int) -> bytes:
    """Another word of the same length that keeps the form."""
    if kind in {MAC, UUID}:
        digits = sum(byte in b"0123456789abcdef" for byte in word)
        spelled = iter(f"{number:0{digits}x}"[-digits:])
        return bytes(ord(next(spelled)) if byte in b"0123456789abcdef" else byte for byte in word)
    label = f"x{number}" if len(word) < 10 else f"redacted{number}"
    return (label + "x" * len(word))[: len(word)].encode() if len(label) <= len(word) else b"x" * len(word)


@lru_cache(maxsize=8)
def _compiled(words: tuple[bytes, ...]) -> re.Pattern[bytes]:
    joined = b"|".join(map(re.escape, words))
    return re.compile(rb"(?<![A-Za-z0-9])(?:" + joined + rb")(?![A-Za-z0-9])", re.IGNORECASE)
