"""Generated street scenes with exact labels: `synthetic` or `synthetic:size=240x320,train=512,val=64,test=64,seed=0`.

A scene depends on its seed, split and index, and on nothing else. Labels are the same on every platform: uniform
numbers of PCG64, IEEE sums and products, integer drawing. Images may differ in the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from edgeseg.data.base import LOADERS, Data, Image, Labels, Split
from edgeseg.data.street import draw_scene
from edgeseg.data.street.stage import CLASSES
from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry

SPLITS = {"train": 0, "val": 1, "test": 2}
"""Split -> its part of every seed, so that no scene is in two splits."""

OPTIONS: Registry[str] = Registry("option of synthetic")
"""Name -> default."""

for _name, _default in {"size": "240x320", "train": "512", "val": "64", "test": "64", "seed": "0"}.items():
    OPTIONS.add(_name, _default)


@dataclass(frozen=True)
class Scenes(Split):
    """The scenes of one split, drawn when asked for. `size` is (height, width) in pixels."""

    seed: int
    split: str
    size: tuple[int, int]
    names: tuple[str, ...]

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        return draw_scene((self.seed, SPLITS[self.split], range(len(self))[index]), self.size)


def whole(kind: str, name: str, text: str, low: int, high: int) -> int:
    """The number in an option's text."""
    if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
        raise EdgesegError(f"{name}={text} of {kind}: expected a whole number from {low} to {high}")
    return int(text)


def parse_size(kind: str, text: str) -> tuple[int, int]:
    """(height, width) of `HxW`."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and 64 <= int(side) <= 4096 for side in sides):
        raise EdgesegError(f"size={text} of {kind}: expected HxW with sides from 64 to 4096, for example 240x320")
    return int(sides[0]), int(sides[1])


def options(kind: str, argument: str) -> tuple[tuple[int, int], int, dict[str, tuple[str, ...]]]:
    """Size, seed and the names of each split's images, from `name=value,name=value`; every name has a default."""
    given = dict(part.partition("=")[::2] for part in argument.split(",") if part)
    defaults = {name: OPTIONS[name] for name in (*OPTIONS, *given)}  # a name that is no option ends here
    chosen = defaults | given
    size, seed = parse_size(kind, chosen["size"]), whole(kind, "seed", chosen["seed"], 0, 2**32 - 1)
    counts = {split: whole(kind, split, chosen[split], 1, 100_000) for split in SPLITS}
    return size, seed, {split: tuple(f"{split}-{i:05d}" for i in range(count)) for split, count in counts.items()}


def load(argument: str) -> Data:
    """The data set of `name=value,name=value`; every name has a default."""
    size, seed, names = options("synthetic", argument)
    return Data(
        spec=f"synthetic:{argument}" if argument else "synthetic",
        class_names=tuple(kind.name for kind in CLASSES),
        palette=tuple(kind.colour for kind in CLASSES),
        splits={split: partial(Scenes, seed, split, size, names[split]) for split in SPLITS},
        fit="train",
        select="val",
        test="test",
        licence="Apache-2.0, generated",
    )


LOADERS.add("synthetic", load)
