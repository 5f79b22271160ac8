"""Cross-layer equalisation: the channels between two layers get the same range in both (Nagel et al., arXiv:1906.04721)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeseg.quantize.graph import attribute, put

aten = torch.ops.aten

ROUNDS = 10
"""A layer has two neighbours, so that equalising with one disturbs the other; it settles soon."""


@torch.no_grad()
def equalise(graph: GraphModule) -> int:
    """Scale weights in place; the network computes the same. How many pairs of layers there were.

    `relu(w1 x + b1)` divided by s and the columns of w2 times s: s = sqrt(max|w1| / max|w2|) of each channel.
    """
    pairs = list(_pairs(graph))
    for _ in range(ROUNDS):
        for first, second in pairs:
            _equalise(graph, first, second)
    return len(pairs)


def _pairs(graph: GraphModule) -> Iterator[tuple[Node, Node]]:
    """Convolutions with nothing but a ReLU, which lets scales pass, between them and nobody else who looks."""
    for node in graph.graph.nodes:
        if node.target is not aten.conv2d.default:
            continue
        end = node
        if len(end.users) == 1 and next(iter(end.users)).target is aten.relu.default:
            end = next(iter(end.users))
        if len(end.users) != 1:
            continue
        second = next(iter(end.users))
        if second.target is aten.conv2d.default and second.args[0] is end and _columns(graph, second) is not None:
            yield node, second


def _columns(graph: GraphModule, node: Node) -> Tensor | None:
    """The largest weight for each input channel `[I]`; null for a layer whose groups mix."""
    weight = attribute(graph, node.args[1])  # type: ignore[arg-type]
    groups = node.args[6] if len(node.args) > 6 else 1
    if groups == 1:
        return weight.abs().amax((0, 2, 3))
    if weight.shape[1] == 1 and groups == weight.shape[0]:
        return weight.abs().amax((1, 2, 3))
    return None


def _equalise(graph: GraphModule, first: Node, second: Node) -> None:
    one, two = (attribute(graph, node.args[1]) for node in (first, second))  # type: ignore[arg-type]
    rows, columns = one.abs().amax((1, 2, 3)), _columns(graph, second)
    assert columns is not None
    scale = torch.where((rows > 0) & (columns > 0), (rows / columns.clamp(min=1e-30)).sqrt(), torch.ones_like(rows))
    scale = scale.clamp(1e-3, 1e3)
    put(graph, first, first.args[1], one / scale.view(-1, 1, 1, 1))  # type: ignore[arg-type]
    if len(first.args) > 2 and isinstance(first.args[2], Node):
        put(graph, first, first.args[2], attribute(graph, first.args[2]) / scale)
    shape = (1, -1, 1, 1) if two.shape[1] == len(scale) else (-1, 1, 1, 1)
    put(graph, second, second.args[1], two * scale.view(shape))  # type: ignore[arg-type]
