"""A device that only has a shell: it gives the answers that its own Python would give, and misbehaves as devices do."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from auditor.errors import AuditError
from auditor.model import Status
from auditor.sources import base, shell
from auditor.sources.live import Live
from auditor.sources.shell import Shell
from auditor.sources.ssh import Lost

NAMES = (b"two\nlines", b" space ", b"-n", b"*", b"$(reboot)", b"'\"\\", b"caf\xc3\xa9", b"\xff\xfe", b".hidden", b"..two", b"end\n")
HERE = 'for command; do :; done; eval "$command"'


@pytest.fixture(
    params=[
        "dash",
        pytest.param("busybox", marks=pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")),
        pytest.param("bash", marks=pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")),
    ]
)
def device(request, tmp_path, monkeypatch):
    """A shell on this machine, over an `ssh` that is a script."""
    connect = connecting(tmp_path, monkeypatch)
    if request.param == "busybox":  # all of its tools, in the place of GNU's
        subprocess.run(["busybox", "--install", "-s", tmp_path / "bin"], check=True)
    else:
        (tmp_path / "bin" / "sh").symlink_to(shutil.which(request.param) or "/bin/sh")
    with connect(HERE) as found:
        yield found


def connecting(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def connect(script, timeout=60.0):
        (tmp_path / "bin" / "ssh").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "ssh").chmod(0o755)
        return Shell("root@dut", timeout=timeout)

    return connect


@pytest.fixture
def tree(tmp_path):
    """Files of every kind, and names that a shell takes for something else."""
    root = tmp_path / "tree"
    (root / "folder").mkdir(parents=True)
    (root / "file").write_bytes(bytes(range(256)) * 3 + b"\n\n")
    (root / "empty").touch()
    (root / "big").write_bytes(b"libvendor.so.1\0middle" + os.urandom(3 << 20) + b"\0libother.so\0")
    for name in (
        b"two\nlines",
        b" space ",
        b"-n",
        b"*",
        b"$(reboot)",
        b"'\"\\",
        b"caf\xc3\xa9",
        b"\xff\xfe",
        b".hidden",
        b"..two",
        b"end\n",
    ):
        (root / "folder" / os.fsdecode(name)).write_bytes(name)
    (root / "link").symlink_to("folder/../file")
    (root / "absolute").symlink_to(root / "folder")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "newline").symlink_to("target\n")
    os.mkfifo(root / "fifo")
    (root / "mode").touch(0o4751)
    return root


def questions(root):
    paths = [os.path.join(str(root), "folder", os.fsdecode(name)) for name in NAMES]
    paths += [
        str(root / name)
        for name in ("file", "empty", "big", "folder", "link", "absolute", "absolute/-n", "dangling", "loop", "newline", "fifo", "mode")
    ]
    paths += [str(root / "none"), str(root / "file" / "below"), "/", "/proc/version", "/dev/null", "/sys/kernel"]
    for path in paths:
        yield base.link(path)
        yield base.stat(path)
        yield base.read(path)
        yield base.read(path, 100, 50)
        yield base.names(path)
        yield base.digest(path)
        yield base.digest(path, "sha256", ((1, 10), (100, 20)))
    yield base.sonames(str(root / "big"))
    yield base.holds(str(root / "big"), "middle", "nothing")
    for subsystem in ("mem", "net", "none"):
        yield base.udev(subsystem)


def test_the_answers_are_those_of_the_devices_own_python(device, tree):
    live = Live()
    for question in questions(tree):
        assert device.ask(question) == live.ask(question), question


def test_the_process_of_its_own_is_the_shell(device):
    assert b" - proc " in device.ask(base.read("/proc/self/mountinfo")).data
    assert device.ask(base.read("/proc/self/comm")).data.strip() in {b"sh", b"dash", b"bash", b"busybox"}


def test_what_a_shell_cannot_know_is_unasked(device, tree):
    for question in (base.xattr(str(tree / "file"), "security.ima"), base.probe("dma-buf"), base.run("model"), base.plan()):
        assert device.ask(question).status is Status.UNASKED


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs a user who may not read everything")
def test_what_may_not_be_read_is_denied(tmp_path, tree, monkeypatch):
    os.chmod(tmp_path, 0o755)
    for parent in list(tmp_path.parents)[:-2]:
        os.chmod(parent, 0o755)
    for name, mode in (("secret", 0), ("closed", 0)):
        (tree / name).mkdir() if name == "closed" else (tree / name).write_text("x")
        os.chmod(tree / name, mode)
    drop = "setpriv --reuid=65534 --regid=65534 --clear-groups" if os.geteuid() == 0 else ""
    with connecting(tmp_path, monkeypatch)(f'for command; do :; done; exec {drop} sh -c "$command"') as device:
        for question in (base.read(str(tree / "secret")), base.names(str(tree / "closed")), base.stat(str(tree / "closed" / "x"))):
            assert device.ask(question).status is Status.DENIED, question
        assert device.ask(base.stat(str(tree / "secret"))).status is Status.OK
        assert device.ask(base.read(str(tree / "none"))).status is Status.ABSENT


def test_the_kernels_log_is_without_what_user_space_wrote(tmp_path, monkeypatch):
    connect = connecting(tmp_path, monkeypatch)
    (tmp_path / "log").write_text("<6>[    1.5] IOMMU enabled\n<14>[    2.0] typed by a user\n<4>[3.25] x\ty\\\n")
    (tmp_path / "bin" / "dmesg").write_text(f"#!/bin/sh\ncat {tmp_path}/log\n")
    (tmp_path / "bin" / "dmesg").chmod(0o755)
    with connect(HERE) as device:
        assert device.ask(base.kernel_log()).data == b"IOMMU enabled\nx\\x09y\\x5c"


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("exit 3", Lost, "the connection ended"),
        ("exec sleep 600", Lost, "no answer within 1 s"),
        ("exec cat /dev/zero", AuditError, "its shell sends more than it was asked for"),
        (f"(sleep 0.3; kill -9 $$) >/dev/null & {HERE}", Lost, "the connection ended"),
    ],
    ids=["ends", "silent", "endless", "is killed"],
)
def test_a_connection_that_comes_to_nothing_is_one_line(tmp_path, monkeypatch, script, error, said):
    connect = connecting(tmp_path, monkeypatch)
    with pytest.raises(error) as raised, connect(script, timeout=1) as device:
        [device.ask(base.stat(f"/{number}")) for number in range(100_000)]
    assert str(raised.value) == f"--host root@dut: {said}"


def test_a_file_that_is_too_large_to_copy_is_failed(device, tree, monkeypatch):
    monkeypatch.setattr(shell, "FILE_LIMIT", 1 << 20)
    assert device.ask(base.sonames(str(tree / "big"))).status is Status.FAILED
    assert device.ask(base.read(str(tree / "big"))).status is Status.OK
