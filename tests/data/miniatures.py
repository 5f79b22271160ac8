"""Every published data set in its own layout, a few pixels large."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

H, W = 12, 16
COUNT = {"train": 12, "val": 3}


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (H, W)) -> None:
    pixels: NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    save(path, pixels)


def save(path: Path, pixels: NDArray[np.uint8], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Pillow.fromarray(pixels)
    if palette:
        picture = picture.convert("P")
        picture.putdata(pixels.ravel().tolist())
        picture.putpalette([7, 8, 9] * 256)
    picture.save(path)


def ids(values: list[int]) -> NDArray[np.uint8]:
    """A mask that has each of the values."""
    return np.resize(np.array(values, np.uint8), (H, W))


def ade20k(root: Path) -> None:
    for split, folder in (("train", "training"), ("val", "validation")):
        for number in range(COUNT[split]):
            name = f"ADEChallengeData2016/{{}}/{folder}/ADE_{split}_{number:08d}"
            photo(root / f"{name.format('images')}.jpg", number)
            save(root / f"{name.format('annotations')}.png", ids(list(range(151))))


def voc(root: Path) -> None:
    root = root / "VOCdevkit" / "VOC2012"
    names = {split: [f"2007_{split}{n:03d}" for n in range(COUNT[split])] for split in COUNT}
    names["trainval"] = names["train"] + names["val"]
    for number, name in enumerate(names["trainval"]):
        photo(root / "JPEGImages" / f"{name}.jpg", number)
        save(root / "SegmentationClass" / f"{name}.png", ids([*range(21), 255]), palette=True)
    photo(root / "JPEGImages" / "2012_unlabelled.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, some in names.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in some))


def dis5k(root: Path) -> None:
    for folder, count in {"DIS-TR": 12, "DIS-VD": 3, **{f"DIS-TE{n}": 1 for n in range(1, 5)}}.items():
        for number in range(count):
            photo(root / "DIS5K" / folder / "im" / f"1#a#{folder}#{number}.jpg", number)
            save(root / "DIS5K" / folder / "gt" / f"1#a#{folder}#{number}.png", ids([0, 127, 128, 255]))


def coco_stuff(root: Path) -> None:
    for split, count in COUNT.items():
        for number in range(count):
            photo(root / f"{split}2017" / f"{number:012d}.jpg", number)
            save(root / "stuffthingmaps" / f"{split}2017" / f"{number:012d}.png", ids([0, 10, 12, 181, 255]))


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


SQUARE = {"segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]], "area": 36, "iscrowd": 0}
SMALL = {
    "segmentation": {"size": [H, W], "counts": [3 * H + 3, 2, H - 2, 2, H * W - 4 * H - 5]},
    "area": 4,
    "iscrowd": 0,
}
CROWD = {"segmentation": {"size": [H, W], "counts": [H * (W - 1), H]}, "area": H, "iscrowd": 1}
"""A polygon, 6x6 at (2, 2); a small square 2x2 at (3, 3), in front of it; the last column."""


def _instances(root: Path, file: str, split: str, count: int, annotations: list[dict[str, Any]]) -> None:
    numbers = list(range(count))
    images = [
        {
            "id": 70 + n,
            "file_name": f"{n:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/{split}2017/{n:012d}.jpg",
            "height": H,
            "width": W,
        }
        for n in numbers
    ]
    for n in numbers:
        photo(root / f"{split}2017" / f"{n:012d}.jpg", n)
    # annotations of different images alternate, as they do in COCO's own files
    entries = [{"id": i, "image_id": 70 + n, **one} for i, one in enumerate(annotations) for n in numbers]
    extra = [
        {"id": 1, "file_name": "nothing.jpg", "coco_url": "http://x/train2017/nothing.jpg", "height": 1, "width": 1}
    ]
    document = {
        "info": {"year": 2017},
        "licenses": [],
        "images": images + extra,
        "annotations": entries,
        "categories": [],
    }
    write(root / file, document)


def coco(root: Path) -> None:
    for split, count in COUNT.items():
        _instances(root, f"annotations/instances_{split}2017.json", split, count, [SQUARE, SMALL, CROWD])


def lvis(root: Path) -> None:
    for split, count in COUNT.items():
        _instances(root, f"lvis_v1_{split}.json", split, count, [SMALL, SQUARE])


def coco_panoptic(root: Path) -> None:
    segments = np.zeros((H, W), np.uint32)
    segments[:, 4:8], segments[:, 8:] = 3226956, 300  # a number that needs all three colours
    colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], -1).astype(np.uint8)
    infos = [{"id": 3226956, "category_id": 1, "iscrowd": 0}, {"id": 300, "category_id": 200, "iscrowd": 0}]
    for split, count in COUNT.items():
        _instances(root, f"annotations/panoptic_{split}2017.json", split, count, [{"segments_info": infos}])
        for number in range(count):
            save(root / "annotations" / f"panoptic_{split}2017" / f"{number:012d}.png", colours)


def sa1b(root: Path) -> None:
    square = {**SQUARE, "segmentation": {"size": [H, W], "counts": "j066000000000n2"}}  # by pycocotools
    for number in range(24):
        at = root / f"sa_{number // 12:06d}" / f"sa_{number}"
        photo(at.with_suffix(".jpg"), number)
        image = {"image_id": number, "width": W, "height": H, "file_name": f"sa_{number}.jpg"}
        write(at.with_suffix(".json"), {"image": image, "annotations": [SMALL, square]})


MINIATURES: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (ade20k, coco, coco_panoptic, coco_stuff, dis5k, lvis, sa1b, voc)
}
"""Kind -> what makes its miniature in a folder."""
