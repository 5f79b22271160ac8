"""The definition of the selective scan in float64: slow, and what every other form is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def selective_scan_reference(
    u: NDArray[np.floating],
    delta: NDArray[np.floating],
    A: NDArray[np.floating],
    B: NDArray[np.floating],
    C: NDArray[np.floating],
    D: NDArray[np.floating],
) -> NDArray[np.float64]:
    """`y [B, T, D]`, token by token (Gu & Dao: Mamba, arXiv 2312.00752, algorithm 2 with a diagonal A):

        h_t[d, n] = exp(delta_t[d] A[d, n]) h_(t-1)[d, n] + delta_t[d] u_t[d] B_t[n],   h_(-1) = 0
        y_t[d] = sum over n of C_t[n] h_t[d, n] + D[d] u_t[d]

    `u` and `delta` `[B, T, D]`, `A [D, N]`, `B` and `C` `[B, T, N]`, `D [D]`.
    """
    x, d, a, b, c, skip = (np.asarray(each, np.float64) for each in (u, delta, A, B, C, D))
    h = np.zeros((x.shape[0], *a.shape))
    out = np.empty_like(x)
    for t in range(x.shape[1]):
        h = np.exp(d[:, t, :, None] * a) * h + (d[:, t] * x[:, t])[..., None] * b[:, t, None]
        out[:, t] = (h * c[:, t, None]).sum(-1) + skip * x[:, t]
    return out
