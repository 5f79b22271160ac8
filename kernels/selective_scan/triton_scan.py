"""The selective scan and its gradients on a GPU, in Triton. Imported for CUDA tensors only; TRITON_INTERPRET=1 runs it elsewhere.

The sequence is cut into chunks. `fold` walks over each of them from an empty state and leaves the state at its end; `carry`
walks over the chunks and leaves the states they really begin with; `scan` walks over each again from there. Backwards it is
the same with what a state is worth to the later tokens, from the last token to the first, and `grads` makes the gradients of
a short chunk from both. Decays in 0..1 are multiplied and never divided by, so this is exact for every delta.

Channels lie innermost in everything, so that a warp reads 32 of them at once; `A` comes as `[N, D]`:

    states    [B, chunks, N, D]     at the ends of chunks, then at their beginnings
    spans     [B, chunks, D]        the deltas of a chunk, added up: its decay is exp(span A)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

OPTIONS = {"DB": 32, "num_warps": 1, "enable_fp_fusion": True}
"""Of every launch: a warp has 32 channels."""

STATES = 16
"""What a warp holds of a channel's states; with more of them it walks more often."""

PROGRAMS, SHORTEST = 4096, 32
"""Programs wanted at once, twice what a large GPU runs, and the fewest tokens that are a chunk to get as many."""

GRAD_CHUNK = 16
"""Tokens of a chunk for the gradients: seven values of each are in registers."""

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
GROUP = tl.constexpr(4)  # tokens or chunks that are read at once: one wait for memory instead of four


@triton.jit
def _place(DB: tl.constexpr, BACKWARDS: tl.constexpr):
    """The channels, chunk and image of a program."""
    c, chunk, b = tl.program_id(0) * DB + tl.arange(0, DB), tl.program_id(1), tl.program_id(2)
    if BACKWARDS:  # what the kernel before has read last is still in the cache
        chunk, b = tl.num_programs(1) - 1 - chunk, tl.num_programs(2) - 1 - b
    return c, chunk, b.to(tl.int64)


@triton.jit
def _rates(A, n, c, channels, states):
    """`A [n, c]` in bits."""
    inside = (n < states)[:, None] & (c < channels)[None, :]
    return tl.load(A + n[:, None] * channels + c[None, :], mask=inside, other=0.0) * LOG2E


@triton.jit
def _row(X, j, width, left):
    """Token j after X; 0 past the last token, where a delta of 0 changes no state, and the last column."""
    return tl.load(X + j * width, mask=left > j, other=0.0)


@triton.jit(do_not_specialize=["tokens", "length"])
def fold(
    VALUE,
    DELTA,
    A,
    WEIGHT,
    ENDS,
    SPANS,
    tokens,
    channels,
    states,
    length,
    BACK: tl.constexpr,
    NB: tl.constexpr,
    DB: tl.constexpr,
):
    """The state at the end of each chunk from an empty one, of u and `B`; going BACK, of the gradient and `C`."""
    c, chunk, b = _place(DB, False)
    start, count = b * tokens + chunk * length, tl.minimum(length, tokens - chunk * length)
    left, at = tl.where(c < channels, count, 0), b * tl.num_programs(1) + chunk
    value, delta = VALUE + start * channels + c, DELTA + start * channels + c
    for first_state in range(0, states, NB):
        n = first_state + tl.arange(0, NB)
        rates, weight = _rates(A, n, c, channels, states), WEIGHT + start * states + n
        state, span = tl.zeros([NB, DB], tl.float32), tl.zeros([DB], tl.float32)
        for first in range(0, length, GROUP):
            v, d, w = (), (), ()
            for i in tl.static_range(GROUP):
                j = length - 1 - first - i if BACK else first + i
                v, d = v + (_row(value, j, channels, left),), d + (_row(delta, j, channels, left),)
                w = w + (_row(weight, j, states, tl.where(n < states, count, 0)),)
            for i in tl.static_range(GROUP):
                fade = tl.exp2(d[i][None, :] * rates)
                if BACK:
                    state = (state + v[i][None, :] * w[i][:, None]) * fade
                else:
                    state = state * fade + (v[i] * d[i])[None, :] * w[i][:, None]
                span += d[i]
        inside = (n < states)[:, None] & (c < channels)[None, :]
        tl.store(ENDS + (at * states + n[:, None]) * channels + c[None, :], state, mask=inside)
        tl.store(SPANS + at * channels + c, span, mask=c < channels)


@triton.jit(do_not_specialize=["chunks"])
def carry(A, SPANS, ENDS, chunks, channels, states, BACK: tl.constexpr, DB: tl.constexpr):
    """From the states at the ends of chunks those they begin with, in the same place; BACK from the last chunk on."""
    c, n, b = _place(DB, False)
    rate = tl.load(A + n * channels + c, mask=c < channels, other=0.0) * LOG2E
    state = tl.zeros([DB], tl.float32)
    for first in range(0, chunks, GROUP):
        left = tl.where(c < channels, chunks - first, 0)
        ends, fades = (), ()
        for i in tl.static_range(GROUP):
            at = b * chunks + (chunks - 1 - first - i if BACK else first + i)
            ends = ends + (tl.load(ENDS + (at * states + n) * channels + c, mask=left > i, other=0.0),)
            fades = fades + (tl.exp2(tl.load(SPANS + at * channels + c, mask=left > i, other=0.0) * rate),)
        for i in tl.static_range(GROUP):
            at = b * chunks + (chunks - 1 - first - i if BACK else first + i)
            tl.store(ENDS + (at * states + n) * channels + c, state, mask=left > i)
            state = state * fades[i] + ends[i]


@triton.jit(do_not_specialize=["tokens", "length"])
def scan(
    U,
    DELTA,
    A,
    B,
    C,
    SKIP,
    BEGINS,
    OUT,
    tokens,
    channels,
    states,
    length,
    WHOLE: tl.constexpr,
    MANY: tl.constexpr,
    NB: tl.constexpr,
    DB: tl.constexpr,
):
    """The result. WHOLE: the sequence is one chunk, so all states begin with nothing; MANY: N is more than NB."""
    c, chunk, b = _place(DB, True)
    start, count = b * tokens + chunk * length, tl.minimum(length, tokens - chunk * length)
    left, at = tl.where(c < channels, count, 0), b * tl.num_programs(1) + chunk
    u, delta, out = U + start * channels + c, DELTA + start * channels + c, OUT + start * channels + c
    skip = tl.load(SKIP + c, mask=c < channels, other=0.0)
    for first_state in range(0, states, NB):
        n = first_state + tl.arange(0, NB)
        rates, ins, outs = _rates(A, n, c, channels, states), B + start * states + n, C + start * states + n
        inside, there = (n < states)[:, None] & (c < channels)[None, :], tl.where(n < states, count, 0)
        if WHOLE:
            state = tl.zeros([NB, DB], tl.float32)
        else:
            state = tl.load(BEGINS + (at * states + n[:, None]) * channels + c[None, :], mask=inside, other=0.0)
        for first in range(0, length, GROUP):
            x, d, w, v = (), (), (), ()
            for i in tl.static_range(GROUP):
                x, d = x + (_row(u, first + i, channels, left),), d + (_row(delta, first + i, channels, left),)
                w, v = w + (_row(ins, first + i, states, there),), v + (_row(outs, first + i, states, there),)
            for i in tl.static_range(GROUP):
                state = state * tl.exp2(d[i][None, :] * rates) + (x[i] * d[i])[None, :] * w[i][:, None]
                y = tl.sum(state * v[i][:, None], 0)
                if MANY and first_state > 0:
                    y += _row(out, first + i, channels, left)
                else:
                    y += skip * x[i]
                tl.store(out + (first + i) * channels, y, mask=left > first + i)


@triton.jit(do_not_specialize=["tokens"])
def grads(
    U,
    DELTA,
    A,
    B,
    C,
    SKIP,
    GRAD,
    BEGINS,
    BACKS,
    GU,
    GDELTA,
    GA,
    GB,
    GC,
    GSKIP,
    tokens,
    channels,
    states,
    L: tl.constexpr,
    DB: tl.constexpr,
):
    """All gradients of a chunk: of A and D its share, of B and C that of DB channels, `[D / DB, B, N, chunks L]`.

    `B` and `C` come as `[B, N, chunks L]` too: what is read and written of a state then lies side by side, without masks.
    """
    c, chunk, b = _place(DB, True)
    start, at = b * tokens + chunk * L, b * tl.num_programs(1) + chunk
    left = tl.where(c < channels, tokens - chunk * L, 0)
    u, row = U + start * channels + c, start * channels + c
    block = tl.program_id(0) * tl.num_programs(2) + b
    zero = tl.zeros([DB], tl.float32)
    d, x, g, gd, gx = (), (), (), (), ()  # gd and gx from the last token to the first
    for j in tl.static_range(L):
        d = d + (_row(DELTA + row, j, channels, left),)
        x = x + (_row(u, j, channels, left) * d[j],)
        g = g + (_row(GRAD + row, j, channels, left),)
        gd, gx = gd + (zero,), gx + (zero,)
    for n in range(states):
        rate = tl.load(A + n * channels + c, mask=c < channels, other=0.0) * LOG2E
        state = tl.load(BEGINS + (at * states + n) * channels + c, mask=c < channels, other=0.0)
        back = tl.load(BACKS + (at * states + n) * channels + c, mask=c < channels, other=0.0)
        beside = ((b * states + n) * tl.num_programs(1) + chunk) * L
        share = ((block * states + n) * tl.num_programs(1) + chunk) * L
        before, fades = (), ()
        for j in tl.static_range(L):
            before, fades = before + (state,), fades + (tl.exp2(d[j] * rate),)
            state = state * fades[j] + x[j] * tl.load(B + beside + j)
        ga, new_gd, new_gx = zero, (), ()
        for j in tl.static_range(L - 1, -1, -1):
            worth = back + g[j] * tl.load(C + beside + j)
            tl.store(GC + share + j, tl.sum(g[j] * state))
            tl.store(GB + share + j, tl.sum(worth * x[j]))
            state, back = before[j], worth * fades[j]
            ga += back * state * d[j]
            new_gd, new_gx = (
                new_gd + (gd[L - 1 - j] + back * state * rate,),
                new_gx + (gx[L - 1 - j] + worth * tl.load(B + beside + j),),
            )
        gd, gx = new_gd, new_gx
        tl.store(GA + (at * states + n) * channels + c, ga, mask=c < channels)
    skip, gskip = tl.load(SKIP + c, mask=c < channels, other=0.0), zero
    for j in tl.static_range(L):
        value = _row(u, j, channels, left)
        tl.store(GDELTA + row + j * channels, gd[L - 1 - j] * LN2 + gx[L - 1 - j] * value, mask=left > j)
        tl.store(GU + row + j * channels, gx[L - 1 - j] * d[j] + g[j] * skip, mask=left > j)
        gskip += g[j] * value
    tl.store(GSKIP + at * channels + c, gskip, mask=c < channels)


def _states(value: Tensor, delta: Tensor, A: Tensor, weight: Tensor, length: int, back: bool) -> Tensor:
    """What chunks of `length` tokens begin with, `[B, chunks, N, D]`; going `back`, what they get from the later ones."""
    batch, tokens, channels = value.shape
    count, chunks, blocks = A.shape[0], triton.cdiv(tokens, length), triton.cdiv(channels, OPTIONS["DB"])
    states, spans = value.new_empty(batch, chunks, count, channels), value.new_empty(batch, chunks, channels)
    size = tokens, channels, count, length
    block = min(STATES, triton.next_power_of_2(count))
    fold[blocks, chunks, batch](value, delta, A, weight, states, spans, *size, BACK=back, NB=block, **OPTIONS)
    carry[blocks, count, batch](A, spans, states, chunks, channels, count, BACK=back, **OPTIONS)
    return states


def scan_cuda(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """`y [B, T, D]` of `u`, `delta` `[B, T, D]`, `A [D, N]`, `B`, `C` `[B, T, N]`, `D [D]`, all float32. Three launches."""
    x, d, a, b, c, skip = (each.contiguous() for each in (u, delta, A.t(), B, C, D))
    batch, tokens, channels = x.shape
    out, count = torch.empty_like(x), A.shape[1]
    if not out.numel() or not count:
        return x * skip
    blocks = triton.cdiv(channels, OPTIONS["DB"])
    chunks = max(1, min(PROGRAMS // (batch * blocks), tokens // SHORTEST))
    length = triton.cdiv(triton.cdiv(tokens, chunks), GROUP.value) * GROUP.value
    chunks = triton.cdiv(tokens, length)
    whole, block = chunks == 1, min(STATES, triton.next_power_of_2(count))
    with torch.cuda.device_of(x):
        states = out if whole else _states(x, d, a, b, length, False)
        scan[blocks, chunks, batch](
            *(x, d, a, b, c, skip, states, out, tokens, channels, count, length),
            WHOLE=whole,
            MANY=count > block,
            NB=block,
            **OPTIONS,
        )
    return out


def scan_grad_cuda(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of all six for `grad`, that of the result. Five launches, and four sums over chunks or channels."""
    x, d, a, b, c, skip, g = (each.contiguous() for each in (u, delta, A.t(), B, C, D, grad))
    batch, tokens, channels = x.shape
    count, chunks, blocks = A.shape[1], triton.cdiv(tokens, GRAD_CHUNK), triton.cdiv(channels, OPTIONS["DB"])
    gu, gdelta = torch.empty_like(x), torch.empty_like(d)
    ga, gskip = a.new_empty(batch * chunks, *a.shape), skip.new_empty(batch * chunks, channels)
    padding = 0, chunks * GRAD_CHUNK - tokens
    ins, outs = (F.pad(each.transpose(1, 2), padding).contiguous() for each in (b, c))
    gb, gc = b.new_empty(blocks, *ins.shape), c.new_empty(blocks, *outs.shape)
    if x.numel():
        with torch.cuda.device_of(x):
            begins, backs = _states(x, d, a, b, GRAD_CHUNK, False), _states(g, d, a, c, GRAD_CHUNK, True)
            grads[blocks, chunks, batch](
                *(x, d, a, ins, outs, skip, g, begins, backs, gu, gdelta, ga, gb, gc, gskip, tokens, channels, count),
                L=GRAD_CHUNK,
                **OPTIONS,
            )
    gb, gc = (each.sum(0)[..., :tokens].transpose(1, 2).contiguous() for each in (gb, gc))
    return gu, gdelta, ga.sum(0).t().contiguous(), gb, gc, gskip.sum(0)
