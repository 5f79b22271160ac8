"""Large COCO files, whose annotations stay on the disk: read once, what is kept is where in the file those of each image are.

`instances_train2017.json` is 450 MB, and gigabytes as Python objects in every loader process; its index is 14 MB.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError

BLOCK = 1 << 20
"""Bytes read at a time; more where one element is longer."""

SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Index:
    """The images of a COCO file in the order of their ids, and where their annotations are.

    images: path of each image, below the folder that the loader knows.
    sizes:  `[N, 2]` height and width.
    first:  `[N + 1]` the annotations of image i are the rows first[i] to first[i + 1] of `spans`.
    spans:  `[A, 2]` first byte of an annotation in the file, and the one behind its last.
    """

    file: Path
    images: tuple[str, ...]
    sizes: NDArray[np.int32]
    first: NDArray[np.int64]
    spans: NDArray[np.int64]

    def annotations(self, image: int) -> list[Any]:
        """What the file says of an image, read now."""
        with self.file.open("rb") as file:
            found = []
            for start, stop in self.spans[self.first[image] : self.first[image + 1]].tolist():
                file.seek(start)
                found.append(json.loads(file.read(stop - start)))
        return found


Row: TypeAlias = tuple[Index, int]
"""An image of an index."""


def index(file: Path, place: Callable[[Any], str], counts: Callable[[Any], bool]) -> list[Row]:
    """The images of a COCO file that at least one annotation `counts` for; `place` says where an image is.

    Raises:
        EdgesegError: the file is not there, not whole, or not of COCO's form; no image is left.
    """
    images: dict[int, tuple[str, int, int]] = {}
    of, spans, wanted = array("q"), array("q"), set()
    try:
        for key, start, stop, entry in elements(file, ("images", "annotations")):
            if key == "images":
                images[entry["id"]] = _inner(place(entry), file), entry["height"], entry["width"]
                continue
            of.append(entry["image_id"])
            spans.extend((start, stop))
            if counts(entry):
                wanted.add(entry["image_id"])
    except (KeyError, TypeError, OverflowError) as error:
        raise EdgesegError(f"{file}: an entry without {error} of the right kind; is it a COCO file?") from error
    ids = sorted(wanted & images.keys())
    if not ids:
        raise EdgesegError(
            f"{file} has no image with an annotation to learn from ({len(images)} images, {len(of)} annotations)"
        )
    owners = np.frombuffer(of, np.int64)
    order = np.argsort(owners, kind="stable")
    begin, end = (np.searchsorted(owners[order], ids, side=side) for side in ("left", "right"))
    chosen = np.concatenate([order[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)])
    made = Index(
        file,
        tuple(images[id][0] for id in ids),
        np.array([images[id][1:] for id in ids], np.int32),
        np.concatenate([[0], (end - begin).cumsum()]),
        np.frombuffer(spans, np.int64).reshape(-1, 2)[chosen],
    )
    return [(made, image) for image in range(len(ids))]


def _inner(path: str, file: Path) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise EdgesegError(f"{file}: the image {path!r} is outside of the data's folder; refusing to read it")
    return path


def rows(chosen: Sequence[Row]) -> tuple[Index, NDArray[np.int64]]:
    """The index that rows are of, and which of its images they are."""
    return chosen[0][0], np.array([image for _, image in chosen])


def elements(file: Path, keys: Collection[str]) -> Iterator[tuple[str, int, int, Any]]:
    """Every element of the top-level arrays `keys` of a JSON document: key, first byte, the one behind its last, and its value.

    One is in memory at a time, whatever the size of the file.
    """
    try:
        with file.open("rb") as stream:
            yield from _Reader(stream.read, keys).walk()
    except FileNotFoundError:
        raise EdgesegError(f"{file} does not exist") from None
    except json.JSONDecodeError as error:
        raise EdgesegError(f"{file} is not whole: {error.msg} near byte {error.pos}; get it again") from error
    except UnicodeDecodeError as error:
        raise EdgesegError(f"{file} is not UTF-8 ({error.reason}); get it again") from error


class _Reader:
    """A JSON object read block by block. Latin-1 keeps places in the text and in the file the same."""

    def __init__(self, read: Callable[[int], bytes], keys: Collection[str]) -> None:
        self._read, self._keys = read, keys
        self._decode = json.JSONDecoder(strict=False).raw_decode  # Latin-1 has control characters of its own
        self._text, self._base, self._at = "", 0, 0

    def walk(self) -> Iterator[tuple[str, int, int, Any]]:
        self._expect("{")
        more = self._next() != "}"
        while more:
            key = str(self._value()[2])
            self._expect(":")
            if key in self._keys:
                for start, stop, value in self._array():
                    yield key, start, stop, value
            else:
                self._value()
            more = self._expect(",", "}") == ","

    def _array(self) -> Iterator[tuple[int, int, Any]]:
        self._expect("[")
        if self._next() == "]":
            self._expect("]")
            return
        yield self._value()
        while self._expect(",", "]") == ",":
            yield self._value()

    def _value(self) -> tuple[int, int, Any]:
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                if end < len(self._text) or not self._more():  # at the end of the block it could go on
                    break
            except json.JSONDecodeError:
                if not self._more():
                    self._fail("a value is cut off")
        text = self._text[self._at : end]
        if not text.isascii():
            value = json.loads(text.encode("latin-1"))
        start, stop, self._at = self._base + self._at, self._base + end, end
        return start, stop, value

    def _expect(self, *marks: str) -> str:
        found = self._next()
        if found not in marks:
            self._fail(f"expected {' or '.join(marks)}, got {found or 'the end'}")
        self._at += 1
        return found

    def _next(self) -> str:
        """The next character that is no space, left where it is; nothing at the end."""
        while True:
            space = SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Drop what is read, and read on: twice as much each time that is not enough for one element."""
        rest = self._text[self._at :]
        block = self._read(max(BLOCK, len(rest)))
        self._text, self._base, self._at = rest + block.decode("latin-1"), self._base + self._at, 0
        return bool(block)

    def _fail(self, why: str) -> None:
        raise json.JSONDecodeError(why, "", self._base + self._at)
