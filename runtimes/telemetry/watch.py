"""Sensors around a measurement: what they say before and after, and power ten times a second where anything measures it.

Where no file says what is taken, one of `STREAMS` is listened to, if this machine has it: `tegrastats`, or `powermetrics` as root.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import threading
import time
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InvalidMeasurement
from edgeseg.runtimes.record import Sensors
from edgeseg.runtimes.telemetry import validity
from edgeseg.runtimes.telemetry.energy import per_frame
from edgeseg.runtimes.telemetry.reading import SENSORS, STREAMS, Place, Reading, Stream, take

EVERY_S = 0.07
"""Somewhat oftener than the ten times a second that an energy needs."""

IDLE_S = 1.0
"""How long the device is left alone first, to learn what it takes idle."""


class Watch:
    """A block in which a place is watched; a thread of its own, but only where there is power to read.

    meanwhile: also while the block runs. Not where each look would cost the device time.
    """

    def __init__(self, place: Place, meanwhile: bool = True) -> None:
        self._place, self._over = place, threading.Event()
        self._idle: list[Reading] = []
        self._busy: list[Reading] = []
        self._power = [
            name
            for name in (SENSORS if meanwhile else ())
            if (said := SENSORS[name](place, 0.0)) and (said.power_mw or said.energy_uj)
        ]
        self._thread = threading.Thread(target=self._look, args=[self._busy], daemon=True)
        streams = [STREAMS[name] for name in STREAMS if meanwhile and not self._power]
        self._listener = next((Listener(each) for each in streams if shutil.which(each.words[0])), None)

    def __enter__(self) -> None:
        self._before = take(self._place)
        if self._power:
            self._look(self._idle, time.monotonic() + IDLE_S)
            self._thread.start()
        elif self._listener:
            self._listener.start()
            self._over.wait(IDLE_S)
            self._begun = time.monotonic()

    def _look(self, readings: list[Reading], until: float = math.inf) -> None:
        due = time.monotonic()
        while due < until and not self._over.wait(max(0.0, due - time.monotonic())):
            readings.append(take(self._place, self._power))
            due = max(due + EVERY_S, time.monotonic())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._power:
            self._thread.join()
        elif self._listener:
            for reading in self._listener.stop():
                (self._idle if reading.time_s < self._begun else self._busy).append(reading)
        self._after = take(self._place)

    def says(self, starts: NDArray[np.int64]) -> dict[str, Any]:
        """For a record of frames that began at `starts`, in ns of this machine's monotonic clock: sensors, and energy if any."""
        notes = validity.notes(self._before)
        seconds = starts / 1e9
        during = [reading for reading in self._busy if seconds[0] <= reading.time_s <= seconds[-1]]
        energy = None
        try:
            if len(during) > 1:
                first, last = (reading.time_s for reading in (during[0], during[-1]))
                energy = per_frame(self._idle, during, int(np.count_nonzero((seconds >= first) & (seconds < last))))
        except InvalidMeasurement as error:
            notes.append(f"no energy: {error}")
        return {
            "sensors": Sensors(self._before, self._after, notes),
            "energy_mj": energy.frame_mj if energy else None,
            "energy_source": energy.source if energy else None,
        }


class Listener:
    """What a command of `STREAMS` prints, with the time at which each line came."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lines: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._process = subprocess.Popen(
            self._stream.words,
            stdin=subprocess.DEVNULL,  # one that asks for a password is to fail
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append((time.monotonic(), line.rstrip("\n")))

    def stop(self) -> list[Reading]:
        """End the command; what it said. Its last sample, which may be cut off, is left out."""
        self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(timeout=2)
        assert self._process.stdout is not None
        self._process.stdout.close()
        ends = [index for index, (_, line) in enumerate(self._lines) if self._stream.begins in line]
        return list(self._stream.readings(self._lines[: ends[-1]] if ends else []))
