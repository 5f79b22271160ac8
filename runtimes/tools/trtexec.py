"""TensorRT's `trtexec`: every sample with `--exportTimes`, every layer with `--exportProfile`.

Version 11 turned the defaults round: no transfers, a CUDA graph, a thread that spins. Here all three are said in the words
of either version, so that the same choices measure the same. Older ones than 10 have no plugins of ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgeseg.errors import EdgesegError
from edgeseg.runtimes.record import Operator
from edgeseg.runtimes.tools.tool import (
    NUMBER,
    TOOLS,
    Figures,
    Lines,
    Output,
    Tool,
    ToolResult,
    Work,
    dotted,
    figures,
    finite,
    milliseconds_to_ns,
)

T = TypeVar("T")

LOG = r"(?:\[[\d/]+-[\d:]+\] )?(?:\[[IWEVF]\] ?)?"
TAIL = rf"min = {NUMBER} ms, max = {NUMBER} ms, mean = {NUMBER} ms, median = {NUMBER} ms((?:, percentile\(.+?%\) = .+? ms)*)"

KINDS = {
    "end": r"&&&& (PASSED|FAILED|WAIVED) TensorRT\.trtexec \[TensorRT v([\d.]+)\].*",
    "begin": r"&&&& (?:RUNNING|TASK_BEGIN) .*",
    "summary": rf"{LOG}(Latency|Enqueue Time|H2D Latency|GPU Compute Time|D2H Latency): {TAIL}",
    "trace": rf"{LOG}Timing trace has (\d+) queries over {NUMBER} s",
    "engine": rf"{LOG}Engine (?:loaded|deserialized) in {NUMBER} sec\.?",
    "warning": r"(?:\[[\d/]+-[\d:]+\] )?\[[WE]\] +(?:\[TRT\] )?(.+)",
    "tensorrt": r"(?:\[[\d/]+-[\d:]+\] )?\[[IV]\] \[TRT\] .*",
    "verbose": r"(?:\[[\d/]+-[\d:]+\] )?\[V\].*",
    "average": rf"{LOG}Average on \d+ runs - GPU latency: .*",
    "total": rf"{LOG}(?:Throughput: {NUMBER} qps|Total (?:Host Walltime|GPU Compute Time): {NUMBER} s)",
    "heading": rf"{LOG}===.+===|{LOG}Trace averages of \d+ runs:|{LOG}Warmup completed .*|{LOG}Explanations of .*",
    "row": rf"{LOG}\s*(?:Time\(ms\).*|(?:[\d.]+\s+){{4}}\S.*)",
    "blank": LOG,
}

SUMMARY = {"transfers": "Latency", "compute": "GPU Compute Time"}

WORDS = {
    "10": {
        "graph": {True: "--useCudaGraph"},
        "spin": {True: "--useSpinWait"},
        "transfers": {False: "--noDataTransfers"},
    },
    "11": {
        "graph": {False: "--noCudaGraph"},
        "spin": {False: "--noSpinWait"},
        "transfers": {True: "--includeDataTransfers"},
    },
}
"""Version -> choice -> its word, where it is not the default of that version."""


@dataclass(frozen=True)
class TrtExec:
    """A built engine, one query at a time. Transfers count, for a camera's image is in the host's memory; a graph is a choice.

    profile: time every layer in a second run, which is slower and no latency.
    """

    engine: str
    transfers: bool = True
    graph: bool = False
    spin: bool = False
    seconds: int = 10
    warmup_ms: int = 500
    plugins: tuple[str, ...] = ()
    times: str = "trtexec-times.json"
    profile: str | None = None

    def argv(self, version: str | None) -> list[str]:
        """The same choices in the words of TensorRT 10 or 11; precisions are in the engine, since 11.1 takes no `--fp16`."""
        words = WORDS.get((version or "").split(".")[0])
        if words is None:
            raise EdgesegError(
                f"trtexec {version or 'of unknown version'}: its words are not known, those of 10 and 11 are"
            )
        line = ["trtexec", f"--loadEngine={self.engine}", f"--duration={self.seconds}", f"--warmUp={self.warmup_ms}"]
        line += ["--iterations=64", "--avgRuns=10", "--percentile=90,95,99", f"--exportTimes={self.times}"]
        line += [f"--dynamicPlugins={plugin}" for plugin in self.plugins]
        line += [word for choice in words if (word := words[choice].get(getattr(self, choice)))]
        return line + (["--separateProfileRun", f"--exportProfile={self.profile}"] if self.profile else [])

    @property
    def writes(self) -> Mapping[str, str]:
        """Times, and layers where asked for."""
        return {"times": self.times} | ({"profile": self.profile} if self.profile else {})


def usual(work: Work) -> TrtExec:
    """The engine that `edgeseg build` made beside the file; precision is its own, threads it has none."""
    return TrtExec(str(Path(work.file).with_suffix(".engine")))


def read(output: Output, lines: Lines) -> ToolResult:
    """Samples where the times are at hand, else the summary.

    Raises:
        EdgesegError: it did not pass; the message is the first error that it printed.
    """
    end = lines.need("end")
    if end[1] != "PASSED":
        errors = [match[1] for match in lines.all("warning") if "[E]" in match[0]]
        raise EdgesegError(f"trtexec {end[1].lower()}: {errors[0] if errors else 'it does not say why'}")
    summaries = {match[1]: match for match in lines.all("summary")}
    transfers = "H2D Latency" in summaries and float(summaries["H2D Latency"][5]) > 0
    name = SUMMARY["transfers" if transfers else "compute"]
    if name not in summaries:
        raise lines.missing(name)
    key = "latencyMs" if transfers else "computeMs"
    samples = _times(output.files["times"], key) if "times" in output.files else None
    load = lines.number("engine")
    return ToolResult(
        tool="trtexec",
        version=dotted(end[2]),
        samples_ns=samples,
        figures=figures(samples) if samples else _summary(lines, summaries[name]),
        source="samples" if samples else "tool",
        covers="host to host" if transfers else "GPU compute alone",
        load_ms=None if load is None else 1000 * load,
        first_ms=None,
        threads=None,
        precision=None,
        placed=None,
        peak_memory_bytes=None,
        operators=_profile(output.files["profile"]) if "profile" in output.files else None,
        warnings=[match[1] for match in lines.all("warning")],
        unread=lines.unread,
    )


def _summary(lines: Lines, found: re.Match[str]) -> Figures:
    """The tool's own percentiles, of as many queries as its trace has."""
    low, high, mean, median = (float(found[index]) for index in (2, 3, 4, 5))
    trace = lines.get("trace")
    shares = re.findall(rf"percentile\((.+?)%\) = {NUMBER} ms", found[6])
    count = int(trace[1]) if trace else None
    return Figures(count, mean, median, low, high, None, {share: float(value) for share, value in shares})


def _times(text: str, key: str) -> list[int]:
    """Durations; not starts, which have six digits and so lose the us after 100 s."""
    return milliseconds_to_ns(_exported(text, lambda rows: [finite(row[key]) for row in rows]), "trtexec")


def _profile(text: str) -> list[Operator]:
    """Layers with their mean time; their names list what was fused into each. The first entry is the number of runs."""

    def layers(rows: list[dict[str, Any]]) -> list[Operator]:
        count = int(rows[0]["count"])
        return [Operator(str(row["name"]), "", "GPU", None, finite(row["averageMs"]), count, None) for row in rows[1:]]

    return _exported(text, layers)


def _exported(text: str, read: Callable[[list[dict[str, Any]]], T]) -> T:
    """What stands in an exported file."""
    try:
        return read(json.loads(text))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EdgesegError(
            f"trtexec: an exported file cannot be read ({error!r}); its version writes other keys"
        ) from error


TOOLS.add(
    "trtexec",
    Tool(
        "trtexec",
        "tensorrt",
        usual,
        r"^&&&& \w+ TensorRT\.trtexec \[TensorRT v([\d.]+)\]",
        {"10.": read, "11.": read},
        {"10.": KINDS, "11.": KINDS},
        begins="Warmup completed",
    ),
)
