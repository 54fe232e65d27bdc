"""A tree of files as a device: links stay inside, nothing but regular files is read, every limit holds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import stat
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditor.model import Status
from auditor.sources import base, filesystem
from auditor.sources.base import Question, Reply
from auditor.sources.filesystem import Tree, kernel_properties

ABSENT = Reply(Status.ABSENT, errno=errno.ENOENT)


@pytest.fixture
def root(tmp_path):
    """A root with one file, beside a file that lies outside it."""
    (tmp_path / "outside").write_bytes(b"outside")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/file").write_bytes(b"content")
    return root


def ask(root, question):
    return Tree(str(root)).ask(question)


def content(root, path):
    return ask(root, base.read(path))


def failed(number):
    return Reply(Status.FAILED, errno=number)


# --- links -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/etc/file", "/link"),
        ("etc/file", "/link"),
        ("../../../etc/file", "/link"),
        ("/../etc/./file", "/link"),
        ("/etc//file", "/link"),
        ("/etc", "/link/file"),
        ("../etc/", "/link/./file"),
        (".", "/link/etc/file"),
        ("/", "/link/etc/file"),
        ("etc", "/link/../etc/file"),
        ("etc", "link/file"),
    ],
)
def test_links_are_followed_inside_the_root(root, target, path):
    (root / "link").symlink_to(target)
    assert content(root, path) == Reply(Status.OK, b"content")
    assert json.loads(ask(root, base.stat(path)).data)["real"] == "/etc/file"


@pytest.mark.parametrize("target", ["{outside}", "../outside", "/../outside", "etc/../../outside", "/etc/../../../outside"])
def test_links_never_lead_out_of_the_root(root, target):
    (root / "link").symlink_to(target.format(outside=root.parent / "outside"))
    for question in (base.read("/link"), base.stat("/link"), base.digest("/link"), base.names("/link"), base.xattr("/link", "user.x")):
        assert ask(root, question) == ABSENT


def test_a_link_to_a_file_of_the_machine_names_the_roots_own(root):
    (root / "link").symlink_to("/etc/passwd")
    assert content(root, "/link") == ABSENT
    (root / "etc/passwd").write_bytes(b"its own")
    assert content(root, "/link").data == b"its own"


def test_a_path_that_climbs_stops_at_the_root(root):
    assert content(root, "/../../outside") == ABSENT
    assert content(root, "/../../etc/file").data == b"content"


def test_a_folder_that_is_a_link_out_of_the_root_is_not_entered(root):
    (root / "folder").symlink_to(root.parent)
    assert content(root, "/folder/outside") == ABSENT
    assert ask(root, base.names("/folder")) == ABSENT


@pytest.mark.parametrize("path", ["/none/../etc/file", "/etc/file/../file", "/dangling/../etc/file", "/etc/file/x", "/none/x"])
def test_what_is_not_there_is_not_passed_through(root, path):
    (root / "dangling").symlink_to("/none")
    assert content(root, path).status is Status.ABSENT


def chain(root, count):
    (root / "link0").symlink_to("etc/file")
    for number in range(1, count):
        (root / f"link{number}").symlink_to(f"link{number - 1}")
    return f"/link{count - 1}"


def test_as_many_links_as_the_kernel_follows_and_no_more(root):
    path = chain(root, filesystem.LINK_LIMIT + 1)
    assert content(root, f"/link{filesystem.LINK_LIMIT - 1}").data == b"content"
    assert content(root, path) == failed(errno.ELOOP)


def test_a_loop_ends(root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "self").symlink_to("self/x")
    for path in ("/a", "/b/x", "/self"):
        assert content(root, path) == failed(errno.ELOOP)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENAMETOOLONG, errno.ESRCH, errno.EACCES, errno.EPERM])
def test_what_may_be_a_link_is_never_handed_to_the_kernel(root, monkeypatch, number):
    def readlink(path):
        raise OSError(number, "x")

    def opened(*arguments, **names):
        raise AssertionError(arguments)

    monkeypatch.setattr(os, "readlink", readlink)
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "scandir", opened)
    expected = Status.DENIED if number in {errno.EACCES, errno.EPERM} else Status.FAILED
    for question in (base.read("/etc/file"), base.names("/etc"), base.stat("/etc/file"), base.link("/etc/file")):
        assert ask(root, question) == Reply(expected, errno=number)


def test_the_links_own_target(root):
    (root / "link").symlink_to("/no/such\udcff")
    (root / "folder").symlink_to("etc")
    (root / "etc/inner").symlink_to("x")
    assert ask(root, base.link("/link")) == Reply(Status.OK, b"/no/such\xff")
    assert ask(root, base.link("/folder/inner")) == Reply(Status.OK, b"x")
    assert ask(root, base.link("/etc/file")) == failed(errno.EINVAL)
    assert ask(root, base.link("/")) == failed(errno.EINVAL)
    assert ask(root, base.link("/none")) == ABSENT


# --- reading -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 7, b"content"),
        (0, 100, b"content"),
        (3, 2, b"te"),
        (6, 1, b"t"),
        (7, 1, b""),
        (0, 0, b""),
        (1 << 62, 1, b""),
        ((1 << 63) - 1, 1, b""),
        (1 << 63, 1, b""),
        (1 << 100, 1 << 100, b""),
        (0, 1 << 100, b"content"),
    ],
)
def test_a_part_of_a_file(root, offset, length, expected):
    assert ask(root, base.read("/etc/file", offset, length)) == Reply(Status.OK, expected)


def test_a_part_before_the_beginning(root):
    for offset in (-1, -1 << 63, -1 << 100):
        assert ask(root, base.read("/etc/file", offset, 1)) == failed(errno.EINVAL)


def test_a_large_file_is_read_to_the_length_asked_for(root, monkeypatch):
    monkeypatch.setattr(filesystem, "CHUNK", 4)
    (root / "large").write_bytes(bytes(range(200)))
    assert ask(root, base.read("/large", 10, 50)).data == bytes(range(10, 60))
    assert ask(root, base.digest("/large")).data == hashlib.sha256(bytes(range(200))).hexdigest().encode()


def test_only_regular_files_are_read(root, monkeypatch):
    os.mkfifo(root / "fifo")
    with contextlib.suppress(PermissionError):
        os.mknod(root / "dev", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
    for name, kind in (("fifo", "fifo"), ("dev", "character"), ("socket", "socket")):
        if not os.path.lexists(root / name):
            continue  # only root makes device nodes
        for question in (base.read(f"/{name}"), base.digest(f"/{name}"), base.sonames(f"/{name}")):
            assert ask(root, question) == failed(errno.ENXIO)
        assert json.loads(ask(root, base.stat(f"/{name}")).data)["kind"] == kind
        assert ask(root, base.names(f"/{name}")) == failed(errno.ENOTDIR)
    assert content(root, "/etc") == failed(errno.EISDIR)


def test_a_file_that_turns_into_something_else_is_not_read(root, monkeypatch):
    """Between the look and the open it becomes a folder; the descriptor is closed again."""
    folder = os.open(root, os.O_RDONLY)
    monkeypatch.setattr(os, "open", lambda path, flags: folder)
    assert content(root, "/etc/file") == failed(errno.EISDIR)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(folder)


# --- listing -----------------------------------------------------------------------------------------------------------------------------


def test_a_listing_is_sorted_and_holds_any_name(root):
    for name in (b"b", b"a\xff", b"a", b"\xc3\xa9", b"new\nline"):
        (root / "etc" / os.fsdecode(name)).touch()
    listed = ask(root, base.names("/etc")).data
    assert listed.split(b"\0")[:-1] == sorted([b"file", b"b", b"a\xff", b"a", b"\xc3\xa9", b"new\nline"])
    assert ask(root, base.names("/")).data == b"etc\0"
    assert content(root, "/etc/a\udcff") == Reply(Status.OK, b"")


def test_a_folder_with_too_many_names_is_failed(root, monkeypatch):
    monkeypatch.setattr(filesystem, "LIST_LIMIT", 3)
    for number in range(2):
        (root / "etc" / str(number)).touch()
    assert ask(root, base.names("/etc")).data == b"0\x001\0file\0"
    (root / "etc/more").touch()
    assert ask(root, base.names("/etc")) == failed(errno.E2BIG)


def test_an_endless_folder_is_left_when_the_limit_is_reached(root, monkeypatch):
    looked = []

    class Endless:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            looked.append("closed")

        def __iter__(self):
            while True:
                looked.append(1)
                yield type("Entry", (), {"name": str(len(looked))})

    monkeypatch.setattr(os, "scandir", lambda path: Endless())
    assert ask(root, base.names("/etc")) == failed(errno.E2BIG)
    assert looked[-1] == "closed"
    assert len(looked) == base.LIST_LIMIT + 2


def test_a_file_is_no_folder_and_says_so(root):
    assert ask(root, base.names("/etc/file")) == failed(errno.ENOTDIR)
    assert ask(root, base.names("/none")) == ABSENT
    assert ask(root, base.names("/etc/file/x")).status is Status.ABSENT


# --- other questions ---------------------------------------------------------------------------------------------------------------------


def test_stat_says_everything_but_times(root):
    os.chmod(root / "etc/file", 0o4751)
    (root / "link\udcff").symlink_to("etc/file")
    found = os.lstat(root / "etc/file")
    assert json.loads(ask(root, base.stat("/link\udcff")).data) == {
        "real": "/etc/file",
        "kind": "file",
        "mode": 0o4751,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "size": 7,
        "blocks": found.st_blocks,
        "dev": found.st_dev,
        "ino": found.st_ino,
        "major": 0,
        "minor": 0,
    }
    assert json.loads(ask(root, base.stat("/")).data)["real"] == "/"
    (root / "dangling").symlink_to("none")
    assert ask(root, base.stat("/dangling")) == ABSENT
    (root / "\udcfe").touch()
    assert json.loads(ask(root, base.stat("/\udcfe")).data)["real"] == "/\udcfe"


def test_extended_attributes(root):
    try:
        os.setxattr(root / "etc/file", "user.test", b"\0value")
    except OSError as error:
        pytest.skip(f"this file system keeps no extended attributes: {error.strerror}")
    (root / "link").symlink_to("etc/file")
    assert ask(root, base.xattr("/link", "user.test")) == Reply(Status.OK, b"\0value")
    assert ask(root, base.xattr("/link", "user.none")) == Reply(Status.ABSENT, errno=errno.ENODATA)


@pytest.mark.parametrize(
    ("ranges", "hashed"),
    [
        ((), b"content"),
        (((0, 7),), b"content"),
        (((3, 2), (0, 1)), b"tec"),
        (((0, 0),), b""),
        (((5, 100),), b"nt"),
        (((1 << 70, 5),), b""),
    ],
)
@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_digests_of_ranges(root, algorithm, ranges, hashed):
    expected = hashlib.new(algorithm, hashed).hexdigest().encode()
    assert ask(root, base.digest("/etc/file", algorithm, ranges)) == Reply(Status.OK, expected)


def test_a_digest_of_more_than_the_limit_is_failed(root, monkeypatch):
    with open(root / "sparse", "wb") as file:
        file.truncate(filesystem.DIGEST_LIMIT + 1)
    assert ask(root, base.digest("/sparse")) == failed(errno.EFBIG)
    assert ask(root, base.digest("/sparse", ranges=((0, 10),))).status is Status.OK
    monkeypatch.setattr(filesystem, "DIGEST_LIMIT", 13)
    assert ask(root, base.digest("/etc/file", ranges=((0, 7), (0, 6)))).status is Status.OK
    assert ask(root, base.digest("/etc/file", ranges=((0, 7), (0, 1 << 80)))) == failed(errno.EFBIG)


def test_a_tree_is_hashed_and_searched_so_far_and_no_further(root, monkeypatch):
    monkeypatch.setattr(filesystem, "WORK_LIMIT", 20)
    (root / "big").write_bytes(b"x" * 8)
    tree = Tree(str(root))
    assert tree.ask(base.digest("/big")).status is Status.OK
    assert tree.ask(base.sonames("/big")).status is Status.OK
    assert [tree.ask(each) for each in (base.digest("/big"), base.sonames("/big"))] == [failed(errno.EFBIG)] * 2
    assert tree.ask(base.digest("/big", ranges=((0, 4),))).status is Status.OK
    assert tree.ask(base.digest("/big", ranges=((0, 1),))) == failed(errno.EFBIG)


def test_an_algorithm_that_is_not_there_is_not_answered(root):
    assert ask(root, base.digest("/etc/file", "none")).status is Status.UNASKED


def test_names_of_libraries_in_a_file(root, monkeypatch):
    (root / "lib").write_bytes(b"\0libx.so.1\0/opt/v/liby.so\0\x01libz.sox\0 libw.so.2.3\0")
    assert ask(root, base.sonames("/lib")).data == b"/opt/v/liby.so\0libw.so.2.3\0libx.so.1\0"
    monkeypatch.setattr(filesystem, "SCAN_NAMES", 2)
    assert ask(root, base.sonames("/lib")) == failed(errno.E2BIG)
    monkeypatch.setattr(filesystem, "SCAN_LIMIT", 10)
    assert ask(root, base.sonames("/lib")) == failed(errno.EFBIG)


def test_the_same_name_too_often_is_failed(root, monkeypatch):
    monkeypatch.setattr(filesystem, "SCAN_NAMES", 1)
    (root / "lib").write_bytes(b"a.so " * 300)
    assert ask(root, base.sonames("/lib")) == failed(errno.E2BIG)


@pytest.mark.parametrize("before", [0, 1, 250, 254, 255, 256, 495, 500, 505, 509, 510, 511, 512, 513, 1023])
def test_a_name_on_the_border_of_two_pieces_is_seen_once(root, monkeypatch, before):
    monkeypatch.setattr(filesystem, "SCAN_CHUNK", 512)
    monkeypatch.setattr(filesystem, "SCAN_NAMES", 1)
    (root / "lib").write_bytes(b" " * before + b"libvendor.so.7" + b" " * 1200)
    assert ask(root, base.sonames("/lib")).data == b"libvendor.so.7\0"


@pytest.mark.parametrize("before", [0, 1, 60, 64, 65, 100, 127, 128, 129])
def test_words_in_a_file(root, monkeypatch, before):
    monkeypatch.setattr(filesystem, "SCAN_CHUNK", 128)
    word = "w" * 64
    (root / "lib").write_bytes(b"." * before + word.encode() + b"." * 200 + b"other")
    assert ask(root, base.holds("/lib", word, "none", "other")) == Reply(Status.OK, word.encode() + b"\0other\0")
    assert ask(root, base.holds("/lib", "none")) == Reply(Status.OK, b"")
    monkeypatch.setattr(filesystem, "SCAN_LIMIT", 10)
    assert ask(root, base.holds("/lib", word)) == failed(errno.EFBIG)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.text("a/$b.%", min_size=1, max_size=5), unique=True, max_size=8), data=st.text("a/$b.%", max_size=60))
def test_words_that_hold_each_other_are_found(root, words, data):
    (root / "lib").write_text(data)
    found = b"".join(f"{word}\0".encode() for word in words if word in data)
    assert ask(root, base.holds("/lib", *words)) == Reply(Status.OK, found)


def test_what_a_tree_cannot_know_is_not_answered(root):
    for question in (base.kernel_log(), base.probe("dma-buf"), base.run("m", 0), base.plan(), Question("nonsense", "/etc/file")):
        assert ask(root, question) == base.UNASKED


@pytest.mark.parametrize("path", ["\0", "/etc/\0file", "/etc/file\0"])
def test_a_nul_names_nothing(root, path):
    for kind in (base.read, base.names, base.link, base.stat, base.digest, base.sonames, base.udev):
        assert ask(root, kind(path)) == ABSENT


def test_a_path_that_is_no_bytes_is_not_answered(root):
    assert content(root, "/\ud800") == base.UNASKED


def test_a_name_that_is_too_long_is_failed(root):
    assert content(root, "/" + "x" * 300) == failed(errno.ENAMETOOLONG)


@given(
    st.text(st.characters(codec=None), max_size=20), st.sampled_from(["read", "list", "link", "stat", "digest", "udev", "sonames", "xattr"])
)
def test_no_path_makes_a_tree_raise_or_answer_from_outside(path, kind):
    arguments = {"read": (0, 100), "digest": ("sha256",), "xattr": ("user.x",)}.get(kind, ())
    reply = Tree("/nonexistent-root").ask(Question(kind, path, arguments))
    assert reply.status in {Status.ABSENT, Status.UNASKED, Status.FAILED}
    assert reply.data == b""


def test_names(root):
    assert Tree(str(root)).name == "root"
    assert Tree(str(root) + "/", "named").name == "named"
    assert Tree("/").name == "/"
    assert Tree(str(root)).kind == "root"
    assert Tree("/x/\udcff").name == "\\xff"


# --- permissions -------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_privileges():
    """As an ordinary user, who may not read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def guarded():
    """A root that an ordinary user may enter, with a file and a folder that he may not."""
    root = tempfile.mkdtemp()
    os.chmod(root, 0o755)
    for name in ("open", "closed"):
        os.mkdir(f"{root}/{name}")
        with open(f"{root}/{name}/file", "wb"):
            pass
    os.symlink("../closed/file", f"{root}/open/link")
    os.chmod(f"{root}/open/file", 0)
    os.chmod(f"{root}/closed", 0)
    yield root
    os.chmod(f"{root}/closed", 0o755)
    shutil.rmtree(root)


def test_what_may_not_be_read_is_denied_and_not_absent(guarded):
    denied = Reply(Status.DENIED, errno=errno.EACCES)
    with without_privileges():
        assert content(guarded, "/open/file") == denied
        assert ask(guarded, base.stat("/open/file")).status is Status.OK
        for path in ("/closed/file", "/closed/none", "/open/link"):
            for question in (base.read(path), base.stat(path), base.digest(path), base.names(path)):
                assert ask(guarded, question) == denied
        assert ask(guarded, base.names("/closed")) == denied
        assert ask(guarded, base.link("/closed/file")) == denied
        assert ask(guarded, base.link("/open/link")).status is Status.OK


def test_what_was_denied_once_is_asked_again(guarded):
    tree = Tree(guarded)
    with without_privileges():
        assert tree.ask(base.read("/closed/file")).status is Status.DENIED
    os.chmod(f"{guarded}/closed", 0o755)
    assert tree.ask(base.read("/closed/file")).status is Status.OK


# --- udev --------------------------------------------------------------------------------------------------------------------------------


def device(root, path, **properties):
    folder = root / path.lstrip("/")
    folder.mkdir(parents=True)
    (folder / "uevent").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))


def member(root, folder, path):
    (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (root / folder.lstrip("/") / path.rpartition("/")[2]).symlink_to(path)


def devices(root, subsystem):
    reply = ask(root, base.udev(subsystem))
    assert reply.status is Status.OK
    return json.loads(reply.data)


def test_a_class_and_a_bus(root):
    device(root, "/sys/devices/b", MAJOR=261, DEVNAME="accel/accel0")
    device(root, "/sys/devices/a", MAJOR=262)
    device(root, "/sys/devices/p", PCI_SLOT_NAME="0000:00:05.0", OF_COMPATIBLE_0="x", ID_VENDOR_FROM_DATABASE="no")
    for path in ("/sys/devices/b", "/sys/devices/a"):
        member(root, "/sys/class/accel", path)
    member(root, "/sys/bus/pci/devices", "/sys/devices/p")
    assert devices(root, "accel") == [
        {"sys": "/sys/devices/a", "properties": {"MAJOR": "262"}},
        {"sys": "/sys/devices/b", "properties": {"MAJOR": "261", "DEVNAME": "accel/accel0"}},
    ]
    assert devices(root, "pci") == [{"sys": "/sys/devices/p", "properties": {"PCI_SLOT_NAME": "0000:00:05.0", "OF_COMPATIBLE_0": "x"}}]
    assert ask(root, base.udev("none")) == ABSENT


def test_a_name_may_be_class_and_bus(root):
    device(root, "/sys/devices/a")
    device(root, "/sys/devices/b")
    member(root, "/sys/class/mei", "/sys/devices/a")
    member(root, "/sys/bus/mei/devices", "/sys/devices/b")
    assert [each["sys"] for each in devices(root, "mei")] == ["/sys/devices/a", "/sys/devices/b"]


def test_an_attribute_of_a_class_is_no_device(root):
    device(root, "/sys/devices/a")
    member(root, "/sys/class/drm", "/sys/devices/a")
    (root / "sys/class/drm/version").write_text("drm 1.1.0")
    assert [each["sys"] for each in devices(root, "drm")] == ["/sys/devices/a"]


def test_a_device_that_is_not_there_is_still_named(root):
    """A link to nothing in an incomplete tree: something was there."""
    member(root, "/sys/class/accel", "/sys/devices/gone")
    (root / "sys/devices/bare").mkdir(parents=True)
    member(root, "/sys/class/accel", "/sys/devices/bare")
    assert devices(root, "accel") == [{"sys": "/sys/class/accel/gone", "properties": {}}, {"sys": "/sys/devices/bare", "properties": {}}]


def test_a_uevent_that_cannot_be_read_leaves_the_whole_open(root):
    device(root, "/sys/devices/a")
    (root / "sys/devices/b/uevent").mkdir(parents=True)
    for path in ("/sys/devices/a", "/sys/devices/b"):
        member(root, "/sys/class/accel", path)
    assert ask(root, base.udev("accel")) == failed(errno.EISDIR)


def test_a_folder_of_devices_that_cannot_be_listed_leaves_the_whole_open(root, monkeypatch):
    member(root, "/sys/class/accel", "/sys/devices/a")
    monkeypatch.setattr(filesystem, "LIST_LIMIT", 0)
    assert ask(root, base.udev("accel")) == failed(errno.E2BIG)


def test_a_loop_of_devices_leaves_the_whole_open(root):
    member(root, "/sys/class/accel", "/sys/class/accel/accel0")
    assert ask(root, base.udev("accel")) == failed(errno.ELOOP)


def test_only_the_kernels_own_properties_are_kept():
    assert kernel_properties({"DEVNAME": "/dev/dri/card0", "ID_PATH": "x", "OF_COMPATIBLE_N": "1", "SEQNUM": "4"}) == {
        "DEVNAME": "dri/card0",
        "OF_COMPATIBLE_N": "1",
    }


@given(st.binary(max_size=200))
def test_any_uevent_is_read(data):
    properties = filesystem._uevent(data)
    assert all(isinstance(each, str) for pair in properties.items() for each in pair)
    json.loads(filesystem.udev_document([{"sys": "/x", "properties": kernel_properties(properties)}]))
