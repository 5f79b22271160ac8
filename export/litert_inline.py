"""LiteRT files without composites: their bodies in their place, for runtimes older than composites."""

from __future__ import annotations

from copy import copy
from typing import Any

from edgeseg.errors import need
from edgeseg.kernels.litert_plugin import drop_unused, is_ours, read, written

TFLITE_2_14 = 204
"""The highest operator that tflite-runtime 2.14 has a number for; a composite is 206. Seen, not documented."""


def without_composites(file: bytes) -> bytes:
    """The file with the operators of each composite of ours where it stood.

    main: COMPOSITE(a, b) -> c, body 1: (x, y) -> MUL -> EXP -> z      ->      main: MUL(a, b) -> EXP -> c
    """
    schema = need("ai_edge_litert.schema_py_generated")
    model = read(file)
    graph, operators = model.subgraphs[0], []
    for node in graph.operators:
        options = node.builtinOptions2
        if is_ours(options):
            operators += _body(graph, node, model.subgraphs[options.decompositionSubgraphIndex])
        else:
            operators.append(node)
    graph.operators = operators
    model.subgraphs = [graph]
    _renumber(model)
    drop_unused(model)
    return written(schema, model)


def _body(graph: Any, node: Any, body: Any) -> list[Any]:
    """The operators of a body with the tensors of the graph it is put into, which gets those that only the body has."""
    places = dict(zip(map(int, body.inputs), map(int, node.inputs), strict=True))
    places |= dict(zip(map(int, body.outputs), map(int, node.outputs), strict=True))
    for index, tensor in enumerate(body.tensors):
        if index not in places:
            places[index] = len(graph.tensors)
            graph.tensors.append(tensor)
    made = []
    for operator in body.operators:
        moved = copy(operator)
        moved.inputs = [places[int(i)] if i >= 0 else -1 for i in operator.inputs]
        moved.outputs = [places[int(i)] for i in operator.outputs]
        made.append(moved)
    return made


def _renumber(model: Any) -> None:
    """Leave out the kinds of operators that are no more: an older runtime refuses a file for their names alone."""
    operators = model.subgraphs[0].operators
    used = sorted({node.opcodeIndex for node in operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for node in operators:
        node.opcodeIndex = used.index(node.opcodeIndex)
