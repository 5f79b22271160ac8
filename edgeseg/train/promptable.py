"""Learning to cut out what a click or a box points at, with a simulated person who corrects what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from edgeseg.data.base import Data, Image, Labels, Split
from edgeseg.data.loader import Mixing
from edgeseg.data.paste import Paste
from edgeseg.embed import teacher_of
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID, PromptScore
from edgeseg.pictures import overlay
from edgeseg.prompt_metrics import measure_prompts
from edgeseg.prompts import box_of, first_click, next_click, objects_of, targets
from edgeseg.segment import StudentSegmenter
from edgeseg.students import Promptable, Student
from edgeseg.students.maps import EMBEDDING, Widths, kept, staged, stages, widths
from edgeseg.students.promptable import BOTTOM_RIGHT, PADDING, POSITIVE, TOP_LEFT, Correct
from edgeseg.train.precomputed import Precomputed
from edgeseg.train.recipe import Recipe
from edgeseg.train.task import TASKS, Task
from edgeseg.train.teacher import PromptTeacher
from edgeseg.train.teaching import ALONE, EMA, Key, Lesson, Teaching, View
from edgeseg.train.teaching.prompted import Masks

MARK = 3
"""Half the side of the square that shows a click in a picture, in pixels."""


class PromptTask(Task):
    """Instance ids as labels; judged by the mean IoU of the objects after one click.

    Several processes draw prompts of their own, so they do not learn to the bit what one would.
    """

    methods = ("training_masks", "forward_features")

    def __init__(self, data: Data, recipe: Recipe, fabric: Fabric) -> None:
        super().__init__(data, recipe, fabric)
        self.teacher: PromptTeacher | Precomputed | None = None
        pieces = recipe.teaching.losses if recipe.teaching is not None else ()
        self.in_loop = any(isinstance(piece, Masks) for piece in pieces)
        if recipe.teaching is not None and recipe.teaching.teacher not in (EMA, ALONE):
            self.teacher = self._teacher(recipe.teaching)

    def _teacher(self, teaching: Teaching) -> PromptTeacher | Precomputed:
        if teacher_of(Path(teaching.teacher)) is None:
            return PromptTeacher(teaching, self.fabric.device)
        asked = [piece.type for piece in teaching.losses if piece.keys()[1] != (EMBEDDING,)]
        if asked or teaching.unlabelled is not None:
            what = f"answers for {', '.join(asked)}" if asked else "what it makes of images without labels"
            raise EdgesegError(
                f"{teaching.teacher} has a teacher's embeddings, not {what}; name the run that made them"
            )
        if self.recipe.prompts.paste:
            raise EdgesegError(
                f"{teaching.teacher} has embeddings of the images as they are, but objects are pasted into "
                f"{self.recipe.prompts.paste:.0%} of them; learn with --set prompts.paste=0, or from the run that made them"
            )
        split = self.data.split(self.recipe.split or self.data.fit)
        return Precomputed(teaching, "promptable", split, self.fabric.device)

    def _meet(self, student: Student, average: Student) -> None:
        assert self.recipe.teaching is not None
        if self.recipe.teaching.teacher == EMA:
            self.teacher = PromptTeacher(self.recipe.teaching, self.fabric.device, average)
        assert self.teacher is not None  # no piece for promptable students does without one
        if isinstance(self.teacher, Precomputed):
            theirs: Widths = {EMBEDDING: self.teacher.channels()}
        else:
            theirs = widths(self.teacher.network, self.theirs)
        self._make_heads(widths(student, self.ours), theirs, 0)

    @classmethod
    def mixing(cls, recipe: Recipe) -> Mixing | None:
        """Objects of one image pasted into another."""
        return Paste(recipe.prompts.paste) if recipe.prompts.paste else None

    def loss(
        self, module: Any, student: Student, images: Tensor, labels: Tensor, step: int, views: Tensor | None = None
    ) -> Tensor:
        """The mean over the rounds; each round is held to the same objects. On top, what the teacher has to say."""
        rng = np.random.default_rng((self.recipe.seed, step, self.fabric.global_rank))
        tutor = None
        if isinstance(self.teacher, PromptTeacher):
            with self.fabric.autocast():
                tutor = Tutor(self.teacher, images, self.theirs)
        with kept(student, self.ours, images) as maps:
            truth, made = self._ask(module, student, images, labels, rng, tutor=tutor)
        known = (labels != VOID).repeat_interleave(self.recipe.prompts.objects, 0)
        large = [student.enlarge(masks.float(), truth.shape[-2:]) for masks, _ in made]  # type: ignore[operator]
        parts = [
            self.recipe.prompts.loss(masks, quality.float(), truth, known)
            for masks, (_, quality) in zip(large, made, strict=True)
        ]
        total = torch.stack(parts).mean()
        if self.teacher is None:
            return total
        self.said["loss_labels"] = total.detach()
        if staged(student, self.ours):
            with self.fabric.autocast():
                maps |= stages(student, self.ours, module.forward_features(student.normalise(images)))
        nothing = images.new_zeros(0)
        ours = View(nothing, maps)
        if isinstance(self.teacher, Precomputed):
            size = maps[self.ours[0]].shape[-2:]
            theirs = View(nothing, {EMBEDDING: self.teacher.maps(images.shape[-2:], size, views)})
        else:
            assert tutor is not None
            theirs = View(nothing, tutor.maps)
        rounds = list(zip(large, tutor.answers, strict=True)) if tutor is not None and tutor.answers else []
        return total + self.taught(Lesson(ours, theirs, labels, images, _once, 1, self.seed(step), rounds))

    def look(self, student: Student, images: Tensor, labels: Tensor) -> None:
        """The first two rounds, always the same."""
        self._ask(student, student, images, labels, np.random.default_rng(self.recipe.seed), rounds=2)

    def _ask(
        self,
        module: Any,
        student: Student,
        images: Tensor,
        labels: Tensor,
        rng: np.random.Generator,
        rounds: int = 0,
        tutor: Tutor | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The objects asked for, `[P, H, W]` of 0 and 1, and what each round answered."""
        prompts = self.recipe.prompts
        wanted = targets(labels.cpu().numpy(), prompts.objects, rng, prompts.merge, prompts.min_pixels)
        points, signs = begin(wanted, prompts.box, rng)
        known = np.repeat(labels.cpu().numpy() != VOID, prompts.objects, 0)
        follow: Correct = partial(correct, wanted, known)
        if tutor is not None and self.in_loop:
            anywhere(wanted, points, signs, rng)
        given = [torch.from_numpy(array).to(images.device) for array in (points, signs)]
        with self.fabric.autocast():  # on one device Fabric does not wrap methods other than forward
            if tutor is not None and self.in_loop:
                tutor.ask(*given)
                follow = tutor.correct
            made = module.training_masks(student.normalise(images), *given, rounds or prompts.rounds, follow)
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


class Tutor:
    """A teacher who is asked what the student is asked, round by round, and corrects it.

    answers: the mask logits `[P, 1, H, W]` of each round so far, at the size of the images.
    """

    def __init__(self, teacher: PromptTeacher, images: Tensor, keys: Sequence[Key]) -> None:
        self.teacher, self.size = teacher, images.shape[-2:]
        self.features, self.maps = teacher.look(images, keys)
        self.answers: list[Tensor] = []
        self._before: Tensor | None = None

    def ask(self, points: Tensor, labels: Tensor) -> None:
        """One more round."""
        masks, self._before = self.teacher.answer(self.features, points, labels, self._before)
        self.answers.append(masks[..., : self.size[0], : self.size[1]])

    def correct(self, masks: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One more click for each prompt, where the student's mask differs most from the teacher's."""
        wanted = (self.answers[-1][:, 0] > 0).float().cpu().numpy()
        points, labels = correct(wanted, np.ones_like(wanted, np.bool_), masks, points, labels)
        self.ask(points, labels)
        return points, labels


def _once(images: Tensor) -> View:
    raise TypeError("a promptable student is asked once in a step")


def anywhere(wanted: NDArray[np.float32], points: NDArray[Any], labels: NDArray[Any], rng: np.random.Generator) -> None:
    """A click on any pixel where there is no object to click on."""
    height, width = wanted.shape[1:]
    for index in np.flatnonzero(~wanted.any((1, 2))):
        points[index, 0] = rng.integers(width) + 0.5, rng.integers(height) + 0.5
        labels[index, 0] = POSITIVE


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


def correct(
    wanted: NDArray[np.float32], known: NDArray[np.bool_], masks: Tensor, points: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One more click for each object, where the mask is most wrong of what is known; none where it is right."""
    more = np.zeros((len(wanted), 3), np.float32)
    made = (masks[:, 0] > 0).cpu().numpy() & known
    for index, (truth, mask) in enumerate(zip(wanted > 0, made, strict=True)):
        more[index] = next_click(truth, mask) if (truth != mask).any() else (0, 0, PADDING)
    added = torch.from_numpy(more).to(points.device)
    return torch.cat([points, added[:, None, :2]], 1), torch.cat([labels, added[:, 2:]], 1)


TASKS.add("promptable", PromptTask)
