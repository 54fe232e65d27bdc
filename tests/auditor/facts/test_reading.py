"""From answers to facts: a value with its evidence, or what is missing and why; nothing that a device says is taken as it is."""

from __future__ import annotations

import errno
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.reading import EXCERPT, Device, FileStat, all_of, evidence, parse
from auditor.facts.types import Missing, MissingFact, Ok
from auditor.model import Evidence, Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply

STAT = {"real": "/x", "kind": "file", "mode": 420, "uid": 0, "gid": 0, "size": 1, "blocks": 8, "dev": 1, "ino": 2, "major": 0, "minor": 0}


class Only:
    """A source with one answer to everything."""

    kind = name = "x"

    def __init__(self, reply):
        self.reply = reply

    def ask(self, question):
        return self.reply


def device(data, status=Status.OK, number=0):
    return Device(Only(Reply(status, data, number)))


def test_a_fact_opens_and_what_is_missing_raises():
    assert Ok(3).open() == 3
    assert Ok(3).status is Status.OK
    missing = Missing(Status.DENIED, note="why")
    with pytest.raises(MissingFact, match="why") as caught:
        missing.open()
    assert caught.value.missing is missing


@pytest.mark.parametrize(
    ("status", "number", "note", "remedy"),
    [
        (Status.ABSENT, errno.ENOENT, "No such file or directory", None),
        (Status.DENIED, errno.EACCES, "Permission denied", Remedy.ROOT),
        (Status.FAILED, errno.EIO, "Input/output error", Remedy.EVIDENCE),
        (Status.UNASKED, 0, "", Remedy.LIVE),
    ],
)
def test_what_is_missing_says_how_and_what_would_help(status, number, note, remedy):
    expected = Missing(status, (Evidence("/x", status),), note, remedy)
    asked = device(b"ignored", status, number)
    for fact in (asked.data("/x"), asked.text("/x"), asked.number("/x"), asked.names("/x"), asked.link_name("/x"), asked.stat("/x")):
        assert fact == expected


def test_bytes_have_their_evidence():
    found = device(b"ab\0c\xff\n").data("/x", 3, 9)
    assert found == Ok(b"ab\0c\xff\n", (Evidence("/x", Status.OK, hashlib.sha256(b"ab\0c\xff\n").hexdigest(), "ab c\\xff"),))


def test_a_piece_is_bytes_or_raises():
    assert device(b"ab").piece("/x", 0, 2) == b"ab"
    with pytest.raises(MissingFact) as caught:
        device(b"", Status.DENIED, errno.EACCES).piece("/x", 0, 2)
    assert caught.value.missing.remedy is Remedy.ROOT


def test_an_excerpt_is_short():
    (shown,) = device(b"x" * 10_000).data("/x").evidence
    assert shown.excerpt == "x" * EXCERPT
    (shown,) = device(b"\xff" * 10_000).data("/x").evidence
    assert len(shown.excerpt) == EXCERPT


@pytest.mark.parametrize(("data", "text"), [(b" a b\n", "a b"), (b"", ""), (b"\xff\n", "\\xff"), (b"\xc3\xa9", "é")])
def test_text(data, text):
    assert device(data).text("/x").open() == text


@pytest.mark.parametrize(("data", "radix", "number"), [(b"12\n", 10, 12), (b"0x1f\n", 16, 31), (b"ff", 16, 255), (b"-1", 10, -1)])
def test_numbers(data, radix, number):
    assert device(data).number("/x", radix).open() == number


@pytest.mark.parametrize("data", [b"", b"x", b"1 2", b"\xff", b"1" * 10_000])
def test_what_is_no_number(data):
    found = device(data).number("/x")
    assert found.status is Status.FAILED
    assert found.note.startswith("not understood: ")
    assert found.evidence[0].path == "/x"
    assert len(found.note) < 2 * EXCERPT


@pytest.mark.parametrize(("data", "on"), [(b"Y\n", True), (b"1", True), (b"N\n", False), (b"0\n", False)])
def test_switches(data, on):
    assert device(data).switch("/x").open() is on


@pytest.mark.parametrize("data", [b"", b"y", b"2", b"YY", b"on"])
def test_what_is_no_switch(data):
    assert device(data).switch("/x").status is Status.FAILED


def test_names():
    assert device(b"a\0b\xff\0new\nline\0").names("/x").open() == ("a", "b\udcff", "new\nline")
    assert device(b"").names("/x").open() == ()


@pytest.mark.parametrize("data", [b"a", b"a\0b", b"\0", b"a\0\0", b".\0", b"..\0", b"a/b\0", b"/\0"])
def test_what_is_no_listing(data):
    """A recorded listing is a stranger's: a name without its end, or one that leads elsewhere, makes it none."""
    assert device(data).names("/x").status is Status.FAILED


def test_links():
    assert device(b"../../bus/pci/drivers/npu\xff").link("/x").open() == "../../bus/pci/drivers/npu\udcff"
    assert device(b"../../bus/pci/drivers/npu").link_name("/x").open() == "npu"
    assert device(b"npu/").link_name("/x").open() == "npu"


def test_stat():
    assert device(json.dumps(STAT).encode()).stat("/x").open() == FileStat(**STAT)


@pytest.mark.parametrize("key", STAT)
@pytest.mark.parametrize("value", [None, "7", 1.5, -1, True, [], {}])
def test_a_stat_of_other_types_is_none(key, value):
    if isinstance(value, str) and key in {"real", "kind"}:
        value = 7
    assert device(json.dumps({**STAT, key: value}).encode()).stat("/x").status is Status.FAILED


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", json.dumps({**STAT, "more": 1}).encode(), b"[" * 100_000])
def test_what_is_no_stat(data):
    assert device(data).stat("/x").status is Status.FAILED


def test_digests():
    sha = "ab" * 32
    assert device(sha.encode()).sha256("/x") == Ok(sha, (Evidence("/x", Status.OK, sha),))
    for wrong in (b"", b"ab", sha.encode().upper(), sha.encode() + b"\n", b"\xff" * 64):
        found = device(wrong).sha256("/x")
        assert found.status is Status.FAILED
        assert found.evidence[0].sha256 == hashlib.sha256(wrong).hexdigest()


@pytest.mark.parametrize("question", [base.digest("/x", "sha384"), base.digest("/x", "sha256", ((0, 3),))])
def test_another_digest_is_not_shown_as_the_files_sha256(question):
    reply = Reply(Status.OK, b"ab" * 32)
    assert evidence(question, reply) == Evidence("/x", Status.OK, hashlib.sha256(b"ab" * 32).hexdigest(), "ab" * 32)


@pytest.mark.parametrize(
    ("question", "path"),
    [
        (base.read("/a\udcff"), "/a\\xff"),
        (base.names("/a"), "/a"),
        (base.xattr("/a", "user.x"), "/a"),
        (base.udev("pci"), "udev:pci"),
        (base.kernel_log(), "kernel_log:"),
        (base.run("m\udcff", 0), "run:m\\xff"),
    ],
)
def test_evidence_names_the_question(question, path):
    assert evidence(question, Reply(Status.DENIED, errno=13)) == Evidence(path, Status.DENIED)


def test_documents():
    assert device(b'{"a": [1]}').document(base.plan()).open() == {"a": [1]}
    for wrong in (b"", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000):
        assert device(wrong).document(base.plan()).status is Status.FAILED


@pytest.mark.parametrize("error", [ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError])
def test_what_a_reader_cannot_make_sense_of_is_missing(error):
    def reader(value):
        raise error("odd \udcff text")

    fact = parse(Ok(1, (Evidence("/x", Status.OK),)), reader)
    assert (fact.status, fact.remedy, fact.evidence) == (Status.FAILED, Remedy.EVIDENCE, (Evidence("/x", Status.OK),))
    assert fact.note.startswith("not understood: ")
    assert fact.note.encode()


def test_a_defect_of_the_reader_is_not_hidden():
    def reader(value):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parse(Ok(1), reader)


def test_what_is_missing_stays_missing():
    missing = Missing(Status.DENIED)
    assert parse(missing, int) is missing


def test_evidence_of_several_facts_is_there_once_in_order():
    one, two = Evidence("/a", Status.OK), Evidence("/b", Status.ABSENT)
    assert all_of(Ok(1, (two, one)), Missing(Status.ABSENT, (two,)), Ok(2)) == (two, one)


@given(
    st.binary(max_size=60)
    | st.dictionaries(st.sampled_from([*STAT, "x"]), st.none() | st.integers() | st.text()).map(lambda d: json.dumps(d).encode())
)
def test_nothing_that_a_device_answers_makes_reading_raise(data):
    asked = device(data)
    for fact in (
        asked.text("/x"),
        asked.number("/x"),
        asked.switch("/x"),
        asked.names("/x"),
        asked.link_name("/x"),
        asked.stat("/x"),
        asked.sha256("/x"),
        asked.document(base.plan()),
    ):
        assert isinstance(fact, (Ok, Missing))
        assert all(item.path.encode() and item.excerpt.encode() is not None for item in fact.evidence)


def test_links_that_lead_to_each_other_lead_nowhere():
    found = Device(Only(Reply(Status.FAILED, errno=errno.ELOOP))).stat("/x")
    assert (found.status, found.note, found.evidence[0].status) == (Status.ABSENT, "its links lead nowhere", Status.FAILED)
