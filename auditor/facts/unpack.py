"""Unpacking what kernels and distributions compress (modules, firmware, kernel images), under limits of output and of memory.

Only the file's own bytes decide its kind; a name ending in `.xz` proves nothing.
"""

from __future__ import annotations

import io
import lzma
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 72 << 20
"""Unpacked bytes above which a file is refused: Debian's kernel has 58 MB, its largest module 26 MB. With zstd's window, which may be as
large again, unpacking stays below 200 MB."""

_PIECE = 1 << 20
"""Bytes unpacked at once: what is needed beside the result and the engine's own window."""

_XZ_MEMORY = 80 << 20
"""`xz -9`, the most that any of its presets asks for, takes 65 MiB."""

_WINDOW_LOG = 27
"""The largest back-reference of zstd, 128 MiB: what `zstd --ultra -22`, as used for kernels, asks for (zstd's own default limit)."""

MAGIC = {b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst", b"\x1f\x8b": "gz"}


class BadArchive(ValueError):  # noqa: N818  # the one refusal of this module, named for what it is about
    """The bytes cannot be unpacked: damaged, cut short, larger than the limit, or of a kind that this Python does not know."""


def compression(data: bytes) -> str:
    """`xz`, `zst`, `gz`, or empty for bytes that begin like none of them."""
    return next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "")


def unpack(data: bytes, *, limit: int = LIMIT, trailing: bool = False) -> bytes:
    """The unpacked bytes of one xz, zst or gz stream; other bytes as they are. Raises BadArchive.

    What follows the stream is refused unless `trailing`: a second stream is not what the kernel would load.
    """
    kind = compression(data)
    if not kind:
        return data
    engine, out = _started(kind, data, limit)
    if len(out) > limit:
        raise BadArchive(f"{kind}: more than {limit} bytes unpacked")
    if not engine.eof:
        raise BadArchive(f"{kind}: cut short")
    if engine.unused_data and not trailing:
        raise BadArchive(f"{kind}: {len(engine.unused_data)} bytes after its end")
    return out


def beginning(data: bytes, size: int) -> bytes:
    """The first bytes, at least `size` where there are so many, of what one xz, zst or gz stream unpacks to. Raises BadArchive."""
    kind = compression(data)
    if not kind:
        raise BadArchive("not compressed")
    return _started(kind, data, size)[1]


def _started(kind: str, data: bytes, limit: int) -> tuple[Any, bytes]:
    """The engine after it unpacked all, or somewhat more than `limit` bytes, and those bytes. Raises BadArchive."""
    engine = _ENGINES[kind]()
    try:
        return engine, _unpacked(engine, data, limit)
    except (lzma.LZMAError, zlib.error, EOFError, MemoryError, ValueError) as error:
        raise BadArchive(f"{kind}: {_what_is_wrong(error)}") from None
    except Exception as error:
        # ZstdError is a class of whichever zstd module there is
        if type(error).__name__ != "ZstdError":
            raise
        raise BadArchive(f"{kind}: damaged") from None


def _what_is_wrong(error: Exception) -> str:
    return "it takes more memory than it may" if isinstance(error, MemoryError) or "emory" in str(error) else "damaged"


def _unpacked(engine: Any, data: bytes, limit: int) -> bytes:
    """All that the engine makes of the data, or somewhat more than `limit` bytes of it."""
    out = io.BytesIO()
    while not engine.eof and out.tell() <= limit:
        piece = engine.decompress(data, min(_PIECE, limit + 1))
        data = getattr(engine, "unconsumed_tail", b"")  # zlib's: the others keep it themselves
        if not piece and not data:
            break
        out.write(piece)
    return out.getvalue()


def _xz() -> Any:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _gz() -> Any:
    return zlib.decompressobj(31)


def _zst() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415  # Python 3.14
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415  # not on every device
        except ImportError:
            raise BadArchive("this Python cannot unpack zstd") from None
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


_ENGINES: dict[str, Callable[[], Any]] = {"xz": _xz, "gz": _gz, "zst": _zst}
