"""ONNX Runtime's `onnxruntime_perf_test`: its own percentiles, in s, six digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg.runtimes.tools.tool import NUMBER, TOOLS, Figures, Lines, Output, Tool, ToolResult, Work

KINDS = {
    "load": rf"Session creation time cost: ?{NUMBER} s",
    "first": rf"First inference time cost: ?{NUMBER} ms",
    "total": rf"Total inference time cost: ?{NUMBER} s",
    "count": r"Total inference requests: ?(\d+)",
    "mean": rf"Average inference time cost(?: total)?: ?{NUMBER} ms",
    "percentile": rf"(Min|Max|P\d+) Latency(?::| is) ?{NUMBER} (?:s|sec)",
    "threads": r"Setting intra_op_num_threads to (\d+)",
    "memory": r"Peak working set size: ?(\d+)(?: bytes)?",
    "known": r"(?:Total inference run time|Number of inferences per second|(?:Avg|Total) CPU usage|Runs) ?:.*",
    "setting": r"(?:using \w+ExecutionProvider|(?:Dis|En)abling .+|Setting \w+ to .+)",
    "warning": r"\S+ \S+ \[[WE]:onnxruntime:.*\] (.*)",
}
"""`Average inference time cost` became `... cost total`, and `Latency is ... sec` became `Latency: ... s`, between 1.x versions."""


@dataclass(frozen=True)
class PerfTest:
    """An ONNX file, `count` times, on the CPU, with its default inputs made up by the tool (`-I`)."""

    model: str
    threads: int = 1
    count: int = 256
    spinning: bool = True

    def argv(self, version: str | None) -> list[str]:
        """One thread between operators, all optimisations, idle threads spin: as edgeseg runs it."""
        words = ["onnxruntime_perf_test", "-e", "cpu", "-m", "times", "-r", str(self.count), "-I", "-s"]
        words += ["-x", str(self.threads), "-y", "1", "-o", "99", *([] if self.spinning else ["-Z"])]
        return [*words, self.model]

    @property
    def writes(self) -> Mapping[str, str]:
        """Nothing: it prints."""
        return {}


def usual(work: Work) -> PerfTest:
    """The precision is in the file."""
    return PerfTest(work.file, work.threads)


def read(output: Output, lines: Lines) -> ToolResult:
    """Percentiles need `-s`; the rest is always there."""
    shares = {match[1]: 1000 * float(match[2]) for match in lines.all("percentile")}
    low, high = shares.pop("Min", None), shares.pop("Max", None)
    percentiles = {_percentile(name): value for name, value in shares.items()}
    memory, threads = lines.get("memory"), lines.get("threads")
    load = lines.number("load")
    return ToolResult(
        tool="onnxruntime_perf_test",
        version=output.version,
        samples_ns=None,
        figures=Figures(
            int(lines.need("count")[1]),
            float(lines.need("mean")[1]),
            percentiles.pop("50", None),
            low,
            high,
            None,
            percentiles,
        ),
        source="tool",
        covers="session run, inputs bound before",
        load_ms=None if load is None else 1000 * load,
        first_ms=lines.number("first"),
        threads=int(threads[1]) if threads else None,
        precision=None,
        placed=None,
        peak_memory_bytes=int(memory[1]) if memory else None,
        operators=None,
        warnings=[match[1] for match in lines.all("warning")],
        unread=lines.unread,
    )


def _percentile(name: str) -> str:
    """`P999` is 99.9."""
    digits = name[1:]
    return digits if len(digits) <= 2 else f"{digits[:2]}.{digits[2:]}"


TOOLS.add("onnxruntime_perf_test", Tool("onnxruntime_perf_test", "onnxruntime", usual, None, {"": read}, {"": KINDS}))
