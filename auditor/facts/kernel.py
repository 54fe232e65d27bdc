"""The running kernel: release, command line, configuration, taint."""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING

from auditor.facts.reading import parse
from auditor.facts.types import Fact, Kernel, KernelConfig, Missing, Ok
from auditor.model import Remedy, Status

if TYPE_CHECKING:
    from auditor.facts.reading import Device

CONFIG_LIMIT = 4 << 20
"""Bytes of an unpacked kernel configuration; the largest in use have 0.3 MB."""


def read_kernel(device: Device) -> Kernel:
    """What the kernel says of itself in /proc, or, in a tree without /proc, what the installed kernel's files say."""
    libraries = _libraries(device)
    release = _release(device, libraries)
    return Kernel(
        release=release,
        command_line=parse(device.line("/proc/cmdline"), split_command_line),
        config=_config(device, release, libraries),
        taint=device.number("/proc/sys/kernel/tainted"),
        libraries=libraries,
    )


def split_command_line(text: str) -> tuple[str, ...]:
    """The parameters of a kernel command line: double quotes keep spaces together and are taken away; what follows `--` is init's.

    Source: kernel/params.c, next_arg and parse_args.
    """
    parameters: list[str] = []
    current: list[str] = []
    quoted = started = False
    for character in text:
        if character == '"':
            quoted, started = not quoted, True
        elif character.isspace() and not quoted:
            if started:
                parameters.append("".join(current))
            current, started = [], False
        else:
            current.append(character)
            started = True
    if started:
        parameters.append("".join(current))
    return tuple(itertools.takewhile(lambda parameter: parameter != "--", parameters))


def parse_config(text: str) -> KernelConfig:
    """A kernel's configuration; raises ValueError where no line of it sets an option."""
    config = KernelConfig(f"\n{text}\n")
    if "\nCONFIG_" not in config.text:
        raise ValueError("no CONFIG_ line in it")
    return config


def _libraries(device: Device) -> str:
    return "/usr/lib" if device.stat("/lib").status is Status.ABSENT and device.stat("/usr/lib").status is Status.OK else "/lib"


def _release(device: Device, libraries: str) -> Fact[str]:
    running = device.text("/proc/sys/kernel/osrelease")
    if isinstance(running, Ok) or running.status is not Status.ABSENT:
        return running
    return parse(device.names(f"{libraries}/modules"), _only)


def _only(installed: tuple[str, ...]) -> str:
    if len(installed) != 1:
        raise ValueError(f"/proc says no release, and {len(installed)} kernels are installed")
    return installed[0]


def _config(device: Device, release: Fact[str], libraries: str) -> Fact[KernelConfig]:
    packed = device.data("/proc/config.gz", length=CONFIG_LIMIT + 1)
    if isinstance(packed, Ok):
        return parse(packed, lambda data: parse_config(_text(_inflate(data))))
    if isinstance(release, Missing):
        return Missing(packed.status, packed.evidence, packed.note, packed.remedy or Remedy.LIVE)
    plain = device.data(f"/boot/config-{release.value}", length=CONFIG_LIMIT + 1)
    if plain.status is Status.ABSENT:
        other = device.data(f"{libraries}/modules/{release.value}/config", length=CONFIG_LIMIT + 1)
        plain = plain if other.status in {Status.ABSENT, Status.UNASKED} else other
    return parse(plain, lambda data: parse_config(_text(data)))


def _text(data: bytes) -> str:
    """A whole configuration: in one that is cut, an option that is set may look as if it were not."""
    if len(data) > CONFIG_LIMIT:
        raise ValueError(f"more than {CONFIG_LIMIT} bytes")
    return data.decode("utf-8", "replace")


def _inflate(data: bytes) -> bytes:
    engine = zlib.decompressobj(31)
    try:
        text = engine.decompress(data, CONFIG_LIMIT + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not engine.eof:
        raise ValueError(f"cut short, or more than {CONFIG_LIMIT} bytes unpacked")
    return text
