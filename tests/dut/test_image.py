"""What the virtual device's image needs of this machine; nothing is booted or downloaded."""

from __future__ import annotations

import platform
import shutil
from typing import TYPE_CHECKING

import image
import machine
from configurations import VIRT

from tests import archive

if TYPE_CHECKING:
    import pytest


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(archive, "KEYRING", image.HERE)
    monkeypatch.setattr(shutil, "which", lambda tool, path=None: None if tool in {"cpio", "qemu-system-x86_64"} else tool)
    assert machine.missing() == "apt-get install --no-install-recommends cpio qemu-system-x86"
    assert machine.missing(VIRT) == "apt-get install --no-install-recommends cpio"
    monkeypatch.setattr(shutil, "which", lambda tool, path=None: None if tool == "qemu-system-aarch64" else tool)
    assert machine.missing() == ""
    assert machine.missing(VIRT) == "apt-get install --no-install-recommends qemu-system-arm"
    monkeypatch.setattr(shutil, "which", lambda tool, path=None: tool)
    monkeypatch.setattr(archive, "KEYRING", image.HERE / "nowhere")
    assert machine.missing() == "apt-get install --no-install-recommends debian-archive-keyring"
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert machine.missing() == "an x86_64 machine; this is riscv64"
