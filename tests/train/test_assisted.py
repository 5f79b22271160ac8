"""A teacher that is shown the labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeseg.data import Data, load_data
from edgeseg.embed import Job, work
from edgeseg.errors import EdgesegError
from edgeseg.losses import CrossEntropy
from edgeseg.metrics import VOID
from edgeseg.runs import load_run, read_card
from edgeseg.students import STUDENTS, Semantic, create
from edgeseg.students.assisted import SCALE, drawn_codes, fixed_codes, is_assisted, label_picture, widen
from edgeseg.students.student import parameters
from edgeseg.train.assisted import assisted_loss, label, with_labels
from edgeseg.train.loop import Trainer
from edgeseg.train.recipe import read_recipe
from edgeseg.train.teacher import Teacher
from edgeseg.train.teaching import Teaching
from edgeseg.train.teaching.logits import Cwd

NAME = "assisted:lraspp_mobilenet_v3_small"


@pytest.fixture(scope="module")
def few() -> Data:
    return load_data("synthetic:size=64x96,train=8,val=2,test=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, few: Data) -> Path:
    """A label-assisted teacher after a few steps."""
    changes = ["epochs=1", "batch=4", "workers=0", "ema=null", "norm_batches=1", "optimizer.type=adamw"]
    out = tmp_path_factory.mktemp("assisted") / "run"
    return Trainer(NAME, few, out, read_recipe(None, changes)).run(resume=False)


def test_a_label_picture_is_its_definition() -> None:
    labels = torch.tensor([[[0, 2], [1, VOID]], [[2, 2], [0, 1]]], dtype=torch.uint8)
    codes = drawn_codes(2, 3, 7, labels.device)
    made = label_picture(labels, codes, 0.03, 8)
    noise = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(8))
    for b, y, x in np.ndindex(2, 2, 2):
        k = int(labels[b, y, x])
        wanted = 0.0 if k == VOID else SCALE * (float(codes[b, k]) + 0.03 * float(noise[b, y, x]))
        assert float(made[b, 0, y, x]) == pytest.approx(wanted, rel=1e-6)
    assert fixed_codes(1, 22, labels.device)[0, :3].tolist() == pytest.approx([-1.05, -0.95, -0.85])
    assert not torch.equal(codes[0], codes[1])


def test_it_cannot_look_without_labels(run: Path, few: Data, tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="shown the labels along with the picture"):
        work(Job(str(run), few.spec, None, tmp_path))


SEMANTIC = [name for name in STUDENTS if "classes" in parameters(name)]
FAMILIES = list({STUDENTS[name].__module__: name for name in reversed(SEMANTIC)}.values())
"""The first student of each."""


@pytest.mark.parametrize("name", FAMILIES)
def test_without_labels_it_is_the_student(name: str) -> None:
    torch.manual_seed(0)
    student = create(name, classes=3).eval().double()
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = student.low_logits(image)
        widen(student)
        student.double()
        blank, shown = (torch.cat([image, value * torch.ones_like(image[:, :1])], 1) for value in (0.0, 50.0))
        blank_error, shown_error = (
            float((student.low_logits(x) - wanted).abs().max() / wanted.abs().max()) for x in (blank, shown)
        )
        assert blank_error < 1e-12
        assert shown_error > 1e-6


def test_a_network_without_such_a_convolution_is_refused() -> None:
    with pytest.raises(EdgesegError, match="Linear has no convolution over an RGB image"):
        widen(torch.nn.Linear(3, 4))


def test_the_loss_is_its_definition() -> None:
    """Two draws, both labels' losses, and CWD both ways with the other side held still."""

    class Small(Semantic):
        def __init__(self) -> None:
            super().__init__(3)
            self.conv = torch.nn.Conv2d(4, 3, 1)

        def low_logits(self, image: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.conv(image / 50)
            return made

    torch.manual_seed(0)
    student = Small()
    images = torch.randint(0, 256, (2, 3, 6, 5), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    labels = torch.randint(0, 3, (2, 6, 5), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    made = assisted_loss(student, student, images, labels, CrossEntropy(), None, seed=11)
    logits = []
    for turn in (11, 13):
        picture = label_picture(labels, drawn_codes(2, 3, turn, images.device), 0.03, turn + 1)
        logits.append(student.low_logits(torch.cat([student.normalise(images), picture], 1)))

    def cwd(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        p, q = ((x / 4).flatten(2).softmax(2) for x in (theirs, ours))
        return 16 * (p * (p / q).log()).sum(2).mean()

    first, second = logits
    wanted = sum(torch.nn.functional.cross_entropy(each, labels.long()) for each in logits)
    wanted = wanted + 5 * (cwd(first, second.detach()) + cwd(second, first.detach()))
    assert made.item() == pytest.approx(wanted.item(), rel=1e-5)  # float32
    ours, theirs = (torch.autograd.grad(each, student.conv.weight)[0] for each in (made, wanted))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_it_is_a_run_that_uses_the_labels(run: Path, few: Data) -> None:
    card = read_card(run)
    assert card.name == NAME
    student = load_run(run)
    assert isinstance(student, Semantic) and is_assisted(student)
    image, truth = few.split("val")[0]
    seen = label(student, image, truth)
    other = label(student, image, np.roll(truth, 3, 0))
    assert (seen != other).any()  # what it is shown decides
    assert student.predict(image).shape == truth.shape  # and it takes pictures without


def test_its_norms_are_taken_with_the_labels_in_sight(few: Data, tmp_path: Path) -> None:
    trainer = Trainer(NAME, few, tmp_path, read_recipe(None, ["batch=4", "workers=0"]))
    seen: list[torch.Tensor] = []
    first = next(part for part in trainer.average.modules() if isinstance(part, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images, labels = next(trainer.batches.epoch(0))
    trainer.task.look(trainer.average, images, labels)
    wanted = label_picture(labels, fixed_codes(4, len(few.class_names), labels.device), 0.02, 0)
    assert torch.equal(seen[0][:, 3:], wanted)


def test_a_teacher_in_the_making_is_not_taught(few: Data, tmp_path: Path) -> None:
    recipe = replace(read_recipe(None, ["batch=4", "workers=0"]), teaching=Teaching("ema", "", losses=(Cwd(),)))
    with pytest.raises(EdgesegError, match="is made to teach and learns from labels alone"):
        Trainer(NAME, few, tmp_path, recipe)


def test_it_teaches_with_the_labels_in_sight(run: Path, few: Data, tmp_path: Path) -> None:
    teaching = Teaching(str(run), read_card(run).sha256, losses=(Cwd(),))
    teacher = Teacher(teaching, few.class_names)
    image, truth = few.split("val")[0]
    images, labels = torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(truth)[None]
    network: Any = teacher.network
    with torch.inference_mode():
        wanted = network.low_logits(with_labels(network, network.normalise(images), labels, 5))
    made = teacher.view(images, wanted.shape[-2:], (), labels, 5).logits
    assert torch.allclose(made, wanted, atol=1e-5)
    assert not torch.allclose(made, teacher.view(images, wanted.shape[-2:]).logits, atol=1e-2)
    turned = Teacher(teaching, few.class_names[::-1])
    again = turned.view(images, wanted.shape[-2:], (), len(few.class_names) - 1 - labels, 5).logits
    assert torch.allclose(again.flip(1), made, atol=1e-5)  # the data's ids, in the teacher's order
    recipe = read_recipe(None, ["epochs=1", "batch=4", "workers=0"])
    trainer = Trainer("lraspp_mobilenet_v3_small", few, tmp_path, replace(recipe, teaching=teaching))
    trainer.step(*next(trainer.batches.epoch(0)))
    assert float(trainer.task.said["loss_cwd"]) > 0
