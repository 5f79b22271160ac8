"""Pieces that compare the logits of the two, `[B, K, h, w]`, at the student's own resolution.

p(z) is the softmax over classes, q(z) that over positions, s the student's logits, t the teacher's, T a temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.schema import STRICT
from edgeseg.train.teaching.lesson import Lesson, Piece


@dataclass(frozen=True)
class Kd(Piece):
    """Every pixel's classes as the teacher sees them: T^2 mean over pixels of KL(p(t/T) || p(s/T)) (Hinton et al., arXiv 1503.02531)."""

    __pydantic_config__ = STRICT
    type: Literal["kd"] = "kd"
    weight: float = 1.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        self.positive("temperature")

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        return self.temperature**2 * divergence(lesson.ours.logits, lesson.taught.logits, self.temperature, (1,)).mean()


@dataclass(frozen=True)
class Cwd(Piece):
    """Where in the picture each class is: T^2 mean over images and classes of KL(q(t/T) || q(s/T)) (Shu et al., arXiv 2011.13256)."""

    __pydantic_config__ = STRICT
    type: Literal["cwd"] = "cwd"
    weight: float = 3.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        self.positive("temperature")

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        return (
            self.temperature**2 * divergence(lesson.ours.logits, lesson.taught.logits, self.temperature, (2, 3)).mean()
        )


@dataclass(frozen=True)
class Bpkd(Piece):
    """Edges and bodies apart (Liu et al., arXiv 2306.08075). With e [B, K, h, w] the share of a cell near an edge of a class:

        edge: sum over classes and cells of e KL(p(e t / T) || p(e s / T)) / sum of e
        body: T^2 mean over images and classes of KL(q((1 - e) t / T) || q((1 - e) s / T))

    The authors' repository has no training code; the weights are those of a published re-implementation for medical volumes, and
    their weight alpha of each class is 1 here.

    An image without labels is all body.

    edge, body: weights of the two.
    width:      an edge reaches so many pixels to both sides.
    """

    __pydantic_config__ = STRICT
    type: Literal["bpkd"] = "bpkd"
    weight: float = 1.0
    edge: float = 50.0
    body: float = 20.0
    temperature: float = 1.0
    width: int = 3

    def __post_init__(self) -> None:
        self.positive("temperature", "width")

    def __call__(self, lesson: Lesson, head: Any = None) -> Tensor:
        """The loss, without its weight."""
        student, teacher = lesson.ours.logits, lesson.taught.logits
        near = edges(lesson.labels, student.shape[1], self.width, (student.shape[2], student.shape[3])).to(
            student.dtype
        )
        apart = divergence(near * student, near * teacher, self.temperature, (1,))
        edge = (near * apart[:, None]).sum() / near.sum().clamp_min(1)
        body = divergence((1 - near) * student, (1 - near) * teacher, self.temperature, (2, 3)).mean()
        return self.edge * edge + self.body * self.temperature**2 * body


def edges(labels: Tensor, classes: int, width: int, size: tuple[int, int]) -> Tensor:
    """The share of each cell of a `size` grid that is within `width` pixels of an edge of each class, `[B, K, h, w]`.

    Dilation minus erosion of each class's pixels; the border of the picture is no edge. Erosion leaves a pixel where all around it
    are of one label, whatever the class: two of the windows that dilation takes for each class.
    """
    member = labels[:, None] == torch.arange(classes, dtype=labels.dtype, device=labels.device)[:, None, None]
    alone = _around(labels, width, torch.maximum) == _around(labels, width, torch.minimum)
    return _shares(_around(member, width, torch.logical_or) & ~(member & alone[:, None]), size)


def _around(x: Tensor, width: int, joined: Callable[..., Tensor]) -> Tensor:
    """What a square around each place has, `joined`; one axis after the other. Of bytes this takes a fifth of pooling's time or less."""
    for axis in (-1, -2):
        before, x = x, x.clone()
        side = before.shape[axis]
        for step in range(1, min(width, side - 1) + 1):
            for to, of in ((step, 0), (0, step)):
                place = x.narrow(axis, to, side - step)
                joined(place, before.narrow(axis, of, side - step), out=place)
    return x


def _shares(member: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of each cell of a `size` grid is true; whole cells are counted in bytes, in a sixth of pooling's time."""
    down, across = (side // cells for side, cells in zip(member.shape[-2:], size, strict=True))
    if (size[0] * down, size[1] * across) != member.shape[-2:] or down > 255:
        return F.adaptive_avg_pool2d(member.float(), size)
    rows = member.unflatten(-1, (size[1], across)).unflatten(-3, (size[0], down)).sum(-3, dtype=torch.uint8)
    return rows.sum(-1, dtype=torch.float32) / (down * across)


def divergence(student: Tensor, teacher: Tensor, temperature: float, axes: tuple[int, ...]) -> Tensor:
    """KL(teacher || student) of softmaxes over some axes, which are summed away."""
    first, last = axes[0], axes[-1]
    ours, theirs = ((each / temperature).flatten(first, last).log_softmax(first) for each in (student, teacher))
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(first)
