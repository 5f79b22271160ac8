"""Charts of what a protocol asks beyond a latency: whether it goes on like that, a camera's frames, cold starts."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from edgeseg.report.charts import PHONE, Axis, Svg, Trace, apart, grid, in_seconds, short_ms, thin
from edgeseg.runtimes.record import Camera, ColdStart, Sustained

WINDOWS = 240
"""Points of a curve of throughput at most: more than that no phone can show."""


def sustained(trace: Trace, found: Sustained, width: int) -> Markup:
    """Frames per second over time, the steady stretches as lines, and where one gives way to the next."""
    height = 210 if width == PHONE else 260
    svg = Svg(width, height, f"{trace.name}: {found.finding}, {found.fps:.1f} fps since {found.since_s:.0f} s")
    seconds, rates = throughput(*trace.record.samples.unpack())
    stretches = trace.record.segments
    high = 1.12 * max(float(rates.max()), *(stretch.fps for stretch in stretches))
    x, y = Axis(0.0, stretches[-1].end_s, 44, width - 12), Axis(0.0, high, height - 34, 26)
    grid(svg, x, y, "seconds", "frames per second")
    svg.path([(x(float(a)), y(float(b))) for a, b in zip(seconds, rates, strict=True)], f"curve thin {trace.colour}")
    right = -1.0
    for stretch in stretches:
        svg.line(x(stretch.start_s), y(stretch.fps), x(stretch.end_s), y(stretch.fps), "segment")
        left = x(stretch.start_s) + 4
        if left > right:  # many short stretches have no room for words
            text = f"{stretch.fps:.1f} fps"
            svg.text(left, y(stretch.fps) + 16, text, kind="name halo")
            right = left + 8 * len(text)
    right = -1.0
    for change in found.changes_s:
        svg.line(x(change), y.start, x(change), y.end, "gate")
        if x(change) > right:
            svg.text(x(change) + 4, y.start - 6, f"{change:.0f} s", kind="tick halo")
            right = x(change) + 44
    return svg.markup()


def throughput(
    starts: NDArray[np.int64], durations: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds at the middle of windows of as many frames each, and frames over wall time in them."""
    each = max(1, -(-len(starts) // WINDOWS))
    edges = np.arange(0, len(starts) - each + 1, each)
    ends = np.append(starts[edges[1:]], (starts + durations)[edges[-1] + each - 1])
    return (starts[edges] + ends) / 2e9, each * 1e9 / (ends - starts[edges])


def camera(trace: Trace, seen: Camera, width: int) -> Markup:
    """The age of each frame that was taken when its result was there, over time, and a mark for each that was dropped."""
    height = 210 if width == PHONE else 250
    svg = Svg(
        width, height, f"{trace.name}: {seen.dropped} of {seen.frames} frames dropped, age {seen.age_p50_ms:.1f} ms"
    )
    arrivals, ages = in_seconds(seen.ages.unpack())
    span, period = float(arrivals[-1]) + 1 / seen.fps, 1e3 / seen.fps
    x = Axis(0.0, span, 44, width - 74)
    y = Axis(min(float(ages.min()), period) / 1.15, max(float(ages.max()), period) * 1.1, height - 46, 26, log=True)
    grid(svg, x, y, "seconds", "age of a frame, ms (log)")
    lost = dropped(arrivals, seen.fps)
    marks = sorted({round(x(float(second))) for second in lost})
    svg.bar(x.start, y.start - 8, x.end - x.start, 8, "warm-band")
    for mark in marks:
        svg.line(mark, y.start - 8, mark, y.start, "lost")
    column = np.array([x(float(second)) for second in arrivals]) // 2
    svg.dots([(x(float(arrivals[i])), y(float(ages[i]))) for i in thin(column, ages)], f"dots {trace.colour}")
    svg.line(x.start, y(period), x.end, y(period), "gate")
    figures = [("p50", seen.age_p50_ms), ("p90", seen.age_p90_ms), ("max", seen.age_max_ms)]
    known = [(name, value) for name, value in figures if value is not None]
    for (name, value), top in zip(known, apart([y(value) for _, value in known], 14), strict=True):
        svg.text(x.end + 6, top + 4, f"{name} {short_ms(value)}", kind="name")
    return svg.markup()


def dropped(arrivals: NDArray[np.float64], fps: float) -> NDArray[np.float64]:
    """Seconds at which frames came that nobody took, from those of the frames that were taken."""
    number = np.rint((arrivals - arrivals[0]) * fps).astype(np.int64)
    lost = np.setdiff1d(np.arange(number[-1] + 1), number)
    return np.asarray(arrivals[0] + lost / fps)


def cold_start(trace: Trace, cold: ColdStart, width: int) -> Markup:
    """A dot for each process: loading, first frame, and all from starting Python; the medians in words."""
    rows = [
        ("loading the model", cold.loads_ms, cold.load_ms),
        ("first inference", cold.firsts_ms, cold.first_ms),
        ("ready, Python included", cold.readies_ms, cold.ready_ms),
    ]
    svg = Svg(width, 44 * len(rows) + 36, f"{trace.name}: ready after {cold.ready_ms:.0f} ms")
    every = [value for _, each, _ in rows for value in each]
    x, bottom = Axis(min(every) / 1.3, max(every) * 1.3, 12, width - 12, log=True), svg.height - 30
    for tick in x.ticks(4):
        svg.line(x(tick), 4, x(tick), bottom, "grid")
        svg.text(x(tick), bottom + 14, f"{tick:g}", kind="tick", anchor="middle")
    svg.text(x.end, svg.height - 3, "ms (log)", kind="tick", anchor="end")
    for row, (name, each, median) in enumerate(rows):
        top = 18 + 44 * row
        svg.text(12, top, name, kind="name halo")
        svg.text(width - 12, top, f"{short_ms(median)} ms", kind="name halo figure", anchor="end")
        svg.dots([(x(value), top + 14) for value in each], f"dots {trace.colour}")
        svg.line(x(median), top + 7, x(median), top + 21, f"whisker {trace.colour}")
    return svg.markup()
