"""`edgeseg eval` and `edgeseg predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.app import Json, app, counting, emit, is_artifact, progress, table


@app.command("eval")
def evaluate(
    subject: Annotated[Path, typer.Argument(metavar="RUN|ARTIFACT")],
    data: Annotated[str, typer.Option(help="synthetic, camvid:PATH, cityscapes:PATH, folder:PATH")],
    split: Annotated[str | None, typer.Option(help="The data set's test split by default.")] = None,
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
    from edgeseg.evaluate import check_classes, evaluate
    from edgeseg.manifest import Accuracy
    from edgeseg.runs import read_card

    source = load_data(data)
    name = split or source.test
    is_artifact(subject)
    loaded = load(subject)
    check_classes(loaded, source)
    with counting("checking the data") as checked:
        require(source, [name], checked)
    digest = loaded.sha256 if isinstance(loaded, Artifact) else read_card(subject).sha256
    kind = "artifact" if isinstance(loaded, Artifact) else "run"
    with progress(f"{subject} on {name}") as bar:
        result = evaluate(subject, loaded, digest, source, name, kind, bar)
    score = result.score
    if isinstance(loaded, Artifact):
        accuracy = Accuracy("miou", score.miou, source.spec, name, score.images)
        loaded.rewrite(replace(loaded.manifest, accuracy=accuracy))
    rows = [
        [label, None if value is None else f"{value:.2f}"]
        for label, value in zip(source.class_names, score.iou, strict=True)
    ]
    summary = [
        ["mIoU", f"{score.miou:.2f}"],
        ["pixel accuracy", f"{score.pixel_accuracy:.2f}"],
        ["boundary F, 2 px", f"{score.boundary_f:.2f}"],
    ]
    title = f"{subject} on {source.spec} [{name}], {score.images} images, percent"
    emit(schema.dump(result), as_json, table(title, ["class", "IoU"], [*rows, *summary], right=(1,)))


@app.command()
def predict(
    subject: Annotated[Path, typer.Argument(metavar="RUN|ARTIFACT")],
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE|VIDEO...")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the masks and overlays go.")],
    as_json: Json = False,
) -> None:
    """Label images and videos: id maps and overlays for images, an overlaid video for a video.

    Example: edgeseg predict out/cam/openvino street.jpg drive.mp4 -o pictures
    """
    from edgeseg.api import load
    from edgeseg.predict import predict_file

    is_artifact(subject)
    loaded = load(subject)
    written = []
    for file in inputs:
        with progress(str(file)) as bar:
            written += predict_file(loaded, file, out, bar)
    emit([str(path) for path in written], as_json, *[str(path) for path in written])
