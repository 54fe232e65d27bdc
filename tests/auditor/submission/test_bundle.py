"""The file of a submission: one form only, and everything else refused."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import AuditError
from auditor.submission import bundle

MEMBERS = {name: name.encode() * 3 for name in bundle.REQUIRED} | {"waivers.toml": b"", f"attachments/{'a' * 64}": b"x"}
GOOD = bundle.pack(MEMBERS)


def zipped(*entries, compression=zipfile.ZIP_STORED, **attributes):
    """A zip with some (name, data), sorted or not."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o100644 << 16
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, data, compression)
    return out.getvalue()


def refused(data, reason):
    with pytest.raises(AuditError, match=reason) as error:
        bundle.unpack(data, "x.crosml")
    assert str(error.value).startswith("x.crosml: ")
    assert "\n" not in str(error.value)


def test_what_was_packed_is_unpacked_and_the_same_again():
    assert bundle.unpack(GOOD, "x") == MEMBERS
    assert bundle.pack(dict(reversed(MEMBERS.items()))) == GOOD


@given(st.integers(0, len(GOOD) - 1))
def test_a_cut_file_is_refused(length):
    refused(GOOD[:length], "cut|not a submission")


@given(st.data())
def test_one_byte_changed_anywhere_but_in_a_member_is_refused(data):
    place = data.draw(st.integers(0, len(GOOD) - 1))
    changed = bytearray(GOOD)
    changed[place] ^= data.draw(st.integers(1, 255))
    refused(bytes(changed), "x")  # in a member, by the zip's own checksum


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut"),
        (b"PK\5\6" + bytes(18), "it has no attestation.json"),
        (GOOD + b"x", "cut or added to"),
        (GOOD + GOOD, "cut or added to|changed after"),
        (b"x" + GOOD, "cut or added to"),
        (zipped(*MEMBERS.items(), ("nested.crosml", GOOD)), "unexpected member 'nested.crosml'"),
        (zipped(*MEMBERS.items(), ("../../etc/passwd", b"")), "unexpected member"),
        (zipped(*MEMBERS.items(), ("/etc/passwd", b"")), "unexpected member"),
        (zipped(*MEMBERS.items(), ("requirements/../report.json", b"")), "unexpected member"),
        (zipped(*MEMBERS.items(), ("attachments/\u202e\x1b[2J", b"")), "unexpected member"),
        (zipped(("report.json", b"/etc/passwd"), external_attr=0o120777 << 16), "not a link"),
        (zipped(("report.json", b""), external_attr=0o040755 << 16), "not a link or a folder"),
        (zipped(*sorted(MEMBERS.items()), compression=zipfile.ZIP_DEFLATED), "without compression"),
        (zipped(*sorted(MEMBERS.items(), reverse=True)), "changed after it was written"),
        (zipped(*sorted(MEMBERS.items()), comment=b"a remark"), "changed after it was written"),
        (zipped(*sorted(MEMBERS.items()), extra=b"\x99\x99\x01\x00x"), "changed after it was written"),
        (
            zipped(
                *((f"trust-roots/{number}", b"") for number in range(999)), *((f"attachments/{number:064x}", b"") for number in range(99))
            ),
            "at most",
        ),
        (zipped(*((name, data) for name, data in MEMBERS.items() if name != "report.json")), "it has no report.json"),
    ],
)
def test_other_forms_are_refused(data, reason):
    refused(data, reason)


def test_a_member_that_is_there_twice_is_refused():
    with pytest.warns(UserWarning, match="Duplicate"):
        doubled = zipped(*sorted(MEMBERS.items()), ("report.json", b"another"))
    refused(doubled, "'report.json' is in it twice")


def test_a_file_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(bundle, "MAX_FILE", 10)
    refused(GOOD, "at most 10 bytes")


@given(st.binary(max_size=300))
def test_what_is_no_zip_is_refused(data):
    refused(data, "not a submission")
