"""What a device behind ssh adds to `edgeseg bench`: the whole command against a real sshd of this machine, and here, in turns.

The connection, an agent that is sent there, the artifact, sensors before and after, and all that is answered. The artifact is of the
null runtime, and the time of the samples is taken off on both sides: a series goes on until its median is known well enough, on a
busy machine for longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.loopback import served
from benchmarks.ratio import Finding, finding
from edgeseg import schema
from edgeseg.errors import EdgesegError, InvalidMeasurement
from edgeseg.runtimes.devices.book import Book
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import read
from edgeseg.runtimes.statistics import wall_ns

MODEL_NS = 5_000_000
LIMIT_S = 2.0
PAIRS = 6
LEAST_S = 0.01
"""Less than that is taken for that much: two runs of a command differ by more."""


def seconds(device: str, folder: Path, protocol: str) -> float:
    """How long a bench on a device takes beyond its samples, from the start of the interpreter to its end.

    Raises:
        EdgesegError: it failed.
    """
    words = [sys.executable, "-m", "edgeseg", "bench", str(folder / "null"), "-d", device, "--protocol", protocol]
    words += ["-o", str(folder / "record.json")]
    settings = {"XDG_CONFIG_HOME": str(folder / "settings"), "EDGESEG_LOCK": str(folder / "lock")}
    begun = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | settings)
    took = time.perf_counter() - begun
    if done.returncode not in (0, InvalidMeasurement.exit_code):  # a busy machine may make the record one not to quote
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise EdgesegError(f"edgeseg bench -d {device} did not run as it should, so nothing is added to it: {why[0]}")
    record = read(folder / "record.json")
    return took - sum(wall_ns(*samples.unpack()) for samples in (record.warmup, record.samples)) / 1e9


def findings(protocol: str = "quick", pairs: int = PAIRS) -> list[Finding]:
    """The seconds that ssh adds; the first pair, which fills the disk cache and brings the artifact there, is not counted."""
    rng = np.random.default_rng(0)
    took = np.empty((pairs + 1, 2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        null_artifact(folder / "null", Null(steps=((1, MODEL_NS),), sleep=True))
        (folder / "sshd").mkdir()
        with served(folder / "sshd") as server:
            schema.write(folder / "settings/edgeseg/devices.json", Book({"board": server.entry(folder)}))
            for row in took:
                for side in rng.permutation(2):
                    row[side] = seconds(("board", "local")[side], folder, protocol)
    added = np.maximum(took[1:, 0] - took[1:, 1], LEAST_S)
    return [finding(f"what ssh adds to a {protocol} bench, sshd on this machine", [np.log(added)], LIMIT_S, unit="s")]
