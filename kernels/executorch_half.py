"""A network in float16 wherever the image is involved: what XNNPACK computes in half the time on processors that have it."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgeseg.errors import EdgesegError
from edgeseg.kernels.selective_scan.torch_op import selective_scan
from edgeseg.kernels.wkv.torch_op import wkv

aten = torch.ops.aten
CAST = aten.to.dtype

WIDE: dict[Any, tuple[int, ...] | None] = {
    aten.group_norm.default: None,  # squares overflow
    aten.layer_norm.default: None,  # ExecuTorch 1.5.1's own float16 kernel is off by twice the result, on N(0, 1) too
    selective_scan._opoverload: None,
    wkv._opoverload: (0, 1),  # decays near 1 do not fit float16
}
"""Operator -> the inputs that stay float32, null for all of them and the output."""


SCALED = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def halve(network: GraphModule) -> None:
    """Make what depends on an image, or on the maps of one, float16; what goes in and what comes out keep their types.

        conv(image, weight)   becomes   to(conv(to(image, half), weight_half), float)

    Prompts stay float32 until they meet the image: float16 cannot tell pixels apart beyond 2048.

    Raises:
        EdgesegError: a weight beyond 65504, the largest number of float16.
    """
    graph = network.graph
    halves: dict[Node, Node] = {}
    images = {node for node in graph.nodes if node.op == "placeholder" and node.meta["val"].ndim >= 4}
    involved = set(images)
    half: set[Node] = set()
    for node in list(graph.nodes):
        if node in images and _floats(node):
            half.add(_cast_after(graph, node, torch.float16))
        if node.op == "output":
            _restore(graph, node, half)
        if node.op != "call_function" or not (involved & set(node.all_input_nodes) or half & set(node.all_input_nodes)):
            continue
        involved.add(node)
        if not _holds_floats(node):
            continue
        _take(network, node, half, halves)
        if WIDE.get(node.target, ()) is None:
            half.add(_cast_after(graph, node, torch.float16))
        else:
            node.meta["val"] = _as_half(node.meta["val"])
            half.add(node)
    network.recompile()


def _take(network: GraphModule, node: Node, half: set[Node], halves: dict[Node, Node]) -> None:
    """Give a node its inputs in float16, or in float32 those that it wants so."""
    wide = WIDE.get(node.target, ())
    for place, given in enumerate(_flat(node.args)):
        if wide is None or place in wide:
            if given in half:
                with network.graph.inserting_before(node):
                    widened = network.graph.call_function(CAST, (given, torch.float32))
                widened.meta["val"] = given.meta["val"].float()
                node.replace_input_with(given, widened)
        elif given not in half and _floats(given):
            if given not in halves:
                halves[given] = _halved(network, given)
            node.replace_input_with(given, halves[given])
    for given in [each for each in node.kwargs.values() if isinstance(each, Node)]:
        if given not in half and _floats(given):
            halves.setdefault(given, _halved(network, given))
            node.replace_input_with(given, halves[given])
    if node.target in SCALED:
        node.args = tuple(_scalar(network, node, each) for each in node.args)
    narrow = {torch.float32: torch.float16}
    node.args = tuple(narrow.get(each, each) if isinstance(each, torch.dtype) else each for each in node.args)
    node.kwargs = {
        name: narrow.get(each, each) if isinstance(each, torch.dtype) else each for name, each in node.kwargs.items()
    }


def _scalar(network: GraphModule, node: Node, given: Any) -> Any:
    """A number as a weight in float16: left as it is, ExecuTorch would round it anew each time."""
    if not isinstance(given, (int, float)):
        return given
    name = f"{node.name}_number"
    network.register_buffer(name, torch.tensor(given, dtype=torch.float16))
    with network.graph.inserting_before(node):
        made = network.graph.get_attr(name)
    made.meta["val"] = torch.empty((), dtype=torch.float16, device="meta")
    return made


def _halved(network: GraphModule, node: Node) -> Node:
    """A weight in float16, or what makes a value so."""
    if node.op != "get_attr":
        return _cast_after(network.graph, node, torch.float16, others=False)
    weight = attrgetter(str(node.target))(network).detach()
    if weight.abs().max() > torch.finfo(torch.float16).max:
        raise EdgesegError(f"{node.target} has weights beyond float16's 65504; export it as fp32")
    name = f"{node.name}_half"
    network.register_buffer(name, weight.half())
    with network.graph.inserting_after(node):
        made = network.graph.get_attr(name)
    made.meta["val"] = node.meta["val"].half()
    return made


def _cast_after(graph: torch.fx.Graph, node: Node, dtype: torch.dtype, others: bool = True) -> Node:
    """A node with the value of another in another type, in the place of which it is used from now on where `others`."""
    with graph.inserting_after(node):
        made = graph.call_function(CAST, (node, dtype))
    made.meta["val"] = node.meta["val"].to(dtype)
    if others:
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    return made


def _restore(graph: torch.fx.Graph, output: Node, half: set[Node]) -> None:
    """Give out float32, as before."""
    for given in output.all_input_nodes:
        if given in half:
            with graph.inserting_before(output):
                output.replace_input_with(given, graph.call_function(CAST, (given, torch.float32)))


def _flat(args: tuple[Any, ...]) -> Iterator[Any]:
    for each in args:
        if isinstance(each, (list, tuple)):
            yield from _flat(tuple(each))
        else:
            yield each


def _floats(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _as_half(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_half(each) for each in value]
    return value.half() if value.dtype == torch.float32 else value


def _holds_floats(node: Node) -> bool:
    value = node.meta.get("val")
    return _floats(node) or (isinstance(value, (list, tuple)) and any(each.dtype == torch.float32 for each in value))
