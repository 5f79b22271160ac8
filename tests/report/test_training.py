"""The page about a run: what it shows with and without data, that its figures are those of the evaluation, what it refuses."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseg import schema
from edgeseg.cli import main
from edgeseg.data import Data, load_data
from edgeseg.data.statistics import label_statistics, region_counts
from edgeseg.errors import EdgesegError
from edgeseg.evaluate import evaluate, measure_split
from edgeseg.metrics import VOID, Evaluation
from edgeseg.report.charts import LETTER, PHONE
from edgeseg.report.curves import confusion, epoch_means, of_truth, rank_correlation
from edgeseg.report.training import heat, write_training_report
from edgeseg.runs import read_card
from edgeseg.students import Semantic
from edgeseg.train.errors import ImageErrors, errors_on, worst
from edgeseg.train.log import read_log
from tests.report.trained import SPEC, fresh, trained


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(SPEC)


@pytest.fixture(scope="module")
def student(data: Data) -> Semantic:
    return fresh(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Path:
    return trained(tmp_path_factory.mktemp("run"), data)


@pytest.fixture(scope="module")
def html(run: Path, data: Data, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "run.html"
    assert write_training_report(run, out, data, count=2) == []
    return out.read_text(encoding="utf-8")


def test_every_part_is_there_and_nothing_else_is_needed(html: str, data: Data) -> None:
    order = ["How it learned", "Classes", "What is taken for what", "Accuracy against the labels", "Where it errs"]
    places = [html.index(f"<h2>{title}") for title in [*order, "Highest loss", "Worst boundaries"]]
    assert places == sorted(places)
    assert "Epoch 2 of 3 was kept, the best on val. The epoch after it gained nothing." in html
    assert "2 h 02 min" in html and "1 thread, 2 cores" in html and "Not drawn" not in html
    assert "http://" not in html and "https://" not in html and "<script" not in html
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)
    assert html.count("<img ") == 3 + 2 * 2 * 3
    for name in data.class_names:
        assert name in html


def test_figures_are_those_of_the_evaluation(data: Data, student: Semantic) -> None:
    classes = len(data.class_names)
    errors = errors_on(student, data.split("val"), classes)
    meter = measure_split(student, data.split("val"), classes)
    assert (errors.confusion == np.sum(meter.confusions, axis=0)).all()
    wrong = 1 - np.trace(errors.confusion) / errors.confusion.sum()
    assert np.nanmean(errors.wrong) == pytest.approx(wrong, abs=0.02)  # places are of one size, but for rounding
    assert np.mean([image.wrong for image in errors.images]) == pytest.approx(100 * wrong, abs=1.0)
    image, truth = data.split("val")[1]
    logits = student(student.prepare(image))[0, :, :64, :96].detach().double()
    target = torch.from_numpy(truth.astype(np.int64))
    chosen = logits.log_softmax(0).gather(0, target.clamp(max=classes - 1)[None])[0][target != VOID]
    assert errors.images[1].loss == pytest.approx(-float(chosen.mean()), rel=1e-5)


def test_the_worst_come_first_and_void_images_not_at_all() -> None:
    images = [ImageErrors(index, str(index), loss, 0, 0, 0) for index, loss in enumerate([0.1, float("nan"), 3.0, 2.0])]
    assert [image.index for image in worst(images, lambda image: image.loss, 2)] == [2, 3]
    assert len(list(worst(images, lambda image: -image.loss, 9))) == 3


def test_labels_are_counted_by_hand(data: Data) -> None:
    labels = np.array([[0, 0, 1, VOID], [2, 0, 1, 0], [0, 2, 1, 0]], np.uint8)
    assert region_counts(labels, 4).tolist() == [2, 1, 1, 0]  # over a corner is together
    found = label_statistics(data.split("train"), len(data.class_names))
    maps = [data.split("train")[index][1] for index in range(6)]
    pixels = np.array([sum(int((m == c).sum()) for m in maps) for c in range(len(data.class_names))])
    assert found.share == pytest.approx(pixels / pixels.sum())
    assert found.seen == pytest.approx([np.mean([(m == c).any() for m in maps]) for c in range(len(data.class_names))])
    with pytest.raises(EdgesegError, match="has the label id 9, out of range for 3 classes"):
        label_statistics(data.split("train"), 3)


def test_a_label_out_of_range_is_one_line(data: Data, student: Semantic) -> None:
    with pytest.raises(EdgesegError, match="has the label id 9, out of range for 3 classes"):
        errors_on(student, data.split("train"), 3)


def test_without_data_it_says_what_is_missing(run: Path, tmp_path: Path, data: Data, student: Semantic) -> None:
    missing = write_training_report(run, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert len(missing) == 2 and "confusion: nothing counted it" in missing[0] and "`--data`" in missing[1]
    assert "<img " not in text and "<h2>Classes" in text and "2 parts of this page could not be drawn" in text
    copy = shutil.copytree(run, tmp_path / "run")
    evaluate(copy, student, read_card(copy).sha256, data, "test", "run")
    assert len(write_training_report(copy, tmp_path / "b.html")) == 1
    assert "<h2>What is taken for what" in (tmp_path / "b.html").read_text()
    document = schema.read(Evaluation, copy / "eval-test.json")
    schema.write(copy / "eval-test.json", replace(document, sha256="0" * 64))
    assert len(write_training_report(copy, tmp_path / "c.html")) == 2  # of other weights
    schema.write(copy / "eval-test.json", replace(document, confusions="damaged"))
    assert "the confusion matrices are damaged" in write_training_report(copy, tmp_path / "c.html")[0]
    (copy / "log.jsonl").unlink()
    missing = write_training_report(copy, tmp_path / "d.html")
    text = (tmp_path / "d.html").read_text()
    assert "log.jsonl does not exist" in missing[0] and "<svg" not in text
    assert "Epoch 2 of 3 was kept" in text and "is not over" not in text  # nothing says how far it came


def test_a_run_that_is_not_finished_has_its_curves(run: Path, tmp_path: Path, data: Data) -> None:
    folder = tmp_path / "going"
    folder.mkdir()
    lines = (run / "log.jsonl").read_text().splitlines()
    odd = ['{"step": 51, "epoch": 3, "loss": NaN}', '{"step": 52}', "[]", '{"step": 53, "ep']
    (folder / "log.jsonl").write_text("\n".join([*lines[:5], *odd]))
    write_training_report(folder, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "A run that is not finished" in text and text.count("cannot be read") == 4 and "NaN" not in text
    with pytest.raises(EdgesegError, match="has no weights yet"):
        write_training_report(folder, tmp_path / "b.html", data)
    (folder / "log.jsonl").unlink()
    with pytest.raises(EdgesegError, match="training has not written a line yet"):
        write_training_report(folder, tmp_path / "b.html")
    assert not (tmp_path / "b.html").exists()


def test_a_promptable_run_has_curves_and_no_classes(run: Path, tmp_path: Path, data: Data) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    schema.write(copy / "model.json", replace(read_card(copy), task="promptable"))
    lines = [line for line in (copy / "log.jsonl").read_text().splitlines() if "select" not in line]
    lines.append(json.dumps({"step": 75, "epoch": 3, "select": "val", "miou_1": 61.5, "miou_3": None}))
    (copy / "log.jsonl").write_text("\n".join(lines))
    missing = write_training_report(copy, tmp_path / "a.html")
    assert missing[0] == "classes and confusion: a promptable run has none"
    text = (tmp_path / "a.html").read_text()
    assert "after 1 click 61.5" in text and "<h2>Classes" not in text


def test_a_log_is_read_by_epochs(run: Path) -> None:
    log = read_log(run / "log.jsonl")
    assert [epoch for epoch, _ in log.series["loss"]] == pytest.approx([0.8, 1.0, 1.8, 2.0, 2.8, 3.0])
    assert list(log.series) == ["loss", "lr", "loss_kd"] and [score.epoch for score in log.scores] == [1, 2, 3]
    assert epoch_means([(0.8, 2.0), (1.0, 4.0), (1.8, 1.0)]) == [(1.0, 3.0), (1.8, 1.0)]


def test_what_a_run_says_is_text_and_never_markup(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    evil = "<script>alert(1)</script>"
    card = read_card(copy)
    schema.write(copy / "model.json", replace(card, class_names=[evil, *card.class_names[1:]], name=evil))
    write_training_report(copy, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "<script" not in text and text.count("&lt;script&gt;") > 2


def test_names_of_many_classes_do_not_touch_on_a_phone() -> None:
    names = [f"class number {index}" for index in range(40)]
    svg = str(confusion(np.eye(40, dtype=np.int64) * 9 + 1, names, PHONE))
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"', svg)
    rows = [float(y) for _, y, anchor in places if anchor == "end"]
    columns = [float(x) for x, _, anchor in places if anchor == "middle"]
    assert len(rows) == 40 and min(np.diff(rows)) >= 13
    assert len(columns) >= 10 and min(np.diff(columns)) >= 2 * LETTER
    assert float(re.findall(r'viewBox="0 0 (\d+)', svg)[0]) >= max(columns)


def test_small_sums() -> None:
    assert of_truth(np.array([[3, 1], [0, 0]]))[0].tolist() == [0.75, 0.25]
    assert np.isnan(of_truth(np.array([[3, 1], [0, 0]]))[1]).all()
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 2, 3], [9, 5, 5, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 2], [1, 2]) is None and rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert heat(np.array([[0.0, 1.0, np.nan]])).tolist() == [[[0, 0, 4], [252, 255, 164], [128, 128, 128]]]


def test_wrong_pixels_are_magenta_and_no_larger(html: str) -> None:
    shown = html.split("<h2>Highest loss")[1]
    name, wrong = re.search(r"<b>(\S+)</b>.*?([\d.]+)\N{NO-BREAK SPACE}% of the pixels wrong", shown).groups()  # type: ignore[union-attr]
    uri = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="Wrong', shown)[0]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")).astype(int)
    magenta = (np.abs(picture - np.array([255, 0, 230])) < 90).all(-1)
    assert 100 * magenta.mean() == pytest.approx(float(wrong), abs=8) and name


def test_from_the_command_line(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.html"
    assert main(["report", str(run), "-o", str(out), "--data", SPEC, "--split", "test", "--images", "0", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"report": str(out), "bytes": out.stat().st_size, "missing": []}
    assert "4 images of test" in out.read_text()
    assert main(["report", str(run), "-o", str(out)]) == 0
    assert "not drawn: confusion" in capfd.readouterr().err
    for words, says in (
        (["--data", f"regions:{SPEC}"], "is semantic, but"),
        (["--data", SPEC, "--split", "tset"], "did you mean test"),
        (["--split", "test"], "--split is a part of the data"),
        (["--max-p90-ms", "3"], "gates are for artifacts"),
    ):
        assert main(["report", str(run), "-o", str(out), *words]) == 1
        assert says in capfd.readouterr().err
    assert main(["report", str(tmp_path), "-o", str(out), "--data", SPEC]) == 1
    assert "are for the report of a run" in capfd.readouterr().err
