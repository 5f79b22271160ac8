"""Tiny data sets on disk, and one in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from edgeseg.data.base import Image, Labels, Split

Write = Callable[..., None]


@pytest.fixture
def put() -> Write:
    """Writes an image and a mask: `put(image_path, mask_path, seed=0, size=(12, 16), ids=11)`."""

    def write(image: Path, mask: Path, seed: int = 0, size: tuple[int, int] = (12, 16), ids: int = 11) -> None:
        dice = np.random.default_rng(seed)
        for path, shape, top in ((image, (*size, 3), 256), (mask, size, ids)):
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels: NDArray[np.uint8] = dice.integers(0, top, shape, np.uint8)
            pixels.flat[0] = top - 1  # the largest id is always there
            Pillow.fromarray(pixels).save(path)

    return write


@pytest.fixture
def camvid(tmp_path: Path, put: Write) -> Path:
    """A CamVid of two sequences, one of which goes on in `test`."""
    frames = {"train": [("A", n) for n in range(30)] + [("B", n) for n in range(20)], "val": [("B", 99)]}
    frames["test"] = [("A", n) for n in range(30, 33)]
    for split, names in frames.items():
        for seed, (sequence, number) in enumerate(names):
            name = f"{sequence}_{number:03d}"
            put(tmp_path / split / "images" / f"{name}.jpg", tmp_path / split / "labels" / f"{name}.png", seed, ids=12)
    return tmp_path


class Made(Split):
    """Images in memory; every pixel of image `n` is `n`, and so is every label."""

    def __init__(self, count: int, size: tuple[int, int] = (24, 32)) -> None:
        self.names = tuple(f"image{n}" for n in range(count))
        self.size = size

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        labels = np.full(self.size, index, np.uint8)
        return np.repeat(labels[..., None], 3, axis=2), labels


@pytest.fixture
def made() -> type[Made]:
    """The class of splits in memory."""
    return Made


@pytest.fixture(scope="session")
def real_camvid() -> Path:
    """The CamVid of this machine: `EDGESEG_CAMVID`, else `../shared/data/camvid` beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid"
    path = Path(os.environ.get("EDGESEG_CAMVID", beside))
    if not path.is_dir():
        pytest.skip(f"needs CamVid: set EDGESEG_CAMVID to its folder ({path} is not there)")
    return path
