"""The options with which commands sign and verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from auditor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from auditor.submission.keys import PublicKey, Signer

Keys = Annotated[
    list[str], typer.Option("--key", metavar="FILE", help="Private key (PKCS#8; passphrase in CROSML_AUDIT_PASSPHRASE); may repeat.")
]
Signers = Annotated[
    list[str],
    typer.Option("--signer", metavar="COMMAND", help="Command that signs, for a token: COMMAND public-key, COMMAND sign; may repeat."),
]
Trust = Annotated[list[str], typer.Option("--trust", metavar="KEY", help="Public key or certificate that is trusted; may repeat.")]


def signers(keys: Sequence[str], commands: Sequence[str]) -> tuple[Signer, ...]:
    """Those who sign. Raises UsageError where nobody does."""
    from auditor.submission.keys import command_signer, from_environment, load_signer

    if not keys and not commands:
        raise UsageError("missing option --key or --signer: expected a key to sign with")
    return (*(load_signer(each, from_environment) for each in keys), *map(command_signer, commands))


def trusted(keys: Sequence[str]) -> tuple[PublicKey, ...]:
    """The keys that are trusted. Raises UsageError where none is: a signature by anyone proves nothing."""
    from auditor.submission.keys import load_public

    if not keys:
        raise UsageError("missing option --trust: expected the public key of the signer, from a source that you trust")
    return tuple(load_public(each) for each in keys)


def signed_by(signers: Iterable[PublicKey], trusted: Iterable[PublicKey] | None = None) -> str:
    """Who signed, in words; where it is known who is trusted, with that."""
    known = None if trusted is None else {each.keyid for each in trusted}

    def remark(key: PublicKey) -> str:
        return "" if known is None else " (trusted)" if key.keyid in known else " (not trusted)"

    return ", ".join(f"{each.kind} {each.keyid[:16]}{remark(each)}" for each in signers)
