"""Two ways to do the same work, timed in turns: how much longer ours takes than the other, and how sure that is."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeseg.runtimes import statistics
from edgeseg.schema import STRICT

Burst: TypeAlias = Callable[[], float]
"""Does some work and gives the time it took, in seconds."""

Logs: TypeAlias = NDArray[np.float64]
"""Log-ratios `[pairs]`, our time over the other's."""

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """A median with its 95 % interval, and the most it should be.

    unit: `x` for our time over the other's, `s` for seconds, `GB` for 10^9 bytes.
    count: pairs of bursts, or single runs where the unit is none of time over time.
    """

    __pydantic_config__ = STRICT
    name: str
    value: float
    low: float
    high: float
    unit: Literal["x", "s", "GB"]
    limit: float
    count: int

    @property
    def verdict(self) -> Literal["met", "missed", "open"]:
        """On which side of the limit the whole interval lies; `open` when the limit is within it."""
        if self.high <= self.limit:
            return "met"
        return "open" if self.low <= self.limit else "missed"


def finding(name: str, logs: list[Logs], limit: float, unit: Literal["x", "s"] = "x") -> Finding:
    """What the logarithms say, one row per fresh start of both sides."""
    noise = statistics.paired(np.stack(logs))
    value, low, high = np.exp([noise.gap, noise.low, noise.high]).tolist()
    return Finding(name, value, low, high, unit, limit, sum(map(len, logs)))


def burst(call: Callable[[], object], calls: int = 1) -> Burst:
    """A burst of calls that gives the median time of one."""

    def run() -> float:
        ticks = [time.perf_counter()]
        for _ in range(calls):
            call()
            ticks.append(time.perf_counter())
        return float(np.median(np.diff(ticks)))

    return run


def in_turns(ours: Burst, other: Burst, pairs: int, seed: int = 0) -> Logs:
    """Log-ratios of `pairs` pairs of bursts; who goes first is drawn for each. One burst each before that is not counted."""
    rng, bursts = np.random.default_rng(seed), (ours, other)
    seconds = np.empty((pairs + 1, 2))
    for row in seconds:
        for side in rng.permutation(2):
            row[side] = bursts[side]()
    logs: Logs = np.log(seconds[1:, 0] / seconds[1:, 1])
    return logs


def fresh(function: Callable[..., T], *arguments: Any) -> T:
    """What the function returns in a process of its own, so that nothing an earlier one set or allocated matters."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
