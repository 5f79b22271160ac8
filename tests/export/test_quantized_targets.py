"""TensorRT and Core ML in whole numbers: the masks of the marked graph, weights of 8 bits, and zero in the middle everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.export import CoreMl, TensorRt, networks
from edgeseg.export.apart import acquaint
from edgeseg.export.target import Target
from edgeseg.export.tensorrt_lint import Graph, attribute, lint
from edgeseg.export.tensorrt_onnx import refuse, weights_turned
from edgeseg.parity import Picture, bad_hops, choose
from edgeseg.quantize.calibration import choose_images
from edgeseg.quantize.document import Quantization
from edgeseg.quantize.model import quantize
from edgeseg.quantize.post_training import apply
from edgeseg.quantize.scheme import Recipe
from edgeseg.runtimes import pixels
from edgeseg.runtimes.mil_interpreter import Program, model_file, parse, read_package
from edgeseg.students import Semantic, Stage, Student

pytest.importorskip("coremltools", reason="needs the extra coreml")

SIZE = (64, 96)
BAKES = ("pre", "labels")
IMAGES = 8
SAME = 0.998
"""Labels that a file shares with its graph in PyTorch, where only the order of sums differs: a sum that ends between two whole
numbers goes to the other one."""


class Small(Semantic):
    """A sum of two branches, a function that is not a ReLU, and channels that are always 0."""

    licence, paper, multiple = "Apache-2.0", "none", 8
    feature_info = (Stage(64, 4),)

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.name = "small"
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.Hardswish())
        self.body = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1))
        self.dead = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 64, 1, bias=False))
        nn.init.constant_(self.dead[0].bias, -1e3)  # type: ignore[arg-type]
        self.head = nn.Conv2d(64, classes, 1)

    def forward_features(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        return [torch.relu(x + self.body(x)) + self.dead(image)]

    def low_logits(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.forward_features(image)[0])
        return result


@pytest.fixture(scope="module")
def student(tiny_data: Data) -> Student:
    torch.manual_seed(0)
    made = Small(len(tiny_data.class_names))
    made.describe(tiny_data.class_names, tiny_data.palette)
    acquaint(made)
    return made.eval()


Make = Callable[[type[Target], str], Artifact]


@pytest.fixture(scope="module")
def make(student: Student, tiny_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Each artifact once."""
    made: dict[tuple[type[Target], str], Artifact] = {}

    def export(kind: type[Target], precision: Any) -> Artifact:
        out, target = tmp_path_factory.mktemp("made") / "out", kind(precision)
        if (kind, precision) not in made and precision == "fp32":
            made[kind, precision] = es.export_model(student, target, out, SIZE, BAKES, data=tiny_data)
        elif (kind, precision) not in made:
            made[kind, precision] = es.quantize_model(
                student, target, tiny_data, out, SIZE, IMAGES, recipe=Recipe(), data=tiny_data
            )
        return made[kind, precision]

    return export


def model_bytes(artifact: Artifact) -> int:
    return sum(entry.bytes for entry in artifact.manifest.files if entry.path.startswith("model"))


@pytest.mark.parametrize("precision", ["int8", "w8a32"])
@pytest.mark.parametrize("kind", [TensorRt, CoreMl])
def test_masks_survive_and_files_shrink(make: Make, kind: type[Target], precision: str) -> None:
    artifact = make(kind, precision)
    manifest = artifact.manifest
    assert manifest.ledger is not None
    assert manifest.ledger.passed, list(bad_hops(manifest.ledger))
    assert {hop.precision for hop in manifest.ledger.hops} == {precision}
    assert manifest.calibration is not None and manifest.calibration.count == IMAGES
    assert model_bytes(artifact) < 0.4 * model_bytes(make(kind, "fp32"))
    if precision == "w8a32":
        assert manifest.ledger.hops[1].same_label >= 0.999
        assert manifest.precision.executed == "fp32"


def test_a_package_says_that_it_computes_in_whole_numbers(make: Make) -> None:
    manifest = make(CoreMl, "int8").manifest
    assert manifest.precision.executed == "int8"
    assert manifest.conversion["arithmetic"] == "int8 6, fp16 1"  # all but what makes the logits


@pytest.fixture(scope="module")
def calibrated(student: Student, tiny_data: Data) -> Callable[[Target], Quantization]:
    return lambda target: quantize(student, target, SIZE, BAKES, choose_images(tiny_data, None, IMAGES), Recipe())


def test_a_file_for_tensorrt_says_what_the_marked_graph_says(
    make: Make, student: Student, tiny_data: Data, calibrated: Callable[[Target], Quantization]
) -> None:
    artifact = make(TensorRt, "int8")
    (network,) = networks(student, SIZE, BAKES)
    network.whole = apply(network, calibrated(TensorRt("int8")))
    options = onnxruntime.SessionOptions()
    # what is on by default rounds biases too, which TensorRT does not
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(artifact.model_file, options, providers=["CPUExecutionProvider"])
    shares = []
    for one in pictures(tiny_data):
        with torch.inference_mode():
            wanted = network.graph(torch.from_numpy(one.image)[None]).numpy()
        shares.append((session.run(None, {"image": one.image[None]})[0] == wanted).mean())
    assert np.mean(shares) >= SAME


def test_a_package_says_what_the_marked_graph_says(
    student: Student,
    tiny_data: Data,
    calibrated: Callable[[Target], Quantization],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32 outside: what float16 does is the ledger's to say."""
    target = CoreMl("int8")
    (network,) = networks(student, SIZE, BAKES, target.interface)
    network.whole = apply(network, calibrated(target))
    monkeypatch.setattr("edgeseg.kernels.coreml_ops.half_outside", lambda: None)
    program = read_package((tmp_path / target.write(network, tmp_path).files[0]).parent)
    assert "float16" not in {each.kind for step in program.steps for each in step.made}
    shares = []
    for one in pictures(tiny_data):
        planes = torch.from_numpy(one.image).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            wanted = network.graph(planes).numpy()
        shares.append((program.run({"image": one.image[None]})["labels"] == wanted).mean())
    assert np.mean(shares) >= SAME


def pictures(data: Data) -> list[Picture]:
    return choose(data, None, 4, SIZE)[1]


def products(graph: Graph) -> list[Any]:
    return [node for node in graph.model.graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize("precision", ["int8", "w8a32"])
def test_what_tensorrt_is_given(make: Make, precision: str) -> None:
    graph = Graph(onnx.load(make(TensorRt, precision).model_file))
    findings = lint(graph.model)
    assert [finding for finding in findings if finding.level == "error"] == []
    kinds = [node.op_type for node in graph.model.graph.node]
    assert kinds.count("QuantizeLinear") == 0 if precision == "w8a32" else kinds.count("QuantizeLinear") > 5
    for node in graph.model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = graph.constants[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()
    layers = [node for node in products(graph) if graph.maker(node.input[1], "DequantizeLinear")]
    assert len(layers) == len(products(graph)) - 1  # all but what makes the logits
    for node in layers:
        real = graph.maker(node.input[1], "DequantizeLinear")
        weight, scale = graph.constants[real.input[0]], graph.constants[real.input[1]]
        assert weight.dtype == np.int8 and scale.shape == (len(weight),) and attribute(real, "axis") == 0
        if graph.given(node, 2):
            assert graph.constants[node.input[2]].dtype == np.float32
    wrong = {finding.words.partition(" of ")[0] for finding in findings if precision == "w8a32"}
    assert wrong <= {"the activation"}  # said once for each layer, and once in all in the manifest
    assert str(make(TensorRt, precision).manifest.conversion["lint_findings"]).count("the activation of Conv") <= 1


def test_a_zero_point_other_than_0_is_refused(make: Make) -> None:
    model = onnx.load(make(TensorRt, "int8").model_file)
    rounding = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    zero = next(entry for entry in model.graph.initializer if entry.name == rounding.input[2])
    zero.CopyFrom(onnx.numpy_helper.from_array(np.int8(3), zero.name))
    findings = lint(model)
    said = {finding.words for finding in findings if finding.level == "error"}
    assert "QuantizeLinear has a zero point other than 0; TensorRT quantises symmetrically" in said
    with pytest.raises(EdgesegError, match="has a zero point other than 0"):
        refuse(findings, "10")


LINEAR = """g (float[4,3] x) => (float[4,2] y)
    <float[2] s = {0.5,0.25}, int8[2] z = {0,0}, int8[2,3] w = {1,2,3,4,5,6}, float one = {1.0}, int8 zero = {0}> {
      q = QuantizeLinear(x, one, zero) d = DequantizeLinear(q, one, zero)
      r = DequantizeLinear<axis=0>(w, s, z) t = Transpose<perm=[1,0]>(r) y = MatMul(d, t)
    }"""


def test_weights_of_a_linear_layer_stand_before_their_product() -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {LINEAR}')
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    before = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert [finding.words for finding in lint(model)] == ["the weight of MatMul is not quantised, so it runs in floats"]
    weights_turned(model)
    assert [node.op_type for node in model.graph.node].count("Transpose") == 0
    assert list(next(entry for entry in model.graph.initializer if entry.name == "w").dims) == [3, 2]
    assert lint(model) == []
    assert np.array_equal(onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})[0], before)


def test_weights_that_others_take_as_they_are_stay() -> None:
    text = LINEAR.replace("(float[4,2] y)", "(float[4,2] y, float[2,3] also)").replace("t = T", "also = Relu(r) t = T")
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    weights_turned(model)
    assert [node.op_type for node in model.graph.node].count("Transpose") == 1


@pytest.mark.parametrize("precision", ["int8", "w8a32"])
def test_what_core_ml_is_given(make: Make, precision: str) -> None:
    package = make(CoreMl, precision).model_file.parent
    program = read_package(package)
    made = "float16" if precision == "int8" else "float32"
    stored = [step for step in program.steps if step.operator == "constexpr_affine_dequantize"]
    assert len(stored) == 6
    for step in stored:
        whole, scale = step.given["quantized_data"], step.given["scale"]
        assert whole.dtype == torch.int8 and int(whole.abs().max()) == 127
        assert scale.shape == (len(whole),) and step.given["axis"] == 0
        assert not np.any(step.given["zero_point"])
        assert step.made[0].kind == made
    marks = [step for step in program.steps if step.operator in ("quantize", "dequantize")]
    assert bool(marks) == (precision == "int8")
    for step in marks:
        assert "zero_point" not in step.given  # which is 0
        assert step.given["scale"] >= 2**-14  # the channel that is always 0 has none of its own
    assert parse(model_file(package)).specificationVersion == 8


def test_a_value_that_is_always_0_makes_no_nan(make: Make) -> None:
    program: Program = read_package(make(CoreMl, "int8").model_file.parent)
    values = program.given({"image": pixels.pattern(*SIZE)[None]})
    assert all(bool(values[each.name].isfinite().all()) for step in program.executed(values) for each in step.made)
