"""`edgeseg models`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeseg.cli.app import Json, app, emit, table
from edgeseg.errors import EdgesegError


@app.command()
def models(
    task: Annotated[str | None, typer.Option(help="semantic or promptable")] = None,
    as_json: Json = False,
) -> None:
    """List the students: computed sizes first, published numbers marked as claims.

    Example: edgeseg models --task semantic
    """
    from edgeseg.students import STUDENTS
    from edgeseg.students.count import card

    if task not in (None, "semantic", "promptable"):
        raise EdgesegError(f"no task {task!r}; there is semantic and promptable")
    cards = [
        entry
        for entry in (card(name, classes=19, size=(512, 1024)) for name in STUDENTS)
        if task in (None, entry["task"])
    ]
    rows = [
        [
            entry["name"],
            entry["task"],
            f"{entry['params'] / 1e6:.2f} M",
            f"{entry['macs'] / 1e9:.2f} G",
            entry["licence"],
        ]
        for entry in cards
    ]
    columns = ["student", "task", "params", "MACs", "licence of the design"]
    claims = [
        [entry["name"], claim["what"], claim["value"], claim["source"]] for entry in cards for claim in entry["claims"]
    ]
    emit(
        cards,
        as_json,
        table("Computed here: 19 classes, 512x1024", columns, rows, right=(2, 3), whole=(0, 1, 2, 3)),
        table("Claimed by others, not measured here", ["student", "what", "claim", "source"], claims, whole=(0,)),
    )
