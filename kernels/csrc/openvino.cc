// The operators as an extension of OpenVINO: in its own models as `edgeseg` operators, and read from ONNX, domain `edgeseg`.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>
#include <tbb/parallel_for.h>

#include "label_map.h"
#include "selective_scan.h"
#include "wkv.h"

namespace {

struct Each {
  template <class F>
  void operator()(long count, const F& f) const {
    tbb::parallel_for(0L, count, f);
  }
};

template <class F>
void by_type(const ov::element::Type& type, const F& f) {
  if (type == ov::element::f16) f(edgeseg::half{});
  else if (type == ov::element::bf16) f(edgeseg::bfloat{});
  else f(float{});
}

template <class T>
const T* in(const ov::TensorVector& inputs, size_t index) {
  return static_cast<const T*>(inputs[index].data());
}

class LabelMap : public ov::op::Op {
 public:
  OPENVINO_OP("LabelMap", "edgeseg");
  LabelMap() = default;
  LabelMap(const ov::OutputVector& inputs, int64_t height, int64_t width, int64_t align) : Op(inputs), height_(height), width_(width), align_(align) { constructor_validate_and_infer_types(); }

  void validate_and_infer_types() override {
    const auto& shape = get_input_partial_shape(0);
    NODE_VALIDATION_CHECK(this, shape.rank().compatible(4) && height_ > 0 && width_ > 0, "LabelMap takes logits [B, K, h, w] and a size");
    set_output_type(0, ov::element::u8, {shape.rank().is_static() ? shape[0] : ov::Dimension(), height_, width_});
  }
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override { return std::make_shared<LabelMap>(inputs, height_, width_, align_); }
  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("height", height_), visitor.on_attribute("width", width_), visitor.on_attribute("align_corners", align_);
    return true;
  }
  bool has_evaluate() const override { return true; }
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const auto shape = inputs[0].get_shape();
    if (shape[1] < 1 || shape[1] > 256) OPENVINO_THROW("LabelMap tells 1 to 256 classes apart, got ", shape[1]);
    outputs[0].set_shape({shape[0], size_t(height_), size_t(width_)});
    by_type(inputs[0].get_element_type(), [&](auto of) {
      edgeseg::label_map(in<decltype(of)>(inputs, 0), outputs[0].data<uint8_t>(), shape[0], shape[1], shape[2], shape[3], height_, width_, align_ != 0, Each());
    });
    return true;
  }

 private:
  int64_t height_ = 0, width_ = 0, align_ = 0;
};

class BiWKV : public ov::op::Op {
 public:
  OPENVINO_OP("BiWKV", "edgeseg");
  BiWKV() = default;
  BiWKV(const ov::OutputVector& inputs, int64_t causal) : Op(inputs), causal_(causal) { constructor_validate_and_infer_types(); }

  void validate_and_infer_types() override {
    const auto& shape = get_input_partial_shape(2);
    NODE_VALIDATION_CHECK(this, shape.rank().compatible(3) && shape.compatible(get_input_partial_shape(3)), "BiWKV takes decay [C], bonus [C], key [B, T, C] and value [B, T, C]");
    set_output_type(0, get_input_element_type(2), shape);
  }
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override { return std::make_shared<BiWKV>(inputs, causal_); }
  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("causal", causal_);
    return true;
  }
  bool has_evaluate() const override { return true; }
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const auto shape = inputs[2].get_shape();
    outputs[0].set_shape(shape);
    std::vector<float> rates[2];
    for (int i = 0; i < 2; ++i) rates[i] = floats(inputs[i]);
    by_type(inputs[2].get_element_type(), [&](auto of) {
      using T = decltype(of);
      edgeseg::wkv(rates[0].data(), rates[1].data(), in<T>(inputs, 2), in<T>(inputs, 3), static_cast<T*>(outputs[0].data()), shape[0], shape[1], shape[2], causal_ != 0, Each());
    });
    return true;
  }

 private:
  // A network run in half precision converts its constants too.
  static std::vector<float> floats(const ov::Tensor& tensor) {
    std::vector<float> made(tensor.get_size());
    by_type(tensor.get_element_type(), [&](auto of) {
      const auto* from = static_cast<const decltype(of)*>(tensor.data());
      for (size_t i = 0; i < made.size(); ++i) made[i] = edgeseg::read(from + i);
    });
    return made;
  }

  int64_t causal_ = 0;
};

class SelectiveScan : public ov::op::Op {
 public:
  OPENVINO_OP("SelectiveScan", "edgeseg");
  SelectiveScan() = default;
  explicit SelectiveScan(const ov::OutputVector& inputs) : Op(inputs) { constructor_validate_and_infer_types(); }

  void validate_and_infer_types() override {
    const auto& shape = get_input_partial_shape(0);
    for (size_t i = 0; i < get_input_size(); ++i) NODE_VALIDATION_CHECK(this, get_input_element_type(i).compatible(ov::element::f32), "SelectiveScan is computed in float32");
    NODE_VALIDATION_CHECK(this, shape.rank().compatible(3) && shape.compatible(get_input_partial_shape(1)), "SelectiveScan takes u and delta [B, T, D], A [D, N], B and C [B, T, N], D [D]");
    set_output_type(0, ov::element::f32, shape);
  }
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override { return std::make_shared<SelectiveScan>(inputs); }
  bool visit_attributes(ov::AttributeVisitor&) override { return true; }
  bool has_evaluate() const override { return true; }
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const auto shape = inputs[0].get_shape();
    outputs[0].set_shape(shape);
    const auto at = [&](size_t index) { return in<float>(inputs, index); };
    edgeseg::selective_scan({at(0), at(1), at(2), at(3), at(4), at(5), long(shape[0]), long(shape[1]), long(shape[2]), long(inputs[2].get_shape()[1])}, outputs[0].data<float>(), Each());
    return true;
  }
};

}  // namespace

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<LabelMap>>(),
    std::make_shared<ov::OpExtension<BiWKV>>(),
    std::make_shared<ov::OpExtension<SelectiveScan>>(),
    std::make_shared<ov::frontend::onnx::OpExtension<LabelMap>>("LabelMap", "edgeseg"),
    std::make_shared<ov::frontend::onnx::OpExtension<BiWKV>>("BiWKV", "edgeseg"),
    std::make_shared<ov::frontend::onnx::OpExtension<SelectiveScan>>("SelectiveScan", "edgeseg"),
}));
