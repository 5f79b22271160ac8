"""A training step of edgeseg against the loop one would write by hand, on the same student, batch, loss and optimiser.

The bare loop has the same autocast, memory format, upsampling and auxiliary loss. It has no averaged weights, no
clipping, no schedule, no check for a loss that is not finite, and no Lightning Fabric: what edgeseg does besides, it pays.

- `one process`: steps in turns, both with the allocator setting that `Trainer.run` makes, which holds for a whole process.
- `own processes`: each as it comes, the bare loop with glibc's defaults; steps in turns all the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.ratio import Finding, Logs, burst, finding, fresh, in_turns
from edgeseg.errors import ParityFailed
from edgeseg.metrics import VOID

if TYPE_CHECKING:
    from torch import Tensor

    from edgeseg.train.loop import Trainer
    from edgeseg.train.recipe import Recipe

LIMIT = 1.05
PAIRS = 8
ROUNDS = 2

SAME_LOSS = 1e-4
"""Relative: the operations are the same, but threads may add in another order."""

Step = Callable[[], float]
"""One optimiser step; its loss."""


@dataclass(frozen=True)
class Work:
    """What a step is made of. `size` is (height, width)."""

    precision: Literal["fp32", "bf16"] = "bf16"
    student: str = "ddrnet23_slim"
    batch: int = 8
    size: tuple[int, int] = (360, 480)
    clip: float | None = 5.0
    images: int = 8

    @property
    def data(self) -> str:
        """Generated scenes, or shapes for a promptable student."""
        from edgeseg.students.student import parameters

        height, width = self.size
        kind = "synthetic" if "classes" in parameters(self.student) else "synthetic_objects"
        return f"{kind}:size={height}x{width},train={self.images},val=1,test=1"

    def recipe(self) -> Recipe:
        """The default recipe, at its full rate from the first step and with no end in sight."""
        from edgeseg.train.recipe import Prompts, Recipe

        return Recipe(
            prompts=Prompts(objects=2, rounds=2),
            epochs=100_000,
            batch=self.batch,
            size=self.size,
            warmup_epochs=0,
            precision=self.precision,
            clip=self.clip,
        )

    def trainer(self) -> Trainer:
        """A trainer that has not run."""
        from edgeseg.data import load_data
        from edgeseg.train.loop import Trainer

        return Trainer(self.student, load_data(self.data), Path(tempfile.gettempdir()), self.recipe())


def edgeseg_step(work: Work) -> Step:
    """The step of `edgeseg train`."""
    trainer = work.trainer()
    images, labels = next(trainer.batches.epoch(0))
    return lambda: trainer.step(images, labels)[0]


def bare_step(work: Work) -> Step:
    """The step one would write by hand, from the same weights on the same batch."""
    import torch

    from edgeseg.data import load_data
    from edgeseg.data.loader import Batches
    from edgeseg.train.loop import build_student, make_optimizer
    from edgeseg.train.task import TASKS

    data, recipe = load_data(work.data), work.recipe()
    mixing = TASKS[data.task].mixing(recipe)
    batches = Batches(
        data.split(data.fit),
        recipe.augment_for(work.size, data.task),
        work.batch,
        recipe.seed,
        workers=0,
        mixing=mixing,
    )
    images, labels = next(batches.epoch(0))
    torch.manual_seed(recipe.seed)
    student = build_student(work.student, data).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(student, recipe.optimizer)
    loss_of = semantic_loss if data.task == "semantic" else prompted_loss
    count = 0

    def step() -> float:
        nonlocal count
        loss = loss_of(work, recipe, student, images, labels, count)
        count += 1
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return step


def semantic_loss(work: Work, recipe: Recipe, student: Any, images: Tensor, labels: Tensor, count: int) -> Tensor:
    """Of the main head and a share of the auxiliary ones."""
    import torch

    from edgeseg.students import upsample

    with torch.autocast("cpu", torch.bfloat16, enabled=work.precision == "bf16"):
        main, *others = student.training_logits(student.normalise(images))
    loss = recipe.loss(upsample(main.float().contiguous(), work.size), labels, None)
    for other in others:
        loss = loss + recipe.auxiliary * recipe.loss(upsample(other.float().contiguous(), work.size), labels, None)
    return loss


def prompted_loss(work: Work, recipe: Recipe, student: Any, images: Tensor, labels: Tensor, count: int) -> Tensor:
    """Of every round of prompts, the student's answers corrected in between."""
    import torch

    from edgeseg.prompts import targets
    from edgeseg.students.promptable import best_mask, spread
    from edgeseg.train.promptable import begin, correct

    asked, rng = recipe.prompts, np.random.default_rng((recipe.seed, count, 0))
    wanted = targets(labels.numpy(), asked.objects, rng, asked.merge, asked.min_pixels)
    known = (labels != VOID).repeat_interleave(asked.objects, 0)
    points, signs = (torch.from_numpy(each) for each in begin(wanted, asked.box, rng))
    truth, total, before = torch.from_numpy(wanted), torch.zeros(()), None
    with torch.autocast("cpu", torch.bfloat16, enabled=work.precision == "bf16"):
        features = student.encode(student.normalise(images))
        maps = spread(features.maps, len(points))
        for turn in range(asked.rounds):
            masks, quality = student.low_masks(maps, features.size, points, signs, before)
            total = total + asked.loss(student.enlarge(masks.float(), work.size), quality.float(), truth, known)
            if turn + 1 < asked.rounds:
                before = best_mask(masks, quality).detach()
                points, signs = correct(wanted, known.numpy(), student.enlarge(before, features.size), points, signs)
    return total / asked.rounds


def agree(work: Work) -> None:
    """Nothing when two steps of both, without clipping, give the same losses; else there is no speed to compare.

    Raises:
        ParityFailed: they differ, so at least one of the two computes something else.
    """
    unclipped = replace(work, clip=None)
    ours, bare = (
        [_seeded(step, turn) for turn in range(2)] for step in (edgeseg_step(unclipped), bare_step(unclipped))
    )
    if not np.allclose(ours, bare, rtol=SAME_LOSS, atol=0):
        raise ParityFailed(
            f"train_step in {work.precision}: the losses are {ours}, by hand {bare}; no speed to compare"
        )


def _seeded(step: Step, turn: int) -> float:
    """A step whose dropout is the same on both sides."""
    import torch

    torch.manual_seed(turn)
    return step()


def one_process(work: Work, pairs: int) -> Logs:
    """Log-ratios of steps in this process."""
    from edgeseg.train.loop import keep_freed_memory

    agree(work)
    keep_freed_memory()
    return in_turns(burst(edgeseg_step(work)), burst(bare_step(work)), pairs)


def own_processes(work: Work, pairs: int) -> Logs:
    """Log-ratios of steps in a process for each."""
    with ExitStack() as stack:
        ours, bare = (
            stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), _begin, (side, work)))
            for side in ("edgeseg", "bare")
        )
        return in_turns(lambda: ours.submit(_timed).result(), lambda: bare.submit(_timed).result(), pairs)


_running: list[Step] = []
"""The step of this process, where it has one to itself."""


def _begin(side: str, work: Work) -> None:
    from edgeseg.train.loop import keep_freed_memory

    if side == "edgeseg":
        keep_freed_memory()  # as `Trainer.run` does
    _running.append(edgeseg_step(work) if side == "edgeseg" else bare_step(work))


def _timed() -> float:
    return burst(_running[0])()


FAMILIES = (
    "lraspp_mobilenet_v3_large",
    "pp_mobileseg_tiny",
    "ffnet40s",
    "rwkv_seg_tiny",
    "rwkv_sam_tiny",
    "squeeze_sam",
)
"""One student of each of the other families; a step of theirs is timed in one process only."""

OTHERS = tuple(Work("fp32", student, batch=4, size=(256, 256), images=4) for student in FAMILIES)


def findings(
    works: tuple[Work, ...] = (Work("bf16"), Work("fp32")),
    others: tuple[Work, ...] = OTHERS,
    pairs: int = PAIRS,
    rounds: int = ROUNDS,
) -> list[Finding]:
    """Both ways for every kind of work; `rounds` fresh starts of the second."""
    found = []
    for work in works:
        shared = [fresh(one_process, work, pairs)]
        apart = [own_processes(work, max(1, pairs // rounds)) for _ in range(rounds)]
        found.append(finding(f"{called(work)}, one process", shared, LIMIT))
        found.append(finding(f"{called(work)}, own processes", apart, LIMIT))
    for work in others:
        found.append(finding(f"{called(work)}, one process", [fresh(one_process, work, pairs)], LIMIT))
    return found


def called(work: Work) -> str:
    """What is timed."""
    return f"training step, {work.student} {work.precision} {work.batch}x{work.size[0]}x{work.size[1]}"
