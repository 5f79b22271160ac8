"""Views and batches: repeatable to the bit, whatever makes them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeseg.data import load_data
from edgeseg.data.augment import MEAN_COLOUR, Augment
from edgeseg.data.base import Image, Labels, Split
from edgeseg.data.loader import Batch, Batches, cached, evaluation
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID

Made = Callable[..., Split]
PLAIN = Augment(crop=(24, 32), scale=(1.0, 1.0), flip=0, colour=0, blur=0)
ALL = Augment(crop=(16, 20), blur=0.5)


def picture(size: tuple[int, int] = (24, 32)) -> tuple[Image, Labels]:
    """A random image whose labels are its green channel, in steps that survive nothing but nearest neighbour."""
    labels = np.random.default_rng(1).integers(0, 11, size, np.uint8)
    return np.dstack([labels, labels * 20, labels]), labels


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_view_is_a_pure_function_of_its_seed() -> None:
    image, labels = picture()
    kept = image.copy(), labels.copy()
    view, copy = ALL.build(), pickle.loads(pickle.dumps(ALL.build()))
    views = [view(image, labels, seed) for seed in range(20)]
    for seed in reversed(range(20)):
        for ours, again in zip(views[seed], copy(image, labels, seed), strict=True):
            np.testing.assert_array_equal(ours, again)
    assert len({view[0].tobytes() for view in views}) == 20
    assert {view[0].shape for view in views} == {(16, 20, 3)}
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(labels, kept[1])


def test_labels_are_never_mixed() -> None:
    image, labels = picture()
    sparse = np.where(labels > 5, 200, 7).astype(np.uint8)
    for seed in range(20):
        assert set(ALL.build()(image, sparse, seed)[1].flat) <= {7, 200, 255}


def test_image_and_labels_move_together() -> None:
    image, labels = picture()
    view = replace(PLAIN, crop=(12, 16), flip=0.5).build()
    for seed in range(20):
        moved, moved_labels, _ = view(image, labels, seed)
        np.testing.assert_array_equal(moved[..., 0], moved_labels)


def test_steps_are_drawn_independently() -> None:
    """With one seed for every step, only mirrored images would be blurred."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 200
    view = replace(PLAIN, crop=None, flip=0.5, blur=0.5).build()
    seen = set()
    for seed in range(40):
        out, _, _ = view(image, image[..., 0], seed)
        seen.add((bool(out[0, 0, 0]), len(np.unique(out)) > 2))
    assert seen == {(mirrored, blurred) for mirrored in (False, True) for blurred in (False, True)}


def test_small_images_are_padded() -> None:
    image, labels = picture((8, 10))
    out, out_labels, _ = replace(PLAIN, crop=(16, 20)).build()(image, labels, 0)
    void = out_labels == 255
    assert void.sum() == 16 * 20 - 8 * 10
    assert (out[void] == MEAN_COLOUR).all()
    np.testing.assert_array_equal(out[~void], image.reshape(-1, 3))


def test_without_a_crop_the_size_stays() -> None:
    for size in ((24, 32), (10, 14)):
        assert Augment().build()(*picture(size), 0)[0].shape == (*size, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("crop", (0, 4)), ("scale", (2.0, 0.5)), ("scale", (0.0, 1.0)), ("flip", 2.0), ("colour", -0.1), ("blur", np.nan)],
)
def test_a_wrong_option_fails_when_built(field: str, value: Any) -> None:
    with pytest.raises(EdgesegError, match=field):
        replace(PLAIN, **{field: value})


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_from_any_step(camvid: Path, workers: int) -> None:
    split = load_data(f"camvid:{camvid}").split("train")
    batches = Batches(split, ALL, batch=4, seed=3, workers=workers)
    whole = list(batches.epoch(2))
    assert len(whole) == len(batches) == 12
    rest = list(Batches(split, ALL, batch=4, seed=3, workers=0, cache_bytes=0).epoch(2, start=7))
    assert all(same(a, b) for a, b in zip(whole[7:], rest, strict=True))
    assert all(same(a, b) for a, b in zip(whole, batches.epoch(2), strict=True))
    assert not same(whole[0], next(batches.epoch(1)))
    assert list(batches.epoch(2, start=12)) == []


def test_an_epoch_is_put_in_order_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[tuple[int, ...]] = []
    plain = np.random.default_rng

    def counted(words: Any = None) -> Any:
        if isinstance(words, tuple) and len(words) == 3:
            orders.append(words)
        return plain(words)

    monkeypatch.setattr(np.random, "default_rng", counted)
    batches = Batches(made(12), PLAIN, batch=2, seed=5, workers=0)
    for epoch in (0, 1):
        assert len(list(batches.placed(epoch))) == 6
    assert orders == [(5, 0, 0), (5, 1, 0)]
    assert batches.names(3) != batches.names(9)  # of another epoch
    assert {*batches.names(6), *batches.names(11)} <= set(made(12).names)


def test_an_epoch_left_early_does_not_leak_into_the_next(made: Made) -> None:
    batches = Batches(made(12), PLAIN, batch=2, seed=0, workers=1)
    first = list(batches.epoch(0))
    next(batches.epoch(1))
    assert all(same(a, b) for a, b in zip(first, batches.epoch(0), strict=True))


def test_places_go_on_from_any_step_too(made: Made) -> None:
    batches = Batches(made(12), replace(ALL, whole=0.5), batch=4, seed=3, workers=0)
    whole, rest = list(batches.placed(1)), list(batches.placed(1, start=2))
    assert torch.equal(whole[2][2], rest[0][2])
    assert sorted(int(view[0]) for _, _, views in whole for view in views) == list(range(12))
    assert all(same(a[:2], b) for a, b in zip(whole, batches.epoch(1), strict=True))


@pytest.mark.parametrize(
    "augment", [ALL, replace(ALL, crop=(40, 50)), replace(ALL, whole=1.0), replace(ALL, crop=None)]
)
def test_a_place_says_what_of_the_image_a_view_shows(augment: Augment) -> None:
    rows, columns = np.mgrid[0:90, 0:123].astype(np.uint8)
    image = 2 * np.dstack([columns, rows, columns])
    view = replace(augment, colour=0, blur=0).build()
    for seed in range(30):
        seen, labels, (a, b, c, d) = view(image, np.zeros((90, 123), np.uint8), seed)
        x, y = np.meshgrid(a * (np.arange(labels.shape[1]) + 0.5) + b, c * (np.arange(labels.shape[0]) + 0.5) + d)
        shown = (x > 0) & (x < 123) & (y > 0) & (y < 90)
        np.testing.assert_array_equal(shown, labels == 0)  # the rest is padding
        inner = (x > 2) & (x < 121) & (y > 2) & (y < 88)  # at the rim resizing repeats
        off = np.abs(seen[..., :2] / 2 + 0.5 - np.stack([x, y], -1))[inner]
        assert off.max(initial=0) < 0.4  # a level is half a pixel, and OpenCV's resizing is up to 0.75 of a level off


def test_form_of_a_batch(made: Made) -> None:
    images, labels = next(Batches(made(6), PLAIN, batch=3, seed=0, workers=0).epoch(0))
    assert images.shape == (3, 3, 24, 32)
    assert labels.shape == (3, 24, 32)
    assert images.dtype == labels.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images[:, 0], labels)


def test_an_epoch_sees_every_image_once_and_processes_share_it(made: Made) -> None:
    def seen(rank: int, world: int, epoch: int = 0) -> list[int]:
        batches = Batches(made(13), PLAIN, batch=2, seed=5, workers=0, rank=rank, world=world)
        return [int(label[0, 0]) for _, labels in batches.epoch(epoch) for label in labels]

    alone = seen(0, 1)
    assert len(set(alone)) == len(alone) == 12
    assert seen(0, 1, epoch=1) != alone
    first, second = seen(0, 2), seen(1, 2)
    assert len(first) == len(second) == 6
    assert [first[0:2], second[0:2], first[2:4]] == [alone[0:2], alone[2:4], alone[4:6]]


def test_the_global_random_state_is_left_alone(made: Made) -> None:
    """A resumed run starts an epoch once more than the run it repeats."""
    batches = Batches(made(4), ALL, batch=2, seed=0, workers=0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(batches.epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_mixing_is_repeatable(made: Made) -> None:
    def mixing(images: torch.Tensor, labels: torch.Tensor, seed: int) -> Batch:
        return images.roll(1, 0), labels + seed % 100

    batches = Batches(made(8), PLAIN, batch=2, seed=0, workers=0, mixing=mixing)
    whole = list(batches.epoch(0))
    assert same(whole[2], next(batches.epoch(0, start=2)))
    assert not torch.equal(whole[0][0][:, 0], whole[0][1])


def test_too_few_images_for_a_batch(made: Made) -> None:
    with pytest.raises(EdgesegError, match="5 images do not fill one batch of 3 on 2 processes"):
        Batches(made(5), PLAIN, batch=3, seed=0, workers=0, world=2)
    with pytest.raises(EdgesegError, match="batch 0 must be at least 1"):
        Batches(made(5), PLAIN, batch=0, seed=0, workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_one_line_even_from_a_worker(camvid: Path, workers: int) -> None:
    split = load_data(f"camvid:{camvid}").split("train")
    batches = Batches(split, ALL, batch=25, seed=0, workers=workers, cache_bytes=0)
    (camvid / "train" / "images" / "B_007.jpg").write_bytes(b"")
    with pytest.raises(EdgesegError, match=r"^[^\n]*B_007\.jpg[^\n]*$"):
        list(batches.epoch(0))


def test_sizes_that_differ_need_a_crop(tmp_path: Path, put: Callable[..., None]) -> None:
    for name in ("train", "val"):
        for n, size in enumerate(((12, 16), (16, 12))):
            put(tmp_path / name / "images" / f"{n}.jpg", tmp_path / name / "masks" / f"{n}.png", n, size)
    split = load_data(f"folder:{tmp_path}").split("train")
    with pytest.raises(EdgesegError, match="give the augmentation a crop"):
        next(Batches(split, Augment(), batch=2, seed=0, workers=0).epoch(0))
    assert next(Batches(split, ALL, batch=2, seed=0, workers=0).epoch(0))[0].shape == (2, 3, 16, 20)


def test_the_cache_keeps_to_its_size(made: Made) -> None:
    split = made(4)
    needed = 4 * 4 * 24 * 32
    assert cached(split, needed - 1) is split
    kept = cached(split, needed)
    assert kept is not split
    assert kept.names == split.names
    np.testing.assert_array_equal(kept[2][0], split[2][0])


class Growing(Split):
    """The first image is the smallest."""

    names = ("a", "b", "c")

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        labels = np.zeros((1 + index, 8), np.uint8)
        return np.dstack([labels] * 3), labels


def test_the_cache_gives_up_on_what_turns_out_larger() -> None:
    split = Growing()
    assert cached(split, 4 * 8 * 5) is split
    assert cached(split, 4 * 8 * 6) is not split


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_evaluation_keeps_the_order(made: Made, workers: int) -> None:
    split = made(9)
    for index, (image, labels, name) in enumerate(evaluation(split, workers)):
        assert name == split.names[index]
        assert int(image[0, 0, 0]) == int(labels[0, 0]) == index
    assert index == 8


def test_evaluation_stops_reading_when_left() -> None:
    read = []

    class Slow(Split):
        names = tuple("abcdefghij" * 10)

        def __getitem__(self, index: int) -> tuple[Image, Labels]:
            read.append(index)
            time.sleep(0.01)
            return picture()

    for _ in evaluation(Slow(), 2):
        break
    assert len(read) < 10


@pytest.mark.parametrize(
    ("size", "augment"),
    [
        (
            (150, 225),
            Augment((17, 25), (1.0, 1.0), whole=1.0, flip=0, colour=0, blur=0),
        ),  # fitted, as promptable views are
        ((96, 128), Augment((48, 64), (0.5, 0.5), flip=0, colour=0, blur=0)),
        ((96, 128), Augment((72, 96), (0.75, 0.75), flip=0, colour=0, blur=0)),
        ((96, 128), Augment((144, 192), (1.5, 1.5), flip=0, colour=0, blur=0)),
    ],
)
def test_labels_lie_on_the_picture(size: tuple[int, int], augment: Augment) -> None:
    """Not half a pixel beside it, as they did with OpenCV's usual way to take the nearest."""
    rng, off = np.random.default_rng(0), []
    for seed in range(40):
        image, labels = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
        height, width = (int(0.3 * side) for side in size)
        top, left = (int(rng.integers(int(0.3 * side), int(0.6 * side))) for side in size)
        image[top : top + height, left : left + width] = 255
        labels[top : top + height, left : left + width] = 1
        seen, told, _ = augment.build()(image, labels, seed)
        for weights in (seen[..., 0] / 255.0 * (told != VOID), (told == 1).astype(float)):
            off.append(np.array([np.average(places, weights=weights) for places in np.indices(told.shape)]))
    shift = np.mean(off[1::2], 0) - np.mean(off[::2], 0)
    assert np.abs(shift).max() < 0.26, shift  # an even factor has no middle pixel: a quarter of one is left
