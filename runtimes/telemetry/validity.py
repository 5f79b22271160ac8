"""What happened to a device between two readings that makes what was measured in between no figure to quote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeseg.runtimes.telemetry.raspberry import BITS, SINCE, held_back
from edgeseg.runtimes.telemetry.reading import Reading

BATTERY_PERCENT = 20
"""Below, phones save power."""

CLOCKS = 0.02
"""Clocks that are pinned may be read this much apart."""

LIMITS = (" governor", " min_freq", " max_freq")


def is_setting(name: str) -> bool:
    """Whether a flag of that name says what somebody chose, and not what happened."""
    return name.startswith("power_mode") or name.endswith(LIMITS)


def reasons(before: Reading, after: Reading, during: Sequence[Reading] = ()) -> list[str]:
    """Why not to quote, one line each; none when all is well or nothing is known.

    during: what was read in between, which need not say all that `before` says, nor twice.
    """
    moments = [("while", before.with_(reading)) for reading in during] + [("after", after)]
    return list(dict.fromkeys(line for rule in RULES for when, then in moments for line in rule(before, then, when)))


def notes(before: Reading) -> list[str]:
    """What cannot be known."""
    bits = before.flags.get("throttled", 0)
    old = [meaning for bit, meaning in BITS.items() if isinstance(bits, int) and bits >> (bit + SINCE) & 1]
    if not old:
        return []
    return [f"{', '.join(old)} since the board was switched on: whether again while measuring is unknown; restart it"]


def _firmware(before: Reading, after: Reading, when: str) -> list[str]:
    first, last = before.flags.get("throttled"), after.flags.get("throttled")
    if not (isinstance(first, int) and isinstance(last, int)):
        return []
    return [f"the firmware held the board back: {meaning}" for meaning in held_back(first, last)]


def _thermal(before: Reading, after: Reading, when: str) -> list[str]:
    found = []
    for at, reading in (("before", before), (when, after)):
        status = reading.flags.get("thermal_status", 0)
        if not (isinstance(status, int) and status <= 0):
            found.append(f"thermal status {status} {at} measuring, 0 is not throttled")
        pressure = reading.flags.get("thermal_pressure", "Nominal")
        if pressure != "Nominal":
            found.append(f"thermal pressure {pressure} {at} measuring")
    return found


def _changed(before: Reading, after: Reading, when: str) -> list[str]:
    names = [name for name in before.flags if is_setting(name)]
    return [
        f"{name} changed from {before.flags[name]} to {after.flags.get(name)}"
        for name in sorted(names)
        if before.flags[name] != after.flags.get(name)
    ]


def _pinned(before: Reading, after: Reading, when: str) -> list[str]:
    if not before.flags.get("clocks_pinned"):
        return []
    if not after.flags.get("clocks_pinned"):
        return ["clocks changed: they were pinned before and were not after"]
    return [
        f"clocks changed: {name} from {mhz:.0f} to {after.clocks_mhz.get(name, 0):.0f} MHz, though pinned"
        for name, mhz in before.clocks_mhz.items()
        if not abs(after.clocks_mhz.get(name, 0) - mhz) <= CLOCKS * mhz
    ]


def _battery(before: Reading, after: Reading, when: str) -> list[str]:
    percent = after.flags.get("battery_percent", before.flags.get("battery_percent"))
    if when != "after" or not isinstance(percent, int) or percent >= BATTERY_PERCENT:
        return []
    return [f"battery low: {percent} %, {BATTERY_PERCENT} % are the least"]


RULES: tuple[Callable[[Reading, Reading, str], list[str]], ...] = (_firmware, _thermal, _changed, _pinned, _battery)
