"""Every figure of a prompt evaluation, on answers that are worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.data.base import Image, Labels, Split
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.prompt_metrics import RADII, boundary_iou, disk_ious, measure_prompts
from edgeseg.prompts import first_click

SIZE = (60, 80)


class Photos(Split):
    """Grey photos with these id maps."""

    def __init__(self, *ids: Labels) -> None:
        self.names = tuple(f"photo{index}" for index in range(len(ids)))
        self._ids = ids

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        ids = self._ids[index]
        return np.full((*ids.shape, 3), index, np.uint8), ids


@dataclass
class Scripted:
    """Answers the k-th click with the first `share[k]` of the object's pixels and a box with `framed` of them."""

    split: Photos
    shares: tuple[float, ...]
    framed: float = 1.0
    looked: int = 0
    asked: list[NDArray[Any]] = field(default_factory=list)

    def begin(self, image: Image) -> Labels:
        """The true ids: photo `n` is of colour `n`."""
        self.looked += 1
        return self.split[int(image[0, 0, 0])][1]

    def masks(
        self, seen: Labels, points: NDArray[Any], labels: NDArray[Any], boxes: NDArray[Any] | None
    ) -> NDArray[np.uint8]:
        """The share of each object, which is found again by its size: they are asked for from the largest on."""
        share = self.framed if boxes is not None else self.shares[min(points.shape[1], len(self.shares)) - 1]
        if boxes is None:
            self.asked.append(np.concatenate([points, labels[..., None]], 2))
        counts = np.bincount(seen.ravel())[1:]
        made = np.zeros((len(counts), *seen.shape), np.uint8)
        for mask, index in zip(made, np.argsort(-counts, kind="stable") + 1, strict=True):
            inside = np.flatnonzero(seen == index)
            mask.flat[inside[: round(share * len(inside))]] = 1
        return made


def square(*places: tuple[int, int, int]) -> Labels:
    """Ids of squares given by (top, left, side), numbered from 1."""
    ids = np.zeros(SIZE, np.uint8)
    for number, (top, left, side) in enumerate(places, 1):
        ids[top : top + side, left : left + side] = number
    return ids


def test_figures_follow_the_clicks() -> None:
    split = Photos(square((2, 2, 10), (20, 20, 40)), square((5, 5, 20)))
    score, rows = measure_prompts(Scripted(split, (0.5, 0.86, 0.88, 0.91, 0.4), framed=0.75), split, clicks=6)
    assert [(row.image, row.id, row.pixels) for row in rows] == [(0, 2, 1600), (0, 1, 100), (1, 1, 400)]
    assert rows[0].ious == pytest.approx([0.5, 0.86, 0.88, 0.91, 0.4, 0.4])
    assert (score.images, score.objects, score.clicks) == (2, 3, 6)
    assert (score.miou_1, score.miou_3, score.miou_5, score.miou_box) == pytest.approx((50, 88, 40, 75))
    assert (score.noc_85, score.noc_90, score.never_85, score.never_90) == (2, 4, 0, 0)
    assert (score.small_1, score.medium_1, score.large_1) == (50, 50, None)


def test_an_object_that_never_gets_there_counts_every_click() -> None:
    split = Photos(square((2, 2, 10)))
    score, _ = measure_prompts(Scripted(split, (0.5, 0.88)), split)
    assert (score.clicks, score.noc_85, score.never_85, score.noc_90, score.never_90) == (20, 2, 0, 20, 100)


def test_an_image_is_looked_at_once_and_asked_about_all_objects_at_once() -> None:
    split = Photos(square((2, 2, 10), (20, 20, 40)), np.zeros(SIZE, np.uint8))
    asked = Scripted(split, (0.5,))
    measure_prompts(asked, split, clicks=3)
    assert asked.looked == 1  # the second photo has nothing to ask for
    assert [each.shape for each in asked.asked] == [(2, 1, 3), (2, 2, 3), (2, 3, 3)]
    assert (asked.asked[2][:, :2] == asked.asked[1]).all()  # clicks are added, none moves


def test_corrections_are_where_the_mask_is_wrong() -> None:
    split = Photos(square((0, 0, 40)))
    asked = Scripted(split, (0.5, 1.0))
    score, _ = measure_prompts(asked, split, clicks=3)
    x, y, label = asked.asked[1][0, 1]
    assert label == 1
    assert 0 < x < 40
    assert 20 < y < 40  # the lower half was missed
    assert asked.asked[2][0, 2, 2] == -1  # nothing left to correct
    assert score.noc_90 == 2


def test_small_objects_can_be_left_out() -> None:
    split = Photos(square((2, 2, 10), (20, 20, 40)))
    with pytest.raises(EdgesegError, match="no object of at least 2000 pixels"):
        measure_prompts(Scripted(split, (1.0,)), split, min_pixels=2000)


def test_progress_counts_photos() -> None:
    split = Photos(square((2, 2, 10)), square((2, 2, 10)))
    told: list[tuple[int, int]] = []
    measure_prompts(Scripted(split, (1.0,)), split, clicks=1, progress=lambda done, count: told.append((done, count)))
    assert told == [(1, 2), (2, 2)]


def test_boundary_iou_compares_the_bands_inside_the_outlines() -> None:
    one, other = (np.zeros(SIZE, bool) for _ in range(2))  # the diagonal is 100: a band of two pixels
    one[10:30, 10:30] = True
    other[10:30, 10:34] = True
    bands = 20 * 20 - 16 * 16, 20 * 24 - 16 * 20
    shared = 2 * 2 * 20 + 2 * 16  # upper and lower bands as far as the smaller one goes, and the left one between them
    assert boundary_iou(one, other) == pytest.approx(shared / (sum(bands) - shared))


def test_the_edge_of_the_image_is_an_outline() -> None:
    whole, hole = np.ones(SIZE, bool), np.ones(SIZE, bool)
    hole[2:-2, 2:-2] = False
    assert boundary_iou(whole, hole) == 1  # the band of two pixels is all that `hole` has


def test_the_disk_is_counted_pixel_by_pixel() -> None:
    mask = square((3, 50, 25)) > 0
    x, y = first_click(mask, None)
    rows, columns = np.indices(SIZE)
    wanted = []
    for radius in RADII:
        disk = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2
        wanted.append((disk & mask).sum() / (disk | mask).sum())
    np.testing.assert_allclose(disk_ious(mask), wanted, rtol=1e-12)


def test_one_radius_serves_all_objects() -> None:
    split = Photos(square((2, 2, 10), (20, 20, 40)))
    masks = [split[0][1] == 1, split[0][1] == 2]
    score, _ = measure_prompts(Scripted(split, (1.0,)), split, clicks=1)
    assert score.disk_1 == pytest.approx(100 * np.mean([disk_ious(mask) for mask in masks], 0).max())
    assert score.disk_1 < 100 * np.mean([disk_ious(mask).max() for mask in masks])


def test_what_is_unknown_is_not_counted() -> None:
    """Pixels that nobody labelled are neither right nor wrong, and no click corrects them."""

    class Greedy(Scripted):
        def masks(self, *asked: Any) -> NDArray[np.uint8]:
            return np.maximum(super().masks(*asked), (self.split[0][1] == VOID)[None])

    ids = square((10, 10, 20))
    ids[10:30, 30:50] = VOID
    split = Photos(ids)
    greedy = Greedy(split, (1.0,))
    bare = np.where(ids == VOID, 0, ids).astype(np.uint8)
    score, _ = measure_prompts(OnKnown(greedy, bare), split, clicks=3)
    assert (score.miou_1, score.miou_box, score.boundary_iou_1) == (100, 100, 100)
    assert all((asked[:, 1:, 2] == -1).all() for asked in greedy.asked)


@dataclass
class OnKnown:
    """Asks another for the objects of the id map without what is unknown, which its count of ids would take for one."""

    other: Scripted
    ids: Labels

    def begin(self, image: Image) -> Labels:
        return self.ids

    def masks(self, *asked: Any) -> NDArray[np.uint8]:
        return self.other.masks(*asked)
