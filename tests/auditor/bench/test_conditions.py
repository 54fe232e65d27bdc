from __future__ import annotations

import json
from dataclasses import replace

import pytest

from auditor.bench import conditions as module
from auditor.bench.conditions import conditions


def test_this_machine():
    found = conditions()
    assert found["cpus"] >= 1
    assert len(found["load_average"]) == 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_laptop(monkeypatch, tmp_path):
    files = {
        "cpu0/cpufreq/scaling_governor": "powersave\n",
        "cpu0/cpufreq/scaling_cur_freq": "1800000\n",
        "cpu1/cpufreq/scaling_governor": "perf\x1b[31mormance\n",
        "cpu1/cpufreq/scaling_cur_freq": "<unknown>\n",
        "thermal_zone0/temp": "-5000\n",
        "thermal_zone0/type": "x86_pkg_temp\n",
        "AC/online": "1\n",
        "BAT0/online": "--5\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    real = module.glob.glob
    moved = {module._CPUS: tmp_path, "/sys/class/thermal": tmp_path, "/sys/class/power_supply": tmp_path}

    def elsewhere(pattern):
        for prefix, place in moved.items():
            pattern = pattern.replace(prefix, str(place))
        return real(pattern)

    monkeypatch.setattr(module.glob, "glob", elsewhere)
    found = conditions()
    assert found["governor"] == {"cpu0": "powersave", "cpu1": "perf?[31mormance"}
    assert found["frequency_khz"] == {"cpu0": 1800000}
    assert found["temperature_millicelsius"] == {"thermal_zone0:x86_pkg_temp": -5000}
    assert found["on_charger"] is True


# --- power -------------------------------------------------------------------------------------------------------------------------------


def write(root, files):
    for name, text in files.items():
        path = root / "class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else f"{text}\n".encode())


def drawn(tmp_path, before, after, seconds=2.0):
    """The mean power between two states of a tree, that many seconds apart."""
    write(tmp_path, before)
    first = module.read_power(str(tmp_path))
    write(tmp_path, after)
    return module.mean_power(first, replace(module.read_power(str(tmp_path)), at=first.at + seconds))


RAPL = {"powercap/intel-rapl:0/name": "package-0", "powercap/intel-rapl:0/max_energy_range_uj": 1_000_000_000}
BATTERY = {"power_supply/BAT0/type": "Battery", "power_supply/BAT0/status": "Discharging"}
CHIP = {"hwmon/hwmon3/name": "amdgpu", "hwmon/hwmon3/power1_label": "PPT"}


@pytest.mark.parametrize(
    ("before", "after", "watts"),
    [
        # the counter of RAPL, and its start anew
        ({**RAPL, "powercap/intel-rapl:0/energy_uj": 5_000_000}, {"powercap/intel-rapl:0/energy_uj": 29_000_000},
         {"powercap intel-rapl:0 (package-0)": 12.0}),
        ({**RAPL, "powercap/intel-rapl:0/energy_uj": 999_000_000}, {"powercap/intel-rapl:0/energy_uj": 9_000_000},
         {"powercap intel-rapl:0 (package-0)": 5.0}),
        # sensors of hwmon: of energy, of power with a label and without
        ({"hwmon/hwmon0/energy2_input": 100, "hwmon/hwmon0/name": "scmi"}, {"hwmon/hwmon0/energy2_input": 3_000_100},
         {"hwmon hwmon0 (scmi) energy2": 1.5}),
        ({**CHIP, "hwmon/hwmon3/power1_average": 8_000_000}, {"hwmon/hwmon3/power1_average": 12_000_000},
         {"hwmon hwmon3 (amdgpu) PPT": 10.0}),
        ({"hwmon/hwmon1/power1_input": 250_000}, {}, {"hwmon hwmon1 power1": 0.25}),
        # batteries: power, or current and voltage, whichever way it flows
        ({**BATTERY, "power_supply/BAT0/power_now": 6_500_000}, {}, {"power_supply BAT0 (Discharging)": 6.5}),
        ({**BATTERY, "power_supply/BAT0/current_now": -500_000, "power_supply/BAT0/voltage_now": 12_000_000}, {},
         {"power_supply BAT0 (Discharging)": 6.0}),
    ],
)  # fmt: skip
def test_power_of_a_machine_with_sensors(tmp_path, before, after, watts):
    assert drawn(tmp_path, before, after) == {"seconds": 2.0, "watts": watts}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"powercap/intel-rapl:0/energy_uj": 500}, {"powercap/intel-rapl:0/energy_uj": 400}),  # it started anew, nobody knows at what
        ({**RAPL, "powercap/intel-rapl:0/energy_uj": 2_000_000_000}, {"powercap/intel-rapl:0/energy_uj": 1}),  # beyond its own range
        ({"hwmon/hwmon0/energy1_input": 500}, {"hwmon/hwmon0/energy1_input": 400}),
        ({"hwmon/hwmon0/energy1_input": "N/A"}, {}),
        ({"hwmon/hwmon0/energy1_input": "9" * 60}, {}),
        ({"hwmon/hwmon0/power1_input": b"\xff\xfe"}, {}),
        ({"power_supply/AC/type": "Mains", "power_supply/AC/power_now": 65_000_000}, {}),
        ({**BATTERY, "power_supply/BAT0/current_now": 1}, {}),
        ({**BATTERY, "power_supply/BAT0/status": "Full"}, {}),
    ],
)
def test_no_power_where_no_sensor_says_it(tmp_path, before, after):
    assert drawn(tmp_path, before, after) is None


def test_a_battery_that_is_plugged_in_meanwhile_is_another_reading(tmp_path):
    assert drawn(tmp_path, {**BATTERY, "power_supply/BAT0/power_now": 5}, {"power_supply/BAT0/status": "Charging"}) is None


def test_hostile_names_are_bounded_and_one_line(tmp_path):
    write(tmp_path, {"hwmon/hwmon0/name": "\x1b[31m\n" + "x" * 5000, "hwmon/hwmon0/power1_input": 1})
    (name,) = module.read_power(str(tmp_path)).power_uw
    assert name.isprintable()
    assert len(name) < 200


def test_no_more_sensors_than_anyone_needs(tmp_path):
    write(tmp_path, {f"hwmon/hwmon{number}/power1_input": 1 for number in range(600)})
    assert len(module.read_power(str(tmp_path)).power_uw) == 512


def test_the_power_of_this_machine_is_json_or_not_there():
    first = module.read_power()
    found = module.mean_power(first, replace(module.read_power(), at=first.at + 1))
    assert found is None or json.loads(json.dumps(found, allow_nan=False)) == found
    assert module.mean_power(first, first) is None
