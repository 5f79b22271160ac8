"""Devices that take whole jobs, a file and an image, and give back what they drew and how long it took: no command runs there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError
from edgeseg.runtimes import pixels
from edgeseg.runtimes.devices.base import Facts, Measuring, Watching
from edgeseg.runtimes.devices.trust import doubt
from edgeseg.runtimes.record import DeviceState
from edgeseg.runtimes.telemetry.there import There

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact
    from edgeseg.runtimes.tools.tool import ToolResult


@dataclass(frozen=True)
class Ran:
    """What came of a job: its figures, why not to believe its masks (null where they are right), and what else to know."""

    result: ToolResult
    doubt: str | None
    notes: list[str]


class Jobs(ABC):
    """The half of a device that such have in common. `place`: where it is, in an error."""

    kind: ClassVar[str]
    place: ClassVar[str]
    provenance: ClassVar[Literal["measured", "simulated"]] = "measured"
    address: str
    url: str

    @abstractmethod
    def probe(self) -> Facts:
        """Who it is."""

    @abstractmethod
    def run(self, artifact: Artifact) -> Ran:
        """Have it run an artifact.

        Raises:
            EdgesegError: it takes no such file, or failed. MissingTool: what it takes to reach it.
        """

    def state(self) -> DeviceState:
        """Nothing is known of it."""
        return DeviceState(None, None, None, None)

    def reach(self) -> None:  # noqa: B027
        """There is no way to it but jobs."""

    def command(self, words: Sequence[str]) -> list[str]:
        """A command that ends at once: none runs there."""
        return ["false"]

    def explain(self, code: int, words: str) -> EdgesegError:
        """Why none does."""
        return EdgesegError(
            f"{self.address} is {self.place}, which runs whole jobs and no commands: only `edgeseg bench` measures there"
        )

    def spent(self) -> tuple[float, float] | None:
        """It does not say."""
        return None

    def held(self) -> AbstractContextManager[None]:
        """Jobs wait for each other where they run."""
        return nullcontext()

    def sensed(self) -> There:
        """Nothing is known of it."""
        return There(self)

    def watch(self, rounds: Sequence[dict[str, Any]], streams: Sequence[Sequence[str]]) -> Watching:
        """Nothing is known of it."""
        raise self.explain(1, "")

    def spawn(self, cold: bool = False) -> Measuring:
        """Only jobs run there."""
        raise self.explain(1, "")

    def close(self) -> None:  # noqa: B027
        """There is nothing to let go of."""


def seen(name: str, model: str, cpu: str | None, system: str) -> Facts:
    """Who a device is that is seen from outside only."""
    return Facts(
        name=name,
        model=model,
        cpu=cpu,
        cores=0,
        memory_bytes=0,
        system=system,
        boot_id=None,
        python=None,
        executable=None,
        runtimes={},
    )


def wrong(artifact: Artifact, given: NDArray[Any], made: Mapping[str, NDArray[Any]]) -> str | None:
    """Why not to believe what a job drew for the input `given`; converters may have given its one output another name."""
    spec = artifact.manifest.output
    if len(made) != 1:
        return "it gives no output to compare"
    output = np.asarray(made.get(spec.name, next(iter(made.values()))))
    drawn = pixels.labels(output.transpose(0, 3, 1, 2) if output.ndim == 4 and spec.layout == "NHWC" else output)
    return doubt(artifact, given, None, drawn)
