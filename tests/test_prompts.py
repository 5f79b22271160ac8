"""The simulated person, on masks small enough to know the answer."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.data import load_data
from edgeseg.metrics import VOID
from edgeseg.prompt_metrics import boundary_iou, disk_ious, iou, measure_prompts
from edgeseg.prompts import box_of, first_click, next_click, objects_of, targets, touching


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_the_first_click_is_in_the_middle() -> None:
    assert first_click(rectangle(4, 10, 9, 15), None) == (12.5, 6.5)
    assert first_click(rectangle(3, 7, 4, 8), None) == (7.5, 3.5)


def test_a_random_first_click_is_inside_and_repeatable() -> None:
    mask = rectangle(4, 10, 9, 15) | rectangle(15, 0, 20, 3)
    clicks = [first_click(mask, np.random.default_rng(seed)) for seed in range(50)]
    assert all(mask[int(y), int(x)] for x, y in clicks)
    assert len(set(clicks)) > 10
    assert clicks[3] == first_click(mask, np.random.default_rng(3))


def test_the_next_click_is_where_the_mask_is_most_wrong() -> None:
    truth = rectangle(2, 2, 10, 10)
    x, y, label = next_click(truth, rectangle(2, 2, 10, 7))
    assert (x, label) == (8.5, 1)
    assert 2 < y < 10
    x, y, label = next_click(truth, truth | rectangle(12, 15, 19, 22))
    assert (x, y, label) == (18.5, 15.5, 0)
    with pytest.raises(ValueError, match="nothing to correct"):
        next_click(truth, truth)


def test_a_box_reaches_from_edge_to_edge() -> None:
    mask = rectangle(4, 10, 9, 15)
    assert box_of(mask) == (10, 4, 15, 9)
    rng = np.random.default_rng(0)
    for _ in range(200):
        x1, y1, x2, y2 = box_of(mask, 0.5, rng)
        assert 0 <= x1 < x2 <= 30
        assert 0 <= y1 < y2 <= 20


def test_objects_come_by_size_and_without_what_is_unknown() -> None:
    ids = np.zeros((6, 6), np.uint8)
    ids[0, :2], ids[2:4], ids[5] = 1, 7, VOID
    assert [int(mask.sum()) for mask in objects_of(ids)] == [12, 2]


def test_targets_repeat_merge_and_leave_empty() -> None:
    ids = np.zeros((2, 20, 30), np.uint8)
    ids[0, 2:8, 2:8], ids[0, 8:12, 2:8] = 1, 2
    plain = targets(ids, 3, np.random.default_rng(0))
    assert plain.shape == (6, 20, 30)
    assert {int(mask.sum()) for mask in plain[:3]} <= {36, 24}
    assert not plain[3:].any()
    merged = targets(ids, 3, np.random.default_rng(0), merge=1.0)
    assert {int(mask.sum()) for mask in merged[:3]} == {60}
    assert {int(mask.sum()) for mask in targets(ids, 4, np.random.default_rng(0), min_pixels=30)[:4]} == {36}
    assert touching(ids[0], ids[0] == 1).tolist() == [2]


class Perfect:
    """Knows the truth."""

    def __init__(self, ids: list[np.ndarray], right: bool) -> None:
        self.ids, self.right, self.seen = ids, right, -1

    def begin(self, image: np.ndarray) -> int:
        self.seen += 1
        return self.seen

    def masks(self, seen: int, points: np.ndarray, labels: np.ndarray, boxes: np.ndarray | None) -> np.ndarray:
        truth = objects_of(self.ids[seen])
        return np.array([mask if self.right else np.zeros_like(mask) for mask in truth], np.uint8)


@pytest.mark.parametrize("right", [True, False])
def test_the_ends_of_the_scale(right: bool) -> None:
    split = load_data("synthetic_objects:size=64x96,train=4,val=3,test=4").split("val")
    ids = [split[index][1] for index in range(3)]
    score, rows = measure_prompts(Perfect(ids, right), split, clicks=4)
    assert score.objects == len(rows) == sum(len(objects_of(each)) for each in ids)
    best = 100.0 * right
    assert (score.miou_1, score.miou_3, score.miou_box, score.boundary_iou_1) == (best, best, best, best)
    assert score.miou_5 is None
    assert (score.noc_85, score.noc_90) == ((1, 1) if right else (4, 4))
    assert score.never_90 == 100 - best
    assert 0 < score.disk_1 < 100


def test_measures_of_two_masks() -> None:
    one, other = rectangle(0, 0, 10, 10), rectangle(0, 5, 10, 15)
    assert iou(one, other) == 50 / 150
    assert iou(one & ~one, other & ~other) == 1
    assert boundary_iou(one, one) == 1
    assert boundary_iou(one, rectangle(1, 1, 9, 9)) < iou(one, rectangle(1, 1, 9, 9))
    rows, columns = np.ogrid[:60, :60]
    disk = np.hypot(rows - 30, columns - 30) <= 10
    assert disk_ious(disk).max() > 0.9
