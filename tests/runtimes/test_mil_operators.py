"""Each operator of MIL's interpreter, in a program of one step, against sums by hand from coremltools' documentation of it.

That is in `coremltools/converters/mil/mil/ops/defs`; nothing here imports it. What it leaves open, a comment says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeseg.runtimes.mil_interpreter import Declared, Program, Step
from edgeseg.runtimes.mil_operators import OPERATORS


def line(*numbers: float) -> Tensor:
    """`[N]`"""
    return torch.tensor(numbers, dtype=torch.float32)


def grid(*lines: Sequence[float]) -> Tensor:
    """`[H, W]`"""
    return torch.tensor(lines, dtype=torch.float32)


def plane(*lines: Sequence[float]) -> Tensor:
    """`[1, 1, H, W]`"""
    return grid(*lines)[None, None]


def row(*numbers: float) -> Tensor:
    """`[1, 1, 1, W]`"""
    return plane(numbers)


def truths(*given: int) -> Tensor:
    return torch.tensor(given, dtype=torch.bool)


def square(*numbers: int) -> Tensor:
    """`[2, N]` of whole numbers."""
    return torch.tensor(numbers, dtype=torch.int8).view(2, -1)


TWO = {"x": truths(0, 0, 1, 1), "y": truths(0, 1, 0, 1)}
FOUR = {"x": grid([1, 2], [3, 4]), "y": grid([5, 6], [7, 8])}
STEPS = line(1, 2, 3, 4, 5)

BY_HAND: list[tuple[str, dict[str, Any], Tensor | list[Tensor]]] = [
    ("exp", {"x": row(0, np.log(2))}, row(1, 2)),
    ("relu", {"x": row(-2, 0, 3)}, row(0, 0, 3)),
    ("sigmoid", {"x": row(-np.log(3), 0, np.log(3))}, row(0.25, 0.5, 0.75)),
    ("silu", {"x": row(-np.log(3), 0, np.log(9))}, row(-np.log(3) / 4, 0, 0.9 * np.log(9))),
    # the exponential of 100 is beyond float32
    ("softplus", {"x": row(-100, 0, np.log(3), 100)}, row(0, np.log(2), np.log(4), 100)),
    # the normal distribution up to 1 is 0.8413447, up to -2 0.0227501; the approximations differ in the fourth place
    ("gelu", {"x": row(1, -2)}, row(0.8413447, -0.0455003)),
    ("add", {"x": plane([1], [2]), "y": row(10, 20)}, plane([11, 21], [12, 22])),
    ("sub", {"x": 5.0, "y": row(1, 7)}, row(4, -2)),
    ("mul", {"x": row(2, -3), "y": plane([4], [0])}, plane([8, -12], [0, 0])),
    ("real_div", {"x": row(7, -7), "y": 2.0}, row(3.5, -3.5)),
    ("sqrt", {"x": row(4, 9)}, row(2, 3)),
    ("square", {"x": row(-3, 2)}, row(9, 4)),
    ("sin", {"x": row(0, np.pi / 2)}, row(0, 1)),
    ("cos", {"x": row(0, np.pi)}, row(1, -1)),
    ("relu6", {"x": row(-1, 3, 9)}, row(0, 3, 6)),
    ("clip", {"x": row(-1, 3, 9), "alpha": 0.5, "beta": 4.0}, row(0.5, 3, 4)),
    ("sigmoid_hard", {"x": row(-9, 1, 9), "alpha": 0.25, "beta": 0.5}, row(0, 0.75, 1)),
    ("thresholded_relu", {"x": row(-2, -1, 3), "alpha": -1.0}, row(0, -1, 3)),
    ("equal", {"x": row(1, 2), "y": 2.0}, row(0, 1).bool()),
    ("not_equal", {"x": row(1, 2), "y": 2.0}, row(1, 0).bool()),
    ("greater", {"x": row(1, 2, 3), "y": 2.0}, row(0, 0, 1).bool()),
    ("greater_equal", {"x": row(1, 2, 3), "y": 2.0}, row(0, 1, 1).bool()),
    ("less_equal", {"x": row(1, 2, 3), "y": 2.0}, row(1, 1, 0).bool()),
    ("logical_and", TWO, truths(0, 0, 0, 1)),
    ("logical_or", TWO, truths(0, 1, 1, 1)),
    ("logical_not", {"x": truths(0, 1)}, truths(1, 0)),
    # towards zero, as NumPy, by which coremltools folds what is constant
    ("cast", {"x": row(2.7, -2.7), "dtype": "int32"}, row(2, -2).int()),
    ("cast", {"x": row(0, 0.25, -3), "dtype": "bool"}, row(0, 1, 1).bool()),
    ("cast", {"x": truths(0, 1), "dtype": "fp32"}, line(0, 1)),
    # float16 has no odd number beyond 2048 and none at all beyond 65504
    ("cast", {"x": row(2049, -7e4), "dtype": "fp16"}, row(2048, -np.inf).half()),
    ("softmax", {"x": row(0, np.log(3))}, row(0.25, 0.75)),
    ("reduce_mean", {"x": row(1, 2, 6), "axes": [-1]}, row(3)[0]),
    ("reduce_sum", {"x": plane([1, 2], [3, 4]), "axes": [-1, 1]}, grid([3, 7])),
    ("reduce_sum", {"x": plane([1, 2], [3, 4]), "axes": [2], "keep_dims": True}, row(4, 6)),
    ("reduce_sum", {"x": plane([1, 2], [3, 4])}, torch.tensor(10.0)),
    ("reduce_max", {"x": plane([-1, -2], [-7, -5]), "axes": [3]}, grid([-1, -5])[None]),
    ("reduce_max", {"x": plane([-1, -2], [-7, -5]), "axes": [-2], "keep_dims": True}, row(-1, -2)),
    ("reduce_max", {"x": plane([-1, -2], [-7, -5])}, torch.tensor(-1.0)),
    ("reduce_argmax", {"x": plane([1, 9, 3], [7, 5, 9])}, grid([1, 2])[None].int()),
    ("reduce_argmax", {"x": plane([1, 9, 3], [7, 5, 9]), "axis": 2, "keep_dims": True}, row(1, 0, 1).int()),
    # which of equal ones is not documented; the first, as NumPy and our label maps have it
    ("reduce_argmax", {"x": line(4, 8, 8)}, torch.tensor(1, dtype=torch.int32)),
    ("reshape", {"x": grid([1, 2, 3], [4, 5, 6]), "shape": [3, -1]}, grid([1, 2], [3, 4], [5, 6])),
    # a zero takes the length at its place, counted from the last, or is 1 where there is none
    ("reshape", {"x": grid([1, 2, 3], [4, 5, 6]), "shape": [1, 0, -1, 0]}, plane([1, 2, 3], [4, 5, 6])),
    ("reshape", {"x": row(1, 2, 3, 4, 5, 6).view(3, 1, 2), "shape": [0, -1]}, grid([1, 2, 3, 4, 5, 6])),
    # the first axis of the result is the second of what is given
    (
        "transpose",
        {"x": torch.arange(8.0).view(2, 2, 2), "perm": [1, -1, 0]},
        row(0, 4, 1, 5, 2, 6, 3, 7).view(2, 2, 2),
    ),
    # axes of the result, in any order
    ("expand_dims", {"x": grid([1, 2, 3], [4, 5, 6]), "axes": [2, -4]}, row(1, 2, 3, 4, 5, 6).view(1, 2, 1, 3)),
    ("concat", {"values": [row(1, 2), row(3)], "axis": -1}, row(1, 2, 3)),
    ("concat", {"values": [row(1, 2), row(3, 4)], "axis": 2}, plane([1, 2], [3, 4])),
    ("concat", {"values": row(1, 2), "axis": 1}, row(1, 2)),  # one alone comes without a list
    ("stack", {"values": [row(1, 2), row(3, 4)], "axis": -1}, row(1, 3, 2, 4).view(1, 1, 1, 2, 2)),
    ("stack", {"values": row(1, 2), "axis": -1}, row(1, 2).view(1, 1, 1, 2, 1)),
    ("tile", {"x": row(1, 2), "reps": [1, 1, 1, 2]}, row(1, 2, 1, 2)),
    ("split", {"x": row(1, 2, 3, 4, 5, 6), "axis": -1, "num_splits": 2}, [row(1, 2, 3), row(4, 5, 6)]),
    (
        "split",
        {"x": grid([1, 2, 3], [4, 5, 6]), "axis": 1, "split_sizes": [1, 2]},
        [grid([1], [4]), grid([2, 3], [5, 6])],
    ),
    (
        "split",  # of both, the sizes say it
        {"x": row(1, 2, 3, 4), "axis": 3, "num_splits": 2, "split_sizes": [3, 1]},
        [row(1, 2, 3), row(4)],
    ),
    ("slice_by_index", {"x": STEPS, "begin": [1], "end": [-1], "stride": [2]}, line(2, 4)),
    ("slice_by_index", {"x": STEPS, "begin": [3], "end": [2], "begin_mask": [True]}, line(1, 2)),
    ("slice_by_index", {"x": STEPS, "begin": [-2], "end": [0], "end_mask": [True]}, line(4, 5)),
    ("slice_by_index", {"x": STEPS, "begin": [3], "end": [0], "stride": [-2]}, line(4, 2)),
    # backwards, a masked begin is the last and a masked end the first: so coremltools infers the shape, and 0 and the
    # length, as its words have it, would leave nothing
    (
        "slice_by_index",
        {"x": STEPS, "begin": [1], "end": [2], "stride": [-1], "begin_mask": [True]},
        line(5, 4),
    ),
    ("slice_by_index", {"x": STEPS, "begin": [1], "end": [1], "stride": [-1], "end_mask": [True]}, line(2, 1)),
    (
        "slice_by_index",  # each axis by its own; the end of one that goes is not asked
        {
            "x": torch.arange(8.0).view(2, 2, 2),
            "begin": [0, -1, 0],
            "end": [2, 0, 1],
            "stride": [-1, 1, 1],
            "begin_mask": [True, False, False],
            "end_mask": [True, False, False],
            "squeeze_mask": [False, True, False],
        },
        grid([6], [2]),
    ),
    ("gather", {"x": grid([1, 2], [3, 4], [5, 6]), "indices": [2, 0]}, grid([5, 6], [1, 2])),
    # up to iOS 16 negative ones count from the end; since then they are undefined
    ("gather", {"x": grid([1, 2], [3, 4]), "indices": [-1, 0, -2], "axis": -1}, grid([2, 1, 1], [4, 3, 3])),
    # the axes of the indices come in the place of the axis
    (
        "gather",
        {"x": grid([1, 2, 3], [4, 5, 6]), "indices": grid([0, 1], [2, 0]).int(), "axis": 1},
        row(1, 2, 3, 1, 4, 5, 6, 4).view(2, 2, 2),
    ),
    ("gather", {"x": grid([1, 2], [3, 4], [5, 6]), "indices": 1, "axis": 1}, line(2, 4, 6)),  # and if none, it goes
    ("gather_along_axis", {"x": row(5, 6, 7), "indices": row(2, -3, 1).int(), "axis": 3}, row(7, 5, 6)),
    # pairs are of the last axes, from the first of them to the last
    ("pad", {"x": row(1), "pad": [1, 0, 0, 2], "constant_val": 9.0}, plane([9, 9, 9], [1, 9, 9])),
    ("pad", {"x": row(5), "pad": [1, 2]}, row(0, 5, 0, 0)),
    ("linear", {"x": line(1, 2), "weight": grid([1, 2], [3, 4])}, line(5, 11)),
    (
        "linear",
        {"x": grid([1, 2]), "weight": grid([1, 0], [0, 1], [1, -1]), "bias": line(10, 20, 30)},
        grid([11, 22, 29]),
    ),
    ("matmul", FOUR, grid([19, 22], [43, 50])),
    ("matmul", {**FOUR, "transpose_x": True}, grid([26, 30], [38, 44])),
    ("matmul", {**FOUR, "transpose_y": True}, grid([17, 23], [39, 53])),
    ("matmul", {"x": row(1, 2, 3, 4).view(2, 1, 2), "y": grid([5], [6])}, row(17, 39).view(2, 1, 1)),
    # kernels are not turned round: 1 of the first and 10 of the third, then 1 of the third and 10 of the fifth
    (
        "conv",
        {"x": row(1, 2, 3, 4, 5), "weight": row(1, 10), "bias": line(100), "strides": [1, 2], "dilations": [1, 2]},
        row(131, 153),
    ),
    ("conv", {"x": plane([1, 2], [3, 4], [5, 6]), "weight": row(1), "strides": [2, 1]}, plane([1, 2], [5, 6])),
    (
        "conv",  # one above, two to the right
        {"x": row(1, 2), "weight": plane([1, 2], [10, 100]), "pad_type": "custom", "pad": [1, 0, 0, 2]},
        row(210, 20, 0),
    ),
    (
        "conv",  # two results of each channel, side by side
        {"x": row(1, 2, 3, 4).view(1, 2, 1, 2), "weight": row(1, 10, 100, 1000).view(4, 1, 1, 1), "groups": 2},
        row(1, 2, 10, 20, 300, 400, 3000, 4000).view(1, 4, 1, 2),
    ),
    ("conv_transpose", {"x": row(1, 10), "weight": row(1, 2, 3), "strides": [1, 2]}, row(1, 2, 13, 20, 30)),
    (
        "conv_transpose",  # 1 off in front, 1 behind
        {"x": row(1, 10), "weight": row(1, 2, 3), "strides": [1, 2], "pad_type": "custom", "pad": [0, 0, 1, 1]},
        row(2, 13, 20),
    ),
    ("max_pool", {"x": row(-5, -1, -7, -2), "kernel_sizes": [1, 2], "strides": [1, 2]}, row(-1, -2)),
    (
        "max_pool",  # what is padded never wins
        {"x": row(-5, -1), "kernel_sizes": [1, 2], "strides": [1, 2], "pad_type": "custom", "pad": [0, 0, 1, 1]},
        row(-5, -1),
    ),
    ("avg_pool", {"x": row(1, 3, 5, 9), "kernel_sizes": [1, 2], "strides": [1, 2]}, row(2, 7)),
    (
        "avg_pool",  # what is padded counts as a zero
        {"x": row(2, 4), "kernel_sizes": [1, 2], "strides": [1, 2], "pad_type": "custom", "pad": [0, 0, 1, 1]},
        row(1, 2),
    ),
    (
        "avg_pool",  # above and below, and not counted
        {
            "x": row(6),
            "kernel_sizes": [2, 1],
            "pad_type": "custom",
            "pad": [1, 1, 0, 0],
            "exclude_padding_from_average": True,
        },
        plane([6], [6]),
    ),
    (
        "batch_norm",
        {"x": row(1, 3), "mean": line(1), "variance": line(3), "gamma": line(4), "epsilon": 1.0},
        row(0, 4),
    ),
    # epsilon is under the root: a variance of 1 and 3 more are a deviation of 2
    (
        "layer_norm",
        {"x": row(1, 3), "axes": [-1], "gamma": line(4, 6), "beta": line(10, 20), "epsilon": 3.0},
        row(8, 23),
    ),
    ("layer_norm", {"x": plane([1, 1], [3, 3]), "epsilon": 3.0}, plane([-0.5, -0.5], [0.5, 0.5])),  # over all axes
    (
        "layer_norm",
        {"x": grid([1, 5], [3, 5]), "axes": [0], "gamma": line(2, 4), "epsilon": 3.0},
        grid([-1, 0], [2, 0]),
    ),
    ("layer_norm", {"x": line(-0.01, 0.01)}, line(-((1 / 1.1) ** 0.5), (1 / 1.1) ** 0.5)),  # a tenth of the variance
    # halves go to the even one, what is beyond stays at the end
    ("quantize", {"input": row(-1, 0.25, 0.75, 99), "scale": 0.5, "output_dtype": "int8"}, row(-2, 0, 2, 127).char()),
    ("quantize", {"input": row(-9, 1), "scale": 0.5, "output_dtype": "uint8", "zero_point": 3}, row(0, 5).byte()),
    ("quantize", {"input": row(1, 3), "scale": line(0.5, 2), "output_dtype": "int8", "axis": -1}, row(2, 2).char()),
    ("dequantize", {"input": square(-128, 4), "scale": 0.5}, grid([-64], [2])),
    (
        "dequantize",
        {"input": square(250 - 256, 4).view(torch.uint8), "scale": 0.5, "zero_point": 2},
        grid([124], [1]),
    ),
    ("dequantize", {"input": square(1, 2), "scale": line(0.5, 2), "zero_point": [0, 3], "axis": 0}, grid([0.5], [-2])),
    (
        "constexpr_affine_dequantize",
        {"quantized_data": square(1, 2, 3, 4), "zero_point": [0, 1], "scale": line(0.5, 2), "axis": 0},
        grid([0.5, 1], [4, 6]),
    ),
    (
        "constexpr_affine_dequantize",
        {"quantized_data": [-3, 4], "zero_point": 0, "scale": 0.5, "axis": 0},
        line(-1.5, 2),
    ),
    # a scale for each block of two columns
    ("constexpr_blockwise_shift_scale", {"data": row(1, 2, 3, 4), "scale": row(0.5, 2)}, row(0.5, 1, 6, 8)),
    (
        "constexpr_blockwise_shift_scale",
        {"data": row(1, 2, 3, 4), "scale": row(0.5, 2), "offset": row(1, 0)},
        row(0, 0.5, 6, 8),
    ),
    ("upsample_nearest_neighbor", {"x": row(1, 2), "scale_factor_width": 3}, row(1, 1, 1, 2, 2, 2)),
    (
        "pixel_shuffle",
        {"x": torch.arange(8.0).reshape(1, 4, 1, 2), "upscale_factor": 2},
        plane([0, 2, 1, 3], [4, 6, 5, 7]),
    ),
    # the documentation's points: 0, 0.1, 0.5, 0.9, 1 and 0, 0.25, 0.5, 0.75, 1
    (
        "resize_bilinear",
        {"x": row(0, 10), "target_size_width": 5, "sampling_mode": "UNALIGN_CORNERS"},
        row(0, 1, 5, 9, 10),
    ),
    (
        "resize_bilinear",
        {"x": row(0, 10), "target_size_width": 5, "sampling_mode": "STRICT_ALIGN_CORNERS"},
        row(0, 2.5, 5, 7.5, 10),
    ),
    (
        "resize_bilinear",  # points 0.5 and 2.5: nothing is averaged over more than two
        {"x": row(0, 10, 20, 40), "target_size_width": 2, "sampling_mode": "UNALIGN_CORNERS"},
        row(5, 30),
    ),
    # the middle would be ALIGN_CORNERS
    ("resize_bilinear", {"x": row(3, 7), "sampling_mode": "STRICT_ALIGN_CORNERS"}, row(3)),
    (
        "resize_bilinear",  # down at 0, 0.25, 0.75 and 1
        {
            "x": plane([0, 10], [20, 30]),
            "target_size_height": 4,
            "target_size_width": 2,
            "sampling_mode": "UNALIGN_CORNERS",
        },
        plane([0, 10], [5, 15], [15, 25], [20, 30]),
    ),
    ("upsample_bilinear", {"x": row(0, 10), "scale_factor_width": 2.5}, row(0, 2.5, 5, 7.5, 10)),
    (
        "upsample_bilinear",
        {"x": row(0, 10), "scale_factor_width": 2.5, "align_corners": False},
        row(0, 1, 5, 9, 10),
    ),
    # four of 4.5 columns, then 3 / 4 of a column apart and not 1 / 1.5: at 0, 0.625, 1.375 and 2
    (
        "upsample_bilinear",
        {"x": row(0, 8, 16), "scale_factor_width": 1.5, "align_corners": False, "half_pixel_centers": True},
        row(0, 5, 11, 16),
    ),
    # 5 / 3 in float32 is below it; three times that is 5 again in float32, and would be 4 in float64
    ("upsample_bilinear", {"x": row(0, 4, 8), "scale_factor_width": 1.6666666269302368}, row(0, 2, 4, 6, 8)),
    (
        "upsample_bilinear",
        {"x": plane([0, 10], [20, 30]), "scale_factor_height": 2, "align_corners": False},
        plane([0, 10], [5, 15], [15, 25], [20, 30]),
    ),
]
"""Operator, what it is given, and what it makes, in shape and type as a file would declare them."""


def test_every_operator_has_its_sum() -> None:
    assert {name for name, _, _ in BY_HAND} == OPERATORS.keys()


@pytest.mark.parametrize(("name", "given", "wanted"), BY_HAND)
def test_operators_are_what_a_hand_computes(name: str, given: dict[str, Any], wanted: Tensor | list[Tensor]) -> None:
    exact = {str(place): each for place, each in enumerate(wanted if isinstance(wanted, list) else [wanted])}
    declared = (Declared(key, str(each.dtype).removeprefix("torch."), tuple(each.shape)) for key, each in exact.items())
    made = Program((), tuple(exact), (Step(name, given, tuple(declared), ()),)).run({})
    for key, each in exact.items():
        torch.testing.assert_close(torch.from_numpy(made[key]), each, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("upsample_nearest_neighbor", {"x": row(1, 2), "scale_factor_width": 1.5}, "scale factors 1 and 1.5"),
        ("upsample_bilinear", {"x": row(1), "align_corners": False, "half_pixel_centers": False}, "half_pixel_centers"),
        ("resize_bilinear", {"x": row(1, 2), "target_size_width": 4}, "sampling_mode 'DEFAULT'"),
        ("resize_bilinear", {"x": row(1, 2), "sampling_mode": "ALIGN_CORNERS"}, "sampling_mode 'ALIGN_CORNERS'"),
        ("resize_bilinear", {"x": row(1, 2), "sampling_mode": "OFFSET_CORNERS"}, "sampling_mode 'OFFSET_CORNERS'"),
        ("max_pool", {"x": row(1, 2), "kernel_sizes": [1, 2], "ceil_mode": True}, "ceil_mode=True"),
        ("max_pool", {"x": row(1, 2), "kernel_sizes": [1, 2], "pad_type": "same"}, "pad_type 'same'"),
        ("avg_pool", {"x": row(1, 2), "kernel_sizes": [1, 2], "ceil_mode": True}, "ceil_mode=True"),
        ("avg_pool", {"x": row(1, 2), "kernel_sizes": [1, 2], "pad_type": "same_lower"}, "pad_type 'same_lower'"),
        (
            "avg_pool",
            {"x": row(1, 2), "kernel_sizes": [1, 2], "pad_type": "custom", "pad": [0, 0, 1, 0]},
            r"padding \[0, 0, 1, 0\]",
        ),
        ("conv", {"x": row(1, 2), "weight": row(1, 2), "pad_type": "same"}, "pad_type 'same'"),
        ("conv_transpose", {"x": row(1), "weight": row(1, 2), "output_shape": [1, 1, 1, 3]}, "output_shape"),
        ("pad", {"x": row(1, 2), "pad": [1, 1], "mode": "reflect"}, "mode 'reflect'"),
        ("pad", {"x": row(1, 2), "pad": [1, 1], "mode": "replicate"}, "mode 'replicate'"),
        ("gelu", {"x": row(1), "mode": "TANH_APPROXIMATION"}, "mode 'TANH_APPROXIMATION'"),
        ("gelu", {"x": row(1), "mode": "SIGMOID_APPROXIMATION"}, "mode 'SIGMOID_APPROXIMATION'"),
        ("concat", {"values": [row(1), row(2)], "axis": 3, "interleave": True}, "interleave=True"),
        ("gather", {"x": grid([1, 2]), "indices": grid([0]).int(), "axis": 1, "batch_dims": 1}, "batch_dims=1"),
        ("dequantize", {"input": square(1, 2), "scale": line(1, 1)}, "no axis"),
        ("constexpr_blockwise_shift_scale", {"data": row(1, 2, 3), "scale": row(1, 2)}, "2 blocks of 3"),
    ],
)
def test_what_is_not_known_of_an_operator_is_not_guessed(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OPERATORS[name](**given)
