"""`coco:PATH`, COCO 2017's objects for promptable students: 117,266 and 4,952 photos with at least one.

    {train,val}2017/*.jpg                              or images/{train,val}2017
    annotations/instances_{train,val}2017.json

Outlines are drawn as COCO's own tools do, each object whole but for what lies in front of it: the smaller one is taken to.
Crowds are unknown. `val` is reported: the annotations of the test images are withheld.
"""

from __future__ import annotations

from functools import partial

from edgeseg.data.base import LOADERS, Data
from edgeseg.data.instances import Instances
from edgeseg.data.json_index import Row, index
from edgeseg.data.published import OBJECTS, data, first_of, unpacked

PAGE = "https://cocodataset.org/#download"
SPLITS = ("train", "val")
FILE = "annotations/instances_{0}2017.json"


def load(argument: str) -> Data:
    """COCO's instances in the folder `argument`."""
    spec = f"coco:{argument}"
    images = [(f"{split}2017", f"images/{split}2017") for split in SPLITS]
    root = unpacked(spec, PAGE, [*images, *(FILE.format(split) for split in SPLITS)])

    def rows(split: str) -> list[Row]:
        folder = first_of(root, f"{split}2017", f"images/{split}2017").relative_to(root)
        return index(
            root / FILE.format(split),
            place=lambda image: f"{folder}/{image['file_name']}",
            counts=lambda entry: not entry.get("iscrowd"),
        )

    licence = "annotations CC BY 4.0; the terms of Flickr for the images"
    return data(spec, OBJECTS, rows, partial(Instances, root), licence, task="promptable")


LOADERS.add("coco", load)
