"""Known answers, and the false alarms a comparison may raise."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import InvalidMeasurement
from edgeseg.files import read_json
from edgeseg.runtimes import statistics
from edgeseg.runtimes.record import Segment
from edgeseg.runtimes.statistics import Nanoseconds

MS = 1_000_000


def series(count: int, seed: int, pauses: Nanoseconds | int = 0) -> tuple[Nanoseconds, Nanoseconds]:
    """About 10 ms per sample, with noise, a slow drift of 2 % and some interruptions; `pauses` lie between the samples."""
    rng = np.random.default_rng(seed)
    drift = 0.02 * np.sin(np.linspace(0, 5, count) + rng.uniform(0, 6))
    interrupted = 0.3 * (rng.random(count) < 0.05) * rng.random(count)
    durations = (10 * MS * np.exp(0.02 * rng.standard_normal(count) + drift + interrupted)).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(durations + pauses)[:-1]])
    return starts, durations


@pytest.mark.parametrize(("p", "least"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662)])
def test_early_stopping_is_refused_below_the_least_number_of_samples(p: float, least: int) -> None:
    assert statistics.percentile_upper(np.arange(least - 1), p) is None
    assert statistics.percentile_upper(np.arange(least), p) == least - 1


def test_early_stopping_takes_the_sample_that_loadgen_takes() -> None:
    runs = read_json(Path(__file__).parent.parent / "golden" / "loadgen.json")["runs"]
    assert len(runs) > 60
    assert [[n, p, statistics.percentile_upper(np.arange(n), p)] for n, p, _ in runs] == runs


def test_early_stopping_bound_holds_in_99_of_100_series() -> None:
    rng = np.random.default_rng(0)
    bounds = [statistics.percentile_upper(rng.exponential(size=200), 0.9) for _ in range(1000)]
    assert sum(bound is not None and bound < np.log(10) for bound in bounds) <= 20  # 10 expected; 20 is 3 sigma


def test_the_lower_bound_holds_in_99_of_100_series() -> None:
    rng = np.random.default_rng(1)
    lows = [statistics.percentile_lower(rng.random(600), 0.9) for _ in range(1000)]
    assert 0.985 <= np.mean([low is not None and low <= 0.9 for low in lows]) <= 1
    assert np.mean([low or 0 for low in lows]) > 0.85


def test_early_stopping_of_a_million_samples_is_finite() -> None:
    assert statistics.percentile_upper(np.arange(1_000_000), 0.99) == pytest.approx(990_000, rel=1e-3)


def test_latency_of_a_known_series() -> None:
    durations = np.tile(np.array([1, 2, 3], np.int64) * MS, 400)
    starts = np.concatenate([[0], np.cumsum(durations + MS)[:-1]])
    found = statistics.latency(starts, durations)
    assert (found.count, found.p50_ms, found.p90_ms, found.p99_ms, found.mean_ms) == (1200, 2.0, 3.0, 3.0, 2.0)
    assert (found.p50_low_ms, found.p50_high_ms) == (2.0, 2.0)
    assert found.sustained_fps == pytest.approx(1200 / found.wall_s)
    assert found.wall_s == pytest.approx(3.599)
    assert found.autocorrelation == pytest.approx(-0.5, abs=0.01)


def test_tail_figures_are_null_when_samples_are_few() -> None:
    found = statistics.latency(*series(63, seed=0))
    assert found.p90_ms is None and found.p90_upper_ms is None and found.p99_ms is None
    assert statistics.latency(*series(64, seed=0)).p90_upper_ms is not None


def test_interval_of_the_median_covers_the_median_of_correlated_samples() -> None:
    missed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        bursts = np.repeat(rng.normal(0, 0.05, 100), 10)  # tenths of a second are slow together
        durations = (10 * MS * np.exp(bursts + 0.01 * rng.standard_normal(1000))).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(durations)[:-1]])
        low, high = statistics.interval(statistics.bootstrap_medians(starts, durations, resamples=200))
        missed += not low <= 10 * MS <= high
    assert missed <= 12  # 3 wanted, 5 measured; a bootstrap of single samples misses 26


@pytest.mark.parametrize(
    "durations",
    [np.array([], np.int64), np.ones(9, np.int64), np.full(20, np.nan), np.zeros(20, np.int64), np.full(20, -1)],
    ids=["empty", "few", "nan", "zero", "negative"],
)
@pytest.mark.parametrize("figure", [statistics.latency, statistics.segments, statistics.self_noise])
def test_what_no_figure_can_be_made_of_is_refused(figure: object, durations: Nanoseconds) -> None:
    assert callable(figure)
    with pytest.raises(InvalidMeasurement):
        figure(np.arange(len(durations)), durations)


def test_nan_among_paired_ratios_is_refused() -> None:
    with pytest.raises(InvalidMeasurement):
        statistics.paired(np.array([[0.0, np.nan]]))


def test_the_same_samples_always_give_the_same_figures() -> None:
    samples = series(500, seed=3)
    assert statistics.latency(*samples) == statistics.latency(*samples)
    assert statistics.self_noise(*samples) == statistics.self_noise(*samples)


def test_throttling_in_duty_cycles_is_found_though_no_sample_is_slower() -> None:
    pauses = np.zeros(2000, np.int64)
    pauses[900:1500], pauses[1500:] = 8 * MS, 4 * MS
    found = statistics.segments(*series(2000, seed=0, pauses=pauses))
    assert [segment.fps for segment in found] == pytest.approx([99, 55, 71], rel=0.03)
    assert [segment.start_s for segment in found] == pytest.approx([0, 9.1, 19.9], abs=0.3)


@pytest.mark.parametrize(
    ("rates", "finding", "kept"),
    [([99.0], "steady", 1), ([99.0, 55.0, 97.0], "steady", 0.98), ([99.0, 71.0], "throttled", 0.717)],
)
def test_whether_it_goes_on_like_that(rates: list[float], finding: str, kept: float) -> None:
    found = statistics.sustained([Segment(10.0 * at, 10.0 * at + 10, fps) for at, fps in enumerate(rates)])
    assert (found.finding, found.fps) == (finding, rates[-1])
    assert found.kept == pytest.approx(kept, abs=1e-3)
    assert found.changes_s == [10.0 * at for at in range(1, len(rates))]
    assert found.since_s == 10.0 * (len(rates) - 1)


def test_frames_that_a_camera_lost() -> None:
    taken = np.array([0, 1, 2, 5, 6, 9, 10, 11, 12, 13])
    found = statistics.camera(taken * 40 * MS, np.full(10, 30 * MS), fps=25)
    assert (found.frames, found.dropped, found.age_p50_ms, found.age_max_ms) == (14, 4, 30, 30)
    assert found.age_p90_ms is None and found.age_p90_upper_ms is None  # too few frames
    arrivals, ages = found.ages.unpack()
    assert arrivals.tolist() == (taken * 40 * MS).tolist() and ages.tolist() == [30 * MS] * 10


def test_a_slow_model_is_segmented_by_samples_not_by_rounding() -> None:
    starts, durations = np.arange(64) * 400 * MS, np.full(64, 400 * MS)
    assert [segment.fps for segment in statistics.segments(starts, durations)] == [pytest.approx(2.5)]


def test_a_steady_series_is_one_segment_and_needs_no_more_warm_up() -> None:
    for seed in range(30):
        starts, durations = series(1000, seed)
        assert len(statistics.segments(starts, durations)) == 1
        assert statistics.settled_after(durations) == 0


def test_a_slow_beginning_belongs_to_the_warm_up_and_a_slow_end_does_not() -> None:
    _, durations = series(1000, seed=0)
    assert statistics.settled_after(np.concatenate([durations[:80] * 2, durations])) == pytest.approx(80, abs=4)
    assert statistics.settled_after(np.concatenate([durations, durations[:80] * 2])) == 0


def test_self_noise_of_a_drifting_series_is_small_and_of_a_beating_one_is_not() -> None:
    starts, durations = series(1000, seed=0)
    assert abs(statistics.self_noise(starts, durations).gap) < 0.01
    beat = np.where(np.arange(1000) // 25 % 2, 12 * MS, 8 * MS)
    even = np.arange(1000) * 10 * MS
    assert abs(statistics.self_noise(even, beat).gap) == pytest.approx(np.log(12 / 8), rel=0.1)


def ratios(seed: int, effect: float) -> statistics.Floats:
    """Log-ratios `[3, 10]` of bursts on a drifting machine, whose instances differ by 0.56 % as long as they live."""
    rng = np.random.default_rng(seed)
    drift = np.cumsum(rng.normal(0, 0.004, (3, 10, 1)), axis=1)
    bursts = drift + rng.normal(0, 0.015, (3, 10, 2))
    bursts[:, :, 1] += effect + rng.normal(0, 0.0056, (3, 1))
    return np.asarray(bursts[:, :, 1] - bursts[:, :, 0])


@pytest.mark.parametrize(("effect", "right"), [(0.0, "equivalent"), (0.1, "slower"), (-0.1, "faster")])
def test_paired_decisions_on_a_drifting_machine(effect: float, right: statistics.Decision) -> None:
    found = [statistics.paired(ratios(seed, effect)) for seed in range(200)]
    decisions = [statistics.decide(noise.low, noise.high) for noise in found]
    wrong = {"faster", "slower", "equivalent"} - {right}
    assert sum(decision in wrong for decision in decisions) < 10  # 5 %
    assert decisions.count(right) > 100  # it does decide


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (-0.01, 0.01, "equivalent"),
        (0.001, 0.015, "equivalent"),
        (0.01, 0.03, "inconclusive"),
        (-0.5, 0.5, "inconclusive"),
        (0.03, 0.05, "slower"),
        (-0.05, -0.03, "faster"),
        (float("nan"), float("nan"), "inconclusive"),
    ],
)
def test_decisions(low: float, high: float, decision: str) -> None:
    assert statistics.decide(low, high) == decision


def test_long_series_need_no_more_memory() -> None:
    """An hour of samples, as on a board that has a gigabyte."""
    starts, durations = series(360_000, seed=0)
    tracemalloc.start()
    medians = statistics.bootstrap_medians(starts, durations)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6
    assert len(medians) == 1000 and statistics.interval(medians)[0] <= np.median(durations)
    assert statistics.blocks(starts, durations).max() < 2400


def test_blocks_that_are_counted_in_parts_are_counted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    given = series(5000, seed=1)
    whole = statistics.bootstrap_medians(*given, seed=3)
    monkeypatch.setattr(statistics, "AT_A_TIME", 7)
    assert np.array_equal(statistics.bootstrap_medians(*given, seed=3), whole)
