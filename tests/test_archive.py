"""The cache and the reasons of the package archive; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests import archive

if TYPE_CHECKING:
    from pathlib import Path


def test_a_stage_is_made_once_for_its_inputs(tmp_path: Path) -> None:
    made: list[str] = []

    def stage(*inputs: str | bytes) -> Path:
        def make(place: Path) -> None:
            made.append(place.name)
            (place / "file").write_text("whole")

        return archive.cached(tmp_path, "stage", inputs, make)

    first = stage("a", b"b")
    assert (first / "file").read_text() == "whole"
    assert stage("a", "b") == first
    assert len(made) == 1
    assert len({first, stage("ab"), stage("a", "b", ""), stage("b", "a")}) == 4


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(place: Path) -> None:
        (place / "half").touch()
        raise archive.ArchiveError("no network")

    umask = os.umask(0o077)
    try:
        with pytest.raises(archive.ArchiveError):
            archive.cached(tmp_path, "stage", ["a"], fail)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)
    assert [path.name for path in tmp_path.iterdir()] == ["stage.lock"]


def test_a_failing_program_is_named_with_what_it_said() -> None:
    with pytest.raises(archive.ArchiveError, match="sh ended with 3: enough"):
        archive.run(["sh", "-c", "echo enough >&2; exit 3"])
    with pytest.raises(archive.ArchiveError, match="/nonexistent: No such file"):
        archive.run(["/nonexistent"])


def test_the_mirrors_are_those_that_serve_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = ("https://a/ bookworm main", "https://a/ bookworm-updates main", "https://b/ bookworm contrib", "https://c/ stable main")
    monkeypatch.setattr(archive, "run", lambda command: "\n".join((*targets, "https://a/ sid main")))
    assert archive.mirrors.__wrapped__() == ("https://a/", "https://c/")
    monkeypatch.setattr(archive, "run", lambda command: "https://c/ bookworm-security main\n")
    with pytest.raises(archive.ArchiveError, match="expected a Debian mirror"):
        archive.mirrors.__wrapped__()


def test_a_mirror_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if lacks := archive.missing():
        pytest.skip(f"this machine needs: {lacks}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(archive, "mirrors", lambda: (f"file:{tmp_path}/nowhere",))
    with pytest.raises(archive.ArchiveError, match="nowhere"):
        archive.unpacked("firmware-intel-misc", "non-free-firmware")
    assert {path.suffix for path in (tmp_path / "crosml-audit/packages").iterdir()} == {".lock"}


def test_where_there_are_no_packages_a_test_is_skipped_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda tool, path=None: None)
    expected = "packages of Debian trixie cannot be had: this machine needs: apt-get install --no-install-recommends apt dpkg"
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match=expected), archive.needed():
        archive.unpacked("firmware-intel-misc", "non-free-firmware")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=expected), archive.needed():
        archive.kernel_release()
