"""RAPL energy counters of x86, from powercap: uJ by domain. For root alone on most systems, absent in virtual machines."""

from __future__ import annotations

from edgeseg.runtimes.telemetry.reading import SENSORS, Place, Reading

ZONES = "/sys/class/powercap/*-rapl:*/"


def read(place: Place, time_s: float) -> Reading | None:
    """Counters by the name of their domain, `package-0`; a part of one by both, `package-0 core`. `dram` is no part of it."""
    names = _by_zone(place, "name")
    counters = _numbers(place, "energy_uj", names)
    wraps = _numbers(place, "max_energy_range_uj", names)
    return Reading(time_s, energy_uj=counters, wraps_uj=wraps) if counters else None


def _numbers(place: Place, file: str, names: dict[str, str]) -> dict[str, int]:
    return {_name(zone, names): int(text) for zone, text in _by_zone(place, file).items() if text.isdigit()}


def _name(zone: str, names: dict[str, str]) -> str:
    """`intel-rapl:0:1` is a part of `intel-rapl:0`."""
    whole = zone.rpartition(":")[0]
    own = names.get(zone, zone)
    return f"{names[whole]} {own}" if whole in names else own


def _by_zone(place: Place, file: str) -> dict[str, str]:
    return {path.split("/")[4]: text for path, text in place.files(ZONES + file).items()}


SENSORS.add("rapl", read)
