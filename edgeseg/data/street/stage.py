"""The stage a street is painted on: random choices, light, camera, and a canvas that knows what each pixel shows.

The canvas has twice the size of the image. Its fourth channel numbers the layer a pixel belongs to, one per thing, and
a table says which class, haze and light that layer has. Every second sample of that channel is the label map; the image
is the same canvas under a tent filter centred on the same samples, so labels and image agree to the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Point: TypeAlias = tuple[float, float, float]
"""Metres: right of the street's middle, up, ahead of the camera."""

Colour: TypeAlias = tuple[float, float, float]
Ints: TypeAlias = NDArray[np.int32]
Longs: TypeAlias = NDArray[np.int64]
Shorts: TypeAlias = NDArray[np.int16]
Floats: TypeAlias = NDArray[np.float32]


class Class(NamedTuple):
    """A class: its name, its colour in pictures of labels, and how strong the texture of its things is."""

    name: str
    colour: tuple[int, int, int]
    grain: float


SKY, BUILDING, ROAD, SIDEWALK, VEGETATION, POLE, SIGN, CAR, PERSON, MARKING = range(10)

CLASSES = (
    Class("sky", (70, 130, 180), 0.00),
    Class("building", (110, 70, 70), 0.08),
    Class("road", (128, 64, 128), 0.13),
    Class("sidewalk", (244, 35, 232), 0.13),
    Class("vegetation", (107, 142, 35), 0.30),
    Class("pole", (190, 190, 190), 0.08),
    Class("sign", (220, 220, 0), 0.05),
    Class("car", (0, 0, 142), 0.06),
    Class("person", (220, 20, 60), 0.12),
    Class("marking", (255, 255, 255), 0.20),
)

NEAR = 1.5
"""Metres: what is nearer to the camera is drawn as if it were here."""


class Dice:
    """Random choices that are the same on every platform."""

    def __init__(self, *key: int) -> None:
        self.rng = np.random.default_rng(key)
        self._rolls = self._endless()

    def _endless(self) -> Iterator[float]:
        while True:
            yield from self.rng.random(1024).tolist()

    def between(self, low: float, high: float) -> float:
        """A number in `[low, high)`."""
        return low + (high - low) * next(self._rolls)

    def count(self, low: int, high: int) -> int:
        """A whole number in `[low, high]`."""
        return low + int((high - low + 1) * next(self._rolls))

    def chance(self, probability: float) -> bool:
        """True that often."""
        return next(self._rolls) < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(len(options) * next(self._rolls))]

    def shade(self, colour: Colour, spread: float = 0.15) -> Colour:
        """The colour, a little brighter or darker and a little off in hue."""
        gain = self.between(1 - spread, 1 + spread)
        red, green, blue = (channel * gain * self.between(0.96, 1.04) for channel in colour)
        return red, green, blue


@lru_cache(maxsize=1)
def noise_tile() -> Shorts:
    """Fractal noise `[512, 512]` that repeats at its edges, about 0 +- 64, in integers only."""
    rng = np.random.default_rng(1)
    total = np.zeros((512, 512), np.int64)
    for cell in (2, 4, 8, 16, 32, 64):
        coarse = (rng.random((512 // cell, 512 // cell)) * 512).astype(np.int64) - 256
        octave = coarse.repeat(cell, 0).repeat(cell, 1)
        for axis in (0, 1, 0, 1):
            padded = np.concatenate([octave, octave.take(range(cell), axis)], axis)
            sums = np.cumsum(np.insert(padded, 0, 0, axis), axis)
            octave = (sums.take(range(cell, cell + 512), axis) - sums.take(range(512), axis)) // cell
        total += octave * math.isqrt(cell * 16)
    centred = total - int(total.sum()) // total.size
    spread = math.isqrt(int((centred * centred).sum()) // centred.size)
    tile: Shorts = (centred * 64 // spread).clip(-255, 255).astype(np.int16)
    return tile


def noise(rows: Longs, columns: Longs) -> Shorts:
    """The noise `[len(rows), len(columns)]` at integer places."""
    return noise_tile().take(rows & 511, 0).take(columns & 511, 1)


class Day(NamedTuple):
    """A kind of light. `dark` is how much a cast shadow takes away, `view` how far one sees in metres."""

    sky: tuple[Colour, Colour]  # overhead and at the horizon
    light: Colour
    dark: float
    view: tuple[float, float]
    clouds: float
    glass: Colour


DAYS = (
    # sunny, hazy sun, overcast, white sky, low sun, dusk with lit windows, fog
    Day(((70, 125, 205), (185, 212, 238)), (1.06, 1.02, 0.95), 0.55, (250, 900), 40, (70, 85, 105)),
    Day(((120, 165, 215), (215, 226, 235)), (1.02, 1.00, 0.96), 0.45, (200, 600), 70, (80, 92, 105)),
    Day(((192, 197, 203), (222, 224, 226)), (0.90, 0.93, 0.97), 0.0, (120, 400), 18, (75, 82, 90)),
    Day(((236, 237, 238), (245, 244, 241)), (0.98, 0.98, 0.98), 0.0, (150, 500), 6, (92, 100, 108)),
    Day(((110, 130, 175), (245, 190, 130)), (1.12, 0.96, 0.78), 0.55, (150, 500), 45, (150, 115, 80)),
    Day(((45, 52, 90), (150, 115, 115)), (0.55, 0.58, 0.75), 0.0, (120, 300), 14, (235, 190, 110)),
    Day(((185, 190, 194), (196, 199, 201)), (0.86, 0.88, 0.91), 0.0, (28, 70), 4, (80, 88, 95)),
)


@dataclass(frozen=True)
class Camera:
    """Where the points of the street fall on the canvas. Pixels of the canvas, metres of the street."""

    focal: float
    height: float
    aside: float  # the street's centre, right of the camera
    bend: float  # the street's centre at z lies bend * z * z farther right
    yaw: float
    roll: float
    centre: tuple[float, float]

    def project(self, points: Sequence[Point]) -> Ints:
        """Street points to canvas pixels `[N, 2]`, (column, row)."""
        focal, height, aside, yaw, roll = self.focal, self.height, self.aside, self.yaw, self.roll
        bend, (column, row) = self.bend * self.focal, self.centre
        pixels = []
        for x, y, z in points:
            scale = focal / max(z, NEAR)
            right, down = (x + aside) * scale + bend * z + yaw, (height - y) * scale
            pixels.append((round(column + right - roll * down), round(row + down + roll * right)))
        return np.array(pixels, np.int32)


class Stage:
    """A canvas `[2H, 2W, (red, green, blue, layer)]` and, per layer, what it shows."""

    def __init__(self, dice: Dice, size: tuple[int, int]) -> None:
        rows, columns = 2 * size[0], 2 * size[1]
        self.dice, self.size, self.day = dice, size, dice.pick(DAYS)
        self.camera = Camera(
            focal=dice.between(0.72, 1.0) * min(columns, 2 * rows),
            height=dice.between(1.3, 2.3),
            aside=dice.between(-1.5, 1.5),
            bend=dice.pick((0.0, 1.0, -1.0)) * dice.between(0.0003, 0.0016),
            yaw=dice.between(-0.12, 0.12) * columns,
            roll=dice.between(-0.03, 0.03),
            centre=(columns / 2, dice.between(0.36, 0.52) * rows),
        )
        self.sun = (dice.pick((-1.0, 1.0)) * dice.between(0.2, 1.6), dice.between(-0.8, 0.8))
        self.view = dice.between(*self.day.view)
        self.canvas = np.zeros((rows, columns, 4), np.uint8)
        self.shadow = np.zeros((rows, columns), np.uint8)
        # one entry per layer
        self.labels: list[int] = []
        self.clear: list[float] = []
        self.light: list[float] = []
        self.flat: list[bool] = []

    def layer(self, label: int, z: float = 0.0, light: float = 1.0, flat: bool = False) -> int:
        """The number of a new layer: a thing at z metres in that light, or a piece of flat ground."""
        self.labels.append(label)
        self.clear.append(math.exp(-z / self.view))
        self.light.append(light)
        self.flat.append(flat)
        return len(self.labels) - 1

    def fill(self, layer: int, polygons: Sequence[Ints], colour: Colour) -> None:
        """Paint polygons of pixels; those of one call must not overlap."""
        import cv2

        red, green, blue = (min(max(channel, 0.0), 255.0) for channel in colour)
        cv2.fillPoly(self.canvas, polygons, (red, green, blue, layer))

    def paint(self, layer: int, colour: Colour, *polygons: Sequence[Point]) -> None:
        """Paint polygons of street points; those of one call have equally many points and do not overlap."""
        if polygons:
            pixels = self.camera.project([point for polygon in polygons for point in polygon])
            self.fill(layer, list(pixels.reshape(len(polygons), -1, 2)), colour)

    def hull(self, layer: int, colour: Colour, points: Sequence[Point]) -> None:
        """Paint the outline of a convex body."""
        import cv2

        self.fill(layer, [cv2.convexHull(self.camera.project(points)).astype(np.int32, copy=False)], colour)

    def lit(self, x: float, z: float) -> float:
        """How much light is left where something stands."""
        column, row = self.camera.project([(x, 0, z)])[0]
        rows, columns = self.shadow.shape
        return 1 - 0.75 * float(self.shadow[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]) / 255


def gain(colour: Colour, factor: float) -> Colour:
    """The colour, brighter or darker."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor
