"""`auto` ranges: the estimator, and biases corrected or not, that keep most labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from edgeseg.data import Data
from edgeseg.export.deployed import Deployed
from edgeseg.parity import Picture, choose
from edgeseg.quantize.choice import ESTIMATORS, best
from edgeseg.quantize.graph import traced
from edgeseg.quantize.post_training import apply, calibrate
from edgeseg.quantize.scheme import Recipe
from edgeseg.quantize.sensitivity import given, labels_of
from tests.quantize.conftest import SIZE


@pytest.fixture(scope="module")
def pictures(tiny_data: Data) -> list[Picture]:
    return choose(tiny_data, None, 4, SIZE)[1]


def kept(network: Deployed, recipe: Recipe, images: list[Tensor], pictures: list[Picture]) -> float:
    """The share of labels that stay, worked out anew."""
    whole = apply(network, calibrate(network, "tensorrt", "int8", recipe, images))
    graph, probes = traced(network), [given(network, one) for one in pictures]
    return float(np.mean([(labels_of(whole, probe) == labels_of(graph, probe)).mean() for probe in probes]))


@pytest.mark.usefixtures("remembered")
def test_the_best_of_all_is_taken(network: Deployed, images: list[Tensor], pictures: list[Picture]) -> None:
    said: list[str] = []
    auto = Recipe("auto", keep=("net.side",))
    made = best(network, "tensorrt", "int8", auto, images, pictures, said.append)
    every = {
        (ranges, corrected): kept(network, replace(auto, ranges=ranges, bias_correction=corrected), images, pictures)
        for ranges in ESTIMATORS
        for corrected in (True, False)
    }
    assert len(said) == len(every)
    assert len(set(every.values())) > 2  # it is a choice
    assert every[made.recipe.ranges, made.recipe.bias_correction] == max(every.values())
    assert made.recipe.keep == auto.keep


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("recipe", [Recipe("percentile"), Recipe("minmax", bias_correction=False)])
def test_what_is_asked_for_is_not_chosen(
    network: Deployed, images: list[Tensor], pictures: list[Picture], recipe: Recipe
) -> None:
    made = best(network, "openvino", "int8", recipe, images, pictures)
    assert made == calibrate(network, "openvino", "int8", recipe, images)


@pytest.mark.usefixtures("remembered")
def test_weights_alone_have_no_ranges_to_choose(
    network: Deployed, images: list[Tensor], pictures: list[Picture]
) -> None:
    said: list[str] = []
    made = best(network, "openvino", "w8a32", Recipe("auto"), images, pictures, said.append)
    assert len(said) == 2
    assert made.recipe.ranges == "minmax"
