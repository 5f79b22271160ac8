"""label_map on NumPy arrays for files that end with low logits: our kernel, or where no compiler is, NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.kernels import native
from edgeseg.kernels.label_map.reference import weights

BAND = 16
"""Rows at a time, so that the full-size logits are never there as a whole."""


def label_map_host(logits: NDArray[np.float32], size: tuple[int, int], threads: int = 0) -> NDArray[np.uint8]:
    """`logits [B, K, h, w]` to labels `[B, H, W]`, enlarged bilinearly without aligned corners."""
    try:
        return native.label_map(logits, size, threads=threads)
    except (EdgesegError, OSError):  # no compiler, or a cache that nothing may be loaded from
        return in_numpy(logits, size)


def in_numpy(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The same without a compiler, in float32."""
    rows, columns = (
        weights(inner, outer, False).astype(np.float32) for inner, outer in zip(logits.shape[2:], size, strict=True)
    )
    wide = logits @ columns.T
    bands = [rows[start : start + BAND] @ wide for start in range(0, size[0], BAND)]
    return np.concatenate([band.argmax(1).astype(np.uint8) for band in bands], 1)
