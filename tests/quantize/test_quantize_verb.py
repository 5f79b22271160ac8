"""`edgeseg quantize`: artifacts in whole numbers, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.cli.export import folder_name
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.export import OnnxRuntime
from edgeseg.quantize.model import quantize_model
from edgeseg.runs import load_run
from edgeseg.runtimes.farm.exports import Exports
from tests.cli.test_bad_input import fails
from tests.conftest import TINY
from tests.quantize import networks
from tests.quantize.conftest import SIZE


def test_a_run_becomes_integer(
    taught_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--to", "onnx", "--calib", TINY, "--images", "6", "--ranges", "percentile", "--keep", "net.stem", "--json"]
    trust = ["--trust", networks.__name__]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the process that exports, like those of the tests
    code = main([*trust, "quantize", str(taught_run), *words, "--data", TINY, "--out", str(tmp_path)])
    captured = capfd.readouterr()
    assert code == 0, captured.err
    (document,) = json.loads(captured.out)
    assert document["precision"] == {"asked": "int8", "executed": "int8"}
    assert document["calibration"]["count"] == 6
    assert document["ledger"]["hops"][0]["name"] == "student -> graph"
    assert all(hop["passed"] for hop in document["ledger"]["hops"])
    artifact = Artifact.open(tmp_path / "onnxruntime-int8")
    assert artifact.manifest.source.run == str(taught_run)
    made = json.loads((artifact.folder / "quantization.json").read_text())
    assert (made["recipe"]["ranges"], made["recipe"]["keep"]) == ("percentile", ["net.stem"])
    assert made["float_layers"] == ["net.head", "net.stem.0"]
    assert [path.name for path in tmp_path.iterdir()] == ["onnxruntime-int8"]


def test_the_size_that_is_asked_for_is_taken(taught_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr("edgeseg.cli.quantize._once", lambda base, *_: sizes.append(base.size))
    words = ["quantize", str(taught_run), "--to", "onnx", "--calib", TINY, "--images", "1", "--out", "out"]
    for more in ([], ["--size", "32x48"]):
        assert main(["--trust", networks.__name__, *words, *more]) == 0
    assert sizes == [(64, 96), (32, 48)]


def test_w8a8_is_int8_and_help_offers_nothing_that_no_target_does(
    taught_run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        "edgeseg.cli.quantize._once", lambda _, targets, *__: made.extend(map(folder_name, targets, [None] * 9))
    )
    words = ["quantize", str(taught_run), "--to", "onnx", "--calib", TINY, "--images", "1", "--out", "out"]
    assert main(["--trust", networks.__name__, *words, "--precision", "w8a8,int8,w8a32"]) == 0
    assert made == ["onnxruntime-int8", "onnxruntime-w8a32"]
    w8a8: Any = "w8a8"
    assert OnnxRuntime(w8a8) == OnnxRuntime("int8")
    assert Exports(["a"], ["onnx"], ["fp32", "w8a8", "int8"], calib="synthetic").precision == ["fp32", "int8"]
    with pytest.raises(EdgesegError, match="int8 takes calibration images"):
        Exports(["a"], ["onnx"], ["w8a8"])
    capfd.readouterr()
    assert main(["quantize", "--help"]) == 0
    assert "w8a16" not in capfd.readouterr().out


QUANTIZE = ("quantize", "RUN", "--calib", TINY, "--out", "out", "--to")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*QUANTIZE, "ncnn"), "ncnn cannot be quantized for here; it can be exported as fp32 or fp16. There is onnxru"),
        (
            (*QUANTIZE, "executorch", "--precision", "w8a32"),
            "executorch has no w8a32; it can do int8, and fp32 and fp16",
        ),
        ((*QUANTIZE, "onnx", "--precision", "int8,w8a16"), "onnxruntime has no w8a16; it can do int8, w8a32"),
        ((*QUANTIZE, "onnx", "--precision", "int4"), "int4"),
        (
            (*QUANTIZE, "onnx", "--precision", "fp16", "--images", "1"),
            "onnxruntime fp16 is no quantized precision; use export",
        ),
        (("quantize", "RUN", "--out", "out", "--to", "onnx"), "Missing option '--calib'"),
        (
            (*QUANTIZE, "onnx", "--images", "25"),
            "has 24 images, 25 are to be calibrated on; ask for fewer with --images",
        ),
        ((*QUANTIZE, "onnx", "--images", "0"), "--images"),
        ((*QUANTIZE, "onnx", "--split", "test"), "[test] is what results are reported on; calibrate on train or val"),
        ((*QUANTIZE, "onnx", "--split", "fit"), "no split of"),
        ((*QUANTIZE, "onnx", "--ranges", "median"), "--ranges"),
        (
            (*QUANTIZE, "onnx", "--images", "1", "--keep", "net.sied"),
            "no module 'net.sied' to keep in float; near ones: net.side",
        ),
        (("quantize", "RUN", "--calib", "synthetic_objects", "--out", "out", "--to", "onnx"), "is semantic, but"),
        (("quantize", "/nowhere", "--calib", TINY, "--out", "out", "--to", "onnx"), "/nowhere is not a run"),
    ],
)
def test_what_cannot_be_is_one_line(
    taught_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in fails(capfd, *(str(taught_run) if word == "RUN" else word for word in words))
    assert list(tmp_path.iterdir()) == []


def test_the_test_images_of_the_evaluation_data_are_none_to_calibrate_on(
    taught_run: Path,
    tiny_data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for split, source in (
        ("train", "test"),
        ("val", "val"),
    ):  # what another data set is tested on is trained on in this one
        for kind in ("images", "masks"):
            (tmp_path / "own" / split / kind).mkdir(parents=True)
        for index, pair in enumerate(tiny_data.split(source)[at] for at in range(3)):
            for kind, array in zip(("images", "masks"), pair, strict=True):
                Image.fromarray(array).save(tmp_path / "own" / split / kind / f"{index}.png")
    classes = [{"id": index, "name": name} for index, name in enumerate(tiny_data.class_names)]
    (tmp_path / "own" / "classes.json").write_text(json.dumps({"classes": classes}))
    words = ["quantize", str(taught_run), "--to", "onnx", "--calib", "folder:own", "--images", "2", "--out", "out"]
    assert "2 of the calibration images are test images of synthetic" in fails(capfd, *words, "--data", TINY)
    with pytest.raises(EdgesegError, match="2 of the calibration images are test images of synthetic"):
        quantize_model(load_run(taught_run), OnnxRuntime("int8"), "folder:own", "out", SIZE, 2, data=tiny_data)
    assert not (tmp_path / "out").exists()


def test_what_images_lack_is_said(taught_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    without = "synthetic:size=64x64,train=1,val=1,test=1,seed=1"
    words = ["--to", "onnx", "--calib", without, "--images", "1", "--keep", "nothing", "--json"]
    assert main(["quantize", str(taught_run), *words, "--out", str(tmp_path / "out")]) == 1
    captured = capfd.readouterr()
    assert "note: no calibration image shows marking: " in captured.err
    assert "note: calibration images of 64x64 are stretched to 64x96: " in captured.err
    assert json.loads(captured.out)["exit_code"] == 1
