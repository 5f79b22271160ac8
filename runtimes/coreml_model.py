"""Core ML on a Mac; elsewhere our own interpreter of its files stands in, which proves what they say and measures nothing."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.runtimes.base import RUNTIMES, Opening, Runtime, Session, Sessions, listing, main_precision
from edgeseg.runtimes.record import Execution

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact

ON_A_MAC = sys.platform == "darwin"

ComputeUnits = Literal["all", "cpu_and_ne", "cpu_and_gpu", "cpu_only"]
"""What Core ML may run on; the names are those of `coremltools.ComputeUnit`, which has them in capitals."""

DEVICES = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "ne"}
"""Class of a device in coremltools -> ours."""


class InterpretedGraph:
    """A package, executed operator by operator in PyTorch."""

    def __init__(self, opening: Opening) -> None:
        from edgeseg.runtimes import mil_interpreter as mil

        self._opening = opening
        self._program = mil.read_package(opening.file.parent)
        self._arithmetic = mil.arithmetic(mil.parse(mil.model_file(opening.file.parent)))
        if missing := set(opening.outputs) - set(self._program.outputs):
            raise EdgesegError(f"{opening.file.parent} has no output {', '.join(sorted(missing))}; export again")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs."""
        torch = need("torch")
        before = torch.get_num_threads()
        torch.set_num_threads(self._opening.threads)
        try:
            made = self._program.run(feeds)
        finally:
            torch.set_num_threads(before)
        return [made[name].copy() for name in self._opening.outputs]  # one may be an input that is passed on

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """What the file declares; every operator ran in PyTorch, in float32 between its declared types."""
        settings = {"arithmetic": listing(self._arithmetic)} | self._opening.tiers(None)
        placed = {"cpu": len(self._program.steps)}
        precision, threads = main_precision(self._arithmetic), self._opening.threads
        return Execution("mil_interpreter", version(), threads, precision, placed, settings)

    def close(self) -> None:
        """Let go of the program."""
        del self._program


class CoreMlGraph:
    """A package, compiled and executed by Core ML. How many threads it takes it neither asks nor says."""

    def __init__(self, opening: Opening, units: ComputeUnits = "all") -> None:
        from edgeseg.runtimes import mil_interpreter as mil

        with mil.quiet():
            tools = need("coremltools")
        package = opening.file.parent
        self._opening, self._units = opening, tools.ComputeUnit[units.upper()]
        try:
            self._model = tools.models.MLModel(str(package), compute_units=self._units)
        except (RuntimeError, ValueError, OSError) as error:
            why = " ".join(str(error).split())
            raise EdgesegError(f"Core ML cannot open {package}: {why}; export again") from error
        parsed = self._model.get_spec()
        self._images, self._arithmetic = mil.pictures(parsed), mil.arithmetic(parsed)
        self._shapes = {each.name: tuple(each.type.multiArrayType.shape) for each in parsed.description.output}
        whole = tools.proto.FeatureTypes_pb2.ArrayFeatureType.INT32
        self._whole = {each.name for each in parsed.description.output if each.type.multiArrayType.dataType == whole}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs, in the shapes and types that the file declares."""
        made = self._model.predict({name: self._given(name, array) for name, array in feeds.items()})
        return [
            np.array(made[name], np.int32 if name in self._whole else np.float32).reshape(self._shapes[name])
            for name in self._opening.outputs
        ]

    def _given(self, name: str, array: NDArray[Any]) -> Any:
        """An input as coremltools takes it: a picture of PIL, or float32."""
        if name in self._images:
            from PIL import Image

            return Image.fromarray(array[0])
        return np.ascontiguousarray(array, np.float32)

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """The plan of Core ML for each operator, and the precision that the file declares; more it does not say."""
        settings = {
            "compute_units": self._units.name.lower(),
            "macos": platform.mac_ver()[0],
            "arithmetic": listing(self._arithmetic),
        } | self._opening.tiers(None)
        precision, threads = main_precision(self._arithmetic), self._opening.threads
        return Execution("coreml", version(), threads, precision, placed(self._model, self._units), settings)

    def close(self) -> None:
        """Let go of the model."""
        del self._model


def placed(model: Any, units: Any) -> dict[str, int] | None:
    """The number of operators that Core ML means to run on each device; null before macOS 14.4, which has no plans."""
    plans = need("coremltools.models.compute_plan").MLComputePlan
    try:
        plan = plans.load_from_path(model.get_compiled_model_path(), units)
    except (RuntimeError, ValueError):
        return None
    return planned(plan)


def planned(plan: Any) -> dict[str, int]:
    """The number of operators that a compute plan of coremltools has on each device."""
    block = plan.model_structure.program.functions["main"].block
    found = (plan.get_compute_device_usage_for_mlprogram_operation(each) for each in block.operations)
    kinds = (type(each.preferred_compute_device).__name__ for each in found if each is not None)
    return dict(Counter(DEVICES.get(kind, kind) for kind in kinds))


@dataclass(frozen=True)
class OnUnits(Sessions):
    """What opens artifacts in Core ML, on the compute units that their target names."""

    def __call__(self, artifact: Artifact, threads: int) -> Session:
        """An artifact and a number of threads to a session."""
        units = artifact.manifest.target.get("compute_units", "all")
        return Sessions(partial(CoreMlGraph, units=units))(artifact, threads)


def version() -> str:
    """The installed Core ML Tools."""
    from edgeseg.runtimes.mil_interpreter import quiet

    with quiet():
        return str(need("coremltools").__version__)


def runtime(on_a_mac: bool) -> Runtime:
    """Core ML where it is, else what stands in for it."""
    if on_a_mac:
        return Runtime("coreml", version, OnUnits(CoreMlGraph))
    return Runtime("coreml", version, Sessions(InterpretedGraph), provenance="simulated")


RUNTIMES.add("coreml", runtime(ON_A_MAC))
