"""The record of an audit: every question asked once, with the answer that every later asker got, and its form as a snapshot file.

A snapshot is a zip with sorted names and fixed dates: `record.json` {schema, collector, name, collected_at, entries} and `blobs/SHA256`.
An entry is `[[kind, path, argument…], status, errno, data]`, data a base64 text or {"blob": sha256}; paths are percent-encoded bytes.
Snapshots come from strangers: they are read in memory under limits, and never extracted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from auditor import files
from auditor.errors import AuditError, not_json
from auditor.model import Status, printable, visible
from auditor.sources.base import UNASKED, Question, Reply

if TYPE_CHECKING:
    from auditor.sources.base import Source

RECORD_SCHEMA = "crosml-audit/record/1"
INLINE = 1024
"""Answers up to this many bytes are kept in record.json itself."""

MAX_FILE = 512 << 20
MAX_MEMBERS = 100_000
MAX_MEMBER = 128 << 20
MAX_TOTAL = 1 << 30
MAX_RATIO = 1000
MAX_ERRNO = 4095
"""The kernel's own limit (include/linux/err.h)."""
_SMALL = 1 << 20
"""Members below this size may compress as well as they like: a listing of zeros is no bomb."""

_BLOB = re.compile(r"blobs/[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Record:
    """Answers by question, and where and when they were had."""

    source: str
    name: str
    collector: str
    collected_at: str
    answers: Mapping[Question, Reply]
    loaded: tuple[Mapping[Question, Reply], str] | None = field(default=None, compare=False, repr=False)
    """Of a record that was read from a file: the answers it then had, and the file's sha256."""


class Recorder:
    """A source that asks another each question once, and gives every later asker the first answer."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._answers: dict[Question, Reply] = {}

    @property
    def kind(self) -> str:
        """The kind of the source that is recorded."""
        return self._source.kind

    @property
    def name(self) -> str:
        """The name of the device that is recorded."""
        return self._source.name

    def ask(self, question: Question) -> Reply:
        """The answer, from the record where it is there already."""
        reply = self._answers.get(question)
        if reply is None:
            reply = self._answers[question] = self._source.ask(question)
        return reply

    def unasked(self) -> tuple[Question, ...]:
        """The questions that the source could not answer because it was never asked them."""
        return tuple(question for question, reply in self._answers.items() if reply.status is Status.UNASKED)

    def record(self, collector: str, collected_at: str) -> Record:
        """What was asked so far, without what this source could not answer: the record does not hold that."""
        held = {question: reply for question, reply in self._answers.items() if reply.status is not Status.UNASKED}
        return Record(self.kind, self.name, collector, collected_at, held)


class Replay:
    """A record as a source: what it does not hold is `unasked`."""

    kind = "snapshot"

    def __init__(self, record: Record) -> None:
        self._record = record

    @property
    def name(self) -> str:
        """The name of the device that was recorded."""
        return self._record.name

    def ask(self, question: Question) -> Reply:
        """The recorded answer."""
        return self._record.answers.get(question, UNASKED)


def digest(record: Record) -> str:
    """The sha256 of the snapshot file that the record was read from, else of the one that it is saved in: what `sha256sum` gives."""
    if record.loaded is not None and record.loaded[0] is record.answers:
        return record.loaded[1]
    return hashlib.sha256(pack(record)).hexdigest()


def pack(record: Record) -> bytes:
    """The snapshot file of a record; the same record gives the same members in the same order."""
    document, blobs = _document(record)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*sorted((f"blobs/{sha}", data) for sha, data in blobs.items()), ("record.json", document)]:
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def unpack(data: bytes, label: str) -> Record:
    """The record in a snapshot file; raises AuditError with one line that begins with `label` where it is not one."""
    if data.count(b"PK\1\2") > MAX_MEMBERS:  # the mark of each member in the zip's directory
        raise AuditError(f"{label}: a snapshot has at most {MAX_MEMBERS} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            contents = {name: _content(archive, member) for name, member in _members(archive, label).items()}
    except AuditError:
        raise
    except Exception as error:  # noqa: BLE001  # zipfile, zlib and struct each have errors of their own for what is damaged
        raise AuditError(visible(f"{label}: not a snapshot: {_what_is_wrong(error)}")) from None
    if "record.json" not in contents:
        raise AuditError(f"{label}: not a snapshot: it has no record.json")
    try:
        document = json.loads(contents.pop("record.json"))
    except (ValueError, RecursionError) as error:
        raise AuditError(visible(f"{label}: record.json: {not_json(error)}")) from None
    blobs = {name[len("blobs/") :]: content for name, content in contents.items()}
    for sha, blob in blobs.items():
        if hashlib.sha256(blob).hexdigest() != sha:
            raise AuditError(f"{label}: blobs/{sha}: its content has another sha256")
    return _record(document, blobs, label)


def load(path: str) -> Record:
    """The record in the snapshot file at `path`."""
    data = files.read(path, MAX_FILE, path, AuditError)
    record = unpack(data, visible(path))
    return replace(record, loaded=(record.answers, hashlib.sha256(data).hexdigest()))


def _what_is_wrong(error: Exception) -> str:
    """A damaged zip in our own words: what zipfile and zlib say changes with their versions."""
    if isinstance(error, (MemoryError, RecursionError)):
        return "it takes too much memory"
    if isinstance(error, (zipfile.BadZipFile, EOFError)) and not str(error).startswith("Bad CRC"):
        return "expected a zip with record.json and blobs; this is none, or its end is missing"
    return "expected a zip with record.json and blobs; a member of this one is damaged"


def _members(archive: zipfile.ZipFile, label: str) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    for info in infos:
        name = printable(info.filename)
        if name in members or not (name == "record.json" or _BLOB.fullmatch(name)):
            raise AuditError(f"{label}: unexpected or repeated member {name!a}")
        ratio = info.file_size > _SMALL and info.file_size > MAX_RATIO * max(1, info.compress_size)
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise AuditError(f"{label}: member {name}: compression {info.compress_type}, expected deflate or none")
        if info.file_size > MAX_MEMBER or ratio:
            raise AuditError(f"{label}: member {name} is too large ({info.file_size} bytes out of {info.compress_size})")
        members[name] = info
    if sum(info.file_size for info in infos) > MAX_TOTAL:
        raise AuditError(f"{label}: the members have more than {MAX_TOTAL} bytes together")
    return members


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, no more than its directory entry says: what was checked there need not be what is unpacked."""
    with archive.open(member) as file:
        return file.read(member.file_size + 1)


def _document(record: Record) -> tuple[bytes, dict[str, bytes]]:
    blobs: dict[str, bytes] = {}
    entries: list[Any] = []
    for question, reply in sorted(record.answers.items(), key=_order):
        data: Any = base64.b64encode(reply.data).decode()
        if len(reply.data) > INLINE:
            sha = hashlib.sha256(reply.data).hexdigest()
            blobs[sha] = reply.data
            data = {"blob": sha}
        asked = [question.kind, quote(os.fsencode(question.path), safe="/:@=+,"), *question.args]
        entries.append([asked, reply.status.value, reply.errno, data])
    document = {
        "schema": RECORD_SCHEMA,
        "source": record.source,
        "name": record.name,
        "collector": record.collector,
        "collected_at": record.collected_at,
        "entries": entries,
    }
    return json.dumps(document, indent=0, sort_keys=True).encode(), blobs


def _order(entry: tuple[Question, Reply]) -> tuple[str, bytes, tuple[str, ...]]:
    question = entry[0]
    return question.kind, os.fsencode(question.path), tuple(repr(argument) for argument in question.args)


def _record(document: Any, blobs: Mapping[str, bytes], label: str) -> Record:
    if not isinstance(document, dict) or document.get("schema") != RECORD_SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        shown = f", found {found[:80]!a}" if isinstance(found, str) else ""
        raise AuditError(f"{label}: record.json: schema: expected {RECORD_SCHEMA!r}{shown}")
    texts = [document.get(key) for key in ("source", "name", "collector", "collected_at")]
    entries = document.get("entries")
    if not all(isinstance(text, str) for text in texts) or not isinstance(entries, list):
        raise AuditError(f"{label}: record.json: expected the texts source, name, collector, collected_at and the list entries")
    answers: dict[Question, Reply] = {}
    for number, entry in enumerate(entries):
        try:
            question, reply = _entry(entry, blobs)
        except (ValueError, TypeError, KeyError, binascii.Error):
            expected = "[[kind, path, argument…], status, errno, base64 or blob]"
            raise AuditError(f"{label}: record.json: entries[{number}]: expected {expected}") from None
        if question in answers:
            raise AuditError(f"{label}: record.json: entries[{number}]: {question.kind[:80]!a} {question.path[:200]!a} is there twice")
        answers[question] = reply
    source, name, collector, collected_at = texts
    return Record(str(source), str(name), str(collector), str(collected_at), answers)


def _entry(entry: Any, blobs: Mapping[str, bytes]) -> tuple[Question, Reply]:
    asked, status, errno, data = _list(entry)
    kind, path, *arguments = _list(asked)
    if not (isinstance(kind, str) and isinstance(path, str) and all(isinstance(each, (str, int)) for each in arguments)):
        raise TypeError
    if not isinstance(errno, int) or not 0 <= errno <= MAX_ERRNO or status == Status.UNASKED.value:
        raise ValueError
    content = blobs[data["blob"]] if isinstance(data, dict) else base64.b64decode(data, validate=True)
    return Question(kind, os.fsdecode(unquote_to_bytes(path)), tuple(arguments)), Reply(Status(status), content, errno)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value
