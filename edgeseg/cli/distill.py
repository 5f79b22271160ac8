"""`edgeseg distill`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeseg.cli.app import TRUSTED, Json, Size, app
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


@app.command()
def distill(
    name: Annotated[str, typer.Argument(help="A semantic student (`edgeseg models` lists them).")],
    teacher: Annotated[
        str,
        typer.Option(
            metavar="RUN|SOURCE:WHAT|ema|none",
            help="The run that teaches; transformers:FOLDER, smp:FOLDER, package.module:factory; ema: the student's own averaged weights.",
        ),
    ],
    data: Annotated[str, typer.Option(help="synthetic, camvid:PATH, cityscapes:PATH, folder:PATH")],
    out: Annotated[Path, typer.Option(help="The folder of the run.")],
    loss: Annotated[
        str,
        typer.Option(
            metavar="NAME[:KEY=VALUE...][,...]",
            help="What is learned from it: kd, cwd, bpkd, align, masked, mgd, fst, hardness; the README says what each compares.",
        ),
    ] = "cwd",
    class_map: Annotated[
        str, typer.Option(metavar="THEIRS=OURS,...", help="Classes of the teacher under the names that the data has.")
    ] = "",
    teacher_weights: Annotated[
        Path | None, typer.Option(help="The weights of a teacher that is not a run and comes without.")
    ] = None,
    teacher_classes: Annotated[
        str, typer.Option(metavar="NAME,...", help="The classes of a teacher that does not name them, in its order.")
    ] = "",
    unlabelled: Annotated[
        str | None, typer.Option(metavar="DATA", help="Images without labels: a folder of photos, or camvid:PATH, ...")
    ] = None,
    unlabelled_batch: Annotated[
        int | None, typer.Option(help="As many of them in a step; else as many as have labels.")
    ] = None,
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
    """Train a student on the labels and on what a larger run makes of the same images.

    Example: edgeseg distill ddrnet23_slim --teacher runs/large --data camvid:PATH --out runs/taught --loss cwd,kd:weight=0.5
    """
    from edgeseg import schema
    from edgeseg.data import load_data
    from edgeseg.train.teacher import fingerprint
    from edgeseg.train.teaching import Teaching

    teaching = {
        "teacher": teacher,
        "sha256": "",
        "losses": [_piece(text) for text in words(loss)],
        "classes": dict(_pair(text, "--class-map") for text in words(class_map)),
        "trust": bool(TRUSTED),
        "unlabelled": unlabelled,
        "unlabelled_batch": unlabelled_batch,
        "weights": str(teacher_weights) if teacher_weights else None,
        "class_names": words(teacher_classes),
    }
    stated = schema.parse(Teaching, teaching, "distill")
    teaching["sha256"] = fingerprint(stated, lambda: load_data(data).class_names)
    changes = [*changed(change, epochs, size), f"teaching={json.dumps(teaching)}"]
    run(name, data, out, recipe, changes, init, resume, devices, threads, tensorboard, as_json)


def _piece(text: str) -> dict[str, Any]:
    """`kd:weight=0.5` as a piece of a recipe."""
    import yaml

    from edgeseg.train.teaching import PIECES

    name, *options = text.split(":")
    kind = PIECES[name]  # names the near ones
    return {"type": kind.type} | {
        key: yaml.safe_load(value) for key, value in (_pair(one, "--loss") for one in options)
    }


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise EdgesegError(f"{option}: {text!r} is not of the form name=value")
    return key.strip(), value.strip()
