"""Signature mathematics, by `cryptography`: which scheme a signature verifies with, and what a chain of certificates adds up to.

Every scheme that a format could mean is tried: a signature that verifies under any of them was made with the private key.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import ssl
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from auditor.errors import UsageError
from auditor.facts.types import PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303  # old images are signed with it; it is named as a weakness
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha3_256": hashes.SHA3_256(),
    "sha3_384": hashes.SHA3_384(),
    "sha3_512": hashes.SHA3_512(),
}
_REMEMBERED = 256
"""Certificates, and links between two: the images of one vendor share all but their leaves."""

_WEAK_BITS = 2048
_WEAK_CURVE = 224
_FAILURES = (InvalidSignature, ValueError, TypeError)
"""How a signature is found not to fit; that it could not be tried (UnsupportedAlgorithm) is another thing."""

Key = Any
"""A public key of `cryptography`; None for one of a kind that is not understood."""


class Untried(ValueError):  # noqa: N818  # what is wrong is not the signature
    """A signature, or a certificate's, by an algorithm that is not supported here: it may be good."""


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """A certificate; names in RFC 4514's form. There is one object for the same bytes, so each link of a chain is verified once."""

    subject: str
    issuer: str
    sha256: str
    key: Key
    until: datetime.date
    x509: x509.Certificate


@lru_cache(maxsize=_REMEMBERED)
def read_certificate(der: bytes) -> Certificate:
    """Read one certificate. Raises ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # serial numbers and names that later versions will refuse: they refuse them themselves then
            found = x509.load_der_x509_certificate(der)
            subject, issuer = found.subject.rfc4514_string(), found.issuer.rfc4514_string()
            until = found.not_valid_after_utc.date()
    except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise ValueError("expected an X.509 certificate; it is damaged, or of a form that is not supported") from None
    try:
        key = found.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    return Certificate(subject, issuer, hashlib.sha256(der).hexdigest(), key, until, found)


def read_chain(certificates: Iterable[bytes]) -> list[Certificate]:
    """The first certificate and, as long as one among the others bears the issuer's name, the one that signed it. Raises ValueError."""
    pool = [read_certificate(der) for der in certificates]
    path = [pool.pop(0)]
    while path[-1].issuer != path[-1].subject:
        named = [each for each in pool if each.subject == path[-1].issuer]
        if not named:
            break
        path.append(next((each for each in named if _fits(path[-1], each)), named[0]))
        pool.remove(path[-1])
    return path


def broken_link(chain: list[Certificate]) -> str:
    """What in a chain does not verify, in words; empty where each was signed by the next, which may, and a root by itself.

    Raises Untried where that needs an algorithm that is not supported, and nothing else is wrong.
    """
    pairs = list(itertools.pairwise(chain))
    if chain[-1].issuer == chain[-1].subject:
        pairs.append((chain[-1], chain[-1]))
    untried: Untried | None = None
    for each, issuer in pairs:
        try:
            if not signed_by(each, issuer):
                return f"{issuer.subject} did not sign {each.subject}"
        except Untried as error:
            untried = error
        if not _is_authority(issuer):
            return f"{issuer.subject} is no authority, and signed {each.subject}"
    if untried:
        raise untried
    return ""


def named(certificates: Iterable[bytes], name: str) -> Certificate | None:
    """The certificate with a serial number, or a subject key identifier, in hexadecimal."""
    for der in certificates:
        try:
            found = read_certificate(der)
        except ValueError:
            continue
        number = found.x509.serial_number
        if f"{number:x}" == name.lstrip("0") or _key_identifier(found) == name:
            return found
    return None


def rsa_key(modulus: int, exponent: int) -> Key:
    """A bare RSA key; None for numbers that are none."""
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        return None


def modulus_sha256(modulus: int) -> str:
    """The name of a bare RSA key: the sha256 of its modulus, big-endian."""
    return hashlib.sha256(modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")).hexdigest()


def scheme_of(key: Key, value: bytes, digests: Iterable[tuple[str, bytes]]) -> str | None:
    """The scheme under which a signature over one of the digests verifies; None where it does under none.

    Raises Untried where one of them could not be tried, and none of the others verifies.
    """
    untried = ""
    for algorithm, digest in digests:
        if algorithm not in _HASHES:
            untried = f"the digest {algorithm} is not supported"
            continue
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                if _ecdsa(key, value, digest, algorithm):
                    return f"ECDSA {key.curve.name}, {algorithm}"
            elif isinstance(key, rsa.RSAPublicKey):
                if found := _rsa(key, value, digest, algorithm):
                    return f"RSA-{key.key_size} {found}, {algorithm}"
            else:
                untried = f"keys of the kind {type(key).__name__} are not supported" if key else "the key's algorithm is not supported"
        except UnsupportedAlgorithm:
            untried = f"{algorithm} with this key is not supported"
    if untried:
        raise Untried(untried)
    return None


def weaknesses(key: Key, scheme: str | None) -> tuple[str, ...]:
    """What today's guidance (NIST SP 800-131A) calls too weak, in words."""
    found = []
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _WEAK_BITS:
        found.append(f"weak key: RSA-{key.key_size}")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _WEAK_CURVE:
        found.append(f"weak key: {key.curve.name}")
    if scheme and scheme.endswith("sha1"):
        found.append("weak digest: SHA-1")
    return tuple(found)


def validity(chain: list[Certificate]) -> tuple[str, ...]:
    """When the first certificate ends: information only, for a boot ROM has no clock, and test certificates are the long-lived ones."""
    return (f"certificate valid until {chain[0].until.isoformat()}",)


@lru_cache(maxsize=_REMEMBERED)
def signed_by(each: Certificate, issuer: Certificate) -> bool:
    """Whether a certificate's signature is by another's key, and that bears the issuer's name. Raises Untried."""
    if issuer.key is None:
        raise Untried(f"the algorithm of the key of {issuer.subject} is not supported")
    try:
        each.x509.verify_directly_issued_by(issuer.x509)
    except (UnsupportedAlgorithm, TypeError):  # TypeError: a key of a kind that signs no certificates there
        raise Untried(f"the algorithm of the signature of {each.subject} is not supported") from None
    except _FAILURES:
        return False
    return True


def _fits(each: Certificate, issuer: Certificate) -> bool:
    try:
        return signed_by(each, issuer)
    except Untried:
        return True


def _is_authority(found: Certificate) -> bool:
    try:
        return found.x509.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def _key_identifier(found: Certificate) -> str:
    try:
        return found.x509.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ""


def _ecdsa(key: ec.EllipticCurvePublicKey, value: bytes, digest: bytes, algorithm: str) -> bool:
    """The field for the signature may be longer than its DER form."""
    if len(value) > 2 and value[0] == 0x30 and value[1] < 0x80:
        value = value[: 2 + value[1]]
    try:
        key.verify(value, digest, ec.ECDSA(utils.Prehashed(_HASHES[algorithm])))
    except _FAILURES:
        return False
    return True


def _rsa(key: rsa.RSAPublicKey, value: bytes, digest: bytes, algorithm: str) -> str:
    """The padding that fits: PSS with any salt, PKCS #1 v1.5, or that around the digest alone, as Qualcomm's version 3 images have it."""
    form = _HASHES[algorithm]
    pss = padding.PSS(padding.MGF1(form), padding.PSS.AUTO)
    for name, way in (("PSS", pss), ("PKCS#1 v1.5", padding.PKCS1v15())):
        try:
            key.verify(value, digest, way, utils.Prehashed(form))
        except _FAILURES:
            continue
        return name
    try:
        bare = key.recover_data_from_signature(value, padding.PKCS1v15(), None)
    except _FAILURES:
        return ""
    return "PKCS#1 v1.5 without DigestInfo" if bare == digest else ""


def read_root(data: bytes, label: str) -> str | PublicKey:
    """What a file says is to be trusted: the fingerprint of a certificate (PEM, DER) or of a bare RSA key (PEM), or a key with a name.

    The latter is JSON, {"key_id", "modulus_hex", "exponent"}. Raises UsageError, which begins with `label`.
    """
    if data.lstrip().startswith(b"{"):
        return _named_key(data, label)
    try:
        if data.startswith(b"-----BEGIN PUBLIC KEY-----"):
            key = serialization.load_pem_public_key(data)
            if isinstance(key, rsa.RSAPublicKey):
                return modulus_sha256(key.public_numbers().n)
            raise UsageError(f"{label}: expected an RSA key, found another kind")
        if data.startswith(b"-----BEGIN CERTIFICATE-----"):
            data = ssl.PEM_cert_to_DER_cert(data.decode("ascii"))
        return read_certificate(data).sha256
    except (ValueError, UnsupportedAlgorithm):
        expected = "a certificate (PEM or DER), or an RSA key (PEM, or JSON with key_id, exponent, modulus_hex)"
        raise UsageError(f"{label}: expected {expected}") from None


def _named_key(data: bytes, label: str) -> PublicKey:
    try:
        document = json.loads(data)
        name, modulus, exponent = (document[key] for key in ("key_id", "modulus_hex", "exponent"))
        found = PublicKey(name.lower(), int(modulus, 16), exponent)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{label}: expected JSON with the texts key_id and modulus_hex and the number exponent") from None
    if not name or type(exponent) is not int or rsa_key(found.modulus, exponent) is None:
        raise UsageError(f"{label}: key_id, modulus_hex, exponent: expected a name, and the numbers of an RSA key")
    return found
