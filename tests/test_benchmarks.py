"""The benchmarks on tiny inputs: what they return and what they refuse, never how fast they are."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

from benchmarks import (
    artifact_latency,
    ddp,
    distill_step,
    distillation,
    embed_rate,
    export_all,
    harness,
    loader,
    matrix,
    measuring_overhead,
    memory,
    prompts,
    run,
    ssh_added,
    startup,
    train_step,
)
from benchmarks.ratio import Finding, burst, finding, in_turns
from benchmarks.train_step import Work
from edgeseg import schema
from edgeseg.errors import EdgesegError, InvalidMeasurement, MissingTool, ParityFailed
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import Protocol
from edgeseg.train.teaching import PIECES

TINY = Work("fp32", batch=2, size=(64, 64), images=4)


def sane(found: list[Finding], names: int, unit: str = "x") -> None:
    assert len({one.name for one in found}) == len(found) == names
    for one in found:
        assert 0 < one.low <= one.value <= one.high < math.inf
        assert one.unit == unit
        assert one.limit > 0 < one.count


def test_a_ratio_is_the_median_of_neighbours_and_knows_how_sure_it_is() -> None:
    clock: Iterator[float] = iter([9.0, 9.0, *[1.0] * 10])
    times = {"ours": 2.0, "other": 1.0}
    logs = in_turns(lambda: times["ours"] * next(clock), lambda: times["other"], pairs=5)
    found = finding("x", [logs, logs], limit=1.0)
    assert found.count == 10
    assert found.value == pytest.approx(2.0)
    assert found.verdict == "missed"


def test_who_goes_first_is_drawn_for_each_pair() -> None:
    order: list[str] = []
    in_turns(lambda: order.append("ours") or 1.0, lambda: order.append("other") or 1.0, pairs=20)  # type: ignore[func-returns-value]
    pairs = list(zip(order[::2], order[1::2], strict=True))
    assert len(pairs) == 21
    assert set(pairs) == {("ours", "other"), ("other", "ours")}


def test_a_burst_gives_the_median_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 3.0, 103.0])
    monkeypatch.setattr("benchmarks.ratio.time.perf_counter", lambda: next(ticks))
    assert burst(lambda: None, calls=3)() == 2.0


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.8, 1.0, "met"), (0.9, 1.1, "open"), (1.01, 1.1, "missed"), (math.nan,) * 2 + ("missed",)],
)
def test_a_verdict_looks_at_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert Finding("x", 1.0, low, high, "x", 1.0, 5).verdict == verdict


def test_no_ratio_of_times_that_are_not_finite() -> None:
    with pytest.raises(InvalidMeasurement):
        finding("x", [np.array([0.0, np.nan])], limit=1.0)


def test_startup() -> None:
    sane(startup.findings(runs=2), names=2, unit="s")


@pytest.mark.parametrize("program", ["import torch; code = 0", "code = 3", "raise ValueError('broken')"])
def test_startup_refuses_a_program_that_fails_or_imports_torch(program: str) -> None:
    with pytest.raises(EdgesegError, match=r"torch was imported|exit code 3|broken"):
        startup.seconds("it", program)


def test_what_ssh_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgesegError, match="bench -d nowhere did not run as it should"):
        ssh_added.seconds("nowhere", tmp_path, "smoke")
    null_artifact(tmp_path / "null", Null(sleep=True))
    begun = time.perf_counter()
    assert 0 < ssh_added.seconds("local", tmp_path, "smoke") < time.perf_counter() - begun - 1  # that of the samples
    took: list[str] = []

    def seconds(device: str, folder: Path, protocol: str) -> float:
        took.append(device)
        assert (folder / "sshd" / "pid").exists() and (folder / "settings/edgeseg/devices.json").exists()
        return {"board": 11.5, "local": 11.0}[device]

    monkeypatch.setattr(ssh_added, "seconds", seconds)
    try:
        (found,) = ssh_added.findings("quick", pairs=3)
    except MissingTool as error:
        pytest.skip(str(error))
    assert found.value == pytest.approx(0.5)
    assert (found.unit, found.limit, found.verdict) == ("s", 2.0, "met")
    assert sorted(took) == ["board"] * 4 + ["local"] * 4


def test_measuring_overhead() -> None:
    protocol = Protocol("tiny", min_s=0.1, min_count=20, max_s=1, warmup_count=1, warmup_s=0)
    sane(measuring_overhead.findings(model_ns=1_000_000, protocol=protocol, pairs=2), names=4)


@pytest.mark.wide
def test_export_all() -> None:
    found = export_all.findings(["lraspp_mobilenet_v3_small"], (64, 96))
    assert [one.unit for one in found] == ["s", "GB"]
    assert all(one.value > 0 and one.low == one.value == one.high for one in found)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says the most that a process held")
def test_memory_is_looked_at_on_the_way() -> None:
    found = memory.measure(marks=(8, 16))
    assert set(found) == {"loader", "embed"}
    assert all(50 < first <= last for first, last in found.values())
    text = memory.document({"loader": [100.0, 104.0], "embed": [100.0, 106.0]}, (8, 1600), (96, 128))
    assert "| loader | 100 | 104 | 1.040 | flat |" in text
    assert "| embed | 100 | 106 | 1.060 | grows |" in text


def test_memory_that_grows_is_no_success(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for row, code in (([100.0, 106.0], 4), ([100.0, 104.0], 0)):
        monkeypatch.setattr(memory, "measure", lambda row=row: {"loader": row})
        assert memory.main([]) == code
        assert f"{row[1] / row[0]:.3f}" in capsys.readouterr().out


def test_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.train.loop.keep_freed_memory", lambda: None)  # it would hold for all tests after this
    sane(loader.findings(TINY, pairs=2), names=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_training_steps_compute_the_same(precision: Literal["fp32", "bf16"]) -> None:
    train_step.agree(Work(precision, batch=2, size=(64, 64), images=4))


def test_training_steps_that_differ_have_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "edgeseg_step", lambda work: lambda: math.nan)
    monkeypatch.setattr(train_step, "bare_step", lambda work: lambda: math.nan)
    with pytest.raises(ParityFailed, match="no speed to compare"):
        train_step.agree(TINY)


@pytest.mark.slow
@pytest.mark.parametrize("prompted", [(), pytest.param(("rwkv_sam_tiny",), marks=pytest.mark.wide)])
def test_train_step(prompted: tuple[str, ...]) -> None:
    works = tuple(Work("fp32", name, batch=2, size=(64, 64), images=4) for name in prompted)
    found = train_step.findings((TINY,), works, pairs=2, rounds=1)
    where = ["one process", "own processes"] + ["one process"] * len(prompted)
    sane(found, names=len(where))
    assert [one.name.rsplit(", ", 1)[1] for one in found] == where


@pytest.mark.wide
@pytest.mark.slow
def test_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work("fp32", "lraspp_mobilenet_v3_small", batch=4, size=(96, 96))
    sane(ddp.findings((work,), steps=1, pairs=2, rounds=1), names=1)
    monkeypatch.setattr(ddp, "math", SimpleNamespace(isclose=lambda *_, **__: False))
    with pytest.raises(ParityFailed, match="no speed to compare"):
        ddp.contest(work, steps=1, pairs=1)


@pytest.mark.wide
@pytest.mark.slow
def test_distill_step() -> None:
    plain = {name for name in PIECES if PIECES[name].kind == "semantic" and PIECES[name]().keys() == ((), ())}
    assert set(distill_step.LOSSES) == plain  # others look at more than logits, which takes its time
    sane(distill_step.findings(TINY, ("cwd",), pairs=2), names=1)


@pytest.mark.wide
@pytest.mark.slow
def test_embed_rate() -> None:
    sane(embed_rate.findings("lraspp_mobilenet_v3_small", (64, 64), images=4, pairs=2), names=1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.wide] * (name == "squeeze_sam")) for name in train_step.FAMILIES],
)
def test_every_family_learns_the_same_by_hand(name: str) -> None:
    side = 256 if name == "squeeze_sam" else 64
    train_step.agree(Work("fp32", name, batch=2, size=(side, side), images=4))


@pytest.mark.wide
@pytest.mark.slow
def test_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "PROMPTS", 3)
    monkeypatch.setattr(prompts, "PAIRS", 2)
    monkeypatch.setattr(prompts, "ROUNDS", 1)
    monkeypatch.setattr(prompts, "SIDE", 64)
    monkeypatch.setattr(prompts, "fresh", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(prompts, "STUDENTS", prompts.STUDENTS[:1])
    sane(prompts.findings(), names=2)


def test_prompts_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, least in (("PROMPTS", 3), ("PAIRS", 2), ("SIDE", 64)):
        monkeypatch.setattr(prompts, name, least)
    assert np.isfinite(prompts.in_torch(*prompts.STUDENTS[0])).all()


@pytest.mark.slow
def test_artifact_latency() -> None:
    found = artifact_latency.findings(["ddrnet23_slim"], size=(64, 64), threads=[1], rounds=1, pairs=2, calls=1)
    sane(found, names=2)


def test_harness_is_both_ways_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "contest", lambda name, pairs, folder: [0.01, 0.02, 0.02, 0.03][:pairs])
    found = harness.findings(["benchmark_app"], pairs=4)
    sane(found, names=2)
    assert [one.value for one in found] == pytest.approx([math.exp(0.02), math.exp(-0.02)])


def test_harness_refuses_another_precision_and_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    harness._check("x", "fp32", 1)
    for precision, threads in (("bf16", 1), ("fp32", 2), (None, 1), ("fp32", None)):
        with pytest.raises(InvalidMeasurement, match="asked: fp32 on 1"):
            harness._check("x", precision, threads)

    def absent(*_: object) -> list[float]:
        raise MissingTool("it is not there")

    monkeypatch.setattr(harness, "contest", absent)
    with pytest.raises(EdgesegError, match="none of benchmark_app is installed"):
        harness.findings(["benchmark_app"])


def test_only_one_of_two_programs_runs_at_a_time(tmp_path: Path) -> None:
    """Each notes the moments at which it runs; a moment of the one is never between two close ones of the other."""
    program = (
        "import time\nend = time.monotonic() + 2\n"
        "while time.monotonic() < end: print(time.monotonic(), flush=True); time.sleep(0.01)"
    )
    words = [sys.executable, "-c", program]
    (code, first), (other_code, second) = harness.taking_turns(words, words, tmp_path)
    assert (code, other_code) == (0, 0)
    ours, theirs = (np.array([float(line) for line in text.split()]) for text in (first, second))
    together = min(ours[-1], theirs[-1])
    stretches = [(a, b) for a, b in pairwise(ours) if b - a < harness.TURN_S / 2 and b < together]
    assert len(stretches) > 20 < len(theirs)
    assert not any(a < moment < b for a, b in stretches for moment in theirs)


@pytest.mark.wide
@pytest.mark.slow
def test_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SECONDS", 2)
    monkeypatch.setattr(harness, "SIZE", (64, 64))
    sane(harness.findings(["benchmark_app"], pairs=2), names=2)


def test_label_maps_that_differ_have_no_speed() -> None:
    labels = np.zeros((1, 8, 8), np.uint8)
    artifact_latency.agree("x", lambda: labels, lambda: labels)
    with pytest.raises(ParityFailed, match=r"0\.00% of the labels"):
        artifact_latency.agree("x", lambda: labels, lambda: labels + 1)


def fast(module: str) -> list[Finding]:
    if module.endswith("startup"):
        return [Finding("start", 0.2, 0.1, 0.3, "s", 0.5, 3)]
    raise ParityFailed("loader: it disagrees")


def at_once(function: object, module: str) -> list[Finding]:
    return fast(module)


def test_run_prints_keeps_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "fresh", at_once)
    assert run.main(["startup", "--out", str(tmp_path)]) == 0
    assert "start" in capsys.readouterr().out
    assert "| start | 0.200 s | 0.100 to 0.300 | 0.5 s | met |" in (tmp_path / "speed.md").read_text()
    report = schema.read(run.Report, tmp_path / "speed.json")
    assert [one.name for one in report.findings] == ["start"]

    assert run.main(["loader", "startup", "--json"]) == ParityFailed.exit_code
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert [one["name"] for one in document["findings"]] == ["start"]
    assert document["refused"] == ["loader: it disagrees"]
    assert "error: loader: it disagrees" in said.err


def test_run_misses_and_mistypes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "fresh", lambda *_: [Finding("slow", 2.0, 1.9, 2.1, "x", 1.0, 3)])
    assert run.main(["startup"]) == 4
    assert run.main(["start"]) == 1
    assert "did you mean startup" in capsys.readouterr().err
    assert run.NAMES["startup"] == startup.__name__


def test_every_benchmark_is_in_the_table_and_in_the_readme() -> None:
    folder = Path(run.__file__).parent
    helpers = {
        "__init__",
        "accuracy",
        "distillation",
        "emulated_board",
        "int8",
        "loopback",
        "matrix",
        "memory",
        "quantizers",
        "ratio",
        "run",
    }
    modules = {path.stem for path in folder.glob("*.py")} - helpers
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert set(run.NAMES) == modules
    assert all(f"| `{name}` |" in readme for name in modules)


def test_a_matrix_is_filled_by_several_processes_and_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "matrix.jsonl"
    cells = [
        matrix.Cell("ddrnet23_slim", "openvino", "fp32", "512x1024", True, ""),
        matrix.Cell("ddrnet23_slim", "coreml", "fp32", "360x480", False, "not yet"),
        matrix.Cell("ddrnet23", "coreml", "fp32", "360x480", True, "", relative_rms=1e-6),
    ]
    for cell in cells:
        matrix.keep(file, cell)
    done_anew = matrix.Cell("ddrnet23_slim", "coreml", "fp32", "360x480", True, "", relative_rms=2e-6)
    matrix.keep(file, done_anew)
    with file.open("a") as half:
        half.write('{"student": "ffnet')
    found = matrix.read(file)
    assert found == {cell.key: cell for cell in (cells[0], done_anew, cells[2])}
    ordered = matrix.in_order(list(found.values()))
    assert [(cell.student, cell.size) for cell in ordered] == [
        ("ddrnet23_slim", "360x480"), ("ddrnet23", "360x480"), ("ddrnet23_slim", "512x1024"),
    ]  # fmt: skip
    text = matrix.document(ordered)
    assert "3 of 3 exports passed" in text
    assert "| ddrnet23_slim | 360x480 | 2.0e-06 | not run |" in text


def test_a_gain_is_welch_s() -> None:
    difference, low, high = distillation.gain([50.0, 52.0, 51.0], [49.0, 48.0, 50.0])
    assert difference == pytest.approx(2.0)
    # both spreads are 1, so there are 4 degrees of freedom: t is 2.776
    assert (low, high) == pytest.approx((2.0 - 2.776 * (2 / 3) ** 0.5, 2.0 + 2.776 * (2 / 3) ** 0.5), abs=1e-3)
    assert distillation.gain([1.0, 1.0], [1.0, 1.0]) == (0.0, 0.0, 0.0)


def test_the_table_of_taught_students_says_how_it_was_made() -> None:
    asked = distillation.Bench("camvid:/somewhere/private", Path("work"), "240x320", 15)
    made = [
        distillation.Trained("ddrnet23", method, seed, 0.0, value + seed)
        for method, value in ((distillation.ALONE, 40.0), ("kd:weight=2", 43.0))
        for seed in range(3)
    ]
    text = distillation.document(asked, distillation.Trained("ddrnet39", "teacher", 0, 0.0, 50.0), made, 40)
    assert "| ddrnet23 | alone | 41.00 | 1.00 |  | 40.00, 41.00, 42.00 |" in text
    assert "| ddrnet23 | kd:weight=2 | 44.00 | 1.00 | +3.00 (" in text
    assert "--teacher shards --loss kd:weight=2" in text
    assert "private" not in text


def test_what_is_set_reaches_every_run_and_the_teacher_s_eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(distillation, "_edgeseg", lambda *words: ran.append(words))
    monkeypatch.setattr(distillation.Bench, "_scored", lambda *given: None)
    monkeypatch.setattr(distillation, "document", lambda asked, *given: str(asked.changes))
    words = (
        f"--data camvid:x --work {tmp_path} --out {tmp_path} --students a --losses kd --seeds 1 --epochs 500".split()
    )
    monkeypatch.setattr("sys.argv", ["distillation", *words, "--set", "split=trainval", "--set", "batch=16"])
    monkeypatch.setattr(
        distillation, "ThreadPoolExecutor", lambda jobs: nullcontext(SimpleNamespace(map=lambda *given: []))
    )
    assert distillation.main() == 0
    asked = distillation.Bench("camvid:x", tmp_path, "240x320", 500, ("split=trainval", "batch=16"))
    for loss in (distillation.ALONE, "kd"):
        asked.student("a", "b", loss, 0)
    assert {each[0] for each in ran} == {"train", "embed", "distill"}
    for each in ran:
        if each[0] == "embed":
            assert each[-2:] == ("--split", "trainval")
        else:
            assert "--set split=trainval --set batch=16 --set seed=0" in " ".join(each)
    assert (tmp_path / "distillation.md").read_text() == "('split=trainval', 'batch=16')"
