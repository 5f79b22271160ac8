"""Operators that a converter lacks, as ones that it has; exact, so the proof afterwards is held to the same tolerances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CUBIC = -0.75
"""The slope that a cubic has at its neighbours."""


def bicubic_as_products(
    x: Tensor,
    size: Sequence[int] | None,
    align_corners: bool = False,
    scales: Sequence[float] | None = None,
) -> Tensor:
    """`aten.upsample_bicubic2d` of `x [B, K, h, w]`: rows @ x @ columns, with weights that are constants."""
    inner, outer = _sizes(x, size, scales)
    rows, columns = (cubic_weights(*pair, align_corners) for pair in zip(inner, outer, strict=True))
    return _by_sides(x, rows, columns, [side == 1 for side in inner])


def cubic_weights(inner: int, outer: int, align_corners: bool = False) -> Tensor:
    """`[outer, inner]`: how much of each sample each sample of the larger row is (Keys 1981, a = -0.75, as PyTorch has it)."""
    if align_corners:
        place = np.arange(outer) * ((inner - 1) / max(1, outer - 1))
    else:
        place = (np.arange(outer) + 0.5) * (inner / outer) - 0.5
    low = np.floor(place).astype(int)
    weights = np.zeros((outer, inner))
    for step in (-1, 0, 1, 2):
        away = np.abs(place - low - step)
        near = (CUBIC + 2) * away**3 - (CUBIC + 3) * away**2 + 1
        far = CUBIC * (away**3 - 5 * away**2 + 8 * away - 4)
        np.add.at(weights, (np.arange(outer), np.clip(low + step, 0, inner - 1)), np.where(away <= 1, near, far))
    return torch.from_numpy(weights.astype(np.float32))


def nearest_as_products(x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None = None) -> Tensor:
    """`aten.upsample_nearest2d`; by a fraction as products with zeros and ones, since runtimes do not agree on the sample to take."""
    inner, outer = _sizes(x, size, scales)
    rows, columns = (nearest_weights(*pair) for pair in zip(inner, outer, strict=True))
    return _by_sides(x, rows, columns, [large % small == 0 for small, large in zip(inner, outer, strict=True)])


def nearest_weights(inner: int, outer: int) -> Tensor:
    """`[outer, inner]`: 1 for the sample that PyTorch takes, else 0."""
    scale = np.float32(inner) / np.float32(outer)
    taken = np.minimum(np.floor(np.arange(outer, dtype=np.float32) * scale).astype(int), inner - 1)
    return torch.from_numpy((taken[:, None] == np.arange(inner)).astype(np.float32))


def _by_sides(x: Tensor, rows: Tensor, columns: Tensor, repeats: Sequence[bool]) -> Tensor:
    """rows @ x @ columns, but pixels repeated along a side that says so.

    A map one pixel wide has to: ncnn multiplies it wrongly, without a word.
    """
    whole = [
        len(each) if repeat else side for each, repeat, side in zip((rows, columns), repeats, x.shape[2:], strict=True)
    ]
    if any(repeats):
        x = F.interpolate(x, [int(side) for side in whole], mode="nearest")
    if not repeats[1]:
        x = x @ columns.to(x).mT
    return x if repeats[0] else rows.to(x) @ x


def _sizes(x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None) -> tuple[list[int], list[int]]:
    """Height and width, before and after, as numbers: while PyTorch traces, those of a shape are tensors."""
    inner = [int(side) for side in x.shape[2:]]
    if size is not None:
        return inner, [int(side) for side in size]
    assert scales is not None
    return inner, [int(side * scale) for side, scale in zip(inner, scales, strict=True)]


def lerp_as_sum(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """`aten.lerp` without the choice by the weight that PyTorch makes for the last bit, which costs an operator nobody delegates."""
    return start + (end - start) * weight


def average_pool_of_padded(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`aten.avg_pool2d`: with padding, a pool without any over the padded image; where that does not count, times a constant map."""
    size, step = _pair(kernel_size), _pair(stride) or _pair(kernel_size)
    rows, columns = _pair(padding)
    if (rows, columns) == (0, 0) or ceil_mode or divisor_override is not None:
        return F.avg_pool2d(x, size, step, (rows, columns), ceil_mode, count_include_pad, divisor_override)
    made = F.avg_pool2d(F.pad(x, (columns, columns, rows, rows)), size, step)
    if count_include_pad:
        return made
    there = F.avg_pool2d(torch.ones(1, 1, *x.shape[2:]), size, step, (rows, columns))
    return made * (1 / there).to(x)


def _pair(given: Sequence[int]) -> tuple[int, ...]:
    return tuple(given) * 2 if len(given) == 1 else tuple(given)
