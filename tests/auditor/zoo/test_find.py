from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditor.errors import UsageError
from auditor.zoo import find
from auditor.zoo.catalogue import Baseline, IdentityKind, ZooModel
from auditor.zoo.generate import generate
from auditor.zoo.pins import read_manifest

NAME = "convolution_benchmark_1_144x256"
MODEL = ZooModel(NAME, "use", (f"{NAME}.tflite", "convolution_benchmark_144_256_1.tflite"), Baseline(4.0), no_graph="none")


@pytest.fixture(scope="module")
def content() -> bytes:
    return generate(NAME)


def tar(*members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as archive:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
            else:
                archive.addfile(member)
    return out.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data, compress_type=compression)
    return out.getvalue()


def write(path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("kind", ["tar", "gz", "xz", "multi.xz", "multi.gz", "zip", "directory"])
def test_models_are_found(kind, content, tmp_path):
    inner, extra = f"ml-test-assets/{NAME}.tflite", ("ml-test-assets/README.md", b"read me")
    if kind == "directory":
        (tmp_path / "ml-test-assets").mkdir()
        write(tmp_path / inner, content)
        source = str(tmp_path)
    elif kind == "zip":
        source = write(tmp_path / "zoo.any", zipped((inner, content), extra))
    else:
        plain = tar((inner, content), extra)
        half = len(plain) // 2
        packed = {
            "tar": lambda: plain,
            "gz": lambda: gzip.compress(plain),
            "xz": lambda: lzma.compress(plain, preset=0),
            "multi.xz": lambda: lzma.compress(plain[:half], preset=0) + bytes(8) + lzma.compress(plain[half:], preset=0),
            "multi.gz": lambda: gzip.compress(plain[:half]) + gzip.compress(plain[half:]),
        }[kind]
        source = write(tmp_path / "zoo.any", packed())
    found = find.find_models(source, [MODEL])
    assert set(found) == {NAME}
    model = found[NAME]
    assert model.content == content
    assert model.sha256 == hashlib.sha256(content).hexdigest()
    assert model.identity.kind is IdentityKind.STAND_IN
    assert model.path.startswith(source)
    assert model.path.endswith(inner)


def test_preferred_and_shallow_files_win(content, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    later = write(tmp_path / "convolution_benchmark_144_256_1.tflite", b"later name")
    assert find.find_models(str(tmp_path), [MODEL])[NAME].path == later
    write(tmp_path / "a" / "b" / f"{NAME}.tflite", b"deep")
    shallow = write(tmp_path / "a" / f"{NAME}.tflite", content)
    assert find.find_models(str(tmp_path), [MODEL])[NAME].path == shallow
    assert find.find_models(str(tmp_path / "a" / "b"), []) == {}


def test_what_is_no_model_is_found_and_named_so(tmp_path):
    write(tmp_path / f"{NAME}.tflite", b"\x7fELF and more")
    identity = find.find_models(str(tmp_path), [MODEL])[NAME].identity
    assert identity.kind is IdentityKind.OTHER
    assert "no TFLite model" in identity.reason


def test_links_do_not_leave_a_directory(content, tmp_path):
    outside = write(tmp_path / "outside.tflite", content)
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    (zoo / f"{NAME}.tflite").symlink_to(outside)
    assert find.find_models(str(zoo), [MODEL]) == {}
    (zoo / f"{NAME}.tflite").unlink()
    write(zoo / "real", content)
    (zoo / f"{NAME}.tflite").symlink_to("real")
    assert find.find_models(str(zoo), [MODEL])[NAME].content == content


def test_a_pipe_in_a_directory_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / f"{NAME}.tflite")
    with pytest.raises(UsageError, match="expected a regular file"):
        find.find_models(str(tmp_path), [MODEL])


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


WANTED = f"{NAME}.tflite"


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (lambda: tar((f"/etc/{WANTED}", b"x")), "expected a path inside"),
        (lambda: tar((f"a/../../{WANTED}", b"x")), "expected a path inside"),
        (lambda: tar((f"C:{WANTED}", b"x")), "expected a path inside"),
        (lambda: tar(member(WANTED, tarfile.SYMTYPE, "/etc/shadow")), "not a link or a device"),
        (lambda: tar(member("other", tarfile.LNKTYPE, "/etc/shadow")), "not a link or a device"),
        (lambda: tar(member("disk", tarfile.BLKTYPE)), "not a link or a device"),
        (lambda: tar(member("zero", tarfile.CHRTYPE)), "not a link or a device"),
        (lambda: tar(member("pipe", tarfile.FIFOTYPE)), "not a link or a device"),
        (lambda: tar((WANTED, b"x"), (WANTED, b"y")), "is there twice"),
        (lambda: zipped((f"../{WANTED}", b"x")), "expected a path inside"),
        (lambda: zipped((f"/{WANTED}", b"x")), "expected a path inside"),
        (lambda: zipped((zip_link(WANTED), b"/etc/shadow")), "not a link or a device"),
        (lambda: zipped((WANTED, b"x"), compression=zipfile.ZIP_BZIP2), "expected deflate"),
    ],
)
def test_archives_that_reach_out_are_refused_as_a_whole(archive, reason, content, tmp_path):
    source = write(tmp_path / "zoo", archive())
    with pytest.raises(find.BadArchive, match=reason) as refused:
        find.find_models(source, [MODEL])
    assert str(refused.value).startswith(f"{source}: member '")
    assert "\n" not in str(refused.value)


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


ZEROS = bytes(8 << 20)


@pytest.mark.parametrize(
    "archive",
    [
        lambda: gzip.compress(tar((WANTED, ZEROS))),
        lambda: lzma.compress(tar(("other", ZEROS)), preset=0),
        lambda: zipped((WANTED, ZEROS)),
        lambda: zipped(("other", ZEROS)),
    ],
)
def test_bombs_are_refused(archive, tmp_path):
    source = write(tmp_path / "zoo", archive())
    with pytest.raises(find.BadArchive, match=r"unpacks to (more than|over) 100 times"):
        find.find_models(source, [MODEL])


def test_limits(monkeypatch, content, tmp_path):
    plain = write(tmp_path / "zoo.tar", tar((WANTED, content), ("b", b"b"), ("c", b"c")))
    packed = write(tmp_path / "zoo.zip", zipped((WANTED, content), ("b", b"b"), ("c", b"c")))
    directory = str(tmp_path)
    for name, limit, reason in (
        ("MAX_MEMBERS", 2, "more than 2"),
        ("MAX_MODEL", 1000, "at most 1000"),
        ("MAX_TOTAL", 1000, "more than 1000 bytes unpacked"),
        ("MAX_ARCHIVE", 1000, "at most 1000"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(find, name, limit)
            for source in (plain, packed):
                with pytest.raises(find.BadArchive, match=reason):
                    find.find_models(source, [MODEL])
    monkeypatch.setattr(find, "MAX_MEMBERS", 1)
    with pytest.raises(UsageError, match="more than 1 entries"):
        find.find_models(directory, [MODEL])


def test_an_xz_that_wants_much_memory_is_refused(monkeypatch, content, tmp_path):
    source = write(tmp_path / "zoo.tar.xz", lzma.compress(tar((WANTED, content)), preset=6))
    monkeypatch.setattr(find, "XZ_MEMORY", 1 << 20)
    with pytest.raises(find.BadArchive, match="it takes more memory than it may"):
        find.find_models(source, [MODEL])


def test_a_chain_of_tar_headers_does_not_recurse_without_bound(tmp_path):
    """Each extended header makes the standard library's reader call itself for the next."""
    header = member("x", tarfile.XHDTYPE)
    block = header.tobuf(tarfile.USTAR_FORMAT)
    source = write(tmp_path / "zoo.tar", block * 3000 + bytes(1024))
    with pytest.raises(find.BadArchive, match=r"expected a \.tar"):
        find.find_models(source, [MODEL])


def test_a_zip_with_a_large_directory_is_refused(tmp_path):
    for tail in (
        struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 5 << 20, 0, 0),
        b"PK\6\7" + bytes(16) + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 46, 0, 0),
    ):
        source = write(tmp_path / "zoo.zip", b"PK\3\4" + bytes(100) + tail)
        with pytest.raises(find.BadArchive, match="directory is larger"):
            find.find_models(source, [MODEL])


@pytest.mark.parametrize("data", [b"", b"PK", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh91AY", b"hello" * 300])
def test_what_is_no_archive(data, tmp_path):
    source = write(tmp_path / "zoo", data)
    with pytest.raises(find.BadArchive) as refused:
        find.find_models(source, [MODEL])
    assert str(refused.value).startswith(source)


def test_a_missing_source_is_one_line(tmp_path):
    with pytest.raises(find.BadArchive, match="No such file"):
        find.find_models(str(tmp_path / "none"), [MODEL])


@given(data=st.data())
@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_archives(data, tmp_path):
    kind = data.draw(st.sampled_from(["tar", "gz", "xz", "zip"]))
    plain = tar((WANTED, b"model" * 50), ("a" * 150, b"other"), form=data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])))
    whole = {"tar": plain, "gz": gzip.compress(plain), "xz": lzma.compress(plain), "zip": zipped((WANTED, b"model" * 50))}[kind]
    damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    source = write(tmp_path / "zoo", bytes(damaged))
    try:
        found, _digest = find.read_archive(source, lambda name, _size: name == WANTED)
    except find.BadArchive as refused:
        message = str(refused)
    else:
        message = ""
        assert all(os.path.basename(name) == WANTED for name in found)
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["directory", "tar", "zip"])
def test_images(kind, tmp_path):
    entries = (("a.jpg", b"one"), ("b/B.PNG", b"two"), ("c.txt", b"x"), ("d.bmp", b""), ("e.jpeg.bak", b"x"))
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    if kind == "directory":
        (zoo / "b").mkdir()
        for name, data in entries:
            write(zoo / name, data)
        source, prefix = str(zoo), f"{zoo}/"
    else:
        source = write(zoo / "any", {"tar": tar, "zip": zipped}[kind](*entries))
        prefix = f"{source}: "
    found = find.find_images(source)
    assert [(each.path, each.content) for each in found] == [(f"{prefix}a.jpg", b"one"), (f"{prefix}b/B.PNG", b"two")]
    assert found[0].sha256 == hashlib.sha256(b"one").hexdigest()


def test_images_are_few_and_small(monkeypatch, tmp_path):
    monkeypatch.setattr(find, "MAX_IMAGE", 10)
    write(tmp_path / "0.png", b"x" * 11)
    for number in range(1, 30):
        write(tmp_path / f"{number:02}.png", b"x")
    assert [os.path.basename(each.path) for each in find.find_images(str(tmp_path))] == [f"{number:02}.png" for number in range(1, 9)]


def test_what_only_bears_the_name_of_an_image(tmp_path):
    outside = write(tmp_path / "outside.png", b"secret")
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    (zoo / "link.png").symlink_to(outside)
    (zoo / "dangling.png").symlink_to("nothing")
    (zoo / "folder.png").mkdir()
    os.mkfifo(zoo / "pipe.png")
    assert find.find_images(str(zoo)) == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_image_that_may_not_be_read(tmp_path):
    os.chmod(write(tmp_path / "a.png", b"x"), 0)
    assert find.find_images(str(tmp_path)) == ()


def test_manifest(tmp_path):
    digest = "0123456789abcdef" * 4
    text = f"# the zoo\n{digest}  ./zoo/{WANTED}\n\n{digest.upper()} *b.tflite\n{digest}  {WANTED}\n"
    path = write(tmp_path / "SHA256SUMS", text.encode())
    assert read_manifest(path) == {WANTED: digest, "b.tflite": digest}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"0123  a.tflite", "line 1: expected 64 hexadecimal"),
        (b"\n" + b"a" * 64 + b" a.tflite", "line 2: expected 64 hexadecimal"),
        (b"a" * 64 + b"  a.tflite\n" + b"b" * 64 + b"  x/a.tflite", "line 2: a.tflite has another sha256"),
        (b"\xff\xfe", "sha256sum writes"),
        (b"#" * ((1 << 20) + 1), "at most 1048576 bytes"),
    ],
)
def test_bad_manifests_are_named(text, reason, tmp_path):
    path = write(tmp_path / "SHA256SUMS", text)
    with pytest.raises(UsageError, match=reason) as refused:
        read_manifest(path)
    assert str(refused.value).startswith(path)
