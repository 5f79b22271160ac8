"""What sensors say, from texts in the formats of the devices and from made-up trees: there is no such device here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import EdgesegError, InvalidMeasurement
from edgeseg.runtimes import agent
from edgeseg.runtimes.devices.local import Local
from edgeseg.runtimes.devices.remote import Remote
from edgeseg.runtimes.telemetry import (
    SENSORS,
    STREAMS,
    Here,
    Reading,
    Rooted,
    android,
    jetson,
    powermetrics,
    take,
    tegrastats,
)
from edgeseg.runtimes.telemetry.energy import per_frame
from edgeseg.runtimes.telemetry.raspberry import held_back, throttled
from edgeseg.runtimes.telemetry.there import There, Told
from edgeseg.runtimes.telemetry.validity import notes, reasons
from edgeseg.runtimes.telemetry.watch import EVERY_S, Known, Round, Watch, needed
from tests.runtimes.busy import CHIP, ZONE, busy

NOW = Reading(0.0)

GENERATIONS = {
    "nano": "RAM 1500/3964MB (lfb 2x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB CPU [2%@102,off,off,1%@102] "
    "EMC_FREQ 0% GR3D_FREQ 0%@76 APE 25 PLL@32C CPU@34.5C PMIC@100C GPU@33C AO@40.5C thermal@33.75C "
    "POM_5V_IN 933/933 POM_5V_GPU 0/0 POM_5V_CPU 130/130",
    "xavier": "RAM 2903/7772MB (lfb 1x4MB) SWAP 0/3886MB (cached 0MB) CPU [4%@1190,0%@729,off,off] EMC_FREQ 2%@1600 "
    "GR3D_FREQ 12%@318 VIC_FREQ 0%@115 APE 150 AUX@38C CPU@41C GPU@38.5C PMIC@100C VDD_IN 14025/14416 VDD_SOC 1500/1520",
    "orin": "RAM 3012/15389MB (lfb 20x4MB) SWAP 0/7695MB (cached 0MB) CPU [0%@729,off,3%@1510] EMC_FREQ 1%@2133 "
    "GR3D_FREQ 10%@1300 NVDEC off APE 200 CV0@-256C CPU@48.281C tj@48.281C VDD_GPU_SOC 1593mW/1593mW VDD_CPU_CV 398mW/398mW",
    "jetpack 7": "RAM 3012/62841MB (lfb 20x4MB) CPU [0%@729,off,3%@1510] GR3D_FREQ 12%@[1300,1300] NVDEC0_FREQ @998 "
    "cpu@52.968C/52.968C VDD_IN 5139mW/5139mW/5139mW",
    "thor": "RAM 3012/125772MB (lfb 20x4MB) CPU [0%@972,off] GR3D_FREQ @[1000,1000,1000] cpu@41.2C VIN 12000mW/11000mW",
}
SAID: dict[str, tuple[float, dict[str, float], dict[str, float]]] = {
    "nano": (
        76,
        {"PLL": 32, "CPU": 34.5, "GPU": 33, "AO": 40.5, "thermal": 33.75},
        {"POM_5V_IN": 933, "POM_5V_GPU": 0, "POM_5V_CPU": 130},
    ),
    "xavier": (318, {"AUX": 38, "CPU": 41, "GPU": 38.5}, {"VDD_IN": 14025, "VDD_SOC": 1500}),
    "orin": (1300, {"CPU": 48.281, "tj": 48.281}, {"VDD_GPU_SOC": 1593, "VDD_CPU_CV": 398}),
    "jetpack 7": (1300, {"cpu": 52.968}, {"VDD_IN": 5139}),
    "thor": (1000, {"cpu": 41.2}, {"VIN": 12000}),
}
"""The GPU's clock, temperatures, power."""


@pytest.mark.parametrize("generation", GENERATIONS)
def test_tegrastats_of_every_generation(generation: str) -> None:
    for stamp in ("", "11-20-2026 12:00:01 "):
        found = tegrastats.parse(stamp + GENERATIONS[generation], time_s=7.5)
        clock, degrees, power = SAID[generation]
        assert (found.time_s, found.clocks_mhz["GR3D"]) == (7.5, clock)
        assert (found.temperatures_c, found.power_mw) == (degrees, power)


def test_a_core_that_is_off_has_no_clock_and_the_others_keep_their_numbers() -> None:
    clocks = tegrastats.parse(GENERATIONS["orin"], 0.0).clocks_mhz
    assert (clocks["cpu0"], clocks["cpu2"]) == (729, 1510) and "cpu1" not in clocks


@pytest.mark.parametrize("line", ["", "tegrastats: command not found", "VDD_IN 5139mW/5139mW"])
def test_what_is_no_line_of_tegrastats_is_refused(line: str) -> None:
    with pytest.raises(EdgesegError, match="no line of tegrastats"):
        tegrastats.parse(line, 0.0)


def test_a_line_without_a_time_needs_one() -> None:
    with pytest.raises(EdgesegError, match="says no time"):
        tegrastats.parse(GENERATIONS["nano"])
    first, second = (tegrastats.parse(f"11-20-2026 12:00:0{n} " + GENERATIONS["nano"]) for n in (1, 3))
    assert second.time_s - first.time_s == 2


def test_the_power_mode_and_whether_clocks_are_pinned() -> None:
    assert jetson.power_mode("NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n") == {
        "power_mode": "MAXN",
        "power_mode_id": 0,
    }
    assert jetson.power_mode("NVPM ERROR: no such file") == {}
    text = (
        "SOC family:tegra234  Machine:Orin\nOnline CPUs: 0-1\n"
        "cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1510400 CurrentFreq=1190400 IdleStates: WFI=1 c7=1\n"
        "cpu1: Gonvernor=interactive MinFreq=1510400 MaxFreq=1510400 CurrentFreq=1510400\n"
        "GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000\n"
        "EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=0\n"
    )
    mhz, flags = jetson.clocks(text)
    assert mhz == {"cpu0": 1190.4, "cpu1": 1510.4, "GPU": 306.0, "EMC": 2133.0}
    assert flags == {"cpu0 governor": "schedutil", "cpu1 governor": "interactive", "clocks_pinned": False}
    pinned = (
        text.replace("729600", "1510400").replace("306000000 Max", "624750000 Max").replace("204000000", "2133000000")
    )
    assert jetson.clocks(pinned)[1]["clocks_pinned"] is True


THERMAL = """IsStatusOverride: false
ThermalEventListeners:
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=32.0, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{mValue=39.5, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=0.0, mType=1, mName=GPU0, mStatus=0}
	Temperature{mValue=-99.9, mType=9, mName=NPU, mStatus=0}
	Temperature{mValue=NaN, mType=3, mName=skin, mStatus=0}
	Temperature{mValue=4.2, mType=6, mName=vbat, mStatus=0}
	Temperature{mValue=85.0, mType=8, mName=soc, mStatus=0}
	Temperature{mValue=36.1, mType=4, mName=SKIN, mStatus=STATUS}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
	Temperature{mValue=88.0, mType=0, mName=wrong, mStatus=3}
"""


def test_only_present_temperatures_of_a_phone_count() -> None:
    found = android.thermal(THERMAL.replace("STATUS", "0"), 1.0)
    assert found == Reading(1.0, {"CPU0": 39.5, "SKIN": 36.1}, flags={"thermal_status": 0})
    warm = android.thermal(THERMAL.replace("STATUS", "2"), 1.0)
    assert warm is not None and warm.flags["thermal_status"] == 2  # one sensor's is enough
    assert android.thermal("Can't find service: thermalservice", 1.0) is None


def test_a_phone_that_keeps_its_temperatures_to_itself_still_has_a_status() -> None:
    assert android.thermal("Thermal Status: 3\nCached temperatures:\n", 1.0) == Reading(
        1.0, flags={"thermal_status": 3}
    )


BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  present: true
  level: 87
  scale: 100
  temperature: 254
  technology: Li-ion
"""


def test_the_battery_of_a_phone() -> None:
    found = android.battery(BATTERY, 0.0)
    assert found == Reading(0.0, {"battery": 25.4}, flags={"battery_percent": 87, "charging": True})
    assert android.battery(BATTERY.replace("present: true", "present: false"), 0.0) is None
    assert android.battery("Can't find service: battery", 0.0) is None


def test_what_the_firmware_of_a_raspberry_held_back() -> None:
    assert throttled("throttled=0x50000\n") == 0x50000
    for text in ("", "throttled=", "VCHI initialization failed", "throttled=0xNaN"):
        with pytest.raises(EdgesegError, match="no answer of `vcgencmd"):
            throttled(text)
    assert held_back(0, 0) == held_back(0x50000, 0x50000) == []
    assert held_back(0, 0x40000) == ["throttled"]  # it came and went
    assert held_back(0x50000, 0xD0000) == ["soft temperature limit"]
    assert held_back(0x50005, 0x50000) == ["under-voltage", "throttled"]  # under way at the start


MACOS = """Machine model: Mac14,2
*** Sampled system activity (Fri Nov 20 12:00:00 2026 +0000) (100.10ms elapsed) ***
CPU Power: 9999 mW
*** Sampled system activity (Fri Nov 20 12:00:01 2026 +0000) (100.10ms elapsed) ***
**** Processor usage ****
E-Cluster HW active frequency: 1320 MHz
P0-Cluster HW active frequency: 3100 MHz
CPU Power: 1542 mW
GPU Power: 3.41 W
ANE Power: 0 mW
Combined Power (CPU + GPU + ANE): 4952 mW
**** GPU usage ****
GPU HW active frequency: 444 MHz
**** Thermal pressure ****
Current pressure level: Nominal
"""


def test_powermetrics_says_its_last_sample() -> None:
    found = powermetrics.parse(MACOS, 2.0)
    assert found == Reading(
        2.0,
        clocks_mhz={"E": 1320, "P0": 3100, "GPU": 444},
        power_mw={"CPU": 1542, "GPU": 3410, "ANE": 0, "Combined": 4952},
        flags={"thermal_pressure": "Nominal"},
    )
    assert powermetrics.parse("powermetrics must be invoked as the superuser\n", 2.0) is None


def test_streams_are_cut_into_samples() -> None:
    lines = [(index / 10, line) for index, line in enumerate([*MACOS.splitlines(), powermetrics.BEGINS])]
    found = list(STREAMS["powermetrics"].readings(lines))
    assert [(reading.time_s, reading.power_mw["CPU"]) for reading in found] == [(0.1, 9999), (0.3, 1542)]
    lines = [(index / 10, line) for index, line in enumerate(GENERATIONS.values())]
    assert [reading.time_s for reading in STREAMS["tegrastats"].readings(lines)] == [
        0.0,
        0.1,
        0.2,
        0.3,
    ]  # the last may be cut off


class Board(Here):
    """A made-up tree, and commands that answer as told."""

    def __init__(self, root: Path, files: dict[str, str], commands: dict[str, str]) -> None:
        super().__init__(root)
        self._commands = commands
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def run(self, words: Sequence[str]) -> str | None:
        return self._commands.get(" ".join(words))


FREQ = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_{}"
TREE = {
    FREQ.format(0, "cur_freq"): "1500000\n",
    FREQ.format(3, "cur_freq"): "2400000\n",
    FREQ.format(0, "governor"): "ondemand\n",
    FREQ.format(0, "max_freq"): "2400000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "61234\n",
    "sys/class/thermal/thermal_zone1/type": "gpu\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",
    "sys/class/thermal/thermal_zone2/type": "gpu\n",
    "sys/class/thermal/thermal_zone2/temp": "40000\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5032\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1000\n",
    "sys/class/hwmon/hwmon1/in2_input": "5032\n",
    "sys/class/hwmon/hwmon1/curr2_input": "n/a\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon1/in7_input": "12\n",
    "sys/class/hwmon/hwmon2/name": "nvme\n",
    "sys/class/hwmon/hwmon2/in1_input": "5000\n",
    "sys/class/hwmon/hwmon2/curr1_input": "5000\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "400000\n",
    "sys/class/powercap/intel-rapl:1/name": "psys\n",
    "sys/class/powercap/intel-rapl:1/energy_uj": "",
}
COMMANDS = {
    "vcgencmd get_throttled": "throttled=0x0\n",
    "vcgencmd measure_temp": "temp=48.7'C\n",
    "vcgencmd measure_clock arm": "frequency(48)=1500398464\n",
    "nvpmodel -q": "NV Power Mode: 15W\n2\n",
    "dumpsys thermalservice": THERMAL.replace("STATUS", "0"),
    "dumpsys battery": BATTERY,
}


def test_every_sensor_of_a_made_up_board_speaks(tmp_path: Path) -> None:
    board = Board(tmp_path, TREE, COMMANDS)
    spoke = {name for name in SENSORS if SENSORS[name](board, 0.0) is not None}
    assert spoke == set(SENSORS)
    found = take(board)
    assert found.temperatures_c == {
        "cpu-thermal": 61.234,
        "gpu (thermal_zone2)": 40.0,
        "soc": 48.7,
        "CPU0": 39.5,
        "SKIN": 36.1,
        "battery": 25.4,
    }
    assert found.clocks_mhz == {"cpu0": 1500, "cpu3": 2400, "arm": pytest.approx(1500.398464)}
    assert found.power_mw == {"VDD_IN": 5032.0}
    assert found.energy_uj == {"package-0": 1000000, "package-0 core": 400000}
    assert found.wraps_uj == {"package-0": 262143328850}
    assert found.flags == {
        "cpu0 governor": "ondemand",
        "cpu0 max_freq": "2400000",
        "throttled": 0,
        "power_mode": "15W",
        "power_mode_id": 2,
        "thermal_status": 0,
        "battery_percent": 87,
        "charging": True,
    }


def test_where_there_are_no_sensors_nothing_is_said(tmp_path: Path) -> None:
    assert replace(take(Board(tmp_path, {}, {})), time_s=0.0) == NOW


def test_this_machine_can_be_asked() -> None:
    assert take(Here()).time_s <= time.monotonic()
    assert Here().run(["no-such-command-as-this"]) is None
    assert Here().run(["false"]) is None
    assert Here().run(["echo", "words; are words"]) == "words; are words\n"


@pytest.mark.parametrize("way", ["here", "there", "told"])
def test_files_and_commands_are_read_alike_wherever_they_are(tmp_path: Path, device: Remote, way: str) -> None:
    for name, text in (("zone0", "61234\n"), ("zone1", ""), ("it's $HOME", "two\nlines\0\n"), ("other", "x")):
        (tmp_path / name).write_text(text)
    (tmp_path / "zone9").mkdir()
    places: dict[str, tuple[Rooted, Rooted]] = {
        "here": (Here(), Here(tmp_path)),
        "there": (There(Local()), There(Local(), str(tmp_path))),
        "told": (Told(device), Told(device, str(tmp_path))),
    }
    place, rooted = places[way]
    assert place.files(f"{tmp_path}/zone*") == {f"{tmp_path}/zone0": "61234", f"{tmp_path}/zone1": ""}
    assert place.files(f"{tmp_path}/it*") == {f"{tmp_path}/it's $HOME": "two\nlines"}
    assert place.files(f"{tmp_path}/none*") == {}
    assert rooted.files("/zone*") == {"/zone0": "61234", "/zone1": ""}
    assert Path(rooted.path("/zone0")).read_text() == "61234\n"
    assert place.run(["echo", "words; are $words"]) == "words; are $words\n"
    assert place.run(["no-such-command-as-this"]) is None


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ({"throttled": 0}, {"throttled": 0x20000}, "held the board back: clock capped"),
        ({"thermal_status": 0}, {"thermal_status": 1}, "thermal status 1 after"),
        ({"thermal_status": 2}, {"thermal_status": 0}, "thermal status 2 before"),
        ({"thermal_pressure": "Nominal"}, {"thermal_pressure": "Heavy"}, "thermal pressure Heavy"),
        ({"power_mode": "MAXN"}, {"power_mode": "15W"}, "power_mode changed from MAXN to 15W"),
        ({"cpu0 governor": "performance"}, {"cpu0 governor": "powersave"}, "cpu0 governor changed"),
        ({"cpu0 max_freq": "2400000"}, {"cpu0 max_freq": "1500000"}, "changed from 2400000 to 1500000"),
        ({"cpu0 max_freq": "2400000"}, {}, "changed from 2400000 to None"),
        ({"clocks_pinned": True}, {"clocks_pinned": False}, "they were pinned before"),
        ({"battery_percent": 40}, {"battery_percent": 19}, "battery low: 19 %"),
    ],
)
def test_each_reason_of_a_device(
    before: dict[str, bool | int | str], after: dict[str, bool | int | str], line: str
) -> None:
    (reason,) = reasons(replace(NOW, flags=before), replace(NOW, flags=after))
    assert line in reason
    assert reasons(replace(NOW, flags=before), replace(NOW, flags=before)) == [] or "before" in line


def test_what_is_over_again_is_a_reason_all_the_same() -> None:
    before = Reading(0.0, clocks_mhz={"cpu0": 1500, "GPU": 600}, flags={"throttled": 0x50000, "cpu0 max_freq": "15"})
    calm, hot = Reading(1.0, {"cpu": 60.0}), Reading(2.0, clocks_mhz={"cpu0": 600}, flags={"throttled": 0x50004})
    assert reasons(before, before, [calm, calm]) == []
    assert reasons(before, before, [calm, hot, hot]) == ["the firmware held the board back: throttled"]
    (line,) = reasons(before, before, [replace(calm, flags={"thermal_status": 1})])
    assert "thermal status 1 while measuring" in line
    (line,) = reasons(before, before, [replace(calm, flags={"cpu0 max_freq": "9"})])
    assert "max_freq changed from 15 to 9" in line
    pinned = replace(before, flags={"clocks_pinned": True})
    assert len(reasons(pinned, pinned, [hot])) == 1


@pytest.mark.parametrize("mhz", [1200.0, float("nan")])
def test_pinned_clocks_that_change_are_a_reason(mhz: float) -> None:
    before = Reading(0.0, clocks_mhz={"GPU": 1300.0}, flags={"clocks_pinned": True})
    (reason,) = reasons(before, replace(before, clocks_mhz={"GPU": mhz}))
    assert "though pinned" in reason
    assert reasons(before, replace(before, clocks_mhz={"GPU": 1299.0})) == []
    loose = replace(before, flags={})
    assert reasons(loose, replace(loose, clocks_mhz={"GPU": mhz})) == []  # a governor's work


def test_nothing_known_is_no_reason_and_old_throttling_is_a_note() -> None:
    assert reasons(NOW, NOW) == notes(NOW) == []
    old = replace(NOW, flags={"throttled": 0x50000})
    assert reasons(old, old) == []
    assert notes(old)[0].startswith("under-voltage, throttled since the board was switched on")


def watts(seconds: Sequence[float], mw: Sequence[float], rail: str = "VDD_IN") -> list[Reading]:
    return [Reading(at, power_mw={rail: power, "VDD_SOC": 1.0}) for at, power in zip(seconds, mw, strict=True)]


TENTHS = [index / 10 for index in range(11)]


def test_energy_is_what_the_board_takes_above_idle() -> None:
    found = per_frame(watts(TENTHS, [2000.0] * 11), watts(TENTHS, [5000.0] * 11), frames=50)
    assert found is not None and found.source == "power VDD_IN"
    assert [found.idle_mw, found.busy_mw] == pytest.approx([2000, 5000])
    assert found.frame_mj == pytest.approx(3000 / 50)  # 3 W for a second, by 50 frames
    ramp = per_frame(watts(TENTHS, [0.0] * 11), watts(TENTHS, [1000 * at for at in TENTHS]), frames=1)
    assert ramp is not None and ramp.frame_mj == pytest.approx(500)


def test_energy_of_a_counter_that_wraps() -> None:
    def counter(values: Sequence[int]) -> list[Reading]:
        wraps = {"package-0": 10_000_000}
        return [Reading(float(at), energy_uj={"package-0": uj}, wraps_uj=wraps) for at, uj in enumerate(values)]

    found = per_frame(counter([0, 1_000_000]), counter([9_000_000, 2_000_000, 5_000_000]), frames=10)
    assert found is not None and found.source == "counter package-0"
    assert (found.idle_mw, found.busy_mw) == (1000, 3000)
    assert found.frame_mj == pytest.approx(2000 * 2 / 10)
    both = [replace(r, energy_uj=r.energy_uj | {"package-1": 0}) for r in counter([0, 1_000_000])]
    assert per_frame(both, both, frames=10) is None  # the second processor's share is not known
    backwards = [replace(reading, wraps_uj={}) for reading in counter([9_000_000, 2_000_000])]
    with pytest.raises(InvalidMeasurement, match="went backwards"):
        per_frame(counter([0, 1_000_000]), backwards, frames=10)


def test_no_source_no_energy() -> None:
    idle = watts(TENTHS, [2000.0] * 11)
    assert per_frame([NOW] * 5, [NOW] * 5, frames=10) is None
    assert per_frame(watts(TENTHS, [1.0] * 11, "VDD_GPU"), watts(TENTHS, [2.0] * 11, "VDD_GPU"), frames=10) is None
    assert per_frame(idle, idle[:1], frames=10) is None
    assert per_frame(idle, idle, frames=0) is None


@pytest.mark.parametrize(
    ("seconds", "mw", "line"),
    [
        ([0, 0.5, 1.0], [5000.0] * 3, "10 are needed"),
        (TENTHS, [2000.0] * 11, "was it idle"),
        (TENTHS, [1000.0] * 11, "was it idle"),
        (TENTHS, [float("nan")] * 11, "was it idle"),
        (TENTHS[::-1], [5000.0] * 11, "order of time"),
    ],
)
def test_energy_that_cannot_be_trusted_is_refused(seconds: Sequence[float], mw: Sequence[float], line: str) -> None:
    with pytest.raises(InvalidMeasurement, match=line):
        per_frame(watts(TENTHS, [2000.0] * 11), watts(seconds, mw), frames=10)


def test_reading_power_takes_less_than_a_hundredth_of_a_core(tmp_path: Path) -> None:
    """As often as it is done, by whoever does it: all else is found before, and what it means afterwards."""
    board = Board(tmp_path, TREE, {})
    known = Known(board)
    assert SENSORS["ina"](known, 0.0) and SENSORS["rapl"](known, 0.0)
    files = [*needed("ina", known), *needed("rapl", known)]
    assert [path.rpartition("/")[2] for path in files] == ["in1_input", "curr1_input", "energy_uj", "energy_uj"]
    asked = Round(board, EVERY_S / 50, {"ina": known, "rapl": known}, files)
    watcher, (over, tell) = agent.Watcher([asked.asked], []), os.pipe()
    threading.Timer(0.4, os.close, [tell]).start()
    spent = time.thread_time()
    (looks,) = watcher.run(over)["rounds"]
    spent = time.thread_time() - spent
    os.close(over)
    assert len(looks) > 50 and spent / len(looks) < 0.01 * EVERY_S
    found = asked.readings(looks)
    assert (
        found[-1] == take(board, ["ina", "rapl"]).with_(Reading(looks[-1][0])) == replace(found[0], time_s=looks[-1][0])
    )


def test_a_sensor_that_breaks_down_meanwhile_has_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = busy(tmp_path, monkeypatch)
    monkeypatch.setattr("edgeseg.runtimes.telemetry.watch.IDLE_S", 0.1)
    watch = Watch(Here(board.root), Local())
    with watch:
        begun = time.perf_counter_ns()
        board.command("vcgencmd", "echo it is broken")
        (board.root / ZONE / "temp").unlink()
        (board.root / CHIP / "curr1_input").unlink()
        time.sleep(0.5)
        board.command("vcgencmd", "exit 1")
    said = watch.says(begun + np.arange(50) * 10_000_000)
    assert (said["energy_mj"], said["energy_source"]) == (None, None)
    during = said["sensors"].during
    assert len(during) >= 2 and all((each.temperatures_c, each.flags) == ({}, {}) for each in during)


@pytest.mark.slow
def test_a_stream_is_listened_to_where_no_file_says_the_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up `tegrastats`: 4 W while the device is left alone, then 9 W."""
    script = tmp_path / "bin" / "tegrastats"
    script.parent.mkdir()
    script.write_text(
        f"#!/bin/sh\necho $$ >'{tmp_path}/pid'\nwhile :; do p=4000; [ ! -e '{tmp_path}/busy' ] || p=9000; "
        'echo "RAM 3012/15389MB (lfb 20x4MB) VDD_IN ${p}mW/${p}mW"; sleep 0.04; done\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "nothing").mkdir()
    watch = Watch(Here(tmp_path / "nothing"), Local())
    with watch:
        (tmp_path / "busy").touch()
        begun = time.monotonic_ns()
        time.sleep(1.6)
    said = watch.says(begun + np.arange(160) * 10_000_000)
    assert said["energy_source"] == "power VDD_IN"
    assert said["energy_mj"] == pytest.approx(50, rel=0.2)  # 5 W above idle for 10 ms
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
