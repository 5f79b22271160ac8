"""Ask a run or an artifact for objects in a photo of any size: the photo is fitted into what the network takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError
from edgeseg.runtimes import PromptSession, pixels
from edgeseg.students import Features, Promptable, Student
from edgeseg.students.promptable import BOTTOM_RIGHT, PADDING, TOP_LEFT
from edgeseg.students.student import check_rgb

CHUNK = 16
"""Prompts that are answered at once: enough to keep a processor busy, few enough for its memory."""


class Segmenter(Protocol):
    """Something that looks at an image once and then cuts out objects."""

    def begin(self, image: NDArray[np.uint8]) -> Any:
        """Look at RGB `image [H, W, 3]`."""

    def masks(
        self, seen: Any, points: NDArray[Any], labels: NDArray[Any], boxes: NDArray[Any] | None
    ) -> NDArray[np.uint8]:
        """The best mask `[P, H, W]` of 0 and 1 for each prompt, `points [P, N, 2]`, `labels [P, N]`, `boxes [P, 4]`."""


class _Fitted:
    """What both kinds share: a photo is scaled to fit (height, width), at the top left of a canvas of the mean colour.

    Scaling both ways alike keeps shapes as they are; the student and its artifacts see the same pixels.
    """

    def __init__(self, size: tuple[int, int], mean: Sequence[float]) -> None:
        self.size = size
        self._colour = np.round(255 * np.asarray(mean)).astype(np.uint8)

    def begin(self, image: NDArray[np.uint8]) -> tuple[Any, tuple[int, int]]:
        """What `encode` made of the fitted image, and the image's own size."""
        import cv2

        check_rgb(image)
        height, width = image.shape[:2]
        rows, columns = self._inner((height, width))
        method = cv2.INTER_AREA if rows < height else cv2.INTER_LINEAR
        canvas = np.empty((*self.size, 3), np.uint8)
        canvas[:] = self._colour
        canvas[:rows, :columns] = (
            image if (rows, columns) == (height, width) else cv2.resize(image, (columns, rows), interpolation=method)
        )
        return self.encode(canvas), (height, width)

    def masks(
        self,
        seen: tuple[Any, tuple[int, int]],
        points: NDArray[Any],
        labels: NDArray[Any],
        boxes: NDArray[Any] | None = None,
    ) -> NDArray[np.uint8]:
        """The best masks `[P, H, W]` at the photo's own size."""
        maps, (height, width) = seen
        places, signs = _places(points, labels, boxes)
        rows, columns = self._inner((height, width))
        places = places * np.array([columns / width, rows / height], np.float32)
        made = [
            self.answer(maps, places[i : i + CHUNK], signs[i : i + CHUNK])[:, :rows, :columns]
            for i in range(0, len(places), CHUNK)
        ]
        return np.stack([_restore(mask, (height, width)) for part in made for mask in part])

    def _inner(self, photo: tuple[int, int]) -> tuple[int, int]:
        scale = min(self.size[0] / photo[0], self.size[1] / photo[1])
        return max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale))

    def encode(self, canvas: NDArray[np.uint8]) -> Any:
        """The maps of a canvas of exactly `size`."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes")

    def answer(self, maps: Any, points: NDArray[np.float32], labels: NDArray[np.float32]) -> NDArray[Any]:
        """The best masks `[P, *size]`: logits, or 0 and 1 as uint8."""
        raise TypeError(f"{type(self).__name__} does not say how it answers")


class StudentSegmenter(_Fitted):
    """A student at a size (height, width). `quality [P, masks]`: the IoU that it estimated of what it answered last."""

    quality: NDArray[np.float32]

    def __init__(self, student: Promptable, size: tuple[int, int]) -> None:
        super().__init__(size, student.mean)
        self._student = student

    @torch.inference_mode()
    def encode(self, canvas: NDArray[np.uint8]) -> Features:
        """The student's features."""
        return self._student.encode(self._student.eval().prepare(canvas))

    @torch.inference_mode()
    def answer(self, maps: Features, points: NDArray[np.float32], labels: NDArray[np.float32]) -> NDArray[Any]:
        """Logits of the best masks."""
        device = maps.maps[0].device
        given = torch.from_numpy(points).to(device), torch.from_numpy(labels).to(device)
        low, quality = self._student.low_masks(maps.maps, maps.size, *given)
        masks = self._student.enlarge(low, maps.size).float().cpu().numpy()
        self.quality = quality.float().cpu().numpy()
        best: NDArray[Any] = masks[np.arange(len(masks)), self.quality.argmax(1)]
        return best


class ArtifactSegmenter(_Fitted):
    """An artifact, at the size it was exported for."""

    def __init__(self, artifact: Artifact) -> None:
        session = artifact.session
        if not isinstance(session, PromptSession):
            raise EdgesegError(f"{artifact.folder} is a semantic artifact: it takes no prompts; use predict")
        super().__init__(artifact.size, artifact.manifest.student.mean)
        self._session, self._spec = session, artifact.manifest.input

    def encode(self, canvas: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """The encoder's maps."""
        return self._session.encode(pixels.prepare(canvas, self._spec))

    def answer(
        self, maps: list[NDArray[Any]], points: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> NDArray[Any]:
        """Logits of the best masks, or the masks where the artifact makes them."""
        masks, quality = self._session.decode(maps, points, labels)
        best: NDArray[Any] = masks if masks.ndim == 3 else masks[np.arange(len(masks)), quality.argmax(1)]
        return best


def segmenter(loaded: Student | Artifact, size: tuple[int, int] | None) -> _Fitted:
    """What asks a run, at the `size` it was trained at, or an artifact, at its own."""
    if isinstance(loaded, Artifact):
        return ArtifactSegmenter(loaded)
    if not isinstance(loaded, Promptable):
        raise EdgesegError(f"{loaded.name} is semantic: it takes no prompts; use predict")
    if size is None:
        raise EdgesegError(f"{loaded.name} does not say at which size it was trained; save it with one")
    return StudentSegmenter(loaded, size)


def _places(
    points: NDArray[Any], labels: NDArray[Any], boxes: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prompts as points alone: a box is its corners, and where none is, an empty place."""
    count = len(points)
    last = np.zeros((count, 1, 2)) if boxes is None else np.reshape(boxes, (count, 2, 2))
    signs = [PADDING] if boxes is None else [TOP_LEFT, BOTTOM_RIGHT]
    ends = np.broadcast_to(np.array(signs, np.float32), (count, len(signs)))
    places = np.concatenate([np.reshape(points, (count, -1, 2)), last], 1).astype(np.float32)
    return places, np.concatenate([np.reshape(labels, (count, -1)), ends], 1).astype(np.float32)


def _restore(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask at the photo's size: logits are interpolated and then decided, decided pixels are repeated."""
    import cv2

    if mask.dtype == np.uint8:
        return pixels.enlarge(mask, *size)
    logits = mask if mask.shape == size else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(logits > 0, np.uint8)
