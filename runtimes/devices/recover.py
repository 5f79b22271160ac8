"""A board that hangs is switched off and on by a command of this machine, and waited for until it answers."""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.devices.book import Entry, read

if TYPE_CHECKING:
    from edgeseg.runtimes.devices.base import Facts

COMMAND_S = 120.0
"""How long the command may take."""

LIMIT_S = 300.0
"""How long to wait for an answer: a Jetson that checks its file system takes two minutes."""

POLL_S = 5.0
"""How often it is asked."""


def recover(name: str, limit_s: float = LIMIT_S) -> float:
    """Switch a device off and on and wait until it answers; the seconds that took.

    Where it answers before, that it was started anew has to be seen too: its boot id is another one.

    Raises:
        EdgesegError: the device has no such command, or the command fails.
        MissingTool: the command is not there, or the device does not come back within `limit_s`.
    """
    entry = read().devices.get(name)
    if entry is None or not entry.recover:
        raise EdgesegError(
            f"nothing switches {name} off and on; name a command of this machine that does: edgeseg devices add NAME ADDRESS --recover 'COMMAND'"
        )
    before = _asked(name)[0]
    begun = time.monotonic()
    _switched(name, entry)
    while True:
        facts, why = _asked(name)
        if facts is not None and (before is None or before.boot_id is None or facts.boot_id != before.boot_id):
            return time.monotonic() - begun
        if time.monotonic() - begun > limit_s:
            said = why or "it answers as if it had not been switched off"
            raise MissingTool(f"{name} was switched off and on and is not back after {limit_s:.0f} s: {said}")
        time.sleep(POLL_S)


def _asked(name: str) -> tuple[Facts | None, str]:
    """Who it is, or why it does not say."""
    from edgeseg.runtimes.devices import open_device

    try:
        with closing(open_device(name)) as device:
            return device.probe(), ""
    except EdgesegError as error:
        return None, str(error)


def _switched(name: str, entry: Entry) -> None:
    """Run the command."""
    words = entry.recover
    try:
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S,
        )
    except OSError as error:
        raise MissingTool(f"cannot switch {name} off and on: {words[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise EdgesegError(
            f"{words[0]}, which switches {name} off and on, did not end within {COMMAND_S:g} s"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        last = said[-1] if said else "it does not say why"
        raise EdgesegError(
            f"{words[0]}, which switches {name} off and on, ended with exit code {done.returncode}: {last:.200}"
        )
