"""One measurement, one JSON file: every sample is kept, every derived figure can be computed again from them.

Times are wall clock of the machine the model ran on, from a monotonic clock, batch 1, in nanoseconds where they are
samples and in milliseconds where they are figures.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.provenance import MadeBy
from edgeseg.runtimes.telemetry.reading import Reading
from edgeseg.schema import STRICT

SCHEMA = 1


MOST = 1 << 24
"""Samples that a record has at most, more than any protocol takes."""


@dataclass(frozen=True)
class Samples:
    """`count` pairs (start, duration) in ns; `data` is base64 of zlib of little-endian int64 `[2, count]`, starts from 0."""

    __pydantic_config__ = STRICT
    count: int
    data: str

    @classmethod
    def pack(cls, starts: NDArray[np.int64], durations: NDArray[np.int64]) -> Samples:
        """Keep the samples; the first start becomes 0."""
        both = np.stack([starts - (starts[0] if len(starts) else 0), durations]).astype("<i8")
        return cls(len(starts), base64.b64encode(zlib.compress(both.tobytes(), 9)).decode("ascii"))

    def unpack(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`starts [count]` and `durations [count]` in ns."""
        try:
            packed, size = base64.b64decode(self.data, validate=True), 16 * self.count
            # whoever wrote it may have written anything: no more memory than it says
            flat = np.frombuffer(zlib.decompressobj().decompress(packed, size + 1) if size >= 0 else b"", "<i8")
            if not 0 <= self.count <= MOST or flat.nbytes != size:
                raise ValueError(f"they are not {self.count}")
            both = flat.reshape(2, self.count).astype(np.int64)
        except (ValueError, zlib.error) as error:
            raise EdgesegError(f"the samples of this record are damaged ({error}); measure again") from error
        return both[0], both[1]


@dataclass(frozen=True)
class Subject:
    """What was measured. `sha256` is that of the artifact's model file or the run's weights."""

    __pydantic_config__ = STRICT
    path: str
    student: str
    target: str
    precision: str
    sha256: str
    input_shape: list[int]
    baked: list[str]
    file_bytes: int


@dataclass(frozen=True)
class DeviceState:
    """The device as it was before or after; null where the system does not say. `clusters_mhz`: the clock of each group of cores."""

    __pydantic_config__ = STRICT
    load_1min: float | None
    cpu_mhz: float | None
    temperature_c: float | None
    governor: str | None
    clusters_mhz: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Device:
    """Where it ran: `address` is how it was reached, `model` the board's name in its device tree, `boot_id` its boot.

    prepared: its settings that were changed for the measurement, and put back.
    """

    __pydantic_config__ = STRICT
    name: str
    kind: str
    cpu: str | None
    cores: int
    memory_bytes: int
    system: str
    before: DeviceState
    after: DeviceState
    address: str = "local"
    model: str | None = None
    boot_id: str | None = None
    prepared: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """How the runtime ran it, in the runtime's own words: `placed` counts operators per unit, null if it does not say."""

    __pydantic_config__ = STRICT
    runtime: str
    version: str
    threads: int
    precision: str | None
    placed: dict[str, int] | None
    settings: dict[str, str]


@dataclass(frozen=True)
class Operator:
    """One operator of a network as it was executed, fused ones as one: mean time in a frame, in ms.

    where: the unit that ran it, in the runtime's own words. calls: those that the mean is of. bytes: of its outputs; null
    where the runtime does not say.
    """

    __pydantic_config__ = STRICT
    name: str
    kind: str
    where: str
    precision: str | None
    ms: float
    calls: int
    bytes: int | None


@dataclass(frozen=True)
class Protocol:
    """When to stop: not before `min_s` seconds and `min_count` samples, never after `max_s` seconds.

    kind: `single` takes frames one after the other; `sustained` too, and asks whether it goes on like that; `camera` takes
          them as they come, `fps` a second; `cold-start` takes the first frame of `min_count` fresh processes; `offline` is
          about frames in a second alone: `streams` sessions at once, each with its own threads.
    """

    __pydantic_config__ = STRICT
    name: str
    min_s: float
    min_count: int
    max_s: float
    warmup_count: int
    warmup_s: float
    kind: Literal["single", "sustained", "camera", "cold-start", "offline"] = "single"
    fps: float | None = None
    streams: int | None = None

    def __post_init__(self) -> None:
        if (self.kind == "camera") != (self.fps is not None):
            raise ValueError(f"a camera has fps and nothing else has; got {self.kind} with {self.fps}")
        if (self.kind == "offline") != (self.streams is not None):
            raise ValueError(f"offline has streams and nothing else has; got {self.kind} with {self.streams}")

    @property
    def back_to_back(self) -> bool:
        """Whether its samples say what a frame takes on a device that does nothing else: what a verdict is about."""
        return self.kind in ("single", "sustained")


@dataclass(frozen=True)
class Latency:
    """Figures of the steady samples, in ms. `p90_upper` is the one-sided 99 % early-stopping bound.

    `p90` and its bound are null below 64 samples, `p99` below 662. `p50_low` and `p50_high` are the 95 % block-bootstrap
    interval of the median. `sustained_fps` is samples over wall time, gaps between samples included.
    """

    __pydantic_config__ = STRICT
    count: int
    wall_s: float
    mean_ms: float
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p90_ms: float | None
    p90_upper_ms: float | None
    p99_ms: float | None
    sustained_fps: float
    autocorrelation: float | None


@dataclass(frozen=True)
class Segment:
    """A stretch of steady throughput: from, to (seconds), frames per second."""

    __pydantic_config__ = STRICT
    start_s: float
    end_s: float
    fps: float


@dataclass(frozen=True)
class Sustained:
    """Whether the device keeps up. `fps`: frames over wall time of the last steady stretch, which began at `since_s`.

    kept: its share of the first stretch's; `changes_s`: where one stretch ends and the next begins.
    """

    __pydantic_config__ = STRICT
    finding: Literal["steady", "throttled"]
    fps: float
    kept: float
    since_s: float
    changes_s: list[float]


@dataclass(frozen=True)
class Camera:
    """Frames of a camera that waits for nobody: when the model is free it takes the newest, and what it missed is dropped.

    ages: (arrival, age) of each frame taken; its age is the time from its arrival to its result, waiting included.
    """

    __pydantic_config__ = STRICT
    fps: float
    frames: int
    dropped: int
    age_p50_ms: float
    age_p90_ms: float | None
    age_p90_upper_ms: float | None
    age_max_ms: float
    ages: Samples


@dataclass(frozen=True)
class ColdStart:
    """Fresh processes, one after the other, medians of them. The file system's cache is warm, as after any first start.

    ready_ms: from starting the process to its first result, Python and the import of the runtime included.
    """

    __pydantic_config__ = STRICT
    processes: int
    load_ms: float
    first_ms: float
    ready_ms: float
    loads_ms: list[float]
    firsts_ms: list[float]
    readies_ms: list[float]


@dataclass(frozen=True)
class Sensors:
    """What the device's sensors said before and after; `notes`: what they leave open.

    during: every few seconds while it was measured, without power; `time_s` from the first sample on, of `flags` those that differ
            from `before`.
    """

    __pydantic_config__ = STRICT
    before: Reading
    after: Reading
    notes: list[str]
    during: list[Reading] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A step, every sample kept: of the end-to-end path (`decode`, `resize`, `infer`, `labels`), or one of `HALVES`."""

    __pydantic_config__ = STRICT
    name: str
    p50_ms: float
    p90_ms: float | None
    samples: Samples


HALVES = ("encoder", "prompt")
"""What a promptable artifact does once for an image, and once for each prompt about it."""


@dataclass(frozen=True)
class Noise:
    """The A/A self-test: the same work timed as two interleaved halves. `gap` is the median log-ratio, `low..high` its 95 % interval."""

    __pydantic_config__ = STRICT
    gap: float
    low: float
    high: float


@dataclass(frozen=True)
class Record:
    """One measurement. `reasons` says why it is not `valid`; `provenance` says whether it may enter a table at all.

    energy_mj: of a frame, above what the device takes idle, as `energy_source` measured it; null where nothing does.
    halves: of a promptable artifact what `samples` are made of, where they were taken one after the other.
    """

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["measurement"]
    created: str
    edgeseg: MadeBy
    subject: Subject
    device: Device
    execution: Execution
    protocol: Protocol
    load_ms: float
    first_ms: float
    warmup: Samples
    samples: Samples
    latency: Latency
    segments: list[Segment]
    stages: list[Stage] | None
    e2e: Latency | None
    peak_memory_bytes: int | None
    model_memory_bytes: int | None
    energy_mj: float | None
    noise: Noise
    valid: bool
    reasons: list[str]
    provenance: Literal["measured", "simulated", "claimed"]
    sustained: Sustained | None = None
    camera: Camera | None = None
    cold_start: ColdStart | None = None
    sensors: Sensors | None = None
    energy_source: str | None = None
    halves: list[Stage] | None = None


@dataclass(frozen=True)
class Failure:
    """A measurement that came to nothing, which is a result too: of this subject, on this device.

    outcome: `crashed` (see `detail`), `killed`, `illegal_instruction`, `out_of_memory`, `unsupported_operator`, `hang`,
             `lost` (the device went away), `busy` (somebody else has it), `hot` (it did not cool down), `garbled` (what came was
             not what was sent) or `error`.
    samples: those that had arrived.
    """

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["failure"]
    created: str
    edgeseg: MadeBy
    subject: Subject
    device: Device
    threads: int
    protocol: Protocol
    outcome: str
    detail: str
    samples: Samples | None


def read(path: Path) -> Record:
    """A record from its file."""
    return schema.read(Record, path)


def write(path: Path, record: Record) -> Path:
    """Store a record, whole or not at all."""
    return schema.write(path, record)
