"""What images look like: enough to see that others come with red and blue swapped, or that they are noise and no pictures."""

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

SMALLEST = 16
"""Pixels of the shorter side of an image below which it is not halved any further."""

NOISE = 0.25
"""The correlation of neighbouring pixels that a picture exceeds in full or at some half of its size.

The least of any image, at its best size: CamVid 0.89 (701 photos), `objects` 0.68 (139), a video 0.98, generated scenes 0.80 and
objects 0.71, photos at 1/64 of their brightness 0.89, at night with 3 photons in the brightest pixel 0.78 and with one 0.37, as thin
lines 0.54, dithered at random 0.76, with noise in half of their pixels 0.63, without anything coarse 0.53, stars 0.50. The most of any
noise: 0.13, also from a JPEG, and the pixels of a photo in random order 0.15.
"""


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


def noise(images: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether most images are noise: neighbouring pixels have nothing to do with each other, neither in full size nor in any half of it.

    Fine texture shows in full size, and what hides under grain when that is averaged away. Most, because there are photos of nothing: 1
    of 556 cut-outs of 64x64, of sky but for a pixel, is noise to this. An image of one colour is none.
    """
    return 2 * sum(map(_is_noise, images)) > len(images)


def _is_noise(image: NDArray[np.uint8]) -> bool:
    import cv2

    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    if not grey.std():
        return False
    while _alike(grey) <= NOISE:
        height, width = (side // 2 for side in grey.shape)
        if min(height, width) < SMALLEST:
            return True
        grey = np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA))
    return False


def _alike(grey: NDArray[np.float32]) -> float:
    """The correlation of pixels with those beside and below them, -1..1; 0 where there is only one colour."""
    middle = grey - grey.mean()
    power = float((middle**2).mean())
    beside, below = (middle[:, 1:] * middle[:, :-1]).mean(), (middle[1:] * middle[:-1]).mean()
    return float(beside + below) / 2 / power if power else 0.0


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    small = cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)
