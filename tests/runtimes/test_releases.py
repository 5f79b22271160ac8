"""Two releases: what is paired, what is said of a pair, what is refused, and the exit code that a CI sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg import schema
from edgeseg.cli import main
from edgeseg.community import submission
from edgeseg.errors import EdgesegError
from edgeseg.runtimes import record as records
from edgeseg.runtimes.devices.prepare import caveats
from edgeseg.runtimes.record import Record, Samples
from edgeseg.runtimes.releases import compare_releases, compare_stored
from tests.devices import measured, proof, timed


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return measured(tmp_path_factory.mktemp("old"))


def again(record: Record, factor: float, seed: int = 9, spread: float = 0.01) -> Record:
    """The record as another release might have it."""
    times = 22.0 * factor * np.exp(np.random.default_rng(seed).normal(0, spread, 520))
    return replace(timed(record, times), created=f"2026-11-2{seed}T10:00:00+00:00")


def put(folder: Path, *found: Record) -> Path:
    for index, record in enumerate(found):
        records.write(folder / f"{index}.json", record)
    return folder


@pytest.mark.parametrize(
    ("factor", "verdict", "code"),
    [(1.0, "equivalent", 0), (0.9, "faster", 0), (1.1, "slower", 4), (1.02, "inconclusive", 6)],
)
def test_an_interval_decides_and_no_median(tmp_path: Path, old: Record, factor: float, verdict: str, code: int) -> None:
    found = compare_releases(put(tmp_path / "a", old), put(tmp_path / "b", again(old, factor, spread=0.03)))
    assert [pair.found.verdict for pair in found.pairs] == [verdict]
    assert found.exit_code == code
    assert found.pairs[0].what == "ddrnet23_slim openvino fp32 1x360x480x3, 2 threads, quick, on kitchen-shelf"


def test_only_what_is_of_the_same_is_paired(tmp_path: Path, old: Record) -> None:
    others = {
        "target": replace(old, subject=replace(old.subject, target="litert")),
        "student": replace(old, subject=replace(old.subject, student="ffnet40s")),
        "precision": replace(old, subject=replace(old.subject, precision="int8")),
        "size": replace(old, subject=replace(old.subject, input_shape=[1, 180, 240, 3])),
        "baked": replace(old, subject=replace(old.subject, baked=[])),
        "device": replace(old, device=replace(old.device, name="another")),
        "threads": replace(old, execution=replace(old.execution, threads=3)),
        "protocol": replace(old, protocol=replace(old.protocol, name="mlperf-mobile")),
    }
    for name, other in others.items():
        with pytest.raises(EdgesegError, match="is of the same device, student, target"):
            compare_releases(put(tmp_path / "a", old), put(tmp_path / name, other))
    found = compare_releases(put(tmp_path / "a", old), put(tmp_path / "all", again(old, 1.0), *others.values()))
    assert (len(found.pairs), len(found.only_old), len(found.only_new), found.exit_code) == (1, 0, 8, 0)
    found = compare_releases(tmp_path / "all", tmp_path / "a")
    assert (len(found.only_old), found.exit_code) == (8, 6)  # what is gone may have become slower


def test_other_conditions_are_not_compared(old: Record) -> None:
    assert old.sensors
    sensors = old.sensors
    flags = sensors.before.flags
    state = replace(old.device.before, governor="powersave")
    unlike = {
        "governor differs: performance and powersave": replace(old, device=replace(old.device, before=state)),
        "power_mode differs: 15W and not known": replace(
            old, sensors=replace(sensors, before=replace(sensors.before, flags={**flags, "power_mode": "15W"}))
        ),
        "governor differs: not known and performance": replace(old, sensors=None),
        "clocks_pinned differs": replace(
            old, sensors=replace(sensors, before=replace(sensors.before, flags={**flags, "clocks_pinned": True}))
        ),
        "is not valid: throttled": replace(old, valid=False, reasons=["throttled"]),
        "provenance differs": replace(old, provenance="simulated"),
    }
    for words, other in unlike.items():
        found = compare_stored([old], [other])
        assert (found.verdict, found.ratio) == ("inconclusive", None)
        assert any(words in line for line in found.why), found.why


def test_what_may_be_the_reason_is_said(old: Record) -> None:
    after = replace(old.device.after, clusters_mhz=[1500.0])
    other = replace(
        again(old, 1.3),
        device=replace(old.device, after=after, boot_id="another", system="Linux 7"),
        execution=replace(old.execution, version="2.0", precision="bf16"),
    )
    why = compare_stored([old], [other]).why
    for words in (
        "runtime was openvino 1.31.1, is openvino 2.0",
        "precision executed was fp32, is bf16",
        "system was Linux 6.1, is Linux 7",
        "booted again",
        "the clocks after measuring were 2400 MHz, are 1500 MHz",
    ):
        assert any(words in line for line in why), why
    public = submission(old, proof(old), "ada").record
    assert "not known to be of one boot" in compare_stored([public], [public]).why
    bare = replace(old, sensors=None, device=replace(old.device, before=replace(old.device.before, governor=None)))
    assert "nothing says how its clocks and power mode were set" in compare_stored([bare], [bare]).why


def test_processes_that_differ_widen_the_interval(old: Record) -> None:
    one = compare_stored([old], [again(old, 1.06)])
    news = [again(old, factor, seed) for seed, factor in enumerate((1.00, 1.06, 1.13))]
    every = compare_stored([old], news)
    assert one.verdict == "slower" and every.verdict == "inconclusive"
    assert one.low and one.high and every.low and every.high
    assert every.high - every.low > 3 * (one.high - one.low)
    noisy = replace(again(old, 3.0, seed=5), valid=False, reasons=["noisy"])
    assert compare_stored([old, noisy], [again(old, 1.06), noisy]).ratio == pytest.approx(1.06, rel=0.01)


def test_nan_fails(old: Record, tmp_path: Path) -> None:
    a, b = put(tmp_path / "a", old), put(tmp_path / "b", again(old, 1.0))
    bad = replace(old, samples=Samples.pack(np.arange(5, dtype=np.int64), np.zeros(5, np.int64)))
    records.write(b / "bad.json", bad)
    (b / "cut.json").write_text("{")
    (b / "failure.json").write_text(json.dumps({"kind": "failure", "detail": "the board is gone"}))
    (b / "other.json").write_text("[]")
    found = compare_releases(a, b)
    assert len(found.problems) == 3 and found.exit_code == 6
    assert any("zero, negative or not a number" in line for line in found.problems)
    assert any("the board is gone" in line for line in found.problems)


def test_from_the_command_line(tmp_path: Path, old: Record, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = put(tmp_path / "a", old), put(tmp_path / "b", again(old, 1.1))
    assert main(["compare", str(a), str(b), "--json"]) == 4
    document = json.loads(capfd.readouterr().out)
    assert document["pairs"][0]["found"]["verdict"] == "slower"
    assert main(["compare", str(b), str(a)]) == 0
    said = capfd.readouterr()
    assert "faster" in said.out and "not interleaved" in said.err
    schema.write(tmp_path / "handed.json", submission(old, proof(old), "ada"))
    assert main(["compare", str(a / "0.json"), str(b / "0.json")]) == 0
    assert main(["compare", str(a / "0.json"), str(tmp_path / "handed.json")]) == 6  # another name of the device
    (tmp_path / "none.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    capfd.readouterr()
    for words, says in (
        ((a, tmp_path / "nothing"), "does not exist"),
        ((a, tmp_path / "empty"), "holds no record of a measurement"),
        ((a, a / "0.json"), "is neither a run"),
        ((a / "0.json", tmp_path / "none.json"), "is no record of a measurement"),
    ):
        assert main(["compare", *map(str, words)]) == 1
        assert says in capfd.readouterr().err


def test_records_of_a_phone_that_was_prepared_are_as_many_processes(old: Record) -> None:
    """What such a setting says against quoting a figure does not make two releases measured in it one record each."""

    def prepared(record: Record) -> Record:
        device = replace(record.device, prepared={"fixed-performance": "true"})
        return replace(record, device=device, reasons=caveats(device.prepared), valid=False)

    before, after = (
        [again(old, factor, seed) for seed, factor in enumerate(found, 1)] for found in ((1.0, 1.0), (1.0, 1.06, 1.13))
    )
    plain = compare_stored(before, after)
    found = compare_stored([prepared(one) for one in before], [prepared(one) for one in after])
    assert (found.verdict, found.ratio, found.low, found.high) == (plain.verdict, plain.ratio, plain.low, plain.high)
    assert "2 records before and 3 after" in found.why[0]


def test_a_boot_that_is_not_known_is_no_other_boot(old: Record) -> None:
    unknown = replace(again(old, 1.0), device=replace(old.device, boot_id=None))
    for pair in ((old, unknown), (unknown, old)):
        why = compare_stored([pair[0]], [pair[1]]).why
        assert "not known to be of one boot" in why and "the device was booted again in between" not in why
