"""The pieces of the zoo's process on a device; tests/auditor/inference/test_over_ssh.py has the whole of it."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest

from auditor import frames
from auditor.bench import remote, staging

if TYPE_CHECKING:
    import io


@pytest.fixture(autouse=True)
def temporary(monkeypatch):
    """The folder that is made for temporary files is for this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", None)


def replies(*sent: bytes) -> list[dict]:
    """What is replied to some frames."""
    (give, requests), (take, put) = reversed(os.pipe()), os.pipe()
    writer = threading.Thread(target=lambda: [*(frames.write(give, each) for each in sent), os.close(give)])
    writer.start()
    job = remote.Job(requests, put)
    try:
        job.serve()
    finally:
        job.clean()
        os.close(put)
        writer.join()
    found = []
    while (frame := frames.read(take)) is not None:
        found.append(json.loads(frame))
    os.close(take)
    os.close(requests)
    return found


def request(**content: object) -> bytes:
    return json.dumps(content).encode()


def test_a_full_device_is_said_and_the_rest_is_read(tmp_path, monkeypatch):
    def full(stream: io.BufferedIOBase, _folder: str) -> None:
        stream.read(10)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(staging, "unpack", full)
    stage = request(do="stage", device_dir=str(tmp_path), bytes=1, execute=True)
    told = replies(stage, request(do="unpack"), *[b"=" + b"x" * 50_000] * 20, b"=", request(do="unpack"), b"=")
    folder = told[0]["folder"]
    assert told[1:] == [
        {"end": {"folder": folder, "problem": ""}},
        {"end": {"problem": f"{folder}: No space left on device"}},
        {"end": {"problem": f"{folder}: No space left on device"}},
    ]
    assert os.listdir(tmp_path) == []


def test_a_folder_is_removed_in_the_end(tmp_path):
    (folder, _end) = replies(request(do="stage", device_dir=str(tmp_path), bytes=0, execute=False))
    assert folder["folder"].startswith(f"{tmp_path}/crosml-audit-")
    assert os.listdir(tmp_path) == []


def test_no_place_is_a_reply(tmp_path):
    (end,) = replies(request(do="stage", device_dir=str(tmp_path / "no"), bytes=0, execute=False))
    assert end == {"end": {"folder": "", "problem": f"{tmp_path}/no: No such file or directory"}}
