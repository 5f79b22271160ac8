"""Every speed that edgeseg promises, as one table.

    python -m benchmarks.run                                # all of them
    python -m benchmarks.run startup loader --json          # some, as one JSON document
    python -m benchmarks.run --out benchmarks/results       # and keep speed.json and speed.md there

Each benchmark runs in a process of its own, checks first that both sides do the same work, and prints no speed when they
do not. Exit codes: 0 no limit was missed, 4 one was, 2 two sides disagree, 1 anything else that went wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from benchmarks.ratio import Finding, fresh
from edgeseg import schema
from edgeseg.errors import BudgetExceeded, EdgesegError
from edgeseg.files import write_text
from edgeseg.provenance import MadeBy, made_by, now, versions
from edgeseg.registry import Registry
from edgeseg.runtimes import agent
from edgeseg.schema import STRICT

NAMES: Registry[str] = Registry("benchmark")
"""Name -> module with `findings() -> list[Finding]`, quick ones first."""

for _name in (
    "startup",
    "measuring_overhead",
    "loader",
    "train_step",
    "ddp",
    "distill_step",
    "embed_rate",
    "prompts",
    "artifact_latency",
    "conversions",
    "harness",
    "ssh_added",
    "export_all",
):
    NAMES.add(_name, f"benchmarks.{_name}")

COLUMNS = ("", "median", "95 %", "at most", "")


@dataclass(frozen=True)
class Report:
    """One run. `refused` has one line for each benchmark whose sides disagree or that failed."""

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["benchmarks"]
    created: str
    edgeseg: MadeBy
    cpu: str | None
    cores: int
    load_before: float | None
    seconds: float
    tools: dict[str, str]
    findings: list[Finding]
    refused: list[str]


def call(module: str) -> list[Finding]:
    """What one benchmark finds."""
    findings: list[Finding] = importlib.import_module(module).findings()
    return findings


def run(names: Sequence[str]) -> tuple[Report, int]:
    """The findings of the named benchmarks and the exit code; one that fails does not stop the others."""
    modules = {name: NAMES[name] for name in names}
    begun, before = time.monotonic(), agent.state()["load_1min"]
    found: list[Finding] = []
    errors: list[EdgesegError] = []
    for name, module in modules.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found += fresh(call, module)
        except EdgesegError as error:
            errors.append(error)
    report = Report(
        schema=1,
        kind="benchmarks",
        created=now(),
        edgeseg=made_by(),
        cpu=agent.cpu_name(),
        cores=agent.cores(),
        load_before=before,
        seconds=round(time.monotonic() - begun, 1),
        tools=versions("torch", "onnxruntime", "numpy", "lightning-fabric"),
        findings=found,
        refused=[str(error) for error in errors],
    )
    missed = any(finding.verdict == "missed" for finding in found)
    return report, errors[0].exit_code if errors else BudgetExceeded.exit_code * missed


def cells(finding: Finding) -> tuple[str, ...]:
    """A finding as a row under `COLUMNS`."""
    unit = "" if finding.unit == "x" else f" {finding.unit}"
    interval = f"{finding.low:.3f} to {finding.high:.3f}"
    return finding.name, f"{finding.value:.3f}{unit}", interval, f"{finding.limit:.3g}{unit}", finding.verdict


def condition(report: Report) -> str:
    """Where and when, in one line."""
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    load = "unknown" if report.load_before is None else f"{report.load_before:.2f}"
    return f"{report.cpu}, {report.cores} cores, load before {load}; {tools}; {report.created}, {report.seconds:.0f} s"


def markdown(report: Report) -> str:
    """The report as a Markdown page."""
    rows = [COLUMNS, ("---", "---:", "---:", "---:", "---"), *map(cells, report.findings)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    refused = "".join(f"\nrefused: {line}\n" for line in report.refused)
    command = "`python -m benchmarks.run --out benchmarks/results`"
    return f"# Speed\n\n{command}; [what each line means](../README.md)\n\n{table}\n{refused}\n{condition(report)}\n"


def show(report: Report) -> None:
    """Print the table for people."""
    table = Table()
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if 0 < index < 4 else "left", overflow="fold")
    for finding in report.findings:
        table.add_row(*cells(finding))
    console = Console(highlight=False)
    if report.findings:
        console.print(table)
    console.print(condition(report), soft_wrap=True, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, keep; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES), help=", ".join(NAMES))
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to keep speed.json and speed.md")
    options = parser.parse_args(arguments)
    try:
        report, code = run(options.names)
        if options.out:
            schema.write(options.out / "speed.json", report)
            write_text(options.out / "speed.md", markdown(report))
    except EdgesegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(schema.dump(report), indent=1))
    else:
        show(report)
    for line in report.refused:
        print(f"error: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
