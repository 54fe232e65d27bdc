"""Keys that sign and keys that are trusted: ed25519, and ECDSA on the NIST curves with the digest of the curve's size (FIPS 186-5).

A private key is PKCS#8 (PEM), with a passphrase or without; or it stays in a token, behind a command (`--signer`):

    COMMAND public-key      writes the public key (PEM) to its standard output
    COMMAND sign            reads the message from its standard input and writes the raw signature: 64 bytes of ed25519, DER of ECDSA
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from auditor import files
from auditor.errors import AuditError, UsageError
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Callable

PASSPHRASE = "CROSML_AUDIT_PASSPHRASE"  # noqa: S105  # the name of a variable
"""The environment variable with a key's passphrase."""
SIZE_LIMIT = 64 << 10
"""Bytes of a key file, and of what a signer command writes."""
SECONDS = 300
"""What a signer command gets: somebody may have to touch a token."""

_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_EXPECTED = "an ed25519 key, or an ECDSA key on P-256, P-384 or P-521"


@dataclass(frozen=True, slots=True, eq=False)
class PublicKey:
    """A public key; `keyid` is the sha256 of its DER form (SubjectPublicKeyInfo)."""

    key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

    @property
    def der(self) -> bytes:
        """The key as SubjectPublicKeyInfo."""
        return self.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def keyid(self) -> str:
        """The name of the key."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def kind(self) -> str:
        """The scheme, for people."""
        return "ed25519" if isinstance(self.key, ed25519.Ed25519PublicKey) else f"ECDSA {self.key.curve.name}"

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature over a message is by this key."""
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, message)
            else:
                self.key.verify(signature, message, ec.ECDSA(_DIGESTS[self.key.curve.name]))
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer(Protocol):
    """Something that signs with a key whose public part is known."""

    @property
    def key(self) -> PublicKey:
        """The public key."""

    def sign(self, message: bytes) -> bytes:
        """A signature over a message. Raises AuditError."""


@dataclass(frozen=True, slots=True, eq=False)
class FileSigner:
    """A private key that was read from a file."""

    private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

    @property
    def key(self) -> PublicKey:
        """The public key."""
        return PublicKey(self.private.public_key())

    def sign(self, message: bytes) -> bytes:
        """A signature over a message."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        return self.private.sign(message, ec.ECDSA(_DIGESTS[self.private.curve.name]))


@dataclass(frozen=True, slots=True, eq=False)
class CommandSigner:
    """A key in a token: a command signs, and what it gives is verified before it is used."""

    command: tuple[str, ...]
    key: PublicKey

    def sign(self, message: bytes) -> bytes:
        """A signature over a message. Raises AuditError where the command fails or signs with another key."""
        signature = _run((*self.command, "sign"), message)
        if not self.key.verifies(signature, message):
            raise AuditError(visible(f"--signer {self.command[0]}: its signature does not verify with its own public key"))
        return signature


def read_public(data: bytes, label: str) -> PublicKey:
    """The key in a PEM or DER public key or certificate. Raises UsageError that begins with `label`."""
    key: object
    try:
        if b"-----BEGIN CERTIFICATE-----" in data:
            key = x509.load_pem_x509_certificate(data).public_key()
        elif b"-----BEGIN PUBLIC KEY-----" in data:
            key = serialization.load_pem_public_key(data)
        elif b"PRIVATE KEY-----" in data:
            raise UsageError(visible(f"{label}: expected a public key or a certificate, found a private key"))
        else:
            key = _der(data)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(visible(f"{label}: expected a public key or a certificate (PEM or DER)")) from None
    return _known(key, label)


def load_public(path: str) -> PublicKey:
    """The key in a file that `--trust` names."""
    return read_public(files.read(path, SIZE_LIMIT, f"--trust: {path}", UsageError), f"--trust: {path}")


def load_signer(path: str, passphrase: Callable[[], str]) -> FileSigner:
    """The private key in a PKCS#8 file; `passphrase` is asked where it needs one. Raises UsageError."""
    label = f"--key: {path}"
    data = files.read(path, SIZE_LIMIT, label, UsageError)
    try:
        try:
            private = serialization.load_pem_private_key(data, None)
        except TypeError:  # it has a passphrase
            private = serialization.load_pem_private_key(data, passphrase().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        expected = "a private key in PKCS#8 (PEM), and its passphrase where it has one"
        raise UsageError(visible(f"{label}: cannot be read: expected {expected}")) from None
    if not isinstance(private, (ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey)):
        raise UsageError(visible(f"{label}: expected {_EXPECTED}"))
    _known(private.public_key(), label)
    return FileSigner(private)


def command_signer(command: str) -> CommandSigner:
    """The signer behind a command line. Raises UsageError for one that cannot be parsed, AuditError where it gives no key."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(visible(f"--signer {command}: {error}")) from None
    if not words:
        raise UsageError("--signer: expected a command")
    try:
        key = read_public(_run((*words, "public-key"), b""), f"--signer {words[0]}")
    except UsageError as error:
        raise AuditError(str(error)) from None
    return CommandSigner(words, key)


def from_environment() -> str:
    """A passphrase from the environment. Raises UsageError without one."""
    found = os.environ.get(PASSPHRASE)
    if found is None:
        raise UsageError(f"--key: the key has a passphrase: set {PASSPHRASE}")
    return found


def _der(data: bytes) -> object:
    try:
        return serialization.load_der_public_key(data)
    except ValueError:
        return x509.load_der_x509_certificate(data).public_key()


def _known(key: object, label: str) -> PublicKey:
    if isinstance(key, ed25519.Ed25519PublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _DIGESTS):
        return PublicKey(key)
    raise UsageError(visible(f"{label}: expected {_EXPECTED}"))


def _run(command: tuple[str, ...], message: bytes) -> bytes:
    """What a signer command writes. It is the user's own; its complaints go to our standard error."""
    try:
        done = subprocess.run(command, input=message, stdout=subprocess.PIPE, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"no answer in {SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else error.strerror
        raise AuditError(visible(f"--signer {command[0]}: {reason}")) from None
    if done.returncode:
        raise AuditError(visible(f"--signer {' '.join(command)}: ended with {done.returncode}"))
    if len(done.stdout) > SIZE_LIMIT:
        raise AuditError(visible(f"--signer {command[0]}: expected at most {SIZE_LIMIT} bytes"))
    return done.stdout
