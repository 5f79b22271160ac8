"""The definition of WKV in float64: slow, and what every other form is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def wkv_reference(
    decay: NDArray[np.floating],
    bonus: NDArray[np.floating],
    key: NDArray[np.floating],
    value: NDArray[np.floating],
    *,
    causal: bool = False,
) -> Array:
    """`[B, T, C]`, token by token: the mean of all values, token i seen from t with the weight

        exp(key_i - (|t - i| - 1) decay)   for i != t,   exp(key_t + bonus)   for i = t

    `decay [C]` and `bonus [C]` per token, `key` and `value` `[B, T, C]` (Duan et al.: Vision-RWKV, arXiv 2403.02308). With
    `causal` only what came before is seen (RWKV-4, arXiv 2305.13048). The published CUDA kernel of Vision-RWKV differs: it
    loses the -1 across its chunks and for all later tokens, and adds 1e-6 to the denominator; by 4e-4 relative RMS for 256
    tokens and 6e-6 for 4096, with the decays of a fresh network.
    """
    w, u, k, v = (np.asarray(each, np.float64) for each in (decay, bonus, key, value))
    out = np.empty_like(k)
    places = np.arange(k.shape[1])
    for t in places:
        exponent = k - (np.abs(t - places) - 1)[:, None] * w
        exponent[:, t] = k[:, t] + u
        if causal:
            exponent[:, t + 1 :] = -np.inf
        weight = np.exp(exponent - exponent.max(1, keepdims=True))
        out[:, t] = (weight * v).sum(1) / weight.sum(1)
    return out


def wkv_sequential(
    decay: NDArray[np.floating],
    bonus: NDArray[np.floating],
    key: NDArray[np.floating],
    value: NDArray[np.floating],
    *,
    causal: bool = False,
) -> Array:
    """The same from recurrences in float64, for sequences too long for the definition; 1e-12 from it.

    A state is the mean of the values so far and the logarithm of the sum of their weights, so that nothing overflows.
    """
    w, u, k, v = (np.asarray(each, np.float64) for each in (decay, bonus, key, value))
    before = _states(w, k, v)
    after = [] if causal else [each[:, ::-1] for each in _states(w, k[:, ::-1], v[:, ::-1])]
    logs, means = [before[0], k + u], [before[1], v]
    if after:
        logs.append(after[0])
        means.append(after[1])
    weight = np.exp(np.stack(logs) - np.max(logs, 0))
    result: Array = (weight * np.stack(means)).sum(0) / weight.sum(0)
    return result


def _states(w: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """Before each token: the log of the weights' sum `[B, T, C]` and the weighted mean of the values."""
    logs, means = np.empty_like(k), np.empty_like(k)
    log, mean = np.full_like(k[:, 0], -np.inf), np.zeros_like(k[:, 0])
    for t in range(k.shape[1]):
        logs[:, t], means[:, t] = log, mean
        total = np.logaddexp(log - w, k[:, t])
        share = np.exp(k[:, t] - total)
        mean, log = mean + share * (v[:, t] - mean), total
    return logs, means
