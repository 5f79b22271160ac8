"""From a student and images to an artifact of whole numbers with its proof, and what becomes of it when the images are wrong."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.data import Data, load_data
from edgeseg.errors import EdgesegError
from edgeseg.export import TARGETS, OnnxRuntime, OpenVino
from edgeseg.export.apart import acquaint
from edgeseg.export.deployed import Deployed
from edgeseg.export.target import Target
from edgeseg.files import sha256
from edgeseg.manifest import Source
from edgeseg.quantize.calibration import CalibrationSet
from edgeseg.quantize.document import DOCUMENT, read
from edgeseg.quantize.model import quantize, quantize_model
from edgeseg.quantize.post_training import apply, calibrate
from edgeseg.quantize.scheme import Recipe
from edgeseg.replay import replay_export
from edgeseg.runs import load_run, read_card, save
from edgeseg.students import Semantic, Student
from tests.export.test_export import needs, small  # noqa: F401 (a fixture)
from tests.quantize.conftest import SIZE, answers, same

IMAGES = 6


@pytest.fixture(scope="module")
def lraspp_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Data) -> Path:
    """LR-ASPP with fresh weights and a last layer fitted to scenes."""
    torch.manual_seed(0)
    student = es.create("lraspp_mobilenet_v3_small", classes=len(tiny_data.class_names))
    student.describe(tiny_data.class_names, tiny_data.palette)
    acquaint(student)
    return save(student, tmp_path_factory.mktemp("run") / "lraspp", size=SIZE)


Make = Callable[[type[Target], Path], Artifact]


@pytest.fixture(scope="module")
def whole(tiny_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A run in whole numbers for a target; each is made once."""
    folder, made = tmp_path_factory.mktemp("whole"), dict[Path, Artifact]()

    def make(kind: type[Target], run: Path) -> Artifact:
        needs(kind)
        out = folder / f"{run.name}-{kind.name}"
        if out not in made:
            source = Source(str(run), read_card(run).sha256)
            target = kind(precision="int8")
            made[out] = quantize_model(
                load_run(run), target, tiny_data, out, SIZE, IMAGES, recipe=Recipe(), source=source
            )
        return made[out]

    return make


EACH = pytest.mark.parametrize("kind", [OnnxRuntime, OpenVino])
MOSTLY = pytest.mark.parametrize("kind", [OnnxRuntime, pytest.param(OpenVino, marks=pytest.mark.wide)])


@EACH
def test_the_manifest_says_how_it_came_to_be(
    whole: Make, taught_run: Path, tiny_data: Data, kind: type[Target]
) -> None:
    artifact = whole(kind, taught_run)
    manifest = artifact.manifest
    assert (manifest.precision.asked, manifest.precision.executed) == ("int8", "int8")
    card = manifest.calibration
    assert card is not None
    assert (card.data, card.count, len(card.files)) == (f"{tiny_data.spec}[train]", IMAGES, IMAGES)
    assert not card.overlaps_test
    assert list(card.classes) == list(tiny_data.class_names)
    assert sum(card.classes.values()) == pytest.approx(1, abs=1e-4)
    entry = next(file for file in manifest.files if file.path == DOCUMENT)
    assert entry.sha256 == sha256(artifact.folder / DOCUMENT)
    assert entry.bytes == (artifact.folder / DOCUMENT).stat().st_size
    document = read(artifact.folder)
    assert document is not None
    assert (document.target, document.precision) == (kind.name, "int8")
    assert document.float_layers == ["net.head"]
    assert len(document.layers) == 15


@EACH
def test_the_ledger_tells_rounding_from_the_runtime(whole: Make, taught_run: Path, kind: type[Target]) -> None:
    ledger = whole(kind, taught_run).manifest.ledger
    assert ledger is not None
    assert ledger.data.endswith("[val]")  # neither calibrated nor reported on
    first, second, third = ledger.hops
    assert [hop.name for hop in ledger.hops] == ["student -> graph", f"graph -> {kind.name}", f"student -> {kind.name}"]
    assert {hop.precision for hop in ledger.hops} == {"int8"}
    assert {hop.nonfinite for hop in ledger.hops} == {0}
    assert first.same_label > 0.95
    assert second.same_label > 0.97  # the runtime adds less than the rounding
    assert third.same_label > 0.95
    assert first.same_label < second.same_label < 1


@MOSTLY
def test_it_is_made_again_to_the_byte(whole: Make, taught_run: Path, tiny_data: Data, kind: type[Target]) -> None:
    artifact = whole(kind, taught_run)
    drift = replay_export(artifact, taught_run, tiny_data)
    assert (drift.files, drift.tools) == ([], [])
    ledger = artifact.manifest.ledger
    assert ledger is not None
    assert drift.same_label == min(hop.same_label for hop in ledger.hops)


@MOSTLY
def test_a_student_of_ours_in_a_quarter_of_its_bytes(whole: Make, lraspp_run: Path, kind: type[Target]) -> None:
    artifact = whole(kind, lraspp_run)
    manifest, document = artifact.manifest, read(artifact.folder)
    assert manifest.precision.executed == "int8"
    assert document is not None
    assert document.float_layers == ["classifier.high_classifier"]
    assert len(document.layers) == 55
    weights = sum(file.bytes for file in manifest.files if file.path in ("model.onnx", "model.bin"))
    assert weights < 0.3 * 4 * manifest.student.params
    assert manifest.ledger is not None
    # a network that learned nothing but its last layer is undecided at many pixels: this is no measure of int8
    assert min(hop.same_label for hop in manifest.ledger.hops) > 0.85


@pytest.mark.wide
@EACH
def test_a_student_of_ours_is_made_again_to_the_byte(
    whole: Make, lraspp_run: Path, tiny_data: Data, kind: type[Target]
) -> None:
    assert replay_export(whole(kind, lraspp_run), lraspp_run, tiny_data).files == []


def test_a_document_that_was_touched_is_refused(whole: Make, taught_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole(OnnxRuntime, taught_run).folder, tmp_path / "copy")
    document = json.loads((folder / DOCUMENT).read_text())
    name = next(iter(document["scales"]))
    document["scales"][name][0] *= 2
    (folder / DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(EdgesegError, match=r"quantization\.json was changed after export"):
        Artifact.open(folder)


@EACH
def test_without_images_there_is_no_int8(taught: Semantic, tmp_path: Path, kind: type[Target]) -> None:
    with pytest.raises(EdgesegError, match=f"{kind.name} int8 needs calibration images: `edgeseg quantize` and"):
        es.export_model(taught, kind(precision="int8"), tmp_path / "out", SIZE)
    assert not (tmp_path / "out").exists()


def test_half_precision_is_no_matter_of_calibration(
    taught: Semantic, tiny_data: Data, chosen: CalibrationSet, tmp_path: Path
) -> None:
    with pytest.raises(EdgesegError, match="onnxruntime fp16 is no quantized precision; use export, or precision int8"):
        quantize(taught, OnnxRuntime(precision="fp16"), SIZE, (), chosen, Recipe())
    two = load_data("synthetic_objects:size=64x96,train=8,val=2,test=2")
    with pytest.raises(EdgesegError, match="is semantic, but synthetic_objects:"):
        quantize_model(taught, OnnxRuntime(precision="int8"), two, tmp_path / "out", SIZE, 8)
    with pytest.raises(EdgesegError, match="has 24 images, 25 are to be calibrated on"):
        quantize_model(taught, OnnxRuntime(precision="int8"), tiny_data, tmp_path / "out", SIZE, 25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "precision", "said"),
    [("ncnn", "int8", "ncnn cannot be quantized for here"), ("executorch", "w8a32", "executorch has no w8a32")],
)
def test_a_target_refuses_what_it_cannot_do_when_it_is_built(name: str, precision: str, said: str) -> None:
    with pytest.raises(EdgesegError, match=said):
        TARGETS[name](precision=precision)  # type: ignore[arg-type]


@EACH
def test_runtimes_bear_channels_and_layers_without_weights(
    small: Student,  # noqa: F811
    tiny_data: Data,
    tmp_path: Path,
    kind: type[Target],
) -> None:
    """Training leaves such channels; a bias is stored in steps of input times weight, and tiny steps overflow 32 bits."""
    needs(kind)
    student = copy.deepcopy(small)
    with torch.no_grad():
        for channel, weight, bias in ((3, 0.0, 2.0), (5, 1e-9, 3.0)):
            student.get_parameter("body.1.weight")[channel] = weight
            student.get_parameter("body.1.bias")[channel] = bias
    made = quantize_model(student, kind(precision="int8"), tiny_data, tmp_path / "out", SIZE, IMAGES, bake=("pre",))
    assert made.manifest.ledger is not None
    first, second, _ = made.manifest.ledger.hops
    assert first.relative_rms is not None
    assert first.relative_rms < 0.1
    assert second.relative_rms is not None
    assert second.relative_rms < 0.01, second.reasons  # measured 1e-3, as without them

    with torch.no_grad():
        student.get_parameter("body.4.weight").zero_()
        student.get_parameter("body.4.bias").fill_(-1)  # what comes out of its ReLU is always zero
    again = quantize_model(student, kind(precision="int8"), tiny_data, tmp_path / "dead", SIZE, IMAGES, bake=("pre",))
    assert again.manifest.ledger is not None
    assert again.manifest.ledger.passed


def stays(network: Deployed, images: list[Tensor], others: list[Tensor]) -> float:
    """The share of labels that stays when ranges are those of these images."""
    whole = apply(network, calibrate(network, "onnxruntime", "int8", Recipe(), images))
    return same(answers(network, others), answers(whole, others))


def noise(image: Tensor) -> Tensor:
    rng = np.random.default_rng(int(image.sum()))
    return torch.from_numpy(rng.integers(0, 256, tuple(image.shape), np.uint8))


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "one colour": (lambda image: torch.full_like(image, 128), 0.6),
    "black": (torch.zeros_like, 0.6),
    "a quarter of the brightness": (lambda image: image // 4, 0.7),
    "noise": (noise, 0.965),
}
"""What was calibrated on instead, and the share of labels that stays at most: 0.97 do with the right images."""


@pytest.mark.usefixtures("remembered")
def test_wrong_images_show_in_the_masks(network: Deployed, images: list[Tensor], others: list[Tensor]) -> None:
    right = stays(network, images, others)
    assert right > 0.965
    for name, (how, most) in WRONG.items():
        assert stays(network, [how(image) for image in images], others) < most, name
