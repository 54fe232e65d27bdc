"""The names of shared objects among a file's bytes."""

from __future__ import annotations

import random

import pytest

from auditor.model import Status
from auditor.sources import base, filesystem
from auditor.sources.filesystem import Tree


def names(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    reply = Tree(str(tmp_path)).ask(base.sonames("/file"))
    return reply.data.decode().split("\0")[:-1] if reply.status is Status.OK else reply


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"libx.so", ["libx.so"]),
        (b"\0libx.so.1.2\0liby.so\0", ["libx.so.1.2", "liby.so"]),
        (b"\0/opt/v/libx.so\0 'libq.so' ", ["/opt/v/libx.so", "libq.so"]),
        (b"a.source b.some .sort.so_x c.soft", []),
        (b"\0lib%s.so\0libQnnHtpV%dSkel.so\0libn.so.%d\0", ["lib%s.so", "libQnnHtpV%dSkel.so", "libn.so.%d"]),
        (b"\xfflibx.so\xff", ["libx.so"]),
    ],
)
def test_names(tmp_path, data, expected):
    assert names(tmp_path, data) == sorted(expected)


def test_names_on_every_border_of_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "CHUNK", 700)
    chosen = random.Random(3)
    for _ in range(200):
        planted = [b"/folder/lib%d.so.%d" % (number, number) for number in range(chosen.randint(1, 40))]
        data = b"".join(name + b"\0" * chosen.randint(1, 300) for name in planted)
        assert names(tmp_path, data) == sorted(name.decode() for name in planted)


def test_a_file_of_many_names_is_refused(tmp_path):
    reply = names(tmp_path, b"".join(b"lib%d.so\0" % number for number in range(filesystem.SCAN_NAMES + 1)))
    assert reply.status is Status.FAILED


def test_a_file_of_one_name_many_times_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "SCAN_NAMES", 16)
    assert names(tmp_path, b".so." * (256 * filesystem.SCAN_NAMES + 9)).status is Status.FAILED


def test_a_file_that_is_too_large_is_refused(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        file.truncate(filesystem.SCAN_LIMIT + 1)
    assert Tree(str(tmp_path)).ask(base.sonames("/file")).status is Status.FAILED
