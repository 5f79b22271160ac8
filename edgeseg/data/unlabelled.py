"""Images to learn from without labels: a folder of photos, or any data set, whose labels are then not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeseg.data.base import LOADERS, Image, Labels, Split
from edgeseg.data.folders import IMAGE_SUFFIXES, read_image
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID


class Bare(Split):
    """Images, nothing known about any pixel."""

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        image = self.image(index)
        return image, np.full(image.shape[:2], VOID, np.uint8)

    def problems(self) -> list[str]:
        """Every image that cannot be read."""
        lines = []
        for index in range(len(self)):
            try:
                self.image(index)
            except EdgesegError as error:
                lines.append(str(error))
        return lines


class Photos(Bare):
    """Image files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.names = tuple(files), tuple(file.stem for file in files)

    def image(self, index: int) -> Image:
        return read_image(self.files[index])


class Unlabelled(Bare):
    """The images of another split."""

    def __init__(self, split: Split) -> None:
        self.names, self._split = split.names, split

    def image(self, index: int) -> Image:
        return self._split.image(index)


def unlabelled(spec: str) -> Split:
    """The photos in a folder and below it, or the training images of a data set, `KIND:PATH`.

    Raises:
        EdgesegError: no such folder, one without images, or no such data set.
    """
    kind, colon, argument = spec.partition(":")
    folder = Path(spec).expanduser()
    if kind in LOADERS and not (folder.is_dir() and not colon):
        data = LOADERS[kind](argument)
        return Unlabelled(data.split(data.fit))
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise EdgesegError(f"unlabelled images: {spec} {what}; give a folder of photos, or data such as camvid:PATH")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise EdgesegError(f"unlabelled images: {spec} holds no image; expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    return Photos(files)
