"""`quantize_model`: a student and calibration images to a proven artifact of whole numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.data import Data, load_data
from edgeseg.errors import EdgesegError
from edgeseg.evaluate import check_classes
from edgeseg.export import export_model, networks
from edgeseg.export.deployed import ImageNetwork
from edgeseg.export.target import Target
from edgeseg.manifest import Source
from edgeseg.parity import choose
from edgeseg.quantize.calibration import CalibrationSet, choose_images
from edgeseg.quantize.choice import PROBES, best
from edgeseg.quantize.document import Quantization
from edgeseg.quantize.post_training import feeds
from edgeseg.quantize.scheme import Recipe

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact
    from edgeseg.parity import Picture, Progress
    from edgeseg.students import Student

IMAGES = 64
"""Calibration images by default."""


def quantize_model(
    student: Student,
    target: Target,
    calib: Data | str,
    out: Path | str,
    size: tuple[int, int],
    images: int = IMAGES,
    split: str | None = None,
    recipe: Recipe | None = None,
    bake: Iterable[str] = ("pre", "labels"),
    source: Source | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Quantize a student for a target whose precision is int8 or w8a32, and verify the result.

    calib: where the calibration images come from, e.g. `camvid:PATH`; `images` of them from `split`, that to learn from by default.
    size:  height and width of the artifact.
    data:  where the images come from that the masks are compared on: the calibration data's selection split by default.
           No image of its test split may be among those to calibrate on.

    Raises:
        EdgesegError: too few images, test images among them, or a precision that the target cannot do.
    """
    known = load_data(calib) if isinstance(calib, str) else calib
    check_classes(student, known)
    chosen = choose_images(known, split, images, look=student.look, judged=data)
    _, probes = choose(data or known, None, PROBES, size)
    made = quantize(student, target, size, bake, chosen, recipe or Recipe("auto"), probes)
    return export_model(
        student, target, out, size, bake, source, data or known, progress, quantization=made, calibration=chosen.card
    )


def quantize(
    student: Student,
    target: Target,
    size: tuple[int, int],
    bake: Iterable[str],
    chosen: CalibrationSet,
    recipe: Recipe,
    probes: Sequence[Picture] = (),
) -> Quantization:
    """What calibration images make of a student on a target; of a promptable one, of its encoder.

    probes: what `auto` ranges are chosen by; without them, and for an encoder, which gives no labels, `auto` is `minmax`.
    """
    if target.precision in ("fp32", "fp16"):
        raise EdgesegError(f"{target.name} {target.precision} is no quantized precision; use export, or precision int8")
    network = networks(student, size, bake, target.interface)[0]
    assert isinstance(network, ImageNetwork)
    recipe = recipe if probes and student.task == "semantic" else recipe.fixed
    return best(network, target.name, target.precision, recipe, feeds(network, chosen), probes)
