"""Learning to label every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from edgeseg.data.base import Data, Image, Labels, Split
from edgeseg.embed import teacher_of
from edgeseg.errors import EdgesegError
from edgeseg.evaluate import measure_split
from edgeseg.losses import CrossEntropy
from edgeseg.metrics import VOID, Score
from edgeseg.pictures import overlay
from edgeseg.students import Semantic, Student, upsample
from edgeseg.students.assisted import is_assisted
from edgeseg.students.maps import kept, staged, stages, widths
from edgeseg.train.assisted import assisted_loss, label, measure_assisted, with_labels
from edgeseg.train.precomputed import PrecomputedLogits
from edgeseg.train.recipe import Recipe
from edgeseg.train.task import TASKS, Task
from edgeseg.train.teacher import Teacher
from edgeseg.train.teaching import ALONE, EMA, Key, Lesson, Teaching, View


class SemanticTask(Task):
    """Class ids as labels; judged by mIoU.

    With cross-entropy several processes learn what one would from all of their images. OHEM, Lovasz and some pieces of distillation
    look at the pixels of one process together, by nature: there it is the mean over processes.
    """

    methods = ("training_logits", "training_outputs")

    def __init__(self, data: Data, recipe: Recipe, fabric: Fabric) -> None:
        super().__init__(data, recipe, fabric)
        self.teacher: Teacher | PrecomputedLogits | None = None
        if recipe.teaching is not None and recipe.teaching.teacher not in (EMA, ALONE):
            self.teacher = self._teacher(recipe.teaching)
        self.weight: Tensor | None = None
        if recipe.class_weights != "none":
            self.weight = class_weights(data, recipe.split or data.fit).to(fabric.device)

    def _teacher(self, teaching: Teaching) -> Teacher | PrecomputedLogits:
        if teacher_of(Path(teaching.teacher)) is None:
            return Teacher(teaching, self.data.class_names, self.fabric.device)
        if self.theirs or teaching.unlabelled is not None:
            what = "maps of the teacher" if self.theirs else "what it makes of images without labels"
            raise EdgesegError(f"{teaching.teacher} has a teacher's logits, not {what}; name the run that made them")
        split = self.data.split(self.recipe.split or self.data.fit)
        return PrecomputedLogits(teaching, self.data.class_names, split, self.fabric.device)

    def _meet(self, student: Student, average: Student) -> None:
        assert self.recipe.teaching is not None
        if is_assisted(student):
            raise EdgesegError(
                f"{student.name} is made to teach and learns from labels alone: `edgeseg train {student.name}`"
            )
        if self.recipe.teaching.teacher == EMA:
            self.teacher = Teacher(self.recipe.teaching, self.data.class_names, self.fabric.device, average)
        theirs = widths(self.teacher.network, self.theirs) if isinstance(self.teacher, Teacher) else {}
        self._make_heads(widths(student, self.ours), theirs, len(self.data.class_names))

    def loss(
        self, module: Any, student: Student, images: Tensor, labels: Tensor, step: int, views: Tensor | None = None
    ) -> Tensor:
        """The recipe's loss of the main head and a share of that of the auxiliary heads, and what the teacher has to say."""
        if is_assisted(student):
            with self.fabric.autocast():
                return assisted_loss(module, student, images, labels, self.recipe.loss, self.weight, self.seed(step))
        heads, maps = self._ask(module, student, images)
        parts = [
            self.recipe.loss(upsample(logits.float().contiguous(), labels.shape[-2:]), labels, self.weight)
            for logits in heads
        ]
        total: Tensor = self._share(labels) * (parts[0] + self.recipe.auxiliary * sum(parts[1:]))
        if self.recipe.teaching is None:
            return total
        self.said["loss_labels"] = total.detach()

        def again(others: Tensor) -> View:
            made, seen = self._ask(module, student, others)
            return View(made[0].float(), seen)

        ours = View(heads[0].float(), maps)
        theirs = None
        if self.teacher is not None:
            with self.fabric.autocast():
                size = ours.logits.shape[-2:]
                if isinstance(self.teacher, PrecomputedLogits):
                    theirs = View(self.teacher.logits(images, size, views), {})
                else:
                    theirs = self.teacher.view(images, size, self.theirs, labels, self.seed(step))
        return total + self.taught(Lesson(ours, theirs, labels, images, again, student.multiple, self.seed(step)))

    def _share(self, labels: Tensor) -> Tensor | float:
        """How much the mean over this process's pixels counts for in the mean over the processes, which have more or less void."""
        if self.fabric.world_size == 1 or not isinstance(self.recipe.loss, CrossEntropy):
            return 1.0
        mine = self.recipe.loss.counted(labels, self.weight).float()
        mean = self.fabric.all_reduce(mine.clone(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mine / mean.clamp_min(1e-12)

    def _ask(self, module: Any, student: Student, images: Tensor) -> tuple[Sequence[Tensor], dict[Key, Tensor]]:
        """The student's heads for uint8 images, and the maps that the pieces of loss compare."""
        seen = student.normalise(images)
        with self.fabric.autocast():  # on one device Fabric does not wrap methods other than forward
            if not self.ours:
                return module.training_logits(seen), {}
            with kept(student, self.ours, seen) as maps:
                if not staged(student, self.ours):
                    return module.training_logits(seen), maps
                heads, every = module.training_outputs(seen)
                return heads, maps | stages(student, self.ours, every)

    def look(self, student: Student, images: Tensor, labels: Tensor) -> None:
        """The logits."""
        seen = student.normalise(images)
        student(with_labels(student, seen, labels) if is_assisted(student) else seen)

    def score(self, student: Student, split: Split, size: tuple[int, ...]) -> Score:
        """mIoU and the rest."""
        assert isinstance(student, Semantic)
        if is_assisted(student):
            return measure_assisted(student, split, len(self.data.class_names)).score()
        return measure_split(student, split, len(self.data.class_names)).score()

    def figure(self, score: Any) -> float:
        """mIoU in percent."""
        return float(score.miou)

    def row(self, student: Student, image: Image, truth: Labels, size: tuple[int, ...]) -> list[Image]:
        """Image, prediction, truth."""
        assert isinstance(student, Semantic)
        colours = self.data.palette
        made = label(student, image, truth) if is_assisted(student) else student.predict(image)
        return [image, overlay(image, made, colours), overlay(image, truth, colours)]


def class_weights(data: Data, split: str) -> Tensor:
    """Median-frequency weights `[K]` (Eigen & Fergus, arXiv 1411.4734): median of the frequencies over each frequency.

    The frequency of a class is its pixels over all pixels of the images it occurs in; a class that never occurs gets 1.
    """
    classes = len(data.class_names)
    pixels, seen = np.zeros(classes), np.zeros(classes)
    part = data.split(split)
    for index in range(len(part)):
        labels = part[index][1]
        counts = np.bincount(labels[labels != VOID], minlength=classes)
        pixels += counts
        seen += (counts > 0) * (labels != VOID).sum()
    frequency = np.divide(pixels, seen, out=np.full(classes, np.nan), where=seen > 0)
    weights = np.nan_to_num(np.nanmedian(frequency) / frequency, nan=1.0)
    return torch.from_numpy(weights).float()


TASKS.add("semantic", SemanticTask)
