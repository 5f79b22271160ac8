"""What a device is: something that can be asked what it is, given files, and told to measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.runtimes import record
from edgeseg.runtimes.record import DeviceState
from edgeseg.schema import STRICT

if TYPE_CHECKING:
    from edgeseg.runtimes.devices.book import Entry
    from edgeseg.runtimes.telemetry import Rooted

Tick = Callable[[float], None]
"""Called a few times per second with the seconds that were waited."""


@dataclass(frozen=True)
class Facts:
    """Who a device is, in its own words; `runtimes` are those that its Python `executable` has, with their versions, and numpy.

    A phone has no Python.
    """

    __pydantic_config__ = STRICT
    name: str
    model: str | None
    cpu: str | None
    cores: int
    memory_bytes: int
    system: str
    boot_id: str | None
    python: str | None
    executable: str | None
    runtimes: dict[str, str]


class Measuring(Protocol):
    """A fresh process on a device that measures: what `launch.Worker` is, wherever it runs."""

    def ask(self, do: str, limit_s: float = 0.0, tick: Tick | None = None, **request: Any) -> dict[str, Any]:
        """The answer of `worker.Bench` to `open`, `measure`, `end_to_end`, `burst` or `execution`, and `doubts` of the device.

        Raises:
            Died: the process came to nothing. EdgesegError: what it raised.
        """

    def close(self) -> None:
        """End the process and all it started."""


class Watching(Protocol):
    """Sensors of a device that are being read, by `agent.Watcher` there. `stream`: the index of the one that is listened to."""

    stream: int | None

    def stop(self) -> dict[str, Any]:
        """End it: what `agent.Watcher.run` says.

        Raises:
            Died: the device went away.
        """

    def close(self) -> None:
        """End it, if it was not stopped, whatever became of the device."""


class Device(Protocol):
    """A place to measure. `kind` is the first part of its address, `address` how the user names it, `url` where it is.

    provenance: what its times are worth: `simulated` where an emulator takes them.
    """

    kind: ClassVar[str]
    provenance: ClassVar[Literal["measured", "simulated"]]
    address: str

    @property
    def url(self) -> str:
        """Its address, whatever its name."""

    def reach(self) -> None:
        """See that commands can run there, where that takes more than running one.

        Raises:
            MissingTool: none can, and why.
        """

    def probe(self) -> Facts:
        """Who it is."""

    def state(self) -> DeviceState:
        """Load, clocks, temperature and governor now."""

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line of this machine that runs `words` there: for whoever reads sensors before or after it measures."""

    def explain(self, code: int, words: str) -> EdgesegError:
        """Why nothing runs there, from the exit code and the last words of `command`."""

    def spent(self) -> tuple[float, float] | None:
        """Processor time until now in s: of the whole device, and of what measures on it; null where it does not say."""

    def held(self) -> AbstractContextManager[None]:
        """Nobody else measures there as long as the block lasts, between two processes of ours neither.

        Raises:
            Died: somebody else does just now.
        """

    def sensed(self) -> Rooted:
        """It, as sensors see it."""

    def watch(self, rounds: Sequence[dict[str, Any]], streams: Sequence[Sequence[str]]) -> Watching:
        """Have its sensors read beside what is measured, as `agent.Watcher` takes it."""

    def spawn(self, cold: bool = False) -> Measuring:
        """A fresh measuring process; its `open` pushes what it needs. `cold`: from the start of Python on."""

    def close(self) -> None:
        """Let go of it."""


DEVICES: Registry[Callable[[str, Entry], Device]] = Registry("kind of device")
"""Kind -> what makes a device from the address and the entry behind it; each file of this folder that is one adds itself."""


def described(device: Device, before: DeviceState, after: DeviceState) -> record.Device:
    """A device as a record has it."""
    facts = device.probe()
    return record.Device(
        name=facts.name,
        kind=device.kind,
        cpu=facts.cpu,
        cores=facts.cores,
        memory_bytes=facts.memory_bytes,
        system=facts.system,
        before=before,
        after=after,
        address=device.address,
        model=facts.model,
        boot_id=facts.boot_id,
    )
