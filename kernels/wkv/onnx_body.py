"""wkv in standard operators of ONNX: what a runtime without our kernel runs."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.kernels.onnx_function import Body

Form = Literal["closed", "chunk", "doubling"]

GROWTH = 80.0
"""Largest growth over the whole sequence that float32 bears in a form whose frame is one for all tokens: exp(88) overflows."""

BEARS: dict[Form, float] = {"closed": 55.0, "chunk": 80.0, "doubling": math.inf}
"""Largest |decay| x tokens of each form. `closed` multiplies by exp(2 x place x decay) and sums of exp(place x decay), place
up to half the tokens: 1.5 times the decay must stay below 88. In `chunk` the same happens within a chunk, and between chunks
exponents reach half of the decay. `doubling` multiplies by exp(-n decay) only."""

CHUNK = 32
"""Tokens per chunk: of 16 to 64 the fastest in OpenVINO (ops.md's trials: 16 and 32 alike)."""


def form_for(total: NDArray[np.floating], preferred: Form) -> Form:
    """The form for decays over the whole sequence, `total [C]`: the preferred one where it is exact in float32.

    Raises:
        EdgesegError: growth that only our kernel bears.
    """
    low, high = float(np.min(total)), float(np.max(total))
    if low < -GROWTH:
        raise EdgesegError(
            f"wkv grows by exp({-low:.0f}) over the sequence, more than standard operators bear in float32; use ops=plugin"
        )
    return preferred if max(-low, high) <= BEARS[preferred] else "doubling"


def body(shape: tuple[int, int, int], causal: bool, form: Form, opset: int) -> Any:
    """The function for keys and values of `shape` (B, T, C)."""
    make = Body("BiWKV", opset)
    shifted = make("Sub", "key", _largest(make, shape))
    numerator, denominator = FORMS[form](make, shape, causal, shifted)
    return make.result(make("Div", numerator, denominator))


def _largest(make: Body, shape: tuple[int, int, int]) -> str:
    """The largest key of each channel, `[B, 1, C]`. In two steps where T has a factor: ONNX Runtime reduces the first of
    several outer axes on one thread only, 4096 x 384 in 0.6 instead of 1.2 ms."""
    batch, tokens, channels = shape
    outer = max(n for n in range(1, math.isqrt(tokens) + 1) if tokens % n == 0)
    if outer == 1:
        return str(make("ReduceMax", "key", make.ints(1), keepdims=1))
    rows = make("Reshape", "key", make.ints(batch, outer, tokens // outer, channels))
    return str(make("ReduceMax", make("ReduceMax", rows, make.ints(2), keepdims=0), make.ints(1), keepdims=1))


def _closed(make: Body, shape: tuple[int, int, int], causal: bool, key: str) -> tuple[str, str]:
    """Numerator and denominator from prefix sums, both divided by exp(-(t - middle) w + w), which the quotient does not see.

    x_i = exp(k_i + p_i w),   before_t = sum of x_i for i < t,   own_t = exp(u - w) x_t
    z_i = exp(k_i - p_i w),   after_t = exp(2 p_t w) (sum of z_i for i > t),   p_i = i - (T - 1) / 2
    """
    tokens = shape[1]
    place = make("Mul", make.floats(np.arange(tokens)[:, None] - (tokens - 1) / 2), "decay")
    axis = make("Constant", value_int=1)
    x = make("Exp", make("Add", key, place))
    own = make("Exp", make("Sub", "bonus", "decay"))
    halves = [make("Mul", x, "value"), x]
    sums = [make("Add", make("CumSum", each, axis, exclusive=1), make("Mul", each, own)) for each in halves]
    if not causal:
        z = make("Exp", make("Sub", key, place))
        turn = make("Exp", make("Mul", place, make.floats(2.0)))
        rest = [make("CumSum", each, axis, exclusive=1, reverse=1) for each in (make("Mul", z, "value"), z)]
        sums = [make("Add", before, make("Mul", after, turn)) for before, after in zip(sums, rest, strict=True)]
    return sums[0], sums[1]


def _chunk(make: Body, shape: tuple[int, int, int], causal: bool, key: str) -> tuple[str, str]:
    """Sums within chunks and over chunks, each a product with a constant triangle: no loop and no cumulative sum.

    x [2B, n, L, C] -> triangle [L + 1, L] @ x exp(l w) -> prefix sums, and the chunk's total as the last row
    totals [2B, n, C] -> triangle [n, n] @ totals exp(j L w) -> what each chunk begins with
    """
    batch, tokens, channels = shape
    size = min(CHUNK, tokens)
    count = -(-tokens // size)
    weight = make("Exp", key)
    both = make("Concat", make("Mul", weight, "value"), weight, axis=0)
    padded = both
    if count * size > tokens:
        padded = make("Pad", both, make.ints(0, 0, 0, 0, count * size - tokens, 0))
    cut = make("Reshape", padded, make.ints(2 * batch, count, size, channels))
    total = make("Mul", both, make("Exp", "bonus"))
    for forward in (True,) if causal else (True, False):
        sums = make(
            "Reshape", _direction(make, cut, count, size, forward), make.ints(2 * batch, count * size, channels)
        )
        if count * size > tokens:
            sums = make("Slice", sums, make.ints(0), make.ints(tokens), make.ints(1))
        total = make("Add", total, sums)
    numerator, denominator = make("Split", total, axis=0, num_outputs=2, count=2)
    return numerator, denominator


def _direction(make: Body, cut: str, count: int, size: int, forward: bool) -> str:
    """Sums over what came before (or comes after) each token, `[2B, n, L, C]`."""
    inner = _places(size) * (1 if forward else -1)
    rise = make("Exp", make("Mul", make.floats(inner[:, None]), "decay"))
    triangle = np.tri(size + 1, size, -1) if forward else 1 - np.tri(size + 1, size, -1)  # row t: i < t, or i >= t
    sums = make("MatMul", make.floats(triangle), make("Mul", cut, rise))
    # row t of the first, row t + 1 of the second are a token's; the row that is left is the chunk's total
    ends = (size, size + 1) if forward else (0, 1)
    starts = (0, size) if forward else (1, size + 1)
    edge = inner.max() + 1  # one place beyond the last token on the way
    whole = make("Slice", sums, make.ints(ends[0]), make.ints(ends[1]), make.ints(2))
    whole = make("Mul", whole, make("Exp", make("Mul", make.floats(1 - edge), "decay")))
    part = make("Slice", sums, make.ints(starts[0]), make.ints(starts[1]), make.ints(2))
    part = make("Mul", part, make("Exp", make("Mul", make.floats(1 - inner[:, None]), "decay")))
    begin = _carry(make, whole, count, size, forward)
    passed = np.arange(size) if forward else size - 1 - np.arange(size)
    return str(make("Add", part, make("Mul", begin, make("Exp", make("Mul", make.floats(-passed[:, None]), "decay")))))


def _carry(make: Body, whole: str, count: int, size: int, forward: bool) -> str:
    """From the chunks' totals `[2B, n, 1, C]` what each chunk begins with, in the same shape."""
    outer = _places(count) * (size if forward else -size)
    rise = make("Exp", make("Mul", make.floats(outer[:, None, None]), "decay"))
    triangle = np.tri(count, count, -1) if forward else np.tri(count, count, -1).T
    rows = make("Squeeze", make("Mul", whole, rise), make.ints(2))
    sums = make("Unsqueeze", make("MatMul", make.floats(triangle), rows), make.ints(2))
    return str(make("Mul", sums, make("Exp", make("Mul", make.floats(size - outer[:, None, None]), "decay"))))


def _places(count: int) -> NDArray[np.float64]:
    """0 to count - 1, counted from the middle."""
    return np.arange(count, dtype=np.float64) - (count - 1) / 2


def _doubling(make: Body, shape: tuple[int, int, int], causal: bool, key: str) -> tuple[str, str]:
    """Windows that double: S_2n(t) = S_n(t) + exp(-n w) S_n(t - n)."""
    tokens = shape[1]
    weight = make("Exp", key)
    both = make("Concat", make("Mul", weight, "value"), weight, axis=0)
    total = make("Mul", both, make("Exp", "bonus"))
    for forward in (True,) if causal else (True, False):
        window, step = _moved(make, both, 1, tokens, forward), 1
        while step < tokens:
            fade = make("Exp", make("Mul", "decay", make.floats(-float(step))))
            window = make("Add", window, make("Mul", fade, _moved(make, window, step, tokens, forward)))
            step *= 2
        total = make("Add", total, window)
    numerator, denominator = make("Split", total, axis=0, num_outputs=2, count=2)
    return numerator, denominator


def _moved(make: Body, x: str, by: int, tokens: int, forward: bool) -> str:
    """`[S, T, C]` moved `by` tokens later, or earlier; zeros come in."""
    by = min(by, tokens)
    start, end = (0, tokens - by) if forward else (by, tokens)
    kept = make("Slice", x, make.ints(start), make.ints(end), make.ints(1))
    pads = (0, by, 0, 0, 0, 0) if forward else (0, 0, 0, 0, by, 0)
    return str(make("Pad", kept, make.ints(*pads)))


FORMS = {"closed": _closed, "chunk": _chunk, "doubling": _doubling}
