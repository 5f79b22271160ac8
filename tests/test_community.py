"""The community's table: what a submission leaves out, what the table refuses, how it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import schema
from edgeseg.cli import main
from edgeseg.community import Submission, check_table, file_in, proof_of, read_submission, refusals, submission
from edgeseg.community.check import RULES
from edgeseg.errors import EdgesegError
from edgeseg.ledger import Ledger
from edgeseg.report.devices import render_devices
from edgeseg.runtimes import record as records
from edgeseg.runtimes import statistics
from edgeseg.runtimes.measure import stage_of
from edgeseg.runtimes.record import Record
from tests.devices import BOARD, HOST, USER, cold, measured, proof, timed
from tests.report.stored import GOOD_HOP, Store

PROTOCOLS = ("quick", "sustained:30s", "camera:30:20s")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return measured(tmp_path_factory.mktemp("record"))


@pytest.fixture(scope="module")
def good(record: Record) -> Submission:
    return submission(record, proof(record), "ada")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three submissions of two boards."""
    folder = tmp_path / "results"
    for index, protocol in enumerate(PROTOCOLS):
        one = measured(tmp_path, 20.0 + index, protocol, seed=index)
        if index == 2:
            one = replace(one, device=replace(one.device, model="Jetson <Orin> | Nano"))
        made = submission(one, proof(one), "@ada")
        schema.write(file_in(folder, made), made)
    return folder


def test_nothing_private_is_left_and_every_sample_is(record: Record, good: Submission) -> None:
    text = json.dumps(schema.dump(good))
    private = (HOST, USER, "/home", "secret", "2222", str(record.device.boot_id), "86400", "86412")
    assert [word for word in private if word in json.dumps(schema.dump(record))] == list(private[:-2]) + [
        "86400",
        "86412",
    ]
    assert [word for word in private if word in text] == []
    assert good.record.samples == record.samples and good.record.latency == record.latency
    assert good.record.execution.settings == {"plugin": "libops.so", "spin": "off"}
    assert good.record.sensors and record.sensors
    assert good.record.sensors.before.flags == {"cpu0 governor": "performance", "model": "board of (name)"}
    assert (good.record.sensors.before.time_s, good.record.sensors.after.time_s) == (0.0, 12.0)


Change = Callable[[Submission], Submission]


def with_record(**changes: Any) -> Change:
    return lambda made: replace(made, record=replace(made.record, **changes))


def with_part(part: str, **changes: Any) -> Change:
    return lambda made: with_record(**{part: replace(getattr(made.record, part), **changes)})(made)


def whole_way(stages: bool = True, **changes: Any) -> Change:
    """A submission with the whole way, whose stages are two halves of its samples, and a figure of it changed."""

    def change(made: Submission) -> Submission:
        starts, durations = made.record.samples.unpack()
        half = durations // 2
        parts = [stage_of("decode", starts, half), stage_of("infer", starts + half, durations - half)]
        e2e = replace(statistics.latency(starts, durations), **{k: v for k, v in changes.items() if k != "stage_ms"})
        if "stage_ms" in changes:
            parts[0] = replace(parts[0], p50_ms=changes["stage_ms"])
        return with_record(stages=parts if stages else None, e2e=e2e)(made)

    return change


def backwards(made: Submission) -> Submission:
    starts, durations = made.record.samples.unpack()
    starts = starts.copy()
    starts[-1] = starts[0] - durations[-1]
    return with_record(samples=records.Samples.pack(starts, durations))(made)


def started(**changes: Any) -> Change:
    """A submission of cold starts with figures of theirs changed; what has no such figure stays as it is."""
    return lambda made: with_part("cold_start", **changes)(made) if made.record.cold_start else made


BAD_STARTS: dict[str, tuple[Change, str]] = {
    "one process": (
        started(
            processes=1,
            load_ms=0.001,
            first_ms=0.001,
            ready_ms=0.002,
            loads_ms=[0.001],
            firsts_ms=[0.001],
            readies_ms=[0.002],
        ),
        "cold_start is of 1 processes, and 1, 1, 1 times: the samples are 20",
    ),
    "fewer times": (started(readies_ms=[900.0] * 19), "and 20, 20, 19 times: the samples are 20"),
    "faster": (
        started(load_ms=0.001, first_ms=0.001, loads_ms=[0.001] * 20, firsts_ms=[0.001] * 20),
        "cold_start is not what the samples say",
    ),
    "ready at once": (started(ready_ms=0.002, readies_ms=[0.002] * 20), "ready before it had loaded and inferred"),
    "loading told": (started(load_ms=1.0), "cold_start.load_ms is not the median of its 20 processes"),
    "inference told": (started(first_ms=1.0), "cold_start.first_ms is not the median of its 20 processes"),
    "readiness told": (started(ready_ms=1.0), "cold_start.ready_ms is not the median of its 20 processes"),
    "the record's own": (with_record(load_ms=1.0), "of the record are not those of its cold starts"),
    "negative": (
        lambda made: started(
            loads_ms=[each + 1e3 for each in made.record.cold_start.loads_ms],  # type: ignore[union-attr]
            firsts_ms=[each - 1e3 for each in made.record.cold_start.firsts_ms],  # type: ignore[union-attr]
        )(made),
        "cold_start is not what the samples say",
    ),
}


BAD: dict[str, tuple[Change, str]] = {
    "simulated": (with_record(provenance="simulated"), "are simulated, not measured"),
    "claimed": (with_record(provenance="claimed"), "are claimed, not measured"),
    "invalid": (with_record(valid=False, reasons=["throttled: 80%"]), "is not valid: throttled: 80%"),
    "smoke": (with_part("protocol", name="smoke", min_s=1, max_s=20, min_count=64, warmup_s=0.2), "is no protocol"),
    "protocol made easy": (with_part("protocol", min_s=1), "'quick' is no protocol whose figures are quoted"),
    "no such protocol": (with_part("protocol", name="long"), "'long' is no protocol"),
    "median": (with_part("latency", p50_ms=11.0), "latency.p50_ms is not what the samples say"),
    "interval": (with_part("latency", p50_low_ms=1.0), "latency.p50_low_ms is not what the samples say"),
    "bound": (with_part("latency", p90_upper_ms=None), "latency.p90_upper_ms is not what the samples say"),
    "nan": (with_part("latency", p90_upper_ms=float("nan")), "latency.p90_upper_ms is nan, no number"),
    "energy": (with_record(energy_mj=float("inf")), "record.energy_mj is inf, no number"),
    "energy from nowhere": (with_record(energy_source=None), "mJ from nowhere is none"),
    "energy won": (with_record(energy_mj=-3.0), "an energy of -3.0 mJ"),
    "whole way": (whole_way(p50_ms=0.001), "e2e.p50_ms is not what the samples say"),
    "whole way without its stages": (whole_way(stages=False), "e2e is not what the samples say"),
    "stage": (whole_way(stage_ms=0.001), "stages.0.p50_ms is not what the samples say"),
    "time that runs backwards": (backwards, "do not begin one after the other"),
    "noise": (with_part("noise", gap=0.5), "noise.gap is not what the samples say"),
    "stretches": (with_record(segments=[]), "segments is not what the samples say"),
    "held without asking": (
        with_record(sustained=records.Sustained("steady", 45.0, 1.0, 0.0, [])),
        "sustained is not what the samples say",
    ),
    "cold without asking": (
        with_record(cold_start=records.ColdStart(1, 1.0, 1.0, 1.0, [2.0], [1.0], [1.0])),
        "what only cold-start asks for do not go together",
    ),
    "few": (lambda made: replace(made, record=timed(made.record, np.full(20, 22.0))), "20 samples, quick needs 128"),
    "very few": (with_record(samples=records.Samples.pack(np.arange(3), np.arange(1, 4))), "least a figure needs"),
    "throttled": (
        lambda made: replace(made, record=timed(made.record, np.repeat([22.0, 33.0], 300))),
        "throttled: throughput fell to 67%",
    ),
    "other file": (lambda made: replace(made, proof=replace(made.proof, sha256="0" * 64)), "of another file"),
    "precision": (with_part("execution", precision="bf16"), "it ran in bf16, and was proven in fp32"),
    "precision unknown": (with_part("execution", precision=None), "precision unknown"),
    "no hop": (lambda made: replace(made, proof=replace(made.proof, ledger=Ledger("x", []))), "did not pass"),
    "passed by its word": (
        lambda made: replace(made, proof=replace(made.proof, ledger=Ledger("x", [replace(GOOD_HOP, same_label=0.9)]))),
        "did not pass their proof",
    ),
    "nan in proof": (
        lambda made: replace(
            made, proof=replace(made.proof, ledger=Ledger("x", [replace(GOOD_HOP, boundary_f=float("nan"))]))
        ),
        "boundary_f is nan",
    ),
    "nonfinite": (
        lambda made: replace(made, proof=replace(made.proof, ledger=Ledger("x", [replace(GOOD_HOP, nonfinite=3)]))),
        "did not pass their proof",
    ),
    "nobody": (lambda made: replace(made, by=" "), "does not say who measured"),
    "mail": (lambda made: replace(made, by="ada@example.org"), "by has an address in it"),
    "no device": (with_part("device", name="..."), "neither its board nor its processor"),
    "boot": (with_part("device", boot_id="x"), "one device's boot or address"),
    "address": (with_part("device", address="ssh://a@b"), "one device's boot or address"),
    "path": (with_part("subject", path="/srv/models/x"), "subject.path has an absolute path"),
    "file": (with_part("execution", settings={"a": "file:///srv/models/x"}), "settings.a has an absolute path"),
    "windows path": (with_part("subject", path=r"C:\Users\ada\x"), "subject.path has an absolute path"),
    "home": (with_part("execution", settings={"a": "lib=~/models/x"}), "settings.a has an absolute path"),
    "path in a key": (with_part("execution", settings={"/opt/x/": "on"}), "has an absolute path"),
    "machine id": (with_part("execution", settings={"a": "0123456789abcdef" * 2}), "the id of a machine"),
    "network card": (with_part("execution", settings={"a": "dc:a6:32:01:02:03"}), "address of a network card"),
    "no image": (with_part("subject", input_shape=[1, 3]), "is no image"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_table_refuses(good: Submission, case: str) -> None:
    change, says = BAD[case]
    assert refusals(good) == []
    found = refusals(change(good))
    assert any(says in line for line in found), found


@pytest.mark.parametrize("case", BAD_STARTS)
def test_cold_starts_are_what_the_samples_say(tmp_path: Path, case: str) -> None:
    record = cold(tmp_path)
    good = submission(record, proof(record), "ada")
    assert refusals(good) == []
    change, says = BAD_STARTS[case]
    found = refusals(change(good))
    assert any(says in line for line in found), found


def test_every_rule_refuses_something(good: Submission) -> None:
    silent = [
        rule.__name__
        for rule in RULES
        if not any(
            list(rule(change(good))) for name, (change, _) in BAD.items() if name not in ("very few", "no image")
        )
    ]
    assert silent == []


def test_a_submission_is_of_an_artifact_that_passed(tmp_path: Path, record: Record) -> None:
    store = Store(tmp_path)
    run = store.run()
    with pytest.raises(EdgesegError, match="is no artifact"):
        proof_of(tmp_path / "runs/cam")
    store.artifact(run, "out/never", ledger=None)
    with pytest.raises(EdgesegError, match="was never verified"):
        proof_of(tmp_path / "out/never")
    store.artifact(run, "out/failed", ledger=Ledger("x", [replace(GOOD_HOP, passed=False)]))
    with pytest.raises(EdgesegError, match="did not pass its proof"):
        proof_of(tmp_path / "out/failed")
    store.artifact(run, "out/good")
    assert proof_of(tmp_path / "out/good").ledger.data == "camvid [held]"
    with pytest.raises(EdgesegError, match=r"not for the table: .*of another file"):
        submission(record, proof_of(tmp_path / "out/good"), "ada")


def test_a_table_is_checked_file_by_file(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = check_table(table)
    assert [wrong for _, wrong in found] == [[], [], []]
    assert [path.parent.name for path, _ in found] == ["jetson-orin-nano", *["raspberry-pi-5-model-b-rev-1.0"] * 2]
    assert main(["records", "check", str(table), str(found[0][0])]) == 0
    copy = found[1][0].with_name("zz.json")
    copy.write_text(found[1][0].read_text())
    (found[1][0].with_name("record.json")).write_text('{"kind": "measurement"}')
    (found[1][0].with_name("cut.json")).write_text("{")
    capfd.readouterr()
    assert main(["records", "check", str(table)]) == 6
    out = capfd.readouterr().out
    assert "6 submissions, 3 refused" in out
    assert f"belongs in {found[1][0].relative_to(table)}" in out and "one measurement counts once" in out
    assert "record.json is no submission" in out and "cut.json is not JSON" in out
    assert main(["records", "check", *map(str, sorted(copy.parent.iterdir()))]) == 6
    assert "5 submissions, 2 refused" in capfd.readouterr().out  # by themselves they are in nobody's place
    assert main(["records", "table", str(table), "-o", str(table / "x.md")]) == 1
    assert not (table / "x.md").exists()
    assert main(["records", "check", str(found[0][0].parent)]) == 1
    assert "lies in no device's folder" in capfd.readouterr().err


def test_the_table_shows_all_of_a_record(table: Path, tmp_path: Path) -> None:
    page, text = tmp_path / "devices.html", tmp_path / "devices.md"
    assert main(["records", "table", str(table), "-o", str(page), "-o", str(text), "--json"]) == 0
    lines = text.read_text().splitlines()
    assert len(lines) == 5 and len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "Jetson &lt;Orin&gt; \\| Nano" in lines[2]
    row = next(line for line in lines if "sustained:30s" in line)
    for words in (BOARD, "performance, 2400 MHz", "ddrnet23\\_slim", "openvino 1.31.1", "@ada, 2026-11-20", "steady"):
        assert words.replace("\\_", "_") in row
    html = page.read_text()
    assert "3 measurements on 2 devices" in html and "Jetson &lt;Orin&gt; | Nano" in html
    assert "<script" not in html and not re.findall(r"(?:src|href)=\"(?!data:|#)", html)
    assert html.count("41.50 (ina EXT5V)") == 3
    assert render_devices([read_submission(next(table.glob("*/*.json")))]).count("<svg") == 2


def test_an_empty_table_and_a_wrong_ending(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "check", str(tmp_path)]) == 0
    for words, says in (
        (["check", str(tmp_path / "none.json")], "does not exist"),
        (["table", str(tmp_path), "-o", "a.pdf"], "neither a page (.html) nor Markdown (.md)"),
        (["table", str(tmp_path), "-o", "a.md"], "has no submission in a device's folder yet"),
    ):
        assert main(["records", *words]) == 1
        assert says in capfd.readouterr().err


def test_submitting_from_the_command_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = measured(tmp_path)
    file = records.write(tmp_path / "bench.json", record)
    words = ["records", "submit", str(file), "--artifact", str(tmp_path / "out/vino"), "--to", str(tmp_path / "table")]
    assert main([*words, "--by", ""]) == 1
    assert "does not say who measured" in capfd.readouterr().err
    assert main([*words, "--by", "ada", "--json"]) == 0
    path = Path(json.loads(capfd.readouterr().out)["submission"])
    assert main(["records", "check", str(tmp_path / "table")]) == 0
    assert read_submission(path).record.device.name == BOARD
    monkeypatch.setattr("edgeseg.runtimes.measure.measure", lambda *words, **options: record)
    assert main(["bench", str(tmp_path / "out/vino"), "--submit", str(tmp_path / "other"), "--by", "ada"]) == 0
    (again,) = (tmp_path / "other").glob("*/*.json")
    assert f"for the table: {again}" in capfd.readouterr().err and again.read_bytes() == path.read_bytes()
    assert main(["bench", str(tmp_path / "out/vino"), "--submit", str(tmp_path / "table")]) == 1
    assert "--submit needs --by" in capfd.readouterr().err
    for words, says in ((["--by", "ada"], "--by goes with --submit"), (["--submit", "x", "--tool", "y"], "no record")):
        assert main(["bench", str(tmp_path / "out/vino"), *words]) == 1
        assert says in capfd.readouterr().err


def test_the_table_of_this_repository_holds() -> None:
    table = Path(__file__).parent.parent / "benchmarks" / "results"
    assert [(path, wrong) for path, wrong in check_table(table) if wrong] == []


def test_the_whole_way_is_welcome_with_its_samples(good: Submission) -> None:
    assert refusals(whole_way()(good)) == []


def test_boards_of_one_name_that_differ_are_all_named(good: Submission) -> None:
    other = with_part("device", cores=8, memory_bytes=16 * 2**30)(good)
    page = render_devices([good, other])
    assert f"{good.record.device.cores} cores" in page and "8 cores, 16.0 GiB" in page
