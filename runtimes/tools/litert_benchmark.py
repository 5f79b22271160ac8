"""LiteRT's own: `litert-benchmark` of the Python package, and `benchmark_litert_model` in C++, which print the same table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.runtimes.tools.tool import NUMBER, TOOLS, Figures, Lines, Output, Tool, ToolResult

KINDS = {
    "init": rf"Model initialization:\s+{NUMBER} ms",
    "first": rf"Warmup \(first\):\s+{NUMBER} ms",
    "warmup": rf"Warmup \(avg\):\s+{NUMBER} ms \(\d+ runs\)",
    "mean": rf"Inference \(avg\):\s+{NUMBER} ms \((\d+) runs\)",
    "min": rf"Inference \(min\):\s+{NUMBER} ms",
    "max": rf"Inference \(max\):\s+{NUMBER} ms",
    "p50": rf"Inference \(median\):\s+{NUMBER} ms",
    "std": rf"Inference \(std\):\s+{NUMBER} ms",
    "percentile": rf"Inference \(p(\d+)\):\s+{NUMBER} ms",
    "whole": r"Fully accelerated:\s+(True|False|true|false)",
    "threads": r"(?:[\d-]+ [\d:]+ INFO benchmark_litert_model: )?Num threads:\s+(\d+)",
    "known": r"=+|BENCHMARK RESULTS|=+ BENCHMARK RESULTS =+|Throughput:\s+.*",
    "log": r"[\d-]+ [\d:]+ INFO benchmark_litert_model: .*|INFO: .*|└ .*",
    "warning": r"(?:[\d-]+ [\d:]+ )?(?:WARNING|ERROR):?(?: benchmark_litert_model)?:? (.*)",
}


@dataclass(frozen=True)
class LitertBenchmark:
    """A `.tflite` on the processor, with the command of the Python package. It writes what it prints as JSON too."""

    model: str
    threads: int = 1
    count: int = 256
    warmup: int = 20
    result: str = "litert-benchmark.json"

    def argv(self, version: str | None) -> list[str]:
        """In parts is as good as whole: the result says which it was."""
        words = ["litert-benchmark", "--model", self.model, "--num_runs", str(self.count), "--use_cpu"]
        words += ["--warmup_runs", str(self.warmup), "--num_threads", str(self.threads)]
        return [*words, "--result_json", self.result]

    @property
    def writes(self) -> Mapping[str, str]:
        """The result."""
        return {"result": self.result}


@dataclass(frozen=True)
class BenchmarkLitertModel:
    """The same in C++, whose flags are those of `benchmark_model`."""

    model: str
    threads: int = 1
    count: int = 256
    warmup: int = 20

    def argv(self, version: str | None) -> list[str]:
        """One word per flag."""
        return [
            "benchmark_litert_model",
            f"--graph={self.model}",
            f"--num_threads={self.threads}",
            f"--num_runs={self.count}",
            f"--warmup_runs={self.warmup}",
            "--use_cpu=true",
        ]

    @property
    def writes(self) -> Mapping[str, str]:
        """Nothing: its result file is a message of protobuf with the figures of the table."""
        return {}


def read(output: Output, lines: Lines, tool: str = "litert-benchmark") -> ToolResult:
    """The table; numbers are rounded to hundredths of a ms."""
    mean = lines.need("mean")
    figures = Figures(
        int(mean[2]),
        float(mean[1]),
        lines.number("p50"),
        lines.number("min"),
        lines.number("max"),
        lines.number("std"),
        {match[1]: float(match[2]) for match in lines.all("percentile")},
    )
    whole, threads = lines.get("whole"), lines.get("threads")
    accelerated = whole is not None and whole[1].lower() == "true"
    told = _result(output.files["result"]) if "result" in output.files else {}
    if told and told["latency"]["median_ms"] != figures.p50_ms:
        raise EdgesegError(
            f"{tool}: the result file says {told['latency']['median_ms']} ms, the table {figures.p50_ms}"
        )
    return ToolResult(
        tool=tool,
        version=output.version,
        samples_ns=None,
        figures=figures,
        source="tool",
        covers="run of the compiled model",
        load_ms=lines.number("init"),
        first_ms=lines.number("first"),
        threads=told["num_threads"] if told else int(threads[1]) if threads else None,
        precision=None,
        placed=None,
        peak_memory_bytes=None,
        operators=None,
        warnings=[match[1] for match in lines.all("warning")] + ([] if accelerated else ["not fully accelerated"]),
        unread=lines.unread,
    )


def _result(text: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(text)
        float(document["latency"]["median_ms"]), int(document["num_threads"])
    except (ValueError, KeyError, TypeError) as error:
        raise EdgesegError(f"litert-benchmark: its result file cannot be read ({error!r})") from error
    return document


def read_cpp(output: Output, lines: Lines) -> ToolResult:
    """The table of the C++ tool."""
    return read(output, lines, "benchmark_litert_model")


TOOLS.add(
    "litert-benchmark",
    Tool(
        "litert-benchmark",
        "litert",
        lambda work: LitertBenchmark(work.file, work.threads),
        None,
        {"2": read},
        {"2": KINDS},
    ),
)
TOOLS.add(
    "benchmark_litert_model",
    Tool(
        "benchmark_litert_model",
        "litert",
        lambda work: BenchmarkLitertModel(work.file, work.threads),
        None,
        {"": read_cpp},
        {"": KINDS},
    ),
)
