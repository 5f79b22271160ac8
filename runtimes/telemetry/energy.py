"""Energy of a frame above idle, from what measures power here; without such, nothing is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgeseg.errors import InvalidMeasurement
from edgeseg.runtimes.telemetry.reading import Reading
from edgeseg.schema import STRICT

WHOLE = ("VDD_IN", "POM_5V_IN", "VIN", "Combined")
"""Rails that have all others in them, best first. Others are parts: their sum is not known to be the whole."""

COUNTERS = ("psys", "package-0")
"""Counters likewise: the platform, else the processor, where there is one."""

SLOWEST_S = 0.11
"""Power that is looked at less than ten times a second misses what happens in between."""


@dataclass(frozen=True)
class Energy:
    """Energy per frame above what the device takes idle. `source`: what measured it, e.g. `power VDD_IN`."""

    __pydantic_config__ = STRICT
    frame_mj: float
    idle_mw: float
    busy_mw: float
    source: str


def per_frame(idle: Sequence[Reading], busy: Sequence[Reading], frames: int) -> Energy | None:
    """Energy of each of the `frames` that ran between the first and the last reading of `busy`; null where nothing measures it.

    Raises:
        InvalidMeasurement: readings too far apart, a counter that went backwards, or no more power than idle.
    """
    if len(idle) < 2 or len(busy) < 2 or frames < 1:
        return None
    several = "package-1" in busy[0].energy_uj
    for name in COUNTERS[:1] if several else COUNTERS:
        if all(name in reading.energy_uj for reading in (*idle, *busy)):
            return _energy(_counted_mw(idle, name), _counted_mw(busy, name), busy, frames, f"counter {name}")
    for name in WHOLE:
        if all(name in reading.power_mw for reading in (*idle, *busy)):
            return _energy(_mean_mw(idle, name), _mean_mw(busy, name), busy, frames, f"power {name}")
    return None


def _energy(idle_mw: float, busy_mw: float, busy: Sequence[Reading], frames: int, source: str) -> Energy:
    above = busy_mw - idle_mw
    if not above > 0:
        raise InvalidMeasurement(
            f"{source}: {busy_mw:.0f} mW while measuring, {idle_mw:.0f} mW idle; was it idle before?"
        )
    return Energy(above * _seconds(busy) / frames, idle_mw, busy_mw, source)


def _seconds(readings: Sequence[Reading]) -> float:
    times = np.array([reading.time_s for reading in readings])
    if not np.all(np.diff(times) > 0):
        raise InvalidMeasurement("readings of power are not in the order of time")
    return float(times[-1] - times[0])


def _mean_mw(readings: Sequence[Reading], name: str) -> float:
    """The mean over time, by trapezoids."""
    times = np.array([reading.time_s for reading in readings])
    power = np.array([reading.power_mw[name] for reading in readings])
    seconds = _seconds(readings)
    if not float(np.median(np.diff(times))) <= SLOWEST_S:
        raise InvalidMeasurement(f"power {name} was read {len(times) / seconds:.1f} times a second; 10 are needed")
    return float(np.sum((power[1:] + power[:-1]) / 2 * np.diff(times)) / seconds)


def _counted_mw(readings: Sequence[Reading], name: str) -> float:
    """The difference of a counter, which may have wrapped between two readings, but only once between neighbours."""
    total = 0
    for first, second in pairwise(readings):
        step = second.energy_uj[name] - first.energy_uj[name]
        if step < 0:
            if name not in second.wraps_uj:
                raise InvalidMeasurement(f"counter {name} went backwards, and where it wraps is not known")
            step += second.wraps_uj[name]
        total += step
    return total / 1000 / _seconds(readings)
