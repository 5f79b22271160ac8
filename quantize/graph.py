"""An exported network with marks where its numbers become whole ones: the one source that every runtime's int8 is made of.

The marks are PyTorch's own pairs of quantize and dequantize, which every converter understands: ONNX has them as QuantizeLinear
and DequantizeLinear, LiteRT and ExecuTorch make integer operators of what stands between them. The same graph runs in PyTorch,
so what whole numbers do to the masks, and what a runtime adds, are told apart.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401, defines the marks
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgeseg.errors import EdgesegError
from edgeseg.export.deployed import Network
from edgeseg.quantize.scheme import BOUNDS, Recipe, Scheme

aten = torch.ops.aten

MARKS = torch.ops.quantized_decomposed

KINDS: dict[Any, str] = {
    aten.conv2d.default: "conv",
    aten.linear.default: "linear",
    aten.add.Tensor: "add",
    aten.mul.Tensor: "mul",
    aten.cat.default: "cat",
    aten.mean.dim: "mean",
    aten.adaptive_avg_pool2d.default: "mean",
    aten.avg_pool2d.default: "avg_pool",
    aten.max_pool2d.default: "max_pool",
    aten.upsample_bilinear2d.vec: "resize",
}
"""Operator -> what a scheme calls it."""

WEIGHTED = ("conv", "linear")

FUNCTIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.relu6.default: "relu6",
    aten.hardtanh.default: "relu6",
    aten.hardswish.default: "hardswish",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.sigmoid.default: "sigmoid",
    aten.silu.default: "silu",
    aten.gelu.default: "gelu",
}
"""What an operator may do in passing: the number is rounded after it."""

ONE_SCALE = ("cat", "max_pool", "avg_pool", "mean", "resize")
"""Operators that pass numbers on as they are, so that what goes in and what comes out are in one scale."""

DELICATE = ("edgeseg.wkv", "edgeseg.selective_scan")
"""Operators whose inputs are not rounded: a key is an exponent."""

SUMS = 2**30
"""The largest whole number that a bias may become: runtimes store it in 32 bits, in steps of the input's times the weight's."""


@dataclass(frozen=True)
class Unit:
    """An operator that computes in whole numbers: where it begins and, with what is fused into it, where it ends."""

    node: Node
    kind: str
    end: Node
    module: str

    @property
    def inputs(self) -> list[Node]:
        """The activations it takes."""
        if self.kind == "cat":
            return [each for each in self.node.args[0] if isinstance(each, Node)]  # type: ignore[union-attr]
        count = 2 if self.kind in ("add", "mul") else 1
        return [each for each in self.node.args[:count] if isinstance(each, Node)]


@dataclass(frozen=True)
class Plan:
    """Which operators of a graph become integer ones, and which values are rounded: value -> the group it shares a scale with."""

    units: list[Unit]
    groups: dict[Node, int]


@dataclass(frozen=True)
class Scale:
    """`real = scale * (whole - zero)`."""

    scale: float
    zero: int


def traced(network: nn.Module, examples: tuple[Tensor, ...] | None = None) -> GraphModule:
    """A network as a graph of PyTorch's operators, none of which writes into its input; a `Network` knows its examples."""
    if examples is None:
        assert isinstance(network, Network)
        examples = tuple(each.contiguous() for each in network.feeds().values())
    with _without_remarks():
        program = torch.export.export(network.eval(), examples)
        graph = program.run_decompositions({}).module(check_guards=False)
    assert isinstance(graph, GraphModule)
    return graph


def copied(graph: GraphModule) -> GraphModule:
    """A graph of its own, with weights of its own."""
    with _without_remarks():
        return copy.deepcopy(graph)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Without what PyTorch says of deprecated names of its own, which it calls where a graph is copied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def module_of(node: Node) -> str:
    """The module of the student that an operator belongs to, empty for what is around it."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [name for name, _ in stack.values()]
    inner = [name.partition("student.")[2] for name in names if "student." in name]
    return inner[-1] if inner else ""


def keys(graph: GraphModule) -> dict[Node, str]:
    """Value -> what a document calls it: its module, its operator, and the how manyth of these it is.

    PyTorch's own names also count what an interface puts around the student, which differs from target to target.
    """
    counts: Counter[tuple[str, str]] = Counter()
    found = {}
    for node in graph.graph.nodes:
        what = module_of(node), "image" if node.op == "placeholder" else str(node.target)
        found[node] = f"{what[0]} {what[1]} {counts[what]}".strip()
        counts[what] += 1
    return found


def modules(graph: GraphModule) -> list[str]:
    """The modules of the student that have operators in the graph, and those around them."""
    paths = [module_of(node).split(".") for node in graph.graph.nodes]
    return sorted({".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)} - {""})


def inside(module: str, names: Iterable[str]) -> bool:
    """Whether a module is one of these, or within one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def plan(graph: GraphModule, scheme: Scheme, recipe: Recipe) -> Plan:
    """What a scheme makes integer in a graph, without what the recipe keeps in float.

    Raises:
        EdgesegError: the recipe keeps a module that there is not, or nothing is left to quantize.
    """
    there = modules(graph)
    for name in recipe.keep:
        if name not in there:
            near = get_close_matches(name, there, 3) or [module for module in there if "." not in module]
            raise EdgesegError(f"there is no module {name!r} to keep in float; near ones: {', '.join(near)}")
    last = None if recipe.output else logits_layer(graph)
    units = [unit for unit in _units(graph, scheme) if unit.node is not last and not inside(unit.module, recipe.keep)]
    if scheme.activations is not None:
        units = _without_islands(units)
    if not units:
        why = "keep fewer modules in float" if recipe.keep else "this network has none that the target knows"
        raise EdgesegError(f"no operator is left to quantize; {why}")
    return Plan(units, {} if scheme.activations is None else _groups(units))


def _units(graph: GraphModule, scheme: Scheme) -> Iterator[Unit]:
    for node in graph.graph.nodes:
        kind = KINDS.get(node.target) if node.op == "call_function" else None
        if kind not in scheme.kinds or not _fits(node, kind):
            continue
        users = list(node.users)
        fused = len(users) == 1 and FUNCTIONS.get(users[0].target) in scheme.fused
        end = users[0] if fused else node
        if any(str(user.target).startswith(DELICATE) for user in end.users):
            continue
        yield Unit(node, kind, end, module_of(node))


def _fits(node: Node, kind: str) -> bool:
    """Whether an operator is of the sort that integer kernels are for."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    given = [each for each in node.all_input_nodes if each.op != "get_attr"]
    if kind in WEIGHTED:
        weight = node.args[1]
        return isinstance(weight, Node) and weight.op == "get_attr"
    if kind in ("add", "mul"):
        # both made by the network; a constant is folded into something else by every runtime
        return len(given) == 2 and all(each.meta["val"].ndim == 4 for each in given)
    if kind == "mean":
        return bool(value.ndim == 4)
    return True


def _without_islands(units: list[Unit]) -> list[Unit]:
    """Without operators that only pass numbers on between float ones: rounding them would cost and bring nothing."""
    while True:
        ends = {unit.end for unit in units}
        takers = {node for unit in units if unit.kind in WEIGHTED for node in unit.inputs}
        feeding = {node for unit in units for node in unit.inputs}
        kept = [
            unit
            for unit in units
            if unit.kind in WEIGHTED
            or (all(node in ends for node in unit.inputs) and (unit.end in feeding or unit.end in takers))
        ]
        if len(kept) == len(units):
            return units
        units = kept


def _groups(units: list[Unit]) -> dict[Node, int]:
    """Values that are rounded -> the number of their group."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        parent.setdefault(node, node)
        while parent[node] is not node:
            node = parent[node]
        return node

    for unit in units:
        values = [*unit.inputs, unit.end]
        for value in values:
            root(value)
        if unit.kind in ONE_SCALE:
            for value in values[1:]:
                parent[root(value)] = root(values[0])
    numbers: dict[Node, int] = {}
    return {node: numbers.setdefault(root(node), len(numbers)) for node in parent}


def logits_layer(graph: GraphModule) -> Node | None:
    """The last layer with weights: what makes the logits."""
    weighted = [node for node in graph.graph.nodes if KINDS.get(node.target) in WEIGHTED]
    return weighted[-1] if weighted else None


def integer(graph: GraphModule, chosen: Plan, scheme: Scheme, scales: Mapping[int, Scale]) -> GraphModule:
    """The graph with its marks; `scales` has one for each group of the plan. The graph given is changed."""
    produced = {unit.end for unit in chosen.units}
    heads = {unit.node for unit in chosen.units}
    position = {node: index for index, node in enumerate(graph.graph.nodes)}
    for unit in chosen.units:
        if unit.kind in WEIGHTED:
            step = None if scheme.activations is None else scales[chosen.groups[unit.inputs[0]]].scale
            _round_weight(graph, unit.node, step)
    if scheme.activations is not None:
        low, high = BOUNDS[scheme.activations]
        dtype = getattr(torch, scheme.activations)
        for value in sorted(chosen.groups, key=position.__getitem__):
            scale = scales[chosen.groups[value]]
            numbers = (scale.scale, scale.zero, low, high, dtype)
            takers = [user for user in value.users if user in heads or value in produced]
            with graph.graph.inserting_after(value):
                rounded = graph.graph.call_function(MARKS.quantize_per_tensor.default, (value, *numbers))
            rounded.meta = _meta(value, value.meta["val"].to(dtype))
            for user in takers:
                if user is rounded:
                    continue
                with graph.graph.inserting_before(user):
                    real = graph.graph.call_function(MARKS.dequantize_per_tensor.default, (rounded, *numbers))
                real.meta = _meta(value, value.meta["val"])
                user.replace_input_with(value, real)
    graph.graph.lint()
    graph.recompile()
    return graph


def _meta(like: Node, value: Any) -> dict[str, Any]:
    return {**{key: like.meta[key] for key in ("nn_module_stack",) if key in like.meta}, "val": value}


def attribute(graph: GraphModule, node: Node) -> Tensor:
    """The constant that a `get_attr` node stands for."""
    found: Any = graph
    for part in str(node.target).split("."):
        found = getattr(found, part)
    assert isinstance(found, Tensor)
    return found


def rounded_weight(weight: Tensor, least: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """int8 `weight [O, ...]` and the scale of each output channel `[O]`, at least `least`; symmetric, -127..127."""
    scale = weight.detach().flatten(1).abs().amax(1) / 127
    if least is not None:
        scale = torch.maximum(scale, least)
    # any scale is right for zeros, but tiny ones overflow in runtimes
    scale = torch.where(scale > 0, scale, scale.max() if scale.any() else torch.ones_like(scale))
    shape = (-1, *([1] * (weight.ndim - 1)))
    whole = torch.round(weight.detach() / scale.view(shape)).clamp(-127, 127).to(torch.int8)
    return whole, scale


def put(graph: GraphModule, user: Node, old: Node, value: Tensor) -> Node:
    """Give an operator a constant of its own in the place of an old one, which others may go on reading."""
    again = old.meta.get("own") == user.name
    name = str(old.target) if again else _free(graph, f"{old.target}_own", user)
    graph.register_buffer(name, value.detach().clone())
    if again:
        return old
    with graph.graph.inserting_before(user):
        new = graph.graph.get_attr(name)
    new.meta.update(val=value, own=user.name)
    user.replace_input_with(old, new)
    return new


def _free(graph: GraphModule, name: str, user: Node) -> str:
    """The name for a constant, with its user's behind it where another has it: two operators may share a weight."""
    flat = name.replace(".", "_")
    return f"{flat}_{user.name}" if hasattr(graph, flat) else flat


def _round_weight(graph: GraphModule, node: Node, step: float | None) -> None:
    """Put a weight of 8 bits with a scale for each output channel in the place of a layer's own; `step` is its input's scale."""
    given = node.args[1]
    assert isinstance(given, Node)
    bias = node.args[2] if len(node.args) > 2 else None
    least = attribute(graph, bias).detach().abs() / (step * SUMS) if step and isinstance(bias, Node) else None
    whole, scale = rounded_weight(attribute(graph, given), least)
    values = {"whole": whole, "scale": scale, "zero": torch.zeros(len(scale), dtype=torch.int64)}
    names = [_free(graph, f"{given.target}_{suffix}", node) for suffix in values]
    for name, tensor in zip(names, values.values(), strict=True):
        graph.register_buffer(name, tensor)
    with graph.graph.inserting_before(node):
        parts = [graph.graph.get_attr(name) for name in names]
        for part, tensor in zip(parts, values.values(), strict=True):
            part.meta["val"] = tensor
        real = graph.graph.call_function(MARKS.dequantize_per_channel.default, (*parts, 0, -127, 127, torch.int8))
    real.meta["val"] = attribute(graph, given)
    node.replace_input_with(given, real)
