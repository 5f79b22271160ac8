"""`edgeseg train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.app import DATA, Json, Size, app, counting, emit, parse_size, progress, talk

Epochs = Annotated[int | None, typer.Option(help="Passes over the data.")]
RecipeFile = Annotated[Path | None, typer.Option(help="A YAML recipe.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change the recipe.")]
Init = Annotated[Path | None, typer.Option(help="A run whose weights to begin with.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Devices = Annotated[int, typer.Option(min=1, help="Processes (DDP); one per GPU.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")]


@app.command()
def train(
    name: Annotated[
        str,
        typer.Argument(
            help="A student (`edgeseg models` lists them), timm:ENCODER, transformers:FOLDER, or package.module:factory."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(help=DATA),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the run.")],
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
    """Train a student: a semantic one on class ids, a promptable one on instance ids.

    Example: edgeseg train ddrnet23_slim --data camvid:PATH --out runs/cam --epochs 100 --set optimizer.lr=0.02
    """
    changes = changed(change, epochs, size)
    run(name, data, out, recipe, changes, init, resume, devices, threads, tensorboard, as_json)


def changed(change: list[str] | None, epochs: int | None, size: str | None) -> list[str]:
    """What `--set`, `--epochs` and `--size` change of a recipe."""
    wanted = parse_size(size)
    sized = [f"size=[{wanted[0]}, {wanted[1]}]"] if wanted else []
    return [*(change or []), *([f"epochs={epochs}"] if epochs is not None else []), *sized]


def run(
    name: str,
    data: str,
    out: Path,
    recipe: Path | None,
    changes: list[str],
    init: Path | None,
    resume: bool,
    devices: int,
    threads: int | None,
    tensorboard: bool,
    as_json: bool,
) -> None:
    """Train with a recipe and what `--set` changes of it, say how it goes, and what came of it."""
    import torch

    from edgeseg import schema
    from edgeseg.data import load_data
    from edgeseg.runs import read_card
    from edgeseg.students.student import parameters
    from edgeseg.train.loop import Event, Trainer, check_place
    from edgeseg.train.recipe import read_recipe

    if threads:
        torch.set_num_threads(threads)
    parameters(name)  # a name that is none, and a folder that is taken, are found before the data is read whole
    check_place(out, resume)
    source, chosen = load_data(data), read_recipe(recipe, changes)
    with counting("checking the data") as checked:
        trainer = Trainer(name, source, out, chosen, devices, tensorboard, begin_with=init, checked=checked)
    if not trainer.fabric.is_global_zero:  # one process talks
        trainer.run(resume)
        return
    said: float | None = None
    with progress("training", total=None) as bar:

        def notify(event: Event) -> None:
            nonlocal said
            bar((event.epoch - 1) * event.steps + event.step, event.epochs * event.steps)
            if event.select_miou != said:
                said = event.select_miou
                talk.print(f"after epoch {event.epoch - 1}: mIoU {said:.2f} on {source.select}, loss {event.loss:.3f}")

        trainer.notify = notify
        trainer.run(resume)
    card = read_card(out)
    assert card.training is not None
    talk.print(f"pictures of each evaluation: {out / 'pictures'}")
    emit(
        schema.dump(card),
        as_json,
        f"{out}: {card.name}, mIoU {card.training.select_miou:.2f} on {card.training.select_split}"
        f" (best at epoch {card.training.best_epoch} of {card.training.epochs})",
    )
