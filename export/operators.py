"""Our operators in an exported model: every node gets a body of standard operators, in the form its runtime does best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError, need
from edgeseg.kernels.label_map import onnx_body as label_map
from edgeseg.kernels.onnx_function import DOMAIN, SIGNATURES
from edgeseg.kernels.selective_scan import onnx_body as selective_scan
from edgeseg.kernels.wkv import onnx_body as wkv

NAMES = {"BiWKV": "wkv", "SelectiveScan": "selective_scan", "LabelMap": "label_map"}
"""Operator in ONNX -> what it is called in a manifest."""


@dataclass(frozen=True)
class Forms:
    """The forms a runtime's bodies take, where there is more than one."""

    wkv: wkv.Form
    label_map: label_map.Form


@dataclass(frozen=True)
class Site:
    """One of our nodes: what it is, and the names of the values it stands between."""

    operator: str
    inputs: list[str]
    output: str
    attributes: dict[str, int]


def give_bodies(model: Any, forms: Forms, opset: int) -> list[Site]:
    """Add to a ModelProto the functions its `edgeseg` nodes are made of; where those nodes are.

    Nodes of different shapes have different bodies, told apart by the overload of their function.

    Raises:
        EdgesegError: a decay that standard operators do not bear.
    """
    shapes = _shapes(model)
    values = {entry.name: need("onnx").numpy_helper.to_array(entry) for entry in model.graph.initializer}
    bodies: dict[tuple[str, bytes], str] = {}
    sites = []
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        attributes = {attribute.name: int(attribute.i) for attribute in node.attribute}
        made = BODIES[node.op_type](_Node(node, shapes, values, attributes), forms, opset)
        same = node.op_type, made.SerializeToString()
        if same not in bodies:
            others = sum(operator == node.op_type for operator, _ in bodies)
            bodies[same] = made.overload = str(others) if others else ""
            model.functions.append(made)
        node.overload = bodies[same]
        sites.append(Site(node.op_type, list(node.input), node.output[0], attributes))
    return sites


def inlined(model: Any) -> Any:
    """The model with every body in the place of its node, for runtimes that know no functions."""
    need("onnx.inliner")
    return need("onnx").inliner.inline_local_functions(model)


def used(sites: list[Site]) -> list[str]:
    """The names of the operators at the sites, as in a manifest."""
    return sorted({NAMES[site.operator] for site in sites})


@dataclass(frozen=True)
class _Node:
    """One of our nodes, and what is known of the values around it: their shapes, those that are weights, its attributes."""

    node: Any
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Any]
    attributes: Mapping[str, int]

    def shape(self, index: int) -> tuple[int, ...]:
        """Of an input."""
        shape = self.shapes.get(self.node.input[index])
        if shape is None or min(shape) < 1:
            name = SIGNATURES[self.node.op_type][0][index]
            operator = NAMES[self.node.op_type]
            raise EdgesegError(
                f"the {name} of {operator} has the free shape {shape}, and {operator} is written for one; export each size by itself"
            )
        return shape


def _wkv(place: _Node, forms: Forms, opset: int) -> Any:
    batch, tokens, channels = place.shape(2)
    decay = place.values.get(place.node.input[0])
    if decay is None:
        raise EdgesegError(f"the decay of {place.node.name} depends on the input; only a trained decay can be exported")
    form = wkv.form_for(np.asarray(decay, np.float64) * tokens, forms.wkv)
    return wkv.body((batch, tokens, channels), bool(place.attributes["causal"]), form, opset)


def _selective_scan(place: _Node, forms: Forms, opset: int) -> Any:
    batch, tokens, channels = place.shape(0)
    return selective_scan.body((batch, tokens, channels), place.shape(2)[1], opset)


def _label_map(place: _Node, forms: Forms, opset: int) -> Any:
    batch, classes, height, width = place.shape(0)
    size = place.attributes["height"], place.attributes["width"]
    shape = batch, classes, height, width
    return label_map.body(shape, size, bool(place.attributes["align_corners"]), forms.label_map, opset)


Body = Callable[[_Node, Forms, int], Any]
BODIES: dict[str, Body] = {"BiWKV": _wkv, "SelectiveScan": _selective_scan, "LabelMap": _label_map}
assert BODIES.keys() == SIGNATURES.keys() == NAMES.keys()


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Value -> shape, -1 where it is free."""
    shapes = {
        entry.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1 for dim in entry.type.tensor_type.shape.dim
        )
        for entry in (*model.graph.value_info, *model.graph.input)
    }
    return shapes | {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
