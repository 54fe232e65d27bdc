"""The conditions under which this machine measures: what may explain that a number differs from yesterday's.

Only what is readable is in the result. Everything comes from sysfs and /proc, bounded, as numbers or short text. Power is shown and never
judged: what a sensor covers differs from machine to machine (a package, a board, a battery), and reading RAPL takes root on most.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CPUS = "/sys/devices/system/cpu"
_MAX_ENTRIES = 512
_MAX_TEXT = 64
_MAX_DIGITS = 18


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


@dataclass(frozen=True, slots=True)
class PowerReading:
    """What this machine's sensors say at one moment (`at`, monotonic seconds); keys name the sensor.

    `energy_uj`: counters in microjoules, each with the value at which it starts anew, or None where that is not told.
    `power_uw`: microwatts at this moment, or averaged by the sensor itself.
    """

    at: float
    energy_uj: Mapping[str, tuple[int, int | None]]
    power_uw: Mapping[str, int]


def read_power(sys: str = "/sys") -> PowerReading:
    """Read RAPL's zones (powercap), the energy and power sensors of hwmon, and batteries.

    Sources: the kernel's power/powercap/powercap.rst, hwmon/sysfs-interface.rst, ABI/testing/sysfs-class-power.
    """
    energy: dict[str, tuple[int, int | None]] = {}
    power: dict[str, int] = {}
    for path in _found(f"{sys}/class/powercap/*/energy_uj"):
        zone = os.path.dirname(path)
        value = _number(path)
        if value is not None:
            energy[f"powercap {_named(zone, f'{zone}/name')}"] = (value, _number(f"{zone}/max_energy_range_uj"))
    for path in _found(f"{sys}/class/hwmon/hwmon*/energy[0-9]*_input"):
        value = _number(path)
        if value is not None:
            energy[_sensor(path)] = (value, None)
    for path in _found(f"{sys}/class/hwmon/hwmon*/power[0-9]*_input") + _found(f"{sys}/class/hwmon/hwmon*/power[0-9]*_average"):
        value = _number(path)
        if value is not None:
            power[_sensor(path)] = value
    for supply in _found(f"{sys}/class/power_supply/*"):
        value = _supply(supply)
        if value is not None:
            power[f"power_supply {_named(supply, f'{supply}/status')}"] = value
    return PowerReading(time.monotonic(), energy, power)


def mean_power(before: PowerReading, after: PowerReading) -> dict[str, Any] | None:
    """Return {seconds, watts: by sensor} between two readings; None where no sensor was read both times.

    Of a counter it is the energy over the time; of a sensor of power, the mean of the two readings.
    """
    seconds = after.at - before.at
    if seconds <= 0:
        return None
    watts = {}
    for name in before.energy_uj.keys() & after.energy_uj.keys():
        (start, wraps), (end, _) = before.energy_uj[name], after.energy_uj[name]
        if end < start and wraps is not None and start <= wraps:
            end += wraps
        if end >= start:
            watts[name] = (end - start) / 1e6 / seconds
    for name in before.power_uw.keys() & after.power_uw.keys():
        watts[name] = (before.power_uw[name] + after.power_uw[name]) / 2 / 1e6
    return {"seconds": round(seconds, 3), "watts": {name: round(watts[name], 3) for name in sorted(watts)}} if watts else None


def _sensor(path: str) -> str:
    """The name of a hwmon sensor: its chip's and its own label, where it has one."""
    chip, file = os.path.split(path)
    channel = file.rpartition("_")[0]
    return f"hwmon {_named(chip, f'{chip}/name')} {_text(f'{chip}/{channel}_label') or channel}"


def _supply(supply: str) -> int | None:
    """Microwatts of a battery, whichever way they flow; None of anything else."""
    if _text(f"{supply}/type") != "Battery":
        return None
    power = _number(f"{supply}/power_now")
    current, voltage = _number(f"{supply}/current_now"), _number(f"{supply}/voltage_now")
    if power is None and current is not None and voltage is not None:
        power = current * voltage // 10**6  # microamperes, microvolts
    return None if power is None else abs(power)


def _named(directory: str, path: str) -> str:
    """A directory's own name, and in brackets what a file says of it."""
    text = _text(path)
    return _shown(os.path.basename(directory)) + (f" ({text})" if text else "")


def _found(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern))[:_MAX_ENTRIES]


def _number(path: str) -> int | None:
    text = _text(path)
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and len(digits) <= _MAX_DIGITS else None


def _text(path: str) -> str:
    """The beginning of a file, as one line that may be shown; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _shown(file.read(_MAX_TEXT).decode("ascii", "replace").strip())
    except OSError:
        return ""


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_TEXT])


def _by_directory(pattern: str, up: int) -> dict[str, str]:
    """Read the files that match; the key is the name of the directory `up` levels above."""
    found = {}
    for path in _found(pattern):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            found[path.split("/")[-1 - up]] = _shown(file.read(_MAX_TEXT).decode("ascii", "replace").strip())
    return found


def _numbers(texts: dict[str, str]) -> dict[str, int]:
    return {key: int(text) for key, text in texts.items() if text.removeprefix("-").isdecimal()}
