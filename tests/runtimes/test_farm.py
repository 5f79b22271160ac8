"""A farm: nothing lost, nothing twice, whatever dies in the middle."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.ledger import Ledger
from edgeseg.runtimes import record as records
from edgeseg.runtimes.farm import Exports, Job, Order, Outcome, Queue, Sweep, Swept, engines, measured, run
from edgeseg.runtimes.farm.exports import made, orders
from edgeseg.runtimes.farm.sweep import record_name, verdict_of
from tests.conftest import TINY
from tests.report.stored import GOOD_HOP
from tests.runtimes.test_agent import null


def sweep(devices: Any, **more: Any) -> Sweep:
    return Sweep(["a"], devices=devices, **more)


def jobs(count: int, pool: str = "pool") -> list[Job]:
    return [Job(pool, f"artifact-{number}", "sha", 1, "quick") for number in range(count)]


def done(path: Path, given: Sweep, measure: Callable[[Job, str], Outcome], *wanted: Job) -> tuple[list[Job], Any]:
    """The queue after a run over it, and the devices that were left out."""

    async def measured(job: Job, device: str) -> Outcome:
        await asyncio.sleep(0)
        return measure(job, device)

    with Queue(path).held() as queue:
        queue.want(wanted)
        out = asyncio.run(run(queue, given, measured, calm_s=0))
        return queue.jobs(), out


def test_two_thousand_jobs_on_two_hundred_devices_across_a_restart(tmp_path: Path) -> None:
    """5 % go wrong, and the scheduler is cancelled in the middle, with two hundred jobs leased."""
    rng, ended = random.Random(0), Counter[str]()
    devices = {f"pool-{number}": [f"device-{number}-{index}" for index in range(50)] for number in range(4)}
    wanted = [job for pool in devices for job in jobs(500, pool)]

    async def measure(job: Job, device: str) -> Outcome:
        await asyncio.sleep(0.001 * rng.random())
        if rng.random() < 0.05:
            return Outcome("waiting", None, "gone", device=True)
        ended[f"{job.pool} {job.artifact}"] += 1
        return Outcome("done", f"{job.id}.json")

    async def cancelled(queue: Queue) -> None:
        task = asyncio.create_task(run(queue, sweep(devices, tries=20, patience=9), measure, calm_s=0))
        while len(ended) < 1000:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Queue(tmp_path / "q").held() as queue:
        queue.want(wanted)
        asyncio.run(cancelled(queue))
        states = Counter(job.state for job in queue.jobs())
    assert states["leased"] > 0 and states["done"] < 2000
    with Queue(tmp_path / "q").held() as queue:
        queue.want(wanted)
        assert asyncio.run(run(queue, sweep(devices, tries=20, patience=9), measure, calm_s=0)) == {}
        assert {job.state for job in queue.jobs()} == {"done"}
        assert len(queue.jobs()) == len(ended) == 2000
        assert sum(ended.values()) == 2000  # a job that was done is stored before anything else happens


def test_a_device_that_keeps_failing_is_left_out_and_others_do_its_work(tmp_path: Path) -> None:
    def measure(job: Job, device: str) -> Outcome:
        return Outcome("waiting", None, "no route", device=True) if device == "bad" else Outcome("done", "x.json")

    found, out = done(tmp_path / "q", sweep({"pool": ["bad", "good"]}), measure, *jobs(9))
    assert out == {"bad": "no route"}
    assert {(job.state, job.device) for job in found} == {("done", "good")}
    found, out = done(tmp_path / "alone", sweep({"pool": ["bad"]}), measure, *jobs(3))
    assert Counter(job.state for job in found) == {"waiting": 3}
    error = verdict_of(Swept({}, found, out))
    assert isinstance(error, MissingTool) and "3 of 3 wait (bad: no route)" in str(error)


def test_a_device_that_hangs_is_switched_off_and_on_once_before_it_is_left_out(tmp_path: Path) -> None:
    """It hangs after three jobs and again after its next one, and then for good."""
    done_since, switched, hopeless = [0], [0], [False]

    async def measure(job: Job, device: str) -> Outcome:
        if hopeless[0] or done_since[0] >= (3 if not switched[0] else 1):
            return Outcome("waiting", None, "no route", device=True)
        done_since[0] += 1
        return Outcome("done", "x.json")

    async def recover(device: str) -> str | None:
        switched[0] += 1
        done_since[0], hopeless[0] = 0, switched[0] > 2
        return None

    with Queue(tmp_path / "q").held() as queue:
        queue.want(jobs(9))
        out = asyncio.run(run(queue, sweep({"pool": ["pi"]}, tries=9), measure, calm_s=0, recover=recover))
        states = Counter(job.state for job in queue.jobs())
    assert out == {"pi": "no route; switched off and on before"}
    assert switched == [3] and states == {"done": 5, "waiting": 4}


def test_why_it_did_not_come_back_is_said(tmp_path: Path) -> None:
    async def measure(job: Job, device: str) -> Outcome:
        return Outcome("waiting", None, "no route", device=True)

    async def recover(device: str) -> str | None:
        return "uhubctl: no such hub"

    with Queue(tmp_path / "q").held() as queue:
        queue.want(jobs(2))
        out = asyncio.run(run(queue, sweep({"pool": ["pi"]}), measure, calm_s=0, recover=recover))
    assert out == {"pi": "no route; uhubctl: no such hub"}


def test_what_cannot_be_measured_is_not_tried_again_and_noise_is(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    def measure(job: Job, device: str) -> Outcome:
        tries[job.artifact] += 1
        if job.artifact == "artifact-0":
            return Outcome("failed", "x.json", "unsupported_operator: Foo")
        return (
            Outcome("waiting", "x.json", "noisy")
            if tries[job.artifact] < 3 + 9 * (job.artifact[-1] == "1")
            else (Outcome("done", "x.json"))
        )

    found, _ = done(tmp_path / "q", sweep(["pool"]), measure, *jobs(3))
    assert [job.state for job in found] == ["failed", "invalid", "done"]
    assert tries == {"artifact-0": 1, "artifact-1": 3, "artifact-2": 3}
    assert "2 of 3 have no figure" in str(verdict_of(Swept({}, found, {})))
    found, _ = done(tmp_path / "q", sweep(["pool"]), measure, *jobs(4)[1:])
    assert [job.state for job in found] == ["failed", "invalid", "done", "done"]
    assert tries["artifact-1"] == 3  # what has ended stays ended
    with Queue(tmp_path / "q").held() as queue:
        queue.forget()
        queue.want(jobs(4)[1:])
        assert [(job.artifact, job.state) for job in queue.jobs()] == [
            ("artifact-2", "done"),
            ("artifact-3", "done"),
            ("artifact-1", "waiting"),
        ]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("busy", "waiting"), ("lost", "waiting"), ("killed", "waiting"), ("hot", "waiting"), ("out_of_memory", "failed")],
)
def test_a_failure_is_the_device_s_or_the_artifact_s(
    outcome: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(path: str) -> None:
        Path(path).write_text(json.dumps({"kind": "failure", "outcome": outcome}))

    async def bench(*words: str) -> tuple[int, str]:
        leave(words[-1])
        return 6, "what it said"

    monkeypatch.setattr("edgeseg.runtimes.farm.sweep.edgeseg", bench)
    made = asyncio.run(measured(jobs(1)[0], "pi", tmp_path))
    assert (made.state, made.device, made.reason) == (state, state == "waiting", f"{outcome}: what it said")


def test_a_record_of_an_artifact_far_down_has_a_name(tmp_path: Path) -> None:
    deep = Job("pool", "/".join(["", *["deep"] * 99, "cam", "openvino"]), "sha", 1, "sustained:10m", id=7)
    assert record_name(deep) == "cam-openvino-pool-t1-sustained-10m-7.json"


def test_one_sweep_at_a_time_and_no_file_of_others(tmp_path: Path) -> None:
    with Queue(tmp_path / "q").held() as queue:
        queue.want(jobs(1))
        with pytest.raises(EdgesegError, match="held by another sweep"):
            Queue(tmp_path / "q")
    (tmp_path / "text").write_text("something else" * 99)
    with pytest.raises(EdgesegError, match="no queue of edgeseg"):
        Queue(tmp_path / "text")
    assert (tmp_path / "text").read_text().startswith("something else")


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ("artifacts: []", "at least one artifact"),
        ("artifacts: [./null]\ndevices: {pool: []}", "the pool pool has no device"),
        ("artifacts: [./null]\ndevices: {a: [local], b: [local]}", "local is named twice"),
        ("artifacts: [./null]\ntries: 0", "at least 1"),
        ("artifacts: [./null]\ndevice: pi", "device"),
        ("artifacts: [./null]\ndevices: [moon]", "no device 'moon'"),
        ("artifacts: [./null]\nprotocol: slow", "slow"),
        ("artifacts: [./null]\ncool: warm", "'warm' is no temperature to wait for"),
        ("artifacts: [./null]\nprotocol: tool:benchmark_ap", "did you mean benchmark_app"),
        ("artifacts: [elsewhere]", "elsewhere"),
        ("exports: [{runs: [elsewhere], to: [onnxruntime]}]", "elsewhere"),
        ("exports: [{runs: [], to: [onnxruntime]}]", "at least one of runs"),
        ("exports: [{runs: [run], to: [onnxruntime], precision: [int8]}]", "int8 takes calibration images; say calib"),
        ("artifacts: [", "cannot read"),
        ("just words", "sweep.yaml"),
    ],
)
def test_a_wrong_file_is_one_line(document: str, line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    null(tmp_path)
    (tmp_path / "sweep.yaml").write_text(document)
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")]) in (1, 5)
    said = capfd.readouterr().err
    assert line in said and "Traceback" not in said
    assert not (tmp_path / "out" / "queue.sqlite").exists()


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = null(tmp_path)
    document = {"artifacts": ["null"], "threads": [1, 2], "protocol": "smoke", "tries": 2}
    (tmp_path / "sweep.yaml").write_text(json.dumps(document))
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--json"]
    killed = subprocess.Popen([sys.executable, "-m", "edgeseg", *words], stdout=subprocess.DEVNULL)
    begun = time.monotonic()
    while not list((tmp_path / "out").glob("*.json")):
        assert killed.poll() is None and time.monotonic() - begun < 60
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert main(words) in (0, 6)  # 6: this machine is busy just now
    found = json.loads(capfd.readouterr().out)["jobs"]
    assert [job["threads"] for job in found] == [1, 2]
    for job in found:
        assert job["state"] in ("done", "invalid")
        assert job["state"] == "invalid" or "no figure to quote" in job["reason"]  # as `verdict` says of smoke
        assert records.read(Path(job["record"])).subject.path == str(artifact)


# -- exports -----------------------------------------------------------------------------------------------------------


def test_orders_are_every_run_target_and_precision(tiny_run: Path) -> None:
    entry = Exports([tiny_run.name], ["onnxruntime", "openvino"], ["fp32", "int8"], calib=TINY, images=4, size="64x96")
    found = orders([entry], tiny_run.parent)
    assert [(order.name, order.verb) for order in found] == [
        (f"run-{target}-{precision}", verb)
        for target in ("onnxruntime", "openvino")
        for precision, verb in (("fp32", "export"), ("int8", "quantize"))
    ]
    assert found[1].words(Path("r"), Path("p"))[:4] == ["quantize", "r", "--out", "p"]
    assert "--calib" not in found[0].options and "--calib" in found[1].options
    with pytest.raises(EdgesegError, match="made twice"):
        orders([entry, entry], tiny_run.parent)
    with pytest.raises(EdgesegError, match="did you mean"):
        orders([Exports([tiny_run.name], ["openvin"])], tiny_run.parent)
    with pytest.raises(EdgesegError, match="fp23"):
        orders([Exports([tiny_run.name], ["openvino"], ["fp23"])], tiny_run.parent)


def test_a_failure_is_forgotten_once_the_next_one_passes(tmp_path: Path) -> None:
    artifact = Artifact.open(null(tmp_path))

    def after(sha256: str, passed: bool) -> list[str]:
        async def make(order: Order, part: Path) -> Outcome:
            hop = replace(GOOD_HOP, passed=passed)
            Artifact.open(shutil.copytree(artifact.folder, part / "null")).update(ledger=Ledger("x", [hop]))
            return Outcome("done" if passed else "failed", None, "why")

        order = Order(tmp_path / "run", sha256, "export", (), "one")
        with Queue(tmp_path / "q").held() as queue:
            asyncio.run(made(queue, [order], tmp_path / "made", make, lambda *_: None))
        return sorted(each.name for each in (tmp_path / "made").iterdir())

    assert after("a", True) == ["one"]
    assert after("b", False) == ["one", "one-failed"]
    assert after("c", True) == ["one"]


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    """Unless it failed for want of a tool, its run has other weights, or it is gone."""
    artifact, tries = null(tmp_path), Counter[str]()
    ends = {"good": "done", "bad": "failed", "absent": "waiting", "empty": "done"}

    async def make(order: Order, part: Path) -> Outcome:
        tries[order.name] += 1
        if order.name in ("good", "bad"):
            shutil.copytree(artifact, part / "onnxruntime")
        return Outcome(ends[order.name], None, "why")  # type: ignore[arg-type]

    def of(sha256: str) -> dict[str, str]:
        ordered = [Order(tmp_path / "run", sha256, "export", (), name) for name in ends]
        with Queue(tmp_path / "q").held() as queue:
            outcomes = asyncio.run(made(queue, ordered, tmp_path / "made", make, lambda *_: None))
        return {name: one.state for name, one in outcomes.items()}

    assert of("a") == of("a") == {"good": "done", "bad": "failed", "absent": "waiting", "empty": "failed"}
    assert tries == {"good": 1, "bad": 1, "absent": 2, "empty": 1}
    assert sorted(each.name for each in (tmp_path / "made").iterdir()) == ["bad-failed", "good"]
    assert Artifact.open(tmp_path / "made" / "good").manifest.source.run == str(tmp_path / "run")
    shutil.rmtree(tmp_path / "made" / "good")
    of("a")
    assert tries["good"] == 2
    of("b")
    assert tries["good"] == 3 and tries["bad"] == 2
    with Queue(tmp_path / "q").held() as queue:
        queue.forget()
    of("b")
    assert tries["good"] == 3 and tries["bad"] == 3


@pytest.mark.slow
def test_a_sweep_exports_and_measures(tmp_path: Path, tiny_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One target passes, one has an option that its export refuses; then the same command has nothing to do."""
    both = [
        {"runs": [str(tiny_run)], "to": ["onnxruntime"], "data": TINY},
        {"runs": [str(tiny_run)], "to": ["openvino"], "size": "63x96"},
    ]
    (tmp_path / "sweep.yaml").write_text(json.dumps({"exports": both, "protocol": "smoke", "tries": 1}))
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 6
    said = capfd.readouterr()
    document = json.loads(said.out)
    assert {each["name"]: each["state"] for each in document["exports"]} == {
        "run-onnxruntime-fp32": "done",
        "run-openvino-fp32": "failed",
    }
    assert "63" in document["exports"][1]["reason"]
    assert "of 2 have no figure" not in said.err and "of 3 have no figure" in said.err
    (job,) = document["jobs"]
    artifact = Artifact.open(tmp_path / "out" / "artifacts" / "run-onnxruntime-fp32")
    assert records.read(Path(job["record"])).subject.sha256 == artifact.manifest.sha256
    assert artifact.manifest.ledger is not None and artifact.manifest.ledger.passed
    before = (artifact.folder / "manifest.json").stat().st_mtime_ns
    assert main(words) == 6
    assert json.loads(capfd.readouterr().out)["exports"] == document["exports"]
    assert (artifact.folder / "manifest.json").stat().st_mtime_ns == before


def test_a_tool_measures_in_the_place_of_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def leave(path: str) -> None:
        Path(path).write_text(json.dumps({"kind": "tool", "valid": True, "reasons": []}))

    async def bench(*words: str) -> tuple[int, str]:
        asked.extend(words)
        leave(words[-1])
        return 0, ""

    monkeypatch.setattr("edgeseg.runtimes.farm.sweep.edgeseg", bench)
    job = replace(jobs(1)[0], protocol="tool:benchmark_model=/data/local/tmp/bm")
    made = asyncio.run(measured(job, "phone", tmp_path))
    assert made.state == "done"
    assert asked[asked.index("--tool") :][:4] == ["--tool", "benchmark_model", "--tool-path", "/data/local/tmp/bm"]
    assert "--protocol" not in asked
    assert made.record is not None and "data" not in Path(made.record).name


# -- Ray ---------------------------------------------------------------------------------------------------------------

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the cluster extra: pip install 'edgeseg[cluster]'"
)


def test_a_job_whose_device_the_cluster_has_lost_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cluster:
        looks = 0

        def cluster_resources(self) -> dict[str, float]:
            self.looks += 1
            return {"edgeseg:pi": 1.0} if self.looks < 3 else {}

    monkeypatch.setattr(engines, "LOOK_S", 0.01)
    cluster, never = Cluster(), Future[Any]()
    made = asyncio.run(engines._waited(cluster, never, "pi"))
    assert (made.state, made.device, cluster.looks) == ("waiting", True, 3)
    assert "offers it any more" in made.reason
    ready = Future[Any]()
    ready.set_result("what it gives")
    assert asyncio.run(engines._waited(cluster, ready, "pi")) == "what it gives"


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of ray itself
def test_two_thousand_jobs_through_ray_across_a_restart(tmp_path: Path) -> None:
    """On two workers of Ray, 200 devices; 5 % go wrong, and the scheduler is cancelled in the middle."""
    artifact = str(null(tmp_path))
    devices = {f"pool-{number}": [f"device-{number}-{index}" for index in range(50)] for number in range(4)}
    wanted = [Job(pool, artifact, "sha", number, "quick") for pool in devices for number in range(500)]
    given, ended = sweep(devices, tries=20, patience=99), Counter[tuple[str, int]]()

    def there(job: Job, device: str, packed: bytes) -> tuple[Outcome, str | None]:
        assert b"manifest.json" in packed
        if random.random() < 0.05:
            return Outcome("waiting", None, "gone", device=True), None
        return Outcome("done", "there"), json.dumps({"subject": {"path": "there"}, "of": [job.pool, job.threads]})

    async def twice(measure: Callable[[Job, str], Any], queue: Queue) -> None:
        async def counted(job: Job, device: str) -> Outcome:
            made: Outcome = await measure(job, device)
            ended[job.pool, job.threads] += made.state == "done"
            return made

        task = asyncio.create_task(run(queue, given, counted, calm_s=0))
        while sum(ended.values()) < 700:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with queue.held():
            assert await run(queue, given, counted, calm_s=0) == {}

    with engines.ray(given, tmp_path, there, cpus=1) as crew:
        queue = Queue(tmp_path / "q")
        queue.want(wanted)
        asyncio.run(twice(crew.measure, queue))
    with Queue(tmp_path / "q").held() as queue:
        found = queue.jobs()
    assert {job.state for job in found} == {"done"}
    assert len(found) == len(ended) == sum(ended.values()) == 2000
    for job in found:
        assert job.record is not None
        document = json.loads(Path(job.record).read_text())
        assert document == {"subject": {"path": artifact}, "of": [job.pool, job.threads]}


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of ray itself
def test_a_sweep_through_ray_brings_the_records_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = null(tmp_path)
    (tmp_path / "sweep.yaml").write_text(json.dumps({"artifacts": ["null"], "protocol": "smoke", "tries": 1}))
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--engine", "ray", "--json"]
    assert main(words) in (0, 6)  # 6: this machine is busy just now
    (job,) = json.loads(capfd.readouterr().out)["jobs"]
    assert job["state"] in ("done", "invalid")
    record = records.read(Path(job["record"]))
    assert (record.subject.path, record.subject.sha256) == (str(artifact), job["sha256"])


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of ray itself
def test_exports_through_ray_come_back(tmp_path: Path, tiny_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    entry = {"runs": [str(tiny_run)], "to": ["onnxruntime"], "precision": ["fp32", "int8"], "calib": TINY, "images": 4}
    (tmp_path / "sweep.yaml").write_text(json.dumps({"exports": [entry], "protocol": "smoke", "tries": 1}))
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--engine", "ray", "--json"]
    assert main(words) in (0, 6)  # 6: this machine is busy just now
    document = json.loads(capfd.readouterr().out)
    float_, whole = document["exports"]
    assert float_["state"] == "done"
    if whole["state"] != "done":  # what a run of one epoch draws in whole numbers is a matter of rounding
        assert whole["reason"].startswith("run-onnxruntime-int8 does not draw the masks of its run")
        whole["name"] += "-failed"
    made = [Artifact.open(tmp_path / "out" / "artifacts" / each["name"]) for each in (float_, whole)]
    for artifact in made:
        assert artifact.manifest.source.run == str(tiny_run)
    assert made[1].manifest.calibration is not None
    assert records.read(Path(document["jobs"][0]["record"])).subject.sha256 == made[0].manifest.sha256


@with_ray
@pytest.mark.slow
def test_a_device_that_no_machine_of_the_cluster_offers_is_one_line(tmp_path: Path) -> None:
    null(tmp_path)
    (tmp_path / "sweep.yaml").write_text(json.dumps({"artifacts": ["null"], "devices": ["pi"], "protocol": "smoke"}))
    words = f"['sweep', '{tmp_path / 'sweep.yaml'}', '--out', '{tmp_path / 'out'}', '--engine', 'ray']"
    program = f"""
import os, ray, subprocess, sys
ray.init(num_cpus=1, log_to_driver=False)
address = ray.get_runtime_context().gcs_address
words = [sys.executable, "-m", "edgeseg", *{words}]
sys.exit(subprocess.run(words, env=os.environ | {{"RAY_ADDRESS": address}}).returncode)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 5, done.stderr
    assert "no machine of the Ray cluster offers pi" in done.stderr
    assert """--resources='{"edgeseg:pi": 1}'""" in done.stderr
    assert "Traceback" not in done.stderr
