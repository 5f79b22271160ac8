"""What was quantized wrongly does not ship, and for the right reason: from calibration to the verdict."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.data import Data
from edgeseg.data.base import Split
from edgeseg.data.look import look_of
from edgeseg.evaluate import evaluate
from edgeseg.export import OnnxRuntime
from edgeseg.manifest import Source
from edgeseg.quantize.calibration import NOISE, SWAPPED
from edgeseg.quantize.model import quantize_model
from edgeseg.quantize.scheme import Recipe
from edgeseg.results import collect
from edgeseg.runs import read_card, save
from edgeseg.students import Semantic
from edgeseg.verdict import judge
from tests.quantize.conftest import SIZE, poisoned
from tests.report.stored import Store

Image = NDArray[np.uint8]


class Changed(Split):
    """A split whose images are not as they were."""

    def __init__(self, part: Split, how: Callable[[Image], Image]) -> None:
        self.part, self.how, self.names = part, how, part.names

    def __getitem__(self, index: int) -> tuple[Image, Image]:
        image, truth = self.part[index]
        return self.how(image), truth


def right(image: Image) -> Image:
    return image


def bgr(image: Image) -> Image:
    return np.ascontiguousarray(image[..., ::-1])


def noise(image: Image) -> Image:
    return np.random.default_rng(int(image.sum())).integers(0, 256, image.shape, np.uint8)


def broken(student: Semantic) -> Semantic:
    """With a block that cannot bear whole numbers."""
    return poisoned(student)


MASKS = r"the masks change from student -> graph \(int8, 8 images\): only [\d.]+ % of the pixels keep their label"
LOSS = r"it loses [\d.]+ points of mIoU \(.*\), more than the allowed 0.50$"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "seen", "doubts", "why"),
    [
        (copy.deepcopy, right, [], []),
        (copy.deepcopy, noise, [NOISE], [re.escape(NOISE)]),
        (copy.deepcopy, bgr, [SWAPPED], [re.escape(SWAPPED)]),
        (broken, right, [], [MASKS, LOSS]),
    ],
    ids=["nothing", "calibrated on noise", "calibrated on BGR", "a poisoned layer"],
)
def test_what_is_broken_does_not_ship(
    taught: Semantic,
    tiny_data: Data,
    tmp_path: Path,
    make: Callable[[Semantic], Semantic],
    seen: Callable[[Image], Image],
    doubts: list[str],
    why: list[str],
) -> None:
    student, train = make(taught), tiny_data.split("train")
    student.look = tuple(look_of(train))
    run = save(student, tmp_path / "run", size=SIZE)
    digest = read_card(run).sha256
    calib = replace(tiny_data, splits={**tiny_data.splits, "train": lambda: Changed(train, seen)})
    artifact = quantize_model(
        student,
        OnnxRuntime(precision="int8"),
        calib,
        tmp_path / "int8",
        SIZE,
        len(train),
        recipe=Recipe(),
        source=Source(str(run), digest),
        data=tiny_data,
    )
    evaluate(run, student, digest, tiny_data, tiny_data.test, "run")
    evaluate(artifact.folder, artifact, artifact.sha256, tiny_data, tiny_data.test, "artifact")
    Store(tmp_path).record("int8", artifact.manifest, executed="int8")  # as a device would have measured it

    assert artifact.manifest.calibration is not None
    assert artifact.manifest.calibration.doubts == doubts
    (verdict,) = judge(collect(tmp_path))
    said = [reason.text for reason in verdict.reasons]
    assert verdict.decided
    assert verdict.ship == (not why), said
    for reason in why:
        assert any(re.match(reason, text) for text in said), said
    assert not any(text.startswith("the masks change from graph -> ") for text in said)  # the runtime is not to blame
