"""Every format of a firmware image: signed, flipped, appended to, signed again, mutated; and what its signature is then worth."""

from __future__ import annotations

import contextlib
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import UsageError
from auditor.facts.firmware import read_envelope
from auditor.facts.firmware.image import Bytes, uncovered
from auditor.facts.types import PublicKey, Settings
from auditor.verify import State, crypto, verify_image
from fixtures.images import KEY_ID, SEGMENTS, amd_psp, chain, intel_css, plain_elf, qualcomm_mbn, rsa_key
from fixtures.kernel import build_key, certify, signed
from fixtures.laptop import npu_firmware

NUMBERS = rsa_key().public_key().public_numbers()
AMD_KEY = Settings(keys=(PublicKey(KEY_ID.hex(), NUMBERS.n, NUMBERS.e),))
NOTHING = Settings()


def verify(data, settings=NOTHING):
    return verify_image(read_envelope(Bytes(data)), settings)


def state(data, settings=NOTHING):
    """None for what contradicts itself, which the facts give as an image that is not understood."""
    try:
        return verify(data, settings).state
    except ValueError:
        return None


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def pinned(data):
    """Settings that trust the root of an image."""
    return Settings(trust_roots=frozenset({verify(data).root}))


GOOD = {"amd": (amd_psp(), AMD_KEY), "css": (intel_css(), pinned(intel_css())), "mbn": (qualcomm_mbn(), pinned(qualcomm_mbn()))}
FOLDER = 16 + 24 * 3
"""Bytes of the `$CPD` folder: it says where things are, and is not signed itself."""


@pytest.mark.parametrize("name", GOOD)
def test_an_image_as_it_was_signed(name):
    data, settings = GOOD[name]
    assert verify(data, settings).state is State.PRODUCTION
    assert read_envelope(Bytes(data)).uncovered == 0


@pytest.mark.parametrize("name", GOOD)
def test_no_flip_of_a_bit_in_what_is_covered_goes_unseen(name):
    data, settings = GOOD[name]
    covered = [at for at in range(FOLDER if name == "css" else 0, len(data), 7) if data[at] not in {0, 0xFF}]
    assert len(covered) > 50
    assert not [at for at in covered if state(flipped(data, at), settings) is State.PRODUCTION]


@pytest.mark.parametrize("name", GOOD)
def test_appended_bytes_are_counted(name):
    data, _ = GOOD[name]
    assert read_envelope(Bytes(data + b"evil" * 8)).uncovered == 32
    assert read_envelope(Bytes(data + bytes(32))).uncovered == 0


@pytest.mark.parametrize("name", GOOD)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12), cut=st.integers(0, 10**6))
def test_mutated_images_are_read_or_refused_and_never_trusted_more(name, changes, cut):
    data, settings = GOOD[name]
    mutated = bytearray(data)
    for at, value in changes:
        mutated[at % len(data)] = value
    mutated = bytes(mutated[: cut % (2 * len(data))])
    assert state(mutated) is not State.PRODUCTION
    state(mutated, settings)


# --- AMD ---------------------------------------------------------------------------------------------------------------------------------


def test_without_its_key_an_amd_image_is_of_an_unknown_key():
    found = verify(amd_psp())
    assert (found.state, found.signer) == (State.UNKNOWN_KEY, KEY_ID.hex())


def test_a_key_of_the_same_name_does_not_do():
    other = rsa_key("other").public_key().public_numbers()
    assert state(amd_psp(), Settings(keys=(PublicKey(KEY_ID.hex(), other.n, other.e),))) is State.BAD


def test_an_amd_header_that_says_unsigned():
    data = bytearray(amd_psp())
    data[0x30] = 0
    assert state(bytes(data)) is State.UNSIGNED


@pytest.mark.parametrize(("at", "value"), [(0x34, 9), (0x30, 2), (0x14, 0xFF), (0x17, 0xFF)])
def test_an_amd_header_that_makes_no_sense(at, value):
    data = bytearray(amd_psp())
    data[at] = value
    assert state(bytes(data), AMD_KEY) is not State.PRODUCTION


# --- Intel -------------------------------------------------------------------------------------------------------------------------------


def test_an_intel_manifest_that_does_not_reach_its_payload():
    """The signature verifies, and covers nothing of what is run."""
    found = verify(intel_css(bound=False))
    assert found.state is State.UNKNOWN_FORMAT
    assert "no digest of 'TEST.met'" in found.remarks[-1]


def test_a_pinned_root_makes_it_production():
    assert state(intel_css()) is State.UNKNOWN_ROOT
    assert state(intel_css(), pinned(intel_css())) is State.PRODUCTION


def test_an_intel_npu_image_is_unsigned_by_its_size_alone():
    data = npu_firmware()
    assert state(data) is State.UNSIGNED
    assert state(data + bytes(256)) is State.UNKNOWN_FORMAT
    assert state(data[:-1]) is State.UNKNOWN_FORMAT
    for hidden in (0x200, 0x1F00):
        assert state(flipped(data, hidden)) is State.UNKNOWN_FORMAT


# --- Qualcomm ----------------------------------------------------------------------------------------------------------------------------


def test_a_digest_that_is_left_out_leaves_its_segment_uncovered():
    found = read_envelope(Bytes(qualcomm_mbn(unhashed=2)))
    assert found.uncovered == len(SEGMENTS[1])


def test_an_image_signed_again_differs_in_its_root_alone():
    root = certify("Some Device Maker's Root", ec.generate_private_key(ec.SECP384R1()))
    again = (certify("Some Device Maker's Leaf", ec.generate_private_key(ec.SECP384R1()), root), root)
    settings = pinned(qualcomm_mbn())
    assert state(qualcomm_mbn(), settings) is State.PRODUCTION
    assert state(qualcomm_mbn(signers=again), settings) is State.UNKNOWN_ROOT


def test_a_root_that_says_it_is_for_testing():
    root = certify("General Use Test Key (for testing only)", ec.generate_private_key(ec.SECP384R1()))
    assert state(qualcomm_mbn(signers=(certify("leaf", ec.generate_private_key(ec.SECP384R1()), root), root))) is State.TEST


def test_a_chain_whose_root_did_not_sign_it():
    leaf, root = chain()
    stranger = certify(root.certificate.subject.rfc4514_string()[3:], ec.generate_private_key(ec.SECP384R1()))
    found = verify(qualcomm_mbn(signers=(leaf, stranger)))
    assert found.state is State.BAD
    assert "did not sign" in found.remarks[0]


def test_a_certificate_signed_by_a_leaf_is_worth_nothing():
    leaf, root = chain()
    below = certify("one more", ec.generate_private_key(ec.SECP384R1()), leaf)
    found = verify(qualcomm_mbn(signers=(below, leaf, root)))
    assert found.state is State.BAD
    assert "is no authority" in found.remarks[0]


def test_a_leaf_without_its_root_has_an_unknown_one():
    assert state(qualcomm_mbn(signers=chain()[:1])) is State.UNKNOWN_ROOT


def test_an_expired_certificate_is_information():
    root = certify("root", ec.generate_private_key(ec.SECP384R1()), days=1)
    found = verify(qualcomm_mbn(signers=(certify("leaf", ec.generate_private_key(ec.SECP384R1()), root, days=1), root)))
    assert found.state is State.UNKNOWN_ROOT
    assert found.remarks == ("certificate valid until 2024-01-02",)


def test_an_elf_file_without_a_hash_segment_is_unsigned_where_all_of_it_is_accounted_for():
    assert state(plain_elf()) is State.UNSIGNED
    assert state(plain_elf(bytes(64))) is State.UNSIGNED
    assert state(plain_elf(b"a signature?")) is State.UNKNOWN_FORMAT


def test_a_hash_segment_that_is_not_marked_as_one_is_no_signature():
    data = bytearray(qualcomm_mbn())
    count = len(SEGMENTS) + 2
    data[52 + 32 * (count - 1) + 27] = 0
    assert state(bytes(data)) is State.UNSIGNED


# --- appended signatures, and what is not known ------------------------------------------------------------------------------------------


def test_an_appended_signature_is_of_a_key_that_is_not_known():
    found = verify(signed(plain_elf(), build_key()))
    assert found.state is State.UNKNOWN_KEY


@pytest.mark.parametrize("data", [b"", b"\0", b"\xd0\x0d\xfe\xed" * 40, b"random bytes" * 40, b"$PS1" * 40])
def test_what_is_not_understood_is_never_unsigned(data):
    assert state(data) in {State.UNKNOWN_FORMAT, None}


def test_every_image_gap_is_looked_at():
    assert uncovered(Bytes(b"\0\0ab\xffcd"), [(2, 1)]) == 3
    assert uncovered(Bytes(b"abcdef"), [(0, 4), (2, 2), (1, 1)]) == 2


# --- keys that are handed over -----------------------------------------------------------------------------------------------------------


def test_files_of_roots():
    numbers = {"key_id": KEY_ID.hex().upper(), "modulus_hex": f"{NUMBERS.n:x}", "exponent": 65537}
    assert crypto.read_root(json.dumps(numbers).encode(), "k") == AMD_KEY.keys[0]
    key = rsa_key(bits=2048).public_key()  # the one that the image is signed with
    root = crypto.read_root(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo), "k")
    assert root == crypto.modulus_sha256(key.public_numbers().n)
    assert state(intel_css(), Settings(trust_roots=frozenset({root}))) is State.PRODUCTION
    assert state(intel_css()) is State.UNKNOWN_ROOT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"{",
        b"[1]",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"\xff" * 40,
        b'{"key_id": "aa", "modulus_hex": "zz", "exponent": 3}',
        b'{"key_id": "aa", "modulus_hex": "4", "exponent": 2}',
        b'{"key_id": "", "modulus_hex": "%x", "exponent": 65537}' % NUMBERS.n,
        b'{"key_id": "aa", "modulus_hex": "%x", "exponent": "65537"}' % NUMBERS.n,
    ],
)
def test_a_file_that_is_no_root_is_named(data):
    with pytest.raises(UsageError, match=r"^k\.pem: .*expected "):
        crypto.read_root(data, "k.pem")


def test_a_key_of_another_kind_is_refused():
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UsageError, match="expected an RSA key"):
        crypto.read_root(pem, "k.pem")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_of_some_kind(data):
    with contextlib.suppress(ValueError):
        assert verify(data).state is not State.PRODUCTION
