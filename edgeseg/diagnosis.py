"""Why masks are wrong: the usual mistakes of exports, each tried on the student until it draws what the artifact draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from edgeseg.errors import EdgesegError
from edgeseg.metrics import confusion
from edgeseg.runtimes import pixels
from edgeseg.students import Promptable, Semantic, Student

CLEAR = 0.02
"""By how much more of the pixels a mistake must explain than the student as it is, before it is named."""


@dataclass(frozen=True)
class Mistake:
    """A way to be wrong.

    image:  what it does to an RGB image `[H, W, 3]` of 0..1 before it is normalised.
    normal: what it does to the normalised image `[1, 3, H, W]`.
    made:   what it does to the student's output.
    """

    words: str
    image: Callable[[NDArray[np.floating]], NDArray[np.floating]] = lambda image: image
    normal: Callable[[Tensor, Student], Tensor] = lambda normal, student: normal
    made: Callable[[Tensor], Tensor] = lambda made: made
    aligned: bool = False


MISTAKES = (
    Mistake("red and blue are exchanged", image=lambda image: image[..., ::-1]),
    Mistake("red and blue are exchanged after normalising", normal=lambda normal, _: normal.flip(1)),
    Mistake("pixels are not divided by 255", image=lambda image: image * 255),
    Mistake("pixels are divided by 255 twice", image=lambda image: image / 255),
    Mistake("the mean is not subtracted", normal=lambda normal, student: normal + _mean(student) / _std(student)),
    Mistake("pixels are not normalised", normal=lambda normal, student: normal * _std(student) + _mean(student)),
    Mistake("pixels are normalised twice", normal=lambda normal, student: (normal - _mean(student)) / _std(student)),
    Mistake("the image is transposed", normal=lambda normal, _: normal.mT),
    Mistake("masks are transposed", made=lambda made: made.mT),
    Mistake("height and width are exchanged inside", normal=lambda normal, _: normal.mT, made=lambda made: made.mT),
    Mistake("masks are enlarged with aligned corners", aligned=True),
)


def _mean(student: Student) -> Tensor:
    return torch.tensor(student.mean).view(1, 3, 1, 1)


def _std(student: Student) -> Tensor:
    return torch.tensor(student.std).view(1, 3, 1, 1)


Network = TypeVar("Network", bound=nn.Module)

Seen = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""An RGB image at the artifact's size, and the labels that the artifact gave for it (for a click, where it takes prompts)."""


@torch.inference_mode()
def diagnose(
    student: Student, seen: Sequence[Seen], same_label: float, prompt: tuple[Tensor, Tensor] | None = None
) -> str | None:
    """The mistake that explains what an artifact drew, in words; null where none of the usual ones does.

    same_label: the share of pixels that must then be as the artifact has them.
    prompt:     the points and labels that a promptable artifact was asked with.
    """
    student = student.eval()
    plain = _agreement(student, seen, Mistake(""), prompt)
    found = [(_agreement(student, seen, mistake, prompt), mistake.words) for mistake in MISTAKES]
    found += [(share, words) for share, words in _exchanged(student, seen)]
    best, words = max(found, default=(0.0, ""))
    return words if best >= same_label and best >= min(1.0, plain + CLEAR) else None


def _agreement(student: Student, seen: Sequence[Seen], mistake: Mistake, prompt: tuple[Tensor, Tensor] | None) -> float:
    """The share of pixels that the student, so mistaken, labels as the artifact did."""
    shares = []
    for image, labels in seen:
        normal = _normal(student, mistake.image(image.astype(np.float32) / 255))
        given = mistake.normal(normal, student)
        try:
            student.check_size(given)
        except EdgesegError:  # transposed, this image would not do
            return 0.0
        made = mistake.made(_made(student, given, prompt, mistake.aligned))
        if made.shape[-2:] != labels.shape:
            return 0.0
        shares.append(float(np.mean(pixels.labels(made.numpy()) == labels)))
    return float(np.mean(shares))


def _made(student: Student, given: Tensor, prompt: tuple[Tensor, Tensor] | None, aligned: bool) -> Tensor:
    size = (given.shape[2], given.shape[3])
    if isinstance(student, Promptable):
        assert prompt is not None
        low, quality = student.low_masks(student.embed(given), size, *prompt)
        best = low[:, [int(quality[0].argmax())]]
        return (
            F.interpolate(best, size, mode="bilinear", align_corners=True) if aligned else student.enlarge(best, size)
        )
    assert isinstance(student, Semantic)
    if not aligned:
        return student(given)
    return F.interpolate(student.low_logits(given), size, mode="bilinear", align_corners=True)


def _normal(student: Student, image: NDArray[np.floating]) -> Tensor:
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    return (planes - _mean(student)) / _std(student)


def _exchanged(student: Student, seen: Sequence[Seen]) -> Iterator[tuple[float, str]]:
    """Classes that took each other's place, and the share of pixels that this explains."""
    if isinstance(student, Promptable):
        return
    matrix = np.zeros((student.classes, student.classes), np.int64)
    for image, labels in seen:
        made = student(_normal(student, image.astype(np.float32) / 255)).numpy()
        matrix += confusion(pixels.labels(made), labels, student.classes)
    names, there = student.class_names, matrix.sum(1) > 0
    becomes = np.where(there, matrix.argmax(1), np.arange(student.classes))
    pairs = [(a, b) for a in range(student.classes) for b in range(a) if becomes[a] == b and becomes[b] == a]
    pairs += [(a, int(becomes[a])) for a in range(student.classes) if there[a] and not there[becomes[a]]]
    if pairs:
        share = matrix[np.arange(student.classes), becomes].sum() / matrix.sum()
        words = ", ".join(f"{names[a]} and {names[b]}" for a, b in pairs)
        yield float(share), f"the classes {words} are exchanged"


HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> what a value is rounded to."""


class Half(TorchDispatchMode):
    """Inside of it every value that an operator makes is rounded to `precision`; within an operator sums are in float32."""

    def __init__(self, precision: str = "fp16") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = HALVES[precision]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map(partial(_rounded, kind=self._kind), func(*args, **(kwargs or {})))


def halved(network: Network, precision: str = "fp16") -> Network:
    """A copy whose parameters and buffers are rounded to `precision`, still in float32."""
    made = copy.deepcopy(network)
    for tensor in (*made.parameters(), *made.buffers()):
        tensor.data = _rounded(tensor.data, HALVES[precision])
    return made


@torch.no_grad()  # a view within inference mode has no version counter, and a mode like ours sees that it is set
def rounded(network: Network, given: Tensor, precision: str | None) -> Tensor:
    """What a network makes of an input where all that its operators make is rounded to `precision`; null: nothing is."""
    with nullcontext() if precision is None else Half(precision):
        made: Tensor = network(given)
    return made


def _rounded(value: Any, kind: torch.dtype) -> Any:
    return value.to(kind).float() if isinstance(value, Tensor) and value.dtype == torch.float32 else value
