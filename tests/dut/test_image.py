"""The cache and the list of tools of the virtual device's image; nothing is booted or downloaded."""

from __future__ import annotations

import os
import platform
import shutil
from typing import TYPE_CHECKING

import image
import machine
import pytest

if TYPE_CHECKING:
    from pathlib import Path


def test_a_stage_is_made_once_for_its_inputs(tmp_path: Path) -> None:
    made: list[str] = []

    def stage(*inputs: str | bytes) -> Path:
        def make(place: Path) -> None:
            made.append(place.name)
            (place / "file").write_text("whole")

        return image.cached(tmp_path, "stage", inputs, make)

    first = stage("a", b"b")
    assert (first / "file").read_text() == "whole"
    assert stage("a", "b") == first
    assert len(made) == 1
    assert len({first, stage("ab"), stage("a", "b", ""), stage("b", "a")}) == 4


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(place: Path) -> None:
        (place / "half").touch()
        raise image.ImageError("no network")

    umask = os.umask(0o077)
    try:
        with pytest.raises(image.ImageError):
            image.cached(tmp_path, "stage", ["a"], fail)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)
    assert [path.name for path in tmp_path.iterdir()] == ["stage.lock"]


def test_a_failing_program_is_named_with_what_it_said() -> None:
    with pytest.raises(image.ImageError, match="sh ended with 3: enough"):
        image.run(["sh", "-c", "echo enough >&2; exit 3"])
    with pytest.raises(image.ImageError, match="/nonexistent: No such file"):
        image.run(["/nonexistent"])


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(image, "KEYRING", image.HERE)
    monkeypatch.setattr(shutil, "which", lambda tool, path=None: None if tool in {"cpio", "qemu-system-x86_64"} else tool)
    assert machine.missing() == "apt-get install --no-install-recommends cpio qemu-system-x86"
    monkeypatch.setattr(shutil, "which", lambda tool, path=None: tool)
    assert machine.missing() == ""
    monkeypatch.setattr(image, "KEYRING", image.HERE / "nowhere")
    assert machine.missing() == "apt-get install --no-install-recommends debian-archive-keyring"
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert machine.missing() == "an x86_64 machine; this is riscv64"
