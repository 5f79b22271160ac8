"""OpenVINO on the CPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.runtimes.base import HEAVY, RUNTIMES, Runtime, listing, main_precision, sessions
from edgeseg.runtimes.record import Execution

HINTS = {"fp16": "f16", "bf16": "bf16"}
"""Precision asked -> INFERENCE_PRECISION_HINT. Everything else is f32: left alone, some processors silently take bf16."""

PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
"""OpenVINO's name of an element type -> ours."""


class OpenVinoGraph:
    """One compiled model and one request. It reads the caller's arrays in place; its outputs are copied, once.

    Having it write into the caller's own output measured slower than the copy.
    """

    def __init__(self, file: Path, outputs: Sequence[str], precision: str, threads: int) -> None:
        options = {
            "INFERENCE_PRECISION_HINT": HINTS.get(precision, "f32"),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        try:
            self._model = core().compile_model(file, "CPU", options)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            raise EdgesegError(f"OpenVINO {version()} cannot open {file}: {why}; export again") from error
        self._request = self._model.create_infer_request()
        self._outputs = [self._model.output(name) for name in outputs]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs."""
        # `held` keeps the arrays until the end: sharing holds nothing
        held = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        made = self._request.infer(held, share_inputs=True, share_outputs=False)
        return [made[output] for output in self._outputs]

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """Read back from the compiled model: its properties, and the precision of each operator it will execute."""
        operators = [op.get_rt_info() for op in self._model.get_runtime_model().get_ordered_ops()]
        types = Counter(
            PRECISIONS.get(kind, kind)
            for operator in operators
            if str(operator["layerType"].astype(str)).lower() in HEAVY
            for kind in [str(operator["runtimePrecision"].astype(str))]
        )
        settings = {name.lower(): _word(self._model.get_property(name)) for name in READ_BACK} | {
            "arithmetic": listing(types)
        }
        precision = main_precision(types) or settings["inference_precision_hint"]
        devices = self._model.get_property("EXECUTION_DEVICES")
        placed = {devices[0]: len(operators)} if len(devices) == 1 else None
        threads = int(self._model.get_property("INFERENCE_NUM_THREADS"))
        return Execution("openvino", version(), threads, precision, placed, settings)

    def close(self) -> None:
        """Let go of the model."""
        del self._outputs, self._request, self._model  # an output holds on to its model


READ_BACK = (
    "INFERENCE_PRECISION_HINT",
    "PERFORMANCE_HINT",
    "EXECUTION_MODE_HINT",
    "NUM_STREAMS",
    "ENABLE_CPU_PINNING",
    "ENABLE_HYPER_THREADING",
    "RUNTIME_REQUIREMENTS",
)
"""Properties that explain a latency."""


def _word(value: Any) -> str:
    """A property in a word: the name of an enum or of an element type, else the value."""
    if hasattr(value, "to_dtype"):
        name = str(value.get_type_name())
        return PRECISIONS.get(name, name)
    return str(getattr(value, "name", value))


def openvino() -> ModuleType:
    """The openvino module, imported so that it does not phone home.

    A plain import reports itself to Intel unless the user has opted out; without the reporting module OpenVINO takes
    its own empty stand-in.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it now fails, as if not installed
    return need("openvino")


@cache
def core() -> Any:
    """The one `Core` of this process.

    Each loads the CPU plugin, which gives the thread a signal stack of its own and puts the one before back when it goes.
    Two that do not go in the reverse order of their coming leave a stack that is no longer there, and the next signal
    with a handler (a worker of a DataLoader that ends is enough) kills the process. Seen with 2026.4.1.
    """
    return openvino().Core()


def version() -> str:
    """The installed OpenVINO, as released, e.g. `2026.4.1`."""
    return str(openvino().__version__).split("-")[0]


RUNTIMES.add("openvino", Runtime("openvino", version, sessions(OpenVinoGraph)))
