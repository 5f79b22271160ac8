"""`edgeseg tune`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseg.cli.app import DATA, TRUSTED, Json, Size, app, emit, table, talk
from edgeseg.cli.distill import (
    TEACHER,
    ClassMap,
    Losses,
    TeacherClasses,
    TeacherWeights,
    Unlabelled,
    UnlabelledBatch,
    pair,
    stated,
)
from edgeseg.cli.export import words
from edgeseg.cli.train import Changes, RecipeFile, Threads, changed
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.train.tune import Choice, Range


TRIALS_OWN = ("epochs", "evaluate")
"""Parts of a recipe that are otherwise in trials than in the training that follows."""


@app.command()
def tune(
    name: Annotated[str, typer.Argument(help="A student (`edgeseg models` lists them).")],
    data: Annotated[str, typer.Option(help=f"{DATA} Scored on its selection split.")],
    out: Annotated[Path, typer.Option(help="The folder of the search; one that is there is gone on with.")],
    trials: Annotated[int, typer.Option(min=1, help="Trials altogether.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data in a trial.")] = 10,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="a.b=LOW..HIGH|x/y",
            help="What is tried; else the rate and each loss's weight, a tenth to ten times.",
        ),
    ] = None,
    teacher: Annotated[str | None, TEACHER] = None,
    loss: Losses = "cwd",
    class_map: ClassMap = "",
    teacher_weights: TeacherWeights = None,
    teacher_classes: TeacherClasses = "",
    unlabelled: Unlabelled = None,
    unlabelled_batch: UnlabelledBatch = None,
    size: Size = None,
    recipe: RecipeFile = None,
    change: Changes = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Search a recipe by short trials, those that fall behind ended early; `best.yaml` is what came of it.

    Example: edgeseg tune ddrnet23_slim --data camvid:PATH --out runs/tuned --trials 20 --epochs 10
    """
    import torch
    import yaml

    from edgeseg import schema
    from edgeseg.data import load_data
    from edgeseg.files import write_text
    from edgeseg.train.recipe import Recipe, read_recipe
    from edgeseg.train.tune import Trial, best_of
    from edgeseg.train.tune import tune as search_for

    if threads:
        torch.set_num_threads(threads)
    source, changes = load_data(data), ["evaluate=1", *changed(change, epochs, size)]
    teaching = None
    if teacher:
        own = words(teacher_classes)
        teaching = stated(data, teacher, loss, class_map, unlabelled, unlabelled_batch, teacher_weights, own)

    def build(values: Mapping[str, Any]) -> Recipe:
        told = [f"{key}={json.dumps(value)}" for key, value in values.items() if not key.startswith("losses.")]
        made = read_recipe(recipe, [*changes, *told])
        return dataclasses.replace(made, teaching=weighed(teaching, values)) if teaching else made

    base = build({})
    space = dict(_where(text) for text in search or _usual(base))
    first = {key: _current(schema.dump(base), key) for key in space}
    build(first)  # what cannot be searched is said before the first trial

    def notify(trial: Trial) -> None:
        how = "" if trial.state == "COMPLETE" else f", ended after epoch {trial.epochs}"
        score = "-" if trial.value is None else f"{trial.value:.2f}"
        talk.print(f"trial {trial.number + 1}: {score}{how}; {_said(trial.values)}", soft_wrap=True)

    ended = search_for(name, source, out, build, space, first, trials, seed, notify)
    best = best_of(ended)
    document = schema.dump(build(best.values))
    document.pop("teaching")  # it is named again
    usual = schema.dump(read_recipe(recipe, [text for text in change or [] if text.partition("=")[0] in TRIALS_OWN]))
    for key in TRIALS_OWN:
        document.pop(key)
        if usual[key] != getattr(Recipe(), key):
            document[key] = usual[key]
    write_text(out / "best.yaml", yaml.safe_dump(document, sort_keys=False))
    also = {
        "--class-map": class_map,
        "--teacher-weights": teacher_weights,
        "--teacher-classes": teacher_classes,
        "--unlabelled": unlabelled,
        "--unlabelled-batch": unlabelled_batch,
    }
    verb = _next(name, data, out, teacher, loss, best.values, also)
    rows = [
        [t.number + 1, t.state.lower(), f"{t.value:.2f}" if t.value is not None else None, t.epochs, _said(t.values)]
        for t in ended
    ]
    shown = table(f"{name} on {source.select}", ("trial", "", "score", "epochs", "values"), rows, right=(0, 2, 3))
    line = f"best: trial {best.number + 1}, {best.value:.2f} on {source.select}; {verb}"
    emit(
        {"best": vars(best), "trials": [vars(t) for t in ended], "recipe": str(out / "best.yaml"), "next": verb},
        as_json,
        shown,
        line,
    )


def _usual(base: Any) -> list[str]:
    """The rate, and the weight of each loss of a teacher."""
    weights = {f"losses.{piece.type}.weight": piece.weight for piece in (base.teaching.losses if base.teaching else ())}
    return [
        f"{key}={value / 10}..{value * 10}" for key, value in {"optimizer.lr": base.optimizer.lr, **weights}.items()
    ]


def _where(text: str) -> tuple[str, Range | Choice]:
    """`optimizer.lr=1e-4..1e-1` or `loss.type=ce/ohem`."""
    import yaml

    from edgeseg.train.tune import Choice, Range

    key, values = pair(text, "--search")
    low, dots, high = values.partition("..")
    try:
        if dots:
            return key, Range(float(low), float(high))
        return key, Choice(tuple(yaml.safe_load(value) for value in values.split("/")))
    except (ValueError, yaml.YAMLError) as error:
        raise EdgesegError(f"--search {text!r} is neither LOW..HIGH nor values with / between them") from error


def _current(document: Any, key: str) -> Any:
    """The recipe's own value."""
    teaching, path = document["teaching"], key.split(".")
    if path[0] == "losses" and teaching is not None:
        document, path = {piece["type"]: piece for piece in teaching["losses"]}, path[1:]
    for part in path:
        if not isinstance(document, dict) or part not in document:
            there = ", ".join(document) if isinstance(document, dict) else "nothing below it"
            raise EdgesegError(f"--search {key}: the recipe has no {part!r} there; it has {there}")
        document = document[part]
    return document


def weighed(teaching: Any, values: Mapping[str, Any]) -> Any:
    """A teaching with the values of `losses.NAME.OPTION`."""
    pieces = []
    for piece in teaching.losses:
        start = f"losses.{piece.type}."
        own = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
        pieces.append(dataclasses.replace(piece, **own))
    return dataclasses.replace(teaching, losses=tuple(pieces))


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )


def _next(
    name: str,
    data: str,
    out: Path,
    teacher: str | None,
    loss: str,
    values: Mapping[str, Any],
    also: Mapping[str, object],
) -> str:
    """The command that trains with what was found, and with what else was said of the teacher."""
    edgeseg = shlex.join(["edgeseg", *(word for module in TRUSTED for word in ("--trust", module))])
    end = ["--data", data, "--recipe", str(out / "best.yaml"), "--out", "RUN"]
    if teacher is None:
        return f"{edgeseg} {shlex.join(['train', name, *end])}"
    found = {key.removeprefix("losses."): value for key, value in values.items() if key.startswith("losses.")}
    parts = []
    for text in loss.split(","):
        kind, *options = text.strip().split(":")
        own = {key.partition(".")[2]: value for key, value in found.items() if key.startswith(f"{kind}.")}
        kept = [option for option in options if option.partition("=")[0] not in own]
        parts.append(":".join([kind, *kept, *(f"{key}={_short(value)}" for key, value in own.items())]))
    said = [word for option, value in also.items() if value for word in (option, str(value))]
    return f"{edgeseg} {shlex.join(['distill', name, '--teacher', teacher, '--loss', ','.join(parts), *said, *end])}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
