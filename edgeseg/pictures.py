"""Label maps as pictures that a person can judge."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.files import aside

Rgb = tuple[int, int, int]


def distinct_colours(count: int) -> tuple[Rgb, ...]:
    """`count` colours that are easy to tell apart: Pascal VOC's without the first, black, which is left to void."""

    def part(id: int, channel: int) -> int:  # every third bit of the id, the lowest one first
        return sum((id >> 3 * place + channel & 1) << 7 - place for place in range(3))

    return tuple((part(id, 0), part(id, 1), part(id, 2)) for id in range(1, count + 1))


def colourise(labels: NDArray[np.uint8], palette: Sequence[Rgb]) -> NDArray[np.uint8]:
    """Labels `[H, W]` to RGB `[H, W, 3]`; void is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def overlay(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], palette: Sequence[Rgb], strength: float = 0.55
) -> NDArray[np.uint8]:
    """The image with its labels laid over it; void pixels stay as they were."""
    import cv2

    mixed = cv2.addWeighted(image, 1 - strength, colourise(labels, palette), strength, 0)
    result: NDArray[np.uint8] = np.where((labels == 255)[..., None], image, mixed).astype(np.uint8)
    return result


def grid(rows: Sequence[Sequence[NDArray[np.uint8]]], width: int = 320) -> NDArray[np.uint8]:
    """Pictures in rows, each scaled to `width` and the height of its row's first."""
    import cv2

    lines = []
    for row in rows:
        height = round(row[0].shape[0] * width / row[0].shape[1])
        lines.append(
            np.concatenate([cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA) for part in row], axis=1)
        )
    return np.concatenate(lines, axis=0)


def save_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write RGB `[H, W, 3]` or grey `[H, W]` as PNG or JPEG by the name's ending, whole or not at all."""
    from PIL import Image

    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}[path.suffix.lower()]
    with aside(path) as part:
        if kind == "JPEG":
            part.write_bytes(as_jpeg(image))
        else:
            Image.fromarray(image).save(part, format=kind)


def as_jpeg(image: NDArray[np.uint8]) -> bytes:
    """RGB `[H, W, 3]` or grey `[H, W]` as the bytes of a JPEG: the same for the same image."""
    from PIL import Image

    made = io.BytesIO()
    Image.fromarray(image).save(made, format="JPEG", quality=92)
    return made.getvalue()
