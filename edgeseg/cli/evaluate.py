"""`edgeseg eval` and `edgeseg predict`."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from edgeseg.cli.app import DATA, Json, app, counting, emit, is_artifact, progress, table
from edgeseg.errors import EdgesegError
from edgeseg.metrics import AnyEvaluation, PromptScore


@app.command("eval")
def evaluate(
    subject: Annotated[Path, typer.Argument(metavar="RUN|ARTIFACT")],
    data: Annotated[str, typer.Option(help=DATA)],
    split: Annotated[str | None, typer.Option(help="The data set's test split by default.")] = None,
    clicks: Annotated[int, typer.Option(min=1, help="Promptable: clicks per object.")] = 20,
    min_pixels: Annotated[int, typer.Option(min=1, help="Promptable: leave smaller objects out.")] = 1,
    as_json: Json = False,
) -> None:
    """Score a run or an artifact, with the same code for both.

    Example: edgeseg eval out/cam/openvino --data camvid:PATH --split test
    """
    from edgeseg import schema
    from edgeseg.api import load
    from edgeseg.artifact import Artifact
    from edgeseg.data import load_data
    from edgeseg.data.check import require
    from edgeseg.evaluate import check_classes, evaluate, evaluate_prompts
    from edgeseg.manifest import Accuracy
    from edgeseg.runs import read_card
    from edgeseg.segment import segmenter

    source = load_data(data)
    name = split or source.test
    is_artifact(subject)
    loaded = load(subject)
    check_classes(loaded, source)
    with counting("checking the data") as checked:
        require(source, [name], checked)
    digest = loaded.sha256 if isinstance(loaded, Artifact) else read_card(subject).sha256
    kind: Literal["artifact", "run"] = "artifact" if isinstance(loaded, Artifact) else "run"
    result: AnyEvaluation
    with progress(f"{subject} on {name}") as bar:
        if source.task == "promptable":
            size = (0, 0) if isinstance(loaded, Artifact) else read_card(subject).size
            asked = segmenter(loaded, size)
            result = evaluate_prompts(subject, asked, digest, source, name, kind, clicks, min_pixels, bar)
        else:
            result = evaluate(subject, loaded, digest, source, name, kind, bar)
    if isinstance(loaded, Artifact):
        accuracy = Accuracy("miou", result.score.miou, source.spec, name, result.score.images)
        loaded.update(accuracy=accuracy)
    emit(schema.dump(result), as_json, _table(result, f"{subject} on {source.spec} [{name}]"))


def _table(result: AnyEvaluation, where: str) -> Table:
    """What an evaluation found, for people."""
    score = result.score
    if isinstance(score, PromptScore):
        rows = [[label, _figure(getattr(score, name))] for name, label in PROMPT_ROWS.items()]
        return table(f"{where}, {score.objects} objects on {score.images} images", ["percent", ""], rows, right=(1,))
    classes = zip(result.class_names, score.iou, strict=True)  # type: ignore[union-attr]  # a score of classes has them
    rows = [[label, _figure(value)] for label, value in classes]
    rows += [[label, _figure(getattr(score, name))] for name, label in CLASS_ROWS.items()]
    return table(f"{where}, {score.images} images, percent", ["class", "IoU"], rows, right=(1,))


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


CLASS_ROWS = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "boundary_f": "boundary F, 2 px"}
PROMPT_ROWS = {
    "miou_1": "mIoU after 1 click",
    "miou_3": "after 3 clicks",
    "miou_5": "after 5 clicks",
    "miou_box": "from a box",
    "boundary_iou_1": "boundary IoU after 1 click",
    "boundary_iou_box": "boundary IoU from a box",
    "small_1": "mIoU after 1 click, below 32x32 px",
    "medium_1": "between",
    "large_1": "96x96 px and more",
    "disk_1": "baseline: the best disk around the click",
    "noc_85": "clicks to reach IoU 85 %",
    "noc_90": "clicks to reach IoU 90 %",
    "never_90": "objects that never reach 90 %",
}


@app.command()
def predict(
    subject: Annotated[Path, typer.Argument(metavar="RUN|ARTIFACT")],
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE|VIDEO...")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the masks and overlays go.")],
    click: Annotated[
        list[str] | None, typer.Option(metavar="X,Y[,0]", help="Promptable: a click; with ,0 on the background.")
    ] = None,
    box: Annotated[str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Promptable: a box.")] = None,
    as_json: Json = False,
) -> None:
    """Label images and videos: id maps and overlays for images, an overlaid video for a video.

    A promptable student cuts out what clicks and a box point at; without any, what catches the eye.

    Example: edgeseg predict out/cam/openvino street.jpg drive.mp4 -o pictures
    """
    from edgeseg.api import load
    from edgeseg.predict import Prompt, predict_file
    from edgeseg.runs import read_card

    size = None if is_artifact(subject) else read_card(subject).size
    for first, second in combinations(inputs, 2):
        if first.stem == second.stem:
            raise EdgesegError(f"{first} and {second} would both be written as {out / first.stem}-...; give them apart")
    loaded = load(subject)
    corners = _numbers(box, (4,)) if box else None
    prompt = Prompt(
        [_numbers(text, (2, 3)) for text in click or []],
        (corners[0], corners[1], corners[2], corners[3]) if corners else None,
    )
    written = []
    for file in inputs:
        with progress(str(file)) as bar:
            written += predict_file(loaded, file, out, bar, prompt, size)
    emit([str(path) for path in written], as_json, *[str(path) for path in written])


def _numbers(text: str, counts: tuple[int, ...]) -> tuple[float, ...]:
    """The numbers in `1,2,3`."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts:
        raise EdgesegError(f"{text!r} is not {' or '.join(map(str, counts))} numbers with commas between them")
    return numbers
