"""The readers of what a device or a vendor wrote, each with small good files, and the one exception that it may raise.

    python -m tests.fuzz.readers NAME [COUNT]

reads COUNT damaged copies of a reader's files, in this process, and prints a JSON document: how long the slowest of the good ones and of
the damaged ones took, how far memory grew, and the first input, as base64, with which another exception came out. The same numbers damage
the same places each time; the signatures in some of the files are made anew.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import lzma
import re
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from auditor.errors import AuditError
from auditor.facts import elf, kernel, linker_cache, loading, minijail, modules, sandbox, unpack
from auditor.facts.firmware import appended, cms, read_envelope
from auditor.facts.firmware.image import Bytes
from auditor.facts.types import PublicKey, Settings
from auditor.model import Status
from auditor.sources import base, recording
from auditor.sources.base import Reply
from auditor.tflite import flatbuffer, graph
from auditor.verify import verify_image, verify_module
from fixtures import chromebook, images
from fixtures.elf import Shared
from fixtures.elf import linker_cache as cache_file
from fixtures.kernel import build_key, certify, image, module, note, signed
from fixtures.kernel import cms as cms_of
from fixtures.laptop import npu_firmware
from fixtures.mutation import mutated, mutated_json

COUNT = 10_000
ALARM = 60
"""Seconds after which one input is a hang, however slow the machine."""

SLOWER = 100
"""How much longer than the good file that takes longest an input may take."""


@dataclass(frozen=True)
class Reader:
    """A reader, what it refuses a file with, and the good files, which it must take."""

    read: Callable[[bytes], object]
    refusal: type[Exception]
    files: Callable[[], tuple[bytes, ...]]
    damage: Callable[[tuple[bytes, ...], int], bytes] = mutated
    """A damaged copy, by a number."""


class Hang(BaseException):
    """An input that is read for too long; no reader may catch it."""


# --- what the readers are asked ----------------------------------------------------------------------------------------------------------


def _elf(data: bytes) -> None:
    elf.read_elf(lambda offset, length: data[offset : offset + length], len(data))


def _cache(data: bytes) -> None:
    found = linker_cache.read_cache(data)
    for name in ("libnpu.so", "libc.so.6", "so", ""):
        list(found.paths(name))


def _firmware(data: bytes) -> None:
    """The format, and the verification of whatever signatures it gives: that must raise nothing at all."""
    envelope = read_envelope(Bytes(data))
    numbers = images.rsa_key().public_key().public_numbers()
    try:
        verify_image(envelope, Settings(keys=(PublicKey(images.KEY_ID.hex(), numbers.n, numbers.e),)))
    except Exception as error:
        raise AssertionError("what was read could not be verified") from error


def _appended(data: bytes) -> None:
    signature = appended.read_signature(Bytes(data))
    try:
        verify_module(signature, [build_key().der])
    except Exception as error:
        raise AssertionError("what was read could not be verified") from error


def _policy(data: bytes) -> None:
    minijail.parse_policy(minijail.decode(data))


def _command_line(data: bytes) -> None:
    minijail.parse_command_line(data.decode("utf-8", "surrogateescape").split("\0"))


def _job(data: bytes) -> None:
    sandbox._calls(minijail.decode(data))


def _config(data: bytes) -> None:
    kernel.parse_config(kernel._text(kernel._inflate(data))).get("CONFIG_SECURITY_LOADPIN")


def _graph(data: bytes) -> None:
    graph.count_nonfinite(data, graph.read_graph(data))


# --- good files --------------------------------------------------------------------------------------------------------------------------


def _elves() -> tuple[bytes, ...]:
    notes = [{"feature": "npu", "priority": "required", "soname": ["libnpu.so.1", "libnpu.so"]}]
    rich = Shared(needed=("liba.so", "libb.so"), soname="libc.so", runpath="$ORIGIN/x:/opt", filters=("libf.so",), auxiliary=("libx.so",))
    return (
        rich.build(),
        Shared(needed=("liba.so",), rpath="$ORIGIN", bits=32, little=False, machine=20, dlopen=notes).build(),
        Shared(dlopen=notes, no_default=True, strings=("libz.so",)).build(),
    )


def _caches() -> tuple[bytes, ...]:
    entries = [("libnpu.so", "/usr/lib64/libnpu.so", 0), ("libc.so.6", "/lib64/libc.so.6", 1), ("libc.so.6", "/lib/libc.so.6", 0)]
    return cache_file(entries), cache_file(entries, old=3)


def _modules() -> tuple[bytes, ...]:
    words = ("license=GPL", "intree=Y", "firmware=npu.bin", "alias=pci:v*", "depends=drm,x", "vermagic=6.12 SMP")
    return (
        module(*words, symbols=("request_firmware",)),
        module(*words, bits=32, order=">"),
        module(*words) + images.amd_psp() + gzip.compress(bytes(10_000), mtime=0),
        signed(module(*words), build_key()),
    )


def _signed_modules() -> tuple[bytes, ...]:
    return tuple(signed(b"module", build_key(), attributes=each) for each in (False, True))


def _certificates() -> tuple[bytes, ...]:
    kernel_image = image(build_key().der, certify("Another", build_key().key).der)
    packed = gzip.compress(kernel_image, mtime=0)
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    setup[0x248:0x250] = (0).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    boot = b"MZ\0\0zimg" + (24).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + bytes(8)
    return kernel_image, bytes(setup) + packed, boot + packed


def _signatures() -> tuple[bytes, ...]:
    return tuple(cms_of(b"content", build_key(), attributes=each) for each in (False, True))


def _packed() -> tuple[bytes, ...]:
    """Some that are small, and some that are large once unpacked: near what is refused."""
    zstd = _zstd()
    text, zeros = bytes(range(256)) * 64, bytes(unpack.LIMIT - 1)
    small = (lzma.compress(text, check=lzma.CHECK_CRC32), gzip.compress(text, mtime=0), zstd.compress(text))
    window = {zstd.CompressionParameter.window_log: 27}
    # a large one takes as long as thousands of small ones, so it is damaged less often
    return (*small * 60, lzma.compress(zeros, preset=6), gzip.compress(zeros, mtime=0), zstd.compress(zeros, options=window))


def _zstd() -> Any:
    """The module for zstd that this Python has."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _graphs() -> tuple[bytes, ...]:
    """A model of one convolution, with weights, and a custom operator."""
    field, builder = flatbuffer.Field, flatbuffer.Builder()
    weights = builder.buffer(bytes(range(1, 5)) * 27)
    buffers = builder.tables([builder.buffer(b""), weights])
    scale = builder.table(field(2, "o", builder.vector(1, b"\0\0\x80\x3f")))
    shape, kernel_shape, text = builder.int32s([1, 4, 4, 3]), builder.int32s([1, 3, 3, 3]), builder.text("tensor")
    tensors = builder.tables([
        builder.table(field(0, "o", shape), field(1, "b", 0), field(3, "o", text)),
        builder.table(field(0, "o", kernel_shape), field(2, "I", 1), field(3, "o", text)),
        builder.table(field(0, "o", builder.int32s([1, 4, 4, 1])), field(1, "b", 9), field(4, "o", scale)),
    ])  # fmt: skip
    options = builder.table(field(0, "b", 0), field(1, "i", 1), field(2, "i", 1))
    io_lists = (builder.int32s([0, 1]), builder.int32s([2]))
    operators = builder.tables([
        builder.table(field(0, "I", 0), field(1, "o", io_lists[0]), field(2, "o", io_lists[1]), field(3, "B", 1), field(4, "o", options)),
        builder.table(field(0, "I", 1), field(1, "o", io_lists[0]), field(2, "o", io_lists[1])),
    ])  # fmt: skip
    subgraph = builder.table(
        field(0, "o", tensors), field(1, "o", builder.int32s([0])), field(2, "o", io_lists[1]), field(3, "o", operators)
    )
    codes = builder.tables([
        builder.table(field(0, "b", 3), field(3, "i", 3)),
        builder.table(field(0, "b", 32), field(1, "o", builder.text("Custom")), field(3, "i", 32)),
    ])  # fmt: skip
    parts = (codes, builder.tables([subgraph]), builder.text("description"), buffers)
    return (builder.finish(builder.table(field(0, "I", 3), *(field(slot, "o", part) for slot, part in enumerate(parts, 1)))),)


def _record() -> recording.Record:
    answers = {
        base.read("/proc/cmdline"): Reply(Status.OK, b"quiet"),
        base.read("/lib/\udcff/x", 4, 16): Reply(Status.OK, bytes(range(256)) * 8),
        base.names("/sys"): Reply(Status.DENIED, errno=13),
        base.digest("/x", "sha256", ((0, 4),)): Reply(Status.ABSENT, errno=2),
    }
    return recording.Record("root", "device", "test", "2026-01-01T00:00:00+00:00", answers)


def _snapshots() -> tuple[bytes, ...]:
    return (recording.pack(_record()),)


def _inside(files: tuple[bytes, ...], number: int) -> bytes:
    """A snapshot that is damaged, or one that is a good zip of a damaged document."""
    if number % 4 == 0:
        return mutated(files, number)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(files[0])) as good, zipfile.ZipFile(out, "w") as archive:
        for name in good.namelist():
            content = good.read(name)
            if name == "record.json":
                document = mutated_json(json.loads(content), number)
                content = mutated([content], number) if number % 4 == 1 else json.dumps(document).encode()
            archive.writestr(name, content)
    return out.getvalue()


def _configured() -> tuple[bytes, ...]:
    lines = "".join(f"CONFIG_{word}={value}\n" for word, value in (("SECURITY_LOADPIN", "y"), ("MODULE_SIG", "m"), ("CMDLINE", '"a b"')))
    return gzip.compress(lines.encode(), mtime=0), gzip.compress(lines.encode() * 200, mtime=0)


def _repacked(files: tuple[bytes, ...], number: int) -> bytes:
    """A damaged gzip file, or a good one of a damaged text."""
    return mutated(files, number) if number % 2 else gzip.compress(mutated([gzip.decompress(each) for each in files], number), 1, mtime=0)


_WORDS = b"\0".join(b"-n -p --uts=x -Kslave --profile minimalistic-mountns -b /dev,/dev,1 -S/x.policy -- /usr/sbin/npud --a".split())
_POLICY = b"@default kill\nread: 1\n{a, b}: return ENOSYS\n"
_MOUNTINFO = b"29 1 253:0 / / ro,relatime shared:1 - ext2 /dev/root ro\n31 29 259:1 / /var\\040x rw - ext4 /dev/nvme0n1p1 rw\n"

READERS = {
    "elf": Reader(_elf, elf.BadElf, _elves),
    "linker-cache": Reader(_cache, linker_cache.BadCache, _caches),
    "modinfo": Reader(modules.read_info, ValueError, _modules),
    "build-id": Reader(modules.build_id, ValueError, lambda: (note(), note(order=">"))),
    "kernel-certificates": Reader(modules.carve_certificates, ValueError, _certificates),
    "module-signature": Reader(_appended, ValueError, _signed_modules),
    "cms": Reader(cms.parse, ValueError, _signatures),
    "qualcomm-mbn": Reader(_firmware, ValueError, lambda: (images.qualcomm_mbn(), images.qualcomm_mbn(unhashed=1), images.plain_elf())),
    "amd-psp": Reader(_firmware, ValueError, lambda: (images.amd_psp(), images.amd_psp(b"x", b"tail"))),
    "intel-css": Reader(_firmware, ValueError, lambda: (images.intel_css(), images.intel_css(bound=False))),
    "intel-npu": Reader(_firmware, ValueError, lambda: (npu_firmware(), npu_firmware(1))),
    "unpack": Reader(unpack.unpack, unpack.BadArchive, _packed),
    "tflite": Reader(_graph, graph.BadModel, _graphs),
    "snapshot": Reader(lambda data: recording.unpack(data, "x"), AuditError, _snapshots, _inside),
    "minijail-policy": Reader(_policy, ValueError, lambda: (chromebook.POLICY.encode(), _POLICY)),
    "minijail-configuration": Reader(
        lambda data: minijail.parse_configuration(minijail.decode(data)), ValueError, lambda: (chromebook.CONFIGURATION.encode(),)
    ),
    "minijail-command-line": Reader(_command_line, ValueError, lambda: (_WORDS,)),
    "upstart-job": Reader(_job, ValueError, lambda: (chromebook.JOB.encode(), chromebook.SERVICE_JOB.encode())),
    "kernel-config": Reader(_config, ValueError, _configured, _repacked),
    "mounts": Reader(lambda data: loading._mounts(data.decode("utf-8", "replace")), (ValueError, IndexError), lambda: (_MOUNTINFO,)),
}


# --- reading them ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What came of it: seconds, bytes, and what broke."""

    good: float
    read: int = 0
    slowest: float = 0.0
    slowest_number: int = -1
    grown: int = 0
    broken: str = ""


def fuzz(reader: Reader, count: int) -> Found:
    """Read `count` damaged copies."""
    files = reader.files()
    signal.signal(signal.SIGALRM, _hang)
    found = Found(max(min(_timed(reader, each, ()) for _ in range(3)) for each in dict.fromkeys(files)))
    before = _peak(reset=True)
    for number in range(count):
        data = reader.damage(files, number)
        try:
            taken = _timed(reader, data, reader.refusal)
            if taken > 10 * found.good:  # was it the input, or the machine?
                taken = min(_timed(reader, data, reader.refusal) for _ in range(3))
        except (Exception, Hang) as error:  # noqa: BLE001  # whatever comes out is what is looked for
            found.broken = _shown(error, number, data)
            break
        if taken > found.slowest:
            found.slowest, found.slowest_number = taken, number
        found.read += 1
    found.grown = _peak() - before
    return found


def _timed(reader: Reader, data: bytes, refusal: type[Exception] | tuple[()]) -> float:
    """Seconds that reading takes; raises Hang where that is too many, and all but the refusal."""
    signal.setitimer(signal.ITIMER_REAL, ALARM)
    start = time.perf_counter()
    try:
        with contextlib.suppress(refusal):
            reader.read(data)
        return time.perf_counter() - start
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _hang(_number: int, _frame: object) -> NoReturn:
    raise Hang(f"more than {ALARM} s")


def _peak(*, reset: bool = False) -> int:
    """The most memory that this process ever had, or has had since the last reset (proc(5), clear_refs and VmHWM)."""
    if reset:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    with open("/proc/self/status", encoding="ascii") as file:
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", file.read())[1])


def _shown(error: BaseException, number: int, data: bytes) -> str:
    return f"input {number}: {''.join(traceback.format_exception(error))}\n{base64.b64encode(data).decode()}"


def main() -> None:
    """Fuzz one reader."""
    name, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    print(json.dumps(asdict(fuzz(READERS[name], count)), indent=1))


if __name__ == "__main__":
    main()
