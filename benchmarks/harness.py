"""What `edgeseg bench` measures against what a runtime's own benchmark measures: one file, one thread, float32, at one time.

Both run as they are, each in a process of its own, and take turns of half a second: one is stopped while the other runs.
So whatever the machine does meets both alike, and each loses one frame per turn, far from its median. Operators of ours are written
as standard ones, since the tools know no others. The tools round to hundredths of a ms.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

import edgeseg
from benchmarks.artifact_latency import lively
from benchmarks.ratio import Finding, finding
from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, InvalidMeasurement, MissingTool, ParityFailed
from edgeseg.registry import Registry
from edgeseg.runtimes import RUNTIMES
from edgeseg.runtimes.record import Record
from edgeseg.runtimes.tools import TOOLS, Command
from edgeseg.runtimes.tools.benchmark_app import BenchmarkApp
from edgeseg.runtimes.tools.here import program, result
from edgeseg.runtimes.tools.litert_benchmark import LitertBenchmark

STUDENT = "lraspp_mobilenet_v3_large"
SIZE = (256, 256)
SECONDS = 15
TURN_S = 0.5
PAIRS = 6
LIMIT = 1.03

USUAL: Registry[Callable[[str, float], Command]] = Registry("tool to compare with")
"""Tool -> a file and what a frame takes, in ms, to the run of about as long as ours."""

USUAL.add("benchmark_app", lambda file, frame_ms: BenchmarkApp(file, seconds=SECONDS, precision="fp32"))
USUAL.add(
    "litert-benchmark", lambda file, frame_ms: LitertBenchmark(file, count=max(64, round(500 * SECONDS / frame_ms)))
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
    """Log-ratios of medians, ours over the tool's, each pair in fresh processes.

    Raises:
        InvalidMeasurement: one of the two ran in another precision or on other threads.
    """
    tool = TOOLS[name]
    version = RUNTIMES[tool.runtime].version()
    words = [str(program(name))]
    artifact = make(tool.runtime, folder)
    file, frame_ms, logs = str(artifact.model_file.resolve()), 20.0, []
    bench = [sys.executable, "-m", "edgeseg", "bench", str(artifact.folder.resolve())]
    for pair in range(pairs):
        command = USUAL[name](file, frame_ms)
        ours = [*bench, "--protocol", f"sustained:{SECONDS}s", "--json", "-o", f"record-{pair}.json"]
        (ended, said), (code, text) = taking_turns(ours, words + command.argv(version)[1:], folder)
        if ended not in (0, InvalidMeasurement.exit_code):  # a busy machine may make the record one not to quote
            raise EdgesegError(f"harness: edgeseg bench ended with exit code {ended}: {said.strip()[-200:]}")
        record = schema.read(Record, folder / f"record-{pair}.json")
        found = result(tool, command, folder, version, code, text)
        for line in found.unread:
            print(f"harness: {name}: not understood: {line}", file=sys.stderr)
        _check("edgeseg", record.execution.precision, record.execution.threads)
        _check(name, found.precision or "fp32", found.threads)  # one that does not say has it from the file
        if found.figures.p50_ms is None:
            raise InvalidMeasurement(f"harness: {name} says no median")
        frame_ms = record.latency.p50_ms
        print(f"harness: {name} {found.figures.p50_ms:.2f} ms, edgeseg {frame_ms:.2f} ms", file=sys.stderr, flush=True)
        logs.append(float(np.log(frame_ms / found.figures.p50_ms)))
    return logs


def taking_turns(first: Sequence[str], second: Sequence[str], folder: Path) -> tuple[tuple[int, str], ...]:
    """Exit code and output of two programs of which only one runs at any time, until one has ended."""
    path = os.pathsep.join([str(Path(edgeseg.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}  # this edgeseg, not one that is installed
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2)]
        both = [
            stack.enter_context(
                subprocess.Popen(
                    words,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment,
                    start_new_session=True,
                )
            )
            for words, file in zip((first, second), files, strict=True)
        ]
        turn = 0
        try:
            while all(each.poll() is None for each in both):
                _tell(both[1 - turn], signal.SIGSTOP)
                _tell(both[turn], signal.SIGCONT)
                time.sleep(TURN_S)
                turn = 1 - turn
            for each in both:
                _tell(each, signal.SIGCONT)
                each.wait(timeout=600)
        finally:
            for each in both:
                _tell(each, signal.SIGKILL)
        for file in files:
            file.seek(0)
        return tuple((each.wait(), file.read()) for each, file in zip(both, files, strict=True))


def _tell(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """A signal to a program and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, what)


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
