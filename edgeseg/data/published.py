"""What the loaders of published data sets share: where the files are, what the classes are called, which images are held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeVar

from edgeseg.data.base import OBJECT_NAMES, Data, Split
from edgeseg.data.folders import existing
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.pictures import Rgb, distinct_colours

T = TypeVar("T")

EVERY, MOST = 10, 1000
"""One image of so many is held out to choose the epoch by, and of a large set so many in all."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set in the order of its evaluation: the ids that its files have for them, names, colours."""

    stored: tuple[int, ...]
    names: tuple[str, ...]
    palette: tuple[Rgb, ...]

    def ids(self, *void: int) -> dict[int, int]:
        """What the files hold -> class id or void."""
        return {**dict.fromkeys(void, VOID), **{stored: id for id, stored in enumerate(self.stored)}}


OBJECTS = Classes((0, 1), OBJECT_NAMES, distinct_colours(len(OBJECT_NAMES)))
"""What promptable data calls its pixels."""


def classes(name: str) -> Classes:
    """The table `classes/NAME.tsv`, whose comments say what the ids are and where it is from."""
    text = (Path(__file__).parent / "classes" / f"{name}.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return Classes(
        tuple(int(row[0]) for row in rows),
        tuple(row[1] for row in rows),
        tuple((int(row[2]), int(row[3]), int(row[4])) for row in rows),
    )


def unpacked(spec: str, page: str, needed: Sequence[str | tuple[str, ...]], inner: Sequence[str] = ()) -> Path:
    """The folder of the data set `KIND:PATH`: PATH, or one of `inner` in it, that has all of `needed`, files or folders.

    Of a tuple of names one is enough.

    Raises:
        EdgesegError: some of it is not there; the message names it, and the page where it is to be had.
    """
    kind, _, argument = spec.partition(":")
    root = existing(argument, kind, page)
    lacking: list[tuple[list[str], Path]] = []
    for place in (root, *(root / name for name in inner)):
        choices = [(names,) if isinstance(names, str) else names for names in needed]
        absent = [" or ".join(names) for names in choices if not any((place / name).exists() for name in names)]
        if not absent:
            return place
        lacking.append((absent, place))
    absent, place = min(lacking, key=lambda one: len(one[0]))
    raise EdgesegError(f"{spec}: {place} lacks {', '.join(absent)}; unpack what is at {page} there")


def first_of(root: Path, *names: str) -> Path:
    """The first of `names` that is there in `root`; the first of all if none is."""
    return next((root / name for name in names if (root / name).exists()), root / names[0])


def hold_some(items: Sequence[T], held: bool) -> list[T]:
    """Every tenth item, a thousand of them at most, or the others: for photos that have nothing to do with each other."""
    every = max(EVERY, -(-len(items) // MOST))
    chosen = range(every // 2, len(items), every)
    if not chosen:
        raise EdgesegError(f"{len(items)} images are too few to hold some of them out; add more to train")
    return [items[index] for index in chosen] if held else [x for i, x in enumerate(items) if i not in chosen]


def data(
    spec: str,
    table: Classes,
    items: Callable[[str], Sequence[T]],
    make: Callable[[Sequence[T]], Split],
    licence: str,
    train: str = "train",
    others: Sequence[str] = ("val",),
    select: str | None = None,
    task: Literal["semantic", "promptable"] = "semantic",
) -> Data:
    """A data set whose split `name` is `make(items(name))`.

    train:  what is learned from; without `select`, `held` is made from it to choose the epoch by, and `fit` is what is left.
    others: the other splits; the last one is reported.
    """
    listed = cache(items)

    def whole(name: str) -> Split:
        return make(listed(name))

    def part(held: bool) -> Split:
        return make(hold_some(listed(train), held))

    parts = {} if select else {"fit": partial(part, held=False), "held": partial(part, held=True)}
    return Data(
        spec=spec,
        class_names=table.names,
        palette=table.palette,
        splits={**{name: partial(whole, name) for name in dict.fromkeys((train, *others))}, **parts},
        fit=train if select else "fit",
        select=select or "held",
        test=others[-1],
        licence=licence,
        task=task,
    )
