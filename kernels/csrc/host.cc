// The operators as plain C functions on dense arrays, for Python without a runtime. Types: 0 float32, 1 float16, 2 bfloat16.
#include "label_map.h"
#include "selective_scan.h"
#include "threads.h"
#include "wkv_grad.h"

namespace {

using Each = edgeseg::Threads;

template <class F>
void by_type(long type, const F& f) {
  if (type == 1) f(edgeseg::half{});
  else if (type == 2) f(edgeseg::bfloat{});
  else f(float{});
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))


EXPORT void edgeseg_label_map(long type, const void* logits, uint8_t* labels, long batch, long classes, long h, long w, long H, long W, long align, long threads) {
  by_type(type, [&](auto of) {
    using T = decltype(of);
    edgeseg::label_map(static_cast<const T*>(logits), labels, batch, classes, h, w, H, W, align != 0, Each{threads});
  });
}

EXPORT void edgeseg_wkv(long type, const float* decay, const float* bonus, const void* key, const void* value, void* out, long batch, long tokens, long channels, long causal, long threads) {
  by_type(type, [&](auto of) {
    using T = decltype(of);
    edgeseg::wkv(decay, bonus, static_cast<const T*>(key), static_cast<const T*>(value), static_cast<T*>(out), batch, tokens, channels, causal != 0, Each{threads});
  });
}

EXPORT void edgeseg_wkv_grad(const float* decay, const float* bonus, const float* key, const float* value, const float* out, const float* grad, float* gw, float* gu, float* gk, float* gv, long batch, long tokens, long channels, long causal, long threads) {
  edgeseg::wkv_grad(decay, bonus, key, value, out, grad, gw, gu, gk, gv, batch, tokens, channels, causal != 0, Each{threads});
}

EXPORT void edgeseg_selective_scan(const float* u, const float* delta, const float* A, const float* B, const float* C, const float* skip, float* y, long batch, long tokens, long channels, long states, long threads) {
  edgeseg::selective_scan({u, delta, A, B, C, skip, batch, tokens, channels, states}, y, Each{threads});
}

EXPORT void edgeseg_selective_scan_grad(const float* u, const float* delta, const float* A, const float* B, const float* C, const float* skip, const float* grad, float* gu, float* gdelta, float* gA, float* gB, float* gC, float* gskip, long batch, long tokens, long channels, long states, long threads) {
  edgeseg::selective_scan_grad({u, delta, A, B, C, skip, batch, tokens, channels, states}, grad, {gu, gdelta, gA, gB, gC, gskip}, threads, Each{threads});
}

// What the memory allows: `ops bench` compares with it.
EXPORT void edgeseg_copy(const float* from, float* to, long count, long threads) {
  const long share = 1 << 16;
  Each{threads}((count + share - 1) / share, [&](long i) {
    std::memcpy(to + i * share, from + i * share, std::min(share, count - i * share) * sizeof(float));
  });
}
