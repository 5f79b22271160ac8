"""Every target, with everything that can be baked in, draws the student's masks; an artifact that was touched is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeseg as es
from edgeseg import schema
from edgeseg.artifact import MANIFEST, Artifact
from edgeseg.data import Data
from edgeseg.errors import EdgesegError, MissingTool, require
from edgeseg.export import TARGETS, OnnxRuntime, OpenVino, clear_failed, from_options, networks, source_of
from edgeseg.export.target import Target
from edgeseg.files import sha256, write_json
from edgeseg.ledger import Hop
from edgeseg.manifest import Accuracy, Manifest, Source
from edgeseg.metrics import f_score
from edgeseg.parity import Comparison, bad_hops, coarser, verify_on, verify_with
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runs import read_card
from edgeseg.runtimes import pixels
from edgeseg.students import Semantic, Stage, Student

SIZE = (64, 96)
KINDS = sorted(
    {TARGETS[name] for name in TARGETS if TARGETS[name].__module__.startswith("edgeseg.")}, key=lambda kind: kind.name
)
"""The targets of the registry, without those that tests bring to crash."""

BAKES = ("pre", "labels")

THOROUGH = (OnnxRuntime, es.OpenVino)
"""The targets that are tried with everything that can be baked in; the others with nothing and with all."""

EVERY_BAKE = list(chain.from_iterable(combinations(BAKES, count) for count in range(len(BAKES) + 1)))


def needs(kind: type[Target]) -> None:
    """Skip where what makes or runs such files is not installed; the message says how to get it."""
    from edgeseg.runtimes import RUNTIMES

    try:
        require(*kind.modules)
        RUNTIMES[kind.name].version()
    except MissingTool as error:
        pytest.skip(str(error))


class Small(Semantic):
    """Three convolutions: exported in a second."""

    licence, paper, multiple = "Apache-2.0", "none", 8
    feature_info = (Stage(16, 4),)

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.name = "small"
        layers: list[nn.Module] = []
        for inner, outer in ((3, 16), (16, 16)):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(16, classes, 1)

    def forward_features(self, image: Tensor) -> list[Tensor]:
        return [self.body(image)]

    def low_logits(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(image))
        return result


@pytest.fixture(scope="module")
def small(tiny_data: Data) -> Student:
    """Trained for a moment, so that its masks are decided and not noise."""
    torch.manual_seed(0)
    student = Small(len(tiny_data.class_names))
    student.describe(tiny_data.class_names, tiny_data.palette)
    pairs = [tiny_data.split("train")[index] for index in range(8)]
    images = student.normalise(torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2))
    labels = torch.from_numpy(np.stack([truth for _, truth in pairs])).long()
    optimizer = torch.optim.Adam(student.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(student(images), labels, ignore_index=255))
        optimizer.step()
    return student.eval()


Export = Callable[[type[Target], str, tuple[str, ...]], Artifact]


@pytest.fixture(scope="module")
def export(small: Student, tiny_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The small student as an artifact; each is made once."""
    folder = tmp_path_factory.mktemp("exports")
    made: dict[Path, Artifact] = {}

    def make(kind: type[Target], precision: str, bake: tuple[str, ...]) -> Artifact:
        needs(kind)
        out = folder / "-".join([kind.name, precision, *bake])
        options: Any = {"precision": precision}
        if out not in made:
            made[out] = es.export_model(small, kind(**options), out, SIZE, bake, data=tiny_data)
        return made[out]

    return make


def pictures(data: Data) -> list[NDArray[np.uint8]]:
    split = data.split("test")
    return [split[index][0] for index in range(len(split))]


@pytest.mark.parametrize(
    ("kind", "precision", "bake"),
    [
        pytest.param(kind, precision, bake, id="-".join([kind.name, precision, *bake]))
        for kind in KINDS
        for precision in ("fp32", "fp16")
        for bake in (EVERY_BAKE if kind in THOROUGH else ((), BAKES))
    ],
)
def test_every_export_draws_the_students_masks(
    export: Export, small: Student, tiny_data: Data, kind: type[Target], precision: str, bake: tuple[str, ...]
) -> None:
    artifact = export(kind, precision, bake)
    manifest, ledger = artifact.manifest, artifact.manifest.ledger
    assert ledger is not None
    assert ledger.passed, list(bad_hops(ledger))
    names = [hop.name.partition(" in ")[0] for hop in ledger.hops]  # what stands in for a runtime is named after it
    assert names == ["student -> graph", f"graph -> {kind.name}", f"student -> {kind.name}"]
    assert ledger.data == f"{tiny_data.spec}[val]"
    assert manifest.precision.asked == precision
    assert manifest.precision.executed is not None
    assert manifest.input.baked == list(bake)
    assert manifest.input.dtype == ("uint8" if "pre" in bake else "float32")
    assert manifest.output.kind == ("labels" if "labels" in bake else "logits")
    assert len(list((artifact.folder / "evidence").iterdir())) == 12
    images = pictures(tiny_data)
    same = np.mean([artifact.predict(image) == small.predict(image) for image in images])
    held_to = PRECISIONS[coarser(precision, manifest.precision.executed)]
    assert same >= min(0.999, held_to.same_label)
    if precision == manifest.precision.executed == "fp32":
        assert same >= 0.999


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_trained_run_becomes_an_artifact(
    tiny_artifacts: dict[str, Artifact], tiny_run: Path, tiny_data: Data, kind: type[Target]
) -> None:
    needs(kind)
    artifact, student = tiny_artifacts[kind.name], es.load(tiny_run)
    assert artifact.manifest.ledger is not None
    assert artifact.manifest.ledger.passed, list(bad_hops(artifact.manifest.ledger))
    same = np.mean([artifact.predict(image) == student.predict(image) for image in pictures(tiny_data)])
    assert same >= 0.999
    assert artifact.manifest.source.sha256 == read_card(tiny_run).sha256


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_another_size_is_resized_on_the_way_in_and_out(export: Export, kind: type[Target]) -> None:
    artifact = export(kind, "fp32", BAKES)
    image = np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8)
    assert artifact.predict(image).shape == (50, 71)
    with pytest.raises(EdgesegError, match="an image is uint8 RGB"):
        artifact.predict(image[..., 0])


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=kind.name, marks=() if kind in (*THOROUGH, es.CoreMl) else pytest.mark.wide)
        for kind in KINDS
    ],
)
def test_blue_first_is_put_in_order_inside_and_exchanging_it_is_caught(
    export: Export, small: Student, tiny_data: Data, kind: type[Target], tmp_path: Path
) -> None:
    artifact, image = export(kind, "fp32", (*BAKES, "bgr")), pictures(tiny_data)[0]
    spec = artifact.manifest.input
    assert (spec.colour, spec.baked) == ("BGR", [*BAKES, "bgr"])
    assert artifact.manifest.ledger is not None and artifact.manifest.ledger.passed
    drawn = artifact.predict(image)
    given = np.ascontiguousarray(image[..., ::-1])[None]
    assert np.array_equal(pixels.prepare(image, spec), given)
    assert np.array_equal(pixels.labels(artifact.session.run(given)), drawn)
    assert np.mean(small.predict(image) == drawn) > 0.999
    assert np.mean(pixels.labels(artifact.session.run(image[None])) == drawn) < 0.98
    folder = Path(shutil.copytree(artifact.folder, tmp_path / "wrong"))
    wrong = Artifact(folder, replace(artifact.manifest, input=replace(spec, colour="RGB")))
    ledger = verify_with(wrong, small, tiny_data).manifest.ledger
    assert ledger is not None and not ledger.passed
    assert any("when red and blue are exchanged" in line for line in bad_hops(ledger))


def test_an_order_of_colours_needs_pixels(small: Student) -> None:
    with pytest.raises(EdgesegError, match="bake pre,bgr"):
        networks(small, SIZE, ("bgr", "labels"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_manifest_comes_back_and_names_its_files(export: Export, kind: type[Target]) -> None:
    artifact = export(kind, "fp32", BAKES)
    again = Artifact.open(artifact.folder)
    assert again.manifest == artifact.manifest
    assert schema.parse(Manifest, schema.dump(again.manifest), "manifest") == again.manifest
    for entry in again.manifest.files:
        assert entry.sha256 == sha256(artifact.folder / entry.path)
        assert entry.bytes == (artifact.folder / entry.path).stat().st_size
    assert again.model_file == (artifact.folder / again.manifest.files[0].path).resolve()
    assert from_options(again.manifest.target, "manifest") == kind()
    assert set(again.manifest.tools) == set(kind.tools)


def embedded(artifact: Artifact) -> dict[str, Any]:
    """What the model file says about itself."""
    told: dict[str, Any]
    if artifact.manifest.target["name"] == "ncnn":
        from edgeseg.runtimes.ncnn_net import card_of

        return card_of(artifact.model_file).about
    if artifact.manifest.target["name"] == "executorch":
        from edgeseg.kernels.executorch_runtime import load_code

        return dict(load_code(artifact.model_file.read_bytes(), 1).card)
    if artifact.manifest.target["name"] == "coreml":
        from coremltools.models.utils import load_spec

        told = json.loads(load_spec(str(artifact.model_file.parent)).description.metadata.userDefined["edgeseg"])
        return told
    if artifact.model_file.suffix == ".tflite":
        from edgeseg.kernels.litert_plugin import read

        told = json.loads(read(artifact.model_file.read_bytes()).description)["edgeseg"]
        return told
    if artifact.model_file.suffix == ".onnx":
        import onnx

        props = {entry.key: entry.value for entry in onnx.load(artifact.model_file).metadata_props}
        told = json.loads(props["edgeseg"])
        return told
    from edgeseg.runtimes.openvino_model import core

    info = core().read_model(artifact.model_file).get_rt_info()["edgeseg"]
    values = {key: str(getattr(value, "value", value)) for key, value in info.items()}
    return {key: json.loads(value) if value.startswith("[") else value for key, value in values.items()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_file_alone_says_what_it_is(export: Export, kind: type[Target]) -> None:
    artifact = export(kind, "fp16", BAKES)
    card, student = embedded(artifact), artifact.manifest.student
    assert card["student"] == "small"
    assert card["class_names"] == student.class_names
    assert card["palette"] == [list(colour) for colour in student.palette]
    assert card["mean"] == pytest.approx(student.mean)
    assert card["std"] == pytest.approx(student.std)
    assert card["baked"] == list(BAKES)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_exporting_twice_gives_the_same_bytes(
    export: Export, small: Student, tiny_data: Data, tmp_path: Path, kind: type[Target], precision: str
) -> None:
    needs(kind)
    options: Any = {"precision": precision}
    again = es.export_model(small, kind(**options), tmp_path / "again", SIZE, BAKES, data=tiny_data)
    assert again.manifest.files == export(kind, precision, BAKES).manifest.files


KILLED = """
import os, signal, sys
import edgeseg.export as export
from edgeseg.files import aside_folder
with aside_folder(export.Path(sys.argv[1])) as part:
    (part / "model.onnx").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def copy(export: Export, tmp_path: Path) -> Path:
    """A copy of an artifact that a test may damage."""
    source = export(OnnxRuntime, "fp32", BAKES).folder
    return Path(shutil.copytree(source, tmp_path / "artifact"))


def test_a_killed_export_leaves_the_old_artifact(copy: Path, small: Student, tiny_data: Data) -> None:
    before = Artifact.open(copy).manifest
    killed = subprocess.run([sys.executable, "-c", KILLED, str(copy)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Artifact.open(copy).manifest == before
    es.export_model(small, OnnxRuntime(opset=18), copy, SIZE, data=tiny_data)  # the next one clears away what is left
    assert Artifact.open(copy).manifest.target["opset"] == 18
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_failed_export_leaves_the_old_artifact(
    copy: Path, small: Student, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Artifact.open(copy).manifest
    monkeypatch.setattr("edgeseg.parity.keep_evidence", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        es.export_model(small, OnnxRuntime(), copy, SIZE, data=tiny_data)
    assert Artifact.open(copy).manifest == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_full_disk_is_one_line(small_disk: Path, small: Student, tiny_data: Data, kind: type[Target]) -> None:
    needs(kind)
    (small_disk / "ballast").write_bytes(b"x" * 56_000)
    with pytest.raises(EdgesegError, match=r"cannot write .*(No space left on device|is the disk full)"):
        es.export_model(small, kind(), small_disk / "out", SIZE, data=tiny_data)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("inside", ["model.json", "thesis.tex"])
def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, small: Student, inside: str) -> None:
    (tmp_path / inside).write_text("years of work")
    with pytest.raises(EdgesegError, match="export to another folder"):
        es.export_model(small, OnnxRuntime(), tmp_path, SIZE)
    assert (tmp_path / inside).read_text() == "years of work"


def test_a_file_that_was_changed_is_refused(copy: Path) -> None:
    with (copy / "model.onnx").open("ab") as file:
        file.write(b" ")
    with pytest.raises(EdgesegError, match=r"model.onnx was changed after export \(SHA-256 differs"):
        es.load(copy)


def test_a_file_that_is_missing_is_refused(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    with pytest.raises(EdgesegError, match=r"model.onnx is missing although manifest.json names it"):
        es.load(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link"])
def test_a_path_that_leaves_the_artifact_is_refused(copy: Path, name: str) -> None:
    (copy.parent / "secret").write_text("")
    (copy / "link").symlink_to(copy.parent / "secret")
    document = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    document["files"][0]["path"] = name
    write_json(copy / MANIFEST, document)
    with pytest.raises(EdgesegError, match="leaves its folder"):
        es.load(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": []}, "names no files"),
        ({"target": {"name": "onnxrunt"}}, "did you mean onnxruntime"),
        ({"colour": "BGR"}, "manifest.json: colour is unknown here"),
        ({"schema": 99, "novelty": 1}, "is of schema 99, this edgeseg reads 1; pip install --upgrade edgeseg"),
        ({"student": None}, "manifest.json: student should be "),
    ],
)
def test_a_manifest_that_does_not_fit_is_one_line(copy: Path, change: dict[str, Any], said: str) -> None:
    document = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    write_json(copy / MANIFEST, {**document, **change})
    with pytest.raises(EdgesegError, match=said) as caught:
        Artifact.open(copy).predict(np.zeros((*SIZE, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_exported_is_said_first(small: Student, tmp_path: Path) -> None:
    makes: dict[str, Callable[[], object]] = {
        "opset 99 is not within 18..23": lambda: OnnxRuntime(opset=99),
        "exports fp32 or fp16, and quantizes to int8, .* got precision 'int3'": lambda: OnnxRuntime(precision="int3"),  # type: ignore[arg-type]
        "63x96 is not a multiple of 8 .* pad to 64x96": lambda: es.export_model(
            small, OnnxRuntime(), tmp_path / "x", (63, 96)
        ),
        "cannot bake cake": lambda: es.export_model(small, OnnxRuntime(), tmp_path / "x", SIZE, ["cake"]),
        "no target named 'onxruntime'; did you mean onnxruntime": lambda: from_options({"name": "onxruntime"}, "here"),
        "here: opset": lambda: from_options({"name": "onnxruntime", "opset": "many"}, "here"),
    }
    for said, make in makes.items():
        with pytest.raises(EdgesegError, match=said):
            make()
    assert list(tmp_path.iterdir()) == []


def test_an_alias_is_the_target() -> None:
    assert TARGETS["onnx"] is TARGETS["onnxruntime"]


class Lying:
    """A session whose answers are bent."""

    def __init__(self, session: Any, bend: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._session, self._bend = session, bend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, image: NDArray[Any]) -> NDArray[Any]:
        return self._bend(self._session.run(image).copy())


def spoil(value: float, share: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def bend(output: NDArray[Any]) -> NDArray[Any]:
        output.reshape(-1)[::share] = value
        return output

    return bend


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (spoil(np.nan, 100_000), "1 values|8 values|values are NaN or infinite"),
        (spoil(np.inf, 100_000), "values are NaN or infinite"),
        (spoil(50.0, 50), "of the pixels keep their label"),
        (lambda output: output * 1.01, "relative RMS"),
        (lambda output: np.roll(output, 8, axis=-1), "boundary F is"),
        (
            lambda output: np.where(
                np.arange(output.shape[1])[None, :, None, None] == output.mean((0, 2, 3)).argmax(), -99, output
            ),
            "overlaps by",
        ),
    ],
)
def test_masks_that_changed_fail(
    copy: Path, export: Export, small: Student, tiny_data: Data, bend: Callable[[NDArray[Any]], NDArray[Any]], said: str
) -> None:
    from edgeseg.parity import choose

    artifact = Artifact.open(export(OnnxRuntime, "fp32", ()).folder)
    copy = Path(shutil.copytree(artifact.folder, copy.with_name("lying")))
    lying = Artifact(copy, artifact.manifest)  # what is written goes to the copy
    vars(lying)["session"] = Lying(artifact.session, bend)
    where, images = choose(tiny_data, None, 8, SIZE)
    ledger = verify_on(lying, small, where, images).manifest.ledger
    assert ledger is not None
    assert not ledger.passed
    assert [hop.passed for hop in ledger.hops] == [True, False, False]
    assert any(part in " ".join(bad_hops(ledger)) for part in said.split("|"))


def test_nan_behind_baked_labels_is_seen() -> None:
    rows = Comparison(3)
    logits = np.zeros((1, 3, 4, 4), np.float32)
    logits[0, :, 1, 1] = np.nan
    rows.add(logits, pixels.labels(logits)[None])  # both maps say class 0 where there is nothing to compare
    hop = rows.hop("student -> graph", "fp32", ["a", "b", "c"])
    assert hop.same_label == 1
    assert hop.nonfinite == 3
    assert not hop.passed


def test_equal_outputs_pass_at_every_precision() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    for name in PRECISIONS:
        rows = Comparison(3)
        rows.add(logits, logits)
        hop = rows.hop("same", name, ["a", "b", "c"])
        assert hop.passed
        assert (hop.relative_rms, hop.max_error, hop.same_label, hop.boundary_f, hop.worst_class_iou) == (0, 0, 1, 1, 1)


class Unwritable(nn.Module):
    """An operator that no format has."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_operator_that_a_format_lacks_is_one_line(kind: type[Target], tmp_path: Path) -> None:
    needs(kind)
    student = Small(3).eval()
    student.body.append(Unwritable())
    with pytest.raises(EdgesegError, match=r"bessel_j0|names an operator") as caught:  # ExecuTorch prints its name
        es.export_model(student, kind(), tmp_path / "out", SIZE)
    assert "\n" not in str(caught.value) and "stack trace" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def maps(side: int) -> list[NDArray[np.uint8]]:
    """Eight maps `[1, 64, 64]`: a square of class 1 on class 0, and in the last a square of class 2 with `side`."""
    made = np.zeros((8, 1, 64, 64), np.uint8)
    made[:, :, 8:40, 8:40] = 1
    made[-1, :, 48 : 48 + side, 48 : 48 + side] = 2
    return list(made)


def lost(side: int) -> Hop:
    """The ledger's row where class 2, in one image of eight, is lost and no other pixel is."""
    rows = Comparison(3)
    for before in maps(side):
        rows.add(before, np.where(before == 2, 0, before).astype(np.uint8))
    return rows.hop("lost", "fp16", ["a", "b", "c"])


def test_a_speck_that_is_lost_is_left_to_the_share_of_labels() -> None:
    hop = lost(1)
    assert hop.passed
    assert 0.999 < hop.boundary_f < 1  # class 0 had a boundary around it
    assert hop.same_label < 1


def test_a_class_that_is_lost_fails_by_its_boundary_too() -> None:
    hop = lost(15)  # 225 pixels: 0.7 % of all
    assert hop.boundary_f == pytest.approx(2 / 3, abs=0.02)  # that of class 2 is 0
    assert [reason.split(" is ")[0] for reason in hop.reasons if "boundary" in reason] == ["boundary F"]


def test_boundaries_count_by_their_length_whichever_image_they_are_in() -> None:
    rows = Comparison(2)
    for shift in (0, 0, 0, 5):  # of four equal squares one is out of reach but for its sides
        before, after = (np.roll(maps(0)[0], by, axis=-1) for by in (0, shift))
        rows.add(before, after)
    hop = rows.hop("moved", "fp16", ["a", "b"])
    ring, kept = 4 * 32 - 4, 2 * 29 + 4
    assert f_score(rows.boundaries)[1] == pytest.approx(100 * (3 * ring + kept) / (4 * ring))
    assert hop.boundary_f == pytest.approx(f_score(rows.boundaries).mean() / 100)


def test_maps_without_any_boundary_have_none_to_lose() -> None:
    rows = Comparison(2)
    everywhere = np.ones((1, 16, 16), np.uint8)
    rows.add(everywhere, everywhere)
    assert rows.hop("same", "fp32", ["a", "b"]).passed
    rows.add(everywhere, np.zeros_like(everywhere))
    assert not rows.hop("other", "fp32", ["a", "b"]).passed


def test_a_coarser_precision_allows_more() -> None:
    order = ["fp32", "fp16", "bf16", "int8"]
    for fine, coarse in pairwise(order):
        first, second = PRECISIONS[fine], PRECISIONS[coarse]
        assert first.relative_rms < second.relative_rms
        assert (first.same_label, first.boundary_f, first.worst_class_iou) > (
            second.same_label, second.boundary_f, second.worst_class_iou,
        )  # fmt: skip
        assert coarser(fine, coarse) == coarser(coarse, fine) == coarse
    assert coarser("fp16", None) == "fp16"
    assert coarser("fp16", "u4") == "fp16"


def test_another_student_is_not_compared(export: Export, tiny_run: Path) -> None:
    other = es.load(tiny_run)
    assert isinstance(other, Student)
    with pytest.raises(EdgesegError, match="is a small with 10 classes, not the ddrnet23_slim"):
        es.verify(export(OnnxRuntime, "fp32", ()), other)


def test_verify_takes_images_of_ones_own(copy: Path, small: Student) -> None:
    artifact = Artifact.open(copy)
    ledger = es.verify(artifact, small, [pixels.pattern(80, 100), pixels.pattern(64, 96)])
    assert ledger.passed
    assert [hop.images for hop in ledger.hops] == [2, 2, 2]
    assert Artifact.open(copy).manifest.ledger == ledger
    with pytest.raises(EdgesegError, match="at least one image"):
        es.verify(artifact, small, [])


def test_weights_that_are_no_numbers_are_not_exported(tmp_path: Path, small: Student) -> None:
    damaged = Small(small.classes)
    damaged.head.weight.data.fill_(torch.nan)
    with pytest.raises(EdgesegError, match="answers with NaN or infinity"):
        es.export_model(damaged, OnnxRuntime(), tmp_path / "out", SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_is_not_the_place_to_hide_a_failed_proof(export: Export) -> None:
    ledger = export(OnnxRuntime, "fp32", ()).manifest.ledger
    assert ledger is not None
    assert not replace(ledger, hops=[]).passed
    assert not replace(ledger, hops=[*ledger.hops, replace(ledger.hops[0], passed=False)]).passed


def test_an_export_that_fails_its_proof_does_not_replace_one_that_passed(
    copy: Path, small: Student, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg import parity

    before = Artifact.open(copy)
    (copy / "records").mkdir()
    real = parity.verify_with

    def failing(artifact: Artifact, *rest: Any, **more: Any) -> Artifact:
        made = real(artifact, *rest, **more)
        assert made.manifest.ledger is not None
        bad = replace(made.manifest.ledger.hops[-1], passed=False, reasons=["other masks"])
        return made.update(ledger=replace(made.manifest.ledger, hops=[bad]))

    monkeypatch.setattr(parity, "verify_with", failing)
    failed = es.export_model(small, OnnxRuntime(opset=18), copy, SIZE, data=tiny_data)
    assert failed.folder == copy.with_name("artifact-failed")
    assert failed.manifest.ledger is not None and not failed.manifest.ledger.passed
    assert Artifact.open(copy).manifest == before.manifest and (copy / "records").is_dir()
    again = es.export_model(small, OnnxRuntime(opset=18), failed.folder, SIZE, data=tiny_data)
    assert again.folder == failed.folder  # one that had not passed is replaced
    monkeypatch.undo()
    good = es.export_model(small, OnnxRuntime(opset=18), copy, SIZE, data=tiny_data)
    assert good.folder == copy and (copy / "records").is_dir()
    assert not failed.folder.exists()  # mended: the verdict would count it for ever


def test_only_the_failure_of_the_same_thing_is_removed(copy: Path, tmp_path: Path) -> None:
    failed, good = tmp_path / "artifact-failed", Artifact.open(copy)
    assert good.manifest.ledger is not None
    bad = replace(good.manifest.ledger, hops=[replace(good.manifest.ledger.hops[0], passed=False)])
    others: list[dict[str, Any]] = [
        {},  # it passed: somebody's own name for it
        {"ledger": bad, "target": {**good.manifest.target, "name": "openvino"}},
        {"ledger": bad, "student": replace(good.manifest.student, name="large")},
    ]
    for changes in others:
        shutil.rmtree(failed, ignore_errors=True)
        Artifact.open(Path(shutil.copytree(copy, failed))).update(**changes)
        clear_failed(copy)
        assert failed.exists()
    (failed / MANIFEST).write_text("a thesis")
    clear_failed(copy)
    assert failed.exists()
    shutil.rmtree(failed)
    Artifact.open(Path(shutil.copytree(copy, failed))).update(ledger=bad)
    good.update(ledger=bad)
    clear_failed(copy)
    assert failed.exists()  # neither passed
    good.update(ledger=good.manifest.ledger)
    clear_failed(copy)
    assert not failed.exists()


def test_an_artifact_is_known_by_all_its_files(export: Export) -> None:
    """`model.xml` alone is the same for two trainings of one student."""
    manifest = export(OpenVino, "fp32", BAKES).manifest
    assert len(manifest.files) > 1
    for index in range(len(manifest.files)):
        files = list(manifest.files)
        files[index] = replace(files[index], sha256="0" * 64)
        assert replace(manifest, files=files).sha256 != manifest.sha256
    document = replace(manifest.files[0], path="quantization.json")
    assert replace(manifest, files=[*manifest.files, document]).sha256 == manifest.sha256
    one = export(OnnxRuntime, "fp32", BAKES).manifest
    assert one.sha256 == one.files[0].sha256


def test_a_loaded_student_says_which_run_it_is_until_it_is_changed(tmp_path: Path, tiny_data: Data) -> None:
    student = es.create("lraspp_mobilenet_v3_small", classes=5).eval()
    assert source_of(student) == Source(None, None)
    es.save(student, tmp_path / "run", SIZE)
    loaded = es.load(tmp_path / "run")
    assert isinstance(loaded, Student)
    card = read_card(tmp_path / "run")
    assert source_of(loaded) == Source(str(tmp_path / "run"), card.sha256)
    with torch.no_grad():
        next(loaded.parameters()).mul_(1.001)
    assert source_of(loaded) == Source(None, None)


def test_what_others_write_meanwhile_stays(copy: Path) -> None:
    """An evaluation takes minutes; a proof that ends before it must not be replaced by the one that was there."""
    mine, theirs = Artifact.open(copy), Artifact.open(copy)
    theirs.update(ledger=None)
    mine.update(accuracy=Accuracy("miou", 50.0, "x", "test", 3))
    now = Artifact.open(copy).manifest
    assert now.ledger is None and now.accuracy is not None
    other = copy.with_name("other")
    copy.rename(other)
    with pytest.raises(EdgesegError, match="not an artifact"):
        mine.update(accuracy=None)


def test_a_new_proof_leaves_no_evidence_of_the_old(copy: Path, small: Student, tiny_data: Data) -> None:
    names = {path.name for path in (copy / "evidence").iterdir()}
    assert "03-image.jpg" in names
    verify_with(Artifact.open(copy), small, tiny_data, count=1)
    assert {path.name[:2] for path in (copy / "evidence").iterdir()} == {"01"}
