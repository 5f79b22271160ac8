"""The search: what it decides, what it tries, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.cli.quantize import _took
from edgeseg.data import Data
from edgeseg.drops import Drop
from edgeseg.errors import AccuracyGate, BudgetExceeded, EdgesegError, InvalidMeasurement, MissingTool
from edgeseg.export import OnnxRuntime, TensorRt
from edgeseg.export.apart import Job, Outcome, export_apart
from edgeseg.export.target import Target
from edgeseg.manifest import Source
from edgeseg.quantize import search as module
from edgeseg.quantize.aware import Aware, train_aware
from edgeseg.quantize.calibration import CalibrationSet
from edgeseg.quantize.document import Quantization
from edgeseg.quantize.findings import Search, Time, Trial
from edgeseg.quantize.scheme import Recipe
from edgeseg.quantize.search import Plan, decide, refusal, search
from edgeseg.quantize.sensitivity import blocks
from edgeseg.runs import read_card
from edgeseg.runtimes.compare import Comparison
from edgeseg.runtimes.devices import DEVICES
from edgeseg.runtimes.devices.remote import RemoteBench
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import Noise
from edgeseg.students import Semantic
from tests.quantize import networks
from tests.quantize.conftest import SIZE
from tests.runtimes.here import Here, here


def trial(number: int, precision: str, lost: float, ratio: float, decision: str = "faster", **others: Any) -> Trial:
    """One that was scored and timed; float takes 10 ms."""
    time = Time(10 * ratio, ratio, ratio - 0.01, ratio + 0.01, decision)
    drop = Drop(lost, lost - 0.1, lost + 0.1, 36)
    return Trial(number, precision, f"{precision}-{number}", drop=drop, time=time, miou=50 - lost, **others)


FLOAT = trial(0, "fp32", 0.0, 1.0, "equivalent")


@pytest.mark.parametrize(
    ("others", "budget", "number", "said"),
    [
        (
            [trial(1, "int8", 0.2, 0.4)],
            None,
            1,
            "int8 takes 0.400 of the time of float (0.390 to 0.410) and loses 0.20",
        ),
        (
            [trial(1, "int8", 0.2, 0.4), trial(2, "fp16", 0.0, 0.3, executed="bf16")],
            None,
            2,
            "fp16 run in bf16 takes 0.300",
        ),
        (
            [trial(1, "int8", 0.2, 1.01, "equivalent")],
            None,
            0,
            "int8 1.01 of its time, +0.20",
        ),
        ([trial(1, "int8", 0.2, 0.97, "inconclusive")], None, 0, "nothing that keeps the masks is faster beyond doubt"),
        # float is too slow for the budget: what meets it is taken, however sure it is to be faster than float
        ([trial(1, "int8", 0.1, 0.8, "inconclusive")], 9.0, 1, "int8 takes 0.800 of the time of float"),
        ([trial(1, "int8", 0.9, 0.4)], None, 0, "float is the answer"),
        (
            [trial(1, "int8", 0.9, 0.4), trial(2, "int8", 0.4, 0.6, keep=["stem"])],
            None,
            2,
            "int8 with 1 block in float",
        ),
        ([trial(1, "int8", 0.1, 0.4, failed="masks differ")], None, 0, "float is the answer"),
        ([trial(1, "int8", 0.1, 0.4)], 5.0, 1, "int8 takes"),
        (
            [trial(1, "int8", 0.1, 0.4)],
            3.0,
            None,
            "meets 3 ms: the fastest of these, int8, takes 4.00 ms; the fastest of all",
        ),
        (
            [trial(1, "int8", 2.0, 0.4)],
            5.0,
            None,
            "fp32, takes 10.00 ms; the fastest of all, int8, 4.00 ms and loses 2.00 points",
        ),
    ],
)
def test_the_fastest_that_keeps_the_masks_is_chosen(
    others: list[Trial], budget: float | None, number: int | None, said: str
) -> None:
    chosen, words = decide([FLOAT, *others], 0.5, budget)
    assert chosen == number, words
    assert said in words, words


def found(chosen: int | None, words: str) -> Search:
    """A search that says so."""
    return Search(1, "search", "now", "onnxruntime", "every", None, "x", "y", 1, 0.5, None, [FLOAT], [], chosen, words)


def test_nothing_good_enough_is_an_exit_code() -> None:
    assert refusal(found(0, "float is the answer")) is None
    words = decide([replace(FLOAT, drop=Drop(0.6, 0.5, 0.7, 36))], 0.5, None)[1]
    assert words == "nothing keeps the loss within 0.50 points of mIoU; the nearest, fp32, loses 0.60"
    assert isinstance(refusal(found(None, words)), AccuracyGate)
    assert isinstance(refusal(found(None, decide([FLOAT], 0.5, 5.0)[1])), BudgetExceeded)


@pytest.mark.parametrize(
    ("verdict", "low", "high", "noise", "decision"),
    [
        ("faster", 0.5, 0.6, 0.0, "faster"),
        ("inconclusive", 0.3, 0.36, 0.2, "faster"),  # the machine differs from itself by a fifth, and this is a third
        ("inconclusive", 0.8, 0.95, 0.2, "inconclusive"),
        ("inconclusive", 1.5, 1.7, 0.2, "slower"),
        ("equivalent", 0.99, 1.01, 0.0, "equivalent"),
    ],
)
def test_a_gap_larger_than_the_noise_is_decided(
    verdict: Any, low: float, high: float, noise: float, decision: str
) -> None:
    assert module._decision(Comparison(verdict, 0.5, low, high, Noise(0.0, -noise, noise), [])) == decision


def test_blocks_are_as_deep_as_a_person_can_read() -> None:
    layers = [f"stage{i}.{j}.conv{k}" for i in range(3) for j in range(4) for k in range(2)]
    assert list(blocks(layers, 3)) == ["stage0", "stage1", "stage2"]
    assert list(blocks(layers, 12))[:2] == ["stage0.0", "stage0.1"]
    assert blocks(layers, 24) == {layer: [layer] for layer in layers}
    assert blocks(["a", "a.b"], 24) == {"a": ["a"], "a.b": ["a.b"]}


@pytest.fixture
def plan(taught: Semantic, taught_run: Path, tiny_data: Data, chosen: CalibrationSet, tmp_path: Path) -> Plan:
    """A search for ONNX Runtime that allows no loss at all, so that it has to look for blocks."""
    return Plan(
        folder=taught_run,
        source=Source(str(taught_run), read_card(taught_run).sha256),
        student=taught,
        target=OnnxRuntime(precision="int8"),
        size=SIZE,
        bake=["pre", "labels"],
        chosen=chosen,
        data=tiny_data,
        split=tiny_data.select,
        out=tmp_path / "onnxruntime-int8",
        max_drop=-100.0,
        trials=5,
        time_blocks=1,
        trust=[networks.__name__],
    )


def test_a_search_tries_writes_down_and_goes_on(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    # how fast anything is here is not what this is about
    quick = Comparison("faster", 0.5, 0.49, 0.51, None, [])
    monkeypatch.setattr(module, "compare_paired", lambda *_, **__: quick)
    monkeypatch.setattr(module, "_median_ms", lambda *_: 1.0)
    said: list[str] = []
    made: list[str] = []

    def counted(job: Job, target: Target) -> Outcome:
        made.append(target.precision)
        return export_apart(job, target)

    monkeypatch.setattr(module, "export_apart", counted)
    first = search(plan, said.append)
    assert made == ["fp32", "fp16", "int8", "int8", "int8"]  # one of which was made for its time alone
    assert [(one.precision, len(one.keep)) for one in first.trials] == [
        ("fp32", 0),
        ("fp16", 0),
        ("int8", 0),
        ("int8", 1),
    ]
    assert first.chosen is None
    assert first.seconds is not None and first.seconds > 0
    assert not plan.out.exists()
    assert first.trials[0].drop is not None
    assert abs(first.trials[0].drop.points) < 0.01
    assert first.trials[2].megabytes is not None
    assert first.trials[0].megabytes is not None
    assert first.trials[2].megabytes < 0.6 * first.trials[0].megabytes
    assert first.trials[3].keep == [first.sensitivity[0].block]
    assert [row.price is not None for row in first.sensitivity[:2]] == [True, False]
    assert first.sensitivity[0].price == Time(1.0, 0.5, 0.49, 0.51, "faster")
    assert (plan.out.parent / "onnxruntime-int8-pictures" / str(first.sensitivity[0].picture)).exists()
    stored = json.loads((plan.out.parent / "onnxruntime-int8-search.json").read_text())
    assert schema.parse(Search, stored, "here") == first

    def never(*_: Any) -> Any:
        raise AssertionError("exported again")

    monkeypatch.setattr(module, "export_apart", never)
    again = search(replace(plan, max_drop=100.0), said.append)
    assert again.trials == first.trials[:3]
    assert again.seconds is not None and again.seconds > first.seconds
    assert again.chosen is not None
    assert (plan.out / "manifest.json").exists()


@pytest.mark.parametrize(("trials", "time_blocks", "least"), [(1, 0, 3), (2, 0, 3), (3, 1, 4), (6, 4, 7)])
def test_too_few_trials_are_refused_before_anything_is_made(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, trials: int, time_blocks: int, least: int
) -> None:
    monkeypatch.setattr(module, "export_apart", None)
    with pytest.raises(EdgesegError, match=f": {least} artifacts at least, and {trials} are allowed; allow more with"):
        search(replace(plan, trials=trials, time_blocks=time_blocks), print)


def test_a_search_of_something_else_has_folders_of_its_own(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a journal would serve the artifact of one command to another."""
    folders: list[Path] = []

    def exported(run: Any, folder: Path, target: Target, document: Any) -> Outcome:
        folders.append(folder)
        return Outcome(target, plan.size, None, EdgesegError("nothing is made here"))

    monkeypatch.setattr(module._Run, "_exported", exported)
    for bake in (["pre", "labels"], ["pre"], ["pre", "labels"]):
        module._Run(replace(plan, bake=bake), print).trial(replace(plan.target, precision="fp32"), None)
    assert folders[0] == folders[2] != folders[1]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (Died("board: no such operator", "unsupported_operator"), None),
        (InvalidMeasurement("int8-2: wrong masks: 12.00% of the labels"), None),
        (Died("board went away", "lost"), InvalidMeasurement),
        (Died("board is in use by somebody", "busy"), InvalidMeasurement),
        (MissingTool("board cannot be reached"), MissingTool),
    ],
)
def test_what_fails_on_a_device_fails_and_a_device_that_fails_ends_the_search(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, error: EdgesegError, ends: type[EdgesegError] | None
) -> None:
    def fail(*_: Any) -> float:
        raise error

    monkeypatch.setattr(module, "_median_ms", fail)
    run = module._Run(replace(plan, device="board"), print)
    made = Trial(2, "int8", "int8-2")
    if ends is None:
        assert run._timed(made, None) == (replace(made, failed=str(error)), True)
        return
    with pytest.raises(ends, match="0 timed trials and the one under way are kept, the same command goes on"):
        run._timed(made, None)


@pytest.mark.parametrize(
    "outcome",
    ["killed", *(pytest.param(one, marks=pytest.mark.wide) for one in ("out_of_memory", "hang", "crashed"))],
)
def test_what_need_not_fail_again_is_tried_again(plan: Plan, monkeypatch: pytest.MonkeyPatch, outcome: str) -> None:
    """A process that was killed for memory is a failed trial, and none that the next search is served."""
    fails = [True, False]

    def median(*_: Any) -> float:
        if fails.pop(0):
            raise Died("the measuring process came to nothing", outcome)
        return 1.0

    monkeypatch.setattr(module, "_median_ms", median)
    target = replace(plan.target, precision="fp32")
    first = module._Run(plan, print).trial(target, None)
    assert first.failed == "the measuring process came to nothing"
    again = module._Run(plan, print).trial(target, None)
    assert again.failed is None
    assert again.time is not None


def test_the_time_of_all_sessions_is_kept(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    first = module._Run(plan, print)
    now[0] += 30
    first._say("a step")
    now[0] += 500  # killed in the middle of the next one
    second = module._Run(plan, print)
    now[0] += 12
    assert second.clock() == 42
    assert module._Run(replace(plan, size=(32, 32)), print).clock() == 0  # another search in the same folder

    def ended(_: Any) -> Search:
        now[0] += 8
        raise InvalidMeasurement("the device went away")

    monkeypatch.setattr(module, "_searched", ended)
    with pytest.raises(InvalidMeasurement):
        search(plan, print)
    assert module._Run(plan, print).clock() == 50


def test_a_search_from_before_there_was_a_clock_is_read() -> None:
    old = schema.dump(found(0, "float is the answer"))
    del old["seconds"]
    read = schema.parse(Search, old, "here")
    assert read.seconds is None and _took(read) == []
    assert _took(replace(read, seconds=750.0)) == [
        "onnxruntime: the search took 12.5 minutes, all its sessions together"
    ]


def test_every_number_of_blocks_may_be_the_answer(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in range(2, 14):
        order = [f"block{index}" for index in range(count)]
        for enough in range(1, count):
            tried: list[int] = []

            class Run:
                plan: Any = None

                def left(self) -> bool:
                    return True

                def keeping(self, document: Any, kept: list[str]) -> int:
                    return len(kept)

                def trial(self, target: Any, kept: int, tried: list[int] = tried) -> int:
                    tried.append(kept)
                    return kept

            run: Any = Run()
            run.plan = plan
            monkeypatch.setattr(module, "_keeps", lambda kept, plan, enough=enough: kept >= enough)
            document: Any = None
            module._with_blocks_in_float(run, document, order)
            assert min(kept for kept in tried if kept >= enough) == enough, (count, tried)
            assert len(tried) <= 2 * count.bit_length()


def test_a_journal_serves_no_other_student(plan: Plan) -> None:
    unknown = replace(plan, source=Source(None, None))  # of students by name, whose weights are made anew
    first, second = module._Run(unknown, print), module._Run(unknown, print)
    assert read_card(plan.folder).sha256 in first._what()
    second._weights = "0" * 64
    assert first._what() != second._what()


def test_what_was_measured_stays_when_a_search_is_repeated(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial_folder = tmp_path / "trial"
    null_artifact(trial_folder, Null())
    null_artifact(plan.out, Null())
    (plan.out / "records").mkdir()
    (plan.out / "records" / "local.json").write_text("{}")
    (plan.out / "eval-test.json").write_text("{}")
    module._put(trial_folder, plan.out)
    assert (plan.out / "records" / "local.json").exists()
    assert (plan.out / "eval-test.json").exists()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    with pytest.raises(EdgesegError, match="holds something that is no artifact"):
        search(replace(plan, out=theirs), print)
    assert (theirs / "thesis.txt").exists()


def test_a_device_that_goes_away_in_the_middle_leaves_what_was_found(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICES._entries, "here", lambda address, entry: here(tmp_path))
    monkeypatch.setattr(module, "PAIRS", 2)  # how fast anything is here is not what this is about
    monkeypatch.setattr(module, "BURST_S", 0.01)
    monkeypatch.setattr(module, "MEDIAN_S", 0.01)
    monkeypatch.setattr("edgeseg.runtimes.compare.PROCESSES", 1)
    exported: list[str] = []
    bursts: list[float] = []
    burst = RemoteBench.burst

    def made(
        self: Any, key: str, number: int, target: Target, document: Any, keep: list[str], ranges: str | None
    ) -> Trial:
        exported.append(target.precision)
        null_artifact(self.plan.aside / target.precision, Null(sleep=True))
        return Trial(number, target.precision, target.precision, keep, ranges, miou=50, drop=Drop(0, -0.1, 0.1, 8))

    def cut(self: RemoteBench, seconds: float, count: int) -> dict[str, Any]:
        bursts.append(seconds)
        if len(bursts) == 6:  # two are the float artifact's, the next of the second trial
            os.kill(self._channel.hello["pid"], signal.SIGKILL)
        return burst(self, seconds, count)

    document = Quantization(1, "quantization", "onnxruntime", "int8", Recipe(), {}, {}, [], [])
    monkeypatch.setattr(module._Run, "_made", made)
    monkeypatch.setattr(module._Run, "calibrated", lambda _: document)
    monkeypatch.setattr(RemoteBench, "burst", cut)
    plan = replace(plan, device="here://", max_drop=100.0)
    with pytest.raises(
        InvalidMeasurement, match="here went away; 1 timed trial and the one under way are kept, the same"
    ):
        search(plan, print)
    assert exported == ["fp32", "fp16"] and not plan.out.exists()
    found = search(plan, print)
    assert exported == ["fp32", "fp16", "int8"]  # nothing twice
    assert found.device == "here://" and all(one.time is not None for one in found.trials)
    assert found.chosen is not None and (plan.out / "manifest.json").exists()


def test_a_device_that_cannot_time_the_target_is_refused_at_once(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICES._entries, "here", lambda address, entry: here(tmp_path))
    with pytest.raises(EdgesegError, match="the agent on here:// does not run tensorrt"):
        search(replace(plan, target=TensorRt(precision="w8a32"), device="here://"), print)
    monkeypatch.setattr(Here, "provenance", "simulated")
    with pytest.raises(EdgesegError, match="here:// tells no time"):
        search(replace(plan, device="here://"), print)


def untimed(number: int, precision: str, lost: float, **others: Any) -> Trial:
    return replace(trial(number, precision, lost, 1.0, **others), time=None)


@pytest.mark.parametrize(
    ("others", "number", "said"),
    [
        ([untimed(1, "fp16", 0.0), untimed(2, "int8", 0.2)], 2, "int8 keeps the masks and loses 0.20 points"),
        (
            [
                untimed(1, "fp16", 0.0),
                untimed(2, "int8", 3.0),
                untimed(3, "int8", 0.3, keep=["a", "b"]),
                untimed(4, "int8", 0.1, keep=list("abc")),
            ],
            3,
            "int8 with 2 blocks in float keeps the masks",
        ),
        (
            [untimed(1, "fp16", 0.1), untimed(2, "int8", 3.0)],
            1,
            "whole numbers lose too much, even with blocks in float; fp16",
        ),
        ([untimed(1, "fp16", 0.1, failed="x"), untimed(2, "int8", 0.1, failed="x")], 0, "fp32 keeps the masks"),
    ],
)
def test_without_a_clock_whole_numbers_are_taken_where_they_keep_the_masks(
    others: list[Trial], number: int, said: str
) -> None:
    chosen, words = decide([replace(FLOAT, time=None), *others], 0.5, None)
    assert chosen == number
    assert said in words
    assert words.endswith("whether it is faster has to be measured on the device")


def test_a_target_that_is_not_here_is_searched_without_a_clock(plan: Plan) -> None:
    plan = replace(plan, target=TensorRt(precision="w8a32"), out=plan.out.parent / "tensorrt", max_drop=100.0)
    with pytest.raises(MissingTool, match="tensorrt does not run here, so nothing can be held to 5 ms"):
        search(replace(plan, budget_ms=5.0), print)
    found = search(plan, print)
    assert [one.time for one in found.trials] == [None] * 3
    assert found.chosen == 2
    assert Artifact.open(plan.out).manifest.precision.asked == "w8a32"


def test_a_search_does_not_choose_by_what_is_reported(plan: Plan) -> None:
    with pytest.raises(EdgesegError, match="would choose by what results are reported on"):
        search(replace(plan, split=plan.data.test), print)


def test_training_with_the_rounding_gives_the_same_student_back(
    taught: Semantic, chosen: CalibrationSet, tiny_data: Data, network: Any, others: list[torch.Tensor]
) -> None:
    target = OnnxRuntime(precision="int8")
    image = network.normalised(others[0])
    still = train_aware(taught, target, chosen, Recipe(), tiny_data, SIZE, Aware(epochs=0))
    trained = train_aware(taught, target, chosen, Recipe(), tiny_data, SIZE, Aware(epochs=1, lr=1e-4))
    with torch.inference_mode():
        before = taught(image)
        assert torch.allclose(still(image), before, atol=1e-4 * float(before.abs().max()))
        assert not torch.allclose(trained(image), before, atol=1e-4 * float(before.abs().max()))
    with pytest.raises(EdgesegError, match="the loss is nan at step"):
        train_aware(taught, target, chosen, Recipe(), tiny_data, SIZE, Aware(epochs=1, lr=float("inf")))
