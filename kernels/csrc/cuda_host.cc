// The CUDA kernels as plain C functions on arrays of the CPU, for the tests: the very source, run thread after thread.
// Types: 0 float32, 1 float16.
#include "cuda_kernels.cuh"

namespace {

namespace gpu = edgeseg::gpu;

template <class F>
void by_type(long type, const F& f) {
  if (type == 1) f(gpu::half{});
  else f(float{});
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT long edgeseg_cuda_wkv_workspace(long batch, long tokens, long channels, long causal) {
  return long(gpu::wkv_workspace({int(batch), int(tokens), int(channels), causal != 0}));
}

EXPORT void edgeseg_cuda_wkv(long type, const float* decay, const float* bonus, const void* key, const void* value, void* out, void* workspace, long batch, long tokens, long channels, long causal) {
  by_type(type, [&](auto of) {
    using T = decltype(of);
    gpu::wkv(decay, bonus, static_cast<const T*>(key), static_cast<const T*>(value), static_cast<T*>(out), workspace, {int(batch), int(tokens), int(channels), causal != 0}, nullptr);
  });
}

EXPORT long edgeseg_cuda_selective_scan_workspace(long batch, long tokens, long channels, long states) {
  return long(gpu::scan_workspace({int(batch), int(tokens), int(channels), int(states)}));
}

EXPORT void edgeseg_cuda_selective_scan(long type, const void* u, const void* delta, const float* A, const void* B, const void* C, const float* skip, void* y, void* workspace, long batch, long tokens, long channels, long states) {
  by_type(type, [&](auto of) {
    using T = decltype(of);
    const auto at = [](const void* from) { return static_cast<const T*>(from); };
    gpu::selective_scan(at(u), at(delta), A, at(B), at(C), skip, static_cast<T*>(y), workspace, {int(batch), int(tokens), int(channels), int(states)}, nullptr);
  });
}

// Labels as int32, which is what TensorRT lets a plugin give, or as bytes.
EXPORT void edgeseg_cuda_label_map(long type, const void* logits, void* labels, long bytes, long batch, long classes, long h, long w, long H, long W, long align) {
  by_type(type, [&](auto of) {
    const auto* from = static_cast<const decltype(of)*>(logits);
    const gpu::LabelShape shape{int(batch), int(classes), int(h), int(w), int(H), int(W), align != 0};
    if (bytes) gpu::label_map(from, static_cast<uint8_t*>(labels), shape, nullptr);
    else gpu::label_map(from, static_cast<int32_t*>(labels), shape, nullptr);
  });
}
