"""What signatures found in facts are worth: a state, by whom, down to which root. The only user of `cryptography` for reading.

Nothing here asks a device, and `cryptography` is imported when the first signature is verified: listing the checks does without it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor.verify import roots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auditor.facts.types import Envelope, Settings, Signature


class State(enum.Enum):
    """What is known of a file's signature. Worst first; nothing that is not understood is ever called `unsigned`."""

    BAD = "bad"
    """A signature, a digest or a chain that does not verify."""
    UNSIGNED = "unsigned"
    """It is proven that the file holds no signature."""
    TEST = "verified-test"
    """Signed, by a root that is made for testing: its private key is known to many."""
    UNKNOWN_FORMAT = "unknown-format"
    """Not a format, or not a part of one, that is understood."""
    UNKNOWN_KEY = "unknown-key"
    """Signed by a key that neither the file holds nor anyone gave."""
    UNKNOWN_ROOT = "verified-unknown-root"
    """Consistent in itself, which proves nothing: anyone can sign with a root of their own."""
    PRODUCTION = "verified-production"
    """Signed, down to a pinned root of production."""


_WORST_FIRST = tuple(State)


@dataclass(frozen=True, slots=True)
class Verified:
    """A state with what explains it. `root` is the sha256 of the root certificate, or of the bare key's modulus."""

    state: State
    scheme: str = ""
    signer: str = ""
    root: str = ""
    remarks: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()
    """What is too weak in how it is signed, in words."""


def verify_image(envelope: Envelope, settings: Settings) -> Verified:
    """The state of a firmware image: of the worst of its signatures, and never better than what its digests cover."""
    if envelope.mismatched:
        return Verified(State.BAD, remarks=(f"not as signed: {', '.join(envelope.mismatched)}",))
    if envelope.unsigned:
        return Verified(State.UNSIGNED, remarks=(envelope.unsigned,))
    if not envelope.signatures:
        return Verified(State.UNKNOWN_FORMAT, remarks=(envelope.unchecked or f"format {envelope.format}",))
    found = min((_verify(each, settings) for each in envelope.signatures), key=_order)
    if envelope.unchecked and found.state in {State.PRODUCTION, State.UNKNOWN_ROOT, State.TEST}:
        return replace(found, state=State.UNKNOWN_FORMAT, remarks=(*found.remarks, envelope.unchecked))
    return found


def verify_module(signature: Signature, certificates: Iterable[bytes]) -> Verified:
    """The state of a kernel module's signature against the certificates in its kernel's image, which stand for production here."""
    from auditor.verify import crypto  # noqa: PLC0415  # not before there is something to verify

    if signature.altered:
        return Verified(State.BAD, signature.scheme, signature.signer, remarks=("the signature is over another content",))
    named = crypto.named(certificates, signature.signer)
    if named is None:
        return Verified(State.UNKNOWN_KEY, signature.scheme, signature.signer, remarks=("no certificate of the kernel has this number",))
    try:
        scheme = crypto.scheme_of(named.key, signature.value, signature.digests)
    except crypto.Untried as error:
        return Verified(State.UNKNOWN_FORMAT, signature.scheme, named.subject, named.sha256, (str(error),))
    state = State.PRODUCTION if scheme else State.BAD
    return Verified(state, scheme or signature.scheme, named.subject, named.sha256, weak=crypto.weaknesses(named.key, scheme))


def _order(found: Verified) -> int:
    return _WORST_FIRST.index(found.state)


def _verify(signature: Signature, settings: Settings) -> Verified:
    if signature.altered:
        return Verified(State.BAD, signature.scheme, signature.signer, remarks=("the signature is over another content",))
    return _by_chain(signature, settings) if signature.chain else _by_key(signature, settings)


def _by_chain(signature: Signature, settings: Settings) -> Verified:
    """A signature with its certificates: by the first, which the next has signed, and so on to a root."""
    from auditor.verify import crypto  # noqa: PLC0415  # not before there is something to verify

    try:
        chain = crypto.read_chain(signature.chain)
    except ValueError as error:
        return Verified(State.UNKNOWN_FORMAT, signature.scheme, signature.signer, remarks=(f"certificates not understood: {error}",))
    leaf, root = chain[0], chain[-1]
    try:
        scheme = crypto.scheme_of(leaf.key, signature.value, signature.digests)
        broken = crypto.broken_link(chain) if scheme else ""
    except crypto.Untried as error:
        return Verified(State.UNKNOWN_FORMAT, signature.scheme, leaf.subject, remarks=(str(error),))
    if scheme is None:
        return Verified(State.BAD, signature.scheme, leaf.subject, remarks=("the signature does not verify",))
    if broken:
        return Verified(State.BAD, signature.scheme, leaf.subject, remarks=(broken,))
    state = _root_state(root.sha256, root.subject if root.issuer == root.subject else "", settings)
    weak = tuple(dict.fromkeys(item for each in chain for item in crypto.weaknesses(each.key, scheme)))
    return Verified(state, f"{signature.scheme}, {scheme}", root.subject, root.sha256, crypto.validity(chain), weak)


def _by_key(signature: Signature, settings: Settings) -> Verified:
    """A signature by a bare RSA key: the one in the file, or one with the name that the file has, which whoever audits gave."""
    from auditor.verify import crypto  # noqa: PLC0415  # not before there is something to verify

    given = next(((key.modulus, key.exponent) for key in settings.keys if key.id == signature.signer), None)
    number = signature.key or given
    if number is None:
        return Verified(State.UNKNOWN_KEY, signature.scheme, signature.signer, remarks=(f"key {signature.signer or 'without a name'}",))
    key = crypto.rsa_key(*number)
    fingerprint = crypto.modulus_sha256(number[0])
    if key is None:
        return Verified(State.BAD, signature.scheme, signature.signer, fingerprint, ("the key in it is no RSA key",))
    try:
        scheme = crypto.scheme_of(key, signature.value, signature.digests)
    except crypto.Untried as error:
        return Verified(State.UNKNOWN_FORMAT, signature.scheme, signature.signer, remarks=(str(error),))
    if scheme is None:
        return Verified(State.BAD, signature.scheme, signature.signer, fingerprint, ("the signature does not verify",))
    state = _root_state(fingerprint, "", settings) if signature.key else State.PRODUCTION
    weak = crypto.weaknesses(key, scheme)
    return Verified(state, f"{signature.scheme}, {scheme}", signature.signer, fingerprint, weak=weak)


def _root_state(sha256: str, subject: str, settings: Settings) -> State:
    """What a root is worth: to whoever audits, by the pinned list, and, where it says so itself, by its own name."""
    if sha256 in settings.trust_roots:
        return State.PRODUCTION
    known = roots.PINNED.get(sha256)
    if known:
        return State.PRODUCTION if known.production else State.TEST
    return State.TEST if roots.TEST_NAME.search(subject) else State.UNKNOWN_ROOT
