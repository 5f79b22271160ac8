"""The definition of label_map in float64: slow, and what every other form is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def label_map_reference(
    logits: NDArray[np.floating], size: tuple[int, int], align_corners: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Labels `[B, H, W]`, and by how much the winner wins `[B, H, W]`: where that is rounding, any of the tied labels is right."""
    x = logits.astype(np.float64)
    rows = weights(x.shape[2], size[0], align_corners)
    columns = weights(x.shape[3], size[1], align_corners)
    full = np.einsum("Hh,bkhw,Ww->bkHW", rows, x, columns, optimize=True)
    first, second = -np.sort(-full, axis=1)[:, :2].swapaxes(0, 1)
    return full.argmax(1).astype(np.uint8), first - second


def weights(inner: int, outer: int, align_corners: bool) -> NDArray[np.float64]:
    """The bilinear weights `[outer, inner]`: row i holds how much of each input sample output sample i is."""
    if align_corners:
        place = np.arange(outer) * ((inner - 1) / max(1, outer - 1))
    else:
        place = np.clip((np.arange(outer) + 0.5) * (inner / outer) - 0.5, 0, None)
    low = np.minimum(np.floor(place).astype(int), inner - 1)
    high = np.minimum(low + 1, inner - 1)
    part = place - low
    weights = np.zeros((outer, inner))
    np.add.at(weights, (np.arange(outer), low), 1 - part)
    np.add.at(weights, (np.arange(outer), high), part)
    return weights
