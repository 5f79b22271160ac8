"""Runs on the Hub, without a network: the card, what is uploaded, and what comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
import torch

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.evaluate import evaluate
from edgeseg.hub import _offline, from_pretrained, model_card, push_to_hub
from edgeseg.runs import read_card


@pytest.fixture
def run(tiny_run: Path, tiny_data: Data, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    student = es.load(folder)
    evaluate(folder, student, read_card(folder).sha256, tiny_data, "test", "run")
    return folder


def test_the_card_says_what_was_measured(run: Path) -> None:
    text = model_card(run)
    header = json.loads(text.split("---")[1])
    assert header["library_name"] == "edgeseg"
    assert header["pipeline_tag"] == "image-segmentation"
    measured = json.loads((run / "eval-test.json").read_text())["score"]["miou"]
    assert header["model-index"][0]["results"][0]["metrics"][0]["value"] == round(measured, 2)
    assert f"| synthetic | test | 8 | mIoU | {round(measured, 2)} % |" in text
    assert "1 epoch on `synthetic`" in text
    assert str(run) not in text


def test_figures_of_other_weights_are_left_out(run: Path) -> None:
    document = json.loads((run / "eval-test.json").read_text())
    (run / "eval-test.json").write_text(json.dumps({**document, "sha256": "0" * 64}))
    assert "Nothing yet" in model_card(run)


class Api:
    """What would be sent."""

    sent: ClassVar[list[str]] = []
    contents: ClassVar[dict[str, bytes]] = {}

    def __init__(self, token: str | None) -> None:
        assert token == "secret"

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> None:
        if repo == "nobody/nothing":
            raise OSError("no right to write there\nand more")

    def upload_folder(self, repo_id: str, folder_path: str, allow_patterns: list[str]) -> str:
        folder = Path(folder_path)
        found = sorted(path for pattern in allow_patterns for path in folder.glob(pattern))
        Api.sent = [path.name for path in found]
        Api.contents = {path.name: path.read_bytes() for path in found}
        return f"https://hub/{repo_id}"


def test_pushing_sends_the_run_and_nothing_else(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push_to_hub(run, "me/tiny", token="secret") == "https://hub/me/tiny"
    assert Api.sent == ["README.md", "eval-test.json", "model.json", "model.safetensors"]
    student = es.load(run)
    assert not isinstance(student, Artifact)
    push_to_hub(student, "me/tiny", token="secret")
    assert Api.sent == ["README.md", "model.json", "model.safetensors"]
    with pytest.raises(EdgesegError, match="cannot push to nobody/nothing: no right to write there; log in") as caught:
        push_to_hub(run, "nobody/nothing", token="secret")
    assert "\n" not in str(caught.value)


def test_paths_of_a_disk_stay_here(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    secret = "/home/ann/customer-x"
    card = json.loads((run / "model.json").read_text())
    card["training"]["data"] = f"camvid:{secret}"
    card["training"]["recipe"]["teaching"] = {
        "teacher": "customer-x",
        "sha256": "0" * 64,
        "weights": f"{secret}/teacher.pth",
        "unlabelled": "customer-x",
        "more": [f"camvid:{secret}", "customer-x/photos", "~ann", "C:\\ann\\photos", "smp:unet", 3, None],
    }
    (run / "model.json").write_text(json.dumps(card))
    evaluation = json.loads((run / "eval-test.json").read_text())
    (run / "eval-test.json").write_text(json.dumps({**evaluation, "data": f"camvid:{secret}"}))
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    push_to_hub(run, "me/tiny", token="secret")
    assert all((run / name).read_bytes() == content for name, content in before.items())
    assert not any(word in content for content in Api.contents.values() for word in (b"customer-x", b"/home", b"ann/"))
    for name, content in Api.contents.items():
        (tmp_path / "pulled").mkdir(exist_ok=True)
        (tmp_path / "pulled" / name).write_bytes(content)
    training = read_card(tmp_path / "pulled").training
    assert training is not None
    assert training.data == "camvid"
    assert training.recipe["teaching"] == {
        "teacher": "run",
        "sha256": "0" * 64,
        "weights": "file",
        "unlabelled": "folder",
        "more": ["camvid", "(a path)", "(a path)", "(a path)", "smp:unet", 3, None],
    }
    assert training.recipe["optimizer"] == card["training"]["recipe"]["optimizer"]
    assert es.from_pretrained(tmp_path / "pulled").name == "ddrnet23_slim"
    assert "| camvid | test |" in model_card(tmp_path / "pulled")
    for teacher in ("ema", "none", "package.module:factory"):
        card["training"]["recipe"]["teaching"]["teacher"] = teacher
        (run / "model.json").write_text(json.dumps(card))
        push_to_hub(run, "me/tiny", token="secret")
        assert json.loads(Api.contents["model.json"])["training"]["recipe"]["teaching"]["teacher"] == teacher


def test_a_card_that_was_edited_stays(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    push_to_hub(run, "me/tiny", token="secret")
    (run / "eval-test.json").unlink()
    push_to_hub(run, "me/tiny", token="secret")  # as edgeseg wrote it: written anew
    assert b"Nothing yet" in Api.contents["README.md"]
    mine = (run / "README.md").read_text().replace("The weights carry", "Only for research. The weights carry")
    for text in (mine, f"{model_card(run)}Only for research.\n", "", "mine"):
        (run / "README.md").write_text(text)
        push_to_hub(run, "me/tiny", token="secret")
        assert Api.contents["README.md"].decode() == (run / "README.md").read_text() == text
        assert main(["card", str(run)]) == 1
        assert "README.md was edited and would be written over; move it away, or give --force" in capfd.readouterr().err
        assert (run / "README.md").read_text() == text
    assert main(["card", str(run), "--force"]) == 0
    assert (run / "README.md").read_text() == model_card(run)
    assert main(["card", str(run)]) == 0


def test_what_was_pushed_comes_back(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, **options: Any) -> str:
        if repo != "me/tiny":
            raise huggingface_hub.errors.HFValidationError("no such name")
        assert not any(name.endswith((".bin", ".pth", ".py")) for name in options["allow_patterns"])
        return str(run)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    wanted = es.load(run)
    assert not isinstance(wanted, Artifact)
    for got in (es.from_pretrained("me/tiny"), es.from_pretrained(run)):
        assert all(torch.equal(a, b) for a, b in zip(got.parameters(), wanted.parameters(), strict=True))
    with pytest.raises(EdgesegError, match="cannot get no:name: no such name; give user/name"):
        es.from_pretrained("no:name")


def test_no_network_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the HTTP library below the Hub's client calls it."""
    kinds = _offline()
    assert kinds
    for kind in kinds:

        def fail(*_: object, kind: type[Exception] = kind, **__: object) -> None:
            raise kind("Name or service not known")

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(EdgesegError, match="cannot push to me/x: Name or service not known"):
            push_to_hub(run, "me/x")
        with pytest.raises(EdgesegError, match="cannot get me/x: Name or service not known"):
            from_pretrained("me/x")
