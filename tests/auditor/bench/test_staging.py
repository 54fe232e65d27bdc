from __future__ import annotations

import errno
import io
import os
import tarfile
from types import SimpleNamespace

import pytest

from auditor.bench import staging
from auditor.bench.staging import SLACK, NoPlace, make, places, unpack


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return io.BytesIO(out.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_a_folder_is_new_ones_own_and_empty(tmp_path):
    folder = make([str(tmp_path)], 1, execute=True)
    assert os.path.dirname(folder) == str(tmp_path)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.listdir(folder) == []
    assert make([str(tmp_path)], 1, execute=True) != folder


def test_the_first_place_that_will_do_is_taken(tmp_path):
    (tmp_path / "file").touch()
    assert make([str(tmp_path / "no"), str(tmp_path / "file"), str(tmp_path)], 0, execute=False).startswith(str(tmp_path))


def test_each_place_that_will_not_do_is_named_with_the_reason(tmp_path, monkeypatch):
    blocks = SimpleNamespace(f_bavail=10, f_frsize=1 << 20, f_blocks=10)
    monkeypatch.setattr(os, "statvfs", lambda _path: blocks)
    with pytest.raises(NoPlace) as none:
        make([str(tmp_path / "no"), str(tmp_path)], 1 << 20, execute=True)
    assert str(none.value) == (
        f"{tmp_path}/no: No such file or directory; {tmp_path}: has room for 10 MiB, expected at least {1 + (SLACK >> 20)}"
    )
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_counts_nothing_is_taken_at_its_word(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=0, f_frsize=4096, f_blocks=0))
    assert make([str(tmp_path)], 1 << 30, execute=True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EPERM, "no"), "lets no code be loaded from there (is it mounted noexec?)"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_code_must_be_loadable_from_a_folder(tmp_path, monkeypatch, error, reason):
    def refuse(_folder):
        raise error

    monkeypatch.setattr(staging, "_load_from", refuse)
    with pytest.raises(NoPlace) as none:
        make([str(tmp_path)], 1, execute=True)
    assert str(none.value) == f"{tmp_path}: {reason}"
    assert os.listdir(tmp_path) == []
    assert make([str(tmp_path)], 1, execute=False)


def test_ones_own_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert places()[0] == str(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "no"))
    assert str(tmp_path) not in places()[0]


def test_what_is_packed_is_unpacked(tmp_path):
    unpack(tar((member("a/b/c"), b"x" * 100_000), (member("a/d", tarfile.DIRTYPE), b"")), str(tmp_path))
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x" * 100_000
    assert (tmp_path / "a" / "d").is_dir()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x"])
def test_nothing_is_unpacked_outside(tmp_path, name):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="expected a path inside the folder"):
        unpack(tar((member(name), b"x")), str(tmp_path / "in"))
    assert os.listdir(tmp_path) == ["in"]


def test_nothing_is_unpacked_twice(tmp_path):
    with pytest.raises(FileExistsError):
        unpack(tar((member("a"), b"x"), (member("a"), b"y")), str(tmp_path))
