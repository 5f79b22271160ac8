"""Networks with our operators in every runtime that has a plugin: as the plugin, and as standard operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError
from edgeseg.export import OnnxRuntime, OpenVino
from edgeseg.export.onnx_file import FORMS
from edgeseg.export.operators import give_bodies, inlined
from edgeseg.export.target import Target
from edgeseg.kernels.build import library
from edgeseg.kernels.onnx_function import DOMAIN, register_schemas
from edgeseg.kernels.wkv.onnx_body import form_for
from edgeseg.students import Student, create
from edgeseg.students.mamba import MambaBlock


class MambaNet(nn.Module):
    """A small semantic network around two blocks."""

    multiple = 4

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 12, 4, 4), MambaBlock(12, states=4), MambaBlock(12, states=8, directions=2)),
            nn.Conv2d(12, classes, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        return logits


def mamba(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return MambaNet(classes)


def student(name: str) -> Student:
    torch.manual_seed(0)
    made: Any = (
        create(f"{__name__}:mamba", classes=5)
        if name == "mamba"
        else create(name, classes=5)
        if "seg" in name
        else create(name)
    )
    if name == "rwkv_seg_tiny":  # two of its fourteen blocks, all of which are alike: each takes its time to convert
        made.backbone.layers = made.backbone.layers[:2]
    with torch.no_grad():
        for key, value in made.named_parameters():
            if "layer_scale" in key:  # 0.01 in a fresh network: what wkv says would drown
                value.fill_(0.5)
    return made


USES = {"rwkv_seg_tiny": {"wkv", "label_map"}, "rwkv_sam_tiny": {"wkv"}, "mamba": {"selective_scan", "label_map"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rwkv_seg_tiny", OnnxRuntime),
        ("rwkv_seg_tiny", OpenVino),
        ("mamba", OnnxRuntime),
        ("mamba", OpenVino),
        pytest.param("rwkv_sam_tiny", OnnxRuntime, marks=pytest.mark.wide),
        pytest.param("rwkv_sam_tiny", OpenVino, marks=pytest.mark.wide),
    ],
)
def test_plugin_and_standard_operators_draw_the_same(name: str, kind: type[Target], tmp_path: Path) -> None:
    net = student(name)
    made: dict[str, Artifact] = {}
    for tier in ("plugin", "graph"):
        artifact = es.export_model(net, kind(ops=tier), tmp_path / tier, (64, 96), ("pre", "labels"))
        assert artifact.manifest.op_tiers == dict.fromkeys(USES[name], tier)
        assert artifact.manifest.ledger is not None
        assert [hop.reasons for hop in artifact.manifest.ledger.hops] == [[], [], []]
        assert artifact.session.execution.settings["ops"] == tier
        made[tier] = artifact
    images = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)
    same = [np.mean(_mask(made["plugin"], image) == _mask(made["graph"], image)) for image in images]
    assert np.mean(same) >= 0.999


def _mask(artifact: Artifact, image: Any) -> Any:
    return artifact.predict(image) if artifact.manifest.decoder is None else artifact.segment(image, [(40, 30)])


def test_the_file_runs_without_edgeseg(tmp_path: Path) -> None:
    """An ONNX file with our nodes in a plain session, which knows nothing of them, and with the plugin."""
    es.export_model(student("rwkv_seg_tiny"), OnnxRuntime(), tmp_path / "net", (64, 96), ("pre", "labels"))
    file = tmp_path / "net" / "model.onnx"
    model = onnx.load(file)
    assert {node.op_type for node in model.graph.node if node.domain == DOMAIN} == {"BiWKV", "LabelMap"}
    assert not {"Loop", "Scan"} & {node.op_type for function in model.functions for node in function.node}
    image = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), np.uint8)
    plain = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library("onnxruntime")))
    ours = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    first, second = (session.run(None, {"image": image})[0] for session in (plain, ours))
    assert np.mean(first == second) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rwkv_seg_tiny", "mamba"])
def test_int8_around_our_nodes(name: str, tmp_path: Path) -> None:
    """ONNX Runtime's own quantizer leaves them as they are, with float32 keys where it is told so, and both ways run."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            dice = np.random.default_rng(1)
            self.left = [dice.integers(0, 255, (1, 64, 96, 3), np.uint8) for _ in range(3)]

        def get_next(self) -> Any:
            return {"image": self.left.pop()} if self.left else None

    es.export_model(student(name), OnnxRuntime(), tmp_path / "net", (64, 96), ("pre", "labels"))
    file, small = tmp_path / "net" / "model.onnx", tmp_path / "int8.onnx"
    quantize_static(file, small, Images(), extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Conv"]})
    model = onnx.load(small)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 3
    kept = [node for node in model.graph.node if node.domain == DOMAIN]
    assert len(kept) == sum(node.domain == DOMAIN for node in onnx.load(file).graph.node)
    maker = {output: node.op_type for node in model.graph.node for output in node.output}
    keys = {maker[each] for node in kept if node.op_type == "BiWKV" for each in node.input[2:]}
    assert keys <= {"MatMul"}  # exp of a rounded key would be off by a factor
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library("onnxruntime")))
    plain = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    ours = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), np.uint8)
    first, second = (session.run(None, {"image": image})[0] for session in (plain, ours))
    assert np.mean(first == second) >= 0.999


def test_an_openvino_file_has_standard_operators_only(tmp_path: Path) -> None:
    from edgeseg.runtimes.openvino_model import core

    es.export_model(student("mamba"), OpenVino(), tmp_path / "net", (64, 96), ("pre", "labels"))
    kinds = {node.get_type_name() for node in core().read_model(tmp_path / "net" / "model.xml").get_ops()}
    assert not {"BiWKV", "LabelMap", "SelectiveScan", "Loop", "TensorIterator"} & kinds


def test_two_shapes_of_an_operator_have_two_bodies() -> None:
    register_schemas()
    nodes = [
        helper.make_node("LabelMap", ["x"], [f"y{side}"], domain=DOMAIN, height=side, width=side, align_corners=0)
        for side in (16, 24, 16)
    ]
    nodes[2].output[0] = "again"
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.UINT8, None) for node in nodes]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])], outputs
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    sites = give_bodies(model, FORMS, 20)
    assert [site.attributes["height"] for site in sites] == [16, 24, 16]
    assert [function.overload for function in model.functions] == ["", "1"]
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    for made in (model, inlined(model)):
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        assert [y.shape for y in session.run(None, {"x": x})] == [(1, 16, 16), (1, 24, 24), (1, 16, 16)]


def test_decays_choose_the_form_and_too_much_growth_is_refused() -> None:
    fresh, steep, growing = np.array([-5.0, 3.0]), np.array([-5.0, 90.0]), np.array([-90.0, 3.0])
    assert (form_for(fresh, "closed"), form_for(fresh, "chunk")) == ("closed", "chunk")
    assert (form_for(steep, "closed"), form_for(steep, "chunk")) == ("doubling", "doubling")
    assert (form_for(np.array([-60.0]), "closed"), form_for(np.array([-60.0]), "chunk")) == ("doubling", "chunk")
    with pytest.raises(EdgesegError, match=r"grows by exp\(90\) over the sequence.*use ops=plugin"):
        form_for(growing, "closed")


def test_half_precision_leaves_our_operators_in_float32(tmp_path: Path) -> None:
    artifact = es.export_model(
        student("rwkv_seg_tiny"), OnnxRuntime(precision="fp16"), tmp_path / "half", (64, 96), ("pre",)
    )
    assert artifact.manifest.ledger is not None
    assert artifact.manifest.ledger.passed
    model = onnx.load(artifact.model_file)
    casts = {out for node in model.graph.node if node.op_type == "Cast" for out in node.output}
    sites = [node for node in model.graph.node if node.domain == DOMAIN]
    assert sites
    assert all({node.input[2], node.input[3]} <= casts for node in sites)


def test_ops_is_one_of_three() -> None:
    with pytest.raises(EdgesegError, match="ops is auto, plugin, graph, got 'fast'"):
        OnnxRuntime(ops="fast")  # type: ignore[arg-type]
