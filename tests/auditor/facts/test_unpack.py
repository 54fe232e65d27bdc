"""Unpacking under limits: every kind, damaged and hostile."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.unpack import BadArchive, compression, unpack

zstd = pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")

PACK = {"xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32), "gz": gzip.compress, "zst": zstd.compress}
DATA = bytes(range(256)) * 64


@pytest.mark.parametrize("kind", PACK)
def test_what_was_packed_comes_back(kind):
    packed = PACK[kind](DATA)
    assert compression(packed) == kind
    assert unpack(packed) == DATA


def test_other_bytes_are_left_as_they_are():
    assert unpack(b"\x7fELF") == b"\x7fELF"
    assert compression(b"") == ""


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_refused(kind):
    packed = PACK[kind](bytes(1 << 24))
    with pytest.raises(BadArchive, match="more than 1048576 bytes"):
        unpack(packed, limit=1 << 20)


@pytest.mark.parametrize("kind", PACK)
def test_the_limit_itself_is_allowed(kind):
    assert len(unpack(PACK[kind](bytes(1000)), limit=1000)) == 1000


@pytest.mark.parametrize("kind", PACK)
def test_a_file_that_is_cut_short_is_refused(kind):
    packed = PACK[kind](DATA)
    with pytest.raises(BadArchive):
        unpack(packed[: len(packed) // 2])


@pytest.mark.parametrize("kind", PACK)
def test_what_follows_the_stream_is_refused_or_allowed(kind):
    packed = PACK[kind](DATA)
    with pytest.raises(BadArchive, match="after its end"):
        unpack(packed + b"more")
    assert unpack(packed + b"more", trailing=True) == DATA


def test_a_large_xz_dictionary_is_refused():
    packed = lzma.compress(DATA, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}])
    with pytest.raises(BadArchive):
        unpack(packed)


def test_a_python_without_zstd_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "backports", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    with pytest.raises(BadArchive, match="this Python cannot unpack zstd"):
        unpack(zstd.compress(DATA))


@given(st.sampled_from(sorted(PACK)), st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_damage_is_refused_or_harmless(kind, at, junk):
    packed = bytearray(PACK[kind](DATA))
    at %= len(packed)
    packed[at : at + len(junk)] = junk
    with contextlib.suppress(BadArchive):
        assert len(unpack(bytes(packed), limit=1 << 20)) <= 1 << 20
