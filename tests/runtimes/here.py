"""A device that is a process of this machine: the agent and everything around it, without a network."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psutil

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.devices import Entry
from edgeseg.runtimes.devices.remote import Remote, RemoteBench


class Here(Remote):
    """Runs commands here, in front of them the words of `before`."""

    kind: ClassVar[str] = "here"
    before: Sequence[str] = ()

    def command(self, words: Sequence[str]) -> list[str]:
        return [*self.before, *words]

    def explain(self, code: int, words: str) -> EdgesegError:
        return MissingTool(f"ended with {code}: {words}")


def here(folder: Path, patience_s: float = 20.0, python: str = sys.executable) -> Here:
    """A device that keeps its files in `folder`."""
    return Here("here", Entry("here://", python=python, folder=str(folder / "device")), patience_s)


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    return until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def until(holds: Callable[[], Any], seconds: float = 10) -> bool:
    """Whether something comes to hold in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if holds():
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def again(device: Remote) -> None:
    """Reach a device anew, as the next command does; what an earlier agent left there is over when this returns."""
    device.close()
    device.lock()
    device.unlock()


def opened(device: Remote, artifact: Path) -> RemoteBench:
    """A measuring process on the device that has the artifact open."""
    bench = device.spawn()
    bench.ask("open", path=str(artifact), threads=1, size=None, image=None, e2e=False)
    return bench
