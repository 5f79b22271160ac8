"""The images that activations are measured on: named by the user, never the test images, and written down."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.data import Data
from edgeseg.data.look import noise, swapped
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Calibration
from edgeseg.metrics import VOID

Progress = Callable[[int], None]
"""Called with how many more images were read."""

RARE = 1e-4
"""The share of labelled pixels below which a class counts as hardly seen."""

STRETCHED, ENLARGED = 1.05, 2.0
"""How much more an image may be stretched along one side than along the other, and how much at all, before that is said."""


@dataclass(frozen=True)
class CalibrationSet:
    """RGB images `[H, W, 3]` as they are in the files, and what the manifest says of them."""

    images: list[NDArray[np.uint8]]
    card: Calibration

    def warnings(self, size: tuple[int, int] | None = None) -> list[str]:
        """What a person should know of these images; `size` is the height and width that they are resized to."""
        said = list(self.card.doubts)
        if unseen := [name for name, share in self.card.classes.items() if share == 0]:
            said.append(
                f"no calibration image shows {', '.join(unseen)}: its range is not in the scales; take more images"
            )
        if rare := [name for name, share in self.card.classes.items() if 0 < share < RARE]:
            said.append(f"calibration images hardly show {', '.join(rare)} (below {100 * RARE:g} % of the pixels)")
        if len(self.card.sizes) > 1:
            said.append(f"calibration images have {len(self.card.sizes)} sizes, {', '.join(self.card.sizes[:4])}")
        if size is not None and (unlike := [each for each in self.card.sizes if _unlike(each, size)]):
            said.append(
                f"calibration images of {', '.join(unlike[:4])} are stretched to {size[0]}x{size[1]}: ranges are right if "
                "the artifact's images come like that too; else cut them to its shape, or say another --size"
            )
        return said


def _unlike(text: str, size: tuple[int, int]) -> bool:
    """Whether images of `HxW` come out of another shape, or blown up, in that size."""
    high, wide = (new / int(old) for new, old in zip(size, text.split("x"), strict=True))
    return not max(high, wide) <= STRETCHED * min(high, wide) or max(high, wide) > ENLARGED


SWAPPED = (
    "the calibration images have red where those that the student learned from have blue: they are BGR, so the ranges are not those of "
    "real images"
)

NOISE = "the calibration images are noise, neighbouring pixels have nothing to do with each other: the ranges are not those of real images"


def choose_images(
    data: Data,
    split: str | None,
    count: int,
    progress: Progress | None = None,
    look: Sequence[float] = (),
    judged: Data | None = None,
) -> CalibrationSet:
    """`count` images spread over a split, that to learn from by default.

    look:   of the images that the student learned from; those that come in another order of colours are doubted, as is noise.
    judged: what artifacts are evaluated on, where that is other data: its test images are none to calibrate on either.

    Raises:
        EdgesegError: there are fewer, or one of them is a test image too, by name of the split or by its pixels.
    """
    name = split or data.fit
    if name == data.test:
        raise EdgesegError(
            f"{data.spec}[{name}] is what results are reported on; calibrate on {data.fit} or {data.select}"
        )
    part = data.split(name)
    if not 0 < count <= len(part):
        raise EdgesegError(
            f"{data.spec}[{name}] has {len(part)} images, {count} are to be calibrated on; ask for fewer with --images"
        )
    chosen = np.linspace(0, len(part) - 1, count).astype(int).tolist()
    images, digests, names = [], [], []
    seen = np.zeros(256, np.int64)
    for index in chosen:
        image, labels = part[index]
        images.append(image)
        digests.append(hashlib.sha256(image.tobytes()).hexdigest())
        names.append(part.names[index])
        seen += np.bincount(labels.ravel(), minlength=256)[:256]
        if progress:
            progress(1)
    for each in (data, *([judged] if judged is not None and judged.spec != data.spec else [])):
        if overlapping := _overlap(each, dict(zip(digests, names, strict=True))):
            raise EdgesegError(
                f"{len(overlapping)} of the calibration images are test images of {each.spec} too, e.g. {overlapping[0]}; "
                "a result on them would be no result"
            )
    semantic = data.task == "semantic"
    labelled = max(1, int(seen[:VOID].sum()))
    shares = (
        {label: round(float(seen[i]) / labelled, 6) for i, label in enumerate(data.class_names)} if semantic else {}
    )
    sizes = sorted({f"{image.shape[0]}x{image.shape[1]}" for image in images})
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    card = Calibration(
        f"{data.spec}[{name}]",
        names,
        digest,
        count,
        overlaps_test=False,
        classes=shares,
        sizes=sizes,
        doubts=[*([SWAPPED] if swapped(look, images) else []), *([NOISE] if noise(images) else [])],
    )
    return CalibrationSet(images, card)


def _overlap(data: Data, chosen: dict[str, str]) -> list[str]:
    """The names of the chosen images whose very pixels are in the test split."""
    test = data.split(data.test)
    there = (hashlib.sha256(test.image(index).tobytes()).hexdigest() for index in range(len(test)))
    return [chosen[digest] for digest in there if digest in chosen]
