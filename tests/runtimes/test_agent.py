"""The agent and its channel, as a process of this machine: what it measures, and every way in which it can fail."""

from __future__ import annotations

import ast
import io
import os
import signal
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import schema
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.files import sha256
from edgeseg.results import collect
from edgeseg.runtimes import RUNTIMES, agent, pixels, statistics
from edgeseg.runtimes import record as records
from edgeseg.runtimes.devices import channel, open_device, remote
from edgeseg.runtimes.devices.channel import Channel
from edgeseg.runtimes.devices.prepare import SETTINGS, Setting
from edgeseg.runtimes.devices.remote import Series
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.measure import Failed, measure
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import Failure, Protocol, Record
from tests.runtimes.here import Here, again, gone, here, opened

MS = 1_000_000
TINY = Protocol("tiny", min_s=0.3, min_count=20, max_s=0.9, warmup_count=3, warmup_s=0.05)
LONG = Protocol("long", min_s=60, min_count=20, max_s=60, warmup_count=3, warmup_s=0.05)


def null(folder: Path, *steps: tuple[int, int], **options: Any) -> Path:
    return null_artifact(folder / "null", Null(steps=steps or ((1, 2 * MS),), sleep=True, **options))


def measurer(device: Here) -> int:
    """The process on the device that measures."""
    import psutil

    (child,) = psutil.Process(device.channel.hello["pid"]).children()
    return int(child.pid)


def test_the_agent_needs_nothing_that_a_small_device_lacks() -> None:
    source = Path(agent.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_every_runtime_of_the_agent_has_its_other_end_here() -> None:
    assert {name for name in RUNTIMES if RUNTIMES[name].remotely} == set(agent.RUNTIMES)


def test_a_record_of_the_agent_is_complete(named: str, tmp_path: Path) -> None:
    shares: list[float] = []
    found = measure(null(tmp_path), protocol=TINY, threads=1, device=named, progress=shares.append)
    starts, durations = found.samples.unpack()
    assert found.latency == statistics.latency(starts, durations)
    assert found.latency.p50_ms == pytest.approx(2, rel=0.2)
    assert found.latency.wall_s >= TINY.min_s and found.latency.count >= TINY.min_count
    assert np.all(np.diff(starts) >= durations[:-1])
    assert int(found.execution.settings["calls"]) == 1 + found.warmup.count + found.samples.count + 1  # first ... last
    assert found.first_ms >= 2 and found.load_ms > 0
    assert found.peak_memory_bytes is None or found.peak_memory_bytes > 10_000_000
    assert (found.device.kind, found.device.address, found.provenance) == ("here", "here", "simulated")
    assert shares[-1] == 1 and shares == sorted(shares)
    assert records.read(records.write(tmp_path / "record.json", found)) == found


def test_warm_up_is_found_by_its_times_as_here(named: str, tmp_path: Path) -> None:
    found = measure(null(tmp_path, (10, 20 * MS), (1, 2 * MS)), protocol=TINY, threads=1, device=named)
    assert (found.warmup.unpack()[1] >= 20 * MS)[:9].all()
    assert found.latency.p50_ms == pytest.approx(2, rel=0.2)


def test_it_ends_at_the_longest_time(named: str, tmp_path: Path) -> None:
    protocol = Protocol("tiny", min_s=0.3, min_count=1000, max_s=0.6, warmup_count=3, warmup_s=0.05)
    found = measure(null(tmp_path, (1, 20 * MS)), protocol=protocol, threads=1, device=named)
    assert 0.55 <= found.latency.wall_s < 1.2
    assert any("tiny needs 1000" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("fault", "outcome", "line"),
    [
        ("segv", "crashed", "ended by SIGSEGV"),
        ("kill", "killed", "ended by SIGKILL (was the machine out of memory?)"),
        ("ill", "illegal_instruction", "ended by SIGILL"),
        ("exit", "crashed", "exit code 3: the null runtime gives up"),
        ("raise", "error", "RuntimeError: the null runtime was told to raise"),
    ],
)
def test_how_it_failed_is_a_result(named: str, tmp_path: Path, fault: str, outcome: str, line: str) -> None:
    with pytest.raises(Failed) as caught:
        measure(null(tmp_path, fault=fault, fault_at=200), protocol=LONG, threads=1, device=named)
    failure = caught.value.failure
    assert failure.outcome == outcome and line in failure.detail and "\n" not in failure.detail
    assert failure.samples is not None and 10 < failure.samples.count < 200  # what came before is kept
    path = schema.write(tmp_path / "failure.json", failure)
    assert schema.read(Failure, path) == failure
    assert collect(tmp_path).failures == [failure]  # which the report shows


def test_a_kill_of_the_kernel_s_is_of_want_of_memory(named: str, tmp_path: Path, change: Any) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 7\noom_kill 3\n")
    change("/proc/vmstat", str(vmstat))

    def measured(progress: Any) -> Failure:
        with pytest.raises(Failed) as caught:
            measure(
                null(tmp_path, fault="kill", fault_at=300), protocol=LONG, threads=1, device=named, progress=progress
            )
        return caught.value.failure

    assert measured(None).outcome == "killed"
    found = measured(lambda _: vmstat.write_text("nr_free_pages 7\noom_kill 4\n"))
    assert found.outcome == "out_of_memory" and "for the machine was out of memory" in found.detail
    assert found.samples is not None and found.samples.count > 10


def test_the_kernel_ends_what_takes_too_much_memory(tmp_path: Path, little_memory: Path, change: Any) -> None:
    """A real one: the measurer fills its memory, and the kernel picks it."""
    change('raise RuntimeError("the null runtime was told to raise")', 'self._all = b"x" * (1 << 30)')
    with closing(here(tmp_path)) as device:
        device.before = ("sh", "-c", f'echo $$ >{little_memory}/cgroup.procs; exec "$@"', "sh")
        with closing(opened(device, null(tmp_path, fault="raise", fault_at=20))) as bench:
            with pytest.raises(Died, match="out of memory") as caught:
                bench.ask("measure", protocol=schema.dump(LONG))
            assert caught.value.outcome == "out_of_memory"
        assert device.state().load_1min is not None  # the device itself is as it was


def test_a_device_outlives_what_crashes_on_it(device: Here, tmp_path: Path) -> None:
    with closing(opened(device, null(tmp_path, fault="segv", fault_at=2))) as bench, pytest.raises(Died):
        bench.ask("measure", protocol=schema.dump(LONG))
    assert device.state().load_1min is not None
    with closing(opened(device, null(tmp_path))) as bench:
        assert bench.ask("measure", protocol=schema.dump(TINY))["unchanged"] == 1


def test_a_large_file_over_a_slow_line_arrives(tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than the silence after which an agent leaves, piece by piece."""
    change("SILENCE_S = 10", "SILENCE_S = 1")
    file, plain = tmp_path / "large", Channel._write_all
    file.write_bytes(os.urandom(1 << 20))

    def slow(channel: Channel, data: bytes) -> None:
        if len(data) > 1 << 16:
            time.sleep(0.5)
        plain(channel, data)

    with closing(here(tmp_path)) as device:
        device.lock()
        monkeypatch.setattr(Channel, "_write_all", slow)
        (place,) = device.push({sha256(file): file}).values()
        assert Path(place).read_bytes() == file.read_bytes()


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    with closing(here(tmp_path, patience_s=1.5)) as device:
        bench = opened(device, null(tmp_path, fault="hang", fault_at=2))
        pid = measurer(device)
        with pytest.raises(Died, match="it hangs") as caught:
            bench.ask("measure", protocol=schema.dump(LONG))
        assert caught.value.outcome == "hang"
        bench.close()
        assert gone(pid)


@pytest.mark.parametrize(("fault", "line"), [("nan", "NaN or infinite"), ("flip", "other labels in 100.0%")])
def test_wrong_in_the_end_is_invalid(named: str, tmp_path: Path, fault: str, line: str) -> None:
    found = measure(null(tmp_path, fault=fault, fault_at=10), protocol=TINY, threads=1, device=named)
    assert any(line in reason for reason in found.reasons)


def test_wrong_from_the_start_is_invalid(named: str, tmp_path: Path, change: Any) -> None:
    assert not wrong(measure(null(tmp_path), protocol=TINY, threads=1, device=named))
    change("output[0].argmax(axis=0)", "output[0].argmax(axis=0) + 1")
    found = measure(null(tmp_path), protocol=TINY, threads=1, device=named)
    assert not found.valid and "0.00% of the labels" in wrong(found)[0]


def wrong(record: Record) -> list[str]:
    return [reason for reason in record.reasons if reason.startswith("wrong masks")]


def test_what_a_runtime_prints_is_no_event(named: str, tmp_path: Path) -> None:
    assert measure(null(tmp_path, prints=True), protocol=TINY, threads=1, device=named).latency.count >= TINY.min_count


def test_what_a_login_script_prints_is_passed_over(device: Here) -> None:
    device.before = ("sh", "-c", 'echo "Welcome!"; echo "[1, 2]"; exec "$@"', "sh")
    assert device.probe().cores >= 1


def test_noise_among_the_events_is_an_error(device: Here, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    device.before = ("sh", "-c", '(until [ -e "$0" ]; do sleep 0.05; done; echo Broadcast) & exec "$@"', str(flag))
    bench = opened(device, null(tmp_path))
    flag.touch()
    with pytest.raises(Died, match="Broadcast") as caught:
        bench.ask("measure", protocol=schema.dump(LONG))
    assert caught.value.outcome == "garbled"


def test_samples_that_are_not_those_that_were_sent_are_refused() -> None:
    series = Series(TINY)
    with pytest.raises(Died, match="0 of 5 samples"):
        series.check({"count": 5, "crc": 0})
    with pytest.raises(Died, match="changed on the way"):
        series.check({"count": 0, "crc": 1})


def test_everything_ends_with_the_other_end(device: Here, tmp_path: Path) -> None:
    bench = opened(device, null(tmp_path, fault="hang", fault_at=2))
    pids = device.channel.hello["pid"], measurer(device)
    device.channel.send("measure", child=0, warmup_count=1, warmup_s=0, max_s=60)
    device.close()
    assert all(gone(pid) for pid in pids)
    with pytest.raises(Died, match="went away"):
        bench.ask("execution")


def test_a_killed_keeper_takes_the_measurer_along(device: Here, tmp_path: Path) -> None:
    bench = opened(device, null(tmp_path))
    pid = measurer(device)
    os.kill(device.channel.hello["pid"], signal.SIGKILL)
    with pytest.raises(Died, match="went away") as caught:
        bench.ask("measure", protocol=schema.dump(LONG))
    assert caught.value.outcome == "lost"
    assert sys.platform != "linux" or gone(pid)


def test_an_agent_that_hears_nothing_leaves(tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change("SILENCE_S = 10", "SILENCE_S = 1")
    monkeypatch.setattr(channel, "PING_S", 60.0)
    with closing(here(tmp_path)) as device:
        opened(device, null(tmp_path, fault="hang", fault_at=2))
        pids = device.channel.hello["pid"], measurer(device)
        device.channel.send("measure", child=0, warmup_count=1, warmup_s=0, max_s=60)
        assert all(gone(pid) for pid in pids)


def test_a_frozen_agent_is_lost_and_the_next_one_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "SILENCE_S", 1.0)  # of this end
    monkeypatch.setattr(channel, "PING_S", 0.1)
    with closing(here(tmp_path)) as first, closing(here(tmp_path)) as second:
        bench = opened(first, null(tmp_path))
        pids = first.channel.hello["pid"], measurer(first)
        os.kill(pids[0], signal.SIGSTOP)
        with pytest.raises(Died, match="it is lost"):
            bench.ask("measure", protocol=schema.dump(LONG))
        second.lock(wait_s=10)
        assert all(gone(pid) for pid in pids)


def test_a_clock_that_jumps_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of an agent that is alive seems to be a minute old; that of a frozen one to be of the next minute."""
    monkeypatch.setattr(agent, "SILENCE_S", 1.0)  # of this end
    monkeypatch.setattr(channel, "PING_S", 0.1)
    lock = tmp_path / "device" / "lock"
    with closing(here(tmp_path)) as first, closing(here(tmp_path)) as second:
        bench = opened(first, null(tmp_path))
        pids = first.channel.hello["pid"], measurer(first)
        begun = time.monotonic()
        while time.monotonic() < begun + 3:
            os.utime(lock, (time.time() - 60,) * 2)
            with pytest.raises(Died, match="is in use by"):
                second.lock(wait_s=0.3)
        assert bench.ask("measure", protocol=schema.dump(TINY))["unchanged"] == 1
        os.kill(pids[0], signal.SIGSTOP)
        os.utime(lock, (time.time() + 60,) * 2)
        second.lock(wait_s=10)
        assert all(gone(pid) for pid in pids)


def test_an_agent_that_takes_a_large_file_shows_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ping comes through meanwhile."""
    monkeypatch.setattr(agent, "SILENCE_S", 1.0)  # of this end
    file, plain = tmp_path / "large", Channel._write_all
    file.write_bytes(os.urandom(1 << 21))

    def slow(channel: Channel, data: bytes) -> None:
        if len(data) > 1 << 16:
            time.sleep(0.5)
        plain(channel, data)

    with closing(here(tmp_path)) as first, closing(here(tmp_path)) as second:
        first.lock()
        monkeypatch.setattr(Channel, "_write_all", slow)
        pushing = threading.Thread(target=lambda: first.push({sha256(file): file}))
        pushing.start()
        with pytest.raises(Died, match="is in use by"):
            second.lock(wait_s=3.5)
        pushing.join()
        assert first.state().load_1min is not None


def test_two_do_not_measure_at_once(tmp_path: Path) -> None:
    with closing(here(tmp_path)) as first, closing(here(tmp_path)) as second:
        bench = first.spawn()
        with pytest.raises(Died, match=r"here is in use by .+@.+; wait") as caught:
            second.lock(wait_s=0.5)
        assert caught.value.outcome == "busy"
        bench.close()
        second.lock(wait_s=0.5)


def test_files_are_sent_once_and_damaged_ones_again(
    device: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = channel.Channel.send_file

    def counted(self: channel.Channel, request: dict[str, Any], file: Any) -> Any:
        sent.append(request["sha"])
        return send(self, request, file)

    monkeypatch.setattr(channel.Channel, "send_file", counted)
    file = tmp_path / "model"
    file.write_bytes(os.urandom(1 << 20))
    digest = sha256(file)
    kept = tmp_path / "device" / "files" / digest
    for _ in range(2):
        assert device.push({digest: file}) == {digest: str(kept)}
    assert sent == [digest] and sha256(kept) == digest
    kept.write_bytes(b"damaged")
    device.push({digest: file})
    assert sent == [digest] * 2 and sha256(kept) == digest


def test_no_space_is_one_line_and_nothing_is_sent(device: Here, tmp_path: Path, change: Any) -> None:
    change("ROOM = 16 << 20", "ROOM = 1 << 60")
    file = tmp_path / "model"
    file.write_bytes(b"model")
    device.lock()
    old = tmp_path / "device" / "files" / "long-unused"
    old.write_bytes(b"old")
    with pytest.raises(EdgesegError, match="no space on here"):
        device.push({sha256(file): file})
    assert list((tmp_path / "device" / "files").iterdir()) == []  # room was made, as far as it went


def test_a_full_disk_is_one_line(device: Here, tmp_path: Path, small_disk: Path, change: Any) -> None:
    change("ROOM = 16 << 20", "ROOM = -(1 << 40)")  # as if another program took the room just now
    file = tmp_path / "model"
    file.write_bytes(os.urandom(1 << 20))
    with closing(here(small_disk)) as small:
        small.lock()
        with pytest.raises(EdgesegError, match="No space left"):
            small.push({sha256(file): file})
        assert small.state().load_1min is not None  # the rest of the file was not taken for requests


def test_a_device_that_vanishes_while_files_are_sent(device: Here, tmp_path: Path) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            os.kill(device.channel.hello["pid"], signal.SIGKILL)
            return super().read(size)

    device.lock()
    with pytest.raises(Died, match="went away") as caught:
        device.channel.send_file({"do": "store", "sha": "0" * 64, "count": 1 << 30}, Cut(bytes(1 << 20)))
    assert caught.value.outcome == "lost"
    again(device)
    assert list((tmp_path / "device" / "files").iterdir()) == []  # the half of a file is gone


def test_a_missing_runtime_names_the_line_that_installs_it(device: Here, tmp_path: Path, change: Any) -> None:
    change('need("onnxruntime", "onnxruntime")', 'need("nowhere", "onnxruntime")')
    with pytest.raises(
        MissingTool, match=r"onnxruntime is not installed on here; run there: .*python.* -m pip install onnxruntime"
    ):
        _open(device, tmp_path, b"")


def test_a_missing_operator_is_named(device: Here, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx, to write a file with an operator that nobody has")
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Unheard", ["x"], ["y"], domain="of.nobody")
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("of.nobody", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(Died, match="Unheard") as caught:
        _open(device, tmp_path, model.SerializeToString())
    assert caught.value.outcome == "unsupported_operator"


def test_a_file_that_is_no_network_is_an_error(device: Here, tmp_path: Path) -> None:
    with pytest.raises(Died) as caught:
        _open(device, tmp_path, b"no network")
    assert caught.value.outcome == "error"


def _open(device: Here, folder: Path, model: bytes) -> None:
    """Open an ONNX file on the device."""
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime")
    file, image = folder / "model.onnx", folder / "image.npy"
    file.write_bytes(model)
    np.save(image, np.zeros(1, np.float32))
    device.lock()
    device.push({sha256(path): path for path in (file, image)})
    device.channel.ask("start", child=0, name="net", files={path.name: sha256(path) for path in (file, image)})
    asked = {"threads": 1, "outputs": ["y"]}
    device.channel.ask(
        "open", child=0, runtime="onnxruntime", file=file.name, image=image.name, name="x", layout="NCHW", asked=asked
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out_of_memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "out_of_memory"),
        (RuntimeError("Encountered unresolved custom op: edgeseg.wkv(0)."), "unsupported_operator"),
        (RuntimeError("something else"), "error"),
    ],
)
def test_what_a_runtime_raises_is_an_outcome(error: Exception, kind: str) -> None:
    assert agent.trouble(error).kind == kind


def test_a_python_that_is_too_old_says_so(device: Here) -> None:
    device.before = ("sh", "-c", """echo '{"event": "hello", "protocol": 0, "python": "3.6.9"}'""")
    with pytest.raises(MissingTool, match=r"Python 3\.6\.9 on here is too old"):
        device.probe()


def test_what_is_no_agent_is_explained(device: Here) -> None:
    device.before = ("sh", "-c", "echo no such thing >&2; exit 127")
    with pytest.raises(MissingTool, match="ended with 127: no such thing"):
        device.probe()


def test_a_run_is_measured_here_only(device: Here, tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="export it"):
        device.spawn().ask("open", path=str(null(tmp_path)), threads=1, image=None, size=[64, 96], e2e=False)


def test_a_device_that_takes_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen while a file is sent, with a connection that stays: the pipe is full, and nobody says so."""
    monkeypatch.setattr(channel, "STUCK_S", 1.0)
    with closing(here(tmp_path)) as device:
        device.lock()
        keeper = device.channel.hello["pid"]
        os.kill(keeper, signal.SIGSTOP)
        try:
            with pytest.raises(Died, match="has taken nothing for") as caught:
                device.channel.send_file({"do": "store", "sha": "0" * 64, "count": 1 << 24}, io.BytesIO(bytes(1 << 24)))
            assert caught.value.outcome == "lost"
        finally:
            os.kill(keeper, signal.SIGKILL)


def test_between_two_processes_of_ours_nobody_begins(tmp_path: Path) -> None:
    with closing(here(tmp_path)) as first, closing(here(tmp_path)) as second:
        with first.held():
            for _ in range(2):
                first.spawn().close()
                with pytest.raises(Died, match="is in use by"):
                    second.lock(wait_s=0)
        second.lock(wait_s=0.5)


def test_nothing_is_changed_on_a_device_that_another_measures_on(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knob = tmp_path / "knob"
    knob.write_text("before\n")
    setting = Setting(read=f'cat "{knob}"', write=f'echo "$1" >>"{knob}"', usual="fast")
    monkeypatch.setitem(SETTINGS._entries, "knob", setting)
    monkeypatch.setattr(remote.Remote.lock, "__defaults__", (0.2,))
    with closing(open_device(named)) as other:
        assert isinstance(other, remote.Remote)
        with other.held(), pytest.raises(Failed) as caught:
            measure(null(tmp_path), protocol=TINY, threads=1, device=named, prepare={"knob": "fast"})
    assert caught.value.failure.outcome == "busy" and knob.read_text() == "before\n"


def test_what_was_measured_before_a_device_went_away_is_kept(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(bench: Any) -> Any:
        raise Died("no memory for a second one", "out_of_memory")

    monkeypatch.setattr(remote.RemoteBench, "execution", gone)
    with pytest.raises(Failed) as caught:
        measure(null(tmp_path), protocol=TINY, threads=1, device=named)
    samples = caught.value.failure.samples
    assert caught.value.failure.outcome == "out_of_memory"
    assert samples is not None and samples.count >= TINY.min_count


def test_without_hard_links_files_are_copied(device: Here, tmp_path: Path, change: Any) -> None:
    change("os.link(self._folder", "raise OSError(self._folder")
    with closing(opened(device, null(tmp_path))) as bench:
        assert bench.ask("measure", protocol=schema.dump(TINY))["unchanged"] == 1


def test_an_opencv_of_a_distribution_decodes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    data = pixels.encode(image)
    newer = agent.decode(data)
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB")
    assert np.array_equal(agent.decode(data), newer)
    assert agent.decode(b"no image") is None
