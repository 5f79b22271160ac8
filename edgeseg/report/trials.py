"""The chart of a search: what each artifact loses, against how long it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from markupsafe import Markup

from edgeseg.drops import Drop
from edgeseg.quantize.findings import Time, Trial, called
from edgeseg.report.charts import LETTER, PHONE, Axis, Box, Svg, front, grid, overlap, place, spot, stairs

Known: TypeAlias = tuple[Trial, Drop, Time]
"""A trial that was scored and timed."""

Spot: TypeAlias = tuple[float, float]

NEAR = 18
"""A name further from its point than so many px has a line to it; so has one that is nearer to another point."""


def known(tried: Sequence[Trial]) -> list[Known]:
    """The trials that can be drawn."""
    return [(one, one.drop, one.time) for one in tried if one.drop is not None and one.time is not None]


def trials(drawn: Sequence[Known], chosen: int | None, max_drop: float, width: int) -> Markup:
    """The drop in mIoU of trials against their time, both with intervals; top left is best, as on the chart of all artifacts."""
    height = 320 if width == PHONE else 400
    svg = Svg(width, height, "Drop in mIoU against time: " + "; ".join(_say(*entry) for entry in drawn))
    low, high = min(time.low for *_, time in drawn), max(time.high for *_, time in drawn)
    x = Axis(low / 1.2, high * 1.2, 44, width - 12, log=True)
    y = _lost(drawn, max_drop, 26, height - 42)
    grid(svg, x, y, "time / float's (log)", "mIoU lost, points")
    svg.line(x.start, y(max_drop), x.end, y(max_drop), "gate")
    sound = [entry for entry in drawn if entry[0].failed is None]
    best = front(sound, lambda entry: (entry[2].ratio, -entry[1].points))
    stairs(svg, [(x(time.ratio), y(drop.points)) for _, drop, time in best])
    spots = [(x(time.ratio), y(drop.points)) for _, drop, time in drawn]
    limit = _allowed(svg, x, y(max_drop), max_drop, spots)
    colours = ["good" if one.number == chosen else "bad" if one.failed else "c1" for one, *_ in drawn]
    whiskers = [box for _, drop, time in drawn for box in _whiskers(x, y, drop, time)]
    frame = (x.start, y.start - 12, x.end, y.end)
    names = list(_names([one for one, *_ in drawn], spots, frame, limit, whiskers))
    for (_, box), (left, top) in zip(names, spots, strict=True):
        if _gap(box, (left, top)) > min(NEAR, *(_gap(box, one) for one in spots)):
            svg.line(left, top, min(max(left, box[0]), box[2]), min(max(top, box[1]), box[3]), "axis")
    for (trial, drop, time), (left, top), colour in zip(drawn, spots, colours, strict=True):
        svg.line(x(time.low), top, x(time.high), top, f"whisker {colour}")
        svg.line(left, y(drop.low), left, y(drop.high), f"whisker {colour}")
        if trial.number == chosen:
            svg.circle(left, top, 10, f"round {colour}")
        svg.circle(left, top, 6, f"{'ring' if trial.failed else 'spot'} {colour}")
    for (name, box), colour in zip(names, colours, strict=True):
        svg.text(box[0], box[1] + 11, name, kind=f"name halo ink {colour}")
    return svg.markup()


def _lost(drawn: Sequence[Known], max_drop: float, top: float, bottom: float) -> Axis:
    """The axis of drops, the smallest at the top; bent where one of them would press all others together."""
    low = min([0.0, *(drop.low for _, drop, _ in drawn)])
    high = max([max_drop, *(drop.high for _, drop, _ in drawn)])
    unit = max(max_drop, 0.1)
    if high - low <= 8 * unit:
        room = max(0.05, 0.1 * (high - low))
        return Axis(low - room, high + room, top, bottom)
    return Axis(low - 0.4 * max(unit, -low), high + 0.4 * max(unit, high), top, bottom, even=unit)


def _allowed(svg: Svg, x: Axis, level: float, max_drop: float, spots: Sequence[Spot]) -> Box:
    """The words at the line of the allowed drop, at the end where fewer points are; the place they take."""
    words = f"allowed {max_drop:g} points"
    wide, base = LETTER * len(words), level - 6
    right, left = (_box(words, at, base) for at in (x.end - wide, x.start + 6))
    best = min(right, left, key=lambda box: overlap(box, [spot(*one) for one in spots]))
    svg.text(
        x.end if best is right else left[0], base, words, kind="tick halo", anchor="end" if best is right else "start"
    )
    return best


def _whiskers(x: Axis, y: Axis, drop: Drop, time: Time) -> list[Box]:
    """What both intervals of a trial cover."""
    left, top = x(time.ratio), y(drop.points)
    return [(x(time.low), top - 1, x(time.high), top + 1), (left - 1, y(drop.low), left + 1, y(drop.high))]


def _names(
    tried: Sequence[Trial], spots: Sequence[Spot], frame: Box, limit: Box, lines: Sequence[Box]
) -> Iterator[tuple[str, Box]]:
    """What trials are called and where: in words if all have room beside their points, else shorter, else by their numbers.

    lines: what names should not cover if there is another place.
    """
    ways: list[Callable[[Trial], str]] = [called, _briefly, lambda trial: f"#{trial.number}"]
    for way in ways:
        names = [way(trial) + (" ✕" if trial.failed else "") for trial in tried]
        boxes = [_box(name, *at) for name, at in zip(names, place(names, spots, frame, [limit, *lines]), strict=True)]
        if _clear([limit, *boxes], spots) and all(
            _gap(box, own) <= min(_gap(box, other) for other in spots) for box, own in zip(boxes, spots, strict=True)
        ):
            break
    return zip(names, boxes, strict=True)


def _clear(texts: Sequence[Box], spots: Sequence[Spot]) -> bool:
    """Whether no text covers another one or a point; the first may cover points."""
    points = [spot(*one) for one in spots]
    return not any(overlap(text, [*texts[:row], *points]) for row, text in enumerate(texts) if row)


def _gap(box: Box, at: Spot) -> float:
    """How far a point is from a text."""
    return math.hypot(
        max(box[0] - at[0], at[0] - box[2], 0.0),
        max(box[1] - at[1], at[1] - box[3], 0.0),
    )


def _box(words: str, left: float, base: float) -> Box:
    """What a text covers."""
    return left, base - 11, left + LETTER * len(words), base + 4


def _briefly(trial: Trial) -> str:
    return f"{trial.precision}, {len(trial.keep)} in float" if trial.keep else trial.precision


def _say(trial: Trial, drop: Drop, time: Time) -> str:
    return f"{called(trial)} {drop.points:.2f} points in {time.ratio:.2f} of float's time"
