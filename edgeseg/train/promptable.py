"""Learning to cut out what a click or a box points at, with a simulated person who corrects what is wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from edgeseg.data.base import Data, Image, Labels, Split
from edgeseg.data.loader import Mixing
from edgeseg.data.paste import Paste
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID, PromptScore
from edgeseg.pictures import overlay
from edgeseg.prompt_metrics import measure_prompts
from edgeseg.prompts import box_of, first_click, next_click, objects_of, targets
from edgeseg.segment import StudentSegmenter
from edgeseg.students import Promptable, Student
from edgeseg.students.promptable import BOTTOM_RIGHT, PADDING, POSITIVE, TOP_LEFT
from edgeseg.train.recipe import Recipe
from edgeseg.train.task import TASKS, Task

MARK = 3
"""Half the side of the square that shows a click in a picture, in pixels."""


class PromptTask(Task):
    """Instance ids as labels; judged by the mean IoU of the objects after one click."""

    methods = ("training_masks",)

    def __init__(self, data: Data, recipe: Recipe, fabric: Fabric) -> None:
        super().__init__(data, recipe, fabric)
        if recipe.teaching is not None:
            raise EdgesegError(f"{data.spec} is for promptable students, who learn from labels alone in this version")

    @classmethod
    def mixing(cls, recipe: Recipe) -> Mixing | None:
        """Objects of one image pasted into another."""
        return Paste(recipe.prompts.paste) if recipe.prompts.paste else None

    def loss(self, module: Any, student: Student, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """The mean over the rounds; each round is held to the same objects."""
        rng = np.random.default_rng((self.recipe.seed, step, self.fabric.global_rank))
        truth, made = self._ask(module, student, images, labels, rng)
        parts = [
            self.recipe.prompts.loss(student.enlarge(masks.float(), truth.shape[-2:]), quality.float(), truth)  # type: ignore[operator]
            for masks, quality in made
        ]
        return torch.stack(parts).mean()

    def look(self, student: Student, images: Tensor, labels: Tensor) -> None:
        """The first two rounds, always the same."""
        self._ask(student, student, images, labels, np.random.default_rng(self.recipe.seed), rounds=2)

    def _ask(
        self, module: Any, student: Student, images: Tensor, labels: Tensor, rng: np.random.Generator, rounds: int = 0
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The objects asked for, `[P, H, W]` of 0 and 1, and what each round answered."""
        prompts = self.recipe.prompts
        wanted = targets(labels.cpu().numpy(), prompts.objects, rng, prompts.merge, prompts.min_pixels)
        points, signs = begin(wanted, prompts.box, rng)
        given = (torch.from_numpy(array).to(images.device) for array in (points, signs))
        with self.fabric.autocast():  # on one device Fabric does not wrap methods other than forward
            made = module.training_masks(
                student.normalise(images), *given, rounds or prompts.rounds, partial(correct, wanted)
            )
        return torch.from_numpy(wanted).to(images.device), made

    def score(self, student: Student, split: Split, size: tuple[int, ...]) -> PromptScore:
        """The objects of every image, asked for by one click and more, and by a box."""
        assert isinstance(student, Promptable)
        prompts = self.recipe.prompts
        segmenter = StudentSegmenter(student, (size[0], size[1]))
        return measure_prompts(segmenter, split, clicks=prompts.clicks, min_pixels=prompts.min_pixels)[0]

    def figure(self, score: Any) -> float:
        """Mean IoU after one click, in percent."""
        return float(score.miou_1)

    def row(self, student: Student, image: Image, truth: Labels, size: tuple[int, ...]) -> list[Image]:
        """The image with a click in its largest object, the mask that click gives, the object."""
        assert isinstance(student, Promptable)
        masks = objects_of(truth)
        if not masks:
            return [image, image, image]
        segmenter = StudentSegmenter(student, (size[0], size[1]))
        x, y = first_click(masks[0], None)
        made = segmenter.masks(segmenter.begin(image), np.array([[[x, y]]]), np.array([[POSITIVE]]), None)[0]
        row, column = int(y), int(x)
        marked = image.copy()
        marked[max(0, row - MARK) : row + MARK + 1, max(0, column - MARK) : column + MARK + 1] = (255, 0, 0)
        shown = [np.where(mask, 1, VOID).astype(np.uint8) for mask in (made, masks[0])]
        return [marked, *(overlay(image, mask, self.data.palette) for mask in shown)]


def begin(wanted: NDArray[np.float32], box: float, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first prompt of each object, points `[P, 2, 2]` and labels `[P, 2]`: a box with probability `box`, else a click."""
    points = np.zeros((len(wanted), 2, 2), np.float32)
    labels = np.full((len(wanted), 2), PADDING, np.float32)
    for index, mask in enumerate(wanted > 0):
        if not mask.any():
            continue
        if rng.random() < box:
            points[index] = np.reshape(box_of(mask, 0.1, rng), (2, 2))
            labels[index] = TOP_LEFT, BOTTOM_RIGHT
        else:
            points[index, 0] = first_click(mask, rng)
            labels[index, 0] = POSITIVE
    return points, labels


def correct(wanted: NDArray[np.float32], masks: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One more click for each object, where the mask is most wrong; none where it is right."""
    more = np.zeros((len(wanted), 3), np.float32)
    for index, (truth, mask) in enumerate(zip(wanted > 0, (masks[:, 0] > 0).cpu().numpy(), strict=True)):
        more[index] = next_click(truth, mask) if (truth != mask).any() else (0, 0, PADDING)
    added = torch.from_numpy(more).to(points.device)
    return torch.cat([points, added[:, None, :2]], 1), torch.cat([labels, added[:, 2:]], 1)


TASKS.add("promptable", PromptTask)
