"""Masked generative distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.schema import STRICT
from edgeseg.students.maps import Key, Widths
from edgeseg.students.student import upsample
from edgeseg.train.teaching.lesson import Lesson, Piece, drawn, projection


@dataclass(frozen=True)
class Masked(Piece):
    """The teacher's whole map made out of a part of the student's (Yang et al., arXiv 2205.01529: "MGD").

    With f the student's map, g the teacher's, P a 1x1 convolution, M [B, 1, h, w] 0 with probability `hidden` and else 1,
    G a 3x3 convolution, ReLU and another, both learned along:

        mean over images, channels and cells of (G(M P(f)) - g)^2

    The authors' code sums over channels and cells, with 2e-5 and hidden = 0.75 for segmentation: a mean keeps its weight when maps
    are larger. It projects where widths differ and expects equal sizes; here the student's map is enlarged to the teacher's.

    ours, theirs: the maps, stages or names of modules.
    """

    __pydantic_config__ = STRICT
    type: Literal["masked"] = "masked"
    weight: float = 1.0
    ours: Key = -1
    theirs: Key = -1
    hidden: float = 0.75

    def __post_init__(self) -> None:
        self.share("hidden")

    def keys(self) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """One of each."""
        return (self.ours,), (self.theirs,)

    def head(self, ours: Widths, theirs: Widths, classes: int) -> nn.Module:
        """P and G."""
        return Generation(ours[self.ours], theirs[self.theirs])

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        wanted = lesson.taught.maps[self.theirs]
        batch, _, height, width = wanted.shape
        shown = (drawn(wanted, (batch, 1, height, width), lesson.seed) >= self.hidden).to(wanted.dtype)
        return F.mse_loss(head(lesson.ours.maps[self.ours], shown), wanted)


class Generation(nn.Module):
    """A map out of what is shown of another."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.align = projection(inner, outer)
        self.generate = nn.Sequential(
            nn.Conv2d(outer, outer, 3, padding=1), nn.ReLU(), nn.Conv2d(outer, outer, 3, padding=1)
        )

    def forward(self, x: Tensor, shown: Tensor) -> Tensor:
        """`x [B, inner, h, w]` and `shown [B, 1, H, W]` of 0 and 1 to `[B, outer, H, W]`."""
        result: Tensor = self.generate(upsample(self.align(x), shown.shape[-2:]) * shown)
        return result
