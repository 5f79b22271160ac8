"""Weights of a LiteRT file as float16: half the bytes, widened when the file is opened or used as they are where that is faster."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError, need
from edgeseg.export.litert_real import operator_code
from edgeseg.kernels.litert_plugin import drop_unused, read, written

LEAST = 32
"""Numbers: a smaller constant would save less than the operator that widens it takes."""


def with_half_weights(file: bytes) -> bytes:
    """The file with the constants of its main graph as float16.

        CONV_2D(x, weights float32)  ->  weights float16 -> DEQUANTIZE -> CONV_2D(x, it)

    This is what LiteRT's own converters write and what its delegates look for. Constants that operators of ours read stay as
    they are: decays near 1 do not fit float16.

    Raises:
        EdgesegError: a weight beyond 65504, the largest number of float16.
    """
    schema = need("ai_edge_litert.schema_py_generated")
    model = read(file)
    graph = model.subgraphs[0]
    widen = operator_code(schema, model, "DEQUANTIZE")
    added = []
    for index in _constants(schema, model, graph):
        tensor = graph.tensors[index]
        values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32)
        if values.size < LEAST:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise EdgesegError(f"{tensor.name.decode()} has weights beyond float16's 65504; export it as fp32")
        half = schema.TensorT()
        half.name, half.shape, half.type = tensor.name + b"_half", tensor.shape, schema.TensorType.FLOAT16
        half.buffer = len(model.buffers)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype(np.float16).tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors.append(half)
        tensor.buffer = 0
        operator = schema.OperatorT()
        operator.opcodeIndex = widen
        operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
        added.append(operator)
    graph.operators = added + graph.operators
    drop_unused(model)
    return written(schema, model)


def _constants(schema: Any, model: Any, graph: Any) -> list[int]:
    """The float32 constants of a graph that only operators of LiteRT read."""
    codes = [code.builtinCode for code in model.operatorCodes]
    ours = (schema.BuiltinOperator.STABLEHLO_COMPOSITE, schema.BuiltinOperator.CUSTOM)
    kept = {i for node in graph.operators if codes[node.opcodeIndex] in ours for i in node.inputs}
    kept |= set(graph.outputs)
    shared = {tensor.buffer for other in model.subgraphs[1:] for tensor in other.tensors}
    return [
        index
        for index, tensor in enumerate(graph.tensors)
        if tensor.type == schema.TensorType.FLOAT32
        and index not in kept
        and tensor.buffer not in shared
        and model.buffers[tensor.buffer].data is not None
        and len(model.buffers[tensor.buffer].data)
    ]
