"""Core ML on a Mac; elsewhere our own interpreter of its files stands in, which proves what they say and measures nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.manifest import Manifest
from edgeseg.runtimes import agent
from edgeseg.runtimes.base import RUNTIMES, Opening, Remotely, Runtime, Session, Sessions, listing, main_precision
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
    """A package, compiled and executed by Core ML: by what the agent does on a Mac that is reached over ssh."""

    def __init__(self, opening: Opening, units: ComputeUnits = "all") -> None:
        version()  # or it is not there
        self._opening, package = opening, opening.file.parent
        self._net = agent.CoreMl(str(opening.file), {"outputs": opening.outputs, "compute_units": units})
        try:
            self._net.load()
        except (RuntimeError, ValueError, OSError) as error:
            why = " ".join(str(error).split())
            raise EdgesegError(f"Core ML cannot open {package}: {why}; export again") from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs, in the shapes and types that the file declares."""
        return self._net.run(dict(feeds))

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """The plan of Core ML for each operator, and the precision that the file declares; more it does not say."""
        made = _heard(self._net.words(dict(feeds)), version(), self._opening.threads)
        return replace(made, settings=made.settings | self._opening.tiers(None))

    def close(self) -> None:
        """Let go of the model."""
        del self._net


def _asked(manifest: Manifest, threads: int) -> dict[str, Any]:
    return {"compute_units": manifest.target.get("compute_units", "all")}


def _heard(words: dict[str, Any], version: str, threads: int) -> Execution:
    from edgeseg.runtimes import mil_interpreter as mil

    arithmetic = mil.counted(words["operators"])
    settings = {"compute_units": words["units"], "macos": words["macos"], "arithmetic": listing(arithmetic)}
    placed = None if words["placed"] is None else on_devices(words["placed"])
    return Execution("coreml", version, threads, main_precision(arithmetic), placed, settings)


def on_devices(planned: Iterable[str]) -> dict[str, int]:
    """The number of operators on each device, from what `agent.planned` says."""
    return dict(Counter(DEVICES.get(kind, kind) for kind in planned))


@dataclass(frozen=True)
class OnUnits(Sessions):
    """What opens artifacts in Core ML, on the compute units that their target names."""

    def __call__(self, artifact: Artifact, threads: int) -> Session:
        """An artifact and a number of threads to a session."""
        units = artifact.manifest.target.get("compute_units", "all")
        return Sessions(partial(CoreMlGraph, units=units))(artifact, threads)


def on_other_units(artifact: Artifact) -> dict[str, Artifact]:
    """The artifact on every choice of compute units but its own: an app makes that choice, and masks are not the same on all."""
    from edgeseg.artifact import Artifact

    target = artifact.manifest.target
    return {
        units: Artifact(artifact.folder, replace(artifact.manifest, target=target | {"compute_units": units}))
        for units in get_args(ComputeUnits)
        if units != target.get("compute_units", "all")
    }


def version() -> str:
    """The installed Core ML Tools."""
    from edgeseg.runtimes.mil_interpreter import quiet

    with quiet():
        return str(need("coremltools").__version__)


def runtime(on_a_mac: bool) -> Runtime:
    """Core ML where it is, else what stands in for it."""
    there = Remotely(_asked, _heard)
    if on_a_mac:
        return Runtime("coreml", version, OnUnits(CoreMlGraph), remotely=there, others=on_other_units)
    return Runtime("coreml", version, Sessions(InterpretedGraph), remotely=there, provenance="simulated")


RUNTIMES.add("coreml", runtime(ON_A_MAC))
