"""What an artifact loses against its run on the same images, with the interval that a sample of images leaves open."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.metrics import AnyEvaluation, Evaluation, PromptEvaluation, iou, unpack_confusions

RESAMPLES = 2000


@dataclass(frozen=True)
class Drop:
    """mIoU of the run minus that of the artifact, in points, with its 95 % paired bootstrap interval over images."""

    points: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class ClassLoss:
    """The class that loses most against the run, in points of IoU."""

    name: str
    points: float


def paired_drop(run: AnyEvaluation, artifact: AnyEvaluation) -> Drop:
    """What the artifact loses against its run on the same images; images are resampled in pairs, with a fixed seed.

    Raises:
        EdgesegError: the two are not of the same images and classes or objects, or there is nothing to compare.
    """
    if isinstance(run, Evaluation) and isinstance(artifact, Evaluation):
        return _paired_classes(run, artifact)
    if isinstance(run, PromptEvaluation) and isinstance(artifact, PromptEvaluation):
        return _paired_objects(run, artifact)
    raise EdgesegError("one evaluation is of classes and the other of prompts; evaluate both again")


def _paired_objects(run: PromptEvaluation, artifact: PromptEvaluation) -> Drop:
    """The mean IoU of objects after one click; the objects of an image stay together, since they are not independent."""
    places = [[(row.image, row.id) for row in evaluation.objects] for evaluation in (run, artifact)]
    if places[0] != places[1]:
        raise EdgesegError(
            "run and artifact were asked for different objects; evaluate both again with the same options"
        )
    losses = np.array([100 * (a.ious[0] - b.ious[0]) for a, b in zip(run.objects, artifact.objects, strict=True)])
    owner = np.unique([image for image, _ in places[0]], return_inverse=True)[1]
    images = int(owner.max()) + 1
    if images < 2:
        raise EdgesegError("run and artifact were evaluated on one image; evaluate on two at least")
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    sums, counts = np.bincount(owner, losses), np.bincount(owner)
    low, high = np.quantile((weights @ sums) / (weights @ counts), [0.025, 0.975])
    return Drop(float(losses.mean()), float(low), float(high), images)


def _paired_classes(run: Evaluation, artifact: Evaluation) -> Drop:
    """mIoU from the summed confusion matrices."""
    if run.class_names != artifact.class_names:
        raise EdgesegError("run and artifact were evaluated with different classes; evaluate both again")
    classes = len(run.class_names)
    ours, theirs = (unpack_confusions(e.confusions, classes) for e in (run, artifact))
    images = len(ours)
    if images != len(theirs) or images < 2:
        raise EdgesegError(
            f"run and artifact were evaluated on {images} and {len(theirs)} images; "
            "evaluate both on the same images, two at least"
        )
    if not np.array_equal(ours.sum(axis=2), theirs.sum(axis=2)):
        raise EdgesegError(
            "run and artifact were evaluated on different images or labels, though they are as many; evaluate both again"
        )
    both = np.stack([ours, theirs])
    before, after = _miou(both.sum(axis=1))
    if not math.isfinite(before - after):
        raise EdgesegError("no labelled pixel was evaluated, so there is no mIoU; evaluate on a split with labels")
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    flat = both.reshape(2, images, -1).astype(np.float64)  # a matrix product of integers is slow
    sums = (weights.astype(np.float64) @ flat).astype(np.int64)
    resampled = _miou(sums.reshape(2, RESAMPLES, classes, classes))
    low, high = np.nanquantile(resampled[0] - resampled[1], [0.025, 0.975])
    return Drop(float(before - after), float(low), float(high), images)


def class_loss(evaluation: AnyEvaluation | None, reference: AnyEvaluation | None) -> ClassLoss | None:
    """The class that loses most, of those that both evaluations have."""
    if not isinstance(evaluation, Evaluation) or not isinstance(reference, Evaluation):
        return None
    pairs = zip(evaluation.class_names, reference.score.iou, evaluation.score.iou, strict=True)
    losses = [ClassLoss(name, a - b) for name, a, b in pairs if a is not None and b is not None]
    return max(losses, key=lambda loss: loss.points, default=None)


def boundary_loss(evaluation: AnyEvaluation | None, reference: AnyEvaluation | None) -> float | None:
    """Points of boundary F that are lost; negative where some are won."""
    if not isinstance(evaluation, Evaluation) or not isinstance(reference, Evaluation):
        return None
    lost = reference.score.boundary_f - evaluation.score.boundary_f
    return lost if math.isfinite(lost) else None


def small_loss(evaluation: AnyEvaluation | None, reference: AnyEvaluation | None) -> float | None:
    """Points that small regions, or small objects after one click, lose; negative where they win."""
    kept = [
        None if each is None else each.score.small if isinstance(each, Evaluation) else each.score.small_1
        for each in (reference, evaluation)
    ]
    return None if kept[0] is None or kept[1] is None else kept[0] - kept[1]


def _miou(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """mIoU in percent of each `[..., classes, classes]`; NaN where no class occurs."""
    each = iou(confusions)
    occurs = np.isfinite(each)
    return np.where(occurs.any(-1), np.where(occurs, each, 0).sum(-1) / np.maximum(occurs.sum(-1), 1), np.nan)
