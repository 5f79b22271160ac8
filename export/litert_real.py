"""Operators of a quantized LiteRT file that XNNPACK takes only in float, put back into float.

Each of them would end a part of the network that XNNPACK executes: LR-ASPP with its HARD_SWISH in int8 runs in 14 parts and
slower than in float, with them in float in one part.
"""

from __future__ import annotations

from typing import Any

from edgeseg.errors import need
from edgeseg.kernels.litert_plugin import read, written


def in_real_numbers(file: bytes, kinds: set[str]) -> bytes:
    """The file with the integer operators of these kinds (`HARD_SWISH`) in float.

        x int8 -> HARD_SWISH -> y int8   =>   x int8 -> DEQUANTIZE -> HARD_SWISH -> QUANTIZE -> y int8

    Operators with whole constants stay as they are: those would have to be made real too.
    """
    schema = need("ai_edge_litert.schema_py_generated")
    model = read(file)
    numbers = {getattr(schema.BuiltinOperator, kind) for kind in kinds}
    graph = model.subgraphs[0]
    widen, narrow = (operator_code(schema, model, name) for name in ("DEQUANTIZE", "QUANTIZE"))
    made = []
    for node in graph.operators:
        wanted = model.operatorCodes[node.opcodeIndex].builtinCode in numbers
        whole = [i for i in (*node.inputs, *node.outputs) if _is_whole(schema, graph.tensors[i])]
        if not wanted or not whole or any(_is_constant(model, graph.tensors[i]) for i in whole):
            made.append(node)
            continue
        before, inputs = [], []
        for index in map(int, node.inputs):
            if index in whole:
                before.append(_operator(schema, widen, index, _real(schema, graph, index)))
                index = len(graph.tensors) - 1
            inputs.append(index)
        after, outputs = [], []
        for index in map(int, node.outputs):
            real = _real(schema, graph, index)
            after.append(_operator(schema, narrow, real, index))
            outputs.append(real)
        node.inputs, node.outputs = inputs, outputs
        made += [*before, node, *after]
    graph.operators = made
    return written(schema, model)


def _is_whole(schema: Any, tensor: Any) -> bool:
    return bool(tensor.type == schema.TensorType.INT8) and tensor.quantization is not None


def _is_constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _real(schema: Any, graph: Any, index: int) -> int:
    """A new float32 tensor like another one; its number."""
    like, tensor = graph.tensors[index], schema.TensorT()
    tensor.name, tensor.shape, tensor.shapeSignature = like.name + b"_real", like.shape, like.shapeSignature
    tensor.type, tensor.buffer, tensor.hasRank = schema.TensorType.FLOAT32, 0, like.hasRank
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(schema: Any, code: int, given: int, made: int) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, [given], [made]
    return operator


def operator_code(schema: Any, model: Any, name: str) -> int:
    """The number of an operator among those of a model, where it is added if need be."""
    wanted = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == wanted:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = wanted
    code.version = 2  # of DEQUANTIZE the one that takes float16, of QUANTIZE the one for int8
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
