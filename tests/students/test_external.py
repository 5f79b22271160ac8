"""Somebody else's network goes the whole way: built, trained, stored, exported with proof."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import edgeseg as es
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.export import OnnxRuntime, OpenVino
from edgeseg.runs import load_run
from edgeseg.train.loop import Trainer
from edgeseg.train.recipe import read_recipe


class Plain(nn.Module):
    """A user's network, which needs sides of multiples of 4 and says nothing about it."""

    def __init__(self, classes: int, wrapped: bool = False) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.up = nn.ConvTranspose2d(8, classes, 4, 4)
        self.skip = nn.Conv2d(3, classes, 1)
        self.wrapped = wrapped

    def forward(self, image: Tensor) -> Any:
        made = self.up(self.down(image)) + self.skip(image)
        return {"out": made} if self.wrapped else made


def plain(classes: int) -> nn.Module:
    return Plain(classes)


def wrapped(classes: int) -> nn.Module:
    return Plain(classes, wrapped=True)


def wrong(classes: int) -> nn.Module:
    return Plain(classes + 1)


def text(classes: int) -> str:
    return "no network"


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small random configuration."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("segformer")
    transformers.SegformerConfig(
        hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_attention_heads=[1, 1, 2, 2]
    ).save_pretrained(folder)
    return f"transformers:{folder}"


TIMM = "timm:mobilenetv3_small_050"


@pytest.mark.parametrize("factory", ["plain", "wrapped", "segformer", TIMM])
@pytest.mark.slow
def test_the_whole_way(factory: str, segformer: str, tiny_data: Data, tmp_path: Path) -> None:
    name = {"segformer": segformer, TIMM: TIMM}.get(factory, f"{__name__}:{factory}")
    recipe = read_recipe(None, ["epochs=1", "batch=4", "workers=0", "ema=null"])
    run = Trainer(name, tiny_data, tmp_path / "run", recipe).run(resume=False)
    student = load_run(run)
    assert student.name == name
    assert student.multiple == (4 if name.startswith(__name__) else 1)
    assert student.predict(np.zeros((33, 41, 3), np.uint8)).shape == (33, 41)
    for target in (OnnxRuntime(), OpenVino()):
        artifact = es.export_model(student, target, tmp_path / target.name, (64, 96), ("pre", "labels"), data=tiny_data)
        assert artifact.manifest.ledger is not None
        assert artifact.manifest.ledger.passed


def test_what_is_no_network_is_one_clear_line() -> None:
    for name, said in {
        f"{__name__}:wrong": r"must give logits \[B, 3, h, w\], got \[1, 4, ",
        f"{__name__}:text": r"must give a torch.nn.Module, got str",
        f"{__name__}:missing": "no factory",
        "no.such.module:net": "no factory 'no.such.module:net'",
        "transformers:/no/such/folder": "transformers cannot build",
    }.items():
        with pytest.raises(EdgesegError, match=said) as caught:
            es.create(name, classes=3)
        assert "\n" not in str(caught.value)
    with pytest.raises(EdgesegError, match="say how many classes"):
        es.create(f"{__name__}:plain")


def test_a_run_from_a_file_does_not_import_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nPath(__file__).with_name('ran').touch()\n"
        "def net(classes):\n    return nn.Conv2d(3, classes, 1)\n"
    )
    make = "import edgeseg as es; es.save(es.create('trap:net', classes=2), 'run', size=(64, 64))"
    ask = "import edgeseg as es; es.load('run')"
    trusting = "import edgeseg as es; es.load('run', trust=True)"
    for code, passes, runs in ((make, True, True), (ask, False, False), (trusting, True, True)):
        (tmp_path / "ran").unlink(missing_ok=True)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == passes, done.stderr
        assert (tmp_path / "ran").exists() == runs
    assert (
        "would import trap, which runs its code" in done.stderr or "trap" in (tmp_path / "run/model.json").read_text()
    )
