"""`sa1b:PATH`, Segment Anything's 11 million photos with a hundred masks each, or as much of them as there is.

    sa_000020/sa_223750.jpg  sa_000020/sa_223750.json         a folder for each archive, or all in PATH itself

Masks have no classes and lie in each other; the smaller one is in front. There are no official splits: of the images in the
order of their numbers every tenth is reported, a thousand at most, and as many of the others choose the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgeseg.data.base import LOADERS, Data, Image, Labels, Split
from edgeseg.data.folders import existing, read_image
from edgeseg.data.instances import draw
from edgeseg.data.published import OBJECTS, data, hold_some
from edgeseg.errors import EdgesegError
from edgeseg.files import read_json

PAGE = "https://ai.meta.com/datasets/segment-anything-downloads"


class Masks(Split):
    """Photos with the JSON files beside them; nothing of either is kept."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root, self.names = root, tuple(names)

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        path = self._root / f"{self.names[index]}.jpg"
        image, file = read_image(path), path.with_suffix(".json")
        document = read_json(file)
        try:
            annotations = document["annotations"]
        except (TypeError, KeyError) as error:
            raise EdgesegError(f'{file}: expected {{"image": ..., "annotations": [...]}}; is it of SA-1B?') from error
        return image, draw(annotations, image, str(file))

    def image(self, index: int) -> Image:
        return read_image(self._root / f"{self.names[index]}.jpg")


def load(argument: str) -> Data:
    """The part of SA-1B in the folder `argument`."""
    spec = f"sa1b:{argument}"
    root = existing(argument, "sa1b", PAGE)
    known = partial(_names, root, spec)

    def names(split: str) -> list[str]:
        return hold_some(known(), held=split == "test")

    licence = "SA-1B research licence"
    return data(spec, OBJECTS, names, partial(Masks, root), licence, others=("test",), task="promptable")


def _names(root: Path, spec: str) -> list[str]:
    """`sa_000020/sa_223750` of all images in the order of their numbers; each has its masks."""
    found: list[str] = []
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        photos, masks = ({path.stem for path in folder.glob(f"sa_*{end}")} for end in (".jpg", ".json"))
        for lone, lacking in ((photos - masks, ".json"), (masks - photos, ".jpg")):
            if lone:
                some = ", ".join(sorted(lone)[:3]) + (f" and {len(lone) - 3} more" if len(lone) > 3 else "")
                raise EdgesegError(
                    f"{spec}: {folder} has no {lacking} for {some}; unpack the archive again, from {PAGE}"
                )
        found += [(folder / name).relative_to(root).as_posix() for name in photos]
    if not found:
        raise EdgesegError(f"{spec}: no sa_*.jpg there or one folder below; unpack an archive of {PAGE}")
    return sorted(found, key=lambda name: (int(re.sub(r"\D", "", name.rpartition("/")[2]) or 0), name))


LOADERS.add("sa1b", load)
