"""wkv in plain PyTorch: for every device, for float64, and for exporters that know standard operators only."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["closed", "chunk", "doubling", "pairs"]

SAFE = 80.0
"""Largest |decay| x tokens of the closed form and of chunks: exponents reach half of that, and exp(88) overflows float32."""

CHUNK = 32
"""Tokens per chunk."""

ROWS = 64
"""Tokens whose weights over all others are held at once by `pairs`."""


def form_for(total_decay: Tensor, preferred: Literal["closed", "chunk"] = "closed") -> Form:
    """The form for decays over the whole sequence, `total_decay [C]`: the preferred one where it is exact in float32.

    `doubling` bears any decay; growth (a negative decay) beyond e^80 only `pairs` does.
    """
    low, high = (float(each) for each in total_decay.detach().aminmax())
    if low < -SAFE:
        return "pairs"
    return preferred if high <= SAFE else "doubling"


def form_of(decay: Tensor, key: Tensor, causal: bool) -> Form:
    """The form for keys that are known too: `pairs` where float32 could leave a token nothing of what it hears.

    Weights are shares of the largest one: a token that does not hear that one, because it comes later or has faded, divides
    0 by 0 where all it hears are e^-88 of it. Only with `causal` and in `doubling`, so only there the keys are looked at.
    """
    total = decay * key.shape[1]
    form = form_for(total)
    if form == "pairs" or not (causal or form == "doubling"):
        return form
    apart = (key.amax(1) - key.amin(1)).max()
    if form != "doubling":  # exponents of the decay reach half of it on top
        apart = apart + total.abs().max() / 2
    return "pairs" if float(apart) > SAFE else form


def wkv_plain(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool, form: Form) -> Tensor:
    """`[B, T, C]` as `edgeseg.kernels.wkv`, in the precision of `key`."""
    if form == "pairs":
        return _pairs(decay, bonus, key, value, causal)
    weight = (
        key - key.amax(1, keepdim=True)
    ).exp()  # the largest term of every sum is then near 1, whatever the keys are
    both = torch.cat([weight * value, weight], 2)
    others = {"closed": _closed, "chunk": _chunk, "doubling": _doubling}[form](torch.cat([decay, decay]), both, causal)
    total = others + both * torch.cat([bonus, bonus]).exp()
    return total[..., : len(decay)] / total[..., len(decay) :]


def _closed(decay: Tensor, x: Tensor, causal: bool) -> Tensor:
    """Sum over i != t of x_i exp(-(|t - i| - 1) decay), `[B, T, C]`, from sums of x exp(+-i decay).

    Exponents are counted from the middle of the sequence, so that they stay small on both sides. The sum of what follows
    is added up from the end: the total minus what came before would cancel.
    """
    count = x.shape[1]
    place = _places(count, x)
    rise, fall = (place * decay).exp(), (-place * decay).exp()
    before = _later(x * rise).cumsum(1) * fall * decay.exp()
    if causal:
        return before
    return before + (_later((x * fall).flip(1)).cumsum(1)).flip(1) * rise * decay.exp()


def _chunk(decay: Tensor, x: Tensor, causal: bool) -> Tensor:
    """The same from sums within chunks and over chunks, each a product with a constant triangle: for runtimes in which
    cumulative sums are slow or missing."""
    tokens = x.shape[1]
    size = min(CHUNK, tokens)
    count = -(-tokens // size)
    cut = F.pad(x, (0, 0, 0, count * size - tokens)).unflatten(1, (count, size))
    made = _chunks(decay, cut, True)
    if not causal:
        made = made + _chunks(decay, cut, False)
    return made.flatten(1, 2)[:, :tokens]


def _chunks(decay: Tensor, cut: Tensor, forward: bool) -> Tensor:
    """Sums over what came before (or comes after) each token, `[B, n, L, C]`; places are counted from the middle."""
    count, size = cut.shape[1:3]
    way = 1 if forward else -1
    inner, outer = _places(size, cut) * way, _places(count, cut) * (size * way)
    before = cut.new_tensor(np.tri(size + 1, size, -1))  # row t: i < t, and all of them in the last one
    sums = (before if forward else 1 - before) @ (cut * (inner * decay).exp())
    part, whole = (sums[:, :, :-1], sums[:, :, -1]) if forward else (sums[:, :, 1:], sums[:, :, 0])
    whole = whole * ((1 - size) / 2 * decay).exp()  # as the next token hears it, one place beyond the last
    earlier = cut.new_tensor(np.tri(count, count, -1))
    begin = (earlier if forward else earlier.T) @ (whole * (outer * decay).exp()) * ((size - outer) * decay).exp()
    passed = inner + (size - 1) / 2
    return part * ((1 - inner) * decay).exp() + begin[:, :, None] * (-passed * decay).exp()


def _places(count: int, like: Tensor) -> Tensor:
    """0 to count - 1 as `[count, 1]`, counted from the middle."""
    return torch.arange(count, device=like.device, dtype=like.dtype)[:, None] - (count - 1) / 2


def _doubling(decay: Tensor, x: Tensor, causal: bool) -> Tensor:
    """The same from windows that double: S_2n(t) = S_n(t) + exp(-n decay) S_n(t - n)."""
    before = _window(decay, x, 1)
    return before if causal else before + _window(decay, x, -1)


def _window(decay: Tensor, x: Tensor, way: int) -> Tensor:
    x = _later(x, way)
    step = 1
    while step < x.shape[1]:
        x = x + (-step * decay).exp() * _later(x, way * step)
        step *= 2
    return x


def _later(x: Tensor, by: int = 1) -> Tensor:
    """`[B, T, C]` moved `by` tokens later, or earlier where that is negative; zeros come in."""
    tokens = x.shape[1]
    return F.pad(x[:, max(0, -by) : tokens - max(0, by)], (0, 0, max(0, by), max(0, -by)))


def _pairs(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Every token's weights over all others, a few rows at a time: T^2 work, right whatever the decays are."""
    places = torch.arange(key.shape[1], device=key.device)
    made = []
    for start in range(0, len(places), ROWS):
        rows = places[start : start + ROWS]
        apart = (rows[:, None] - places).abs()[..., None]  # [t, i, 1]
        exponent = torch.where(apart == 0, bonus, (1 - apart) * decay) + key[:, None]
        if causal:
            exponent = exponent.masked_fill((places > rows[:, None])[..., None], -torch.inf)
        made.append((exponent.softmax(2) * value[:, None]).sum(2))
    return torch.cat(made, 1)
