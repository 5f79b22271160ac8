"""Distillation: each piece against its definition in float64, the teacher, and a student that is taught."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeseg.cli import main
from edgeseg.data import Data, load_data
from edgeseg.embed.work import Frozen, brief
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.runs import load_run, read_card, read_weights
from edgeseg.students import Semantic, create
from edgeseg.train.checkpoint import load_state
from edgeseg.train.loop import CHECKPOINT, LOG, Trainer
from edgeseg.train.recipe import read_recipe
from edgeseg.train.teacher import PromptTeacher, Teacher, groups
from edgeseg.train.teaching import ALONE, EMA, Lesson, Teaching, View
from edgeseg.train.teaching.align import Align
from edgeseg.train.teaching.granularity import Mgd
from edgeseg.train.teaching.hardness import Hardness
from edgeseg.train.teaching.logits import Bpkd, Cwd, Kd, edges
from edgeseg.train.teaching.masked import Masked
from edgeseg.train.teaching.resolution import Fst
from tests.conftest import TINY

B, K, SIZE = 2, 3, (4, 5)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    first, second = (2 * torch.randn(B, K, *SIZE, dtype=torch.float64, generator=made) for _ in range(2))
    return first, second


@pytest.fixture
def labels() -> Tensor:
    made = torch.randint(0, K, (B, 16, 20), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    made[:, :4] = 1
    made[0, 5, 5:9] = VOID
    return made


def lesson(student: Tensor, teacher: Tensor, labels: Tensor) -> Lesson:
    """Logits alone."""
    ours = View(student, {})
    return Lesson(ours, View(teacher, {}), labels, torch.zeros(B, 3, 16, 20, dtype=torch.uint8), lambda images: ours)


def divergence(theirs: list[float], ours: list[float], temperature: float) -> float:
    """KL of two softmaxes, from the definition."""

    def shares(values: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in values]
        return [power / sum(powers) for power in powers]

    return sum(p * math.log(p / q) for p, q in zip(shares(theirs), shares(ours), strict=True))


def over_classes(student: Tensor, teacher: Tensor, temperature: float) -> dict[tuple[int, int, int], float]:
    return {
        (b, y, x): divergence(teacher[b, :, y, x].tolist(), student[b, :, y, x].tolist(), temperature)
        for b, y, x in np.ndindex(B, *SIZE)
    }


def over_places(student: Tensor, teacher: Tensor, temperature: float) -> list[float]:
    return [
        divergence(teacher[b, k].flatten().tolist(), student[b, k].flatten().tolist(), temperature)
        for b, k in np.ndindex(B, K)
    ]


def test_kd_is_its_definition(pair: tuple[Tensor, Tensor], labels: Tensor) -> None:
    student, teacher = pair
    wanted = 2.0**2 * np.mean(list(over_classes(student, teacher, 2.0).values()))
    assert float(Kd(temperature=2.0)(lesson(student, teacher, labels))) == pytest.approx(wanted, rel=1e-12)


def test_cwd_is_its_definition(pair: tuple[Tensor, Tensor], labels: Tensor) -> None:
    student, teacher = pair
    wanted = 4.0**2 * np.mean(over_places(student, teacher, 4.0))
    assert float(Cwd()(lesson(student, teacher, labels))) == pytest.approx(wanted, rel=1e-12)


def test_bpkd_is_its_definition(pair: tuple[Tensor, Tensor], labels: Tensor) -> None:
    student, teacher = pair
    near = edges(labels, K, 1, SIZE).double()
    each = over_classes(near * student, near * teacher, 1.5)
    sums = sum(float(near[b, k, y, x]) * each[b, y, x] for b, k, y, x in np.ndindex(B, K, *SIZE))
    edge = sums / float(near.sum())
    body = 1.5**2 * np.mean(over_places((1 - near) * student, (1 - near) * teacher, 1.5))
    made = Bpkd(edge=3.0, body=2.0, temperature=1.5, width=1)(lesson(student, teacher, labels))
    assert float(made) == pytest.approx(3 * edge + 2 * body, rel=1e-12)


@pytest.mark.parametrize("width", [1, 2])
def test_edges_are_those_counted_by_hand(width: int) -> None:
    labels = torch.randint(0, 3, (1, 9, 11), generator=torch.Generator().manual_seed(width)).to(torch.uint8)
    labels[0, 4:, 5:] = 2
    labels[0, 0, 0] = VOID
    wanted = np.zeros((3, 9, 11))
    for k, y, x in np.ndindex(3, 9, 11):
        around = labels[0, max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1] == k
        wanted[k, y, x] = bool(around.any()) and not bool(around.all())
    assert np.array_equal(edges(labels, 3, width, (9, 11))[0].numpy(), wanted)
    for cells in ((3, 1), (4, 5)):  # whole ones, and such as share rows and columns
        shares = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(wanted), cells).numpy()
        assert edges(labels, 3, width, cells)[0].numpy() == pytest.approx(shares)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(EdgesegError, match="kd: temperature must be above 0, got 0"):
        Kd(temperature=0)
    with pytest.raises(EdgesegError, match="teaches nothing"):
        Teaching("runs/x", "0", losses=())
    with pytest.raises(EdgesegError, match="named twice"):
        Teaching("runs/x", "0", losses=(Kd(), Kd(weight=2.0)))


def test_classes_are_found_by_name() -> None:
    assert groups(("Sky", "car", "truck", "dog"), ("car", "sky"), {"truck": "car"}) == [[1, 2], [0]]
    with pytest.raises(EdgesegError, match=r"does not know road; .*--class-map \(it knows car, street\)"):
        groups(("car", "street"), ("road", "car"), {})
    with pytest.raises(EdgesegError, match="names 'lorry', which the teacher does not have"):
        groups(("car",), ("car",), {"lorry": "car"})
    with pytest.raises(EdgesegError, match="names 'van', which the data does not have"):
        groups(("car",), ("car",), {"car": "van"})


@pytest.fixture(scope="module")
def teaching(tiny_run: Path) -> Teaching:
    return Teaching(str(tiny_run), read_card(tiny_run).sha256)


def test_a_teacher_answers_as_its_run_does(teaching: Teaching, tiny_run: Path, tiny_data: Data) -> None:
    student = load_run(tiny_run)
    assert isinstance(student, Semantic)
    image = torch.from_numpy(tiny_data.split("val")[0][0]).permute(2, 0, 1)[None]
    low = student.low_logits(student.normalise(image))
    teacher = Teacher(teaching, tiny_data.class_names)
    assert torch.equal(teacher.logits(image, low.shape[-2:]), low)
    assert not teacher.logits(image, (3, 5)).requires_grad
    # a size that it has to be padded for
    assert teacher.logits(image[..., :50, :90], (5, 9)).shape == (1, 10, 5, 9)
    assert not teacher.network.training


def test_probabilities_of_classes_that_are_one_add_up(teaching: Teaching, tiny_data: Data) -> None:
    names = list(tiny_data.class_names)
    image = torch.from_numpy(tiny_data.split("val")[0][0]).permute(2, 0, 1)[None]
    plain = Teacher(teaching, names).logits(image, (8, 12)).softmax(1)
    both = Teacher(replace(teaching, classes={names[1]: names[0]}), [names[0], *names[2:]])
    made = both.logits(image, (8, 12)).softmax(1)
    assert torch.allclose(made[:, 0], plain[:, 0] + plain[:, 1], atol=1e-5)  # sums in float32
    assert torch.allclose(made[:, 1:], plain[:, 2:], atol=1e-5)


def taught(data: Data, out: Path, teaching: Teaching | None, epochs: int = 1, **others: Any) -> Trainer:
    recipe = read_recipe(None, [f"epochs={epochs}", "batch=4", "workers=0", "ema=null", "evaluate=1", "norm_batches=0"])
    return Trainer("lraspp_mobilenet_v3_small", data, out, replace(recipe, teaching=teaching), **others)


def test_the_teacher_changes_what_is_learned_and_is_written_down(
    tiny_data: Data, teaching: Teaching, tmp_path: Path
) -> None:
    alone, with_one = (tmp_path / name for name in ("alone", "taught"))
    every = replace(teaching, losses=(Kd(weight=0.5), Cwd(), Bpkd(edge=5.0)))
    taught(tiny_data, alone, None).run(resume=False)
    taught(tiny_data, with_one, every).run(resume=False)
    weights = [read_weights(folder / "model.safetensors") for folder in (alone, with_one)]
    assert weights[0].keys() == weights[1].keys()  # nothing of the teacher is kept
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    training = read_card(with_one).training
    assert training is not None
    assert training.recipe["teaching"]["sha256"] == teaching.sha256
    assert [piece["type"] for piece in training.recipe["teaching"]["losses"]] == ["kd", "cwd", "bpkd"]
    first = [json.loads((folder / "log.jsonl").read_text().splitlines()[0])["loss"] for folder in (alone, with_one)]
    assert first[1] > first[0]


@pytest.fixture(scope="module")
def few() -> Data:
    """Scenes for two steps."""
    return load_data("synthetic:size=64x96,train=8,val=2,test=2")


def interrupt(trainer: Trainer) -> None:
    """Run until the second epoch has begun."""

    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if event.epoch == 2:
            raise Stop

    trainer.notify = stop
    with pytest.raises(Stop):
        trainer.run(resume=False)


def test_a_stopped_distillation_ends_as_one_that_was_not(few: Data, teaching: Teaching, tmp_path: Path) -> None:
    """With heads that are learned along, random masks, and a second look at a smaller picture."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    teaching = replace(
        teaching,
        losses=(Align(ours=0, theirs=0), Masked(ours=0, theirs="layer1"), Fst(ours=0, theirs=0), Hardness(ours=0)),
    )
    taught(few, whole, teaching, epochs=2).run(resume=False)
    interrupt(taught(few, parts, teaching, epochs=2))
    taught(few, parts, teaching, epochs=2).run(resume=True)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    heads = [load_state(folder / CHECKPOINT)["heads"] for folder in (whole, parts)]
    assert {name.split(".")[0] for name in heads[0]} == {"align", "masked", "fst", "hardness"}
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    fresh = taught(few, tmp_path / "fresh", teaching).task.heads.state_dict()
    assert any(not torch.equal(heads[0][name], fresh[name]) for name in fresh)  # they learned
    logged = [json.loads(line) for line in (whole / LOG).read_text(encoding="utf-8").splitlines()]
    assert {"loss_labels", "loss_align", "loss_masked", "loss_fst", "loss_hardness"} <= logged[0].keys()
    plain = create("lraspp_mobilenet_v3_small", classes=len(few.class_names))
    assert load_run(whole).state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(EdgesegError, match=r"recipe\.teaching\.losses"):
        taught(few, parts, replace(teaching, losses=(Kd(),)), epochs=2).run(resume=True)


def test_averaged_weights_teach(few: Data, tmp_path: Path) -> None:
    teaching = Teaching(EMA, "", losses=(Kd(),))
    recipe = read_recipe(None, ["epochs=1", "batch=4", "workers=0", "evaluate=1"])
    trainer = Trainer("lraspp_mobilenet_v3_small", few, tmp_path / "run", replace(recipe, teaching=teaching))
    task: Any = trainer.task
    assert task.teacher.network is trainer.average
    trainer.step(*next(trainer.batches.epoch(0)))
    assert float(task.said["loss_kd"]) > 0
    with pytest.raises(EdgesegError, match="the averaged weights teach, but ema is null"):
        taught(few, tmp_path / "other", teaching)


def test_images_without_labels_teach_and_a_stopped_run_goes_on_with_them(
    few: Data, teaching: Teaching, tmp_path: Path
) -> None:
    """The eight of another split, in threes: their order and the labelled images' do not fall together."""
    losses = (Kd(), Mgd(ours=0, theirs=0))
    more = replace(teaching, losses=losses, unlabelled="synthetic:size=64x96,train=8,seed=5", unlabelled_batch=3)
    whole, parts = (taught(few, tmp_path / name, more, epochs=2) for name in ("whole", "parts"))
    images, labels, _ = next(taught(few, tmp_path / "looked", more)._fed(0))
    assert images.shape == (4 + 3, 3, 64, 96)
    assert (labels[4:] == VOID).all() and not (labels[:4] == VOID).all()
    whole.run(resume=False)
    interrupt(parts)
    taught(few, tmp_path / "parts", more, epochs=2).run(resume=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_what_is_no_number_names_images_without_labels_too(few: Data, teaching: Teaching, tmp_path: Path) -> None:
    """Either may be the ones: those of the step that went wrong, whose numbers run on apart."""
    more = replace(teaching, losses=(Kd(),), unlabelled="synthetic:size=64x96,train=9,seed=5", unlabelled_batch=3)
    trainer = taught(few, tmp_path / "run", more, epochs=2)
    task: Any = trainer.task
    plain, seen = task.loss, 0

    def loss(*given: Any) -> Any:
        nonlocal seen
        seen += 1
        return plain(*given) * (math.nan if seen == 4 else 1)

    task.loss = loss
    with pytest.raises(EdgesegError, match=r"at step 3, epoch 2, on the images .* and, without labels, ") as caught:
        trainer.run(resume=False)
    named = str(caught.value).split("without labels, ")[1].split("; ")[0].split(", ")
    assert trainer.bare is not None
    assert named == trainer.bare.names(3)
    assert len(set(named)) == 3


def test_images_without_labels_alone_change_no_loss_of_labels(
    tiny_data: Data, teaching: Teaching, tmp_path: Path
) -> None:
    trainer = taught(tiny_data, tmp_path, teaching)
    images, labels = next(trainer.batches.epoch(0))
    task, student = trainer.task, trainer.student.eval()  # in evaluation mode images do not influence each other
    void = torch.full_like(labels, VOID)
    task.loss(student, student, images, labels, 0)
    alone = float(task.said["loss_labels"])
    task.loss(student, student, torch.cat([images, images.flip(-1)]), torch.cat([labels, void]), 0)
    assert float(task.said["loss_labels"]) == pytest.approx(alone, rel=1e-5)


def test_a_class_map_that_leaves_every_pixel_out_is_an_error(teaching: Teaching, tiny_data: Data) -> None:
    names = list(tiny_data.class_names)
    image = torch.from_numpy(tiny_data.split("val")[0][0]).permute(2, 0, 1)[None]
    whole = Teacher(teaching, names)
    crop = image[..., :8, :8]  # small enough to be of one class for a bad teacher
    only = whole.logits(crop, (1, 1)).argmax(1).unique().tolist()
    left_out = Teacher(teaching, [name for index, name in enumerate(names) if index not in only])
    with pytest.raises(EdgesegError, match=f"every pixel of a batch is {names[only[0]]} to the teacher"):
        left_out.logits(crop, (1, 1))


def test_a_teacher_computes_in_bfloat16_on_a_gpu(
    teaching: Teaching, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the student does; bfloat16 on a CPU stands in for that on a GPU."""
    asked: list[torch.device] = []

    def stand_in(device: torch.device) -> Any:
        asked.append(device)
        return torch.autocast("cpu", torch.bfloat16)

    monkeypatch.setattr("edgeseg.train.teacher.brief", stand_in)
    monkeypatch.setattr(sys.modules["edgeseg.embed.work"], "brief", stand_in)  # a function has the name too
    seen: list[bool] = []

    def look(*_: Any) -> None:
        seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)

    image = tiny_data.split("val")[0][0]
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    teacher = Teacher(teaching, tiny_data.class_names)
    next(part for part in teacher.network.modules() if isinstance(part, torch.nn.Conv2d)).register_forward_hook(look)
    view = teacher.view(batch, (8, 12), (0,))
    assert view.logits.dtype == view.maps[0].dtype == torch.float32
    assert Frozen(teacher.network, None)([image]).dtype == np.float16
    prompted = create("rwkv_sam_tiny")
    next(part for part in prompted.modules() if isinstance(part, torch.nn.Conv2d)).register_forward_hook(look)
    promptable = PromptTeacher(teaching, network=prompted)
    features, maps = promptable.look(batch[..., :64], ("embedding",))
    assert maps["embedding"].dtype == torch.float32
    mask, _ = promptable.answer(features, torch.tensor([[[50.0, 30.0]]]), torch.ones(1, 1), None)
    assert mask.dtype == torch.float32
    assert Frozen(prompted, (64, 64))([image]).dtype == np.float16
    assert len(seen) >= 4 and all(seen)
    assert asked == [torch.device("cpu")] * 5


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_bfloat16_is_a_gpu_s() -> None:
    context: Any = brief(torch.device("cuda"))
    assert (context.device, context.fast_dtype) == ("cuda", torch.bfloat16)
    with brief(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")


def test_a_piece_that_needs_nobody_works_alone(few: Data, tmp_path: Path) -> None:
    trainer = taught(few, tmp_path / "run", Teaching(ALONE, "", losses=(Hardness(),)))
    trainer.step(*next(trainer.batches.epoch(0)))
    assert float(trainer.task.said["loss_hardness"]) > 0
    with pytest.raises(EdgesegError, match="cwd needs a teacher; without one there is hardness"):
        Teaching(ALONE, "", losses=(Hardness(), Cwd()))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (7, "lraspp_mobilenet_v3_small has stages 0 to 1, got 7"),
        ("backbon", r"lraspp_mobilenet_v3_small has no module 'backbon'; did you mean backbone"),
        ("classifier.scale", ""),
    ],
)
def test_maps_are_stages_or_modules(tiny_data: Data, teaching: Teaching, tmp_path: Path, key: Any, said: str) -> None:
    asked = replace(teaching, losses=(Align(ours=key),))
    if said:
        with pytest.raises(EdgesegError, match=said):
            taught(tiny_data, tmp_path / "run", asked)
    else:
        assert taught(tiny_data, tmp_path / "run", asked).task.heads["align"].token.in_channels == 128  # type: ignore[union-attr]


def test_the_maps_of_a_padded_picture_show_the_picture(teaching: Teaching, tiny_data: Data) -> None:
    teacher = Teacher(teaching, tiny_data.class_names)
    image = torch.from_numpy(tiny_data.split("val")[0][0]).permute(2, 0, 1)[None]
    maps = teacher.view(image[..., :36, :52], (5, 9), (0, "layer2")).maps
    assert maps[0].shape == (1, 32, 9, 13)
    assert maps["layer2"].shape == (1, 64, 4, 6)  # 40 x 56 was seen, at 1/8


def test_another_teacher_is_refused(tiny_data: Data, teaching: Teaching, tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="has other weights than the recipe says"):
        taught(tiny_data, tmp_path, replace(teaching, sha256="0" * 64))


def test_the_verb(tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["distill", "lraspp_mobilenet_v3_small", "--data", TINY, "--out", str(out), "--epochs", "1"]
    words += ["--set", "batch=4", "--set", "workers=0", "--json"]
    assert main([*words, "--teacher", str(tiny_run), "--loss", "cwd:weight=2:temperature=3,kd"]) == 0
    card = json.loads(capfd.readouterr().out)
    first, second = card["training"]["recipe"]["teaching"]["losses"]
    assert (first["weight"], first["temperature"], second["type"]) == (2.0, 3.0, "kd")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--loss", "cvd"), "no distillation loss named 'cvd'; did you mean cwd"),
        (("--loss", "cwd:temperature"), "'temperature' is not of the form name=value"),
        (("--loss", "cwd:hot=1"), "hot"),
        (("--loss", "cwd:temperature=-1"), "temperature must be above 0"),
        (("--loss", ","), "teaches nothing"),
        (("--class-map", "lion=car"), "names 'lion', which the teacher does not have"),
        (("--teacher", "nowhere"), "nowhere is not a run"),
        (("--data", "synthetic_objects:size=64x96,train=8,val=2,test=2"), "cwd is not for promptable students"),
    ],
)
def test_mistakes_are_one_line(
    changes: tuple[str, str], said: str, tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = {"--teacher": str(tiny_run), "--data": TINY, "--out": str(tmp_path / "run")} | dict([changes])
    assert main(["distill", "lraspp_mobilenet_v3_small", *(part for pair in words.items() for part in pair)]) == 1
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err
