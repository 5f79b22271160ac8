"""The contract of a promptable student: an image is looked at once, then asked about any number of objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeseg.errors import EdgesegError
from edgeseg.students.saliency import salient_point
from edgeseg.students.student import Student, check_rgb, upsample

NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT, PADDING, ABSENT = 0, 1, 2, 3, -1, -2
"""What a point's label says: background, object, a box's first and second corner, nothing (to make rows equally long, and seen
as an empty place, as in SAM), not there (what files of a fixed size are filled up with, and nobody sees)."""


@dataclass(frozen=True)
class Features:
    """What `encode` made of the images: tensors `[B, ...]` in an order of the student's own, and the size (height, width)."""

    maps: tuple[Tensor, ...]
    size: tuple[int, int]


class Promptable(Student):
    """A compact network that cuts out what a click or a box points at.

    A family sets the class attributes, builds its layers and answers three questions: `forward_features`, `embed` (all
    that depends on the image alone) and `low_masks` (all that depends on the prompt). Prompts inside are always points
    with labels: a box is its two corners.

    masks:   how many masks a prompt is answered with, each with an estimate of its quality.
    at_once: how many prompts `decode` answers together on a processor, where more would only leave its cache; null: all.
    embedding: the map that is learned from another's embedding of an image: a stage, or the name of a module asked once an image.
    absences: whether places of a prompt may be `ABSENT`: attention then looks past them, which costs a little.
    """

    task = "promptable"
    masks: int = 1
    at_once: int | None = None
    absences: bool = False
    embedding: int | str = -1

    def __init__(self) -> None:
        super().__init__(["background", "object"])

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """Normalised `image [B, 3, H, W]` of a legal size to the tensors `[B, ...]` that `low_masks` reads."""
        raise TypeError(f"{type(self).__name__} does not say how it looks at an image")

    def low_masks(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, int],
        points: Tensor,
        labels: Tensor,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits `[P, masks, h, w]` at the head's own resolution, and their estimated IoU `[P, masks]`.

        maps:   tensors `[P, ...]`, or `[1, ...]` for one image that all prompts are about.
        size:   (height, width) of the image that `points` are pixels of.
        points: `[P, N, 2]` x and y, corners of boxes included; `labels [P, N]` says what each is.
        before: the mask logits `[P, 1, h, w]` of the round before, for students that read them.
        """
        raise TypeError(f"{type(self).__name__} does not say how it answers a prompt")

    def enlarge(self, masks: Tensor, size: Sequence[int]) -> Tensor:
        """Low mask logits `[P, M, h, w]` to `[P, M, H, W]`."""
        return upsample(masks, size)

    def encode(self, image: Tensor) -> Features:
        """Look at normalised images `[B, 3, H, W]` once.

        Raises:
            EdgesegError: a size that does not line up; the message has the one that does.
        """
        self.check_size(image)
        return Features(self.embed(image), (image.shape[-2], image.shape[-1]))

    def decode(
        self,
        features: Features,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits `[P, masks, H, W]` at the images' size and their estimated IoU `[P, masks]`, for P prompts.

        points, labels: `[P, N, 2]` x and y in pixels of the image, `[P, N]` 1 for the object, 0 for the background,
                        -1 for a place that is empty.
        boxes:          `[P, 4]` x1, y1, x2, y2.
        With features of B images, P is a multiple of B and the prompts of an image follow each other.

        Raises:
            EdgesegError: no prompt, one outside the image, a box whose corners are swapped, shapes that do not fit.
        """
        check_prompts(features, points, labels, boxes)
        points, labels = corners(points, labels, boxes)
        maps, count = spread(features.maps, len(points)), len(points)
        step = self.at_once if self.at_once and points.device.type == "cpu" else count
        made = []
        for start in range(0, count, step):
            part = slice(start, start + step)
            seen = maps if len(maps[0]) == 1 else [each[part] for each in maps]
            earlier = None if before is None else before[part]
            masks, quality = self.low_masks(seen, features.size, points[part], labels[part], earlier)
            made.append((self.enlarge(masks, features.size), quality))
        return torch.cat([masks for masks, _ in made]), torch.cat([quality for _, quality in made])

    def training_masks(
        self, image: Tensor, points: Tensor, labels: Tensor, rounds: int, correct: Correct
    ) -> list[tuple[Tensor, Tensor]]:
        """Masks `[P, masks, h, w]` and qualities of `rounds` rounds; between them, `correct` adds clicks to the prompts.

        From the second round on the student is also given the best mask of the round before, without its gradient.
        """
        features = self.encode(image)
        maps = spread(features.maps, len(points))
        made: list[tuple[Tensor, Tensor]] = []
        before: Tensor | None = None
        for turn in range(rounds):
            made.append(self.low_masks(maps, features.size, points, labels, before))
            if turn + 1 < rounds:
                before = best_mask(*made[-1]).detach()
                points, labels = correct(self.enlarge(before, features.size), points, labels)
        return made

    def forward(self, image: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode and decode at once; a box is two points labelled 2 and 3."""
        features = self.encode(image)
        masks, quality = self.low_masks(spread(features.maps, len(points)), features.size, points, labels)
        return self.enlarge(masks, features.size), quality

    def probe(self, image: Tensor) -> Tensor:
        """The masks for one click in the middle of each image."""
        count, _, height, width = image.shape
        points = image.new_tensor([[[width / 2, height / 2]]]).expand(count, -1, -1)
        masks: Tensor = self(image, *corners(points, torch.ones(count, 1, device=image.device), None))[0]
        return masks

    @torch.inference_mode()
    def segment(
        self,
        image: NDArray[np.uint8],
        points: Sequence[tuple[float, float]] = (),
        labels: Sequence[int] | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> tuple[NDArray[np.uint8], float]:
        """The best mask `[H, W]` of 0 and 1 for one object in a uint8 RGB `image [H, W, 3]`, and its estimated IoU.

        The image is fitted into the size that the student learned at, as everywhere; where that is not known it is taken as it is.

        points: (x, y) in pixels; `labels` 1 for the object (the default), 0 for the background.

        Without any prompt, the click is `salient_point(image)`: the first mask a user sees before having pointed at anything.
        """
        check_rgb(image)
        if not len(points) and box is None:
            points = [salient_point(image)]
        prompt = prompt_tensors(points, labels, box)
        check_inside(image.shape[:2], *prompt)
        if self.trained_at is not None:
            from edgeseg.segment import StudentSegmenter

            fitted = StudentSegmenter(self, self.trained_at)
            asked = [None if part is None else part.numpy() for part in prompt]
            places, signs = (
                part if part is not None else np.zeros(empty)
                for part, empty in zip(asked[:2], ((1, 0, 2), (1, 0)), strict=True)
            )
            found = fitted.masks(fitted.begin(image), places, signs, asked[2])[0]
            return found, float(fitted.quality.max())
        normal = self.eval().prepare(image)
        features = Features(self.encode(normal).maps, (normal.shape[-2], normal.shape[-1]))
        given = tuple(None if part is None else part.to(normal) for part in prompt)
        masks, quality = self.decode(features, *given)
        mask = best_mask(masks, quality)[0, 0, : image.shape[0], : image.shape[1]] > 0
        result: NDArray[np.uint8] = mask.to(torch.uint8).cpu().numpy()
        return result, float(quality.max())


Correct: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(mask logits `[P, 1, H, W]`, points, labels) to the prompts of the next round."""


def best_mask(masks: Tensor, quality: Tensor) -> Tensor:
    """Of `masks [P, masks, h, w]` the one of the highest quality, `[P, 1, h, w]`."""
    if masks.shape[1] == 1:
        return masks
    best = quality.argmax(1)[:, None, None, None].expand(-1, 1, *masks.shape[-2:])
    return masks.gather(1, best)


def prompt_tensors(
    points: Sequence[tuple[float, float]],
    labels: Sequence[int] | None,
    box: tuple[float, float, float, float] | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """One object's prompt as `points [1, N, 2]`, `labels [1, N]` and `boxes [1, 4]`, each None where there is none."""
    if labels is not None and len(labels) != len(points):
        raise EdgesegError(f"{len(points)} points but {len(labels)} labels; give one label per point")
    signs = torch.tensor([list(labels) if labels is not None else [POSITIVE] * len(points)], dtype=torch.float32)
    places = torch.tensor([[list(map(float, point)) for point in points]])
    return (
        places if len(points) else None,
        signs if len(points) else None,
        torch.tensor([list(map(float, box))]) if box is not None else None,
    )


def check_prompts(features: Features, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> None:
    """Refuse prompts that do not fit each other, the images or the canvas."""
    if points is None and boxes is None:
        raise EdgesegError("no prompt: give points with labels, boxes, or both")
    if (points is None) != (labels is None):
        raise EdgesegError("points and labels belong together: give both or neither")
    counts = {len(given) for given in (points, labels, boxes) if given is not None}
    if len(counts) != 1 or 0 in counts:
        raise EdgesegError(f"points, labels and boxes must be for the same number of prompts, at least 1; got {counts}")
    if points is not None and labels is not None and not (points.ndim == 3 and points.shape == (*labels.shape, 2)):
        raise EdgesegError(f"points are [P, N, 2] and labels [P, N], got {list(points.shape)} and {list(labels.shape)}")
    if boxes is not None and boxes.shape[1:] != (4,):
        raise EdgesegError(f"boxes are [P, 4] as x1, y1, x2, y2, got {list(boxes.shape)}")
    images = len(features.maps[0])
    if next(iter(counts)) % images:
        raise EdgesegError(f"{next(iter(counts))} prompts do not divide among {images} images")
    check_inside(features.size, points, labels, boxes)


def check_inside(size: Sequence[int], points: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> None:
    """Refuse labels that mean nothing, points outside the image of `size` (height, width), and swapped boxes."""
    height, width = size
    if points is not None and labels is not None:
        if not ((labels >= PADDING) & (labels <= POSITIVE)).all():
            raise EdgesegError(
                f"labels are 1 (object), 0 (background) or -1 (empty), got {sorted(set(labels.flatten().tolist()))}"
            )
        if not (labels != PADDING).any(1).all() and boxes is None:
            raise EdgesegError("no prompt: every point of a prompt is marked as empty")
        place = points[labels != PADDING]
        out = ~((place >= 0) & (place <= place.new_tensor([width, height]))).all(1)
        if out.any():
            raise EdgesegError(
                f"point {place[out][0].tolist()} lies outside the image; x is 0 to {width} and y 0 to {height}"
            )
    if boxes is not None:
        for x1, y1, x2, y2 in boxes.tolist():
            if not (x1 < x2 and y1 < y2):
                raise EdgesegError(f"box {[x1, y1, x2, y2]} is not x1 < x2 and y1 < y2; swap its corners")
            if not (x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height):
                raise EdgesegError(
                    f"box {[x1, y1, x2, y2]} leaves the image; x is 0 to {width} and y 0 to {height}; clip it"
                )


def corners(points: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> tuple[Tensor, Tensor]:
    """All prompts as points `[P, N, 2]` with labels `[P, N]`: corners of boxes behind the clicks, one empty point without a box.

    The empty point is what SAM's prompt encoder appends where no box is (Kirillov et al., arXiv 2304.02643).
    """
    given = boxes if boxes is not None else points
    assert given is not None
    count = len(given)
    if boxes is not None:
        places, signs = boxes.reshape(count, 2, 2), given.new_tensor([TOP_LEFT, BOTTOM_RIGHT])
    else:
        places, signs = given.new_zeros(count, 1, 2), given.new_tensor([PADDING])
    signs = signs.expand(count, -1)
    if points is None or labels is None:
        return places, signs
    return torch.cat([points, places.to(points.dtype)], 1), torch.cat([labels.to(signs.dtype), signs], 1)


def spread(maps: Sequence[Tensor], prompts: int) -> tuple[Tensor, ...]:
    """Maps of B images for P prompts, P / B following each other per image; those of one image stay `[1, ...]`."""
    images = len(maps[0])
    if images in (1, prompts):
        return tuple(maps)
    return tuple(each.repeat_interleave(prompts // images, 0) for each in maps)
