"""RAPL energy counters of x86, from powercap: uJ by domain. For root alone on most systems, absent in virtual machines."""

from __future__ import annotations

from edgeseg.runtimes.telemetry.reading import SENSORS, Place, Reading

ZONES = "/sys/class/powercap/*-rapl:*/"


def read(place: Place, time_s: float) -> Reading | None:
    """Counters by the name of their domain; `package-0` has its cores in it, `dram` it has not."""
    names = _by_zone(place, "name")
    counters = {names[zone]: int(text) for zone, text in _by_zone(place, "energy_uj").items() if text.isdigit()}
    wraps = {names[zone]: int(text) for zone, text in _by_zone(place, "max_energy_range_uj").items() if text.isdigit()}
    return Reading(time_s, energy_uj=counters, wraps_uj=wraps) if counters else None


def _by_zone(place: Place, file: str) -> dict[str, str]:
    return {path.split("/")[4]: text for path, text in place.files(ZONES + file).items()}


SENSORS.add("rapl", read)
