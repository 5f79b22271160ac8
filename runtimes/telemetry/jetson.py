"""A Jetson's power mode and clock limits: `nvpmodel -q` and `jetson_clocks --show`."""

from __future__ import annotations

import re

from edgeseg.runtimes.telemetry.reading import SENSORS, Flag, Place, Reading

CPU = re.compile(r"cpu(\d+):.* Go?n?vernor=(\S+) MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)")
"""`Gonvernor` is what the TX1 writes."""

ENGINE = re.compile(r"(\w+) MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)")


def power_mode(text: str) -> dict[str, Flag]:
    """`NV Power Mode: MAXN`, and its number in the line below; nothing for other text."""
    found = re.search(r"NV Power Mode: *(\S+)\s+(\d+)\s*$", text, re.MULTILINE)
    return {"power_mode": found[1], "power_mode_id": int(found[2])} if found else {}


def clocks(text: str) -> tuple[dict[str, float], dict[str, Flag]]:
    """Clocks in MHz now, and whether `jetson_clocks` has pinned them all: lowest equal to highest.

    The processors' are in kHz, those of GPU, EMC and the rest in Hz.
    """
    mhz: dict[str, float] = {}
    flags: dict[str, Flag] = {}
    pinned = []
    for line in map(str.strip, text.splitlines()):
        if found := CPU.match(line):
            name, unit = f"cpu{found[1]}", 1e3
            flags[f"{name} governor"] = found[2]
            low, high, now = map(int, found.groups()[2:])
        elif found := ENGINE.match(line):
            name, unit = found[1], 1e6
            low, high, now = map(int, found.groups()[1:])
        else:
            continue
        mhz[name] = now / unit
        pinned.append(low == high)
    return mhz, flags | ({"clocks_pinned": all(pinned)} if pinned else {})


def read(place: Place, time_s: float) -> Reading | None:
    """Both need no root to be asked on most releases; where one does, the other still answers."""
    mode = power_mode(place.run(["nvpmodel", "-q"]) or "")
    mhz, flags = clocks(place.run(["jetson_clocks", "--show"]) or "")
    return Reading(time_s, clocks_mhz=mhz, flags=mode | flags) if mode or mhz else None


SENSORS.add("jetson", read)
