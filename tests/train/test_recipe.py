"""A recipe is what the file says, with what `--set` says on top; everything else is one clear line."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.losses import CrossEntropy, CrossEntropyLovasz, Ohem
from edgeseg.train.loop import make_optimizer, rate
from edgeseg.train.recipe import AdamW, Cosine, Poly, Recipe, Sgd, read_recipe


def test_nothing_said_is_the_default() -> None:
    assert read_recipe(None, []) == Recipe()


def test_a_file_is_read_and_set_goes_on_top(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("epochs: 7\noptimizer: {type: adamw, lr: 1e-3}\nloss: {type: ce}\nsize: [360, 480]\nema: null\n")
    recipe = read_recipe(file, ["epochs=9", "optimizer.weight_decay=0.5"])
    assert recipe.epochs == 9
    assert recipe.optimizer == AdamW(lr=1e-3, weight_decay=0.5)
    assert recipe.loss == CrossEntropy()
    assert recipe.size == (360, 480)
    assert recipe.ema is None


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ("optimizer.lr=0.02", "optimizer", Sgd(lr=0.02)),  # a group without a type is the default's
        ("optimizer.lr=2e-2", "optimizer", Sgd(lr=0.02)),
        ("optimizer.type=adamw", "optimizer", AdamW()),
        ("schedule.type=cosine", "schedule", Cosine()),
        ("schedule.power=1.0", "schedule", Poly(power=1.0)),
        ("loss.type=ce_lovasz", "loss", CrossEntropyLovasz()),
        ("loss.keep=0.5", "loss", Ohem(keep=0.5)),
        ("precision=bf16", "precision", "bf16"),
        ("class_weights=median_frequency", "class_weights", "median_frequency"),
    ],
)
def test_one_value_is_changed(change: str, name: str, value: Any) -> None:
    recipe = read_recipe(None, [change])
    assert getattr(recipe, name) == value
    assert {key for key, old in vars(Recipe()).items() if getattr(recipe, key) != old} == {name}


def test_a_recipe_comes_back_from_its_json() -> None:
    recipe = read_recipe(None, ["optimizer.type=adamw", "schedule.type=cosine", "loss.type=ce", "size=[64, 96]"])
    assert schema.parse(Recipe, schema.dump(recipe), "recipe") == recipe


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("epochs", "is not of the form name=value"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("epochs=many", "epochs should be .*, got 'many'"),
        ("epoch=3", "epoch is unknown here"),
        ("optimizer.speed=3", "speed"),
        ("optimizer.type=lion", "lion"),
        ("optimizer.lr=fast", "optimizer.lr should be .*, got 'fast'"),
        ("epochs.lr=3", "epochs should be "),
        ("size=[64]", "size"),
        ("size=[0, 96]", r"size is \(height, width\) in pixels"),
        ("ema=1.5", r"ema is a decay in \[0, 1\) or null, got 1.5"),
        ("loss.threshold=0", "threshold is in"),
        ("precision=fp8", "precision"),
        ("optimizer={lr: [", "is no YAML value"),
    ],
)
def test_what_does_not_fit_is_one_line(change: str, said: str) -> None:
    with pytest.raises(EdgesegError, match=said) as caught:
        read_recipe(None, [change])
    assert "\n" not in str(caught.value)


def test_a_value_is_no_group(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("epochs: 3\n")
    with pytest.raises(EdgesegError, match="epochs is a value, not a group"):
        read_recipe(file, ["epochs.x=1"])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"- 1\n- 2\n", "is not a mapping"), (b"a: [1", "cannot read recipe"), (b"\xff\xfe\xfa", "cannot read recipe")],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    with pytest.raises(EdgesegError, match=said) as caught:
        read_recipe(file, [])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match=r"cannot read recipe .*nothing\.yaml"):
        read_recipe(tmp_path / "nothing.yaml", [])


def test_poly_and_cosine() -> None:
    assert [Poly(power=2.0)(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.25, 0])
    assert [Cosine(final=0.2)(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.6, 0.2])


def test_the_rate_warms_up_and_falls() -> None:
    recipe = Recipe(epochs=10, warmup_epochs=2.0, schedule=Poly(power=1.0))
    rates = [rate(recipe, step, steps=5) for step in range(50)]
    assert rates[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
    assert rates[10] == 1
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(1 / 40)


def test_a_run_shorter_than_its_warmup_still_has_a_rate() -> None:
    recipe = Recipe(epochs=1, warmup_epochs=3.0)
    assert all(0 < rate(recipe, step, steps=4) < 1 for step in range(4))


def test_norms_and_biases_are_not_decayed() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    for options in (Sgd(weight_decay=0.3), AdamW(weight_decay=0.3)):
        decayed, spared = make_optimizer(net, options).param_groups
        assert [p.ndim for p in decayed["params"]] == [4]
        assert decayed["weight_decay"] == 0.3
        assert [p.ndim for p in spared["params"]] == [1, 1, 1]
        assert spared["weight_decay"] == 0


@pytest.mark.parametrize("options", [Sgd(lr=-1.0), Sgd(momentum=0.0, nesterov=True), AdamW(betas=(2.0, 0.9))])
def test_an_optimizer_that_cannot_work_is_one_line(options: Sgd | AdamW) -> None:
    with pytest.raises(EdgesegError, match="recipe: optimizer: "):
        make_optimizer(torch.nn.Conv2d(3, 4, 3), options)
