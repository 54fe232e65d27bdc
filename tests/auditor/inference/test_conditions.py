from __future__ import annotations

import json

from auditor.inference import conditions as module
from auditor.inference.conditions import conditions


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
