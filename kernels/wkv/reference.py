"""The definition of the bidirectional WKV in float64: slow, and what every other form is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def wkv_reference(
    decay: NDArray[np.floating], bonus: NDArray[np.floating], key: NDArray[np.floating], value: NDArray[np.floating]
) -> NDArray[np.float64]:
    """`[B, T, C]`, token by token: the mean of all values, token i seen from t with the weight

        exp(key_i - (|t - i| - 1) decay)   for i != t,   exp(key_t + bonus)   for i = t

    `decay [C]` and `bonus [C]` per token, `key` and `value` `[B, T, C]` (Duan et al.: Vision-RWKV, arXiv 2403.02308).
    The published CUDA kernel differs: it loses the -1 across its chunks and for all later tokens, and adds 1e-6 to the
    denominator; by 4e-4 relative RMS for 256 tokens and 6e-6 for 4096, with the decays of a fresh network.
    """
    w, u, k, v = (np.asarray(each, np.float64) for each in (decay, bonus, key, value))
    out = np.empty_like(k)
    places = np.arange(k.shape[1])
    for t in places:
        exponent = k - (np.abs(t - places) - 1)[:, None] * w
        exponent[:, t] = k[:, t] + u
        weight = np.exp(exponent - exponent.max(1, keepdims=True))
        out[:, t] = (weight * v).sum(1) / weight.sum(1)
    return out
