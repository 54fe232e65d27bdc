"""How inputs are covered, and outputs pledged."""

from __future__ import annotations

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

from auditor.inference.sealing import KEY_BYTES, covered, digest

KEY = bytes(range(KEY_BYTES))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096, 100_003])
def test_covering_twice_uncovers(size):
    data = bytes(index * 7 % 251 for index in range(size))
    hidden = covered(data, KEY, 3)
    assert len(hidden) == size
    assert covered(hidden, KEY, 3) == data


def test_every_inference_and_every_key_has_its_own_stream():
    streams = {covered(bytes(64), key, number) for key in (KEY, KEY[::-1], b"\xff" * KEY_BYTES) for number in range(16)}
    assert len(streams) == 48
    long = covered(bytes(1 << 16), KEY, 0)
    assert covered(bytes(64), KEY, 1) not in long


def test_one_other_bit_is_another_digest():
    assert digest(b"\0") != digest(b"\1")
