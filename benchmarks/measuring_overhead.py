"""What measuring adds to a model of 10 ms: the whole harness against a bare loop, in turns, on the null runtime.

The bare loop reads the clock once per call. The harness runs in its own process, keeps every sample, and its parent waits
for it and reports progress.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.ratio import Finding, finding
from edgeseg.artifact import Artifact
from edgeseg.runtimes import Session, open_artifact, pixels
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import Protocol

MODEL_NS = 10_000_000
LIMIT = 1.01
PAIRS = 10
PROTOCOL = Protocol("overhead", min_s=1, min_count=64, max_s=2, warmup_count=3, warmup_s=0.1)


def bare_ms(session: Session, seconds: float) -> float:
    """Median time from call to call of a plain loop, in ms."""
    image = pixels.prepare(pixels.pattern(*pixels.size(session.input)), session.input)
    ticks = [time.perf_counter_ns()]
    while ticks[-1] - ticks[0] < seconds * 1e9:
        session.run(image)
        ticks.append(time.perf_counter_ns())
    return float(np.median(np.diff(ticks))) / 1e6


def findings(model_ns: int = MODEL_NS, protocol: Protocol = PROTOCOL, pairs: int = PAIRS) -> list[Finding]:
    """The time of a sample, and that from one sample to the next, over the bare loop's."""
    samples, periods = np.empty(pairs), np.empty(pairs)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Artifact.open(null_artifact(Path(folder) / "null", Null(steps=((1, model_ns),))))
        session = open_artifact(artifact, threads=1)
        for pair in range(pairs):
            bare = bare_ms(session, protocol.min_s)
            record = measure(artifact, protocol=protocol, threads=1, progress=lambda _: None)
            period = float(np.median(np.diff(record.samples.unpack()[0]))) / 1e6
            samples[pair], periods[pair] = np.log(record.latency.p50_ms / bare), np.log(period / bare)
    name = f"measured / bare, a model of {model_ns / 1e6:g} ms"
    return [
        finding(f"{name}, time of a sample", [samples], LIMIT),
        finding(f"{name}, from sample to sample", [periods], LIMIT),
    ]
