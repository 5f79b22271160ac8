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

    def __init__(self, token: str | None) -> None:
        assert token == "secret"

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> None:
        if repo == "nobody/nothing":
            raise OSError("no right to write there\nand more")

    def upload_folder(self, repo_id: str, folder_path: str, allow_patterns: list[str]) -> str:
        folder = Path(folder_path)
        Api.sent = sorted(path.name for pattern in allow_patterns for path in folder.glob(pattern))
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
