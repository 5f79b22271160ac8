"""`coco_panoptic:PATH`, COCO 2017's panoptic segmentation as classes: 80 things and 53 stuffs, 118,287 and 5,000 photos.

    {train,val}2017/*.jpg                               or images/{train,val}2017
    annotations/panoptic_{train,val}2017.json
    annotations/panoptic_{train,val}2017/*.png          from the zip files of that name in panoptic_annotations_trainval2017.zip

A mask has the number of a segment in its colours (red + 256 green + 65536 blue), the JSON file the class of each segment; 0 is
void. Crowds are of their class. `val` is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from edgeseg.data.base import LOADERS, Data, Image, Labels, Split
from edgeseg.data.folders import read_image
from edgeseg.data.instances import absent, check_size
from edgeseg.data.json_index import Row, index, rows
from edgeseg.data.published import Classes, classes, data, first_of, unpacked
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID

PAGE = "https://cocodataset.org/#download"
SPLITS = ("train", "val")
MASKS = "annotations/panoptic_{0}2017"


class Panoptic(Split):
    """Images with the class of the segment that each pixel is in."""

    def __init__(self, root: Path, table: Classes, chosen: Sequence[Row]) -> None:
        self._root, self._ids = root, table.ids()
        self._index, self._rows = rows(chosen)
        self._masks = self._index.file.with_suffix("")
        self.names = tuple(Path(self._index.images[row]).stem for row in self._rows)

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        row = int(self._rows[index])
        path, mask = self._root / self._index.images[row], self._masks / f"{self.names[index]}.png"
        image, segments = read_image(path), read_segments(mask)
        check_size(path, image, self._index.sizes[row])
        if segments.shape != image.shape[:2]:
            raise EdgesegError(
                f"{mask} is {segments.shape[0]}x{segments.shape[1]}, its image {path} is not; get it again"
            )
        infos = [info for entry in self._index.annotations(row) for info in entry["segments_info"]]
        meaning = {0: VOID, **{info["id"]: self._ids.get(info["category_id"], VOID) for info in infos}}
        found, where = np.unique(segments, return_inverse=True)
        if foreign := [id for id in found.tolist() if id not in meaning]:
            raise EdgesegError(
                f"{mask}: segment {foreign[0]} is not in {self._index.file}; the two are of different versions"
            )
        return image, np.array([meaning[id] for id in found.tolist()], np.uint8)[where].reshape(segments.shape)

    def image(self, index: int) -> Image:
        return read_image(self._root / self._index.images[self._rows[index]])

    def problems(self) -> list[str]:
        """Images and masks that are not there; segments are looked at when they are read."""
        images = [self._index.images[row] for row in self._rows]
        return absent(self._root, images) + absent(self._masks, [f"{name}.png" for name in self.names])


def read_segments(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """The segment numbers `[H, W]` in the colours of a panoptic mask."""
    colours = read_image(path).astype(np.uint32)
    with Pillow.open(path) as file:
        if file.mode != "RGB":
            raise EdgesegError(
                f"{path}: a panoptic mask is an RGB image, this is {file.mode}; it was stored anew by something"
            )
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def load(argument: str) -> Data:
    """COCO's panoptic segmentation in the folder `argument`."""
    spec, table = f"coco_panoptic:{argument}", classes("coco_panoptic")
    images = [(f"{split}2017", f"images/{split}2017") for split in SPLITS]
    files = [f"{MASKS.format(split)}{end}" for split in SPLITS for end in ("", ".json")]
    root = unpacked(spec, PAGE, [*images, *files])

    def listed(split: str) -> list[Row]:
        folder = first_of(root, f"{split}2017", f"images/{split}2017").relative_to(root)
        return index(
            root / f"{MASKS.format(split)}.json",
            place=lambda image: f"{folder}/{image['file_name']}",
            counts=lambda entry: True,
        )

    licence = "annotations CC BY 4.0; the terms of Flickr for the images"
    return data(spec, table, listed, partial(Panoptic, root, table), licence)


LOADERS.add("coco_panoptic", load)
