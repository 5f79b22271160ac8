"""Where the time of a frame goes: every operator, where it ran, and what it costs, as the runtime itself tells it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.provenance import MadeBy, made_by, now
from edgeseg.runtimes.devices import described, open_device
from edgeseg.runtimes.measure import job
from edgeseg.runtimes.record import Device, Execution, Operator, Subject
from edgeseg.schema import STRICT

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact

RUNS = 20
BURST_S = 1.0

SLOWER = 10
"""How much longer a run may take in which every operator is timed."""


@dataclass(frozen=True)
class Kind:
    """All operators of one kind, on one unit, in one precision."""

    __pydantic_config__ = STRICT
    kind: str
    where: str
    precision: str | None
    count: int
    ms: float
    share: float


@dataclass(frozen=True)
class Profile:
    """One profile. It explains a latency and is none: keeping account slows the runtime down.

    total_ms: the sum of the operators. `p50_ms`: the median of a frame without keeping account, in the same process.
    """

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["profile"]
    created: str
    edgeseg: MadeBy
    subject: Subject
    device: Device
    execution: Execution
    runs: int
    operators: list[Operator]
    kinds: list[Kind]
    total_ms: float
    p50_ms: float
    load_ms: float
    first_ms: float
    peak_memory_bytes: int | None
    model_memory_bytes: int | None
    provenance: Literal["measured", "simulated", "claimed"]


def profile(artifact: Artifact | Path | str, threads: int = 1, runs: int = RUNS, image: Path | None = None) -> Profile:
    """Every operator of an artifact, in a fresh process.

    Raises:
        EdgesegError: its runtime tells nothing of its operators, or what it tells are no times. Died: somebody else measures here.
    """
    if runs < 1:
        raise EdgesegError(f"a profile needs at least 1 run, got {runs}")
    task, here = job(artifact), open_device("local")
    before = here.state()
    if task.size is not None:
        raise EdgesegError(f"{task.folder} is a run; export it, a profile is of an artifact")
    with here.held(), closing(here.spawn()) as worker:
        opened = task.open(worker, threads, image)
        burst = worker.ask("burst", limit_s=60, seconds=BURST_S, count=5)
        limit_s = SLOWER * runs * burst["median_ns"] / 1e9
        told = worker.ask("operators", limit_s=limit_s, runs=runs) | worker.ask("execution")
    operators = [schema.parse(Operator, each, "the worker") for each in told["operators"]]
    total = sum(each.ms for each in operators)
    if not total > 0:
        raise EdgesegError(f"the runtime told of {len(operators)} operators, and no time of any")
    return Profile(
        schema=1,
        kind="profile",
        created=now(),
        edgeseg=made_by(),
        subject=task.subject,
        device=described(here, before, here.state()),
        execution=schema.parse(Execution, told["execution"], "the worker"),
        runs=runs,
        operators=operators,
        kinds=by_kind(operators),
        total_ms=total,
        p50_ms=burst["median_ns"] / 1e6,
        load_ms=opened["load_ms"],
        first_ms=opened["first_ms"],
        peak_memory_bytes=opened["peak_memory_bytes"],
        model_memory_bytes=opened["model_memory_bytes"],
        provenance=task.provenance,
    )


def by_kind(operators: Sequence[Operator]) -> list[Kind]:
    """Operators of a kind together, the dearest first."""
    groups: dict[tuple[str, str, str | None], list[float]] = {}
    for each in operators:
        groups.setdefault((each.kind, each.where, each.precision), []).append(each.ms)
    total = sum(map(sum, groups.values()))
    kinds = [Kind(*key, len(times), sum(times), sum(times) / total) for key, times in groups.items()]
    return sorted(kinds, key=lambda kind: -kind.ms)
