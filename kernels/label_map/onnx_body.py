"""label_map in standard operators of ONNX: what a runtime without our kernel runs."""

from __future__ import annotations

from typing import Any, Literal

from edgeseg.kernels.onnx_function import Body

Form = Literal["at_once", "in_bands", "planes"]

LARGE = 32 << 20
"""Bytes of full-size logits beyond which they are made a band at a time in every runtime."""

BAND = 8 << 20
"""Bytes of full-size logits in a band."""

UINT8 = 2
"""ONNX's number of the type."""


def body(shape: tuple[int, int, int, int], size: tuple[int, int], align: bool, form: Form, opset: int) -> Any:
    """The function for logits of `shape` (B, K, h, w) and labels of `size` (H, W), with the classes innermost in all forms but one.

    `at_once`: Resize -> ArgMax, which ONNX Runtime does faster than anything else; logits that would be large come in
    bands all the same. `in_bands`: rows first, as a whole, then columns and labels a band of rows at a time, which OpenVINO
    does 4 times as fast as both at once (11 classes to 360x480 on one thread: 2.9 instead of 8.2 ms, 150 classes to 512x512:
    40 instead of 174 ms). `planes`: at once with the classes outermost, for graphics processors: TensorRT resizes the last axes.

        [B,K,h,w] -> Transpose -> [B,h,w,K] -> Resize -> [B,H,w,K] -> Split -> Resize -> [B,r,W,K] -> ArgMax -> Concat -> [B,H,W]
    """
    batch, classes, _, wide = shape
    height, width = size
    make = Body("LabelMap", opset)
    if form == "planes":
        return make.result(_labels(make, _resize(make, "logits", (batch, classes, height, width), align), axis=1))
    last = make("Transpose", "logits", perm=[0, 2, 3, 1])
    row = 4 * batch * classes * width
    if form == "at_once" and row * height <= LARGE:
        return make.result(_labels(make, _resize(make, last, (batch, height, width, classes), align)))
    tall = _resize(make, last, (batch, height, wide, classes), align)
    rows = max(1, min(height, BAND // row))
    parts = [min(rows, height - start) for start in range(0, height, rows)]
    pieces = [tall] if len(parts) == 1 else make("Split", tall, make.ints(*parts), axis=1, count=len(parts))
    made = [
        _labels(make, _resize(make, piece, (batch, count, width, classes), align))
        for piece, count in zip(pieces, parts, strict=True)
    ]
    return make.result(made[0] if len(made) == 1 else make("Concat", *made, axis=1))


def _resize(make: Body, x: str, shape: tuple[int, int, int, int], align: bool) -> str:
    mode = "align_corners" if align else "half_pixel"
    sizes = make.ints(*shape)
    return str(make("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode=mode))


def _labels(make: Body, logits: str, axis: int = 3) -> str:
    return str(make("Cast", make("ArgMax", logits, axis=axis, keepdims=0), to=UINT8))
