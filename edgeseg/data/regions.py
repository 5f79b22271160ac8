"""`regions:KIND:PATH`, any semantic data set as objects: the connected regions of its classes, to warm up promptable students.

Not every region is an object: two cars that touch are one, and the sky is one too. What `objects:` has is better, and rarer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.data.base import LOADERS, OBJECT_NAMES, Data, Image, Labels, Split
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.pictures import distinct_colours

SMALLEST = 64
"""Pixels of the smallest region that counts; smaller ones are unknown."""


@dataclass(frozen=True)
class Regions(Split):
    """The images of a semantic split with their regions numbered from the largest on."""

    of: Split
    names: tuple[str, ...]

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        image, labels = self.of[index]
        return image, regions(labels)

    def image(self, index: int) -> Image:
        return self.of.image(index)

    def problems(self) -> list[str]:
        return self.of.problems()


def regions(labels: Labels) -> Labels:
    """Ids `[H, W]` of the regions of `labels [H, W]`: 1 the largest, 255 unknown, small or one too many. None is background."""
    found: list[tuple[int, NDArray[np.bool_]]] = []
    for label in np.unique(labels[labels != VOID]):
        count, of, sizes, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8), connectivity=4)
        found += [
            (int(sizes[i, cv2.CC_STAT_AREA]), of == i)
            for i in range(1, count)
            if sizes[i, cv2.CC_STAT_AREA] >= SMALLEST
        ]
    found.sort(key=lambda one: -one[0])
    ids = np.full_like(labels, VOID)
    for number, (_, mask) in enumerate(found[: VOID - 1], 1):
        ids[mask] = number
    return ids


def load(argument: str) -> Data:
    """The semantic data set of the spec `argument`, as objects."""
    kind, _, rest = argument.partition(":")
    if not kind:
        raise EdgesegError("regions: expected a semantic data set, e.g. regions:camvid:PATH or regions:synthetic")
    data = LOADERS[kind](rest)
    if data.task != "semantic":
        raise EdgesegError(f"regions:{argument}: {kind} has objects already; give --data {argument}")
    return replace(
        data,
        spec=f"regions:{argument}",
        class_names=OBJECT_NAMES,
        palette=distinct_colours(len(OBJECT_NAMES)),
        splits={name: partial(_open, make) for name, make in data.splits.items()},
        task="promptable",
    )


def _open(make: Callable[[], Split]) -> Split:
    split = make()
    return Regions(split, split.names)


LOADERS.add("regions", load)
