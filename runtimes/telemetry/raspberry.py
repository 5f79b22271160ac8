"""A Raspberry Pi's firmware, through `vcgencmd`: whether it held the clocks back, and why. It measures no power."""

from __future__ import annotations

import re

from edgeseg.errors import EdgesegError
from edgeseg.runtimes.telemetry.reading import SENSORS, Place, Reading

BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
"""Bit -> what is so now; 16 bits further up: what was so since the board was switched on."""

SINCE = 16


def throttled(text: str) -> int:
    """The bits of `throttled=0x50000`.

    Raises:
        EdgesegError: something else.
    """
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)", text.strip())
    if found is None:
        raise EdgesegError(f"{text!r} is no answer of `vcgencmd get_throttled`; is it another program of that name?")
    return int(found[1], 16)


def read(place: Place, time_s: float) -> Reading | None:
    """The bits as `throttled`, the core's temperature and the ARM clock."""
    bits = place.run(["vcgencmd", "get_throttled"])
    if bits is None:
        return None
    degrees = re.search(r"temp=([\d.]+)'C", place.run(["vcgencmd", "measure_temp"]) or "")
    clock = re.search(r"frequency\(\d+\)=(\d+)", place.run(["vcgencmd", "measure_clock", "arm"]) or "")
    return Reading(
        time_s,
        {"soc": float(degrees[1])} if degrees else {},
        {"arm": int(clock[1]) / 1e6} if clock else {},
        flags={"throttled": throttled(bits)},
    )


def held_back(before: int, after: int) -> list[str]:
    """What happened between two readings: bits that are set now, or that were not set since the start and are by now."""
    return [
        meaning
        for bit, meaning in BITS.items()
        if (before | after) >> bit & 1 or (after & ~before) >> (bit + SINCE) & 1
    ]


SENSORS.add("raspberry", read)
