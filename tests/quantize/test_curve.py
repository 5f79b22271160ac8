"""Are the calibration images enough: fewer of them, drawn again and again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from edgeseg.data import Data
from edgeseg.export.deployed import Deployed
from edgeseg.manifest import Enough
from edgeseg.parity import Picture, choose
from edgeseg.quantize.calibration import CalibrationSet
from edgeseg.quantize.curve import curve_words, size_curve
from edgeseg.quantize.graph import traced
from edgeseg.quantize.post_training import apply, calibrate
from edgeseg.quantize.scheme import Recipe
from edgeseg.quantize.sensitivity import given, labels_of
from tests.quantize.conftest import SIZE


@pytest.fixture(scope="module")
def pictures(tiny_data: Data) -> list[Picture]:
    return choose(tiny_data, "val", 4, SIZE)[1]


@pytest.mark.usefixtures("remembered")
def test_the_last_point_is_what_all_images_give(
    network: Deployed, chosen: CalibrationSet, images: list[Tensor], pictures: list[Picture], tiny_data: Data
) -> None:
    curve = size_curve(network, "openvino", "int8", Recipe(), chosen, pictures)
    assert [at.count for at in curve] == [1, 2, 4, 8]
    assert all(0.5 < at.low <= at.kept <= at.high <= 1 for at in curve)
    recipe = Recipe(bias_correction=False)
    made = apply(network, calibrate(network, "openvino", "int8", recipe, images))
    graph = traced(network)
    _, probes = choose(tiny_data, "val", 4, SIZE)
    same = [(labels_of(made, given(network, one)) == labels_of(graph, given(network, one))).mean() for one in probes]
    assert curve[-1].kept == pytest.approx(float(np.mean(same)))


@pytest.mark.usefixtures("remembered")
def test_one_image_of_another_kind_makes_few_images_unsure(
    network: Deployed, chosen: CalibrationSet, pictures: list[Picture]
) -> None:
    black = [np.zeros_like(image) for image in chosen.images]
    mixed = replace(chosen, images=[*black[:7], chosen.images[7]])
    curve = size_curve(network, "openvino", "int8", Recipe(), mixed, pictures)
    assert curve[0].low < curve[-1].kept - 0.02  # a draw of black images alone
    assert curve_words(curve).startswith("8 images may be too few: ")


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ([Enough(1, 1, 1, 1)], "one image is too few to say whether it is enough"),
        (
            [Enough(32, 0.998, 0.9975, 0.9985), Enough(64, 0.998, 0.998, 0.998)],
            "64 images are enough: 32 of them keep 99.75 to 99.85 % of the labels in 5 draws, all of them 99.80 %",
        ),
        (
            [Enough(32, 0.99, 0.97, 0.998), Enough(64, 0.998, 0.998, 0.998)],
            "64 images may be too few: 32 of them keep 97.00 to 99.80 % of the labels in 5 draws, all of them 99.80 %",
        ),
    ],
)
def test_the_answer_in_words(curve: list[Enough], words: str) -> None:
    assert curve_words(curve) == words
