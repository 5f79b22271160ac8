"""How a network is best quantized: the ranges, and the biases, that keep most labels in PyTorch on a few labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from edgeseg.export.deployed import ImageNetwork
from edgeseg.parity import Picture
from edgeseg.quantize.document import Quantization
from edgeseg.quantize.graph import copied, traced
from edgeseg.quantize.post_training import apply, calibrate, calibrations
from edgeseg.quantize.scheme import Ranges, Recipe, scheme_for
from edgeseg.quantize.sensitivity import given, labels_of

ESTIMATORS: tuple[Ranges, ...] = ("minmax", "percentile", "mse")
"""Range estimators that are tried; `entropy` clips more than segmentation bears."""

PROBES = 8
"""Images that they are told apart on."""

Say = Callable[[str], None]


def best(
    network: ImageNetwork,
    target: str,
    precision: str,
    recipe: Recipe,
    images: Sequence[Tensor],
    pictures: Sequence[Picture],
    say: Say = lambda words: None,
) -> Quantization:
    """What a recipe makes of a network; with `auto` ranges, that with which most labels of `pictures` stay.

    images: to calibrate on, as the network takes them.
    """
    if recipe.ranges != "auto":
        return calibrate(network, target, precision, recipe, images)
    estimators = ESTIMATORS if scheme_for(target, precision).activations else (recipe.fixed.ranges,)
    recipes = [
        replace(recipe, ranges=ranges, bias_correction=corrected)
        for ranges in estimators
        for corrected in ((True, False) if recipe.bias_correction else (False,))
    ]
    graph = traced(network)
    probes = [given(network, one) for one in pictures]
    before = [labels_of(graph, probe) for probe in probes]
    found: list[tuple[float, Quantization]] = []
    for made in calibrations(network, target, precision, recipes, images, copied(graph)):
        after = apply(network, made, copied(graph))
        same = [float((labels_of(after, probe) == old).mean()) for probe, old in zip(probes, before, strict=True)]
        found.append((sum(same) / len(same), made))
        biases = "corrected" if made.recipe.bias_correction else "as they were"
        say(
            f"ranges by {made.recipe.ranges}, biases {biases}: {100 * found[-1][0]:.3f} % of the labels stay, in PyTorch"
        )
    return max(found, key=lambda entry: entry[0])[1]
