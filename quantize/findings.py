"""What a search for whole numbers found, as it is stored: read where nothing is computed, so without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeseg.drops import Drop
from edgeseg.schema import STRICT

SUFFIX = "-search.json"
"""A search for the artifact `NAME` is the document `NAME-search.json` beside it."""

PICTURES = "-pictures"
"""Its pictures lie in the folder `NAME-pictures`."""

TRIALS = 10
"""Artifacts that a search makes at most, float included."""

FEWEST = 3
"""Without which there is no search: float, half precision, whole numbers."""

MARKED = (255, 40, 40)
"""Pixels of a picture that changed their label; all others are the photo at half its brightness."""


@dataclass(frozen=True)
class Time:
    """How long a frame takes: its median, and the ratio to the float artifact with its 95 % interval, measured in turns."""

    __pydantic_config__ = STRICT
    p50_ms: float
    ratio: float
    low: float
    high: float
    decision: str


@dataclass(frozen=True)
class Trial:
    """One artifact of a search.

    keep:   blocks in float. `drop` is against the run in PyTorch on the labelled images, in points of mIoU.
    failed: why there is no artifact, or what its proof says.
    """

    __pydantic_config__ = STRICT
    number: int
    precision: str
    folder: str
    keep: list[str] = field(default_factory=list)
    ranges: str | None = None
    executed: str | None = None
    miou: float | None = None
    drop: Drop | None = None
    time: Time | None = None
    megabytes: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Damage:
    """What a block loses when it alone computes in whole numbers, against the float network.

    drop:     points of mIoU; `boundary` points of boundary F at 2 px. Both against the true labels.
    changed:  the share of pixels with another label, 0..1.
    price:    the time of everything in whole numbers but this block, to that of everything; null where it was not measured.
    """

    __pydantic_config__ = STRICT
    block: str
    layers: list[str]
    drop: float
    boundary: float
    changed: float
    picture: str | None = None
    price: Time | None = None


@dataclass(frozen=True)
class Search:
    """What a search found; a document of its own beside the artifact. `chosen` is the number of a trial, null where none will do.

    seconds: what it took until now, with the sessions that were ended before; null of those that did not count.
    """

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["search"]
    created: str
    target: str
    student: str
    run: str | None
    images: str
    calibrated_on: str
    threads: int
    max_drop: float
    budget_ms: float | None
    trials: list[Trial]
    sensitivity: list[Damage]
    chosen: int | None
    words: str
    device: str = "local"
    seconds: float | None = None


def called(trial: Trial) -> str:
    """A trial in words."""
    name = (
        trial.precision if trial.executed in (None, trial.precision) else f"{trial.precision} run in {trial.executed}"
    )
    kept = f" with {len(trial.keep)} block{'s' if len(trial.keep) > 1 else ''} in float" if trial.keep else ""
    return f"{name}{kept}"
