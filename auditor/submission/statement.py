"""In-toto statements (Statement v1) that the auditor signs: what files are, by their digests, and what is said of them.

A statement lists its signers' public keys, so that a signature that is taken away, or changed, is seen also by a reader who does not trust
its key. An envelope is good where each of the listed keys signed it, nobody else did, and at least one of them is trusted.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError, UsageError
from auditor.model import visible
from auditor.submission import dsse
from auditor.submission.keys import PublicKey, read_public

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auditor.submission.keys import Signer

TYPE = "https://in-toto.io/Statement/v1"
SUBMISSION = "crosml-audit:submission/1"
REVIEW = "crosml-audit:review/1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
SIGNERS = "crosml-audit:signers"
"""The member of a predicate that lists the public keys."""

DISCLAIMER = (
    "What a signature does not prove: that the record came from the device that it names. A signature says who sent these bytes, and that"
    " nobody changed them since. The record is the word of the person who made it."
)


@dataclass(frozen=True, slots=True)
class Statement:
    """What was signed, and by whom: `signers` are all of them, `trusted` those among them that the reader trusts."""

    predicate_type: str
    digests: Mapping[str, str]
    """The sha256 of each file, by name."""
    predicate: Mapping[str, Any]
    signers: tuple[PublicKey, ...]
    trusted: tuple[PublicKey, ...]


def signed(files: Mapping[str, bytes], predicate_type: str, predicate: Mapping[str, Any], signers: Sequence[Signer]) -> bytes:
    """An envelope around a statement on some files. Raises AuditError where a signer does not sign."""
    keys = [each.key for each in signers]
    if len({key.keyid for key in keys}) < len(keys):
        raise AuditError("--key, --signer: expected another key for each of them")
    document = {
        "_type": TYPE,
        "subject": [{"name": name, "digest": {"sha256": hashlib.sha256(files[name]).hexdigest()}} for name in sorted(files)],
        "predicateType": predicate_type,
        "predicate": {**predicate, SIGNERS: [base64.b64encode(key.der).decode() for key in keys]},
    }
    return dsse.encode(dsse.sign(json.dumps(document, sort_keys=True).encode(), signers))


def read(data: bytes, trust: Sequence[PublicKey], label: str) -> Statement:
    """The statement in an envelope that holds. Raises AuditError with the reason where it does not."""
    envelope = dsse.decode(data, label)
    if envelope.payload_type != dsse.IN_TOTO:
        raise AuditError(visible(f"{label}: payloadType: expected {dsse.IN_TOTO}, got {envelope.payload_type[:80]}"))
    statement, signers = _statement(envelope.payload, label)
    message = dsse.pae(envelope.payload_type, envelope.payload)
    if [each.keyid for each in envelope.signatures] != [key.keyid for key in signers]:
        raise AuditError(f"{label}: expected one signature of each key that the statement names")
    for each, key in zip(envelope.signatures, signers, strict=True):
        if not key.verifies(each.value, message):
            raise AuditError(
                f"{label}: the signature of key {key.keyid[:16]} does not verify: what was signed, or the signature, was changed"
            )
    wanted = {key.keyid for key in trust}
    trusted = tuple(key for key in signers if key.keyid in wanted)
    if not trusted:
        names = ", ".join(key.keyid[:16] for key in signers)
        raise AuditError(f"{label}: signed by {names}, and none of these keys is trusted (--trust)")
    return Statement(str(statement["predicateType"]), _digests(statement), statement["predicate"], signers, trusted)


def check(statement: Statement, files: Mapping[str, bytes], label: str) -> None:
    """Raise AuditError where some files are not exactly those that a statement is about."""
    for name in sorted({*statement.digests, *files}):
        if name not in files:
            raise AuditError(visible(f"{label}: {name} was signed and is missing"))
        if name not in statement.digests:
            raise AuditError(visible(f"{label}: {name} is not among what was signed"))
        if hashlib.sha256(files[name]).hexdigest() != statement.digests[name]:
            raise AuditError(visible(f"{label}: {name} is not the one that was signed: its sha256 differs"))


def check_one(statement: Statement, name: str, data: bytes, label: str) -> None:
    """Raise AuditError where a file is not the one that a statement is about under a name."""
    if statement.digests.get(name) != hashlib.sha256(data).hexdigest():
        raise AuditError(visible(f"{label}: what was signed is another {name}: its sha256 differs"))


def _statement(payload: bytes, label: str) -> tuple[dict[str, Any], tuple[PublicKey, ...]]:
    try:
        document = json.loads(payload)
        kind, _, listed = document["predicateType"], _digests(document), document["predicate"][SIGNERS]
        spelled = [base64.b64decode(each, validate=True) for each in listed]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        document, kind, spelled = {}, None, []
    if document.get("_type") != TYPE or not isinstance(kind, str) or not 1 <= len(spelled) <= dsse.SIGNATURES:
        raise AuditError(visible(f"{label}: expected an in-toto statement (v1) with subjects and {SIGNERS}"))
    try:
        return document, tuple(read_public(each, label) for each in spelled)
    except UsageError as error:  # no user's file: a part of the document
        raise AuditError(str(error)) from None


def _digests(document: Mapping[str, Any]) -> dict[str, str]:
    found = {each["name"]: each["digest"]["sha256"] for each in document["subject"]}
    if len(found) != len(document["subject"]) or not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise TypeError
    return found
