"""The operators of Core ML's MIL in PyTorch, written from their documentation: the table that `mil_interpreter` executes by.

A function is named like its operator and its parameters like the operator's, with the same defaults. Values come as tensors,
float16 widened to float32; parameters as Python's numbers, lists of them, and words. To add one, write it here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Made = Tensor | Sequence[Tensor]
Number = Tensor | Sequence[int] | float
"""A constant: one number, or several."""
Function = TypeVar("Function", bound=Callable[..., Made])

OPERATORS: dict[str, Callable[..., Made]] = {
    "exp": lambda x: x.exp(),
    "relu": lambda x: x.relu(),
    "sigmoid": lambda x: x.sigmoid(),
    "silu": lambda x: x * x.sigmoid(),
    "softplus": lambda x: x.relu() + (-x.abs()).exp().log1p(),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "sqrt": lambda x: x.sqrt(),
    "square": lambda x: x * x,
    "sin": lambda x: x.sin(),
    "cos": lambda x: x.cos(),
    "relu6": lambda x: x.clamp(0, 6),
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "sigmoid_hard": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, 0.0),
    "equal": lambda x, y: x == y,
    "not_equal": lambda x, y: x != y,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "less_equal": lambda x, y: x <= y,
    "logical_and": lambda x, y: x & y,
    "logical_or": lambda x, y: x | y,
    "logical_not": lambda x: ~x,
    "cast": lambda x, dtype: x,  # whatever is made gets the type that the file declares
}


def operator(function: Function) -> Function:
    """Enter a function into the table."""
    OPERATORS[function.__name__] = function
    return function


@operator
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    padded = F.pad(x, _last_first(_pads(pad_type, pad)))
    return F.conv2d(padded, weight, bias, tuple(strides), 0, tuple(dilations), groups)


@operator
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Sequence[int] = (0, 0, 0, 0),
    output_shape: Sequence[int] | None = None,
    pad_type: str = "valid",
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    top, bottom, left, right = _pads(pad_type, pad)
    full = F.conv_transpose2d(x, weight, bias, tuple(strides), 0, 0, groups, tuple(dilations))
    made = full[..., top : full.shape[-2] - bottom, left : full.shape[-1] - right]
    if output_shape is not None and list(output_shape) != list(made.shape):
        raise ValueError(f"output_shape {list(output_shape)} where the padding leaves {list(made.shape)}")
    return made


@operator
def max_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    ceil_mode: bool = False,
) -> Tensor:
    if ceil_mode:
        raise ValueError(f"ceil_mode={ceil_mode}")
    padded = F.pad(x, _last_first(_pads(pad_type, pad)), value=-torch.inf)
    return F.max_pool2d(padded, tuple(kernel_sizes), tuple(strides))


@operator
def avg_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    top, bottom, left, right = _pads(pad_type, pad)
    if (top, left) != (bottom, right) or ceil_mode:
        raise ValueError(f"padding {list(pad)} or ceil_mode={ceil_mode}")
    size, stride = tuple(kernel_sizes), tuple(strides)
    return F.avg_pool2d(x, size, stride, (top, left), count_include_pad=not exclude_padding_from_average)


def _pads(pad_type: str, pad: Sequence[int]) -> Sequence[int]:
    if pad_type not in ("valid", "custom"):
        raise ValueError(f"pad_type {pad_type!r}")
    return pad if pad_type == "custom" else (0, 0, 0, 0)


def _last_first(pad: Sequence[int]) -> list[int]:
    """Pairs from the first axis to the last, in PyTorch's order."""
    return [n for start in range(len(pad) - 2, -1, -2) for n in pad[start : start + 2]]


@operator
def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    if mode != "constant":
        raise ValueError(f"mode {mode!r}")
    return F.pad(x, _last_first(pad), value=constant_val)


@operator
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


@operator
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


@operator
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode != "EXACT":
        raise ValueError(f"mode {mode!r}")
    return F.gelu(x)


@operator
def quantize(
    input: Tensor, scale: Number, output_dtype: str, zero_point: Number | None = None, axis: int | None = None
) -> Tensor:
    limits = torch.iinfo(getattr(torch, output_dtype))
    # to even in the middle, as PyTorch and coremltools round; what Apple's kernels do there is not documented
    whole = (input / _along(scale, input, axis)).round()
    shifted = whole if zero_point is None else whole + _along(zero_point, input, axis)
    return shifted.clamp(limits.min, limits.max)


@operator
def dequantize(input: Tensor, scale: Number, zero_point: Number | None = None, axis: int | None = None) -> Tensor:
    shifted = input.float() if zero_point is None else input.float() - _along(zero_point, input, axis)
    return shifted * _along(scale, input, axis)


@operator
def constexpr_affine_dequantize(quantized_data: Any, zero_point: Number, scale: Number, axis: int) -> Tensor:
    return dequantize(torch.as_tensor(quantized_data), scale, zero_point, axis)


@operator
def constexpr_blockwise_shift_scale(data: Any, scale: Number, offset: Number | None = None) -> Tensor:
    made = torch.as_tensor(data).float()
    return (made if offset is None else made - _blocks(offset, made)) * _blocks(scale, made)


def _along(given: Number, x: Tensor, axis: int | None) -> Tensor:
    """A number, or one for each place along an axis of `x`, in the shape in which it meets `x`."""
    value = torch.as_tensor(given).float()
    if not value.ndim:
        return value
    if axis is None:
        raise ValueError(f"{len(value)} numbers and no axis")
    return value.view([-1 if place == axis % x.ndim else 1 for place in range(x.ndim)])


def _blocks(given: Number, x: Tensor) -> Tensor:
    """Numbers, each for a block of `x`, in the shape of `x`."""
    value = torch.as_tensor(given).float()
    for axis, (blocks, length) in enumerate(zip(value.shape, x.shape, strict=True)):
        if length % blocks:
            raise ValueError(f"{blocks} blocks of {length}")
        value = value.repeat_interleave(length // blocks, axis)
    return value


@operator
def layer_norm(
    x: Tensor,
    axes: Sequence[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    over = sorted(axis % x.ndim for axis in (range(x.ndim) if axes is None else axes))
    centred = x - x.mean(over, keepdim=True)
    y = centred * (centred.square().mean(over, keepdim=True) + epsilon).rsqrt()
    shape = [n if axis in over else 1 for axis, n in enumerate(x.shape)]
    y = y if gamma is None else y * gamma.view(shape)
    return y if beta is None else y + beta.view(shape)


@operator
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@operator
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.softmax(axis)


@operator
def reduce_mean(x: Tensor, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Tensor:
    return x.mean(_axes(x, axes), keepdim=keep_dims)


@operator
def reduce_sum(x: Tensor, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Tensor:
    return x.sum(_axes(x, axes), keepdim=keep_dims)


@operator
def reduce_max(x: Tensor, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Tensor:
    return x.amax(_axes(x, axes), keepdim=keep_dims)


def _axes(x: Tensor, axes: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axes is None else tuple(axes)


@operator
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return x.argmax(axis, keepdim=keep_dims)


@operator
def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    before = len(shape) - x.ndim  # a zero counts from the last axis since iOS 17, and before only where this is 0
    kept = [1 if axis < before else x.shape[axis - before] for axis in range(len(shape))]
    return x.reshape([length if n == 0 else n for n, length in zip(shape, kept, strict=True)])


@operator
def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    return x.permute(tuple(perm))


@operator
def expand_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator
def concat(values: Made, axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        raise ValueError("interleave=True")
    return torch.cat(_all(values), axis)


@operator
def stack(values: Made, axis: int) -> Tensor:
    return torch.stack(_all(values), axis)


def _all(values: Made) -> list[Tensor]:
    """A list of values; one alone comes from a file without its list."""
    return [values] if isinstance(values, Tensor) else list(values)


@operator
def tile(x: Tensor, reps: Sequence[int]) -> Tensor:
    return x.tile(tuple(reps))


@operator
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None
) -> Sequence[Tensor]:
    return x.split(x.shape[axis] // num_splits if split_sizes is None and num_splits else list(split_sizes or ()), axis)


@operator
def slice_by_index(
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    no = [False] * x.ndim
    cuts: list[Any] = []
    for axis in range(x.ndim):
        first = None if (begin_mask or no)[axis] else begin[axis]
        last = None if (end_mask or no)[axis] else end[axis]
        step = 1 if stride is None else stride[axis]
        if (squeeze_mask or no)[axis]:
            cuts.append(begin[axis])
        elif step > 0:
            cuts.append(slice(first, last, step))
        else:  # PyTorch cuts forwards only
            places = range(x.shape[axis])[slice(first, last, step)]
            x = x.index_select(axis, torch.tensor(places, dtype=torch.long))
            cuts.append(slice(None))
    return x[tuple(cuts)]


@operator
def gather(x: Tensor, indices: Any, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        raise ValueError(f"batch_dims={batch_dims}")
    places = torch.as_tensor(indices).long()
    places = torch.where(places < 0, places + x.shape[axis], places)
    made = x.index_select(axis, places.flatten())
    return made.unflatten(axis, places.shape) if places.ndim else made.squeeze(axis)


@operator
def gather_along_axis(x: Tensor, indices: Any, axis: int = 0, validate_indices: bool = False) -> Tensor:
    places = torch.as_tensor(indices).long()
    return x.gather(axis, torch.where(places < 0, places + x.shape[axis], places))


@operator
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


@operator
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    if scale_factor_height % 1 or scale_factor_width % 1:  # which neighbour is the nearest is not documented
        raise ValueError(f"scale factors {scale_factor_height} and {scale_factor_width}")
    tall = x.repeat_interleave(int(scale_factor_height), -2)
    return tall.repeat_interleave(int(scale_factor_width), -1)


@operator
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    if half_pixel_centers is align_corners:
        raise ValueError(f"half_pixel_centers={half_pixel_centers} with align_corners={align_corners}")
    # a product in float32, as coremltools makes it: 2.3 is a little less there, and times 10 is 23
    scales = zip((scale_factor_height, scale_factor_width), x.shape[-2:], strict=True)
    height, width = (int(np.float32(scale) * np.float32(length)) for scale, length in scales)
    return resize_bilinear(x, height, width, "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS")


@operator
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    for axis, count in ((-2, target_size_height), (-1, target_size_width)):
        x = _sampled(x, axis, count, sampling_mode)
    return x


def _sampled(x: Tensor, axis: int, count: int, mode: str) -> Tensor:
    """`count` samples along an axis, each between two neighbours; one sample at aligned corners is the first, as in PyTorch."""
    last, places = x.shape[axis] - 1, torch.arange(count, dtype=torch.float64)
    if mode == "STRICT_ALIGN_CORNERS":
        places *= last / max(1, count - 1)
    elif mode == "UNALIGN_CORNERS":
        places = ((places + 0.5) * ((last + 1) / count) - 0.5).clamp(0, last)
    else:
        raise ValueError(f"sampling_mode {mode!r}")
    low = places.long().clamp(max=last)
    share = (places - low).to(x.dtype).view(-1, *[1] * (-1 - axis))
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, (low + 1).clamp(max=last)) * share
