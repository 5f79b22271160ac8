"""Every student to every target: what passes its proof, how close it is, and why what fails does.

    python -m benchmarks.matrix --out benchmarks/results                        # all that is installed; hours on two cores
    python -m benchmarks.matrix --students ddrnet23_slim --sizes 64x96 --targets litert,coreml
    python -m benchmarks.matrix --bake pre,labels --runs runs --data camvid:PATH ...     # what ships, into baked.md

Exports are kept one by one in `matrix.jsonl` beside the table: a run that was stopped goes on, and several processes and environments,
each with other students or converters, fill one table. `--again` does the named ones anew. Students have fresh weights and a last
layer fitted to generated scenes, unless `--runs` has a run of that name: what is shown is what converts and how exactly, not how
good a trained one is.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeseg import schema
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.files import write_text
from edgeseg.schema import STRICT

SIZES = {"semantic": ("360x480", "512x1024"), "promptable": ("256x256", "512x512")}
"""One small and one usual size for each kind of student."""

PRECISIONS = ("fp32", "fp16")
CLASSES = 19


@dataclass(frozen=True)
class Cell:
    """One export. Figures are those of the hop from the student to the runtime; null where it did not get that far.

    trained: a run was exported, not fresh weights.
    """

    __pydantic_config__ = STRICT
    student: str
    target: str
    precision: str
    size: str
    passed: bool
    reason: str
    hop: str | None = None
    executed: str | None = None
    relative_rms: float | None = None
    same_label: float | None = None
    boundary_f: float | None = None
    megabytes: float | None = None
    seconds: float | None = None
    tiers: str = ""
    delegated: float | None = None
    partitions: int | None = None
    tools: str = ""
    trained: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is of."""
        return self.student, self.target, self.precision, self.size


def wanted(students: Sequence[str], targets: Sequence[str], sizes: Sequence[str]) -> Iterator[Cell]:
    """The cells to fill, still empty: every student, the quick sizes of all first."""
    from edgeseg.students import STUDENTS, Promptable, create
    from edgeseg.students.student import parameters

    kinds = {}
    for name in students or STUDENTS:
        made = create(name, classes=CLASSES if "classes" in parameters(name) else None)
        kinds[name] = "promptable" if isinstance(made, Promptable) else "semantic"
    for index in range(len(sizes) or 2):
        for name, kind in kinds.items():
            size = sizes[index] if sizes else SIZES[kind][index]
            for precision in PRECISIONS:
                for target in targets:
                    yield Cell(name, target, precision, size, False, "")


def filled(cell: Cell, runs: Path | None = None, bake: Sequence[str] = (), data: str | None = None) -> Cell:
    """The cell after its export: of the run `runs/STUDENT` where there is one, of fresh weights otherwise.

    Raises:
        MissingTool: what the target needs is not installed.
    """
    from edgeseg.cli.app import parse_size
    from edgeseg.export import TARGETS
    from edgeseg.export.apart import Job, as_run, export_apart
    from edgeseg.manifest import Source

    size = parse_size(cell.size)
    assert size is not None
    target = TARGETS[cell.target](precision=cell.precision)  # type: ignore[arg-type]
    trained = runs is not None and (runs / cell.student).is_dir()
    source = nullcontext(runs / cell.student) if runs and trained else as_run(cell.student, CLASSES, size)
    with TemporaryDirectory() as folder, source as run:
        job = Job(str(run), target.options(), f"{folder}/artifact", size, list(bake), data, Source(None, None))
        outcome = export_apart(job, target)
        if isinstance(outcome.error, MissingTool):
            raise outcome.error
        if outcome.artifact is None:
            return Cell(*cell.key, False, shortened(str(outcome.error)), trained=trained)
        manifest = outcome.artifact.manifest
    assert manifest.ledger is not None
    hop, facts = manifest.ledger.hops[-1], manifest.conversion
    return Cell(
        *cell.key,
        passed=manifest.ledger.passed,
        reason=shortened("; ".join(dict.fromkeys(reason for each in manifest.ledger.hops for reason in each.reasons))),
        hop=hop.name,
        executed=manifest.precision.executed,
        relative_rms=hop.relative_rms,
        same_label=hop.same_label,
        boundary_f=hop.boundary_f,
        megabytes=round(sum(file.bytes for file in manifest.files) / 1e6, 2),
        seconds=_number(facts.get("seconds")),
        tiers=", ".join(f"{name} {tier}" for name, tier in manifest.op_tiers.items()),
        delegated=_number(facts.get("delegated")),
        partitions=int(parts) if isinstance(parts := facts.get("partitions"), int) else None,
        tools=", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
        trained=trained,
    )


def _number(fact: object) -> float | None:
    return float(fact) if isinstance(fact, (int, float)) else None


def shortened(reason: str) -> str:
    """A reason as a cell of a table bears it."""
    return textwrap.shorten(reason.replace("|", "/"), 600, placeholder=" ...")


def read(file: Path) -> dict[tuple[str, str, str, str], Cell]:
    """The cells that were filled so far: of one that was done anew the last."""
    if not file.exists():
        return {}
    # what a process that was killed wrote of a line has no end
    lines = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    cells = [schema.parse(Cell, json.loads(line), str(file)) for line in lines]
    return {cell.key: cell for cell in cells}


def keep(file: Path, cell: Cell) -> None:
    """One more cell in the file: a line at its end, so that several processes can fill one table."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(schema.dump(cell)) + "\n")


def document(cells: Sequence[Cell], bake: Sequence[str] = ()) -> str:
    """The tables as Markdown: how many passed, a grid for each precision, and everything that is known."""
    targets = list(dict.fromkeys(cell.target for cell in cells))
    passed = sum(cell.passed for cell in cells)
    lines = [
        "# Every student, every target",
        "",
        f"Made by `python -m benchmarks.matrix`; {passed} of {len(cells)} exports passed their proof, with",
        f"{' and '.join(bake) or 'nothing'} baked in, on eight images. With a * a trained run, else fresh weights of {CLASSES} classes,",
        f"whose last layer is fitted to generated scenes. A figure is {FIGURE[bool(bake)]} between the student in PyTorch and the",
        "file in its runtime; where a runtime cannot be had on Linux, somebody stands in for it, as the last table says.",
    ]
    for precision in PRECISIONS:
        lines += ["", f"## {precision}", "", f"| student | size | {' | '.join(targets)} |"]
        lines.append("| --- | --- |" + " ---: |" * len(targets))
        at = {(cell.student, cell.size, cell.target): cell for cell in cells if cell.precision == precision}
        for student, size in dict.fromkeys((student, size) for student, size, _ in at):
            row = [_short(at.get((student, size, target))) for target in targets]
            lines.append(f"| {student} | {size} | {' | '.join(row)} |")
    lines += ["", "## What did not pass", ""]
    lines += [
        f"- {cell.student} {cell.size}, {cell.target} {cell.precision}: {cell.reason}"
        for cell in cells
        if not cell.passed
    ] or ["Nothing."]
    lines += ["", "## Everything", "", _row(HEADS), "|" + " --- |" * len(HEADS)]
    lines += [_row(_details(cell)) for cell in sorted(cells, key=lambda cell: cell.key)]
    return "\n".join(lines) + "\n"


FIGURE = {
    False: "the relative RMS of the logits",
    True: "the share of pixels with the same label, and the boundary F-score at 2 px,",
}
"""What a cell of the first tables shows: of logits, and where labels are baked in."""


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """The small sizes before the usual ones, students and targets as their registries have them."""
    from edgeseg.export import TARGETS
    from edgeseg.students import STUDENTS

    small = {sizes[0] for sizes in SIZES.values()}
    rows = {name: row for row, name in enumerate(STUDENTS)}
    columns = {TARGETS[name].name: column for column, name in enumerate(TARGETS)}

    def place(cell: Cell) -> tuple[bool, int, str, int]:
        return (
            cell.size not in small,
            rows.get(cell.student, len(rows)),
            cell.size,
            columns.get(cell.target, len(columns)),
        )

    return sorted(cells, key=place)


HEADS = ("student", "target", "precision", "size", "proof", "hop", "executed", "rel. RMS", "same label", "boundary F") + (
    "MB", "s", "delegated", "parts", "operators",
)  # fmt: skip


def _short(cell: Cell | None) -> str:
    if cell is None:
        return "not run"
    if not cell.passed:
        return "**fails**"
    if cell.relative_rms is None and cell.same_label is not None and cell.boundary_f is not None:
        return f"{100 * cell.same_label:.3f} %, {cell.boundary_f:.4f}" + " *" * cell.trained
    return ("labels" if cell.relative_rms is None else f"{cell.relative_rms:.1e}") + " *" * cell.trained


def _details(cell: Cell) -> tuple[object, ...]:
    same = None if cell.same_label is None else f"{100 * cell.same_label:.3f} %"
    share = None if cell.delegated is None else f"{100 * cell.delegated:.1f} %"
    rms = None if cell.relative_rms is None else f"{cell.relative_rms:.1e}"
    edge = None if cell.boundary_f is None else f"{cell.boundary_f:.4f}"
    state = "pass" if cell.passed else "fail"
    measured = (
        cell.hop,
        cell.executed,
        rms,
        same,
        edge,
        cell.megabytes,
        cell.seconds,
        share,
        cell.partitions,
        cell.tiers,
    )
    return (*cell.key, state, *measured)


def _row(values: Sequence[object]) -> str:
    return "| " + " | ".join("" if value is None else str(value) for value in values) + " |"


def main() -> int:
    """Fill what is missing and write the table; 2 where a proof failed."""
    from edgeseg.export import TARGETS

    names = dict.fromkeys(TARGETS[name].name for name in TARGETS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--students", default="", help="some of them, e.g. ddrnet23_slim,rwkv_sam_tiny")
    parser.add_argument("--targets", default=",".join(names))
    parser.add_argument("--sizes", default="", help="instead of a small and a usual one, e.g. 64x96")
    parser.add_argument(
        "--runs", type=Path, help="a folder of runs, each named as its student, to export in place of fresh weights"
    )
    parser.add_argument("--again", action="store_true", help="do exports anew that are there already")
    parser.add_argument("--failed", action="store_true", help="do exports anew that did not pass")
    parser.add_argument("--data", help="images to prove on, e.g. camvid:PATH, in place of generated ones")
    parser.add_argument("--bake", default="", help="pre,labels: into baked.md instead")
    given = parser.parse_args()
    bake, stem = [word for word in given.bake.split(",") if word], "baked" if given.bake else "matrix"
    store = given.out / f"{stem}.jsonl"
    cells, gone = read(store), set()
    for cell in wanted(
        *([word for word in text.split(",") if word] for text in (given.students, given.targets, given.sizes))
    ):
        done = cells.get(cell.key)
        anew = given.again or (given.failed and done is not None and not done.passed)
        if cell.target in gone or (done is not None and not anew) or (done is None and given.failed):
            continue
        try:
            made = filled(cell, given.runs, bake, given.data)
        except MissingTool as error:
            print(f"{cell.target}: {error}", file=sys.stderr)
            gone.add(cell.target)
            continue
        except EdgesegError as error:
            made = Cell(*cell.key, False, shortened(str(error)))
        print(
            " ".join(made.key),
            "pass" if made.passed else f"FAIL: {made.reason}",
            made.seconds,
            file=sys.stderr,
            flush=True,
        )
        keep(store, made)
    cells = read(store)
    write_text(given.out / f"{stem}.md", document(in_order(list(cells.values())), bake))
    return 0 if all(cell.passed for cell in cells.values()) else 2


if __name__ == "__main__":
    sys.exit(main())
