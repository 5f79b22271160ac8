"""A training recipe: frozen dataclasses whose type is the choice, read from YAML and changed by `--set a.b=c`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from edgeseg import schema
from edgeseg.data.augment import Augment
from edgeseg.errors import EdgesegError
from edgeseg.losses import CrossEntropy, CrossEntropyLovasz, MaskLoss, Ohem
from edgeseg.schema import STRICT
from edgeseg.train.teaching import EMA, Teaching


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum; weight decay spares norms and biases."""

    __pydantic_config__ = STRICT
    type: Literal["sgd"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, which spares norms and biases."""

    __pydantic_config__ = STRICT
    type: Literal["adamw"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Poly:
    """(1 - t)^power of the base rate, t from 0 to 1 over the run."""

    __pydantic_config__ = STRICT
    type: Literal["poly"] = "poly"
    power: float = 0.9

    def __call__(self, t: float) -> float:
        """The factor at `t`."""
        return float((1 - t) ** self.power)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to `final`."""

    __pydantic_config__ = STRICT
    type: Literal["cosine"] = "cosine"
    final: float = 0.0

    def __call__(self, t: float) -> float:
        """The factor at `t`."""
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * t))


@dataclass(frozen=True)
class Prompts:
    """How a promptable student is asked while it learns; semantic students do not read it.

    objects:    objects per image and step.
    rounds:     how often an object is asked for in a step: first by a click or a box, then by clicks where the mask is wrong.
    box:        share of the objects that are first asked for by a box, its corners a little off.
    merge:      share of the objects that are joined with one they touch, so that a click on the shirt can mean the person.
    paste:      share of the images that get objects of another image of the batch pasted in.
    min_pixels: smaller objects are left out, here and when the result is judged.
    clicks:     clicks per object when the result is judged during training.
    """

    __pydantic_config__ = STRICT
    objects: int = 4
    rounds: int = 3
    box: float = 0.3
    merge: float = 0.2
    paste: float = 0.5
    min_pixels: int = 100
    clicks: int = 5
    loss: MaskLoss = field(default_factory=MaskLoss)

    def __post_init__(self) -> None:
        for name in ("objects", "rounds", "min_pixels", "clicks"):
            if getattr(self, name) < 1:
                raise EdgesegError(f"recipe: prompts.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("box", "merge", "paste"):
            if not 0 <= getattr(self, name) <= 1:
                raise EdgesegError(f"recipe: prompts.{name} is a share within 0..1, got {getattr(self, name)}")


Optimizer: TypeAlias = Annotated[Sgd | AdamW, Field(discriminator="type")]
Schedule: TypeAlias = Annotated[Poly | Cosine, Field(discriminator="type")]
LossChoice: TypeAlias = Annotated[CrossEntropy | Ohem | CrossEntropyLovasz, Field(discriminator="type")]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, given a student, the data and the number of threads.

    batch:         images per step, over all processes.
    accumulate:    parts that a step's images are taken in one after the other, where memory is short: their gradients are added up.
                   BatchNorm and losses that look for the hardest pixels see a part at a time.
    student:       options the student is built with, e.g. `--set student.masks=3`.
    prompts:       how a promptable student is asked; `loss`, `class_weights` and `auxiliary` are the semantic students'.
    size:          (height, width) of the training crops; null takes the size of the first image.
    class_weights: `median_frequency` (Eigen & Fergus, arXiv 1411.4734) or none.
    ema:           decay of the averaged weights that are evaluated and kept, warmed up; null keeps the raw weights.
    clip:          largest norm of the gradient; null for no limit.
    split:         the split to learn from; null takes the data set's own choice, which leaves a block out for `select`.
    evaluate:      epochs between evaluations on the data set's selection split.
    norm_batches:  training batches from which the statistics of BatchNorm are taken anew before each evaluation: averaged
                   weights never saw any, and slow running means lag far behind in a short run; 0 keeps the running means.
    checkpoint:    steps between checkpoints inside an epoch; one is written after each epoch in any case.
    deterministic: on a GPU, algorithms that give the same bits each time, or an error where there are none; a CPU does so anyway.
    teaching:      a teacher and what is learned from it; null for the labels alone.
    """

    __pydantic_config__ = STRICT
    epochs: int = 100
    batch: int = 8
    accumulate: int = 1
    size: tuple[int, int] | None = None
    student: dict[str, Any] = field(default_factory=dict)
    prompts: Prompts = field(default_factory=Prompts)
    optimizer: Optimizer = field(default_factory=Sgd)
    schedule: Schedule = field(default_factory=Poly)
    warmup_epochs: float = 1.0
    loss: LossChoice = field(default_factory=Ohem)
    class_weights: Literal["none", "median_frequency"] = "none"
    auxiliary: float = 0.4
    ema: float | None = 0.999
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    clip: float | None = 5.0
    augment: Augment = field(default_factory=Augment)
    split: str | None = None
    evaluate: int = 5
    norm_batches: int = 16
    checkpoint: int = 200
    seed: int = 0
    deterministic: bool = False
    workers: int = 1
    teaching: Teaching | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "evaluate", "checkpoint"):
            if getattr(self, name) < 1:
                raise EdgesegError(f"recipe: {name} must be at least 1, got {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise EdgesegError(f"recipe: a batch of {self.batch} images does not divide into {self.accumulate} parts")
        if self.norm_batches < 0:
            raise EdgesegError(f"recipe: norm_batches is a number of batches or 0, got {self.norm_batches}")
        if self.size is not None and min(self.size) < 1:
            raise EdgesegError(f"recipe: size is (height, width) in pixels, got {self.size}")
        if self.augment.crop is not None:
            raise EdgesegError("recipe: the crop is the size that is learned at; give size=[height, width]")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise EdgesegError(f"recipe: ema is a decay in [0, 1) or null, got {self.ema}")
        if self.ema is None and self.teaching is not None and self.teaching.teacher == EMA:
            raise EdgesegError("recipe: the averaged weights teach, but ema is null; give it a decay, e.g. ema=0.999")

    def augment_for(self, size: tuple[int, ...], task: str = "semantic") -> Augment:
        """The augmentation, cropping to (height, width)."""
        whole = self.augment.whole if self.augment.whole is not None else 0.5 * (task == "promptable")
        return dataclasses.replace(self.augment, crop=(size[0], size[1]), whole=whole)


def read_recipe(file: Path | None, changes: Iterable[str]) -> Recipe:
    """The default recipe, with what a YAML file says, with `a.b=c` changes on top.

    Raises:
        EdgesegError: an unknown key, a value that does not fit, or a file that is no YAML mapping.
    """
    import yaml

    document: Any = {}
    if file is not None:
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise EdgesegError(f"cannot read recipe {file}: {' '.join(str(error).split())}") from error
        if not isinstance(document, dict):
            raise EdgesegError(f"recipe {file} is not a mapping of names to values")
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise EdgesegError(f"--set {change!r} is not of the form name=value, e.g. optimizer.lr=0.02")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise EdgesegError(f"--set {change!r}: {text!r} is no YAML value") from error
        _put(document, name.split("."), value, change)
    return schema.parse(Recipe, _complete(document), "recipe")


def _put(document: dict[str, Any], path: list[str], value: Any, change: str) -> None:
    for part in path[:-1]:
        document = document.setdefault(part, {})
        if not isinstance(document, dict):
            raise EdgesegError(f"--set {change!r}: {part} is a value, not a group")
    document[path[-1]] = value


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    """Name the default's type where a group was changed without naming one: `optimizer.lr=0.02` means the default's lr."""
    completed = dict(document)
    for entry in dataclasses.fields(Recipe):
        group = completed.get(entry.name)
        if isinstance(group, dict) and callable(entry.default_factory):
            default = entry.default_factory()
            if hasattr(default, "type"):
                completed[entry.name] = {"type": default.type, **group}
    return completed
