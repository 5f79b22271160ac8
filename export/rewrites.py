"""Operators that a converter lacks, as ones that it has; exact, so the proof afterwards is held to the same tolerances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Bodies = Mapping[Any, Callable[..., Any]]


def bicubic_as_products(
    x: Tensor,
    size: Sequence[int] | None,
    align_corners: bool = False,
    scales: Sequence[float] | None = None,
) -> Tensor:
    """`aten.upsample_bicubic2d` of `x [B, K, h, w]`: rows @ x @ columns, with weights that are constants."""
    if size is None:
        assert scales is not None
        size = [int(side * scale) for side, scale in zip(x.shape[2:], scales, strict=True)]
    rows, columns = (cubic_weights(inner, outer, align_corners) for inner, outer in zip(x.shape[2:], size, strict=True))
    return rows.to(x) @ (x @ columns.to(x).mT)


def cubic_weights(inner: int, outer: int, align_corners: bool = False) -> Tensor:
    """`[outer, inner]`: how much of each sample each sample of the larger row is, from PyTorch's own resizing."""
    each = torch.eye(inner, dtype=torch.float64)[None, None]  # a column of the picture per sample
    return F.interpolate(each, size=(outer, inner), mode="bicubic", align_corners=align_corners)[0, 0].float()


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


def with_bodies(program: torch.export.ExportedProgram, bodies: Bodies) -> nn.Module:
    """The module of an exported program with other functions in the places of some of its operators."""
    module = program.module()
    for node in module.graph.nodes:
        node.target = bodies.get(node.target, node.target)
    module.recompile()
    return module
