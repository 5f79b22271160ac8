"""Tokens and classes aligned together, through projection heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.schema import STRICT
from edgeseg.students.maps import Key, Widths
from edgeseg.students.student import upsample
from edgeseg.train.teaching.lesson import Lesson, Piece
from edgeseg.train.teaching.logits import divergence


@dataclass(frozen=True)
class Align(Piece):
    """A map of the student, token by token, made to be the teacher's and to say what the teacher says.

    With f the student's map, g the teacher's, t its logits, P and R 1x1 convolutions that are learned along, z = P(f) at g's size:

        token: mean over cells of 1 - cos(z, g)
        logit: T^2 mean over cells of KL(p(t / T) || p(R z / T))

    The regressor P is that of FitNets (Romero et al., arXiv 1412.6550), with the angle instead of the squared distance, which needs
    no weight for each teacher; R, a form of our own, keeps in the tokens what the teacher tells classes apart by.

    ours, theirs: the maps, stages or names of modules.
    """

    __pydantic_config__ = STRICT
    type: Literal["align"] = "align"
    weight: float = 1.0
    ours: Key = -1
    theirs: Key = -1
    token: float = 1.0
    logit: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        self.positive("temperature")

    def keys(self) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """One of each."""
        return (self.ours,), (self.theirs,)

    def head(self, ours: Widths, theirs: Widths, classes: int) -> nn.Module:
        """P and R."""
        return Projections(ours[self.ours], theirs[self.theirs], classes)

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        wanted = lesson.taught.maps[self.theirs]
        size = wanted.shape[-2:]
        tokens, logits = head(lesson.ours.maps[self.ours], size)
        token = (1 - F.cosine_similarity(tokens, wanted, dim=1)).mean()
        logit = divergence(logits, upsample(lesson.taught.logits, size), self.temperature, (1,)).mean()
        return self.token * token + self.logit * self.temperature**2 * logit


class Projections(nn.Module):
    """Tokens of the student at the teacher's width, and the classes that are read from them."""

    def __init__(self, inner: int, outer: int, classes: int) -> None:
        super().__init__()
        self.token = nn.Conv2d(inner, outer, 1)
        self.read = nn.Conv2d(outer, classes, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`x [B, inner, h, w]` to tokens `[B, outer, *size]` and logits `[B, classes, *size]`."""
        tokens = upsample(self.token(x), size)
        return tokens, self.read(tokens)
