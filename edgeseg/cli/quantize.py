"""`edgeseg quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgeseg.cli.app import TRUSTED, Json, app, counting, progress, talk
from edgeseg.cli.export import Images, chosen_targets, folder_name, report, subject, words


@app.command()
def quantize(
    run: Annotated[str, typer.Argument(metavar="RUN|NAME", help="A run, or a student by name with fresh weights.")],
    to: Annotated[str, typer.Option(metavar="TARGET[,TARGET]", help="onnxruntime, openvino, litert, executorch, ...")],
    calib: Annotated[
        str, typer.Option(help="Where the calibration images come from, e.g. camvid:PATH; never guessed.")
    ],
    out: Annotated[Path, typer.Option(help="Each artifact goes into a folder in here, e.g. OUT/openvino-int8.")],
    precision: Annotated[
        str, typer.Option(help="int8 (weights and activations), w8a16, w8a32 (weights alone), or several: int8,w8a32")
    ] = "int8",
    images: Annotated[int, typer.Option(min=1, help="Calibration images, spread over the split.")] = 64,
    split: Annotated[str | None, typer.Option(help="The split to calibrate on; that to learn from by default.")] = None,
    ranges: Annotated[
        Literal["minmax", "percentile", "mse", "entropy"], typer.Option(help="How the range of an activation is taken.")
    ] = "minmax",
    keep: Annotated[str, typer.Option(metavar="MODULE[,MODULE]", help="Modules that stay in float.")] = "",
    equalise: Annotated[bool, typer.Option("--equalise", help="Cross-layer equalisation first.")] = False,
    bias_correction: Annotated[
        bool, typer.Option(help="Correct the biases for the mean error of rounded weights.")
    ] = True,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="The size the run was trained at by default.")] = None,
    bake: Annotated[str, typer.Option(help="pre: uint8 RGB in; labels: uint8 label map out")] = "pre,labels",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="TARGET.OPTION=VALUE", help="An option of one target.")
    ] = None,
    data: Images = None,
    as_json: Json = False,
) -> None:
    """Quantize a run with calibration images, prove each artifact, and put it in place when it is complete.

    The proof tells what whole numbers do to the masks (student -> graph) from what the runtime adds (graph -> runtime).

    Example: edgeseg quantize runs/cam --to openvino,litert --calib camvid:PATH --out out/cam
    """
    from edgeseg.cli.app import parse_size
    from edgeseg.data import load_data
    from edgeseg.evaluate import check_classes
    from edgeseg.export.apart import Job, export_apart
    from edgeseg.quantize.calibration import choose_images
    from edgeseg.quantize.model import quantize as quantized
    from edgeseg.quantize.scheme import Recipe
    from edgeseg.runs import load_run

    targets = chosen_targets(to, precision, "auto", options or [])
    recipe = Recipe(ranges, bias_correction, equalise, tuple(words(keep)))
    parsed = parse_size(size)
    source_data = load_data(calib)
    outcomes = []
    with subject(run, [parsed] if parsed else [], len(source_data.class_names), data) as (folder, source, usual, proof):
        student = load_run(folder)
        check_classes(student, source_data)
        with counting(f"reading {images} calibration images") as count:
            chosen = choose_images(source_data, split, images, count)
        for warning in chosen.warnings():
            talk.print(f"[yellow]note:[/] {warning}", soft_wrap=True)
        for target in targets:
            place = str(out / folder_name(target, None))
            with progress(f"calibrating {place}"):
                made = quantized(student, target, usual[0], words(bake), chosen, recipe)
            job = Job(
                str(folder),
                target.options(),
                place,
                usual[0],
                words(bake),
                proof or source_data.spec,
                source,
                list(TRUSTED),
                made,
                chosen.card,
            )
            with progress(f"exporting and verifying {place}") as bar:
                outcomes.append(export_apart(job, target, bar))
    report(outcomes, False, as_json)
