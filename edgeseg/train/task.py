"""What is learnt: how a batch becomes a loss, and how the result is judged. The loop around it is the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgeseg.data.base import Data, Image, Labels, Split
from edgeseg.data.loader import Mixing
from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.students import Student
from edgeseg.students.maps import Widths
from edgeseg.train.recipe import Recipe
from edgeseg.train.teaching import PIECES, Key, Lesson


class Task(ABC):
    """One kind of labels and what a student does with them.

    methods: the methods of the student that training calls, so that DDP sees its forward pass.
    heads:   what is learned beside the student and thrown away in the end: kept in checkpoints, not in the run.
    said:    what the last loss was made of, by name.
    """

    methods: ClassVar[tuple[str, ...]]

    def __init__(self, data: Data, recipe: Recipe, fabric: Fabric) -> None:
        self.data, self.recipe, self.fabric = data, recipe, fabric
        self.heads = nn.ModuleDict()
        self.said: dict[str, Tensor] = {}
        self.ours: tuple[Key, ...] = ()
        self.theirs: tuple[Key, ...] = ()
        if recipe.teaching is not None:
            self.ours, self.theirs = recipe.teaching.keys
            if wrong := [piece.type for piece in recipe.teaching.losses if piece.kind != data.task]:
                there = ", ".join(name for name in PIECES if PIECES[name].kind == data.task)
                raise EdgesegError(f"{', '.join(wrong)} is not for {data.task} students, who have {there}")

    def begin(self, student: Student, average: Student) -> None:
        """Meet the student and its averaged copy, before the first step."""
        if self.recipe.teaching is not None:
            self._meet(student, average)

    @abstractmethod
    def _meet(self, student: Student, average: Student) -> None:
        """Find the teacher, and make the heads that the pieces of loss learn beside the student."""

    def seed(self, step: int) -> int:
        """Of a step's random choices, on this process."""
        return int(np.random.SeedSequence((self.recipe.seed, step, self.fabric.global_rank)).generate_state(1)[0])

    def _make_heads(self, ours: Widths, theirs: Widths, classes: int) -> None:
        assert self.recipe.teaching is not None
        for piece in self.recipe.teaching.losses:
            head = piece.head(ours, theirs, classes)
            if head is not None:
                self.heads[piece.type] = head
        self.heads.to(self.fabric.device)

    def taught(self, lesson: Lesson) -> Tensor:
        """The weighted sum of the pieces."""
        assert self.recipe.teaching is not None
        total: Tensor = torch.zeros((), device=lesson.images.device)
        heads = dict(self.heads.items())
        for piece in self.recipe.teaching.losses:
            part = piece(lesson, heads.get(piece.type))
            self.said[f"loss_{piece.type}"] = part.detach()
            total = total + piece.weight * part
        return total

    @classmethod
    def mixing(cls, recipe: Recipe) -> Mixing | None:
        """How the images of a batch are mixed with each other, if they are."""
        return None

    @abstractmethod
    def loss(
        self, module: Any, student: Student, images: Tensor, labels: Tensor, step: int, views: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch as the loader makes it; random choices follow from the seed and `step`."""

    @abstractmethod
    def look(self, student: Student, images: Tensor, labels: Tensor) -> None:
        """One forward pass as in training, for the statistics of BatchNorm."""

    @abstractmethod
    def score(self, student: Student, split: Split, size: tuple[int, ...]) -> Any:
        """The score of a student trained at `size` (height, width) on a split, a dataclass."""

    @abstractmethod
    def figure(self, score: Any) -> float:
        """The one number of a score that the best epoch is chosen by, in percent."""

    @abstractmethod
    def row(self, student: Student, image: Image, truth: Labels, size: tuple[int, ...]) -> list[Image]:
        """Pictures that show what the student makes of an image."""

    def watch(self, student: Student) -> nn.Module:
        """A module around the student whose forward pass is `look`, as PyTorch's `update_bn` wants one."""
        return _Watched(self, student)


class _Watched(nn.Module):
    def __init__(self, task: Task, student: Student) -> None:
        super().__init__()
        self.student, self._task = student, task

    def forward(self, batch: dict[str, Tensor]) -> None:
        images, labels = self._task.fabric.to_device((batch["images"], batch["labels"]))
        self._task.look(self.student, images, labels)


TASKS: Registry[type[Task]] = Registry("task")
"""What a data set is for -> how it is learnt; `edgeseg.train` imports every task."""
