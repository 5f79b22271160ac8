"""Pixels weighed by how hard they are, which a head of its own learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.metrics import VOID
from edgeseg.schema import STRICT
from edgeseg.students.maps import Key, Widths
from edgeseg.students.student import upsample
from edgeseg.train.teaching.lesson import Lesson, Piece


@dataclass(frozen=True)
class Hardness(Piece):
    """Cross-entropy of the labels, weighed by a learned hardness level of each pixel (hardness level learning; Menoly-xin's code, 7878d93).

    With c the cross-entropy of each pixel, h one channel read from a map of the student that gets no gradient from it, at full size:

        H = (sigmoid(h) + floor) / sum of the same over all pixels of the batch that have a label
        sum of H c, c alone with a gradient  -  ratio * sum of H c, H alone with a gradient

    It needs no teacher and comes on top of the recipe's own loss of the labels, which the authors' replaces. Their pixels without a
    label keep a share of H, so that pictures with many of them teach less: here they have none. Their head is another of the network's
    own kind; here a 3x3 convolution, norm, ReLU and a 1x1 one.

    floor: 0.1 and `ratio` 0.01 are the authors'.
    ours:  the map that is read, a stage or the name of a module.
    """

    __pydantic_config__ = STRICT
    type: Literal["hardness"] = "hardness"
    weight: float = 1.0
    floor: float = 0.1
    ratio: float = 0.01
    ours: Key = -1
    alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.positive("floor", "ratio")

    def keys(self) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """The student's."""
        return (self.ours,), ()

    def head(self, ours: Widths, theirs: Widths, classes: int) -> nn.Module:
        """What reads h."""
        width = ours[self.ours]
        return nn.Sequential(
            nn.Conv2d(width, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 1, 1)
        )

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        size = lesson.labels.shape[-2:]
        level = upsample(head(lesson.ours.maps[self.ours].detach()), size)[:, 0].sigmoid() + self.floor
        level = level * (lesson.labels != VOID)
        level = level / level.sum().clamp_min(1e-12)
        logits = upsample(lesson.ours.logits, size)
        loss = F.cross_entropy(logits, lesson.labels.long(), ignore_index=VOID, reduction="none")
        return (level.detach() * loss).sum() - self.ratio * (level * loss.detach()).sum()
