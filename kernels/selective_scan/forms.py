"""The selective scan in plain PyTorch: for every device, for float64, and for exporters that know standard operators only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16
"""Tokens of a chunk: T tokens take about 2 CHUNK steps on every one of log(T) / log(CHUNK) levels, instead of T."""


def scan_plain(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """`y [B, T, D]` of `u`, `delta` `[B, T, D]`, `A [D, N]`, `B`, `C` `[B, T, N]`, `D [D]`: in chunks, without a loop over T.

    Only decays are multiplied, never divided by, which is why this is exact for every delta.
    """
    x, b, c = _chunks(delta * u), _chunks(B), _chunks(C)
    states = _states(_chunks(delta), x[..., None] * b[..., None, :], A)
    made = [(state * c[:, :, t, None]).sum(-1) for t, state in enumerate(states)]
    return torch.stack(made, 2).flatten(1, 2)[:, : u.shape[1]] + D * u


def _states(delta: Tensor, new: Tensor, A: Tensor) -> Iterator[Tensor]:
    """The states `[B, n, D, N]` after each token of all chunks, of `delta [B, n, L, D]` and what is added, `[B, n, L, D, N]`.

    Chunks start from nothing and are scanned side by side. What they end with is a sequence of its own, with a chunk in the
    place of a token, and gives the states they really begin with; from these they are scanned again.
    """
    fade = (delta[..., None] * A).exp()
    begin = torch.zeros_like(new[:, :, 0])
    count = new.shape[1]
    if count > 1:
        (end,) = deque(_scanned(begin, fade, new), maxlen=1)
        ends = torch.stack(list(_states(_chunks(delta.sum(2)), _chunks(end), A)), 2).flatten(1, 2)
        begin = F.pad(ends[:, : count - 1], (0, 0, 0, 0, 1, 0))
    return _scanned(begin, fade, new)


def _scanned(state: Tensor, fade: Tensor, new: Tensor) -> Iterator[Tensor]:
    for t in range(new.shape[2]):
        state = fade[:, :, t] * state + new[:, :, t]
        yield state


def _chunks(x: Tensor) -> Tensor:
    """`[B, T, ...]` to `[B, n, L, ...]`. The padding at the end changes no state: delta is 0 there."""
    size = min(CHUNK, x.shape[1])
    count = -(-x.shape[1] // size)
    padded = F.pad(x, (0, 0) * (x.ndim - 2) + (0, count * size - x.shape[1]))
    return padded.unflatten(1, (count, size))
