"""Promptable students: one look at an image serves every prompt, and a prompt that makes no sense is one clear line."""

from __future__ import annotations

import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError
from edgeseg.export import OnnxRuntime
from edgeseg.runtimes import PromptSession
from edgeseg.segment import ArtifactSegmenter, StudentSegmenter, _Fitted
from edgeseg.students import Promptable
from edgeseg.students.promptable import best_mask
from edgeseg.students.saliency import salient_point
from tests.runtimes.here import here, opened
from tests.students.test_registry import settled

NAMES = ["rwkv_sam_tiny", "squeeze_sam"]
SIZE = (64, 96)


@pytest.fixture(scope="module", params=NAMES)
def student(request: pytest.FixtureRequest) -> Any:
    return settled(request.param)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


CLICK = torch.tensor([[[40.0, 30.0]]]), torch.ones(1, 1)
BOX = torch.tensor([[10.0, 12.0, 60.0, 50.0]])


@torch.inference_mode()
def test_many_prompts_are_answered_as_one_by_one(student: Any, image: torch.Tensor) -> None:
    features = student.encode(image)
    points = torch.rand(5, 2, 2) * torch.tensor([SIZE[1], SIZE[0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, -1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    together = student.decode(features, points, labels)
    for index in range(5):
        alone = student.decode(features, points[[index]], labels[[index]])
        for many, one in zip(together, alone, strict=True):
            assert torch.allclose(many[[index]], one, atol=1e-4 * float(one.abs().max()))


@torch.inference_mode()
def test_prompts_of_a_batch_go_to_their_images(student: Any) -> None:
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    points, labels = torch.rand(4, 1, 2) * 60, torch.ones(4, 1)
    masks, quality = student.decode(student.encode(images), points, labels)
    assert masks.shape == (4, student.masks, *SIZE)
    assert quality.shape == (4, student.masks)
    second, _ = student.decode(student.encode(images[1:]), points[2:], labels[2:])
    assert torch.allclose(masks[2:], second, atol=1e-4 * float(second.abs().max()))


@torch.inference_mode()
def test_an_empty_place_says_nothing(student: Any, image: torch.Tensor) -> None:
    features = student.encode(image)
    plain = student.decode(features, boxes=BOX)[0]
    if student.name == "squeeze_sam":  # SAM's encoder has a token for it, the drawn prompts have nothing
        padded = student.decode(features, torch.rand(1, 2, 2), torch.full((1, 2), -1.0), BOX)[0]
        assert torch.equal(plain, padded)
    assert not torch.equal(plain, student.decode(features, *CLICK)[0])


def test_negative_clicks_are_drawn_when_asked() -> None:
    points, labels = torch.tensor([[[100.0, 60.0], [30.0, 200.0]]]), torch.tensor([[1.0, 0.0]])
    original, ours = (es.create("squeeze_sam", side=256, negatives=drawn) for drawn in (False, True))
    assert set(original.draw((256, 256), points, labels)[0, 1].unique().tolist()) == {0, 1}
    drawn = ours.draw((256, 256), points, labels)[0, 1]
    assert (drawn[60, 100], drawn[200, 30], drawn[0, 0]) == (1, -1, 0)
    assert int((drawn == -1).sum()) == 81  # pixels within 5 of a pixel


BAD = {
    "no prompt": ((None, None, None), "no prompt: give points"),
    "points alone": ((CLICK[0], None, None), "points and labels belong together"),
    "outside": ((torch.tensor([[[40.0, 64.5]]]), CLICK[1], None), r"point \[40.0, 64.5\] lies outside the image"),
    "NaN": ((torch.tensor([[[float("nan"), 4.0]]]), CLICK[1], None), "lies outside the image"),
    "swapped": ((None, None, torch.tensor([[60.0, 12.0, 10.0, 50.0]])), "swap its corners"),
    "leaving": ((None, None, torch.tensor([[10.0, 12.0, 97.0, 50.0]])), "leaves the image"),
    "label": ((CLICK[0], torch.tensor([[5.0]]), None), "labels are 1"),
    "shapes": ((CLICK[0], torch.ones(1, 2), None), r"points are \[P, N, 2\] and labels \[P, N\]"),
    "counts": ((*CLICK, BOX.expand(2, 4)), "the same number of prompts"),
    "none at all": ((torch.zeros(0, 1, 2), torch.zeros(0, 1), None), "at least 1"),
    "all empty": ((CLICK[0], -torch.ones(1, 1), None), "every point of a prompt is marked as empty"),
    "box of three": ((None, None, torch.zeros(1, 3)), r"boxes are \[P, 4\]"),
}


@pytest.mark.parametrize("how", list(BAD))
def test_a_prompt_that_makes_no_sense_is_one_clear_line(student: Any, image: torch.Tensor, how: str) -> None:
    prompt, said = BAD[how]
    with pytest.raises(EdgesegError, match=said) as caught:
        student.decode(student.encode(image), *prompt)
    assert "\n" not in str(caught.value)


def test_prompts_that_do_not_divide_among_the_images(student: Any) -> None:
    features = student.encode(torch.zeros(2, 3, *SIZE))
    with pytest.raises(EdgesegError, match="3 prompts do not divide among 2 images"):
        student.decode(features, torch.rand(3, 1, 2), torch.ones(3, 1))


def test_a_photo_is_asked_in_its_own_pixels(student: Any) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (70, 101, 3), np.uint8)
    mask, quality = student.segment(photo, [(50, 30), (90, 65)], [1, 0], box=(20, 10, 95, 66))
    assert mask.shape == (70, 101)
    assert np.isfinite(quality)
    with pytest.raises(EdgesegError, match="lies outside the image"):
        student.segment(photo, [(102, 30)])
    with pytest.raises(EdgesegError, match="2 points but 1 labels"):
        student.segment(photo, [(2, 3), (4, 5)], [1])
    with pytest.raises(EdgesegError, match="is promptable: ask it with segment"):
        student.predict(photo)


def test_without_a_prompt_the_eye_catcher_is_cut_out(student: Any) -> None:
    photo = np.full((96, 128, 3), 90, np.uint8)
    photo[20:44, 70:100] = (250, 30, 30)
    x, y = salient_point(photo)
    assert 66 <= x <= 104
    assert 16 <= y <= 48
    assert np.array_equal(student.segment(photo)[0], student.segment(photo, [(x, y)])[0])
    assert all(0 <= place <= 1 for place in salient_point(np.zeros((1, 1, 3), np.uint8)))


@pytest.mark.parametrize("name", ["rwkv_sam_tiny", pytest.param("squeeze_sam", marks=pytest.mark.wide)])
@pytest.mark.slow
def test_a_checked_artifact_answers_as_its_student(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = settled(name)
    artifact = es.export_model(student, OnnxRuntime(), tmp_path / "out", SIZE, ("pre",))
    assert artifact.manifest.ledger is not None
    assert artifact.manifest.ledger.passed
    assert artifact.manifest.decoder is not None
    assert [entry.path for entry in artifact.manifest.files] == ["encoder/model.onnx", "decoder/model.onnx"]
    photo = np.random.default_rng(0).integers(0, 256, (100, 90, 3), np.uint8)
    points, labels = np.array([[[40.0, 30.0]], [[20.0, 80.0]], [[70.0, 10.0]]]), np.ones((3, 1))
    boxes = np.array([[10.0, 10, 60, 60]] * 3)
    for given in (None, boxes):
        ours, theirs = (
            asked.masks(asked.begin(photo), points, labels, given)
            for asked in (StudentSegmenter(student, SIZE), ArtifactSegmenter(artifact))
        )
        assert ours.shape == theirs.shape == (3, 100, 90)
        assert (ours == theirs).mean() > 0.999  # float32 sums in another order, of untrained masks
    assert artifact.segment(photo, [(40, 30)]).shape == (100, 90)
    with pytest.raises(EdgesegError, match="is promptable: ask it with segment"):
        artifact.predict(photo)
    session = Artifact.open(tmp_path / "out").session
    assert isinstance(session, PromptSession)
    assert session.run(np.zeros((1, *SIZE, 3), np.uint8)).shape == (1, 1, *SIZE)
    assert session.execution.precision == "fp32"
    with closing(here(tmp_path)) as device:
        bench = opened(device, tmp_path / "out")
        assert bench.doubts == []  # a device draws the same
        assert bench.ask("execution")["execution"]["settings"]["decoder_arithmetic"]


def test_a_photo_that_is_a_little_too_long_fits() -> None:
    """One side is as large as the canvas, and the other one pixel more than that scaled alike."""

    class Nothing(_Fitted):
        def encode(self, canvas: Any) -> Any:
            return canvas.shape

    for height, width, size in ((480, 961, (1024, 960)), (200, 1025, (1024, 1024)), (64, 96, (64, 96))):
        shape, photo = Nothing(size, (0.5, 0.5, 0.5)).begin(np.zeros((height, width, 3), np.uint8))
        assert (shape, photo) == ((*size, 3), (height, width))


@torch.inference_mode()
def test_the_best_mask_is_that_of_the_highest_quality() -> None:
    masks = torch.arange(2 * 3 * 4).reshape(2, 3, 2, 2).float()
    assert torch.equal(best_mask(masks, torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.2, 0.1]]))[:, 0], masks[[0, 1], [1, 0]])


@pytest.mark.slow
@torch.inference_mode()
def test_an_image_is_looked_at_once(student: Any, image: torch.Tensor) -> None:
    """Encoding once and asking 8 times, against both measured alone, in turns; again where others were in the way."""
    points, labels = torch.rand(8, 1, 2) * 60, torch.ones(8, 1)
    features = student.encode(image)

    def once() -> None:
        student.decode(student.encode(image), points, labels)

    def apart() -> None:
        student.encode(image)
        for index in range(8):
            student.decode(features, points[[index]], labels[[index]])

    times: dict[Any, list[float]] = {once: [], apart: []}
    for _ in range(12):
        for work, taken in times.items():
            begin = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begin)
        if len(times[once]) >= 4 and min(times[once]) <= 1.15 * min(times[apart]):
            return
    raise AssertionError(f"{min(times[once]):.3g} s at once, {min(times[apart]):.3g} s apart")


def test_a_loaded_student_looks_at_the_size_that_it_learned_at(tmp_path: Path) -> None:
    """A photo from a phone would go through it whole, which it never saw."""
    photo = np.random.default_rng(0).integers(0, 255, (100, 90, 3), np.uint8)
    student: Any = settled("rwkv_sam_tiny")
    es.save(student, tmp_path / "run", size=(64, 64))
    loaded = es.load(tmp_path / "run")
    assert isinstance(loaded, Promptable)
    seen: list[tuple[int, ...]] = []
    encode = loaded.encode

    def watched(image: torch.Tensor) -> Any:
        seen.append(tuple(image.shape[-2:]))
        return encode(image)

    loaded.encode = watched  # type: ignore[method-assign]
    mask, quality = loaded.segment(photo, [(40, 30)], box=(20, 10, 80, 60))
    assert seen == [(64, 64)] and mask.shape == photo.shape[:2] and math.isfinite(quality)
    boxed, _ = loaded.segment(photo, box=(20, 10, 80, 60))
    assert boxed.shape == photo.shape[:2]
    segmenter = StudentSegmenter(loaded, (64, 64))
    points, labels, boxes = np.array([[[40.0, 30.0]]]), np.ones((1, 1)), np.array([[20.0, 10.0, 80.0, 60.0]])
    assert np.array_equal(segmenter.masks(segmenter.begin(photo), points, labels, boxes)[0], mask)
