"""The zoo's models in a directory or an archive, read into memory; nothing of an archive is ever written to disk.

Both may be hostile. An archive with a link, a device, a path that leaves it, or more content than a zoo has is refused
as a whole, in one line that names it and the member.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias

from auditor.errors import UsageError
from auditor.tflite.graph import BadModel, read_graph
from auditor.zoo.catalogue import Identity, IdentityKind, ZooModel, recognise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Wanted: TypeAlias = "Callable[[str, int], bool]"
"""Whether a file is to be read: by its base name, and its size in bytes."""

MAX_ARCHIVE = 256 << 20
"""Bytes of the archive's file. The published zoo's is 31 MB."""
MAX_TOTAL = 256 << 20
"""Bytes of all of an archive's members, unpacked."""
MAX_MODEL = 128 << 20
"""Bytes of one model."""
MAX_MEMBERS = 10_000
"""Members of an archive, or entries of a directory."""
MAX_RATIO = 100
"""Unpacked to packed bytes; weights hardly compress, zeros by a thousand."""
RATIO_SLACK = 1 << 20
"""Unpacked bytes that are free of the ratio: a small tar is mostly padding."""
MAX_DEPTH = 4
MAX_IMAGES = 8
"""Golden images that are used of one place, in the order in which they are found."""
MAX_IMAGE = 16 << 20
"""Bytes of one image."""
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")
XZ_MEMORY = 128 << 20
"""Bytes that xz may take; `xz -9` needs 65 MiB."""
ZIP_DIRECTORY = 4 << 20
"""Bytes of a zip's central directory, which is read whole."""


class BadArchive(UsageError):  # noqa: N818 - the name that callers read
    """The archive is refused, or is none. One line names the archive, the member and what is wrong."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A file that bears the name of a zoo model."""

    model: ZooModel
    path: str
    """Path of the file, or archive and member."""
    file: str
    """Its base name."""
    content: bytes
    sha256: str
    identity: Identity
    archive: str = ""
    """sha512 of the archive that it was read from; empty for a file of a folder (the published digests are Portage's, which are sha512)."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A file that bears the name of an image; what is in it, only a decoder can tell. `path` as a FoundModel's."""

    path: str
    content: bytes
    sha256: str


def _shown(name: str) -> str:
    return ascii(name[:200])


def _check_path(archive: str, name: str) -> None:
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or re.match("[A-Za-z]:", name):
        raise BadArchive(f"{archive}: member {_shown(name)}: expected a path inside the archive")


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Unxz:
    """An .xz file's content, with a bound on the decoder's memory; the standard library's own file has none."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        while True:
            if self.decoder.eof:
                packed = (self.decoder.unused_data or self.file.read(1 << 16)).lstrip(b"\0")
                if not packed:
                    return b""
                self.decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
            else:
                packed = self.file.read(1 << 16) if self.decoder.needs_input else b""
                if self.decoder.needs_input and not packed:
                    raise EOFError("the file ends inside an xz stream")
            content = self.decoder.decompress(packed, size)
            if content:
                return content


class _Metered:
    """A stream that refuses to give more than an archive may hold."""

    def __init__(self, archive: str, stream: _Stream, packed: IO[bytes]) -> None:
        self.archive, self.stream, self.packed, self.total = archive, stream, packed, 0

    def read(self, size: int, /) -> bytes:
        content = self.stream.read(size)
        self.total += len(content)
        if self.total > MAX_TOTAL:
            raise BadArchive(f"{self.archive}: more than {MAX_TOTAL} bytes unpacked")
        if self.total > RATIO_SLACK + MAX_RATIO * self.packed.tell():
            raise BadArchive(f"{self.archive}: unpacks to more than {MAX_RATIO} times its size")
        return content


def _tar_members(archive: str, stream: Any, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            name = member.name
            _check_path(archive, name)
            if name in seen or len(seen) >= MAX_MEMBERS:
                reason = "is there twice" if name in seen else f"is one of more than {MAX_MEMBERS}"
                raise BadArchive(f"{archive}: member {_shown(name)}: {reason}")
            seen.add(name)
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise BadArchive(f"{archive}: member {_shown(name)}: expected a regular file, not a link or a device")
            if wanted(os.path.basename(name), member.size):
                yield name, _read(archive, name, tar.extractfile(member), member.size)


def _read(archive: str, name: str, file: IO[bytes] | None, size: int) -> bytes:
    if size > MAX_MODEL:
        raise BadArchive(f"{archive}: member {_shown(name)}: {size} bytes, expected at most {MAX_MODEL}")
    content = file.read(size + 1) if file else b""
    if len(content) != size:
        raise BadArchive(f"{archive}: member {_shown(name)}: {len(content)} bytes, expected {size}")
    return content


def _check_zip_directory(archive: str, file: IO[bytes]) -> None:
    """Refuse a directory that would take much memory to read: entries are counted by its bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_557))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise BadArchive(f"{archive}: no end of a zip's directory, the file is cut or is no zip")
    if int.from_bytes(tail[at + 12 : at + 16], "little") > ZIP_DIRECTORY or tail[max(0, at - 20) : at][:4] == b"PK\6\7":
        raise BadArchive(f"{archive}: the zip's directory is larger than {ZIP_DIRECTORY} bytes")
    file.seek(0)


def _zip_members(archive: str, file: IO[bytes], wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    _check_zip_directory(archive, file)
    seen: set[str] = set()
    total = 0
    with zipfile.ZipFile(file) as zipped:
        for info in zipped.infolist():
            name = info.filename
            _check_path(archive, name)
            total += info.file_size
            mode = stat.S_IFMT(info.external_attr >> 16)
            for wrong, reason in (
                (name in seen, "is there twice"),
                (len(seen) >= MAX_MEMBERS, f"is one of more than {MAX_MEMBERS}"),
                (mode not in {0, stat.S_IFREG, stat.S_IFDIR}, "expected a regular file, not a link or a device"),
                (info.flag_bits & 1, "expected no encryption"),
                (info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}, "expected deflate"),
                (info.file_size > RATIO_SLACK + MAX_RATIO * info.compress_size, f"unpacks to over {MAX_RATIO} times"),
                (total > MAX_TOTAL, f"more than {MAX_TOTAL} bytes unpacked"),
            ):
                if wrong:
                    raise BadArchive(f"{archive}: member {_shown(name)}: {reason}")
            seen.add(name)
            if not info.is_dir() and wanted(os.path.basename(name), info.file_size):
                with zipped.open(info) as member:
                    yield name, _read(archive, name, member, info.file_size)


def _members(archive: str, file: IO[bytes], wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"PK"):
        return _zip_members(archive, file, wanted)
    stream: _Stream = file
    if magic.startswith(b"\x1f\x8b"):
        stream = gzip.GzipFile(fileobj=file)
    elif magic == b"\xfd7zXZ\0":
        stream = _Unxz(file)
    return _tar_members(archive, _Metered(archive, stream, file), wanted)


def _sha512(archive: str, file: IO[bytes]) -> str:
    info = os.fstat(file.fileno())
    if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_ARCHIVE:
        raise BadArchive(f"{archive}: expected an archive of at most {MAX_ARCHIVE} bytes")
    digest = hashlib.sha512()
    while part := file.read(1 << 20):
        digest.update(part)
    file.seek(0)
    return digest.hexdigest()


def read_archive(path: str, wanted: Wanted) -> tuple[dict[str, bytes], str]:
    """Return path inside the archive and content of its members that are `wanted`, and the sha512 of the archive's own bytes.

    Formats, known by their first bytes: .tar, .tar.gz, .tar.xz, .zip. The only exception is BadArchive.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            digest = _sha512(path, file)
            return dict(_members(path, file, wanted)), digest
    except BadArchive:
        raise
    except Exception as error:  # the standard library's readers raise many kinds on hostile bytes
        if isinstance(error, MemoryError) or "emory" in str(error):
            reason = "it takes more memory than it may"
        else:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is none of these, damaged, or cut short"
        raise BadArchive(f"{path}: expected a .tar, .tar.gz, .tar.xz or .zip: {reason}") from error


def _walk(directory: str) -> Iterator[str]:
    """Paths of a directory's files, shallow ones first, sorted within each level."""
    level = [directory]
    entries = 0
    for _ in range(MAX_DEPTH):
        below: list[str] = []
        for parent in level:
            for entry in sorted(os.scandir(parent), key=lambda e: e.name):
                entries += 1
                if entries > MAX_MEMBERS:
                    raise UsageError(f"{directory}: more than {MAX_MEMBERS} entries, expected a directory of models")
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    yield entry.path
        level = below


def _size(path: str) -> int:
    """Bytes of a regular file that may be read; 0 for anything else."""
    try:
        info = os.stat(path)
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) and os.access(path, os.R_OK) else 0


def read_directory(directory: str, wanted: Wanted) -> dict[str, bytes]:
    """Return path and content of the files below a directory that are `wanted`; links may not leave it."""
    inside = os.path.join(os.path.realpath(directory), "")
    found: dict[str, bytes] = {}
    try:
        for path in _walk(directory):
            real = os.path.realpath(path)
            if not real.startswith(inside) or not wanted(os.path.basename(path), _size(real)):
                continue
            with open(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_MODEL:
                    raise UsageError(f"{path}: expected a regular file of at most {MAX_MODEL} bytes")
                found[path] = file.read(MAX_MODEL)
    except OSError as error:
        raise UsageError(f"{error.filename or directory}: {error.strerror}, expected a readable model") from error
    return found


def _identify(content: bytes, sha256: str, model: ZooModel) -> Identity:
    try:
        return recognise(read_graph(content), sha256, model)
    except BadModel as bad:
        return Identity(IdentityKind.OTHER, f"it is no TFLite model that can be read: {bad}")


def _contents(source: str, wanted: Wanted) -> tuple[dict[str, bytes], str, str]:
    """Path and content of the wanted files of a directory or an archive; what leads the paths of an archive, and its sha512."""
    if os.path.isdir(source):
        return read_directory(source, wanted), "", ""
    contents, digest = read_archive(source, wanted)
    return contents, f"{source}: ", digest


def find_models(source: str, models: Iterable[ZooModel]) -> dict[str, FoundModel]:
    """Find a zoo version's models by their file names in a directory or an archive; model name to what was found.

    Where several files fit, the first of the model's `files` wins, and of two with that name the first and shallowest.
    """
    models = tuple(models)
    names = {name for model in models for name in model.files}
    contents, prefix, archive = _contents(source, lambda name, _size: name in names)
    found: dict[str, FoundModel] = {}
    for model in models:
        paths = (path for name in model.files for path in contents if os.path.basename(path) == name)
        path = next(paths, None)
        if path is not None:
            sha256 = hashlib.sha256(contents[path]).hexdigest()
            identity = _identify(contents[path], sha256, model)
            found[model.name] = FoundModel(model, f"{prefix}{path}", os.path.basename(path), contents[path], sha256, identity, archive)
    return found


def find_named(source: str, names: Sequence[str]) -> dict[str, str]:
    """The sha256 of files by their names, of a directory or an archive; of two with a name, the first and shallowest."""
    contents, _prefix, _archive = _contents(source, lambda name, _size: name in names)
    paths = {name: [path for path in contents if os.path.basename(path) == name] for name in names}
    return {name: hashlib.sha256(contents[found[0]]).hexdigest() for name, found in paths.items() if found}


def find_images(source: str) -> tuple[FoundImage, ...]:
    """The first images, by their file names, in a directory or an archive; what is empty, too large or cannot be read is none."""
    taken: list[str] = []

    def wanted(name: str, size: int) -> bool:
        wanted = name.lower().endswith(IMAGE_SUFFIXES) and 0 < size <= MAX_IMAGE and len(taken) < MAX_IMAGES
        if wanted:
            taken.append(name)
        return wanted

    contents, prefix, _archive = _contents(source, wanted)
    return tuple(FoundImage(f"{prefix}{path}", data, hashlib.sha256(data).hexdigest()) for path, data in contents.items())
