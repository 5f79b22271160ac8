"""`ade20k:PATH`, MIT's scene parsing benchmark: 150 classes indoors and outdoors, 20,210 and 2,000 photos.

    ADEChallengeData2016/images/{training,validation}/*.jpg
    ADEChallengeData2016/annotations/{training,validation}/*.png       0 is something else, 1..150 the classes

PATH is that folder or the one around it. `val` is reported, as everybody does: the labels of the test images were never
published. The full ADE20K (3,000 names, colour-coded parts, `*_seg.png`) is another data set and is refused.
"""

from __future__ import annotations

from pathlib import Path

from edgeseg.data.base import LOADERS, Data
from edgeseg.data.folders import Pair, Pairs, pair_up
from edgeseg.data.published import classes, data, unpacked
from edgeseg.errors import EdgesegError

PAGE = "http://sceneparsing.csail.mit.edu"
FOLDERS = {"train": "training", "val": "validation"}
OTHER = 0
"""What is none of the 150; the evaluation does not count it."""


def load(argument: str) -> Data:
    """The benchmark in the folder `argument`."""
    spec, table = f"ade20k:{argument}", classes("ade20k")
    if full := _full(Path(argument).expanduser()):
        raise EdgesegError(
            f"{spec}: {full} is of the full ADE20K; the benchmark of 150 classes is ADEChallengeData2016, at {PAGE}"
        )
    needed = [f"{kind}/{folder}" for kind in ("images", "annotations") for folder in FOLDERS.values()]
    root = unpacked(spec, PAGE, needed, inner=("ADEChallengeData2016",))

    def pairs(split: str) -> tuple[Pair, ...]:
        return pair_up(root / "images" / FOLDERS[split], root / "annotations" / FOLDERS[split])

    licence = "annotations BSD-3-Clause; images for non-commercial research and education"
    return data(spec, table, pairs, lambda chosen: Pairs(chosen, table.ids(OTHER)), licence)


def _full(root: Path) -> Path | None:
    """What shows that a folder holds the full data set: its index, or its folders by scene."""
    signs = ("index_ade20k.*", "images/ADE", "ADE20K_20*", "images/training/*/*_seg.png", "images/training/?/*")
    return next((found for sign in signs for found in root.glob(sign)), None)


LOADERS.add("ade20k", load)
