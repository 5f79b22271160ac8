"""Learning to label every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from edgeseg.data.base import Data, Image, Labels, Split
from edgeseg.evaluate import measure_split
from edgeseg.metrics import VOID, Score
from edgeseg.pictures import overlay
from edgeseg.students import Semantic, Student, upsample
from edgeseg.train.precomputed import Precomputed, is_embedded
from edgeseg.train.recipe import Recipe
from edgeseg.train.task import TASKS, Task
from edgeseg.train.teacher import Teacher


class SemanticTask(Task):
    """Class ids as labels; judged by mIoU."""

    method = "training_logits"

    def __init__(self, data: Data, recipe: Recipe, fabric: Fabric) -> None:
        super().__init__(data, recipe, fabric)
        self.teacher: Teacher | Precomputed | None = None
        if recipe.teaching is not None:
            precomputed = is_embedded(Path(recipe.teaching.teacher))
            names = data.split(recipe.split or data.fit).names if precomputed else ()
            self.teacher = (
                Precomputed(recipe.teaching, data.class_names, names, fabric.device)
                if precomputed
                else Teacher(recipe.teaching, data.class_names, fabric.device)
            )
        self.weight: Tensor | None = None
        if recipe.class_weights != "none":
            self.weight = class_weights(data, recipe.split or data.fit).to(fabric.device)

    def loss(
        self, module: Any, student: Student, images: Tensor, labels: Tensor, step: int, views: Tensor | None = None
    ) -> Tensor:
        """The recipe's loss of the main head and a share of that of the auxiliary heads, and what the teacher has to say."""
        with self.fabric.autocast():  # on one device Fabric does not wrap methods other than forward
            heads = module.training_logits(student.normalise(images))
        parts = [
            self.recipe.loss(upsample(logits.float().contiguous(), labels.shape[-2:]), labels, self.weight)
            for logits in heads
        ]
        total: Tensor = parts[0] + self.recipe.auxiliary * sum(parts[1:])
        if self.teacher is not None and self.recipe.teaching is not None:
            ours = heads[0].float()
            with self.fabric.autocast():
                theirs = self.teacher.logits(images, ours.shape[-2:], views)
            total = total + sum(
                piece.weight * piece(ours, theirs.float(), labels) for piece in self.recipe.teaching.losses
            )
        return total

    def look(self, student: Student, images: Tensor, labels: Tensor) -> None:
        """The logits."""
        student(student.normalise(images))

    def score(self, student: Student, split: Split, size: tuple[int, ...]) -> Score:
        """mIoU and the rest."""
        assert isinstance(student, Semantic)
        return measure_split(student, split, len(self.data.class_names)).score()

    def figure(self, score: Any) -> float:
        """mIoU in percent."""
        return float(score.miou)

    def row(self, student: Student, image: Image, truth: Labels, size: tuple[int, ...]) -> list[Image]:
        """Image, prediction, truth."""
        assert isinstance(student, Semantic)
        colours = self.data.palette
        return [image, overlay(image, student.predict(image), colours), overlay(image, truth, colours)]


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
