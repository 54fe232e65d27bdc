"""Records and their snapshot files: what goes in comes out; what a stranger hands in is refused in one line, or read within limits."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import struct
import zipfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auditor.errors import AuditError
from auditor.model import Status
from auditor.sources import base, recording
from auditor.sources.base import Question, Reply
from auditor.sources.recording import Record, Recorder, Replay, digest, load, pack, unpack

RECORDED = [status for status in Status if status is not Status.UNASKED]
PATHS = st.binary(max_size=12).map(lambda data: data.decode("utf-8", "surrogateescape"))
TEXTS = st.text(st.characters(codec=None), max_size=8)
QUESTIONS = st.builds(
    Question, st.sampled_from(["read", "list", "udev", "run"]) | TEXTS, PATHS, st.lists(st.integers() | TEXTS, max_size=3).map(tuple)
)
REPLIES = st.builds(
    Reply,
    st.sampled_from(RECORDED),
    st.binary(max_size=30) | st.integers(1020, 1030).map(lambda size: b"\0" * size) | st.just(b"large" * 1000),
    st.integers(0, recording.MAX_ERRNO),
)
RECORDS = st.builds(Record, TEXTS, TEXTS, TEXTS, TEXTS, st.dictionaries(QUESTIONS, REPLIES, max_size=6))


def record(answers=None):
    return Record("live", "npu-board", "crosml-audit 0.1.0", "2026-03-01T12:00:00+00:00", answers or {})


SAMPLE = record({
    base.read("/proc/cmdline"): Reply(Status.OK, b"quiet"),
    base.names("/lib/modules"): Reply(Status.OK, b"6.12\0" * 1000),
    base.link("/sys/\udcff"): Reply(Status.DENIED, errno=13),
    base.run("m", 0): Reply(Status.ABSENT, errno=2),
})  # fmt: skip


class Source:
    """Answers from a table, and counts how often it is asked."""

    kind = "root"
    name = "a tree"

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def ask(self, question):
        self.asked.append(question)
        return self.answers.get(question, base.UNASKED)


# --- recording ---------------------------------------------------------------------------------------------------------------------------


def test_each_question_is_asked_once_and_everyone_gets_the_first_answer():
    source = Source({base.read("/a"): Reply(Status.OK, b"1")})
    recorder = Recorder(source)
    assert (recorder.kind, recorder.name) == ("root", "a tree")
    first = recorder.ask(base.read("/a")), recorder.ask(base.read("/b"))
    source.answers = {base.read("/a"): Reply(Status.OK, b"2"), base.read("/b"): Reply(Status.OK, b"2")}
    assert (recorder.ask(base.read("/a")), recorder.ask(base.read("/b"))) == first
    assert source.asked == [base.read("/a"), base.read("/b")]
    assert recorder.unasked() == (base.read("/b"),)


def test_a_record_holds_what_was_answered_and_says_unasked_to_the_rest():
    recorder = Recorder(Source({base.read("/a"): Reply(Status.OK, b"1")}))
    for question in (base.read("/a"), base.read("/b")):
        recorder.ask(question)
    held = recorder.record("me", "now")
    assert held == Record("root", "a tree", "me", "now", {base.read("/a"): Reply(Status.OK, b"1")})
    replay = Replay(held)
    assert (replay.kind, replay.name) == ("snapshot", "a tree")
    assert replay.ask(base.read("/a")) == Reply(Status.OK, b"1")
    assert replay.ask(base.read("/b")) == replay.ask(base.read("/a", 1)) == base.UNASKED


@given(RECORDS)
def test_what_goes_in_comes_out(given_record):
    assert unpack(pack(given_record), "f") == given_record


@given(RECORDS, st.randoms(use_true_random=False))
@example(record({base.run("m", 1): Reply(Status.OK), base.run("m", "1"): Reply(Status.ABSENT)}), None)
def test_the_same_record_gives_the_same_bytes(given_record, random):
    entries = list(given_record.answers.items())
    if random:
        random.shuffle(entries)
    else:
        entries.reverse()
    other = Record(given_record.source, given_record.name, given_record.collector, given_record.collected_at, dict(entries))
    assert pack(other) == pack(given_record)
    assert digest(other) == digest(given_record)


@given(RECORDS, QUESTIONS, REPLIES)
def test_the_digest_stands_for_all_of_the_evidence(given_record, question, reply):
    other = Record(
        given_record.source, given_record.name, given_record.collector, given_record.collected_at, {**given_record.answers, question: reply}
    )
    assert (digest(other) == digest(given_record)) is (other == given_record)


def test_a_snapshot_is_a_zip_with_sorted_names_and_fixed_dates():
    with zipfile.ZipFile(io.BytesIO(pack(SAMPLE))) as archive:
        infos = archive.infolist()
        document = archive.read("record.json")
    assert hashlib.sha256(pack(SAMPLE)).hexdigest() == digest(SAMPLE)
    blob = hashlib.sha256(b"6.12\0" * 1000).hexdigest()
    assert [info.filename for info in infos] == [f"blobs/{blob}", "record.json"]
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    found = json.loads(document)
    assert (found["schema"], found["source"], found["collected_at"]) == (recording.RECORD_SCHEMA, "live", "2026-03-01T12:00:00+00:00")
    assert found["entries"] == [
        [["link", "/sys/%FF"], "denied", 13, ""],
        [["list", "/lib/modules"], "ok", 0, {"blob": blob}],
        [["read", "/proc/cmdline", 0, base.READ_LIMIT], "ok", 0, base64.b64encode(b"quiet").decode()],
        [["run", "m", 0], "absent", 2, ""],
    ]


def test_a_snapshot_file_is_loaded(tmp_path):
    path = tmp_path / "device.snapshot"
    path.write_bytes(pack(SAMPLE))
    assert load(str(path)) == SAMPLE


# --- what a stranger hands in ------------------------------------------------------------------------------------------------------------


def refused(data):
    """The one line that a snapshot is refused with."""
    with pytest.raises(AuditError) as caught:
        unpack(data, "f.snapshot")
    text = str(caught.value)
    assert text.startswith("f.snapshot: ")
    assert text.isprintable()
    assert len(text) < 1000
    return text.removeprefix("f.snapshot: ")


def archive(*members, compression=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, compression)
    return out.getvalue()


def document(**changes):
    given = {
        "schema": recording.RECORD_SCHEMA,
        "source": "live",
        "name": "n",
        "collector": "c",
        "collected_at": "t",
        "entries": [],
        **changes,
    }
    return json.dumps({key: value for key, value in given.items() if value is not None}).encode()


def snapshot(**changes):
    return archive(("record.json", document(**changes)))


def test_the_smallest_snapshot():
    assert unpack(snapshot(), "f") == Record("live", "n", "c", "t", {})
    assert unpack(archive(("record.json", document()), compression=zipfile.ZIP_STORED), "f") == Record("live", "n", "c", "t", {})


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip" * 100, b"PK\5\6" + b"\0" * 17, b"\x1f\x8b" + b"\0" * 50])
def test_what_is_no_zip(data):
    assert refused(data).startswith("not a snapshot")


def test_every_truncation_is_refused():
    data = pack(SAMPLE)
    for length in range(len(data)):
        refused(data[:length])


def test_no_record_in_it():
    assert refused(archive()) == "not a snapshot: it has no record.json"
    assert refused(archive((f"blobs/{'0' * 64}", b"x"))) == "not a snapshot: it has no record.json"


@pytest.mark.parametrize(
    "name",
    [
        "record.json",
        "x",
        "/record.json",
        "../record.json",
        "record.json/",
        "blobs/",
        f"blobs/{'A' * 64}",
        f"blobs/{'0' * 64}\n",
        "a\x1b\n\u202e",
        "é",
    ],
)
def test_unexpected_and_repeated_members(name):
    with pytest.warns(UserWarning, match="Duplicate name") if name == "record.json" else contextlib.nullcontext():
        data = archive(("record.json", document()), (name, b""))
    assert refused(data).startswith("unexpected or repeated member ")


def test_a_blob_that_is_there_twice():
    sha = hashlib.sha256(b"x").hexdigest()
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = archive(("record.json", document()), (f"blobs/{sha}", b"x"), (f"blobs/{sha}", b"x"))
    assert refused(data).startswith("unexpected or repeated member ")


def test_a_blob_with_another_digest():
    assert refused(archive(("record.json", document()), (f"blobs/{'0' * 64}", b"x"))) == f"blobs/{'0' * 64}: its content has another sha256"


def test_a_blob_that_is_not_there():
    entry = [["read", "/x", 0, 1], "ok", 0, {"blob": "0" * 64}]
    assert refused(snapshot(entries=[entry])).startswith("record.json: entries[0]: expected ")


# --- bombs -------------------------------------------------------------------------------------------------------------------------------


def test_a_bomb_by_its_ratio(monkeypatch):
    monkeypatch.setattr(recording, "MAX_RATIO", 100)
    zeros = b"\0" * (2 << 20)
    data = archive(("record.json", document()), (f"blobs/{hashlib.sha256(zeros).hexdigest()}", zeros))
    assert "is too large" in refused(data)


def test_a_small_member_may_compress_well(monkeypatch):
    monkeypatch.setattr(recording, "MAX_RATIO", 2)
    assert unpack(pack(SAMPLE), "f") == SAMPLE


def test_a_member_that_is_too_large(monkeypatch):
    monkeypatch.setattr(recording, "MAX_MEMBER", 4999)
    assert "is too large (5000 bytes out of " in refused(pack(SAMPLE))


def test_members_that_are_too_large_together(monkeypatch):
    monkeypatch.setattr(recording, "MAX_TOTAL", 5000)
    assert refused(pack(SAMPLE)) == "the members have more than 5000 bytes together"


def test_too_many_members(monkeypatch):
    monkeypatch.setattr(recording, "MAX_MEMBERS", 1)
    data = pack(SAMPLE)

    def opened(*arguments):
        raise AssertionError("its directory must be counted before it is read")

    monkeypatch.setattr(zipfile, "ZipFile", opened)
    assert refused(data) == "a snapshot has at most 1 members"


def test_a_member_that_is_larger_than_it_says():
    """Its directory entry says 10 bytes; unpacked it would be 64 MB. No more than 10 are unpacked."""
    data = bytearray(archive(("record.json", b"\0" * (64 << 20))))
    local, central = data.find(b"PK\3\4"), data.rfind(b"PK\1\2")
    data[local + 22 : local + 26] = data[central + 24 : central + 28] = struct.pack("<I", 10)
    reads = []
    decompress = zipfile.zlib.decompressobj

    class Counting:
        def __init__(self, *arguments):
            self._inner = decompress(*arguments)

        def decompress(self, *arguments):
            out = self._inner.decompress(*arguments)
            reads.append(len(out))
            return out

        def __getattr__(self, name):
            return getattr(self._inner, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.zlib, "decompressobj", Counting)
        refused(bytes(data))
    assert reads
    assert sum(reads) < 1 << 16


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(compression):
    """Python unpacks these without a limit."""
    data = archive(("record.json", document()), compression=compression)
    assert refused(data) == f"member record.json: compression {compression}, expected deflate or none"


def test_an_encrypted_member():
    data = bytearray(archive(("record.json", document())))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(mark) + at] |= 1
    assert refused(bytes(data)).startswith("not a snapshot")


# --- record.json -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "line 1, column 1: expected JSON"),
        (b"{", "line 1, column 2: expected JSON"),
        (b"\xff", "byte 0: expected UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "a number has too many digits"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"nul", "line 1, column 1: expected JSON"),
        (b'"\\ud800"x', "line 1, column 9: expected JSON"),
    ],
)
def test_what_is_not_json(text, said):
    assert refused(archive(("record.json", text))) == f"record.json: {said}"


@pytest.mark.parametrize("text", [b"[]", b"null", b"NaN", b"3", b'"x"', b"{}", b'{"schema": 3}', b'{"schema": [[[]]]}'])
def test_what_has_no_schema(text):
    assert refused(archive(("record.json", text))) == "record.json: schema: expected 'crosml-audit/record/1'"


def test_another_schema_is_named():
    assert refused(snapshot(schema="other\n\x1b/2" + "x" * 10_000)).startswith(
        "record.json: schema: expected 'crosml-audit/record/1', found 'other\\n\\x1b/2xxx"
    )


@pytest.mark.parametrize("key", ["source", "name", "collector", "collected_at", "entries"])
@pytest.mark.parametrize("value", [None, 3, {"a": 1}])
def test_a_field_that_is_not_what_it_must_be(key, value):
    expected = "record.json: expected the texts source, name, collector, collected_at and the list entries"
    assert refused(snapshot(**{key: value})) == expected


GOOD = [["read", "/x", 0, 1], "ok", 0, "eA=="]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        "abcd",
        {"a": 1, "b": 2, "c": 3, "d": 4},
        GOOD[:3],
        [*GOOD, 1],
        [None, *GOOD[1:]],
        [[], *GOOD[1:]],
        [["read"], *GOOD[1:]],
        ["ab", *GOOD[1:]],
        [[1, "/x"], *GOOD[1:]],
        [["read", 1], *GOOD[1:]],
        [["read", "\ud800"], *GOOD[1:]],
        [["read", "/x", 1.5], *GOOD[1:]],
        [["read", "/x", float("nan")], *GOOD[1:]],
        [["read", "/x", None], *GOOD[1:]],
        [["read", "/x", []], *GOOD[1:]],
        [["read", "/x", {}], *GOOD[1:]],
        [GOOD[0], "unasked", 0, ""],
        [GOOD[0], "fine", 0, ""],
        [GOOD[0], None, 0, ""],
        [GOOD[0], [], 0, ""],
        [GOOD[0], {}, 0, ""],
        [GOOD[0], "failed", "5", ""],
        [GOOD[0], "failed", 1.0, ""],
        [GOOD[0], "failed", float("inf"), ""],
        [GOOD[0], "failed", 10**30, ""],
        [GOOD[0], "failed", -1, ""],
        [GOOD[0], "failed", None, ""],
        [GOOD[0], "ok", 0, "x"],
        [GOOD[0], "ok", 0, "\u00e9"],
        [GOOD[0], "ok", 0, "eA==\n"],
        [GOOD[0], "ok", 0, 3],
        [GOOD[0], "ok", 0, None],
        [GOOD[0], "ok", 0, []],
        [GOOD[0], "ok", 0, {}],
        [GOOD[0], "ok", 0, {"blob": 3}],
        [GOOD[0], "ok", 0, {"blob": []}],
        [GOOD[0], "ok", 0, {"blob": "0" * 64}],
    ],
)
def test_an_entry_that_is_malformed(entry):
    good = [["read", "/y", 0, 1], "ok", 0, ""]
    assert unpack(snapshot(entries=[good, GOOD]), "f")
    expected = "record.json: entries[1]: expected [[kind, path, argument…], status, errno, base64 or blob]"
    assert refused(snapshot(entries=[good, entry])) == expected


@pytest.mark.parametrize("path", ["/x", "%2Fx", "/%78"])
def test_a_question_that_is_answered_twice(path):
    again = [["read", path, 0, 1], "denied", 13, ""]
    assert refused(snapshot(entries=[GOOD, again])) == "record.json: entries[1]: 'read' '/x' is there twice"
    odd = [["re\n\x1b" + "d" * 500, "/\n" + "x" * 500], "ok", 0, ""]
    assert refused(snapshot(entries=[odd, odd])).endswith(" is there twice")


# --- files -------------------------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(AuditError) as caught:
        load(str(tmp_path / "none\n"))
    assert str(caught.value) == f"{tmp_path}/none\\n: No such file or directory"
    with pytest.raises(AuditError, match="embedded null byte"):
        load("\0")


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "MAX_FILE", 10)
    (tmp_path / "f").write_bytes(b"x" * 11)
    with pytest.raises(AuditError, match="expected at most 10 bytes"):
        load(str(tmp_path / "f"))


# --- anything at all ---------------------------------------------------------------------------------------------------------------------


def outcome(data):
    try:
        return unpack(data, "f.snapshot")
    except AuditError as error:
        text = str(error)
        assert text.startswith("f.snapshot: ")
        assert text.isprintable()
        return None


PACKED = pack(SAMPLE)


@given(st.binary(max_size=300))
def test_random_bytes(data):
    assert outcome(data) is None


@given(st.binary(max_size=100))
def test_random_bytes_behind_a_snapshot(data):
    found = outcome(PACKED + data)
    assert found is None or found == SAMPLE


@given(st.lists(st.tuples(st.integers(0, len(PACKED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_snapshot_with_bytes_changed(changes):
    data = bytearray(PACKED)
    for at, byte in changes:
        data[at] = byte
    found = outcome(bytes(data))
    assert found is None or found == SAMPLE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["schema", "source", "name", "collector", "collected_at", "entries"]), JSON))
def test_any_json_document(changes):
    outcome(snapshot(**changes))


@given(st.lists(st.lists(JSON, min_size=3, max_size=5), max_size=3))
def test_any_entries(entries):
    found = outcome(snapshot(entries=entries))
    assert found is None or unpack(pack(found), "f") == found


@given(
    st.tuples(
        st.lists(TEXTS | st.integers(), max_size=4),
        st.sampled_from(Status).map(lambda status: status.value),
        st.integers(-1, 5000),
        st.binary(max_size=4).map(lambda data: base64.b64encode(data).decode()) | TEXTS,
    ).map(list)
)
def test_almost_an_entry(entry):
    found = outcome(snapshot(entries=[entry]))
    assert found is None or unpack(pack(found), "f") == found
