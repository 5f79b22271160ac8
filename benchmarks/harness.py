"""What `edgeseg bench` measures against what a runtime's own benchmark measures: one file, one thread, float32, in turns.

Operators of ours are written as standard ones, since the tools know no others. The tools round to hundredths of a ms and
take their own median.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.artifact_latency import lively
from benchmarks.ratio import Finding, finding
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, InvalidMeasurement, MissingTool, ParityFailed
from edgeseg.registry import Registry
from edgeseg.runtimes import RUNTIMES
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.record import Protocol
from edgeseg.runtimes.tools import TOOLS, Command
from edgeseg.runtimes.tools.benchmark_app import BenchmarkApp
from edgeseg.runtimes.tools.here import program, run
from edgeseg.runtimes.tools.litert_benchmark import LitertBenchmark

STUDENT = "lraspp_mobilenet_v3_large"
SIZE = (256, 256)
SECONDS = 3
PAIRS = 8
LIMIT = 1.03
PROTOCOL = Protocol("harness", min_s=SECONDS, min_count=64, max_s=3 * SECONDS, warmup_count=20, warmup_s=0.5)

USUAL: Registry[Callable[[str, float], Command]] = Registry("tool to compare with")
"""Tool -> a file and what a frame takes, in ms, to the run of about as long as ours."""

USUAL.add("benchmark_app", lambda file, frame_ms: BenchmarkApp(file, seconds=SECONDS, precision="fp32"))
USUAL.add(
    "litert-benchmark", lambda file, frame_ms: LitertBenchmark(file, count=max(64, round(1000 * SECONDS / frame_ms)))
)


def make(target: str, folder: Path) -> Artifact:
    """A student with random weights, pixels in and labels out, so that no side copies much.

    Raises:
        ParityFailed: it did not pass its proof.
    """
    from edgeseg.export import TARGETS, export_model

    kind = replace(TARGETS[target](), ops="graph")  # both have it
    artifact = export_model(lively(STUDENT), kind, folder / target, SIZE, bake=("pre", "labels"))
    if artifact.manifest.ledger is None or not artifact.manifest.ledger.passed:
        raise ParityFailed(f"harness: {STUDENT} failed its proof in {target}; no speed to compare")
    return artifact


def contest(name: str, pairs: int, folder: Path) -> list[float]:
    """Log-ratios of medians, ours over the tool's, each side in fresh processes, in random order.

    Raises:
        InvalidMeasurement: one of the two ran in another precision or on other threads.
    """
    tool = TOOLS[name]
    version = RUNTIMES[tool.runtime].version()
    program(name)
    artifact, rng = make(tool.runtime, folder), np.random.default_rng(0)
    logs, times = [], {"edgeseg": (0.0, 0.0), name: (0.0, 0.0)}
    for _ in range(pairs):
        for side in rng.permutation(list(times)):
            frame_ms = times["edgeseg"][0] or 20.0
            times[side] = _theirs(name, artifact, frame_ms, folder, version) if side == name else _ours(artifact)
        said = (f"{side} {p50:.2f} ms (fastest {low:.2f})" for side, (p50, low) in times.items())
        print(f"harness: {', '.join(said)}", file=sys.stderr, flush=True)
        logs.append(float(np.log(times["edgeseg"][0] / times[name][0])))
    return logs


def _ours(artifact: Artifact) -> tuple[float, float]:
    """Median and fastest in ms."""
    record = measure(artifact, protocol=PROTOCOL, threads=1)
    _check("edgeseg", record.execution.precision, record.execution.threads)
    return record.latency.p50_ms, float(record.samples.unpack()[1].min()) / 1e6


def _theirs(name: str, artifact: Artifact, frame_ms: float, folder: Path, version: str) -> tuple[float, float]:
    """Likewise; a tool that does not say its precision has it from the file."""
    found = run(TOOLS[name], USUAL[name](str(artifact.model_file.resolve()), frame_ms), folder, version)
    for line in found.unread:
        print(f"harness: {name}: not understood: {line}", file=sys.stderr)
    _check(name, found.precision or "fp32", found.threads)
    p50, low = found.figures.p50_ms, found.figures.min_ms
    if p50 is None or low is None:
        raise InvalidMeasurement(f"harness: {name} says no median or no fastest run")
    return p50, low


def _check(side: str, precision: str | None, threads: int | None) -> None:
    if (precision, threads) != ("fp32", 1):
        raise InvalidMeasurement(f"harness: {side} ran in {precision} on {threads} threads; asked: fp32 on 1")


def findings(tools: Sequence[str] = tuple(USUAL), pairs: int = PAIRS) -> list[Finding]:
    """Both ways round, so that neither side may be slower; tools that are not installed are left out."""
    found = []
    for name in tools:
        try:
            with tempfile.TemporaryDirectory() as folder:
                logs = np.array(contest(name, pairs, Path(folder)))
        except MissingTool as error:
            print(f"harness: without {name}: {error}", file=sys.stderr)
            continue
        title = f"{STUDENT} {SIZE[0]}x{SIZE[1]}, threads 1"
        rows = list(logs[:, None])  # every pair is of fresh processes
        found.append(finding(f"edgeseg bench / {name}, {title}", rows, LIMIT))
        found.append(finding(f"{name} / edgeseg bench, {title}", [-row for row in rows], LIMIT))
    if not found:
        raise EdgesegError(f"harness: none of {', '.join(tools)} is installed; pip install 'edgeseg[openvino]'")
    return found
