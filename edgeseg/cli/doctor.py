"""`edgeseg doctor`."""

from __future__ import annotations

import dataclasses
import platform
from typing import Annotated

import typer
from rich.text import Text

from edgeseg.cli.app import Json, app, emit, progress, table


@app.command()
def doctor(
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Export and run a small student in each.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Try every runtime, operator and device: found, version, self-test, or the line that installs it.

    Example: edgeseg doctor
    """
    from edgeseg import __version__
    from edgeseg.doctor import examine

    with progress("trying everything") as bar:
        found = examine(self_test, bar)
    colour = {"ok": "green", "stand-in": "cyan", "missing": "yellow", "broken": "red"}
    rows = [
        [entry.part, entry.name, Text(entry.state, colour[entry.state]), entry.version, entry.detail] for entry in found
    ]
    title = f"edgeseg {__version__}, Python {platform.python_version()}"
    emit(
        [dataclasses.asdict(entry) for entry in found],
        as_json,
        table(title, ["", "", "", "version", ""], rows, whole=range(3)),
    )
    if any(entry.state == "broken" for entry in found):
        raise typer.Exit(5)
