"""Post-training quantization: from calibration images to the document that makes a network's graph an integer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgeseg.errors import EdgesegError
from edgeseg.export.deployed import ImageNetwork, Network
from edgeseg.quantize.calibration import CalibrationSet
from edgeseg.quantize.document import Quantization
from edgeseg.quantize.equalise import equalise
from edgeseg.quantize.graph import (
    KINDS,
    WEIGHTED,
    Plan,
    Scale,
    attribute,
    integer,
    keys,
    module_of,
    plan,
    put,
    rounded_weight,
    traced,
)
from edgeseg.quantize.ranges import NOT_FINITE, Seen, observe, scales
from edgeseg.quantize.scheme import BOUNDS, Recipe, Scheme, scheme_for
from edgeseg.runtimes import pixels

CORRECTING = 16
"""Images that are enough for the mean of a layer's error, which is a mean over all its pixels too."""


def calibrate(network: Network, target: str, precision: str, recipe: Recipe, images: Sequence[Tensor]) -> Quantization:
    """What calibration images, as the network takes them, make of it.

    Raises:
        EdgesegError: the target cannot do that, or the network gives NaN on an image.
    """
    return calibrations(network, target, precision, [recipe], images)[0]


def calibrations(
    network: Network,
    target: str,
    precision: str,
    recipes: Sequence[Recipe],
    images: Sequence[Tensor],
    graph: GraphModule | None = None,
) -> list[Quantization]:
    """The same for recipes that differ in range estimators and in the correction of biases alone: the images are looked at once.

    graph: the traced network, which is changed.
    """
    scheme, first = scheme_for(target, precision), recipes[0]
    graph = graph or traced(network)
    if first.equalise:
        equalise(graph)
    chosen = plan(graph, scheme, first)
    histograms = any(recipe.ranges != "minmax" for recipe in recipes)
    seen = observe(graph, chosen, lambda: images, histograms) if chosen.groups else {}
    some = images[:: max(1, len(images) // CORRECTING)]
    made = []
    for recipe in recipes:
        document = document_of(graph, chosen, target, precision, recipe, seen)
        if recipe.bias_correction:
            found = scales(seen, scheme, recipe.ranges)
            document = replace(document, biases=correct(graph, chosen, scheme, found, some))
        made.append(document)
    return made


def document_of(
    graph: GraphModule, chosen: Plan, target: str, precision: str, recipe: Recipe, seen: dict[int, Seen]
) -> Quantization:
    """What was seen of a graph's activations as the document that makes it an integer one; biases stay as they are."""
    found, names = scales(seen, scheme_for(target, precision), recipe.ranges), keys(graph)
    layers = sorted({unit.module for unit in chosen.units if unit.kind in WEIGHTED})
    return Quantization(
        schema=1,
        kind="quantization",
        target=target,
        precision=precision,
        recipe=recipe,
        scales={names[node]: (found[group].scale, found[group].zero) for node, group in chosen.groups.items()},
        biases={},
        layers=layers,
        float_layers=sorted(set(_weighted_modules(graph)) - set(layers)),
    )


def _weighted_modules(graph: GraphModule) -> list[str]:
    return [module_of(node) for node in graph.graph.nodes if KINDS.get(node.target) in WEIGHTED]


def apply(network: Network, made: Quantization, graph: GraphModule | None = None) -> GraphModule:
    """The integer graph of a network, which runs in PyTorch too; `graph` is the traced network, which is changed.

    Raises:
        EdgesegError: the document is of another network.
    """
    scheme = scheme_for(made.target, made.precision)
    graph = graph or traced(network)
    if made.recipe.equalise:
        equalise(graph)
    chosen = plan(graph, scheme, made.recipe)
    names = keys(graph)
    missing = [names[node] for node in chosen.groups if names[node] not in made.scales]
    if missing:
        raise EdgesegError(f"the quantization is of another network: it has no scale for {', '.join(missing[:3])}")
    found = {group: Scale(*made.scales[names[node]]) for node, group in chosen.groups.items()}
    for unit in chosen.units:
        if names[unit.node] in made.biases:
            bias = unit.node.args[2]
            assert isinstance(bias, Node)
            added = torch.tensor(made.biases[names[unit.node]])
            put(graph, unit.node, bias, attribute(graph, bias).detach() + added)
    return integer(graph, chosen, scheme, found)


def feeds(network: ImageNetwork, chosen: CalibrationSet) -> list[Tensor]:
    """Images as a network takes them: resized and normalised by what the manifest of its artifact will say."""
    spec = network.input_spec()
    planes = network.bakes_pre and network.interface.image == "planes"
    given = (torch.from_numpy(pixels.prepare(image, spec)) for image in chosen.images)
    return [each.permute(0, 3, 1, 2).float() if planes else each for each in given]


class _Correcting(Interpreter):
    """Runs a float graph, and each layer also with what whole numbers make of its weights and its input."""

    def __init__(self, graph: GraphModule, chosen: Plan, scheme: Scheme, found: dict[int, Scale]) -> None:
        super().__init__(graph)
        self._scheme, self._scales, self._groups = scheme, found, chosen.groups
        self._layers = {unit.node for unit in chosen.units if unit.kind in WEIGHTED and len(unit.node.args) > 2}
        self._weights: dict[Node, Tensor] = {}
        self._names = keys(graph)
        self.errors: dict[str, list[Tensor]] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._layers and isinstance(n.args[2], Node):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if n not in self._weights:
                whole, scale = rounded_weight(args[1])
                self._weights[n] = whole * scale.view(-1, *([1] * (whole.ndim - 1)))
            given = n.args[0]
            assert isinstance(given, Node)
            rounded = n.target(self._rounded(given, args[0]), self._weights[n], *args[2:], **kwargs)  # type: ignore[operator]
            channel = 1 if KINDS[n.target] == "conv" else value.ndim - 1
            axes = tuple(axis for axis in range(value.ndim) if axis != channel)
            self.errors.setdefault(self._names[n], []).append((value - rounded).mean(axes))
        return value

    def _rounded(self, node: Node, value: Tensor) -> Tensor:
        if self._scheme.activations is None:
            return value
        at, (low, high) = self._scales[self._groups[node]], BOUNDS[self._scheme.activations]
        return torch.fake_quantize_per_tensor_affine(value, at.scale, at.zero, low, high)


@torch.inference_mode()
def correct(
    graph: GraphModule, chosen: Plan, scheme: Scheme, found: dict[int, Scale], images: Sequence[Tensor]
) -> dict[str, list[float]]:
    """Layer -> the mean error of each output channel (Nagel et al., arXiv:1906.04721, section 4.2, from real images)."""
    runner = _Correcting(graph, chosen, scheme, found)
    for image in images:
        runner.run(image)
    means = {name: torch.stack(errors).mean(0) for name, errors in runner.errors.items()}
    if not all(mean.isfinite().all() for mean in means.values()):
        raise EdgesegError(NOT_FINITE)
    return {name: mean.tolist() for name, mean in means.items()}
