"""A board that is not there: `emulated://pi5` runs the agent for aarch64 under qemu. Its masks mean something, its times nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.devices.base import DEVICES, Facts
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.remote import Remote, RemoteBench
from edgeseg.runtimes.devices.sysroot import HINT, QEMU, Sysroot, sysroot
from edgeseg.runtimes.telemetry.there import There


class Emulated(Remote):
    """A board of `sysroot.BOARDS`."""

    kind: ClassVar[str] = "emulated"
    provenance: ClassVar[Literal["measured", "simulated"]] = "simulated"

    def __init__(self, address: str, entry: Entry, system: Sysroot) -> None:
        folder = str(system.top / system.name / "device")
        super().__init__(address, replace(entry, python=str(system.python()), folder=folder))
        self._system = system

    def command(self, words: Sequence[str]) -> list[str]:
        """qemu, and a program of the board by its path: it has no shell."""
        return self._system.command(words)

    def explain(self, code: int, words: str) -> EdgesegError:
        """What qemu, or Python in it, said."""
        last = words.splitlines()[-1].strip() if words else "it said nothing"
        again = f"edgeseg devices emulate {self._system.name}"
        return MissingTool(f"{self.address} ended with exit code {code}: {last}; make it again: {again} --fresh")

    def probe(self) -> Facts:
        """The board; its name says where it is emulated."""
        facts = super().probe()
        return replace(facts, name=f"{self._system.name} emulated on {facts.name}")

    def sensed(self) -> There:
        """It, as sensors see it: it has no shell to ask in, and what qemu would read are those of this machine."""
        return There(self)

    def spawn(self, cold: bool = False) -> RemoteBench:
        """A fresh measuring process."""
        if cold:
            raise EdgesegError(
                f"{self.address} cannot start a program from a program, so there are no cold starts on it"
            )
        return super().spawn()


def emulated(address: str, entry: Entry) -> Emulated:
    """An emulated board.

    Raises:
        MissingTool: it was not made yet, or there is no qemu.
    """
    name = entry.url.partition("://")[2]
    system = sysroot(name)
    if shutil.which(QEMU) is None:
        raise MissingTool(f"{QEMU} is not installed; {HINT}")
    if not system.complete:
        raise MissingTool(f"there is no {address} yet; edgeseg devices emulate {name}")
    return Emulated(address, entry, system)


DEVICES.add("emulated", emulated)
