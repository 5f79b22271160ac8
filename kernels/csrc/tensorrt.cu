// The operators as plugins of TensorRT (IPluginV3, TensorRT 10.0 and later), namespace `edgeseg`, version 1.
//
// The library is loaded by its path: `trtexec --dynamicPlugins=FILE`, or `loadLibrary` of the plugin registry. Only headers
// of TensorRT are used and nothing of it is linked.
#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "cuda_kernels.cuh"

#if NV_TENSORRT_MAJOR < 10
#error "TensorRT before 10.0 has no IPluginV3"
#endif

namespace {

namespace gpu = edgeseg::gpu;
using namespace nvinfer1;

ILoggerFinder* logger_finder = nullptr;

// One line to whoever is building or running the engine; a plugin has no other way to say why it refuses.
void complain(const std::string& message) {
  ILogger* logger = logger_finder ? logger_finder->findLogger() : nullptr;
  if (logger) logger->log(ILogger::Severity::kERROR, ("edgeseg: " + message).c_str());
}

// What a tensor of an operator holds: float32 always, the type of the data (float32 or float16), or labels.
enum class Role { PLAIN, DATA, LABELS };

using Options = std::array<int32_t, 3>;
using Shapes = const Dims*;

template <class F>
void by_type(DataType type, const F& f) {
  if (type == DataType::kHALF) f(gpu::half{});
  else f(float{});
}

template <class T>
const T* in(const void* const* inputs, int index) {
  return static_cast<const T*>(inputs[index]);
}

bool same(const Dims& a, const Dims& b) { return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d); }

// Parameters may come as [C], [1, C] or [1, 1, C].
bool holds(const Dims& dims, int64_t count) {
  int64_t total = 1;
  for (int i = 0; i < dims.nbDims; ++i) total *= dims.d[i];
  return total == count;
}

// Labels are int32: the header says of PluginTensorDesc, in 10.0 as in 11.1, that kBOOL and kUINT8 are not supported.
struct LabelMap {
  static constexpr const char* name = "LabelMap";
  static constexpr std::array<Role, 2> roles = {Role::DATA, Role::LABELS};
  static constexpr std::array<const char*, 3> attributes = {"height", "width", "align_corners"};
  static constexpr int needed = 2;  // attributes without a default

  static void shape(const DimsExprs* inputs, const Options& options, IExprBuilder& builder, DimsExprs& to) {
    to.nbDims = 3, to.d[0] = inputs[0].d[0], to.d[1] = builder.constant(options[0]), to.d[2] = builder.constant(options[1]);
  }
  static std::string wrong(Shapes in, const Options& options) {
    if (in[0].nbDims != 4) return "LabelMap takes logits [B, K, h, w]";
    if (in[0].d[1] < 1 || in[0].d[1] > 256) return "LabelMap tells 1 to 256 classes apart, got " + std::to_string(in[0].d[1]);
    for (const int64_t side : {int64_t(in[0].d[2]), int64_t(in[0].d[3]), int64_t(options[0]), int64_t(options[1])}) {
      if (side < 1 || side > gpu::WIDEST) return "LabelMap takes 1 to " + std::to_string(gpu::WIDEST) + " pixels a side, got " + std::to_string(side);
    }
    return "";
  }
  static size_t workspace(Shapes, const Options&) { return 0; }
  static void run(DataType type, Shapes dims, const Options& options, const void* const* inputs, void* output, void*, cudaStream_t stream) {
    const auto& d = dims[0].d;
    const gpu::LabelShape shape{int(d[0]), int(d[1]), int(d[2]), int(d[3]), options[0], options[1], options[2] != 0};
    by_type(type, [&](auto of) { gpu::label_map(in<decltype(of)>(inputs, 0), static_cast<int32_t*>(output), shape, stream); });
  }
};

struct BiWKV {
  static constexpr const char* name = "BiWKV";
  static constexpr std::array<Role, 5> roles = {Role::PLAIN, Role::PLAIN, Role::DATA, Role::DATA, Role::DATA};
  static constexpr std::array<const char*, 1> attributes = {"causal"};
  static constexpr int needed = 0;

  static void shape(const DimsExprs* inputs, const Options&, IExprBuilder&, DimsExprs& to) { to = inputs[2]; }
  static std::string wrong(Shapes in, const Options&) {
    if (in[2].nbDims == 3 && same(in[2], in[3]) && holds(in[0], in[2].d[2]) && holds(in[1], in[2].d[2])) return "";
    return "BiWKV takes decay [C], bonus [C], key [B, T, C] and value [B, T, C]";
  }
  static gpu::WkvShape of(Shapes in, const Options& options) { return {int(in[2].d[0]), int(in[2].d[1]), int(in[2].d[2]), options[0] != 0}; }
  static size_t workspace(Shapes in, const Options& options) { return gpu::wkv_workspace(of(in, options)); }
  static void run(DataType type, Shapes dims, const Options& options, const void* const* inputs, void* output, void* workspace, cudaStream_t stream) {
    by_type(type, [&](auto kind) {
      using T = decltype(kind);
      gpu::wkv(in<float>(inputs, 0), in<float>(inputs, 1), in<T>(inputs, 2), in<T>(inputs, 3), static_cast<T*>(output), workspace, of(dims, options), stream);
    });
  }
};

struct SelectiveScan {
  static constexpr const char* name = "SelectiveScan";
  static constexpr std::array<Role, 7> roles = {Role::DATA, Role::DATA, Role::PLAIN, Role::DATA, Role::DATA, Role::PLAIN, Role::DATA};
  static constexpr std::array<const char*, 0> attributes = {};
  static constexpr int needed = 0;

  static void shape(const DimsExprs* inputs, const Options&, IExprBuilder&, DimsExprs& to) { to = inputs[0]; }
  static std::string wrong(Shapes in, const Options&) {
    const Dims &x = in[0], &b = in[3];
    const bool ranks = x.nbDims == 3 && in[2].nbDims == 2 && b.nbDims == 3;
    if (ranks && same(x, in[1]) && in[2].d[0] == x.d[2] && b.d[0] == x.d[0] && b.d[1] == x.d[1] && b.d[2] == in[2].d[1] && same(b, in[4]) && holds(in[5], x.d[2])) return "";
    return "SelectiveScan takes u and delta [B, T, D], A [D, N], B and C [B, T, N], D [D]";
  }
  static gpu::ScanShape of(Shapes in) { return {int(in[0].d[0]), int(in[0].d[1]), int(in[0].d[2]), int(in[2].d[1])}; }
  static size_t workspace(Shapes in, const Options&) { return gpu::scan_workspace(of(in)); }
  static void run(DataType type, Shapes dims, const Options&, const void* const* inputs, void* output, void* workspace, cudaStream_t stream) {
    by_type(type, [&](auto kind) {
      using T = decltype(kind);
      gpu::selective_scan(in<T>(inputs, 0), in<T>(inputs, 1), in<float>(inputs, 2), in<T>(inputs, 3), in<T>(inputs, 4), in<float>(inputs, 5), static_cast<T*>(output), workspace, of(dims), stream);
    });
  }
};

// An operator as TensorRT sees it: what it is called, what it takes and gives, and how it runs.
template <class Op>
class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
 public:
  static constexpr int INPUTS = int(Op::roles.size()) - 1, ATTRIBUTES = int(Op::attributes.size());
  static constexpr int DATA = Op::roles[0] == Role::DATA ? 0 : 2;  // the first input that has the type of the data
  static_assert(Op::roles[DATA] == Role::DATA);

  explicit Plugin(const Options& options) : options_(options) {}

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override { return new Plugin(options_); }

  const char* getPluginName() const noexcept override { return Op::name; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return "edgeseg"; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(DataType* outputs, int32_t, const DataType* inputs, int32_t count) const noexcept override {
    if (count != INPUTS) return refuse_count(count);
    outputs[0] = type_of(INPUTS, inputs[DATA]);
    return 0;
  }
  int32_t getOutputShapes(const DimsExprs* inputs, int32_t count, const DimsExprs*, int32_t, DimsExprs* outputs, int32_t, IExprBuilder& builder) noexcept override {
    if (count != INPUTS) return refuse_count(count);
    Op::shape(inputs, options_, builder, outputs[0]);
    return 0;
  }
  bool supportsFormatCombination(int32_t at, const DynamicPluginTensorDesc* tensors, int32_t count, int32_t) noexcept override {
    if (count != INPUTS || tensors[at].desc.format != TensorFormat::kLINEAR) return false;
    const DataType type = tensors[at].desc.type;
    if (at < DATA) return type == DataType::kFLOAT;  // what comes later must not be looked at
    if (at == DATA) return type == DataType::kFLOAT || type == DataType::kHALF;
    return type == type_of(at, tensors[DATA].desc.type);
  }
  int32_t configurePlugin(const DynamicPluginTensorDesc*, int32_t count, const DynamicPluginTensorDesc*, int32_t) noexcept override {
    return count == INPUTS ? 0 : refuse_count(count);
  }
  size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*, int32_t) const noexcept override {
    Dims dims[INPUTS];
    for (int i = 0; i < INPUTS; ++i) {
      dims[i] = inputs[i].max;
      for (int axis = 0; axis < dims[i].nbDims; ++axis) {
        dims[i].d[axis] = std::max<int64_t>({dims[i].d[axis], inputs[i].desc.dims.d[axis], 0});  // -1 is an axis not known yet
      }
    }
    return Op::workspace(dims, options_);
  }

  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t count, const PluginTensorDesc*, int32_t) noexcept override {
    if (count != INPUTS) return refuse_count(count);
    Dims dims[INPUTS];
    for (int i = 0; i < INPUTS; ++i) dims[i] = inputs[i].dims;
    const std::string wrong = Op::wrong(dims, options_);
    if (!wrong.empty()) complain(wrong);
    return wrong.empty() ? 0 : 1;
  }
  int32_t enqueue(const PluginTensorDesc* from, const PluginTensorDesc*, const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    Dims dims[INPUTS];
    for (int i = 0; i < INPUTS; ++i) dims[i] = from[i].dims;
    Op::run(from[DATA].type, dims, options_, inputs, outputs[0], workspace, stream);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) complain(std::string(Op::name) + ": " + cudaGetErrorString(error));
    return error == cudaSuccess ? 0 : 1;
  }
  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override {
    for (int i = 0; i < ATTRIBUTES; ++i) fields_[i] = {Op::attributes[i], &options_[i], PluginFieldType::kINT32, 1};
    collection_.nbFields = ATTRIBUTES, collection_.fields = fields_.data();
    return &collection_;
  }

 private:
  static DataType type_of(int at, DataType data) {
    return Op::roles[at] == Role::PLAIN ? DataType::kFLOAT : Op::roles[at] == Role::LABELS ? DataType::kINT32 : data;
  }
  static int32_t refuse_count(int32_t count) {
    complain(std::string(Op::name) + " takes " + std::to_string(INPUTS) + " inputs, got " + std::to_string(count));
    return 1;
  }

  Options options_;
  std::array<PluginField, 3> fields_;
  PluginFieldCollection collection_{};
};

template <class Op>
class Creator final : public IPluginCreatorV3One {
 public:
  static constexpr int ATTRIBUTES = int(Op::attributes.size());

  Creator() {
    for (int i = 0; i < ATTRIBUTES; ++i) fields_[i] = {Op::attributes[i], nullptr, PluginFieldType::kINT32, 1};
    collection_.nbFields = ATTRIBUTES, collection_.fields = fields_.data();
  }
  const char* getPluginName() const noexcept override { return Op::name; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return "edgeseg"; }
  const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  IPluginV3* createPlugin(const char*, const PluginFieldCollection* given, TensorRTPhase) noexcept override {
    Options options{};
    size_t found = 0;  // one bit per attribute
    for (int i = 0; given && i < given->nbFields; ++i) {
      const PluginField& field = given->fields[i];
      const auto name = std::find_if(Op::attributes.begin(), Op::attributes.end(), [&](const char* each) { return !std::strcmp(each, field.name); });
      if (name == Op::attributes.end()) continue;  // the parser passes on only what getFieldNames asks for; others may not
      const size_t at = size_t(name - Op::attributes.begin());
      if (!field.data || field.length != 1 || !whole(field, options[at])) {
        complain(std::string(Op::name) + ": the attribute " + field.name + " is not one whole number");
        return nullptr;
      }
      found |= size_t(1) << at;
    }
    for (int i = 0; i < Op::needed; ++i) {
      if (found >> i & 1) continue;
      complain(std::string(Op::name) + " needs the attribute " + Op::attributes[i]);
      return nullptr;
    }
    return new Plugin<Op>(options);
  }

 private:
  // Parsers differ in how they pass ONNX's 64-bit attributes on.
  static bool whole(const PluginField& field, int32_t& to) {
    int64_t wide;
    if (field.type == PluginFieldType::kINT32) {
      std::memcpy(&to, field.data, sizeof to);
    } else if (field.type == PluginFieldType::kINT64) {
      std::memcpy(&wide, field.data, sizeof wide);
      to = int32_t(std::clamp<int64_t>(wide, INT32_MIN, INT32_MAX));
    } else {
      return false;
    }
    return true;
  }

  std::array<PluginField, 3> fields_;
  PluginFieldCollection collection_{};
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Called by TensorRT when it loads the library.
EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { logger_finder = finder; }

EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static Creator<LabelMap> label_map;
  static Creator<BiWKV> wkv;
  static Creator<SelectiveScan> scan;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&label_map, &wkv, &scan};
  count = 3;
  return creators;
}
