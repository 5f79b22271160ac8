"""`shards:PATH`, tar files of photos as WebDataset and SA-1B have them, read where they are.

    {train,val,test}*.tar       splits by the beginning of the names; or any *.tar: `all`, and splits made of it as for sa1b
    KEY.jpg  KEY.png            a mask of class ids; `classes.json` in PATH names the classes, as for folder. Also KEY.seg.png
    KEY.jpg  KEY.json           {"annotations": [{"segmentation": RLE or polygons}]}: objects, for promptable students
    KEY.jpg                     nothing known: to be embedded by a teacher

One of the three holds for all tar files of a folder. They are not compressed: JPEG and PNG are already.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeseg.data.base import LOADERS, Data, Image, Labels, Split
from edgeseg.data.folder import named
from edgeseg.data.folders import Meaning, existing, read_image, read_mask, same_size
from edgeseg.data.instances import draw
from edgeseg.data.published import OBJECTS, Classes, data, hold_some
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.tars import members, read, split_key

PHOTOS = ("jpg", "jpeg", "webp", "png")
MASKS = ("seg.png", "mask.png", "png")
OBJECT_FILE = "json"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Table:
    """Where the samples of some tar files are.

    names:  key of each sample.
    files:  the tar files; `of [N]` says in which a sample is.
    places: `[N, 2, 2]` first byte and size of its photo, and of its labels, -1 where it has none.
    ending: of the files with labels; nothing where there are none.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    of: NDArray[np.int64]
    places: NDArray[np.int64]
    ending: str


Row: TypeAlias = tuple[Table, int]


class Tars(Split):
    """Samples of tar files."""

    def __init__(self, chosen: Sequence[Row], ids: dict[int, int]) -> None:
        self._table = chosen[0][0]
        self._rows = np.array([row for _, row in chosen])
        self._meaning = Meaning(ids)
        self.names = tuple(self._table.names[row] for row in self._rows)

    @property
    def parts(self) -> list[tuple[str, int]]:
        """The tar files and how many of the samples each has, in order."""
        groups = groupby(self._table.of[self._rows].tolist())
        return [(self._table.files[file].name, len(list(group))) for file, group in groups]

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        row = int(self._rows[index])
        file = self._table.files[self._table.of[row]]
        path, image = file / self.names[index], self.image(index)
        labels = self._table.places[row, 1].tolist()
        if labels[0] < 0:
            return image, np.full(image.shape[:2], VOID, np.uint8)
        stored, where = read(file, *labels), path.with_name(f"{path.name}.{self._table.ending}")
        if self._table.ending == OBJECT_FILE:
            return image, draw(_annotations(stored, where), image, str(where))
        ids = self._meaning.of(read_mask(where, stored), where)
        same_size(path, image, where, ids)
        return image, ids

    def image(self, index: int) -> Image:
        row = int(self._rows[index])
        file = self._table.files[self._table.of[row]]
        return read_image(file / self.names[index], read(file, *self._table.places[row, 0].tolist()))


def _annotations(stored: bytes, where: Path) -> list[Any]:
    try:
        found: list[Any] = json.loads(stored)["annotations"]
    except (ValueError, TypeError, KeyError) as error:
        raise EdgesegError(f'{where}: expected {{"annotations": [{{"segmentation": ...}}, ...]}}') from error
    return found


def load(argument: str) -> Data:
    """The tar files in the folder `argument`."""
    spec, root = f"shards:{argument}", existing(argument, "shards")
    files = sorted(root.glob("*.tar"))
    if not files:
        raise EdgesegError(f"{spec}: no *.tar there")
    whole = _by_split(files, spec)
    ending = scan(next(iter(whole.values()))[:1]).ending
    table, ids = _classes(root, spec) if ending in MASKS else (OBJECTS if ending else Classes((), (), ()), {})

    def rows(name: str) -> list[Row]:
        if name in whole:
            found = scan(whole[name], ending)
            return [(found, row) for row in range(len(found.names))]
        return hold_some(rows("all"), held=name == "test")

    return data(
        spec,
        table,
        rows,
        lambda chosen: Tars(chosen, ids),
        licence="your own data",
        others=[name for name in whole if name != "train"] + ["test"] * ("all" in whole),
        select="val" if len(whole) == len(SPLITS) else None,
        task="promptable" if ending == OBJECT_FILE else "semantic",
    )


def _by_split(files: Sequence[Path], spec: str) -> dict[str, list[Path]]:
    """The tar files of `train` and of the splits beside it, or of `all`."""
    found = {name: [file for file in files if file.name.startswith(name)] for name in SPLITS}
    there = {name: some for name, some in found.items() if some}
    if "train" not in there or len(there) == 1:
        return {"all": list(files)}
    if stray := [file.name for file in files if not file.name.startswith(SPLITS)]:
        raise EdgesegError(
            f"{spec}: which split is {stray[0]} of? begin its name with {', '.join(SPLITS)}, or no name so"
        )
    return there


def _classes(root: Path, spec: str) -> tuple[Classes, dict[int, int]]:
    file = root / "classes.json"
    if not file.exists():
        raise EdgesegError(f"{spec}: {file} is not there; it names the classes of the masks, as for folder:PATH")
    names, palette, ids = named(file)
    return Classes(tuple(range(len(names))), names, palette), ids


def scan(files: Sequence[Path], ending: str | None = None) -> Table:
    """Where the samples of tar files are; all have labels of the kind of the first, or of `ending`.

    Raises:
        EdgesegError: a file is cut off, or a sample lacks its photo or its labels.
    """
    names: list[str] = []
    of, places = array("q"), array("q")
    for number, file in enumerate(files):
        for key, group in groupby(members(file), lambda member: split_key(member[0])[0]):
            found = {split_key(name)[1]: (first, size) for name, first, size in group}
            labels = next((end for end in (*MASKS, OBJECT_FILE) if end in found and len(found) > 1), "")
            photo = next((end for end in PHOTOS if end in found and end != labels), None)
            ending = labels if ending is None else ending
            if photo is None or ending not in ("", labels):
                lacking = "photo" if photo is None else f".{ending}"
                raise EdgesegError(f"{file}: {key} has no {lacking}, only {', '.join(found)}; make the tar file again")
            names.append(key)
            of.append(number)
            places.extend((*found[photo], *(found[ending] if ending else (-1, -1))))
    if not names:
        raise EdgesegError(f"{', '.join(map(str, files))}: no sample in it")
    return Table(
        tuple(names),
        tuple(files),
        np.frombuffer(of, np.int64),
        np.frombuffer(places, np.int64).reshape(-1, 2, 2),
        ending or "",
    )


LOADERS.add("shards", load)
