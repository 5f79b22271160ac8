"""A board that works: files and commands that say other things while it is measured, for whoever reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg.runtimes.telemetry import watch

CHIP, ZONE = "sys/class/hwmon/hwmon1", "sys/class/thermal/thermal_zone0"


class Busy:
    """2 W and 40 degrees idle; 5 W and 81 degrees at work, and throttled in the first two thirds of it.

    rail: what its power is called; without one, it measures none.
    """

    def __init__(self, root: Path, rail: str = "VDD_IN") -> None:
        self.root, self.bin = root / "board", root / "bin"
        self.bin.mkdir()
        if rail:
            self._says(f"{CHIP}/name", "ina3221")
            self._says(f"{CHIP}/in1_label", rail)
            self._says(f"{CHIP}/in1_input", "1000")
            self._says(f"{CHIP}/in7_input", "12")
        self._says(f"{ZONE}/type", "cpu")
        self.work(1)
        self.command("vcgencmd", f"[ $1 = get_throttled ] && cat '{self.root}/throttled' || echo \"temp=48.7'C\"")

    def work(self, share: float) -> None:
        """As `measure` tells its progress: at work until all is done."""
        self._says(f"{CHIP}/curr1_input", "5000" if share < 1 else "2000")
        self._says(f"{ZONE}/temp", "81000" if share < 0.66 else "40000")
        self._says("throttled", "throttled=0x4" if share < 0.66 else "throttled=0x0")

    def command(self, name: str, script: str) -> None:
        """A command of the board."""
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def _says(self, name: str, text: str) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name("aside")
        aside.write_text(text + "\n")
        aside.replace(file)  # nobody reads half of it


def busy(folder: Path, monkeypatch: pytest.MonkeyPatch, rail: str = "VDD_IN") -> Busy:
    """A board whose commands are on the path, and that is looked at often."""
    made = Busy(folder, rail)
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    for name in watch.MEANWHILE_S:
        monkeypatch.setitem(watch.MEANWHILE_S, name, 0.2)
    monkeypatch.setattr(watch, "LISTENED_S", 0.1)
    return made
