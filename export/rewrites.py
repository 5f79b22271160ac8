"""Operators that a converter lacks, as ones that it has; exact, so the proof afterwards is held to the same tolerances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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
    sides = _sides(x, size, scales)
    rows, columns = (cubic_weights(inner, outer, align_corners, scale) for inner, outer, scale in sides)
    return _by_sides(x, rows, columns, [inner == 1 for inner, *_ in sides])


def cubic_weights(inner: int, outer: int, align_corners: bool = False, scale: float | None = None) -> Tensor:
    """`[outer, inner]`: how much of each sample each sample of the larger row is (Keys 1981, a = -0.75, as PyTorch has it).

    scale: that was asked for instead of a size: PyTorch walks in steps of 1 / scale then, though `outer` is rounded down.
    """
    if align_corners:
        place = np.arange(outer) * ((inner - 1) / max(1, outer - 1))
    else:
        place = (np.arange(outer) + 0.5) * (1 / scale if scale else inner / outer) - 0.5
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
    sides = _sides(x, size, scales)
    rows, columns = (nearest_weights(*side) for side in sides)
    repeats = [
        outer % inner == 0 and np.array_equal(_taken(inner, outer, scale), _taken(inner, outer))
        for inner, outer, scale in sides
    ]
    return _by_sides(x, rows, columns, repeats)


def nearest_weights(inner: int, outer: int, scale: float | None = None) -> Tensor:
    """`[outer, inner]`: 1 for the sample that PyTorch takes, else 0; scale: as for `cubic_weights`."""
    taken = _taken(inner, outer, scale)
    return torch.from_numpy((taken[:, None] == np.arange(inner)).astype(np.float32))


def _taken(inner: int, outer: int, scale: float | None = None) -> NDArray[np.int64]:
    """The sample that PyTorch takes for each of the larger row `[outer]`."""
    place = np.arange(outer)
    if outer in (inner, 2 * inner):  # it copies or doubles then, whatever the scale is
        return place * inner // outer
    step = np.float32(1 / scale) if scale else np.float32(inner) / np.float32(outer)
    return np.minimum(np.floor(place.astype(np.float32) * step).astype(np.int64), inner - 1)


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


def _sides(
    x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None
) -> list[tuple[int, int, float | None]]:
    """Height and width: before, after, and the scale where no size was asked for; numbers, which tracing makes tensors of."""
    inner = [int(side) for side in x.shape[2:]]
    if size is not None:
        return [(side, int(to), None) for side, to in zip(inner, size, strict=True)]
    assert scales is not None
    return [(side, int(side * scale), scale) for side, scale in zip(inner, scales, strict=True)]


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
