"""The page: complete, self-contained, escaped, and honest about what was not measured."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.errors import EdgesegError
from edgeseg.report import render, write_report
from edgeseg.report.images import CHANGED, LONG_SIDE, Evidence, evidence
from edgeseg.report.words import number, prose, signed
from edgeseg.results import collect
from edgeseg.runtimes.record import Segment
from edgeseg.verdict import judge
from tests.report.stored import CLASSES, PALETTE, Store, street, worse


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return street(tmp_path_factory.mktemp("street")).folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return write_report(folder, folder / "report.html", max_p90_ms=30.0).read_text(encoding="utf-8")


def test_answer_comes_first_and_every_verdict_with_its_reasons_is_there(folder: Path, html: str) -> None:
    assert "<title>2 of 3 artifacts ship · edgeseg</title>" in html
    assert "The quickest that ships: openvino fp16, p90" in html
    assert html.count("✓ SHIP") == 2 and html.count("✕ DON’T SHIP") == 1
    for verdict in judge(collect(folder), max_p90_ms=30.0):
        for reason in verdict.reasons:
            assert str(prose(reason.text)) in html
    order = [
        "Trade-offs",
        "Latency over time",
        "Step by step",
        "Accuracy per class",
        "Parity ledger",
        "What changed in",
    ]
    places = [html.index(f"<h2>{title}") for title in order]
    assert places == sorted(places)


def test_page_needs_nothing_else(html: str) -> None:
    assert "http://" not in html and "https://" not in html and "<script" not in html
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)
    assert "default-src 'none'" in html
    assert len(html) < 3_000_000


def test_details_hold_hashes_tools_and_settings(folder: Path, html: str) -> None:
    for artifact in collect(folder).artifacts:
        assert artifact.sha256 in html
    for text in ("tools.onnxruntime", "1.31.1", "execution.settings.spinning", "target.opset", "not known"):
        assert text in html


def test_what_a_file_says_is_text_and_never_markup(tmp_path: Path) -> None:
    store = Store(tmp_path)
    evil = "<script>alert(1)</script>"
    names = [evil, *CLASSES[1:]]
    run = store.run(class_names=names, name=evil)
    artifact = store.artifact(run, target='"><img src=x onerror=alert(1)>')
    store.evaluation("runs/cam", run)
    store.evaluation("out/onnx", artifact, worse(store.base, 0.001))
    store.record("runs/cam", run, e2e=True)
    store.record(
        "out/onnx", artifact, valid=False, reasons=[evil], segments=[Segment(0, 5, 40.0), Segment(5, 11, 31.0)]
    )
    (tmp_path / "bad.json").write_text('{"kind": "evaluation", "subject": "<b>"}')
    html = render(collect(tmp_path))
    assert "&lt;script&gt;alert(1)" in html
    assert "<script" not in html and "<img" not in html and "<b>&" not in html
    assert "31.0 fps" in html and "NOT VALID" in html


def test_simulated_numbers_are_marked_and_in_no_chart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.run()
    artifact = store.artifact(run)
    store.record("out/onnx", artifact, provenance="simulated", e2e=True)
    html = render(collect(tmp_path))
    assert '<span class="mark">simulated</span>' in html and "<h2>Not measured</h2>" in html
    assert "<svg" not in html


def test_folders_that_are_not_complete_still_make_a_page(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(EdgesegError, match="holds no run, artifact, record, evaluation or search"):
        render(collect(tmp_path))
    with pytest.raises(EdgesegError, match="is not a folder"):
        write_report(tmp_path / "missing", tmp_path / "report.html")
    run = store.run()
    assert "No artifact to judge" in render(collect(tmp_path))
    artifact = store.artifact(run, ledger=None)
    html = render(collect(tmp_path))
    assert "The artifact does not ship" in html and "not measured" in html and "n/a" in html
    store.record("out/onnx", artifact, count=40)
    assert "<h3>Distribution of latency</h3>" in render(collect(tmp_path))
    (tmp_path / "cut.json").write_text("{")
    html = render(collect(tmp_path))
    assert 'href="#problems">1 problem in this folder' in html and "cut.json is not JSON" in html


def test_names_tell_rows_apart_and_no_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.run()
    for folder in ("out/a", "out/b"):
        artifact = store.artifact(run, folder)
        for threads in (1, 2):
            store.record(folder, artifact, threads=threads)
    html = render(collect(tmp_path))
    for name in ("onnxruntime fp32 in out/a, 1 thread", "onnxruntime fp32 in out/b, 2 threads"):
        assert f"<h3>{name}</h3>" in html
    assert "None of 4 artifact and device pairs ships" in html


def pictures(item: Evidence) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    decoded = [base64.b64decode(overlay.uri.split(",", 1)[1]) for overlay in item.overlays]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in decoded]


def test_one_changed_pixel_is_seen_on_a_phone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.evidence("a", changed=1, count=1)
    photo = tmp_path / "a/evidence/00-image.jpg"
    big = (1920, 1440)
    for path, mode in (
        (photo, Image.Resampling.BILINEAR),
        (photo.with_name("00-reference.png"), Image.Resampling.NEAREST),
    ):
        with Image.open(path) as image:
            image.resize(big, mode).save(path)
    reference = np.asarray(Image.open(photo.with_name("00-reference.png")))
    changed = reference.copy()
    changed[701, 803] = 9
    Image.fromarray(changed).save(photo.with_name("00-artifact.png"))
    photo.with_name("00-truth.png").unlink()
    (item,) = evidence(tmp_path / "a/evidence", PALETTE, "onnxruntime")
    assert isinstance(item, Evidence)
    assert (item.changed, item.pixels) == (1, 1920 * 1440) and "1 of 2,764,800 pixels" in item.caption
    *_, marked = pictures(item)
    assert marked.shape == (360, LONG_SIDE, 3)
    magenta = np.asarray((np.abs(marked.astype(int) - np.array(CHANGED)) < 60).all(-1))
    assert 20 <= magenta.sum() <= 36
    assert magenta[701 * 360 // 1440, 803 * LONG_SIDE // 1920]


def test_truth_says_whether_changes_help(tmp_path: Path) -> None:
    place = tmp_path / "evidence"
    place.mkdir()
    ours, theirs, truth = (np.zeros((60, 80), np.uint8) for _ in range(3))
    theirs[0, :5], truth[0, :3], truth[0, 4] = 1, 1, 255
    Image.fromarray(np.full((60, 80, 3), 99, np.uint8)).save(place / "07-image.jpg")
    for name, labels in (("reference", ours), ("artifact", theirs), ("truth", truth)):
        Image.fromarray(labels).save(place / f"07-{name}.png")
    (item,) = evidence(place, [], "openvino")
    assert isinstance(item, Evidence) and item.name == "07"
    assert item.caption.endswith("(0.104 %): 3 became right, 1 became wrong")


def test_evidence_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    store = street(tmp_path)
    place = tmp_path / "out/onnx/evidence"
    (place / "00-image.jpg").write_bytes(b"not a picture")
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(place / "01-artifact.png")
    html = render(collect(store.folder))
    assert (
        "out/onnx/evidence/00-image.jpg cannot be read" in html
        and str(tmp_path) not in html.split("Problems")[-1]
        and "the two label maps are [360, 480] and [10, 10]" in html
    )


def test_page_stays_small_whatever_the_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.report.view.IMAGE_BYTES", 150_000)
    store = Store(tmp_path)
    store.artifact(store.run())
    store.evidence("out/onnx", count=4)
    html = render(collect(tmp_path))
    assert 0 < html.count("<img ") < 12 and "left out to keep this page small" in html


@pytest.mark.parametrize(
    ("value", "text"), [(0.004, "0.0"), (-0.004, "0.0"), (1.25, "+1.2"), (-4.26, "\N{MINUS SIGN}4.3")]
)
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


def test_words() -> None:
    assert number(None) == number(float("nan")) == "n/a"
    assert number(0.12345, 2, "%", scale=100) == "12.35\N{NO-BREAK SPACE}%"
    assert prose("run `a <b>` -> 5 ms") == "run <code>a &lt;b&gt;</code> \N{RIGHTWARDS ARROW} 5\N{NO-BREAK SPACE}ms"


def test_report_is_written_whole_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgesegError, match="cannot write"):
        write_report(folder, tmp_path / "file" / "report.html")


def test_a_long_recording_is_thinned_but_keeps_its_extremes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.run()
    record = store.record("runs/cam", run, count=20_000)
    starts, times = record.samples.unpack()
    times[12_345] = 900_000_000
    store.record("runs/cam", run, samples=replace(record.samples).pack(starts, times))
    html = render(collect(tmp_path))
    assert "max 900" in html and len(html) < 200_000
