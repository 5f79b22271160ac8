"""`cityscapes:PATH`, street scenes of 27 cities, 2048x1024, 19 classes.

    leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
    gtFine/{train,val}/CITY/*_gtFine_labelIds.png       or *_gtFine_labelTrainIds.png

The labels of `test` are withheld by the authors, so `val` is reported, and the epoch is chosen on cities held out
of `train`: the last tenth by name, Weimar and Zurich in the full set (264 of 2975 images).
"""

from __future__ import annotations

from pathlib import Path

from edgeseg.data.base import LOADERS, Data
from edgeseg.data.folders import Pair, Pairs, existing, pair_up
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID

PAGE = "https://www.cityscapes-dataset.com/downloads"

CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
"""Label id, name and colour; the position is the train id."""

TRAIN_IDS = {**{id: id for id in range(len(CLASSES))}, VOID: VOID}
LABEL_IDS = {**dict.fromkeys(range(34), VOID), **{stored: id for id, (stored, _, _) in enumerate(CLASSES)}}

MASKS = (("_gtFine_labelTrainIds.png", TRAIN_IDS), ("_gtFine_labelIds.png", LABEL_IDS))
"""How mask files end, and what the ids in them mean; the first that is there is used."""


def load(argument: str) -> Data:
    """Cityscapes in the folder `argument`."""
    root = existing(argument, "cityscapes", PAGE)
    for folder in ("leftImg8bit/train", "gtFine/train"):
        if not (root / folder).is_dir():
            raise EdgesegError(
                f"cityscapes:{argument}: {folder} is missing; unpack leftImg8bit and gtFine of {PAGE} there"
            )

    return Data(
        spec=f"cityscapes:{argument}",
        class_names=tuple(name for _, name, _ in CLASSES),
        palette=tuple(colour for _, _, colour in CLASSES),
        splits={
            "train": lambda: Pairs(*_files(root, "train")),
            "val": lambda: Pairs(*_files(root, "val")),
            "fit": lambda: _by_city(root, held=False),
            "held": lambda: _by_city(root, held=True),
        },
        fit="fit",
        select="held",
        test="val",
        licence="Cityscapes terms of use (non-commercial)",
    )


def city(pair: Pair) -> str:
    """`zurich` of `zurich_000121_000019`."""
    return pair.name.split("_", maxsplit=1)[0]


def _files(root: Path, split: str) -> tuple[tuple[Pair, ...], dict[int, int]]:
    labels = root / "gtFine" / split
    end, ids = next((kind for kind in MASKS if next(labels.rglob(f"*{kind[0]}"), None)), MASKS[-1])
    return pair_up(root / "leftImg8bit" / split, labels, "_leftImg8bit.png", end), ids


def _by_city(root: Path, held: bool) -> Pairs:
    pairs, ids = _files(root, "train")
    cities = sorted({city(pair) for pair in pairs})
    if len(cities) < 2:
        raise EdgesegError(f"{root}: train has one city; one more is needed to choose the epoch by")
    last = cities[-max(1, round(len(cities) / 10)) :]
    return Pairs([pair for pair in pairs if (city(pair) in last) == held], ids)


LOADERS.add("cityscapes", load)
