"""What a student takes from a teacher: pieces of loss that are added up by name. A piece is one file and its name here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias, get_args

from pydantic import Field

from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.schema import STRICT
from edgeseg.students.maps import Key
from edgeseg.train.teaching.align import Align
from edgeseg.train.teaching.granularity import Mgd
from edgeseg.train.teaching.hardness import Hardness
from edgeseg.train.teaching.lesson import Lesson, Piece, View
from edgeseg.train.teaching.logits import Bpkd, Cwd, Kd
from edgeseg.train.teaching.masked import Masked
from edgeseg.train.teaching.prompted import Embedding, Masks
from edgeseg.train.teaching.resolution import Fst

__all__ = ["ALONE", "EMA", "PIECES", "AnyPiece", "Key", "Lesson", "Piece", "Teaching", "View"]

AnyPiece: TypeAlias = Kd | Cwd | Bpkd | Align | Masked | Mgd | Fst | Hardness | Embedding | Masks

PIECES: Registry[type[AnyPiece]] = Registry("distillation loss")
"""Name -> piece."""

for _piece in get_args(AnyPiece):
    PIECES.add(_piece.type, _piece)

EMA, ALONE = "ema", "none"
"""Teachers that are no network of their own: the student's averaged weights; nobody."""


@dataclass(frozen=True)
class Teaching:
    """Who teaches, and how.

    teacher: the folder of a run or of what one wrote down, a network from elsewhere (`edgeseg.students.sources`), `ema` for the
             student's own averaged weights (Tarvainen & Valpola: Mean teachers, arXiv 1703.01780), or `none` with pieces that need
             nobody.
    sha256:  of the teacher's weights, so that a resumed run notices another; empty where it has none of its own.
    losses:  added, each times its weight, to the loss of the labels.
    classes: the teacher's class -> the data's, where the names differ; classes of the teacher that nobody names are left out.
    trust:   import the module that the teacher's run names.
    weights: the file with the weights of a network from elsewhere that comes without.
    class_names: its classes in its order, where they are neither known nor the data's.
    unlabelled:       images that only the teacher says something about, a folder or a data set; null for none.
    unlabelled_batch: as many of them in a step, over all processes; null for as many as have labels.
    """

    __pydantic_config__ = STRICT
    teacher: str
    sha256: str
    losses: tuple[Annotated[AnyPiece, Field(discriminator="type")], ...] = field(default_factory=lambda: (Cwd(),))
    classes: dict[str, str] = field(default_factory=dict)
    trust: bool = False
    weights: str | None = None
    class_names: tuple[str, ...] = ()
    unlabelled: str | None = None
    unlabelled_batch: int | None = None

    def __post_init__(self) -> None:
        if not self.losses:
            raise EdgesegError(f"distillation without a loss teaches nothing; there is {', '.join(PIECES)}")
        if len({piece.type for piece in self.losses}) < len(self.losses):
            raise EdgesegError("a distillation loss is named twice; give each once, with its weight")
        if len(kinds := {piece.kind for piece in self.losses}) > 1:
            raise EdgesegError(
                f"{', '.join(piece.type for piece in self.losses)} are for {' and '.join(sorted(kinds))} students"
            )
        if self.teacher == ALONE and (asking := [piece.type for piece in self.losses if not piece.alone]):
            there = ", ".join(name for name in PIECES if PIECES[name].alone)
            raise EdgesegError(f"{', '.join(asking)} needs a teacher; without one there is {there}")
        if self.teacher == ALONE and self.unlabelled is not None:
            raise EdgesegError("images without labels teach nothing where nobody teaches; name a teacher, or ema")
        if self.unlabelled_batch is not None and self.unlabelled_batch < 1:
            raise EdgesegError(f"unlabelled_batch is a number of images in a step, got {self.unlabelled_batch}")

    @property
    def keys(self) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """The maps that the pieces compare, each once: the student's and the teacher's."""
        ours, theirs = zip(*(piece.keys() for piece in self.losses), strict=True)
        return tuple(dict.fromkeys(sum(ours, ()))), tuple(dict.fromkeys(sum(theirs, ())))
