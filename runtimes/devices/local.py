"""This machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal

import psutil

from edgeseg.errors import EdgesegError
from edgeseg.runtimes import agent
from edgeseg.runtimes.devices.base import DEVICES, Facts, Measuring
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.launch import Worker
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

    def held(self) -> AbstractContextManager[None]:
        """Nothing keeps others away from this machine; a record says when they were there."""
        return nullcontext()

    def spawn(self, cold: bool = False) -> Measuring:
        """A fresh measuring process, which always begins with Python."""
        return Worker()

    def close(self) -> None:
        """There is nothing to let go of."""


def local(address: str, entry: Entry) -> Local:
    """This machine, whatever it is called."""
    return Local()


DEVICES.add("local", local)
