"""Firmware verification against hashing the same bytes, on the images that linux-firmware ships, in one run and one process.

    python benchmarks/firmware.py [--repeat N] [FILE…]

Verification is what an audit does: every image of the given files is asked of a device piece by piece, its format read, its digests and
its signatures verified, with nothing remembered of the run before. Hashing is one digest of each whole file, by the same device: `own`
with the algorithm that the image's format prescribes (SHA-384 for most of Qualcomm's and Intel's, which processors with instructions
for SHA-256 take twice as long for), `sha256` with that one for all. Processor time is compared, so that other work on the machine does not
count; the best of N runs, which take turns. What verifying takes beyond hashing is mostly the mathematics of signatures: about a
millisecond for one on P-384, and an image has up to four with its certificates. Ends with 1 where verifying all images takes more than
one and a half times as long as hashing them with their own algorithm. AMD's images take two digests of the same bytes by their format:
that of the body in the header, and the signature's.

Without files, the images of Debian's firmware packages are taken, from this machine's own mirror, once; where they cannot be had,
images that are made here.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from auditor.facts.firmware import read_envelope
from auditor.facts.firmware.image import OnDevice
from auditor.facts.reading import Device
from auditor.facts.types import Settings
from auditor.sources import base
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder
from auditor.verify import crypto, verify_image
from fixtures import images
from tests import archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PACKAGES = ("firmware-qcom-soc", "firmware-amd-graphics", "firmware-intel-misc", "firmware-sof-signed", "firmware-intel-graphics")
BOUND = 1.5
SMALLEST = 4096
"""Bytes of an image below which opening its file is what takes time."""


@dataclass(frozen=True)
class Measured:
    """A file, its format, and the algorithm that most of its bytes are hashed with."""

    path: str
    size: int
    format: str
    algorithm: str


def main() -> int:
    """Measure and print; the exit code says whether the bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with ExitStack() as stack:
        paths = [os.path.realpath(path) for path in options.files] or _packaged() or _made(stack)
        groups: dict[str, list[Measured]] = defaultdict(list)
        for each in filter(None, map(_measured, paths)):
            groups[each.format].append(each)
        if not groups:
            print("none of these files is a firmware image of a known format")
            return 2
        ways: dict[str, Callable[[list[Measured]], None]] = {
            "verify": _verify,
            "own": lambda files: _hash((each.path, each.algorithm) for each in files),
            "sha256": lambda files: _hash((each.path, "sha256") for each in files),
        }
        titles = "".join(f"{way:>12}" for way in ways)
        print(f"{'format':18}{'files':>6}{'MB':>9}{titles}{'x own':>8}{'x sha256':>10}  own algorithm")
        totals: Counter[str] = Counter()  # of seconds, files and bytes
        for name, files in sorted(groups.items()):
            row = {**_best(ways, files, options.repeat), "files": len(files), "bytes": sum(each.size for each in files)}
            totals.update(row)
            _print(name, row, {each.algorithm for each in files})
        _print("all", totals, ())
    return int(totals["verify"] > BOUND * totals["own"])


def _print(name: str, row: dict[str, float], algorithms: Iterable[str]) -> None:
    times = "".join(f"{row[way] * 1e3:>9.1f} ms" for way in ("verify", "own", "sha256"))
    ratios = f"{row['verify'] / row['own']:>8.2f}{row['verify'] / row['sha256']:>10.2f}"
    print(f"{name:18}{row['files']:>6}{row['bytes'] / 1e6:>9.1f}{times}{ratios}  {', '.join(sorted(algorithms))}")


def _best(ways: dict[str, Callable[[list[Measured]], None]], files: list[Measured], repeat: int) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.process_time()
            way(files)
            best[name] = min(best[name], time.process_time() - start)
    return best


def _verify(files: list[Measured]) -> None:
    """Each file as the facts read it, and the judgement of its signatures."""
    crypto.read_certificate.cache_clear()
    crypto.signed_by.cache_clear()
    device = Device(Recorder(Tree("/")))
    for each in files:
        verify_image(read_envelope(OnDevice(device, each.path, each.size)), Settings())


def _hash(files: Iterable[tuple[str, str]]) -> None:
    device = Device(Recorder(Tree("/")))
    for path, algorithm in files:
        device.ask(base.digest(path, algorithm)).open()


def _measured(path: str) -> Measured | None:
    """A file that is an image of a known format; None for all else."""
    size = os.path.getsize(path)
    recorder = Recorder(Tree("/"))
    try:
        envelope = read_envelope(OnDevice(Device(recorder), path, size))
    except ValueError:
        return None
    if envelope.format in {"unrecognised", "elf"} or size < SMALLEST:
        return None
    hashed: Counter[str] = Counter()
    for question in recorder.record("", "").answers:
        if question.kind == "digest":
            algorithm, *numbers = question.args
            hashed[str(algorithm)] += sum(int(number) for number in numbers[1::2])
    return Measured(path, size, envelope.format, hashed.most_common(1)[0][0] if hashed else "sha256")


def _packaged() -> list[str]:
    """The files of the packages, each once; none where the packages cannot be had."""
    found: set[str] = set()
    for package in PACKAGES:
        try:
            root = archive.unpacked(package, "non-free-firmware")
        except archive.ArchiveError as error:
            print(f"packages of Debian {archive.SUITE} cannot be had: {error}\nimages that are made here are taken instead")
            return []
        found.update(os.path.realpath(path) for path in root.rglob("*") if path.is_file())
    return sorted(found)


def _made(stack: ExitStack) -> list[str]:
    """Some images of each signed format, as large as real ones are."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    body = bytes(range(256)) * 4096  # a mebibyte
    for number in range(8):
        (folder / f"amd{number}").write_bytes(images.amd_psp(body[: 1 << 18]))
        (folder / f"css{number}").write_bytes(images.intel_css(body[: 1 << 19]))
        (folder / f"mbn{number}").write_bytes(images.qualcomm_mbn((body, body[::-1], body[1:], body[:-1])))
    return [os.path.realpath(path) for path in sorted(folder.iterdir())]


if __name__ == "__main__":
    sys.exit(main())
