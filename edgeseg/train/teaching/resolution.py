"""Feature similarity across resolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.schema import STRICT
from edgeseg.students.maps import Key, Widths
from edgeseg.train.teaching.lesson import Lesson, Piece, projection


@dataclass(frozen=True)
class Fst(Piece):
    """The student's map of a smaller picture made to be the teacher's of the whole one (AR-Seg, Hu et al., arXiv 2303.07224).

    With f the student's map of the picture at `scale`, g the teacher's at full size, P a 1x1 convolution where widths differ:

        mean over images, channels and cells of (P(f) enlarged to g's size, corners aligned, - g)^2

    In the authors' code the two networks are one design with one last layer, taken over and frozen, and the small picture alone is
    what the student learns from; here the labels' loss stays at full size and this is a second look, at the cost of a second pass.

    scale: sides of the small picture over those of the large, rounded to what the student takes.
    ours, theirs: the maps, stages or names of modules.
    """

    __pydantic_config__ = STRICT
    type: Literal["fst"] = "fst"
    weight: float = 1.0
    scale: float = 0.5
    ours: Key = -1
    theirs: Key = -1

    def __post_init__(self) -> None:
        if not 0 < self.scale < 1:
            raise EdgesegError(f"fst: scale is that of the smaller picture, between 0 and 1, got {self.scale}")

    def keys(self) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """One of each."""
        return (self.ours,), (self.theirs,)

    def head(self, ours: Widths, theirs: Widths, classes: int) -> nn.Module:
        """P."""
        return projection(ours[self.ours], theirs[self.theirs])

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        wanted = lesson.taught.maps[self.theirs]
        made = head(lesson.again(shrunk(lesson.images, self.scale, lesson.multiple)).maps[self.ours])
        return F.mse_loss(F.interpolate(made, wanted.shape[-2:], mode="bilinear", align_corners=True), wanted)


def shrunk(images: Tensor, scale: float, multiple: int) -> Tensor:
    """uint8 `images` at a fraction of their size, sides rounded to a multiple and at least one of it."""
    sides = [max(1, round(side * scale / multiple)) * multiple for side in images.shape[-2:]]
    small = F.interpolate(images.float(), sides, mode="bilinear", align_corners=False, antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)
