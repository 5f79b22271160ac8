"""`edgeseg ops test|bench|build`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edgeseg.cli.app import Json, app, emit, table, talk
from edgeseg.errors import ParityFailed

ops = typer.Typer(
    help="The operators wkv, selective_scan and label_map: prove them, time them, build them.", no_args_is_help=True
)
app.add_typer(ops, name="ops")

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="wkv, selective_scan, label_map; all by default.")
]


@ops.command("test")
def conformance(
    names: Names = None,
    tokens: Annotated[int | None, typer.Option(help="Leave longer sequences out; all of them take minutes.")] = None,
    as_json: Json = False,
) -> None:
    """Run every case on every tier and runtime found, and hold its error against what is allowed.

    Example: edgeseg ops test wkv --tokens 1024
    """
    from edgeseg import schema
    from edgeseg.kernels.conformance import examine

    with talk.status("testing") as status:
        rows = list(examine(names or (), tokens, notify=status.update))
    colour = {"ok": "green", "missing": "yellow", "failed": "red"}
    cells = [
        [
            row.operator,
            row.tier,
            row.precision,
            str(row.cases),
            "" if row.error is None else f"{row.error:.1e}",
            "" if row.within is None else f"{row.within:.0e}",
            Text(row.state, colour[row.state]),
            row.detail if row.state != "ok" else "",
        ]
        for row in rows
    ]
    columns = ["operator", "tier", "", "cases", "worst error", "allowed", "", ""]
    emit(
        [schema.dump(row) for row in rows],
        as_json,
        table("Against the reference in float64", columns, cells, right=(3, 4, 5)),
    )
    failed = [f"{row.operator} in {row.tier}" for row in rows if row.state == "failed"]
    if failed:
        raise ParityFailed(f"not what the reference says: {', '.join(failed)}")


@ops.command()
def bench(
    names: Names = None,
    threads: Annotated[int, typer.Option(help="Threads of every way.")] = 2,
    growth: Annotated[bool, typer.Option("--growth", help="Also: how time grows from 16384 to 65536 tokens.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also keep the table as a Markdown file.")] = None,
    as_json: Json = False,
) -> None:
    """Time every tier on its ordinary case: against a plain copy of the same bytes, and against what people do otherwise.

    Run it on a machine that does nothing else. Example: edgeseg ops bench wkv
    """
    from edgeseg import schema
    from edgeseg.files import write_text
    from edgeseg.kernels.bench import Timing
    from edgeseg.kernels.bench import bench as measure
    from edgeseg.runtimes.agent import cpu_name

    with talk.status("timing") as status:
        found = list(measure(names or (), threads, growth, status.update))

    def row(one: Timing) -> list[str]:
        return [
            one.way,
            f"{one.ms:.3f}",
            f"{one.moved / 1e6:.1f}",
            f"{one.of_copy:.3f}",
            f"{one.of_best:.1f}",
            "" if one.of_plugin is None else f"{one.of_plugin:.1f}",
            "" if one.extra is None else f"{one.extra / 1e6:.1f}",
            "" if one.growth is None else f"{one.growth:.2f}",
        ]

    columns = ["", "ms", "MB moved", "of copy", "x best", "x plugin", "extra MB", "x4 tokens"]
    cases = {one.operator: one.case for one in found}
    if out is not None:
        pages = [
            markdown(f"{name}: {case}", columns, [row(one) for one in found if one.operator == name])
            for name, case in cases.items()
        ]
        write_text(out, "\n".join([f"# Operators on {cpu_name()}, {threads} threads\n", *pages]))
    tables = [
        table(
            f"{name}, {found_case}, {threads} threads",
            columns,
            [row(one) for one in found if one.operator == name],
            right=range(1, 8),
        )
        for name, found_case in cases.items()
    ]
    emit([schema.dump(one) for one in found], as_json, *tables)


def markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as it stands in a Markdown file."""
    ruler = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join([f"## {title}\n", *(f"| {' | '.join(cells)} |" for cells in (columns, ruler, *rows)), ""])


@ops.command()
def build(
    machine: Annotated[
        str, typer.Option("--for", help="native, linux-aarch64, linux-armv7 or linux-x86_64")
    ] = "native",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Copy the libraries into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Compile the plugins now instead of on first use, for this machine or another one.

    Example: edgeseg ops build --for linux-aarch64 -o board
    """
    from edgeseg.kernels.libraries import build_all

    made = build_all(machine, out)
    rows = [[one.name, one.state, one.detail] for one in made]
    emit([vars(one) for one in made], as_json, table(f"Libraries for {machine}", ["library", "", ""], rows))
