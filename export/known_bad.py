"""Operators that a converter is known to get wrong, or to fail on only when the file runs: refused by name, before it is asked.

Each row was seen in a trial of 37 tiny networks with the versions named in the README; a newer converter may do better, and the
row then goes. What is not in the table is still proven: nothing leaves without its ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from edgeseg.errors import EdgesegError


@dataclass(frozen=True)
class KnownBad:
    """An operator, what is special about it, and what each target makes of it."""

    what: str
    operators: tuple[str, ...]
    targets: Mapping[str, str]
    when: Callable[[Mapping[str, Any]], bool] = lambda given: True
    instead: str = ""


TABLE = (
    KnownBad(
        "antialiased bilinear resizing",
        ("aten._upsample_bilinear2d_aa",),
        {
            "coreml": "drops the antialiasing without a word",
            "litert": "has no lowering",
            "ncnn": "cannot load the file",
        },
        instead="resize without antialiasing",
    ),
    KnownBad(
        "GELU in its tanh form",
        ("aten.gelu",),
        {"coreml": "computes the exact one without a word", "executorch": "is off by 4e-4 in XNNPACK"},
        lambda given: given.get("approximate", "none") != "none",
        "use the exact GELU",
    ),
    KnownBad(
        "average pooling with ceil_mode",
        ("aten.avg_pool2d",),
        {"ncnn": "is wrong by 0.3 without a word"},
        lambda given: bool(given.get("ceil_mode", False)),
        "pad before a pooling that rounds down",
    ),
    KnownBad(
        "attention over three dimensions",
        ("aten.scaled_dot_product_attention",),
        {"ncnn": "is wrong by 1.8 without a word"},
        lambda given: _rank(given.get("query")) == 3,
        "give it a dimension for the heads",
    ),
    KnownBad(
        "adaptive maximum pooling",
        ("aten.adaptive_max_pool2d",),
        {"litert": "has no lowering", "executorch": "has no kernel"},
        instead="use max_pool2d with a fixed window",
    ),
    KnownBad(
        "one_hot",
        ("aten.one_hot",),
        {"litert": "has no lowering for the check of its classes", "ncnn": "cannot load the file"},
        instead="compare with torch.arange",
    ),
    KnownBad("topk", ("aten.topk",), {"litert": "has no kernel to sort with", "ncnn": "cannot load the file"}),
    KnownBad(
        "logcumsumexp",
        ("aten.logcumsumexp",),
        {
            "litert": "has no lowering",
            "executorch": "has no kernel",
            "ncnn": "has no layer",
            "coreml": "lets it overflow",
        },
    ),
)


def refuse_known_bad(program: torch.export.ExportedProgram, target: str) -> None:
    """Raise for the first operator of a program that `target` is known to get wrong.

    Raises:
        EdgesegError: with the operator, the module of the network it is in, and what to do instead.
    """
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(node.target).rsplit(".", 1)[0]
        for row in TABLE:
            if target in row.targets and name in row.operators and row.when(arguments(node)):
                instead = f"; {row.instead}" if row.instead else ""
                raise EdgesegError(f"{target} {row.targets[target]}: {row.what} in {module_of(node)}{instead}")


def arguments(node: Node) -> dict[str, Any]:
    """What an operator is given, by name."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    names = [argument.name for argument in schema]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def module_of(node: Node) -> str:
    """The module of the network that a node comes from, e.g. `student.head.conv`."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return paths[-1] if paths else "the network"


def _rank(value: Any) -> int | None:
    made = value.meta.get("val") if isinstance(value, Node) else value
    return made.ndim if isinstance(made, torch.Tensor) else None
