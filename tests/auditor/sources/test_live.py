"""This machine as a device: the same answers as from its tree of files, and the kernel's log."""

from __future__ import annotations

import builtins
import errno
import json
import os
import sys
from types import SimpleNamespace

import pytest

from auditor.facts.reading import Device
from auditor.model import Status
from auditor.sources import base, live
from auditor.sources.base import Reply
from auditor.sources.filesystem import Tree
from auditor.sources.live import Live


def subsystems():
    found = {name for folder in ("/sys/class", "/sys/bus") if os.path.isdir(folder) for name in os.listdir(folder)}
    return sorted(found)


def have_udev():
    try:
        import pyudev

        pyudev.Context()
    except ImportError:
        return False
    return True


@pytest.mark.skipif(not have_udev(), reason="libudev is not installed here")
@pytest.mark.parametrize("subsystem", subsystems())
def test_pyudev_and_the_tree_give_the_same_devices(subsystem):
    by_udev, by_tree = (source.ask(base.udev(subsystem)) for source in (Live(), Tree("/")))
    assert by_udev.status is by_tree.status is Status.OK
    assert json.loads(by_udev.data) == json.loads(by_tree.data)
    assert by_udev == by_tree


def test_a_subsystem_that_is_not_there_is_absent():
    assert Live().ask(base.udev("no-such-subsystem")) == Reply(Status.ABSENT, errno=errno.ENOENT)


@pytest.fixture
def rooted(tmp_path):
    """A machine of which everything but pyudev sees a small tree."""
    folder = tmp_path / "sys/devices/a"
    folder.mkdir(parents=True)
    (folder / "uevent").write_text("MAJOR=261\n")
    (tmp_path / "sys/class/accel").mkdir(parents=True)
    (tmp_path / "sys/class/accel/accel0").symlink_to("/sys/devices/a")
    machine = Live()
    machine._root = str(tmp_path)
    return machine


EXPECTED = Reply(Status.OK, b'[{"properties": {"MAJOR": "261"}, "sys": "/sys/devices/a"}]')


def test_without_pyudev_the_tree_answers(rooted, monkeypatch):
    imported = builtins.__import__

    def refuse(name, *arguments):
        if name == "pyudev":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert rooted.ask(base.udev("accel")) == EXPECTED


def stub(monkeypatch, context):
    monkeypatch.setitem(sys.modules, "pyudev", SimpleNamespace(Context=context))


def test_without_libudev_the_tree_answers(rooted, monkeypatch):
    def context():
        raise ImportError("No library named udev")

    stub(monkeypatch, context)
    assert rooted.ask(base.udev("accel")) == EXPECTED


def test_where_a_property_is_not_utf_8_the_tree_answers(rooted, monkeypatch):
    def listed(subsystem):
        b"\xff".decode()

    stub(monkeypatch, lambda: SimpleNamespace(list_devices=listed))
    assert rooted.ask(base.udev("accel")) == EXPECTED


def test_udevs_own_database_is_left_out(rooted, monkeypatch):
    device = SimpleNamespace(sys_path="/sys/devices/b", properties={"DEVNAME": "/dev/accel/accel0", "ID_VENDOR": "x", "DRIVER": "npu"})
    stub(monkeypatch, lambda: SimpleNamespace(list_devices=lambda subsystem: [device]))
    assert json.loads(rooted.ask(base.udev("accel")).data) == [
        {"sys": "/sys/devices/b", "properties": {"DEVNAME": "accel/accel0", "DRIVER": "npu"}}
    ]


def test_a_folder_that_pyudev_could_not_list_is_not_empty(rooted, monkeypatch):
    """libudev says nothing of what it may not read."""
    stub(monkeypatch, lambda: SimpleNamespace(list_devices=lambda subsystem: []))

    def denied(path):
        raise PermissionError(errno.EACCES, "x")

    monkeypatch.setattr(os, "scandir", denied)
    assert rooted.ask(base.udev("accel")) == Reply(Status.DENIED, errno=errno.EACCES)


# --- the kernel's log --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kmsg(monkeypatch):
    """Answer reads of /dev/kmsg from a script."""

    def script(*records):
        left = list(records)
        reader, writer = os.pipe()
        os.close(writer)

        def read(descriptor, size):
            each = left.pop(0) if left else BlockingIOError(errno.EAGAIN, "x")
            if isinstance(each, Exception):
                raise each
            return each

        monkeypatch.setattr(os, "open", lambda path, flags: reader)
        monkeypatch.setattr(os, "read", read)
        monkeypatch.setattr(live, "LOG_DEVICE", os.fstat(reader).st_rdev)
        return reader

    return script


def test_the_log_is_one_message_a_line(kmsg):
    reader = kmsg(b"6,1,0,-;first; with more\n SUBSYSTEM=pci\n", BrokenPipeError(), b"4,2,9,-;second\n")
    assert Live().ask(base.kernel_log()) == Reply(Status.OK, b"first; with more\nsecond")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_what_user_space_wrote_into_the_log_is_left_out(kmsg):
    """Otherwise anything could say `LoadPin: dm-0 (253:0): read-only`."""
    kmsg(b"14,1,0,-;LoadPin: forged\n", b"6,2,0,-;LoadPin: real\n", b"30,3,0,-;daemon\n", b"odd;odd\n")
    assert Live().ask(base.kernel_log()).data == b"LoadPin: real"


def test_an_empty_log(kmsg):
    kmsg()
    assert Live().ask(base.kernel_log()) == Reply(Status.OK)


def test_a_log_is_kept_up_to_a_limit(kmsg, monkeypatch):
    monkeypatch.setattr(live, "LOG_LIMIT", 10)
    kmsg(*[b"6,1,0,-;message\n"] * 100)
    assert Live().ask(base.kernel_log()).data == b"message\nmessage"


def test_something_else_in_the_logs_place_is_failed(kmsg):
    kmsg(b"6,1,0,-;first\n", b"")
    assert Live().ask(base.kernel_log()) == Reply(Status.FAILED, errno=errno.EIO)


def test_a_terminal_in_the_logs_place_is_not_read(monkeypatch):
    """Its owner could type `6,1,0,-;LoadPin: …`, with the kernel's own facility."""
    ours, theirs = os.openpty()
    os.write(ours, b"6,1,0,-;LoadPin: forged\n")
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened(os.ttyname(theirs), flags | os.O_NOCTTY))
    assert Live().ask(base.kernel_log()) == Reply(Status.FAILED, errno=errno.ENXIO)
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(("number", "status"), [(errno.EPERM, Status.DENIED), (errno.EINVAL, Status.FAILED)])
def test_a_log_that_may_not_be_read(kmsg, monkeypatch, number, status):
    kmsg(OSError(number, "x"))
    assert Live().ask(base.kernel_log()) == Reply(status, errno=number)

    def refuse(path, flags):
        raise OSError(number, "x")

    monkeypatch.setattr(os, "open", refuse)
    assert Live().ask(base.kernel_log()) == Reply(status, errno=number)


def test_probes_are_tried_where_they_may_be():
    answered = Reply(Status.OK, b"{}")
    assert Live(lambda question: answered).ask(base.probe("x")) == answered
    assert Live().ask(base.probe("x")) == base.UNASKED


def test_this_machine_has_a_name_and_answers_the_rest_as_a_tree():
    machine = Live()
    assert machine.kind == "live"
    assert machine.name
    release = machine.ask(base.read("/proc/sys/kernel/osrelease"))
    assert release.data.decode().strip() == os.uname().release
    assert machine.ask(base.plan()) == base.UNASKED


MOUNTS = (
    "22 27 0:21 / /proc rw,relatime - proc proc rw",
    "23 27 0:22 / /sys rw,relatime shared:7 - sysfs sysfs rw",
    "29 25 0:8 / /sys/kernel/debug rw,relatime - debugfs debugfs rw",
    "30 29 0:13 / /sys/kernel/debug/tracing rw,relatime - tracefs tracefs rw",
    "31 22 0:21 /sys /proc/sys ro,relatime - proc proc rw",
    "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
)
TYPE = "/sys/kernel/iommu_groups/1/type"


def covered(tmp_path, *lines: str) -> frozenset[str]:
    (tmp_path / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    return live.covered(str(tmp_path / "mountinfo"))


def test_nothing_covers_the_kernels_files_where_its_own_file_systems_are_mounted(tmp_path):
    assert covered(tmp_path, *MOUNTS) == frozenset()


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (f"40 23 0:2 /tmp/type {TYPE} rw - rootfs rootfs rw", TYPE),
        (f"40 23 0:22 /kernel/iommu_groups/2/type {TYPE} rw - sysfs sysfs rw", TYPE),
        ("40 23 0:60 / /sys/class/iommu rw - tmpfs none rw", "/sys/class/iommu"),
        ("40 23 0:60 / /sys rw - tmpfs none rw", "/sys"),
        ("40 23 0:60 / /sys/kernel/tracing rw - fuse.x none rw", "/sys/kernel/tracing"),
        (r"40 23 0:60 / /sys/class/a\040b rw - tmpfs none rw", "/sys/class/a b"),
    ],
)
def test_what_is_mounted_over_the_kernels_files_is_found(tmp_path, line, path):
    assert covered(tmp_path, *MOUNTS, line) == {path}


def test_a_machine_without_the_kernels_file_systems_has_none_of_its_word(tmp_path):
    assert covered(tmp_path, MOUNTS[-1]) == covered(tmp_path, "damaged") == live.covered(str(tmp_path / "none")) == {"/proc", "/sys"}


def test_what_someone_mounted_over_the_kernels_files_is_not_read_as_the_kernels(tmp_path, monkeypatch):
    """`DMA-FQ` bound over the type of a group with an identity mapping would have security-3 pass."""
    monkeypatch.setattr(live, "covered", lambda _: frozenset({TYPE, "/sys/class/accel"}))
    machine = Live()
    machine._root = str(tmp_path)
    (tmp_path / TYPE[1:]).parent.mkdir(parents=True)
    (tmp_path / TYPE[1:]).write_text("DMA-FQ\n")
    (tmp_path / "sys/class/accel/accel0").mkdir(parents=True)
    (tmp_path / "sys/link").symlink_to("/sys/class/accel/accel0")
    refused = Reply(Status.FAILED, errno=errno.EXDEV)
    questions = (base.read(TYPE), base.stat("/sys/link/uevent"), base.udev("accel"), base.names("/sys/class/accel"))
    assert [machine.ask(question) for question in questions] == [refused] * 4
    assert machine.ask(base.names("/sys/kernel")).data == b"iommu_groups\0"
    assert Device(machine).text(TYPE).note == "something is mounted over the kernel's own files there"


def test_a_device_whose_properties_are_covered_is_not_taken_from_udev(rooted, monkeypatch):
    rooted._covered = frozenset({"/sys/devices/a/uevent"})
    stub(monkeypatch, lambda: SimpleNamespace(list_devices=lambda **_: [SimpleNamespace(sys_path="/sys/devices/a", properties={})]))
    assert rooted.ask(base.udev("accel")) == Reply(Status.FAILED, errno=errno.EXDEV)
