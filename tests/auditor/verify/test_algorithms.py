"""Algorithms that are not supported: nothing signed with one is called altered, and nothing passes by one."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519

from auditor.facts.types import Envelope, Settings, Signature
from auditor.verify import State, crypto, verify_image, verify_module
from fixtures.images import chain, qualcomm_mbn
from fixtures.kernel import Signer, build_key, certify

NOTHING = Settings()
DIGESTS = (("sha256", bytes(32)),)


def mldsa_key():
    """A key of the kernel's own new kind of module signature (CONFIG_MODULE_SIG_KEY_TYPE_MLDSA_65)."""
    mldsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa", reason="this cryptography makes no ML-DSA keys")
    try:
        return mldsa.MLDSA65PrivateKey.generate()
    except UnsupportedAlgorithm:
        pytest.skip("the OpenSSL of this cryptography has no ML-DSA")


KEYS = {"ml-dsa": mldsa_key, "ed25519": ed25519.Ed25519PrivateKey.generate, "ed448": ed448.Ed448PrivateKey.generate}


def own(key, name="A root of another kind"):
    """A root certificate that a key of any kind signs for itself."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=9999))
    return Signer(key, builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, None))


def envelope(signature):
    return Envelope("test", signatures=(signature,))


@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_by_a_key_of_another_kind_is_not_called_altered(kind):
    signer = own(KEYS[kind]())
    by_chain = verify_image(envelope(Signature("test", "", b"value", DIGESTS, chain=(signer.der,))), NOTHING)
    assert (by_chain.state, "not supported" in by_chain.remarks[0]) == (State.UNKNOWN_FORMAT, True)
    module = verify_module(Signature("PKCS#7", "7", b"value", DIGESTS), (signer.der,))
    assert (module.state, "not supported" in module.remarks[0]) == (State.UNKNOWN_FORMAT, True)


@pytest.mark.parametrize("algorithm", ["sm3", "shake_256", "streebog512"])
def test_a_digest_of_another_kind_is_not_called_altered(algorithm):
    signature = Signature("PKCS#7", f"{build_key().certificate.serial_number:x}", b"value", ((algorithm, bytes(32)),))
    assert verify_module(signature, (build_key().der,)).state is State.UNKNOWN_FORMAT


@pytest.mark.parametrize("kind", ["ed25519", "ed448"])
def test_a_chain_whose_root_is_of_a_supported_kind_of_certificate_is_followed(kind):
    """A key that signs certificates in a way that is supported vouches for them, whatever it could not sign here itself."""
    root = own(KEYS[kind]())
    leaf = x509.CertificateBuilder().subject_name(chain()[0].certificate.subject).issuer_name(root.certificate.subject)
    leaf = leaf.public_key(chain()[0].key.public_key()).serial_number(8)
    leaf = leaf.not_valid_before(root.certificate.not_valid_before_utc).not_valid_after(root.certificate.not_valid_after_utc)
    good = Signer(chain()[0].key, leaf.sign(root.key, None))
    assert verify_image(_image(good, root), NOTHING).state is State.UNKNOWN_ROOT
    forged = Signer(chain()[0].key, leaf.sign(KEYS[kind](), None))
    assert verify_image(_image(forged, root), NOTHING).state is State.BAD


def test_a_link_of_a_chain_that_cannot_be_tried_is_not_called_broken(monkeypatch):
    """As for an issuer with a key that this cryptography does not know at all."""
    issuer = crypto.read_certificate(chain()[1].der)
    monkeypatch.setattr(crypto, "read_certificate", lambda der, read=crypto.read_certificate: _without_key(read(der), issuer.sha256))
    crypto.signed_by.cache_clear()
    found = verify_image(_image(*chain()), NOTHING)
    assert (found.state, "not supported" in found.remarks[0]) == (State.UNKNOWN_FORMAT, True)


def test_dsa_signs_neither_images_nor_chains_here():
    key = dsa.generate_private_key(1024)
    root = certify("A root of long ago", key)
    signature = Signature("test", "", key.sign(b"x", hashes.SHA256()), DIGESTS, chain=(root.der,))
    assert verify_image(envelope(signature), NOTHING).state is State.UNKNOWN_FORMAT


@pytest.mark.parametrize("algorithm", [hashes.SHA3_256, hashes.SHA3_384, hashes.SHA3_512])
def test_sha_3_is_tried_or_not_understood_and_never_called_altered(algorithm):
    form = algorithm()
    name = form.name.replace("-", "_")
    hasher = hashes.Hash(form)
    hasher.update(b"content")
    key = ec.generate_private_key(ec.SECP384R1())
    signer = certify("Signs with SHA-3", key)
    signature = Signature(
        "PKCS#7", f"{signer.certificate.serial_number:x}", key.sign(b"content", ec.ECDSA(form)), ((name, hasher.finalize()),)
    )
    assert verify_module(signature, (signer.der,)).state is State.PRODUCTION
    forged = Signature("PKCS#7", signature.signer, signature.value, ((name, bytes(form.digest_size)),))
    assert verify_module(forged, (signer.der,)).state is State.BAD


@pytest.mark.parametrize("key", ["ec", "rsa"])
def test_an_algorithm_that_the_library_refuses_is_not_called_altered(key, monkeypatch):
    """As an OpenSSL in FIPS mode refuses SHA-1, or one without SHA-3."""

    def refuse(*_):
        raise UnsupportedAlgorithm("not here")

    monkeypatch.setattr(crypto, "_ecdsa", refuse)
    monkeypatch.setattr(crypto, "_rsa", refuse)
    from cryptography.hazmat.primitives.asymmetric import rsa

    made = ec.generate_private_key(ec.SECP256R1()) if key == "ec" else rsa.generate_private_key(65537, 2048)
    signer = certify("Any", made)
    assert signer.der == signer.certificate.public_bytes(serialization.Encoding.DER)
    signature = Signature("PKCS#7", f"{signer.certificate.serial_number:x}", b"value", DIGESTS)
    assert verify_module(signature, (signer.der,)).state is State.UNKNOWN_FORMAT


def _image(*signers):
    from auditor.facts.firmware import read_envelope
    from auditor.facts.firmware.image import Bytes

    return read_envelope(Bytes(qualcomm_mbn(signers=signers)))


def _without_key(certificate, sha256):
    from dataclasses import replace

    return replace(certificate, key=None) if certificate.sha256 == sha256 else certificate
