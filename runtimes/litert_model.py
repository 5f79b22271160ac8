"""LiteRT on the CPU, through the C interface of its library, so that operators of ours can take part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.kernels.litert_plugin import customs, read, with_customs
from edgeseg.kernels.litert_runtime import CompiledModel
from edgeseg.runtimes.base import RUNTIMES, Opening, Remotely, Runtime, listing, main_precision, sessions
from edgeseg.runtimes.record import Execution, Operator
from edgeseg.runtimes.tools.run_order import operators

HEAVY = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
"""Operators that carry the arithmetic."""

PRECISIONS = {"FLOAT32": "fp32", "FLOAT16": "fp16", "INT8": "int8", "UINT8": "int8", "INT16": "int16"}
"""LiteRT's name of an element type -> ours."""


class LiteRtGraph:
    """One file, compiled for the processor; the arrays it reads and writes stay, so its outputs are copied."""

    def __init__(self, opening: Opening) -> None:
        self._opening, self._plugin = opening, opening.plugin("litert")
        try:
            self._file = opening.file.read_bytes()
        except OSError as error:
            raise EdgesegError(f"cannot read {opening.file}: {error.strerror or error}") from error
        self._ours = [] if self._plugin is None else customs(self._with_customs(), self._plugin, opening.threads)
        self._model = CompiledModel(self._file, opening.threads, self._ours)
        missing = [name for name in opening.outputs if name not in self._model.outputs]
        if missing:
            raise EdgesegError(f"{opening.file} has no output {', '.join(missing)}; export again")

    def _with_customs(self) -> bytes:
        self._file = with_customs(self._file)
        return self._file

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs."""
        for name, array in self._model.inputs.items():
            np.copyto(array, feeds[name], casting="same_kind")
        self._model.run()
        return [self._model.outputs[name].copy() for name in self._opening.outputs]

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """Read back: whether XNNPACK took all of it, and the types that the file declares for what carries the arithmetic."""
        types, operators = arithmetic(self._file)
        settings = {"xnnpack": "all" if self._model.delegated else "in parts", "arithmetic": listing(types)}
        placed = {"xnnpack": operators} if self._model.delegated else None
        settings |= self._opening.tiers(self._plugin)
        return Execution("litert", version(), self._opening.threads, main_precision(types), placed, settings)

    def operators(self, given: Mapping[str, NDArray[Any]], runs: int) -> list[Operator]:
        """From its profiler, in a model compiled once more; what XNNPACK took is told apart, `Delegate` by name."""
        model = CompiledModel(self._file, self._opening.threads, self._ours, profile=True)
        try:
            for name, array in model.inputs.items():
                np.copyto(array, given[name], casting="same_kind")
            model.run()
            text = model.profiled(runs)
        finally:
            model.close()
        found = operators(text, table=0)
        if not found:
            raise EdgesegError(f"LiteRT {version()} gives no table of operators that edgeseg can read: {text[:80]!r}")
        return found

    def close(self) -> None:
        """Let go of the model."""
        self._model.close()


def arithmetic(file: bytes) -> tuple[dict[str, int], int]:
    """Precision -> how many heavy operators of the main graph give it, and how many operators it has."""
    schema = need("ai_edge_litert.schema_py_generated")
    model = read(file)
    graph = model.subgraphs[0]
    kinds = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    heavy = {getattr(schema.BuiltinOperator, name) for name in HEAVY}
    types: dict[str, int] = {}
    for node in graph.operators:
        if model.operatorCodes[node.opcodeIndex].builtinCode in heavy:
            kind = kinds[graph.tensors[node.outputs[0]].type]
            name = PRECISIONS.get(kind, kind)
            types[name] = types.get(name, 0) + 1
    return types, len(graph.operators)


def _heard(words: dict[str, Any], version: str, threads: int) -> Execution:
    """What the interpreter on a device says: how much its delegates took it does not."""
    operators = [(name, kind) for name, kind in words["operators"] if name != "DELEGATE"]
    kinds = Counter(kind.upper() for name, kind in operators if name in HEAVY and kind)
    types = {PRECISIONS.get(kind, kind): count for kind, count in kinds.items()}
    delegates = len(words["operators"]) - len(operators)
    settings = {"interface": "interpreter", "delegates": str(delegates), "arithmetic": listing(types)}
    return Execution("litert", version, threads, main_precision(types), None, settings)


def version() -> str:
    """The installed LiteRT."""
    need("ai_edge_litert")
    from importlib.metadata import version as installed

    return installed("ai-edge-litert")


REMOTELY = Remotely(lambda manifest, threads: {}, _heard)

RUNTIMES.add("litert", Runtime("litert", version, sessions(LiteRtGraph), remotely=REMOTELY))
