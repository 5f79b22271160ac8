"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.kernels.build import LIBRARIES, Library
from edgeseg.runtimes.base import HEAVY, RUNTIMES, Opening, Remotely, Runtime, listing, main_precision, sessions
from edgeseg.runtimes.record import Execution, Operator

LIBRARIES.add("onnxruntime", Library("onnxruntime", "ort.cc"))

PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "uint8": "int8", "int8": "int8"}
"""ONNX Runtime's name of an element type -> ours."""


class OnnxRuntimeGraph:
    """One file. Idle threads spin, which is the runtime's default: without, two threads took 1.3 times as long here.

    The plain `run` returns the runtime's own buffers; binding inputs and outputs measured no faster.
    """

    without: ClassVar[tuple[str, ...]] = ()
    """The optimisers that do not run."""

    def __init__(self, opening: Opening) -> None:
        self._opening, self._plugin = opening, opening.plugin("onnxruntime")
        self._outputs = list(opening.outputs)
        self._session = _open(opening.file, self._options(), self.without)

    def _options(self) -> Any:
        options = _options(self._opening.threads)
        if self._plugin is not None:
            options.register_custom_ops_library(str(self._plugin))
        return options

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs."""
        result: list[NDArray[Any]] = self._session.run(self._outputs, feeds)
        return result

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """Read back from a profile of one more run: the types and providers of the kernels that really ran."""
        nodes = _profile(self._opening.file, self._options(), self.without, feeds)
        words = {"nodes": nodes, "providers": self._session.get_providers()}
        execution = _heard(words, version(), self._opening.threads)
        return replace(execution, settings=execution.settings | self._opening.tiers(self._plugin))

    def operators(self, given: Mapping[str, NDArray[Any]], runs: int) -> list[Operator]:
        """From a profile, in a session of its own, which is slower than one without."""
        events: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for event in _events(self._opening.file, self._options(), self.without, given, runs + 1):
            events.setdefault((event["args"]["node_index"], event["name"]), []).append(event)
        later = {name: each[len(each) // (runs + 1) :] for (_, name), each in events.items()}  # without the first run
        return [_operator(name.removesuffix("_kernel_time"), each, runs) for name, each in later.items() if each]

    def close(self) -> None:
        """Let go of the model."""
        del self._session


def _heard(words: dict[str, Any], version: str, threads: int) -> Execution:
    """What the kernels of a run, as `_profile` has them, say of it."""
    nodes = words["nodes"]
    types = Counter(PRECISIONS.get(kind, kind) for node in nodes if (kind := _arithmetic(node)) is not None)
    settings = {
        "execution_mode": "sequential",
        "graph_optimization": "all",
        "inter_op_threads": "1",
        "spinning": "on",
        "providers": ", ".join(words["providers"]),
        "arithmetic": listing(types),
    }
    placed = dict(Counter(node["provider"] for node in nodes))
    return Execution("onnxruntime", version, threads, main_precision(types), placed, settings)


def _options(threads: int) -> Any:
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.log_severity_level = 3  # errors; they are raised as well
    return options


def _open(model: Path, options: Any, without: Sequence[str]) -> Any:
    ort, state = need("onnxruntime"), need("onnxruntime.capi.onnxruntime_pybind11_state")
    errors = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        return ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
        )
    except errors as error:
        why = str(error).strip().splitlines()[0]
        raise EdgesegError(f"ONNX Runtime {version()} cannot open {model}: {why}; export again") from error


def _profile(
    model: Path, options: Any, without: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    """What the runtime wrote about each kernel it ran: `provider`, `op_name`, `input_type_shape`."""
    return [event["args"] for event in _events(model, options, without, feeds, 1)]


def _events(
    model: Path, options: Any, without: Sequence[str], feeds: Mapping[str, NDArray[Any]], runs: int
) -> list[dict[str, Any]]:
    """The kernels of all runs, each with `name`, `dur` in us and `args`."""
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _open(model, options, without)
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event for event in events if event.get("cat") == "Node" and "provider" in event["args"]]


def _operator(name: str, events: list[dict[str, Any]], runs: int) -> Operator:
    """One kernel, from what it did in that many runs."""
    told = events[0]["args"]
    types = [kind for each in told["output_type_shape"] for kind in each]
    return Operator(
        name=name,
        kind=told["op_name"],
        where=told["provider"].removesuffix("ExecutionProvider"),
        precision=PRECISIONS.get(types[0], types[0]) if types else None,
        ms=sum(event["dur"] for event in events) / runs / 1000,
        calls=len(events),
        bytes=int(told["output_size"]),
    )


def _arithmetic(node: dict[str, Any]) -> str | None:
    """The element type a heavy operator computed in, in the runtime's word; null for the others."""
    name = node["op_name"].lower()
    if not any(heavy in name for heavy in HEAVY):  # also FusedConv, QLinearConv, ConvInteger
        return None
    return next(iter(node["input_type_shape"][0]), None)


def version() -> str:
    """The installed ONNX Runtime."""
    return str(need("onnxruntime").__version__)


REMOTELY = Remotely(lambda manifest, threads: {}, _heard)

RUNTIMES.add("onnxruntime", Runtime("onnxruntime", version, sessions(OnnxRuntimeGraph), remotely=REMOTELY))
