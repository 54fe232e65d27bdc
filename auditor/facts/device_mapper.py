"""Device-mapper tables on the kernel's command line, read as the kernel reads them, and the root device that it is told to mount.

Sources: drivers/md/dm-init.c and Documentation/admin-guide/device-mapper/dm-init.rst (`dm-mod.create`), init/do_mounts_dm.c of ChromeOS
kernels (`dm`), drivers/md/dm-verity-target.c, drivers/md/dm-verity-chromeos.c of ChromeOS kernels, block/early-lookup.c (`root`).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

PARAMETERS = ("dm", "dm-mod.create")
"""Parameters of the command line with tables: ChromeOS's own, and mainline's."""

MAX_TABLE = 8192
"""Characters of a table; the kernel's command line has at most 4096 (COMMAND_LINE_SIZE)."""

MAX_DEVICES = 256
"""DM_MAX_DEVICES, and DM_MAX_TARGETS."""

_DIGEST = re.compile(r"[0-9a-fA-F]{40,128}")
_POSITIONAL = 10
"""Arguments of mainline's verity target before its options: version, two devices, two block sizes, blocks, start, digest, root, salt."""

_BLOCK_MAJORS = (*range(234, 255), *range(384, 512))
"""Major numbers that the kernel hands out by itself, device-mapper's among them (block/genhd.c, register_blkdev)."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target of a device: first sector, sectors, kind (`verity`, `linear`, `bootcache` …) and arguments."""

    start: int
    length: int
    kind: str
    arguments: tuple[str, ...]

    @property
    def is_verity(self) -> bool:
        """Whether it is dm-verity, from the first sector on, with a root digest."""
        named = [value for name, _, value in (word.partition("=") for word in self.arguments) if name == "root_hexdigest"]
        positional = self.arguments[8:9] if len(self.arguments) >= _POSITIONAL and not named else ()
        digests = (*named, *positional)
        return self.kind == "verity" and self.start == 0 and len(digests) == 1 and bool(_DIGEST.fullmatch(digests[0]))

    @property
    def goes_on(self) -> bool:
        """Whether it lets damaged blocks through."""
        return not {"ignore_corruption", "error_behavior=2", "error_behavior=none"}.isdisjoint(self.arguments)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A device that a table makes: its name, and the number of its node /dev/dm-N."""

    name: str
    minor: int
    read_only: bool
    targets: tuple[Target, ...]


def read_tables(parameter: str, text: str) -> tuple[Mapped, ...]:
    """The devices of one of PARAMETERS, in order. Raises ValueError where the kernel would make none of them, or stop half way."""
    if len(text) > MAX_TABLE:
        raise ValueError(f"a table of {len(text)} characters")
    return _chromeos(text) if parameter == "dm" else _mainline(text)


def root_minor(root: str) -> tuple[int, str] | None:
    """The N of /dev/dm-N that a `root` parameter names, and the number `major:minor` where it names that; None for another device.

    Whether a number is device-mapper's only the system knows: its major is handed out at start.
    """
    if match := re.fullmatch(r"/dev/dm-(\d{1,5})", root):
        return int(match[1]), ""
    if match := re.fullmatch(r"(\d{1,4}):(\d{1,7})(?::\d+)?", root):
        major, minor = int(match[1]), int(match[2])
    elif re.fullmatch(r"[0-9a-fA-F]{3,8}", root):  # new_decode_dev
        number = int(root, 16)
        major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    else:
        return None
    return (minor, f"{major}:{minor}") if major in _BLOCK_MAJORS else None


def _chromeos(text: str) -> tuple[Mapped, ...]:
    """`[devices] (name uuid mode [targets], (start length kind arguments,)+)+`; blanks before a field do not count."""
    cursor = _Cursor(text)
    count = 1
    if text.lstrip()[:1].isdigit():
        count = _number(cursor.field(" "))
    if count > MAX_DEVICES:
        raise ValueError(f"{count} devices")
    found = []
    for minor in range(count):
        name, _ = cursor.field(" "), cursor.field(" ")
        mode = cursor.field(" ,")
        targets = _number(cursor.field(",")) if cursor.delimiter == " " else 1
        if mode not in {"ro", "rw"} or not 0 < targets <= MAX_DEVICES:
            raise ValueError(f"a device of mode {mode[:16]!r} with {targets} targets")
        found.append(Mapped(name, minor, mode == "ro", tuple(_chromeos_target(cursor) for _ in range(targets))))
    if cursor.rest.strip(" ,"):  # kernels that know no number of devices, or of targets, would read more
        raise ValueError("more than the devices that it says")
    return tuple(found)


def _chromeos_target(cursor: _Cursor) -> Target:
    start, length, kind = _number(cursor.field(" ")), _number(cursor.field(" ")), cursor.field(" ")
    return Target(start, length, kind, tuple(cursor.field(",").split()))


class _Cursor:
    """Takes fields off a text as get_dm_option does: blanks are skipped, then all up to a delimiter is the field, which is not empty."""

    def __init__(self, text: str) -> None:
        self.rest = text
        self.delimiter = ""

    def field(self, delimiters: str) -> str:
        self.rest = self.rest.lstrip()
        end = next((at for at, character in enumerate(self.rest) if character in delimiters), len(self.rest))
        found, self.delimiter, self.rest = self.rest[:end], self.rest[end : end + 1], self.rest[end + 1 :]
        if not found:
            raise ValueError("a field is missing")
        return found


def _mainline(text: str) -> tuple[Mapped, ...]:
    """`name,uuid,minor,flags,table[,table]*` for each device, with `;` between them; blanks around a field do not count."""
    found: list[Mapped] = []
    for device in text.split(";"):
        name, _, minor, flags, *tables = (field.strip() for field in device.split(","))
        if not name or flags not in {"ro", "rw"} or not tables or len(found) >= MAX_DEVICES:
            raise ValueError(f"expected a device with a table, found {device[:80]!r}")
        taken = {each.minor for each in found}
        number = _number(minor) if minor else next(free for free in itertools.count() if free not in taken)
        found.append(Mapped(name, number, flags == "ro", tuple(map(_mainline_target, tables))))
    return tuple(found)


def _mainline_target(table: str) -> Target:
    start, length, kind, *arguments = table.split()
    return Target(_number(start), _number(length), kind, tuple(arguments))


def _number(text: str) -> int:
    """A number as the kernel writes it; what follows its digits is refused here, though simple_strtoul would pass it over."""
    if not re.fullmatch(r" *\d{1,18} *", text):
        raise ValueError(f"expected a number, found {text[:16]!r}")
    return int(text)
