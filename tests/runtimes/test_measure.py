"""The harness, on the null runtime: what is timed, when it ends, and how it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import edgeseg
from edgeseg.errors import EdgesegError, InvalidMeasurement
from edgeseg.runtimes import record as records
from edgeseg.runtimes import statistics
from edgeseg.runtimes.launch import Worker
from edgeseg.runtimes.measure import measure, reasons
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import Noise, Protocol, Record, Segment
from edgeseg.runtimes.worker import STAGES

MS = 1_000_000
TINY = Protocol("tiny", min_s=0.3, min_count=20, max_s=0.6, warmup_count=3, warmup_s=0.05)
FINE = {"others_cores": 0.0, "unchanged": 1.0, "nonfinite": 0}
"""What the worker says besides the samples when nothing is wrong."""


def null(folder: Path, *steps: tuple[int, int], **options: Any) -> Path:
    """An artifact that sleeps, 2 ms unless told: a busy machine disturbs a sleeper least."""
    return null_artifact(folder / "null", Null(steps=steps or ((1, 2 * MS),), sleep=True, **options))


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A record of the harness with the figures of a perfectly steady series: valid on a busy machine too."""
    found = measure(null(tmp_path_factory.mktemp("steady")), protocol=TINY, threads=1)
    durations = np.full(2000, 10 * MS, np.int64)
    starts = np.arange(2000, dtype=np.int64) * 10 * MS
    return replace(
        found,
        latency=statistics.latency(starts, durations),
        segments=statistics.segments(starts, durations),
        noise=statistics.self_noise(starts, durations),
        valid=True,
        reasons=[],
    )


def test_a_record_is_complete_and_comes_back_from_its_file(tmp_path: Path) -> None:
    shares: list[float] = []
    found = measure(null(tmp_path), protocol=TINY, threads=1, progress=shares.append)
    starts, durations = found.samples.unpack()
    assert found.provenance == "simulated"
    assert found.latency == statistics.latency(starts, durations)
    assert found.latency.p50_ms == pytest.approx(2, rel=0.2)
    assert found.latency.wall_s >= TINY.min_s and found.latency.count >= TINY.min_count
    assert np.all(np.diff(starts) >= durations[:-1])
    assert found.first_ms >= 2 and found.load_ms > 0
    assert found.peak_memory_bytes is None or found.peak_memory_bytes > 10_000_000
    assert found.stages is None and found.e2e is None
    assert shares[-1] == 1 and shares == sorted(shares)
    assert records.read(records.write(tmp_path / "record.json", found)) == found


def test_warm_up_and_first_inference_are_kept_apart(tmp_path: Path) -> None:
    found = measure(null(tmp_path, (10, 20 * MS), (1, 2 * MS)), protocol=TINY, threads=1)
    slow = found.warmup.unpack()[1] >= 20 * MS
    assert found.first_ms >= 20
    assert slow[:9].all()  # three by count, the others by their change point
    assert found.latency.p50_ms == pytest.approx(2, rel=0.2)
    assert int(found.execution.settings["calls"]) == 1 + found.warmup.count + found.samples.count + 1  # first ... last


def test_it_ends_at_the_longest_time_and_says_what_is_missing(tmp_path: Path) -> None:
    found = measure(null(tmp_path, (1, 20 * MS)), protocol=replace(TINY, min_count=1000), threads=1)
    assert TINY.max_s <= found.latency.wall_s < 2 * TINY.max_s
    assert not found.valid and any("tiny needs 1000" in reason for reason in found.reasons)


def test_a_model_too_slow_for_any_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidMeasurement, match="too slow for the protocol tiny"):
        measure(null(tmp_path, (1, 150 * MS)), protocol=TINY, threads=1)


def test_throttling_is_found(tmp_path: Path) -> None:
    protocol = replace(TINY, min_s=0.8, max_s=0.8)
    found = measure(null(tmp_path, (300, MS), (1, 2 * MS)), protocol=protocol, threads=1)
    assert len(found.segments) >= 2
    assert any(reason.startswith("throttled") for reason in found.reasons)


def test_what_a_runtime_prints_is_no_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = measure(null(tmp_path, prints=True), protocol=TINY, threads=1)
    assert found.latency.count >= TINY.min_count
    assert "null runtime" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("segv", "ended by SIGSEGV"),
        ("kill", "ended by SIGKILL; was the machine out of memory?"),
        ("exit", "exit code 3: the null runtime gives up"),
        ("raise", "RuntimeError: the null runtime was told to raise"),
    ],
)
def test_how_the_worker_died_is_one_line(tmp_path: Path, fault: str, line: str) -> None:
    with pytest.raises(InvalidMeasurement, match=line.replace("?", r"\?")) as caught:
        measure(null(tmp_path, fault=fault, fault_at=10), protocol=TINY, threads=1)
    assert "\n" not in str(caught.value)


def test_a_worker_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = str(null(tmp_path, fault="hang"))
    with closing(Worker(patience_s=1)) as worker, pytest.raises(InvalidMeasurement, match="hangs"):
        worker.ask("open", path=path, threads=1, size=None, image=None, e2e=False)


def test_a_mistake_in_the_worker_keeps_its_kind(tmp_path: Path) -> None:
    folder = null(tmp_path)
    (folder / "model.null").write_bytes(b"other")
    with closing(Worker()) as worker, pytest.raises(EdgesegError, match=r"model\.null"):
        worker.ask("open", path=str(folder), threads=1, size=None, image=None, e2e=False)


@pytest.mark.parametrize(("fault", "line"), [("nan", "NaN or infinite"), ("flip", "other labels in 100.0%")])
def test_fast_but_wrong_is_invalid(tmp_path: Path, fault: str, line: str) -> None:
    found = measure(null(tmp_path, fault=fault, fault_at=10), protocol=TINY, threads=1)
    assert not found.valid and any(line in reason for reason in found.reasons)


def test_the_memory_of_the_parent_is_not_the_worker_s(tmp_path: Path) -> None:
    ballast = np.ones(400 << 17)  # 400 MB
    found = measure(null(tmp_path), protocol=TINY, threads=1)
    assert found.peak_memory_bytes is None or found.peak_memory_bytes < ballast.nbytes
    assert found.model_memory_bytes is None or found.model_memory_bytes < 20_000_000


def test_the_whole_way_is_timed_step_by_step(tmp_path: Path) -> None:
    found = measure(null(tmp_path), protocol=TINY, threads=1, e2e=True)
    assert found.stages is not None and found.e2e is not None
    assert tuple(stage.name for stage in found.stages) == STAGES
    steps = np.stack([stage.samples.unpack()[1] for stage in found.stages])
    assert np.median(steps.sum(axis=0)) / 1e6 == pytest.approx(found.e2e.p50_ms)
    assert np.all(steps > 0)


@pytest.mark.parametrize(
    ("data", "line"), [(None, "cannot read"), (b"", "no image"), (b"\xff\xd8\xff cut", "no image")]
)
def test_an_image_that_is_none_is_one_line(tmp_path: Path, data: bytes | None, line: str) -> None:
    photo = tmp_path / "photo.jpg"
    if data is not None:
        photo.write_bytes(data)
    with pytest.raises(EdgesegError, match=line):
        measure(null(tmp_path), protocol=TINY, threads=1, image=photo)


def test_a_folder_that_is_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="not a run"):
        measure(tmp_path, protocol=TINY, threads=1)


def test_no_threads_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="at least 1"):
        measure(null(tmp_path), protocol=TINY, threads=0)


def test_a_steady_record_has_no_reasons(steady: Record) -> None:
    assert reasons(steady, FINE) == []


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "told", "line"),
    [
        ({"protocol": replace(TINY, min_count=9999)}, {}, "tiny needs 9999"),
        ({"protocol": replace(TINY, min_s=99)}, {}, "tiny needs 99 s"),
        ({"segments": [Segment(0, 1, 100.0), Segment(1, 2, 90.0)]}, {}, "throttled"),
        ({"noise": Noise(0.03, 0.01, 0.05)}, {}, "two halves"),
        ({"noise": Noise(NAN, NAN, NAN)}, {}, "two halves"),
        ({}, {"others_cores": 99.0}, "host busy"),
        ({}, {"unchanged": 0.5}, "other labels"),
        ({}, {"unchanged": NAN}, "other labels"),
        ({}, {"nonfinite": 1}, "NaN or infinite"),
    ],
)
def test_each_reason_alone(steady: Record, changes: dict[str, Any], told: dict[str, Any], line: str) -> None:
    (reason,) = reasons(replace(steady, **changes), FINE | told)
    assert line in reason


@pytest.mark.parametrize("high", [12.0, NAN])
def test_an_uncertain_median_is_a_reason(steady: Record, high: float) -> None:
    (reason,) = reasons(replace(steady, latency=replace(steady.latency, p50_high_ms=high)), FINE)
    assert "interval of the median" in reason


def test_an_unknown_precision_is_a_reason_and_another_one_is_not(steady: Record) -> None:
    (reason,) = reasons(replace(steady, execution=replace(steady.execution, precision=None)), FINE)
    assert "does not say in which precision" in reason
    assert not reasons(replace(steady, execution=replace(steady.execution, precision="bf16")), FINE)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: only there a killed parent takes its worker along")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_worker_ends_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = (
        "import sys; from edgeseg.runtimes.measure import measure; from edgeseg.runtimes.protocol import parse\n"
        "measure(sys.argv[1], protocol=parse('quick'), threads=1)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(edgeseg.__file__).parent.parent)}
    command = [sys.executable, "-c", script, str(null(tmp_path, (1, MS)))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as parent:
        children = _wait_for(lambda: psutil.Process(parent.pid).children())
        parent.send_signal(how)
        parent.wait(timeout=60)
    assert _wait_for(lambda: [True] if not any(_alive(child) for child in children) else [])


def _wait_for(look: Any) -> list[Any]:
    """What `look` finds, as soon as it finds anything, within half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := look():
            time.sleep(0.3)  # let the worker come up
            return list(found)
        time.sleep(0.05)
    return []


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
