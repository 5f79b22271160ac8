"""Generated objects with exact instance maps: `synthetic_objects` or `synthetic_objects:size=96x128,train=64,...`.

Textured disks, rectangles and triangles that hide one another on a shaded ground; the options are those of `synthetic`.
A picture depends on its seed, split and index, and on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeseg.data.base import LOADERS, OBJECT_NAMES, Data, Image, Labels, Split
from edgeseg.data.synthetic import SPLITS, options
from edgeseg.pictures import distinct_colours

MOST = 6
"""Objects in a picture; there are two at least."""


@dataclass(frozen=True)
class Shapes(Split):
    """The pictures of one split, drawn when asked for. `size` is (height, width) in pixels."""

    seed: int
    split: str
    size: tuple[int, int]
    names: tuple[str, ...]

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        rng = np.random.default_rng((self.seed, SPLITS[self.split], range(len(self))[index], 1))
        height, width = self.size
        image = _texture(rng, self.size, rng.uniform(40, 215, 3), 10)
        ids = np.zeros(self.size, np.uint8)
        for number in range(1, int(rng.integers(2, MOST + 1)) + 1):
            mask = _shape(rng, height, width)
            image[mask] = _texture(rng, self.size, rng.uniform(0, 255, 3), 25)[mask]
            ids[mask] = number
        return image, ids


def _shape(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """A disk, a turned rectangle or a triangle, a fifth to a half of the shorter side across."""
    canvas = np.zeros((height, width), np.uint8)
    centre = (int(rng.integers(width)), int(rng.integers(height)))
    reach = float(min(height, width) * rng.uniform(0.1, 0.25))
    corners = int(rng.choice([0, 3, 4]))
    if corners == 0:
        cv2.circle(canvas, centre, round(reach), 1, cv2.FILLED)
    else:
        angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
        points = np.array(centre) + 1.3 * reach * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(canvas, [points.round().astype(np.int32)], (1,))
    return canvas.astype(bool)


def _texture(rng: np.random.Generator, size: tuple[int, int], colour: NDArray[np.float64], strength: float) -> Image:
    """A colour with a slope of brightness and noise."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
    slope = rng.uniform(-60, 60) * x + rng.uniform(-60, 60) * y
    noise = rng.normal(0, strength, (*size, 1))
    return np.clip(colour + slope[..., None] + noise, 0, 255).astype(np.uint8)


def load(argument: str) -> Data:
    """The data set of `name=value,name=value`; every name has a default."""
    size, seed, names = options("synthetic_objects", argument)
    return Data(
        spec=f"synthetic_objects:{argument}" if argument else "synthetic_objects",
        class_names=OBJECT_NAMES,
        palette=distinct_colours(len(OBJECT_NAMES)),
        splits={split: partial(Shapes, seed, split, size, names[split]) for split in SPLITS},
        fit="train",
        select="val",
        test="test",
        licence="Apache-2.0, generated",
        task="promptable",
    )


LOADERS.add("synthetic_objects", load)
