"""TensorFlow Lite's `benchmark_model`: statistics in us, and a table of operators that is read by its own headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg.runtimes.tools.run_order import operators
from edgeseg.runtimes.tools.tool import NUMBER, TOOLS, Figures, Lines, Output, Tool, ToolResult, Work

PREFIX = r"(?:INFO: |I tflite\s*: )?"
"""What a line begins with: nothing in old builds, `INFO: ` in newer ones, logcat's words in an app."""

KINDS = {
    "statistics": rf"{PREFIX}(count=\d+ .*=.*)",
    "timings": rf"{PREFIX}Inference timings in us: Init: {NUMBER}, First inference: {NUMBER}, "
    rf"Warmup \(avg\): {NUMBER}, Inference \(avg\): {NUMBER}",
    "growth": rf"{PREFIX}Memory footprint delta from the start of the tool \(MB\): init={NUMBER} overall={NUMBER}",
    "footprint": rf"{PREFIX}Peak memory footprint \(MB\): init={NUMBER} overall={NUMBER}",
    "peak": rf"{PREFIX}Overall peak memory footprint \(MB\) via periodic monitoring: {NUMBER}",
    "delegate": r"(?:VERBOSE: |INFO: )?Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\) node(?:.* for subgraph (\d+))?.*",
    "threads": rf"{PREFIX}(?:Num threads|#threads used for CPU inference): \[(\d+)\]",
    "columns": r"\[[nN]ode type\].*",
    "row": r"\S.*?(?:\s+[-+\d.e]+%?){4,}(?:\s+\S.*)?",
    "section": r"=+ .+ =+|Number of nodes executed: \d+|.*Profiling Info.*|Op Name +Count .*",
    "setting": rf"{PREFIX}[\w#][^:=]*: \[.*\]",
    "told": rf"{PREFIX}(?:STARTING!|Loaded model .*|The input model file size \(MB\): .*|Initialized session in .*|"
    r"Running benchmark for at least .*|Note: as the benchmark tool itself .*|Memory status at the end of exe\w+:|"
    r"[-+] \w+ .*: \d+ MB|(?:Explicitly applied|Created TensorFlow Lite|Applying) .*|\w+ delegate created\.|Timings \(microseconds\): .*|"
    r"Memory \(bytes\): .*|\d+ nodes observed|Signature to run: .*)",
    "warning": r"(?:WARNING|ERROR|WARN): (.*)",
}


@dataclass(frozen=True)
class BenchmarkModel:
    """A `.tflite` on the processor, through XNNPACK."""

    model: str
    threads: int = 1
    count: int = 256
    seconds: float = 10.0
    profile: bool = False

    def argv(self, version: str | None) -> list[str]:
        """All limits are said, so that no default decides; memory is not polled, which would disturb."""
        return [
            "benchmark_model",
            f"--graph={self.model}",
            f"--num_threads={self.threads}",
            f"--num_runs={self.count}",
            f"--min_secs={self.seconds:g}",
            f"--max_secs={10 * self.seconds + 60:g}",
            "--warmup_runs=3",
            "--warmup_min_secs=0.5",
            "--use_xnnpack=true",
            f"--enable_op_profiling={str(self.profile).lower()}",
            "--report_peak_memory_footprint=false",
        ]

    @property
    def writes(self) -> Mapping[str, str]:
        """Nothing: it prints."""
        return {}


def usual(work: Work) -> BenchmarkModel:
    """The precision is in the file."""
    return BenchmarkModel(work.file, work.threads)


def read(output: Output, lines: Lines) -> ToolResult:
    """The last `count=` line is the measurement; the one before it, if any, the warm-up."""
    timings = lines.need("timings")
    # of runs that all took the same there is `curr=90(all same)` and nothing else
    said = dict(word.split("=", 1) for word in lines.need("statistics")[1].split() if "=" in word)
    delegates = lines.all("delegate")
    footprint, threads, peak = lines.get("footprint"), lines.get("threads"), lines.number("peak")
    memory = peak or (float(footprint[2]) if footprint else None)
    return ToolResult(
        tool="benchmark_model",
        version=output.version,
        samples_ns=None,
        figures=Figures(
            int(said["count"]),
            float(timings[4]) / 1000,
            _ms(said, "median"),
            _ms(said, "min"),
            _ms(said, "max"),
            _ms(said, "std"),
            {name[1:]: float(value) / 1000 for name, value in said.items() if re.fullmatch(r"p\d+", name)},
        ),
        source="tool",
        covers="invoke",
        load_ms=float(timings[1]) / 1000,
        first_ms=float(timings[2]) / 1000,
        threads=int(threads[1]) if threads else None,
        precision=None,
        placed=_placed(delegates),
        peak_memory_bytes=None if memory is None else round(memory * 2**20),
        operators=operators(output.text) or None,
        warnings=[match[1] for match in lines.all("warning")],
        unread=lines.unread,
    )


def _ms(said: Mapping[str, str], name: str) -> float | None:
    """A figure in us; of a single run, and in old builds, some are missing."""
    return float(said[name]) / 1000 if name in said else None


def _placed(delegates: list[re.Match[str]]) -> dict[str, int] | None:
    """Nodes that each delegate took, and those it left to the interpreter."""
    if not delegates:
        return None
    placed, whole = Counter[str](), dict[str | None, int]()
    for match in delegates:
        placed[match[3]] += int(match[1])
        whole.setdefault(match[4], int(match[2]))  # of each subgraph, before anything was taken from it
    left = sum(whole.values()) - sum(placed.values())
    return dict(placed) | ({"interpreter": left} if left > 0 else {})


TOOLS.add("benchmark_model", Tool("benchmark_model", "litert", usual, None, {"": read}, {"": KINDS}))
