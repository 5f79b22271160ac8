"""wkv and its gradients on a GPU, in Triton. Imported for CUDA tensors only; runs on a processor with TRITON_INTERPRET=1.

Tokens are cut into chunks of L. `fold` sums up each chunk as seen from its two ends, `carry` walks over these sums, chunk by
chunk, and leaves at each chunk what reaches it from either side; after that all chunks are independent again: `mean` makes
the result of them, `weigh` and `gather` the gradients, by the formulas of `csrc/wkv_grad.h`.

Sums are multiples of 2^frame, `[sides, B, chunks, PARTS, C]` in float32:

    frame, n, d     of weight x value and of weights; P and Q of `csrc/wkv_grad.h` on the way back
    far_n, far_d    the same with each term times the tokens it has passed: the derivative by the decay

Side 0 is what comes before a chunk, side 1 what comes after it. A thread owns a channel and holds its chunk in registers,
and threads have nothing to tell each other. One frame per chunk is enough while weights change by less than 2^ROOM within
it; steeper channels, which no network is known to have, are summed pair by pair.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK, GRAD_CHUNK = 32, 16
"""Tokens of a chunk. The longer it is the less chunks have to tell each other; the gradients need more registers a token."""

OPTIONS = {"CB": 32, "num_warps": 1, "enable_fp_fusion": True}
"""Of every launch. One warp has 32 channels, so that small images fill a GPU too; a row of them is one transaction."""

LOG2E = tl.constexpr(1.4426950408889634)
LOG2E_REST = tl.constexpr(1.925963033500e-8)  # what float32 leaves of it
NOTHING = tl.constexpr(-1e9)  # frame of an empty sum
ROOM = tl.constexpr(40.0)  # bits; gy / D may grow by as much again, and float32 ends at 127
GROUP = tl.constexpr(8)  # chunks that `carry` reads at once: one wait for memory instead of eight
ROWS = tl.constexpr(16)  # tokens whose pairs with one other are held at once


@triton.jit
def _clip(x, most):
    """Between -most and most; NaN stays."""
    return tl.clamp(x, -most, most, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _per_token(decay):
    """The decay in bits per token, a whole number and the rest: a whole number times tokens is exact."""
    decay = _clip(decay, 1e4)
    whole = tl.floor(decay * LOG2E + 0.5)
    return whole, tl.fma(decay, LOG2E, -whole) + decay * LOG2E_REST


@triton.jit
def _weight(x, unit, passed, whole, rest, frame):
    """2^(x unit - passed decays - frame). The large numbers meet first, so that what is left of them has all its digits."""
    return tl.exp2(tl.fma(x, unit, -(passed * whole + frame)) - passed * rest)


@triton.jit
def _fade(decay):
    """exp(-decay) of |decay| < 2 to the last bit, as it is multiplied L times: the exp2 of a GPU is not that exact."""
    fade = decay * 0 + 1
    for n in tl.static_range(18, 0, -1):
        fade = 1 - decay * (1 / n) * fade
    return fade


@triton.jit
def _steep(decay, L: tl.constexpr):
    return tl.max(tl.abs(decay)) * (LOG2E * L) > ROOM


@triton.jit
def _place(CB: tl.constexpr, BACKWARDS: tl.constexpr):
    """The channels, chunk and image of a program."""
    c, chunk, b = tl.program_id(0) * CB + tl.arange(0, CB), tl.program_id(1), tl.program_id(2)
    if BACKWARDS:  # what the kernel before has read last is still in the cache
        chunk, b = tl.num_programs(1) - 1 - chunk, tl.num_programs(2) - 1 - b
    return c, chunk, b


@triton.jit
def _start(c, chunk, b, tokens, channels, L: tl.constexpr):
    """Where a chunk begins `[CB]`, and how many tokens are left there: none past the last channel."""
    at = (b.to(tl.int64) * tokens + chunk * L) * channels + c
    return at, tl.where(c < channels, tokens - chunk * L, 0)


@triton.jit
def _row(X, j, channels, left, other):
    """Token j after X `[CB]`, in float32."""
    return tl.load(X + j * channels, mask=left > j, other=other).to(tl.float32)


@triton.jit
def _tile(X, first, channels, left, other, ROWS: tl.constexpr):
    """The tokens from `first` after X, `[ROWS, CB]` in float32."""
    j = first + tl.arange(0, ROWS)[:, None]
    return tl.load(X[None, :] + j * channels, mask=left[None, :] > j, other=other).to(tl.float32)


@triton.jit
def _states(STATES, side, b, chunk, chunks, c, channels, PARTS: tl.constexpr):
    """Where the sums of a chunk are `[CB]`."""
    return STATES + ((side * tl.num_programs(2) + b).to(tl.int64) * chunks + chunk) * PARTS * channels + c


@triton.jit
def _read(X, channels, ok, PARTS: tl.constexpr):
    """frame, n, d and so on, each `[CB]`."""
    parts = (tl.load(X, mask=ok, other=NOTHING),)
    for part in tl.static_range(1, PARTS):
        parts = parts + (tl.load(X + part * channels, mask=ok, other=0.0),)
    return parts


@triton.jit
def _write(X, channels, ok, parts, PARTS: tl.constexpr):
    for part in tl.static_range(PARTS):
        tl.store(X + part * channels, parts[part], mask=ok)


@triton.jit
def _empty(c, PARTS: tl.constexpr):
    zero = c.to(tl.float32) * 0
    parts = (zero + NOTHING,)
    for _ in tl.static_range(1, PARTS):
        parts = parts + (zero,)
    return parts


@triton.jit
def _around(STATES, b, chunk, c, channels, PARTS: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """What reaches a chunk from before and from after it; nothing from a side that is not there."""
    chunks, ok = tl.num_programs(1), c < channels
    before, after = _empty(c, PARTS), _empty(c, PARTS)
    if BEFORE:
        before = _read(_states(STATES, 0, b, chunk, chunks, c, channels, PARTS), channels, ok, PARTS)
    if AFTER:
        side: tl.constexpr = 1 if BEFORE else 0
        after = _read(_states(STATES, side, b, chunk, chunks, c, channels, PARTS), channels, ok, PARTS)
    return before, after


@triton.jit(do_not_specialize=["tokens"])
def fold(
    DECAY,
    KEY,
    VALUE,
    STATES,
    tokens,
    channels,
    PARTS: tl.constexpr,
    SIDES: tl.constexpr,
    L: tl.constexpr,
    CB: tl.constexpr,
):
    """Each chunk as seen from the token after it, which is what side 0 carries on, and from the one before it."""
    c, chunk, b = _place(CB, False)
    at, left = _start(c, chunk, b, tokens, channels, L)
    key = _tile(KEY + at, 0, channels, left, float("-inf"), L)
    value = _tile(VALUE + at, 0, channels, left, 0.0, L)
    whole, rest = _per_token(tl.load(DECAY + c, mask=c < channels, other=0.0))
    j = tl.arange(0, L)[:, None]
    for side in tl.static_range(SIDES):
        passed = (j if side else L - 1 - j).to(tl.float32)
        frame = tl.floor(_clip(tl.max(key * LOG2E - passed * (whole + rest)[None, :], 0), -NOTHING))
        weight = _weight(key, LOG2E, passed, whole[None, :], rest[None, :], frame[None, :])
        parts = (frame, tl.sum(weight * value, 0), tl.sum(weight, 0))
        if PARTS == 5:
            parts = parts + (tl.sum(weight * value * passed, 0), tl.sum(weight * passed, 0))
        state = _states(STATES, side, b, chunk, tl.num_programs(1), c, channels, PARTS)
        _write(state, channels, c < channels, parts, PARTS)


@triton.jit(do_not_specialize=["chunks"])
def carry(
    DECAY,
    STATES,
    chunks,
    channels,
    PARTS: tl.constexpr,
    FIRST: tl.constexpr,
    SIGNED: tl.constexpr,
    L: tl.constexpr,
    CB: tl.constexpr,
):
    """From the sums of the chunks what reaches each of them, in the same place. The first side that is stored is FIRST."""
    c, stored, b = _place(CB, False)
    ok = c < channels
    # a chunk's decay is raised to the number of chunks: two float32 hold it to 48 bits, beside a whole number of bits
    bits = _clip(tl.load(DECAY + c, mask=ok, other=0.0), 1e4).to(tl.float64) * (LOG2E * L)
    exact = tl.exp2(tl.floor(bits + 0.5) - bits)
    whole, fade = tl.floor(bits + 0.5).to(tl.float32), exact.to(tl.float32)
    fade_rest = (exact - fade.to(tl.float64)).to(tl.float32)
    backwards = stored + FIRST
    state = _empty(c, PARTS)
    for first in range(0, chunks, GROUP):
        places, masks, sums = (), (), ()
        for i in tl.static_range(GROUP):
            chunk = first + i + backwards * (chunks - 1 - 2 * (first + i))
            places = places + (_states(STATES, stored, b, chunk, chunks, c, channels, PARTS),)
            masks = masks + (tl.where(ok, chunks - first, 0) > i,)
            sums = sums + (_read(places[i], channels, masks[i], PARTS),)
        for i in tl.static_range(GROUP):
            _write(places[i], channels, masks[i], state, PARTS)
            frame = tl.maximum(state[0] - whole, sums[i][0])
            mine, its = tl.exp2(state[0] - whole - frame), tl.exp2(sums[i][0] - frame)
            high, low = fade * mine, fade_rest * mine
            new = (frame,)
            for part in tl.static_range(1, PARTS):
                old = state[part]
                if part > 2:  # all that is in the sum has passed a chunk more
                    old += L * state[part - 2]
                new = new + (old * high + (old * low + sums[i][part] * its),)
            state = new
        size = tl.abs(state[2])
        if SIGNED:
            size = tl.maximum(tl.abs(state[1]), size)
        up = tl.where(size > 0, ((size.to(tl.int32, bitcast=True) >> 23) - 127).to(tl.float32), 0.0)
        settled = (state[0] + up,)
        for part in tl.static_range(1, PARTS):
            settled = settled + (state[part] * tl.exp2(-up),)
        state = settled


@triton.jit
def _weights(KEY, decay, bonus, channels, left, before, after, L: tl.constexpr):
    """A chunk's frame, which is a whole number so that changing to it is exact; exp(-decay), exp(bonus), each exp(key)."""
    keys = ()
    for j in tl.static_range(L):
        keys = keys + (_row(KEY, j, channels, left, float("-inf")),)
    most = keys[0]
    for j in tl.static_range(1, L):
        most = tl.maximum(most, keys[j])
    frame = tl.maximum(tl.floor(_clip(most * LOG2E, -NOTHING)), tl.maximum(before[0], after[0]))
    e = ()
    for j in tl.static_range(L):
        e = e + (tl.exp2(tl.fma(keys[j], LOG2E, -frame)),)
    return frame, _fade(decay), tl.exp(_clip(bonus, 80.0)), e


@triton.jit
def _into(frame, state):
    """The sums of a state as multiples of 2^frame."""
    by = tl.exp2(state[0] - frame)
    return state[1] * by, state[2] * by


@triton.jit
def _far_into(frame, state):
    by = tl.exp2(state[0] - frame)
    return state[3] * by, state[4] * by


@triton.jit
def _heard(key, first, t, bonus, CAUSAL: tl.constexpr):
    """Of the tokens from `first` on `[rows, CB]`, as t hears them: keys, and how many decays they have passed."""
    j = first + tl.arange(0, key.shape[0])[:, None]
    heard = tl.where(j == t, key + bonus[None, :], key)
    if CAUSAL:
        heard = tl.where(j > t, float("-inf"), heard)
    return heard, tl.where(j == t, 0, tl.abs(j - t) - 1).to(tl.float32)


@triton.jit
def _reach(t, whole, rest, before, after, L: tl.constexpr):
    """Of what comes before and after a chunk, as its token t hears it: the passed decays of both, and the larger frame."""
    left, right, both = t * 1.0, (L - 1 - t) * 1.0, whole + rest
    return left, right, tl.floor(tl.maximum(before[0] - left * both, after[0] - right * both))


@triton.jit(do_not_specialize=["tokens"])
def mean(
    DECAY, BONUS, KEY, VALUE, STATES, OUT, tokens, channels, CAUSAL: tl.constexpr, L: tl.constexpr, CB: tl.constexpr
):
    """The result."""
    c, chunk, b = _place(CB, True)
    at, left = _start(c, chunk, b, tokens, channels, L)
    decay = tl.load(DECAY + c, mask=c < channels, other=0.0)
    bonus = tl.load(BONUS + c, mask=c < channels, other=0.0)
    before, after = _around(STATES, b, chunk, c, channels, 3, True, not CAUSAL)
    if _steep(decay, L):
        count = tl.minimum(L, tokens - chunk * L)
        _mean_by_pairs(decay, bonus, KEY + at, VALUE + at, OUT + at, before, after, count, channels, left, CAUSAL, L)
    else:
        _mean_of_chunk(decay, bonus, KEY + at, VALUE + at, OUT + at, before, after, channels, left, CAUSAL, L)


@triton.jit
def _mean_of_chunk(decay, bonus, KEY, VALUE, OUT, before, after, channels, left, CAUSAL: tl.constexpr, L: tl.constexpr):
    values = ()
    for j in tl.static_range(L):
        values = values + (_row(VALUE, j, channels, left, 0.0),)
    frame, fade, own, e = _weights(KEY, decay, bonus, channels, left, before, after, L)
    n, d = _into(frame, after)
    ns, ds = (), ()  # from the last token to the first
    for j in tl.static_range(L - 1, -1, -1):
        ns, ds = ns + (n,), ds + (d,)
        if not CAUSAL:
            n, d = n * fade + e[j] * values[j], d * fade + e[j]
    n, d = _into(frame, before)
    for j in tl.static_range(L):
        x = e[j] * values[j]
        out = (n + (ns[L - 1 - j] + own * x)) / (d + (ds[L - 1 - j] + own * e[j]))
        tl.store(OUT + j * channels, out.to(OUT.dtype.element_ty), mask=left > j)
        n, d = n * fade + x, d * fade + e[j]


@triton.jit
def _mean_by_pairs(
    decay, bonus, KEY, VALUE, OUT, before, after, count, channels, left, CAUSAL: tl.constexpr, L: tl.constexpr
):
    whole, rest = _per_token(decay)
    for t in range(count):
        on_left, on_right, frame = _reach(t, whole, rest, before, after, L)
        heard_left = _weight(before[0], 1.0, on_left, whole, rest, frame)
        heard_right = _weight(after[0], 1.0, on_right, whole, rest, frame)
        n = before[1] * heard_left + after[1] * heard_right
        d = before[2] * heard_left + after[2] * heard_right
        for first in range(0, L, ROWS):  # the frame rises to the largest weight so far
            key = _tile(KEY, first, channels, left, float("-inf"), ROWS)
            heard, passed = _heard(key, first, t, bonus, CAUSAL)
            most = _clip(tl.max(heard * LOG2E - passed * (whole + rest)[None, :], 0), -NOTHING)
            higher = tl.maximum(frame, tl.floor(most))
            weight = _weight(heard, LOG2E, passed, whole[None, :], rest[None, :], higher[None, :])
            by = tl.exp2(frame - higher)
            n = n * by + tl.sum(weight * _tile(VALUE, first, channels, left, 0.0, ROWS), 0)
            d = d * by + tl.sum(weight, 0)
            frame = higher
        tl.store(OUT + t * channels, (n / d).to(OUT.dtype.element_ty), mask=left > t)


@triton.jit
def _pairs(key, t, whole, rest, bonus, before, after, CAUSAL: tl.constexpr, L: tl.constexpr):
    """The frame of token t, its weights of the tokens of the chunk `[L, CB]`, of what comes before and of what comes after."""
    left, right, frame = _reach(t, whole, rest, before, after, L)
    heard, passed = _heard(key, 0, t, bonus, CAUSAL)
    most = _clip(tl.max(heard * LOG2E - passed * (whole + rest)[None, :], 0), -NOTHING)
    frame = tl.maximum(frame, tl.floor(most))
    weight = _weight(heard, LOG2E, passed, whole[None, :], rest[None, :], frame[None, :])
    heard_left = _weight(before[0], 1.0, left, whole, rest, frame)
    return frame, weight, heard_left, _weight(after[0], 1.0, right, whole, rest, frame)


@triton.jit(do_not_specialize=["tokens"])
def weigh(
    DECAY,
    BONUS,
    KEY,
    VALUE,
    RESULT,
    GRAD,
    STATES,
    TOLD,
    GRADS,
    tokens,
    channels,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
    CB: tl.constexpr,
):
    """The chunk's share of the gradients of decay and bonus, `GRADS [2, B, chunks, C]`, and of P and Q, `TOLD`."""
    c, chunk, b = _place(CB, True)
    chunks, ok = tl.num_programs(1), c < channels
    at, left = _start(c, chunk, b, tokens, channels, L)
    decay, bonus = tl.load(DECAY + c, mask=ok, other=0.0), tl.load(BONUS + c, mask=ok, other=0.0)
    before, after = _around(STATES, b, chunk, c, channels, 5, True, not CAUSAL)
    if _steep(decay, L):
        key = _tile(KEY + at, 0, channels, left, float("-inf"), L)
        value = _tile(VALUE + at, 0, channels, left, 0.0, L)
        count = tl.minimum(L, tokens - chunk * L)
        gw, gu, ahead, back = _weigh_by_pairs(
            decay, bonus, key, value, RESULT + at, GRAD + at, before, after, count, channels, left, CAUSAL, L
        )
    else:
        gw, gu, ahead, back = _weigh_chunk(
            decay, bonus, KEY + at, VALUE + at, RESULT + at, GRAD + at, before, after, channels, left, CAUSAL, L
        )
    if CAUSAL:  # nobody hears what comes after him, so nothing is told ahead
        _write(_states(TOLD, 0, b, chunk, chunks, c, channels, 3), channels, ok, back, 3)
    else:
        _write(_states(TOLD, 0, b, chunk, chunks, c, channels, 3), channels, ok, ahead, 3)
        _write(_states(TOLD, 1, b, chunk, chunks, c, channels, 3), channels, ok, back, 3)
    tl.store(_states(GRADS, 0, b, chunk, chunks, c, channels, 1), gw, mask=ok)
    tl.store(_states(GRADS, 1, b, chunk, chunks, c, channels, 1), gu, mask=ok)


@triton.jit
def _weigh_chunk(
    decay,
    bonus,
    KEY,
    VALUE,
    RESULT,
    GRAD,
    before,
    after,
    channels,
    left,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
):
    frame, fade, own, e = _weights(KEY, decay, bonus, channels, left, before, after, L)
    n, d = _into(frame, after)
    far_n, far_d = _far_into(frame, after)
    ds, fars = (), ()  # from the last token to the first: D, and the derivative of N - y D
    for j in tl.static_range(L - 1, -1, -1):
        ds, fars = ds + (d,), fars + (far_n - _row(RESULT, j, channels, left, 0.0) * far_d,)
        if not CAUSAL:
            far_n, far_d = (far_n + n) * fade, (far_d + d) * fade
            n, d = n * fade + e[j] * _row(VALUE, j, channels, left, 0.0), d * fade + e[j]
    n, d = _into(frame, before)
    far_n, far_d = _far_into(frame, before)
    zero = decay * 0
    gw, gu, ahead_p, ahead_q, back_p, back_q, passed = zero, zero, zero, zero, zero, zero, zero + 1
    for j in tl.static_range(L):
        value, y = _row(VALUE, j, channels, left, 0.0), _row(RESULT, j, channels, left, 0.0)
        p = _row(GRAD, j, channels, left, 0.0) / (d + (ds[L - 1 - j] + own * e[j]))
        gu += p * own * e[j] * (value - y)
        gw -= p * ((far_n - y * far_d) + fars[L - 1 - j])
        ahead_p, ahead_q = ahead_p * fade + p, ahead_q * fade + p * y
        back_p, back_q, passed = back_p + passed * p, back_q + passed * (p * y), passed * fade
        far_n, far_d = (far_n + n) * fade, (far_d + d) * fade
        n, d = n * fade + e[j] * value, d * fade + e[j]
    return gw, gu, (-frame, ahead_p, ahead_q), (-frame, back_p, back_q)


@triton.jit
def _plus(state, level, p, q):
    """A sum of P and Q and one term more: p and q, times 2^level."""
    frame = tl.maximum(state[0], level)
    mine, its = tl.exp2(state[0] - frame), tl.exp2(level - frame)
    return frame, state[1] * mine + p * its, state[2] * mine + q * its


@triton.jit
def _weigh_by_pairs(
    decay,
    bonus,
    key,
    value,
    RESULT,
    GRAD,
    before,
    after,
    count,
    channels,
    left,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
):
    whole, rest = _per_token(decay)
    j = tl.arange(0, L)[:, None]
    gw, gu = decay * 0, decay * 0
    ahead, back = _empty(decay, 3), _empty(decay, 3)
    for t in range(count):
        frame, weight, on_left, on_right = _pairs(key, t, whole, rest, bonus, before, after, CAUSAL, L)
        y = _row(RESULT, t, channels, left, 0.0)
        d = tl.sum(weight, 0) + (before[2] * on_left + after[2] * on_right)
        p = _row(GRAD, t, channels, left, 0.0) / d
        share = weight * (value - y[None, :])
        gu += p * tl.sum(tl.where(j == t, share, 0.0), 0)
        far = tl.sum(tl.where(j == t, 0.0, share * (tl.abs(j - t) - 1)), 0)
        far += on_left * ((before[3] - y * before[4]) + t * (before[1] - y * before[2]))
        far += on_right * ((after[3] - y * after[4]) + (L - 1 - t) * (after[1] - y * after[2]))
        gw -= p * far
        ahead = _plus(ahead, -frame - (L - 1 - t) * (whole + rest), p, p * y)
        back = _plus(back, -frame - t * (whole + rest), p, p * y)
    return gw, gu, ahead, back


@triton.jit(do_not_specialize=["tokens"])
def gather(
    DECAY,
    BONUS,
    KEY,
    VALUE,
    RESULT,
    GRAD,
    STATES,
    TOLD,
    GKEY,
    GVALUE,
    tokens,
    channels,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
    CB: tl.constexpr,
):
    """The gradients of key and value."""
    c, chunk, b = _place(CB, False)
    at, left = _start(c, chunk, b, tokens, channels, L)
    decay = tl.load(DECAY + c, mask=c < channels, other=0.0)
    bonus = tl.load(BONUS + c, mask=c < channels, other=0.0)
    before, after = _around(STATES, b, chunk, c, channels, 5, True, not CAUSAL)
    ahead, back = _around(TOLD, b, chunk, c, channels, 3, not CAUSAL, True)
    if _steep(decay, L):
        key = _tile(KEY + at, 0, channels, left, float("-inf"), L)
        count = tl.minimum(L, tokens - chunk * L)
        p, q = _gather_by_pairs(
            decay, bonus, key, RESULT + at, GRAD + at, before, after, ahead, back, count, channels, left, CAUSAL, L
        )
        j = tl.arange(0, L)[:, None]
        here, inside = at[None, :] + j * channels, left[None, :] > j
        tl.store(GVALUE + here, p.to(GVALUE.dtype.element_ty), mask=inside)
        value = _tile(VALUE + at, 0, channels, left, 0.0, L)
        tl.store(GKEY + here, (value * p - q).to(GKEY.dtype.element_ty), mask=inside)
    else:
        _gather_chunk(
            decay,
            bonus,
            KEY + at,
            VALUE + at,
            RESULT + at,
            GRAD + at,
            GKEY + at,
            GVALUE + at,
            before,
            after,
            ahead,
            back,
            channels,
            left,
            CAUSAL,
            L,
        )


@triton.jit
def _gather_chunk(
    decay,
    bonus,
    KEY,
    VALUE,
    RESULT,
    GRAD,
    GKEY,
    GVALUE,
    before,
    after,
    ahead,
    back,
    channels,
    left,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
):
    frame, fade, own, e = _weights(KEY, decay, bonus, channels, left, before, after, L)
    _, d = _into(frame, after)
    ds = ()  # from the last token to the first
    for j in tl.static_range(L - 1, -1, -1):
        ds = ds + (d,)
        if not CAUSAL:
            d = d * fade + e[j]
    told = tl.maximum(-frame, tl.maximum(ahead[0], back[0]))  # the frame of P and Q
    by = tl.exp2(-frame - told)
    _, d = _into(frame, before)
    p = ()
    for j in tl.static_range(L):
        p = p + (_row(GRAD, j, channels, left, 0.0) * by / (d + (ds[L - 1 - j] + own * e[j])),)
        d = d * fade + e[j]
    sum_p, sum_q = _into(told, back)
    ps, qs = (), ()  # from the last token to the first
    for j in tl.static_range(L - 1, -1, -1):
        q = p[j] * _row(RESULT, j, channels, left, 0.0)
        ps, qs = ps + (sum_p + own * p[j],), qs + (sum_q + own * q,)
        sum_p, sum_q = sum_p * fade + p[j], sum_q * fade + q
    sum_p, sum_q = _into(told, ahead)
    for j in tl.static_range(L):
        weight = tl.exp2(tl.fma(_row(KEY, j, channels, left, float("-inf")), LOG2E, told))
        all_p, all_q = ps[L - 1 - j], qs[L - 1 - j]
        if not CAUSAL:
            all_p, all_q = all_p + sum_p, all_q + sum_q
            sum_p, sum_q = sum_p * fade + p[j], sum_q * fade + p[j] * _row(RESULT, j, channels, left, 0.0)
        gk = weight * (_row(VALUE, j, channels, left, 0.0) * all_p - all_q)
        tl.store(GVALUE + j * channels, (weight * all_p).to(GVALUE.dtype.element_ty), mask=left > j)
        tl.store(GKEY + j * channels, gk.to(GKEY.dtype.element_ty), mask=left > j)


@triton.jit
def _gather_by_pairs(
    decay,
    bonus,
    key,
    RESULT,
    GRAD,
    before,
    after,
    ahead,
    back,
    count,
    channels,
    left,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
):
    """exp(key) P and exp(key) Q `[L, CB]`. Within the chunk they are sums of shares of the whole, which need no frame."""
    whole, rest = _per_token(decay)
    j = tl.arange(0, L)[:, None].to(tl.float32)
    told_ahead = _weight(key, LOG2E, j, whole[None, :], rest[None, :], -ahead[0][None, :])
    told_back = _weight(key, LOG2E, L - 1 - j, whole[None, :], rest[None, :], -back[0][None, :])
    p = told_ahead * ahead[1][None, :] + told_back * back[1][None, :]
    q = told_ahead * ahead[2][None, :] + told_back * back[2][None, :]
    for t in range(count):
        _, weight, on_left, on_right = _pairs(key, t, whole, rest, bonus, before, after, CAUSAL, L)
        d = tl.sum(weight, 0) + (before[2] * on_left + after[2] * on_right)
        g = _row(GRAD, t, channels, left, 0.0) / d
        p += weight * g[None, :]
        q += weight * (g * _row(RESULT, t, channels, left, 0.0))[None, :]
    return p, q


def _sums(decay: Tensor, key: Tensor, value: Tensor, parts: int, sides: int, chunk: int) -> Tensor:
    """What reaches each chunk from before it and, with two sides, from after it: `[sides, B, chunks, parts, C]`."""
    batch, tokens, channels = key.shape
    chunks, blocks = triton.cdiv(tokens, chunk), triton.cdiv(channels, OPTIONS["CB"])
    states = key.new_empty(sides, batch, chunks, parts, channels, dtype=torch.float32)
    fold[blocks, chunks, batch](
        decay, key, value, states, tokens, channels, PARTS=parts, SIDES=sides, L=chunk, **OPTIONS
    )
    carry[blocks, sides, batch](decay, states, chunks, channels, PARTS=parts, FIRST=0, SIGNED=False, L=chunk, **OPTIONS)
    return states


def wkv_cuda(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """`[B, T, C]` in the type of `value`; `decay [C]`, `bonus [C]` in float32. Three launches."""
    w, u, k, v = (each.contiguous() for each in (decay, bonus, key, value))
    batch, tokens, channels = k.shape
    out = torch.empty_like(v)
    if not out.numel():
        return out
    with torch.cuda.device_of(k):
        states = _sums(w, k, v, 3, 1 if causal else 2, CHUNK)
        grid = triton.cdiv(channels, OPTIONS["CB"]), triton.cdiv(tokens, CHUNK), batch
        mean[grid](w, u, k, v, states, out, tokens, channels, CAUSAL=causal, L=CHUNK, **OPTIONS)
    return out


def wkv_grad_cuda(
    decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, out: Tensor, grad: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of decay, bonus, key and value for `grad`, that of `out`. Five launches, and a sum over chunks."""
    w, u, k, v, y, g = (each.contiguous() for each in (decay, bonus, key, value, out, grad))
    batch, tokens, channels = k.shape
    gk, gv = torch.empty_like(k), torch.empty_like(v)
    if not gk.numel():
        return torch.zeros_like(w), torch.zeros_like(u), gk, gv
    chunks, blocks, sides = triton.cdiv(tokens, GRAD_CHUNK), triton.cdiv(channels, OPTIONS["CB"]), 1 if causal else 2
    shares, told = w.new_empty(2, batch * chunks, channels), w.new_empty(sides, batch, chunks, 3, channels)
    grid, size = (blocks, chunks, batch), {"tokens": tokens, "channels": channels, "CAUSAL": causal, "L": GRAD_CHUNK}
    first = 1 if causal else 0  # what is told goes the other way than what is heard
    with torch.cuda.device_of(k):
        states = _sums(w, k, v, 5, sides, GRAD_CHUNK)
        weigh[grid](w, u, k, v, y, g, states, told, shares, **size, **OPTIONS)
        carry[blocks, sides, batch](
            w, told, chunks, channels, PARTS=3, FIRST=first, SIGNED=True, L=GRAD_CHUNK, **OPTIONS
        )
        gather[grid](w, u, k, v, y, g, states, told, gk, gv, **size, **OPTIONS)
    gw, gu = shares.sum(1)
    return gw, gu, gk, gv
