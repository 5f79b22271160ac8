"""What a piece of distillation loss is given to compare: one step of the student and what a teacher makes of the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.students.maps import Key, Widths


@dataclass(frozen=True)
class View:
    """What a network makes of images: logits `[B, K, h, w]` float32 of the data's classes, and maps `[B, C, h, w]` float32.

    A promptable network has no logits of classes: there they are empty.
    """

    logits: Tensor
    maps: Mapping[Key, Tensor]


@dataclass(frozen=True)
class Lesson:
    """One step.

    ours, theirs: the student's view and the teacher's; without a teacher, `theirs` is None.
    labels: `[B, H, W]`, 255 where nothing is known: everywhere in an image without labels.
    again:  asks the student once more, about other uint8 images.
    images: uint8 `[B, 3, H, W]`, as both saw them.
    multiple: what the sides of an image that the student is asked about must be multiples of.
    seed:   of random choices; another for each step.
    rounds: for promptable students, mask logits `[P, M, H, W]` of each round and the teacher's best `[P, 1, H, W]` for the same
            prompts.
    """

    ours: View
    theirs: View | None
    labels: Tensor
    images: Tensor
    again: Callable[[Tensor], View]
    multiple: int = 1
    seed: int = 0
    rounds: Sequence[tuple[Tensor, Tensor]] = ()

    @property
    def taught(self) -> View:
        """The teacher's view, of a piece that cannot do without one."""
        assert self.theirs is not None  # a recipe without a teacher has no such piece
        return self.theirs


class Piece:
    """A piece of loss; a subclass is a frozen dataclass of its options.

    kind:  the data it is for.
    alone: True when it needs no teacher.
    """

    type: str
    weight: float
    kind: ClassVar[Literal["semantic", "promptable"]] = "semantic"
    alone: ClassVar[bool] = False

    def keys(self) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """The maps it compares: the student's and the teacher's."""
        return (), ()

    def head(self, ours: Widths, theirs: Widths, classes: int) -> nn.Module | None:
        """What it learns beside the student: trained, kept in checkpoints, gone from the finished run."""
        return None

    def positive(self, *names: str) -> None:
        """Refuse options that are not above 0."""
        for name in names:
            if not getattr(self, name) > 0:
                raise EdgesegError(f"{self.type}: {name} must be above 0, got {getattr(self, name)}")

    def share(self, *names: str) -> None:
        """Refuse options that are not within 0..1."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise EdgesegError(f"{self.type}: {name} is a share within 0..1, got {getattr(self, name)}")


def projection(inner: int, outer: int) -> nn.Module:
    """A 1x1 convolution from one width to another; nothing where they are the same."""
    return nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()


def drawn(like: Tensor, shape: tuple[int, ...], seed: int) -> Tensor:
    """Uniform numbers from a seed, the same on every device."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(like)
