// The operators as custom operators of LiteRT: one kernel each, to be added to the options a model is compiled with.
//
// LiteRT's library comes without headers, so the little of its C interface that is used is declared here; the functions are
// found when this library is loaded into a process that has LiteRT. LiteRT does not look at what a kernel returns.
#include "label_map.h"
#include "selective_scan.h"
#include "threads.h"
#include "wkv.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Status : int { OK = 0, INVALID = 1 };
enum Lock : int { READ = 0, WRITE = 1 };

struct Layout {
  unsigned rank : 7, strided : 1;
  int32_t dims[8];
  uint32_t strides[8];
};

struct Type {
  int element;
  Layout layout;
};

struct Kernel {
  Status (*init)(void* options, const void* data, size_t size);
  Status (*layouts)(void* options, size_t inputs, const Layout* given, size_t outputs, Layout* made);
  Status (*run)(void* options, size_t inputs, void* const* given, size_t outputs, void* const* made);
  Status (*destroy)(void* options);
};

// What a kernel is added with. All nodes of one name share it, so names differ where attributes do.
struct Options {
  int64_t threads;
  int64_t attributes[3];
};

}  // namespace

extern "C" {
int LiteRtGetTensorBufferTensorType(void* buffer, Type* type);
int LiteRtLockTensorBuffer(void* buffer, void** data, Lock mode);
int LiteRtUnlockTensorBuffer(void* buffer);
}

namespace {

// A buffer's memory and shape, for as long as this lives.
struct Array {
  Array(void* buffer, Lock mode) : buffer_(buffer) {
    LiteRtGetTensorBufferTensorType(buffer, &type_);
    LiteRtLockTensorBuffer(buffer, &data, mode);
  }
  ~Array() { LiteRtUnlockTensorBuffer(buffer_); }
  Array(const Array&) = delete;

  long operator[](int axis) const { return type_.layout.dims[axis]; }
  operator const float*() const { return static_cast<const float*>(data); }

  void* data = nullptr;

 private:
  void* buffer_;
  Type type_ = {};
};

struct BiWKV {  // decay, bonus, key, value; attribute: causal
  static constexpr size_t inputs = 4;
  static Layout layout(const Options&, const Layout* given) { return given[2]; }
  static void run(const Options& options, void* const* in, const Array& out) {
    const Array decay(in[0], READ), bonus(in[1], READ), key(in[2], READ), value(in[3], READ);
    edgeseg::wkv<float>(decay, bonus, key, value, static_cast<float*>(out.data), key[0], key[1], key[2], options.attributes[0] != 0, edgeseg::Threads{options.threads});
  }
};

struct SelectiveScan {  // u, delta, A, B, C, D
  static constexpr size_t inputs = 6;
  static Layout layout(const Options&, const Layout* given) { return given[0]; }
  static void run(const Options& options, void* const* in, const Array& out) {
    const Array u(in[0], READ), delta(in[1], READ), A(in[2], READ), B(in[3], READ), C(in[4], READ), D(in[5], READ);
    edgeseg::selective_scan({u, delta, A, B, C, D, u[0], u[1], u[2], A[1]}, static_cast<float*>(out.data), edgeseg::Threads{options.threads});
  }
};

struct LabelMap {  // logits; attributes: height, width, align_corners
  static constexpr size_t inputs = 1;
  static Layout layout(const Options& options, const Layout* given) {
    return {3, 0, {given[0].dims[0], int32_t(options.attributes[0]), int32_t(options.attributes[1])}, {}};
  }
  static void run(const Options& options, void* const* in, const Array& out) {
    const Array logits(in[0], READ);
    edgeseg::label_map<float>(logits, static_cast<uint8_t*>(out.data), logits[0], logits[1], logits[2], logits[3], options.attributes[0], options.attributes[1], options.attributes[2] != 0, edgeseg::Threads{options.threads});
  }
};

template <class F>
constexpr Kernel kernel() {
  return {
      [](void*, const void*, size_t) { return OK; },
      [](void* options, size_t inputs, const Layout* given, size_t outputs, Layout* made) {
        if (inputs != F::inputs || outputs != 1) return INVALID;
        made[0] = F::layout(*static_cast<const Options*>(options), given);
        return OK;
      },
      [](void* options, size_t inputs, void* const* given, size_t outputs, void* const* made) {
        if (inputs != F::inputs || outputs != 1) return INVALID;
        F::run(*static_cast<const Options*>(options), given, Array(made[0], WRITE));
        return OK;
      },
      [](void*) { return OK; },
  };
}

}  // namespace

EXPORT const Kernel edgeseg_litert_wkv = kernel<BiWKV>();
EXPORT const Kernel edgeseg_litert_selective_scan = kernel<SelectiveScan>();
EXPORT const Kernel edgeseg_litert_label_map = kernel<LabelMap>();
