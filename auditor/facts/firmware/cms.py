"""CMS signatures (RFC 5652, SignedData), detached from what they sign: how kernel modules and some firmware are signed.

A signature with signed attributes is over those, and they hold the content's digest: both must agree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.facts.firmware import der
from auditor.facts.types import Signature

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_DIGESTS = {
    bytes.fromhex("2b0e03021a"): "sha1",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
    bytes.fromhex("608648016503040208"): "sha3_256",
    bytes.fromhex("608648016503040209"): "sha3_384",
    bytes.fromhex("60864801650304020a"): "sha3_512",
}


@dataclass(frozen=True, slots=True)
class Signer:
    """The one SignerInfo of a signature. `name` is the serial number, or the key identifier, that names its certificate."""

    name: str
    digest: str
    attributes: bytes
    """The signed attributes as they are signed (a SET); empty for none."""
    content_digest: bytes
    """The content's digest that the attributes hold; empty without attributes."""
    value: bytes
    certificates: tuple[bytes, ...]


def parse(data: bytes) -> Signer:
    """Read a CMS ContentInfo with one signer. Raises ValueError."""
    try:
        return _signer(data)
    except IndexError:
        raise ValueError("an element of the signature is missing") from None


def _signer(data: bytes) -> Signer:
    outer = der.children(der.expect(der.first(data), der.SEQUENCE))
    if len(outer) != 2 or der.expect(outer[0], der.OID).content != _SIGNED_DATA:
        raise ValueError("not CMS SignedData")
    fields = der.children(der.expect(der.first(der.expect(outer[1], der.CONTEXT_0).content), der.SEQUENCE))
    certificates = next((each for each in fields if each.tag == der.CONTEXT_0), None)
    infos = der.children(der.expect(fields[-1], der.SET))
    if len(infos) != 1:
        raise ValueError(f"{len(infos)} signers, expected one")
    _, named, algorithm, *rest = der.children(der.expect(infos[0], der.SEQUENCE))
    attributes = rest.pop(0) if rest and rest[0].tag == der.CONTEXT_0 else None
    if len(rest) < 2:
        raise ValueError("no signature in the signer's information")
    oid = der.expect(der.children(der.expect(algorithm, der.SEQUENCE))[0], der.OID).content
    if oid not in _DIGESTS:
        raise ValueError(f"digest algorithm {oid.hex()} is not known")
    return Signer(
        name=(der.children(named)[1].content if named.tag == der.SEQUENCE else named.content).hex(),
        digest=_DIGESTS[oid],
        attributes=bytes([der.SET]) + attributes.whole[1:] if attributes else b"",
        content_digest=_content_digest(attributes) if attributes else b"",
        value=der.expect(rest[1], der.OCTETS).content,
        certificates=tuple(each.whole for each in der.children(certificates) if each.tag == der.SEQUENCE) if certificates else (),
    )


def signature(data: bytes, digest_of_content: Callable[[str], bytes]) -> Signature:
    """The signature in a CMS structure; `digest_of_content` gives the digest of what it is over, by algorithm. Raises ValueError."""
    signer = parse(data)
    digest = digest_of_content(signer.digest)
    altered = False
    if signer.attributes:
        altered = digest != signer.content_digest
        digest = hashlib.new(signer.digest, signer.attributes).digest()
    return Signature("PKCS#7", signer.name, signer.value, ((signer.digest, digest),), signer.certificates, altered=altered)


def _content_digest(attributes: der.Element) -> bytes:
    for attribute in der.children(attributes):
        kind, values = der.children(der.expect(attribute, der.SEQUENCE))
        if kind.content == _MESSAGE_DIGEST:
            return der.expect(der.children(der.expect(values, der.SET))[0], der.OCTETS).content
    raise ValueError("signed attributes without a message digest")
