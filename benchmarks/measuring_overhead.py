"""What measuring adds to a model of 5 ms: the whole harness against a bare loop, in turns, on the null runtime.

The bare loop reads the clock once per call. The harness runs in its own process, keeps every sample, and its parent waits
for it and reports progress; the agent does so on a device, which is this machine without a network.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.ratio import Finding, finding
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError
from edgeseg.runtimes import Session, open_artifact, pixels
from edgeseg.runtimes.devices import DEVICES, Entry
from edgeseg.runtimes.devices.remote import Remote
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import Protocol

MODEL_NS = 5_000_000
LIMIT = 1.01
PAIRS = 10
WAYS = {"local": "", "here://": ", by the agent"}
PROTOCOL = Protocol("overhead", min_s=1, min_count=64, max_s=2, warmup_count=3, warmup_s=0.1)


def bare_ms(session: Session, seconds: float) -> float:
    """Median time from call to call of a plain loop, in ms."""
    image = pixels.prepare(pixels.pattern(*pixels.size(session.input)), session.input)
    ticks = [time.perf_counter_ns()]
    while ticks[-1] - ticks[0] < seconds * 1e9:
        session.run(image)
        ticks.append(time.perf_counter_ns())
    return float(np.median(np.diff(ticks))) / 1e6


class Here(Remote):
    """A device that is a process of this machine."""

    kind: ClassVar[str] = "here"

    def command(self, words: Sequence[str]) -> list[str]:
        return list(words)

    def explain(self, code: int, words: str) -> EdgesegError:
        return EdgesegError(f"the agent ended with exit code {code}: {words}")


def findings(model_ns: int = MODEL_NS, protocol: Protocol = PROTOCOL, pairs: int = PAIRS) -> list[Finding]:
    """The time of a sample, and that from one sample to the next, over the bare loop's, measured here and by the agent."""
    logs = np.empty((len(WAYS), 2, pairs))
    with tempfile.TemporaryDirectory() as folder:
        entry = Entry("here://", python=sys.executable, folder=f"{folder}/device")
        DEVICES._entries["here"] = lambda address, _: Here(address, entry)
        artifact = Artifact.open(null_artifact(Path(folder) / "null", Null(steps=((1, model_ns),))))
        session = open_artifact(artifact, threads=1)
        for pair in range(pairs):
            for row, device in zip(logs, WAYS, strict=True):
                bare = bare_ms(session, protocol.min_s)
                record = measure(artifact, protocol=protocol, threads=1, progress=lambda _: None, device=device)
                period = float(np.median(np.diff(record.samples.unpack()[0]))) / 1e6
                row[:, pair] = np.log(record.latency.p50_ms / bare), np.log(period / bare)
        del DEVICES._entries["here"]
    name = f"measured / bare, a model of {model_ns / 1e6:g} ms"
    return [
        finding(f"{name}{way}, {what}", [series], LIMIT)
        for way, row in zip(WAYS.values(), logs, strict=True)
        for what, series in zip(("time of a sample", "from sample to sample"), row, strict=True)
    ]
