"""Verdicts: every reason once, on folders made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.cli import main
from edgeseg.drops import paired_drop
from edgeseg.ledger import Ledger
from edgeseg.manifest import Calibration, Manifest, Precision, Source
from edgeseg.metrics import pack_confusions
from edgeseg.results import Results, StoredRun, collect
from edgeseg.runs import RunCard
from edgeseg.runtimes.compare import Comparison
from edgeseg.runtimes.protocol import parse
from edgeseg.runtimes.statistics import EQUIVALENT, of_pairs, percentile_upper
from edgeseg.schema import dump
from edgeseg.verdict import APART, Verdict, _Against, block_medians, counting, exit_code, judge
from tests.report.stored import DATA, GOOD_HOP, Store, confusions, durations, worse


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def good(store: Store) -> tuple[RunCard, Manifest]:
    """A run and one artifact that ships."""
    run = store.run()
    store.evaluation("runs/cam", run)
    artifact = store.artifact(run)
    store.evaluation("out/onnx", artifact, worse(store.base, 0.0005))
    store.record("out/onnx", artifact)
    return run, artifact


def only(store: Store, max_drop: float = 0.5, max_p90_ms: float | None = None) -> Verdict:
    """The one verdict of the folder."""
    (verdict,) = judge(collect(store.folder), max_drop=max_drop, max_p90_ms=max_p90_ms)
    return verdict


def test_a_good_artifact_ships(store: Store) -> None:
    good(store)
    verdict = only(store, max_p90_ms=40.0)
    assert verdict.ship and not verdict.reasons and not verdict.notes
    assert exit_code([verdict]) == 0
    assert (verdict.student, verdict.target, verdict.device, verdict.threads) == (
        "ddrnet23_slim",
        "onnxruntime",
        "local",
        2,
    )
    assert verdict.drop and 0 < verdict.drop.points < 0.5 and verdict.drop.images == 40
    assert verdict.same_label == GOOD_HOP.same_label and verdict.worst_class == "Pole"
    assert verdict.accuracy_on == f"{DATA} [test]"
    assert dump(verdict)["ship"] is True


def no_ledger(store: Store) -> None:
    run, _artifact = good(store)
    store.artifact(run, ledger=None)


def empty_ledger(store: Store) -> None:
    run, _ = good(store)
    store.artifact(run, ledger=Ledger(DATA, []))


def failed_hop(store: Store) -> None:
    run, _ = good(store)
    hop = replace(GOOD_HOP, same_label=0.9, passed=False, reasons=["same label 90 % is below 99 %"])
    store.artifact(run, ledger=Ledger(DATA, [GOOD_HOP, hop]))


def nonfinite_hop(store: Store) -> None:
    run, _ = good(store)
    store.artifact(run, ledger=Ledger(DATA, [replace(GOOD_HOP, nonfinite=3)]))


def changed_file(store: Store) -> None:
    good(store)
    (store.folder / "out/onnx/model.bin").write_bytes(b"another model")


def never_evaluated(store: Store) -> None:
    good(store)
    (store.folder / "out/onnx/eval-test.json").unlink()


def run_never_evaluated(store: Store) -> None:
    good(store)
    (store.folder / "runs/cam/eval-test.json").unlink()


def run_on_another_split(store: Store) -> None:
    run, _ = good(store)
    (store.folder / "runs/cam/eval-test.json").unlink()
    store.evaluation("runs/cam", run, split="held")


def only_claimed(store: Store) -> None:
    _, artifact = good(store)
    store.evaluation("out/onnx", artifact, provenance="claimed")


def other_images(store: Store) -> None:
    _, artifact = good(store)
    store.evaluation("out/onnx", artifact, confusions(30))


def other_classes(store: Store) -> None:
    _, artifact = good(store)
    store.evaluation("out/onnx", artifact, class_names=[f"class {i}" for i in range(11)])


def nothing_labelled(store: Store) -> None:
    run, artifact = good(store)
    for folder, subject in (("runs/cam", run), ("out/onnx", artifact)):
        store.evaluation(folder, subject, np.zeros((4, 11, 11), np.int64))


def clear_drop(store: Store) -> None:
    _, artifact = good(store)
    store.evaluation("out/onnx", artifact, worse(store.base, 0.05))


def unsure_drop(store: Store) -> None:
    _, artifact = good(store)
    store.evaluation("out/onnx", artifact, worse(store.base, 0.2, images=2))


def slow(store: Store) -> None:
    _, artifact = good(store)
    store.record("out/onnx", artifact, 45.0)


def no_bound(store: Store) -> None:
    _, artifact = good(store)
    record = store.record("out/onnx", artifact)
    store.record("out/onnx", artifact, latency=replace(record.latency, p90_upper_ms=None))


def never_measured(store: Store) -> None:
    good(store)
    next((store.folder / "out/onnx").glob("bench-*.json")).unlink()


def simulated(store: Store) -> None:
    _, artifact = good(store)
    store.record("out/onnx", artifact, provenance="simulated")


def only_tried(store: Store) -> None:
    _, artifact = good(store)
    store.record("out/onnx", artifact, protocol=parse("smoke"))


def throttled(store: Store) -> None:
    _, artifact = good(store)
    store.record("out/onnx", artifact, valid=False, reasons=["throttled: 31 fps at the end, 45 at the start"])


def no_samples(store: Store) -> None:
    _, artifact = good(store)
    record = store.record("out/onnx", artifact)
    store.record("out/onnx", artifact, samples=type(record.samples).pack(*(np.zeros(0, np.int64),) * 2))


def other_precision(store: Store) -> None:
    _, artifact = good(store)
    store.record("out/onnx", artifact, executed="bf16")


BREAKAGES: list[tuple[Callable[[Store], None], str, int, str]] = [
    (no_ledger, "parity", 2, "were never compared with the run's; run `edgeseg verify"),
    (empty_ledger, "parity", 2, "were never compared"),
    (
        failed_hop,
        "parity",
        2,
        "the masks change from torch -> artifact (fp32, 6 images): same label 90 % is below 99 %",
    ),
    (nonfinite_hop, "parity", 2, "3 NaN or infinite values"),
    (changed_file, "parity", 2, "model.bin has changed since the export"),
    (never_evaluated, "accuracy", 3, "its accuracy was never measured; run `edgeseg eval"),
    (
        run_never_evaluated,
        "accuracy",
        3,
        f"the float run was not evaluated on {DATA} [test]; run `edgeseg eval runs/cam",
    ),
    (run_on_another_split, "accuracy", 3, "the float run was not evaluated on"),
    (only_claimed, "accuracy", 3, "its accuracy was never measured"),
    (other_images, "accuracy", 3, "evaluated on 40 and 30 images"),
    (other_classes, "accuracy", 3, "different classes"),
    (nothing_labelled, "accuracy", 3, "no labelled pixel"),
    (clear_drop, "accuracy", 3, "more than the allowed 0.50"),
    (unsure_drop, "accuracy", 3, "more than the allowed 0.50; more images could change this"),
    (other_precision, "accuracy", 3, "ran in bf16, but masks and accuracy were measured in fp32"),
    (slow, "budget", 4, "(99 % bound, 512 samples), above the budget of 40.0 ms"),
    (no_bound, "measurement", 6, "512 samples are too few to bound p90 against 40.0 ms"),
    (never_measured, "measurement", 6, "its speed was never measured; run `edgeseg bench"),
    (simulated, "measurement", 6, "the figures of local are simulated, not measured"),
    (only_tried, "measurement", 6, "smoke only shows that it runs, its figures are none to quote"),
    (throttled, "measurement", 6, "not valid: throttled: 31 fps at the end"),
    (no_samples, "measurement", 6, "its figures are not numbers"),
]


@pytest.mark.parametrize(
    ("spoil", "code", "number", "text"), BREAKAGES, ids=[spoil.__name__ for spoil, *_ in BREAKAGES]
)
def test_one_flaw_is_one_reason(
    store: Store, spoil: Callable[[Store], None], code: str, number: int, text: str
) -> None:
    spoil(store)
    verdict = only(store, max_p90_ms=40.0)
    assert not verdict.ship
    assert [reason.code for reason in verdict.reasons] == [code]
    assert text in verdict.reasons[0].text
    assert exit_code([verdict]) == number


def test_the_lowest_code_counts_and_nothing_judged_is_an_error(store: Store) -> None:
    run, artifact = good(store)
    store.record("out/onnx", artifact, 45.0)
    store.artifact(run, ledger=None)
    verdict = only(store, max_p90_ms=40.0)
    assert [reason.code for reason in verdict.reasons] == ["parity", "budget"]
    assert exit_code([verdict]) == 2
    assert exit_code([]) == 1


def test_without_a_budget_there_is_no_latency_gate(store: Store) -> None:
    slow(store)
    assert only(store).ship
    assert not only(store, max_p90_ms=40.0).ship


def test_the_gate_takes_the_estimate_and_says_when_the_interval_crosses_it(store: Store) -> None:
    _, artifact = good(store)
    store.evaluation("out/onnx", artifact, worse(store.base, 0.08, images=3))
    drop = only(store).drop
    assert drop and drop.low < drop.points < drop.high
    passed = only(store, max_drop=(drop.points + drop.high) / 2)
    assert passed.ship and f"could be as large as {drop.high:.2f}" in passed.notes[0]
    failed = only(store, max_drop=(drop.points + drop.low) / 2)
    assert "more images could change this" in failed.reasons[0].text
    assert not only(store, max_drop=drop.high + 0.01).notes


def test_what_more_images_could_change_is_not_decided(store: Store) -> None:
    _, artifact = good(store)
    store.evaluation("out/onnx", artifact, worse(store.base, 0.08, images=3))
    drop = only(store).drop
    assert drop
    near, far = only(store, max_drop=(drop.points + drop.low) / 2), only(store, max_drop=drop.low - 0.01)
    assert not near.ship and not near.decided and not near.reasons[0].sure
    assert not far.ship and far.decided and "more images" not in far.reasons[0].text
    assert only(store, max_drop=drop.high).decided


def test_what_was_calibrated_on_doubtful_images_does_not_ship(store: Store) -> None:
    run, _ = good(store)
    card = Calibration("folder:x[train]", ["a"], "0", 1, overlaps_test=False, doubts=["the calibration images are BGR"])
    store.artifact(run, calibration=card)
    verdict = only(store)
    assert not verdict.ship and verdict.decided
    assert [(reason.code, reason.text) for reason in verdict.reasons] == [("accuracy", card.doubts[0])]


def test_one_sure_reason_decides(store: Store) -> None:
    run, artifact = good(store)
    store.record("out/onnx", artifact, 45.0)
    store.artifact(run, ledger=None)
    assert only(store, max_p90_ms=47.5).decided  # the masks were never compared: no measurement changes that


def test_a_budget_within_the_noise_is_not_decided_and_ten_repeats_never_contradict(tmp_path: Path) -> None:
    answers, typical = set(), float(np.quantile(durations(40, 10**6), 0.9))
    for seed in range(10):
        store = Store(tmp_path / str(seed))
        _, artifact = good(store)
        level = 40 * (1 + np.random.default_rng(seed).normal(0, 0.01))  # processes differ by a constant
        record = store.record("out/onnx", artifact, level)
        ns = record.samples.unpack()[1]
        bound = percentile_upper(ns, 0.9)
        assert bound is not None
        store.record("out/onnx", artifact, level, latency=replace(record.latency, p90_upper_ms=bound / 1e6))
        for limit in (0.97, 1.03):
            verdict = only(store, max_p90_ms=typical * limit)
            answers.add((limit, "ship" if verdict.ship else "stay" if verdict.decided else "open"))
    assert (0.97, "ship") not in answers and (1.03, "stay") not in answers
    assert (0.97, "stay") in answers and (1.03, "ship") in answers


def test_the_losses_that_a_mean_hides_are_said(store: Store) -> None:
    run, artifact = good(store)
    before = store.evaluation("runs/cam", run)
    store.evaluation("runs/cam", run, score=replace(before.score, small=41.0))
    after = store.evaluation("out/onnx", artifact, worse(store.base, 0.0005))
    store.evaluation(
        "out/onnx", artifact, worse(store.base, 0.0005), score=replace(after.score, small=38.5, boundary_f=71.0)
    )
    verdict = only(store)
    assert verdict.small_loss == pytest.approx(2.5)
    assert verdict.losses.endswith("(the worst class), boundary F -0.30, small regions -2.50")


@pytest.mark.parametrize("figure", ["same_label", "boundary_f", "worst_class_iou", "relative_rms", "max_error"])
def test_a_hop_with_nan_never_passes(store: Store, figure: str) -> None:
    _run, _ = good(store)
    results = collect(store.folder)
    changes: dict[str, Any] = {figure: math.nan}
    hop = replace(GOOD_HOP, **changes)
    (artifact,) = results.artifacts
    results.artifacts[0] = replace(artifact, manifest=replace(artifact.manifest, ledger=Ledger(DATA, [hop])))
    (verdict,) = judge(results)
    assert [reason.code for reason in verdict.reasons] == ["parity"]


def test_nan_limits_and_figures_never_pass(store: Store) -> None:
    good(store)
    results = collect(store.folder)
    assert [reason.code for reason in judge(results, max_drop=math.nan)[0].reasons] == ["accuracy"]
    assert [reason.code for reason in judge(results, max_p90_ms=math.nan)[0].reasons] == ["budget"]
    (record,) = results.records
    results.records[0] = replace(record, latency=replace(record.latency, p90_upper_ms=math.nan))
    (verdict,) = judge(results, max_p90_ms=40.0)
    assert [reason.code for reason in verdict.reasons] == ["budget"] and verdict.p90_upper_ms is None


def test_paired_bootstrap_of_a_known_case(store: Store) -> None:
    """Two classes, equal images: the artifact loses 10 of 100 right pixels on half of them."""
    run, artifact = good(store)
    before = np.tile(np.array([[100, 0], [0, 100]], np.int64), (100, 1, 1))
    after = before.copy()
    after[:50] = [[90, 10], [10, 90]]
    names = ["a", "b"]
    ours = replace(store.evaluation("runs/cam", run), class_names=names, confusions=pack_confusions(before))
    theirs = replace(store.evaluation("out/onnx", artifact), class_names=names, confusions=pack_confusions(after))
    drop = paired_drop(ours, theirs)
    assert drop.points == pytest.approx(100 - 100 * 95 / 105)
    share = np.array([0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05])  # binomial: 100 draws of a bad image with chance 1/2
    low, high = 100 - 100 * (100 - 10 * share) / (100 + 10 * share)
    assert drop.low == pytest.approx(low, rel=0.05) and drop.high == pytest.approx(high, rel=0.05)
    assert paired_drop(ours, theirs) == drop, "the seed is fixed"
    same = paired_drop(ours, ours)
    assert (same.points, same.low, same.high) == (0.0, 0.0, 0.0)


def test_one_row_per_device_and_threads_and_the_newest_valid_record_counts(store: Store) -> None:
    _, artifact = good(store)
    store.record("out/onnx", artifact, 30.0, threads=1)
    store.record("out/onnx", artifact, 21.0, created="2026-11-20T12:00:00+00:00")
    store.record("out/onnx", artifact, 10.0, created="2026-11-20T13:00:00+00:00", valid=False, reasons=["noisy"])
    one, two = sorted(judge(collect(store.folder)), key=lambda verdict: verdict.threads or 0)
    assert (one.threads, two.threads) == (1, 2) and one.ship and two.ship
    assert two.p50_ms == pytest.approx(21.0, rel=0.05)
    assert two.notes[0] == "3 measurements of this row are in the folder; the newest valid one counts"
    assert counting([]) == []


@pytest.mark.parametrize("text", ["camera:30", "cold-start"])
def test_other_questions_than_what_a_frame_takes_enter_no_verdict(store: Store, text: str) -> None:
    _, artifact = good(store)
    before = only(store, max_p90_ms=40.0)
    later = "2026-11-21T10:00:00+00:00"
    store.record("out/onnx", artifact, 500.0, created=later, protocol=parse(text))
    assert only(store, max_p90_ms=40.0) == before
    store.record("out/onnx", artifact, 500.0, created=later, protocol=parse("sustained:10m"))
    assert not only(store, max_p90_ms=40.0).ship


def test_another_executed_precision_is_a_note_when_accuracy_was_measured_in_it(store: Store) -> None:
    run, artifact = good(store)
    store.artifact(run, precision=Precision("fp32", "bf16"))
    store.record("out/onnx", artifact, executed="bf16")
    assert "ran in bf16, not in fp32 as asked" in only(store).notes[0] and only(store).ship
    store.record("out/onnx", artifact, executed=None)
    assert "does not say in which precision it ran" in only(store).notes[0] and only(store).ship
    store.artifact(run)
    store.record("out/onnx", artifact, executed="f32")
    assert only(store).notes == []


def test_comparison_is_a_ratio_with_a_caveat(store: Store) -> None:
    run, _ = good(store)
    store.record("runs/cam", run, 44.0)
    other = store.artifact(run, "out/vino", "openvino")
    store.record("out/vino", other, 11.0)
    first = judge(collect(store.folder))[0]
    assert "0.50 times as long as torch fp32 (other work: nothing baked in there)" in first.notes[0]
    assert "2.00 times as long as openvino fp32;" in first.notes[0]
    assert "`edgeseg compare` says whether a difference is real" in first.notes[0]


def test_block_medians_do_not_follow_spikes(store: Store) -> None:
    _, artifact = good(store)
    record = store.record("out/onnx", artifact)
    medians = block_medians(record)
    assert len(medians) > 30 and np.ptp(medians) < 2.0 < np.ptp(record.samples.unpack()[1] / 1e6)


def test_links_are_by_hash_not_by_place(store: Store) -> None:
    _, _artifact = good(store)
    moved = store.folder / "elsewhere"
    moved.mkdir()
    for path in (store.folder / "out/onnx").glob("[be]*.json"):
        path.rename(moved / path.name)
    assert only(store).ship


def problems(results: Results) -> str:
    return "\n".join(results.problems)


def test_what_cannot_be_read_is_a_line(store: Store) -> None:
    run, artifact = good(store)
    record = store.record("out/onnx", artifact, threads=4)
    evaluation = store.evaluation("out/onnx", artifact, split="held")
    here = store.folder
    (here / "cut.json").write_text('{"kind": "measurement", ')
    (here / "odd.json").write_text('{"kind": "evaluation"}')
    (here / "other.json").write_text('{"kind": "recipe"}')
    (here / "list.json").write_text("[1, 2]")
    store.record("out", artifact, samples=replace(record.samples, data="@@"))
    store.record("out", artifact, threads=3, latency=replace(record.latency, p50_ms=-0.0), warmup=record.samples)
    store.evaluation("out", artifact, confusions=pack_confusions(confusions(3)))
    store.evaluation("out", artifact, split="x", confusions="@@")
    store.record("out", replace(run, sha256="f" * 64), threads=8)
    (here / "runs/cam/model.safetensors").write_bytes(b"other weights")
    (here / "out/bad").mkdir()
    (here / "out/bad/manifest.json").write_text("{}")
    results = collect(here)
    assert len(results.artifacts) == 1 and not results.runs
    said = problems(results)
    for text in (
        "cut.json is not JSON",
        "odd.json: ",
        "the samples of this record are damaged",
        "the score does not fit its 3 confusion matrices",
        "the confusion matrices are damaged",
        "out/bad/manifest.json",
        "belongs to no run or artifact in this folder",
        "model.safetensors is not the file",
    ):
        assert text in said
    assert "other.json" not in said and "list.json" not in said and str(here) not in said
    assert evaluation in results.evaluations


def test_a_manifest_cannot_lead_out_of_its_folder(store: Store) -> None:
    run, artifact = good(store)
    store.artifact(run, files=[replace(artifact.files[0], path="../../runs/cam/model.safetensors")])
    verdict = only(store)
    assert "leaves its folder" in verdict.reasons[0].text and verdict.reasons[0].code == "parity"


def int8_beside_float(store: Store, int8_ms: float, **changes: Any) -> tuple[Manifest, Manifest]:
    """A float artifact of 22 ms and one of whole numbers, both good but for the time."""
    run, float_one = good(store)
    precision = Precision("int8", "int8")
    other = store.artifact(run, "out/onnx-int8", precision=precision, **changes)
    store.evaluation("out/onnx-int8", other, worse(store.base, 0.0005))
    store.record("out/onnx-int8", other, int8_ms, executed="int8")
    return float_one, other


def of_int8(store: Store) -> Verdict:
    return next(one for one in judge(collect(store.folder)) if one.precision_asked == "int8")


def test_whole_numbers_that_are_not_faster_do_not_ship(store: Store) -> None:
    int8_beside_float(store, 44.0)
    verdict = of_int8(store)
    assert not verdict.ship and "is not faster than float" in verdict.reasons[0].text
    assert verdict.times_float is not None and verdict.times_float.ratio == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("true", [0.97, 1.03])
def test_whole_numbers_near_the_speed_of_float_never_ship_once_and_stay_once(tmp_path: Path, true: float) -> None:
    """Processes differ by a constant of 1 %: what is within it is not decided, whichever way a measurement falls."""
    words = []
    for seed in range(10):
        store, rng = Store(tmp_path / str(seed)), np.random.default_rng(seed)
        float_one, _ = int8_beside_float(store, 22 * true * (1 + rng.normal(0, 0.01)))
        store.record("out/onnx", float_one, 22 * (1 + rng.normal(0, 0.01)))
        verdict = of_int8(store)
        words.append("ship" if verdict.ship else "stay" if verdict.decided else "open")
        for reason in verdict.reasons:
            assert (reason.code, reason.sure) == ("budget", verdict.decided)
    assert not {"ship", "stay"} <= set(words), words
    assert true < 1 or "ship" not in words, words


def in_turns(results: Results, order: str, true: float, seed: int) -> Verdict:
    """The verdict where processes of float (F) and int8 (I) were measured in that order, each 1 % off, while all gets slower by 5 %."""
    rng, kinds = np.random.default_rng(seed), {record.subject.precision: record for record in results.records}
    records = []
    for number, letter in enumerate(order):
        level = 22 * (1 + 0.05 * number / len(order)) * (1 + rng.normal(0, 0.01)) * (true if letter == "I" else 1)
        one = kinds["int8" if letter == "I" else "fp32"]
        created = f"2026-11-21T10:{number:02}:00+00:00"
        records.append(replace(one, created=created, latency=replace(one.latency, p50_ms=level)))
    results = replace(results, records=records)
    return next(one for one in judge(results) if one.precision_asked == "int8")


@pytest.mark.parametrize("true", [0.95, 1.01])
def test_processes_that_took_turns_decide_three_percent_from_the_limit_and_ten_repeats_agree(
    store: Store, true: float
) -> None:
    int8_beside_float(store, 21.0)
    results = collect(store.folder)
    verdicts = [in_turns(results, "FIIF" * 5, true, seed) for seed in range(10)]
    assert [one.ship for one in verdicts if one.decided] == [true < 1] * 10
    for one in verdicts:
        assert one.times_float is not None and one.times_float.processes == 10
        assert one.times_float.low < true < one.times_float.high
    said = verdicts[0].notes[0] if true < 1 else verdicts[0].reasons[0].text
    assert "in 10 processes of each that took turns" in said and "(99 %: " in said


def test_few_processes_and_those_that_took_no_turns_leave_the_allowance_as_it_is(store: Store) -> None:
    int8_beside_float(store, 21.0)
    results = collect(store.folder)
    for order in ("FIIF" * 2, "F" * 6 + "I" * 6):
        verdict = in_turns(results, order, 0.95, 0)
        assert verdict.times_float is not None and verdict.times_float.processes == 1
        assert not verdict.decided and "differ by up to 3 %" in verdict.reasons[0].text
        assert f"--beside {store.folder / 'out/onnx'} --processes 10`" in verdict.reasons[0].text
    verdict = in_turns(results, "FIIF" * 3, 0.98, 0)  # on the limit
    assert not verdict.decided and "6 processes of each that took turns" in verdict.reasons[0].text
    assert "--processes 12`" in verdict.reasons[0].text


def test_only_processes_of_the_same_runtime_and_settings_are_pooled(store: Store) -> None:
    int8_beside_float(store, 21.0)
    results = collect(store.folder)
    older = [
        replace(one, execution=replace(one.execution, version="1.30")) if one.subject.precision == "int8" else one
        for one in results.records
    ]
    turns = [
        replace(one, created=f"2026-11-2{day}T1{at}:00:00+00:00")
        for day, pair in enumerate([older] * 4 + [results.records] * 4)
        for at, one in enumerate(pair)
    ]
    times = next(one for one in judge(replace(results, records=turns)) if one.precision_asked == "int8").times_float
    assert times is not None and times.processes == 1
    same = [replace(one, execution=replace(one.execution, version="1.31.1")) for one in turns]
    times = next(one for one in judge(replace(results, records=same)) if one.precision_asked == "int8").times_float
    assert times is not None and times.processes == 8


@pytest.mark.parametrize("count", [5, 10])
def test_pairs_of_processes_on_the_limit_contradict_each_other_once_in_a_hundred_times_at_most(count: int) -> None:
    limit, rng = -math.log1p(EQUIVALENT), np.random.default_rng(count)
    found = [of_pairs(limit + rng.normal(0, 0.014, count)) for _ in range(4000)]
    ship = float(np.mean([one.high < limit for one in found]))
    stay = float(np.mean([one.low > limit for one in found]))
    assert 0 < (1 - (1 - ship) ** 10) * (1 - (1 - stay) ** 10) < 0.01


def chances(true: float) -> tuple[float, float]:
    """How often a ratio is taken to be faster, and how often not to be, when two processes each have 1 % of noise."""
    logs = math.log(true) + np.random.default_rng(0).normal(0, 0.01 * math.sqrt(2), 20_000)
    ratios = np.exp([logs - 0.004, logs, logs + 0.004]).T.tolist()
    sure = [_Against(Comparison("inconclusive", mid, low, high, None, []), APART) for low, mid, high in ratios]
    words = [one.faster for one in sure]
    return words.count(True) / len(words), words.count(False) / len(words)


@pytest.mark.parametrize("true", [0.93, 0.95, 0.97, 0.98, 0.99, 1.0, 1.03])
def test_ten_repeats_contradict_each_other_once_in_a_hundred_times_at_most(true: float) -> None:
    ship, stay = chances(true)
    assert (1 - (1 - ship) ** 10) * (1 - (1 - stay) ** 10) < 0.01


def test_what_is_as_quick_as_float_is_never_faster_and_mostly_decided() -> None:
    ship, stay = chances(1.01)
    assert ship == 0 and stay > 0.75


def test_what_is_clearly_faster_or_slower_is_decided_and_what_cannot_be_compared_is_not(store: Store) -> None:
    assert chances(0.9)[0] > 0.99 and chances(1.07)[1] > 0.99
    float_one, _ = int8_beside_float(store, 15.0)
    assert of_int8(store).ship
    next((store.folder / "out/onnx").glob("bench-*.json")).unlink()
    store.record("out/onnx", float_one, 22.0, protocol=parse("sustained:10m"))
    verdict = of_int8(store)
    assert not verdict.ship and not verdict.decided and verdict.times_float is None
    assert "could not be decided (protocol differs: sustained" in verdict.reasons[0].text


def test_operators_that_ran_elsewhere_are_said(store: Store) -> None:
    run, artifact = good(store)
    facts = {"partitions": 3, "delegated": 0.9, "not_delegated": "HARD_SWISH 2, ARG_MAX 1"}
    store.artifact(run, conversion=facts)
    assert only(store).notes == [
        "the delegate does not take HARD_SWISH 2, ARG_MAX 1, which leaves 3 parts of the network to it"
    ]
    store.artifact(run, conversion={"partitions": 1, "not_delegated": ""})
    record = store.record("out/onnx", artifact)
    assert only(store).notes == []
    execution = replace(record.execution, placed={"portable": 3, "xnnpack": 50, "edgeseg": 0})
    store.record("out/onnx", artifact, execution=execution)
    assert only(store).notes == ["of 53 operators 50 ran on xnnpack, 3 on portable"] and only(store).ship


def test_the_block_to_blame_is_named_where_a_search_looked(store: Store) -> None:
    _, other = int8_beside_float(store, 11.0)
    search = store.search(
        "out/onnx-int8", target="onnxruntime", chosen=None, words="nothing keeps the loss within 0.50"
    )
    assert not any("to blame" in note for note in of_int8(store).notes)  # it loses little
    store.evaluation("out/onnx-int8", other, worse(store.base, 0.05))
    said = "the block to blame is {}: alone in whole numbers it costs {:.2f} points of mIoU and {:.2f} of boundary F"
    first, _, third = search.sensitivity[:3]
    assert of_int8(store).notes[-1].startswith(said.format(first.block, first.drop, first.boundary))
    store.search("out/onnx-int8", target="onnxruntime")  # its answer has the two worst in float already
    assert of_int8(store).notes[-1].startswith(said.format(third.block, third.drop, third.boundary))
    hop = replace(GOOD_HOP, boundary_f=0.7, passed=False, reasons=["boundary F is 0.70, below 0.90"])
    int8_beside_float(store, 11.0, ledger=Ledger(DATA, [hop]))  # keeps its mIoU, and not its masks
    assert any("to blame" in note for note in of_int8(store).notes)
    store.search("out/onnx-int8", target="openvino")
    assert not any("to blame" in note for note in of_int8(store).notes)


def test_a_run_is_known_by_its_weights_and_not_by_how_its_folder_is_spelt(store: Store) -> None:
    run = store.run()
    int8_beside_float(store, 44.0, source=Source("runs/cam/", run.sha256))
    assert not of_int8(store).ship


def test_a_run_that_learned_to_be_rounded_is_compared_with_the_float_run(store: Store) -> None:
    run = store.run()
    taught = replace(run, sha256="7" * 64, base=run.sha256)
    int8_beside_float(store, 44.0, source=Source("runs/taught", taught.sha256))
    results = collect(store.folder)
    results.runs.append(StoredRun("runs/taught", taught))
    verdict = next(one for one in judge(results) if one.precision_asked == "int8")
    assert not verdict.ship and "is not faster than float" in verdict.reasons[0].text


def test_the_newest_float_record_that_can_be_compared_counts(store: Store) -> None:
    float_one, _ = int8_beside_float(store, 44.0)
    later = "2026-11-21T10:00:00+00:00"
    store.record("out/onnx", float_one, 22.0, created=later, protocol=parse("sustained:10m"))
    assert not of_int8(store).ship


def test_two_students_of_unknown_runs_are_not_compared(store: Store) -> None:
    run, _ = good(store)
    nowhere = Source(None, None)
    for folder, precision in (("out/a", "fp32"), ("out/b", "int8")):
        made = store.artifact(run, folder, precision=Precision(precision, precision), source=nowhere)
        store.evaluation(folder, made)
        store.record(folder, made, 44.0 if precision == "int8" else 22.0, executed=precision)
    verdict = of_int8(store)
    assert verdict.times_float is None
    assert any("does not say which run it was made from" in reason.text for reason in verdict.reasons)


def test_other_images_are_no_pair(store: Store) -> None:
    _, artifact = good(store)
    store.evaluation("out/onnx", artifact, store.base[::-1].copy())
    assert "evaluated on different images or labels" in only(store).reasons[0].text


def test_the_split_that_results_are_reported_on_goes_first(store: Store) -> None:
    run, artifact = good(store)
    for folder in ("runs/cam", "out/onnx"):
        (store.folder / folder / "eval-test.json").unlink()
    for split, reports in (("val", True), ("train", False)):  # the later one is not what is reported
        created = f"2026-11-2{1 if reports else 2}T11:00:00+00:00"
        store.evaluation("runs/cam", run, split=split, reports=reports, created=created)
        store.evaluation("out/onnx", artifact, split=split, reports=reports, created=created)
    assert only(store).accuracy_on == f"{DATA} [val]"


def test_what_cannot_be_read_does_not_ship(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    good(store)
    assert main(["verdict", str(store.folder)]) == 0
    (store.folder / "out" / "cut").mkdir()
    (store.folder / "out" / "cut" / "manifest.json").write_text('{"schema": 1, "stud')
    assert main(["verdict", str(store.folder)]) == 1
    assert "cut/manifest.json is not JSON" in capfd.readouterr().err


@pytest.mark.parametrize(
    "gate", [["--max-drop", "inf"], ["--max-drop", "nan"], ["--max-p90-ms", "inf"], ["--max-p90-ms", "-5"]]
)
@pytest.mark.parametrize("verb", ["verdict", "report"])
def test_a_gate_is_a_number(store: Store, verb: str, gate: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    good(store)
    assert main([verb, str(store.folder), *gate]) == 1
    assert gate[0] in capfd.readouterr().err
