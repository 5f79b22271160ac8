"""The sensors of a device that is reached by command lines."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeseg.runtimes.devices.base import Device
    from edgeseg.runtimes.devices.remote import Remote

READ = (
    r"""for f in $1; do if [ -r "$f" ] && [ -f "$f" ]; then printf '%s\037' "$f"; cat "$f"; printf '\036'; fi; done"""
)
"""For a POSIX shell: every file that fits the pattern in `$1`, its path, its text, with separators that no sensor writes."""

PATIENCE_S = 10


class Told:
    """A device as sensors see it through its agent, which is there already.

    root: where its files are, so that a made-up tree can be read too.
    """

    def __init__(self, device: Remote, root: str = "") -> None:
        self._device, self._root = device, root

    def path(self, name: str) -> str:
        """Below its root."""
        return self._root + name

    def files(self, pattern: str) -> dict[str, str]:
        """What can be read, without the blanks around it."""
        found = self._device.channel.ask("look", pattern=self._root + pattern)["files"]
        return {path[len(self._root) :]: text for path, text in found.items()}

    def run(self, words: Sequence[str]) -> str | None:
        """In the language of the formats."""
        said: str | None = self._device.channel.ask("run", words=words)["said"]
        return said


class There:
    """A device as sensors see it that has a shell, and maybe no agent: a command each, never while it measures.

    root: where its files are, so that a made-up tree can be read too.
    """

    def __init__(self, device: Device, root: str = "") -> None:
        self._device, self._root = device, root

    def path(self, name: str) -> str:
        """Below its root."""
        return self._root + name

    def files(self, pattern: str) -> dict[str, str]:
        """What can be read, without the blanks around it."""
        told = self._say(["sh", "-c", READ, "sh", self._root + pattern]) or ""
        pairs = (each.partition("\037") for each in told.split("\036")[:-1])
        return {path[len(self._root) :]: text.strip("\0 \n") for path, _, text in pairs}

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
