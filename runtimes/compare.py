"""Is the second faster than the first? Three answers and an honest fourth: faster, slower, equivalent, inconclusive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.runtimes import statistics
from edgeseg.runtimes.conditions import other_settings
from edgeseg.runtimes.devices import Device, open_device
from edgeseg.runtimes.devices.cool import Cool, Tell, cooled
from edgeseg.runtimes.devices.prepare import caveats
from edgeseg.runtimes.measure import Job, Progress, job
from edgeseg.runtimes.record import Noise, Record
from edgeseg.schema import STRICT

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact

PROCESSES = 3
"""Fresh processes per subject: two processes of the same model differ by a constant that no further burst removes."""

BURST_S, BURST_COUNT = 0.25, 5
"""Least time and fewest samples of a burst."""

Provenance: TypeAlias = Literal["measured", "simulated", "claimed"]


@dataclass(frozen=True)
class Comparison:
    """The second against the first.

    ratio:      median time of the second over that of the first, with its 95 % interval `low..high`; null when refused.
    noise:      the same figures as log-ratios for the first against itself, where that was measured.
    why:        one line per thing the reader has to know.
    device:     where, by name or address.
    """

    __pydantic_config__ = STRICT
    verdict: statistics.Decision
    ratio: float | None
    low: float | None
    high: float | None
    noise: Noise | None
    why: list[str]
    device: str = "local"
    provenance: Provenance = "measured"


ALIKE: dict[str, Callable[[Record], object]] = {
    "device": lambda record: (record.device.kind, record.device.name, record.device.cpu, record.device.cores),
    "prepared": lambda record: record.device.prepared,
    "threads": lambda record: record.execution.threads,
    "protocol": lambda record: record.protocol.name,
    "provenance": lambda record: record.provenance,
    "end-to-end": lambda record: record.e2e is not None,
}
"""What two records must share for their times to be comparable."""


def unfit(record: Record) -> list[str]:
    """Why a record compares with none; what its settings say against quoting it speaks against another like it as well."""
    return [reason for reason in record.reasons if reason not in caveats(record.device.prepared)]


def refused(a: Record, b: Record) -> list[str]:
    """Why two records are not to be compared: they are not of the same kind, or not valid."""
    refusals = [f"{name} differs: {of(a)} and {of(b)}" for name, of in ALIKE.items() if of(a) != of(b)]
    refusals += other_settings([a, b])
    for name, record in (("first", a), ("second", b)):
        refusals += [f"the {name} record is not valid: {reason}" for reason in unfit(record)]
    return refusals


def compare_records(a: Record, b: Record) -> Comparison:
    """Compare two stored measurements, block by block; refused where they are not of the same kind or not valid."""
    where = (a.device.address, a.provenance)
    if refusals := refused(a, b):
        return Comparison("inconclusive", None, None, None, None, refusals, *where)
    first = statistics.bootstrap_medians(*a.samples.unpack(), seed=1)
    second = statistics.bootstrap_medians(*b.samples.unpack(), seed=2)
    low, high = statistics.interval(np.log(second / first))
    found = Noise(float(np.log(b.latency.p50_ms / a.latency.p50_ms)), low, high)
    why = ["measured one after the other, not interleaved: a change of the machine shows as well"]
    return _comparison(found, None, why, *where)


def compare_turns(pairs: Sequence[tuple[Record, Record]]) -> Comparison:
    """The second of each pair against its first, by how the pairs differ; the interval is of 99 %.

    pairs: of records that took turns, every one of a process of its own, and of the same but for first and second.
    """
    found = statistics.of_pairs(np.log([second.latency.p50_ms / first.latency.p50_ms for first, second in pairs]))
    ratio, low, high = (float(np.exp(value)) for value in (found.gap, found.low, found.high))
    why = [f"{len(pairs)} processes of each took turns: {ratio:.3f} times as long (99 %: {low:.3f} to {high:.3f})"]
    where = (pairs[-1][1].device.address, pairs[-1][1].provenance)
    return Comparison(statistics.decide(found.low, found.high), ratio, low, high, None, why, *where)


def compare_paired(
    a: Artifact | Path | str,
    b: Artifact | Path | str,
    *,
    threads: int,
    pairs: int = 10,
    burst_s: float | None = None,
    progress: Progress | None = None,
    device: str = "local",
) -> Comparison:
    """Compare two subjects now, as `compare_in_turns` does any number of them."""
    return compare_in_turns(a, [b], threads=threads, pairs=pairs, burst_s=burst_s, progress=progress, device=device)[0]


def compare_in_turns(
    first: Artifact | Path | str,
    others: Sequence[Artifact | Path | str],
    *,
    threads: int,
    pairs: int = 10,
    burst_s: float | None = None,
    progress: Progress | None = None,
    device: str = "local",
    cool: Cool | None = None,
    tell: Tell | None = None,
) -> list[Comparison]:
    """Each of the others against the first, in short bursts that take turns, in three sets of fresh processes with `pairs` rounds each.

    A second instance of the first subject takes part in every round: what differs between the two is the noise floor. The
    order of a round is made here, wherever it is measured. Before each set the device is waited for until it is `cool`; `tell`
    takes lines on that.

    Raises:
        InvalidMeasurement: a subject draws other masks on the device than here. Died: a process there came to nothing,
            somebody else measures there, or it never gets cool.
    """
    burst_s = BURST_S if burst_s is None else burst_s
    if pairs < 2 or not burst_s > 0:
        raise EdgesegError(
            f"a paired comparison needs at least 2 pairs and a burst longer than 0 s, got {pairs} and {burst_s}"
        )
    jobs = [job(subject) for subject in (first, *others, first)]
    rng = np.random.default_rng(0)
    medians = []
    notes: list[str] = []
    with closing(open_device(device)) as where, where.held():
        for process in range(PROCESSES):
            notes += cooled(where, cool, tell)
            medians.append(_rounds(jobs, where, threads, pairs, burst_s, rng))
            if progress:
                progress((process + 1) / PROCESSES)
        provenance: Provenance = "simulated" if any(each.on(where) == "simulated" for each in jobs) else "measured"
    logs = np.log(medians)
    *gaps, noise = (statistics.paired(logs[:, :, at] - logs[:, :, 0]) for at in range(1, len(jobs)))
    why = list(dict.fromkeys(notes))
    return [_comparison(gap, noise, why, where.address, provenance) for gap in gaps]


def _rounds(
    jobs: Sequence[Job], where: Device, threads: int, pairs: int, burst_s: float, rng: np.random.Generator
) -> list[list[float]]:
    """Medians `[pairs, jobs]` in ns, from one set of processes, in a new random order in every round."""
    medians = [[0.0] * len(jobs) for _ in range(pairs)]
    with ExitStack() as stack:
        workers = [stack.enter_context(closing(where.spawn())) for _ in jobs]
        for worker, subject in zip(workers, jobs, strict=True):
            subject.trusted(worker, threads)
            worker.ask("burst", seconds=burst_s, count=BURST_COUNT)  # warm-up
        for row in medians:
            for index in rng.permutation(len(jobs)):
                row[index] = workers[index].ask("burst", seconds=burst_s, count=BURST_COUNT)["median_ns"]
    return medians


def _comparison(
    found: Noise,
    noise: Noise | None,
    why: list[str],
    device: str,
    provenance: Provenance,
) -> Comparison:
    verdict = statistics.decide(found.low, found.high)
    if noise is not None and statistics.decide(noise.low, noise.high) != "equivalent":
        verdict = "inconclusive"
        gap = f"{np.expm1(noise.low):+.1%} to {np.expm1(noise.high):+.1%}"
        why = [*why, f"too noisy now: the first differs from itself by {gap}"]
    ratio, low, high = (float(np.exp(value)) for value in (found.gap, found.low, found.high))
    times = f"the second takes {ratio:.3f} times as long as the first (95 %: {low:.3f} to {high:.3f})"
    if provenance == "simulated":
        why = [*why, "simulated: these are times of no device, and nothing to quote"]
    return Comparison(verdict, ratio, low, high, noise, [times, *why], device, provenance)
