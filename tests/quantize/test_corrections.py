"""Corrected biases and equalised channels, held against loops of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgeseg.export.deployed import Deployed
from edgeseg.quantize.equalise import _pairs, equalise
from edgeseg.quantize.graph import Plan, Scale, attribute, keys, plan, put, rounded_weight, traced
from edgeseg.quantize.post_training import apply, calibrate, correct
from edgeseg.quantize.ranges import observe, scales
from edgeseg.quantize.scheme import Recipe, scheme_for
from edgeseg.students import Semantic
from tests.quantize.conftest import SIZE, answers, difference, poisoned, same
from tests.quantize.networks import Last

SCHEME = scheme_for("onnxruntime", "int8")
RECIPE = Recipe(output=True)


def found(graph: GraphModule, images: list[Tensor]) -> tuple[Plan, dict[int, Scale]]:
    """What a graph's plan is, and its scales."""
    chosen = plan(graph, SCHEME, RECIPE)
    return chosen, scales(observe(graph, chosen, lambda: images, histograms=False), SCHEME, "minmax")


def rounded(x: NDArray[np.float64], at: Scale) -> NDArray[np.float64]:
    return (np.clip(np.rint(x / at.scale) + at.zero, 0, 255) - at.zero) * at.scale


def in_eight_bits(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    step = np.abs(weight.reshape(len(weight), -1)).max(1).reshape(-1, *[1] * (weight.ndim - 1)) / 127
    return np.rint(weight / step) * step


def sums(x: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """A 3x3 convolution `[N, I, H, W]`, padded by 1, as nine products."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    total = np.zeros((len(x), len(weight), height, width))
    for r in range(3):
        for c in range(3):
            total += np.einsum("oi,nihw->nohw", weight[:, :, r, c], padded[:, :, r : r + height, c : c + width])
    return total


def array(value: Tensor) -> NDArray[np.float64]:
    made: NDArray[np.float64] = value.detach().double().numpy()
    return made


def test_the_mean_error_of_a_convolution_is_taken_out_of_its_bias() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(layer := nn.Conv2d(4, 6, 3, padding=1))
    with torch.no_grad():  # one large weight makes all others of its channel coarse, and none is below zero
        layer.weight.uniform_(0.0, 0.02)
        layer.weight[:, 0, 1, 1] = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    images = [torch.rand(1, 4, 8, 9) * 3 for _ in range(5)]
    graph = traced(network, (images[0],))
    chosen, at = found(graph, images)
    made = correct(graph, chosen, SCHEME, at, images)
    assert list(made) == [keys(graph)[chosen.units[0].node]]

    x, weight = np.concatenate([array(image) for image in images]), array(layer.weight)
    given = at[chosen.groups[chosen.units[0].inputs[0]]]
    error = (sums(x, weight) - sums(rounded(x, given), in_eight_bits(weight))).mean((0, 2, 3))
    assert np.allclose(made[keys(graph)[chosen.units[0].node]], error, atol=1e-5 * np.abs(error).max())
    after = (sums(x, weight) - sums(rounded(x, given), in_eight_bits(weight))).mean((0, 2, 3))
    after -= np.array(made[keys(graph)[chosen.units[0].node]])
    assert np.abs(after).max() < 1e-3 * np.abs(error).max()
    assert np.abs(error).max() > 0.01  # there was something to correct


def test_channels_of_a_linear_layer_are_the_last_axis() -> None:
    torch.manual_seed(0)
    network = Last(5).eval()
    images = [torch.rand(1, 5, 4, 7) * (index + 1) for index in range(3)]
    graph = traced(network, (images[0],))
    chosen, at = found(graph, images)
    made = correct(graph, chosen, SCHEME, at, images)
    (unit,) = chosen.units
    weight, given = array(network.linear.weight), at[chosen.groups[unit.inputs[0]]]
    x = [np.moveaxis(array(image), 1, 3) for image in images]
    error = np.mean(
        [(one @ weight.T - rounded(one, given) @ in_eight_bits(weight).T).mean((0, 1, 2)) for one in x], axis=0
    )
    assert len(made[keys(graph)[unit.node]]) == 5
    assert np.allclose(made[keys(graph)[unit.node]], error, atol=1e-6)


@pytest.mark.usefixtures("remembered")
def test_what_is_corrected_is_added_to_the_biases(network: Deployed, graph: GraphModule, images: list[Tensor]) -> None:
    made = calibrate(network, "litert", "w8a32", Recipe(), images)
    whole = apply(network, made)
    before, after, names = constants(graph, 2), constants(whole, 2), keys(graph)
    layers = [node for node in graph.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    added = [made.biases.get(names[node], [0.0] * len(bias)) for node, bias in zip(layers, before, strict=True)]
    assert sum(any(one) for one in added) == len(layers) - 1  # not the logits
    for old, new, one in zip(before, after, added, strict=True):
        assert np.allclose(array(new) - array(old), one, atol=1e-6)


class Twice(nn.Module):
    """One convolution for two jobs, and another before them."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(torch.relu(self.conv(torch.relu(self.before(x)))))
        return made


def twice() -> tuple[GraphModule, list[Tensor]]:
    torch.manual_seed(0)
    network = Twice().eval()
    with torch.no_grad():
        network.before.weight[1] *= 50
        network.conv.weight[2] *= 20
    images = [torch.rand(1, 3, 8, 8) for _ in range(2)]
    return traced(network, (images[0],)), images


def constants(graph: GraphModule, index: int) -> list[Tensor]:
    """What the convolutions have as weight (1) or bias (2)."""
    nodes = [node for node in graph.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    return [attribute(graph, node.args[index]) for node in nodes]


def test_a_layer_used_twice_has_two_corrections() -> None:
    graph, images = twice()
    chosen, at = found(graph, images)
    made = correct(graph, chosen, SCHEME, at, images)
    first, second = ([unit.node for unit in chosen.units if unit.kind == "conv"])[1:]
    names = keys(graph)
    before = constants(graph, 2)[1].clone()
    for node in (first, second):
        bias: Any = node.args[2]
        put(graph, node, bias, attribute(graph, bias).detach() + torch.tensor(made[names[node]]))
    one, two = constants(graph, 2)[1:]
    assert made[names[first]] != made[names[second]]
    assert torch.allclose(one - before, torch.tensor(made[names[first]]), atol=1e-6)
    assert torch.allclose(two - before, torch.tensor(made[names[second]]), atol=1e-6)


def test_a_layer_used_twice_is_equalised_and_computes_the_same() -> None:
    graph, images = twice()
    before = answers(graph, images)
    assert equalise(graph) == 2
    graph.recompile()
    assert difference(before, answers(graph, images)) < 1e-4
    one, two = constants(graph, 1)[1:]
    assert not torch.allclose(one, two)  # each has its own now


def test_equalising_computes_the_same_and_evens_out(network: Deployed, others: list[Tensor]) -> None:
    graph = traced(network)
    before = answers(graph, others)
    pairs = list(_pairs(graph))
    assert len(pairs) >= 4  # among them a depthwise one before and behind

    def apart(first: Node, second: Node) -> float:
        """How far the ranges of a channel in two layers are apart, at worst: 1 for not at all."""
        rows = np.abs(array(attribute(graph, first.args[1]))).max((1, 2, 3))  # type: ignore[arg-type]
        weight = np.abs(array(attribute(graph, second.args[1])))  # type: ignore[arg-type]
        columns = weight.max((1, 2, 3)) if weight.shape[1] == 1 else weight.max((0, 2, 3))
        ratio = rows / columns
        return float(max(ratio.max(), 1 / ratio.min()))

    assert max(apart(*pair) for pair in pairs) > 1.5
    assert equalise(graph) == len(pairs)
    graph.recompile()
    assert max(apart(*pair) for pair in pairs) < 1.05
    assert difference(before, answers(graph, others)) < 1e-4


def test_a_channel_that_drowns_the_others_is_saved_by_equalising(
    taught: Semantic, images: list[Tensor], others: list[Tensor]
) -> None:
    network = Deployed(poisoned(taught), SIZE, ("pre",))
    wanted = answers(Deployed(taught, SIZE, ("pre",)), others)
    assert difference(wanted, answers(network, others)) < 1e-4
    kept = {}
    for recipe in (Recipe(), Recipe(equalise=True)):
        whole = apply(network, calibrate(network, "onnxruntime", "int8", recipe, images))
        kept[recipe.equalise] = same(wanted, answers(whole, others))
    assert kept[False] < 0.8
    assert kept[True] > 0.94


def test_rounding_is_the_same_for_both(network: Deployed) -> None:
    """What corrects and what the file has are one rounding."""
    weight = network.student.get_parameter("net.fuse.0.weight")
    whole, scale = rounded_weight(weight)
    assert np.allclose(in_eight_bits(array(weight)), array(whole * scale.view(-1, 1, 1, 1)), atol=1e-7)
