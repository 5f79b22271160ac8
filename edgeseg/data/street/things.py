"""What stands in a street: houses, vehicles, people, posts, signs and plants, each drawn as one layer or two."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from edgeseg.data.street.stage import (
    BUILDING,
    CAR,
    NEAR,
    PERSON,
    POLE,
    SIGN,
    VEGETATION,
    Colour,
    Longs,
    Point,
    Shorts,
    Stage,
    gain,
    noise,
)


class Thing(NamedTuple):
    """Something that stands on the ground. Metres; x is its middle, or of a house its wall; z is its near end."""

    draw: Callable[[Stage, Thing], None]
    order: float  # things are painted from the highest to the lowest
    x: float
    z: float
    width: float
    height: float
    depth: float = 0.0

    @property
    def side(self) -> int:
        """1 right of the street's middle, else -1."""
        return 1 if self.x > 0 else -1


CIRCLE = tuple(
    (a / 70, b / 70)
    for a, b in (
        (70, 0), (61, 35), (35, 61), (0, 70), (-35, 61), (-61, 35),
        (-70, 0), (-61, -35), (-35, -61), (0, -70), (35, -61), (61, -35),
    )
)  # fmt: skip
"""A round dozen of points."""


def disc(x: float, y: float, z: float, radius: float) -> list[Point]:
    """A circle that faces the camera."""
    return [(x + radius * a, y + radius * b, z) for a, b in CIRCLE]


def upright(x0: float, x1: float, y0: float, y1: float, z: float) -> list[Point]:
    """A rectangle that faces the camera."""
    return [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]


WALLS: tuple[Colour, ...] = (
    (176, 152, 126), (150, 98, 78), (205, 198, 184), (128, 122, 116), (232, 230, 226), (118, 86, 66), (190, 176, 120),
    (158, 164, 168), (92, 96, 102), (196, 140, 112), (150, 160, 140), (136, 128, 120),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((138, 76, 60), (88, 84, 84), (112, 92, 78), (70, 74, 84))


Place: TypeAlias = Callable[[float, float], Point]
"""Metres (along a wall, up) to a point of the street."""


def panes(place: Place, along: tuple[float, float], up: tuple[float, float]) -> list[Point]:
    """A rectangle of a wall."""
    return [place(along[0], up[0]), place(along[1], up[0]), place(along[1], up[1]), place(along[0], up[1])]


def face(stage: Stage, layer: int, place: Place, length: float, height: float, wall: Colour) -> None:
    """A wall, with windows where it is seen well enough."""
    dice = stage.dice
    outline = stage.camera.project(panes(place, (0, length), (0, height)))
    left, right = int(outline[:, 0].min()), int(outline[:, 0].max())
    storey, bay = dice.between(2.8, 3.6), dice.between(1.8, 4.0)
    floors, bays = min(int(height / storey), 12), min(int(length / bay), 10)
    if right < 0 or left >= stage.canvas.shape[1]:
        return
    stage.fill(layer, [outline], wall)
    if floors and bays and right - left > 9 * bays:
        margin = (length - bays * bay) / 2
        windows(stage, layer, place, wall, [margin + bay * b for b in range(bays)], [storey * f for f in range(floors)])


def windows(stage: Stage, layer: int, place: Place, wall: Colour, bays: list[float], floors: list[float]) -> None:
    """Ledges, framed windows, and shops or a door at the bottom; `bays` and `floors` say where each begins."""
    dice = stage.dice
    bay = bays[1] - bays[0] if len(bays) > 1 else 2.0
    end, storey = bays[-1] + bay, 3.0
    glass, trim = dice.shade(stage.day.glass, 0.25), dice.pick((gain(wall, 0.8), gain(wall, 1.2), (220, 218, 212)))
    wide, tall = dice.pick(((0.45, 1.5), (0.6, 1.6), (0.9, 1.4), (0.35, 1.9)))
    shops, ledges, frames = dice.chance(0.45), dice.chance(0.5), dice.pick((0.0, 0.12, 0.12))
    low, high = bay * (1 - wide) / 2, bay * (1 + wide) / 2
    spots = [(x, y + 0.8) for x in bays for y in floors[1 if shops else 0 :]]
    if ledges:
        stage.paint(layer, trim, *(panes(place, (bays[0], end), (y - 0.12, y + 0.12)) for y in floors[1:]))
    if frames:
        stage.paint(
            layer,
            trim,
            *(panes(place, (x + low - frames, x + high + frames), (y - frames, y + tall + frames)) for x, y in spots),
        )
    stage.paint(layer, glass, *(panes(place, (x + low, x + high), (y, y + tall)) for x, y in spots))
    if shops:
        stage.paint(layer, gain(glass, 0.7), *(panes(place, (x + 0.2, x + bay - 0.2), (0.3, 2.3)) for x in bays))
        stage.paint(layer, dice.shade(dice.pick(PAINTS)), panes(place, (bays[0], end), (2.3, 0.95 * storey)))
    else:
        door = dice.pick(bays) + 0.3
        stage.paint(layer, dice.shade((86, 66, 52), 0.4), panes(place, (door, door + 1.1), (0, 2.2)))


def house(stage: Stage, thing: Thing) -> None:
    """A house along the street: its wall on the street, the one towards the camera, and its roof."""
    dice, x, side, top = stage.dice, thing.x, thing.side, thing.height
    wall = dice.shade(dice.pick(WALLS))
    towards_sun = stage.sun[0] * side > 0  # shadows that fall to the right leave the walls on the right in the light
    street_wall = gain(wall, 1 + stage.day.dark * (0.3 if towards_sun else -0.3))
    layer = stage.layer(BUILDING, thing.z + thing.depth / 3)
    near, far = max(thing.z, NEAR), thing.z + thing.depth
    if dice.chance(0.45):
        ridge = top + dice.between(1, 3.5)
        stage.paint(layer, gain(wall, 0.85), [(x, top, near), (x + side * 4, ridge, near), (x + side * 8, top, near)])
        roof = [(x + side * 4, ridge, near), (x + side * 4, ridge, far), (x, top, far), (x, top, near)]
        stage.paint(layer, dice.shade(dice.pick(ROOFS), 0.25), roof)
    if thing.z > 4:
        face(stage, layer, lambda a, y: (x + side * a, y, near), thing.width, top, gain(wall, 0.85))
    face(stage, layer, lambda a, y: (x, y, near + a), far - near, top, street_wall)


def block(stage: Stage, thing: Thing) -> None:
    """A house that closes the street."""
    wall = stage.dice.shade(stage.dice.pick(WALLS))
    left = thing.x - thing.width / 2
    face(stage, stage.layer(BUILDING, thing.z), lambda a, y: (left + a, y, thing.z), thing.width, thing.height, wall)


PAINTS: tuple[Colour, ...] = (
    (120, 122, 126), (168, 170, 172), (84, 86, 90), (230, 230, 228), (36, 38, 42), (160, 32, 34), (44, 72, 130),
    (70, 96, 62), (196, 170, 60), (130, 108, 86), (190, 192, 196), (60, 64, 70),
)  # fmt: skip


RUBBER, HUB = (21, 21, 23), (122, 124, 128)


def car(stage: Stage, thing: Thing) -> None:
    """A car, a van or a bus, along the street or across it."""
    dice, top = stage.dice, thing.height
    x0, x1, z0, z1 = thing.x - thing.width / 2, thing.x + thing.width / 2, thing.z, thing.z + thing.depth
    layer = stage.layer(CAR, z0, stage.lit(thing.x, z0))
    paint, glass = dice.shade(dice.pick(PAINTS)), dice.shade(gain(stage.day.glass, 0.55), 0.3)
    tall, lengthwise = top > 2, thing.depth > thing.width
    belt = top * (0.45 if tall else 0.58)
    dx, dz = (0.0, 0.0) if tall else (0.12, 0.5) if lengthwise else (0.5, 0.12)

    def ring(y: float, dx: float = 0.0, dz: float = 0.0) -> list[Point]:
        return [(x, y, z) for x in (x0 + dx, x1 - dx) for z in (z0 + dz, z1 - dz)]

    stage.hull(layer, RUBBER, [*ring(0.0, 0.1, 0.1), *ring(0.4, 0.1, 0.1)])
    stage.hull(layer, gain(paint, 0.82), [*ring(0.28), *ring(belt)])
    stage.hull(layer, glass, [*ring(belt), *ring(top, dx, dz)])
    stage.hull(layer, gain(paint, 1.15), [*ring(top - 0.1, dx, dz), *ring(top, dx, dz)])
    stage.paint(layer, gain(paint, 0.95), upright(x0, x1, 0.28, top if tall else belt, z0))
    if tall:
        stage.paint(layer, glass, upright(x0 + 0.15, x1 - 0.15, top * 0.5, top * 0.88, z0))
    if z0 > 50:
        return
    if lengthwise:
        lights(stage, layer, thing, belt)
    wheels(stage, layer, thing)


def lights(stage: Stage, layer: int, thing: Thing, belt: float) -> None:
    """Tyres, lamps and number plate of the front or the back."""
    x0, x1, z = thing.x - thing.width / 2, thing.x + thing.width / 2, thing.z
    lamp = stage.dice.pick(((175, 28, 26), (140, 30, 30), (235, 232, 214)))
    for colour, inset, wide, low, high in (
        (RUBBER, 0.05, 0.25, 0.0, 0.35),
        (lamp, 0.08, 0.32, belt - 0.3, belt - 0.12),
    ):
        left, right = x0 + inset, x1 - inset
        stage.paint(layer, colour, upright(left, left + wide, low, high, z), upright(right - wide, right, low, high, z))
    stage.paint(layer, (200, 200, 190), upright(thing.x - 0.26, thing.x + 0.26, 0.42, 0.55, z))


def wheels(stage: Stage, layer: int, thing: Thing) -> None:
    """Two wheels on the long side, where it is seen."""
    camera, half = stage.camera, thing.width / 2
    aside = thing.x + camera.aside + camera.bend * thing.z * thing.z
    inner = thing.x - math.copysign(half, aside)
    for radius, colour in ((0.33, RUBBER), (0.18, HUB)):
        for end in (0.19, 0.81):
            if thing.width > thing.depth:
                stage.paint(layer, colour, disc(thing.x + (2 * end - 1) * half, 0.33, thing.z, radius))
            elif abs(aside) > half:
                z = thing.z + end * thing.depth
                stage.paint(layer, colour, [(inner, 0.33 + radius * b, z + radius * a) for a, b in CIRCLE])


SKIN: tuple[Colour, ...] = ((224, 180, 150), (198, 150, 118), (140, 98, 72), (92, 64, 50))
CLOTH: tuple[Colour, ...] = (
    (40, 42, 50), (70, 78, 96), (180, 178, 172), (150, 40, 44), (60, 84, 140), (96, 110, 74), (120, 96, 70),
    (220, 216, 208), (200, 150, 60), (110, 110, 112),
)  # fmt: skip
HAIR: tuple[Colour, ...] = ((40, 32, 28), (110, 80, 50), (170, 165, 160), (60, 50, 90))


def person(stage: Stage, thing: Thing) -> None:
    """Somebody who stands or walks."""
    dice, x, z, tall = stage.dice, thing.x, thing.z, thing.height
    layer = stage.layer(PERSON, z, stage.lit(x, z))
    step, wide, swing = dice.between(0, 0.2) * tall, dice.between(0.11, 0.15) * tall, dice.between(-0.1, 0.1) * tall
    hip, neck, head = 0.48 * tall, 0.83 * tall, 0.07 * tall
    legs, coat = dice.shade(dice.pick(CLOTH)), dice.shade(dice.pick(CLOTH))

    def taper(top: float, half_top: float, y1: float, low: float, half_low: float, y0: float) -> list[Point]:
        return [(low - half_low, y0, z), (low + half_low, y0, z), (top + half_top, y1, z), (top - half_top, y1, z)]

    for foot, tone in ((step, 0.8), (-step, 1.0)):
        stage.paint(layer, gain(legs, tone), taper(x, 0.07, hip, x + foot, 0.07, 0.0))
    for hand, tone in ((swing, 0.75), (-swing, 0.9)):
        shoulder = x + math.copysign(wide * 0.85, hand)
        stage.paint(layer, gain(coat, tone), taper(shoulder, 0.05, neck, shoulder + hand, 0.04, hip))
    hem = hip - dice.pick((0.0, 0.05, 0.2)) * tall
    stage.paint(layer, coat, taper(x, wide, neck, x, wide * 0.8, hem))
    stage.paint(layer, dice.shade(dice.pick(SKIN)), disc(x, 0.915 * tall, z, head))
    stage.paint(layer, dice.shade(dice.pick(HAIR), 0.3), taper(x, head * 0.7, tall, x, head, 0.93 * tall))
    if dice.chance(0.25):
        bag = x + dice.pick((-1, 1)) * wide * 1.2
        stage.paint(layer, dice.shade(dice.pick(PAINTS)), upright(bag - 0.12, bag + 0.12, hip - 0.15, hip + 0.2, z))


METAL: tuple[Colour, ...] = ((120, 122, 124), (70, 74, 76), (168, 170, 172), (96, 78, 60), (52, 66, 58), (46, 46, 50))


def rod(stage: Stage, layer: int, colour: Colour, start: Point, end: Point, thick: float) -> None:
    """A straight bar, never thinner than one pixel of the image."""
    (c0, r0), (c1, r1) = stage.camera.project([start, end]).tolist()
    wide = max(2, round(thick * stage.camera.focal / max(start[2], NEAR)))
    dc, dr = (wide - 1, 0) if abs(r1 - r0) > abs(c1 - c0) else (0, wide - 1)  # the last pixel is painted too
    c0, c1, r0, r1 = c0 - dc // 2, c1 - dc // 2, r0 - dr // 2, r1 - dr // 2
    stage.fill(layer, [np.array([(c0, r0), (c0 + dc, r0 + dr), (c1 + dc, r1 + dr), (c1, r1)], np.int32)], colour)


def post(stage: Stage, thing: Thing, thick: float) -> tuple[int, Colour]:
    """An upright post: its layer and colour."""
    x, z = thing.x, thing.z
    layer, metal = stage.layer(POLE, z, stage.lit(x, z)), stage.dice.shade(stage.dice.pick(METAL), 0.25)
    rod(stage, layer, metal, (x, 0, z), (x, thing.height, z), thick)
    return layer, metal


def lamp(stage: Stage, thing: Thing) -> None:
    """A street lamp with its arm over the road, or a bare mast."""
    layer, metal = post(stage, thing, thing.width)
    if stage.dice.chance(0.7):
        z, top, tip = thing.z, thing.height, thing.x - thing.side * stage.dice.between(0.6, 2.2)
        rod(stage, layer, metal, (thing.x, top, z), (tip, top + 0.2, z), thing.width * 0.7)
        stage.paint(layer, gain(metal, 1.2), upright(tip - 0.35, tip + 0.35, top + 0.1, top + 0.3, z))


def bollard(stage: Stage, thing: Thing) -> None:
    """A short post at the kerb."""
    post(stage, thing, thing.width)


Outline: TypeAlias = tuple[tuple[float, float], ...]
TRIANGLE: Outline = ((-1, -0.8), (1, -0.8), (0, 1))
SQUARE: Outline = ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9))
BOARD: Outline = ((-1.7, -0.9), (1.7, -0.9), (1.7, 0.9), (-1.7, 0.9))
OCTAGON: Outline = ((1, 0.4), (0.4, 1), (-0.4, 1), (-1, 0.4), (-1, -0.4), (-0.4, -1), (0.4, -1), (1, -0.4))

PLATES: tuple[tuple[Outline, Colour, Colour], ...] = (
    (CIRCLE, (186, 30, 36), (232, 230, 226)),
    (TRIANGLE, (186, 30, 36), (232, 230, 226)),
    (CIRCLE, (30, 70, 150), (225, 228, 232)),
    (SQUARE, (30, 70, 150), (36, 80, 165)),
    (BOARD, (30, 70, 150), (36, 80, 165)),
    (OCTAGON, (176, 28, 34), (196, 60, 62)),
    (TRIANGLE, (220, 180, 40), (40, 40, 40)),
    (SQUARE, (222, 222, 218), (220, 180, 40)),
    (BOARD, (36, 100, 66), (42, 112, 74)),
    (BOARD, (206, 206, 202), (150, 150, 150)),
)
"""Outline, rim and middle."""


def sign(stage: Stage, thing: Thing) -> None:
    """One or two traffic signs on a post."""
    dice, z, radius = stage.dice, thing.z, thing.width / 2
    post(stage, thing, 0.08)
    layer = stage.layer(SIGN, z, stage.lit(thing.x, z))
    for number in range(dice.count(1, 2)):
        outline, rim, middle = dice.pick(PLATES)
        y = thing.height - radius - number * (thing.width + 0.08)
        for reach, colour in ((radius, rim), (radius * 0.68, middle)):
            stage.paint(layer, dice.shade(colour), [(thing.x + reach * a, y + reach * b, z) for a, b in outline])


def signal(stage: Stage, thing: Thing) -> None:
    """Traffic lights on their post; the box with the lights is a sign."""
    dice, x, z, top = stage.dice, thing.x, thing.z, thing.height
    post(stage, thing, 0.14)
    layer, burning = stage.layer(SIGN, z, stage.lit(x, z)), dice.count(0, 2)
    case = dice.pick(((30, 32, 32), (48, 52, 44), (190, 160, 50)))
    stage.paint(layer, case, upright(x - 0.18, x + 0.18, top - 0.95, top, z))
    for number, colour in enumerate(((235, 50, 40), (240, 180, 50), (70, 225, 140))):
        stage.paint(
            layer, gain(colour, 1.0 if number == burning else 0.25), disc(x, top - 0.17 - 0.3 * number, z, 0.11)
        )


LEAVES: tuple[Colour, ...] = (
    (58, 88, 38), (84, 112, 48), (46, 70, 42), (112, 118, 56), (150, 106, 46), (134, 70, 42), (92, 84, 54),
)  # fmt: skip


def spread(rows: Longs, columns: Longs) -> Shorts:
    """The sum `[len(rows), len(columns)]` of a value per row and a value per column."""
    return rows.astype(np.int16)[:, None] + columns.astype(np.int16)


def crown(stage: Stage, layer: int, leaf: Colour, middle: Point, wide: float, tall: float, cone: bool = False) -> None:
    """A ragged mass of leaves around a point, `wide` and `tall` metres from its middle to its edges."""
    column, row = stage.camera.project([middle])[0].tolist()
    per_metre = stage.camera.focal / max(middle[2], NEAR)
    rx, ry = max(round(wide * per_metre), 2), max(round(tall * per_metre), 2)
    rows, columns = stage.shadow.shape
    y = np.arange(max(row - ry, 0), min(row + ry + 1, rows), dtype=np.int64) - row
    x = np.arange(max(column - rx, 0), min(column + rx + 1, columns), dtype=np.int64) - column
    if not (y.size and x.size):
        return
    place, aside = stage.dice.count(0, 511), stage.dice.count(0, 511)
    lumps = noise(y * 90 // ry + place, x * 90 // rx + aside)
    texture = lumps + noise(y * 3 // 2 + aside, x * 3 // 2 + place)
    if cone:
        reach = spread(-680 * (y + ry) // ry, 1800 * abs(x) // rx)
    else:
        reach = spread(800 * y * y // (ry * ry) - 600, 800 * x * x // (rx * rx))
    sunny = np.clip(texture - spread(90 * y // ry - 150, int(60 * stage.sun[0]) * x // rx), 0, 299) // 75
    tones = np.array([[*(min(round(c * g), 255) for c in leaf), layer] for g in (0.45, 0.75, 1.0, 1.3)], np.uint8)
    window = stage.canvas[row + y[0] : row + y[-1] + 1, column + x[0] : column + x[-1] + 1]
    pixels, colours = window.view(np.uint32)[..., 0], tones.view(np.uint32)[:, 0]
    np.copyto(pixels, colours.take(sunny), where=reach + lumps + texture < -60)


def tree(stage: Stage, thing: Thing) -> None:
    """A brown trunk with a cone or one to three crowns."""
    dice, x, z, top = stage.dice, thing.x, thing.z, thing.height
    layer = stage.layer(VEGETATION, z, (1 + stage.lit(x, z)) / 2)
    leaf, cone = dice.shade(dice.pick(LEAVES), 0.25), dice.chance(0.2)
    bark = dice.shade((88, 72, 58), 0.3)
    rod(stage, layer, bark, (x, 0, z), (x, top * 0.6, z), top * dice.between(0.03, 0.055))
    if cone:
        crown(stage, layer, leaf, (x, top * 0.55, z), thing.width / 2, top * 0.48, cone)
        return
    crown(stage, layer, leaf, (x, top * 0.66, z), thing.width / 2, top * 0.36)
    for _ in range(dice.count(0, 2)):
        beside, up = dice.between(-0.3, 0.3) * thing.width, dice.between(0.5, 0.85) * top
        crown(stage, layer, dice.shade(leaf, 0.1), (x + beside, up, z), thing.width * 0.35, top * 0.22)


def bush(stage: Stage, thing: Thing) -> None:
    """A bush."""
    layer, leaf = stage.layer(VEGETATION, thing.z, stage.lit(thing.x, thing.z)), stage.dice.pick(LEAVES)
    middle = (thing.x, thing.height * 0.42, thing.z)
    crown(stage, layer, stage.dice.shade(leaf, 0.25), middle, thing.width / 2, thing.height * 0.6)
