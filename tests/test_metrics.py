"""Figures against torchmetrics, and against maps small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID, Meter, boundary_f, confusion, iou, pack_confusions, small_regions, unpack_confusions

Labels = NDArray[np.uint8]
K = 5


def pair(seed: int, classes: int = K) -> tuple[Labels, Labels]:
    """Truth with void, and labels that are right in about two of three pixels."""
    dice = np.random.default_rng(seed)
    truth = dice.integers(0, classes, (23, 31), np.uint8)
    labels = np.where(dice.random(truth.shape) < 0.6, truth, dice.integers(0, classes, truth.shape, np.uint8))
    truth[dice.random(truth.shape) < 0.1] = VOID
    labels[labels == VOID] = 0
    return truth, labels.astype(np.uint8)


def test_the_figures_are_those_of_torchmetrics() -> None:
    pairs = [pair(seed) for seed in range(3)]
    options = {"num_classes": K, "ignore_index": VOID}
    matrix, jaccard = MulticlassConfusionMatrix(**options), MulticlassJaccardIndex(**options, average="none")
    meter = Meter(K)
    for truth, labels in pairs:
        meter.add(truth, labels)
        for oracle in (matrix, jaccard):
            oracle.update(torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
    score = meter.score()
    total = np.sum(meter.confusions, axis=0)
    np.testing.assert_array_equal(total, matrix.compute().numpy())
    np.testing.assert_allclose(np.array(score.iou, float), 100 * jaccard.compute().numpy(), rtol=1e-6)
    assert score.miou == pytest.approx(100 * float(jaccard.compute().mean()), rel=1e-6)
    assert score.pixel_accuracy == pytest.approx(100 * np.trace(total) / total.sum())
    assert score.images == 3


def test_a_row_of_the_confusion_is_a_true_class() -> None:
    truth, labels = np.array([[0, 0, 1, VOID]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    assert confusion(truth, labels, 2).tolist() == [[1, 1], [0, 1]]


def test_miou_is_of_the_summed_confusion_and_not_a_mean_over_images() -> None:
    meter = Meter(2)
    meter.add(np.array([[0, 0, 0, 0]], np.uint8), np.array([[0, 0, 0, 0]], np.uint8))
    meter.add(np.array([[0, 1, 1, 1]], np.uint8), np.array([[1, 1, 1, 1]], np.uint8))
    assert meter.score().iou == [pytest.approx(80), pytest.approx(75)]


def test_a_class_that_never_occurs_has_no_iou() -> None:
    meter = Meter(4)
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    meter.add(truth, np.array([[0, 0, 1, 2]], np.uint8))
    score = meter.score()
    assert score.iou == [100, 50, 0, None]  # class 2 is predicted but not there: 0, class 3 is neither: null
    assert score.miou == pytest.approx(50)


def test_a_stack_of_confusions_has_a_stack_of_ious() -> None:
    stack = np.stack([confusion(*pair(seed), K) for seed in range(3)])
    np.testing.assert_array_equal(iou(stack), [iou(one) for one in stack])


def test_confusions_survive_packing() -> None:
    stack = np.stack([confusion(*pair(seed), K) for seed in range(3)])
    np.testing.assert_array_equal(unpack_confusions(pack_confusions(stack), K), stack)


def test_nothing_but_void_cannot_be_scored() -> None:
    meter = Meter(K)
    meter.add(np.full((4, 4), VOID, np.uint8), np.zeros((4, 4), np.uint8))
    for empty in (Meter(K), meter):
        with pytest.raises(EdgesegError, match="every pixel of every image is void"):
            empty.score()


def test_an_image_that_is_all_void_changes_nothing() -> None:
    meter, same = Meter(K), Meter(K)
    for each in (meter, same):
        each.add(*pair(0))
    meter.add(np.full((4, 4), VOID, np.uint8), np.zeros((4, 4), np.uint8))
    first, second = meter.score(), same.score()
    assert (first.miou, first.iou) == (second.miou, second.iou)
    assert first.boundary_f == pytest.approx(second.boundary_f)


@pytest.mark.parametrize("place", [0, 1])
def test_an_id_out_of_range_is_named(place: int) -> None:
    maps = [np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8)]
    maps[place][1, 1] = 7
    with pytest.raises(EdgesegError, match="label id 7 is out of range for 5 classes"):
        confusion(maps[0], maps[1], K)


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(EdgesegError, match=r"truth is \[3, 4\] but the prediction is \[4, 3\]"):
        confusion(np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint8), K)


def square(left: int, top: int = 12, side: int = 16) -> Labels:
    """A square of class 1 on class 0, in 40x48."""
    made = np.zeros((40, 48), np.uint8)
    made[top : top + side, left : left + side] = 1
    return made


def test_equal_maps_have_equal_boundaries() -> None:
    assert boundary_f(square(14), square(14), 2).tolist() == [100, 100]


@pytest.mark.parametrize("shift", [1, 2])
def test_a_boundary_within_two_pixels_is_found(shift: int) -> None:
    assert boundary_f(square(14), square(14 + shift), 2).tolist() == [100, 100]


def test_a_boundary_five_pixels_off_is_not() -> None:
    # the ring of class 1 has 60 pixels: top and bottom keep 16 each less those out of reach (1, then 3), the sides keep
    # the two next to each corner of one side
    scores = [boundary_f(square(14), square(14 + shift), 2)[1] for shift in (3, 5, 30)]
    assert scores == pytest.approx([100 * (2 * 15 + 4) / 60, 100 * (2 * 13 + 4) / 60, 0])


def test_a_strip_counted_by_hand() -> None:
    # one row: the edge of class 1 is at 10 and at 14; boundaries of each class are one pixel on its own side
    truth, labels = np.zeros((1, 30), np.uint8), np.zeros((1, 30), np.uint8)
    truth[0, 10:], labels[0, 14:] = 1, 1
    assert boundary_f(truth, labels, 2).tolist() == [0, 0]
    labels[0, 20:24] = 0  # two more edges of each class, both false; one of the truth is still not found
    labels[0, 10:14] = 1
    # class 1 of labels: edges at 10, 19, 24, of truth: at 10. precision 1/3, recall 1
    assert boundary_f(truth, labels, 2) == pytest.approx([50, 50])


def test_the_edge_of_the_image_is_no_boundary() -> None:
    everywhere = np.ones((8, 8), np.uint8)
    scores = boundary_f(everywhere, everywhere, 3)
    assert scores[1] == 100
    assert np.isnan(scores[[0, 2]]).all()


def test_a_class_in_only_one_map_scores_nothing() -> None:
    assert boundary_f(square(14), np.zeros((40, 48), np.uint8), 2).tolist() == [0, 0]
    assert boundary_f(np.zeros((8, 8), np.uint8), np.ones((8, 8), np.uint8), 2).tolist() == [0, 0]


def test_labels_on_void_are_not_looked_at() -> None:
    truth = square(14)
    truth[:, 30:] = VOID
    labels = truth.copy()
    labels[:, 30:] = 1
    assert boundary_f(truth, labels, 2).tolist() == [100, 100]


def test_small_regions_counted_by_hand() -> None:
    truth = np.zeros((100, 100), np.uint8)  # the rest, 8,700 pixels, is large
    truth[0:10, 0:10] = 1  # small, alone
    truth[10:20, 10:20] = 1  # touches the first at a corner: one region of 200 pixels
    truth[60:92, 60:92] = 2  # 1,024 pixels: not small
    truth[40:50, 0:10] = 255
    labels = truth.copy()
    assert small_regions(truth, labels) == (200, 200)
    labels[0:5, 0:10] = 0
    labels[60:92, 60:92] = 0
    assert small_regions(truth, labels) == (200, 150)
    meter = Meter(3)
    meter.add(truth, labels)
    meter.add(np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8))
    assert meter.score().small == 75.0


def test_without_small_regions_there_is_no_share_of_them() -> None:
    meter = Meter(2)
    meter.add(np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8))
    assert meter.score().small is None
