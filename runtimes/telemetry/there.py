"""The sensors of a device that is reached by command lines."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeseg.runtimes.devices.base import Device

READ = (
    r"""for f in $1; do if [ -r "$f" ] && [ -f "$f" ]; then printf '%s\037' "$f"; cat "$f"; printf '\036'; fi; done"""
)
"""For a POSIX shell: every file that fits the pattern in `$1`, its path, its text, with separators that no sensor writes."""

PATIENCE_S = 10


class There:
    """A device as sensors see it: a command each, so before and after a measurement, never while it runs."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def files(self, pattern: str) -> dict[str, str]:
        """What can be read, without the blanks around it."""
        told = self._say(["sh", "-c", READ, "sh", pattern]) or ""
        pairs = (each.partition("\037") for each in told.split("\036")[:-1])
        return {path: text.strip("\0 \n") for path, _, text in pairs}

    def run(self, words: Sequence[str]) -> str | None:
        """In the language of the formats."""
        return self._say(["env", "LC_ALL=C", *words])

    def _say(self, words: Sequence[str]) -> str | None:
        try:
            done = subprocess.run(
                self._device.command(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a connection that is shared by commands would keep a pipe open
                encoding="utf-8",
                errors="replace",
                timeout=PATIENCE_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):  # no such command, or the device is gone: the agent will say so
            return None
        return done.stdout
