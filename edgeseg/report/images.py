"""What `edgeseg verify` and a search kept as evidence, as small overlays: what each side predicted, and where they disagree."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.quantize.findings import MARKED

LONG_SIDE = 480
CHANGED = (255, 0, 230)
"""Magenta: in no palette of streets, rooms or bodies."""


@dataclass(frozen=True)
class Overlay:
    """One picture as a data URI."""

    title: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Evidence:
    """One image: predictions of both sides, the pixels that changed, and how many they are."""

    name: str
    overlays: list[Overlay]
    changed: int
    pixels: int
    caption: str

    @property
    def bytes(self) -> int:
        """What it adds to the page."""
        return sum(len(overlay.uri) for overlay in self.overlays)


def evidence(folder: Path, palette: list[tuple[int, int, int]], target: str) -> Iterator[Evidence | EdgesegError]:
    """One entry per `NN-image.jpg` in `folder`, in order; an entry that cannot be read is the error that says so."""
    for photo in sorted(folder.glob("*-image.jpg")):
        try:
            yield _evidence(photo, palette, target)
        except EdgesegError as error:
            yield error


def damaged(path: Path, title: str) -> Overlay:
    """A picture that a search kept of a block, with the pixels that it marks as visible as those of the evidence."""
    from PIL import Image

    drawn = np.asarray(_open(path, "RGB", "search again"))
    differs = (drawn == MARKED).all(-1)
    photo = Image.fromarray(2 * np.minimum(drawn, 127))
    size = small(photo.width, photo.height)
    return Overlay(title, jpeg(marked(photo.resize(size, Image.Resampling.LANCZOS), differs)), *size)


def small(width: int, height: int) -> tuple[int, int]:
    """The size on the page."""
    scale = min(1.0, LONG_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _evidence(photo: Path, palette: list[tuple[int, int, int]], target: str) -> Evidence:
    from PIL import Image

    name = photo.name.removesuffix("-image.jpg")
    image = _open(photo, "RGB")
    ours, theirs = (_labels(photo.with_name(f"{name}-{side}.png")) for side in ("reference", "artifact"))
    if ours.shape != theirs.shape:
        raise EdgesegError(
            f"{photo.parent / name}: the two label maps are {list(ours.shape)} and {list(theirs.shape)}; verify again"
        )
    differs = ours != theirs
    height, width = ours.shape
    size = small(width, height)
    image = image.resize(size, Image.Resampling.LANCZOS)
    drawn = {
        "Student in torch": tinted(image, ours, palette),
        f"Artifact in {target}": tinted(image, theirs, palette),
        "Pixels that changed": marked(image, differs),
    }
    overlays = [Overlay(title, jpeg(picture), *size) for title, picture in drawn.items()]
    caption = f"{differs.sum():,} of {differs.size:,} pixels changed their label ({100 * differs.mean():.3f} %)"
    truth = photo.with_name(f"{name}-truth.png")
    if truth.exists():
        caption += _against_truth(_labels(truth), ours, theirs)
    return Evidence(name, overlays, int(differs.sum()), differs.size, caption)


def _against_truth(truth: NDArray[np.uint8], ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> str:
    if truth.shape != ours.shape:
        return ""
    counted = (truth != VOID) & (ours != theirs)
    return f": {(counted & (theirs == truth)).sum():,} became right, {(counted & (ours == truth)).sum():,} became wrong"


def tinted(image: Any, labels: NDArray[np.uint8], palette: list[tuple[int, int, int]]) -> Any:
    """The photo under the colours of the labels; void and unknown ids stay as they are in the photo."""
    from PIL import Image

    colours = np.zeros((256, 4), np.uint8)
    known = np.array(palette[:256]).reshape(-1, 3).clip(0, 255)
    colours[: len(known), :3], colours[: len(known), 3] = known, 150
    layer = Image.fromarray(colours[labels]).resize(image.size, Image.Resampling.NEAREST)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def marked(image: Any, differs: NDArray[np.bool_], grown: int = 5) -> Any:
    """The photo in pale grey with every changed pixel in magenta, `grown` wide: one alone is seen on a phone."""
    from PIL import Image, ImageFilter

    share = Image.fromarray(differs.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BOX)
    mask = share.point([0] + [255] * 255).filter(ImageFilter.MaxFilter(grown)) if grown > 1 else share
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, (255, 255, 255)), 0.45)
    pale.paste(CHANGED, mask=mask)
    return pale


def _labels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(_open(path, "L"))


def _open(path: Path, mode: str, again: str = "run `edgeseg verify` again") -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EdgesegError(f"{path} cannot be read ({error}); {again}") from error


def jpeg(image: Any) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
