// The gradients of wkv. With D the denominator and y the output, and K the sums of `wkv.h` over any values,
//
//   P = K(gy / D), Q = K(gy y / D)
//   gv_i = exp(k_i) P_i,  gk_i = exp(k_i) (v_i P_i - Q_i)
//   gu = sum_t gy_t exp(k_t + u) / D_t (v_t - y_t)
//   gw = -sum_t gy_t / D_t (N'_t - y_t D'_t),  N' and D' the sums of N and D with each term times |t - i| - 1
//
// because K is symmetric. Everything is computed anew from the inputs and y: nothing else is kept from the forward pass.
#pragma once

#include <utility>
#include <vector>

#include "wkv.h"

namespace edgeseg {

// A recurrence with its derivative by the decay: `far` sums each term times the tokens it has passed.
struct Slope {
  Vec s, far;

  void next(const Rates& rates, Vec x) {
    const Vec both = far + s;
    far = both * rates.fade + both * rates.rest;
    s = rates.next(s, x);
  }
};

struct Slopes {
  Slope n{}, d{};
  Vec frame = fill(NOTHING);

  void into(Vec other) {
    const Vec by = power(frame - other);
    n.s *= by, n.far *= by, d.s *= by, d.far *= by, frame = other;
  }
  void normalise() {
    const Vec by = exponent(d.s), back = power(-by);
    n.s *= back, n.far *= back, d.s *= back, d.far *= back, frame += by;
  }
};

// The tokens between two changes of frame, `[from, until)`, in order.
struct Span {
  long from, until;
};
inline std::vector<Span> spans(long tokens, long step) {
  std::vector<Span> made;
  for (long from = 0; from < tokens; from += step) made.push_back({from, std::min(tokens, from + step)});
  return made;
}

// A sequence of one vector of channels.
struct Channel {
  const float *key, *value, *out, *grad;
  float *gk, *gv;
  long tokens, stride, count;

  Vec at(const float* rows, long t) const { return load_as(rows + t * stride, count); }
  Vec bits(long t) const { return at(key, t) * LOG2E; }
};

// What the gradients of `key` and `value` need of each token: gy / D and that times y, multiples of 2^frame of its span.
struct Told {
  std::vector<Vec> p, q, frames;
};

// D and y's derivatives by decay and bonus, walking as `wkv_channels` does; adds to `gw` and `gu`.
inline Told weigh(const Rates& rates, const Channel& c, const std::vector<Span>& parts, bool causal, Vec& gw, Vec& gu) {
  std::vector<Slopes> right(parts.size()), ahead(parts[0].until);
  std::vector<Vec> keys(parts.size()), E(parts[0].until);
  Told told{std::vector<Vec>(c.tokens), std::vector<Vec>(c.tokens), std::vector<Vec>(parts.size())};
  Slopes s;
  for (long i = parts.size() - 1; i >= 0; --i) {
    right[i] = s, keys[i] = frame_of<false>(c.key, c.stride, parts[i].from, parts[i].until, c.count);
    if (causal) continue;
    s.into(max(s.frame, keys[i]));
    for (long t = parts[i].until - 1; t >= parts[i].from; --t) {
      const Vec e = exp2(c.bits(t) - s.frame);
      s.n.next(rates, e * c.at(c.value, t)), s.d.next(rates, e);
    }
    s.normalise();
  }
  s = Slopes();
  for (size_t i = 0; i < parts.size(); ++i) {
    s.into(max(s.frame, keys[i])), right[i].into(max(right[i].frame, keys[i]));
    const Vec all = max(s.frame, right[i].frame), to_left = power(keys[i] - s.frame), to_right = power(keys[i] - right[i].frame);
    const Vec of_left = power(s.frame - all), of_right = power(right[i].frame - all), own = rates.own * power(keys[i] - all);
    told.frames[i] = -all;
    for (long t = parts[i].until - 1; t >= parts[i].from; --t) {
      const long k = t - parts[i].from;
      ahead[k] = right[i], E[k] = exp2(c.bits(t) - keys[i]);
      if (!causal) right[i].n.next(rates, E[k] * to_right * c.at(c.value, t)), right[i].d.next(rates, E[k] * to_right);
    }
    for (long t = parts[i].from; t < parts[i].until; ++t) {
      const Slopes& other = ahead[t - parts[i].from];
      const Vec e = E[t - parts[i].from], v = c.at(c.value, t), y = c.at(c.out, t);
      const Vec p = c.at(c.grad, t) / (s.d.s * of_left + (other.d.s * of_right + own * e));
      told.p[t] = p, told.q[t] = p * y;
      gu += p * own * e * (v - y);
      gw -= p * ((s.n.far - y * s.d.far) * of_left + (other.n.far - y * other.d.far) * of_right);
      s.n.next(rates, e * to_left * v), s.d.next(rates, e * to_left);
    }
    s.normalise();
  }
  return told;
}

// P and Q have signs: the larger of both is brought to about 1.
inline void settle(State& s) {
  const Vec n = s.n < 0.0f ? -s.n : s.n, d = s.d < 0.0f ? -s.d : s.d, most = max(n, d);
  const Vec by = most > 0.0f ? exponent(most) : Vec{}, back = power(-by);
  s.n *= back, s.d *= back, s.frame += by;
}

// The same sums over what was told; what a token heard from its left it now says to its left.
inline void gather(const Rates& rates, const Channel& c, const std::vector<Span>& parts, bool causal, const Told& told) {
  std::vector<State> right(parts.size()), ahead(parts[0].until);
  State s = State::empty();
  for (long i = parts.size() - 1; i >= 0; --i) {
    right[i] = s;
    s.into(max(s.frame, told.frames[i]));
    const Vec by = power(told.frames[i] - s.frame);
    for (long t = parts[i].until - 1; t >= parts[i].from; --t) s.n = rates.next(s.n, told.p[t] * by), s.d = rates.next(s.d, told.q[t] * by);
    settle(s);
  }
  s = State::empty();
  for (size_t i = 0; i < parts.size(); ++i) {
    State& r = right[i];
    s.into(max(s.frame, told.frames[i])), r.into(max(r.frame, told.frames[i]));
    const Vec all = causal ? r.frame : max(s.frame, r.frame);
    const Vec to_left = power(told.frames[i] - s.frame), to_right = power(told.frames[i] - r.frame);
    const Vec of_left = power(s.frame - all), of_right = power(r.frame - all), own = rates.own * power(told.frames[i] - all);
    for (long t = parts[i].until - 1; t >= parts[i].from; --t) {
      ahead[t - parts[i].from] = r;
      r.n = rates.next(r.n, told.p[t] * to_right), r.d = rates.next(r.d, told.q[t] * to_right);
    }
    for (long t = parts[i].from; t < parts[i].until; ++t) {
      const State& other = ahead[t - parts[i].from];
      Vec p = own * told.p[t] + other.n * of_right, q = own * told.q[t] + other.d * of_right;
      if (!causal) p += s.n * of_left, q += s.d * of_left;
      const Vec e = exp2(c.bits(t) + all);
      store_as(c.gv + t * c.stride, e * p, c.count);
      store_as(c.gk + t * c.stride, e * (c.at(c.value, t) * p - q), c.count);
      s.n = rates.next(s.n, told.p[t] * to_left), s.d = rates.next(s.d, told.q[t] * to_left);
    }
    settle(s);
  }
}

// The rates and how many tokens may pass between two frames. Here exp(-w) is never split: beyond 83 per token its gradient
// is that of 83, where all but the nearest tokens have vanished, or all but the farthest.
inline std::pair<Rates, long> rates_and_step(const float* decay, const float* bonus, const float* key, long batch, long tokens, long channels, long count, bool causal) {
  std::vector<float> bounded(count);
  float bits = 0;
  for (long i = 0; i < count; ++i) {
    bounded[i] = std::min(std::max(decay[i], -83.0f), 83.0f);
    bits = std::max(bits, std::fabs(bounded[i]) * LOG2E);
  }
  Rates rates;
  rates.set(bounded.data(), bonus, count);
  for (long i = 0; i < count; ++i) {
    const double exact = std::exp(-double(bounded[i]));
    rates.fade[i] = float(exact), rates.rest[i] = float(exact - rates.fade[i]);
  }
  long step = bits * BLOCK <= ROOM ? BLOCK : std::max(1L, long(ROOM / bits));
  for (long b = 0; b < batch && causal && step > 1; ++b) step = wide(key + b * tokens * channels, tokens, channels, count) ? 1 : step;
  return {rates, step};
}

// grad [B, T, C] of out to gw [C], gu [C], gk [B, T, C], gv [B, T, C].
template <class Each>
void wkv_grad(const float* decay, const float* bonus, const float* key, const float* value, const float* out, const float* grad, float* gw, float* gu, float* gk, float* gv, long batch, long tokens, long channels, bool causal, const Each& each) {
  each((channels + LANES - 1) / LANES, [&](long item) {
    const long c = item * LANES, count = std::min(LANES, channels - c);
    const auto [rates, step] = rates_and_step(decay + c, bonus + c, key + c, batch, tokens, channels, count, causal);
    const std::vector<Span> parts = spans(tokens, step);
    Vec w{}, u{};
    for (long b = 0; b < batch; ++b) {
      const long at = b * tokens * channels + c;
      const Channel one{key + at, value + at, out + at, grad + at, gk + at, gv + at, tokens, channels, count};
      gather(rates, one, parts, causal, weigh(rates, one, parts, causal, w, u));
    }
    store_as(gw + c, w, count), store_as(gu + c, u, count);
  });
}

}  // namespace edgeseg
