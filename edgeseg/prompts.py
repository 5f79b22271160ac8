"""A person who points at objects, simulated: the first click, the correction of what is wrong, a box drawn by hand.

Points are (x, y) at the middle of a pixel; boxes (x1, y1, x2, y2) reach from the left edge of the first pixel to the right
edge of the last. Everything is a function of its arguments and of the generator given.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.metrics import VOID

Mask = NDArray[np.bool_]
"""`[H, W]`."""

NOISE = 20.0
"""Most pixels that a corner of a box drawn by hand is off (Kirillov et al., arXiv 2304.02643)."""


def objects_of(ids: NDArray[np.uint8]) -> list[Mask]:
    """The masks of an instance id map (0 background, 255 unknown), the largest first."""
    counts = np.bincount(ids.ravel(), minlength=VOID + 1)
    counts[[0, VOID]] = 0
    return [ids == index for index in np.argsort(-counts, kind="stable") if counts[index]]


def first_click(mask: Mask, rng: np.random.Generator | None) -> tuple[float, float]:
    """A point inside the object: the one farthest from its edge, or with a generator a random one, likelier the farther."""
    depth, (top, left) = _depth(mask)
    if rng is None:
        place = int(depth.argmax())
    else:
        total = depth.ravel().cumsum(dtype=np.float64)
        place = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    row, column = divmod(min(place, depth.size - 1), depth.shape[1])
    return float(left + column) + 0.5, float(top + row) + 0.5


def next_click(truth: Mask, mask: Mask) -> tuple[float, float, int]:
    """Where a person would correct: the middle of the largest wrong region, and 1 if it was missed or 0 if it is too much.

    The usual protocol of interactive segmentation (Xu et al., arXiv 1603.04042; Sofiiuk et al., arXiv 2102.06583).
    """
    best: tuple[int, Mask, int] | None = None
    for label, wrong in ((1, truth & ~mask), (0, mask & ~truth)):
        count, regions, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=8)
        if count > 1:
            index = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
            area = int(stats[index, cv2.CC_STAT_AREA])
            if best is None or area > best[0]:
                best = area, regions == index, label
    if best is None:
        raise ValueError("nothing to correct: the mask is right")
    return *first_click(best[1], None), best[2]


def box_of(
    mask: Mask, jitter: float = 0.0, rng: np.random.Generator | None = None
) -> tuple[float, float, float, float]:
    """The box around an object; with `jitter`, each side is off by noise of that share of the box, 20 pixels at most."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
    if rng is not None and jitter:
        sides = np.tile(box[2:] - box[:2], 2)
        box += np.clip(rng.normal(0, jitter * sides), -NOISE, NOISE)
        height, width = mask.shape
        box = np.clip(box, 0, [width, height, width, height])
        box[2:] = np.maximum(box[2:], np.minimum(box[:2] + 1, [width, height]))
        box[:2] = np.minimum(box[:2], box[2:] - 1)
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def targets(
    ids: NDArray[np.uint8], per_image: int, rng: np.random.Generator, merge: float = 0.0, min_pixels: int = 1
) -> NDArray[np.float32]:
    """Objects to learn from, `[B * per_image, H, W]` of 0 and 1, out of `ids [B, H, W]`; those of an image follow each other.

    merge: share of the objects that are joined with one they touch, so that a click on the shirt can mean the whole
           person, and with the ball (Varadarajan et al.: SqueezeSAM, arXiv 2312.06736).

    An image with fewer objects repeats some; one without any gives empty masks.
    """
    made = np.zeros((len(ids) * per_image, *ids.shape[1:]), np.float32)
    for image, one in enumerate(ids):
        counts = np.bincount(one.ravel(), minlength=VOID + 1)
        counts[[0, VOID]] = 0
        there = np.flatnonzero(counts >= min_pixels)
        if not len(there):
            continue
        for turn, index in enumerate(rng.choice(there, per_image, replace=len(there) < per_image)):
            mask = one == index
            if rng.random() < merge:
                near = touching(one, mask)
                if len(near):
                    mask = mask | (one == rng.choice(near))
            made[image * per_image + turn] = mask
    return made


def touching(ids: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
    """The ids of the objects that are next to a mask, a pixel between them at most."""
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~mask
    near = np.unique(ids[rim])
    return near[(near != 0) & (near != VOID)]


def _depth(mask: Mask) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The distance of each pixel of the object to its edge, the image's edge included, cut out; and where that was."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no inside")
    top, left = int(rows[0]), int(columns[0])
    inner = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(inner, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.asarray(depth, np.float32), (top, left)
