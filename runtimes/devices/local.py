"""This machine: what it is, and the state it is in."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from edgeseg.runtimes.record import Device, DeviceState

SYS = Path("/sys")


def state(sys: Path = SYS) -> DeviceState:
    """Load, clock, temperature and governor now; null where the system does not say."""
    clock_khz = _number(sys / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    zones = [_number(path) for path in sorted(sys.glob("class/thermal/thermal_zone*/temp"))]
    degrees = [zone / 1000 for zone in zones if zone is not None and zone > 0]  # a dead sensor reads 0 or less
    return DeviceState(
        load_1min=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        cpu_mhz=clock_khz / 1000 if clock_khz else None,
        temperature_c=max(degrees, default=None),
        governor=_text(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    )


def device(before: DeviceState, after: DeviceState) -> Device:
    """This machine with its state before and after a measurement."""
    return Device(
        name=platform.node() or "local",
        kind="local",
        cpu=cpu_name(),
        cores=cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        before=before,
        after=after,
    )


def cores() -> int:
    """Logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo"), sys: Path = SYS) -> str | None:
    """The processor's or board's marketing name: `model name` on x86, the device tree's model on ARM boards."""
    for line in (_text(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Hardware"} and value.strip():
            return value.strip()
    board = _text(sys / "firmware/devicetree/base/model")
    return (board or "").rstrip("\0") or platform.processor() or None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:  # no such sensor, or one that may not be read: null, as the record says
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text is not None and text.lstrip("-").isdigit() else None
