"""Files for TensorRT, what is known of them before it is asked, and its engines: built and run here by one that only seems to be it."""

from __future__ import annotations

import ctypes
import importlib.machinery
import json
import operator
import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import edgeseg as es
from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.data import Data
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.export.deployed import Length
from edgeseg.export.target import TARGETS, from_options
from edgeseg.export.tensorrt_build import Options, build_engines, trtexec_lines
from edgeseg.export.tensorrt_lint import Finding, lint, support
from edgeseg.export.tensorrt_onnx import TensorRt, bytes_last, fitted, floats_first, in_words, profile_of, shapes_of
from edgeseg.kernels.onnx_function import DOMAIN, register_schemas
from edgeseg.locate import locate_with
from edgeseg.manifest import Decoder, Source
from edgeseg.parity import bad_hops, verify_with
from edgeseg.runs import save
from edgeseg.runtimes import tensorrt_engine
from edgeseg.runtimes.base import Opening, PromptSession
from edgeseg.runtimes.tensorrt_engine import EngineCard, Gpu, check_engine, layers_of, plan_version, precisions
from edgeseg.students import Semantic, Student
from tests.export.test_broken import Asked
from tests.students.test_registry import families, fresh, settled, sizes

SIZE = (64, 96)
ORIN = Gpu("Orin (nvgpu)", "8.7", "12.6")


def read(text: str, opset: int = 20, ir: int = 10) -> Any:
    """A model in ONNX's own notation."""
    head = f'<ir_version: {ir}, opset_import: ["" : {opset}, "edgeseg" : 1]> '
    return onnx.parser.parse_model(head + text)


def said(text: str, line: str = "10", free: tuple[str, ...] = (), opset: int = 20) -> list[Finding]:
    return lint(read(text, opset), line, free)


# ---------------------------------------------------------------------------------------------------------------- linter


def test_the_table_is_that_of_a_version() -> None:
    ten, eleven = support("10"), support("11")
    assert ten.source.startswith("https://github.com/onnx/onnx-tensorrt/blob/")
    assert (ten.tensorrt, ten.opsets) == ("10.1", (9, 20))
    assert len(ten.operators) == 196
    assert ten.operators["Conv"]["types"] == ["FP32", "FP16", "BF16"]
    assert not ten.operators["QLinearConv"]["types"]
    assert set(ten.operators) < set(eleven.operators)
    assert "FP8" in eleven.operators["Attention"]["types"]
    with pytest.raises(EdgesegError, match="no table of TensorRT 8; there is 10 and 11"):
        support("8")


CLEAN = """g (uint8[1,4,4,3] image) => (uint8[1,8,8] labels)
<int64[4] to = {1,3,8,8}> {
  x = Cast<to=1>(image)
  p = Transpose<perm=[0,3,1,2]>(x)
  up = Resize<mode="linear">(p, , , to)
  most = ArgMax<axis=1, keepdims=0>(up)
  whole = Cast<to=1>(most)
  labels = Cast<to=2>(whole)
}"""


def test_what_is_well_has_no_findings() -> None:
    assert said(CLEAN) == []
    assert said(CLEAN, "11") == []


WRONG = {
    "g (uint8[1,4,4,3] x) => (float[1,3,4,4] y) { t = Transpose<perm=[0,3,1,2]>(x) y = Cast<to=1>(t) }":
        "uint8 goes into Transpose; TensorRT takes a Cast to float only",
    "g (float[1,4] x) => (uint8[1,4] y) { n = Cast<to=7>(x) y = Cast<to=2>(n) }":
        "Cast of INT64 to UINT8; TensorRT has it for FP32 and FP16",
    "g (float[1,4] x) => (float[1,4] y) { n = Cast<to=2>(x) y = Cast<to=1>(n) }":
        "n is UINT8 within the network",
    'g (float[1,3,4,4] x) => (float[1,3,8,8] y) <float[4] s = {1.0,1.0,2.0,2.0}> { y = Resize<mode="cubic">(x, , s) }':
        "Resize with mode cubic; TensorRT has nearest, linear",
    'g (float[1,3,4,4] x) => (float[1,3,8,8] y) <float[4] s = {1.0,1.0,2.0,2.0}> '
    '{ y = Resize<mode="linear", antialias=1>(x, , s) }':
        "Resize with antialias 1",
    'g (float[1,3,4,4] x) => (float[1,3,8,8] y) <float[4] s = {1.0,1.0,2.0,2.0}> '
    '{ y = Resize<mode="linear", coordinate_transformation_mode="half_pixel_symmetric">(x, , s) }':
        "coordinate_transformation_mode half_pixel_symmetric",
    'g (float[2,3,4,4] x) => (float[4,3,8,8] y) <float[4] s = {2.0,1.0,2.0,2.0}> { y = Resize<mode="linear">(x, , s) }':
        "Resize interpolates from axis 0 of 4; TensorRT the last 3 only",
    "g (double[1,4] x) => (double[1,4] y) { y = Relu(x) }":
        "Relu of FP64; TensorRT has it for FP32, FP16, BF16, INT32, INT64",
    "g (int32[1,4] x) => (int32[1,4] y) { y = BitwiseNot(x) }":
        "BitwiseNot has no importer in TensorRT 10.1",
    "g (float[1,4] x) => (float[1,4] y) { y = Mystery(x) }":
        "Mystery is not in the table of TensorRT 10.1",
    "g (float[1,4,N] x) => (float[1,4,N] y) { y = Relu(x) }":
        r"axis 2 \(N\) is free and in no profile",
    "g (float[1,4] x, int64 a) => (float[1,4] y) { y = CumSum(x, a) }":
        "input 1 of CumSum has to be a constant",
    "g (float[1,3,8,8] x) => (float[1,3,4,4] y, int64[1,3,4,4] i) "
    "{ y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }":
        "MaxPool gives no indices",
    "g (float[1,3,8,8] x) => (float[1,3,4,4] y) { y = MaxPool<kernel_shape=[3,3], strides=[1,1], dilations=[2,2]>(x) }":
        "MaxPool takes no dilations",
    "g (float[1,3,8] x) => (float[1,3,4] y) { y = AveragePool<kernel_shape=[2], strides=[2]>(x) }":
        "AveragePool is in 2D or 3D only",
    "g (float[1,9000] x) => (float[1,4000] y, int64[1,4000] i) <int64[1] k = {4000}> { y, i = TopK(x, k) }":
        "TopK of 4000; TensorRT stays below 3840",
    "g (float[1,1,1,1,1,1,1,1] x) => (float[1,1,1,1,1,1,1,1,1] y) <int64[1] a = {0}> { y = Unsqueeze(x, a) }":
        "y has 9 axes, TensorRT at most 8",
    "g (float16[3] d, float[3] b, float[1,4,3] k, float[1,4,3] v) => (float[1,4,3] y) "
    "{ y = edgeseg.BiWKV<causal=0>(d, b, k, v) }":
        "input 0 of BiWKV is FP16; its plugin takes FP32",
    "g (float[2,2] x) => (int64[2,N] y) { y = NonZero(x) }":
        "the length of what NonZero gives depends on the data",
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), list(WRONG.items()), ids=list(WRONG.values()))
def test_what_tensorrt_does_not_take_is_said(text: str, words: str) -> None:
    findings = said(text)
    assert [finding for finding in findings if re.search(words, finding.words)], findings


def test_an_axis_of_a_profile_is_free_and_operator_sets_are_bounded() -> None:
    text = "g (float[1,4,N] x) => (float[1,4,N] y) { y = Relu(x) }"
    assert said(text, free=("N",)) == []
    assert [finding.words for finding in said(text, free=("N",), opset=21)] == [
        "operator set 21, TensorRT 10 reads 9 to 20"
    ]
    assert said(text, "11", ("N",), opset=21) == []


def test_a_network_is_strongly_typed() -> None:
    """ONNX's own checker refuses most of it, but not what is hidden behind types that it does not infer."""
    model = read("g (float[1,4] x) => (float[1,4] y) { h = Cast<to=10>(x) y = Add(x, h) }")
    graph = onnx.shape_inference.infer_shapes(model)
    assert [str(each) for each in lint(graph)] == ["Add y: Add mixes FP16 and FP32 in a strongly typed network"]


def quantised(
    weight: str = "", activation: str = "qa, sa, z", bias: str = "b", zero: int = 0, scale: float = 0.1
) -> str:
    """A convolution between Q and DQ as they should stand, with parts to spoil."""
    weight = weight or "<axis=0>(w, sw, zw)"
    return f"""g (float[1,2,4,4] x) => (float[1,3,2,2] y)
    <float sa = {{{scale}}}, int8 z = {{{zero}}}, int8[3,2,3,3] w = {{{",".join(["1"] * 54)}}}, float[3] sw = {{0.1,0.1,0.2}},
     float[2] two = {{0.1,0.2}}, int8[2] z2 = {{0,0}}, int8[3] zw = {{0,0,0}}, float s1 = {{0.1}}, float[3] b = {{0,0,0}},
     int32[3] qb = {{1,2,3}}> {{
      qa = QuantizeLinear(x, sa, z)
      da = DequantizeLinear({activation})
      dw = DequantizeLinear{weight}
      db = DequantizeLinear(qb, s1)
      y = Conv(da, dw, {bias})
    }}"""


QUANTISED = [
    (quantised(), None),
    (quantised(zero=3), "QuantizeLinear has a zero point other than 0"),
    (quantised(scale=-0.1), "QuantizeLinear has a scale that is not positive"),
    (quantised(weight="<axis=1>(w, two, z2)"), "weight are along axis 1, not its channels' 0"),
    (quantised(bias="db"), "the bias of Conv is quantised"),
    (quantised(activation="qa, two, z2"), "DequantizeLinear of an activation has a scale per channel"),
    (quantised(weight="<axis=0>(w, two, z2)"), "DequantizeLinear has 2 scales along axis 0 of [3, 2, 3, 3]"),
    (quantised(weight="<axis=0>(w, sw, z2)"), "DequantizeLinear has 3 scales and 2 zero points"),
    (quantised(activation="qa, s1, z", scale=0.2), "DequantizeLinear has another scale than its QuantizeLinear"),
    (quantised().replace("(x, sa, z)", "(x, sa)"), "QuantizeLinear with UINT8; TensorRT quantises to INT8"),
    (quantised().replace("y = Conv", "m = Identity(qa) y = Conv"), "Identity takes what QuantizeLinear gives; TensorRT wants"),
    (quantised().replace("=> (float[1,3,2,2] y)", "=> (float[1,3,2,2] y, int8[1,2,4,4] qa)"), "the output takes what Q"),
    (quantised().replace("x) =>", "x, int8[1,2,4,4] given) =>").replace("(qa, sa", "(given, sa"), "of what no QuantizeLinear gives"),
    (quantised().replace("y = Conv(da,", "y = Conv(x,"), "the activation of Conv is not quantised, so it runs in floats"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), QUANTISED, ids=[str(words) for _, words in QUANTISED])
def test_q_and_dq_stand_where_tensorrt_fuses_them(text: str, words: str | None) -> None:
    findings = [finding for finding in said(text) if "qb" not in finding.node and not finding.node.endswith(" db")]
    if words is None:
        assert findings == []
    else:
        assert [finding for finding in findings if words in finding.words], findings


SUM = """g (float[1,2,4,4] x, float[1,2,4,4] other) => (float[1,2,4,4] y)
    <float s = {0.1}, int8 z = {0}, int8[2,2,1,1] w = {1,2,3,4}> {
      qx = QuantizeLinear(x, s, z) dx = DequantizeLinear(qx, s, z) dw = DequantizeLinear(w, s, z)
      c = Conv(dx, dw)             qc = QuantizeLinear(c, s, z)    dc = DequantizeLinear(qc, s, z)
      qo = QuantizeLinear(other, s, z)                             do = DequantizeLinear(qo, s, z)
      a = Add(dc, do)              r = Relu(a)
      qr = QuantizeLinear(r, s, z)                                 y = DequantizeLinear(qr, s, z)
    }"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SUM, ["Conv is rounded before Add, so TensorRT does not fuse the two"]),
        (SUM.replace("Add(dc,", "Add(c,"), []),  # the other summand's Q and DQ are enough
        (SUM.replace("(r, s, z)", "(x, s, z)"), [  # nobody rounds the sum
            "Add takes rounded numbers and gives floats; TensorRT fuses neither",
            "Conv is rounded before Add, so TensorRT does not fuse the two",
        ]),
    ],
    ids=["both summands", "one summand", "no result"],
)  # fmt: skip
def test_where_q_and_dq_are_not_fused_is_a_warning(text: str, words: list[str]) -> None:
    findings = said(text)
    assert [finding.words for finding in findings] == words
    assert {finding.level for finding in findings} <= {"warning"}


def test_what_is_said_of_many_nodes_is_said_once() -> None:
    findings = [Finding("warning", name, "slow") for name in ("a", "b", "c")] + [Finding("warning", "d", "odd")]
    assert in_words(findings) == "a and 2 more: slow; d: odd"
    assert in_words([]) is None


def test_a_bias_of_int32_is_no_quantised_type() -> None:
    assert "DequantizeLinear db: DequantizeLinear with INT32; TensorRT quantises to INT8, FP8 or INT4" in map(
        str, said(quantised())
    )


# ---------------------------------------------------------------------------------------------------------------- export


class Small(Semantic):
    """Three convolutions: exported in a second."""

    licence, paper, multiple = "Apache-2.0", "none", 8

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.name = "small"
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(8, classes, 1)

    def forward_features(self, image: Tensor) -> list[Tensor]:
        return [self.body(image)]

    def low_logits(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(image))
        return result


def small(classes: int) -> Small:
    torch.manual_seed(0)
    made = Small(classes)
    made.head.weight.data *= 8  # masks that are decided
    return made


@pytest.fixture(scope="module")
def student(tiny_data: Data) -> Student:
    made = small(len(tiny_data.class_names))
    made.describe(tiny_data.class_names, tiny_data.palette)
    return made.eval()


Make = Callable[..., Artifact]


@pytest.fixture(scope="module")
def make(student: Student, tiny_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Each artifact is exported once; a test gets a copy that it may change."""
    folder = tmp_path_factory.mktemp("tensorrt")

    def export(bake: tuple[str, ...] = ("pre", "labels"), **options: Any) -> Artifact:
        whole = folder / repr((bake, options))
        if not whole.exists():
            es.export_model(student, TensorRt(**options), whole, SIZE, bake, data=tiny_data)
        return Artifact.open(shutil.copytree(whole, tmp_path_factory.mktemp("copy") / "artifact"))

    return export


def nodes(artifact: Artifact) -> tuple[Any, list[Any]]:
    model = onnx.load(artifact.model_file)
    return model, [node for node in model.graph.node if node.domain == DOMAIN]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("ops", ["auto", "plugin", "graph"])
def test_a_file_for_tensorrt_draws_the_masks_in_its_stand_in(make: Make, precision: str, ops: str) -> None:
    artifact = make(precision=precision, ops=ops)
    manifest, (model, ours) = artifact.manifest, nodes(artifact)
    assert manifest.ledger is not None
    assert manifest.ledger.passed, list(bad_hops(manifest.ledger))
    assert manifest.ledger.hops[-1].name == "student -> tensorrt in onnxruntime"
    assert [len(ours), len(model.functions)] == {"auto": [1, 1], "plugin": [1, 0], "graph": [0, 0]}[ops]
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for node in ours for entry in node.attribute}
    assert attributes.get("plugin_namespace") == (b"edgeseg" if ops == "plugin" else None)
    assert lint(model) == []
    sources = {f"plugin/{name}" for name in ("tensorrt.cu", "cuda_kernels.cuh", "cuda_shim.h", "vec.h")}
    held = {entry.path for entry in manifest.files}
    assert held - {"plugin/libedgeseg_tensorrt.so"} == {"model.onnx"} | (sources if ours else set())
    facts = manifest.conversion
    assert facts["opset"] == 20
    assert facts["nodes"] == len(model.graph.node)
    assert (facts["lint"], facts["lint_findings"], facts["min_shapes"]) == (0, None, None)
    assert facts["plugin_library"] == ("plugin/libedgeseg_tensorrt.so" if len(held) == 6 else None)
    assert from_options(manifest.target, "manifest") == TensorRt(precision=precision, ops=ops)  # type: ignore[arg-type]


def test_bytes_are_only_where_the_network_begins_and_ends(make: Make) -> None:
    for precision in ("fp32", "fp16"):
        model, _ = nodes(make(precision=precision))
        first = [node for node in model.graph.node if "image" in node.input]
        assert [node.op_type for node in first] == ["Cast"]
        label = next(node for node in model.graph.node if "labels" in node.output)
        before = next(node for node in model.graph.node if label.input[0] in node.output)
        assert (label.op_type, before.op_type, before.attribute[0].i) == ("Cast", "Cast", onnx.TensorProto.FLOAT)
        kinds = {entry.name: entry.type.tensor_type.elem_type for entry in (*model.graph.input, *model.graph.output)}
        assert kinds == {"image": onnx.TensorProto.UINT8, "labels": onnx.TensorProto.UINT8}
        assert onnx.TensorProto.UINT8 not in [entry.type.tensor_type.elem_type for entry in model.graph.value_info]


def test_float16_is_in_the_file(make: Make) -> None:
    model, _ = nodes(make(bake=(), precision="fp16"))
    weights = {entry.data_type for entry in model.graph.initializer if len(entry.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}
    assert {entry.type.tensor_type.elem_type for entry in (*model.graph.input, *model.graph.output)} == {1}


def test_a_boolean_becomes_bytes_by_way_of_a_float() -> None:
    model = read("""g (uint8[1,2,2,3] image) => (uint8[1,3,2,2] masks) <float zero = {0.0}> {
        p = Transpose<perm=[0,3,1,2]>(image)  x = Cast<to=1>(p)  more = Greater(x, zero)  masks = Cast<to=2>(more) }""")
    wanted = onnx.reference.ReferenceEvaluator(model)
    given = {"image": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)}
    before = wanted.run(None, given)
    floats_first(model)
    bytes_last(model)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Transpose", "Greater", "Cast", "Cast"]
    assert lint(model) == []
    assert np.array_equal(onnx.reference.ReferenceEvaluator(model).run(None, given)[0], before[0])


def test_bytes_in_the_middle_are_refused() -> None:
    model = read("g (float[1,4] x) => (float[1,4] y) { n = Cast<to=2>(x) y = Cast<to=1>(n) }")
    with pytest.raises(EdgesegError, match="n is uint8 within the network"):
        bytes_last(model)


class Enlarging(Small):
    """Enlarges in ways that TensorRT's parser does not have."""

    def __init__(self, **options: Any) -> None:
        super().__init__(5)
        self.enlarging = options

    def low_logits(self, image: Tensor) -> Tensor:
        return nn.functional.interpolate(super().low_logits(image), mode="bicubic", **self.enlarging)


@pytest.mark.parametrize(
    "options", [{"size": (31, 50)}, {"scale_factor": 2}, {"size": (20, 30), "align_corners": True}]
)
def test_cubic_enlarging_is_two_products(options: dict[str, Any], tmp_path: Path) -> None:
    artifact = es.export_model(Enlarging(**options).eval(), TensorRt(), tmp_path / "out", SIZE)
    assert artifact.manifest.ledger is not None
    assert artifact.manifest.ledger.passed, list(bad_hops(artifact.manifest.ledger))
    kinds = [node.op_type for node in nodes(artifact)[0].graph.node]
    assert kinds.count("MatMul") == 2


def test_what_tensorrt_does_not_have_is_not_exported(tmp_path: Path) -> None:
    made = Enlarging(scale_factor=2, antialias=True)
    with pytest.raises(
        EdgesegError, match=r"TensorRT 10 does not take this network: .*Resize with mode cubic"
    ) as caught:
        es.export_model(made, TensorRt(), tmp_path / "out", SIZE)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_options_are_checked_when_given() -> None:
    with pytest.raises(EdgesegError, match="line is 10 or 11, got '8'"):
        TensorRt(line="8")  # type: ignore[arg-type]
    with pytest.raises(EdgesegError, match="an engine takes 1 prompt of 1 place at least, got 0 of 16"):
        TensorRt(prompts=0)
    assert TARGETS["engine"] is TARGETS["trt"] is TensorRt


def test_a_profile_is_what_trtexec_takes() -> None:
    network = SimpleNamespace(
        dynamic={key: {0: Length("prompts"), 1: Length("places")} for key in ("points", "labels")},
        feeds=lambda: {"map_0": torch.zeros(1, 8, 4, 4), "points": torch.zeros(2, 3, 2), "labels": torch.zeros(2, 3)},
    )
    facts = TensorRt(prompts=32, places=8).profile(network)  # type: ignore[arg-type]
    assert facts == {
        "min_shapes": "points:1x1x2,labels:1x1",
        "opt_shapes": "points:1x2x2,labels:1x2",
        "max_shapes": "points:32x8x2,labels:32x8",
    }
    assert shapes_of("a:0:1x2") == {"a:0": (1, 2)}
    assert profile_of({f"decoder_{name}": fact for name, fact in facts.items()}, "decoder_")["labels"] == (
        (1, 1), (1, 2), (32, 8),
    )  # fmt: skip
    assert profile_of({}) == {}


def test_a_profile_of_free_sizes_is_likely_to_see_the_usual_one() -> None:
    free = {0: Length("batch", 1, 1, 4), 2: Length("height", 8, 24, 90), 3: Length("width", 8, 32, 120)}
    network = SimpleNamespace(dynamic={"image": free}, feeds=lambda: {"image": torch.zeros(1, 3, 360, 480)})
    assert TensorRt().profile(network) == {  # type: ignore[arg-type]
        "min_shapes": "image:1x3x192x256",
        "opt_shapes": "image:1x3x360x480",
        "max_shapes": "image:4x3x720x960",
    }


@pytest.mark.parametrize(("shape_of", "errors"), [("x", 0), ("other", 1)])
def test_a_resize_whose_sizes_begin_with_its_own_shape_keeps_those_axes(shape_of: str, errors: int) -> None:
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Shape", [shape_of], ["kept"], end=2),
        make("Concat", ["kept", "wanted"], ["sizes"], axis=0),
        make("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", name="up"),
    ]
    given = [value(name, 1, ["batch", 8, "height", "width"]) for name in ("x", "other")]
    graph = onnx.helper.make_graph(nodes, "g", [*given, value("wanted", 7, [2])], [value("y", 1, [None] * 4)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    findings = lint(model, "10", {"batch", "height", "width"})
    assert sum("interpolates from axis 0" in str(finding) for finding in findings) == errors


def test_a_file_with_bodies_is_fitted_to_what_builds_it(make: Make) -> None:
    model, _ = nodes(make(ops="auto"))
    stripped, plain = fitted(model, True), fitted(model, False)
    assert not stripped.functions
    assert not plain.functions
    assert [node.op_type for node in stripped.graph.node if node.domain == DOMAIN] == ["LabelMap"]
    assert [node.domain for node in plain.graph.node if node.domain == DOMAIN] == []
    assert fitted(plain, True) is plain


def test_bodies_that_only_an_overload_tells_apart_are_a_warning() -> None:
    register_schemas()
    text = """g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }
    <domain: "edgeseg", overload: "", opset_import: ["" : 20]> LabelMap (logits) => (out) { out = Relu(logits) }"""
    model = read(text)
    other = model.functions.add()
    other.CopyFrom(model.functions[0])
    other.overload = "1"
    assert [(each.level, each.node) for each in lint(model)] == [("warning", "LabelMap")]


@pytest.mark.wide
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", families())
def test_every_family_passes_its_ledger(name: str, precision: str, tmp_path: Path) -> None:
    call = "from tests.export.test_tensorrt_target import prove; "
    fresh(f"exec({call!r}); prove({name!r}, {precision!r}, {str(tmp_path)!r})")


def prove(name: str, precision: Any, folder: str) -> None:
    made = settled(name)
    for ops, bake in (("plugin", ("pre", "labels")), ("graph", ("pre", "labels")), ("auto", ())):
        target = TensorRt(precision=precision, ops=ops)  # type: ignore[arg-type]
        manifest = es.export_model(made, target, Path(folder) / ops, sizes(made)[0], bake).manifest
        assert manifest.ledger is not None
        assert manifest.ledger.passed, (ops, list(bad_hops(manifest.ledger)))


# --------------------------------------------------------------------------------------------------------------- engines


class Memory:
    """A driver whose device is a dictionary."""

    def __init__(self, gpu: Gpu = ORIN) -> None:
        self._gpu, self.held, self.calls = gpu, {}, []  # type: ignore[var-annotated]

    def gpu(self) -> Gpu:
        return self._gpu

    def use(self) -> None:
        self.calls.append("use")

    def stream(self) -> int:
        return 7

    def allocate(self, count: int) -> int:
        address = 4096 * (len(self.calls) + 1)
        self.calls.append("allocate")
        self.held[address] = bytearray(count)
        return address

    def free(self, address: int) -> None:
        del self.held[address]

    def to_device(self, address: int, array: Any, stream: int) -> None:
        self.held[address][: array.nbytes] = array.tobytes()

    def to_host(self, array: Any, address: int, stream: int) -> None:
        array[...] = np.frombuffer(bytes(self.held[address][: array.nbytes]), array.dtype).reshape(array.shape)

    def wait(self, stream: int) -> None:
        assert stream == 7

    def end(self, stream: int) -> None:
        assert stream == 7


LAYERS = {
    "Layers": [
        {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Channel major FP16 format"}]},
        {"Name": "b", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}]},
        {"Name": "c", "LayerType": "Convolution", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
        {"Name": "d", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
    ]
}


class Engine:
    """What the bytes of a plan compute, by ONNX Runtime."""

    def __init__(self, content: bytes, memory: Memory, most: dict[str, tuple[int, ...]]) -> None:
        import onnxruntime

        from edgeseg.kernels.build import library

        options = onnxruntime.SessionOptions()
        if any(node.domain == DOMAIN for node in onnx.load_from_string(content).graph.node):
            options.register_custom_ops_library(str(library("onnxruntime")))
        self._session, self._memory = onnxruntime.InferenceSession(content, options), memory
        self._kinds = {each.name: each for each in (*self._session.get_inputs(), *self._session.get_outputs())}
        self._most = most
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._free: dict[str, int] = {}

    def get_tensor_dtype(self, name: str) -> Any:
        return {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[self._kinds[name].type]

    def create_execution_context(self) -> Engine:
        return self

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda form: json.dumps(LAYERS))

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        return [(1, 1), (1, 2), (4, 16)]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        for said, length in zip(self._kinds[name].shape, shape, strict=True):
            if isinstance(said, str):
                self._free[said] = length
            elif said != length:
                return False
        self._shapes[name] = shape
        most = self._most.get(name, shape)
        return max(self._free.values(), default=0) <= 64 and all(map(operator.le, shape, most))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._free.get(side, side) for side in self._kinds[name].shape)

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {}
        for name, shape in self._shapes.items():
            kind = np.dtype(self.get_tensor_dtype(name))
            raw = bytes(self._memory.held[self._addresses[name]])[: int(np.prod(shape)) * kind.itemsize]
            feeds[name] = np.frombuffer(raw, kind).reshape(shape)
        for each, made in zip(self._session.get_outputs(), self._session.run(None, feeds), strict=True):
            self._memory.held[self._addresses[each.name]][: made.nbytes] = made.tobytes()
        return True


def plan(version: str, content: bytes = b"") -> bytes:
    return struct.pack("<II", 0x74727466, 0) + bytes(16) + bytes([*map(int, version.split(".")), 5]) + content


def pretend(version: str, memory: Memory, calls: list[Any], refuse: str = "", fail: str = "") -> ModuleType:
    """A module that is asked as TensorRT is, and notes it."""
    trt: Any = ModuleType("tensorrt")
    most: dict[str, tuple[int, ...]] = {}
    trt.__version__, trt.__spec__ = version, importlib.machinery.ModuleSpec("tensorrt", None)

    class Logger:
        ERROR, INTERNAL_ERROR = "error", "internal"

    class Parser:
        def __init__(self, network: Any, log: Any) -> None:
            self._network = network
            self.num_errors = 1 if refuse else 0

        def parse(self, content: bytes) -> bool:
            calls.append("parse")
            self._network.content = content
            return not refuse

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: refuse)

    class Config:
        def set_memory_pool_limit(self, pool: str, count: int) -> None:
            calls.append((pool, count))

        def clear_flag(self, flag: str) -> None:
            calls.append(("without", flag))

        def create_timing_cache(self, content: bytes) -> bytes:
            return content

        def set_timing_cache(self, cache: bytes, ignore: bool) -> None:
            calls.append(("cache", cache, ignore))

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: b"more")

        def add_optimization_profile(self, profile: Any) -> None:
            calls.append("profile")

    class Builder:
        def __init__(self, log: Any) -> None:
            self._log = log

        def create_network(self, flags: int) -> Any:
            calls.append(("network", flags))
            return SimpleNamespace(content=b"")

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Any:
            def set_shape(name: str, *shapes: tuple[int, ...]) -> None:
                calls.append((name, *shapes))
                most[name] = shapes[2]

            return SimpleNamespace(set_shape=set_shape)

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            calls.append(("build", config.profiling_verbosity))
            if fail:
                self._log.log("error", fail)
                return None
            return plan(".".join(version.split(".")[:3]), network.content)

    class Runtime:
        def __init__(self, log: Any) -> None:
            pass

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            return Engine(content[28:], memory, most)

    trt.ILogger, trt.OnnxParser, trt.Builder, trt.Runtime = Logger, Parser, Builder, Runtime
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    trt.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    trt.BuilderFlag = SimpleNamespace(TF32="tf32")
    trt.LayerInformationFormat = SimpleNamespace(JSON="json")
    trt.nptype = lambda kind: kind

    def load_library(path: str) -> str:
        calls.append(("load", path))
        return path

    trt.get_plugin_registry = lambda: SimpleNamespace(load_library=load_library)
    made: ModuleType = trt
    return made


Device = Callable[..., list[Any]]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Make this machine one with TensorRT and a GPU; the calls that TensorRT gets."""

    def become(version: str = "10.3.0", gpu: Gpu = ORIN, plugin: Path | None = None, **options: str) -> list[Any]:
        calls: list[Any] = []
        memory = Memory(gpu)
        monkeypatch.setitem(sys.modules, "tensorrt", pretend(version, memory, calls, **options))
        for module in ("runtimes.tensorrt_engine", "export.tensorrt_build"):
            monkeypatch.setattr(f"edgeseg.{module}.driver", lambda: memory)

        def library(arches: tuple[int, ...] = ()) -> Path:
            if plugin is None:
                raise MissingTool("no nvcc here")
            calls.append(("compile", arches))
            return plugin

        monkeypatch.setattr("edgeseg.kernels.tensorrt_plugin.plugin", library)
        monkeypatch.setattr(tensorrt_engine, "_loaded", set())
        return calls

    return become


def test_an_engine_is_built_and_proven_on_its_device(
    make: Make, student: Student, tiny_data: Data, device: Device, tmp_path: Path
) -> None:
    artifact = make(precision="fp16")
    cache, library = tmp_path / "timing.cache", tmp_path / "plugin.so"
    cache.write_bytes(b"known")
    calls = device(plugin=library)
    (card,) = build_engines(artifact, Options(workspace_mb=512, timing_cache=cache))
    assert calls == [
        ("compile", (87,)),
        ("load", str(library)),
        ("network", 2),
        "parse",
        ("workspace", 512 << 20),
        ("cache", b"known", False),
        ("build", "detailed"),
    ]
    assert cache.read_bytes() == b"more"
    engine = artifact.folder / "model.engine"
    assert b"plugin_namespace" in engine.read_bytes()  # 10.3 does not read the domain
    assert schema.read(EngineCard, artifact.folder / "engine.json") == card
    assert (card.tensorrt, card.gpu, card.plugin, card.bytes) == (
        "10.3.0", ORIN, str(library), engine.stat().st_size,
    )  # fmt: skip
    proven = Artifact.open(artifact.folder)
    assert es.verify(proven, student).passed
    manifest = Artifact.open(artifact.folder).manifest
    assert manifest.ledger is not None
    assert manifest.ledger.hops[-1].name == "student -> tensorrt"
    assert (manifest.precision.executed, manifest.op_tiers) == ("fp16", {"label_map": "plugin"})
    execution = proven.session.execution
    assert (execution.runtime, execution.version, execution.placed) == ("tensorrt", "10.3.0", {"GPU": 4})
    assert execution.settings["arithmetic"] == "fp16 2, fp32 1"
    assert execution.settings["gpu"] == ORIN.name
    proven.session.close()


def test_without_a_compiler_there_the_bodies_are_built(make: Make, device: Device) -> None:
    artifact = make()
    calls = device("11.1.0")
    (card,) = build_engines(artifact, Options())
    assert calls == [("network", 0), "parse", ("without", "tf32"), ("build", "detailed")]
    assert card.plugin is None
    assert artifact.predict(np.zeros((*SIZE, 3), np.uint8)).shape == SIZE
    asked = make(ops="plugin")
    with pytest.raises(MissingTool, match="no nvcc here"):
        build_engines(asked, Options())
    assert not (asked.folder / "model.engine").exists()


def test_what_goes_wrong_in_a_build_is_one_line(make: Make, device: Device, tmp_path: Path) -> None:
    artifact = make(ops="graph")
    for options, words in (
        ({"refuse": "In node 3:\n  no importer"}, r"TensorRT 10.3.0 cannot read .*model.onnx: In node 3: no importer; export with"),
        ({"fail": "out of\nmemory"}, r"TensorRT 10.3.0 cannot build .*model.onnx: out of memory"),
        ({"version": "8.6.1"}, "TensorRT 8.6.1 is too old"),
    ):  # fmt: skip
        device(**options)
        with pytest.raises(EdgesegError, match=words) as caught:
            build_engines(artifact, Options())
        assert "\n" not in str(caught.value)
    assert not (artifact.folder / "model.engine").exists()
    with pytest.raises(EdgesegError, match="the workspace is at least 1 MiB, got 0"):
        Options(workspace_mb=0)


def test_a_device_without_an_engine_says_what_to_run(make: Make, device: Device) -> None:
    artifact = make()
    device()
    with pytest.raises(EdgesegError, match=r"no model.engine beside .*; run edgeseg build"):
        artifact.predict(np.zeros((*SIZE, 3), np.uint8))


def test_an_export_on_the_device_itself_is_proven_in_the_stand_in(
    student: Student, tiny_data: Data, device: Device, tmp_path: Path
) -> None:
    device()
    ledger = es.export_model(student, TensorRt(), tmp_path / "out", SIZE, data=tiny_data).manifest.ledger
    assert ledger is not None
    assert ledger.hops[-1].name == "student -> tensorrt in onnxruntime"


def test_an_engine_is_bisected_in_the_stand_in(make: Make, student: Student, tiny_data: Data, device: Device) -> None:
    """Files that are looked at once have no engines, and none is built for them."""
    artifact = make(ops="graph")
    device()
    build_engines(artifact, Options())
    found = locate_with(artifact, student, tiny_data)
    assert found.stages
    assert found.first is None
    assert "a fresh export to tensorrt in onnxruntime is within" in found.words
    assert "or it is tensorrt itself, which onnxruntime stood in for" in found.words


@pytest.mark.parametrize("parts", [("",), ("encoder", "decoder")], ids=["semantic", "promptable"])
def test_the_advice_names_the_artifact(tmp_path: Path, parts: tuple[str, ...]) -> None:
    artifact = tmp_path / "an artifact"
    for part in parts:
        (artifact / part).mkdir(parents=True, exist_ok=True)
        (artifact / part / "model.onnx").touch()
    (artifact / "manifest.json").touch()
    for part in parts:
        with pytest.raises(EdgesegError, match=rf"; run edgeseg build {re.escape(str(artifact))}$"):
            check_engine(artifact / part / "model.onnx", "10.3.0", ORIN)


def test_an_engine_of_another_version_or_gpu_is_refused(make: Make, device: Device) -> None:
    artifact = make(ops="graph")
    device()
    build_engines(artifact, Options())
    file, engine = artifact.model_file, artifact.folder / "model.engine"
    assert check_engine(file, "10.3.0", ORIN) is not None
    with pytest.raises(EdgesegError, match=r"was built by TensorRT 10.3.0.5, here is 10.7.0; run edgeseg build"):
        check_engine(file, "10.7.0", ORIN)
    with pytest.raises(EdgesegError, match=r"built for Orin .*, here is NVIDIA H100"):
        check_engine(file, "10.3.0", Gpu("NVIDIA H100", "9.0", "12.6"))
    with pytest.raises(EdgesegError, match=r"built for compute capability 8.7; run"):
        check_engine(file, "10.3.0", Gpu(ORIN.name, "8.9", "12.6"))
    content = engine.read_bytes()
    engine.write_bytes(content + b" ")
    with pytest.raises(EdgesegError, match="another engine than its description"):
        check_engine(file, "10.3.0", ORIN)
    engine.write_bytes(content)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(EdgesegError, match="built from another file"):
        check_engine(file, "10.3.0", ORIN)
    (artifact.folder / "engine.json").unlink()
    assert check_engine(file, "10.3.0", ORIN) is None  # from trtexec: all that is known is in its header
    engine.write_bytes(b"no engine")
    with pytest.raises(EdgesegError, match=r"is no engine that TensorRT 10.3.0 reads, and has no engine.json"):
        check_engine(file, "10.3.0", ORIN)


def test_the_header_of_an_engine_names_its_version() -> None:
    assert plan_version(plan("10.13.2")) == (10, 13, 2, 5)
    assert plan_version(plan("10.13.2")[:20]) is None
    assert plan_version(b"onnx" + plan("10.13.2")) is None
    assert plan_version(struct.pack("<II", 0x74727466, 1) + bytes(20)) is None  # a format that nobody has described


def test_what_an_engine_computes_in_is_read_from_its_layers() -> None:
    assert precisions(layers_of(json.dumps(LAYERS))) == {"fp16": 2, "fp32": 1}
    assert layers_of(json.dumps({"Layers": ["conv", "relu"]})) == []  # built without details
    assert layers_of("nothing") == []
    assert precisions([{"LayerType": "conv", "Inputs": [{"Format/Datatype": "Four wide"}]}]) == {}


def test_wrong_inputs_are_refused(make: Make, device: Device) -> None:
    artifact = make(ops="graph")
    device()
    build_engines(artifact, Options())
    graph = tensorrt_engine.EngineGraph(Opening(artifact.model_file, ["labels"], "fp32", 1))
    with pytest.raises(EdgesegError, match="the input image is uint8, got float32"):
        graph.run({"image": np.zeros((1, *SIZE, 3), np.float32)})
    with pytest.raises(
        EdgesegError, match=r"the input image is \(1, 1\) to \(4, 16\) in this engine, got \(1, 8, 8, 3\)"
    ):
        graph.run({"image": np.zeros((1, 8, 8, 3), np.uint8)})
    image = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    first, second = graph.run({"image": image})[0], graph.run({"image": image})[0]
    assert first is not second
    assert np.array_equal(first, second)
    graph.close()


def test_a_driver_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, code: int) -> None:
            self.cuInit = lambda flags: code
            self.cuDeviceGetCount = lambda count: 0

    def nothing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    for library, words in (
        (nothing, "no CUDA driver here .*libcuda.so.1: cannot open"),
        (lambda name: Broken(100), "cuInit of the CUDA driver failed with error 100"),
        (lambda name: Broken(0), "the CUDA driver finds no GPU"),
    ):
        monkeypatch.setattr(ctypes, "CDLL", library)
        with pytest.raises(MissingTool, match=words):
            tensorrt_engine.Driver()


@pytest.mark.wide
def test_a_promptable_student_becomes_two_engines(tmp_path: Path, device: Device) -> None:
    made = settled("rwkv_sam_tiny")
    artifact = es.export_model(made, TensorRt(ops="graph"), tmp_path / "out", sizes(made)[0], ("pre", "labels"))
    facts = artifact.manifest.conversion
    assert facts["min_shapes"] is None
    assert facts["decoder_max_shapes"] == "points:64x16x2,labels:64x16"
    calls = device()
    cards = build_engines(artifact, Options())
    assert len(cards) == 2
    assert ("points", (1, 1, 2), (1, 2, 2), (64, 16, 2)) in calls
    assert calls.count("profile") == 1
    assert {path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*.engine")} == {
        "encoder/model.engine", "decoder/model.engine",
    }  # fmt: skip
    ledger = es.verify(Artifact.open(artifact.folder), made)
    assert ledger.passed, list(bad_hops(ledger))
    assert ledger.hops[-1].name == "student -> tensorrt"


def test_more_prompts_than_an_engine_takes_are_asked_in_parts(tiny_data: Data, device: Device, tmp_path: Path) -> None:
    made = Asked()
    artifact = es.export_model(made, TensorRt(prompts=3), tmp_path / "out", SIZE, ("pre",), data=tiny_data)
    assert artifact.manifest.decoder is not None
    assert artifact.manifest.decoder.prompts == 3
    rng = np.random.default_rng(0)
    points, labels = rng.uniform(0, 64, (16, 2, 2)).astype(np.float32), rng.integers(0, 2, (16, 2)).astype(np.float32)

    def answers(opened: Artifact) -> list[Any]:
        session = opened.session
        assert isinstance(session, PromptSession)
        maps = session.encode(np.zeros((1, *SIZE, 3), np.uint8))
        return [*session.decode(maps, points, labels), *session.decode(maps, points[:3], labels[:3])]

    wanted = answers(artifact)
    device()
    build_engines(artifact, Options())
    proven = Artifact.open(artifact.folder)
    ledger = verify_with(proven, made, tiny_data).manifest.ledger
    assert ledger is not None
    assert ledger.passed, list(bad_hops(ledger))
    assert ledger.hops[-1].name == "student -> tensorrt"
    got = answers(proven)
    assert [each.shape for each in got] == [(16, 1, *SIZE), (16, 1), (3, 1, *SIZE), (3, 1)]
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(got, wanted, strict=True))


def test_a_manifest_from_before_there_was_a_most_is_read() -> None:
    described = {"file": "decoder/model.onnx", "maps": ["map_0"], "outputs": ["masks", "quality"], "places": None}
    assert schema.parse(Decoder, described, "manifest.json").prompts is None


# ---------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def exported(student: Student, tiny_data: Data, tmp_path: Path) -> Artifact:
    """An artifact of a run that is there."""
    torch.manual_seed(0)
    made = es.create("lraspp_mobilenet_v3_small", classes=len(tiny_data.class_names))
    made.describe(tiny_data.class_names, tiny_data.palette)
    run = save(made, tmp_path / "run", size=SIZE)
    source = Source(str(run), None)
    return es.export_model(made, TensorRt(), tmp_path / "artifact", SIZE, ("pre", "labels"), source, tiny_data)


def test_trtexec_is_told_all_that_a_build_knows(
    make: Make, exported: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported.folder
    assert (
        main(["build", str(folder), "--trtexec", "--workspace-mb", "256", "--timing-cache", "x.cache", "--json"]) == 0
    )
    compile_line, line = json.loads(capsys.readouterr().out)["trtexec"]
    assert compile_line.startswith("nvcc -std=c++17 ")
    assert compile_line.endswith(f"-arch=native -o {folder}/plugin/libedgeseg_tensorrt.so {folder}/plugin/tensorrt.cu")
    assert line == (
        f"trtexec --onnx={folder}/model.onnx --saveEngine={folder}/model.engine --stronglyTyped --noTF32 "
        f"--memPoolSize=workspace:256M --timingCacheFile=x.cache --dynamicPlugins={folder}/plugin/libedgeseg_tensorrt.so "
        "--profilingVerbosity=detailed --skipInference"
    )
    (eleven,) = trtexec_lines(make(line="11", ops="graph", precision="fp16"), Options())
    assert "--stronglyTyped" not in eleven
    assert "--noTF32" not in eleven


def test_build_without_tensorrt_prints_the_lines(
    exported: Artifact, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", str(exported.folder)]) == 5
    printed = capsys.readouterr()
    assert "trtexec --onnx=" in printed.out
    assert "tensorrt is not installed; apt-get install tensorrt" in " ".join(printed.err.split())


def test_build_proves_what_it_built(exported: Artifact, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    device()
    assert main(["build", str(exported.folder), "--json", "--data", "synthetic:size=64x96,train=24,val=8,test=8"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["engines"][0]["tensorrt"] == "10.3.0"
    assert document["manifest"]["ledger"]["hops"][2]["name"] == "student -> tensorrt"
    assert main(["build", str(exported.folder), "--no-verify"]) == 0
    assert "edgeseg verify" in capsys.readouterr().err


def test_build_takes_an_artifact_for_tensorrt(
    exported: Artifact, student: Student, tiny_data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    es.export_model(student, es.OnnxRuntime(), tmp_path / "onnx", SIZE, data=tiny_data)
    assert main(["build", str(tmp_path / "onnx"), "--trtexec"]) == 1
    assert "is for onnxruntime, which builds no engine" in " ".join(capsys.readouterr().err.split())
    assert main(["build", str(tmp_path / "run")]) == 1
    assert "is a run; export it with --to tensorrt" in " ".join(capsys.readouterr().err.split())
