"""The selective scan in plain PyTorch: for every device, for float64, and for exporters that know standard operators only."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 16
"""Tokens of the inner level: T tokens take CHUNK + T / CHUNK + CHUNK steps instead of T."""


def scan_plain(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """`y [B, T, D]` of `u`, `delta` `[B, T, D]`, `A [D, N]`, `B`, `C` `[B, T, N]`, `D [D]`: in two levels, without a loop over T.

    The sequence is cut into chunks that start from nothing and are scanned side by side; then the states at their ends
    are carried from chunk to chunk; then each chunk is scanned again from the state it really begins with. Only decays are
    multiplied, never divided by, which is why this is exact for every delta.
    """
    tokens = u.shape[1]
    size = min(CHUNK, tokens)
    count = -(-tokens // size)
    pad = count * size - tokens

    def chunks(x: Tensor) -> Tensor:  # [B, T, ...] to [B, count, size, ...]; padding changes no state: delta is 0 there
        return torch.nn.functional.pad(x, (0, 0, 0, pad)).unflatten(1, (count, size))

    d, x, b, c = chunks(delta), chunks(delta * u), chunks(B), chunks(C)
    fade = (d[..., None] * A).exp()  # [B, count, size, D, N]
    new = x[..., None] * b[..., None, :]
    state = torch.zeros_like(new[:, :, 0])
    for t in range(size):
        state = fade[:, :, t] * state + new[:, :, t]
    whole = (d.sum(2)[..., None] * A).exp()  # over a chunk
    carried, begins = torch.zeros_like(state[:, 0]), []
    for index in range(count):
        begins.append(carried)
        carried = whole[:, index] * carried + state[:, index]
    state, made = torch.stack(begins, 1), []
    for t in range(size):
        state = fade[:, :, t] * state + new[:, :, t]
        made.append((state * c[:, :, t, None]).sum(-1))
    return torch.stack(made, 2).flatten(1, 2)[:, :tokens] + D * u
