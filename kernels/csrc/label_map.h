// label_map: the label of every pixel of bilinearly enlarged logits, without the enlarged logits.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "vec.h"

namespace edgeseg {

constexpr long STRIP = 64;  // pixels across that are worked on together
constexpr int ROWS = 4;            // pixels down that share what is loaded for a class

// Where the pixels of one axis look: between `low` and the next sample, `part` of the way.
struct Axis {
  std::vector<long> low;
  std::vector<float> part;

  Axis(long inner, long outer, bool align) : low(outer), part(outer + STRIP) {
    for (long i = 0; i < outer; ++i) {
      double at = align ? (outer > 1 ? i * double(inner - 1) / (outer - 1) : 0.0) : (i + 0.5) * inner / outer - 0.5;
      at = at < 0 ? 0 : at;
      low[i] = std::min(long(at), inner - 1);
      part[i] = low[i] + 1 < inner ? float(at - low[i]) : 0.0f;
    }
  }
};

// One row of a strip enlarged sideways: `to [STRIP]` from `row [w]`. Each step writes whole vectors; the next one mends the excess.
template <class T>
inline void sideways(const T* row, long w, const Axis& across, long from, long until, float* to) {
  for (long x = from; x < until;) {
    const long low = across.low[x];
    const float left = read(row + low), step = low + 1 < w ? read(row + low + 1) - left : 0.0f;
    long next = x;
    while (next < until && across.low[next] == low) ++next;
    for (long at = x; at < next; at += LANES) store(to + at - from, left + step * load(&across.part[at]));
    x = next;
  }
}

// The labels of up to ROWS pixels down and one vector across: `above` and `below` are [classes][STRIP + LANES].
template <int COUNT>
inline void decide(const float* above, const float* below, long classes, const float* part, uint8_t* to, long stride, long wide) {
  Vec best[COUNT];
  Int which[COUNT];
  for (int r = 0; r < COUNT; ++r) best[r] = fill(-std::numeric_limits<float>::infinity()), which[r] = Int{};
  for (long k = 0; k < classes; ++k) {
    const Vec top = load(above + k * (STRIP + LANES)), step = load(below + k * (STRIP + LANES)) - top;
    for (int r = 0; r < COUNT; ++r) {
      const Vec value = top + part[r] * step;
      const Int wins = value > best[r];  // of equal logits the first class wins; NaN never does
      best[r] = choose(wins, value, best[r]);
      which[r] = wins ? Int{} + int32_t(k) : which[r];
    }
  }
  for (int r = 0; r < COUNT; ++r) {
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    const Bytes labels = __builtin_convertvector(which[r], Bytes);
    std::memcpy(to + r * stride, &labels, wide);
  }
}

// logits [B, K, h, w] to labels [B, H, W]. `each(n, f)` calls f(0) to f(n - 1), in any order and on any thread.
template <class T, class Each>
void label_map(const T* logits, uint8_t* labels, long batch, long classes, long h, long w, long H, long W, bool align, const Each& each) {
  const Axis down(h, H, align), across(w, W, align);
  const long strips = (W + STRIP - 1) / STRIP, width = STRIP + LANES;
  each(batch * strips, [&](long item) {
    const T* image = logits + item / strips * classes * h * w;
    uint8_t* out = labels + item / strips * H * W;
    const long from = item % strips * STRIP, until = std::min(W, from + STRIP);
    thread_local std::vector<float> memory;
    memory.resize(2 * classes * width);
    float* rows[2] = {memory.data(), memory.data() + classes * width};  // enlarged sideways: the low row above, the one below
    long held[2] = {-1, -1};
    const auto hold = [&](long row) {
      const int slot = row & 1;
      if (held[slot] != row) {
        for (long k = 0; k < classes; ++k) sideways(image + (k * h + row) * w, w, across, from, until, rows[slot] + k * width);
        held[slot] = row;
      }
      return rows[slot];
    };
    for (long y = 0; y < H;) {
      const long low = down.low[y];
      const float *above = hold(low), *below = low + 1 < h ? hold(low + 1) : above;
      long next = y;
      while (next < H && down.low[next] == low) ++next;
      for (; y < next; y += y + ROWS <= next ? ROWS : 1) {
        for (long x = 0; x < until - from; x += LANES) {
          uint8_t* to = out + y * W + from + x;
          const long wide = std::min(LANES, until - from - x);
          if (y + ROWS <= next) decide<ROWS>(above + x, below + x, classes, &down.part[y], to, W, wide);
          else decide<1>(above + x, below + x, classes, &down.part[y], to, W, wide);
        }
      }
    }
  });
}

}  // namespace edgeseg
