"""Random views of a labelled image. The same seed gives the same view, whichever process makes it."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import numpy as np

from edgeseg.data.base import Image, Labels
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID

Place: TypeAlias = tuple[float, float, float, float]
"""`a, b, c, d`: what is at x, y of a view, in pixels from its top left corner, is at a x + b, c y + d of the image; a < 0 is a mirror."""

View: TypeAlias = Callable[[Image, Labels, int], tuple[Image, Labels, Place]]
"""`(image, labels, seed) -> (image, labels, place)`."""

MEAN_COLOUR = (124, 116, 104)
"""The mean of ImageNet, where padding is: about zero once normalised."""


@dataclass(frozen=True)
class Augment:
    """What may happen to a training image.

    crop:   height and width that come out; null keeps those of the image.
    scale:  range of the random resize before the crop; what then is smaller than the crop is padded, labels with void.
    whole:  probability that the whole image is fitted into the crop instead; null: half for promptable data, else never.
    flip:   probability of a horizontal mirror.
    colour: strength of brightness, contrast and saturation changes, an eighth of it for the hue, 0..1.
    blur:   probability of a slight Gaussian blur.
    """

    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    whole: float | None = None
    flip: float = 0.5
    colour: float = 0.4
    blur: float = 0.05

    def __post_init__(self) -> None:
        if self.crop is not None and min(self.crop) < 1:
            raise EdgesegError(f"crop {self.crop} must be a height and a width of at least 1")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise EdgesegError(f"scale {self.scale} must be two positive factors, the smaller first")
        for name in ("whole", "flip", "colour", "blur"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 1:
                raise EdgesegError(f"{name} {getattr(self, name)} must be within 0..1")

    def build(self) -> View:
        """The function that makes views; it can be pickled."""
        return partial(_view, self)


def _view(augment: Augment, image: Image, labels: Labels, seed: int) -> tuple[Image, Labels, Place]:
    size = labels.shape
    height, width = augment.crop or size
    if augment.whole and np.random.default_rng((seed, 1)).random() < augment.whole:
        image, labels = _fit(image, labels, height, width)
        augment = dataclasses.replace(augment, scale=(1.0, 1.0))
    pipeline = _pipeline(augment, height, width)
    # One stream for all steps: set_random_seed would start every step on the same numbers, so that, for one, only
    # mirrored images were ever blurred and the place of the crop followed from the scale.
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    rows, columns = labels.shape
    out = pipeline(image=image, mask=labels, keypoints=np.array([[0, 0], [columns - 1, rows - 1]], np.float32))
    (left, top), (right, bottom) = out["keypoints"].tolist()
    across = _place(left, right, columns, width, size[1] / columns)
    return out["image"], out["mask"], (*across, *_place(top, bottom, rows, height, size[0] / rows))


def _place(first: float, last: float, side: int, crop: int, fitted: float) -> tuple[float, float]:
    """Factor and offset from a view of `crop` pixels back to the image, from where the first and last of `side` pixels went.

    The points are indices of pixels and are moved without regard to the rounded size of the resized image and to the half
    pixel between an index and a place: both are known exactly.
    """
    scale = abs(last - first) / max(1, side - 1)
    ratio = int(side * scale) / side if abs(scale - 1) > 1e-6 else 1.0  # float32 points
    if last < first:
        start = round(first - crop + 1)
        return -fitted / ratio, fitted * (crop + start) / ratio
    return fitted / ratio, -fitted * round(first) / ratio


def _fit(image: Image, labels: Labels, height: int, width: int) -> tuple[Image, Labels]:
    """Both as large as they fit into `height` and `width`."""
    import cv2

    scale = min(height / labels.shape[0], width / labels.shape[1])
    size = max(1, round(labels.shape[1] * scale)), max(1, round(labels.shape[0] * scale))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return (
        np.asarray(cv2.resize(image, size, interpolation=smooth), np.uint8),
        np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8),
    )


@lru_cache(maxsize=32)  # with `crop` null there is one per size of image
def _pipeline(augment: Augment, height: int, width: int) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for a newer version
    import albumentations as steps
    import cv2

    cv2.setNumThreads(0)  # the loader has a process per core already
    low, high = augment.scale
    return steps.Compose(
        [
            steps.ColorJitter(*[augment.colour] * 3, hue=augment.colour / 8, p=float(augment.colour > 0)),
            steps.GaussianBlur(blur_limit=(3, 5), sigma_limit=(0.3, 1.2), p=augment.blur),
            steps.RandomScale(
                (low - 1, high - 1),
                area_for_downscale="image",
                mask_interpolation=cv2.INTER_NEAREST_EXACT,  # the other one lays labels half a pixel beside the picture
                p=float(low != 1 or high != 1),
            ),
            steps.RandomCrop(
                height, width, pad_if_needed=True, pad_position="random", fill=MEAN_COLOUR, fill_mask=VOID
            ),
            steps.HorizontalFlip(p=augment.flip),
        ],
        keypoint_params=steps.KeypointParams("xy", remove_invisible=False),
    )
