// wkv: every token hears all others, weighted by their keys and by a decay with the distance.
//
//   y_t = sum_i weight(t, i) v_i / sum_i weight(t, i)
//   weight(t, i) = exp(k_i - (|t - i| - 1) w) for i != t, exp(k_t + u) for i = t
//
// Numerator and denominator are two recurrences from the left and two from the right. Blocks of tokens are worked on in a
// common frame: everything in it is a multiple of 2^frame, and frames are whole numbers, so changing frames is exact. That
// keeps all numbers within float32 whatever keys and decays are. exp(-w) is a sum of two float32: rounded to one and raised
// to the power T it would be off by T roundings. For the same reason a state crosses a block in one multiplication, beside
// sums that begin with nothing: a w so small that it changes a state by less than its last bit would be lost at every token.
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
constexpr float ROOM = 58.0f;        // bits that a state may grow or shrink between two frames
constexpr float RANGE = 60.0f;       // by how much keys may differ between two frames where only earlier ones are heard
constexpr float STEEPEST = 400.0f;   // decay per token beyond which the next but one is nothing, or all there is
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

// What a vector of channels does from token to token: exp(-w) is (fade + rest) 2^shift. `shift` is 0 where w is gentle.
struct Rates {
  Vec fade{}, rest{}, shift{}, own{};
  Vec block{}, block_rest{};  // exp(-BLOCK w), where w is gentle
  bool gentle = true;  // a block can be worked on in one frame

  void set(const float* decay, const float* bonus, long count) {
    float bits = 0;
    for (long i = 0; i < count; ++i) bits = std::max(bits, std::fabs(decay[i]) * LOG2E);
    gentle = bits * BLOCK <= ROOM;
    for (long i = 0; i < LANES; ++i) {
      const double w = i < count ? std::min(std::max(decay[i], -STEEPEST), STEEPEST) : 0.0f;
      shift[i] = gentle ? 0.0f : float(std::rint(-w * double(LOG2E)));
      const double exact = std::exp(-w - shift[i] * 0.69314718055994531);
      fade[i] = i < count && std::isnan(decay[i]) ? decay[i] : float(exact), rest[i] = float(exact - fade[i]);
      const double whole_block = gentle ? std::exp(-w * BLOCK) : 0.0;
      block[i] = float(whole_block), block_rest[i] = float(whole_block - block[i]);
      own[i] = i < count ? std::exp(std::min(std::max(bonus[i], -80.0f), 80.0f)) : 1.0f;  // exp(u)
    }
  }
  Vec next(Vec state, Vec x) const { return state * fade + (state * rest + x); }
  Vec across(Vec state, Vec sum) const { return state * block + (state * block_rest + sum); }
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

// Whether keys differ so much within a block that earlier ones vanish beside later ones, which `causal` must not hear.
template <class T>
inline bool wide(const T* key, long tokens, long stride, long count) {
  for (long start = 0; start < tokens; start += BLOCK) {
    Vec low = load_as(key + start * stride, count), high = low;
    for (long t = start + 1; t < std::min(tokens, start + BLOCK); ++t) {
      const Vec k = load_as(key + t * stride, count);
      low = min(k, low), high = max(k, high);
    }
    for (long i = 0; i < std::min(count, LANES); ++i) {
      if (high[i] - low[i] > RANGE) return true;
    }
  }
  return false;
}

// COUNT vectors of channels with gentle decays, all of them FULL or the last one not.
template <int COUNT, bool FULL, class T>
void wkv_channels(const Rates* rates, const T* key, const T* value, T* out, long tokens, long stride, long channels, bool causal) {
  Vec E[BLOCK][COUNT], X[BLOCK][COUNT], N[BLOCK][COUNT], D[BLOCK][COUNT];
  long counts[COUNT];
  State right[COUNT], left[COUNT];
  for (int g = 0; g < COUNT; ++g) {
    counts[g] = channels - g * LANES;
    right[g] = left[g] = State::empty();
  }
  const long blocks = (tokens + BLOCK - 1) / BLOCK;

  for (long b = blocks - 1; b > 0 && !causal; --b) {
    const long start = b * BLOCK, end = std::min(tokens, start + BLOCK);
    EVERY(g, COUNT) {
      const T *k = key + g * LANES, *v = value + g * LANES;
      State s = right[g];
      s.into(max(s.frame, frame_of<FULL>(k, stride, start, end, counts[g])));
      Vec n{}, d{};
      for (long t = end - 1; t >= start; --t) {
        const Vec e = exp2_small(load_as<FULL>(k + t * stride, counts[g]) * LOG2E - s.frame);
        n = rates[g].next(n, e * load_as<FULL>(v + t * stride, counts[g]));
        d = rates[g].next(d, e);
      }
      s.n = rates[g].across(s.n, n), s.d = rates[g].across(s.d, d);  // the last block may be shorter, but s is nothing there
      s.normalise();
      right[g] = s;
    }
    for (int g = 0; g < COUNT; ++g) keep(out + (start - BLOCK) * stride + g * LANES, stride, right[g], counts[g]);
  }

  for (long b = 0; b < blocks; ++b) {
    const long start = b * BLOCK, end = std::min(tokens, start + BLOCK);
    Vec n[COUNT], d[COUNT], passed[COUNT], keys[COUNT], by[COUNT], own[COUNT], behind[COUNT], ahead[COUNT];
    EVERY(g, COUNT) {
      right[g] = causal || b == blocks - 1 ? State::empty() : kept(out + start * stride + g * LANES, stride, counts[g]);
      keys[g] = frame_of<FULL>(key + g * LANES, stride, start, end, counts[g]);
      right[g].into(max(right[g].frame, keys[g]));
      n[g] = right[g].n, d[g] = right[g].d, by[g] = power(keys[g] - right[g].frame);
    }
    for (long t = end - 1; t >= start; --t) {  // from the right, every state kept
      EVERY(g, COUNT) {
        const Vec e = exp2_small(load_as<FULL>(key + t * stride + g * LANES, counts[g]) * LOG2E - keys[g]);
        const Vec x = e * load_as<FULL>(value + t * stride + g * LANES, counts[g]);
        E[t - start][g] = e, X[t - start][g] = x, N[t - start][g] = n[g], D[t - start][g] = d[g];
        if (!causal) n[g] = rates[g].next(n[g], x * by[g]), d[g] = rates[g].next(d[g], e * by[g]);
      }
    }
    EVERY(g, COUNT) {
      left[g].into(max(left[g].frame, keys[g]));
      n[g] = d[g] = Vec{}, passed[g] = fill(1.0f), by[g] = power(keys[g] - left[g].frame);
      const Vec all = max(left[g].frame, right[g].frame);
      behind[g] = power(left[g].frame - all), ahead[g] = power(right[g].frame - all), own[g] = rates[g].own * power(keys[g] - all);
    }
    for (long t = start; t < end; ++t) {  // from the left
      EVERY(g, COUNT) {
        const Vec e = E[t - start][g], x = X[t - start][g];
        const Vec num = (n[g] + left[g].n * passed[g]) * behind[g] + (N[t - start][g] * ahead[g] + own[g] * x);
        const Vec den = (d[g] + left[g].d * passed[g]) * behind[g] + (D[t - start][g] * ahead[g] + own[g] * e);
        store_as<FULL>(out + t * stride + g * LANES, num / den, counts[g]);
        n[g] = rates[g].next(n[g], x * by[g]), d[g] = rates[g].next(d[g], e * by[g]), passed[g] = rates[g].next(passed[g], Vec{});
      }
    }
    for (int g = 0; g < COUNT; ++g) left[g].n = rates[g].across(left[g].n, n[g]), left[g].d = rates[g].across(left[g].d, d[g]), left[g].normalise();
  }
}

// A state, one token further: every token has a frame of its own, so any decay and any keys will do.
inline void advance(State& s, const Rates& rates, Vec e, Vec x, Vec frame) {
  s.n = s.n * rates.fade + s.n * rates.rest, s.d = s.d * rates.fade + s.d * rates.rest, s.frame += rates.shift;
  s.into(max(s.frame, frame));
  const Vec by = power(frame - s.frame);
  s.n += x * by, s.d += e * by;
  s.normalise();
}

// One vector of channels, the slow way.
template <class T>
void wkv_steep(const Rates& rates, const T* key, const T* value, T* out, long tokens, long stride, long count, bool causal) {
  const auto term = [&](long t, Vec& e, Vec& x, Vec& frame) {
    const Vec bits = load_as(key + t * stride, count) * LOG2E;
    frame = whole(bits), e = exp2_small(bits - frame), x = e * load_as(value + t * stride, count);
  };
  Vec e, x, frame;
  State right[BLOCK], s = State::empty();
  const long blocks = (tokens + BLOCK - 1) / BLOCK;
  for (long b = blocks - 1; b > 0 && !causal; --b) {
    for (long t = std::min(tokens, (b + 1) * BLOCK) - 1; t >= b * BLOCK; --t) term(t, e, x, frame), advance(s, rates, e, x, frame);
    keep(out + (b - 1) * BLOCK * stride, stride, s, count);
  }
  State left = State::empty();
  for (long b = 0; b < blocks; ++b) {
    const long start = b * BLOCK, end = std::min(tokens, start + BLOCK);
    s = causal || b == blocks - 1 ? State::empty() : kept(out + start * stride, stride, count);
    for (long t = end - 1; t >= start; --t) {
      right[t - start] = s;
      if (!causal) term(t, e, x, frame), advance(s, rates, e, x, frame);
    }
    for (long t = start; t < end; ++t) {
      term(t, e, x, frame);
      const State& r = right[t - start];
      const Vec all = max(frame, max(left.frame, r.frame));
      const Vec behind = power(left.frame - all), ahead = power(r.frame - all), own = rates.own * power(frame - all);
      const Vec num = left.n * behind + (r.n * ahead + own * x), den = left.d * behind + (r.d * ahead + own * e);
      store_as(out + t * stride, num / den, count);
      advance(left, rates, e, x, frame);
    }
  }
}

// decay [C], bonus [C] per token, key and value [B, T, C] to out [B, T, C]; `causal` hears only what came before.
template <class T, class Each>
void wkv(const float* decay, const float* bonus, const T* key, const T* value, T* out, long batch, long tokens, long channels, bool causal, const Each& each) {
  const long group = WIDE * LANES, groups = (channels + group - 1) / group;
  each(batch * groups, [&](long item) {
    const long first = item % groups * group, start = item / groups * tokens * channels;
    Rates rates[WIDE];
    bool fast = first + group <= channels;
    for (int g = 0; g < WIDE && first + g * LANES < channels; ++g) {
      const long c = first + g * LANES, count = std::min(LANES, channels - c);
      rates[g].set(decay + c, bonus + c, count);
      rates[g].gentle = rates[g].gentle && !(causal && wide(key + start + c, tokens, channels, count));
      fast = fast && rates[g].gentle;
    }
    if (fast) {
      const long at = start + first;
      wkv_channels<WIDE, true>(rates, key + at, value + at, out + at, tokens, channels, group, causal);
      return;
    }
    for (int g = 0; g < WIDE && first + g * LANES < channels; ++g) {
      const long c = first + g * LANES, at = start + c, count = channels - c;
      if (rates[g].gentle) wkv_channels<1, false>(rates + g, key + at, value + at, out + at, tokens, channels, count, causal);
      else wkv_steep(rates[g], key + at, value + at, out + at, tokens, channels, count, causal);
    }
  });
}

}  // namespace edgeseg
