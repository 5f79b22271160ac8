"""Cool-down by temperature: a device is waited for until its own sensor says that it is cool, and given up where it never is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeseg.errors import EdgesegError
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.protocol import seconds_in

if TYPE_CHECKING:
    from edgeseg.runtimes.devices.base import Device

LIMIT_S = 600
"""How long to wait unless told."""

POLL_S, TELL_S = 5.0, 60.0
"""How often the device is asked, and how often it is said what is waited for."""

Tell = Callable[[str], object]
"""Takes a line for whoever waits."""


@dataclass(frozen=True)
class Cool:
    """Below so many °C, after at most so many seconds."""

    below_c: float
    limit_s: float = LIMIT_S


def parse(text: str) -> Cool | None:
    """`50` as below 50 °C within ten minutes, `50:5m` within five; null for nothing.

    Raises:
        EdgesegError: it is no temperature, or no time.
    """
    if not text:
        return None
    below, _, limit = text.partition(":")
    limit_s = seconds_in(limit) if limit else LIMIT_S
    if not re.fullmatch(r"\d+(\.\d+)?", below) or not float(below) or limit_s is None or text.endswith(":"):
        raise EdgesegError(f"{text!r} is no temperature to wait for; write --cool 50 (°C) or --cool 50:5m")
    return Cool(float(below), limit_s)


def cooled(device: Device, cool: Cool | None, tell: Tell | None = None) -> list[str]:
    """Wait until the device is cool; a note on what came of it, none where nothing was asked.

    A device that does not say how warm it is is not waited for, and the note says so.

    Raises:
        Died: `hot`: it was not in time.
    """
    if cool is None:
        return []
    begun, told = time.monotonic(), -TELL_S
    first = degrees = device.state().temperature_c
    while degrees is not None and not degrees < cool.below_c:
        waited = time.monotonic() - begun
        if not waited < cool.limit_s:
            raise Died(
                f"{device.address} is too hot: still {degrees:.1f} °C after {waited:.0f} s, {cool.below_c:g} °C is the limit; "
                "give it air or more time, e.g. --cool 50:30m",
                "hot",
            )
        if tell and waited - told >= TELL_S:
            told = waited
            tell(
                f"{device.address} is at {degrees:.1f} °C; waiting until it is below {cool.below_c:g} °C, "
                f"at most {cool.limit_s - waited:.0f} s"
            )
        time.sleep(min(POLL_S, cool.limit_s - waited))
        degrees = device.state().temperature_c
    if degrees is None or first is None:
        return [f"not waited for {cool.below_c:g} °C: nothing there says how warm it is"]
    if degrees == first:
        return [f"at {degrees:.1f} °C before it began, below {cool.below_c:g} °C as asked"]
    return [f"cooled from {first:.1f} to {degrees:.1f} °C in {time.monotonic() - begun:.0f} s before it began"]
