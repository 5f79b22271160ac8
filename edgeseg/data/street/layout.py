"""How a street is laid out: the sky, the ground, what stands where, and the order it is painted in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from edgeseg.data.street.stage import (
    BUILDING,
    MARKING,
    NEAR,
    ROAD,
    SIDEWALK,
    SKY,
    VEGETATION,
    Colour,
    Dice,
    Point,
    Stage,
    gain,
)
from edgeseg.data.street.things import (
    CIRCLE,
    LEAVES,
    PAINTS,
    WALLS,
    Thing,
    block,
    bollard,
    bush,
    car,
    house,
    lamp,
    person,
    sign,
    signal,
    tree,
)
from edgeseg.metrics import VOID

STATIONS = (1.5, 2.5, 4, 6, 9, 13, 18, 25, 35, 50, 70, 100, 140, 200, 300, 600)
"""Metres ahead at which the edges of the ground are traced along a bend."""

ASPHALT: tuple[Colour, ...] = ((92, 92, 94), (118, 116, 113), (74, 75, 79), (140, 136, 130), (104, 97, 90))
PAVING: tuple[Colour, ...] = (
    (142, 138, 132), (120, 117, 114), (158, 146, 128), (140, 104, 88), (172, 170, 166), (100, 99, 98),
)  # fmt: skip
GRASS: tuple[Colour, ...] = ((84, 112, 52), (112, 122, 62), (66, 92, 46), (138, 130, 84))
LINES: tuple[Colour, ...] = ((225, 225, 220), (205, 203, 195), (178, 176, 170), (214, 182, 90))


def strip(x0: float, x1: float, z0: float = NEAR, z1: float = STATIONS[-1]) -> list[Point]:
    """A band of ground along the street."""
    stations = [z0, *(z for z in STATIONS if z0 < z < z1), z1]
    return [(x0, 0.0, z) for z in stations] + [(x1, 0.0, z) for z in reversed(stations)]


def skyline(stage: Stage) -> None:
    """The sky, and the hills and roofs far behind the street."""
    dice = stage.dice
    high, low = (np.array([*colour, stage.layer(SKY)]) for colour in stage.day.sky)
    share = np.minimum(np.arange(len(stage.canvas)) / stage.camera.centre[1], 1)[:, None]
    stage.canvas.view(np.uint32)[:] = (high + (low - high) * share).astype(np.uint8).view(np.uint32)[:, None]
    for z in (260.0, 190.0):
        wooded = dice.chance(0.5)
        layer, colour = stage.layer(VEGETATION if wooded else BUILDING, z / 2), dice.pick(LEAVES if wooded else WALLS)
        x, outline = -400.0, [(-400.0, -5.0, z)]
        while x < 400:
            y, wide = dice.between(4, 16), dice.between(6, 30)
            outline += [(x, y, z)] if wooded else [(x, y, z), (x + wide, y, z)]
            x += wide
        stage.paint(layer, dice.shade(colour, 0.2), [*outline, (x, -5.0, z)])


def roadside_ground(stage: Stage, side: int, road: float, walk: float) -> None:
    """Kerb, sidewalk with its joints, and what lies behind it, on one side of the road."""
    dice, back = stage.dice, road + walk
    grassy = dice.chance(0.45)
    behind, colour = stage.layer(VEGETATION if grassy else SIDEWALK, flat=True), dice.pick(GRASS if grassy else PAVING)
    stage.paint(behind, dice.shade(colour), strip(side * back, side * 400))
    paving, pitch = dice.shade(dice.pick(PAVING)), dice.pick((0.8, 1.2, 2.0))
    layer, joint = stage.layer(SIDEWALK, flat=True), gain(paving, dice.between(0.78, 0.9))
    stage.paint(layer, paving, strip(side * road, side * back))
    for row in range(round(14 / pitch)):
        z = 3 + row * pitch
        stage.paint(layer, joint, strip(side * road, side * back, z, z + 0.06))
    if dice.chance(0.3):
        verge, grass = min(walk / 2, dice.between(0.6, 2)), stage.layer(VEGETATION, flat=True)
        stage.paint(grass, dice.shade(dice.pick(GRASS)), strip(side * road, side * (road + verge)))
    stage.paint(layer, dice.shade((165, 162, 156), 0.3), strip(side * road, side * (road + 0.2)))


def road_ground(stage: Stage, road: float) -> None:
    """Asphalt with repairs and manholes, and the lines painted on it."""
    dice, layer = stage.dice, stage.layer(ROAD, flat=True)
    asphalt = dice.shade(dice.pick(ASPHALT))
    stage.paint(layer, asphalt, strip(-road, road))
    for _ in range(dice.count(0, 5)):
        x, z = dice.between(-road, road - 1), dice.between(3, 40)
        patch = strip(x, min(x + dice.between(0.4, 3), road), z, z + dice.between(1, 12))
        stage.paint(layer, gain(asphalt, dice.between(0.75, 1.2)), patch)
    for _ in range(dice.count(0, 3)):
        x, z = dice.between(-road + 0.5, road - 0.5), dice.between(4, 25)
        stage.paint(layer, gain(asphalt, 0.6), [(x + 0.35 * a, 0, z + 0.35 * b) for a, b in CIRCLE])
    markings(stage, road)


def markings(stage: Stage, road: float) -> None:
    """Lane lines, edge lines and a zebra crossing; worn or fresh, or none."""
    dice, layer = stage.dice, stage.layer(MARKING, flat=True)
    paint = dice.shade(dice.pick(LINES), 0.1)
    if dice.chance(0.8):
        dash, period = dice.pick(((3.0, 9.0), (2.0, 4.0), (6.0, 9.0), (20.0, 20.0)))
        lanes, start = dice.pick((2, 4)), dice.between(0, period)
        for lane in range(1, lanes):
            x = road * (2 * lane / lanes - 1)
            for step in range(round(70 / period)):
                z = start + step * period
                stage.paint(layer, paint, strip(x - 0.09, x + 0.09, max(z, NEAR), max(z, NEAR) + dash))
    if dice.chance(0.5):
        edge = road - dice.between(0.25, 0.5)
        stage.paint(layer, paint, strip(-edge, 0.14 - edge, NEAR, 80), strip(edge - 0.14, edge, NEAR, 80))
    if dice.chance(0.3):
        z, bars = dice.between(5, 25), range(int(road / 0.55))
        stage.paint(layer, paint, *(strip(x, x + 0.5, z, z + 3) for x in (1.1 * bar + 0.3 - road for bar in bars)))


class Quarter(NamedTuple):
    """How one side of a street is built and used: shares, and spans in metres."""

    built: float
    height: tuple[float, float]
    setback: tuple[float, float]
    trees: float
    bushes: float
    parked: float
    people: float  # metres between them


QUARTERS = (
    Quarter(0.97, (9, 26), (0, 0.5), 0.15, 0.0, 0.55, 7),  # city
    Quarter(0.80, (5, 12), (0, 4), 0.30, 0.2, 0.40, 12),  # town
    Quarter(0.60, (4, 8), (3, 9), 0.45, 0.6, 0.35, 22),  # suburb
    Quarter(0.75, (8, 20), (1, 5), 0.75, 0.1, 0.45, 10),  # avenue
    Quarter(0.12, (4, 9), (6, 20), 0.70, 0.6, 0.15, 18),  # park
    Quarter(0.35, (5, 14), (4, 14), 0.15, 0.3, 0.20, 25),  # outskirts
)

FURNITURE: tuple[tuple[Callable[[Stage, Thing], None], tuple[float, float], tuple[float, float]], ...] = (
    *((lamp, (0.10, 0.20), (4.5, 9.0)),) * 3,
    *((sign, (0.50, 0.95), (2.2, 3.4)),) * 3,
    (signal, (0.30, 0.30), (2.8, 3.8)),
    (bollard, (0.10, 0.20), (0.7, 1.1)),
)
"""What stands at the kerb, as often as it is listed: width and height in metres."""

VEHICLES = (
    *(((1.6, 1.9), (1.4, 1.75), (3.6, 4.8)),) * 5,  # cars
    ((1.8, 2.0), (2.1, 2.6), (4.8, 6.0)),  # vans
    ((2.3, 2.5), (2.8, 3.3), (7.0, 11.0)),  # lorries and buses
)
"""Width, height and length in metres."""


def along(dice: Dice, start: float, end: float, gap: tuple[float, float]) -> Iterator[float]:
    """Distances from start to end, with gaps of that size."""
    z = start + dice.between(0, gap[1])
    while z < end:
        yield z
        z += dice.between(*gap)


def houses(dice: Dice, quarter: Quarter, side: int, front: float) -> Iterator[Thing]:
    """The houses of one side."""
    z = dice.between(-8, 2)
    while z < 120:
        depth = dice.between(6, 20)
        if dice.chance(quarter.built) and z + depth > NEAR + 1:
            x = side * (front + dice.between(*quarter.setback))
            yield Thing(house, z + depth, x, z, dice.between(7, 16), dice.between(*quarter.height), depth)
        z += depth + (dice.between(1, 7) if dice.chance(0.3) else 0)


def roadside(dice: Dice, quarter: Quarter, side: int, road: float, walk: float) -> Iterator[Thing]:
    """What stands between the road and the houses of one side."""
    for z in along(dice, 4, 60, (5, 16)):
        draw, width, height = dice.pick(FURNITURE)
        yield Thing(draw, z, side * (road + dice.between(0.25, 0.6)), z, dice.between(*width), dice.between(*height))
    for z in along(dice, 5, 90, (5, 11)):
        if dice.chance(quarter.trees):
            tall = dice.between(3.5, 10)
            yield Thing(tree, z, side * (road + dice.between(0.8, walk + 4)), z, tall * dice.between(0.45, 0.75), tall)
    for z in along(dice, 4, 50, (2, 6)):
        if dice.chance(quarter.bushes):
            low = dice.between(0.6, 1.8)
            yield Thing(bush, z, side * (road + walk + dice.between(0.4, 3)), z, low * dice.between(1, 2.4), low)
    for z in along(dice, 5, 45, (1, 2 * quarter.people)):
        yield Thing(person, z, side * (road + dice.between(0.4, walk)), z, 0.5, dice.between(1.45, 1.92))


def vehicle(dice: Dice, x: float, z: float, across: bool = False) -> Thing:
    """A vehicle whose near end is at z."""
    width, height, length = (dice.between(*span) for span in dice.pick(VEHICLES))
    width, length = (length, width) if across else (width, length)
    return Thing(car, z + length / 2, x, z, width, height, length)


def traffic(dice: Dice, quarters: Sequence[Quarter], road: float) -> Iterator[Thing]:
    """Vehicles at the kerbs, in their lanes and across the road, and people on it."""
    for side, quarter in zip((-1, 1), quarters, strict=True):
        for z in along(dice, 5, 80, (6.5, 9)):
            if dice.chance(quarter.parked):
                yield vehicle(dice, side * (road - 1.15), z)
        for z in along(dice, 7, 90, (12, 45)):
            yield vehicle(dice, side * road * dice.between(0.25, 0.5), z)
    if dice.chance(0.25):
        yield vehicle(dice, dice.between(-6, 6), dice.between(9, 40), across=True)
    if dice.chance(0.3):
        start = dice.between(6, 25)
        for z in along(dice, start, start + 2, (0.3, 1.2)):
            yield Thing(person, z, dice.between(-road, road), z, 0.5, dice.between(1.3, 1.92))


def cast_shadows(stage: Stage, things: Sequence[Thing]) -> None:
    """Darken the ground where things keep the sun away, and under vehicles always."""
    import cv2

    across, ahead = stage.sun
    for thing in things:
        half = thing.width / 2
        if stage.day.dark:
            behind = (0, thing.side * thing.width) if thing.draw is house else (-half, half)
            low = thing.height * 0.4 if thing.draw is tree else 0.0
            body = [
                (thing.x + x + across * y, 0.0, thing.z + z + ahead * y)
                for x in behind
                for z in (0.0, thing.depth or 0.2)
                for y in (low, thing.height)
            ]
            outline = cv2.convexHull(stage.camera.project(body))
            cv2.fillConvexPoly(stage.shadow, outline, (255 * stage.day.dark,))
        if thing.draw is car:
            foot = strip(thing.x - half - 0.1, thing.x + half + 0.1, thing.z - 0.2, thing.z + thing.depth)
            cv2.fillPoly(stage.shadow, [stage.camera.project(foot)], (165,))


def bonnet(stage: Stage) -> None:
    """The bonnet of the camera's own car, void."""
    dice, (rows, columns) = stage.dice, stage.shadow.shape
    colour, layer = dice.shade(dice.pick(PAINTS)), stage.layer(VOID)
    rise, middle = dice.between(0.04, 0.11) * rows, dice.between(0.4, 0.6) * columns
    for lift, tone in ((1.0, 0.75), (0.8, 1.0), (0.35, 0.8)):
        arc = [(round(middle + columns * 0.62 * a), round(rows + 4 - lift * rise * b)) for a, b in CIRCLE[:7]]
        stage.fill(layer, [np.array(arc, np.int32)], gain(colour, tone))


MOST = 115
"""Things in a scene: each takes at most two of the 256 layers of a canvas, and the ground takes the rest."""


def draw_street(stage: Stage) -> None:
    """Lay a street out and paint it from far to near."""
    dice = stage.dice
    road, quarters = dice.between(3.0, 7.0), (dice.pick(QUARTERS), dice.pick(QUARTERS))
    skyline(stage)
    things = list(traffic(dice, quarters, road))
    for side, quarter in zip((-1, 1), quarters, strict=True):
        walk = dice.between(1.5, 4.5)
        roadside_ground(stage, side, road, walk)
        things += [*houses(dice, quarter, side, road + walk), *roadside(dice, quarter, side, road, walk)]
    road_ground(stage, road)
    if dice.chance(0.3):
        z = dice.between(45, 110)
        things = [thing for thing in things if thing.order < z]
        things.append(Thing(block, z, dice.between(-10, 10), z, dice.between(25, 60), dice.between(8, 24)))
    things = sorted(things, key=lambda thing: -thing.order)[-MOST:]
    cast_shadows(stage, things)
    for thing in things:
        thing.draw(stage, thing)
    if dice.chance(0.2):
        bonnet(stage)
