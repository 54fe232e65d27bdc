"""DSSE v1.0.2, the Dead Simple Signing Envelope of in-toto and TUF: a payload, its type, and signatures over both.

A signature is over PAE(type, payload), so it cannot be lifted to a payload of another type. Envelopes come from strangers: they are
bounded, and an envelope is read only in the one form in which it is written, so no byte of it can be changed unseen.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from auditor.submission.keys import PublicKey, Signer

IN_TOTO = "application/vnd.in-toto+json"
SIZE_LIMIT = 8 << 20
"""Bytes of an envelope."""
SIGNATURES = 16
"""Signatures of one envelope."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature; `keyid` is a hint, and proves nothing."""

    keyid: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its signatures, none of which was verified by reading it."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: the pre-authentication encoding of a type and a payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, signers: Iterable[Signer], payload_type: str = IN_TOTO) -> Envelope:
    """An envelope signed by each of some signers. Raises AuditError where one of them does not sign."""
    message = pae(payload_type, payload)
    return Envelope(payload_type, payload, tuple(Signature(each.key.keyid, each.sign(message)) for each in signers))


def verified(envelope: Envelope, keys: Sequence[PublicKey]) -> tuple[PublicKey, ...]:
    """Those of some keys that signed an envelope. The order and the names of its signatures do not matter."""
    message = pae(envelope.payload_type, envelope.payload)
    return tuple(key for key in keys if any(key.verifies(each.value, message) for each in envelope.signatures))


def encode(envelope: Envelope) -> bytes:
    """The JSON form of an envelope."""
    document = {
        "payloadType": envelope.payload_type,
        "payload": base64.b64encode(envelope.payload).decode(),
        "signatures": [{"keyid": each.keyid, "sig": base64.b64encode(each.value).decode()} for each in envelope.signatures],
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def decode(data: bytes, label: str, *, canonical: bool = True) -> Envelope:
    """The envelope in a JSON document. Raises AuditError with one line that begins with `label`.

    `canonical`: refuse any form but the one that `encode` writes.
    """
    if len(data) > SIZE_LIMIT:
        raise AuditError(f"{label}: expected an envelope of at most {SIZE_LIMIT} bytes")
    try:
        envelope = _envelope(json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        expected = "payload, payloadType and 1 to 16 signatures, each with keyid and sig, in base64"
        raise AuditError(visible(f"{label}: not a DSSE envelope: expected {expected}")) from None
    if canonical and encode(envelope) != data:
        raise AuditError(visible(f"{label}: this envelope was changed after it was written: it is not in the form that the auditor writes"))
    return envelope


def _envelope(document: Any) -> Envelope:
    kind, payload, listed = document["payloadType"], document["payload"], document["signatures"]
    if not isinstance(kind, str) or not isinstance(listed, list) or not 1 <= len(listed) <= SIGNATURES:
        raise TypeError
    signatures = tuple(Signature(_text(each.get("keyid", "")), _bytes(each["sig"])) for each in listed)
    return Envelope(kind, _bytes(payload), signatures)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isascii():
        raise TypeError
    return value


def _bytes(value: Any) -> bytes:
    """DSSE allows both alphabets of base64."""
    return base64.b64decode(_text(value).replace("-", "+").replace("_", "/"), validate=True)
