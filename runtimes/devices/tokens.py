"""What a run has taken of a device, written down on this machine before it takes it: a run that is killed leaves it to the next."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.provenance import now
from edgeseg.runtimes.devices.book import book_path
from edgeseg.schema import STRICT


@dataclass(frozen=True)
class Token:
    """What a device was like, for whoever puts it back. `pid` and `started`: the process that has changed it, in s after the boot."""

    __pydantic_config__ = STRICT
    device: str
    created: str
    pid: int
    started: float
    before: dict[str, str]

    @property
    def alive(self) -> bool:
        """Whether it is still at work."""
        with suppress(psutil.NoSuchProcess):
            return abs(_started(psutil.Process(self.pid)) - self.started) < 1
        return False


def _started(process: psutil.Process) -> float:
    """When it began, on a clock that nobody sets: psutil's own figure moves with the system's."""
    return process.create_time() - psutil.boot_time()


def token_path(kind: str, url: str) -> Path:
    """Where it is written down, beside the devices file."""
    name = re.sub(r"[^\w.@-]+", "-", url).strip("-")
    return book_path().parent / kind / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}.json"


def claim(kind: str, url: str, before: dict[str, str]) -> Path:
    """Write down that this process takes it.

    Raises:
        EdgesegError: another one has.
    """
    process, path = psutil.Process(), token_path(kind, url)
    token = Token(url, now(), process.pid, _started(process), before)
    whole = schema.write(path.with_suffix(f".{token.pid}"), token)
    try:
        os.link(whole, path)
    except FileExistsError:
        raise EdgesegError(f"{url} is {kind} by another run just now; wait until it is over") from None
    finally:
        whole.unlink()
    return path
