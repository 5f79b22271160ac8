"""The selective scan in standard operators of ONNX: what a runtime without our kernel runs."""

from __future__ import annotations

import math
from typing import Any

from edgeseg.kernels.onnx_function import Body


def body(shape: tuple[int, int, int], states: int, opset: int) -> Any:
    """The function for `u` of `shape` (B, T, D) and N `states`, in two levels as in `forms.scan_plain`.

        chunks of L tokens, all at once: h = exp(delta A) h + delta u B   from nothing, L steps
        what each chunk begins with:     h = exp(sum of delta A) h + end  over the chunks, T / L steps
        chunks again, from there:        the same L steps, and y = sum of C h

    Arrays are `[B, n, N, D]`, D innermost. Only decays are multiplied, so it is exact for every delta; forms that divide by
    them are not, and no bound on the deltas is known when a network is exported.
    """
    batch, tokens, channels = shape
    size = max(1, round(math.sqrt(tokens)))
    count = -(-tokens // size)
    make = Body("SelectiveScan", opset)

    def steps(x: str, width: int, axis: int) -> list[str]:
        """`[B, T, width]` as one `[B, n, 1, width]` (axis 2) or `[B, n, width, 1]` (axis 3) for each token of a chunk."""
        if count * size > tokens:
            x = make("Pad", x, make.ints(0, 0, 0, 0, count * size - tokens, 0))
        cut = make("Transpose", make("Reshape", x, make.ints(batch, count, size, width)), perm=[2, 0, 1, 3])
        parts = [cut] if size == 1 else make("Split", cut, make.ints(*[1] * size), axis=0, count=size)
        shape = make.ints(batch, count, 1, width) if axis == 2 else make.ints(batch, count, width, 1)
        return [make("Reshape", part, shape) for part in parts]

    rates = make("Transpose", "A", perm=[1, 0])
    deltas, inputs = steps("delta", channels, 2), steps(make("Mul", "delta", "u"), channels, 2)
    first, second = steps("B", states, 3), steps("C", states, 3)

    def walk(state: str | None) -> list[str]:
        """The states after each token of a chunk."""
        made = []
        for delta, x, b in zip(deltas, inputs, first, strict=True):
            new = make("Mul", x, b)
            fade = make("Exp", make("Mul", delta, rates))
            state = new if state is None else make("Add", make("Mul", fade, state), new)
            made.append(state)
        return made

    begin = None if count == 1 else _carry(make, walk(None)[-1], deltas, rates, (batch, count, states, channels))
    outs = [
        make("ReduceSum", make("Mul", h, c), make.ints(2), keepdims=1) for h, c in zip(walk(begin), second, strict=True)
    ]
    y = outs[0] if size == 1 else make("Concat", *outs, axis=2)
    y = make("Reshape", y, make.ints(batch, count * size, channels))
    if count * size > tokens:
        y = make("Slice", y, make.ints(0), make.ints(tokens), make.ints(1))
    return make.result(make("Add", y, make("Mul", "D", "u")))


def _carry(make: Body, ends: str, deltas: list[str], rates: str, shape: tuple[int, int, int, int]) -> str:
    """What each chunk begins with, `[B, n, N, D]`, from what each ends with when it begins with nothing."""
    batch, count, states, channels = shape
    whole = deltas[0]
    for delta in deltas[1:]:
        whole = make("Add", whole, delta)
    fade = make("Exp", make("Mul", whole, rates))
    ones = make.ints(*[1] * count)
    fades, news = (make("Split", each, ones, axis=1, count=count) for each in (fade, ends))
    state = make("Expand", make.floats(0.0), make.ints(batch, 1, states, channels))
    begins = [state]
    for index in range(count - 1):
        state = make("Add", make("Mul", fades[index], state), news[index])
        begins.append(state)
    return str(make("Concat", *begins, axis=1))
