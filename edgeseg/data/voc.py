"""`voc:PATH`, the segmentation part of Pascal VOC 2012: 20 classes and background.

    VOCdevkit/VOC2012/JPEGImages/*.jpg
    VOCdevkit/VOC2012/SegmentationClass/*.png               palette images: 0..20, 255 void
    VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,trainval}.txt

PATH is VOC2012 or a folder around it. `val` (1,449 images) is reported: the labels of the test images are withheld. Where
the ten thousand further labels of SBD are there as everybody keeps them, `SegmentationClassAug/*.png` and
`ImageSets/Segmentation/trainaug.txt`, the split `trainaug` is there and is learned from instead of `train`.
"""

from __future__ import annotations

from edgeseg.data.base import LOADERS, Data
from edgeseg.data.folders import Pair, Pairs
from edgeseg.data.published import classes, data, unpacked
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID

PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012"
LISTS = "ImageSets/Segmentation"
MORE = "SegmentationClassAug"


def load(argument: str) -> Data:
    """VOC 2012 in the folder `argument`."""
    spec, table = f"voc:{argument}", classes("voc")
    needed = ("JPEGImages", "SegmentationClass", f"{LISTS}/train.txt", f"{LISTS}/val.txt")
    root = unpacked(spec, PAGE, needed, inner=("VOC2012", "VOCdevkit/VOC2012"))
    more = (root / LISTS / "trainaug.txt").exists()
    if more and not (root / MORE).is_dir():
        raise EdgesegError(
            f"{root / LISTS}/trainaug.txt is there but {MORE} is not; add SBD's masks or remove the list"
        )

    def pairs(split: str) -> tuple[Pair, ...]:
        masks = root / (MORE if split == "trainaug" else "SegmentationClass")
        listed = root / LISTS / f"{split}.txt"
        # some copies of trainaug.txt name paths, `/JPEGImages/A.jpg /SegmentationClassAug/A.png`: the stem of the first counts
        lines = [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = [line.rsplit("/", 1)[-1].removesuffix(".jpg") for line in lines]
        if not names:
            raise EdgesegError(f"{listed} names no image; unpack it again")
        return tuple(Pair(name, root / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png") for name in names)

    there = [name for name in ("train", "trainval") if (root / LISTS / f"{name}.txt").exists()]
    return data(
        spec,
        table,
        pairs,
        lambda chosen: Pairs(chosen, table.ids(VOID)),
        licence="the terms of Flickr for the images",
        train="trainaug" if more else "train",
        others=(*there, "val"),
    )


LOADERS.add("voc", load)
