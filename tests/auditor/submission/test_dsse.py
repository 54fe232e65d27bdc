"""Envelopes: what we sign others verify, what others sign we verify, and whatever is changed is refused."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as Theirs
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from auditor.errors import AuditError, UsageError
from auditor.submission import dsse, keys, statement

PRIVATE = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
}
SIGNERS = {name: keys.FileSigner(key) for name, key in PRIVATE.items()}
ONE = SIGNERS["ed25519"]
FILES = {"report.json": b"{}", "snapshot.zip": b"PK"}
READABLE = ["ed25519", "P-256", "P-384"]
"""P-521 is not among the schemes of securesystemslib's own keys."""


def pem(key, passphrase=None):
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("name", READABLE)
def test_securesystemslib_verifies_our_envelope(name):
    signer = SIGNERS[name]
    ours = json.loads(statement.signed(FILES, statement.SUBMISSION, {"a": 1}, [signer]))
    theirs = SSlibKey.from_crypto(PRIVATE[name].public_key(), keyid=signer.key.keyid)
    assert Theirs.from_dict(ours).verify([theirs], 1)
    ours = json.loads(statement.signed(FILES, statement.SUBMISSION, {"a": 1}, [signer]))
    ours["payload"] = base64.b64encode(b"{}").decode()
    with pytest.raises(VerificationError):
        Theirs.from_dict(ours).verify([theirs], 1)


@pytest.mark.parametrize("name", READABLE)
def test_we_verify_securesystemslibs_envelope(name):
    theirs = Theirs(b"anything", "application/x", {})
    theirs.sign(CryptoSigner(PRIVATE[name]))
    envelope = dsse.decode(json.dumps(theirs.to_dict()).encode(), "theirs", canonical=False)
    found = dsse.verified(envelope, [each.key for each in SIGNERS.values()])
    assert [each.keyid for each in found] == [SIGNERS[name].key.keyid]
    other = dsse.Envelope(envelope.payload_type, b"else", envelope.signatures)
    assert not dsse.verified(other, [SIGNERS[name].key])


@pytest.mark.parametrize("name", SIGNERS)
def test_a_statement_that_was_signed_is_read(name):
    data = statement.signed(FILES, statement.SUBMISSION, {"a": 1}, [SIGNERS[name]])
    found = statement.read(data, [SIGNERS[name].key], "x")
    statement.check(found, FILES, "x")
    assert (found.predicate_type, found.predicate["a"]) == (statement.SUBMISSION, 1)


def test_several_sign_and_one_of_them_is_trusted():
    both = [SIGNERS["P-256"], ONE]
    data = statement.signed(FILES, statement.REVIEW, {}, both)
    found = statement.read(data, [ONE.key], "x")
    assert [each.keyid for each in found.signers] == [each.key.keyid for each in both]
    assert [each.keyid for each in found.trusted] == [ONE.key.keyid]
    with pytest.raises(AuditError, match="none of these keys is trusted"):
        statement.read(data, [SIGNERS["P-384"].key], "x")
    with pytest.raises(AuditError, match="another key for each"):
        statement.signed(FILES, statement.REVIEW, {}, [ONE, ONE])


def test_a_signature_that_is_taken_away_added_or_of_something_else_is_seen():
    envelope = dsse.decode(statement.signed(FILES, statement.REVIEW, {}, [ONE, SIGNERS["P-256"]]), "x")
    first, second = envelope.signatures
    other = dsse.decode(statement.signed({"report.json": b"other"}, statement.REVIEW, {}, [ONE, SIGNERS["P-256"]]), "x")
    extra = dsse.Signature(SIGNERS["P-384"].key.keyid, SIGNERS["P-384"].sign(dsse.pae(envelope.payload_type, envelope.payload)))
    for signatures in ((first,), (second, first), (first, second, extra), other.signatures, (first, first)):
        changed = dsse.encode(dsse.Envelope(envelope.payload_type, envelope.payload, signatures))
        with pytest.raises(AuditError, match="x: "):
            statement.read(changed, [ONE.key], "x")


def test_a_payload_of_another_type_is_refused():
    plain = dsse.sign(b"{}", [ONE], "application/x")
    with pytest.raises(AuditError, match="payloadType: expected"):
        statement.read(dsse.encode(plain), [ONE.key], "x")
    with pytest.raises(AuditError, match="expected an in-toto statement"):
        statement.read(dsse.encode(dsse.sign(b"{}", [ONE])), [ONE.key], "x")


GOOD = statement.signed(FILES, statement.SUBMISSION, {"a": 1}, [ONE, SIGNERS["P-256"]])
"""Signed once: an ECDSA signature is another one, of another length, each time."""


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_byte_changed_anywhere_is_refused(place, mask):
    changed = bytearray(GOOD)
    changed[place] ^= mask
    with pytest.raises(AuditError, match="x: "):
        statement.read(bytes(changed), [ONE.key, SIGNERS["P-256"].key], "x")


@given(
    st.binary(max_size=200)
    | st.text(max_size=50).map(str.encode)
    | st.sampled_from((b"[]", b"{}", b"null", b'{"payload":1}', b"[" * 100_000))
)
def test_what_is_no_envelope_is_refused_in_one_line(data):
    with pytest.raises(AuditError) as refused:
        statement.read(data, [ONE.key], "x")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"report.json": b"{}"}, "snapshot.zip was signed and is missing"),
        ({**FILES, "more": b""}, "more is not among what was signed"),
        ({**FILES, "report.json": b"[]"}, "report.json is not the one that was signed"),
    ],
)
def test_files_that_are_not_those_that_were_signed(changed, reason):
    found = statement.read(statement.signed(FILES, statement.SUBMISSION, {}, [ONE]), [ONE.key], "x")
    with pytest.raises(AuditError, match=reason):
        statement.check(found, changed, "x")


@pytest.mark.parametrize("name", PRIVATE)
def test_keys_are_read_with_a_passphrase_and_without(tmp_path, name, monkeypatch):
    (tmp_path / "open.pem").write_bytes(pem(PRIVATE[name]))
    (tmp_path / "hidden.pem").write_bytes(pem(PRIVATE[name], b"a phrase"))
    (tmp_path / "public.pem").write_bytes(public_pem(PRIVATE[name]))
    assert keys.load_public(str(tmp_path / "public.pem")).keyid == SIGNERS[name].key.keyid

    def never():
        raise AssertionError

    assert keys.load_signer(str(tmp_path / "open.pem"), never).key.keyid == SIGNERS[name].key.keyid
    assert keys.load_signer(str(tmp_path / "hidden.pem"), lambda: "a phrase").key.keyid == SIGNERS[name].key.keyid
    with pytest.raises(UsageError, match="cannot be read"):
        keys.load_signer(str(tmp_path / "hidden.pem"), lambda: "another")
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)
    with pytest.raises(UsageError, match=keys.PASSPHRASE):
        keys.load_signer(str(tmp_path / "hidden.pem"), keys.from_environment)
    monkeypatch.setenv(keys.PASSPHRASE, "a phrase")
    assert keys.load_signer(str(tmp_path / "hidden.pem"), keys.from_environment)


def test_keys_that_cannot_be_used_are_refused(tmp_path):
    weak = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa.pem").write_bytes(pem(weak))
    (tmp_path / "curve.pem").write_bytes(pem(ec.generate_private_key(ec.SECP224R1())))
    (tmp_path / "text").write_text("no key")
    for name in ("rsa.pem", "curve.pem"):
        with pytest.raises(UsageError, match="expected an ed25519 key"):
            keys.load_signer(str(tmp_path / name), str)
    with pytest.raises(UsageError, match="cannot be read"):
        keys.load_signer(str(tmp_path / "text"), str)
    with pytest.raises(UsageError, match="found a private key"):
        keys.load_public(str(tmp_path / "rsa.pem"))
    with pytest.raises(UsageError, match="expected an ed25519 key"):
        keys.read_public(public_pem(weak), "x")
    with pytest.raises(UsageError, match="expected a public key or a certificate"):
        keys.load_public(str(tmp_path / "text"))
    with pytest.raises(UsageError, match="none: "):
        keys.load_public(str(tmp_path / "none"))


TOKEN = """
import sys
from cryptography.hazmat.primitives import serialization
key = serialization.load_pem_private_key(open(sys.argv[1], "rb").read(), None)
if sys.argv[2] == "sign":
    sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read()))
else:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    sys.stdout.buffer.write(key.public_key().public_bytes(*form))
"""


def test_a_token_signs_behind_a_command(tmp_path):
    (tmp_path / "hardware.py").write_text(TOKEN)
    (tmp_path / "key.pem").write_bytes(pem(PRIVATE["ed25519"]))
    signer = keys.command_signer(f"{sys.executable} {tmp_path}/hardware.py {tmp_path}/key.pem")
    data = statement.signed(FILES, statement.REVIEW, {}, [signer, SIGNERS["P-384"]])
    assert statement.read(data, [ONE.key], "x").trusted[0].keyid == ONE.key.keyid


def test_a_token_that_does_not_sign_is_refused(tmp_path):
    with pytest.raises(AuditError, match="ended with 1"):
        keys.command_signer("false")
    with pytest.raises(AuditError, match="--signer /none/such: "):
        keys.command_signer("/none/such")
    with pytest.raises(AuditError, match="expected a public key"):
        keys.command_signer("echo")
    for wrong in ("", "'"):
        with pytest.raises(UsageError, match="--signer"):
            keys.command_signer(wrong)
    with pytest.raises(AuditError, match="does not verify with its own public key"):
        keys.CommandSigner(("echo",), ONE.key).sign(b"x")


def test_openssl_verifies_our_signature(tmp_path):
    """A third reader: the signature is plain ed25519 over the encoding that DSSE prescribes."""
    envelope = dsse.sign(b"payload", [ONE])
    (tmp_path / "key.pem").write_bytes(public_pem(PRIVATE["ed25519"]))
    (tmp_path / "sig").write_bytes(envelope.signatures[0].value)
    (tmp_path / "message").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json 7 payload")
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", "message", "-sigfile", "sig"]
    assert b"Successfully" in subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
