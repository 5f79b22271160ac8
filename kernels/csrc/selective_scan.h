// selective_scan: the recurrence of Mamba (S6), with a diagonal A.
//
//   h_t[n] = exp(delta_t A[n]) h_(t-1)[n] + delta_t u_t B_t[n]
//   y_t = sum_n C_t[n] h_t[n] + D u_t
//
// Channels lie side by side, so a vector of them is one load; the states of a vector stay in registers. Decays are in 0..1
// and are multiplied one after the other: no form that divides by them is exact for all deltas.
#pragma once

#include <algorithm>
#include <vector>

#include "vec.h"

namespace edgeseg {

constexpr long CHUNK = 64;  // tokens whose states the gradient keeps at once

struct Scan {  // u, delta [B, T, D]; A [D, N]; B, C [B, T, N]; skip [D] or null
  const float *u, *delta, *A, *B, *C, *skip;
  long batch, tokens, channels, states;
};

// A[channel, n] of a vector of channels, times log2(e).
inline void rates_of(const Scan& scan, long c, long count, Vec* to) {
  for (long n = 0; n < scan.states; ++n) {
    to[n] = Vec{};
    for (long i = 0; i < count; ++i) to[n][i] = scan.A[(c + i) * scan.states + n] * 1.44269504f;
  }
}

// STATES is `scan.states` where it is known when this is compiled, else 0; FADING says that no rate is above 0. `states [N]`
// is where the sequence begins.
template <int STATES, bool FADING>
inline void scan_channels(const Scan& scan, const Vec* A, Vec* states, const float* u, const float* delta, const float* B, const float* C, float* y, long tokens, Vec skip, long count) {
  const long N = STATES ? STATES : scan.states;
  Vec own[STATES ? STATES : 1];
  Vec* h = STATES ? own : states;
  if (STATES) std::copy(states, states + N, own);
  for (long t = 0; t < tokens; ++t) {
    const Vec x = load_as(u + t * scan.channels, count), d = load_as(delta + t * scan.channels, count), dx = d * x;
    Vec sum[2] = {skip * x, Vec{}};  // two sums, so that one addition need not wait for the other
    for (long n = 0; n < N; ++n) {
      h[n] = (FADING ? exp2_small(d * A[n]) : exp2(d * A[n])) * h[n] + dx * B[t * N + n];
      sum[n & 1] += h[n] * C[t * N + n];
    }
    if (y) store_as(y + t * scan.channels, sum[0] + sum[1], count);
  }
  if (STATES) std::copy(own, own + N, states);
}

inline void scan_some(const Scan& scan, const Vec* A, Vec* states, const float* u, const float* delta, const float* B, const float* C, float* y, long tokens, Vec skip, long count) {
  bool fading = true;  // deltas are not negative
  for (long n = 0; n < scan.states; ++n) {
    for (long i = 0; i < LANES; ++i) fading = fading && A[n][i] <= 0.0f;
  }
  const auto known = scan.states == 16 ? scan_channels<16, true> : scan.states == 1 ? scan_channels<1, true> : scan_channels<0, true>;
  const auto run = fading ? known : scan_channels<0, false>;
  run(scan, A, states, u, delta, B, C, y, tokens, skip, count);
}

// y [B, T, D]
template <class Each>
void selective_scan(const Scan& scan, float* y, const Each& each) {
  const long groups = (scan.channels + LANES - 1) / LANES;
  each(scan.batch * groups, [&](long item) {
    const long b = item / groups, c = item % groups * LANES, count = std::min(LANES, scan.channels - c);
    const long at = b * scan.tokens * scan.channels + c, beside = b * scan.tokens * scan.states;
    thread_local std::vector<Vec> A, states;
    A.resize(scan.states), states.assign(scan.states, Vec{});
    rates_of(scan, c, count, A.data());
    const Vec skip = scan.skip ? load_as(scan.skip + c, count) : Vec{};
    scan_some(scan, A.data(), states.data(), scan.u + at, scan.delta + at, scan.B + beside, scan.C + beside, y + at, scan.tokens, skip, count);
  });
}

struct ScanGrad {  // as in Scan
  float *u, *delta, *A, *B, *C, *skip;
};

// `grad [B, T, D]` of y to all gradients; those of B and C are sums over channels and are added up per worker first.
// The states are computed anew, a chunk at a time from the last chunk to the first, from those at the chunks' beginnings.
template <class Each>
void selective_scan_grad(const Scan& scan, const float* grad, const ScanGrad& to, long workers, const Each& each) {
  const long N = scan.states, T = scan.tokens, D = scan.channels, groups = (D + LANES - 1) / LANES;
  workers = std::min(workers, groups);
  const long size = scan.batch * T * N, chunks = (T + CHUNK - 1) / CHUNK;
  std::vector<float> sums(2 * workers * size);
  each(workers, [&](long worker) {
    float *gB = sums.data() + 2 * worker * size, *gC = gB + size;
    std::vector<Vec> A(N), begin(chunks * N), states((CHUNK + 1) * N), back(N), gA(N);
    for (long group = worker; group < groups; group += workers) {
      const long c = group * LANES, count = std::min(LANES, D - c);
      rates_of(scan, c, count, A.data());
      std::fill(gA.begin(), gA.end(), Vec{});
      const Vec skip = scan.skip ? load_as(scan.skip + c, count) : Vec{};
      Vec gskip{};
      for (long b = 0; b < scan.batch; ++b) {
        const long at = b * T * D + c, beside = b * T * N;
        std::vector<Vec> h(N);
        for (long i = 0; i < chunks; ++i) {
          std::copy(h.begin(), h.end(), begin.begin() + i * N);
          const long from = i * CHUNK, length = std::min(CHUNK, T - from);
          scan_some(scan, A.data(), h.data(), scan.u + at + from * D, scan.delta + at + from * D, scan.B + beside + from * N, scan.C + beside + from * N, nullptr, length, Vec{}, count);
        }
        std::fill(back.begin(), back.end(), Vec{});
        for (long i = chunks - 1; i >= 0; --i) {
          const long from = i * CHUNK, until = std::min(T, from + CHUNK);
          std::copy(begin.begin() + i * N, begin.begin() + (i + 1) * N, states.begin());
          for (long t = from; t < until; ++t) {
            const Vec *before = &states[(t - from) * N], d = load_as(scan.delta + at + t * D, count), dx = d * load_as(scan.u + at + t * D, count);
            for (long n = 0; n < N; ++n) states[(t - from + 1) * N + n] = exp2(d * A[n]) * before[n] + dx * scan.B[beside + t * N + n];
          }
          for (long t = until - 1; t >= from; --t) {
            const Vec *before = &states[(t - from) * N], *after = before + N;
            const Vec g = load_as(grad + at + t * D, count), x = load_as(scan.u + at + t * D, count), d = load_as(scan.delta + at + t * D, count);
            Vec gd{}, gdx{};
            for (long n = 0; n < N; ++n) {
              const long k = beside + t * N + n;
              const Vec gh = back[n] + g * scan.C[k], fade = exp2(d * A[n]);
              gC[k] += sum(g * after[n]), gB[k] += sum(gh * d * x);
              const Vec through = gh * fade * before[n];
              gA[n] += through * d, gd += through * A[n], gdx += gh * scan.B[k];
              back[n] = gh * fade;
            }
            store_as(to.delta + at + t * D, gd * 0.693147181f + gdx * x, count);  // A is in bits
            store_as(to.u + at + t * D, gdx * d + g * skip, count);
            gskip += g * x;
          }
        }
      }
      for (long n = 0; n < N; ++n) {
        for (long j = 0; j < count; ++j) to.A[(c + j) * N + n] = gA[n][j];
      }
      if (to.skip) store_as(to.skip + c, gskip, count);
    }
  });
  for (long k = 0; k < size; ++k) {
    to.B[k] = to.C[k] = 0;
    for (long worker = 0; worker < workers; ++worker) to.B[k] += sums[2 * worker * size + k], to.C[k] += sums[(2 * worker + 1) * size + k];
  }
}

}  // namespace edgeseg
