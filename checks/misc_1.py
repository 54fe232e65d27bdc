"""misc-1: the driver's binaries, with the libraries and middleware that they depend on, must stay below 64 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.facts.types import DOWNLOAD_MARKS, PACKED_MARK
from auditor.model import Answer, Level, Outcome, Owner, Remedy, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from auditor.facts.types import Closure, ElfObject, Facts
    from auditor.model import Evidence

LIMIT = 64 * 10**6
"""64 MB. The page says just MB, which is 10^6 bytes (IEC 80000-13); 64 MiB would be 67.1 MB."""

MEBIBYTES = 64 << 20
SWOLLEN = 16 * 10**6
SHOWN = 5


@check(
    "misc-1.closure",
    needs=("closure",),
    expected="less than 64 MB (64,000,000 bytes) in all files that the driver's user space loads",
    passes="The driver and all that it loads stay below 64 MB.",
    fails="The driver and what it loads take 64 MB or more.",
    unknown="Not all that the driver loads could be found and read, so its size is not known.",
    remediation="Make the driver and its libraries smaller.",
    owner=Owner.VENDOR,
)
def closure(facts: Facts) -> Iterator[Answer]:
    """The files of the delegate's closure have less than 64 MB together.

    Counted are the apparent sizes of the delegate, of every library that it needs or says that it opens, and of the vendor's own files
    whose names it spells, each inode once. Not counted: the operating system's C and C++ run time and the image's TFLite runtime, by
    name and only in a system library folder (a vendor's own `libm.so.6` counts, and so does one of 32 MB and more), and what
    `--base-image` lists. All of these are named.

    It passes only if everything that may be loaded stays below the limit: also libraries that are found elsewhere by names in the
    driver's bytes, all other ELF files in the vendor's folders and below, in its package below /opt, and in folders that a driver in a
    system folder names (a name may be composed at run time), and what the device's own settings load. It fails only by what is certain.
    Between, and where a needed library is missing or a file cannot be read, it is unknown; so it is with a `--base-image` that lists the
    driver itself, as a list of the finished image does.

    Where no delegate was given, it is the one that the device's own settings name. What a loader among these files (OpenCL, Vulkan, EGL,
    Mesa, libva, OpenVINO, Qualcomm's DSP) loads by way of configuration counts as what may be loaded; configuration that cannot be read
    makes it unknown.

    A library that the driver's bytes merely name, and that the tree does not have, cannot be loaded from it: it is named and does not
    decide. Audit the whole image, not one package of the vendor's.

    The page says "64 MB" without a definition: 64·10^6 bytes decides, and between that and 64 MiB the finding says so. What may be
    unpacked or fetched is the next checks'. Source: ChromeOS, ML accelerator requirements; glibc elf/dl-load.c.
    """
    found, counted = facts.closure.open(), _counted(facts)
    if listed := _listed_driver(facts):
        yield listed
        return
    certain = sum(each.size for each in counted if each.certain)
    possible = sum(each.size for each in counted)
    observed = _observed(found, counted, certain, possible)
    missing = [each for each in found.missing if not each.optional]
    if certain >= LIMIT:
        unit = " 64 MB is taken as 64,000,000 bytes; it is less than 64 MiB." if certain < MEBIBYTES else ""
        because = f"The driver and what it loads take 64 MB or more.{unit}"
        yield Answer(Outcome.FAIL, observed, facts.closure.evidence, because, remediation=_smaller(counted, certain))
    elif missing or found.unread:
        unread = tuple(item for each in found.unread for item in each.evidence)
        remedy = found.unread[0].remedy if found.unread else Remedy.VENDOR
        how = None if found.unread else "Ship the missing libraries with the driver, or audit the image that holds them."
        yield Answer(Outcome.UNKNOWN, observed, unread, remedy=remedy, remediation=how)
    elif possible >= LIMIT:
        because = "What is certainly loaded is below 64 MB; what may be loaded is not."
        how = "Ship only what the driver loads, or show which of these files it never loads."
        yield Answer(Outcome.UNKNOWN, observed, facts.closure.evidence, because, remedy=Remedy.VENDOR, remediation=how)
    else:
        yield Answer(Outcome.PASS, observed, facts.closure.evidence)


@check(
    "misc-1.packed",
    level=Level.SHOULD,
    needs=("closure",),
    expected="libraries that lie on the disk as they are loaded: none packed, no archives beside the driver",
    passes="The driver's files are no packed form of something larger.",
    fails="Unpacked, the driver and what it loads take 64 MB or more.",
    unknown="The driver may be larger than its files.",
    remediation="Ship the driver's libraries unpacked.",
    owner=Owner.VENDOR,
)
def packed(facts: Facts) -> Iterator[Answer]:
    """The driver's size on the disk is its size once loaded.

    A packed executable maps few bytes of its file and takes many in memory: more than twice as many, and 16 MB more. It fails where the
    certain files so take 64 MB or more, and is unknown below that, since large zeroed buffers look the same; so is a file that UPX marked.
    An archive or a compressed image beside the driver (zip, gzip, xz, zstd, lz4, 7z, squashfs, ar) may hold libraries, and LLVM bitcode
    becomes code, which makes it unknown. Packed data inside a library is not seen.
    """
    found, counted = facts.closure.open(), _counted(facts)
    if listed := _listed_driver(facts):
        yield listed
        return
    for place in found.unread:
        place.open()
    swollen = [each for each in counted if each.memory > max(2 * each.loaded, each.loaded + SWOLLEN)]
    archives = [f"{each.path.rpartition('/')[2]} ({each.format}, {_mb(each.size)})" for each in found.archives]
    unpacked = sum(max(each.size, each.memory) for each in counted if each.certain)
    marked = [f"{each.path.rpartition('/')[2]} was packed by UPX" for each in counted if PACKED_MARK in each.marks.open()]
    parts = [f"{each.path.rpartition('/')[2]} maps {_mb(each.loaded)} into {_mb(each.memory)}" for each in swollen]
    observed = _some([*parts, *marked, *archives]) or f"{_mb(unpacked)} once loaded"
    outcome = Outcome.FAIL if swollen and unpacked >= LIMIT else Outcome.UNKNOWN if swollen or marked or archives else Outcome.PASS
    remedy = Remedy.VENDOR if outcome is Outcome.UNKNOWN else None
    yield Answer(outcome, observed, _searched(facts, counted), remedy=remedy)


@check(
    "misc-1.download",
    level=Level.SHOULD,
    needs=("closure",),
    expected="a driver that brings along all that it loads",
    passes="Nothing in the driver's files fetches others.",
    fails="The driver fetches what it loads.",
    unknown="The driver may fetch what it loads, so its size on the disk is not all of it.",
    remediation="Ship all that the driver loads, or say what its download is for.",
    owner=Owner.VENDOR,
)
def download(facts: Facts) -> Iterator[Answer]:
    """No file of the closure calls libcurl, holds a copy of it, or a script that fetches files.

    A driver that is installed by its first run (as some vendors' SDK packages are) is small on the disk until then; what it will take is
    not known. Code that speaks to the network by itself is not seen: that is what the sandbox is for.
    """
    found, counted = facts.closure.open(), _counted(facts)
    if listed := _listed_driver(facts):
        yield listed
        return
    for place in found.unread:
        place.open()
    marks = {each.path: [mark for mark in each.marks.open() if mark in DOWNLOAD_MARKS] for each in counted}
    observed = _some([f"{path.rpartition('/')[2]} holds {', '.join(words)}" for path, words in marks.items() if words])
    outcome, remedy = (Outcome.UNKNOWN, Remedy.VENDOR) if observed else (Outcome.PASS, None)
    yield Answer(outcome, observed or "no file holds a downloader", _searched(facts, counted), remedy=remedy)


def _searched(facts: Facts, counted: list[ElfObject]) -> tuple[Evidence, ...]:
    return (*facts.closure.evidence, *(item for each in counted for item in each.marks.evidence))


def _listed_driver(facts: Facts) -> Answer | None:
    """Unknown where the list of the base image has the driver: then nothing tells what of it is the vendor's."""
    driver = next((each.path for each in facts.closure.open().objects if each.edge == "root"), "")
    if driver not in facts.settings.base_image:
        return None
    observed = f"the list of the base image has {driver}, the driver itself"
    how = "Give --base-image a list of the image as it is without the driver."
    return Answer(Outcome.UNKNOWN, observed, facts.closure.evidence, remedy=Remedy.EVIDENCE, remediation=how)


def _counted(facts: Facts) -> list[ElfObject]:
    """What of the closure is the vendor's."""
    objects = facts.closure.open().objects
    return [each for each in objects if not (each.base or each.runtime or each.path in facts.settings.base_image)]


def _observed(found: Closure, counted: list[ElfObject], certain: int, possible: int) -> str:
    """The sums, the largest files, and what was left out or could not be found."""
    files = sum(each.certain for each in counted)
    parts = [f"{_mb(certain)} in {files} file{'s' * (files != 1)}: {_largest(each for each in counted if each.certain)}"]
    if possible > certain:
        parts.append(f"up to {_mb(possible)} with what may be loaded: {_largest(each for each in counted if not each.certain)}")
    if found.named_by:
        parts.append(f"the delegate is the one that {found.named_by} names")
    foreign = [each for each in counted if each in found.foreign]
    if foreign:
        parts.append(f"for another processor: {_largest(foreign)}")
    left_out = sorted({each.path for each in found.objects} - {each.path for each in counted})
    if left_out:
        parts.append(f"not counted: {', '.join(path.rpartition('/')[2] for path in left_out)}")
    missing = [f"{each.name} (for {each.needed_by.rpartition('/')[2]})" for each in found.missing if not each.optional]
    if missing:
        parts.append(f"not found: {_some(missing)}")
    if found.nowhere:
        parts.append(f"named by its bytes and not there: {_some(list(found.nowhere))}")
    unread = [f"{each.evidence[0].path if each.evidence else 'a file'} ({each.note or each.status.value})" for each in found.unread]
    if unread:
        parts.append(f"not read: {_some(unread)}")
    return "; ".join(parts)


def _smaller(counted: list[ElfObject], certain: int) -> str:
    """What would bring it below the limit: how much, and the fewest files that together are as much."""
    excess = certain - LIMIT + 1
    needed: list[ElfObject] = []
    for each in sorted((each for each in counted if each.certain and each.needed_by), key=lambda each: (-each.size, each.path)):
        if sum(item.size for item in needed) >= excess:
            break
        needed.append(each)
    enough = sum(each.size for each in needed) >= excess
    without = f"; without {_largest(needed)} it would be {_mb(certain - sum(each.size for each in needed))}" if enough else ""
    return f"Make the driver and its libraries {excess:,} bytes smaller{without}."


def _largest(objects: Iterable[ElfObject]) -> str:
    ordered = sorted(objects, key=lambda each: (-each.size, each.path))
    return _some([f"{each.path.rpartition('/')[2]} {_mb(each.size)}" for each in ordered])


def _some(texts: list[str]) -> str:
    more = [f"{len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return ", ".join([*texts[:SHOWN], *more])


def _mb(size: int) -> str:
    """Megabytes with as many digits as it takes not to round up to the limit."""
    return f"{size / 10**6:.2f} MB" if abs(size - LIMIT) >= 10**4 else f"{size:,} bytes"
