"""Objects of one photo pasted into another: new neighbours and new ground for every outline there is.

Ghiasi et al.: Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation, arXiv 2012.07177.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeseg.metrics import VOID

MOST, LARGEST, SMALLEST = 3, 0.5, 32
"""Objects that are pasted into an image; the largest that is, as a share of the image, and the smallest, in pixels."""


@dataclass(frozen=True)
class Paste:
    """Mixes a batch of images with instance ids: a `share` of them gets objects of another one, moved, in front of its own."""

    share: float

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """uint8 `images [B, 3, H, W]` and ids `[B, H, W]` (0 background, 255 unknown), mixed; nothing for a batch of one."""
        rng = np.random.default_rng(seed)
        pixels, ids = images.permute(0, 2, 3, 1).numpy(), labels.numpy()
        mixed, named = pixels.copy(), ids.copy()
        for index in range(len(ids)):
            if len(ids) > 1 and rng.random() < self.share:
                other = (index + int(rng.integers(1, len(ids)))) % len(ids)
                _into(mixed[index], named[index], pixels[other], ids[other], rng)
        return torch.from_numpy(mixed).permute(0, 3, 1, 2), torch.from_numpy(named)


def _into(
    image: NDArray[np.uint8],
    ids: NDArray[np.uint8],
    source: NDArray[np.uint8],
    theirs: NDArray[np.uint8],
    rng: np.random.Generator,
) -> None:
    counts = np.bincount(theirs.ravel(), minlength=VOID + 1)
    counts[[0, VOID]] = 0
    there = np.flatnonzero((counts >= SMALLEST) & (counts <= LARGEST * theirs.size))
    used = int(ids[ids != VOID].max(initial=0))
    chosen = rng.permutation(there)[: min(int(rng.integers(1, MOST + 1)), VOID - 1 - used)]
    for number, index in enumerate(chosen, used + 1):
        rows, columns = np.nonzero(theirs == index)
        down = int(rng.integers(-rows.min(), ids.shape[0] - rows.max()))  # all of it stays in the image
        right = int(rng.integers(-columns.min(), ids.shape[1] - columns.max()))
        image[rows + down, columns + right] = source[rows, columns]
        ids[rows + down, columns + right] = number
