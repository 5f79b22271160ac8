"""Where a run errs: every image of a split scored by itself, and every place of the picture over all images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from edgeseg.data.base import Image, Labels, Split
from edgeseg.data.loader import evaluation
from edgeseg.errors import EdgesegError
from edgeseg.kernels.label_map import label_map
from edgeseg.metrics import VOID, boundary_f, confusion, iou
from edgeseg.students import Semantic, upsample

GRID = 120
"""Places along the longer side of the map of errors."""


@dataclass(frozen=True)
class ImageErrors:
    """One image: mean cross-entropy of its labelled pixels, mIoU, boundary F and wrong pixels in percent; NaN where all is void."""

    index: int
    name: str
    loss: float
    miou: float
    boundary_f: float
    wrong: float


@dataclass(frozen=True)
class Errors:
    """Of a split.

    confusion:  `[classes, classes]` pixels, row = truth.
    wrong:      share of labelled pixels that are wrong, by place `[h, w]`; NaN where no image has a label.
    hardness:   mean cross-entropy by place `[h, w]`.
    photo:      the mean of all images `[h, w, 3]`, for orientation.
    """

    images: list[ImageErrors]
    confusion: NDArray[np.int64]
    wrong: NDArray[np.float64]
    hardness: NDArray[np.float64]
    photo: Image


@torch.inference_mode()
def look(student: Semantic, image: Image, truth: Labels) -> tuple[Labels, NDArray[np.float32]]:
    """The labels `[H, W]` that a student gives an image, and its cross-entropy `[H, W]`, 0 where the truth is void."""
    height, width = truth.shape
    padded = student.prepare(image)
    low = student.eval().low_logits(padded)
    size = (padded.shape[-2], padded.shape[-1])
    labels = label_map(low, size)[0, :height, :width].cpu().numpy()
    logits = upsample(low.float(), size)[..., :height, :width]
    target = torch.from_numpy(truth.astype(np.int64))[None].to(logits.device)
    loss = F.cross_entropy(logits, target, ignore_index=VOID, reduction="none")[0]
    return labels, loss.cpu().numpy()


def errors_on(
    student: Semantic, split: Split, classes: int, progress: Callable[[int, int], None] | None = None
) -> Errors:
    """Look at every image of a split.

    Raises:
        EdgesegError: the student makes something that is no number of an image, or a label is out of range.
    """
    found: list[ImageErrors] = []
    total = np.zeros((classes, classes), np.int64)
    sums: dict[str, NDArray[np.float64]] = {}
    for index, (image, truth, name) in enumerate(evaluation(split, workers=1)):
        if (worst := int(truth[truth != VOID].max(initial=0))) >= classes:
            raise EdgesegError(f"{name} has the label id {worst}, out of range for {classes} classes")
        labels, loss = look(student, image, truth)
        if not np.isfinite(loss).all():
            raise EdgesegError(f"the logits of {name} are no numbers; train again with a lower optimizer.lr")
        matrix = confusion(truth, labels, classes)
        total += matrix
        found.append(_of_image(index, name, matrix, loss, truth, labels))
        _add(sums, image, truth, labels, loss)
        if progress:
            progress(index + 1, len(split))
    if not found:
        raise EdgesegError("there is no image in the split to look at; choose another one")
    seen = sums["seen"]
    wrong, hardness = (
        np.divide(sums[name], seen, out=np.full(seen.shape, np.nan), where=seen > 0) for name in ("wrong", "loss")
    )
    return Errors(found, total, wrong, hardness, (sums["photo"] / len(found)).round().astype(np.uint8))


def _of_image(
    index: int, name: str, matrix: NDArray[np.int64], loss: NDArray[np.float32], truth: Labels, labels: Labels
) -> ImageErrors:
    counted = truth != VOID
    if not counted.any():
        return ImageErrors(index, name, *[float("nan")] * 4)
    edges = boundary_f(truth, labels, len(matrix))
    wrong = 100 * (labels != truth)[counted].mean()
    return ImageErrors(
        index, name, float(loss[counted].mean()), float(np.nanmean(iou(matrix))), float(np.nanmean(edges)), float(wrong)
    )


def _add(
    sums: dict[str, NDArray[np.float64]], image: Image, truth: Labels, labels: Labels, loss: NDArray[np.float32]
) -> None:
    """Add an image to the sums by place; the first image says what shape places have."""
    import cv2

    counted = truth != VOID
    parts = {
        "seen": counted.astype(np.float64),
        "wrong": ((labels != truth) & counted).astype(np.float64),
        "loss": loss.astype(np.float64),
        "photo": image.astype(np.float64),
    }
    scale = GRID / max(truth.shape)
    first = sums.get("seen", np.empty((max(1, round(truth.shape[0] * scale)), max(1, round(truth.shape[1] * scale)))))
    for name, part in parts.items():
        small = cv2.resize(part, first.shape[::-1], interpolation=cv2.INTER_AREA)
        sums[name] = sums.get(name, np.zeros(small.shape)) + small


def worst(images: list[ImageErrors], figure: Callable[[ImageErrors], float], count: int) -> Iterator[ImageErrors]:
    """The `count` images with the highest figure, worst first; one that has none is left out."""
    known = [image for image in images if np.isfinite(figure(image))]
    yield from sorted(known, key=figure, reverse=True)[:count]
