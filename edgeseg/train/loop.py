"""The training loop: explicit, resumable to the bit on a CPU, nothing between a step and the next that is not named here."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import update_bn

from edgeseg import schema
from edgeseg.data.base import Data, Split
from edgeseg.data.check import refuse, require
from edgeseg.data.loader import Batches, Mixing, Placed
from edgeseg.data.look import look_of
from edgeseg.data.unlabelled import unlabelled
from edgeseg.errors import EdgesegError
from edgeseg.files import write_text
from edgeseg.pictures import grid, save_picture
from edgeseg.runs import WEIGHTS, Training, read_card, read_weights, save
from edgeseg.students import Student, create
from edgeseg.students.student import parameters
from edgeseg.train.checkpoint import load_state, rng_state, save_state, set_rng_state
from edgeseg.train.mesh import by_gloo, gathering
from edgeseg.train.norms import synced
from edgeseg.train.processes import watch
from edgeseg.train.recipe import AdamW, Optimizer, Recipe
from edgeseg.train.task import TASKS, Task

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"

UNLABELLED = 7919
"""Added to the seed for images without labels."""
PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Interrupted(EdgesegError):
    """Training was asked to stop and left a checkpoint to go on from."""

    exit_code = 130


class Diverged(EdgesegError):
    """The loss or its gradient is no number any more."""


@dataclass(frozen=True)
class Event:
    """What the loop tells a progress display after each step: the epoch, the step in it, and the figures so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    select_miou: float | None


@dataclass
class State:
    """Where training stands; everything here is in the checkpoint."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_miou: float = -1.0
    best_epoch: int = 0
    loss: float = 0.0
    last_miou: float | None = None


def check_place(out: Path, resume: bool) -> None:
    """Refuse a folder that has a run already, or that has none to go on with."""
    checkpoint = out / CHECKPOINT
    if restarted_by_torchrun():
        return
    if not resume and (checkpoint.exists() or (out / "model.json").exists()):
        raise EdgesegError(f"{out} already holds a run; go on with --resume, or choose another --out")
    if resume and not checkpoint.exists():
        raise EdgesegError(f"{out} has no {CHECKPOINT} to resume from; leave --resume out to start")


@dataclass
class Trainer:
    """One run: the student, its averaged copy, the data and the place the results go to."""

    name: str
    data: Data
    out: Path
    recipe: Recipe
    devices: int = 1
    tensorboard: bool = False
    begin_with: Path | None = None
    notify: Callable[[Event], None] = lambda event: None
    checked: Callable[[int], None] = lambda count: None
    scored: Callable[[int, float], None] = lambda epoch, score: None
    check: bool = True  # False where the same data was checked a moment ago
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        devices, self.machines = started_by_torchrun() or (self.devices, 1)
        self.fabric = Fabric(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",  # what the operators are known to compute on
            devices=devices,
            num_nodes=self.machines,
            strategy=self._strategy(devices * self.machines),
            precision=PRECISIONS[self.recipe.precision],
        )
        if restarted_by_torchrun():
            join_again()
        self.fabric.launch()
        if begun := getattr(self.fabric.strategy.launcher, "procs", None):
            watch(list(begun))
            begun.clear()  # Lightning's own watchman kills all of them without a word; now it has nobody to watch
        torch.manual_seed(self.recipe.seed)
        if self.recipe.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS chooses anew each time
            torch.use_deterministic_algorithms(mode=True)
        split = self.recipe.split or self.data.fit
        if self.check:
            require(self.data, dict.fromkeys((split, self.data.select)), self.checked)
        self.fit_split = split
        for images in (self.recipe.batch, self._without() or self.recipe.batch):
            if images % (self.fabric.world_size * self.recipe.accumulate):
                parts = f" and {self.recipe.accumulate} parts" if self.recipe.accumulate > 1 else ""
                raise EdgesegError(
                    f"a batch of {images} images does not divide among {self.fabric.world_size} processes{parts}"
                )
        train = self.data.split(split)
        self.size = self.recipe.size or train[0][1].shape
        self.batches = self._batches(
            train, self.recipe.batch, TASKS[self.data.task].mixing(self.recipe), self.recipe.seed
        )
        self.bare: Batches | None = None
        self.others = self._without_labels()
        self._build()

    def _strategy(self, processes: int) -> str:
        """How processes learn together; one round of prompts leaves the part unused that reads the mask of the round before."""
        if processes == 1:
            return "auto"
        unused = self.data.task == "promptable" and self.recipe.prompts.rounds == 1
        return "ddp_find_unused_parameters_true" if unused else "ddp"

    def _batches(self, split: Split, batch: int, mixing: Mixing | None, seed: int) -> Batches:
        return Batches(
            split,
            self.recipe.augment_for(self.size, self.data.task),
            batch=batch // self.fabric.world_size,
            seed=seed,
            workers=self.recipe.workers,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            mixing=mixing,
        )

    def _without(self) -> int:
        """Images without labels in a step."""
        teaching = self.recipe.teaching
        if teaching is None or teaching.unlabelled is None:
            return 0
        return teaching.unlabelled_batch or self.recipe.batch

    def _without_labels(self) -> Iterator[tuple[Tensor, Tensor]] | None:
        """Batches of images that only a teacher says something about, from the step on that training is at."""
        teaching = self.recipe.teaching
        if teaching is None or teaching.unlabelled is None:
            return None
        split = unlabelled(teaching.unlabelled)
        if self.check:
            refuse(teaching.unlabelled, split.problems())
        # of a seed of their own: images that are among those with labels too would come as the same views in the same steps
        self.bare = batches = self._batches(split, self._without(), None, self.recipe.seed + UNLABELLED)

        def from_here() -> Iterator[tuple[Tensor, Tensor]]:
            yield from batches.forever(self.state.step)  # asked for the first batch, it knows where a resumed run is

        return from_here()

    def _build(self) -> None:
        self.task: Task = TASKS[self.data.task](self.data, self.recipe, self.fabric)
        student, self.average = (self._student() for _ in range(2))
        if self.fabric.device.type == "cpu":
            spare_dilated_depthwise(student)
        student.check_size(torch.empty(1, 3, *self.size))
        if self.begin_with is not None:
            begin_from(student, self.begin_with)
        self.student = student
        self.average.load_state_dict(student.state_dict())
        self.average.look = tuple(look_of(self.data.split(self.fit_split)))
        self.average = self.average.to(self.fabric.device).eval().requires_grad_(requires_grad=False)
        self.task.begin(student, self.average)
        if self.fabric.world_size > 1:
            kind = self.fabric.device.type
            gather = gathering(self.machines) if kind == "cpu" else by_gloo
            for learned in (student, self.task.heads):
                synced(learned, kind, gather)
        both = nn.ModuleList([student, self.task.heads])
        self.module, self.optimizer = self.fabric.setup(student, make_optimizer(both, self.recipe.optimizer))
        for method in self.task.methods:
            self.module.mark_forward_method(method)

    def _student(self) -> Student:
        student = build_student(self.name, self.data, self.recipe.student)
        if self.recipe.channels_last:
            student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return student

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.recipe.epochs * len(self.batches)

    def run(self, resume: bool) -> Path:
        """Train to the end, or on from the last checkpoint; the folder of the run."""
        self._open(resume)
        if self.fabric.device.type == "cpu" and sys.platform == "linux":
            keep_freed_memory()
        with stop_signals() as stop, self._writer() as write:
            while self.state.epoch < self.recipe.epochs:
                self._epoch(stop, write)
        return self.out

    def _open(self, resume: bool) -> None:
        checkpoint = self.out / CHECKPOINT
        check_place(self.out, resume)
        if not (checkpoint.exists() if restarted_by_torchrun() else resume):  # there the command is the first one's
            return
        self.restore(load_state(checkpoint), checkpoint)
        if self.fabric.is_global_zero:  # who else rewrites it takes it away from the one that writes
            self._cut_log()

    def restore(self, stored: Any, where: Path) -> None:
        """Go back to a stored state; the recipe and the student must be the ones it was made with."""
        identity = self.identity()
        for key, value in identity.items():
            if stored.get("identity", {}).get(key) != value:
                changed = ", ".join(_changes(key, stored.get("identity", {}).get(key), value))
                what = "other images" if key == "images" else f"another {key}"
                raise EdgesegError(
                    f"{where} was made with {what} ({changed}); "
                    "resume with the same one, or start anew in another --out"
                )
        self.student.load_state_dict(stored["student"])
        self.average.load_state_dict(stored["average"])
        self.task.heads.load_state_dict(stored.get("heads", {}))
        self.optimizer.load_state_dict(stored["optimizer"])
        set_rng_state(stored["rng"])
        self.state = State(**stored["state"])

    def identity(self) -> dict[str, Any]:
        """What must not change between the two halves of an interrupted run; as it reads back from JSON."""
        recipe = {key: value for key, value in schema.dump(self.recipe).items() if key not in ("workers", "checkpoint")}
        identity: dict[str, Any] = json.loads(
            json.dumps({"student": self.name, "data": self.data.spec, "images": self._images(), "recipe": recipe})
        )
        return identity

    def _images(self) -> str:
        """How many images are learned from, and a digest of their names: steps are counted in them."""
        names = self.data.split(self.fit_split).names
        return f"{len(names)} ({hashlib.sha256(chr(0).join(names).encode()).hexdigest()[:12]})"

    def save_checkpoint(self) -> None:
        """Everything `restore` needs, in one file."""
        if self.fabric.is_global_zero:
            state = {
                "identity": self.identity(),
                "student": self.student.state_dict(),
                "average": self.average.state_dict(),
                "heads": self.task.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rng": rng_state(),
                "state": vars(self.state),
            }
            save_state(self.out / CHECKPOINT, state)

    def _cut_log(self) -> None:
        """Drop what was logged after the checkpoint: the resumed run will say it again."""
        log = self.out / LOG
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] <= self.state.step:
                    kept.append(line)
            except (ValueError, KeyError):
                break  # the line a kill cut in two
        write_text(log, "".join(line + "\n" for line in kept))

    def _epoch(self, stop: Callable[[], bool], write: Callable[[dict[str, Any]], None]) -> None:
        steps = len(self.batches)
        done = self.state.step - self.state.epoch * steps
        started, before = time.monotonic(), self.state.seconds
        for index, (images, labels, views) in enumerate(self._fed(done), done + 1):
            self.state.loss, lr = self.step(images, labels, views)
            self.state.seconds = before + time.monotonic() - started
            self.notify(
                Event(self.state.epoch + 1, self.recipe.epochs, index, steps, self.state.loss, lr, self.state.last_miou)
            )
            if index % 20 == 0 or index == steps:
                said = {name: round(float(value), 6) for name, value in self.task.said.items()}
                write(
                    {"step": self.state.step, "epoch": self.state.epoch + 1, "loss": self.state.loss, "lr": lr, **said}
                )
            if self._stopping(stop):
                self.save_checkpoint()
                raise Interrupted(
                    f"stopped at epoch {self.state.epoch + 1}, step {index} of {steps}; go on with --resume"
                )
            if index % self.recipe.checkpoint == 0 and index < steps:
                self.save_checkpoint()
        self.state.epoch += 1
        if self.state.epoch % self.recipe.evaluate == 0 or self.state.epoch == self.recipe.epochs:
            if self.fabric.is_global_zero:
                self._evaluate(write)
                assert self.state.last_miou is not None
                self.scored(self.state.epoch, self.state.last_miou)
            self.fabric.barrier()  # the others wait for the card: it is the result they all return
            if (
                self.fabric.world_size > 1
            ):  # its norms were counted anew on one process, and it may be everybody's teacher
                for value in self.average.buffers():
                    value.copy_(self.fabric.broadcast(value.clone(), src=0))
        self.state.seconds = before + time.monotonic() - started
        self.save_checkpoint()

    def _fed(self, done: int) -> Iterator[Placed]:
        """The batches of this epoch from the next on, each with images that have no labels behind it where there are such."""
        batches = self.batches.placed(self.state.epoch, start=done)
        if self.others is None:
            yield from batches
            return
        for (images, labels, views), other in zip(batches, self.others, strict=False):  # the others have no end
            yield torch.cat([images, other[0]]), torch.cat([labels, other[1]]), views

    def _stopping(self, stop: Callable[[], bool]) -> bool:
        """True when any process was asked to stop: all of them leave after the same step."""
        if self.fabric.world_size == 1:
            return stop()
        asked = torch.tensor(float(stop()), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="sum"))

    def step(self, images: Tensor, labels: Tensor, views: Tensor | None = None) -> tuple[float, float]:
        """One optimiser step on a batch as the loader makes it; the loss and the rate."""
        lr = self.recipe.optimizer.lr * rate(self.recipe, self.state.step, len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images, labels = self.fabric.to_device((images, labels))
        self.student.train()
        parts = self.recipe.accumulate
        value = 0.0
        for part in range(parts):  # every so-many-th image, so that those with labels and those without are in each
            some = None if views is None else views[part::parts]
            value += self._learn(images[part::parts], labels[part::parts], some, part) / parts
        if self.fabric.world_size > 1:  # DDP knows of the student alone
            for learned in self.task.heads.parameters():
                assert learned.grad is not None
                learned.grad.copy_(self.fabric.all_reduce(learned.grad, reduce_op="mean"))  # type: ignore[arg-type]
        if self.recipe.clip is not None:
            norm = self.fabric.clip_gradients(
                self.module, self.optimizer, max_norm=self.recipe.clip, error_if_nonfinite=False
            )
            # float16 meets gradients that are too large on its way to a good scale, and leaves such steps out
            if self.recipe.precision != "fp16" and norm is not None and not float(norm) < float("inf"):
                raise self._lost("gradient", float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        follow(self.average, self.student, 0.0 if self.recipe.ema is None else self.recipe.ema, self.state.step)
        return value, lr

    def _learn(self, images: Tensor, labels: Tensor, views: Tensor | None, part: int) -> float:
        """The loss of a part of a step's images, its gradient added to what is there."""
        parts = self.recipe.accumulate
        last = part == parts - 1
        with (
            self._in_memory(images),
            self.fabric.no_backward_sync(self.module, enabled=self.fabric.world_size > 1 and not last),
        ):
            try:
                number = self.state.step * parts + part
                loss = self.task.loss(self.module, self.student, images, labels, number, views)
            except ValueError as error:  # BatchNorm behind a global pooling cannot learn from one value
                raise EdgesegError(
                    f"{self.name} cannot learn from batches of {list(images.shape)}: {error}; make the batch larger, or accumulate in fewer parts"
                ) from error
            except RuntimeError as error:
                if "deterministic" not in str(error):
                    raise
                raise EdgesegError(
                    f"{self.name} has no way to the same bits each time here ({str(error).splitlines()[0]:.160}); set deterministic=false"
                ) from error
            # the mean over the processes, so that all of them see the same and stop alike
            mean = self.fabric.all_reduce(loss.detach().clone(), reduce_op="mean")
            assert isinstance(mean, Tensor)
            value = float(mean)
            if not abs(value) < float("inf"):
                raise self._lost("loss", value)
            self.fabric.backward(loss / parts)
        return value

    @contextmanager
    def _in_memory(self, images: Tensor) -> Iterator[None]:
        """Say in a line that there was not the memory for so many images."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise EdgesegError(
                f"there is not the memory for {self.name} to learn from {len(images)} images of {images.shape[-2]}x{images.shape[-1]} "
                "at once; make the batch or the size smaller, or take it in parts (accumulate)"
            ) from error

    def _lost(self, what: str, value: float) -> Diverged:
        """Why training cannot go on from here; the weights and the last checkpoint are those from before this step."""
        step, images = self.state.step, self.batches.names(self.state.step)
        without = f" and, without labels, {', '.join(self.bare.names(step))}" if self.bare is not None else ""
        parts = [f"{name} {float(part):.3g}" for name, part in self.task.said.items()]
        made_of = f" ({', '.join(parts)})" if parts and what == "loss" else ""
        kept = (
            f"{self.out / CHECKPOINT} is the last good state" if (self.out / CHECKPOINT).exists() else "nothing is kept"
        )
        return Diverged(
            f"the {what} became {value}{made_of} at step {step}, epoch {step // len(self.batches) + 1}, on the images "
            f"{', '.join(images)}{without}; {kept}; start anew with a lower optimizer.lr"
        )

    def _evaluate(self, write: Callable[[dict[str, Any]], None]) -> None:
        """Score the averaged weights on the selection split, keep them if they are the best so far, draw a picture."""
        if self.recipe.norm_batches:
            some = islice(self.batches.epoch(self.state.epoch - 1), self.recipe.norm_batches)
            batches = ({"images": images, "labels": labels} for images, labels in some)
            # without a trace in the generators, since one process alone does this
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                update_bn(batches, self.task.watch(self.average))
        split = self.data.split(self.data.select)
        score = self.task.score(self.average, split, self.size)
        self.state.last_miou = self.task.figure(score)
        if not math.isfinite(self.state.last_miou):
            raise EdgesegError(f"{self.data.spec} [{self.data.select}] has no labelled pixel to choose an epoch by")
        write({"step": self.state.step, "epoch": self.state.epoch, "select": self.data.select, **schema.dump(score)})
        shown = [split[i] for i in np.linspace(0, len(split) - 1, min(4, len(split))).astype(int)]
        rows = [self.task.row(self.average, image, truth, self.size) for image, truth in shown]
        save_picture(self.out / "pictures" / f"epoch-{self.state.epoch:04d}.png", grid(rows))
        if self.state.last_miou > self.state.best_miou:
            self.state.best_miou, self.state.best_epoch = self.state.last_miou, self.state.epoch
            self._keep(self.state.last_miou)

    def _keep(self, miou: float) -> None:
        training = Training(
            data=self.data.spec,
            split=self.fit_split,
            epochs=self.recipe.epochs,
            best_epoch=self.state.epoch,
            select_split=self.data.select,
            select_miou=miou,
            seconds=round(self.state.seconds, 1),
            threads=torch.get_num_threads(),
            machine=torch.cuda.get_device_name()
            if self.fabric.device.type == "cuda"
            else f"{platform.machine()}, {os.cpu_count()} cores",
            recipe=schema.dump(self.recipe),
        )
        save(self.average, self.out, size=(self.size[0], self.size[1]), training=training)

    @contextmanager
    def _writer(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Append to the JSON-lines log, and to TensorBoard when asked."""
        if not self.fabric.is_global_zero:
            yield lambda line: None
            return
        board = None
        if self.tensorboard:
            from edgeseg.errors import need

            need("tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(self.out / "tensorboard"))
        self.out.mkdir(parents=True, exist_ok=True)
        mode = "a" if self.state.step else "w"  # what died before its first checkpoint left lines that are nobody's
        with (self.out / LOG).open(mode, encoding="utf-8", buffering=1) as log:

            def write(line: dict[str, Any]) -> None:
                log.write(json.dumps(line) + "\n")
                for key, value in line.items():
                    if board is not None and isinstance(value, float):
                        board.add_scalar(key, value, line["step"])

            yield write
        if board is not None:
            board.close()


def started_by_torchrun() -> tuple[int, int] | None:
    """Processes on this machine, and machines; nothing where torchrun did not start this one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    here, all_of_them = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return here, all_of_them // here


def restarted_by_torchrun() -> bool:
    """Whether a process had died, and torchrun began all of them anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def join_again() -> None:
    """Meet the other processes under names of this attempt: under the old ones are addresses of those that died (PyTorch 2.13)."""
    store, rank, world = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    names = distributed.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=names, rank=rank, world_size=world)


def _changes(name: str, before: Any, now: Any) -> Iterator[str]:
    """What differs, one phrase each: `recipe.seed was 0, is 1`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _changes(f"{name}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{name} was {before}, is {now}"


def build_student(name: str, data: Data, options: Mapping[str, Any] | None = None) -> Student:
    """An untrained student for a data set, with the auxiliary head its family has.

    Raises:
        EdgesegError: the student is promptable and the data is not, or the other way round.
    """
    extra = {"auxiliary": True} if "auxiliary" in parameters(name) else {}
    task = "semantic" if "classes" in parameters(name) else "promptable"
    if task != data.task:
        raise EdgesegError(f"{name} is {task} and does not learn from {data.spec}, which is {data.task} data")
    classes = len(data.class_names) if task == "semantic" else None
    student: Student = create(name, classes=classes, **{**extra, **(options or {})})
    student.describe(data.class_names, data.palette)
    return student


def begin_from(student: Student, run: Path) -> None:
    """Start with the weights of another run; a classifier of other classes keeps its own beginning.

    Raises:
        EdgesegError: the run is of another student, so that less than half of the weights would fit.
    """
    read_card(run)
    own, theirs = student.state_dict(), read_weights(run / WEIGHTS)
    fit = {key: value for key, value in theirs.items() if key in own and own[key].shape == value.shape}
    if 2 * sum(value.numel() for value in fit.values()) < sum(value.numel() for value in own.values()):
        raise EdgesegError(
            f"{run} is no {student.name}: {len(fit)} of {len(own)} tensors fit; begin with a run of the same"
        )
    student.load_state_dict({**own, **fit})


def make_optimizer(student: nn.Module, options: Optimizer) -> torch.optim.Optimizer:
    """The optimiser; norms and biases (tensors of one axis) are not decayed."""
    decayed = [p for p in student.parameters() if p.ndim > 1]
    spared = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    try:
        if isinstance(options, AdamW):
            return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas)
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov)
    except ValueError as error:
        raise EdgesegError(f"recipe: optimizer: {error}") from error


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """Factor of the base rate at a step: linear warm-up, then the schedule over what remains."""
    warmup = round(recipe.warmup_epochs * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return recipe.schedule((step - warmup) / max(1, recipe.epochs * steps - warmup))


@torch.no_grad()
def follow(average: nn.Module, student: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the student's: a <- d a + (1 - d) s, d = min(decay, step / (step + 9))."""
    amount = 1 - min(decay, step / (step + 9))
    theirs, ours = student.state_dict(), average.state_dict()
    floats = [key for key, value in ours.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[key] for key in floats], [theirs[key] for key in floats], amount)
    for key in ours.keys() - set(floats):
        ours[key].copy_(theirs[key])


def spare_dilated_depthwise(student: nn.Module) -> None:
    """Keep dilated depthwise convolutions out of autocast: their bfloat16 gradient is wrong on a CPU.

    Seen with PyTorch 2.13 on a CPU with AVX512-BF16, LR-ASPP at 360x480: the gradient of the weights reads memory that
    nobody wrote, up to 1e34 times the right value. Which memory that is depends on the allocator, so it can look right.
    """
    for part in student.modules():
        if isinstance(part, nn.Conv2d) and part.groups == part.in_channels > 1 and max(part.dilation) > 1:
            part.forward = partial(_forward_float32, part)  # type: ignore[method-assign]


def _forward_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return nn.Conv2d.forward(conv, x.float())


def keep_freed_memory() -> None:
    """Let glibc keep the pages of freed tensors for the next step instead of returning them to the kernel.

    A step frees and allocates the same gigabytes again and again; handed back each time, the kernel has to clear every
    page anew. Measured on 2 cores in a bare loop, DDRNet-23-slim in bfloat16 at 8x360x480: 0.72 s a step with the
    default, 0.56 s so.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, -1)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM become a question the loop asks after each step; a second Ctrl-C ends at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals belong to whoever runs it
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
