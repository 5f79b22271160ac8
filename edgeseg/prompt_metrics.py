"""How good masks are that were asked for: a simulated person clicks, and every object is counted on its own.

mIoU @ k      mean over objects of the IoU after k clicks, in percent; the first click is in the object's middle, each
              further one in the middle of the largest wrong region
box           the same for the exact box around the object instead of clicks
boundary IoU  IoU of the bands inside both outlines, 2 % of the image's diagonal wide (Cheng et al., arXiv 2103.16562)
NoC @ q       mean number of clicks until the IoU reaches q percent; an object that never does counts all clicks given
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.data.base import Split
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID, ObjectRow, PromptScore
from edgeseg.prompts import Mask, box_of, first_click, next_click, objects_of
from edgeseg.segment import Segmenter

BAND = 0.02
"""Width of the band of boundary IoU, as a share of the image's diagonal."""

SMALL, LARGE = 32**2, 96**2
"""Bounds in pixels between small, medium and large objects, as in COCO."""


def measure_prompts(
    segmenter: Segmenter,
    split: Split,
    clicks: int = 20,
    min_pixels: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PromptScore, list[ObjectRow]]:
    """Ask for every object of a split that has `min_pixels`, by up to `clicks` clicks and by its box.

    Raises:
        EdgesegError: no image has such an object.
    """
    rows: list[ObjectRow] = []
    edges: list[tuple[float, float]] = []
    disks: list[NDArray[np.float64]] = []
    images = 0
    for index in range(len(split)):
        image, ids = split[index]
        masks = [mask for mask in objects_of(ids) if mask.sum() >= min_pixels]
        if masks:
            images += 1
            ious, boxes, bands = _ask(segmenter, image, masks, ids != VOID, clicks)
            edges += bands
            disks += [disk_ious(mask) for mask in masks]
            rows += [
                ObjectRow(index, int(ids[mask][0]), int(mask.sum()), each, box)
                for mask, each, box in zip(masks, ious, boxes, strict=True)
            ]
        if progress:
            progress(index + 1, len(split))
    if not rows:
        raise EdgesegError(f"no object of at least {min_pixels} pixels to ask for; lower min_pixels or check the data")
    return _score(rows, np.array(edges), np.array(disks), images, clicks), rows


def _ask(
    segmenter: Segmenter, image: NDArray[np.uint8], masks: list[Mask], known: Mask, clicks: int
) -> tuple[list[list[float]], list[float], list[tuple[float, float]]]:
    """IoUs per object and click, IoUs from boxes, boundary IoUs after one click and from the box; of known pixels alone."""
    seen = segmenter.begin(image)
    boxes = np.array([box_of(mask) for mask in masks])
    none = np.zeros((len(masks), 0, 2)), np.zeros((len(masks), 0))
    framed = (segmenter.masks(seen, *none, boxes) > 0) & known
    points = np.array([[first_click(mask, None)] for mask in masks])
    labels = np.ones((len(masks), 1))
    ious: list[list[float]] = [[] for _ in masks]
    first = framed
    for turn in range(clicks):
        made = (segmenter.masks(seen, points, labels, None) > 0) & known
        first = made if turn == 0 else first
        for each, mask, truth in zip(ious, made, masks, strict=True):
            each.append(iou(mask, truth))
        more = [
            next_click(truth, mask) if (truth != mask).any() else (0, 0, -1)
            for truth, mask in zip(masks, made, strict=True)
        ]
        points = np.concatenate([points, [[place[:2]] for place in more]], 1)
        labels = np.concatenate([labels, [[place[2]] for place in more]], 1)
    bands = [(boundary_iou(a, t), boundary_iou(b, t)) for a, b, t in zip(first, framed, masks, strict=True)]
    return ious, [iou(mask, truth) for mask, truth in zip(framed, masks, strict=True)], bands


def _score(
    rows: list[ObjectRow], edges: NDArray[np.float64], disks: NDArray[np.float64], images: int, clicks: int
) -> PromptScore:
    ious = np.array([row.ious for row in rows])
    pixels = np.array([row.pixels for row in rows])
    best = np.maximum.accumulate(ious, 1)  # a person keeps the best so far

    def at(count: int) -> float | None:
        return float(100 * ious[:, count - 1].mean()) if count <= clicks else None

    def sized(members: NDArray[np.bool_]) -> float | None:
        return float(100 * ious[members, 0].mean()) if members.any() else None

    def needed(goal: float) -> tuple[float, float]:
        reached = best >= goal
        never = ~reached.any(1)
        return float(np.where(never, clicks, reached.argmax(1) + 1).mean()), float(100 * never.mean())

    (noc_85, never_85), (noc_90, never_90) = needed(0.85), needed(0.90)
    return PromptScore(
        images=images,
        objects=len(rows),
        clicks=clicks,
        miou_1=float(100 * ious[:, 0].mean()),
        miou_3=at(3),
        miou_5=at(5),
        miou_box=float(100 * np.mean([row.box for row in rows])),
        boundary_iou_1=float(100 * edges[:, 0].mean()),
        boundary_iou_box=float(100 * edges[:, 1].mean()),
        noc_85=noc_85,
        noc_90=noc_90,
        never_85=never_85,
        never_90=never_90,
        small_1=sized(pixels < SMALL),
        medium_1=sized((pixels >= SMALL) & (pixels < LARGE)),
        large_1=sized(pixels >= LARGE),
        disk_1=float(100 * disks.mean(0).max()),
    )


def iou(mask: Mask, truth: Mask) -> float:
    """0..1; two empty masks are equal."""
    either = int((mask | truth).sum())
    return int((mask & truth).sum()) / either if either else 1.0


def boundary_iou(mask: Mask, truth: Mask) -> float:
    """IoU of the bands inside the two outlines, 0..1."""
    width = max(1, round(BAND * float(np.hypot(*truth.shape))))
    return iou(_band(mask, width), _band(truth, width))


def _band(mask: Mask, width: int) -> Mask:
    padded = np.pad(mask.astype(np.uint8), 1)  # the image's edge is an outline too
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & ~inner.astype(bool)


RADII = np.unique(np.geomspace(2, 256, 40).round())
"""Radii of the disks of the baseline, in pixels."""


def disk_ious(mask: Mask) -> NDArray[np.float64]:
    """IoU of the object with a disk around its first click, for each of `RADII`."""
    x, y = first_click(mask, None)
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    far = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    edges = np.concatenate([[0], RADII + 1e-6, [np.inf]])
    everywhere = np.histogram(far, edges)[0].cumsum()[:-1]
    inside = np.histogram(far[mask], edges)[0].cumsum()[:-1]
    return np.asarray(inside / (everywhere + mask.sum() - inside), np.float64)
