"""This machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

import psutil

from edgeseg.errors import EdgesegError
from edgeseg.runtimes import agent
from edgeseg.runtimes.devices.base import DEVICES, Facts, Measuring
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.remote import WAIT_S, Remote, whoami
from edgeseg.runtimes.launch import Died, Worker
from edgeseg.runtimes.record import DeviceState
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

    def spawn(self, cold: bool = False) -> Measuring:
        """A fresh measuring process, which always begins with Python."""
        return Worker()

    def close(self) -> None:
        """There is nothing to let go of."""


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
