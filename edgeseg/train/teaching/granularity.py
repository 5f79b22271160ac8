"""Multi-granularity distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from edgeseg.errors import EdgesegError
from edgeseg.schema import STRICT
from edgeseg.students.maps import Key
from edgeseg.train.teaching.lesson import Lesson, Piece


@dataclass(frozen=True)
class Mgd(Piece):
    """What the teacher sees in pixels, regions and the whole image, with or without labels (Qin et al., arXiv 2208.10169).

    With s and t the logits, f and g a map of each, A(x) [B, n n, n n] the cosines between the cells of x pooled to n x n:

        pixels:  mean over cells of CE(s, argmax t)
        region:  MSE(A(f), A(g))
        image:   mean over images of sum over classes |mean over cells of s - mean over cells of t|

    The authors' code has two teachers, a deep one for `image` and a wide one for `region`, with equal `pixels`; here one does all. It
    sums `image` over the batch too, with weights of 5e-4 to 2e-3 there and 50 to 100 for `region`. It also has CE(t, argmax s), which
    teaches nobody since the teachers are frozen, lets their running means drift, and mixes unlabelled images by CutMix: left out.

    pixels, region, image: weights of the three.
    cells: n.
    ours, theirs: the maps of `region`, stages or names of modules; their widths may differ.
    """

    __pydantic_config__ = STRICT
    type: Literal["mgd"] = "mgd"
    weight: float = 1.0
    pixels: float = 1.0
    region: float = 100.0
    image: float = 0.01
    cells: int = 7
    ours: Key = -1
    theirs: Key = -1

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise EdgesegError(f"mgd: cells must be at least 2, or there is nothing to compare, got {self.cells}")

    def keys(self) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """One of each."""
        return (self.ours,), (self.theirs,)

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        ours, theirs = lesson.ours, lesson.taught
        pixels = F.cross_entropy(ours.logits, theirs.logits.argmax(1))
        near = [relations(x, self.cells) for x in (ours.maps[self.ours], theirs.maps[self.theirs])]
        region = F.mse_loss(near[0], near[1])
        image = (ours.logits.mean((2, 3)) - theirs.logits.mean((2, 3))).abs().sum(1).mean()
        return self.pixels * pixels + self.region * region + self.image * image


def relations(x: Tensor, cells: int) -> Tensor:
    """Cosines `[B, n n, n n]` between the cells of `x [B, C, h, w]` averaged to n x n."""
    flat = F.normalize(F.adaptive_avg_pool2d(x, cells).flatten(2), dim=1)
    return flat.transpose(1, 2) @ flat
