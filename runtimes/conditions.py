"""Under which conditions a record was measured: what somebody set on the device, and what makes its times others' times."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseg.runtimes.record import Record
from edgeseg.runtimes.telemetry.reading import Flag
from edgeseg.runtimes.telemetry.validity import is_setting

OTHER_CLOCK = 0.05
"""Clocks after measuring that differ by more are worth a note."""


def settings(record: Record) -> dict[str, Flag]:
    """Governors, power modes, lowest and highest clocks, each by its name; empty where nothing says."""
    found: dict[str, Flag] = (
        {} if record.device.before.governor is None else {"governor": record.device.before.governor}
    )
    flags = record.sensors.before.flags if record.sensors else {}
    return found | {name: flag for name, flag in flags.items() if is_setting(name) or name == "clocks_pinned"}


def other_settings(records: Sequence[Record]) -> list[str]:
    """Clocks, governors and power modes that are not all the same: then it is those that would be compared."""
    every = [settings(record) for record in records]
    names = sorted({name for found in every for name in found})
    values = {name: sorted({str(found.get(name, "not known")) for found in every}) for name in names}
    return [f"{name} differs: {' and '.join(seen)}" for name, seen in values.items() if len(seen) > 1]


def clocks(record: Record) -> str:
    """The settings in a few words, and the clocks while it worked: `performance, 2400 MHz`; empty where nothing says."""
    found = settings(record)
    words = {str(flag) for name, flag in found.items() if name.startswith("power_mode") or name.endswith("governor")}
    mhz = busy_mhz(record)
    pinned = ["pinned"] if found.get("clocks_pinned") is True else []
    return ", ".join(
        [*sorted(words), *([f"{' and '.join(f'{each:.0f}' for each in mhz)} MHz"] if mhz else []), *pinned]
    )


def busy_mhz(record: Record) -> list[float]:
    """The clock of each group of cores just after the last sample, before they went to sleep; empty where nothing says."""
    after = record.device.after
    return after.clusters_mhz or ([after.cpu_mhz] if after.cpu_mhz else [])
