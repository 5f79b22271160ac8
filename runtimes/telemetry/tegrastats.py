"""NVIDIA's `tegrastats`, of all generations: a line per moment.

    Nano          RAM 1500/3964MB ... CPU [2%@102,off,off,1%@102] ... GR3D_FREQ 0%@76 ... PLL@32C ... POM_5V_IN 933/933
    Xavier        ... GR3D_FREQ 12%@318 ... AUX@38C ... VDD_IN 14025/14416 (or GPU 0/0 CPU 311/311)
    Orin          ... GR3D_FREQ 10%@1300 cpu@48.2C CV0@-256C ... VDD_IN 5080mW/5080mW
    JetPack 7     ... GR3D_FREQ 12%@[1300,1300] ... cpu@52.968C/52.968C ... VDD_IN 5139mW/5139mW/5139mW
    Thor          ... GR3D_FREQ @[1000,1000,1000] ...

The first of two or three numbers is now, the others are a mean and a limit since it was started.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

from edgeseg.errors import EdgesegError
from edgeseg.runtimes.telemetry.reading import STREAMS, Reading, Stream, sensible

STAMP = re.compile(r"(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d) ")
CORES = re.compile(r"\bCPU \[([^\]]+)\]")
ENGINE = re.compile(r"\b([A-Z][A-Z0-9_]*(?:_FREQ)?) (?:\d+%)?@\[?(\d+)[\d,]*\]?")
DEGREES = re.compile(r"\b(\w+)@(-?[\d.]+)C")
"""`PMIC@100C` is a constant, not a sensor."""

MILLIWATTS = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)mW/\d+mW")
BARE = re.compile(r"\b((?:POM_|VDD_)\w+|GPU|CPU|SOC|CV|VDDRQ|SYS5V) (\d+)/\d+(?![\dMk])")
"""Power without a unit, of the first two generations."""


def parse(line: str, time_s: float | None = None) -> Reading:
    """One line.

    time_s: when it came, of the clock that timed the model. Without, the line's own stamp, to the second, is taken.

    Raises:
        EdgesegError: it is no line of tegrastats, or says no time and none is given.
    """
    line = line.strip()
    if not re.search(r"\bRAM \d+/\d+[kMG]?B", line):
        raise EdgesegError(f"{line!r:.80} is no line of tegrastats: it has no RAM")
    stamp = STAMP.match(line)
    if time_s is None:
        if stamp is None:
            raise EdgesegError(f"{line!r:.80} says no time; say when it came")
        time_s = datetime.strptime(stamp[1], "%m-%d-%Y %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
    power = {name: float(now) for name, now in [*BARE.findall(line), *MILLIWATTS.findall(line)]}
    clocks = {name.removesuffix("_FREQ"): float(now) for name, now in ENGINE.findall(line)}
    degrees = {name: float(now) for name, now in DEGREES.findall(line) if sensible(float(now)) and name != "PMIC"}
    return Reading(time_s, degrees, clocks | _cores(line), power)


def _cores(line: str) -> dict[str, float]:
    """`2%@102` by core; one that is off has no clock."""
    found = CORES.search(line)
    cells = found[1].split(",") if found else []
    return {f"cpu{n}": float(cell.split("@")[1]) for n, cell in enumerate(cells) if "@" in cell}


STREAMS.add("tegrastats", Stream(("tegrastats", "--interval", "100"), "RAM ", parse))
