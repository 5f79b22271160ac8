"""Splits over pairs of files, image and mask: finding them, reading them strictly, holding a block of them out.

Everything is read with Pillow: OpenCV is no faster here, turns the indices of a palette mask into colours, and decodes
a truncated JPEG to a half grey picture without a word.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from os import cpu_count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from edgeseg.data.base import Image, Labels, Split
from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
"""What counts as an image or a mask in a folder; anything else there is not looked at."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Pillow.DecompressionBombError)
"""What Pillow raises for a broken file, depending on the format and on where it is broken."""

_EIGHT_BIT = frozenset({"RGB", "L", "1", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr"})

_SPREAD = {"L;2": 85, "L;4": 17}
"""Pillow spreads the ids of 2- and 4-bit grey PNGs over 0..255: its name of the packing -> the factor to take back."""


@dataclass(frozen=True)
class Pair:
    """An image file and the mask that belongs to it."""

    name: str
    image: Path
    labels: Path


class Meaning:
    """What the ids in mask files mean: class ids or void, by a table `ids`; any other value is an error."""

    def __init__(self, ids: Mapping[int, int]) -> None:
        self._table: Labels = np.full(256, VOID, np.uint8)
        self._foreign = np.ones(256, bool)
        for stored, meant in ids.items():
            self._table[stored], self._foreign[stored] = meant, False

    def of(self, stored: Labels, where: Path) -> Labels:
        """The labels of a mask, `where` it is from."""
        if self._foreign[stored].any():
            counts = np.bincount(stored.ravel(), minlength=256) * self._foreign
            found = ", ".join(f"{value} ({counts[value]} px)" for value in counts.nonzero()[0][:5])
            known = _ranges(np.flatnonzero(~self._foreign))
            raise EdgesegError(f"{where}: label ids out of range: {found}; this data has {known}")
        return self._table[stored]


class Pairs(Split):
    """Pairs of files. `ids` maps what the masks hold to class ids or void; any other value is an error."""

    def __init__(self, pairs: Sequence[Pair], ids: Mapping[int, int]) -> None:
        self.pairs = tuple(pairs)
        self.names = tuple(pair.name for pair in self.pairs)
        self._meaning = Meaning(ids)

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        pair = self.pairs[index]
        image, labels = read_image(pair.image), self._labels(pair)
        same_size(pair.image, image, pair.labels, labels)
        return image, labels

    def image(self, index: int) -> Image:
        return read_image(self.pairs[index].image)

    def _labels(self, pair: Pair) -> Labels:
        return self._meaning.of(read_mask(pair.labels), pair.labels)

    def problems(self, advance: Callable[[int], None] = lambda count: None) -> list[str]:
        """Every problem of every pair, read by a thread per core; `advance` is told of each pair that is done."""
        lines: list[str] = []
        with ThreadPoolExecutor(cpu_count()) as pool:
            for found in pool.map(self._problems_of, self.pairs):
                lines += found
                advance(1)
        return lines

    def _problems_of(self, pair: Pair) -> list[str]:
        image, image_problem = _attempt(lambda: read_image(pair.image))
        labels, labels_problem = _attempt(lambda: self._labels(pair))
        lines = [line for line in (image_problem, labels_problem) if line]
        if image is not None and labels is not None:
            try:
                same_size(pair.image, image, pair.labels, labels)
            except EdgesegError as error:
                lines.append(str(error))
        return lines


def _attempt(read: Callable[[], NDArray[np.uint8]]) -> tuple[NDArray[np.uint8] | None, str]:
    try:
        return read(), ""
    except EdgesegError as error:
        return None, str(error)


def same_size(path: Path, image: Image, mask: Path, labels: Labels) -> None:
    """Nothing where the image and the labels of two files have one size."""
    (h, w), (mask_h, mask_w) = image.shape[:2], labels.shape
    if (h, w) != (mask_h, mask_w):
        raise EdgesegError(f"{path} is {h}x{w} but its mask {mask} is {mask_h}x{mask_w}; they must be the same size")


def _ranges(ids: NDArray[np.intp]) -> str:
    """`0..10, 255` for the ids 0, 1, ... 10 and 255."""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def read_image(path: Path, stored: bytes | None = None) -> Image:
    """The pixels of an image file, `[H, W, 3]` RGB: grey is repeated, alpha dropped, EXIF rotation not applied.

    With `stored` these are its bytes, which are in another file, and `path` is what it is called.
    """
    try:
        with Pillow.open(path if stored is None else BytesIO(stored)) as file:
            if file.mode not in _EIGHT_BIT:
                raise EdgesegError(f"{path}: {file.mode} pixels; save the image with 8 bits per channel")
            # Pillow warns about palettes with transparency unless they go through RGBA
            picture = file.convert("RGBA") if file.mode == "P" and "transparency" in file.info else file
            return np.array(picture.convert("RGB"))
    except _UNREADABLE as error:
        raise EdgesegError(_unreadable(path, error)) from error


def read_mask(path: Path, stored: bytes | None = None) -> Labels:
    """The ids in a mask file, `[H, W]`, as stored: grey or palette indices, 1 to 16 bits; `stored` as for `read_image`."""
    try:
        with Pillow.open(path if stored is None else BytesIO(stored)) as file:
            if file.format == "JPEG":
                raise EdgesegError(f"{path}: a JPEG cannot hold labels (compression changes ids); save the mask as PNG")
            if file.mode not in ("L", "P", "1") and not file.mode.startswith("I"):
                raise EdgesegError(
                    f"{path}: a mask of {file.mode} colours; store one class id per pixel, as 8-bit grey or palette PNG"
                )
            packing = file.tile[0][3] if file.tile else None
            ids = np.array(file)
    except _UNREADABLE as error:
        raise EdgesegError(_unreadable(path, error)) from error
    if not 0 <= ids.min() <= ids.max() <= VOID:
        found = f"a {8 * ids.itemsize}-bit mask with ids {ids.min()}..{ids.max()}"
        raise EdgesegError(f"{path}: {found}; store class ids 0..{VOID}")
    return ids.astype(np.uint8) // np.uint8(_SPREAD.get(str(packing), 1))


def _unreadable(path: Path, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist"
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    reason = "not an image, or damaged" if isinstance(error, UnidentifiedImageError) else first
    return f"cannot read {path}: {reason}; replace the file or remove the pair"


def existing(argument: str, kind: str, page: str = "") -> Path:
    """The folder a data spec names, or one line saying that it is not there, and on which page it is to be had."""
    to_be_had = f"; the data set is at {page}" if page else ""
    if not argument:
        raise EdgesegError(f"{kind} needs a path: {kind}:PATH{to_be_had}")
    path = Path(argument).expanduser()
    if not path.is_dir():
        raise EdgesegError(f"{kind}:{argument}: {'is not a folder' if path.exists() else 'no such folder'}{to_be_had}")
    return path


def layout(root: Path, choices: Sequence[tuple[str, str]]) -> Callable[[str], tuple[Pair, ...]]:
    """What lists the pairs of a split: by the first of `choices`, folders of images and masks, that has `train`."""
    for images, labels in choices:
        if (root / images.format("train")).is_dir() and (root / labels.format("train")).is_dir():
            return lambda split: pair_up(root / images.format(split), root / labels.format(split))
    tried = " | ".join(f"{images} + {labels}".format("train") for images, labels in choices)
    raise EdgesegError(f"{root}: no training images and masks there; needed are the folders {tried}")


def pair_up(images: Path, labels: Path, image_end: str = "", label_end: str = "") -> tuple[Pair, ...]:
    """The pairs of two folders in the order of names: files whose names are equal without the ends.

    An empty end stands for every image suffix, directly in the folder; any other is looked for below the folder too.

    Raises:
        EdgesegError: no images, files without their partner, or two files of one name.
    """
    pictures, masks = _by_name(images, image_end), _by_name(labels, label_end)
    if not pictures:
        raise EdgesegError(f"no images in {images}; expected *{image_end or ' *'.join(sorted(IMAGE_SUFFIXES))}")
    for have, lack, noun, where in ((pictures, masks, "mask", labels), (masks, pictures, "image", images)):
        if alone := [have[name].name for name in sorted(have.keys() - lack.keys())]:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            raise EdgesegError(f"no {noun} in {where} for {', '.join(alone[:3])}{more}; add it or remove the partner")
    return tuple(Pair(name, pictures[name], masks[name]) for name in sorted(pictures))


def _by_name(folder: Path, end: str) -> dict[str, Path]:
    try:
        paths = list(folder.rglob(f"*{end}") if end else folder.iterdir())
    except OSError as error:
        raise EdgesegError(f"cannot list {folder}: {error.strerror}") from error
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        name = path.name.removesuffix(end or path.suffix)
        if name in found:
            raise EdgesegError(f"{found[name]} and {path} share one name; remove one of them")
        found[name] = path
    return found


def hold_out(
    pairs: Iterable[Pair],
    sequence: Callable[[Pair], str],
    share: float = 0.1,
    gap: int = 0,
    followed: Collection[str] = (),
) -> tuple[list[Pair], list[Pair]]:
    """The pairs to learn from, and the last `share` of every sequence, held out.

    `gap` pairs before each held block belong to neither, and for the sequences in `followed`, whose next frames are
    another split's, as many after it.
    """
    fit: list[Pair] = []
    held: list[Pair] = []
    for name, group in groupby(pairs, key=sequence):
        frames = list(group)
        end = len(frames) - gap * (name in followed)
        start = end - max(1, round(share * len(frames)))
        fit += frames[: max(0, start - gap)]
        held += frames[max(0, start) : max(0, end)]
    if not fit or not held:
        raise EdgesegError(f"{len(fit) + len(held)} images are too few to hold some of them out; add more to train")
    return fit, held
