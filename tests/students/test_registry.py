"""Every student of the registry keeps the contract; one that is an exception says so itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeseg as es
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.runs import load_run, save
from edgeseg.students import STUDENTS, Student, fuse
from edgeseg.train.loop import build_student

CLASSES = 5


@pytest.fixture(scope="module", params=list(STUDENTS))
def student(request: pytest.FixtureRequest) -> Student:
    """Each student once, with statistics that a fresh network does not have."""
    torch.manual_seed(0)
    made = es.create(request.param, classes=CLASSES).eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.25)
    return made


def sizes(student: Student) -> list[tuple[int, int]]:
    """Two sizes that are legal, small, and not square."""
    step = student.multiple
    up = [-(-side // step) * step for side in (64, 96, 120)]
    return [(up[0], up[1]), (up[2], up[0])]


def picture(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_logits_come_at_the_size_of_the_image(student: Student) -> None:
    for height, width in sizes(student):
        logits = student(picture(height, width))
        assert logits.shape == (1, CLASSES, height, width)
        assert logits.isfinite().all()


def test_a_size_that_does_not_line_up_is_refused_with_the_one_that_does(student: Student) -> None:
    height, width = sizes(student)[0]
    odd = picture(height + 1, width + 3)
    if student.multiple == 1:
        assert student(odd).shape[-2:] == (height + 1, width + 3)
        return
    fit = f"pad to {height + student.multiple}x{width + -(-3 // student.multiple) * student.multiple}"
    for ask in (student, student.training_logits):
        with pytest.raises(EdgesegError, match=f"{height + 1}x{width + 3} is not a multiple of .*{fit}"):
            ask(odd)


def test_predict_takes_any_size(student: Student) -> None:
    image = np.random.default_rng(0).integers(0, 256, (67, 71, 3), np.uint8)
    labels = student.predict(image)
    assert labels.shape == (67, 71)
    assert labels.dtype == np.uint8
    assert labels.max() < CLASSES


@pytest.mark.parametrize("shape", [(64, 96), (64, 96, 4), (0, 96, 3)])
def test_what_is_no_image_is_refused(student: Student, shape: tuple[int, ...]) -> None:
    with pytest.raises(EdgesegError, match="an image is uint8 RGB"):
        student.predict(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("name", list(STUDENTS))
def test_every_parameter_learns(name: str, tiny_data: Data) -> None:
    torch.manual_seed(0)
    learning = build_student(name, tiny_data).train()
    height, width = sizes(learning)[0]
    heads = learning.training_logits(picture(height, width, batch=2))
    assert len(heads) == 1 + len(learning.auxiliary)
    torch.autograd.backward(torch.stack([(head * torch.randn_like(head)).sum() for head in heads]).sum())
    idle = [key for key, value in learning.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []


def test_features_are_what_the_student_says(student: Student) -> None:
    height, width = sizes(student)[0]
    with torch.inference_mode():
        maps = student.forward_features(picture(height, width))
    assert len(maps) == len(student.feature_info) > 0
    for found, said in zip(maps, student.feature_info, strict=True):
        assert found.shape == (1, said.channels, -(-height // said.stride), -(-width // said.stride))
    strides = [stage.stride for stage in student.feature_info]
    assert strides == sorted(strides)


def test_folding_changes_nothing_but_the_work(student: Student) -> None:
    folded = fuse(student)
    image = picture(*sizes(student)[1])
    with torch.inference_mode():
        wanted, got = student(image), folded(image)
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()  # products of 60 layers in another order
    norms = [sum(isinstance(part, nn.BatchNorm2d) for part in model.modules()) for model in (student, folded)]
    assert norms[1] < norms[0]


def test_a_run_gives_back_the_same_bits(student: Student, tmp_path: Path) -> None:
    student.describe([f"kind {i}" for i in range(CLASSES)], student.palette)
    again = load_run(save(student, tmp_path / "run", size=(64, 96)))
    assert (again.name, again.class_names, again.palette) == (student.name, student.class_names, student.palette)
    mine, theirs = student.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_exports_with_a_fixed_shape(student: Student) -> None:
    image = picture(*sizes(student)[0])
    with torch.inference_mode():
        traced = torch.export.export(student, (image,), strict=False).module()
        assert torch.equal(traced(image), student(image))


def test_training_heads_are_no_part_of_a_run(student: Student, tmp_path: Path) -> None:
    options = {"auxiliary": True} if student.name in with_auxiliary() else {}
    learning = es.create(student.name, classes=CLASSES, **options)
    assert load_run(save(learning, tmp_path / "run")).state_dict().keys() == student.state_dict().keys()
    assert sum(p.numel() for p in learning.deployed_parameters()) == sum(p.numel() for p in student.parameters())


def with_auxiliary() -> list[str]:
    import inspect

    return [name for name in STUDENTS if "auxiliary" in inspect.signature(STUDENTS[name]).parameters]


def test_a_student_says_where_it_comes_from(student: Student) -> None:
    assert student.licence
    assert student.paper
    assert all(claim.source for claim in student.claims)
    assert len(set(student.palette)) == CLASSES


def test_class_names_must_fit(student: Student) -> None:
    with pytest.raises(EdgesegError, match=f"has {CLASSES} classes, got 2 names"):
        student.describe(["a", "b"], [(0, 0, 0), (1, 1, 1)])


def test_damaged_weights_are_not_folded(student: Student) -> None:
    damaged = es.create(student.name, classes=CLASSES)
    next(damaged.parameters()).data.fill_(torch.nan)
    with pytest.raises(EdgesegError, match="NaN or infinity"):
        fuse(damaged)


def test_one_class_is_no_segmentation() -> None:
    with pytest.raises(EdgesegError, match="at least 2 classes, got 1"):
        es.create(next(iter(STUDENTS)), classes=1)


def test_an_unknown_student_is_answered_with_near_names() -> None:
    with pytest.raises(EdgesegError, match="no student named 'ddrnet23slim'; did you mean ddrnet23_slim"):
        es.create("ddrnet23slim", classes=11)


def test_a_name_has_one_owner() -> None:
    with pytest.raises(ValueError, match="already belongs to"):
        STUDENTS.add(next(iter(STUDENTS)), Student)
