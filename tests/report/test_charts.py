"""The drawing of charts: axes, labels that do not cover one another, thinning."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edgeseg.report.charts import DESK, LETTER, PHONE, Axis, Point, apart, front, pareto, place, thin


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 100, 0, 1), [0, 20, 40, 60, 80, 100]),
        (Axis(53.2, 57.1, 0, 1), [54, 55, 56, 57]),
        (Axis(1.5, 60, 0, 1, log=True), [2, 5, 10, 20, 50]),
        (Axis(20, 40, 0, 1, log=True), [20, 25, 30, 35, 40]),
        (Axis(0.5, 3000, 0, 1, log=True), [1, 10, 100, 1000]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_axis_maps_its_ends_and_a_log_axis_the_geometric_middle() -> None:
    axis = Axis(1, 100, 40, 240, log=True)
    assert [axis(1), axis(10), axis(100)] == pytest.approx([40, 140, 240])


def test_front_is_what_nothing_beats_in_both() -> None:
    data = [("a", 10, 60), ("b", 20, 70), ("c", 25, 65), ("d", 30, 71), ("e", 10, 59)]
    points = [Point(name, "c1", ms, None, miou, True) for name, ms, miou in data]
    assert [point.name for point in front(points, lambda point: (point.p90_ms, point.miou))] == ["a", "b", "d"]


def test_labels_do_not_cover_each_other_even_in_a_crowd() -> None:
    names = [f"student {index}" for index in range(6)]
    spots = [(150.0 + 6 * index, 150.0 + 3 * index) for index in range(6)]
    frame = (44.0, 20.0, 330.0, 260.0)
    boxes = [
        (x, y - 9, x + LETTER * len(name), y + 2)
        for name, (x, y) in zip(names, place(names, spots, frame), strict=True)
    ]
    for index, a in enumerate(boxes):
        assert a[0] >= frame[0] and a[2] <= frame[2] and a[1] >= frame[1] - 2 and a[3] <= frame[3] + 2
        for b in boxes[index + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_labels_on_the_right_stay_even_when_low() -> None:
    tops = apart([100.0, 98.0, 20.0], 14)
    assert tops == [100.0, 86.0, 20.0]
    assert apart([12.0, 11.0, 10.0], 14) == [36.0, 22.0, 8.0]


def test_thinning_keeps_lowest_and_highest_of_every_column() -> None:
    rng = np.random.default_rng(0)
    columns, values = np.repeat(np.arange(20.0), 50), rng.normal(10, 1, 1000)
    kept = values[thin(columns, values)]
    assert len(kept) == 80
    for column in range(20):
        part = values[columns == column]
        assert part.min() in kept and part.max() in kept


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_everything_drawn_is_inside_the_picture(width: int) -> None:
    points = [
        Point("onnxruntime fp32", "c1", 22.0, 24.0, 66.9, True),
        Point("openvino fp16", "c2", 9.0, None, 66.7, True),
        Point("onnxruntime int8", "c3", 21.0, 23.0, 51.2, False),
        Point("torch fp32", "c4", 480.0, 510.0, 66.9, None),
    ]
    svg = str(pareto(points, 33.0, width))
    height = float(re.search(r'viewBox="0 0 \d+ (\d+)"', svg).group(1))  # type: ignore[union-attr]
    for x, y, anchor, words in re.findall(
        r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)" class="[^"]*">([^<]*)', svg
    ):
        left = float(x) - {"start": 0, "middle": 0.5, "end": 1}[anchor] * LETTER * len(words)
        assert left >= -2 and left + LETTER * len(words) <= width + 2, words
        assert 8 <= float(y) <= height
    assert svg.count("<circle") == 4 and "budget 33 ms" in svg and "xmlns" not in svg
