"""What images look like on average: enough to see that others come with red and blue swapped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeseg.data.base import Split

GRID = 4
"""A look is the mean of thumbnails of so many pixels each way."""

IMAGES = 64
"""As many images of a split make its look."""

FEWEST = 8
"""Fewer images are too few to judge."""


def look_of(split: Split) -> list[float]:
    """The mean of thumbnails `[4, 4, 3]` of images spread over a split, flat, RGB, 0..255."""
    chosen = np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(int).tolist()
    mean = np.mean([_thumbnail(split[index][0]) for index in chosen], 0)
    return [round(float(value), 2) for value in mean.ravel()]


def swapped(look: Sequence[float], images: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether images have red where those of a look have blue, beyond doubt.

    Each image says how much of the look's red minus blue is in its own, 1 on average where they are of a kind; -1 where the
    channels are swapped. Three standard errors below 0 is beyond doubt.
    """
    if not look or len(images) < FEWEST:
        return False
    usual = np.reshape(look, (GRID, GRID, 3))
    cast = usual[..., 0] - usual[..., 2]
    if not cast.any():
        return False
    own = np.stack([_thumbnail(image) for image in images])
    shares = ((own[..., 0] - own[..., 2]) * cast).sum((1, 2)) / (cast**2).sum()
    return bool(shares.mean() + 3 * shares.std(ddof=1) / len(shares) ** 0.5 < 0)


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    small = cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)
