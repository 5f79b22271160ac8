"""Clocks, governors and temperatures of any Linux, from sysfs. In a virtual machine there are none."""

from __future__ import annotations

from edgeseg.runtimes.telemetry.reading import SENSORS, Flag, Place, Reading, number, sensible

CPUFREQ = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/"
ZONES = "/sys/class/thermal/thermal_zone*/"


def read(place: Place, time_s: float) -> Reading | None:
    """kHz and thousandths of a degree, as the kernel gives them; zones by their type, numbered where two share one."""
    clocks = {_part(path, 5): khz / 1000 for path, khz in _numbers(place, CPUFREQ + "scaling_cur_freq")}
    flags: dict[str, Flag] = {}
    for name in ("scaling_governor", "scaling_min_freq", "scaling_max_freq"):
        for path, text in place.files(CPUFREQ + name).items():
            flags[f"{_part(path, 5)} {name.removeprefix('scaling_')}"] = text
    kinds = {_part(path, 4): text for path, text in place.files(ZONES + "type").items()}
    degrees = {}
    for path, value in _numbers(place, ZONES + "temp"):
        zone = _part(path, 4)
        kind = kinds.get(zone, zone)
        if sensible(value / 1000):
            degrees[kind if list(kinds.values()).count(kind) < 2 else f"{kind} ({zone})"] = value / 1000
    return Reading(time_s, degrees, clocks, flags=flags) if degrees or clocks or flags else None


def _numbers(place: Place, pattern: str) -> list[tuple[str, float]]:
    return [(path, value) for path, text in place.files(pattern).items() if (value := number(text)) is not None]


def _part(path: str, index: int) -> str:
    return path.split("/")[index]


SENSORS.add("linux", read)
