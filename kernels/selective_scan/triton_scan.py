"""The selective scan and its gradients on a GPU, in Triton. Imported for CUDA tensors only; TRITON_INTERPRET=1 runs it elsewhere.

The sequence is cut into chunks. `fold` walks over each of them from an empty state and leaves the state at its end; `carry`
walks over the chunks and leaves the states they really begin with; `scan` walks over each again from there. Backwards it is
the same with what a token's state is worth to the later ones, from the last token to the first, and `grads` makes the
gradients of a short chunk from both. Decays in 0..1 are multiplied and never divided by, so this is exact for every delta.

A thread owns a channel with up to NB of its states. Channels lie side by side in all tensors but `A`, so that a warp reads a
row of them at once:

    states    [B, chunks, N, D]     at the ends of chunks, then at their beginnings
    spans     [B, chunks, D]        deltas of a chunk, added up: its decay is exp(span A)
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

DB, NB = 32, 16
"""Channels and states of a program, which is one warp."""

OPTIONS: dict[str, Any] = {"DB": DB, "num_warps": 1, "enable_fp_fusion": True}

PROGRAMS = 4096
"""Wanted at once: a large GPU runs half as many. More chunks than that takes are only more to carry."""

SHORTEST = 32
"""Tokens of a chunk, at least."""

GRAD_CHUNK = 16
"""Tokens of a chunk for the gradients: seven values of each are in registers."""

LOG2E = tl.constexpr(1.4426950408889634)
GROUP = tl.constexpr(4)  # tokens that are read at once: one wait for memory instead of four


@triton.jit
def _row(X, j, width, left, other=0.0):
    """Token j after X `[DB]`; 0 past the last token and channel, where a delta of 0 changes no state."""
    return tl.load(X + j * width, mask=left > j, other=other)


@triton.jit
def _rates(A, c, n, channels, N):
    """`A [n, c]` in bits."""
    inside = (c < channels)[None, :] & (n < N)[:, None]
    return tl.load(A + n[:, None] * channels + c[None, :], mask=inside, other=0.0) * LOG2E


@triton.jit
def fold(
    VALUE,
    DELTA,
    A,
    WEIGHT,
    STATES,
    SPANS,
    tokens,
    channels,
    N,
    L,
    BACK: tl.constexpr,
    NB: tl.constexpr,
    DB: tl.constexpr,
):
    """The state at the end of each chunk, from an empty one: `VALUE` is u and `WEIGHT` B; going BACK the gradient and C."""
    c, chunk, b = tl.program_id(0) * DB + tl.arange(0, DB), tl.program_id(1), tl.program_id(2)
    start = b.to(tl.int64) * tokens + chunk * L
    left = tl.where(c < channels, tl.minimum(L, tokens - chunk * L), 0)
    value, delta = VALUE + start * channels + c, DELTA + start * channels + c
    at = b.to(tl.int64) * tl.num_programs(1) + chunk
    for first_state in range(0, N, NB):
        n = first_state + tl.arange(0, NB)
        rates = _rates(A, c, n, channels, N)
        weight = WEIGHT + start * N + n
        state, span = tl.zeros([NB, DB], tl.float32), tl.zeros([DB], tl.float32)
        for first in range(0, L, GROUP):
            v, d, w = (), (), ()
            for i in tl.static_range(GROUP):
                j = L - 1 - first - i if BACK else first + i
                v, d = v + (_row(value, j, channels, left),), d + (_row(delta, j, channels, left),)
                there = tl.where(n < N, tl.minimum(L, tokens - chunk * L), 0)
                w = w + (_row(weight, j, N, there),)
            for i in tl.static_range(GROUP):
                fade = tl.exp2(d[i][None, :] * rates)
                if BACK:
                    state = (state + v[i][None, :] * w[i][:, None]) * fade
                else:
                    state = state * fade + (v[i] * d[i])[None, :] * w[i][:, None]
                span += d[i]
        inside = (c < channels)[None, :] & (n < N)[:, None]
        tl.store(STATES + (at * N + n[:, None]) * channels + c[None, :], state, mask=inside)
        tl.store(SPANS + at * channels + c, span, mask=c < channels)


@triton.jit
def carry(
    A, SPANS, STATES, chunks, channels, N, BACK: tl.constexpr, NB: tl.constexpr, DB: tl.constexpr
):
    """From the states at the ends of chunks those they begin with, in the same place; BACK from the last chunk on."""
    c, n = tl.program_id(0) * DB + tl.arange(0, DB), tl.program_id(1) * NB + tl.arange(0, NB)
    b = tl.program_id(2).to(tl.int64)
    inside = (c < channels)[None, :] & (n < N)[:, None]
    rates = _rates(A, c, n, channels, N)
    state = tl.zeros([NB, DB], tl.float32)
    for first in range(0, chunks, GROUP):
        places, masks, ends, fades = (), (), (), ()
        for i in tl.static_range(GROUP):
            at = b * chunks + (chunks - 1 - first - i if BACK else first + i)
            places = places + (STATES + (at * N + n[:, None]) * channels + c[None, :],)
            masks = masks + (tl.where(inside, chunks - first, 0) > i,)
            ends = ends + (tl.load(places[i], mask=masks[i], other=0.0),)
            span = tl.load(SPANS + at * channels + c, mask=tl.where(c < channels, chunks - first, 0) > i, other=0.0)
            fades = fades + (tl.exp2(span[None, :] * rates),)
        for i in tl.static_range(GROUP):
            tl.store(places[i], state, mask=masks[i])
            state = state * fades[i] + ends[i]


@triton.jit
def scan(
    U,
    DELTA,
    A,
    B,
    C,
    SKIP,
    STATES,
    OUT,
    tokens,
    channels,
    N,
    L,
    WHOLE: tl.constexpr,
    NB: tl.constexpr,
    DB: tl.constexpr,
):
    """The result, from the states at the beginnings of chunks; with WHOLE the sequence is one chunk. Last chunk first."""
    chunks = tl.num_programs(1)  # backwards: what `fold` has read last is still in the cache
    c, chunk = tl.program_id(0) * DB + tl.arange(0, DB), chunks - 1 - tl.program_id(1)
    b = (tl.num_programs(2) - 1 - tl.program_id(2)).to(tl.int64)
    start = b * tokens + chunk * L
    count = tl.minimum(L, tokens - chunk * L)
    left = tl.where(c < channels, count, 0)
    u, delta, out = U + start * channels + c, DELTA + start * channels + c, OUT + start * channels + c
    skip = tl.load(SKIP + c, mask=c < channels, other=0.0)
    for first_state in range(0, N, NB):
        n = first_state + tl.arange(0, NB)
        there = tl.where(n < N, count, 0)
        rates = _rates(A, c, n, channels, N)
        before, after = B + start * N + n, C + start * N + n
        state = tl.zeros([NB, DB], tl.float32)
        if not WHOLE:
            begin = STATES + ((b * chunks + chunk) * N + n[:, None]) * channels + c[None, :]
            state = tl.load(begin, mask=(c < channels)[None, :] & (n < N)[:, None], other=0.0)
        for first in range(0, L, GROUP):
            x, d, bs, cs = (), (), (), ()
            for i in tl.static_range(GROUP):
                x, d = x + (_row(u, first + i, channels, left),), d + (_row(delta, first + i, channels, left),)
                bs, cs = bs + (_row(before, first + i, N, there),), cs + (_row(after, first + i, N, there),)
            for i in tl.static_range(GROUP):
                fade = tl.exp2(d[i][None, :] * rates)
                state = state * fade + (x[i] * d[i])[None, :] * bs[i][:, None]
                y = tl.sum(state * cs[i][:, None], 0)
                place, inside = out + (first + i) * channels, left > first + i
                if first_state == 0:
                    y += skip * x[i]
                else:
                    y += tl.load(place, mask=inside, other=0.0)
                tl.store(place, y, mask=inside)
