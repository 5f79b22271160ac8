"""`coco_stuff:PATH`, COCO 2017 with every pixel labelled: 80 things and 91 stuffs, 118,287 and 5,000 photos.

    {train,val}2017/*.jpg                      or images/{train,val}2017
    stuffthingmaps/{train,val}2017/*.png       or annotations/{train,val}2017; stuffthingmaps_trainval2017.zip unpacked

A mask holds COCO's category id minus 1, 0..181, and 255 where nothing is known. Eleven ids were never annotated; the 171
others are the classes, in order. `val` is reported.
"""

from __future__ import annotations

from edgeseg.data.base import LOADERS, Data
from edgeseg.data.folders import Pair, Pairs, pair_up
from edgeseg.data.published import classes, data, first_of, unpacked
from edgeseg.metrics import VOID

PAGE = "https://github.com/nightrome/cocostuff (masks) and https://cocodataset.org/#download (images)"
IMAGES = ("{0}2017", "images/{0}2017")
MASKS = ("stuffthingmaps/{0}2017", "annotations/{0}2017", "stuffthingmaps_trainval2017/{0}2017")


def load(argument: str) -> Data:
    """COCO-Stuff in the folder `argument`."""
    spec, table = f"coco_stuff:{argument}", classes("coco_stuff")
    needed = [tuple(at.format(name) for at in kind) for kind in (IMAGES, MASKS) for name in ("train", "val")]
    root = unpacked(spec, PAGE, needed)

    def pairs(split: str) -> tuple[Pair, ...]:
        images, masks = (first_of(root, *(at.format(split) for at in kind)) for kind in (IMAGES, MASKS))
        return pair_up(images, masks)

    licence = "annotations CC BY 4.0; the terms of Flickr for the images"
    return data(spec, table, pairs, lambda chosen: Pairs(chosen, table.ids(VOID)), licence)


LOADERS.add("coco_stuff", load)
