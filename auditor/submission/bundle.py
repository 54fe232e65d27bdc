"""A submission: one file `x.crosml` that holds all that a reviewer needs, and a signed statement on each part of it.

The file is a zip in one form only: members stored without compression, sorted by name, with fixed dates and no other ornaments. A reader
writes what it read once more and compares: a member that is there twice, a link, a comment, bytes before, between or behind the members are
all refused so. Nothing is ever extracted.

| member | what it is |
|---|---|
| `attestation.json` | the signed statement on all the others (`auditor.submission.statement`) |
| `snapshot.zip` | the record that was judged |
| `report.json` | what the vendor's auditor says of it |
| `requirements/set.toml`, `clauses.toml`, `zoo.toml` | what it was judged by |
| `zoo.sha256` | the model files that were measured, in sha256sum's format |
| `settings.json` | with which options it was judged |
| `waivers.toml`, `statements.toml`, `trust-roots/N`, `zoo-manifest`, `tool-manifest`, `base-image` | what was given, where it was |
| `attachments/SHA256` | what the statements refer to |
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from typing import TYPE_CHECKING

from auditor.errors import AuditError
from auditor.model import printable, visible

if TYPE_CHECKING:
    from collections.abc import Mapping

ATTESTATION = "attestation.json"
SNAPSHOT = "snapshot.zip"
REPORT = "report.json"
SETTINGS = "settings.json"
SET = ("requirements/set.toml", "requirements/clauses.toml", "requirements/zoo.toml")
ZOO = "zoo.sha256"
WAIVERS = "waivers.toml"
STATEMENTS = "statements.toml"
MANIFEST = "zoo-manifest"
TOOL_MANIFEST = "tool-manifest"
BASE_IMAGE = "base-image"
REQUIRED = (ATTESTATION, SNAPSHOT, REPORT, SETTINGS, *SET, ZOO)

MAX_FILE = 768 << 20
MAX_MEMBERS = 1024
MAX_ATTACHED = 256 << 20
"""Bytes of one attachment."""

_OPTIONAL = re.compile(r"waivers\.toml|statements\.toml|zoo-manifest|tool-manifest|base-image|trust-roots/\d{1,3}|attachments/[0-9a-f]{64}")
_END = struct.Struct("<4s4H2LH")
"""The end of the zip's directory (APPNOTE.TXT 4.3.16), without a comment."""
_ENTRY = 256
"""Bytes of the directory for one member, at most."""
_SMALL = 1 << 20
_LIMITS = {ATTESTATION: 8 << 20, SNAPSHOT: 512 << 20, REPORT: 64 << 20}
_DATE = (1980, 1, 1, 0, 0, 0)


def root(number: int) -> str:
    """The member that holds a trusted root."""
    return f"trust-roots/{number}"


def attachment(sha256: str) -> str:
    """The member that holds an attachment."""
    return f"attachments/{sha256}"


def pack(members: Mapping[str, bytes]) -> bytes:
    """The file of a submission; the same members give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, date_time=_DATE)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, members[name], zipfile.ZIP_STORED)
    return out.getvalue()


def unpack(data: bytes, label: str) -> dict[str, bytes]:
    """The members of a submission's file. Raises AuditError with one line that begins with `label`; nothing is written."""
    if len(data) > MAX_FILE:
        raise AuditError(f"{label}: expected a submission of at most {MAX_FILE} bytes")
    _end(data, label)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive, label)
    except AuditError:
        raise
    except Exception as error:  # noqa: BLE001  # zipfile and struct each have errors of their own for what is damaged
        raise AuditError(visible(f"{label}: not a submission, or one that was cut: {error}")) from None
    for name in REQUIRED:
        if name not in members:
            raise AuditError(f"{label}: not a submission: it has no {name}")
    if pack(members) != data:
        raise AuditError(f"{label}: this file was changed after it was written: there is more in it than its members")
    return members


def _end(data: bytes, label: str) -> None:
    """Refuse what does not end as `pack` ends it, before zipfile makes an object of each entry of a directory of any size."""
    end = data[-_END.size :]
    if len(end) < _END.size:
        raise AuditError(f"{label}: not a submission, or one that was cut: it has {len(data)} bytes")
    mark, disk, first, here, count, size, offset, comment = _END.unpack(end)
    if mark != b"PK\5\6" or (disk, first, comment) != (0, 0, 0) or here != count or offset + size + _END.size != len(data):
        raise AuditError(f"{label}: not a submission, or one that was cut or added to: its last {_END.size} bytes do not end it")
    if count > MAX_MEMBERS or size > MAX_MEMBERS * _ENTRY:
        raise AuditError(f"{label}: a submission has at most {MAX_MEMBERS} members")


def _limit(name: str) -> int:
    """Bytes of a member."""
    return MAX_ATTACHED if name.startswith(attachment("")) else _LIMITS.get(name, _SMALL)


def _members(archive: zipfile.ZipFile, label: str) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for info in archive.infolist():
        name = printable(info.filename)
        if name in members:
            raise AuditError(f"{label}: {name!a} is in it twice")
        if name not in REQUIRED and not _OPTIONAL.fullmatch(name):
            raise AuditError(f"{label}: unexpected member {name!a}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise AuditError(f"{label}: member {name}: expected it stored without compression")
        if info.file_size > _limit(name):
            raise AuditError(f"{label}: member {name}: expected at most {_limit(name)} bytes")
        if info.external_attr >> 28 != 8:
            raise AuditError(f"{label}: member {name}: expected a regular file, not a link or a folder")
        members[name] = archive.read(info)
    return members
