"""What people get wrong: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.artifact import Artifact
from edgeseg.cli import main
from tests.conftest import TINY


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A small labelled folder that is sound: 4 images and masks to train on, 2 to select by."""
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            for kind in ("images", "masks"):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(index).integers(0, 255, (64, 96, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / "images" / f"{index}.jpg")
            Image.fromarray(pixels[..., 0] // 86).save(tmp_path / split / "masks" / f"{index}.png")
    return tmp_path


def fails(capfd: pytest.CaptureFixture[str], *words: object, code: int = 1) -> str:
    """Run a command that must fail with `code` and one error line; that line."""
    capfd.readouterr()
    got = main([str(word) for word in words])
    err = capfd.readouterr().err
    assert got == code, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    return err[err.index("error:") :]


def spoil(photos: Path, what: str) -> None:
    """Break one thing in the folder."""
    image, mask = photos / "train" / "images" / "1.jpg", photos / "train" / "masks" / "1.png"
    match what:
        case "corrupt jpeg":
            image.write_bytes(image.read_bytes()[:400])
        case "colour mask":
            Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(mask)
        case "16-bit mask out of range":
            Image.fromarray(np.full((64, 96), 700, np.uint16)).save(mask)
        case "sizes differ":
            Image.fromarray(np.zeros((32, 96), np.uint8)).save(mask)
        case "empty folder":
            shutil.rmtree(photos / "train" / "images")
            (photos / "train" / "images").mkdir()
        case "mask missing":
            mask.unlink()


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("corrupt jpeg", r"1.jpg"),
        ("colour mask", "1.png"),
        ("16-bit mask out of range", "700"),
        ("sizes differ", "96x64 but its mask|64x96 but its mask|32x96"),
        ("empty folder", "train"),
        ("mask missing", "1.jpg|1 has no"),
    ],
)
def test_a_data_set_is_checked_before_training(
    photos: Path, capfd: pytest.CaptureFixture[str], what: str, line: str
) -> None:
    spoil(photos, what)
    said = fails(capfd, "train", "ddrnet23_slim", "--data", f"folder:{photos}", "--out", photos / "run")
    assert any(part in said for part in line.split("|")), said
    assert not (photos / "run").exists()


def test_palette_and_16_bit_masks_are_taken_as_ids(photos: Path) -> None:
    for index, mode in ((0, "P"), (1, "16")):
        mask = photos / "train" / "masks" / f"{index}.png"
        ids = np.asarray(Image.open(mask))
        if mode == "P":
            image = Image.fromarray(ids, "P") if sys.version_info < (3, 10) else Image.fromarray(ids).convert("P")
            image = Image.new("P", (96, 64))
            image.putdata(ids.ravel().tolist())
            image.putpalette([7, 8, 9, 200, 10, 10, 3, 3, 3])
            image.save(mask)
        else:
            Image.fromarray(ids.astype(np.uint16)).save(mask)
    from edgeseg.data import load_data

    train = load_data(f"folder:{photos}").split("train")
    for index in (0, 1):
        assert set(np.unique(train[index][1])) <= {0, 1, 2}


TRAIN = ("train", "ddrnet23_slim", "--data", TINY, "--out")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("train", "ddrnet_slim", "--data", TINY, "--out", "x"), "did you mean ddrnet23"),
        (("info", "drnet23"), "did you mean ddrnet23"),
        (("trian", "x"), "Did you mean"),
        ((*TRAIN, "x", "--size", "65x96"), "pad to 72x96"),
        ((*TRAIN, "x", "--size", "64"), "HEIGHTxWIDTH"),
        ((*TRAIN, "x", "--set", "optimizer.rate=1"), "optimizer"),
        ((*TRAIN, "x", "--set", "epochs"), "name=value"),
        ((*TRAIN, "x", "--set", "loss.type=focal"), "loss"),
        ((*TRAIN, "x", "--recipe", "nowhere.yaml"), "nowhere.yaml"),
        ((*TRAIN, "x", "--resume"), "no checkpoint"),
        (("train", "ddrnet23_slim", "--data", "camvit:x", "--out", "x"), "did you mean camvid"),
        (("train", "ddrnet23_slim", "--data", "camvid:/nowhere", "--out", "x"), "/nowhere"),
        (("eval", "/nowhere", "--data", TINY), "does not exist"),
        (("bench", "/nowhere"), "does not exist"),
        (("verdict", "/nowhere"), "not a folder"),
        (("export", "/nowhere", "--to", "onnx", "--out", "x"), "not a run"),
        (("models", "--task", "panoptic"), "semantic and promptable"),
        (("train", "ddrnet23_slim", "--out", "x"), "--data"),
    ],
)
def test_one_line_says_what_and_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert line in fails(capfd, *words)
    assert list(tmp_path.iterdir()) == []  # nothing was left behind


def test_json_errors_are_documents(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "nobody", "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["exit_code"] == 1


@pytest.fixture
def artifact(tmp_path: Path, tiny_artifacts: dict[str, Artifact]) -> Path:
    """An artifact that may be damaged."""
    return shutil.copytree(tiny_artifacts["onnxruntime"].folder, tmp_path / "artifact")


def test_a_changed_file_is_noticed_by_every_verb(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (artifact / "model.onnx").open("ab") as file:
        file.write(b"x")
    for verb in (("eval", artifact, "--data", TINY), ("bench", artifact), ("verify", artifact), ("info", artifact)):
        assert "was changed after export" in fails(capfd, *verb)


def test_a_manifest_does_not_lead_out_of_its_folder(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"][0]["path"] = "../../etc/passwd"
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    assert "leaves its folder" in fails(capfd, "info", artifact)


@pytest.mark.parametrize("part", [0, 0.5])
def test_a_cut_manifest_is_one_line(artifact: Path, capfd: pytest.CaptureFixture[str], part: float) -> None:
    text = (artifact / "manifest.json").read_text()
    (artifact / "manifest.json").write_text(text[: int(len(text) * part)])
    assert "is not JSON" in fails(capfd, "verify", artifact)


def test_a_cut_checkpoint_is_one_line(tmp_path: Path, tiny_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "SHA-256 differs" in fails(capfd, "eval", run, "--data", TINY)
    (run / "model.json").write_text('{"schema": 1}')
    assert "model.json" in fails(capfd, "eval", run, "--data", TINY)


def test_options_that_do_not_fit(
    tiny_run: Path, artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export = ("export", tiny_run, "--out", tmp_path / "out", "--to")
    assert "did you mean openvino" in fails(capfd, *export, "openvno")
    assert "onnxruntime: precision should be 'fp32', 'fp16', 'int8', 'w8a16' or 'w8a32'" in fails(
        capfd, *export, "onnx", "--precision", "int3"
    )
    assert "cannot bake" in fails(capfd, *export, "onnx", "--bake", "pre,softmax")
    assert "pad to 72x96" in fails(capfd, *export, "onnx", "--size", "65x96")
    assert not (tmp_path / "out").exists()
    assert "did you mean" in fails(capfd, "bench", artifact, "--protocol", "quik")
    assert "size built in" in fails(capfd, "bench", artifact, "--size", "32x32")
    assert "local" in fails(capfd, "bench", artifact, "-d", "nobody", code=5)
    assert "takes an artifact" in fails(capfd, "verify", tiny_run)
    assert "10 classes" in fails(
        capfd, "eval", artifact, "--data", f"folder:{_two_classes(tmp_path)}", "--split", "train"
    )


def _two_classes(place: Path) -> Path:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (place / "two" / split / kind).mkdir(parents=True)
        Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(place / "two" / split / "images" / "a.png")
        ids = np.zeros((64, 96), np.uint8)
        ids[:9] = 1
        Image.fromarray(ids).save(place / "two" / split / "masks" / "a.png")
    return place / "two"


def test_predict_names_the_file_it_cannot_read(
    artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shown"
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    (tmp_path / "b.mp4").write_bytes(b"not a video" * 100)
    assert "a.jpg" in fails(capfd, "predict", artifact, tmp_path / "a.jpg", "-o", out)
    assert "b.mp4" in fails(capfd, "predict", artifact, tmp_path / "b.mp4", "-o", out)
    (tmp_path / "other").mkdir()
    assert "would both be written as" in fails(
        capfd, "predict", artifact, tmp_path / "a.jpg", tmp_path / "other" / "a.png", "-o", out
    )
    assert "none.jpg does not exist" in fails(capfd, "predict", artifact, tmp_path / "none.jpg", "-o", out)
    assert not out.exists() or not list(out.iterdir())


def test_a_missing_extra_is_the_line_that_installs_it(
    artifact: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = fails(capfd, "export", tiny_run, "--to", "onnx", "--out", tmp_path / "out", code=5)
    assert "pip install 'edgeseg[onnx]'" in said
    assert fails(capfd, "eval", artifact, "--data", TINY, code=5).count("pip install") == 1


def test_an_output_that_cannot_be_written(tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("I am a file")
    for words in (
        ("export", tiny_run, "--to", "onnx", "--out", tmp_path / "file"),
        ("report", tiny_run, "-o", tmp_path / "file" / "page.html"),
        ("train", "ddrnet23_slim", "--data", TINY, "--out", tmp_path / "file" / "run", "--epochs", "1"),
    ):
        assert str(tmp_path / "file") in fails(capfd, *words)
    assert (tmp_path / "file").read_text() == "I am a file"
