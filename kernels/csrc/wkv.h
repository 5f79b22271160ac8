// wkv: every token hears all others, weighted by their keys and by a decay with the distance.
//
//   y_t = sum_i weight(t, i) v_i / sum_i weight(t, i)
//   weight(t, i) = exp(k_i - (|t - i| - 1) w) for i != t, exp(k_t + u) for i = t
//
// Numerator and denominator are two recurrences from the left and two from the right. Blocks of tokens are worked on in a
// common frame: everything in it is a multiple of 2^frame, and frames are whole numbers, so changing frames is exact. That
// keeps all numbers within float32 whatever keys and decays are. exp(-w) is a sum of two float32: rounded to one and raised
// to the power T it would be off by T roundings.
//
// The way from the right is walked twice: once to learn the state at the end of each block, which is kept where the
// block's results will be written, and again inside each block. So nothing but the tensors takes memory with T.
#pragma once

#include <algorithm>
#include <cmath>

#include "vec.h"

namespace edgeseg {

constexpr long BLOCK = 64;           // tokens whose backward states fit the first cache
constexpr int WIDE = 4;              // vectors of channels that are worked on together: one's additions hide the others'
constexpr float LOG2E = 1.44269504f;
constexpr float STEEPEST = 83.0f;    // decay per token beyond which the next but one is nothing, or all there is
constexpr float ROOM = 58.0f;        // bits that a state may grow or shrink between two frames
constexpr float NOTHING = -1e9f;     // frame of an empty state

// A loop that must be unrolled, or what is indexed by it lives in memory instead of registers.
#define EVERY(g, count) _Pragma("GCC unroll 4") for (int g = 0; g < (count); ++g)

struct State {
  Vec n, d, frame;

  static State empty() { return {Vec{}, Vec{}, fill(NOTHING)}; }
  void into(Vec other) {
    const Vec by = power(frame - other);
    n *= by, d *= by, frame = other;
  }
  void normalise() {  // d into 1..2
    const Vec by = exponent(d), back = power(-by);
    n *= back, d *= back, frame += by;
  }
};

// What a vector of channels does from token to token.
struct Rates {
  Vec fade{}, rest{}, own{};  // exp(-w) and what float32 leaves of it, exp(u)
  long step = BLOCK;  // tokens that may pass between two frames

  void set(const float* decay, const float* bonus, long count) {
    float bits = 0;
    for (long i = 0; i < LANES; ++i) {
      const float w = i < count ? std::min(std::max(decay[i], -STEEPEST), STEEPEST) : 0.0f;
      const double exact = std::exp(-double(w));
      fade[i] = i < count && std::isnan(decay[i]) ? decay[i] : float(exact), rest[i] = float(exact - fade[i]);
      own[i] = i < count ? std::exp(std::min(std::max(bonus[i], -80.0f), 80.0f)) : 1.0f;
      bits = std::max(bits, std::fabs(w) * LOG2E);
    }
    step = bits * BLOCK <= ROOM ? BLOCK : std::max(1L, long(ROOM / bits));
  }
  Vec next(Vec state, Vec x) const { return state * fade + (state * rest + x); }
};

// Three vectors kept in rows of the output that are not written yet; a float16 row holds half of one.
inline void keep(float* rows, long stride, const State& s, long count) {
  store_as(rows, s.n, count), store_as(rows + stride, s.d, count), store_as(rows + 2 * stride, s.frame, count);
}
inline State kept(const float* rows, long stride, long count) {
  return {load_as(rows, count), load_as(rows + stride, count), load_as(rows + 2 * stride, count)};
}
template <class T>
inline void keep(T* rows, long stride, const State& s, long count) {
  const Vec parts[3] = {s.n, s.d, s.frame};
  const size_t bytes = std::min(count, LANES) * sizeof(T);
  for (int i = 0; i < 3; ++i) {
    const Halves low = __builtin_convertvector((Int)parts[i], Halves), high = __builtin_convertvector((Int)parts[i] >> 16, Halves);
    std::memcpy(rows + 2 * i * stride, &low, bytes), std::memcpy(rows + (2 * i + 1) * stride, &high, bytes);
  }
}
template <class T>
inline State kept(const T* rows, long stride, long count) {
  Vec parts[3];
  const size_t bytes = std::min(count, LANES) * sizeof(T);
  for (int i = 0; i < 3; ++i) {
    Halves low = {}, high = {};
    std::memcpy(&low, rows + 2 * i * stride, bytes), std::memcpy(&high, rows + (2 * i + 1) * stride, bytes);
    parts[i] = (Vec)(__builtin_convertvector(low, Int) | (__builtin_convertvector(high, Int) << 16));
  }
  return {parts[0], parts[1], parts[2]};
}

// A frame for tokens `from` to `until`: the largest key, in bits.
template <bool FULL, class T>
inline Vec frame_of(const T* key, long stride, long from, long until, long count) {
  Vec most = fill(NOTHING);
  for (long t = from; t < until; ++t) most = max(load_as<FULL>(key + t * stride, count), most);
  return whole(most * LOG2E);
}

struct Frames {  // of some tokens' keys, and of what is right of them
  Vec keys, right;
};

// COUNT vectors of channels, all of them FULL or the last one not.
template <int COUNT, bool FULL, class T>
void wkv_channels(const float* decay, const float* bonus, const T* key, const T* value, T* out, long tokens, long stride, long channels, bool causal) {
  Vec E[BLOCK][COUNT], X[BLOCK][COUNT], N[BLOCK][COUNT], D[BLOCK][COUNT];
  Frames frames[BLOCK][COUNT];
  Rates rates[COUNT];
  long step = BLOCK, counts[COUNT];
  EVERY(g, COUNT) {
    counts[g] = channels - g * LANES;
    rates[g].set(decay + g * LANES, bonus + g * LANES, std::min(counts[g], LANES));
    step = std::min(step, rates[g].step);
  }
  State right[COUNT], left[COUNT];
  for (int g = 0; g < COUNT; ++g) right[g] = left[g] = State::empty();
  const long blocks = (tokens + BLOCK - 1) / BLOCK;

  for (long b = blocks - 1; b > 0 && !causal; --b) {
    for (long until = std::min(tokens, (b + 1) * BLOCK); until > b * BLOCK; until -= step) {
      const long from = std::max(b * BLOCK, until - step);
      EVERY(g, COUNT) {
        const T *k = key + g * LANES, *v = value + g * LANES;
        State s = right[g];
        s.into(max(s.frame, frame_of<FULL>(k, stride, from, until, counts[g])));
        for (long t = until - 1; t >= from; --t) {
          const Vec e = exp2(load_as<FULL>(k + t * stride, counts[g]) * LOG2E - s.frame);
          s.n = rates[g].next(s.n, e * load_as<FULL>(v + t * stride, counts[g]));
          s.d = rates[g].next(s.d, e);
        }
        s.normalise();
        right[g] = s;
      }
    }
    for (int g = 0; g < COUNT; ++g) keep(out + (b - 1) * BLOCK * stride + g * LANES, stride, right[g], counts[g]);
  }

  for (long b = 0; b < blocks; ++b) {
    const long start = b * BLOCK, end = std::min(tokens, start + BLOCK);
    EVERY(g, COUNT) {
      right[g] = causal || b == blocks - 1 ? State::empty() : kept(out + start * stride + g * LANES, stride, counts[g]);
    }
    for (long until = end; until > start; until -= step) {  // from the right, every state kept
      const long from = std::max(start, until - step);
      Vec n[COUNT], d[COUNT], frame[COUNT], by[COUNT];
      EVERY(g, COUNT) {
        frame[g] = frames[from - start][g].keys = frame_of<FULL>(key + g * LANES, stride, from, until, counts[g]);
        right[g].into(max(right[g].frame, frame[g]));
        n[g] = right[g].n, d[g] = right[g].d, by[g] = power(frame[g] - right[g].frame);
        frames[from - start][g].right = right[g].frame;
      }
      for (long t = until - 1; t >= from; --t) {
        EVERY(g, COUNT) {
          const Vec e = exp2(load_as<FULL>(key + t * stride + g * LANES, counts[g]) * LOG2E - frame[g]);
          const Vec x = e * load_as<FULL>(value + t * stride + g * LANES, counts[g]);
          E[t - start][g] = e, X[t - start][g] = x, N[t - start][g] = n[g], D[t - start][g] = d[g];
          if (!causal) n[g] = rates[g].next(n[g], x * by[g]), d[g] = rates[g].next(d[g], e * by[g]);
        }
      }
      EVERY(g, COUNT) {
        right[g].n = n[g], right[g].d = d[g];
        if (!causal) right[g].normalise();
      }
    }
    for (long span = (end - start - 1) / step; span >= 0; --span) {  // from the left, over the same spans
      const long from = std::max(start, end - (span + 1) * step), until = end - span * step;
      Vec n[COUNT], d[COUNT], by[COUNT], own[COUNT], behind[COUNT], ahead[COUNT];
      EVERY(g, COUNT) {
        const Frames& at = frames[from - start][g];
        left[g].into(max(left[g].frame, at.keys));
        n[g] = left[g].n, d[g] = left[g].d, by[g] = power(at.keys - left[g].frame);
        const Vec all = max(left[g].frame, at.right);
        behind[g] = power(left[g].frame - all), ahead[g] = power(at.right - all), own[g] = rates[g].own * power(at.keys - all);
      }
      for (long t = from; t < until; ++t) {
        EVERY(g, COUNT) {
          const Vec e = E[t - start][g], x = X[t - start][g];
          const Vec num = n[g] * behind[g] + (N[t - start][g] * ahead[g] + own[g] * x);
          const Vec den = d[g] * behind[g] + (D[t - start][g] * ahead[g] + own[g] * e);
          store_as<FULL>(out + t * stride + g * LANES, num / den, counts[g]);
          n[g] = rates[g].next(n[g], x * by[g]), d[g] = rates[g].next(d[g], e * by[g]);
        }
      }
      for (int g = 0; g < COUNT; ++g) left[g].n = n[g], left[g].d = d[g], left[g].normalise();
    }
  }
}

// decay [C], bonus [C] per token, key and value [B, T, C] to out [B, T, C]; `causal` hears only what came before.
template <class T, class Each>
void wkv(const float* decay, const float* bonus, const T* key, const T* value, T* out, long batch, long tokens, long channels, bool causal, const Each& each) {
  const long group = WIDE * LANES, groups = (channels + group - 1) / group;
  each(batch * groups, [&](long item) {
    const long first = item % groups * group, start = item / groups * tokens * channels;
    if (first + group <= channels) {
      const long at = start + first;
      wkv_channels<WIDE, true>(decay + first, bonus + first, key + at, value + at, out + at, tokens, channels, group, causal);
      return;
    }
    for (long c = first; c < channels; c += LANES) {
      wkv_channels<1, false>(decay + c, bonus + c, key + start + c, value + start + c, out + start + c, tokens, channels, channels - c, causal);
    }
  });
}

}  // namespace edgeseg
