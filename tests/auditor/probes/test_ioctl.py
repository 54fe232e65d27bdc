"""Opening a node: the kernel, not the name in /dev, says which device it is."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from auditor.probes.ioctl import opened


def refused(path) -> int | None:
    with pytest.raises(OSError) as error, opened(str(path)):
        pass
    return error.value.errno


def test_a_node_is_opened_by_its_own_name_and_by_a_link_to_it(tmp_path):
    (tmp_path / "link").symlink_to("/dev/null")
    for path in ("/dev/null", tmp_path / "link"):
        with opened(str(path)) as node:
            assert os.fstat(node).st_rdev == os.makedev(1, 3)


def test_what_is_no_node_is_not_opened(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    assert [refused(tmp_path / name) for name in ("file", "fifo", "none")] == [errno.ENXIO, errno.ENXIO, errno.ENOENT]


def test_the_node_of_another_device_in_the_place_of_one_is_not_opened(tmp_path):
    """vgem's render node as /dev/accel/accel0 would have the accelerator import whatever vgem imports."""
    try:
        os.mknod(tmp_path / "accel0", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device node")
    assert refused(tmp_path / "accel0") == errno.ENXIO
