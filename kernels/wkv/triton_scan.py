"""wkv and its gradients on a GPU, in Triton. Imported for CUDA tensors only; runs on a processor with TRITON_INTERPRET=1.

Tokens are cut into chunks of L. `fold` sums up each chunk as seen from its two ends, `carry` walks over these sums, chunk by
chunk, and leaves at each chunk what reaches it from either side; after that all chunks are independent again, and `mean`
makes the result of them. For the gradients `weigh` sums up what each token says to those it has heard, P and Q of
`csrc/wkv_grad.h`, which is carried too, and `gather` makes all four of it.

Sums are multiples of 2^frame, `[sides, B, chunks, PARTS, C]` in float32:

    frame, d, n                   of weights, and of weight x value, which the gradients do without
    frame, p, q, far_p, far_q     of P and Q; far: each term times the tokens it has passed, the derivative by the decay

Side 0 is what comes before a chunk, side 1 what comes after it. A thread owns a channel and holds its chunk in registers,
and threads have nothing to tell each other. One frame per chunk is enough while weights change by less than 2^ROOM within
it; steeper channels, and causal ones with keys that far apart, which no network is known to have, are summed pair by pair.
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
def _wild(decay, KEY, channels, left, CAUSAL: tl.constexpr, L: tl.constexpr):
    """Whether one frame for a chunk is not enough: decays too steep or, where a later key is not heard, keys too far apart."""
    wild = tl.max(tl.abs(decay)) * (LOG2E * L) > ROOM
    if CAUSAL:
        most = tl.max(_tile(KEY, 0, channels, left, float("-inf"), L), 0)
        least = tl.min(_tile(KEY, 0, channels, left, float("inf"), L), 0)
        wild = wild | (tl.max(most - least) * LOG2E > ROOM)
    return wild


@triton.jit
def _states(STATES, side, b, chunk, chunks, c, channels, PARTS: tl.constexpr):
    """Where the sums of a chunk are `[CB]`."""
    return STATES + ((side * tl.num_programs(2) + b).to(tl.int64) * chunks + chunk) * PARTS * channels + c


@triton.jit
def _read(X, channels, ok, PARTS: tl.constexpr):
    """frame, d and so on, each `[CB]`."""
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
    whole, rest = _per_token(tl.load(DECAY + c, mask=c < channels, other=0.0))
    j = tl.arange(0, L)[:, None]
    for side in tl.static_range(SIDES):
        passed = (j if side else L - 1 - j).to(tl.float32)
        frame = tl.floor(_clip(tl.max(key * LOG2E - passed * (whole + rest)[None, :], 0), -NOTHING))
        weight = _weight(key, LOG2E, passed, whole[None, :], rest[None, :], frame[None, :])
        parts = (frame, tl.sum(weight, 0))
        if PARTS == 3:
            parts = parts + (tl.sum(weight * _tile(VALUE + at, 0, channels, left, 0.0, L), 0),)
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
        size = tl.abs(state[1])
        if SIGNED:
            size = tl.maximum(size, tl.abs(state[2]))
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
    if _wild(decay, KEY + at, channels, left, CAUSAL, L):
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
    d, n = _into(frame, after)
    ns, ds = (), ()  # from the last token to the first
    for j in tl.static_range(L - 1, -1, -1):
        ns, ds = ns + (n,), ds + (d,)
        if not CAUSAL:
            n, d = n * fade + e[j] * values[j], d * fade + e[j]
    d, n = _into(frame, before)
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
        d = before[1] * heard_left + after[1] * heard_right
        n = before[2] * heard_left + after[2] * heard_right
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
    RESULT,
    GRAD,
    STATES,
    TOLD,
    tokens,
    channels,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
    CB: tl.constexpr,
):
    """The sums of P and Q of each chunk, as `fold` makes those of the weights."""
    c, chunk, b = _place(CB, True)
    chunks, ok = tl.num_programs(1), c < channels
    at, left = _start(c, chunk, b, tokens, channels, L)
    decay, bonus = tl.load(DECAY + c, mask=ok, other=0.0), tl.load(BONUS + c, mask=ok, other=0.0)
    before, after = _around(STATES, b, chunk, c, channels, 2, True, not CAUSAL)
    if _wild(decay, KEY + at, channels, left, CAUSAL, L):
        key, count = _tile(KEY + at, 0, channels, left, float("-inf"), L), tl.minimum(L, tokens - chunk * L)
        ahead, back = _weigh_by_pairs(
            decay, bonus, key, RESULT + at, GRAD + at, before, after, count, channels, left, CAUSAL, L
        )
    else:
        ahead, back = _weigh_chunk(
            decay, bonus, KEY + at, RESULT + at, GRAD + at, before, after, channels, left, CAUSAL, L
        )
    if CAUSAL:  # nobody hears what comes after him, so nothing is told ahead
        _write(_states(TOLD, 0, b, chunk, chunks, c, channels, 5), channels, ok, back, 5)
    else:
        _write(_states(TOLD, 0, b, chunk, chunks, c, channels, 5), channels, ok, ahead, 5)
        _write(_states(TOLD, 1, b, chunk, chunks, c, channels, 5), channels, ok, back, 5)


@triton.jit
def _right_of(frame, fade, e, after, CAUSAL: tl.constexpr, L: tl.constexpr):
    """The weights of all that is right of each token, from the last token to the first."""
    d = after[1] * tl.exp2(after[0] - frame)
    ds = ()
    for j in tl.static_range(L - 1, -1, -1):
        ds = ds + (d,)
        if not CAUSAL:
            d = d * fade + e[j]
    return ds


@triton.jit
def _weigh_chunk(decay, bonus, KEY, RESULT, GRAD, before, after, channels, left, CAUSAL: tl.constexpr, L: tl.constexpr):
    frame, fade, own, e = _weights(KEY, decay, bonus, channels, left, before, after, L)
    ds = _right_of(frame, fade, e, after, CAUSAL, L)
    d, zero = before[1] * tl.exp2(before[0] - frame), decay * 0
    p, q, far_p, far_q = zero, zero, zero, zero
    back_p, back_q, back_far_p, back_far_q, passed = zero, zero, zero, zero, zero + 1
    for j in tl.static_range(L):
        new = _row(GRAD, j, channels, left, 0.0) / (d + (ds[L - 1 - j] + own * e[j]))
        y = _row(RESULT, j, channels, left, 0.0)
        d = d * fade + e[j]
        far_p, far_q = (far_p + p) * fade, (far_q + q) * fade
        p, q = p * fade + new, q * fade + new * y
        seen = passed * new
        back_p, back_q = back_p + seen, back_q + seen * y
        back_far_p, back_far_q = back_far_p + j * seen, back_far_q + j * (seen * y)
        passed = passed * fade
    return (-frame, p, q, far_p, far_q), (-frame, back_p, back_q, back_far_p, back_far_q)


@triton.jit
def _plus(state, level, passed, p, q):
    """A sum of P and Q and one term more: p and q, times 2^level, that have passed so many tokens."""
    frame = tl.maximum(state[0], level)
    mine, its = tl.exp2(state[0] - frame), tl.exp2(level - frame)
    p, q = p * its, q * its
    near = frame, state[1] * mine + p, state[2] * mine + q
    return near + (state[3] * mine + passed * p, state[4] * mine + passed * q)


@triton.jit
def _weigh_by_pairs(
    decay, bonus, key, RESULT, GRAD, before, after, count, channels, left, CAUSAL: tl.constexpr, L: tl.constexpr
):
    whole, rest = _per_token(decay)
    ahead, back = _empty(decay, 5), _empty(decay, 5)
    for t in range(count):
        frame, weight, on_left, on_right = _pairs(key, t, whole, rest, bonus, before, after, CAUSAL, L)
        d = tl.sum(weight, 0) + (before[1] * on_left + after[1] * on_right)
        p = _row(GRAD, t, channels, left, 0.0) / d
        q = p * _row(RESULT, t, channels, left, 0.0)
        ahead = _plus(ahead, -frame - (L - 1 - t) * (whole + rest), L - 1 - t, p, q)
        back = _plus(back, -frame - t * (whole + rest), t, p, q)
    return ahead, back


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
    SHARES,
    tokens,
    channels,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
    CB: tl.constexpr,
):
    """The gradients of key and value, and of decay and bonus each chunk's share, `[2, B, chunks, C]`."""
    c, chunk, b = _place(CB, False)
    chunks, ok = tl.num_programs(1), c < channels
    at, left = _start(c, chunk, b, tokens, channels, L)
    decay, bonus = tl.load(DECAY + c, mask=ok, other=0.0), tl.load(BONUS + c, mask=ok, other=0.0)
    before, after = _around(STATES, b, chunk, c, channels, 2, True, not CAUSAL)
    ahead, back = _around(TOLD, b, chunk, c, channels, 5, not CAUSAL, True)
    given, made = (KEY + at, VALUE + at, RESULT + at, GRAD + at), (GKEY + at, GVALUE + at)
    if _wild(decay, KEY + at, channels, left, CAUSAL, L):
        count = tl.minimum(L, tokens - chunk * L)
        gw, gu = _gather_by_pairs(
            decay, bonus, given, made, before, after, ahead, back, count, channels, left, CAUSAL, L
        )
    else:
        gw, gu = _gather_chunk(decay, bonus, given, made, before, after, ahead, back, channels, left, CAUSAL, L)
    tl.store(_states(SHARES, 0, b, chunk, chunks, c, channels, 1), gw, mask=ok)
    tl.store(_states(SHARES, 1, b, chunk, chunks, c, channels, 1), gu, mask=ok)


@triton.jit
def _gather_chunk(
    decay, bonus, given, made, before, after, ahead, back, channels, left, CAUSAL: tl.constexpr, L: tl.constexpr
):
    KEY, VALUE, RESULT, GRAD = given
    GKEY, GVALUE = made
    frame, fade, own, e = _weights(KEY, decay, bonus, channels, left, before, after, L)
    ds = _right_of(frame, fade, e, after, CAUSAL, L)
    told = tl.maximum(-frame, tl.maximum(ahead[0], back[0]))  # the frame of P and Q
    d, by = before[1] * tl.exp2(before[0] - frame), tl.exp2(-frame - told)
    new = ()
    for j in tl.static_range(L):
        new = new + (_row(GRAD, j, channels, left, 0.0) * by / (d + (ds[L - 1 - j] + own * e[j])),)
        d = d * fade + e[j]
    gw, gu = decay * 0, decay * 0
    by = tl.exp2(back[0] - told)
    p, q, far_p, far_q = back[1] * by, back[2] * by, back[3] * by, back[4] * by
    ps, qs, weights = (), (), ()  # from the last token to the first
    for j in tl.static_range(L - 1, -1, -1):
        weight = tl.exp2(tl.fma(_row(KEY, j, channels, left, float("-inf")), LOG2E, told))
        value, y = _row(VALUE, j, channels, left, 0.0), _row(RESULT, j, channels, left, 0.0)
        gw -= weight * (value * far_p - far_q)
        gu += weight * own * new[j] * (value - y)
        ps, qs, weights = ps + (p + own * new[j],), qs + (q + own * new[j] * y,), weights + (weight,)
        far_p, far_q = (far_p + p) * fade, (far_q + q) * fade
        p, q = p * fade + new[j], q * fade + new[j] * y
    by = tl.exp2(ahead[0] - told)
    p, q, far_p, far_q = ahead[1] * by, ahead[2] * by, ahead[3] * by, ahead[4] * by
    for j in tl.static_range(L):
        weight, value = weights[L - 1 - j], _row(VALUE, j, channels, left, 0.0)
        all_p, all_q = ps[L - 1 - j], qs[L - 1 - j]
        if not CAUSAL:
            all_p, all_q = all_p + p, all_q + q
            gw -= weight * (value * far_p - far_q)
            far_p, far_q = (far_p + p) * fade, (far_q + q) * fade
            p, q = p * fade + new[j], q * fade + new[j] * _row(RESULT, j, channels, left, 0.0)
        gk = weight * (value * all_p - all_q)
        tl.store(GVALUE + j * channels, (weight * all_p).to(GVALUE.dtype.element_ty), mask=left > j)
        tl.store(GKEY + j * channels, gk.to(GKEY.dtype.element_ty), mask=left > j)
    return gw, gu


@triton.jit
def _gather_by_pairs(
    decay, bonus, given, made, before, after, ahead, back, count, channels, left, CAUSAL: tl.constexpr, L: tl.constexpr
):
    """Within the chunk exp(key) P and exp(key) Q are sums of shares of the whole, which need no frame."""
    KEY, VALUE, RESULT, GRAD = given
    GKEY, GVALUE = made
    key, value = _tile(KEY, 0, channels, left, float("-inf"), L), _tile(VALUE, 0, channels, left, 0.0, L)
    whole, rest = _per_token(decay)
    j = tl.arange(0, L)[:, None]
    p, q, far = tl.zeros(key.shape, tl.float32), tl.zeros(key.shape, tl.float32), tl.zeros(key.shape, tl.float32)
    for side in tl.static_range(2):
        told, passed = (back, L - 1 - j) if side else (ahead, j)
        weight = _weight(key, LOG2E, passed.to(tl.float32), whole[None, :], rest[None, :], -told[0][None, :])
        p += weight * told[1][None, :]
        q += weight * told[2][None, :]
        far_p, far_q = told[3][None, :] + passed * told[1][None, :], told[4][None, :] + passed * told[2][None, :]
        far += weight * (value * far_p - far_q)
    gu = decay * 0
    for t in range(count):
        _, weight, on_left, on_right = _pairs(key, t, whole, rest, bonus, before, after, CAUSAL, L)
        d = tl.sum(weight, 0) + (before[1] * on_left + after[1] * on_right)
        new, y = _row(GRAD, t, channels, left, 0.0) / d, _row(RESULT, t, channels, left, 0.0)
        p += weight * new[None, :]
        q += weight * (new * y)[None, :]
        share = weight * new[None, :] * (value - y[None, :])
        gu += tl.sum(tl.where(j == t, share, 0.0), 0)
        far += tl.where(j == t, 0.0, share * (tl.abs(j - t) - 1))
    inside = left[None, :] > j
    tl.store(GVALUE[None, :] + j * channels, p.to(GVALUE.dtype.element_ty), mask=inside)
    tl.store(GKEY[None, :] + j * channels, (value * p - q).to(GKEY.dtype.element_ty), mask=inside)
    return -tl.sum(far, 0), gu


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
    shares, told = w.new_empty(2, batch * chunks, channels), w.new_empty(sides, batch, chunks, 5, channels)
    grid, size = (blocks, chunks, batch), {"tokens": tokens, "channels": channels, "CAUSAL": causal, "L": GRAD_CHUNK}
    first = 1 if causal else 0  # what is told goes the other way than what is heard
    with torch.cuda.device_of(k):
        states = _sums(w, k, v, 2, sides, GRAD_CHUNK)
        weigh[grid](w, u, k, y, g, states, told, **size, **OPTIONS)
        carry[blocks, sides, batch](
            w, told, chunks, channels, PARTS=5, FIRST=first, SIGNED=True, L=GRAD_CHUNK, **OPTIONS
        )
        gather[grid](w, u, k, v, y, g, states, told, gk, gv, shares, **size, **OPTIONS)
    gw, gu = shares.sum(1)
    return gw, gu, gk, gv
