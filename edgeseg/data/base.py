"""What a data set is to the rest of edgeseg: named splits of (image, labels) pairs with classes and colours.

A loader is one file that registers a function `PATH -> Data`; `void` is always `edgeseg.metrics.VOID` (255) once loaded,
whatever the files say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeseg.registry import Registry

Image: TypeAlias = NDArray[np.uint8]
"""`[H, W, 3]`, RGB, 0..255."""

Labels: TypeAlias = NDArray[np.uint8]
"""`[H, W]`, class ids, 255 = void."""


OBJECT_NAMES = ("background", "object")
"""The class names of promptable data."""


class Split(ABC):
    """An ordered list of labelled images. Picklable, since loader processes receive a copy."""

    names: tuple[str, ...]
    """One readable name per image, e.g. `0001TP_006690`."""

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        """The decoded pair. Errors name the file and what is wrong with it."""

    def image(self, index: int) -> Image:
        """The decoded image alone; a split whose labels take time to read says how."""
        return self[index][0]

    def problems(self) -> list[str]:
        """Every unreadable file, size mismatch and label id out of range, one line each; slow, reads everything."""
        return []


@dataclass(frozen=True)
class Data:
    """A data set.

    task: `semantic` labels are class ids; `promptable` ones number the objects of an image, 0 is background.
    fit / select / test: the splits to learn from, to choose the best epoch by, and to report once. `select` never
    overlaps `fit`, and stays away from `test`.
    """

    spec: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    splits: Mapping[str, Callable[[], Split]]
    fit: str
    select: str
    test: str
    licence: str
    task: Literal["semantic", "promptable"] = "semantic"

    def split(self, name: str) -> Split:
        """The split of that name, or an error that lists the names there are."""
        names: Registry[Callable[[], Split]] = Registry(f"split of {self.spec}")
        for key, make in self.splits.items():
            names.add(key, make)
        return names[name]()


LOADERS: Registry[Callable[[str], Data]] = Registry("data kind")
"""`kind` of `kind:PATH` -> what loads it."""
