"""What a student takes from a teacher: pieces of loss that compare the logits of the two and are added up by name.

Logits `[B, K, h, w]` float of both at the student's own resolution, labels `[B, H, W]` with 255 = void, result a scalar. p(z) is the
softmax over classes, q(z) that over positions, s the student's logits, t the teacher's, T a temperature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.registry import Registry
from edgeseg.schema import STRICT


@dataclass(frozen=True)
class Kd:
    """Every pixel's classes as the teacher sees them: T^2 mean over pixels of KL(p(t/T) || p(s/T)) (Hinton et al., arXiv 1503.02531)."""

    __pydantic_config__ = STRICT
    type: Literal["kd"] = "kd"
    weight: float = 1.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        _positive(self, "temperature")

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss, without its weight."""
        return self.temperature**2 * _divergence(student, teacher, self.temperature, (1,)).mean()


@dataclass(frozen=True)
class Cwd:
    """Where in the picture each class is: T^2 mean over images and classes of KL(q(t/T) || q(s/T)) (Shu et al., arXiv 2011.13256)."""

    __pydantic_config__ = STRICT
    type: Literal["cwd"] = "cwd"
    weight: float = 3.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        _positive(self, "temperature")

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss, without its weight."""
        return self.temperature**2 * _divergence(student, teacher, self.temperature, (2, 3)).mean()


@dataclass(frozen=True)
class Bpkd:
    """Edges and bodies apart (Liu et al., arXiv 2306.08075). With e [B, K, h, w] the share of a cell near an edge of a class:

        edge: sum over classes and cells of e KL(p(e t / T) || p(e s / T)) / sum of e
        body: T^2 mean over images and classes of KL(q((1 - e) t / T) || q((1 - e) s / T))

    The authors' repository has no training code; the weights are those of a published re-implementation for medical volumes, and
    their weight alpha of each class is 1 here.

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
        _positive(self, "temperature", "width")

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss, without its weight."""
        near = edges(labels, student.shape[1], self.width, (student.shape[2], student.shape[3])).to(student.dtype)
        apart = _divergence(near * student, near * teacher, self.temperature, (1,))
        edge = (near * apart[:, None]).sum() / near.sum().clamp_min(1)
        body = _divergence((1 - near) * student, (1 - near) * teacher, self.temperature, (2, 3)).mean()
        return self.edge * edge + self.body * self.temperature**2 * body


def edges(labels: Tensor, classes: int, width: int, size: tuple[int, int]) -> Tensor:
    """The share of each cell of a `size` grid that is within `width` pixels of an edge of each class, `[B, K, h, w]`.

    Dilation minus erosion of each class's pixels; the border of the picture is no edge.
    """
    member = F.one_hot(torch.where(labels == VOID, classes, labels.long()), classes + 1)[..., :classes]
    member = member.permute(0, 3, 1, 2).float()
    grown, shrunk = _largest(member, width), 1 - _largest(1 - member, width)
    return F.adaptive_avg_pool2d(grown - shrunk, size)


def _largest(x: Tensor, width: int) -> Tensor:
    """The largest value in a square around each place, one axis after the other."""
    side = 2 * width + 1
    return F.max_pool2d(F.max_pool2d(x, (1, side), 1, (0, width)), (side, 1), 1, (width, 0))


def _divergence(student: Tensor, teacher: Tensor, temperature: float, axes: tuple[int, ...]) -> Tensor:
    """KL(teacher || student) of softmaxes over some axes, which are summed away."""
    first, last = axes[0], axes[-1]
    ours, theirs = ((each / temperature).flatten(first, last).log_softmax(first) for each in (student, teacher))
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(first)


def _positive(piece: Any, *names: str) -> None:
    for name in names:
        if not getattr(piece, name) > 0:
            raise EdgesegError(f"{piece.type}: {name} must be above 0, got {getattr(piece, name)}")


AnyPiece: TypeAlias = Kd | Cwd | Bpkd
Piece: TypeAlias = Annotated[AnyPiece, Field(discriminator="type")]

PIECES: Registry[type[AnyPiece]] = Registry("distillation loss")
"""Name -> piece."""

for _piece in get_args(AnyPiece):
    PIECES.add(_piece.type, _piece)


@dataclass(frozen=True)
class Teaching:
    """Who teaches, and how.

    teacher: the folder of a run; `sha256` is that of its weights, so that a resumed run notices another.
    losses:  added, each times its weight, to the loss of the labels.
    classes: the teacher's class -> the data's, where the names differ; classes of the teacher that nobody names are left out.
    trust:   import the module that the teacher's run names.
    """

    __pydantic_config__ = STRICT
    teacher: str
    sha256: str
    losses: tuple[Piece, ...] = field(default_factory=lambda: (Cwd(),))
    classes: dict[str, str] = field(default_factory=dict)
    trust: bool = False

    def __post_init__(self) -> None:
        if not self.losses:
            raise EdgesegError(f"distillation without a loss teaches nothing; there is {', '.join(PIECES)}")
        if len({piece.type for piece in self.losses}) < len(self.losses):
            raise EdgesegError("a distillation loss is named twice; give each once, with its weight")
