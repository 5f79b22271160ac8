"""What the labels of a split are made of, class by class: what a student had to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.data.base import Labels, Split
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID

MOST = 500
"""Images looked at, spread over the split; more change no share by anything that can be seen."""


@dataclass(frozen=True)
class LabelStatistics:
    """Of `images` images, each `[classes]`.

    share:   of the labelled pixels, 0..1.
    seen:    share of the images that the class is in, 0..1.
    region:  mean size of its connected regions (8 neighbours) in pixels; NaN where there is none.
    """

    images: int
    share: NDArray[np.float64]
    seen: NDArray[np.float64]
    region: NDArray[np.float64]


def label_statistics(split: Split, classes: int, progress: Callable[[int, int], None] | None = None) -> LabelStatistics:
    """Count the labels of at most `MOST` images of a split."""
    if not len(split):
        raise EdgesegError("there is no image in the split to count labels of; choose another one")
    chosen = np.linspace(0, len(split) - 1, min(MOST, len(split))).astype(int).tolist()
    pixels, seen, regions = (np.zeros(classes) for _ in range(3))
    for done, index in enumerate(chosen, 1):
        labels = split[index][1]
        counts = np.bincount(labels[labels != VOID], minlength=classes)
        if len(counts) > classes:
            raise EdgesegError(
                f"{split.names[index]} has the label id {len(counts) - 1}, out of range for {classes} classes"
            )
        pixels += counts
        seen += counts > 0
        regions += region_counts(labels, classes)
        if progress:
            progress(done, len(chosen))
    mean = np.divide(pixels, regions, out=np.full(classes, np.nan), where=regions > 0)
    return LabelStatistics(len(chosen), pixels / max(1.0, pixels.sum()), seen / len(chosen), mean)


def region_counts(labels: Labels, classes: int) -> NDArray[np.int64]:
    """How many connected regions of each class there are, `[classes]`."""
    import cv2

    counts = np.zeros(classes, np.int64)
    for index in np.unique(labels[labels != VOID]):
        counts[index] = cv2.connectedComponents((labels == index).astype(np.uint8), connectivity=8)[0] - 1
    return counts
