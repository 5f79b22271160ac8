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


def with_bodies(program: torch.export.ExportedProgram, bodies: Bodies) -> nn.Module:
    """The module of an exported program with other functions in the places of some of its operators."""
    module = program.module()
    for node in module.graph.nodes:
        node.target = bodies.get(node.target, node.target)
    module.recompile()
    return module
