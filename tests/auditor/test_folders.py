"""Folders that strangers filled are removed, whatever they did to them."""

from __future__ import annotations

import os

import pytest

from auditor import folders


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "scratch"
    found.mkdir()
    return found


def test_all_kinds_of_files(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    outside.chmod(0o500)
    (folder / "file").write_text("")
    os.mkfifo(folder / "pipe")
    os.symlink(outside, folder / "link")
    os.symlink("nowhere", folder / "dangling")
    (folder / "a/b/c").mkdir(parents=True)
    os.symlink(outside, folder / "a/b/link")
    (folder / "a/b/file").write_text("")
    folders.remove(str(folder))
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["kept"]
    assert outside.stat().st_mode & 0o777 == 0o500


def test_folders_that_may_not_be_read(folder):
    for name, mode in (("none", 0), ("hidden", 0o300), ("listed", 0o400)):
        (folder / name / "below").mkdir(parents=True)
        (folder / name / "file").write_text("")
        (folder / name / "below/file").write_text("")
        (folder / name / "below").chmod(mode)
        (folder / name).chmod(mode)
    folders.remove(str(folder))
    assert not folder.exists()


def test_a_tree_that_is_deeper_than_a_path_is_long(folder):
    before = os.getcwd()
    try:
        os.chdir(folder)
        for _ in range(1200):
            os.mkdir("deep", 0o300)
            os.chdir("deep")
            open("file", "w").close()
    finally:
        os.chdir(before)
    folders.remove(str(folder))
    assert not folder.exists()


def test_what_is_not_there(folder):
    folders.remove(str(folder / "nothing"))
    assert folder.exists()


def test_a_link_is_not_followed(folder, tmp_path):
    (folder / "kept").write_text("")
    os.symlink(folder, tmp_path / "link")
    folders.remove(str(tmp_path / "link"))
    assert (folder / "kept").exists()
