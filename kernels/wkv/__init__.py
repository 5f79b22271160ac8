"""wkv: what the tokens of an image tell each other in Vision-RWKV, both ways at once, or only onwards as in RWKV-4."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """`[B, T, C]`: the mean of `value [B, T, C]`, token i weighted from t by exp(key_i - (|t - i| - 1) decay).

    decay, bonus: `[C]` per token; the token itself has the weight exp(key_t + bonus). A negative decay is growth.
    causal:       only what came before is seen.

    Any decays and keys, but in an exported graph of standard operators, which cannot choose by its input: there a token that hears
    only keys 80 or more below the largest of its channel, less half of |decay| x T, may become NaN. It takes `causal`, or decays
    beyond e^-80.

    float32 inside, under autocast too (float64 for float64); NaN in a key makes its channel NaN. Defined by
    `reference.wkv_reference`.

    Raises:
        ValueError: shapes that do not fit, or no token at all.
    """
    import torch

    from edgeseg.kernels.wkv.torch_op import wkv as operator

    if key.ndim != 3 or key.shape != value.shape or not decay.shape == bonus.shape == key.shape[2:] or not key.shape[1]:
        shapes = ", ".join(str(list(each.shape)) for each in (decay, bonus, key, value))
        raise ValueError(f"wkv takes decay [C], bonus [C], key [B, T, C], value [B, T, C]; got {shapes}")
    kind = torch.float64 if value.dtype == torch.float64 else torch.float32
    result: Tensor = operator(decay.to(kind), bonus.to(kind), key.to(value.dtype), value, causal)
    return result
