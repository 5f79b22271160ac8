"""`edgeseg models` and `edgeseg info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edgeseg.cli.app import Json, Size, app, emit, is_artifact, parse_size, table
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
    columns = ["student", "task", "params, 19 classes", "MACs, 512x1024", "licence of the design"]
    claims = [
        [entry["name"], claim["what"], claim["value"], claim["source"]] for entry in cards for claim in entry["claims"]
    ]
    emit(
        cards,
        as_json,
        table("Computed here", columns, rows, right=(2, 3)),
        table("Claimed by others, not measured here", ["student", "what", "claim", "source"], claims),
    )


@app.command()
def info(
    subject: Annotated[str, typer.Argument(metavar="NAME|RUN|ARTIFACT")],
    size: Size = None,
    classes: Annotated[int, typer.Option(help="For a NAME: the number of classes.")] = 19,
    as_json: Json = False,
) -> None:
    """Say what a student, a run or an artifact is.

    Example: edgeseg info ddrnet23_slim --size 360x480 --classes 11
    """
    from edgeseg import schema
    from edgeseg.students import STUDENTS
    from edgeseg.students.count import profile

    if subject in STUDENTS or not Path(subject).exists():
        document = profile(subject, classes, parse_size(size) or (512, 1024))
        emit(document, as_json, *_tables(document))
        return
    if is_artifact(Path(subject)):
        from edgeseg.artifact import Artifact

        document = schema.dump(Artifact.open(subject).manifest)
    else:
        from edgeseg.runs import read_card

        document = schema.dump(read_card(Path(subject)))
    emit(document, as_json, table(subject, ["", ""], list(_flat(document))))


def _tables(document: dict[str, Any]) -> list[Table]:
    """A student for people: what was computed, and what others say."""
    height, width = document["size"]
    per = "" if document["task"] == "semantic" else ", one click"
    totals = [
        ["parameters", f"{document['params']:,}"],
        ["multiply-accumulates", f"{document['macs'] / 1e9:.3f} G"],
        ["most activation memory, float32", f"{document['activation_bytes'] / 2**20:.1f} MiB"],
        ["sides are multiples of", document["multiple"]],
        ["licence of the design", document["licence"]],
        ["paper", document["paper"]],
    ]
    stages = [
        [each["stage"], f"{each['params']:,}", f"{each['macs'] / 1e6:,.1f} M", "x".join(map(str, each["output"]))]
        for each in document["stages"]
    ]
    features = [
        [f"1/{each['stride']}", each["channels"], "x".join(map(str, each["receptive_field"]))]
        for each in document["features"]
    ]
    claims = [[each["what"], each["value"], each["differs"], each["source"]] for each in document["claims"]]
    where = f"{document['name']}, {document['classes']} classes, {height}x{width}{per}"
    return [
        table(f"{where}: computed here", ["", ""], totals, right=(1,)),
        table("Stages", ["stage", "params", "MACs", "output"], stages, right=(1, 2, 3)),
        table("Features", ["stride", "channels", "receptive field"], features, right=(1, 2)),
        *([table("Claimed by others", ["what", "claim", "ours differs by", "source"], claims)] if claims else []),
    ]


def _flat(document: dict[str, Any], prefix: str = "") -> Any:
    """`{"a": {"b": 1}}` as rows `a.b | 1`."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, entry in enumerate(value):
                yield from _flat(entry, f"{prefix}{key}[{index}].")
        else:
            yield prefix + key, ", ".join(map(str, value)) if isinstance(value, list) else value
