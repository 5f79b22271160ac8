"""`objects:PATH`, photos with every object outlined, for promptable students.

    images/*.jpg  instances/*.png  objects.json          split as `objects.json` says: {"images": [{"image", "split"}]}
    {train,val,test}/images/*  {train,val,test}/instances/*

An instance map is an 8-bit PNG: 0 background, 1..254 the objects, 255 unknown. With `objects.json`, `test` is its test
split, and a tenth of the rest is held out by name to choose the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgeseg.data.base import LOADERS, OBJECT_NAMES, Data, Split
from edgeseg.data.folders import Pair, Pairs, existing, layout, pair_up
from edgeseg.errors import EdgesegError
from edgeseg.files import read_json
from edgeseg.metrics import VOID
from edgeseg.pictures import distinct_colours

IDS = {id: id for id in range(VOID + 1)}
EVERY = 10
"""One image of so many is held out."""


def load(argument: str) -> Data:
    """The images and instance maps in the folder `argument`."""
    root = existing(argument, "objects")
    listed = root / "objects.json"
    splits = _listed(root, listed) if listed.exists() else _split_folders(root)
    return Data(
        spec=f"objects:{argument}",
        class_names=OBJECT_NAMES,
        palette=distinct_colours(len(OBJECT_NAMES)),
        splits={name: partial(_open, tuple(pairs)) for name, pairs in splits.items()},
        fit="fit" if "fit" in splits else "train",
        select="held" if "held" in splits else "val",
        test="test",
        licence="see the data's own README" if listed.exists() else "your own data",
        task="promptable",
    )


def _open(pairs: Sequence[Pair]) -> Split:
    return Pairs(pairs, IDS)


def _listed(root: Path, file: Path) -> dict[str, list[Pair]]:
    """The splits that `objects.json` names."""
    document: Any = read_json(file)
    try:
        of = {entry["image"]: entry["split"] for entry in document["images"]}
    except (TypeError, KeyError) as error:
        raise EdgesegError(
            f'{file}: expected {{"images": [{{"image": NAME, "split": "dev" or "test"}}, ...]}}'
        ) from error
    pairs = pair_up(root / "images", root / "instances")
    unknown = [pair.name for pair in pairs if pair.name not in of]
    if unknown:
        raise EdgesegError(f"{file} does not say which split {', '.join(unknown[:3])} is in; list every image")
    test = [pair for pair in pairs if of[pair.name] == "test"]
    dev = [pair for pair in pairs if of[pair.name] != "test"]
    held = dev[EVERY // 2 :: EVERY]
    if not test or not held:
        raise EdgesegError(f"{file}: {len(dev)} images to learn from and {len(test)} to test on are too few")
    return {"fit": [pair for pair in dev if pair not in held], "held": held, "dev": dev, "test": test}


def _split_folders(root: Path) -> dict[str, list[Pair]]:
    pairs = layout(root, [("{0}/images", "{0}/instances"), ("images/{0}", "instances/{0}")])
    return {name: list(pairs(name)) for name in ("train", "val", "test")}


LOADERS.add("objects", load)
