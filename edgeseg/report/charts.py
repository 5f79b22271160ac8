"""Charts as inline SVG. Colours are classes of the page, so that one drawing serves light, dark and print.

Each chart is drawn twice, for a phone and for a desk: text does not shrink with the window, and the page shows the one
that fits. Labels stand beside what they name; a label that would cover another label or a point is moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TypeAlias, TypeVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from edgeseg.runtimes.record import Record, Stage
from edgeseg.verdict import Verdict

PHONE, DESK = 340, 900
"""Drawn widths in px; on screen they are scaled by 0.9 to 1.2."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in px."""

T = TypeVar("T")

LETTER = 7.5
"""Advance of a letter in px at the charts' 12 px, bold, in a wide font such as DejaVu: too much room beats overlap."""


@dataclass(frozen=True)
class Point:
    """A measured and evaluated student on the Pareto chart; `colour` is a class of the page."""

    name: str
    colour: str
    p90_ms: float
    p90_upper_ms: float | None
    miou: float
    ships: bool | None


@dataclass(frozen=True)
class Trace:
    """A record with the name and the colour it has all over the page."""

    name: str
    colour: str
    record: Record


class Svg:
    """Collects elements; `markup()` is the finished drawing."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, *, kind: str = "", anchor: str = "start") -> None:
        """One line of text with its baseline at `y`."""
        self.parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" class="{escape(kind)}">{escape(words)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self.parts.append(f'<path d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}" class="{escape(kind)}"/>')

    def path(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        steps = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self.parts.append(f'<path d="M{steps}" class="{escape(kind)}"/>')

    def dots(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """Many small round dots in one element."""
        self.parts.append(f'<path d="{"".join(f"M{_n(x)} {_n(y)}h0" for x, y in points)}" class="{escape(kind)}"/>')

    def circle(self, x: float, y: float, radius: float, kind: str) -> None:
        """A circle."""
        self.parts.append(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" class="{escape(kind)}"/>')

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A filled rectangle."""
        self.parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" class="{escape(kind)}"/>'
        )

    def cell(self, x: float, y: float, wide: float, tall: float, kind: str, share: float) -> None:
        """A rectangle as dense as its share, 0..1."""
        self.parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(wide)}" height="{_n(tall)}" class="{escape(kind)}" '
            f'fill-opacity="{share**0.6:.2f}"/>'
        )

    def markup(self) -> Markup:
        """The drawing, safe to put into the page."""
        head = f'<svg viewBox="0 0 {_n(self.width)} {_n(self.height)}" role="img" aria-label="{escape(self.title)}">'
        return Markup(head + "".join(self.parts) + "</svg>")


@dataclass(frozen=True)
class Axis:
    """Maps `low..high` onto the pixels `start..end`: evenly, by ratio (`log`), or evenly near 0 and by ratio beyond `even`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    even: float | None = None

    def __call__(self, value: float) -> float:
        even = self.even
        bend: Callable[[float], float] = math.log if self.log else float
        if even is not None:
            bend = lambda value: math.asinh(value / even)
        share = (bend(value) - bend(self.low)) / (bend(self.high) - bend(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values on the axis: 1, 2, 5 per decade where it spans one, else even steps."""
        if self.even is not None:
            largest = math.ceil(math.log10(max(-self.low, self.high)))
            decades = range(math.floor(math.log10(self.even)), largest + 1)
            sizes = [size for power in decades for digit in (1, 2, 5) if (size := digit * 10.0**power) >= self.even]
            marks = [0.0, *sizes, *(-size for size in sizes)]
        elif self.log and self.high / self.low > 8:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            marks = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
            if self.high / self.low > 500:
                marks = [10.0**power for power in decades]
        else:
            raw = (self.high - self.low) / wanted
            unit = 10 ** math.floor(math.log10(raw))
            step = next(digit * unit for digit in (1, 2, 2.5, 5, 10) if digit * unit >= raw)
            marks = [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [mark for mark in marks if self.low <= mark <= self.high]


def pareto(points: Sequence[Point], budget_ms: float | None, width: int) -> Markup:
    """mIoU against p90 on a log axis, the front of what nothing beats, the bound of p90 as a whisker."""
    height = 300 if width == PHONE else 380
    svg = Svg(width, height, "mIoU against p90 latency: " + "; ".join(_say(point) for point in points))
    times = [x for p in points for x in (p.p90_ms, p.p90_upper_ms or p.p90_ms, budget_ms or p.p90_ms)]
    mious = [p.miou for p in points]
    middle, reach = (min(mious) + max(mious)) / 2, max(1.0, (max(mious) - min(mious)) * 0.75)
    x = Axis(min(times) / 1.25, max(times) * 1.4, 44, width - 12, log=True)
    y = Axis(max(0.0, middle - reach), min(100.0, middle + reach), height - 42, 26)
    grid(svg, x, y, "p90 per frame, ms (log)", "mIoU, %")
    if budget_ms:
        svg.line(x(budget_ms), y.start, x(budget_ms), y.end, "gate")
        svg.text(x(budget_ms) + 6, y.start - 8, f"budget {budget_ms:g} ms", kind="tick halo")
    best = front(points, lambda point: (point.p90_ms, point.miou))
    stairs(svg, [(x(a.p90_ms), y(a.miou)) for a in best])
    spots = [(x(point.p90_ms), y(point.miou)) for point in points]
    for point, (left, top) in zip(points, spots, strict=True):
        if point.p90_upper_ms:
            svg.line(left, top, x(point.p90_upper_ms), top, f"whisker {point.colour}")
        svg.circle(left, top, 6, f"{'ring' if point.ships is False else 'spot'} {point.colour}")
    names = [fit(point.name, 260) + (" ✕" if point.ships is False else "") for point in points]
    labels = place(names, spots, (x.start, y.end - 12, x.end, y.start))
    for name, point, (left, top) in zip(names, points, labels, strict=True):
        svg.text(left, top, name, kind=f"name halo ink {point.colour}")
    return svg.markup()


def timeline(trace: Trace, width: int) -> Markup:
    """Every sample over time on a log axis: the warm-up grey and apart, steady throughput as lines."""
    height = 180 if width == PHONE else 210
    record = trace.record
    starts, durations = in_seconds(record.samples.unpack())
    warm_starts, warm = in_seconds(record.warmup.unpack())
    svg = Svg(width, height, f"{trace.name}: {len(durations)} samples over {record.latency.wall_s:.1f} s")
    span = float(starts[-1] + durations[-1] / 1e3)
    lead = float(warm_starts[-1] + warm[-1] / 1e3) if len(warm) else 0.0
    every = np.concatenate([durations, warm])
    x = Axis(-max(lead, 0.02 * span), span, 44, width - 74)
    y = Axis(float(every.min()) / 1.15, float(every.max()) * 1.08, height - 34, 10, log=True)
    grid(svg, x, y, "seconds", "ms", first=0.0)
    svg.bar(x.start, y.end, x(0) - x.start, y.start - y.end, "warm-band")
    svg.dots([(x(float(a) - lead), y(float(b))) for a, b in zip(warm_starts, warm, strict=True)], "dots warm")
    column = np.array([x(float(start)) for start in starts]) // 2
    keep = thin(column, durations)
    svg.dots([(x(float(starts[i])), y(float(durations[i]))) for i in keep], f"dots {trace.colour}")
    for segment in record.segments if len(record.segments) > 1 else []:
        level = min(max(y(1000 / segment.fps), y.end), y.start) if segment.fps > 0 else y.end
        svg.line(x(max(0.0, segment.start_s)), level, x(min(span, segment.end_s)), level, "segment")
        svg.text(x(segment.start_s) + 3, level - 7, f"{segment.fps:.1f} fps", kind="name halo")
    figures = [("p50", record.latency.p50_ms), ("p90", record.latency.p90_ms), ("max", float(durations.max()))]
    known = [(name, value) for name, value in figures if value is not None]
    for (name, value), top in zip(known, apart([y(value) for _, value in known], 14), strict=True):
        svg.text(x.end + 6, top + 4, f"{name} {short_ms(value)}", kind="name")
    return svg.markup()


def distribution(traces: Sequence[Trace], width: int) -> Markup:
    """Share of frames that took at most so long, one curve per record, on a log axis."""
    height = 260 if width == PHONE else 320
    svg = Svg(width, height, "Share of frames within a time: " + ", ".join(trace.name for trace in traces))
    levels = np.concatenate([np.linspace(0, 0.9, 91), np.linspace(0.901, 1, 100)])
    curves = [np.quantile(trace.record.samples.unpack()[1] / 1e6, levels) for trace in traces]
    low, high = min(float(c[0]) for c in curves), max(float(c[-1]) for c in curves)
    x = Axis(low / 1.06, high * 1.06, 44, width - 12, log=True)
    y = Axis(0, 100, height - 42, 26)
    grid(svg, x, y, "ms per frame (log)", "frames, %")
    for trace, curve in zip(traces, curves, strict=True):
        svg.path(
            [(x(float(t)), y(100 * float(q))) for t, q in zip(curve, levels, strict=True)], f"curve {trace.colour}"
        )
    return svg.markup()


def drops(verdicts: Sequence[tuple[str, Verdict]], max_drop: float, width: int) -> Markup:
    """The drop in mIoU of each artifact with its 95 % interval, and the line it must not cross."""
    known = [(name, verdict.drop) for name, verdict in verdicts if verdict.drop is not None]
    height = 34 + 40 * len(known) + 22
    svg = Svg(width, height, "Drop in mIoU: " + "; ".join(f"{name} {drop.points:.2f} points" for name, drop in known))
    low = min([0.0, *(drop.low for _, drop in known)])
    high = max([max_drop, *(drop.high for _, drop in known)])
    room = max(0.05, (high - low) * 0.08)
    x = Axis(low - room, high + room, 12, width - 12)
    for tick in x.ticks(4):
        svg.line(x(tick), 24, x(tick), height - 22, "grid")
        svg.text(x(tick), height - 6, f"{tick:+g}" if tick else "0", kind="tick", anchor="middle")
    svg.line(x(max_drop), 20, x(max_drop), height - 22, "gate")
    anchor = "end" if x(max_drop) > width / 2 else "start"
    svg.text(x(max_drop), 14, f"allowed {max_drop:g} points", kind="name", anchor=anchor)
    for row, (name, drop) in enumerate(known):
        top = 42 + 40 * row
        kind = "bad" if not drop.points <= max_drop else "good"
        svg.text(12, top, fit(name, width - 70), kind="name halo")
        svg.text(width - 12, top, f"{drop.points:+.2f}", kind="name halo figure", anchor="end")
        svg.line(x(drop.low), top + 14, x(drop.high), top + 14, f"interval {kind}")
        svg.circle(x(drop.points), top + 14, 5, f"spot {kind}")
    return svg.markup()


def steps(record: Record) -> list[Stage]:
    """The steps of the end-to-end path, else a promptable artifact's encoder and prompt; none where one time is all there is."""
    return record.stages or record.halves or []


def stages(trace: Trace, longest_ms: float, width: int) -> Markup:
    """The median of each step as one bar; `longest_ms` spans the whole width."""
    parts = steps(trace.record)
    svg = Svg(width, 22, f"{trace.name}: " + ", ".join(f"{part.name} {part.p50_ms:.2f} ms" for part in parts))
    left = 0.0
    for index, part in enumerate(parts):
        wide = width * part.p50_ms / longest_ms
        svg.bar(left, 2, max(wide - 1.5, 0.5), 18, f"stage g{index % 4 + 1}")
        left += wide
    return svg.markup()


def place(
    names: Sequence[str], spots: Sequence[tuple[float, float]], frame: Box, others: Iterable[Box] = ()
) -> list[tuple[float, float]]:
    """Where each name starts `(x, baseline)`: near its spot, off the other names and spots where there is room.

    frame: left, top, right, bottom of the area names must stay in; `others` are texts that are there already.
    """
    blocked = [spot(x, y) for x, y in spots]
    taken = list(others)
    placed: list[tuple[float, float]] = []
    for name, (x, y) in zip(names, spots, strict=True):
        wide = LETTER * len(name)
        least = (math.inf, 0.0, 0.0)
        for rank, (dx, dy) in enumerate(_around(wide)):
            left = min(max(x + dx, frame[0] + 2), max(frame[0] + 2, frame[2] - wide))
            box = (left, y + dy - 11, left + wide, y + dy + 4)
            cost = 30 * _outside(box, frame) + 10 * overlap(box, taken) + 3 * overlap(box, blocked) + rank
            least = min(least, (cost, left, y + dy))
        _, left, base = least
        taken.append((left, base - 11, left + wide, base + 4))
        placed.append((left, base))
    return placed


def _around(wide: float) -> list[tuple[float, float]]:
    """Offsets of a text of that width from its spot, the best first: above, below, right, left, then further away."""
    near = [(-wide / 2, -13.0), (-wide / 2, 22.0), (12.0, 4.0), (-wide - 12, 4.0)]
    far = [(dx, dy * step) for step in (1, 2, 3) for dx in (12.0, -wide - 12) for dy in (-16.0, 16.0)]
    return [*near, *far]


def front(points: Sequence[T], at: Callable[[T], tuple[float, float]]) -> list[T]:
    """The points that no other beats in both, quickest first; `at` gives (time, what is better when larger)."""
    best: list[T] = []
    for point in sorted(points, key=lambda p: (at(p)[0], -at(p)[1])):
        if not best or at(point)[1] > at(best[-1])[1]:
            best.append(point)
    return best


def stairs(svg: Svg, corners: Sequence[tuple[float, float]]) -> None:
    """The line of a front: what can be had within a time."""
    if len(corners) > 1:
        svg.path([step for (x1, y1), (x2, y2) in pairwise(corners) for step in ((x1, y1), (x2, y1), (x2, y2))], "front")


def spot(x: float, y: float) -> Box:
    """What a point covers."""
    return x - 7, y - 7, x + 7, y + 7


def grid(svg: Svg, x: Axis, y: Axis, across: str, up: str, first: float | None = None) -> None:
    """Ticks and what the axes are, `across` and `up`; ticks of `x` start with `first`."""
    top, bottom = sorted((y.start, y.end))
    for tick in y.ticks():
        svg.line(x.start, y(tick), x.end, y(tick), "grid")
        svg.text(x.start - 7, y(tick) + 4, f"{tick:g}", kind="tick", anchor="end")
    right = -math.inf
    for tick in x.ticks(4 if svg.width == PHONE else 8):
        if (first is None or tick >= first) and x(tick) - right > max(30, LETTER * len(f"{tick:g}") + 8):
            right = x(tick)
            svg.line(right, bottom, right, bottom + 4, "axis")
            svg.text(right, bottom + 17, f"{tick:g}", kind="tick", anchor="middle")
    svg.line(x.start, bottom, x.end, bottom, "axis")
    svg.text(x.end, svg.height - 4, across, kind="tick", anchor="end")
    if top > 20:
        svg.text(4, 12, up, kind="tick")


def thin(columns: NDArray[np.float64], values: NDArray[np.float64]) -> list[int]:
    """Indices worth drawing: in each pixel column the lowest, the highest and two between."""
    keep: list[int] = []
    edges = np.flatnonzero(np.diff(columns)) + 1
    for part in np.split(np.arange(len(values)), edges):
        order = part[np.argsort(values[part], kind="stable")]
        keep.extend(sorted({int(order[i]) for i in (0, len(order) // 3, 2 * len(order) // 3, -1)}))
    return keep


def apart(tops: list[float], least: float) -> list[float]:
    """The same heights, moved upwards so that neighbours (listed from low to high) are `least` px apart."""
    moved: list[float] = []
    for top in tops:
        moved.append(min(top, moved[-1] - least) if moved else top)
    return [top + max(0.0, 8 - moved[-1]) for top in moved]


def in_seconds(samples: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Starts in s and durations in ms."""
    return samples[0] / 1e9, samples[1] / 1e6


def _outside(box: Box, frame: Box) -> float:
    inside = overlap(box, [frame])
    return (box[2] - box[0]) * (box[3] - box[1]) - inside


def overlap(box: Box, others: Iterable[Box]) -> float:
    """Area in px² that `box` shares with each of the others, added up."""
    return sum(
        max(0.0, min(box[2], b[2]) - max(box[0], b[0])) * max(0.0, min(box[3], b[3]) - max(box[1], b[1]))
        for b in others
    )


def fit(name: str, wide: float) -> str:
    """The name, or its two ends where it is longer than `wide` px; the ends are what tells long names apart."""
    half = int(wide / LETTER) // 2
    return name if len(name) <= 2 * half else f"{name[: half - 1]}…{name[-half:]}"


def _say(point: Point) -> str:
    return f"{point.name} {point.miou:.1f} % in {point.p90_ms:.1f} ms"


def short_ms(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _n(value: float) -> str:
    """A coordinate with one decimal, without a trailing zero."""
    return f"{value:.1f}".removesuffix(".0")
