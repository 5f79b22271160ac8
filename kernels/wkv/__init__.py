"""wkv: what the tokens of an image tell each other in Vision-RWKV, both ways at once."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

SAFE = 80.0
"""Largest |decay| x tokens of the closed form: its exponents reach half of that, and exp(88) overflows float32."""

Form = Literal["closed", "doubling"]


def form_for(total_decay: Tensor) -> Form:
    """The form that is exact in float32 for decays over the whole sequence, `total_decay [C]`; read from the weights."""
    return "closed" if float(total_decay.detach().abs().max()) <= SAFE else "doubling"


def wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, form: Form | None = None) -> Tensor:
    """`[B, T, C]`: the mean of `value [B, T, C]`, token i weighted from t by exp(key_i - (|t - i| - 1) decay).

    decay, bonus: `[C]` per token; the token itself has the weight exp(key_t + bonus). A negative decay is growth.
    form:         `closed` (two cumulative sums) or `doubling` (log2 T steps, for decays that are too steep for the other);
                  chosen from `decay` when null, which an exporter cannot do.

    float32 inside, under autocast too (float64 for float64). Defined by `reference.wkv_reference`.

    Raises:
        ValueError: shapes that do not fit.
    """
    import torch

    if key.ndim != 3 or key.shape != value.shape or not decay.shape == bonus.shape == key.shape[2:]:
        shapes = ", ".join(str(list(each.shape)) for each in (decay, bonus, key, value))
        raise ValueError(f"wkv takes decay [C], bonus [C], key [B, T, C], value [B, T, C]; got {shapes}")
    with nullcontext() if key.is_meta else torch.autocast(key.device.type, enabled=False):
        kind = torch.float64 if key.dtype == torch.float64 else torch.float32
        w, u, k, v = (each.to(kind) for each in (decay, bonus, key, value))
        chosen = form or form_for(w * key.shape[1])
        shifted = (k - k.amax(1, keepdim=True)).exp()  # the largest term of every sum is then near 1, whatever k is
        both = torch.cat([shifted * v, shifted], 2)
        others = (_closed if chosen == "closed" else _doubling)(torch.cat([w, w]), both)
        total = others + both * torch.cat([u, u]).exp()
        return (total[..., : len(w)] / total[..., len(w) :]).to(value.dtype)


def _closed(decay: Tensor, x: Tensor) -> Tensor:
    """Sum over i != t of x_i exp(-(|t - i| - 1) decay), `[B, T, C]`, from sums of x exp(+-i decay).

    Exponents are counted from the middle of the sequence, so that they stay small on both sides. The sum of what follows
    is added up from the end: the total minus what came before would cancel.
    """
    import torch

    count = x.shape[1]
    place = torch.arange(count, device=x.device, dtype=x.dtype)[:, None] - (count - 1) / 2
    rise, fall = (place * decay).exp(), (-place * decay).exp()
    before = _later(x * rise).cumsum(1) * fall * decay.exp()
    after = (_later((x * fall).flip(1)).cumsum(1)).flip(1) * rise * decay.exp()
    return before + after


def _doubling(decay: Tensor, x: Tensor) -> Tensor:
    """The same from windows that double: S_2n(t) = S_n(t) + exp(-n decay) S_n(t - n)."""
    return _window(decay, _later(x)) + _window(decay, _later(x.flip(1))).flip(1)


def _window(decay: Tensor, x: Tensor) -> Tensor:
    step = 1
    while step < x.shape[1]:
        x = x + (-step * decay).exp() * _later(x, step)
        step *= 2
    return x


def _later(x: Tensor, by: int = 1) -> Tensor:
    """`[B, T, C]` moved `by` tokens later; zeros come in."""
    import torch.nn.functional as F

    return F.pad(x[:, : x.shape[1] - by], (0, 0, by, 0))
