"""macOS's `powermetrics`, as text: power of CPU, GPU and neural engine, averaged over its interval. It needs root."""

from __future__ import annotations

import re

from edgeseg.runtimes.telemetry.reading import STREAMS, Flag, Reading, Stream

POWER = re.compile(r"^\s*([\w+() -]+?) Power(?: \([^)]*\))?: +([\d.]+) (m?)W\s*$", re.MULTILINE)
CLOCK = re.compile(r"^\s*([\w-]+?)(?:-Cluster)? (?:HW )?active frequency: +([\d.]+) MHz\s*$", re.MULTILINE)
PRESSURE = re.compile(r"^\s*Current pressure level: +(\w+)\s*$", re.MULTILINE)

BEGINS = "*** Sampled system activity"


def parse(text: str, time_s: float) -> Reading | None:
    """The last sample of the text; null where it has no power. `Combined` is the sum of the three.

    Pressure other than `Nominal` means that the system holds the clocks back.
    """
    sample = text.rpartition(BEGINS)[2]
    power = {name: float(value) * (1 if milli else 1000) for name, value, milli in POWER.findall(sample)}
    pressure = PRESSURE.search(sample)
    flags: dict[str, Flag] = {"thermal_pressure": pressure[1]} if pressure else {}
    clocks = {name: float(value) for name, value in CLOCK.findall(sample)}
    return Reading(time_s, clocks_mhz=clocks, power_mw=power, flags=flags) if power else None


WORDS = ("powermetrics", "--samplers", "cpu_power,gpu_power,ane_power,thermal", "-i", "100")
STREAMS.add("powermetrics", Stream(WORDS, BEGINS, parse))
