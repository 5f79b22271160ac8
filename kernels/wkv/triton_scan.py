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

CHUNK = 32
"""Tokens of a chunk: two or three values of each fit the registers, and what chunks tell each other is 1/32 of the rest."""

OPTIONS = {"L": CHUNK, "CB": 32, "num_warps": 1, "enable_fp_fusion": True}
"""Of every launch. One warp has 32 channels, so that small images fill a GPU too; a row of them is one transaction."""

LOG2E = tl.constexpr(1.4426950408889634)
LOG2E_REST = tl.constexpr(1.925963033500e-8)  # what float32 leaves of it
NOTHING = tl.constexpr(-1e9)  # frame of an empty sum
ROOM = tl.constexpr(40.0)  # bits; gy / D may grow by as much again, and float32 ends at 127
GROUP = tl.constexpr(8)  # chunks that `carry` reads at once: one wait for memory instead of eight


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
def _weight(bits, passed, whole, rest, frame):
    """2^(bits - passed decays - frame). The large numbers meet first, so that what is left of them has all its digits."""
    return tl.exp2((bits - (passed * whole + frame)) - passed * rest)


@triton.jit
def _fade(decay):
    """exp(-decay) of |decay| < 1 to the last bit, as it is multiplied L times: the exp2 of a GPU is not that exact."""
    fade = decay * 0 + 1
    for n in tl.static_range(12, 0, -1):
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
def _row_of(side, b, chunk, chunks, channels, PARTS: tl.constexpr):
    return ((side * tl.num_programs(2) + b).to(tl.int64) * chunks + chunk) * PARTS * channels


@triton.jit
def _read(STATES, row, c, channels, ok, PARTS: tl.constexpr):
    """frame, n, d and so on, each `[CB]`."""
    parts = (tl.load(STATES + row + c, mask=ok, other=NOTHING),)
    for part in tl.static_range(1, PARTS):
        parts = parts + (tl.load(STATES + row + part * channels + c, mask=ok, other=0.0),)
    return parts


@triton.jit
def _write(STATES, row, c, channels, ok, parts, PARTS: tl.constexpr):
    for part in tl.static_range(PARTS):
        tl.store(STATES + row + part * channels + c, parts[part], mask=ok)


@triton.jit
def _empty(c, PARTS: tl.constexpr):
    zero = c.to(tl.float32) * 0
    parts = (zero + NOTHING,)
    for _ in tl.static_range(1, PARTS):
        parts = parts + (zero,)
    return parts


@triton.jit
def _around(STATES, b, chunk, chunks, c, channels, ok, PARTS: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """What reaches a chunk from before and from after it, where that is anything; the sides that are stored are counted."""
    before, after = _empty(c, PARTS), _empty(c, PARTS)
    if BEFORE:
        before = _read(STATES, _row_of(0, b, chunk, chunks, channels, PARTS), c, channels, ok, PARTS)
    if AFTER:
        side: tl.constexpr = 1 if BEFORE else 0
        after = _read(STATES, _row_of(side, b, chunk, chunks, channels, PARTS), c, channels, ok, PARTS)
    return before, after


@triton.jit
def _row(X, j, place, other):
    """Token j of the chunk, `[CB]` in float32, where it is in the sequence; and where that is."""
    start, left, channels = place
    at = start + j * channels
    return tl.load(X + at, mask=left > j, other=other).to(tl.float32), at, left > j


@triton.jit
def _tile(X, chunk, tokens, c, channels, ok, other, L: tl.constexpr):
    """The chunk, `[L, CB]` in float32."""
    at = (chunk * L + tl.arange(0, L))[:, None] * channels + c[None, :]
    inside = ok[None, :] & (at < tokens * channels)
    return tl.load(X + at, mask=inside, other=other).to(tl.float32)


@triton.jit
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
    ok = c < channels
    start = b.to(tl.int64) * tokens * channels
    bits = _tile(KEY + start, chunk, tokens, c, channels, ok, float("-inf"), L) * LOG2E
    value = _tile(VALUE + start, chunk, tokens, c, channels, ok, 0.0, L)
    whole, rest = _per_token(tl.load(DECAY + c, mask=ok, other=0.0))
    j = tl.arange(0, L)[:, None]
    for side in tl.static_range(SIDES):
        passed = (j if side else L - 1 - j).to(tl.float32)
        frame = tl.floor(_clip(tl.max(bits - passed * (whole + rest)[None, :], 0), -NOTHING))
        weight = _weight(bits, passed, whole[None, :], rest[None, :], frame[None, :])
        parts = (frame, tl.sum(weight * value, 0), tl.sum(weight, 0))
        if PARTS == 5:
            parts = parts + (tl.sum(weight * value * passed, 0), tl.sum(weight * passed, 0))
        row = _row_of(side, b, chunk, tl.num_programs(1), channels, PARTS)
        _write(STATES, row, c, channels, ok, parts, PARTS)


@triton.jit
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
        sums, rows, theres = (), (), ()
        for i in tl.static_range(GROUP):
            chunk = first + i + backwards * (chunks - 1 - 2 * (first + i))
            there = ok & (c * 0 + first + i < chunks)
            row = _row_of(stored, b, chunk, chunks, channels, PARTS)
            sums = sums + (_read(STATES, row, c, channels, there, PARTS),)
            rows, theres = rows + (row,), theres + (there,)
        for i in tl.static_range(GROUP):
            _write(STATES, rows[i], c, channels, theres[i], state, PARTS)
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
def _weights(KEY, decay, bonus, place, before, after, L: tl.constexpr):
    """A chunk's frame, which is a whole number so that changing to it is exact; exp(-decay), exp(bonus), each exp(key)."""
    bits = ()
    for j in tl.static_range(L):
        bits = bits + (_row(KEY, j, place, float("-inf"))[0] * LOG2E,)
    most = bits[0]
    for j in tl.static_range(1, L):
        most = tl.maximum(most, bits[j])
    frame = tl.maximum(tl.floor(_clip(most, -NOTHING)), tl.maximum(before[0], after[0]))
    e = ()
    for j in tl.static_range(L):
        e = e + (tl.exp2(bits[j] - frame),)
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
def _pairs(bits, t, whole, rest, own, before, after, CAUSAL: tl.constexpr, L: tl.constexpr):
    """The frame of token t, its weights of the tokens of the chunk `[L, CB]`, of what comes before and of what comes after."""
    j = tl.arange(0, L)[:, None]
    heard = tl.where(j == t, bits + own[None, :], bits)
    if CAUSAL:
        heard = tl.where(j > t, float("-inf"), heard)
    passed = tl.where(j == t, 0, tl.abs(j - t) - 1).to(tl.float32)
    left, right, both = t * 1.0, (L - 1 - t) * 1.0, whole + rest
    around = tl.maximum(before[0] - left * both, after[0] - right * both)
    frame = tl.floor(tl.maximum(_clip(tl.max(heard - passed * both[None, :], 0), -NOTHING), around))
    weight = _weight(heard, passed, whole[None, :], rest[None, :], frame[None, :])
    return frame, weight, _weight(before[0], left, whole, rest, frame), _weight(after[0], right, whole, rest, frame)


@triton.jit
def mean(
    DECAY, BONUS, KEY, VALUE, STATES, OUT, tokens, channels, CAUSAL: tl.constexpr, L: tl.constexpr, CB: tl.constexpr
):
    """The result."""
    c, chunk, b = _place(CB, True)
    ok = c < channels
    decay, bonus = tl.load(DECAY + c, mask=ok, other=0.0), tl.load(BONUS + c, mask=ok, other=0.0)
    before, after = _around(STATES, b, chunk, tl.num_programs(1), c, channels, ok, 3, True, not CAUSAL)
    at = b.to(tl.int64) * tokens * channels
    if _steep(decay, L):
        bits = _tile(KEY + at, chunk, tokens, c, channels, ok, float("-inf"), L) * LOG2E
        value = _tile(VALUE + at, chunk, tokens, c, channels, ok, 0.0, L)
        _mean_by_pairs(decay, bonus, bits, value, OUT + at, before, after, chunk, tokens, c, channels, ok, CAUSAL, L)
    else:
        place = (chunk * L * channels + c, tl.where(ok, tokens - chunk * L, 0), channels)
        _mean_of_chunk(decay, bonus, KEY + at, VALUE + at, OUT + at, before, after, place, CAUSAL, L)


@triton.jit
def _mean_of_chunk(decay, bonus, KEY, VALUE, OUT, before, after, place, CAUSAL: tl.constexpr, L: tl.constexpr):
    values = ()
    for j in tl.static_range(L):
        values = values + (_row(VALUE, j, place, 0.0)[0],)
    frame, fade, own, e = _weights(KEY, decay, bonus, place, before, after, L)
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
        start, left, channels = place
        tl.store(OUT + start + j * channels, out.to(OUT.dtype.element_ty), mask=left > j)
        n, d = n * fade + x, d * fade + e[j]


@triton.jit
def _mean_by_pairs(
    decay, bonus, bits, value, OUT, before, after, chunk, tokens, c, channels, ok, CAUSAL: tl.constexpr, L: tl.constexpr
):
    whole, rest = _per_token(decay)
    for t in range(tl.minimum(L, tokens - chunk * L)):
        _, weight, left, right = _pairs(bits, t, whole, rest, bonus * LOG2E, before, after, CAUSAL, L)
        n = tl.sum(weight * value, 0) + (before[1] * left + after[1] * right)
        d = tl.sum(weight, 0) + (before[2] * left + after[2] * right)
        tl.store(OUT + (chunk * L + t) * channels + c, (n / d).to(OUT.dtype.element_ty), mask=ok)


@triton.jit
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
    chunks = tl.num_programs(1)
    ok = c < channels
    decay, bonus = tl.load(DECAY + c, mask=ok, other=0.0), tl.load(BONUS + c, mask=ok, other=0.0)
    before, after = _around(STATES, b, chunk, chunks, c, channels, ok, 5, True, not CAUSAL)
    at = b.to(tl.int64) * tokens * channels
    place = (chunk * L * channels + c, tl.where(ok, tokens - chunk * L, 0), channels)
    if _steep(decay, L):
        bits = _tile(KEY + at, chunk, tokens, c, channels, ok, float("-inf"), L) * LOG2E
        value = _tile(VALUE + at, chunk, tokens, c, channels, ok, 0.0, L)
        count = tl.minimum(L, tokens - chunk * L)
        gw, gu, ahead, back = _weigh_by_pairs(
            decay, bonus, bits, value, RESULT + at, GRAD + at, before, after, place, count, CAUSAL, L
        )
    else:
        gw, gu, ahead, back = _weigh_chunk(
            decay, bonus, KEY + at, VALUE + at, RESULT + at, GRAD + at, before, after, place, CAUSAL, L
        )
    if not CAUSAL:  # else nobody hears what comes after him, so nothing is told ahead
        _write(TOLD, _row_of(0, b, chunk, chunks, channels, 3), c, channels, ok, ahead, 3)
    _write(TOLD, _row_of(0 if CAUSAL else 1, b, chunk, chunks, channels, 3), c, channels, ok, back, 3)
    tl.store(GRADS + _row_of(0, b, chunk, chunks, channels, 1) + c, gw, mask=ok)
    tl.store(GRADS + _row_of(1, b, chunk, chunks, channels, 1) + c, gu, mask=ok)


@triton.jit
def _weigh_chunk(decay, bonus, KEY, VALUE, RESULT, GRAD, before, after, place, CAUSAL: tl.constexpr, L: tl.constexpr):
    frame, fade, own, e = _weights(KEY, decay, bonus, place, before, after, L)
    n, d = _into(frame, after)
    far_n, far_d = _far_into(frame, after)
    ds, fars = (), ()  # from the last token to the first: D, and the derivative of N - y D
    for j in tl.static_range(L - 1, -1, -1):
        y = _row(RESULT, j, place, 0.0)[0]
        ds, fars = ds + (d,), fars + (far_n - y * far_d,)
        if not CAUSAL:
            far_n, far_d = (far_n + n) * fade, (far_d + d) * fade
            n, d = n * fade + e[j] * _row(VALUE, j, place, 0.0)[0], d * fade + e[j]
    n, d = _into(frame, before)
    far_n, far_d = _far_into(frame, before)
    zero = decay * 0
    gw, gu, ahead_p, ahead_q, back_p, back_q, passed = zero, zero, zero, zero, zero, zero, zero + 1
    for j in tl.static_range(L):
        value, y, g = _row(VALUE, j, place, 0.0)[0], _row(RESULT, j, place, 0.0)[0], _row(GRAD, j, place, 0.0)[0]
        p = g / (d + (ds[L - 1 - j] + own * e[j]))
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
    decay, bonus, bits, value, RESULT, GRAD, before, after, place, count, CAUSAL: tl.constexpr, L: tl.constexpr
):
    whole, rest = _per_token(decay)
    j = tl.arange(0, L)[:, None]
    gw, gu = decay * 0, decay * 0
    ahead, back = _empty(decay, 3), _empty(decay, 3)
    for t in range(count):
        frame, weight, left, right = _pairs(bits, t, whole, rest, bonus * LOG2E, before, after, CAUSAL, L)
        y = _row(RESULT, t, place, 0.0)[0]
        p = _row(GRAD, t, place, 0.0)[0] / (tl.sum(weight, 0) + (before[2] * left + after[2] * right))
        share = weight * (value - y[None, :])
        gu += p * tl.sum(tl.where(j == t, share, 0.0), 0)
        far = tl.sum(tl.where(j == t, 0.0, share * (tl.abs(j - t) - 1)), 0)
        far += left * ((before[3] - y * before[4]) + t * (before[1] - y * before[2]))
        far += right * ((after[3] - y * after[4]) + (L - 1 - t) * (after[1] - y * after[2]))
        gw -= p * far
        ahead = _plus(ahead, -frame - (L - 1 - t) * (whole + rest), p, p * y)
        back = _plus(back, -frame - t * (whole + rest), p, p * y)
    return gw, gu, ahead, back


@triton.jit
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
    chunks = tl.num_programs(1)
    ok = c < channels
    decay, bonus = tl.load(DECAY + c, mask=ok, other=0.0), tl.load(BONUS + c, mask=ok, other=0.0)
    before, after = _around(STATES, b, chunk, chunks, c, channels, ok, 5, True, not CAUSAL)
    ahead, back = _around(TOLD, b, chunk, chunks, c, channels, ok, 3, not CAUSAL, True)
    at = b.to(tl.int64) * tokens * channels
    place = (chunk * L * channels + c, tl.where(ok, tokens - chunk * L, 0), channels)
    if _steep(decay, L):
        bits = _tile(KEY + at, chunk, tokens, c, channels, ok, float("-inf"), L) * LOG2E
        p, q = _gather_by_pairs(
            decay,
            bonus,
            bits,
            RESULT + at,
            GRAD + at,
            before,
            after,
            ahead,
            back,
            place,
            tl.minimum(L, tokens - chunk * L),
            CAUSAL,
            L,
        )
        value = _tile(VALUE + at, chunk, tokens, c, channels, ok, 0.0, L)
        here = (chunk * L + tl.arange(0, L))[:, None] * channels + c[None, :]
        inside = ok[None, :] & (here < tokens * channels)
        tl.store(GVALUE + at + here, p.to(GVALUE.dtype.element_ty), mask=inside)
        tl.store(GKEY + at + here, (value * p - q).to(GKEY.dtype.element_ty), mask=inside)
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
            place,
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
    place,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
):
    frame, fade, own, e = _weights(KEY, decay, bonus, place, before, after, L)
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
        p = p + (_row(GRAD, j, place, 0.0)[0] * by / (d + (ds[L - 1 - j] + own * e[j])),)
        d = d * fade + e[j]
    sum_p, sum_q = _into(told, back)
    ps, qs = (), ()  # from the last token to the first
    for j in tl.static_range(L - 1, -1, -1):
        q = p[j] * _row(RESULT, j, place, 0.0)[0]
        ps, qs = ps + (sum_p + own * p[j],), qs + (sum_q + own * q,)
        sum_p, sum_q = sum_p * fade + p[j], sum_q * fade + q
    sum_p, sum_q = _into(told, ahead)
    for j in tl.static_range(L):
        key, at, inside = _row(KEY, j, place, float("-inf"))
        weight = tl.exp2(key * LOG2E + told)
        all_p, all_q = ps[L - 1 - j], qs[L - 1 - j]
        if not CAUSAL:
            all_p, all_q = all_p + sum_p, all_q + sum_q
            sum_p, sum_q = sum_p * fade + p[j], sum_q * fade + p[j] * _row(RESULT, j, place, 0.0)[0]
        gk = weight * (_row(VALUE, j, place, 0.0)[0] * all_p - all_q)
        tl.store(GVALUE + at, (weight * all_p).to(GVALUE.dtype.element_ty), mask=inside)
        tl.store(GKEY + at, gk.to(GKEY.dtype.element_ty), mask=inside)


@triton.jit
def _gather_by_pairs(
    decay,
    bonus,
    bits,
    RESULT,
    GRAD,
    before,
    after,
    ahead,
    back,
    place,
    count,
    CAUSAL: tl.constexpr,
    L: tl.constexpr,
):
    """exp(key) P and exp(key) Q of a chunk. Within it they are sums of shares of the whole, which need no frame."""
    whole, rest = _per_token(decay)
    j = tl.arange(0, L)[:, None]
    far = _weight(ahead[0][None, :] + bits, j.to(tl.float32), whole[None, :], rest[None, :], 0.0)
    near = _weight(back[0][None, :] + bits, (L - 1 - j).to(tl.float32), whole[None, :], rest[None, :], 0.0)
    p = far * ahead[1][None, :] + near * back[1][None, :]
    q = far * ahead[2][None, :] + near * back[2][None, :]
    for t in range(count):
        _, weight, left, right = _pairs(bits, t, whole, rest, bonus * LOG2E, before, after, CAUSAL, L)
        g = _row(GRAD, t, place, 0.0)[0] / (tl.sum(weight, 0) + (before[2] * left + after[2] * right))
        p += weight * g[None, :]
        q += weight * (g * _row(RESULT, t, place, 0.0)[0])[None, :]
    return p, q


def _sums(decay: Tensor, key: Tensor, value: Tensor, parts: int, sides: int) -> Tensor:
    """What reaches each chunk from before it and, with two sides, from after it: `[sides, B, chunks, parts, C]`."""
    batch, tokens, channels = key.shape
    chunks, blocks = triton.cdiv(tokens, CHUNK), triton.cdiv(channels, OPTIONS["CB"])
    states = key.new_empty(sides, batch, chunks, parts, channels, dtype=torch.float32)
    fold[blocks, chunks, batch](decay, key, value, states, tokens, channels, PARTS=parts, SIDES=sides, **OPTIONS)
    carry[blocks, sides, batch](decay, states, chunks, channels, PARTS=parts, FIRST=0, SIGNED=False, **OPTIONS)
    return states


def wkv_cuda(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """`[B, T, C]` in the type of `value`; `decay [C]`, `bonus [C]` in float32. Three launches."""
    w, u, k, v = (each.contiguous() for each in (decay, bonus, key, value))
    batch, tokens, channels = k.shape
    out = torch.empty_like(v)
    if not out.numel():
        return out
    with torch.cuda.device_of(k):
        states = _sums(w, k, v, 3, 1 if causal else 2)
        grid = triton.cdiv(channels, OPTIONS["CB"]), triton.cdiv(tokens, CHUNK), batch
        mean[grid](w, u, k, v, states, out, tokens, channels, CAUSAL=causal, **OPTIONS)
    return out


def wkv_grad_cuda(
    decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, out: Tensor, grad: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of decay, bonus, key and value for `grad`, that of `out`. Five launches and two sums over chunks."""
    w, u, k, v, y, g = (each.contiguous() for each in (decay, bonus, key, value, out, grad))
    batch, tokens, channels = k.shape
    gk, gv = torch.empty_like(k), torch.empty_like(v)
    if not gk.numel():
        return torch.zeros_like(w), torch.zeros_like(u), gk, gv
    chunks, blocks, sides = triton.cdiv(tokens, CHUNK), triton.cdiv(channels, OPTIONS["CB"]), 1 if causal else 2
    shares, told = w.new_empty(2, batch * chunks, channels), w.new_empty(sides, batch, chunks, 3, channels)
    with torch.cuda.device_of(k):
        states = _sums(w, k, v, 5, sides)
        grid, size = (blocks, chunks, batch), {"tokens": tokens, "channels": channels, "CAUSAL": causal, **OPTIONS}
        weigh[grid](w, u, k, v, y, g, states, told, shares, **size)
        first = 1 if causal else 0  # what is told goes the other way than what is heard
        carry[blocks, sides, batch](w, told, chunks, channels, PARTS=3, FIRST=first, SIGNED=True, **OPTIONS)
        gather[grid](w, u, k, v, y, g, states, told, gk, gv, **size)
    gw, gu = shares.sum(1)
    return gw, gu, gk, gv
