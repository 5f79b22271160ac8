// The operators as custom operators of ONNX Runtime, domain `edgeseg`, version 1.
//
// Its C interface only ever grows at the end, so the few functions used here are called by their place in it and no header
// of ONNX Runtime is needed: one library serves every version from 1.17 on. Work is shared out on the session's own threads.
#include <cstddef>

#include "label_map.h"
#include "selective_scan.h"
#include "wkv.h"

namespace {

struct Status;
struct Value;
struct Context;
struct Info;
struct Shape;

enum Kind : int { UNDEFINED = 0, FLOAT = 1, UINT8 = 2, FLOAT16 = 10, BFLOAT16 = 16 };

struct Api {
  const void* const* table;

  template <class F>
  F at(int place) const {
    return reinterpret_cast<F>(const_cast<void*>(table[place]));
  }
  Status* error(const char* message) const { return at<Status* (*)(int, const char*)>(0)(2, message); }  // invalid argument
  Status* domain(const char* name, void** made) const { return at<Status* (*)(const char*, void**)>(26)(name, made); }
  Status* add(void* domain, const void* op) const { return at<Status* (*)(void*, const void*)>(27)(domain, op); }
  Status* use(void* options, void* domain) const { return at<Status* (*)(void*, void*)>(28)(options, domain); }
  void* data(Value* value) const {
    void* made = nullptr;
    at<Status* (*)(Value*, void**)>(51)(value, &made);
    return made;
  }
  std::vector<int64_t> shape(const Value* value) const {
    Shape* info = nullptr;
    size_t rank = 0;
    at<Status* (*)(const Value*, Shape**)>(65)(value, &info);
    at<Status* (*)(const Shape*, size_t*)>(61)(info, &rank);
    std::vector<int64_t> dims(rank);
    at<Status* (*)(const Shape*, int64_t*, size_t)>(62)(info, dims.data(), rank);
    at<void (*)(Shape*)>(99)(info);
    return dims;
  }
  Status* attribute(const Info* info, const char* name, int64_t* to) const {
    return at<Status* (*)(const Info*, const char*, int64_t*)>(86)(info, name, to);
  }
  Value* input(const Context* context, size_t index) const {
    const Value* made = nullptr;
    at<Status* (*)(const Context*, size_t, const Value**)>(90)(context, index, &made);
    return const_cast<Value*>(made);
  }
  Value* output(Context* context, const std::vector<int64_t>& dims) const {
    Value* made = nullptr;
    at<Status* (*)(Context*, size_t, const int64_t*, size_t, Value**)>(91)(context, 0, dims.data(), dims.size(), &made);
    return made;
  }
  void each(const Context* context, void (*call)(void*, size_t), size_t count, void* with) const {
    at<Status* (*)(const Context*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(context, call, count, 0, with);
  }
};

struct Kernel {
  Api api;
  int64_t options[3] = {0, 0, 0};
};

struct Each {
  const Kernel& kernel;
  const Context* context;

  template <class F>
  void operator()(long count, const F& f) const {
    kernel.api.each(context, [](void* with, size_t i) { (*static_cast<const F*>(with))(long(i)); }, size_t(count), const_cast<F*>(&f));
  }
};

long size(const std::vector<int64_t>& dims) {
  long total = 1;
  for (const int64_t dim : dims) total *= dim;
  return total;
}

template <class T>
struct LabelMap {
  static constexpr const char* name = "LabelMap";
  static constexpr const char* attributes[3] = {"height", "width", "align_corners"};
  static constexpr size_t attribute_count = 3, inputs = 1;
  static constexpr Kind out = UINT8;
  static bool plain(size_t) { return false; }

  static Status* run(const Kernel& kernel, Context* context) {
    const Api& api = kernel.api;
    Value* logits = api.input(context, 0);
    const auto dims = api.shape(logits);
    const long H = kernel.options[0], W = kernel.options[1];
    if (dims.size() != 4) return api.error("LabelMap takes logits [B, K, h, w]");
    if (dims[1] < 1 || dims[1] > 256) return api.error("LabelMap tells 1 to 256 classes apart");
    if (H < 1 || W < 1 || dims[2] < 1 || dims[3] < 1) return api.error("LabelMap needs at least one pixel");
    auto* labels = static_cast<uint8_t*>(api.data(api.output(context, {dims[0], H, W})));
    edgeseg::label_map(static_cast<const T*>(api.data(logits)), labels, dims[0], dims[1], dims[2], dims[3], H, W, kernel.options[2] != 0, Each{kernel, context});
    return nullptr;
  }
};

template <class T, Kind kind>
struct BiWKV {
  static constexpr const char* name = "BiWKV";
  static constexpr const char* attributes[3] = {"causal"};
  static constexpr size_t attribute_count = 1, inputs = 4;
  static constexpr Kind out = kind;
  static bool plain(size_t index) { return index < 2; }  // decay and bonus are float32 always

  static Status* run(const Kernel& kernel, Context* context) {
    const Api& api = kernel.api;
    Value* in[inputs];
    for (size_t i = 0; i < inputs; ++i) in[i] = api.input(context, i);
    const auto dims = api.shape(in[2]);
    if (dims.size() != 3 || api.shape(in[3]) != dims || size(api.shape(in[0])) != dims[2] || size(api.shape(in[1])) != dims[2]) {
      return api.error("BiWKV takes decay [C], bonus [C], key [B, T, C] and value [B, T, C]");
    }
    auto* out = static_cast<T*>(api.data(api.output(context, dims)));
    const auto plain = [&](int i) { return static_cast<const float*>(api.data(in[i])); };
    const auto dense = [&](int i) { return static_cast<const T*>(api.data(in[i])); };
    edgeseg::wkv(plain(0), plain(1), dense(2), dense(3), out, dims[0], dims[1], dims[2], kernel.options[0] != 0, Each{kernel, context});
    return nullptr;
  }
};

struct SelectiveScan {
  static constexpr const char* name = "SelectiveScan";
  static constexpr const char* attributes[3] = {};
  static constexpr size_t attribute_count = 0, inputs = 6;
  static constexpr Kind out = FLOAT;
  static bool plain(size_t) { return true; }

  static Status* run(const Kernel& kernel, Context* context) {
    const Api& api = kernel.api;
    const float* in[inputs];
    std::vector<int64_t> dims[inputs];
    for (size_t i = 0; i < inputs; ++i) {
      Value* value = api.input(context, i);
      in[i] = static_cast<const float*>(api.data(value)), dims[i] = api.shape(value);
    }
    const auto& x = dims[0];
    const long N = dims[2].size() == 2 ? dims[2][1] : 0;
    if (x.size() != 3 || dims[1] != x || size(dims[2]) != x[2] * N || dims[3] != std::vector<int64_t>{x[0], x[1], N} || dims[4] != dims[3] || size(dims[5]) != x[2]) {
      return api.error("SelectiveScan takes u and delta [B, T, D], A [D, N], B and C [B, T, N], D [D]");
    }
    auto* out = static_cast<float*>(api.data(api.output(context, x)));
    edgeseg::selective_scan({in[0], in[1], in[2], in[3], in[4], in[5], x[0], x[1], x[2], N}, out, Each{kernel, context});
    return nullptr;
  }
};

// `OrtCustomOp` as of version 17; what is left out is never asked for.
struct Op {
  uint32_t version;
  void* (*create_old)(const Op*, const void* const*, const Info*);
  const char* (*name)(const Op*);
  const char* (*provider)(const Op*);
  int (*input_type)(const Op*, size_t);
  size_t (*input_count)(const Op*);
  int (*output_type)(const Op*, size_t);
  size_t (*output_count)(const Op*);
  void (*compute_old)(void*, Context*);
  void (*destroy)(void*);
  int (*input_kind)(const Op*, size_t);
  int (*output_kind)(const Op*, size_t);
  int (*input_memory)(const Op*, size_t);
  int (*least_inputs)(const Op*);
  int (*same_inputs)(const Op*);
  int (*least_outputs)(const Op*);
  int (*same_outputs)(const Op*);
  Status* (*create)(const Op*, const void* const*, const Info*, void**);
  Status* (*compute)(void*, Context*);
  Status* (*infer)(const Op*, void*);
  int (*first_version)(const Op*);
  int (*last_version)(const Op*);
  void* later[4];
};

template <class F, Kind kind>
Op describe() {
  Op op{};
  op.version = 17;
  op.name = [](const Op*) { return F::name; };
  op.provider = [](const Op*) -> const char* { return nullptr; };  // the processor
  op.input_type = [](const Op*, size_t index) -> int { return F::plain(index) ? FLOAT : kind; };
  op.input_count = [](const Op*) { return F::inputs; };
  op.output_type = [](const Op*, size_t) -> int { return F::out; };
  op.output_count = [](const Op*) { return size_t(1); };
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.input_kind = op.output_kind = [](const Op*, size_t) { return 0; };  // required
  op.input_memory = [](const Op*, size_t) { return 0; };
  op.create = [](const Op*, const void* const* table, const Info* info, void** made) -> Status* {
    auto* kernel = new Kernel{{table}, {}};
    for (size_t i = 0; i < F::attribute_count; ++i) {
      if (Status* wrong = kernel->api.attribute(info, F::attributes[i], &kernel->options[i])) {
        delete kernel;
        return wrong;
      }
    }
    *made = kernel;
    return nullptr;
  };
  op.compute = [](void* kernel, Context* context) { return F::run(*static_cast<Kernel*>(kernel), context); };
  op.first_version = op.last_version = [](const Op*) { return 1; };
  return op;
}

const Op OPS[] = {
    describe<LabelMap<float>, FLOAT>(),
    describe<LabelMap<edgeseg::half>, FLOAT16>(),
    describe<LabelMap<edgeseg::bfloat>, BFLOAT16>(),
    describe<BiWKV<float, FLOAT>, FLOAT>(),
    describe<BiWKV<edgeseg::half, FLOAT16>, FLOAT16>(),
    describe<BiWKV<edgeseg::bfloat, BFLOAT16>, BFLOAT16>(),
    describe<SelectiveScan, FLOAT>(),
};

}  // namespace

extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(void* options, const void* base) {
  const Api api{static_cast<const void* const* (*const*)(uint32_t)>(base)[0](17)};
  void* domain = nullptr;
  if (Status* wrong = api.domain("edgeseg", &domain)) return wrong;
  for (const Op& op : OPS) {
    if (Status* wrong = api.add(domain, &op)) return wrong;
  }
  return api.use(options, domain);
}
