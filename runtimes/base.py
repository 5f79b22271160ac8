"""What a runtime is: it opens an artifact, runs it, and says in its own words what it really did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.manifest import InputSpec, OutputSpec
from edgeseg.registry import Registry
from edgeseg.runtimes.record import Execution

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact


class Session(Protocol):
    """One artifact, ready to run; for one thread at a time."""

    input: InputSpec
    output: OutputSpec

    @property
    def execution(self) -> Execution:
        """How it runs, read back from the runtime; may run the model once more, so ask after measuring."""

    def run(self, image: NDArray[Any]) -> NDArray[Any]:
        """The output for an input that is exactly as `input` says; a new array each time."""

    def close(self) -> None:
        """Let go of the model."""


@dataclass(frozen=True)
class Runtime:
    """A way to execute artifacts of the target of the same name.

    version:    what is installed; raises MissingTool with the install line when nothing is.
    open:       an artifact and a number of threads to a session.
    open_run:   likewise a run and an input size (height, width), for a runtime that needs no export.
    provenance: what a measurement in it is worth.
    """

    name: str
    version: Callable[[], str]
    open: Callable[[Artifact, int], Session]
    open_run: Callable[[Path, int, tuple[int, int]], Session] | None = None
    provenance: Literal["measured", "simulated"] = "measured"


RUNTIMES: Registry[Runtime] = Registry("runtime")
"""Name -> runtime; each file of this folder that is one adds itself."""

HEAVY = frozenset({"conv", "convolution", "convtranspose", "deconvolution", "gemm", "matmul", "fullyconnected"})
"""Operators, whatever a runtime calls them, that carry the arithmetic and so decide the precision executed."""


def runtime_of(artifact: Artifact) -> Runtime:
    """The runtime that executes this artifact's target."""
    return RUNTIMES[str(artifact.manifest.target.get("name"))]


def open_artifact(artifact: Artifact, threads: int) -> Session:
    """A session in the artifact's own runtime."""
    if threads < 1:
        raise EdgesegError(f"threads must be at least 1, got {threads}")
    return runtime_of(artifact).open(artifact, threads)


def wrong_input(image: NDArray[Any], spec: InputSpec) -> EdgesegError:
    """The error for an input that is not what the artifact takes."""
    return EdgesegError(f"the input is {spec.dtype} {spec.shape} {spec.layout}, got {image.dtype} {list(image.shape)}")


def main_precision(precisions: dict[str, int]) -> str | None:
    """The precision most of the arithmetic ran in, from the number of operators per precision."""
    return max(precisions, key=lambda name: precisions[name]) if precisions else None


def listing(counts: dict[str, int]) -> str:
    """Counts for people, e.g. `bf16 52, fp32 3`."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
