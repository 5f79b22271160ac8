"""The contract students keep; tests walk the registry and hold each one to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.kernels.label_map import CLASSES, label_map
from edgeseg.pictures import distinct_colours
from edgeseg.registry import Registry

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Claim:
    """A published number: not measured by edgeseg, and said so wherever it is shown.

    params, macs: the same as a number, where `what` is a count that edgeseg makes too and can be held against it.
    classes:      for how many classes that count is; null where it does not matter.
    """

    what: str
    value: str
    source: str
    params: int | None = None
    macs: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Stage:
    """One map of `forward_features`: its channels and its stride against the input."""

    channels: int
    stride: int


class Student(nn.Module):
    """What every student is, whatever it answers; a family is a `Semantic` or a `Promptable`.

    task:         `semantic` or `promptable`.
    options:      what it was built with besides its classes, as it stands in a run's card.
    multiple:     height and width must be multiples of this.
    auxiliary:    names of modules that only training uses; they count in no table and enter no artifact.
    feature_info: one `Stage` per map of `forward_features`, from fine to coarse.
    look:         what the images that it learned from look like (`edgeseg.data.look`); empty where that is not known.
    run:          the folder that it was loaded from; null for any other.
    trained_at:   (height, width) that it learned at; null where that is not known.
    """

    task: ClassVar[Literal["semantic", "promptable"]]
    licence: str = ""
    paper: str = ""
    multiple: int = 1
    auxiliary: tuple[str, ...] = ()
    feature_info: tuple[Stage, ...] = ()
    claims: tuple[Claim, ...] = ()
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    look: tuple[float, ...] = ()
    run: str | None = None
    trained_at: tuple[int, int] | None = None

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.options: dict[str, Any] = {}
        self.classes = len(class_names)
        self.class_names = tuple(class_names)
        self.palette = distinct_colours(self.classes)

    def describe(self, class_names: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> None:
        """Give the classes their names and colours."""
        if not len(class_names) == len(palette) == self.classes:
            raise EdgesegError(
                f"{self.name} has {self.classes} classes, got {len(class_names)} names and {len(palette)} colours"
            )
        self.class_names = tuple(class_names)
        self.palette = tuple(palette)

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """The stage maps `[B, C, h, w]` before the head, from fine to coarse, as in `feature_info`."""
        raise TypeError(f"{type(self).__name__} does not say what its features are")

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 RGB `image [H, W, 3]` of any size to its label map `[H, W]`."""
        raise EdgesegError(f"{self.name} is promptable: ask it with segment(image, points, labels, box)")

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """An official checkpoint with this student's key names; for families whose names are not the authors'."""
        return state

    def probe(self, image: Tensor) -> Tensor:
        """What the student makes of normalised `image [B, 3, H, W]`, with the simplest prompt if it needs one."""
        raise TypeError(f"{type(self).__name__} does not say how it is probed")

    @property
    def step(self) -> int:
        """What the sides of a file of free sizes are multiples of: as `multiple`, unless a family can say less of itself so."""
        return self.multiple

    def check_size(self, image: Tensor) -> None:
        """Refuse a size the network would not line up with, and name the size to pad to."""
        batch, height, width = image.shape[0], *image.shape[-2:]
        if not batch or not height or not width:
            raise EdgesegError(f"{self.name} needs at least one image with at least one pixel, got {list(image.shape)}")
        if height % self.multiple or width % self.multiple:
            fit = [-(-side // self.multiple) * self.multiple for side in (height, width)]
            raise EdgesegError(
                f"image {height}x{width} is not a multiple of {self.multiple} as {self.name} needs; pad to {fit[0]}x{fit[1]}"
            )

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 RGB `[B, 3, H, W]` to what the network takes; keeps the memory format."""
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=image.device).view(1, 3, 1, 1)
        shift = torch.tensor([m / s for m, s in zip(self.mean, self.std, strict=True)], device=image.device).view(
            1, 3, 1, 1
        )
        return image.float().mul_(scale).sub_(shift)

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """uint8 RGB `image [H, W, 3]` normalised and padded to a legal size with the mean colour: `[1, 3, H', W']`."""
        check_rgb(image)
        height, width = image.shape[:2]
        parameter = next(self.parameters())
        batch = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(parameter.device)
        normal = self.normalise(batch).to(parameter.dtype)
        return F.pad(normal, (0, -width % self.multiple, 0, -height % self.multiple))

    def deployed_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters without the training-only heads."""
        skip = tuple(f"{name}." for name in self.auxiliary)
        return [value for name, value in self.named_parameters() if not name.startswith(skip)]


class Semantic(Student):
    """A compact network that labels every pixel.

    A family sets the class attributes, builds its layers and answers three questions: `forward_features`,
    `low_logits` and, when it learns with an auxiliary head, `training_logits`.
    """

    task = "semantic"

    def __init__(self, classes: int) -> None:
        if not 2 <= classes <= CLASSES:
            raise EdgesegError(f"a segmentation student tells 2 to {CLASSES} classes apart, got {classes}")
        super().__init__([f"class_{index}" for index in range(classes)])

    def forward(self, image: Tensor) -> Tensor:
        """Normalised `image [B, 3, H, W]` to `logits [B, classes, H, W]`."""
        self.check_size(image)
        return upsample(self.low_logits(image), image.shape[-2:])

    def low_logits(self, image: Tensor) -> Tensor:
        """The logits `[B, classes, h, w]` at the head's own resolution, before the bilinear upsampling."""
        raise TypeError(f"{type(self).__name__} does not say what its logits are")

    def probe(self, image: Tensor) -> Tensor:
        """The logits."""
        return self(image)

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """Low-resolution logits to learn from: the main head first, then the auxiliary heads."""
        self.check_size(image)
        return [self.low_logits(image)]

    def training_outputs(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """`training_logits` and `forward_features` together; a family that makes both in one pass says how, and saves the second."""
        return self.training_logits(image), self.forward_features(image)

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 RGB `image [H, W, 3]` of any size to its label map `[H, W]`.

        A side that is no multiple of what the network needs is padded with the mean colour and cut off again.
        """
        padded = self.prepare(image)
        labels = label_map(self.eval().low_logits(padded), (padded.shape[-2], padded.shape[-1]))
        result: NDArray[np.uint8] = labels[0, : image.shape[0], : image.shape[1]].cpu().numpy()
        return result


def check_rgb(image: NDArray[np.uint8]) -> None:
    """Refuse what is not one RGB image with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise EdgesegError(f"an image is uint8 RGB [H, W, 3], got {image.dtype} {list(image.shape)}")


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """`x [B, C, h, w]` to `[B, C, H, W]`, bilinear, corners not aligned."""
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


STUDENTS: Registry[Callable[..., Student]] = Registry("student")
"""Name -> the function that builds it."""

Build = TypeVar("Build", bound=Callable[..., Student])


def register(build: Build) -> Build:
    """Make the function's name the student's name."""
    STUDENTS.add(build.__name__, build)
    return build


def create(name: str, *, classes: int | None = None, trust: bool = True, **options: Any) -> Any:
    """An untrained student: `create("ddrnet23_slim", classes=11)`, `create("rwkv_sam_tiny")`, `create("my.nets:tiny", classes=3)`.

    A semantic student is a `Semantic` and needs `classes`; a promptable one is a `Promptable` and has none to choose. A name
    with a colon is somebody else's network (`edgeseg.students.external`); with `trust=False` its module is not imported.

    Raises:
        EdgesegError: no student of that name (the message has the near ones), or `classes` missing or out of place.
    """
    semantic = ":" in name or "classes" in parameters(name)
    if semantic and classes is None:
        raise EdgesegError(f"{name} is a semantic student: say how many classes it tells apart, e.g. classes=19")
    if not semantic and classes is not None:
        raise EdgesegError(f"{name} is promptable: it separates what is asked for from the rest; leave classes out")
    if unknown := [key for key in options if key not in parameters(name)]:
        there = ", ".join(key for key in parameters(name) if key != "classes") or "none"
        raise EdgesegError(f"{name} has no option {unknown[0]!r}; there is: {there}")
    if ":" in name:
        from edgeseg.students.external import external

        student: Student = external(name, classes or 0, trust)
    else:
        student = STUDENTS[name](classes, **options) if semantic else STUDENTS[name](**options)
    student.name = name
    student.options = {key: value for key, value in options.items() if key != "auxiliary"}  # that one is for training
    return student


def parameters(name: str) -> list[str]:
    """What a student can be built with: `classes`, where it has them, and its options."""
    return ["classes"] if ":" in name else list(inspect.signature(STUDENTS[name]).parameters)
