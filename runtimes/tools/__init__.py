"""The benchmarks that runtimes bring along: how each is started, and what its output says."""

from edgeseg.runtimes.tools import (  # noqa: F401 (each registers itself)
    benchmark_app,
    benchncnn,
    executor_runner,
    litert_benchmark,
    perf_test,
    tflite_benchmark,
    trtexec,
)
from edgeseg.runtimes.tools.tool import TOOLS, Command, Figures, Output, Tool, ToolResult, Work

__all__ = ["TOOLS", "Command", "Figures", "Output", "Tool", "ToolResult", "Work"]
