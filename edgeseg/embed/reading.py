"""Embedded images read back: one by one, by name, or all of them to see that they are whole."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.embed.job import ARRAY, MANIFEST, NOTE, Embeddings, Job, Shard
from edgeseg.errors import EdgesegError
from edgeseg.files import inside
from edgeseg.tars import key_of, members, read


@dataclass(frozen=True)
class Look:
    """What a teacher made of an image.

    array: float16 `[C, h, w]`.
    image: (height, width) of the image.
    seen:  (height, width) of what the array covers, in pixels of the image, from its top left: the padding included.
    pixels: what tells the image from others of its name (`work.pixels_of`); empty where that was not written down.
    """

    array: NDArray[np.float16]
    image: tuple[int, int]
    seen: tuple[int, int]
    pixels: str = ""


class Embedded:
    """The shards in a folder; in memory is only where each image is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, schema.read(Embeddings, folder / MANIFEST)
        self._files = [inside(folder, name) for name, _ in self.manifest.shards]

    def places(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Where the images `names` are, `[N, 5]`: shard, then first byte and size of the array and of the note.

        Raises:
            EdgesegError: a shard is cut off, or an image was never embedded.
        """
        wanted = {key_of(name): row for row, name in enumerate(names)}
        found = np.full((len(names), 5), -1, np.int64)
        for number, file in enumerate(self._files):
            if file.exists():
                for name, first, size in members(file):
                    key, ending = name[: name.rfind(".")], name[name.rfind(".") :]
                    if (row := wanted.get(key)) is not None:
                        at = 1 if ending == ARRAY else 3
                        found[row, 0], found[row, at : at + 2] = number, (first, size)
        if len(lacking := np.flatnonzero((found < 0).any(1))):
            some = ", ".join(names[row] for row in lacking[:3])
            raise EdgesegError(
                f"{self.folder} has nothing of {len(lacking)} of {len(names)} images ({some}); it is {self.manifest.split} of "
                f"{self.manifest.data}: finish it with edgeseg embed, or embed the split that is learned from"
            )
        return found

    def look(self, place: NDArray[np.int64]) -> Look:
        """The image at a place."""
        shard, first, size, note_first, note_size = place.tolist()
        file = self._files[shard]
        stored, written = read(file, first, size), read(file, note_first, note_size)
        try:
            array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(stored), allow_pickle=False)
            note = json.loads(written)
            look = Look(array, tuple(note["image"]), tuple(note["seen"]), str(note.get("pixels", "")))
        except (ValueError, KeyError, TypeError) as error:
            raise EdgesegError(f"{file} is damaged at byte {first} ({error}); see edgeseg embed --check") from error
        if array.dtype != np.float16 or array.ndim != 3:
            raise EdgesegError(
                f"{file} has {array.dtype} of {array.ndim} axes at byte {first}; see edgeseg embed --check"
            )
        return look


def problems(job: Job, advance: Callable[[int], None] = lambda count: None) -> list[str]:
    """Everything that is missing, cut off or changed in the shards of a job, one line each; reads all of them."""
    job.compare()
    lines: list[str] = []
    for shard in job.shards:
        lines += _of_shard(job, shard)
        advance(shard.stop - shard.start)
    return lines


def _of_shard(job: Job, shard: Shard) -> Iterator[str]:
    file = job.out / shard.name
    if not file.exists():
        yield f"{file} is missing: {job.keys[shard.start]} to {job.keys[shard.stop - 1]}"
        return
    there: dict[str, str] = {}
    try:
        for name, first, size in members(file):
            there[name] = (_digest if name.endswith(ARRAY) else _noted)(read(file, first, size))
    except EdgesegError as error:
        yield str(error)
    for key in job.keys[shard.start : shard.stop]:
        lacking = [key + end for end in (ARRAY, NOTE) if key + end not in there]
        if lacking:
            yield f"{file} lacks {' and '.join(lacking)}"
        elif there[key + ARRAY] != there[key + NOTE]:
            yield f"{file}: {key}{ARRAY} is not what was written: its SHA-256 differs from the one in {key}{NOTE}"
    known = {key + end for key in job.keys[shard.start : shard.stop] for end in (ARRAY, NOTE)}
    for name in sorted(there.keys() - known):
        yield f"{file} has {name}, which is not in the data"


def _digest(stored: bytes) -> str:
    return hashlib.sha256(stored).hexdigest()


def _noted(note: bytes) -> str:
    """The digest that a note has; nothing where it is no note any more."""
    try:
        return str(json.loads(note)["sha256"])
    except (ValueError, KeyError, TypeError):
        return ""
