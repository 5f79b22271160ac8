"""`edgeseg info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from edgeseg.cli.app import Json, Size, app, emit, is_artifact, parse_size, table
from edgeseg.cli.export import ledger_table

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact
    from edgeseg.manifest import InputSpec, Manifest
    from edgeseg.runs import RunCard

Row = tuple[str, object]


@app.command()
def info(
    subject: Annotated[str, typer.Argument(metavar="NAME|RUN|ARTIFACT")],
    size: Size = None,
    classes: Annotated[int, typer.Option(help="For a NAME: the number of classes.")] = 19,
    as_json: Json = False,
) -> None:
    """Say what a student, a run or an artifact is; with --json all that its document holds.

    Example: edgeseg info ddrnet23_slim --size 360x480 --classes 11
    """
    from edgeseg import schema
    from edgeseg.students import STUDENTS

    if subject in STUDENTS or not Path(subject).exists():
        from edgeseg.students.count import profile

        document = profile(subject, classes, parse_size(size) or (512, 1024))
        emit(document, as_json, *_of_student(document))
    elif is_artifact(Path(subject)):
        from edgeseg.artifact import Artifact

        artifact = Artifact.open(subject)
        proof = [ledger_table(artifact)] if artifact.manifest.ledger else []
        emit(schema.dump(artifact.manifest), as_json, table(subject, ["", ""], _of_artifact(artifact)), *proof)
    else:
        from edgeseg.runs import read_card

        card = read_card(Path(subject))
        emit(schema.dump(card), as_json, table(subject, ["", ""], _of_run(card)))


def _of_student(document: dict[str, Any]) -> list[Table]:
    """What was computed, and what others say."""
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


def _of_run(card: RunCard) -> list[Row]:
    """What was trained, on what, and how well it did."""
    rows: list[Row] = [
        ("student", f"{card.name}, {card.task}, {card.params:,} parameters"),
        ("licence of the design", card.licence),
        *([("classes", f"{card.classes}: {', '.join(card.class_names)}")] if card.task == "semantic" else []),
        *([("built with", _named(card.options))] if card.options else []),
        ("size", f"{_sides(card.size) if card.size else 'unknown'}; sides are multiples of {card.multiple}"),
    ]
    if (training := card.training) is None:
        rows.append(("training", "none here"))
    else:
        rows += [
            ("trained on", f"{training.data} [{training.split}]"),
            ("epochs", f"{training.epochs}, the best was {training.best_epoch}"),
            ("mIoU there", f"{training.select_miou:.2f} on {training.select_split}, which chose the epoch"),
            ("it took", f"{training.seconds:.0f} s with {training.threads} threads on {training.machine}"),
            ("recipe", _named(_changed(training.recipe)) or "the usual one"),
        ]
    made = card.edgeseg
    return [
        *rows,
        *([("made from", card.base)] if card.base else []),
        *_made(card.created, made),
        ("SHA-256", card.sha256),
    ]


def _of_artifact(artifact: Artifact) -> list[Row]:
    """What was exported, how it is asked, and what is known of it; its proof is a table of its own."""
    manifest = artifact.manifest
    student, source, given, made = manifest.student, manifest.source, manifest.input, manifest.output
    options = {name: value for name, value in manifest.target.items() if name not in ("name", "precision", "sizes")}
    executed = manifest.precision.executed or "not known"
    rows: list[Row] = [
        ("student", f"{student.name}, {student.task}"),
        ("run", source.run or "none: fresh weights"),
        ("target", f"{manifest.target['name']} ({_named(options)})"),
        ("precision", f"{manifest.precision.asked}, executed in {executed}"),
        ("takes", f"{given.dtype} [{', '.join(map(str, given.shape))}] {given.layout} {given.colour}{_more(given)}"),
        ("gives", f"{made.kind} {made.dtype} [{', '.join(map(str, made.shape))}]"),
        *((entry.path, f"{entry.bytes / 1e6:.2f} MB") for entry in manifest.files),
        ("operators of ours", _named(manifest.op_tiers) or "none"),
        ("conversion", _named(manifest.conversion)),
        ("written with", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())),
        *_calibration(manifest),
    ]
    if (score := manifest.accuracy) is not None:
        rows.append(("mIoU", f"{score.value:.2f} on {score.count} images of {score.data} [{score.split}]"))
    return [*rows, *_made(manifest.created, manifest.edgeseg), ("SHA-256", manifest.sha256)]


def _calibration(manifest: Manifest) -> list[Row]:
    if (on := manifest.calibration) is None:
        return []
    return [("calibrated on", f"{on.count} images of {on.data}"), *(("doubt", line) for line in on.doubts)]


def _made(created: str, by: Any) -> list[Row]:
    commit = f", commit {by.commit[:12]}" if by.commit else ""
    return [("made", f"{created} by edgeseg {by.version}{commit}{', changed' if by.dirty else ''}")]


def _changed(recipe: dict[str, Any]) -> dict[str, Any]:
    """What a recipe has that is not there by itself."""
    from edgeseg import schema
    from edgeseg.train.recipe import Recipe

    usual = dict(_flat(schema.dump(Recipe())))
    return {name: value for name, value in _flat(recipe) if name not in usual or usual[name] != value}


def _flat(document: dict[str, Any], prefix: str = "") -> Any:
    """`{"a": {"b": 1}}` as pairs `a.b, 1`."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _more(given: InputSpec) -> str:
    return "" if given.sizes is None else f", or {given.sizes} in steps of {given.step}"


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ""))


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
