"""The harness, on the null runtime: what is timed, when it ends, and how it fails."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import edgeseg
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, InvalidMeasurement
from edgeseg.ledger import Ledger
from edgeseg.parity import Picture, keep_evidence
from edgeseg.runtimes import record as records
from edgeseg.runtimes import statistics
from edgeseg.runtimes.compare import compare_paired
from edgeseg.runtimes.launch import Worker
from edgeseg.runtimes.measure import Failed, measure, reasons
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.protocol import parse
from edgeseg.runtimes.record import Noise, Protocol, Record, Samples, Segment
from edgeseg.runtimes.telemetry import Here
from edgeseg.runtimes.worker import STAGES, open_loop
from tests.report.stored import GOOD_HOP
from tests.runtimes.busy import busy

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
    assert (found.sustained, found.camera, found.cold_start) == (None, None, None)
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
    protocol = replace(TINY, min_s=0.8, max_s=0.8, kind="sustained")
    found = measure(null(tmp_path, (300, MS), (1, 2 * MS)), protocol=protocol, threads=1)
    assert len(found.segments) >= 2
    assert any(reason.startswith("throttled") for reason in found.reasons)
    assert found.sustained is not None and found.sustained.finding == "throttled"
    assert found.sustained.fps == found.segments[-1].fps
    assert found.sustained.changes_s == [segment.start_s for segment in found.segments[1:]]


class Time:
    """A clock that stands still but for sleeping and working."""

    def __init__(self) -> None:
        self.ns = 5 * MS

    def perf_counter_ns(self) -> int:
        self.ns += 1000  # asking takes a us
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


def test_a_camera_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    time, works = Time(), iter([4, 4, 25, 4, 18, 4, 4])
    monkeypatch.setattr("edgeseg.runtimes.agent.time", time)
    protocol = replace(TINY, min_s=0, min_count=7, max_s=10, kind="camera", fps=100)
    marks = open_loop(lambda _: time.sleep(next(works) / 1000), None, protocol)
    arrivals = marks[:, 0] - marks[0, 0]
    assert (arrivals / MS).tolist() == [0, 10, 20, 40, 50, 60, 70]  # the frame of 30 ms was dropped: 40 is newer
    ages = (marks[:, 2] - marks[:, 0]) / MS
    assert ages == pytest.approx([4, 4, 25, 9, 18, 12, 6], abs=0.1)  # from arrival, waiting included


def test_a_model_that_is_too_slow_for_its_camera_drops_frames(tmp_path: Path) -> None:
    protocol = replace(TINY, min_s=0.6, max_s=5, kind="camera", fps=100.0)
    found = measure(null(tmp_path, (1, 25 * MS)), protocol=protocol, threads=1).camera
    assert found is not None
    arrivals, ages = found.ages.unpack()
    assert found.frames == len(arrivals) + found.dropped
    assert found.dropped >= found.frames / 2  # two of three are dropped while it works
    assert ages.min() >= 25 * MS
    assert np.all(arrivals / (10 * MS) == pytest.approx(np.round(arrivals / (10 * MS)), abs=1e-6))


def test_a_fast_model_keeps_the_pace_of_its_camera(tmp_path: Path) -> None:
    protocol = replace(TINY, min_s=0.6, max_s=5, kind="camera", fps=50.0)
    found = measure(null(tmp_path), protocol=protocol, threads=1)
    assert found.camera is not None and found.latency.sustained_fps <= 55
    assert found.camera.dropped <= found.camera.frames / 4  # none, where nothing else runs
    _, durations = found.samples.unpack()
    assert np.all(found.camera.ages.unpack()[1] >= durations)


def test_sessions_side_by_side_add_up(tmp_path: Path) -> None:
    protocol = replace(TINY, min_s=0.6, max_s=5, kind="offline", streams=3)
    found = measure(null(tmp_path, (1, 20 * MS)), protocol=protocol, threads=1)
    starts, durations = found.samples.unpack()
    assert durations.min() >= 20 * MS and np.all(np.diff(starts) >= 0)
    at_once = [np.sum((starts <= when) & (when < starts + durations)) for when in starts[3:-3]]
    assert max(at_once) == 3 and np.mean(at_once) > 2.5  # all of them, nearly all of the time
    assert 50 < found.latency.sustained_fps <= 151  # 50 of one session alone
    assert found.latency.wall_s == pytest.approx((starts + durations).max() / 1e9)
    assert found.execution.threads == 1 and records.read(records.write(tmp_path / "record.json", found)) == found


def test_the_error_of_one_session_is_that_of_all(tmp_path: Path) -> None:
    protocol = replace(TINY, min_s=5, max_s=9, kind="offline", streams=2)
    subject = null(tmp_path, (1, 2 * MS), fault="raise", fault_at=60)
    with pytest.raises(EdgesegError, match="was told to raise"):
        measure(subject, protocol=protocol, threads=1)


def test_one_thread_each_is_what_sessions_take(tmp_path: Path) -> None:
    """More sessions than the machine has cores leave none to spare, as many threads would."""
    protocol = replace(TINY, min_s=0.3, max_s=2, kind="offline", streams=1000)
    found = replace(measure(null(tmp_path), protocol=TINY, threads=1), protocol=protocol)
    told = {"others_cores": 0.3, "unchanged": 1.0, "nonfinite": 0}
    assert any(line.endswith("0 were to spare") for line in reasons(found, told))


@pytest.mark.slow
def test_cold_starts_are_processes_of_their_own(tmp_path: Path) -> None:
    protocol = Protocol("cold-start:10", 0, 10, 600, 0, 0, kind="cold-start")
    shares: list[float] = []
    found = measure(null(tmp_path, (1, 40 * MS), (1, 2 * MS)), protocol=protocol, threads=1, progress=shares.append)
    cold = found.cold_start
    assert cold is not None and cold.processes == found.latency.count == len(shares) == 10
    assert min(cold.firsts_ms) >= 40  # the first call of each, every time
    assert all(
        ready > load + first for ready, load, first in zip(cold.readies_ms, cold.loads_ms, cold.firsts_ms, strict=True)
    )
    assert (found.load_ms, found.first_ms) == (cold.load_ms, cold.first_ms)
    assert found.latency.p50_ms == pytest.approx(np.median(np.add(cold.loads_ms, cold.firsts_ms)), rel=1e-3)
    assert found.execution.settings["calls"] == "1" and found.latency.p90_ms is None
    assert records.read(records.write(tmp_path / "record.json", found)) == found


@pytest.mark.parametrize("kind", ["camera:30", "cold-start", "offline:2"])
def test_the_whole_way_is_for_frames_one_after_the_other(tmp_path: Path, kind: str) -> None:
    with pytest.raises(EdgesegError, match="the model alone"):
        measure(null(tmp_path), protocol=parse(kind), threads=1, e2e=True)


def test_only_a_camera_has_a_rate() -> None:
    for kind, fps in (("camera", None), ("single", 30.0)):
        with pytest.raises(ValueError, match="a camera has fps"):
            replace(TINY, kind=kind, fps=fps)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["local", "here://"])
def test_energy_and_throttling_come_from_the_device_s_sensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, device: str
) -> None:
    """Whoever reads them: this process, or the agent on a device."""
    board, two_s = busy(tmp_path, monkeypatch), replace(TINY, min_s=2, max_s=2)
    place = Here(board.root)
    found = measure(null(tmp_path), protocol=two_s, threads=1, place=place, device=device, progress=board.work)
    assert found.energy_source == "power VDD_IN"
    assert found.energy_mj == pytest.approx(3000 / found.latency.sustained_fps, rel=0.25)
    assert found.sensors is not None and found.sensors.before.flags == {"throttled": 0}
    assert found.sensors.before.temperatures_c == {"cpu": 40, "soc": 48.7}
    during = found.sensors.during
    assert [reading.time_s for reading in during] == sorted(reading.time_s for reading in during)
    assert max(reading.temperatures_c.get("cpu", 0) for reading in during) == 81
    assert all(0 <= reading.time_s <= 2.1 and not reading.power_mw for reading in during)
    # it was over before the end, so nobody would know who had not looked meanwhile
    assert found.sensors.after.flags == {"throttled": 0} and found.sensors.after.temperatures_c["cpu"] == 40
    assert "the firmware held the board back: throttled" in found.reasons and not found.valid
    assert records.read(records.write(tmp_path / "record.json", found)) == found


def test_without_sensors_there_is_no_energy(tmp_path: Path) -> None:
    found = measure(null(tmp_path), protocol=TINY, threads=1, place=Here(tmp_path))
    assert (found.energy_mj, found.energy_source) == (None, None)
    assert found.sensors is not None and found.sensors.notes == []


def test_what_a_runtime_prints_is_no_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = measure(null(tmp_path, prints=True), protocol=TINY, threads=1)
    assert found.latency.count >= TINY.min_count
    assert "null runtime" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("segv", "ended by SIGSEGV"),
        ("kill", "ended by SIGKILL (was the machine out of memory?)"),
        ("exit", "exit code 3: the null runtime gives up"),
        ("raise", "RuntimeError: the null runtime was told to raise"),
    ],
)
def test_how_the_worker_died_is_one_line(tmp_path: Path, fault: str, line: str) -> None:
    with pytest.raises(InvalidMeasurement, match=re.escape(line)) as caught:
        measure(null(tmp_path, fault=fault, fault_at=10), protocol=TINY, threads=1)
    assert "\n" not in str(caught.value)


def test_a_kill_of_the_kernel_s_is_of_want_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr("edgeseg.runtimes.launch.oom_kills", lambda: next(counts))
    with pytest.raises(Failed, match="ended by the kernel, for the machine was out of memory") as caught:
        measure(null(tmp_path, fault="kill", fault_at=10), protocol=TINY, threads=1)
    assert caught.value.failure.outcome == "out_of_memory"


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


def proven(folder: Path, **options: Any) -> tuple[Path, Path]:
    """An artifact whose proof is from elsewhere, where it drew nothing but road, and its evidence image."""
    made = null(folder, **options)
    image = np.full((32, 48, 3), 90, np.uint8)
    keep_evidence(
        made / "evidence", [(Picture("one", image, None), np.zeros((32, 48), np.uint8), np.zeros((32, 48), np.uint8))]
    )
    Artifact.open(made).update(ledger=Ledger("elsewhere", [GOOD_HOP]))
    return made, made / "evidence" / "01-image.jpg"


def test_what_is_wrong_on_this_processor_from_the_start_is_invalid(tmp_path: Path) -> None:
    """As it is on a device: another file, or the same one on another processor, was right when it was verified."""

    def wrong(artifact: Path, image: Path | None) -> list[str]:
        found = measure(artifact, protocol=TINY, threads=1, image=image)
        return [reason for reason in found.reasons if "wrong masks" in reason]

    good, image = proven(tmp_path / "good")
    assert not wrong(good, image)
    bad, image = proven(tmp_path / "bad", fault="flip")
    assert wrong(bad, image) == [
        "wrong masks: 0.00% of the labels are those of the same artifact when it was verified, at least 90.00% must be"
    ]
    assert not wrong(bad, None)  # of another image nothing is known
    with pytest.raises(InvalidMeasurement, match="bad/null: wrong masks"):
        compare_paired(good, bad, threads=1, pairs=2, burst_s=0.02)


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


@pytest.mark.parametrize(
    ("changes", "line"), [({"count": 9}, "the whole way: 9 samples"), ({"p50_high_ms": NAN}, "the whole way: noisy")]
)
def test_the_whole_way_is_judged_too(steady: Record, changes: dict[str, Any], line: str) -> None:
    (reason,) = reasons(replace(steady, e2e=replace(steady.latency, **changes)), FINE)
    assert line in reason


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


def test_samples_that_are_not_as_many_as_they_say_are_refused() -> None:
    """Anybody's file: no more memory than it says, and it says no more than there can be."""
    whole = Samples.pack(np.arange(1000), np.arange(1, 1001))
    assert np.array_equal(whole.unpack()[1], np.arange(1, 1001))
    bomb = base64.b64encode(zlib.compress(bytes(64 << 20))).decode()
    for samples in (
        replace(whole, count=999),
        replace(whole, count=-1),
        replace(whole, count=1 << 40),
        Samples(4, bomb),
    ):
        tracemalloc.start()
        with pytest.raises(EdgesegError, match="are damaged"):
            samples.unpack()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20
