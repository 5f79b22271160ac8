"""Images that come with red and blue swapped are seen, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.data import load_data
from edgeseg.data.look import GRID, look_of, swapped
from edgeseg.runs import load_run, read_card

Images = list[NDArray[np.uint8]]


@pytest.fixture(scope="module")
def look() -> list[float]:
    return look_of(load_data("synthetic").split("train"))


@pytest.fixture(scope="module")
def others() -> Images:
    part = load_data("synthetic").split("test")
    return [part[index][0] for index in range(32)]


def bgr(images: Images) -> Images:
    return [np.ascontiguousarray(image[..., ::-1]) for image in images]


def test_a_look_is_the_mean_of_thumbnails() -> None:
    part = load_data("synthetic:size=64x96,train=4,val=2,test=2").split("train")
    made = np.reshape(look_of(part), (GRID, GRID, 3))
    by_hand = np.mean([part[i][0].reshape(GRID, 16, GRID, 24, 3).mean((1, 3)) for i in range(4)], 0)
    assert np.abs(made - by_hand).max() <= 0.51  # thumbnails are of whole numbers


@pytest.mark.parametrize("count", [24, 32])
def test_swapped_colours_are_seen(look: list[float], others: Images, count: int) -> None:
    assert swapped(look, bgr(others[:count]))
    assert not swapped(look, others[:count])


def test_what_is_only_different_is_not_called_swapped(look: list[float], others: Images) -> None:
    rng = np.random.default_rng(0)
    grey = [np.repeat(image.mean(2, keepdims=True), 3, 2).astype(np.uint8) for image in others]
    dark = [image // 8 for image in others]
    noise = [rng.integers(0, 255, image.shape, np.uint8) for image in others]
    assert [swapped(look, images) for images in (grey, dark, noise)] == [False] * 3


@pytest.mark.parametrize("count", [1, 2, 7])
def test_few_images_are_not_judged(look: list[float], others: Images, count: int) -> None:
    assert not swapped(look, bgr(others[:count]))


def test_a_look_without_colour_or_none_at_all_judges_nothing(others: Images) -> None:
    assert not swapped([], bgr(others))
    assert not swapped([90.0] * (GRID * GRID * 3), bgr(others))


def test_a_run_keeps_the_look_of_what_it_learned_from(tiny_run: Path) -> None:
    card = read_card(tiny_run)
    assert len(card.look) == GRID * GRID * 3
    assert load_run(tiny_run).look == tuple(card.look)
