"""What can honestly be said about a series of timed samples. Pure functions on numpy arrays.

Samples are `starts [n]` and `durations [n]` in ns, as measured. They are not independent: whatever else a machine does
comes in bursts. So every interval here resamples blocks of wall time, never single samples (Künsch, Annals of Statistics
1989), and every random choice has a fixed seed: the same samples always give the same figures.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InvalidMeasurement
from edgeseg.runtimes.record import Camera, Latency, Noise, Samples, Segment, Sustained

BLOCK_NS = 250_000_000
"""Wall time of a block: longer than most interruptions by other programs."""

MOST_BLOCKS = 2400
"""Ten minutes of them; what lasts longer has longer ones, and needs no more memory."""

AT_A_TIME = 200
"""Blocks whose samples are counted at once."""

FEWEST = 10
"""Below this many samples no figure is given at all."""

EQUIVALENT = 0.02
"""Region of practical equivalence: two medians within 2 % are the same speed."""

STEADY = 0.05
"""Two stretches of a series whose levels differ by less than 5 % are one stretch."""

THROTTLED = 0.95
"""The last steady stretch must keep this share of the first one's throughput."""

ENOUGH = 5
"""Pairs of processes below which their spread is not known: of four the interval would be wider than `verdict.APART` is."""

T_99 = (4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947, 2.921, 2.898, 2.878, 2.861)
"""The two-sided 99 % point of Student's t for `ENOUGH` pairs, one more, and so on; the last stands for all above."""

Nanoseconds = NDArray[np.int64]
Floats = NDArray[np.float64]
Decision = Literal["faster", "slower", "equivalent", "inconclusive"]


def check(starts: Nanoseconds, durations: Nanoseconds) -> None:
    """Refuse what no figure can be made of.

    Raises:
        InvalidMeasurement: fewer than `FEWEST` samples, a length that differs, NaN, a duration that is not positive, or starts that fall.
    """
    if len(starts) != len(durations) or len(durations) < FEWEST:
        raise InvalidMeasurement(
            f"{len(starts)} starts and {len(durations)} durations; {FEWEST} of each are the least a figure needs"
        )
    if not (np.all(np.isfinite(starts)) and np.all(np.isfinite(durations)) and np.all(durations > 0)):
        raise InvalidMeasurement(
            "a sample is NaN, infinite or took no time; the clock of this machine cannot be trusted"
        )
    if not np.all(np.diff(starts) >= 0):  # two sessions at once may begin together
        raise InvalidMeasurement("samples do not begin one after the other; the clock of this machine went back")


def percentile_upper(durations: NDArray[Any], p: float, confidence: float = 0.99) -> float | None:
    """MLPerf's early-stopping estimate: a one-sided upper bound of the `p` quantile; null when there are too few samples.

    With t the largest number for which P[Binomial(n, 1 - p) <= t] <= 1 - confidence, the bound is the t-th largest
    sample. It needs t >= 1: at 99 % n >= 11 for p50, 64 for p90, 130 for p95, 662 for p99. (MLCommons LoadGen,
    `early_stopping.cc` and `results.cc`.)
    """
    n = len(durations)
    successes = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choices = log_factorial[n] - log_factorial - log_factorial[::-1]
    log_mass = log_choices + successes * np.log1p(-p) + (n - successes) * np.log(p)
    t = int(np.searchsorted(np.logaddexp.accumulate(log_mass), np.log1p(-confidence), side="right")) - 1
    return float(np.partition(durations, n - t)[n - t]) if t >= 1 else None


def percentile_lower(durations: NDArray[Any], p: float, confidence: float = 0.99) -> float | None:
    """The same from the other side: what the `p` quantile is at least; null when there are too few samples."""
    mirrored = percentile_upper(-durations, 1 - p, confidence)
    return None if mirrored is None else -mirrored


def quantile(durations: NDArray[Any], p: float) -> float | None:
    """The smallest sample that at least a share `p` of all samples does not exceed; null where its bound is refused."""
    if percentile_upper(durations, p) is None:
        return None
    return float(np.quantile(durations, p, method="inverted_cdf"))


def wall_ns(starts: Nanoseconds, durations: Nanoseconds) -> int:
    """From the first start to the last end, in ns, gaps included."""
    return int((starts + durations).max() - starts[0])


def blocks(starts: Nanoseconds, durations: Nanoseconds) -> NDArray[np.intp]:
    """The block `[n]` each sample belongs to, counted from 0: 0.25 s of wall time, less where that makes under ten, more where it makes many."""
    wall = wall_ns(starts, durations)
    length = max(min(BLOCK_NS, wall / 10), wall / MOST_BLOCKS)
    indices = ((starts - starts[0]) // length).astype(np.intp)
    return np.unique(indices, return_inverse=True)[1].astype(np.intp)  # a slow model leaves blocks without a start


def bootstrap_medians(starts: Nanoseconds, durations: Nanoseconds, resamples: int = 1000, seed: int = 0) -> Floats:
    """Medians `[resamples]` in ns of series drawn, block by block, from this one.

    A resample weighs each block by how often it was drawn, so its distribution function is the weighted sum of the
    blocks' own; a matrix product makes all of them, on a grid of at most 2001 of the samples, some blocks at a time: a board
    has little memory, and this runs where the samples are.
    """
    check(starts, durations)
    block = blocks(starts, durations)
    count = int(block.max()) + 1
    grid = np.quantile(durations, np.linspace(0, 1, min(len(durations), 2001)), method="inverted_cdf")
    cell = np.searchsorted(grid, durations, side="left")
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    below = np.zeros((resamples, len(grid)))
    for first in range(0, count, AT_A_TIME):
        inside = (first <= block) & (block < first + AT_A_TIME)
        drawn = weights[:, first : first + AT_A_TIME]
        places = (block[inside] - first) * len(grid) + cell[inside]
        histogram = np.bincount(places, minlength=drawn.shape[1] * len(grid)).reshape(-1, len(grid))
        below += drawn.astype(np.float64) @ np.cumsum(histogram, axis=1).astype(np.float64)
    return np.asarray(grid[np.argmax(2 * below >= below[:, -1:], axis=1)], np.float64)


def interval(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided percentile interval of bootstrap values."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def autocorrelation(durations: NDArray[Any]) -> float | None:
    """Lag-1 autocorrelation, sum of d[i] d[i + 1] over sum of d[i]^2 with d centred; null for a constant series."""
    centred = durations - np.mean(durations)
    power = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / power if power > 0 else None


def change_point(values: NDArray[Any], seed: int = 0) -> int | None:
    """Where a series shifts its level by at least `STEADY`: the index of the first value after the shift, or null.

    The largest |cumulative sum of centred ranks| (Pettitt, Applied Statistics 1979), significant when fewer than 1 in
    100 shuffles of the same ranks reach it. Ranks make it indifferent to outliers.
    """
    if len(values) < 8:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
    ranks -= ranks.mean()
    curve = np.abs(np.cumsum(ranks)[:-1])
    shuffled = np.random.default_rng(seed).permuted(np.tile(ranks, (199, 1)), axis=1)
    reached = np.abs(np.cumsum(shuffled, axis=1)[:, :-1]).max(axis=1) >= curve.max()
    shift = int(np.argmax(curve)) + 1
    small, large = sorted((float(np.median(values[:shift])), float(np.median(values[shift:]))))
    return shift if (1 + reached.sum()) / 200 < 0.01 and small < (1 - STEADY) * large else None


def settled_after(durations: Nanoseconds) -> int:
    """How many samples to add to the warm-up: up to a shift to faster within the first fifth, 0 when there is none."""
    head = durations[: len(durations) // 5]
    group = max(1, len(head) // 50)
    levels = np.median(head[: len(head) // group * group].reshape(-1, group), axis=1)
    shift = change_point(levels)
    faster = shift is not None and np.median(levels[shift:]) < np.median(levels[:shift])
    return shift * group if shift is not None and faster else 0


def segments(starts: Nanoseconds, durations: Nanoseconds) -> list[Segment]:
    """The stretches of steady throughput, found by binary segmentation of the rate per window of about 0.25 s.

    A window is a fixed number of consecutive samples, so that a slow model has no rounding to whole samples; its rate is
    that number over its wall time. Throttling in duty cycles shows here and not in the median.
    """
    check(starts, durations)
    n = len(starts)
    per_window = max(1, min(int(BLOCK_NS * n / wall_ns(starts, durations)), n // 16))
    edges = np.arange(0, n - per_window + 1, per_window)
    ends = np.append(starts[edges[1:]], starts[-1] + durations[-1])
    rates = np.diff(np.append(edges, n)) / (ends - starts[edges])
    cuts = [0, *_split(rates, 0), len(edges)]
    return [
        _segment(starts, durations, int(edges[first]), int(edges[last]) if last < len(edges) else n)
        for first, last in pairwise(cuts)
    ]


def sustained(segments: list[Segment]) -> Sustained:
    """What the stretches of a series say of how it goes on: throttled when the last is slower than the first by 5 %."""
    kept = segments[-1].fps / segments[0].fps
    return Sustained(
        finding="steady" if kept >= THROTTLED else "throttled",
        fps=segments[-1].fps,
        kept=kept,
        since_s=segments[-1].start_s,
        changes_s=[segment.start_s for segment in segments[1:]],
    )


def camera(arrivals: Nanoseconds, ages: Nanoseconds, fps: float) -> Camera:
    """What became of the frames of a camera, from the arrivals and ages of those that were taken."""
    check(arrivals, ages)
    frames = round(float(arrivals[-1] - arrivals[0]) * fps / 1e9) + 1
    return Camera(
        fps=fps,
        frames=frames,
        dropped=frames - len(arrivals),
        age_p50_ms=float(np.median(ages)) / 1e6,
        age_p90_ms=_ms(quantile(ages, 0.9)),
        age_p90_upper_ms=_ms(percentile_upper(ages, 0.9)),
        age_max_ms=float(ages.max()) / 1e6,
        ages=Samples.pack(arrivals, ages),
    )


def _split(rates: Floats, offset: int) -> list[int]:
    shift = change_point(rates)
    if shift is None or min(shift, len(rates) - shift) < 3:
        return []
    return [*_split(rates[:shift], offset), offset + shift, *_split(rates[shift:], offset + shift)]


def _segment(starts: Nanoseconds, durations: Nanoseconds, first: int, end: int) -> Segment:
    wall = wall_ns(starts[first:end], durations[first:end])
    begin_s = (starts[first] - starts[0]) / 1e9
    return Segment(float(begin_s), float(begin_s + wall / 1e9), (end - first) * 1e9 / wall)


def self_noise(starts: Nanoseconds, durations: Nanoseconds, seed: int = 0) -> Noise:
    """The A/A self-test of one series: its odd blocks against their even neighbours, as log-ratios of block medians.

    The two halves are the same work, interleaved, so that drift touches both alike: any gap is noise.
    """
    check(starts, durations)
    block = blocks(starts, durations)
    medians = np.array([np.median(durations[block == index]) for index in range(int(block.max()) + 1)])
    pairs = len(medians) // 2
    if pairs < 2:
        raise InvalidMeasurement(f"{len(medians)} blocks of samples; an A/A self-test needs 4")
    ratios = np.log(medians[1 : 2 * pairs : 2] / medians[0 : 2 * pairs : 2])
    drawn = np.random.default_rng(seed).integers(pairs, size=(1000, pairs))
    return Noise(float(np.median(ratios)), *interval(np.median(ratios[drawn], axis=1)))


def paired(ratios: Floats, seed: int = 0) -> Noise:
    """The median log-ratio of paired bursts and its 95 % interval.

    ratios: one row per process, one log-ratio of burst medians per pair `[processes, pairs]`. Two instances of the same
    model differ by a constant as long as their processes live, so processes are drawn first, then pairs in each.
    """
    if ratios.ndim != 2 or not ratios.size or not np.all(np.isfinite(ratios)):
        raise InvalidMeasurement("a paired comparison needs the same number of finite log-ratios from every process")
    processes, pairs = ratios.shape
    rng = np.random.default_rng(seed)
    process = rng.integers(processes, size=(2000, processes, 1))
    drawn = ratios[process, rng.integers(pairs, size=(2000, processes, pairs))]
    return Noise(float(np.median(ratios)), *interval(np.median(drawn.reshape(2000, -1), axis=1)))


def of_pairs(gaps: Floats) -> Noise:
    """The mean log-ratio of pairs of processes and its 99 % interval (Student's t): `gaps [pairs]`, one log-ratio for each pair.

    What a process keeps for its life, and what the machine did between two of them, is in how the pairs differ.
    """
    if len(gaps) < ENOUGH or not np.all(np.isfinite(gaps)):
        raise InvalidMeasurement(f"{len(gaps)} pairs of processes; {ENOUGH} finite log-ratios are the least")
    mean, spread = float(np.mean(gaps)), float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps))
    reach = spread * T_99[min(len(gaps) - ENOUGH, len(T_99) - 1)]
    return Noise(mean, mean - reach, mean + reach)


def decide(low: float, high: float, equivalent: float = EQUIVALENT) -> Decision:
    """What a 95 % interval of log-ratios says: all of it must lie within, or all of it beyond, the region of equivalence."""
    region = float(np.log1p(equivalent))
    if -region <= low and high <= region:
        return "equivalent"
    if high < -region:
        return "faster"
    return "slower" if low > region else "inconclusive"


def latency(starts: Nanoseconds, durations: Nanoseconds) -> Latency:
    """Every figure of a series, in the units of a record."""
    check(starts, durations)
    low, high = interval(bootstrap_medians(starts, durations))
    wall_s = wall_ns(starts, durations) / 1e9
    return Latency(
        count=len(durations),
        wall_s=wall_s,
        mean_ms=float(np.mean(durations)) / 1e6,
        p50_ms=float(np.median(durations)) / 1e6,
        p50_low_ms=low / 1e6,
        p50_high_ms=high / 1e6,
        p90_ms=_ms(quantile(durations, 0.9)),
        p90_upper_ms=_ms(percentile_upper(durations, 0.9)),
        p99_ms=_ms(quantile(durations, 0.99)),
        sustained_fps=len(durations) / wall_s,
        autocorrelation=autocorrelation(durations),
    )


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6
