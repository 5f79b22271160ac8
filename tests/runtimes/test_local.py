"""This machine, and machines made of files."""

from __future__ import annotations

from pathlib import Path

from edgeseg.runtimes.devices import local


def test_a_board_with_sensors_is_read(tmp_path: Path) -> None:
    files = {
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
        "devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "class/thermal/thermal_zone0/temp": "61234\n",
        "class/thermal/thermal_zone1/temp": "-274000\n",
        "firmware/devicetree/base/model": "Raspberry Pi 5 Model B\0",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    state = local.state(tmp_path)
    assert (state.cpu_mhz, state.temperature_c, state.governor) == (2400, 61.234, "performance")
    assert local.cpu_name(tmp_path / "no cpuinfo", tmp_path) == "Raspberry Pi 5 Model B"


def test_what_a_machine_does_not_say_is_null(tmp_path: Path) -> None:
    state = local.state(tmp_path)
    assert (state.cpu_mhz, state.temperature_c, state.governor) == (None, None, None)


def test_this_machine_has_a_name_cores_and_memory() -> None:
    state = local.state()
    device = local.device(state, state)
    assert device.kind == "local" and device.name and device.system
    assert device.cores >= 1 and device.memory_bytes > 1 << 28
