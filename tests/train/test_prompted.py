"""What a promptable student takes from a promptable teacher: its embedding of the image, and its mask for every prompt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeseg.cli import main
from edgeseg.data import Data, load_data
from edgeseg.embed import Job, work
from edgeseg.errors import EdgesegError
from edgeseg.prompts import next_click
from edgeseg.runs import read_card, save
from edgeseg.students import Promptable, create
from edgeseg.students.promptable import PADDING, POSITIVE
from edgeseg.train.loop import Trainer
from edgeseg.train.precomputed import Precomputed
from edgeseg.train.promptable import Tutor, anywhere
from edgeseg.train.recipe import read_recipe
from edgeseg.train.teacher import PromptTeacher
from edgeseg.train.teaching import EMA, Lesson, Teaching, View
from edgeseg.train.teaching.logits import Cwd, Kd
from edgeseg.train.teaching.prompted import Embedding, Masks

OBJECTS = "synthetic_objects:size=64x96,train=4,val=2,test=2"


@pytest.fixture(scope="module")
def objects() -> Data:
    return load_data(OBJECTS)


@pytest.fixture(scope="module")
def teaching(tmp_path_factory: pytest.TempPathFactory) -> Teaching:
    torch.manual_seed(5)
    folder = save(create("rwkv_sam_tiny").eval(), tmp_path_factory.mktemp("teacher") / "run", (64, 96))
    return Teaching(str(folder), read_card(folder).sha256, losses=(Embedding(), Masks()))


def lesson(**given: Any) -> Lesson:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    nothing = View(torch.zeros(0), {})
    return Lesson(
        **{
            "ours": nothing,
            "theirs": nothing,
            "labels": images[:, 0],
            "images": images,
            "again": lambda _: nothing,
            **given,
        }
    )


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_embedding_is_its_definition() -> None:
    e, g = numbers(2, 3, 4, 5, seed=0), numbers(2, 6, 4, 5, seed=1)
    piece = Embedding()
    head: Any = piece.head({"embedding": 3}, {"embedding": 6}, 0)
    head = head.double().requires_grad_(requires_grad=False)
    step = lesson(ours=View(e, {"embedding": e}), theirs=View(g, {"embedding": g}))
    made = torch.einsum("oi,bihw->bohw", head.weight[:, :, 0, 0], e) + head.bias[:, None, None]
    wanted = sum((p - q) ** 2 for p, q in zip(made.flatten().tolist(), g.flatten().tolist(), strict=True)) / g.numel()
    assert float(piece(step, head)) == pytest.approx(wanted, rel=1e-12)
    assert isinstance(piece.head({"embedding": 6}, {"embedding": 6}, 0), torch.nn.Identity)


def test_masks_are_their_definition() -> None:
    """The best of three masks for each of two prompts, over two rounds."""
    piece = Masks(dice=0.7, temperature=2.0)
    rounds = [(numbers(2, 3, 4, 5, seed=seed), 2 * numbers(2, 1, 4, 5, seed=seed + 10)) for seed in (0, 1)]

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x / 2.0))

    wanted = 0.0
    for ours, theirs in rounds:
        for prompt in range(2):
            q = [sigmoid(x) for x in theirs[prompt, 0].flatten().tolist()]
            each = []
            for mask in ours[prompt]:
                p = [sigmoid(x) for x in mask.flatten().tolist()]
                pairs = list(zip(p, q, strict=True))
                entropy = -sum(y * math.log(x) + (1 - y) * math.log(1 - x) for x, y in pairs) / 20
                dice = 1 - (2 * sum(x * y for x, y in pairs) + 1) / (sum(p) + sum(q) + 1)
                each.append(2.0**2 * entropy + 0.7 * dice)
            wanted += min(each) / 4
    assert float(piece(lesson(rounds=rounds))) == pytest.approx(wanted, rel=1e-12)
    first = rounds[0][0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: piece(lesson(rounds=[(s, rounds[0][1])])), (first,), fast_mode=True)


def test_the_student_is_corrected_where_it_differs_from_the_teacher(teaching: Teaching, objects: Data) -> None:
    teacher = PromptTeacher(teaching)
    images = torch.from_numpy(np.stack([objects.split("train")[i][0] for i in (0, 1)])).permute(0, 3, 1, 2)
    tutor = Tutor(teacher, images, ("embedding",))
    points, labels = torch.tensor([[[20.5, 30.5], [0, 0]], [[50.5, 10.5], [0, 0]]]), torch.tensor([[1.0, -1], [1, -1]])
    tutor.ask(points, labels)
    answered = tutor.answers[0]
    assert answered.shape == (2, 1, 64, 96)
    student = numbers(2, 1, 64, 96, seed=3).float()
    more, signs = tutor.correct(student, points, labels)
    for index in range(2):
        x, y, sign = next_click((answered[index, 0] > 0).numpy(), (student[index, 0] > 0).numpy())
        assert more[index, -1].tolist() == [x, y]
        assert float(signs[index, -1]) == sign
    assert len(tutor.answers) == 2  # and the teacher is asked the new prompt too
    network = teacher.network
    assert isinstance(network, Promptable)
    with torch.inference_mode():
        features = network.encode(network.normalise(images))
        low, _ = network.low_masks(features.maps, features.size, points, labels)
        again, _ = network.low_masks(features.maps, features.size, more, signs, low)
    assert torch.allclose(network.enlarge(again, features.size), tutor.answers[1], atol=1e-5)
    assert torch.allclose(features.maps[0], tutor.maps["embedding"], atol=1e-6)
    right = tutor.correct(tutor.answers[1], more, signs)[1]
    assert (right[:, -1] == PADDING).all()  # nothing to correct


def test_where_nothing_is_known_a_click_is_anywhere() -> None:
    wanted = np.zeros((3, 8, 9), np.float32)
    wanted[1, 2:4, 2:4] = 1
    points, labels = np.zeros((3, 2, 2), np.float32), np.full((3, 2), PADDING, np.float32)
    anywhere(wanted, points, labels, np.random.default_rng(0))
    assert labels[:, 0].tolist() == [POSITIVE, PADDING, POSITIVE]
    assert all(0 < points[i, 0, 0] < 9 and 0 < points[i, 0, 1] < 8 for i in (0, 2))


def taught(data: Data, out: Path, teaching: Teaching, **changes: Any) -> Trainer:
    settings = {"epochs": 1, "batch": 2, "workers": 0, "evaluate": 1, "norm_batches": 0, "checkpoint": 1, **changes}
    words = [f"{key}={value}" for key, value in settings.items()]
    recipe = read_recipe(None, [*words, "prompts.objects=1", "prompts.clicks=1", "prompts.rounds=2"])
    return Trainer("rwkv_sam_tiny", data, out, replace(recipe, teaching=teaching))


def test_a_student_is_taught_and_a_stopped_one_goes_on(objects: Data, teaching: Teaching, tmp_path: Path) -> None:
    """From images with labels and without, through a projection of another width."""
    more = replace(teaching, losses=(Embedding(ours=0), Masks()), unlabelled=OBJECTS, unlabelled_batch=1)
    whole = taught(objects, tmp_path / "whole", more)
    whole.run(resume=False)
    assert {"loss_labels", "loss_embedding", "loss_masks"} == whole.task.said.keys()
    first = taught(objects, tmp_path / "parts", more)

    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if event.step == 2:
            raise Stop

    first.notify = stop
    with pytest.raises(Stop):
        first.run(resume=False)
    taught(objects, tmp_path / "parts", more).run(resume=True)
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()


def test_the_embedding_comes_nearer(objects: Data, teaching: Teaching, tmp_path: Path) -> None:
    trainer = taught(objects, tmp_path, teaching, epochs=3, **{"optimizer.type": "adamw", "warmup_epochs": 0})
    images, labels = next(trainer.batches.epoch(0))
    parts = []
    for _ in range(6):
        trainer.step(images, labels)
        parts.append(float(trainer.task.said["loss_embedding"]))
    assert parts[-1] < 0.8 * parts[0]


@pytest.fixture(scope="module")
def written(teaching: Teaching, tmp_path_factory: pytest.TempPathFactory) -> Teaching:
    """What the teacher has for the embeddings of the images, written down."""
    out = tmp_path_factory.mktemp("written") / "shards"
    work(Job(teaching.teacher, OBJECTS, None, out))
    return replace(teaching, teacher=str(out), losses=(Embedding(),))


def test_a_written_embedding_is_the_teacher_s(objects: Data, teaching: Teaching, written: Teaching) -> None:
    split = objects.split("train")
    images = torch.from_numpy(np.stack([split.image(n) for n in (1, 3)])).permute(0, 3, 1, 2)
    _, wanted = PromptTeacher(teaching).look(images, ("embedding",))
    stored = Precomputed(written, "promptable", split)
    views = torch.tensor([[n, 64, 96, 1, 0, 1, 0] for n in (1, 3)], dtype=torch.float64)
    made = stored.maps((64, 96), wanted["embedding"].shape[-2:], views)
    assert torch.allclose(made, wanted["embedding"], atol=2e-3 * float(wanted["embedding"].abs().max()))  # float16
    assert stored.channels() == made.shape[1]


@pytest.mark.parametrize("name", ["rwkv_sam_tiny", pytest.param("squeeze_sam", marks=pytest.mark.wide)])
def test_a_student_learns_from_embeddings_without_the_teacher(
    objects: Data, written: Teaching, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("edgeseg.train.teacher.load_run")
    settings = ["batch=2", "workers=0", "epochs=1", "prompts.objects=1", "prompts.clicks=1", "prompts.rounds=1"]
    recipe = read_recipe(None, [*settings, "prompts.paste=0", "norm_batches=0"])
    trainer = Trainer(name, objects, tmp_path, replace(recipe, teaching=written))
    trainer.run(resume=False)
    assert math.isfinite(float(trainer.task.said["loss_embedding"]))
    assert set(trainer.task.said) == {"loss_labels", "loss_embedding"}


def test_what_embeddings_cannot_teach_is_said(objects: Data, written: Teaching, tmp_path: Path) -> None:
    for more, what in (
        ({"losses": (Embedding(), Masks())}, "has a teacher's embeddings, not answers for masks"),
        ({"losses": (Embedding(theirs=0),)}, "has a teacher's embeddings, not answers for embedding"),
        ({"unlabelled": OBJECTS}, "not what it makes of images without labels"),
        ({}, "objects are pasted into 50% of them; learn with --set prompts.paste=0"),
    ):
        with pytest.raises(EdgesegError, match=what):
            taught(objects, tmp_path, replace(written, **more))
    with pytest.raises(EdgesegError, match="of another teacher than the recipe says"):
        Precomputed(replace(written, sha256="0" * 64), "promptable", objects.split("train"))


def test_averaged_weights_teach_a_promptable_student_too(objects: Data, tmp_path: Path) -> None:
    trainer = taught(objects, tmp_path, Teaching(EMA, "", losses=(Masks(),)))
    task: Any = trainer.task
    assert task.teacher.network is trainer.average
    trainer.step(*next(trainer.batches.epoch(0)))
    assert float(task.said["loss_masks"]) > 0


def test_kinds_do_not_mix(objects: Data, teaching: Teaching, tiny_data: Data, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="cwd is not for promptable students, who have embedding, masks"):
        taught(objects, tmp_path, replace(teaching, losses=(Cwd(),)))
    with pytest.raises(EdgesegError, match="kd, masks are for promptable and semantic students"):
        replace(teaching, losses=(Kd(), Masks()))
    semantic = Teaching(str(tiny_run), read_card(tiny_run).sha256, losses=(Masks(),))
    with pytest.raises(EdgesegError, match="is semantic; a promptable student learns from one that takes prompts"):
        taught(objects, tmp_path, semantic)
    chosen = replace(read_recipe(None, ["batch=4", "workers=0"]), teaching=replace(teaching, losses=(Kd(),)))
    with pytest.raises(EdgesegError, match="is promptable; a student that names classes learns from one that does"):
        Trainer("lraspp_mobilenet_v3_small", tiny_data, tmp_path, chosen)


def test_the_verb(teaching: Teaching, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = f"distill rwkv_sam_tiny --teacher {teaching.teacher} --data {OBJECTS} --loss masks:dice=2 --epochs 1"
    small = "--set batch=2 --set workers=0 --set prompts.objects=1 --set prompts.clicks=1 --set prompts.rounds=1"
    assert main([*words.split(), "--out", str(tmp_path / "run"), *small.split()]) == 0, capfd.readouterr().err
    training = read_card(tmp_path / "run").training
    assert training is not None
    assert training.recipe["teaching"]["losses"][0]["dice"] == 2.0
