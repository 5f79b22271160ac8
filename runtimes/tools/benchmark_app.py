"""OpenVINO's `benchmark_app` (of the Python package): medians in hundredths of a ms, layers with what each computed in.

Left to itself it takes the precision that the processor likes best and bytes where the model has floats; so everything is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.runtimes.record import Operator
from edgeseg.runtimes.tools.tool import NUMBER, TOOLS, Figures, Lines, Output, Tool, ToolResult, Work, finite

INFO = r"\[ INFO \] +"

KINDS = {
    "p50": rf"{INFO}Median: +{NUMBER} ms",
    "mean": rf"{INFO}Average: +{NUMBER} ms",
    "min": rf"{INFO}Min: +{NUMBER} ms",
    "max": rf"{INFO}Max: +{NUMBER} ms",
    "percentile": rf"{INFO}(\d+) percentile: +{NUMBER} ms",
    "count": rf"{INFO}Count: +(\d+) iterations",
    "first": rf"{INFO}First inference took {NUMBER} ms",
    "compile": rf"{INFO}Compile model took {NUMBER} ms",
    "read": rf"{INFO}Read model took {NUMBER} ms",
    "build": rf"{INFO}Build \.+ (.+)",
    "property": rf"{INFO}([A-Z_]+): ?(.*)",
    "devices": rf"{INFO}Execution Devices: ?(.+)",
    "tensor": rf"{INFO}(.+) \(node: .+\) : (\w+) / \[.*\] / \[.*\]",
    "warning": r"\[ WARNING \] (.*)",
    "layer": r"\S.*Status\.\w+ +layerType: .*",
    "step": r"\[Step \d+/\d+\] .*",
    "known": rf"\[ INFO \]|Total (?:CPU )?time: .*|{INFO}(?:(?:OpenVINO|Device info|Model(?: inputs| outputs)?|"
    r"Original model I/O parameters|Latency):|[A-Z.]+|Parsing input parameters|Loading model files|Model batch size: .*|"
    r"Reshaping model.*|(?:Start|End) of compilation memory usage: .*|Compile model ram used .*|Fill input .*|Duration: .*|"
    r"Benchmarking in .*|Performance counts? .*|Performance counters report .*|Statistics report .*|Throughput: .*)",
}

PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
"""As the property and a layer's kernel spell them."""

HINTS: Registry[str] = Registry("precision of benchmark_app")
"""Ours -> `-infer_precision`. Whole numbers are in the file; what is left in float is computed in f32, as edgeseg does."""
for _ours, _theirs in (("fp32", "f32"), ("fp16", "f16"), ("bf16", "bf16"), ("int8", "f32"), ("w8a32", "f32")):
    HINTS.add(_ours, _theirs)


@dataclass(frozen=True)
class BenchmarkApp:
    """A model on the processor, one request at a time. `inputs`: the element type it is fed, else the file's own."""

    model: str
    threads: int = 1
    seconds: int = 10
    precision: str = "fp32"
    inputs: str | None = None
    layers: bool = False
    folder: str = "."

    def argv(self, version: str | None) -> list[str]:
        """Nothing is left to a hint."""
        words = ["benchmark_app", "-m", self.model, "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1"]
        words += ["-nthreads", str(self.threads), "-t", str(self.seconds), "-infer_precision", HINTS[self.precision]]
        words += ["-ip", self.inputs] if self.inputs else []
        if self.layers:
            words += ["-pc", "-report_type", "detailed_counters", "-report_folder", self.folder, "-json_stats"]
        return words

    @property
    def writes(self) -> Mapping[str, str]:
        """The layers, where asked for."""
        return {"layers": f"{self.folder}/benchmark_detailed_counters_report.json"} if self.layers else {}


def usual(work: Work) -> BenchmarkApp:
    """In the precision that edgeseg would ask for."""
    return BenchmarkApp(work.file, work.threads, precision=work.precision)


def read(output: Output, lines: Lines) -> ToolResult:
    """Figures and properties from the text, layers from their file."""
    properties = {match[1]: match[2] for match in lines.all("property")}
    hint = properties.get("INFERENCE_PRECISION_HINT", "").split("'")[1:2]
    threads = properties.get("INFERENCE_NUM_THREADS")
    operators = _layers(output.files["layers"]) if "layers" in output.files else None
    load = [lines.number(kind) for kind in ("read", "compile")]
    return ToolResult(
        tool="benchmark_app",
        version=TOOLS["benchmark_app"].version(output),
        samples_ns=None,
        figures=Figures(
            int(lines.need("count")[1]),
            float(lines.need("mean")[1]),
            float(lines.need("p50")[1]),
            lines.number("min"),
            lines.number("max"),
            None,
            {match[1]: float(match[2]) for match in lines.all("percentile")},
        ),
        source="tool",
        covers="request, inputs filled before, outputs not fetched",
        load_ms=sum(each for each in load if each is not None) if None not in load else None,
        first_ms=lines.number("first"),
        threads=int(threads) if threads else None,
        precision=PRECISIONS.get(hint[0], hint[0]) if hint else None,
        placed=_placed(lines, operators),
        peak_memory_bytes=None,
        operators=operators,
        warnings=[match[1] for match in lines.all("warning")],
        unread=lines.unread,
    )


def _placed(lines: Lines, operators: list[Operator] | None) -> dict[str, int] | None:
    """Layers that ran, on the one device there was; null without layers or with several devices."""
    devices = lines.get("devices")
    names = devices[1].strip("[]").replace("'", "").split(", ") if devices else []
    return {names[0]: len(operators)} if operators is not None and len(names) == 1 else None


def _layers(text: str) -> list[Operator]:
    """Layers that ran, with means over the requests of the report, which are its repeats."""
    try:
        nodes: list[dict[str, Any]] = json.loads(text)["detailed_performance"][0]["nodes"]
        ran = [node for node in nodes if node["status"] == "Status.EXECUTED"]
        return [
            Operator(
                node["name"],
                node["node_type"],
                "CPU",
                layer_precision(node["exec_type"]),
                finite(node["real_time"]),
                1,
                None,
            )
            for node in ran
        ]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EdgesegError(f"benchmark_app: its report of layers cannot be read ({error!r})") from error


def layer_precision(kernel: str) -> str | None:
    """`brgconv_avx512_bf16` ran in bf16; null for a kernel whose name does not say."""
    last = kernel.rsplit("_", 1)[-1].lower()
    return {"i8": "int8", "u8": "int8"}.get(last, PRECISIONS.get(last))


TOOLS.add(
    "benchmark_app",
    Tool(
        "benchmark_app",
        "openvino",
        usual,
        r"^\[ INFO \] Build \.+ (\d+\.\d+\.\d+)",
        {"2025": read, "2026": read},
        {"2025": KINDS, "2026": KINDS},
    ),
)
