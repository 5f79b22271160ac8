"""Charts of a training run: curves over epochs, what is taken for what, accuracy against what the labels are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from edgeseg.report.charts import LETTER, PHONE, Axis, Svg, fit, grid, place
from edgeseg.report.trials import NEAR

Curve = tuple[str, str, Sequence[tuple[float, float]]]
"""Name, colour and points (epochs, value)."""

CELLS = 40
"""More classes make cells that no screen can show."""

NAMED = 24
"""More points have no room for names."""


def curves(drawn: Sequence[Curve], up: str, width: int, best: float | None = None) -> Markup:
    """Lines over epochs; a line of many points is drawn pale below its mean over each epoch. `best`: the epoch that was kept."""
    height = 230 if width == PHONE else 300
    svg = Svg(width, height, f"{up} over epochs: " + ", ".join(f"{name} {_last(points)}" for name, _, points in drawn))
    values = [value for _, _, points in drawn for _, value in points]
    low, high = min([0.0, *values]), max(values)
    x = Axis(0.0, max(epoch for _, _, points in drawn for epoch, _ in points), 44, width - 12)
    y = Axis(low, high + 0.06 * (high - low or 1.0), height - 42, 26)
    grid(svg, x, y, "epochs", up)
    for _, colour, points in drawn:
        means = epoch_means(points)
        if len(means) < len(points):
            svg.path([(x(epoch), y(value)) for epoch, value in points], f"curve pale {colour}")
        svg.path([(x(epoch), y(value)) for epoch, value in means], f"curve {colour}")
        if len(means) <= 40:
            for epoch, value in means:
                svg.circle(x(epoch), y(value), 3, f"spot {colour}")
    if best is not None:
        svg.line(x(best), y.start, x(best), y.end, "gate")
        anchor = "end" if x(best) > width / 2 else "start"
        svg.text(
            x(best) + (-5 if anchor == "end" else 5),
            y.start - 6,
            f"kept: epoch {best:g}",
            kind="tick halo",
            anchor=anchor,
        )
    return svg.markup()


def epoch_means(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of each epoch's points, at the last of them."""
    parts: dict[int, list[tuple[float, float]]] = {}
    for epoch, value in points:
        parts.setdefault(int(np.ceil(epoch - 1e-9)), []).append((epoch, value))
    return [(part[-1][0], float(np.mean([value for _, value in part]))) for part in parts.values()]


def _last(points: Sequence[tuple[float, float]]) -> str:
    return f"{points[-1][1]:.3g}"


def spark(values: Sequence[float | None]) -> Markup:
    """IoU over the evaluations of a run, 0 to 100, as large as a word."""
    svg = Svg(72, 20, "IoU over training: " + ", ".join("none" if v is None else f"{v:.0f}" for v in values))
    known = [(index, value) for index, value in enumerate(values) if value is not None]
    x, y = Axis(0, max(1, len(values) - 1), 3, 69), Axis(0, 100, 17, 3)
    svg.line(x.start, y.start, x.end, y.start, "grid")
    if known:
        svg.path([(x(index), y(value)) for index, value in known], "curve c1")
        svg.circle(x(known[-1][0]), y(known[-1][1]), 2, "spot c1")
    return svg.markup()


def confusion(matrix: NDArray[np.int64], names: Sequence[str], width: int) -> Markup:
    """Rows are the truth, columns what it was taken for, in percent of the row; columns go by their row's number."""
    shares = of_truth(matrix)
    count = len(names)
    left = 118 if width == PHONE else 170
    cell = min(44.0, (width - left - 4) / count)
    tall = max(cell, 14.0)  # a name needs as much
    svg = Svg(width, tall * count + 26, "Confusion between classes, in percent of the truth")
    for row, name in enumerate(names):
        top = 22 + tall * row
        svg.text(left - 6, top + tall / 2 + 4, fit(f"{name} {row + 1}", left - 14), kind="tick", anchor="end")
        if row % math.ceil(2.2 * LETTER / cell) == 0:
            svg.text(left + cell * (row + 0.5), 14, str(row + 1), kind="tick", anchor="middle")
        for column in range(count):
            share = shares[row, column]
            if not share >= 0.0005:
                continue
            kind = "right" if row == column else "taken"
            svg.cell(left + cell * column, top, cell - 1, tall - 1, kind, share)
            if cell >= 22 and share >= 0.01:
                words = f"{100 * share:.0f}"
                shade = "on" if share > 0.55 else "tick"
                svg.text(left + cell * (column + 0.5), top + tall / 2 + 4, words, kind=shade, anchor="middle")
    return svg.markup()


def of_truth(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row over its sum; NaN for a class that no pixel has."""
    total = matrix.sum(1, keepdims=True)
    result: NDArray[np.float64] = np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    return result


def against(points: Sequence[tuple[str, float, float]], across: str, width: int) -> Markup:
    """IoU against something that the labels have, on a log axis: (class, x, IoU)."""
    height = 250 if width == PHONE else 300
    svg = Svg(width, height, f"IoU against {across}: " + "; ".join(f"{n} {x:.3g}, {y:.0f} %" for n, x, y in points))
    values = [x for _, x, _ in points]
    x = Axis(min(values) / 1.5, max(values) * 1.5, 44, width - 12, log=True)
    y = Axis(0, 105, height - 42, 26)
    grid(svg, x, y, f"{across} (log)", "IoU, %")
    spots = [(x(value), y(iou)) for _, value, iou in points]
    for left, top in spots:
        svg.circle(left, top, 5, "spot c1")
    if len(points) <= NAMED:
        names = [name for name, *_ in points]
        placed = place(names, spots, (x.start, y.end - 12, x.end, y.start))
        for name, (left, top), spot in zip(names, placed, spots, strict=True):
            near = min(max(spot[0], left), left + LETTER * len(name)), min(max(spot[1], top - 9), top + 2)
            if np.hypot(near[0] - spot[0], near[1] - spot[1]) > NEAR:
                svg.line(*spot, *near, "axis")
            svg.text(left, top, name, kind="tick halo")
    return svg.markup()


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's, ties sharing their mean rank; null for fewer than three pairs, or where one side is constant."""
    if len(a) < 3:
        return None
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (a, b)]
    power = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / power if power > 0 else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return np.asarray(ranks - ranks.mean())
