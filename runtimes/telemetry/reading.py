"""What sensors of a device say, in one form, whatever it is: temperatures, clocks, power, flags."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from edgeseg.registry import Registry
from edgeseg.runtimes import agent
from edgeseg.schema import STRICT

Flag: TypeAlias = bool | int | str


@dataclass(frozen=True)
class Reading:
    """Sensors at one moment; a sensor that is not there, or has nothing to say, has no entry.

    time_s:      of the monotonic clock of whoever took it.
    power_mw:    by rail; rails overlap (`VDD_IN` has all others in it), so they are never added up here.
    energy_uj:   counters that only rise, and wrap: `wraps_uj` says where.
    flags:       what is not a quantity: governor, power mode, throttling, battery.
    """

    __pydantic_config__ = STRICT
    time_s: float
    temperatures_c: dict[str, float] = field(default_factory=dict)
    clocks_mhz: dict[str, float] = field(default_factory=dict)
    power_mw: dict[str, float] = field(default_factory=dict)
    energy_uj: dict[str, int] = field(default_factory=dict)
    wraps_uj: dict[str, int] = field(default_factory=dict)
    flags: dict[str, Flag] = field(default_factory=dict)

    def with_(self, other: Reading) -> Reading:
        """Both, as of the earlier moment."""
        return Reading(
            min(self.time_s, other.time_s),
            self.temperatures_c | other.temperatures_c,
            self.clocks_mhz | other.clocks_mhz,
            self.power_mw | other.power_mw,
            self.energy_uj | other.energy_uj,
            self.wraps_uj | other.wraps_uj,
            self.flags | other.flags,
        )


class Place(Protocol):
    """A device as sensors see it: files that can be read and commands that can be run, on it."""

    def files(self, pattern: str) -> dict[str, str]:
        """Path -> text of each file that fits a pattern like `/sys/class/thermal/thermal_zone*/temp` and can be read."""

    def run(self, words: Sequence[str]) -> str | None:
        """What a command prints; null where there is no such command, or it fails."""


class Rooted(Place, Protocol):
    """A place that is there, maybe a tree of a device and not all of it."""

    def path(self, name: str) -> str:
        """What the device calls a file that `files` has as `name`."""


class Here:
    """This machine. `root`: where its files are, so that a made-up tree can be read too."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def path(self, name: str) -> str:
        """Below its root."""
        return f"{self._root}/{name.lstrip('/')}"

    def files(self, pattern: str) -> dict[str, str]:
        """What can be read, without the blanks around it."""
        return agent.texts(pattern, self._root)

    def run(self, words: Sequence[str]) -> str | None:
        """Five seconds at most; in the language of the formats."""
        return agent.told(words)


Sensor: TypeAlias = Callable[[Place, float], Reading | None]
"""A place and the time to what its sensors say there; null where there are none of that kind."""

SENSORS: Registry[Sensor] = Registry("sensor")
"""Name -> sensor; each file of this folder that is one adds itself."""


@dataclass(frozen=True)
class Stream:
    """A command that goes on printing samples until it is ended.

    words:  what to start.
    begins: what the first line of a sample has in it.
    parse:  a sample and when it came to a reading; null where it has nothing to say.
    """

    words: tuple[str, ...]
    begins: str
    parse: Callable[[str, float], Reading | None]

    def readings(self, lines: Iterable[tuple[float, str]]) -> Iterator[Reading]:
        """Lines with the time at which each came, to readings. A sample is over when the next begins: the last may be cut off."""
        sample: list[str] = []
        came = 0.0
        for time_s, line in lines:
            if self.begins in line:
                if sample and (reading := self.parse("\n".join(sample), came)):
                    yield reading
                sample, came = [], time_s
            if self.begins in line or sample:  # a warning may come first
                sample.append(line)


STREAMS: Registry[Stream] = Registry("stream of readings")
"""Name -> what prints samples for as long as it runs; each file of this folder that is one adds itself."""


def take(place: Place, names: Iterable[str] | None = None) -> Reading:
    """All that the sensors of a place say now."""
    now = reading = Reading(time.monotonic())
    for name in SENSORS if names is None else names:
        said = SENSORS[name](place, now.time_s)
        reading = reading.with_(said) if said else reading
    return reading


def number(text: str) -> float | None:
    """A whole or decimal number; null for anything else, NaN and infinity too."""
    return float(text) if re.fullmatch(r"[-+]?\d+(?:\.\d*)?", text.strip()) else None


def sensible(celsius: float | None) -> bool:
    """Whether that can be a temperature of a chip that computes: a dead sensor reads -256, -99.9 or exactly 0."""
    return celsius is not None and celsius != 0 and -40 < celsius < 150
