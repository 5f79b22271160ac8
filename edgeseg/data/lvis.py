"""`lvis:PATH`, LVIS v1's objects on COCO's photos for promptable students: finer outlines and many more of them.

    lvis_v1_{train,val}.json                            or in annotations/
    {train,val}2017/*.jpg                               or in images/; its val has photos of COCO's train too

The classes (1,203 of them) are not used. In every image there are things that nobody outlined: they are background. `val` is
reported: the annotations of the test images are withheld.
"""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import Any

from edgeseg.data.base import LOADERS, Data
from edgeseg.data.instances import Instances
from edgeseg.data.json_index import Row, index
from edgeseg.data.published import OBJECTS, data, first_of, unpacked

PAGE = "https://www.lvisdataset.org/dataset (annotations) and https://cocodataset.org/#download (images)"
SPLITS = ("train", "val")


def load(argument: str) -> Data:
    """LVIS in the folder `argument`."""
    spec = f"lvis:{argument}"
    files = {split: (f"lvis_v1_{split}.json", f"annotations/lvis_v1_{split}.json") for split in SPLITS}
    images = [(f"{split}2017", f"images/{split}2017") for split in SPLITS]
    root = unpacked(spec, PAGE, [*images, *files.values()])
    photos = first_of(root, "train2017", "images/train2017").parent

    def rows(split: str) -> list[Row]:
        return index(first_of(root, *files[split]), _place, counts=lambda entry: True)

    licence = "annotations CC BY 4.0; the terms of Flickr for the images"
    return data(spec, OBJECTS, rows, partial(Instances, photos), licence, task="promptable")


def _place(image: dict[str, Any]) -> str:
    """`train2017/000000391895.jpg`, the end of the image's address; LVIS has no file names."""
    return "/".join(PurePosixPath(image["coco_url"]).parts[-2:])


LOADERS.add("lvis", load)
