"""Images to learn from without labels: a folder of photos, or any data set, whose labels are then not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeseg.data.base import LOADERS, Image, Labels, Split
from edgeseg.data.folders import IMAGE_SUFFIXES, read_image
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID


class Unlabelled(Split):
    """The images of another split, nothing known about any pixel."""

    def __init__(self, split: Split) -> None:
        self.names, self._split = split.names, split

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        return _unknown(self._split[index][0])

    def problems(self) -> list[str]:
        """Those of the split."""
        return self._split.problems()


class Photos(Split):
    """Image files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.names = tuple(files), tuple(file.stem for file in files)

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        return _unknown(read_image(self.files[index]))

    def problems(self) -> list[str]:
        """Every file that is no readable image."""
        lines = []
        for file in self.files:
            try:
                read_image(file)
            except EdgesegError as error:
                lines.append(str(error))
        return lines


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


def _unknown(image: Image) -> tuple[Image, Labels]:
    return image, np.full(image.shape[:2], VOID, np.uint8)
