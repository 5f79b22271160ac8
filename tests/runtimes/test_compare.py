"""Comparisons: what they decide, and what they refuse to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.runtimes import statistics
from edgeseg.runtimes.compare import compare_paired, compare_records
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import Protocol, Record, Samples

MS = 1_000_000


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    protocol = Protocol("tiny", min_s=0.1, min_count=20, max_s=0.2, warmup_count=1, warmup_s=0)
    folder = null_artifact(tmp_path_factory.mktemp("compare") / "null", Null())
    return measure(folder, protocol=protocol, threads=1)


def timed(record: Record, ms: float, seed: int) -> Record:
    """The record as if it had taken about `ms`."""
    noise = np.random.default_rng(seed).normal(0, 0.02, 1000)
    durations = (ms * MS * np.exp(noise)).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(durations)[:-1]])
    figures = statistics.latency(starts, durations)
    return replace(record, samples=Samples.pack(starts, durations), latency=figures, valid=True, reasons=[])


@pytest.mark.parametrize(("ms", "verdict"), [(10.0, "equivalent"), (11.0, "slower"), (9.0, "faster")])
def test_stored_records_are_compared_and_the_reader_is_warned(record: Record, ms: float, verdict: str) -> None:
    found = compare_records(timed(record, 10, seed=0), timed(record, ms, seed=1))
    assert found.verdict == verdict
    assert (found.low, found.ratio, found.high) == pytest.approx((ms / 10,) * 3, rel=0.02)
    assert any("not interleaved" in line for line in found.why)


def test_records_of_different_kinds_are_refused(record: Record) -> None:
    a = timed(record, 10, seed=0)
    others = {
        "device": replace(a, device=replace(a.device, name="another")),
        "threads": replace(a, execution=replace(a.execution, threads=7)),
        "protocol": replace(a, protocol=replace(a.protocol, name="another")),
        "provenance": replace(a, provenance="claimed"),
        "end-to-end": replace(a, e2e=a.latency),
        "governor differs": replace(
            a, device=replace(a.device, before=replace(a.device.before, governor="powersave-of-a-board"))
        ),
        "not valid": replace(a, valid=False, reasons=["throttled"]),
    }
    for word, other in others.items():
        found = compare_records(a, other)
        assert found.verdict == "inconclusive" and found.ratio is None
        assert len(found.why) == 1 and word in found.why[0]


def test_a_paired_comparison_sees_a_third_and_knows_its_noise(tmp_path: Path) -> None:
    a = null_artifact(tmp_path / "a", Null(steps=((1, 3 * MS),), sleep=True))
    b = null_artifact(tmp_path / "b", Null(steps=((1, 4 * MS),), sleep=True))
    shares: list[float] = []
    found = compare_paired(a, b, threads=1, pairs=4, burst_s=0.02, progress=shares.append)
    assert found.ratio == pytest.approx(4 / 3, rel=0.1)
    assert found.noise is not None
    noisy = statistics.decide(found.noise.low, found.noise.high) != "equivalent"
    assert found.verdict == ("inconclusive" if noisy else "slower")  # a busy machine may say so
    assert shares[-1] == 1


def test_a_paired_comparison_needs_pairs(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="at least 2 pairs"):
        compare_paired(tmp_path, tmp_path, threads=1, pairs=1)
