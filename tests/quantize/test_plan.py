"""What becomes integer, of every student on every target, and what does not."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch.fx import GraphModule, Node

import edgeseg as es
from edgeseg.errors import EdgesegError
from edgeseg.export import networks
from edgeseg.export.deployed import Deployed
from edgeseg.quantize.graph import (
    FUNCTIONS,
    KINDS,
    MARKS,
    WEIGHTED,
    Plan,
    inside,
    integer,
    logits_layer,
    module_of,
    plan,
    traced,
)
from edgeseg.quantize.ranges import observe, scales
from edgeseg.quantize.scheme import SCHEMES, Recipe, Scheme, scheme_for
from edgeseg.students import STUDENTS
from edgeseg.students.student import parameters
from tests.quantize.conftest import EVERY, SIZE
from tests.students.test_registry import families, settled, sizes

ROWS = {f"{target}-{precision}": scheme for target in SCHEMES for precision, scheme in SCHEMES[target].items()}
"""Every target and precision; equal schemes are walked once."""

DIFFERENT = {scheme: name for name, scheme in reversed(ROWS.items())}

TRIED = [name for name in families() if "classes" in parameters(name)]
"""A promptable student's image part has the layers of these."""

DELICATE = ("edgeseg.wkv", "edgeseg.selective_scan")
"""Operators that take an exponent."""

STILL = (
    "view",
    "reshape",
    "permute",
    "transpose",
    "slice",
    "clone",
    "alias",
    "unsqueeze",
    "squeeze",
    "expand",
    "select",
)
"""Operators that hand numbers on untouched."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in TRIED else pytest.mark.wide) for name in STUDENTS],
)
def student_graph(request: pytest.FixtureRequest) -> tuple[GraphModule, torch.Tensor]:
    """The graph of a student's image part at its smallest size, and an image."""
    student = settled(request.param)
    size = sizes(student)[0]
    image = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return traced(networks(student, size, ("pre", "labels"))[0]), image


def calls(graph: GraphModule, *targets: Any) -> list[Node]:
    return [node for node in graph.graph.nodes if node.target in targets]


def with_weights(graph: GraphModule) -> list[Node]:
    """Layers whose weights are constants."""
    return [node for node in graph.graph.nodes if KINDS.get(node.target) in WEIGHTED and node.args[1].op == "get_attr"]


def whence(node: Node) -> Node:
    """Where a value was made, past what only turns or cuts it."""
    while node.op == "call_function" and str(node.target).split(".")[1] in STILL:
        node = node.all_input_nodes[0]
    return node


def is_delicate(node: Node) -> bool:
    return str(node.target).startswith(DELICATE)


def marked(graph: GraphModule, image: torch.Tensor, scheme: Scheme, recipe: Recipe) -> tuple[GraphModule, Plan]:
    """A copy of a graph with its marks, and the plan of the copy."""
    graph = copy.deepcopy(graph)
    chosen = plan(graph, scheme, recipe)
    seen = observe(graph, chosen, lambda: [image], histograms=False) if chosen.groups else {}
    return integer(graph, chosen, scheme, scales(seen, scheme, "minmax")), chosen


def finite(made: Any) -> bool:
    return all(bool(one.isfinite().all()) for one in (made if isinstance(made, tuple) else (made,)))


def test_every_student_runs_in_whole_numbers_for_every_target(student_graph: tuple[GraphModule, torch.Tensor]) -> None:
    graph, image = student_graph
    if len(with_weights(graph)) < 2:  # a student whose image part is no more than resizing
        for scheme in DIFFERENT:
            with pytest.raises(EdgesegError, match="this network has none that the target knows"):
                plan(graph, scheme, Recipe())
        return
    for scheme, name in DIFFERENT.items():
        last = logits_layer(graph)
        before_delicate = {whence(given) for node in calls(graph, *delicate(graph)) for given in node.all_input_nodes}
        wanted = {node.name for node in with_weights(graph) if node is not last and node not in before_delicate}
        whole, chosen = marked(graph, image, scheme, Recipe())
        units = {unit.node.name: unit for unit in chosen.units}
        assert {key for key, unit in units.items() if unit.kind in WEIGHTED} == wanted, name
        assert {unit.kind for unit in chosen.units} <= scheme.kinds
        assert {FUNCTIONS[unit.end.target] for unit in chosen.units if unit.end is not unit.node} <= scheme.fused
        rounded = calls(whole, MARKS.dequantize_per_channel.default)
        assert len(rounded) == len(wanted)
        if scheme.activations is None:
            assert not calls(whole, MARKS.quantize_per_tensor.default)
        else:
            for unit in chosen.units:
                for given in unit.node.all_input_nodes:
                    if given.op != "get_attr" and given not in rounded:
                        assert given.target is MARKS.dequantize_per_tensor.default, (name, unit.node)
                assert [str(user.target) for user in unit.end.users] == [str(MARKS.quantize_per_tensor.default)]
        assert whole.graph.owning_module is whole
        with torch.inference_mode():
            assert finite(whole(image)), name


def delicate(graph: GraphModule) -> set[Any]:
    return {node.target for node in graph.graph.nodes if is_delicate(node)}


def test_what_an_exponent_is_made_of_is_not_rounded(student_graph: tuple[GraphModule, torch.Tensor]) -> None:
    graph, image = student_graph
    if not delicate(graph):
        return
    whole, _ = marked(graph, image, scheme_for("onnxruntime", "int8"), Recipe(output=True))
    for node in calls(whole, *delicate(whole)):
        sources = [whence(given) for given in node.all_input_nodes]
        assert MARKS.dequantize_per_tensor.default not in [one.target for one in sources]
        weights = [one.args[1] for one in sources if KINDS.get(one.target) in WEIGHTED]
        assert all(isinstance(one, Node) and one.op == "get_attr" for one in weights)


def test_the_logits_stay_in_float_unless_they_are_asked_for(student_graph: tuple[GraphModule, torch.Tensor]) -> None:
    graph, _ = student_graph
    last = logits_layer(graph)
    if last not in with_weights(graph):  # the maps of a promptable student, the last of them by a part of a weight
        return
    for scheme in DIFFERENT:
        assert last not in [unit.node for unit in plan(graph, scheme, Recipe()).units]
        assert last in [unit.node for unit in plan(graph, scheme, Recipe(output=True)).units]


@pytest.fixture(scope="module")
def every() -> GraphModule:
    torch.manual_seed(0)
    return traced(Deployed(es.create(EVERY, classes=4).eval(), SIZE, ("pre", "labels")))


LAYERS = {"conv": 14, "linear": 1}
TAKEN: dict[str, dict[str, int]] = {
    "onnxruntime": {"add": 1, "max_pool": 1, "cat": 2, "resize": 1},  # no mul: its gate is a HardSigmoid in float
    "openvino": {
        "add": 1,
        "mul": 1,
        "mean": 1,
        "max_pool": 1,
        "avg_pool": 1,
        "cat": 1,
    },  # one cat takes what was resized
    "litert": {"add": 1, "mean": 1, "resize": 1, "cat": 2, "avg_pool": 1, "max_pool": 1},
    "executorch": {"add": 1, "mean": 1, "resize": 1, "cat": 1},
    "tensorrt": {"add": 1, "mul": 1, "avg_pool": 1},  # the pooling would feed a cat in float
    "coreml": {"add": 1, "avg_pool": 1},
}
"""Operators of `Every` that become integer beside its layers: none that would only hand numbers on between float ones."""


@pytest.mark.parametrize("target", list(SCHEMES))
def test_one_of_everything(every: GraphModule, target: str) -> None:
    chosen = plan(every, scheme_for(target, "int8"), Recipe())
    assert Counter(unit.kind for unit in chosen.units) == LAYERS | TAKEN[target]
    ends = {FUNCTIONS.get(unit.end.target, "none") for unit in chosen.units}
    assert ("hardswish" in ends) == (target in ("openvino", "tensorrt"))


def test_what_is_joined_shares_a_scale(every: GraphModule) -> None:
    image = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8)
    for name in SCHEMES:
        _, chosen = marked(every, image, scheme_for(name, "int8"), Recipe())
        for unit in chosen.units:
            if unit.kind not in ("cat", "max_pool", "avg_pool", "mean", "resize"):
                continue
            (out,) = unit.end.users
            scales_of = {given.args[1:3] for given in unit.node.all_input_nodes} | {out.args[1:3]}
            assert len(scales_of) == 1, (name, unit.node)
            assert all(
                each.args[1:3] in scales_of for given in unit.node.all_input_nodes for each in given.all_input_nodes
            )


def test_kept_modules_stay_in_float_with_what_is_inside(every: GraphModule) -> None:
    scheme = scheme_for("openvino", "int8")
    everything = {unit.node.name: unit.module for unit in plan(every, scheme, Recipe()).units}
    kept = {unit.node.name for unit in plan(every, scheme, Recipe(keep=("net.side", "net.gate.fc1"))).units}
    gone = {name for name, module in everything.items() if inside(module, ["net.side", "net.gate.fc1"])}
    assert len(gone) == 3
    # the sum and the average are left without integer ones on both sides, so they go too
    assert everything.keys() - kept >= gone
    assert {everything[name] for name in everything.keys() - kept - gone} <= {"net", "net.gate", "net.gate.pool"}
    image = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8)
    whole, _ = marked(every, image, scheme, Recipe(keep=("net.side", "net.gate.fc1")))
    for node in with_weights(whole):
        assert module_of(node) in ("net.side.0.0", "net.side.1.0", "net.gate.fc1", "net.head")


def test_a_part_of_a_name_keeps_nothing_else(every: GraphModule) -> None:
    assert not inside("sides.0", ["side"])
    assert inside("side.0", ["side"])
    assert inside("side", ["side"])


@pytest.mark.parametrize(
    ("name", "near"),
    [("net.sied", "net.side"), ("net.gate.fc3", "net.gate.fc"), ("student.net.side", "net.side"), ("zzz", "net")],
)
def test_an_unknown_module_is_refused_with_near_ones(every: GraphModule, name: str, near: str) -> None:
    with pytest.raises(EdgesegError, match=f"no module '{name}' to keep in float; near ones: .*{near}") as raised:
        plan(every, scheme_for("openvino", "int8"), Recipe(keep=(name,)))
    assert "near ones: ," not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_keeping_everything_is_refused(every: GraphModule) -> None:
    layers = [node for node in with_weights(every) if module_of(node) != "net.gate.fc1"]
    for scheme in DIFFERENT:
        # with every layer in float, the sums and joins between them are left alone
        for keep in (["net"], [*map(module_of, layers), "net.gate"]):
            with pytest.raises(EdgesegError, match="no operator is left to quantize; keep fewer modules in float"):
                plan(every, scheme, Recipe(keep=tuple(keep)))


def test_nothing_to_quantize_is_refused() -> None:
    graph = traced(torch.nn.Sequential(torch.nn.Upsample(scale_factor=2, mode="bilinear")), (torch.rand(1, 3, 4, 4),))
    for scheme in DIFFERENT:
        with pytest.raises(EdgesegError, match="this network has none that the target knows"):
            plan(graph, scheme, Recipe())
