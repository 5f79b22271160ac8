"""ExecuTorch's `executor_runner`: the time of every execution, where it is new enough to print them, else their sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg.runtimes.tools.tool import (
    NUMBER,
    TOOLS,
    Figures,
    Lines,
    Output,
    Tool,
    ToolResult,
    Work,
    figures,
    milliseconds_to_ns,
)

HEAD = r"[DIWE](?: [\d:.]+)? executorch:\S+:\d+\] "
"""What every line of its log begins with."""

KINDS = {
    "iteration": rf"{HEAD}Iteration (\d+) of \d+: {NUMBER} ms",
    "total": rf"{HEAD}Model executed successfully (\d+) time\(s\) in {NUMBER} ms\.?",
    "load": rf"{HEAD}Model loaded in {NUMBER} ms\.",
    "threads": rf"{HEAD}Resetting threadpool with num threads = (\d+)",
    "warning": rf"{HEAD.replace('DIWE', 'WE')}(.+)",
    "log": rf"{HEAD}.*",
    "output": r"Output.*|[-\d.einfa, ]+,?|\.\.\.,|\]\)",
}
"""The outputs' own numbers follow the log, unless `--print_output none`."""


@dataclass(frozen=True)
class ExecutorRunner:
    """A `.pte` executed `count` times on inputs of ones."""

    model: str
    threads: int = 1
    count: int = 256

    def argv(self, version: str | None) -> list[str]:
        """Its flags are gflags: one word each."""
        return [
            "executor_runner",
            f"--model_path={self.model}",
            f"--num_executions={self.count}",
            f"--cpu_threads={self.threads}",
        ]

    @property
    def writes(self) -> Mapping[str, str]:
        """Nothing: it prints."""
        return {}


def usual(work: Work) -> ExecutorRunner:
    """The precision is in the file."""
    return ExecutorRunner(work.file, work.threads)


def read(output: Output, lines: Lines) -> ToolResult:
    """Samples where there are any, the first apart; an older runner gives the mean alone, the first included."""
    total = lines.need("total")
    count, total_ms = int(total[1]), float(total[2])
    times = [float(match[2]) for match in lines.all("iteration")]
    if times and len(times) != count:
        raise lines.missing(f"{count - len(times)} of {count} iterations")
    samples = milliseconds_to_ns(times[1:], "executor_runner") if len(times) > 1 else None
    threads = lines.get("threads")
    return ToolResult(
        tool="executor_runner",
        version=output.version,
        samples_ns=samples,
        figures=figures(samples) if samples else Figures(count, total_ms / count),
        source="samples" if samples else "tool",
        covers="execution",
        load_ms=lines.number("load"),
        first_ms=times[0] if times else None,
        threads=int(threads[1]) if threads else None,
        precision=None,
        placed=None,
        peak_memory_bytes=None,
        operators=None,
        warnings=[match[1] for match in lines.all("warning")],
        unread=lines.unread,
    )


TOOLS.add("executor_runner", Tool("executor_runner", "executorch", usual, None, {"": read}, {"": KINDS}))
