"""`hf:USER/NAME`, a data set of the Hugging Face Hub, or `hf:PATH`, a folder that `datasets` wrote (`datasets` extra).

    hf:USER/NAME            hf:PATH,image=pixel_values,labels=label,void=0

An image column and a column of masks with class ids are needed; they are found where they have one of the usual names.
`void` is the id that means nothing is known, 255 if it is not given. `id2label.json` in the repository or folder names the classes,
{"0": "road", ...}; without it there are as many as the masks have. `test` is reported if it is there, else `validation`,
else every tenth image; another tenth of `train` chooses the epoch unless all three are there. No code of a repository is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.data.base import LOADERS, Data, Image, Labels, Split
from edgeseg.data.folders import Meaning, read_image, read_mask, same_size
from edgeseg.data.published import Classes, data, hold_some
from edgeseg.errors import EdgesegError, need
from edgeseg.files import read_json
from edgeseg.metrics import VOID
from edgeseg.pictures import distinct_colours
from edgeseg.registry import Registry

OPTIONS: Registry[tuple[str, ...]] = Registry("option of hf")
"""Name -> what is tried where it is not given."""
OPTIONS.add("image", ("image", "pixel_values", "img", "photo"))
OPTIONS.add("labels", ("label", "labels", "annotation", "mask", "segmentation", "semantic", "semantic_mask"))
OPTIONS.add("void", (str(VOID),))

NAMES = "id2label.json"
SELECT, TEST = ("validation", "valid", "val", "dev"), ("test",)
"""What splits are called."""


class Rows(Split):
    """Some rows of a split; the images are decoded by edgeseg, as strictly as those in folders."""

    def __init__(self, table: Any, columns: tuple[str, str], ids: Mapping[int, int], where: str, rows: Sequence[int]):
        self._table, self._columns, self._meaning, self._where = table, columns, Meaning(ids), where
        self._rows = np.array(rows)
        self.names = tuple(f"{row:08d}" for row in rows)

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        row = self._table[int(self._rows[index])]
        image, mask = (_stored(row[name], self._called(index, name)) for name in self._columns)
        pixels, labels = read_image(*image), self._meaning.of(read_mask(*mask), mask[0])
        same_size(image[0], pixels, mask[0], labels)
        return pixels, labels

    def image(self, index: int) -> Image:
        name = self._columns[0]
        return read_image(*_stored(self._table[int(self._rows[index])][name], self._called(index, name)))

    def _called(self, index: int, column: str) -> str:
        return f"{self._where}, row {self.names[index]}, {column}"

    def problems(self) -> list[str]:
        """Every row that cannot be read."""
        lines = []
        for index in range(len(self)):
            try:
                self[index]
            except EdgesegError as error:
                lines.append(str(error))
        return lines


def load(argument: str) -> Data:
    """The data set `NAME_OR_PATH,option=value,...`."""
    source, *given = argument.split(",")
    options = dict(part.partition("=")[::2] for part in given)
    defaults = {name: OPTIONS[name] for name in (*OPTIONS, *options)}  # a name that is no option ends here
    tried = {name: (options[name],) if name in options else usual for name, usual in defaults.items()}
    if not source:
        raise EdgesegError("hf needs a data set: hf:USER/NAME, or hf:PATH of a folder that datasets wrote")
    spec, tables = f"hf:{argument}", _tables(source)
    columns = _columns(source, tables, tried)
    train = next((name for name in tables if name == "train"), next(iter(tables)))
    # what is learned from chooses nothing and reports nothing, whatever it is called
    select = next((name for name in SELECT if name in tables and name != train), None)
    test = next((name for name in TEST if name in tables and name != train), None) or select
    if not (void := tried["void"][0]).isdecimal() or int(void) > VOID:
        raise EdgesegError(f"{spec}: void is an id from 0 to {VOID}, got {void!r}")
    table = _classes(source, int(void)) or _counted(tables, columns[1], int(void), spec)
    ids = table.ids(int(void))

    def rows(name: str) -> list[tuple[str, int]]:
        if name == "test" and test is None:
            return hold_some(rows("all"), held=True)
        if name == "train" and test is None:
            return hold_some(rows("all"), held=False)
        where = train if name == "all" else name
        return [(where, row) for row in range(len(tables[where]))]

    def make(chosen: Sequence[tuple[str, int]]) -> Split:
        name = chosen[0][0]
        return Rows(tables[name], columns, ids, f"{source} [{name}]", [row for _, row in chosen])

    others = [name for name in tables if name not in (train, test)] + [test or "test"]
    three = select if test in TEST else None
    return data(spec, table, rows, make, "see the data set's card", train if test else "train", others, three)


def _tables(source: str) -> dict[str, Any]:
    """Split -> table, on the disk; the bytes of images are left as they are."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    library = need("datasets")
    folder = Path(source).expanduser()
    try:
        stored = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
        found = library.load_from_disk(str(folder)) if stored else library.load_dataset(source)
    except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EdgesegError(f"hf:{source}: {first}") from error
    tables = dict(found) if isinstance(found, dict) else {"train": found}
    return {name: _undecoded(library, table) for name, table in tables.items()}


def _undecoded(library: Any, table: Any) -> Any:
    for name, kind in table.features.items():
        if isinstance(kind, library.Image):
            table = table.cast_column(name, library.Image(decode=False))
    return table


def _columns(source: str, tables: Mapping[str, Any], tried: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The columns of images and of masks."""
    features = next(iter(tables.values())).features
    images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    found = [next((name for name in tried[role] if name in images), None) for role in ("image", "labels")]
    if found[0] is None or found[1] is None or found[0] == found[1]:
        there = ", ".join(images) or f"none among {', '.join(features)}"
        raise EdgesegError(
            f"hf:{source}: which columns are images and masks? say hf:{source},image=A,labels=B; image columns: {there}"
        )
    return found[0], found[1]


def _stored(cell: Any, where: str) -> tuple[Path, bytes | None]:
    """What an undecoded image is called, and its bytes; none where it is a file of its own."""
    if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
        raise EdgesegError(f"{where}: no image there; leave such rows out")
    return (Path(where), cell["bytes"]) if cell.get("bytes") else (Path(cell["path"]), None)


def _classes(source: str, void: int) -> Classes | None:
    """The classes that `id2label.json` names, void left out; null without one."""
    file = Path(source).expanduser() / NAMES
    if not Path(source).expanduser().is_dir():
        hub = need("huggingface_hub")
        try:
            file = Path(hub.hf_hub_download(source, NAMES, repo_type="dataset"))
        except (hub.errors.EntryNotFoundError, hub.errors.LocalEntryNotFoundError):
            return None
        except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
            raise EdgesegError(f"hf:{source}: cannot get {NAMES}: {str(error).splitlines()[0]}") from error
    if not file.exists():
        return None
    try:
        named = {int(id): str(name) for id, name in read_json(file).items() if int(id) != void}
    except (AttributeError, ValueError) as error:
        raise EdgesegError(f'{file}: expected {{"0": NAME, "1": NAME, ...}}') from error
    stored = tuple(sorted(named))
    return Classes(stored, tuple(named[id] for id in stored), distinct_colours(len(stored)))


def _counted(tables: Mapping[str, Any], column: str, void: int, spec: str) -> Classes:
    """As many classes as the largest id in any mask says."""
    largest = -1
    for name, table in tables.items():
        for row in range(len(table)):
            ids = read_mask(*_stored(table[row][column], f"{spec} [{name}], row {row:08d}, {column}"))
            largest = max(largest, int(ids.max(initial=0, where=ids != void)))
    stored = tuple(id for id in range(largest + 1) if id != void)
    if len(stored) < 2:
        raise EdgesegError(f"{spec}: less than two class ids in the masks of {column}; void is {void}")
    return Classes(stored, tuple(f"class_{id}" for id in stored), distinct_colours(len(stored)))


LOADERS.add("hf", load)
