"""Sensors around a measurement: what they say before and after, and meanwhile what can be had at little cost.

Power is read ten times a second where anything measures it; where no file says it, one of `STREAMS` is listened to, if the device
has it: `tegrastats`, or `powermetrics` as root. Clocks, temperatures and whether the firmware holds it back are, now and then.
Texts are only kept meanwhile, on the device itself; what they mean is found afterwards.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, InvalidMeasurement
from edgeseg.runtimes.record import Sensors
from edgeseg.runtimes.telemetry import validity
from edgeseg.runtimes.telemetry.energy import per_frame
from edgeseg.runtimes.telemetry.reading import SENSORS, STREAMS, Flag, Place, Reading, Rooted, take

if TYPE_CHECKING:
    from edgeseg.runtimes.devices.base import Device

EVERY_S = 0.09
"""Somewhat oftener than the ten times a second that an energy needs."""

MEANWHILE_S = {"linux": 2.0, "raspberry": 10.0, "android": 10.0}
"""What else is asked meanwhile, and how often: a command is a process, and `jetson_clocks` too many of them."""

LISTENED_S = 2.0
"""How often what a stream says beside power is kept."""

MOST = 100
"""Readings of a sensor that a record has of a series, evenly spread, and those in which something happened."""

IDLE_S = 1.0
"""How long the device is left alone first, to learn what it takes idle."""

NAMES = re.compile(r"/(name|type|\w+_label|max_energy_range_uj)$")
"""Files that say the same for as long as the device is on."""


class Known:
    """A place as it was when sensors asked it, and `later` with other texts."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._found: dict[str, list[str]] = {}
        self._texts: dict[str, str] = {}
        self._said: dict[tuple[str, ...], str] = {}

    def files(self, pattern: str) -> dict[str, str]:
        """What can be read, looked for anew."""
        found = self._place.files(pattern)
        self._found[pattern] = list(found)
        self._texts |= found
        return found

    def run(self, words: Sequence[str]) -> str | None:
        """What a command prints, run anew."""
        said = self._place.run(words)
        if said is not None:
            self._said[tuple(words)] = said
        return said

    def changing(self) -> list[str]:
        """The files that may say something else."""
        return [path for path in self._texts if not NAMES.search(path)]

    def commands(self) -> list[tuple[str, ...]]:
        """Those that are there."""
        return list(self._said)

    def later(self, texts: Mapping[str, str | None], said: Mapping[tuple[str, ...], str | None]) -> Then:
        """The same files at another moment, null for one that could not be read, and what was printed then."""
        return Then(self._found, {**self._texts, **texts}, {**self._said, **said})


class Then:
    """A place at one moment, from what was kept of it."""

    def __init__(
        self,
        found: Mapping[str, Sequence[str]],
        texts: Mapping[str, str | None],
        said: Mapping[tuple[str, ...], str | None],
    ) -> None:
        self._found, self._texts, self._said = found, texts, said

    def files(self, pattern: str) -> dict[str, str]:
        """What could be read."""
        return {path: text for path in self._found.get(pattern, ()) if (text := self._texts[path]) is not None}

    def run(self, words: Sequence[str]) -> str | None:
        """What the command printed."""
        return self._said.get(tuple(words))


class Round:
    """Sensors that are asked at the same moments: what a device is to read for them, and what that means."""

    def __init__(self, place: Rooted, every_s: float, sensors: Mapping[str, Known], files: Sequence[str]) -> None:
        self._sensors, self._files = sensors, files
        self._commands = [words for known in sensors.values() for words in known.commands()]
        self.asked = {
            "every_s": every_s,
            "files": [place.path(file) for file in self._files],
            "commands": self._commands,
        }

    def readings(self, kept: Iterable[tuple[float, list[str | None]]]) -> list[Reading]:
        """What the device has kept of them."""
        return [self._reading(time_s, texts) for time_s, texts in kept]

    def _reading(self, time_s: float, texts: Sequence[str | None]) -> Reading:
        count = len(self._files)
        files = dict(zip(self._files, texts[:count], strict=True))
        said = dict(zip(self._commands, texts[count:], strict=True))
        reading = Reading(time_s)
        for name, known in self._sensors.items():
            with suppress(EdgesegError):  # a command that broke down: it has said nothing
                reading = reading.with_(SENSORS[name](known.later(files, said), time_s) or reading)
        return reading


def needed(name: str, known: Known) -> list[str]:
    """The files without which a sensor says something else: no shunt voltages of a chip, no rails of a drive."""
    whole = SENSORS[name](known.later({}, {}), 0.0)
    return [path for path in known.changing() if SENSORS[name](known.later({path: None}, {}), 0.0) != whole]


class Watch:
    """A block in which the sensors of a device, at a place of it, are watched."""

    def __init__(self, place: Rooted, device: Device) -> None:
        self._place, self._device = place, device

    def __enter__(self) -> None:
        known = {name: Known(self._place) for name in SENSORS}
        now = time.monotonic()
        said = {name: reading for name in SENSORS if (reading := SENSORS[name](known[name], now))}
        self._before = reduce(Reading.with_, said.values(), Reading(now))
        power = {name: known[name] for name, reading in said.items() if reading.power_mw or reading.energy_uj}
        files = [path for name in power for path in needed(name, power[name])]
        self._rounds = [Round(self._place, EVERY_S, power, files)]
        for name in MEANWHILE_S.keys() & said:
            self._rounds.append(Round(self._place, MEANWHILE_S[name], {name: known[name]}, known[name].changing()))
        streams = () if power else tuple(STREAMS[name] for name in STREAMS)
        self._watching = self._device.watch([each.asked for each in self._rounds], [each.words for each in streams])
        self._stream = None if self._watching.stream is None else streams[self._watching.stream]
        if power or self._stream:
            time.sleep(IDLE_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._kept = self._watching.stop()
            self._after = take(self._place)
        self._watching.close()

    def says(self, starts: NDArray[np.int64]) -> dict[str, Any]:
        """For a record of frames that began at `starts`, in ns of the device's clock: sensors, and energy if any."""
        often, *others = (each.readings(kept) for each, kept in zip(self._rounds, self._kept["rounds"], strict=True))
        if self._stream:
            often = list(self._stream.readings(self._kept["lines"]))
            others.append(often)
        notes, seconds = validity.notes(self._before), starts / 1e9
        idle = [reading for reading in often if reading.time_s < self._kept["begun"] + IDLE_S]
        busy = [reading for reading in often if seconds[0] <= reading.time_s <= seconds[-1]]
        energy = None
        try:
            if len(busy) > 1:
                first, last = (reading.time_s for reading in (busy[0], busy[-1]))
                energy = per_frame(idle, busy, int(np.count_nonzero((seconds >= first) & (seconds < last))))
        except InvalidMeasurement as error:
            notes.append(f"no energy: {error}")
        during = [reading for each in others for reading in self._during(each, seconds[0], seconds[-1])]
        return {
            "sensors": Sensors(self._before, self._after, notes, sorted(during, key=lambda reading: reading.time_s)),
            "energy_mj": energy.frame_mj if energy else None,
            "energy_source": energy.source if energy else None,
        }

    def _during(self, readings: Iterable[Reading], begin: float, end: float) -> Iterator[Reading]:
        """Readings as a record has them: without power, and of flags what is not as before."""
        known, due, last = self._before.flags.items(), begin, dict[str, Flag]()
        for reading in readings:
            flags = dict(reading.flags.items() - known)
            if begin <= reading.time_s <= end and (reading.time_s >= due or flags != last):
                yield Reading(reading.time_s - begin, reading.temperatures_c, reading.clocks_mhz, flags=flags)
                due, last = reading.time_s + max(LISTENED_S, (end - begin) / MOST), flags
