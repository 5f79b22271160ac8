"""Images that come with red and blue swapped are seen, and noise is, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.data import load_data
from edgeseg.data.look import GRID, NOISE, _alike, look_of, noise, swapped
from edgeseg.runs import load_run, read_card

Images = list[NDArray[np.uint8]]
RNG = np.random.default_rng(0)


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
    grain = [rng.integers(0, 255, image.shape, np.uint8) for image in others]
    assert [swapped(look, images) for images in (grey, dark, grain)] == [False] * 3


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


def random(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, np.uint8)


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1), np.uint8)


NOISES: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "uniform": lambda image: random(*image.shape),
    "grey": lambda image: random(*image.shape[:2], 1).repeat(3, 2),
    "normal": lambda image: RNG.normal(128, 60, image.shape).clip(0, 255),
    "faint": lambda image: 100 + random(*image.shape) // 64,
    "a JPEG": lambda image: jpeg(random(*image.shape), 60),
    "its pixels in random order": lambda image: RNG.permutation(image.reshape(-1, 3)).reshape(image.shape),
}

PICTURES: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "as it is": lambda image: image,
    "dark": lambda image: image // 64,
    "night": lambda image: 50 * RNG.poisson(5 * (image / 255.0) ** 2.2),
    "grain": lambda image: image + RNG.normal(0, 60, image.shape),
    "lines": lambda image: 255 - cv2.Canny(image, 60, 150)[..., None].repeat(3, 2),
    "dithered": lambda image: 255.0 * (image > random(*image.shape)),
    "nothing coarse": lambda image: 128.0 + image - cv2.GaussianBlur(image.astype(np.float32), (0, 0), 8),
    "one colour": lambda image: np.full_like(image, 90),
}


@pytest.mark.parametrize("how", NOISES.values(), ids=NOISES)
def test_noise_is_seen(others: Images, how: Callable[[NDArray[np.uint8]], Any]) -> None:
    assert noise([np.asarray(how(image), np.uint8) for image in others])


@pytest.mark.parametrize("how", PICTURES.values(), ids=PICTURES)
def test_no_picture_is_called_noise(others: Images, how: Callable[[NDArray[np.uint8]], Any]) -> None:
    assert not any(noise([np.asarray(how(image).clip(0, 255), np.uint8)]) for image in others)


@pytest.mark.parametrize("size", ["64x64", "64x96", "240x320"])
@pytest.mark.parametrize("kind", ["synthetic", "synthetic_objects"])
def test_generated_scenes_are_far_from_noise(monkeypatch: pytest.MonkeyPatch, kind: str, size: str) -> None:
    monkeypatch.setattr("edgeseg.data.look.NOISE", 2 * NOISE)
    part = load_data(f"{kind}:size={size},train=48,val=2,test=2").split("train")
    assert not any(noise([part[index][0]]) for index in range(len(part)))


def test_pixels_are_alike_as_numpy_correlates_them() -> None:
    grey = cv2.GaussianBlur(random(90, 120, 1), (0, 0), 2).astype(np.float32)
    beside = np.corrcoef(grey[:, 1:].ravel(), grey[:, :-1].ravel())[0, 1]
    below = np.corrcoef(grey[1:].ravel(), grey[:-1].ravel())[0, 1]
    assert _alike(grey) == pytest.approx((beside + below) / 2, abs=0.01)
    assert _alike(np.zeros((4, 4), np.float32)) == 0
