"""ncnn's `benchncnn`: the fastest, slowest and mean of a few runs, in hundredths of a ms, on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg.errors import EdgesegError
from edgeseg.runtimes.tools.tool import NUMBER, TOOLS, Figures, Lines, Output, Tool, ToolResult, Work

KINDS = {
    "setting": r"(loop_count|num_threads|powersave|gpu_device|cooling_down) = (-?\d+)",
    "model": rf"(\S+)\s+min =\s*{NUMBER}\s+max =\s*{NUMBER}\s+avg =\s*{NUMBER}",
    "vulkan": r"\[\d+ .+\] .*",
}
"""`[0 Adreno 640]  queueC=0[3] ...`: what Vulkan says of a device."""


@dataclass(frozen=True)
class BenchNcnn:
    """One network of `shape` (width, height, channels). It needs the `.param` alone: weights are zeros, which the tool fills in."""

    param: str
    shape: tuple[int, int, int]
    threads: int = 1
    loops: int = 128
    powersave: int = 0
    gpu: int = -1
    cooling_down: bool = False

    def argv(self, version: str | None) -> list[str]:
        """The same words in every version since `param=` (2023)."""
        numbers = (self.loops, self.threads, self.powersave, self.gpu, int(self.cooling_down))
        size = ",".join(map(str, self.shape))
        return ["benchncnn", *map(str, numbers), f"param={self.param}", f"shape=[{size}]"]

    @property
    def writes(self) -> Mapping[str, str]:
        """Nothing: it prints."""
        return {}


def usual(work: Work) -> BenchNcnn:
    """Three channels of the artifact's size."""
    height, width = work.size
    return BenchNcnn(work.file, (width, height, 3), work.threads)


def read(output: Output, lines: Lines) -> ToolResult:
    """The one network of the output."""
    found = lines.all("model")
    if len(found) != 1:
        raise lines.missing("one network") if not found else EdgesegError(f"benchncnn: {len(found)} networks, not one")
    settings = {match[1]: int(match[2]) for match in lines.all("setting")}
    low, high, mean = (float(found[0][index]) for index in (2, 3, 4))
    return ToolResult(
        tool="benchncnn",
        version=output.version,
        samples_ns=None,
        figures=Figures(settings.get("loop_count"), mean, None, low, high),
        source="tool",
        covers="input in, output out",
        load_ms=None,
        first_ms=None,
        threads=settings.get("num_threads"),
        precision=None,
        placed=None,
        peak_memory_bytes=None,
        operators=None,
        warnings=[],
        unread=lines.unread,
    )


TOOLS.add("benchncnn", Tool("benchncnn", "ncnn", usual, None, {"": read}, {"": KINDS}))
