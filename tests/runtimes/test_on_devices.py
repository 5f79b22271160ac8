"""On a device as here: turns, cameras, cold starts and the whole way from a photo."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.cli import main
from edgeseg.errors import InvalidMeasurement, MissingTool
from edgeseg.pictures import save_picture
from edgeseg.runtimes import pixels, statistics
from edgeseg.runtimes.compare import PROCESSES, compare_in_turns, compare_paired
from edgeseg.runtimes.devices.remote import RemoteBench
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.measure import Failed, measure
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.protocol import parse
from edgeseg.runtimes.record import Protocol
from tests.runtimes.here import Here, gone, opened
from tests.runtimes.test_agent import MS, TINY
from tests.runtimes.test_sessions import artifact

BURSTS: dict[str, Any] = {"threads": 1, "pairs": 3, "burst_s": 0.02}


def null(folder: Path, *steps: tuple[int, int], **options: Any) -> Path:
    return null_artifact(folder, Null(steps=steps or ((1, 2 * MS),), sleep=True, **options))


def test_subjects_take_turns_on_a_device(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    burst = RemoteBench.burst

    def noted(self: RemoteBench, seconds: float, count: int) -> dict[str, Any]:
        asked.append(self._number)
        return burst(self, seconds, count)

    monkeypatch.setattr(RemoteBench, "burst", noted)
    a, b, c = (null(tmp_path / name, (1, ms * MS)) for name, ms in (("a", 3), ("b", 4), ("c", 3)))
    shares: list[float] = []
    slower, alike = compare_in_turns(a, [b, c], **BURSTS, progress=shares.append, device=named)
    assert slower.ratio == pytest.approx(4 / 3, rel=0.1)
    assert alike.ratio == pytest.approx(1, rel=0.1)
    assert slower.noise == alike.noise and slower.noise is not None
    noisy = statistics.decide(slower.noise.low, slower.noise.high) != "equivalent"
    assert slower.verdict == ("inconclusive" if noisy else "slower")  # a busy machine may say so
    assert (slower.device, slower.provenance) == ("here", "simulated")
    assert any(line.startswith("simulated") for line in slower.why)
    assert shares[-1] == 1
    rng = np.random.default_rng(0)  # the order is made here, a new one in every round, after a warm-up of each
    for process in range(PROCESSES):
        warm, *rounds = np.reshape(asked, (PROCESSES, 4, 4))[process] - 4 * process - 1  # 0 is who has the device
        assert warm.tolist() == [0, 1, 2, 3]
        assert [row.tolist() for row in rounds] == [rng.permutation(4).tolist() for _ in range(3)]


def test_masks_that_are_wrong_there_are_not_compared(named: str, tmp_path: Path, change: Any) -> None:
    change("output[0].argmax(axis=0)", "output[0].argmax(axis=0) + 1")
    with pytest.raises(InvalidMeasurement, match=r"/b: wrong masks: 0\.00% of the labels"):
        compare_paired(null(tmp_path / "b"), null(tmp_path / "b"), **BURSTS, device=named)


def test_what_crashes_between_turns_is_named(named: str, tmp_path: Path) -> None:
    a, b = null(tmp_path / "a"), null(tmp_path / "b", fault="segv", fault_at=9)
    with pytest.raises(Died, match=r"that measures .*/b on here was ended by SIGSEGV") as caught:
        compare_paired(a, b, **BURSTS, device=named)
    assert caught.value.outcome == "crashed"


def test_one_that_dies_while_it_waits_for_its_turn_is_named(device: Here, tmp_path: Path) -> None:
    with closing(opened(device, null(tmp_path / "a"))), closing(opened(device, null(tmp_path / "b"))) as second:
        import psutil

        first, _ = sorted(psutil.Process(device.channel.hello["pid"]).children(), key=lambda child: int(child.pid))
        os.kill(first.pid, signal.SIGKILL)
        assert gone(first.pid)
        with pytest.raises(Died, match=r"that measures .*/a on here was ended by SIGKILL \(was the machine out of"):
            second.ask("burst", seconds=0.05, count=1)


def test_a_device_is_had_until_the_last_process_ends(device: Here, tmp_path: Path) -> None:
    first, second = opened(device, null(tmp_path / "a")), opened(device, null(tmp_path / "b"))
    first.close()
    assert device._locked
    assert second.ask("burst", seconds=0.0, count=3)["median_ns"] == pytest.approx(2 * MS, rel=0.5)
    second.close()
    assert not device._locked
    assert not list((tmp_path / "device" / "open").glob("*"))


def test_compare_takes_a_device(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeseg.runtimes.compare.PROCESSES", 1)
    monkeypatch.setattr("edgeseg.runtimes.compare.BURST_S", 0.02)
    a, b = str(null(tmp_path / "a")), str(null(tmp_path / "b"))
    assert main(["compare", a, b, b, "-d", named, "--pairs", "3"]) == 0
    said = capfd.readouterr()
    assert said.out.count(f"of the time of {a}") == 2 and "simulated" in said.err
    record = tmp_path / "record.json"
    record.write_text("{}")
    assert main(["compare", str(record), str(record), "-d", named]) == 1
    assert "name artifacts" in capfd.readouterr().err


def test_a_camera_on_a_device_drops_what_it_has_no_time_for(named: str, tmp_path: Path) -> None:
    protocol = replace(TINY, min_s=0.8, max_s=5, kind="camera", fps=100.0)
    record = measure(null(tmp_path / "a", (1, 25 * MS)), protocol=protocol, threads=1, device=named)
    found = record.camera
    assert found is not None
    arrivals, ages = found.ages.unpack()
    assert found.frames == len(arrivals) + found.dropped and found.dropped >= found.frames / 2
    assert ages.min() >= 25 * MS
    assert np.all(arrivals / (10 * MS) == pytest.approx(np.round(arrivals / (10 * MS)), abs=1e-6))
    assert record.latency.p50_ms == pytest.approx(25, rel=0.2) and record.warmup.count == TINY.warmup_count
    assert 0.8 <= record.latency.wall_s < 4


def test_sessions_side_by_side_on_a_device(named: str, tmp_path: Path) -> None:
    protocol = replace(TINY, min_s=0.8, max_s=5, kind="offline", streams=3)
    record = measure(null(tmp_path / "a", (1, 20 * MS)), protocol=protocol, threads=1, device=named)
    starts, durations = record.samples.unpack()
    assert durations.min() >= 20 * MS and np.all(np.diff(starts) >= 0)
    at_once = [np.sum((starts <= when) & (when < starts + durations)) for when in starts[3:-3]]
    assert max(at_once) == 3 and np.mean(at_once) > 2.5
    assert record.latency.sustained_fps > 50 and 0.8 <= record.latency.wall_s < 4


def test_what_a_camera_had_seen_is_kept(named: str, tmp_path: Path) -> None:
    protocol = replace(TINY, min_s=50, max_s=60, kind="camera", fps=100.0)
    with pytest.raises(Failed) as caught:
        measure(null(tmp_path / "a", fault="segv", fault_at=80), protocol=protocol, threads=1, device=named)
    samples = caught.value.failure.samples
    assert samples is not None and 10 < samples.count < 80
    assert np.median(samples.unpack()[1]) == pytest.approx(2 * MS, rel=0.5)


def test_cold_starts_on_a_device_begin_with_python(named: str, tmp_path: Path) -> None:
    subject = null(tmp_path / "a", (1, 40 * MS), (1, 2 * MS))
    found = measure(subject, protocol=parse("cold-start:10"), threads=1, device=named)
    cold = found.cold_start
    assert cold is not None and cold.processes == found.latency.count == 10
    assert min(cold.firsts_ms) >= 40  # the first call of each, every time
    for ready, load, first in zip(cold.readies_ms, cold.loads_ms, cold.firsts_ms, strict=True):
        assert load + first + 20 < ready < 5000  # Python and NumPy take their time as well
    assert found.execution.settings["calls"] == "1" and found.sensors is not None
    with pytest.raises(Failed, match="SIGSEGV"):
        measure(null(tmp_path / "b", fault="segv"), protocol=parse("cold-start:10"), threads=1, device=named)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.kron(np.random.default_rng(0).integers(0, 255, (9, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    save_picture(tmp_path / "photo.png", image)
    return tmp_path / "photo.png"


def test_the_whole_way_is_timed_on_a_device(named: str, tmp_path: Path, photo: Path) -> None:
    subject = artifact(tmp_path / "net", "onnxruntime")
    found = measure(subject, protocol=TINY, threads=1, device=named, e2e=True, image=photo)
    assert found.stages is not None and found.e2e is not None and found.provenance == "measured"
    assert [stage.name for stage in found.stages] == ["decode", "resize", "infer", "labels"]
    steps = np.stack([stage.samples.unpack()[1] for stage in found.stages])
    assert np.median(steps.sum(axis=0)) / 1e6 == pytest.approx(found.e2e.p50_ms)
    assert not any("photo" in reason or "label" in reason for reason in found.reasons)


def test_a_photo_that_is_another_one_there_is_a_doubt(named: str, tmp_path: Path, photo: Path, change: Any) -> None:
    change("cv2.IMREAD_COLOR_RGB", "cv2.IMREAD_COLOR_BGR")
    subject = artifact(tmp_path / "net", "onnxruntime", baked=True)
    found = measure(subject, protocol=TINY, threads=1, device=named, e2e=True, image=photo)
    assert any("the photo that it decodes is another one" in reason for reason in found.reasons)


def test_without_opencv_the_whole_way_is_missing(named: str, tmp_path: Path, change: Any) -> None:
    change('need("cv2", ', 'need("nowhere", ')
    with pytest.raises(MissingTool, match=r"opencv-python-headless is not installed on here; run there: .* -m pip"):
        measure(null(tmp_path / "a"), protocol=TINY, threads=1, device=named, e2e=True)


def test_frames_of_a_device_are_judged_as_here() -> None:
    from edgeseg.runtimes.devices.remote import Series
    from edgeseg.runtimes.worker import pack as packed

    series = Series(Protocol("camera", min_s=1, min_count=5, max_s=5, warmup_count=1, warmup_s=0, kind="camera", fps=2))
    marks = np.array([[0, 0, 10], [500, 500, 510], [1000, 1000, 1010]], np.int64) * MS
    event = {"event": "chunk", "columns": 3, "data": _raw(marks)}
    series.add(event)
    assert not series.enough()
    series.add({**event, "data": _raw(marks[:2] + 1500 * MS)})
    assert series.enough() and not series.enough()
    told = series.packed()
    taken = np.concatenate([marks, marks[:2] + 1500 * MS])
    assert told["steady"] == packed(taken[:, 1:]) and told["arrivals"] == packed(taken[:, ::2])


def _raw(marks: Any) -> str:
    from edgeseg.runtimes import agent

    return str(agent.packed(marks)["data"])


def test_pictures_are_prepared_by_what_is_sent_along(photo: Path) -> None:
    from edgeseg.runtimes import agent

    spec = artifact(photo.parent / "net", "onnxruntime").manifest.input
    image = pixels.decode(photo.read_bytes())
    assert np.array_equal(
        pixels.prepare(image, spec), agent.prepare(agent.decode(photo.read_bytes()), pixels.takes(spec))
    )
