"""The receptive field of any network: the rows and columns of the image that its values can depend on.

Interval arithmetic over the operations that run, without a single multiplication: beside every tensor made from the image go
four planes, the first and the last row and column that each of its values hears of. A window (convolution, pooling,
interpolation) takes the extremes of what lies under it, whatever is added or multiplied the extremes of both, a sum over
places those of all places. That is exact for the operations in the tables below; one that is not there counts as hearing
all that its inputs hear, which is never too little. Weights play no part: a weight of zero counts like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten

Planes: TypeAlias = tuple[Tensor, ...]
"""First row, -last row, first column, -last column, so that whatever is put together is a minimum. Shaped like their tensor,
but of size 1 along what they do not vary along, which keeps them small."""

NOTHING = 1 << 40
"""In a plane: hears nothing of the image."""


class Fields(TorchDispatchMode):
    """While entered, follows what is computed from `image [B, C, H, W]`; `planes[tensor]` is what a tensor hears."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        y, x = torch.arange(image.shape[2]).view(1, 1, -1, 1), torch.arange(image.shape[3]).view(1, 1, 1, -1)
        self.planes = WeakTensorKeyDictionary()
        self.planes[image] = (y, -y, x, -x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, and what its results hear."""
        made = func(*args, **(kwargs or {}))
        heard = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each in self.planes]
        if heard:
            results = [each for each in tree_leaves(made) if isinstance(each, Tensor)]
            found = zip(*(self._follow(index, func, args, kwargs or {}, heard, results) for index in range(4)))
            for result, planes in zip(results, found):
                self.planes[result] = planes
        return made

    def _follow(
        self, index: int, func: Any, args: Any, kwargs: Any, heard: list[Tensor], results: list[Tensor]
    ) -> list[Tensor]:
        """One plane of each result."""

        def of(tensor: Tensor) -> Tensor | None:
            return self.planes[tensor][index] if tensor in self.planes else None

        packet, out = func.overloadpacket, results[0]
        if torch.Tag.pointwise in func.tags or packet in POINTWISE:
            return [_least([of(each) for each in heard], out.ndim)]
        if packet in JOINING:
            return [JOINING[packet](of, out, *args, **kwargs)]
        if len(heard) == 1 and heard[0] is args[0]:
            plane = self.planes[heard[0]][index]
            if packet in SINGLE:
                return [SINGLE[packet](plane, heard[0], out, *args[1:], **kwargs)]
            if func.is_view or packet in MOVING:
                moved = func(plane.expand(heard[0].shape), *args[1:], **kwargs)
                return [_compress(each) for each in tree_leaves(moved)]
        return [_least([_all(of(each)) for each in heard], each.ndim) for each in results]


def field(planes: Planes | None) -> tuple[int, int]:
    """The largest (height, width) of the image that one value hears of; (0, 0) where nothing of it is heard."""
    if planes is None:
        return 0, 0
    rows, columns = (1 - int((first + last).min()) for first, last in (planes[:2], planes[2:]))
    return max(0, rows), max(0, columns)


Of: TypeAlias = Callable[[Tensor], Tensor | None]


def _least(planes: Sequence[Tensor | None], dims: int) -> Tensor:
    """The least of several planes, for a result of so many dimensions."""
    least = torch.full([1] * dims, NOTHING)
    for plane in planes:
        if plane is not None:
            least = torch.minimum(least, plane)
    return least


def _all(plane: Tensor | None) -> Tensor | None:
    return None if plane is None else plane.amin()


def _compress(plane: Tensor) -> Tensor:
    """Size 1 along what a plane does not vary along."""
    for dim, size in enumerate(plane.shape):
        first = plane.narrow(dim, 0, min(1, size))
        if plane.stride(dim) == 0 or bool((plane == first).all()):
            plane = first
    return plane


def _take(plane: Tensor, dim: int, taps: Tensor) -> Tensor:
    """The least of a plane at the places `taps [out, k]` along `dim`; places outside are padding, which hears nothing."""
    size = plane.shape[dim]
    if size == 1:
        return plane
    padded = torch.cat([plane, torch.full_like(plane.narrow(dim, 0, 1), NOTHING)], dim)
    inside = (taps >= 0) & (taps < size)
    return padded.index_select(dim, torch.where(inside, taps, size).flatten()).unflatten(dim, taps.shape).amin(dim + 1)


def _windows(out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    return torch.arange(out)[:, None] * stride - padding + torch.arange(kernel) * dilation


def _convolution(
    plane: Tensor,
    x: Tensor,
    out: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    if plane.shape[1] > 1:
        plane = plane.unflatten(1, (groups, -1)).amin(2).repeat_interleave(out.shape[1] // groups, 1)
    for axis, kernel in enumerate(weight.shape[2:]):
        count = out.shape[2 + axis]
        if transposed:  # a place of the result hears of the places that were spread onto it
            spread = torch.arange(count)[:, None] + padding[axis] - torch.arange(kernel) * dilation[axis]
            taps = torch.where(spread % stride[axis] == 0, spread // stride[axis], -1)
        else:
            taps = _windows(count, kernel, stride[axis], padding[axis], dilation[axis])
        plane = _take(plane, 2 + axis, taps)
    return plane


def _pool(
    plane: Tensor,
    x: Tensor,
    out: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    *more: Any,
    dilated: bool = False,
    **_: Any,
) -> Tensor:
    dilation = more[0] if dilated and more else (1, 1)
    for axis in range(2):
        step, wide = (stride or kernel)[axis], kernel[axis]
        plane = _take(plane, 2 + axis, _windows(out.shape[2 + axis], wide, step, padding[axis], dilation[axis]))
    return plane


def _adaptive_pool(plane: Tensor, x: Tensor, out: Tensor, *_: Any) -> Tensor:
    for dim in (2, 3):
        size, count = x.shape[dim], out.shape[dim]
        place = torch.arange(count)
        first, last = place * size // count, ((place + 1) * size - 1) // count
        reach = torch.arange(int((last - first).max()) + 1)
        plane = _take(plane, dim, torch.minimum(first[:, None] + reach, last[:, None]))
    return plane


def _interpolation(
    plane: Tensor, x: Tensor, out: Tensor, size: Any, corners: bool = False, *_: Any, reach: int
) -> Tensor:
    """`reach`: neighbours read on each side, 1 for bilinear, 2 for bicubic."""
    for dim in (2, 3):
        size, count = x.shape[dim], out.shape[dim]
        place = torch.arange(count)
        above, below = (place * (size - 1), max(1, count - 1)) if corners else ((2 * place + 1) * size - count, 2 * count)
        around = torch.arange(1 - reach, reach + 1) * (above % below != 0)[:, None]  # on a pixel, only that pixel counts
        plane = _take(plane, dim, ((above // below)[:, None] + around).clamp(0, size - 1))
    return plane


def _nearest(plane: Tensor, x: Tensor, out: Tensor, *_: Any) -> Tensor:
    for dim in (2, 3):
        plane = _take(plane, dim, (torch.arange(out.shape[dim]) * x.shape[dim] // out.shape[dim])[:, None])
    return plane


def _padding(plane: Tensor, x: Tensor, out: Tensor, pad: Sequence[int], *_: Any) -> Tensor:
    for index, before in enumerate(pad[::2], 1):
        plane = _take(plane, x.ndim - index, (torch.arange(out.shape[-index]) - before)[:, None])
    return plane


def _reduction(plane: Tensor, x: Tensor, out: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    return plane.amin(dim if dim or dim == 0 else list(range(x.ndim)), keepdim)


def _reshape(plane: Tensor, x: Tensor, out: Tensor, *_: Any) -> Tensor:
    """Only the dimensions that are cut or joined are written out in full."""
    before, after = list(x.shape), list(out.shape)
    head = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after)))
    rest = list(zip(before[head:][::-1], after[head:][::-1]))
    tail = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], rest))
    kept = list(plane.shape[:head]), list(plane.shape[len(before) - tail :])
    full = plane.expand(kept[0] + before[head : len(before) - tail] + kept[1])
    return _compress(full.reshape(kept[0] + after[head : len(after) - tail] + kept[1]))


def _product(of: Of, out: Tensor, *tensors: Any, **_: Any) -> Tensor:
    """A matrix product hears of a whole row and a whole column."""
    *added, left, right = tensors
    rows, columns = of(left), of(right)
    parts = [None if rows is None else rows.amin(-1, True), None if columns is None else columns.amin(-2, True)]
    return _least([*map(of, added), *parts], out.ndim)


def _cat(of: Of, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    dim %= out.ndim
    full = [
        _least([of(each)], each.ndim).expand([size if at == dim else -1 for at, size in enumerate(each.shape)])
        for each in tensors
    ]
    shape = torch.broadcast_shapes(*(each.narrow(dim, 0, 1).shape for each in full))
    return _compress(torch.cat([each.expand([*shape[:dim], each.shape[dim], *shape[dim + 1 :]]) for each in full], dim))


def _stack(of: Of, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    parts = [_least([of(each)], each.ndim).unsqueeze(dim % out.ndim) for each in tensors]
    return _compress(torch.cat(torch.broadcast_tensors(*parts), dim % out.ndim))


def _same(plane: Tensor, *_: Any, **__: Any) -> Tensor:
    return plane


POINTWISE = {aten.hardswish, aten.hardswish_, aten._to_copy, aten.where}
"""Operations on each value alone that PyTorch does not mark as such."""

MOVING = {aten.pixel_shuffle, aten.pixel_unshuffle, aten.repeat}
"""Beside views: operations that only move values, and can move a plane's just as well."""

JOINING: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((aten.mm, aten.bmm, aten.addmm, aten.baddbmm), _product),
    aten.cat: _cat,
    aten.stack: _stack,
}
"""Operations on several tensors."""

SINGLE: dict[Any, Callable[..., Tensor]] = {
    aten.convolution: _convolution,
    aten.avg_pool2d: _pool,
    aten.max_pool2d_with_indices: lambda *given, **more: _pool(*given, dilated=True, **more),
    aten._adaptive_avg_pool2d: _adaptive_pool,
    aten.upsample_bilinear2d: lambda *given: _interpolation(*given, reach=1),
    aten.upsample_bicubic2d: lambda *given: _interpolation(*given, reach=2),
    aten.upsample_nearest2d: _nearest,
    aten.constant_pad_nd: _padding,
    **dict.fromkeys((aten.view, aten._unsafe_view, aten._reshape_alias), _reshape),
    **dict.fromkeys((aten.mean, aten.sum, aten.amax, aten.amin, aten.any, aten.var), _reduction),
    **dict.fromkeys((aten.native_batch_norm, aten._native_batch_norm_legit_no_training), _same),
    **dict.fromkeys((aten._softmax, aten._log_softmax), lambda plane, x, out, dim, *_: plane.amin(dim, True)),
    aten.native_layer_norm: lambda plane, x, out, shape, *_: plane.amin(list(range(-len(shape), 0)), True),
    aten.native_group_norm: lambda plane, x, out, *_: plane.amin(list(range(1, x.ndim)), True),
    aten.cumsum: lambda plane, x, out, dim, *_, **__: plane.cummin(dim).values,
    aten.flip: lambda plane, x, out, dims: plane.flip(dims),
    aten.roll: lambda plane, x, out, shifts, dims=(): plane.roll(shifts, dims),
}
"""Operations on one tensor made from the image, with weights and numbers beside it."""
