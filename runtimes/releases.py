"""Did a release make anything slower? Records of two places, paired by what was measured where, judged by their intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import BudgetExceeded, EdgesegError, InvalidMeasurement
from edgeseg.runtimes import statistics
from edgeseg.runtimes.compare import ALIKE, Comparison, compare_records, unfit
from edgeseg.runtimes.conditions import OTHER_CLOCK, busy_mhz, other_settings, settings
from edgeseg.runtimes.record import Record
from edgeseg.schema import STRICT

SUBJECT: dict[str, Callable[[Record], object]] = {
    "student": lambda record: record.subject.student,
    "target": lambda record: record.subject.target,
    "precision": lambda record: record.subject.precision,
    "input": lambda record: (record.subject.input_shape, record.subject.baked),
}
"""What two releases must have made alike; that the file is another one is the point."""


@dataclass(frozen=True)
class Pair:
    """One subject in one place, in two releases: `old` and `new` records of it, each a process of its own."""

    __pydantic_config__ = STRICT
    what: str
    old: int
    new: int
    found: Comparison


@dataclass(frozen=True)
class Releases:
    """Every pair, and what only one of the two has."""

    __pydantic_config__ = STRICT
    pairs: list[Pair]
    only_old: list[str]
    only_new: list[str]
    problems: list[str]

    @property
    def exit_code(self) -> int:
        """4 where something is slower, else 6 where something is not known (gone, inconclusive, unreadable), else 0."""
        if any(pair.found.verdict == "slower" for pair in self.pairs):
            return BudgetExceeded.exit_code
        unknown = any(pair.found.verdict == "inconclusive" for pair in self.pairs)
        return InvalidMeasurement.exit_code if unknown or self.only_old or self.problems else 0


def compare_releases(old: Path, new: Path) -> Releases:
    """Compare what two folders hold: records as `bench` wrote them, or as they were handed in.

    Raises:
        EdgesegError: a folder holds no record, or no two are of the same.
    """
    problems: list[str] = []
    before, after = (_grouped(folder, problems) for folder in (old, new))
    both = [key for key in before if key in after]
    if not both:
        raise EdgesegError(
            f"no record in {new} is of the same device, student, target, precision, threads and protocol as one in {old}"
        )
    pairs = [
        Pair(_called(before[key][0]), len(before[key]), len(after[key]), compare_stored(before[key], after[key]))
        for key in both
    ]
    gone, fresh = ([_called(side[key][0]) for key in side if key not in both] for side in (before, after))
    return Releases(pairs, gone, fresh, problems)


def _grouped(folder: Path, problems: list[str]) -> dict[str, list[Record]]:
    """Records of the same by what they are of, each list in order of time."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in _records(folder, problems):
        found[repr([of(record) for of in (SUBJECT | ALIKE).values()])].append(record)
    if not found:
        raise EdgesegError(f"{folder} holds no record of a measurement{f' ({problems[0]})' if problems else ''}")
    return {key: sorted(records, key=lambda record: record.created) for key, records in found.items()}


def _records(folder: Path, problems: list[str]) -> Iterator[Record]:
    from edgeseg.results import documents

    for path in documents(folder):
        try:
            record = stored(path)
        except EdgesegError as error:
            problems.append(str(error))
            continue
        if record is not None:
            yield record


def stored(path: Path) -> Record | None:
    """The record in a file, or in what was handed in with it; null where the file is about something else.

    Raises:
        EdgesegError: it is damaged, or says that the measurement came to nothing.
    """
    from edgeseg.files import read_json
    from edgeseg.results import parse_record

    document = read_json(path)
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind == "submission":
        return parse_record(document.get("record"), f"{path}: record")
    if kind == "failure":
        raise EdgesegError(f"{path} is of a measurement that came to nothing: {document.get('detail')}")
    return parse_record(document, str(path)) if kind == "measurement" else None


def compare_stored(olds: Sequence[Record], news: Sequence[Record]) -> Comparison:
    """The new records against the old ones, each in order of time; refused where their conditions differ or none is valid.

    Several valid records of a side are as many processes: two processes of one model differ by a constant, which the
    interval of one record does not have in it.
    """
    olds, news = (_quotable(side) for side in (olds, news))
    found = compare_records(olds[-1], news[-1])
    refused = [] if found.ratio is not None else found.why
    refused = list(dict.fromkeys([*refused, *other_settings([*olds, *news])]))
    if refused:
        return replace(found, verdict="inconclusive", ratio=None, low=None, high=None, why=refused)
    if len(olds) + len(news) > 2:
        found = _of_all(found, olds, news)
    return replace(found, why=[*found.why, *_notes(olds[-1], news[-1])])


def _quotable(records: Sequence[Record]) -> Sequence[Record]:
    """Those that can be compared; where there is none the newest, which says why."""
    return [record for record in records if not unfit(record)] or records[-1:]


def _of_all(found: Comparison, olds: Sequence[Record], news: Sequence[Record]) -> Comparison:
    before, after = (_medians(side, seed) for seed, side in enumerate((olds, news), 1))
    low, high = statistics.interval(np.log(after / before))
    gap = np.log(np.median([r.latency.p50_ms for r in news]) / np.median([r.latency.p50_ms for r in olds]))
    ratio, least, most = (float(np.exp(value)) for value in (gap, low, high))
    why = [f"{len(olds)} records before and {len(news)} after, their processes drawn as well", *found.why[1:]]
    return replace(found, verdict=statistics.decide(low, high), ratio=ratio, low=least, high=most, why=why)


def _medians(records: Sequence[Record], seed: int) -> NDArray[np.float64]:
    """Medians `[resamples]` of processes drawn first, then of blocks of time in each."""
    each = np.stack(
        [statistics.bootstrap_medians(*r.samples.unpack(), seed=seed + 2 * i) for i, r in enumerate(records)]
    )
    drawn = np.random.default_rng(seed).integers(len(records), size=each.shape)
    return np.asarray(np.median(np.take_along_axis(each, drawn, 0), axis=0))


def _notes(old: Record, new: Record) -> Iterator[str]:
    """What is not the same and may be the reason."""
    for name, before, after in (
        (
            "runtime",
            f"{old.execution.runtime} {old.execution.version}",
            f"{new.execution.runtime} {new.execution.version}",
        ),
        ("precision executed", old.execution.precision, new.execution.precision),
        ("system", old.device.system, new.device.system),
        ("edgeseg", old.edgeseg.version, new.edgeseg.version),
    ):
        if before != after:
            yield f"{name} was {before}, is {after}"
    boots = {old.device.boot_id, new.device.boot_id}
    if None in boots:
        yield "not known to be of one boot"
    elif len(boots) > 1:
        yield "the device was booted again in between"
    if not settings(old):
        yield "nothing says how its clocks and power mode were set"
    clocks = busy_mhz(old), busy_mhz(new)
    if len(clocks[0]) == len(clocks[1]) and not all(
        abs(a - b) <= OTHER_CLOCK * a for a, b in zip(*clocks, strict=True)
    ):
        yield f"the clocks after measuring were {_mhz(clocks[0])}, are {_mhz(clocks[1])}"


def _mhz(clocks: Sequence[float]) -> str:
    return f"{', '.join(f'{mhz:.0f}' for mhz in clocks)} MHz"


def _called(record: Record) -> str:
    """What was measured where, in one line."""
    subject = record.subject
    what = f"{subject.student} {subject.target} {subject.precision} {'x'.join(map(str, subject.input_shape))}"
    return f"{what}, {record.execution.threads} threads, {record.protocol.name}, on {record.device.name}"
