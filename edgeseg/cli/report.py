"""`edgeseg report` and `edgeseg verdict`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from edgeseg.cli.app import Json, app, emit, progress, say, show, table
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from rich.table import Table

    from edgeseg.verdict import Verdict

Drop = Annotated[float, typer.Option(help="Points of mIoU an artifact may lose against its run.")]
Budget = Annotated[float | None, typer.Option(help="Budget for the p90 bound in ms; none by default.")]


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR|RUN")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page.")] = Path("report.html"),
    max_drop: Drop = 0.5,
    max_p90_ms: Budget = None,
    data: Annotated[str | None, typer.Option(help="Of a run: its data, for all that needs images.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a run: the split to look at; the one that chose its epoch by default.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, max=20, help="Of a run: worst images to show, by loss and by edges.")
    ] = 4,
    as_json: Json = False,
) -> None:
    """Put all that a folder holds (runs, artifacts, evaluations, records) on one page that needs no network.

    Of a run itself: how it learned, its classes, what it takes for what, its worst images, and where it errs.

    Example: edgeseg report . -o report.html --max-p90-ms 33
    """
    from edgeseg.report import write_report
    from edgeseg.runs import is_run

    check_gates(max_drop, max_p90_ms)
    if is_run(existing(folder)):
        if max_p90_ms is not None or max_drop != 0.5:
            raise EdgesegError(f"{folder} is a run, and gates are for artifacts; name the folder that holds those")
        of_training(folder, out, data, split, images, as_json)
        return
    if data or split:
        raise EdgesegError(f"--data and --split are for the report of a run, and {folder} is none")
    path = write_report(folder, out, max_drop=max_drop, max_p90_ms=max_p90_ms)
    emit({"report": str(path), "bytes": path.stat().st_size}, as_json, str(path))


def of_training(folder: Path, out: Path, data: str | None, split: str | None, images: int, as_json: bool) -> None:
    """The page about a run, and what is not on it."""
    from edgeseg.data import load_data
    from edgeseg.report.training import write_training_report

    if split and not data:
        raise EdgesegError("--split is a part of the data; name that too, with --data")
    source = load_data(data) if data else None
    with progress(f"looking at {folder}") as bar:
        missing = write_training_report(folder, out, source, split, images, lambda what, done, every: bar(done, every))
    emit({"report": str(out), "bytes": out.stat().st_size, "missing": missing}, as_json, str(out))
    for line in missing:
        say(line, "not drawn:")


@app.command()
def verdict(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    max_drop: Drop = 0.5,
    max_p90_ms: Budget = None,
    as_json: Json = False,
) -> None:
    """SHIP or DON'T SHIP for each artifact and device, from stored evidence alone.

    The exit code is 0 when everything ships, else that of the first thing wrong: 2 parity, 3 accuracy, 4 budget,
    6 measurement; 1 where there is an artifact that could not be read. UNDECIDED is DON'T SHIP for now: more images, or a longer measurement, can decide it.

    Example: edgeseg verdict out/cam --max-drop 0.5 --max-p90-ms 33
    """
    from edgeseg import schema
    from edgeseg.results import collect
    from edgeseg.verdict import exit_code, judge

    check_gates(max_drop, max_p90_ms)
    results = collect(existing(folder))
    verdicts = judge(results, max_drop=max_drop, max_p90_ms=max_p90_ms)
    if not verdicts:
        raise EdgesegError(f"{folder} holds no artifact to judge; export one into it")
    emit([schema.dump(entry) for entry in verdicts], as_json, verdict_table(verdicts))
    failed = [f"{failure.subject.path} could not be measured: {failure.detail}" for failure in results.failures]
    for problem in [*failed, *results.problems]:
        say(problem)
    if not as_json:
        say_why(verdicts)
    # an artifact that could not be read has no row, and is none that ships
    raise typer.Exit(exit_code(verdicts) or (EdgesegError.exit_code if results.unread else 0))


def check_gates(max_drop: float, max_p90_ms: float | None) -> None:
    """Refuse what is no limit; 100 points of mIoU are as good as none."""
    if not 0 <= max_drop <= 100:
        raise EdgesegError(f"--max-drop is points of mIoU from 0 to 100, got {max_drop:g}")
    if max_p90_ms is not None and not 0 < max_p90_ms < math.inf:
        raise EdgesegError(f"--max-p90-ms is a time above 0, got {max_p90_ms:g}; leave it out for no budget")


def existing(folder: Path) -> Path:
    """The folder, or an error."""
    if not folder.is_dir():
        raise EdgesegError(f"{folder} is not a folder; name the one that holds the runs and artifacts")
    return folder


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """One row per artifact, device and number of threads."""
    places = {_place(entry) for entry in verdicts} - {""}
    rows = [
        [
            _word(entry),
            entry.artifact if len(places) < 2 else f"{entry.artifact} {_place(entry)}",
            entry.precision_executed or entry.precision_asked,
            _figure(entry.miou),
            None if entry.drop is None else f"{entry.drop.points:+.2f}",
            _figure(entry.p50_ms),
            _figure(entry.p90_upper_ms),
            _figure(entry.sustained_fps, 1),
        ]
        for entry in verdicts
    ]
    columns = ["verdict", "artifact", "as", "mIoU", "drop", "p50", "p90 <=", "FPS"]
    title = f"measured {', '.join(places)}; p50 and p90 in ms" if len(places) == 1 else "p50 and p90 in ms"
    return table(title, columns, rows, right=range(3, 8), whole=(0, *range(2, 8)))


def _word(entry: Verdict) -> Text:
    if entry.ship:
        return Text("SHIP", "bold green")
    return Text("DON'T SHIP", "bold red") if entry.decided else Text("UNDECIDED", "bold yellow")


def _place(entry: Verdict) -> str:
    return "" if entry.device is None else f"on {entry.device} x{entry.threads}"


def say_why(verdicts: Sequence[Verdict]) -> None:
    """Every reason and note, under the artifact it belongs to."""
    for entry in verdicts:
        for reason in entry.reasons:
            say(reason.text, f"{entry.artifact}:", "red", show)
        if entry.losses:
            say(f"points against the run: {entry.losses}", f"{entry.artifact}:", "dim", show)
        for note in entry.notes:
            say(note, f"{entry.artifact}:", "dim", show)


def _figure(value: float | None, digits: int = 2) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
