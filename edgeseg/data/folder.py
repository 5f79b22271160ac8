"""`folder:PATH`, your own images and masks.

    {train,val,test}/images/*      {train,val,test}/masks/*       (or labels/)
    images/{train,val,test}/*      masks/{train,val,test}/*       (or labels/)

A mask holds a class id 0..K-1 per pixel, 255 where nothing is known. `classes.json` in PATH may name the classes,

    {"classes": [{"id": 0, "name": "road", "color": [128, 64, 128]}, ...], "void": 255}

otherwise K is the largest id in the masks plus one. With all three splits there, `val` chooses the epoch and `test` is
reported; with one of the two, that is reported and the last tenth of `train` by name is held out to choose the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import TypeAlias

from edgeseg import schema
from edgeseg.data.base import LOADERS, Data, Split
from edgeseg.data.folders import Pair, Pairs, existing, hold_out, layout, read_mask
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.pictures import distinct_colours

LAYOUTS = (
    ("{0}/images", "{0}/masks"),
    ("{0}/images", "{0}/labels"),
    ("images/{0}", "masks/{0}"),
    ("images/{0}", "labels/{0}"),
)
"""Where the images and the masks of a split are."""

Colour: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class ClassEntry:
    """A class in `classes.json`; without a colour it gets one."""

    id: int
    name: str
    color: Colour | None = None


@dataclass(frozen=True)
class Classes:
    """`classes.json`."""

    classes: tuple[ClassEntry, ...]
    void: int = VOID


def load(argument: str) -> Data:
    """The images and masks in the folder `argument`."""
    root = existing(argument, "folder")
    pairs = layout(root, LAYOUTS)
    there = [name for name in ("train", "val", "test") if any((root / at.format(name)).is_dir() for at, _ in LAYOUTS)]
    if there == ["train"]:
        raise EdgesegError(f"{root}: neither val nor test; a result needs images that were never trained on")
    file = root / "classes.json"
    names, palette, ids = named(file) if file.exists() else _counted([pair for name in there for pair in pairs(name)])

    def whole(name: str) -> Split:
        return Pairs(pairs(name), ids)

    def part(held: bool) -> Split:
        return Pairs(hold_out(pairs("train"), lambda pair: "")[held], ids)

    three = len(there) == 3
    parts = {} if three else {"fit": partial(part, held=False), "held": partial(part, held=True)}
    return Data(
        spec=f"folder:{argument}",
        class_names=names,
        palette=palette,
        splits={**{name: partial(whole, name) for name in there}, **parts},
        fit="train" if three else "fit",
        select="val" if three else "held",
        test=there[-1],
        licence="your own data",
    )


def named(file: Path) -> tuple[tuple[str, ...], tuple[Colour, ...], dict[int, int]]:
    """Class names, colours and meaning of the ids, from `classes.json`."""
    stated = schema.read(Classes, file)
    entries = sorted(stated.classes, key=lambda entry: entry.id)
    ids = [entry.id for entry in entries]
    if len(ids) < 2 or ids != list(range(len(ids))):
        raise EdgesegError(f"{file}: class ids {ids}; they must be 0, 1, 2 and so on, at least two, each once")
    if stated.void in ids or not 0 <= stated.void <= VOID:
        raise EdgesegError(f"{file}: void is {stated.void}; it must be an id up to {VOID} that no class has")
    colours = zip((entry.color for entry in entries), distinct_colours(len(ids)), strict=True)
    return tuple(entry.name for entry in entries), tuple(a or b for a, b in colours), _meaning(len(ids), stated.void)


def _counted(pairs: Sequence[Pair]) -> tuple[tuple[str, ...], tuple[Colour, ...], dict[int, int]]:
    """The same from the masks themselves."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        count = 1 + max(pool.map(_largest_id, pairs))
    if count < 2:
        raise EdgesegError(
            f"{pairs[0].labels.parent}: no class id above 0 in any mask; store 0 and 1 for two classes ({VOID} is void)"
        )
    return tuple(f"class_{id}" for id in range(count)), distinct_colours(count), _meaning(count, VOID)


def _largest_id(pair: Pair) -> int:
    ids = read_mask(pair.labels)
    return int(ids.max(initial=0, where=ids != VOID))


def _meaning(count: int, void: int) -> dict[int, int]:
    return {**{id: id for id in range(count)}, void: VOID}


LOADERS.add("folder", load)
