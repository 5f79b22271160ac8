"""Pieces for promptable students: the embedding of an image, and the masks that prompts are answered with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.losses import dice_loss
from edgeseg.schema import STRICT
from edgeseg.students.maps import EMBEDDING, Key, Widths
from edgeseg.students.student import upsample
from edgeseg.train.teaching.lesson import Lesson, Piece, projection


@dataclass(frozen=True)
class Embedding(Piece):
    """What a promptable teacher makes of an image, whatever it is asked (RWKV-SAM, Yuan et al., arXiv 2406.19369, first stage).

    With e and g the embeddings of student and teacher, P a 1x1 convolution where widths differ, learned along:

        mean over images, channels and cells of (P(e) at g's size - g)^2

    The authors' code does that alone for 24 epochs, with SAM's embeddings stored beforehand and sizes that fit; here the masks of the
    labels are learned at the same time, from a teacher that looks along.

    ours, theirs: the maps: `embedding` is what a network takes for it, or a stage, or the name of a module.
    """

    __pydantic_config__ = STRICT
    type: Literal["embedding"] = "embedding"
    weight: float = 1.0
    ours: Key = EMBEDDING
    theirs: Key = EMBEDDING
    kind: ClassVar[Literal["semantic", "promptable"]] = "promptable"

    def keys(self) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """One of each."""
        return (self.ours,), (self.theirs,)

    def head(self, ours: Widths, theirs: Widths, classes: int) -> nn.Module:
        """P."""
        return projection(ours[self.ours], theirs[self.theirs])

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        wanted = lesson.taught.maps[self.theirs]
        return F.mse_loss(upsample(head(lesson.ours.maps[self.ours]), wanted.shape[-2:]), wanted)


@dataclass(frozen=True)
class Masks(Piece):
    """The teacher's mask for each prompt; between the rounds the student is corrected where it differs from that, not from the labels.

    EdgeSAM's prompt in the loop (Zhou et al., arXiv 2312.06660). With s the logits of one of the student's masks, t those of the
    teacher's best, p = sigmoid(s / T), q = sigmoid(t / T), for each prompt and round the least over the student's masks of

        T^2 mean over pixels of cross-entropy(p, q)  +  dice (1 - (2 sum p q + 1) / (sum p + sum q + 1))

    EdgeSAM has cross-entropy and dice with the teacher's mask cut at 0, and gives the teacher's mask alone as target; here q is soft,
    and the labels' own loss stays beside it where there are labels. Images without any are asked about by a click anywhere.

    dice: weight of the second.
    """

    __pydantic_config__ = STRICT
    type: Literal["masks"] = "masks"
    weight: float = 1.0
    dice: float = 1.0
    temperature: float = 1.0
    kind: ClassVar[Literal["semantic", "promptable"]] = "promptable"

    def __post_init__(self) -> None:
        self.positive("temperature")

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        return torch.stack([self._round(*each) for each in lesson.rounds]).mean()

    def _round(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of mask logits `[P, M, H, W]` and the teacher's `[P, 1, H, W]`."""
        scaled, wanted = ours / self.temperature, (theirs / self.temperature).sigmoid()
        entropy = F.binary_cross_entropy_with_logits(scaled, wanted.expand_as(scaled), reduction="none")
        each = self.temperature**2 * entropy.flatten(2).mean(2) + self.dice * dice_loss(scaled, wanted)
        return each.min(1).values.mean()
