"""Images are decoded in a process of their own, confined; whatever a file holds costs that file alone."""

from __future__ import annotations

import hashlib
import importlib.util
import struct
import sys
import zlib

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

from auditor.bench import pictures
from auditor.bench.pictures import decode_all
from auditor.inference import process
from auditor.inference.watch import Limits
from auditor.zoo.find import FoundImage
from auditor.zoo.golden import Frame

PILLOW = pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="Pillow is not installed")
STRETCHED, TOP = Frame(8, 4, crop=False), Frame(8, 4, crop=True)


def image(data, name="photo"):
    return FoundImage(f"/zoo/{name}", data, hashlib.sha256(data).hexdigest())


def bitmap(width, height, colours, header=None):
    """A .bmp of 24 bits, each row in one colour (red, green, blue), the top one first."""
    padding = bytes(-3 * width % 4)
    rows = b"".join(bytes(reversed(colour)) * width + padding for colour in reversed(colours))
    size = header or (width, height)
    return struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54 + len(rows), 0, 54, 40, *size, 1, 24, 0, len(rows), 0, 0, 0, 0) + rows


def png(width, height, rows=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


RED, BLUE = (255, 0, 0), (0, 0, 255)
HALVES = bitmap(8, 8, [RED] * 4 + [BLUE] * 4)


@PILLOW
def test_an_image_is_brought_to_each_size():
    found, problems = decode_all([image(HALVES, "a.bmp")], [STRETCHED, TOP])
    assert problems == ()
    stretched, top = found
    assert (stretched.name, stretched.sha256, stretched.frame) == ("a.bmp", hashlib.sha256(HALVES).hexdigest(), STRETCHED)
    assert stretched.pixels[:3] == bytes(RED)
    assert stretched.pixels[-3:] == bytes(BLUE)
    assert (top.frame, top.pixels) == (TOP, bytes(RED) * 32)


@PILLOW
def test_of_a_wide_image_the_middle_is_taken():
    wide = bytearray(bitmap(32, 4, [BLUE] * 4))
    for row in range(4):
        start = 54 + row * 96
        wide[start + 36 : start + 60] = bytes(reversed(RED)) * 8
    ((top,), problems) = decode_all([image(bytes(wide))], [TOP])
    assert problems == ()
    assert top.pixels == bytes(RED) * 32


@PILLOW
def test_the_controller_does_not_import_the_decoder():
    before = {name for name in sys.modules if name.partition(".")[0] == "PIL"}
    decode_all([image(HALVES)], [TOP])
    assert {name for name in sys.modules if name.partition(".")[0] == "PIL"} == before


@PILLOW
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "UnidentifiedImageError"),
        (b"\xff\xd8\xff\xe0 cut", "photo: "),
        (HALVES[:100], "OSError"),
        (bitmap(1, 1, [RED], header=(1 << 14, 1 << 14)), "DecompressionBombError"),
        (bitmap(1, 1, [RED], header=(1 << 13, 1 << 13)), "expected at most 33554432"),
        (bitmap(1, 1, [RED], header=(0, 5)), "photo: "),
        (png(1 << 15, 1 << 15), "DecompressionBombError"),
        (png(4, 4, b"short"), "photo: "),
        # a format that Pillow would take, and that is not asked for: it calls another program
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n", "UnidentifiedImageError"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x00;", "UnidentifiedImageError"),
    ],
)
def test_what_is_no_image_is_a_line(data, said):
    found, problems = decode_all([image(data), image(HALVES, "good")], [TOP])
    assert [each.name for each in found] == ["good"]
    (problem,) = problems
    assert problem.startswith("photo: ")
    assert said in problem
    assert "\n" not in problem


def inject(monkeypatch, code):
    """Have the worker do something else when it decodes, as a decoder does that a file has taken over."""
    line = "from auditor.inference.worker.main import main\n"
    assert line in process.BOOTSTRAP
    changed = process.BOOTSTRAP.replace(line, f"from auditor.inference.worker import decoding\n{code}\n{line}")
    monkeypatch.setattr(process, "_COMMAND", (*process._COMMAND[:-1], changed))


def trying(call):
    return f"try:\n        {call}\n    except OSError as problem:\n        raise RuntimeError(problem.strerror)"


@PILLOW
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os; os.abort()", "signal 6"),
        ("import os; os._exit(0)", "ended by itself with code 0"),
        ("import time; time.sleep(60)", "no answer in time"),
        ("held = bytearray(300 << 20); import time; time.sleep(60)", "memory"),  # its group's limit, or ours
        ("return b'short'", "5 bytes for 8 x 4 pixels"),
        ("return bytes(1000)", "expected at most"),
        (trying("open('/etc/passwd')"), "Permission denied"),
        (trying("__import__('socket').socket()"), "not permitted"),
    ],
)
def test_a_file_that_takes_over_the_decoder(monkeypatch, body, said):
    inject(monkeypatch, f"def decode(*_, **__):\n    {body}\ndecoding.decode = decode")
    monkeypatch.setattr(pictures, "LIMITS", Limits(request_seconds=3.0, memory_bytes=200 << 20))
    found, problems = decode_all([image(HALVES)], [TOP])
    assert found == ()
    assert said in problems[0]


def test_without_pillow_one_line_says_how_to_have_it(monkeypatch):
    inject(monkeypatch, "import sys\nsys.modules['PIL'] = None")
    found, problems = decode_all([image(HALVES), image(HALVES, "other")], [TOP])
    assert (found, problems) == ((), ("Pillow is not installed: pip install 'crosml-audit[images]'",))
