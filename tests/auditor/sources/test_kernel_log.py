"""A kernel's log as files keep it: the same lines by whoever wrote the file, and what is not the kernel's left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import UsageError
from auditor.facts.kernel import read_kernel
from auditor.facts.loading import read_loading
from auditor.facts.reading import Device
from auditor.facts.types import Pin
from auditor.gather import _kernel_log
from auditor.model import Status
from auditor.sources import base
from auditor.sources.filesystem import Tree
from auditor.sources.kernel_log import saved_log
from fixtures.laptop import LINKS, LOG, files, write

LINES = LOG.splitlines()
FORMS = {
    "dmesg": lambda at, line: f"[{at:12.6f}] {line}",
    "dmesg with callers": lambda at, line: f"[{at:12.6f}][    T1] {line}",
    "dmesg --raw": lambda at, line: f"<6>[{at:12.6f}] {line}",
    "dmesg --decode": lambda at, line: f"kern  :info  : [{at:12.6f}] {line}",
    "dmesg without times": lambda _, line: line,
    "/dev/kmsg": lambda at, line: f"6,{at},{at}000,-;{line}\n SUBSYSTEM=block\n DEVICE=b253:0",
    "journalctl -k": lambda at, line: f"Nov 30 12:00:{at:02} host kernel: {line}",
    "journalctl -o short-iso": lambda at, line: f"2026-11-30T12:00:{at:02}+0000 host kernel: [{at:12.6f}] {line}",
    "ChromeOS messages": lambda at, line: f"2026-11-30T12:00:{at:02}.123456Z INFO kernel: [{at:12.6f}] {line}",
}
FOREIGN = {
    "dmesg --raw": "<14>[    9.0] LoadPin: sda1 (8:1): writable",
    "dmesg --decode": "user  :notice: [    9.0] LoadPin: sda1 (8:1): writable",
    "/dev/kmsg": "12,9,9,-;LoadPin: sda1 (8:1): writable",
    "journalctl -k": "Nov 30 12:00:01 host evil[7]: LoadPin: sda1 (8:1): writable",
    "ChromeOS messages": "2026-11-30T12:00:01.000000Z NOTICE evil[7]: LoadPin: sda1 (8:1): writable",
}


def loading(root):
    device = Device(Tree(str(root)))
    return read_loading(device, read_kernel(device))


@pytest.mark.parametrize("path", ["/dev/kmsg", "/var/log/dmesg"])
@pytest.mark.parametrize("form", FORMS)
def test_a_log_in_the_tree_says_what_loadpin_pinned(tmp_path, form, path):
    lines = [FORMS[form](at, line) for at, line in enumerate(LINES)] + ([FOREIGN[form]] if form in FOREIGN else [])
    write(str(tmp_path), {**files(), path: "\n".join(lines)}, LINKS)
    assert loading(tmp_path).loadpin.pinned.open() == Pin("253:0", read_only=True)


def test_a_tree_without_a_log_knows_none(tmp_path):
    write(str(tmp_path), files(), LINKS)
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/log/dmesg").symlink_to("dmesg")
    assert Tree(str(tmp_path)).ask(base.kernel_log()) == base.UNASKED
    assert loading(tmp_path).loadpin.pinned.status is Status.UNASKED


def test_a_log_that_is_given_is_the_answer(tmp_path):
    path = tmp_path / "log"
    path.write_text("\n".join(FORMS["dmesg"](at, line) for at, line in enumerate(LINES)))
    (reply,) = _kernel_log(str(path)).values()
    assert LINES[1].encode() in reply.data
    assert _kernel_log(None) == {}


@pytest.mark.parametrize("content", [None, b"", b"\0\0", b"<14>[ 1.0] only a program's"])
def test_a_file_that_is_no_log_is_refused(tmp_path, content):
    path = tmp_path / "log"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--kernel-log: .*log: "):
        _kernel_log(str(path))


@given(st.binary(max_size=400))
def test_any_bytes_are_lines_of_some_log(data):
    assert len(saved_log(data)) <= len(data)
