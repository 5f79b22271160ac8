"""A student to every target, exported and proven: how long all of it takes, and the most memory that all its processes have at once."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

from benchmarks.ratio import Finding
from edgeseg.errors import EdgesegError, MissingTool, require

STUDENTS = ("lraspp_mobilenet_v3_large", "pp_mobileseg_tiny", "ddrnet23_slim")
"""Three families below 10 M parameters."""

SIZE = (360, 480)
SECONDS, GIGABYTES = 300.0, 6.0


class Peak(threading.Thread):
    """Looks five times a second at the memory that this process and all below it have, until it is closed; `bytes` is the most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self._over = 0, threading.Event()
        self.start()

    def run(self) -> None:
        """Look."""
        this = psutil.Process()
        while not self._over.wait(0.2):
            there = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    there += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.bytes = max(self.bytes, there)

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()


def findings(students: Sequence[str] = STUDENTS, size: tuple[int, int] = SIZE) -> list[Finding]:
    """Seconds and gigabytes of each student, to all targets that are installed; nothing where a proof fails."""
    from edgeseg.export import TARGETS
    from edgeseg.export.apart import Job, as_run, export_apart
    from edgeseg.manifest import Source

    kinds = []
    for kind in dict.fromkeys(TARGETS[name] for name in TARGETS):
        try:
            require(*kind.modules)
        except MissingTool:
            continue
        kinds.append(kind)
    found = []
    for name in students:
        with tempfile.TemporaryDirectory() as folder, as_run(name, 19, size) as run:
            begin = time.perf_counter()
            with closing(Peak()) as peak:
                for kind in kinds:
                    target, out = kind(), str(Path(folder) / kind.name)
                    outcome = export_apart(
                        Job(str(run), target.options(), out, size, ["pre", "labels"], None, Source(None, None)), target
                    )
                    if outcome.error:
                        raise EdgesegError(f"{name} to {kind.name}: {outcome.error}")
            seconds = time.perf_counter() - begin
        what = f"{name} {size[0]}x{size[1]}, {len(kinds)} targets exported and proven"
        found += [_once(what, seconds, "s", SECONDS), _once(f"{what}, memory", peak.bytes / 1e9, "GB", GIGABYTES)]
    return found


def _once(name: str, value: float, unit: str, limit: float) -> Finding:
    """A figure that was seen once has no interval."""
    assert np.isfinite(value)
    return Finding(name, value, value, value, unit, limit, 1)  # type: ignore[arg-type]
