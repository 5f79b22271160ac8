// The operators as kernels of ExecuTorch: edgeseg::wkv.out, edgeseg::selective_scan.out and edgeseg::label_map.out.
//
// They register themselves when the library is loaded, once per process: ExecuTorch ends a process that registers a kernel
// twice. Work is shared out on ExecuTorch's own threads.
#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/thread_parallel_interface.h>

#include "label_map.h"
#include "selective_scan.h"
#include "wkv.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::KernelRuntimeContext;
using Sizes = executorch::aten::ArrayRef<Tensor::SizesType>;

struct Each {
  template <class F>
  void operator()(long count, const F& f) const {
    executorch::extension::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(long(i));
    });
  }
};

// Calls f with a value of the C++ type; false where there is none.
template <class F>
bool by_type(ScalarType type, const F& f) {
  if (type == ScalarType::Float) f(float{});
  else if (type == ScalarType::Half) f(edgeseg::half{});
  else if (type == ScalarType::BFloat16) f(edgeseg::bfloat{});
  else return false;
  return true;
}

template <class T>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* into(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

bool dense(const Tensor& tensor) {
  return executorch::runtime::is_contiguous_dim_order(tensor.dim_order().data(), tensor.dim_order().size());
}

bool is(const Tensor& tensor, ScalarType type, std::initializer_list<long> sizes) {
  return tensor.scalar_type() == type && dense(tensor) && std::equal(tensor.sizes().begin(), tensor.sizes().end(), sizes.begin(), sizes.end());
}

// Whether `out` could be made so large.
bool resized(Tensor& out, ScalarType type, Sizes sizes) {
  return out.scalar_type() == type && executorch::runtime::resize_tensor(out, sizes) == executorch::runtime::Error::Ok && dense(out);
}

Tensor& wkv_out(KernelRuntimeContext& context, const Tensor& decay, const Tensor& bonus, const Tensor& key, const Tensor& value, bool causal, Tensor& out) {
  const ScalarType type = value.scalar_type();
  bool fit = key.dim() == 3;
  if (fit) {
    const long B = key.size(0), T = key.size(1), C = key.size(2);
    fit = is(decay, ScalarType::Float, {C}) && is(bonus, ScalarType::Float, {C}) && is(key, type, {B, T, C}) && is(value, type, {B, T, C});
    fit = fit && resized(out, type, key.sizes()) && by_type(type, [&](auto of) {
      using F = decltype(of);
      edgeseg::wkv(in<float>(decay), in<float>(bonus), in<F>(key), in<F>(value), into<F>(out), B, T, C, causal, Each());
    });
  }
  ET_KERNEL_CHECK_MSG(context, fit, InvalidArgument, out, "wkv takes decay [C] and bonus [C] in float32, key and value [B, T, C] in float32, float16 or bfloat16");
  return out;
}

Tensor& selective_scan_out(KernelRuntimeContext& context, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const Tensor& D, Tensor& out) {
  constexpr ScalarType type = ScalarType::Float;
  bool fit = u.dim() == 3 && A.dim() == 2;
  if (fit) {
    const long batch = u.size(0), T = u.size(1), channels = u.size(2), N = A.size(1);
    fit = is(u, type, {batch, T, channels}) && is(delta, type, {batch, T, channels}) && is(A, type, {channels, N}) && is(B, type, {batch, T, N});
    fit = fit && is(C, type, {batch, T, N}) && is(D, type, {channels}) && resized(out, type, u.sizes());
    if (fit) {
      const auto at = in<float>;
      edgeseg::selective_scan({at(u), at(delta), at(A), at(B), at(C), at(D), batch, T, channels, N}, into<float>(out), Each());
    }
  }
  ET_KERNEL_CHECK_MSG(context, fit, InvalidArgument, out, "selective_scan takes u and delta [B, T, D], A [D, N], B and C [B, T, N], D [D], all in float32");
  return out;
}

Tensor& label_map_out(KernelRuntimeContext& context, const Tensor& logits, int64_t height, int64_t width, bool align_corners, Tensor& out) {
  bool fit = logits.dim() == 4 && dense(logits) && logits.numel() > 0 && logits.size(1) <= 256 && height > 0 && width > 0;
  if (fit) {
    const long B = logits.size(0), K = logits.size(1), h = logits.size(2), w = logits.size(3);
    const Tensor::SizesType sizes[] = {Tensor::SizesType(B), Tensor::SizesType(height), Tensor::SizesType(width)};
    fit = resized(out, ScalarType::Byte, {sizes, 3}) && by_type(logits.scalar_type(), [&](auto of) {
      edgeseg::label_map(in<decltype(of)>(logits), into<uint8_t>(out), B, K, h, w, height, width, align_corners, Each());
    });
  }
  ET_KERNEL_CHECK_MSG(context, fit, InvalidArgument, out, "label_map takes logits [B, K, h, w] of 1 to 256 classes in float32, float16 or bfloat16, and at least one pixel");
  return out;
}

}  // namespace

EXECUTORCH_LIBRARY(edgeseg, "wkv.out", wkv_out);
EXECUTORCH_LIBRARY(edgeseg, "selective_scan.out", selective_scan_out);
EXECUTORCH_LIBRARY(edgeseg, "label_map.out", label_map_out);
