"""What a device says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.identity import LONGEST, read_identity
from auditor.facts.reading import Device
from auditor.facts.types import Identity
from auditor.model import Status
from auditor.sources.base import Reply
from auditor.sources.filesystem import Tree

if TYPE_CHECKING:
    from pathlib import Path

LSB = """\
CHROMEOS_RELEASE_BOARD=rex-signed-mp
CHROMEOS_RELEASE_BUILDER_PATH=rex-release/R126-15886.44.0
CHROMEOS_RELEASE_DESCRIPTION=15886.44.0 (Official Build) stable-channel rex
"""
OS = '# a comment\nNAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nBROKEN="\n'


def identity(root: Path, **files: str) -> Identity:
    for path, content in files.items():
        file = root / path.replace("__", "-").replace("_9", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return read_identity(Device(Tree(str(root))))


DMI, TREE = "sys_9class_9dmi_9id_9", "sys_9firmware_9devicetree_9base_9"


def test_a_chromebook(tmp_path):
    files = {"etc_9lsb__release": LSB, "etc_9os__release": OS, f"{DMI}sys_vendor": "Google\n", f"{DMI}product_name": "Karis\n"}
    found = identity(tmp_path, **files, **{f"{DMI}bios_version": "Google_Karis.15709.0.0\n"})
    assert found == Identity("rex-signed-mp", "rex-release/R126-15886.44.0", "Google_Karis.15709.0.0")


def test_another_machine(tmp_path):
    files = {"etc_9os__release": OS, f"{DMI}sys_vendor": "QEMU\n", f"{DMI}product_name": "Standard PC\n"}
    assert identity(tmp_path, **files) == Identity("QEMU Standard PC", "Debian GNU/Linux 12 (bookworm)", None)


def test_a_device_tree(tmp_path):
    files = {f"{TREE}model": "Google Tomato\0", f"{TREE}firmware_9chromeos_9firmware__version": "Google_Tomato.1.0\0"}
    assert identity(tmp_path, **files) == Identity("Google Tomato", None, "Google_Tomato.1.0")


def test_one_that_does_not_say(tmp_path):
    assert identity(tmp_path) == Identity()


@pytest.mark.parametrize("status", [Status.DENIED, Status.FAILED, Status.UNASKED])
def test_one_that_may_not_be_read(status):
    class Closed:
        kind = name = "x"

        def ask(self, _question):
            return Reply(status, errno=13)

    assert read_identity(Device(Closed())) == Identity()


@given(st.binary(max_size=400))
def test_whatever_it_says_can_be_shown(content):
    class Says:
        kind = name = "x"

        def ask(self, _question):
            return Reply(Status.OK, b"CHROMEOS_RELEASE_BOARD=" + content)

    found = read_identity(Device(Says()))
    for text in (found.board, found.build, found.firmware):
        assert text is None or (text.isprintable() and 0 < len(text) <= LONGEST)
