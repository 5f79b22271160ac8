"""`dis5k:PATH`, one object per photo cut out to the hair (dichotomous image segmentation), for promptable students.

    DIS5K/DIS-TR/{im/*.jpg,gt/*.png}       3,000 images to learn from
    DIS5K/DIS-VD/{im,gt}                   470 that choose the epoch
    DIS5K/DIS-TE1 ... DIS-TE4/{im,gt}      2,000 to report, from simple to intricate; each is a split of its own too

PATH is DIS5K or the folder around it. The masks are grey, 0..255, with soft edges: from 128 on it is the object.
"""

from __future__ import annotations

from edgeseg.data.base import LOADERS, Data
from edgeseg.data.folders import Pair, Pairs, pair_up
from edgeseg.data.published import OBJECTS, data, unpacked
from edgeseg.metrics import VOID

PAGE = "https://xuebinqin.github.io/dis"
TESTS = {f"te{number}": f"DIS-TE{number}" for number in range(1, 5)}
FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("DIS-TR",),
    "val": ("DIS-VD",),
    **{name: (folder,) for name, folder in TESTS.items()},
}
FOLDERS["test"] = tuple(TESTS.values())
IDS = {value: int(value >= 128) for value in range(VOID + 1)}


def load(argument: str) -> Data:
    """DIS5K in the folder `argument`."""
    spec = f"dis5k:{argument}"
    needed = [f"{folder}/{kind}" for folder in ("DIS-TR", "DIS-VD", *TESTS.values()) for kind in ("im", "gt")]
    root = unpacked(spec, PAGE, needed, inner=("DIS5K",))

    def pairs(split: str) -> list[Pair]:
        return [pair for folder in FOLDERS[split] for pair in pair_up(root / folder / "im", root / folder / "gt")]

    return data(
        spec,
        OBJECTS,
        pairs,
        lambda chosen: Pairs(chosen, IDS),
        licence="DIS5K terms of use (non-commercial research)",
        others=("val", *TESTS, "test"),
        select="val",
        task="promptable",
    )


LOADERS.add("dis5k", load)
