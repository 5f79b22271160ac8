"""`edgeseg distill`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseg.cli.app import DATA, TRUSTED, Json, Size, app
from edgeseg.cli.export import words
from edgeseg.cli.train import (
    Changes,
    Devices,
    Epochs,
    Init,
    RecipeFile,
    Resume,
    Tensorboard,
    Threads,
    changed,
    run,
)  # fmt: skip
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.train.teaching import Teaching


TEACHER = typer.Option(
    metavar="RUN|SHARDS|SOURCE:WHAT|ema|none",
    help="The run that teaches, or what edgeseg embed made of it; transformers:FOLDER, smp:FOLDER, package.module:factory; ema: the student's own averaged weights.",
)
Losses = Annotated[
    str,
    typer.Option(
        metavar="NAME[:KEY=VALUE...][,...]", help="What is learned from it; the README says what each compares."
    ),
]
ClassMap = Annotated[
    str, typer.Option(metavar="THEIRS=OURS,...", help="Classes of the teacher under the names that the data has.")
]
TeacherWeights = Annotated[
    Path | None, typer.Option(help="The weights of a teacher that is not a run and comes without.")
]
TeacherClasses = Annotated[
    str, typer.Option(metavar="NAME,...", help="The classes of a teacher that does not name them, in its order.")
]
Unlabelled = Annotated[
    str | None, typer.Option(metavar="DATA", help="Images without labels: a folder of photos, or camvid:PATH, ...")
]
UnlabelledBatch = Annotated[int | None, typer.Option(help="As many of them in a step; else as many as have labels.")]


@app.command()
def distill(
    name: Annotated[str, typer.Argument(help="A student (`edgeseg models` lists them).")],
    teacher: Annotated[str, TEACHER],
    data: Annotated[str, typer.Option(help=DATA)],
    out: Annotated[Path, typer.Option(help="The folder of the run.")],
    loss: Losses = "cwd",
    class_map: ClassMap = "",
    teacher_weights: TeacherWeights = None,
    teacher_classes: TeacherClasses = "",
    unlabelled: Unlabelled = None,
    unlabelled_batch: UnlabelledBatch = None,
    epochs: Epochs = None,
    size: Size = None,
    recipe: RecipeFile = None,
    change: Changes = None,
    init: Init = None,
    resume: Resume = False,
    devices: Devices = 1,
    threads: Threads = None,
    tensorboard: Tensorboard = False,
    as_json: Json = False,
) -> None:
    """Train a student on the labels and on what a larger run makes of the same images, and of images without labels.

    Example: edgeseg distill ddrnet23_slim --teacher runs/large --data camvid:PATH --out runs/taught --loss cwd,kd:weight=0.5
    """
    from edgeseg import schema

    teaching = stated(
        data, teacher, loss, class_map, unlabelled, unlabelled_batch, teacher_weights, words(teacher_classes)
    )
    changes = [*changed(change, epochs, size), f"teaching={json.dumps(schema.dump(teaching))}"]
    run(name, data, out, recipe, changes, init, resume, devices, threads, tensorboard, as_json)


def stated(
    data: str,
    teacher: str,
    loss: str,
    class_map: str,
    unlabelled: str | None,
    unlabelled_batch: int | None,
    weights: Path | None,
    class_names: list[str],
) -> Teaching:
    """The teaching that the options of a command describe."""
    from edgeseg import schema
    from edgeseg.data import load_data
    from edgeseg.train.teacher import fingerprint
    from edgeseg.train.teaching import Teaching

    document = {
        "teacher": teacher,
        "sha256": "",
        "losses": [_piece(text) for text in words(loss)],
        "classes": dict(pair(text, "--class-map") for text in words(class_map)),
        "trust": bool(TRUSTED),
        "unlabelled": unlabelled,
        "unlabelled_batch": unlabelled_batch,
        "weights": str(weights) if weights else None,
        "class_names": class_names,
    }
    teaching = schema.parse(Teaching, document, "distill")
    return replace(teaching, sha256=fingerprint(teaching, lambda: load_data(data).class_names))


def _piece(text: str) -> dict[str, Any]:
    """`kd:weight=0.5` as a piece of a recipe."""
    import yaml

    from edgeseg.train.teaching import PIECES

    name, *options = text.split(":")
    kind = PIECES[name]  # names the near ones
    return {"type": kind.type} | {key: yaml.safe_load(value) for key, value in (pair(one, "--loss") for one in options)}


def pair(text: str, option: str) -> tuple[str, str]:
    """`name=value`, of an option that takes such."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise EdgesegError(f"{option}: {text!r} is not of the form name=value")
    return key.strip(), value.strip()
