from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.inference.wire import LENGTHS, MAX_HEADER, ProtocolError, bounded, lengths, pack, parse_header

HEADERS = st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=8), st.none()), min_size=1)


@given(HEADERS, st.binary(max_size=64))
def test_a_frame_comes_back(header, payload):
    frame = pack(header, payload)
    header_size, payload_size = lengths(frame)
    assert parse_header(frame[LENGTHS.size : LENGTHS.size + header_size]) == header
    assert frame[LENGTHS.size + header_size :] == payload
    assert len(payload) == payload_size


@given(st.binary(min_size=LENGTHS.size, max_size=64))
def test_any_start_is_sizes_or_refused(data):
    try:
        header, payload = lengths(data, 1 << 20)
    except ProtocolError:
        return
    assert 0 < header <= MAX_HEADER
    assert payload <= 1 << 20


@given(st.one_of(st.binary(), st.text().map(str.encode), st.recursive(st.none(), st.lists).map(lambda v: json.dumps(v).encode())))
def test_any_header_is_an_object_or_refused(data):
    try:
        assert isinstance(parse_header(data), dict)
    except ProtocolError:
        return


def test_nan_is_neither_written_nor_read():
    with pytest.raises(ValueError, match="not JSON compliant"):
        pack({"value": float("nan")})
    with pytest.raises(ProtocolError, match="a frame's header is not JSON"):
        parse_header(b'{"value": NaN}')


def test_a_deep_header_is_refused():
    with pytest.raises(ProtocolError):
        parse_header(b"[" * MAX_HEADER)


@given(st.text(), st.integers(0, 40))
def test_bounded_text_is_short_and_has_no_controls(text, limit):
    shown = bounded(text, limit)
    assert len(shown) <= limit + 1
    assert all(char.isprintable() or char in "\n\t" for char in shown)
