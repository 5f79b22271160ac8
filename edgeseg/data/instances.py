"""Photos with the outlines of their objects in a COCO file, as id maps: what `coco:` and `lvis:` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.data.base import Image, Labels, Split
from edgeseg.data.folders import read_image
from edgeseg.data.json_index import Row, rows
from edgeseg.data.rle import Runs, id_map, runs_of
from edgeseg.errors import EdgesegError


class Instances(Split):
    """Images with their objects numbered from the largest on; crowds and the smallest beyond 254 are unknown."""

    def __init__(self, root: Path, chosen: Sequence[Row]) -> None:
        self._root = root
        self._index, self._rows = rows(chosen)
        self.names = tuple(Path(self._index.images[row]).stem for row in self._rows)

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        row = int(self._rows[index])
        path = self._root / self._index.images[row]
        image = read_image(path)
        check_size(path, image, self._index.sizes[row])
        return image, draw(self._index.annotations(row), image, f"{self._index.file}: an annotation of {path.name}")

    def image(self, index: int) -> Image:
        return read_image(self._root / self._index.images[self._rows[index]])

    def problems(self) -> list[str]:
        """Images that are not there; outlines are looked at when they are drawn."""
        return absent(self._root, [self._index.images[row] for row in self._rows])


def draw(annotations: Sequence[Any], image: Image, where: str) -> Labels:
    """The id map of an image's annotations; `where` begins the line that says what is wrong with one."""
    size = (image.shape[0], image.shape[1])
    objects: list[Runs] = []
    unknown: list[Runs] = []
    for entry in annotations:
        try:
            (unknown if entry.get("iscrowd") else objects).append(runs_of(entry["segmentation"], size))
        except (EdgesegError, KeyError, TypeError, ValueError) as error:
            raise EdgesegError(f"{where}: {error}") from error
    return id_map(objects, unknown, size)


def check_size(path: Path, image: Image, stated: NDArray[np.int32]) -> None:
    """Nothing where an image has the size that the annotations are for."""
    if image.shape[:2] != (stated[0], stated[1]):
        (h, w), (wanted_h, wanted_w) = image.shape[:2], stated.tolist()
        raise EdgesegError(f"{path} is {h}x{w} but its annotations are for {wanted_h}x{wanted_w}; get the image again")


def absent(root: Path, wanted: Sequence[str]) -> list[str]:
    """One line for each of the files `wanted` below `root` that is not there; folders are listed, no file is opened."""
    there = {
        folder: {entry.name for entry in (root / folder).glob("*")} for folder in {str(Path(p).parent) for p in wanted}
    }
    return [f"{root / path} does not exist" for path in wanted if Path(path).name not in there[str(Path(path).parent)]]
