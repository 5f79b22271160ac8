"""This machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import psutil

from edgeseg.errors import EdgesegError
from edgeseg.runtimes import agent
from edgeseg.runtimes.devices.base import DEVICES, Facts, Measuring
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.remote import WAIT_S, Remote, whoami
from edgeseg.runtimes.launch import Died, Worker
from edgeseg.runtimes.record import DeviceState
from edgeseg.runtimes.telemetry import Here
from edgeseg.runtimes.worker import busy_s


class Local:
    """The machine that edgeseg runs on: nothing has to be brought there, so nothing is."""

    kind: ClassVar[str] = "local"
    provenance: ClassVar[Literal["measured", "simulated"]] = "measured"
    address = url = "local"

    def reach(self) -> None:
        """It is here."""

    def probe(self) -> Facts:
        """Who it is."""
        return Facts(**agent.facts() | {"memory_bytes": psutil.virtual_memory().total})

    def state(self) -> DeviceState:
        """Load, clocks, temperature and governor now."""
        return DeviceState(**agent.state())

    def command(self, words: Sequence[str]) -> list[str]:
        """The words themselves."""
        return list(words)

    def explain(self, code: int, words: str) -> EdgesegError:
        """A shell that does not start."""
        return EdgesegError(f"no command runs here: exit code {code}, {words}")

    def spent(self) -> tuple[float, float] | None:
        """Processor time of the whole machine, and of this process and of all that it started and that have ended, in s."""
        return busy_s(), sum(os.times()[:4])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else measures here with edgeseg as long as the block lasts, over ssh neither: the lock is that of its agent.

        Raises:
            Died: somebody else is measuring here. EdgesegError: there is no such lock.
        """
        lock = locked(self.address)
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)

    def sensed(self) -> Here:
        """It, as sensors see it."""
        return Here()

    def watch(self, rounds: Sequence[dict[str, Any]], streams: Sequence[Sequence[str]]) -> Watched:
        """By a thread of this process, which only waits for the one that measures."""
        return Watched(agent.Watcher(rounds, streams), len(rounds))

    def spawn(self, cold: bool = False) -> Measuring:
        """A fresh measuring process, which always begins with Python."""
        return Worker()

    def close(self) -> None:
        """There is nothing to let go of."""


class Watched:
    """Sensors of this machine that are being read."""

    def __init__(self, watcher: agent.Watcher, rounds: int) -> None:
        self.stream = watcher.stream
        self._over, self._tell = os.pipe()
        self._said: dict[str, Any] = {"begun": 0.0, "rounds": [[]] * rounds, "lines": []}
        self._thread = threading.Thread(target=lambda: self._said.update(watcher.run(self._over)), daemon=True)
        if not watcher.idle:  # as on Windows, where nothing could wait for a pipe
            self._thread.start()

    def stop(self) -> dict[str, Any]:
        """End it: what `agent.Watcher.run` says."""
        self.close()
        return self._said

    def close(self) -> None:
        """End it."""
        if self._tell < 0:
            return
        os.close(self._tell)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._over)
        self._tell = -1


def locked(address: str, wait_s: float = WAIT_S) -> int | None:
    """The lock of this machine, as an open file; waited for, as on a device. Null on Windows, which has no such locks.

    `EDGESEG_LOCK` names another file.

    Raises:
        Died: somebody else is measuring here. EdgesegError: it cannot be opened.
    """
    try:
        import fcntl
    except ImportError:
        return None
    path, deadline = Path(os.environ.get("EDGESEG_LOCK") or Remote.lock_file), time.monotonic() + wait_s
    while True:
        try:
            lock = agent.open_lock(path)
        except OSError as error:
            line = f"cannot open the lock {path}: {error.strerror}; name another file with EDGESEG_LOCK"
            raise EdgesegError(line) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = agent.signed(os.pread(lock, 4096, 0)).get("who", "somebody")
            os.close(lock)
            if time.monotonic() > deadline:
                line = f"{address} is in use by {who}; wait until that measurement is over"
                raise Died(line, "busy") from None
            time.sleep(0.3)
        else:
            agent.sign_lock(lock, whoami(), group=False)
            return lock


def local(address: str, entry: Entry) -> Local:
    """This machine, whatever it is called."""
    return Local()


DEVICES.add("local", local)
