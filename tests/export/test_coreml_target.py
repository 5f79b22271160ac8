"""Core ML: every family's masks, packages that say what they are, and the Mac's own runtime against a stand-in for it."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.export import CoreMl, networks
from edgeseg.export.coreml_package import Deployment
from edgeseg.files import sha256
from edgeseg.locate import locate_with
from edgeseg.parity import bad_hops, verify_with
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runtimes import coreml_model, pixels
from edgeseg.runtimes.base import RUNTIMES, Opening, Sessions
from edgeseg.runtimes.coreml_model import CoreMlGraph, InterpretedGraph, OnUnits, runtime
from edgeseg.runtimes.mil_interpreter import Declared, Program, Reference, Step, first_wrong, model_file, parse
from edgeseg.students import Semantic, Stage, Student
from tests.students.test_registry import families, settled, sizes

pytest.importorskip("coremltools", reason="needs the extra coreml")

SIZE = (64, 96)
BAKES = ("pre", "labels")
MANIFEST = "model.mlpackage/Manifest.json"


class Tiny(Semantic):
    """One convolution, and then what a test wants."""

    licence, paper, multiple = "Apache-2.0", "none", 2
    feature_info = (Stage(4, 2),)

    def __init__(self, classes: int, tail: nn.Module | None = None) -> None:
        super().__init__(classes)
        self.name = "tiny"
        self.body, self.tail = nn.Conv2d(3, classes, 3, 2, 1), tail or nn.Identity()

    def forward_features(self, image: Tensor) -> list[Tensor]:
        return [self.body(image)]

    def low_logits(self, image: Tensor) -> Tensor:
        result: Tensor = self.tail(self.body(image))
        return result


class Antialiased(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)


class Bicubic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2, mode="bicubic")


@pytest.fixture(scope="module")
def tiny(tiny_data: Data) -> Student:
    torch.manual_seed(0)
    student = Tiny(len(tiny_data.class_names))
    student.describe(tiny_data.class_names, tiny_data.palette)
    return student.eval()


@pytest.fixture(scope="module")
def artifact(tiny: Student, tiny_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Everything baked in, float16."""
    out = tmp_path_factory.mktemp("coreml") / "out"
    return es.export_model(tiny, CoreMl(precision="fp16"), out, SIZE, BAKES, data=tiny_data)


def package(artifact: Artifact) -> Any:
    return parse(model_file(artifact.model_file.parent))


@pytest.mark.wide
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", families())
def test_every_family_computes_the_same(name: str, precision: Any, tmp_path: Path) -> None:
    made = settled(name)
    with torch.no_grad():
        for key, value in made.named_parameters():
            if "layer_scale" in key:  # 0.01 in a fresh network: what wkv says would drown
                value.fill_(0.5)
    for index, network in enumerate(networks(made, sizes(made)[1], ("pre",), CoreMl.interface)):
        (folder := tmp_path / str(index)).mkdir()
        written = CoreMl(precision=precision).write(network, folder)
        graph = InterpretedGraph(Opening(folder / written.files[0], network.outputs, precision, 1))
        picture = torch.from_numpy(pixels.pattern(*network.size))[None]
        feeds = network.feeds()
        if "image" in feeds:
            feeds["image"] = picture.permute(0, 3, 1, 2).float().contiguous()
        with torch.inference_mode():
            wanted = network(*feeds.values())
        arrays = {name: feed.numpy() for name, feed in feeds.items()}
        got = graph.run(arrays | ({"image": picture.numpy()} if "image" in arrays else {}))
        for one, other in zip([wanted] if isinstance(wanted, Tensor) else wanted, got, strict=True):
            assert other.dtype == np.float32 and other.shape == one.shape
            assert far(one.numpy(), other) <= PRECISIONS[precision].relative_rms
        assert graph.execution(arrays).precision == precision


def far(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean()))


@pytest.mark.parametrize("bake", [(), ("pre",), BAKES], ids=lambda bake: "+".join(bake) or "nothing")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_artifact_draws_the_students_masks(
    tiny: Student, tiny_data: Data, precision: Any, bake: tuple[str, ...], tmp_path: Path
) -> None:
    artifact = es.export_model(tiny, CoreMl(precision=precision), tmp_path / "out", SIZE, bake, data=tiny_data)
    manifest, ledger = artifact.manifest, artifact.manifest.ledger
    assert ledger is not None
    assert ledger.passed, list(bad_hops(ledger))
    assert [hop.name for hop in ledger.hops][1:] == [
        "graph -> coreml in mil_interpreter", "student -> coreml in mil_interpreter",
    ]  # fmt: skip
    assert manifest.precision.executed == precision
    assert manifest.op_tiers == ({"label_map": "graph"} if "labels" in bake else {})
    assert manifest.input.dtype == ("uint8" if "pre" in bake else "float32")
    assert manifest.output.dtype == ("int32" if "labels" in bake else "float32")
    assert artifact.predict(pixels.pattern(50, 70)).shape == (50, 70)


@pytest.mark.parametrize("deployment", get_args(Deployment))
def test_every_deployment_is_written(tiny: Student, deployment: Any, tmp_path: Path) -> None:
    (network,) = networks(tiny, SIZE, BAKES, CoreMl.interface)
    written = CoreMl(deployment=deployment).write(network, tmp_path)
    system = {"16": 7, "13": 7, "17": 8, "14": 8, "18": 9, "15": 9}[deployment[-2:]]
    assert written.facts["specification"] == system
    graph = InterpretedGraph(Opening(tmp_path / written.files[0], network.outputs, "fp32", 1))
    image = pixels.pattern(*SIZE)[None]
    assert graph.run({"image": image})[0].shape == (1, *SIZE)


def test_wrong_options_are_refused_when_built() -> None:
    makes: dict[str, Any] = {
        "deployment is iOS16, iOS17, .* got 'iOS9'": lambda: CoreMl(deployment="iOS9"),  # type: ignore[arg-type]
        "compute_units is all, .* got 'gpu'": lambda: CoreMl(compute_units="gpu"),  # type: ignore[arg-type]
        "take no operators of others; use ops auto or graph": lambda: CoreMl(ops="plugin"),
        "int8 wants deployment iOS17 or macOS14 at least, got 'iOS16'": lambda: CoreMl("int8", deployment="iOS16"),
        "w8a32 wants deployment iOS17 .* got 'macOS13'": lambda: CoreMl("w8a32", deployment="macOS13"),
        "coreml has no w8a16; it can do int8, w8a32": lambda: CoreMl("w8a16"),
    }
    for said, make in makes.items():
        with pytest.raises(EdgesegError, match=said):
            make()


def test_the_package_alone_says_what_it_is(artifact: Artifact) -> None:
    about, student = package(artifact).description, artifact.manifest.student
    card = json.loads(about.metadata.userDefined["edgeseg"])
    assert card["student"] == "tiny" and card["baked"] == list(BAKES)
    assert card["class_names"] == student.class_names
    assert card["palette"] == [list(colour) for colour in student.palette]
    assert (tuple(card["mean"]), tuple(card["std"])) == (student.mean, student.std)
    assert about.metadata.license == "Apache-2.0"
    assert not any("date" in key for key in about.metadata.userDefined)
    (image,), (labels,) = about.input, about.output
    picture = image.type.imageType
    assert (image.name, picture.height, picture.width) == ("image", *SIZE)
    assert picture.colorSpace == picture.RGB
    assert (labels.name, list(labels.type.multiArrayType.shape)) == ("labels", [1, *SIZE])
    assert labels.type.multiArrayType.dataType == labels.type.multiArrayType.INT32
    assert image.shortDescription == "RGB image" and "class of each pixel" in labels.shortDescription
    preview = json.loads(about.metadata.userDefined["com.apple.coreml.model.preview.params"])
    assert preview["labels"] == student.class_names
    assert preview["colors"][0] == "#{:02X}{:02X}{:02X}".format(*student.palette[0])


def test_the_manifest_counts_what_is_inside(artifact: Artifact) -> None:
    facts, parsed = artifact.manifest.conversion, package(artifact)
    block = parsed.mlProgram.functions["main"].block_specializations["CoreML7"]
    counts = Counter(each.type for each in block.operations if each.type != "const")
    assert facts["operators"] == counts.total()
    assert facts["which_operators"] == ", ".join(
        f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    assert facts["arithmetic"] == f"fp16 {counts['conv']}"
    assert facts["specification"] == 8
    weights = artifact.folder / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert facts["weight_bytes"] == weights.stat().st_size


def test_the_manifest_of_the_package_stands_for_all_of_it(
    artifact: Artifact, tiny: Student, tiny_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = artifact.manifest.files[0]
    assert first.path == MANIFEST
    assert len(artifact.manifest.files) == 3
    again = es.export_model(tiny, CoreMl(precision="fp16"), tmp_path / "again", SIZE, BAKES, data=tiny_data)
    assert again.manifest.files == artifact.manifest.files
    other = Tiny(tiny.classes)
    other.load_state_dict(tiny.state_dict())
    other.describe(tiny.class_names, tiny.palette)
    with torch.no_grad():
        other.body.weight[0, 0, 0, 0] += 1  # the description of the model stays as it is
    changed = es.export_model(other.eval(), CoreMl(precision="fp16"), tmp_path / "other", SIZE, BAKES, data=tiny_data)
    assert changed.manifest.files[1] == artifact.manifest.files[1]
    assert changed.manifest.sha256 != artifact.manifest.sha256
    assert capfd.readouterr() == ("", "")


def test_core_ml_tools_reads_the_package(artifact: Artifact) -> None:
    from coremltools.models import MLModel

    model = MLModel(str(artifact.model_file.parent), skip_model_load=True)
    assert model.get_spec() == package(artifact)
    weights = Path(model.weights_dir) / "weight.bin"
    assert sha256(weights) == next(each.sha256 for each in artifact.manifest.files if each.path.endswith("weight.bin"))


def test_a_package_without_large_weights_has_no_file_of_them(tmp_path: Path) -> None:
    student = Tiny(2)
    student.body = nn.Conv2d(3, 2, 1, 2, bias=False)
    student.body.weight.data.fill_(0.5)
    (network,) = networks(student.eval(), SIZE, (), CoreMl.interface)
    written = CoreMl().write(network, tmp_path)
    for file in written.files:
        assert (tmp_path / file).is_file()
    graph = InterpretedGraph(Opening(tmp_path / written.files[0], network.outputs, "fp32", 1))
    assert graph.run({"image": np.ones((1, 3, *SIZE), np.float32)})[0].shape == (1, 2, *SIZE)


def test_what_core_ml_gets_wrong_is_refused_by_name(tmp_path: Path) -> None:
    for tail, said in (
        (Antialiased(), "drops the antialiasing without a word: antialiased bilinear resizing in student.tail"),
        (nn.GELU("tanh"), "computes the exact one without a word: GELU in its tanh form in student.tail"),
    ):
        with pytest.raises(EdgesegError, match=said):
            es.export_model(Tiny(3, tail).eval(), CoreMl(), tmp_path / "out", SIZE)
    assert list(tmp_path.iterdir()) == []


def test_what_core_ml_lacks_is_written_otherwise(tiny_data: Data, tmp_path: Path) -> None:
    student = Tiny(len(tiny_data.class_names), Bicubic()).eval()
    student.describe(tiny_data.class_names, tiny_data.palette)
    artifact = es.export_model(student, CoreMl(), tmp_path / "out", SIZE, data=tiny_data)
    assert artifact.manifest.ledger is not None and artifact.manifest.ledger.passed
    assert "matmul 2" in str(artifact.manifest.conversion["which_operators"])


def test_several_outputs_keep_their_names_even_where_they_are_one_value(tiny: Student, tmp_path: Path) -> None:
    (network,) = networks(tiny, SIZE, (), CoreMl.interface)

    class Twice(type(network)):  # type: ignore[misc]
        def forward(self, image: Tensor) -> Any:
            low = self.student.low_logits(image)
            return low, low, nn.functional.dropout(low, training=False), low.argmax(1).int()

    network.__class__ = Twice
    network.outputs = ["first", "second", "third", "fourth"]
    written = CoreMl(precision="fp16").write(network, tmp_path)
    graph = InterpretedGraph(Opening(tmp_path / written.files[0], ["fourth", "second", "first"], "fp16", 1))
    labels, *logits = graph.run({"image": np.ones((1, 3, *SIZE), np.float32)})
    assert labels.dtype == np.int32
    assert all(np.array_equal(each, logits[0]) for each in logits)
    assert np.array_equal(labels, logits[0].argmax(1))
    with pytest.raises(EdgesegError, match=r"has no output fifth; export again"):
        InterpretedGraph(Opening(tmp_path / written.files[0], ["fifth"], "fp16", 1))


def test_a_picture_that_is_none_is_refused(artifact: Artifact) -> None:
    graph = InterpretedGraph(Opening(artifact.model_file, ["labels"], "fp16", 1))
    for array in (np.zeros((1, 3, *SIZE), np.float32), np.zeros((1, 8, 8, 3), np.uint8), np.zeros(3, np.uint8)):
        with pytest.raises(EdgesegError, match=r"the network takes image \[1, 3, 64, 96\], got"):
            graph.run({"image": array})


def test_elsewhere_our_interpreter_stands_in_and_says_so() -> None:
    assert runtime(on_a_mac=False).provenance == "simulated"
    mac = runtime(on_a_mac=True)
    assert mac.provenance == "measured" and mac.fresh == (CoreMlGraph, None)
    assert (sys.platform == "darwin") == coreml_model.ON_A_MAC


class FakeModel:
    """`MLModel` on a Mac: keeps what it was given, answers as Core ML does, with float32 for whole numbers too."""

    last: FakeModel

    def __init__(self, path: str, compute_units: Any) -> None:
        self.spec, self.units = parse(model_file(Path(path))), compute_units
        self.given: dict[str, Any] = {}
        FakeModel.last = self

    def get_spec(self) -> Any:
        return self.spec

    def get_compiled_model_path(self) -> str:
        return "model.mlmodelc"

    def predict(self, given: dict[str, Any]) -> dict[str, NDArray[Any]]:
        self.given = given
        return {"labels": np.arange(np.prod(SIZE), dtype=np.float32).reshape(SIZE), "other": np.zeros(3)}


class MLCPUComputeDevice:
    pass


class MLNeuralEngineComputeDevice:
    pass


class FakePlan:
    """`MLComputePlan`: one operator in three on the CPU, a constant nowhere."""

    @classmethod
    def load_from_path(cls, path: str, units: Any) -> Any:
        assert path == "model.mlmodelc"
        block = types.SimpleNamespace(operations=[0, 1, 2, None])
        main = types.SimpleNamespace(block=block)
        program = types.SimpleNamespace(functions={"main": main})
        plan = cls()
        vars(plan)["model_structure"] = types.SimpleNamespace(program=program)
        return plan

    def get_compute_device_usage_for_mlprogram_operation(self, operation: int | None) -> Any:
        if operation is None:
            return None
        device = MLNeuralEngineComputeDevice() if operation else MLCPUComputeDevice()
        return types.SimpleNamespace(preferred_compute_device=device)


def put_a_mac_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coremltools.models.MLModel", FakeModel)
    monkeypatch.setattr("coremltools.models.compute_plan.MLComputePlan", FakePlan)


class Overflowing(nn.Module):
    """Its square is beyond float16, and the root of that is not."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 400).square().sqrt() / 400


def test_bisect_names_the_operator_that_float16_does_not_bear(
    tiny: Student, tiny_data: Data, artifact: Artifact, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    student = Tiny(len(tiny_data.class_names), nn.Sequential(nn.ReLU(), Overflowing(), nn.ReLU())).eval()
    student.describe(tiny_data.class_names, tiny_data.palette)
    made = es.export_model(student, CoreMl(precision="fp16"), tmp_path / "half", SIZE, BAKES, data=tiny_data)
    assert made.manifest.ledger is not None and not made.manifest.ledger.passed
    found = locate_with(made, student, tiny_data)
    operator = found.operator
    assert operator is not None and operator.error is None
    assert operator.name.startswith("square")
    assert (operator.kind, operator.type, operator.module) == ("mul", "float16", "tail.1")
    assert f"{operator.name} (mul of tail.1, number {operator.place} of {operator.count})" in found.words
    assert found.words.endswith("whose float16 is not finite")
    whole = es.export_model(student, CoreMl(), tmp_path / "whole", SIZE, BAKES, data=tiny_data)
    assert locate_with(whole, student, tiny_data).operator is None
    fine = locate_with(artifact, tiny, tiny_data)
    assert fine.operator is None and "No operator of the package" in fine.words


def test_an_error_is_that_of_the_first_operator_beyond_the_limit_and_the_same_infinity_is_none(
    tmp_path: Path,
) -> None:
    feeds = {"x": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)}
    x = Declared("x", "float32", (3, 4))
    ten = torch.tensor(0.1)
    steps = (
        Step("mul", {"x": Reference("x"), "y": ten}, (Declared("a", "float16", (3, 4)),), ()),
        Step("real_div", {"x": Reference("a"), "y": torch.tensor(0.0)}, (Declared("b", "float32", (3, 4)),), ()),
        Step("quantize", {"input": Reference("a"), "scale": 0.03, "output_dtype": "int8"}, (Declared("c", "int8", (3, 4)),), ()),
        Step("dequantize", {"input": Reference("c"), "scale": 0.03}, (Declared("d", "float32", (3, 4)),), ()),
    )  # fmt: skip
    program = Program((x,), ("d",), steps)
    assert first_wrong(program, feeds, 0.5) is None
    wrong = first_wrong(program, feeds, 1e-2)
    assert wrong is not None and (wrong.made.name, wrong.operator, wrong.place, wrong.count) == (
        "d",
        "dequantize",
        4,
        4,
    )
    exact = feeds["x"].astype(np.float64) * float(ten)
    whole = np.round(exact.astype(np.float16) / 0.03) * 0.03
    assert wrong.error == pytest.approx(np.sqrt(np.mean((whole - exact) ** 2) / np.mean(exact**2)), rel=1e-3)
    half = first_wrong(program, feeds, 1e-6)
    assert half is not None and half.made.name == "a"


def test_on_a_mac_core_ml_is_given_a_picture_and_the_units_of_the_target(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    import coremltools
    from PIL import Image

    put_a_mac_in_place(monkeypatch)
    target = artifact.manifest.target | {"compute_units": "cpu_and_ne"}
    chosen = Artifact(artifact.folder, replace(artifact.manifest, target=target))
    session = OnUnits(CoreMlGraph)(chosen, 2)
    image = pixels.pattern(*SIZE)
    labels = session.run(image[None])
    model = FakeModel.last
    assert model.units is coremltools.ComputeUnit.CPU_AND_NE
    assert isinstance(model.given["image"], Image.Image) and model.given["image"].mode == "RGB"
    assert np.array_equal(np.asarray(model.given["image"]), image)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, np.arange(np.prod(SIZE)).reshape(1, *SIZE))
    said = session.execution
    assert (said.runtime, said.precision, said.placed) == ("coreml", "fp16", {"cpu": 1, "ne": 2})
    assert said.settings["compute_units"] == "cpu_and_ne" and said.settings["ops"] == "graph"
    session.close()


def test_a_package_that_wants_blue_first_says_so_and_is_given_a_picture_all_the_same(
    tiny: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (network,) = networks(tiny, SIZE, (*BAKES, "bgr"), CoreMl.interface)
    written = CoreMl().write(network, tmp_path)
    (declared,) = parse(model_file(tmp_path / "model.mlpackage")).description.input
    assert declared.type.imageType.colorSpace == declared.type.imageType.BGR
    assert declared.shortDescription == "BGR image"
    put_a_mac_in_place(monkeypatch)
    graph = CoreMlGraph(Opening(tmp_path / written.files[0], ["labels"], "fp32", 1), "cpu_only")
    image = pixels.pattern(*SIZE)
    graph.run({"image": image[None, ..., ::-1]})
    assert np.array_equal(np.asarray(FakeModel.last.given["image"]), image)


def test_on_a_mac_normalised_images_are_arrays(tiny: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (network,) = networks(tiny, SIZE, ("labels",), CoreMl.interface)
    written = CoreMl().write(network, tmp_path)
    put_a_mac_in_place(monkeypatch)
    graph = CoreMlGraph(Opening(tmp_path / written.files[0], ["labels"], "fp32", 1), "cpu_only")
    graph.run({"image": np.ones((1, 3, *SIZE), np.float64)})
    given = FakeModel.last.given["image"]
    assert given.dtype == np.float32 and given.shape == (1, 3, *SIZE)


def test_on_a_mac_every_choice_of_units_is_proven_and_its_plan_kept(
    artifact: Artifact, tiny: Student, tiny_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the Neural Engine alone gives other labels: that one hop fails, by name."""

    class Drawing(FakeModel):
        def predict(self, given: dict[str, Any]) -> dict[str, NDArray[Any]]:
            graph = InterpretedGraph(Opening(Path(self.path) / "Manifest.json", ["labels"], "fp16", 1))
            labels = graph.run({"image": np.asarray(given["image"])[None]})[0].astype(np.float32)
            return {"labels": labels * (self.units.name != "CPU_AND_NE")}

        def __init__(self, path: str, compute_units: Any) -> None:
            super().__init__(path, compute_units)
            self.path = path

    put_a_mac_in_place(monkeypatch)
    monkeypatch.setattr("coremltools.models.MLModel", Drawing)
    monkeypatch.setitem(vars(RUNTIMES)["_entries"], "coreml", runtime(on_a_mac=True))
    made = Artifact(shutil.copytree(artifact.folder, tmp_path / "copy"), artifact.manifest)
    ledger = verify_with(made, tiny, tiny_data, count=2).manifest.ledger
    assert ledger is not None
    assert {hop.name: hop.passed for hop in ledger.hops[2:]} == {
        "student -> coreml": True,
        "student -> coreml on cpu_and_ne": False,
        "student -> coreml on cpu_and_gpu": True,
        "student -> coreml on cpu_only": True,
    }
    assert [hop.placed for hop in ledger.hops] == [None, *[{"cpu": 1, "ne": 2}] * 5]


def test_no_plan_is_not_invented(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_from_path(path: str, units: Any) -> Any:
        raise RuntimeError("MLComputePlan is not supported")

    put_a_mac_in_place(monkeypatch)
    monkeypatch.setattr(FakePlan, "load_from_path", load_from_path)
    assert CoreMlGraph(Opening(artifact.model_file, ["labels"], "fp16", 1)).execution({}).placed is None


def test_a_package_that_core_ml_refuses_is_one_line(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, compute_units: Any) -> Any:
        raise RuntimeError("Error compiling model:\n\t'no such operator'")

    monkeypatch.setattr("coremltools.models.MLModel", refuse)
    with pytest.raises(
        EdgesegError, match=r"Core ML cannot open .*: Error compiling model: 'no such operator'; export"
    ):
        CoreMlGraph(Opening(artifact.model_file, ["labels"], "fp16", 1))


def test_a_damaged_artifact_is_one_line(artifact: Artifact, tmp_path: Path) -> None:
    from shutil import copytree

    folder = copytree(artifact.folder, tmp_path / "copy")
    (folder / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin").write_bytes(b"")
    with pytest.raises(EdgesegError, match="was changed after export"):
        Artifact.open(folder)
    with pytest.raises(EdgesegError, match=r"model.mlpackage is damaged or no mlprogram"):
        Sessions(InterpretedGraph)(Artifact(folder, artifact.manifest), 1)


def test_a_full_disk_is_one_line(small_disk: Path, tiny: Student, tiny_data: Data) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 56_000)
    with pytest.raises(EdgesegError, match=r"cannot write .*No space left on device"):
        es.export_model(tiny, CoreMl(), small_disk / "out", SIZE, data=tiny_data)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
