"""`edgeseg ops bench`: how long each tier of an operator takes, against what the memory allows and against the other ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np

from edgeseg.errors import EdgesegError, ParityFailed
from edgeseg.kernels import native
from edgeseg.kernels.baselines import RUNTIMES, in_runtime
from edgeseg.kernels.operators import OPERATORS
from edgeseg.kernels.tiers import TIERS, Run, Work, timed
from edgeseg.schema import STRICT

ROUNDS, SECONDS, LEAST = 3, 0.4, 5
"""Every way is opened so many times, in turns, and run each time for so long, so often at least."""

COPIED = 256 << 20
"""Bytes of the copy that the memory's bandwidth is read from: far more than any cache holds."""

LONG = 16384, 65536
"""Tokens whose times tell whether cost grows with them: both lie outside the cache."""

ROUGH = 1e-3
"""Relative RMS error of a baseline that is still the same function: a plain recurrence is off by 2e-5 after 4096 tokens."""

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """One way to run one operator.

    ms:       median over all runs. `moved` is what must be read and written at least, in bytes.
    of_copy:  the bandwidth that makes, as a share of that of a plain copy on the same threads in the same process.
    of_best:  how many times as long as the fastest way; `of_plugin` as the same runtime's plugin.
    extra:    bytes of memory a run took beyond its result at its peak; null where the system does not say.
    growth:   time for 65536 tokens over time for 16384, where that was asked for.
    """

    __pydantic_config__ = STRICT
    operator: str
    case: str
    way: str
    ms: float
    runs: int
    moved: int
    of_copy: float
    of_best: float
    of_plugin: float | None
    extra: int | None
    growth: float | None


def bench(
    names: Sequence[str] = (), threads: int = 2, growth: bool = False, notify: Callable[[str], None] = lambda line: None
) -> Iterator[Timing]:
    """A timing for every tier that is no simulation and every baseline, each on its ordinary case; what cannot be had is left out.

    Raises:
        ParityFailed: a way gives another result than the reference, so its speed says nothing.
    """
    for name in names or OPERATORS:
        work = Work(name, OPERATORS[name].ordinary, threads=threads)
        ways = list(_ways(work))
        times: dict[str, list[float]] = {way: [] for way in ways}
        extras: dict[str, int | None] = {}
        copies = []
        for turn in range(ROUNDS):
            copies.append(_apart(_copy_bandwidth, threads))
            for way in ways:
                notify(f"{name}: {way}, round {turn + 1} of {ROUNDS}")
                try:
                    seconds, extra = _apart(_measure, work, way)
                except EdgesegError as error:
                    if isinstance(error, ParityFailed):
                        raise
                    times.pop(way, None)
                    notify(f"{name}: {way}: {error}")
                    continue
                times[way] += seconds
                extras[way] = extra
            ways = [way for way in ways if way in times]
        grown = {way: _apart(_growth, work, way) for way in ways} if growth and name != "label_map" else {}
        yield from _timings(work, times, extras, float(np.median(copies)), grown)


def _ways(work: Work) -> Iterator[str]:
    yield from timed()
    yield from RUNTIMES


def _open(work: Work, way: str) -> Run:
    return TIERS[way](work) if way in TIERS else in_runtime(way, work)[1]


def _called(work: Work, way: str) -> str:
    if way in TIERS:
        return way
    return f"{way} {'upsample + argmax' if work.operator.name == 'label_map' else 'Scan'}"


def _measure(work: Work, way: str) -> tuple[list[float], int | None]:
    """Seconds of every run, and the extra memory of the first."""
    from edgeseg.runtimes.agent import PeakMemory

    run = _open(work, way)
    memory = PeakMemory()
    made = run()
    memory.note()
    error, within = work.operator.judge(work.case, work.half)(made), work.operator.within(work.case, work.half)
    if not error <= (within if way in TIERS else max(within, ROUGH)):
        raise ParityFailed(f"{work.operator.name}: {way} is off by {error:.3g}, above {within:.3g}; no speed to tell")
    extra = None if memory.growth is None else max(0, memory.growth - made.nbytes)
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < LEAST or time.perf_counter() - begin < SECONDS:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds, extra


def _growth(work: Work, way: str) -> float | None:
    """Time for the longer sequence over time for the shorter one; null for a way that takes no such sequence."""
    medians = []
    for tokens in LONG:
        try:
            run = _open(replace(work, case=replace(work.case, tokens=tokens)), way)
            run()
        except (EdgesegError, RuntimeError, MemoryError):
            return None
        seconds = []
        for _ in range(3 * LEAST):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
        medians.append(float(np.median(seconds)))
    return medians[1] / medians[0]


def _copy_bandwidth(threads: int) -> float:
    """Bytes read and written per second by a plain copy."""
    source, target = (np.ones(COPIED // 4, np.float32) for _ in range(2))
    seconds = []
    for _ in range(LEAST):
        started = time.perf_counter()
        native.call("copy", native.at(source), native.at(target), source.size, threads)
        seconds.append(time.perf_counter() - started)
    return 2 * COPIED / float(np.median(seconds))


def _apart(function: Callable[..., T], *arguments: Any) -> T:
    """What the function returns in a process of its own: no other runtime's threads spin beside it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _timings(
    work: Work,
    times: dict[str, list[float]],
    extras: dict[str, int | None],
    copy: float,
    grown: dict[str, float | None],
) -> Iterator[Timing]:
    medians = {way: float(np.median(seconds)) for way, seconds in times.items()}
    moved = work.operator.bytes_moved(work.case)
    for way, seconds in sorted(medians.items(), key=lambda item: item[1]):
        runtime = way if way in RUNTIMES else way.rsplit(" ", 1)[0]
        plugin = medians.get(f"{runtime} plugin")
        yield Timing(
            operator=work.operator.name,
            case=str(work.case),
            way=_called(work, way),
            ms=1e3 * seconds,
            runs=len(times[way]),
            moved=moved,
            of_copy=moved / seconds / copy,
            of_best=seconds / min(medians.values()),
            of_plugin=None if plugin is None else seconds / plugin,
            extra=extras[way],
            growth=grown.get(way),
        )
