"""The metrics of segmentation, computed the same way for a run and for an artifact.

Definitions, over all pixels of all images whose true label is not void:
    confusion[i, j]   pixels of true class i that were labelled j, summed over images
    IoU of class c    confusion[c, c] / (row c + column c - confusion[c, c]); null for a class that is neither there nor predicted
    mIoU              mean of the IoUs that are not null, in percent (one confusion matrix, not a mean over images)
    pixel accuracy    trace / sum, in percent
    boundary F        harmonic mean of precision and recall of boundary pixels matched within `BOUNDARY_PX`, per class
                      and image, then averaged over images and classes that occur (Csurka et al., BMVC 2013), in percent
    small             share of the pixels of small regions (connected, of one true class, fewer than `SMALL_PX` pixels) that got
                      their label, in percent: what a mean over classes hides is lost here first
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.provenance import MadeBy
from edgeseg.schema import STRICT

VOID = 255
"""The label of pixels that are never trained on and never counted."""

BOUNDARY_PX = 2
"""Tolerance of the boundary F-score in pixels."""

SMALL_PX = 32**2
"""Regions with fewer pixels are small, as COCO has it."""


@dataclass(frozen=True)
class Score:
    """mIoU, per-class IoU, pixel accuracy, boundary F and `small` in percent; null for a class that never occurs."""

    __pydantic_config__ = STRICT
    images: int
    miou: float
    iou: list[float | None]
    pixel_accuracy: float
    boundary_f: float
    small: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run or an artifact, one JSON file (`eval-*.json`).

    `confusions` keeps every image's confusion matrix, base64 of zlib of little-endian int32 `[images, classes, classes]`:
    enough to bootstrap a difference over images without evaluating again. `reports`: whether the split is the one that results
    are reported on; null where that was not written down.
    """

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["evaluation"]
    created: str
    edgeseg: MadeBy
    subject: str
    subject_kind: Literal["run", "artifact"]
    sha256: str
    data: str
    split: str
    class_names: list[str]
    score: Score
    confusions: str
    provenance: Literal["measured", "simulated", "claimed"]
    reports: bool | None = None


@dataclass(frozen=True)
class PromptScore:
    """Percent, and clicks. Null where there was no such object, or not so many clicks.

    disk_1: the trivial baseline: a disk around the first click, of the one radius that is best for these very objects.
    """

    __pydantic_config__ = STRICT
    images: int
    objects: int
    clicks: int
    miou_1: float
    miou_3: float | None
    miou_5: float | None
    miou_box: float
    boundary_iou_1: float
    boundary_iou_box: float
    noc_85: float
    noc_90: float
    never_85: float
    never_90: float
    small_1: float | None
    medium_1: float | None
    large_1: float | None
    disk_1: float

    @property
    def miou(self) -> float:
        """The one number of a promptable student: mean IoU after one click."""
        return self.miou_1


@dataclass(frozen=True)
class ObjectRow:
    """One object: IoU after each click and from its box, 0..1."""

    __pydantic_config__ = STRICT
    image: int
    id: int
    pixels: int
    ious: list[float]
    box: float


@dataclass(frozen=True)
class PromptEvaluation:
    """One evaluation of a promptable run or artifact, one JSON file (`eval-*.json`), with every object's figures."""

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["prompt_evaluation"]
    created: str
    edgeseg: MadeBy
    subject: str
    subject_kind: Literal["run", "artifact"]
    sha256: str
    data: str
    split: str
    score: PromptScore
    objects: list[ObjectRow]
    provenance: Literal["measured", "simulated", "claimed"]
    reports: bool | None = None


AnyEvaluation: TypeAlias = Evaluation | PromptEvaluation


def pack_confusions(confusions: NDArray[np.int64]) -> str:
    """`[images, classes, classes]` counts to text."""
    return base64.b64encode(zlib.compress(confusions.astype("<i4").tobytes(), 9)).decode("ascii")


def unpack_confusions(text: str, classes: int) -> NDArray[np.int64]:
    """The counts `[images, classes, classes]` back from text."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4")
    return flat.reshape(-1, classes, classes).astype(np.int64)


def confusion(truth: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Counts `[classes, classes]`, row = truth; void in the truth is not counted.

    Raises:
        EdgesegError: the shapes differ, or a label id is out of range.
    """
    if truth.shape != labels.shape:
        raise EdgesegError(f"truth is {list(truth.shape)} but the prediction is {list(labels.shape)}")
    valid = truth != VOID
    rows, columns = truth[valid].astype(np.int64), labels[valid].astype(np.int64)
    worst = max(rows.max(initial=0), columns.max(initial=0))
    if worst >= classes:
        raise EdgesegError(f"label id {worst} is out of range for {classes} classes")
    return np.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU per class in percent, from counts `[..., K, K]` to `[..., K]`; NaN where the class never occurs."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    union = matrix.sum(-1) + matrix.sum(-2) - hit
    result: NDArray[np.float64] = np.divide(100 * hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    return result


def boundary_counts(truth: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Boundary pixels of one image, per class `[classes, 2, 2]`: of truth and of labels; how many, and how many are matched."""
    import cv2

    span = np.arange(-BOUNDARY_PX, BOUNDARY_PX + 1)
    disk = (span[:, None] ** 2 + span**2 <= BOUNDARY_PX**2).astype(np.uint8)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    valid = truth != VOID
    counts = np.zeros((classes, 2, 2), np.int64)
    for index in np.union1d(truth[valid], labels[valid]):
        member = [((part == index) & valid).astype(np.uint8) for part in (truth, labels)]
        # a pixel of the class with a 4-neighbour outside it; the image's own edge is no boundary
        edge = [(part - cv2.erode(part, cross, borderType=cv2.BORDER_REPLICATE)).astype(bool) for part in member]
        near = [cv2.dilate(part.astype(np.uint8), disk).astype(bool) for part in edge]
        for row, (mine, other) in enumerate(zip(edge, reversed(near), strict=True)):
            counts[index, row] = mine.sum(), (mine & other).sum()
    return counts


def f_score(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Boundary F in percent, from counts `[..., 2, 2]` to `[...]`; NaN where neither map has a boundary."""
    there, matched = counts[..., 0].astype(np.float64), counts[..., 1]
    share = np.divide(matched, there, out=np.zeros(there.shape), where=there > 0)
    total = share.sum(-1)
    score = np.divide(200 * share.prod(-1), total, out=np.zeros(total.shape), where=total > 0)
    result: NDArray[np.float64] = np.where(there.any(-1), score, np.nan)
    return result


def boundary_f(truth: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Boundary F-score `[classes]` of one image in percent; NaN for a class that is in neither map."""
    scores = f_score(boundary_counts(truth, labels, classes))
    valid = truth != VOID
    for index in np.union1d(truth[valid], labels[valid]):
        if np.isnan(scores[index]):  # it is everywhere, or nowhere, in either map
            scores[index] = 100.0 * np.array_equal((truth == index) & valid, (labels == index) & valid)
    return scores


def small_regions(truth: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[int, int]:
    """How many pixels of small regions of the truth there are, and how many of them got their label."""
    import cv2

    there = found = 0
    for index in np.unique(truth[truth != VOID]):
        member = truth == index
        _, region, stats, _ = cv2.connectedComponentsWithStats(member.astype(np.uint8), connectivity=8)
        small = member & (stats[:, cv2.CC_STAT_AREA] < SMALL_PX)[region]
        there += int(small.sum())
        found += int((small & (labels == index)).sum())
    return there, found


class Meter:
    """Adds up images and says how good the labels were."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.confusions: list[NDArray[np.int64]] = []
        self._boundaries: list[NDArray[np.float64]] = []
        self._small = np.zeros(2, np.int64)

    def add(self, truth: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Count one image."""
        self.confusions.append(confusion(truth, labels, self.classes))
        self._boundaries.append(boundary_f(truth, labels, self.classes))
        self._small += small_regions(truth, labels)

    def score(self) -> Score:
        """The figures over all images so far.

        Raises:
            EdgesegError: no labelled pixel was seen.
        """
        total = np.sum(self.confusions, axis=0) if self.confusions else np.zeros((self.classes,) * 2, np.int64)
        if not total.sum():
            raise EdgesegError("no labelled pixel to score: every pixel of every image is void")
        each = iou(total)
        return Score(
            images=len(self.confusions),
            miou=float(np.nanmean(each)),
            iou=[None if np.isnan(value) else float(value) for value in each],
            pixel_accuracy=float(100 * np.trace(total) / total.sum()),
            boundary_f=float(np.nanmean(np.stack(self._boundaries))),
            small=float(100 * self._small[1] / self._small[0]) if self._small[0] else None,
        )
