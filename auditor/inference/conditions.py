"""The conditions under which this machine measures: what may explain that a number differs from yesterday's.

Only what is readable is in the result. Everything comes from sysfs and /proc, bounded, as numbers or short text.
"""

from __future__ import annotations

import contextlib
import glob
import os
from typing import Any

_CPUS = "/sys/devices/system/cpu"
_MAX_ENTRIES = 512
_MAX_TEXT = 64


def conditions() -> dict[str, Any]:
    """Return governor and frequency (kHz) by CPU, load averages, thermal zones (thousandths of °C), and whether on a charger.

    A key is absent where the machine does not offer it.
    """
    found: dict[str, Any] = {"cpus": os.cpu_count()}
    with contextlib.suppress(OSError):
        found["load_average"] = [round(value, 2) for value in os.getloadavg()]
    governors = _by_directory(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_governor", up=2)
    frequencies = _numbers(_by_directory(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_cur_freq", up=2))
    zones = _numbers(_by_directory("/sys/class/thermal/thermal_zone*/temp", up=1))
    types = _by_directory("/sys/class/thermal/thermal_zone*/type", up=1)
    mains = _numbers(_by_directory("/sys/class/power_supply/*/online", up=1))
    named_zones = {f"{zone}:{types.get(zone, '')}": value for zone, value in zones.items()}
    if governors:
        found["governor"] = governors
    if frequencies:
        found["frequency_khz"] = frequencies
    if named_zones:
        found["temperature_millicelsius"] = named_zones
    if mains:
        found["on_charger"] = any(mains.values())
    return found


def _by_directory(pattern: str, up: int) -> dict[str, str]:
    """Read the files that match; the key is the name of the directory `up` levels above."""
    found = {}
    for path in sorted(glob.glob(pattern))[:_MAX_ENTRIES]:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            text = file.read(_MAX_TEXT).decode("ascii", "replace").strip()
            found[path.split("/")[-1 - up]] = "".join(char if char.isprintable() else "?" for char in text)
    return found


def _numbers(texts: dict[str, str]) -> dict[str, int]:
    return {key: int(text) for key, text in texts.items() if text.removeprefix("-").isdecimal()}
