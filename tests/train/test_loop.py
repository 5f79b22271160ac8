"""The loop: what it keeps, what it refuses, and that two processes learn as one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.runs import read_card
from edgeseg.students import create
from edgeseg.train.checkpoint import load_state
from edgeseg.train.loop import (
    CHECKPOINT,
    LOG,
    PRECISIONS,
    Event,
    Trainer,
    follow,
    keep_freed_memory,
    spare_dilated_depthwise,
)
from edgeseg.train.recipe import read_recipe
from edgeseg.train.semantic import class_weights
from edgeseg.train.teaching import EMA, Teaching
from edgeseg.train.teaching.logits import Kd


def make(data: Data, out: Path, name: str = "ddrnet23_slim", **changes: Any) -> Trainer:
    settings = {"epochs": 1, "batch": 4, "workers": 0, **changes}
    return Trainer(name, data, out, read_recipe(None, [f"{key}={value}" for key, value in settings.items()]))


def test_a_run_is_complete(tiny_run: Path, tiny_data: Data) -> None:
    card = read_card(tiny_run)
    assert card.training is not None
    assert (card.name, card.size, card.training.epochs, card.training.best_epoch) == ("ddrnet23_slim", (64, 96), 1, 1)
    assert card.class_names == list(tiny_data.class_names)
    lines = [json.loads(line) for line in (tiny_run / LOG).read_text(encoding="utf-8").splitlines()]
    assert lines[0]["step"] == 6
    assert lines[-1]["miou"] == card.training.select_miou
    with Image.open(tiny_run / "pictures" / "epoch-0001.png") as picture:
        assert picture.size == (3 * 320, 4 * 213)
    student = es.load(tiny_run)
    assert not isinstance(student, Artifact)
    assert "seghead_extra" not in {key.split(".")[0] for key in student.state_dict()}


def test_the_loss_falls(tmp_path: Path, tiny_data: Data) -> None:
    trainer = make(tiny_data, tmp_path / "run", epochs=10, **{"optimizer.type": "adamw"})
    images, labels = next(trainer.batches.epoch(0))
    trainer.state.step = 6  # after the warm-up
    losses = [trainer.step(images, labels)[0] for _ in range(16)]
    assert max(losses[-3:]) < 0.8 * losses[0]


def test_the_average_follows_the_weights() -> None:
    average, student = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    for net, value in ((average, 1.0), (student, 3.0)):
        for tensor in (net.weight, net.bias, net.running_mean, net.running_var):
            assert tensor is not None
            nn.init.constant_(tensor, value)
    assert student.num_batches_tracked is not None
    student.num_batches_tracked += 5
    follow(average, student, decay=0.75, step=1000)
    assert all(float(value.detach().mean()) == 1.5 for value in average.parameters())
    assert average.state_dict()["running_mean"].tolist() == [1.5, 1.5]
    assert int(average.state_dict()["num_batches_tracked"]) == 5
    follow(average, student, decay=0.999, step=1)  # warmed up: early on the average is mostly the newest weights
    assert float(average.weight[0].detach()) == pytest.approx(0.1 * 1.5 + 0.9 * 3)
    follow(average, student, decay=0.0, step=7)
    assert torch.equal(average.weight, student.weight)


class Labelled:
    """A split of the label maps given."""

    def __init__(self, *maps: list[list[int]]) -> None:
        self.maps = [np.array(rows, np.uint8) for rows in maps]
        self.names = tuple(f"map{i}" for i in range(len(maps)))

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return np.zeros((*self.maps[index].shape, 3), np.uint8), self.maps[index]


def test_class_weights_are_median_over_frequency(tiny_data: Data) -> None:
    split: Any = Labelled([[0, 0, 0, 1]], [[0, 0, VOID, 2]])
    data = Data("made", ("a", "b", "c", "d"), ((0, 0, 0),) * 4, {"fit": lambda: split}, "fit", "fit", "fit", "")
    # frequencies over the images a class is in: 5/7, 1/4, 1/3; the last class is in none
    middle = 1 / 3
    assert class_weights(data, "fit").tolist() == pytest.approx([middle * 7 / 5, middle * 4, 1, 1])


def test_a_loss_that_is_no_number_is_one_line(tmp_path: Path, tiny_data: Data) -> None:
    trainer = make(tiny_data, tmp_path / "run")
    next(trainer.student.parameters()).data.fill_(torch.nan)
    with pytest.raises(EdgesegError, match=r"the loss became nan at step 0, .*lower optimizer.lr") as caught:
        trainer.run(resume=False)
    assert "\n" not in str(caught.value)
    assert "nothing is kept" in str(caught.value)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_no_number_names_its_batch_and_leaves_the_last_good_state(
    what: str, tmp_path: Path, tiny_data: Data
) -> None:
    trainer = make(tiny_data, tmp_path / "run", checkpoint=1, norm_batches=0)
    train, steps = tiny_data.split("train"), range(len(trainer.batches))

    def poison(event: Any) -> None:
        if event.step == 2:  # the checkpoint of this step is still to come: as if the step after it went wrong
            trainer.notify = lambda event: None
            plain = trainer.task.loss

            def loss(module: Any, student: Any, images: Any, labels: Any, step: int, views: Any = None) -> Any:
                value = plain(module, student, images, labels, step, views)
                if step < 3:
                    return value
                return value * torch.nan if what == "loss" else value + (student.conv1[0].weight.sum() * 0).sqrt()

            trainer.task.loss = loss  # type: ignore[method-assign]

    trainer.notify = poison
    with pytest.raises(
        EdgesegError, match=rf"the {what} became (nan|inf) at step 3, epoch 1, on the images "
    ) as caught:
        trainer.run(resume=False)
    named = str(caught.value).split("on the images ")[1].split("; ")[0].split(", ")
    assert len(named) == trainer.recipe.batch
    assert set(named) <= set(train.names)
    assert named == trainer.batches.names(3) != trainer.batches.names(2)
    assert len({name for step in steps for name in trainer.batches.names(step)}) == len(train)
    stored = load_state(tmp_path / "run" / CHECKPOINT)
    assert stored["state"]["step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in stored["student"].values())
    assert f"{CHECKPOINT} is the last good state" in str(caught.value)
    make(tiny_data, tmp_path / "run", checkpoint=1, norm_batches=0).run(resume=True)  # and it is one to go on from


def test_one_image_is_too_few_for_a_norm_behind_a_global_pooling(tmp_path: Path, tiny_data: Data) -> None:
    with pytest.raises(EdgesegError, match=r"cannot learn from batches of .*make the batch larger"):
        make(tiny_data, tmp_path / "run", batch=1).run(resume=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": [100, 100]}, "100x100 is not a multiple of 8 .*pad to 104x104"),
        ({"batch": 25}, "24 images do not fill one batch of 25"),
        ({"split": "everything"}, "no split of synthetic"),
    ],
)
def test_what_cannot_be_trained_is_said_before_training(
    tmp_path: Path, tiny_data: Data, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(EdgesegError, match=said):
        make(tiny_data, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_tensorboard_is_written_when_asked(tmp_path: Path, tiny_data: Data) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    trainer = make(tiny_data, tmp_path / "run")
    trainer.tensorboard = True
    trainer.out.mkdir()
    writer: Callable[[], Any] = trainer._writer
    with writer() as write:
        write({"step": 3, "loss": 0.5})
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


def test_a_progress_display_is_told_of_every_step(tmp_path: Path, tiny_data: Data) -> None:
    told: list[Event] = []
    trainer = make(tiny_data, tmp_path / "run", class_weights="median_frequency", channels_last="false", ema=0.5)
    trainer.notify = told.append
    trainer.run(resume=False)
    assert [(event.epoch, event.step, event.steps) for event in told] == [(1, step, 6) for step in range(1, 7)]
    assert all(np.isfinite(event.loss) for event in told)
    state = load_state(tmp_path / "run" / CHECKPOINT)
    key = "final_layer.conv2.weight"
    assert not torch.equal(state["student"][key], state["average"][key])


def test_parts_of_a_step_add_up(tiny_data: Data, tmp_path: Path) -> None:
    """The gradient of a step in two parts is the mean of the two, images taken in turns; the weights move once."""
    settings = ["batch=4", "workers=0", "clip=null", "optimizer.momentum=0", "optimizer.weight_decay=0"]
    trainer, alone = (
        Trainer("lraspp_mobilenet_v3_small", tiny_data, tmp_path, read_recipe(None, [*settings, f"accumulate={parts}"]))
        for parts in (2, 1)
    )
    alone.student.load_state_dict(trainer.student.state_dict())
    images, labels = next(trainer.batches.epoch(0))
    before = [p.detach().clone() for p in trainer.student.parameters()]
    value, lr = trainer.step(images, labels)
    alone.student.train()
    losses = []
    for part in range(2):
        loss = alone.task.loss(alone.module, alone.student, images[part::2], labels[part::2], part)
        (loss / 2).backward()
        losses.append(float(loss.detach()))
    assert value == pytest.approx(sum(losses) / 2, rel=1e-6)
    for now, then, one in zip(trainer.student.parameters(), before, alone.student.parameters(), strict=True):
        assert one.grad is not None
        assert torch.allclose(now, then - lr * one.grad, atol=1e-7)
    assert trainer.state.step == 1
    with pytest.raises(EdgesegError, match="a batch of 4 images does not divide into 3 parts"):
        read_recipe(None, ["batch=4", "accumulate=3"])


def test_without_a_way_to_the_same_bits_it_says_so(
    tiny_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    try:
        settings = ["batch=4", "workers=0", "deterministic=true"]
        trainer = Trainer("lraspp_mobilenet_v3_small", tiny_data, tmp_path, read_recipe(None, settings))
        assert torch.are_deterministic_algorithms_enabled()
        images, labels = next(trainer.batches.epoch(0))

        def refuse(*args: Any) -> None:
            raise RuntimeError("nll_loss2d does not have a deterministic implementation, but you set ...")

        monkeypatch.setattr(trainer.task, "loss", refuse)
        with pytest.raises(EdgesegError, match=r"no way to the same bits each time here .*set deterministic=false"):
            trainer.step(images, labels)
    finally:
        torch.use_deterministic_algorithms(mode=False)


TWO = """
import os
import signal
import sys
import torch
from edgeseg.data import load_data
from edgeseg.train.loop import Trainer
from edgeseg.train.recipe import read_recipe
from edgeseg.train.semantic import class_weights

torch.set_num_threads(1)
settings = ["epochs=1", "batch=4", "workers=0", "evaluate=1", "checkpoint=1"]
data = load_data("synthetic:size=64x64,train=12,val=2,test=2")
from pathlib import Path
trainer = Trainer("ddrnet23_slim", data, Path(sys.argv[1]), read_recipe(None, settings), devices=2)

def die(event):
    if event.step == 2 and trainer.fabric.global_rank == 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        os.kill(os.getpid(), signal.SIGKILL)

trainer.notify = die
restore = trainer.restore
def told(*given):
    restore(*given)
    print("begun again from step", trainer.state.step)

trainer.restore = told
trainer.run(resume=False)
weights = torch.cat([p.detach().flatten() for p in trainer.student.parameters()])
both = trainer.fabric.all_gather(weights)
assert both.shape[0] == 2, both.shape
assert torch.equal(both[0], both[1])
assert len(trainer.batches) == 3 and trainer.batches._loader.dataset.batch == 2
print("equal on both", trainer.fabric.global_rank)
"""


@pytest.mark.slow
def test_two_processes_keep_equal_weights_and_survive_the_death_of_one(tmp_path: Path) -> None:
    """Started by ourselves; then by torchrun, which begins anew when a process was killed in the second of three steps."""
    script = tmp_path / "two.py"
    script.write_text(TWO, encoding="utf-8")
    elastic = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--max-restarts=1",
        "--monitor-interval=0.1",
    ]
    for name, how in (("whole", []), ("killed", elastic)):
        top = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [sys.executable, *how, str(script), str(tmp_path / name)],
            env=environment(top), cwd=top, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert sorted(line for line in done.stdout.splitlines() if "equal" in line) == [
            "equal on both 0",
            "equal on both 1",
        ]
        assert ("begun again from step" in done.stdout) == (name == "killed")
    weights = [tmp_path / name / "model.safetensors" for name in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    said = [
        [
            (entry["step"], entry.get("miou"))
            for entry in map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        ]
        for name in ("whole", "killed")
    ]
    assert len(said[0]) > 1
    assert said[0] == said[1]  # each once


@pytest.mark.slow
def test_two_processes_from_the_command_line(tmp_path: Path) -> None:
    top = Path(__file__).resolve().parents[2]
    words = [
        "train",
        "ddrnet23_slim",
        "--data",
        "synthetic:size=64x64,train=8,val=2,test=2",
        "--out",
        str(tmp_path / "run"),
    ]
    words += ["--epochs", "1", "--devices", "2", "--threads", "1", "--set", "batch=4", "--set", "workers=0", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeseg", *words],
        env=environment(top), cwd=top, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "ddrnet23_slim"  # one document: one process talks


LOST = """
import os
import signal
import sys
from edgeseg.cli import main
from edgeseg.errors import EdgesegError
from edgeseg.train.loop import Trainer

plain = Trainer.step

def step(self, *given):
    if self.fabric.global_rank == int(os.environ["WHO"]) and self.state.step == 1:
        if os.environ["HOW"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise EdgesegError("x.png is broken")
    return plain(self, *given)

Trainer.step = step
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "who"), [("killed", 1), pytest.param("broken", 0, marks=pytest.mark.wide)])
def test_the_death_of_a_process_is_one_line_of_the_others(how: str, who: int, tmp_path: Path) -> None:
    script, said = tmp_path / "lost.py", tmp_path / "said"
    script.write_text(LOST, encoding="utf-8")
    top = Path(__file__).resolve().parents[2]
    words = f"train lraspp_mobilenet_v3_small --data synthetic:size=64x64,train=12,val=2,test=2 --out {tmp_path / 'run'} --json"
    more = "--epochs 1 --devices 2 --threads 1 --set batch=4 --set workers=0"
    with said.open("w") as file:  # no pipe, which would be open as long as any of them lives
        done = subprocess.run(
            [sys.executable, str(script), *words.split(), *more.split()],
            env={**environment(top), "HOW": how, "WHO": str(who)}, cwd=top, text=True, timeout=300, check=False,
            stdout=subprocess.PIPE, stderr=file,
        )  # fmt: skip
    until, line = (
        time.monotonic() + 60,
        "a process of this training died; go on with --resume (or start it with torchrun",
    )
    while line not in said.read_text() and time.monotonic() < until:
        time.sleep(0.1)  # where the first process ends first, the other one has a moment to notice
    errors = said.read_text()
    assert line in errors
    assert "Traceback" not in errors
    assert errors.count("error: ") == (1 if how == "killed" else 2)
    assert ("error: x.png is broken" in errors) == (how == "broken")
    assert done.returncode == 1, errors
    assert json.loads(done.stdout)["exit_code"] == 1  # one document


def test_a_process_that_does_not_notice_a_death_is_ended_with_a_line() -> None:
    """As with NCCL, which waits."""
    code = (
        "import subprocess, sys, time; from edgeseg.train import processes; processes.PATIENCE = 0.1; "
        "begun = [subprocess.Popen([sys.executable, '-c', f'raise SystemExit({code})']) for code in (0, 3)]; "
        "processes.watch(begun); time.sleep(60)"
    )
    top = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(top), cwd=top, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: a process of this training died" in done.stderr


ALIKE = """
import sys
import torch
from pathlib import Path
from torch import distributed, nn
from edgeseg.data import load_data
from edgeseg.train.loop import PRECISIONS, Trainer
from edgeseg.train.mesh import Mesh, by_gloo, gathering
from edgeseg.train.norms import synced
from edgeseg.train.recipe import read_recipe

def learn(out, devices, *changes):
    settings = ["batch=4", "workers=0", "size=[80, 80]", "loss.type=ce", "ema=null", "optimizer.lr=0.001", *changes]
    data = load_data("synthetic:size=64x64,train=12,val=2,test=2")
    trainer = Trainer("ddrnet23_slim", data, Path(out), read_recipe(None, settings), devices=devices)
    trainer.average.double()
    first = {key: value.clone() for key, value in trainer.average.state_dict().items()}
    losses, shares = [], []
    for images, labels, _ in trainer.batches.placed(0):
        losses.append(trainer.step(images, labels)[0])
        shares.append(float(trainer.task._share(labels)))
    return {"first": first, "last": trainer.student.state_dict(), "losses": losses, "shares": shares}, trainer

def check_norm(rank):
    whole = torch.randn(5, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 100
    mine = [slice(0, 2), slice(2, 5)][rank]  # of unequal size
    norms = [nn.BatchNorm2d(3).double() for _ in range(2)]
    for norm in norms:
        norm.weight.data.copy_(torch.tensor([0.5, 2.0, -1.0]))
    norms[1] = synced(norms[1], "cpu")
    assert norms[1].state_dict().keys() == norms[0].state_dict().keys()
    made, grads = [], []
    for norm, x in zip(norms, (whole, whole[mine])):
        x = x.clone().requires_grad_()
        y = norm(x)
        y.sin().sum().backward()
        made.append(y.detach())
        grads.append(x.grad)
    assert torch.allclose(made[0][mine], made[1], rtol=1e-10)
    assert torch.allclose(grads[0][mine], grads[1], rtol=1e-8, atol=1e-12)
    for ours, theirs in zip(norms[1].parameters(), norms[0].parameters()):
        distributed.all_reduce(ours.grad)
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-10)
    for ours, theirs in zip(norms[1].buffers(), norms[0].buffers()):
        assert torch.allclose(ours, theirs, rtol=1e-10)

if __name__ == "__main__":
    torch.set_num_threads(1)
    PRECISIONS["fp32"], torch.Tensor.float = "64-true", torch.Tensor.double
    made, trainer = learn(sys.argv[1], 2, *sys.argv[2:])
    check_norm(trainer.fabric.global_rank)
    assert isinstance(gathering(1).__self__, Mesh) and gathering(2) is by_gloo
    for count in (1, 20_000):
        mine = torch.randn(count)
        assert torch.equal(gathering(1)(mine), by_gloo(mine))
    if trainer.fabric.is_global_zero:
        torch.save(made, sys.argv[1])
    trainer.fabric.barrier()
"""


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), pytest.param(("class_weights=median_frequency",), marks=pytest.mark.wide)])
def test_two_processes_learn_what_one_does(
    changes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images in three steps of plain cross-entropy, with unequal void and norms over all of them; in float64.

    In float32 the norms of a few values make sums in another order so much larger that after three steps 0.2 % of what was learned
    differs, and a mistake would hide behind that.
    """
    script, top = tmp_path / "alike.py", Path(__file__).resolve().parents[2]
    script.write_text(ALIKE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "two"), *changes],
        env=environment(top), cwd=top, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    two = torch.load(tmp_path / "two", weights_only=True)
    monkeypatch.setitem(PRECISIONS, "fp32", "64-true")
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    names: dict[str, Any] = {"__name__": "alike"}
    exec(ALIKE, names)
    one, _ = names["learn"](tmp_path / "one", 1, *changes)
    assert max(abs(share - 1) for share in two["shares"]) > 0.01  # there is something to weigh
    # sums in another order, 1e-16 each, which fifty norms and three steps make 1e-13 of what was learned
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-10)
    for key, value in one["last"].items():
        assert torch.equal(one["first"][key], two["first"][key])
        moved = (value - one["first"][key]).double().norm()
        assert float((two["last"][key] - value).double().norm()) <= 1e-9 * float(moved) + 1e-12, key


def environment(top: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(top), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_bfloat16_gradients_do_not_read_memory_that_nobody_wrote() -> None:
    """PyTorch's own gradient of a dilated depthwise convolution does, at this size: see `spare_dilated_depthwise`."""

    def gradients() -> dict[str, Tensor]:
        torch.manual_seed(0)
        student = create("lraspp_mobilenet_v3_large", classes=5).to(memory_format=torch.channels_last).train()
        spare_dilated_depthwise(student)
        image = torch.rand(2, 3, 360, 480).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            student.training_logits(image)[0].float().square().mean().backward()
        return {name: value.grad.clone() for name, value in student.named_parameters()}

    clean = gradients()
    keep_freed_memory()
    for _ in range(2):
        dirt = [torch.full((count,), float("nan")) for count in (10**3, 10**4, 10**5, 10**6, 4 * 10**6) * 12]
        del dirt
        again = gradients()
        for name, wanted in clean.items():
            error = float((again[name] - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
            assert error <= 1e-2, name  # bfloat16 sums in another order; what was wrong was off by 0.04 to 1e34


def test_a_card_is_written_on_any_kind_of_device(
    tmp_path: Path, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is not CUDA has no name of CUDA's."""
    trainer = make(tiny_data, tmp_path / "run")
    monkeypatch.setattr(type(trainer.fabric), "device", property(lambda _: torch.device("mps")))
    trainer._keep(1.0)
    training = read_card(tmp_path / "run").training
    assert training is not None and training.machine.endswith("cores")


def test_images_without_labels_are_other_views_than_those_with(tmp_path: Path, tiny_data: Data) -> None:
    """Where both are of one folder, as in the README's example."""
    teaching = Teaching(EMA, "", losses=(Kd(),), unlabelled=tiny_data.spec)
    recipe = replace(read_recipe(None, ["epochs=2", "batch=4", "workers=0"]), teaching=teaching)
    trainer = Trainer("ddrnet23_slim", tiny_data, tmp_path / "run", recipe)
    for images, labels, _ in trainer._fed(0):
        assert len(images) == 8
        assert not any(torch.equal(a, b) for a in images[:4] for b in images[4:])
        assert (labels[4:] == VOID).all()


def test_a_run_goes_on_with_the_images_it_began_with(
    tmp_path: Path, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    make(tiny_data, out, norm_batches=0).run(resume=False)
    again = make(tiny_data, out, norm_batches=0, epochs=1)
    fit = again.data.split(again.fit_split)
    monkeypatch.setattr(Data, "split", lambda self, name: SimpleNamespace(names=fit.names[:-1]))
    with pytest.raises(EdgesegError, match=r"made with other images \(images was 24 \(\w+\), is 23 "):
        again.restore(load_state(out / CHECKPOINT), out / CHECKPOINT)


@pytest.mark.parametrize("where", ["loss", "backward"])
def test_no_memory_is_one_line(tmp_path: Path, tiny_data: Data, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    trainer = make(tiny_data, tmp_path / "run")

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(trainer.task if where == "loss" else trainer.fabric, where, full)
    with pytest.raises(EdgesegError, match="not the memory for ddrnet23_slim to learn from 4 images of 64x96"):
        trainer.step(*next(trainer.batches.epoch(0)))


def test_a_split_without_labels_chooses_no_epoch(tmp_path: Path, tiny_data: Data) -> None:
    trainer = make(tiny_data, tmp_path / "run", norm_batches=0)
    trainer.task.figure = lambda score: float("nan")  # type: ignore[method-assign]
    with pytest.raises(EdgesegError, match=r"\[val\] has no labelled pixel to choose an epoch by"):
        trainer.run(resume=False)


def test_an_evaluation_leaves_no_trace_in_the_random_numbers(tmp_path: Path, tiny_data: Data) -> None:
    """One process evaluates for all: a student that drops paths would draw others than the rest from then on."""
    trainer = make(tiny_data, tmp_path / "run", "pp_mobileseg_tiny", norm_batches=1)
    trainer.step(*next(trainer.batches.epoch(0)))
    trainer.state.epoch = 1
    before = torch.get_rng_state()
    trainer._evaluate(lambda line: None)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_option_of_the_recipe_wins(tiny_data: Data) -> None:
    from edgeseg.train.loop import build_student

    assert build_student("ddrnet23_slim", tiny_data, {"auxiliary": False}).auxiliary == ()


def test_a_log_begins_anew_with_the_run(tmp_path: Path, tiny_data: Data) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / LOG).write_text('{"step": 6, "epoch": 1, "loss": 99.0, "lr": 1.0}\n')  # died before its first checkpoint
    make(tiny_data, out, norm_batches=0).run(resume=False)
    assert "99.0" not in (out / LOG).read_text()


def test_the_crop_is_the_size() -> None:
    with pytest.raises(EdgesegError, match="give size="):
        read_recipe(None, ["augment.crop=[10, 20]"])


def test_one_round_of_prompts_leaves_a_part_unused(tmp_path: Path) -> None:
    from edgeseg.data import load_data

    objects = load_data("synthetic_objects:size=64x96,train=4,val=2,test=2")
    one = make(objects, tmp_path / "a", "rwkv_sam_tiny", batch=2, **{"prompts.rounds": 1})
    two = make(objects, tmp_path / "b", "rwkv_sam_tiny", batch=2, **{"prompts.rounds": 2})
    assert (one._strategy(2), two._strategy(2)) == ("ddp_find_unused_parameters_true", "ddp")
    assert one._strategy(1) == "auto"
