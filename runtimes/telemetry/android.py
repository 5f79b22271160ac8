"""A phone, through `dumpsys`: the thermal service's present temperatures, and the battery."""

from __future__ import annotations

import re

from edgeseg.runtimes.telemetry.reading import SENSORS, Flag, Place, Reading, number, sensible

CURRENT = "Current temperatures from HAL:"
"""What follows `Cached temperatures:` is stale: 32 degrees there, 39 here, has been seen."""

SENSOR = re.compile(r"Temperature\{mValue=([^,}]+), mType=(-?\d+), mName=([^,}]+), mStatus=(\d+)\}")

QUANTITIES = re.compile(r"[iv]bat.*|.*(?:bcl|voltage|current|percent).*", re.IGNORECASE)
"""Names of what gives volts, amperes or shares where a temperature is expected."""

BCL = ("6", "7", "8")
"""Types of the same in Android's own numbering, which not every maker keeps: hence the names as well."""


def thermal(text: str, time_s: float) -> Reading | None:
    """Temperatures of the present section alone, and the worst status: 0 none, 1 light, 2 moderate, 3 severe, ...

    Null for an answer without a status, e.g. of a phone before Android 10.
    """
    status = re.search(r"^\s*Thermal Status: (\d+)\s*$", text, re.MULTILINE)
    if status is None:
        return None
    degrees, statuses = {}, [int(status[1])]
    for line in text.partition(CURRENT)[2].splitlines()[1:]:
        found = SENSOR.search(line)
        if found is None:
            break
        value, name = number(found[1]), found[3].strip()
        if value is None or not sensible(value) or found[2] in BCL or QUANTITIES.fullmatch(name):
            continue
        degrees[name] = value
        statuses.append(int(found[4]))
    return Reading(time_s, degrees, flags={"thermal_status": max(statuses)})


def battery(text: str, time_s: float) -> Reading | None:
    """Level in %, temperature, whether it is fed from outside; null where there is no battery."""
    said = dict(re.findall(r"^\s*([\w ]+): (\S+)\s*$", text, re.MULTILINE))
    level, scale = number(said.get("level", "")), number(said.get("scale", "100"))
    if level is None or not scale or said.get("present") == "false":
        return None
    powered = [value for name, value in said.items() if name.endswith("powered")]
    flags: dict[str, Flag] = {"battery_percent": round(100 * level / scale), "charging": "true" in powered}
    tenths = number(said.get("temperature", ""))
    degrees = {"battery": tenths / 10} if tenths is not None and sensible(tenths / 10) else {}
    return Reading(time_s, degrees, flags=flags)


def read(place: Place, time_s: float) -> Reading | None:
    """Both services; asking for one that is not there prints so and ends well."""
    parts = [
        parse(text, time_s)
        for service, parse in (("thermalservice", thermal), ("battery", battery))
        if (text := place.run(["dumpsys", service])) is not None
    ]
    found = [part for part in parts if part is not None]
    return found[0].with_(found[-1]) if found else None


SENSORS.add("android", read)
