"""`edgeseg quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.app import Json, app, emit, progress
from edgeseg.cli.report import say_why, verdict_table


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("quickstart"),
    student: Annotated[str, typer.Option(help="The student to train.")] = "ddrnet23_slim",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over 384 generated scenes.")] = 6,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads when measuring.")] = 1,
    protocol: Annotated[str, typer.Option(help="How long to measure.")] = "quick",
    as_json: Json = False,
) -> None:
    """The whole way on generated scenes, in minutes on a laptop: train, export, prove, measure, verdict, report.

    Example: edgeseg quickstart --out quickstart
    """
    from edgeseg import schema
    from edgeseg.quickstart import quickstart

    ending = quickstart(out, student, epochs, threads, protocol, step=progress)
    document = {"verdicts": [schema.dump(entry) for entry in ending.verdicts], "report": str(ending.report)}
    emit(document, as_json, verdict_table(ending.verdicts))
    if not as_json:
        say_why(ending.verdicts)
        emit(None, False, f"\n{ending.report}")
