"""OpenVINO on the CPU."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.kernels.build import LIBRARIES, Flags, Library
from edgeseg.manifest import Manifest
from edgeseg.runtimes.agent import HALF, half
from edgeseg.runtimes.base import HEAVY, RUNTIMES, Opening, Remotely, Runtime, listing, main_precision, sessions
from edgeseg.runtimes.record import Execution, Operator

PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
"""OpenVINO's name of an element type -> ours."""


class OpenVinoGraph:
    """One compiled model and one request. It reads the caller's arrays in place; its outputs are copied, once.

    Having it write into the caller's own output measured slower than the copy.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening, self._plugin = opening, opening.plugin("openvino")
        self._model = self._compiled()
        self._request = self._model.create_infer_request()
        self._outputs = [self._model.output(name) for name in opening.outputs]

    def _compiled(self, **more: object) -> Any:
        opening = self._opening
        options = _options(opening.precision, opening.threads)
        if options["INFERENCE_PRECISION_HINT"] == HALF:
            options["INFERENCE_PRECISION_HINT"] = half(core())
        try:
            model = core().read_model(opening.file)
            if self._plugin is not None:
                put_plugins(model, self._plugin)
            return core().compile_model(model, "CPU", options | more)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            raise EdgesegError(f"OpenVINO {version()} cannot open {opening.file}: {why}; export again") from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs."""
        # `held` keeps the arrays until the end: sharing holds nothing
        held = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        made = self._request.infer(held, share_inputs=True, share_outputs=False)
        return [made[output] for output in self._outputs]

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """Read back from the compiled model: its properties, and the precision of each operator it will execute."""
        operators = [op.get_rt_info() for op in self._model.get_runtime_model().get_ordered_ops()]
        kinds = ("layerType", "runtimePrecision")
        words = {
            "operators": [[str(operator[kind].astype(str)) for kind in kinds] for operator in operators],
            "properties": {name: _word(self._model.get_property(name)) for name in READ_BACK},
            "devices": self._model.get_property("EXECUTION_DEVICES"),
        }
        threads = int(self._model.get_property("INFERENCE_NUM_THREADS"))
        execution = _heard(words, version(), threads)
        return replace(execution, settings=execution.settings | self._opening.tiers(self._plugin))

    def operators(self, given: Mapping[str, NDArray[Any]], runs: int) -> list[Operator]:
        """From its counters, in a model compiled once more; they are means since it was, so the first run is taken out."""
        model = self._compiled(PERF_COUNT=True)
        request, first = model.create_infer_request(), {}
        for run in range(runs + 1):
            request.infer(dict(given))
            if run == 0:
                first = {name: us for name, us, _ in _counted(model)}
        return [
            _operator(op, (us * (runs + 1) - first.get(name, us)) / runs / 1000, runs)
            for name, us, op in _counted(model)
        ]

    def close(self) -> None:
        """Let go of the model."""
        del self._outputs, self._request, self._model  # an output holds on to its model


def _options(precision: str, threads: int) -> dict[str, Any]:
    return {
        # f32 is asked for as well: left alone, some processors silently take bf16
        "INFERENCE_PRECISION_HINT": HALF if precision == "fp16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }


def _heard(words: dict[str, Any], version: str, threads: int) -> Execution:
    """What a compiled model says of itself: the kinds and precisions of its operators, its properties, its devices."""
    types = Counter(PRECISIONS.get(kind, kind) for layer, kind in words["operators"] if layer.lower() in HEAVY)
    properties = {name.lower(): PRECISIONS.get(value, value) for name, value in words["properties"].items()}
    precision = main_precision(types) or properties["inference_precision_hint"]
    devices = words["devices"]
    placed = {devices[0]: len(words["operators"])} if len(devices) == 1 else None
    return Execution("openvino", version, threads, precision, placed, properties | {"arithmetic": listing(types)})


def _counted(model: Any) -> list[tuple[str, int, Any]]:
    """Name, mean time in us, and the operator itself, of those that were executed."""
    told = [
        (op, str(op.get_rt_info()["execTimeMcs"].astype(str))) for op in model.get_runtime_model().get_ordered_ops()
    ]
    return [(op.friendly_name, int(us), op) for op, us in told if us.isdigit()]


def _operator(op: Any, ms: float, runs: int) -> Operator:
    """An operator of the compiled model; its time is in whole us, so that a small one may come out as 0."""
    info = op.get_rt_info()
    kind, precision = (str(info[name].astype(str)) for name in ("layerType", "runtimePrecision"))
    size = sum(int(np.prod(each.shape)) * each.element_type.size for each in op.outputs())
    return Operator(op.friendly_name, kind, "CPU", PRECISIONS.get(precision, precision), max(0.0, ms), runs, size)


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
    return str(value.get_type_name() if hasattr(value, "to_dtype") else getattr(value, "name", value))


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


SITES = ["edgeseg", "operators"]
"""Where in a model's own notes it says which of its values our operators stand between."""


def put_plugins(model: Any, library: Path) -> None:
    """Put our operators into the places that the model notes for them; what stood there falls away.

    The file itself has standard operators only, so that it runs wherever OpenVINO does.
    """
    if not model.has_rt_info(SITES):
        return  # the half of an encoder and a decoder that has none of them
    factory = _factory(str(library))
    values = {name: output for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
    for site in json.loads(model.get_rt_info(SITES).astype(str)):
        inputs = [values[name] for name in site["inputs"]]
        made = factory.create(site["operator"], inputs, site["attributes"]).output(0)
        old = values[site["output"]]
        made.set_names(old.get_names())
        for reader in list(old.get_target_inputs()):
            reader.replace_source_output(made)
        values |= dict.fromkeys(made.get_names(), made)
    model.validate_nodes_and_infer_types()


@cache
def _factory(library: str) -> Any:
    openvino()
    factory = need("openvino.utils.node_factory").NodeFactory()
    factory.add_extension(library)
    return factory


@cache
def extend(core: Any, library: Path) -> None:
    """Let a core read models that have our operators in them."""
    core.add_extension(str(library))


def _flags() -> Flags:
    root = Path(str(openvino().__file__)).parent
    libraries = [
        name
        for name in ("libopenvino.so", "libopenvino_onnx_frontend.so", "libtbb.so")
        for name in _named(root / "libs", name)
    ]
    return Flags(
        (f"-isystem{root / 'include'}", f"-L{root / 'libs'}", *(f"-l:{name}" for name in libraries)),
        openvino().__version__,
    )


def _named(folder: Path, start: str) -> list[str]:
    """The library of that name, whatever version its name ends with."""
    return sorted(file.name for file in folder.glob(f"{start}*"))[:1]


LIBRARIES.add("openvino", Library("openvino", "openvino.cc", _flags))


def version() -> str:
    """The installed OpenVINO, as released, e.g. `2026.4.1`."""
    return str(openvino().__version__).split("-")[0]


def _asked(manifest: Manifest, threads: int) -> dict[str, Any]:
    return {"options": _options(manifest.precision.asked, threads), "read_back": READ_BACK}


RUNTIMES.add("openvino", Runtime("openvino", version, sessions(OpenVinoGraph), remotely=Remotely(_asked, _heard)))
