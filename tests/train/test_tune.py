"""The search for a recipe: on data of two steps, with the loop as it is; what is random is the search's own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from edgeseg.cli import main
from edgeseg.cli.tune import _next, weighed
from edgeseg.data import load_data
from edgeseg.errors import EdgesegError
from edgeseg.runs import read_card
from edgeseg.train.loop import Interrupted, Trainer
from edgeseg.train.recipe import Recipe, read_recipe
from edgeseg.train.teaching import Teaching
from edgeseg.train.teaching.logits import Cwd, Kd
from edgeseg.train.tune import STUDY, Choice, Range, Space, Trial, best_of, tune

optuna = pytest.importorskip("optuna", reason="the extra `tune` is not installed")

DATA = "synthetic:size=64x64,train=8,val=2,test=2"
SPACE: Space = {"optimizer.lr": Range(1e-4, 1.0), "loss.type": Choice(("ce", "ohem"))}
FIRST = {"optimizer.lr": 0.01, "loss.type": "ohem"}


class Trained:
    """Instead of a trainer: the score is known beforehand, the nearer the rate to 0.03 the better, and rises with the epochs."""

    made: ClassVar[list[Recipe]] = []
    stop_at: ClassVar[int | None] = None

    def __init__(self, name: str, data: Any, out: Path, recipe: Recipe, scored: Any, check: bool) -> None:
        self.out, self.recipe, self.scored = out, recipe, scored
        assert check == (not self.made)  # once is enough
        self.state = self
        self.best_miou = 0.0

    def run(self, resume: bool) -> None:
        if len(self.made) == Trained.stop_at:
            raise Interrupted("stopped; go on with --resume")
        self.made.append(self.recipe)
        rate = self.recipe.optimizer.lr
        for epoch in range(1, 4):
            self.best_miou = 10 * epoch * min(rate / 0.03, 0.03 / rate) + (self.recipe.loss.type == "ce")
            self.scored(epoch, self.best_miou)
        self.out.mkdir(parents=True)
        (self.out / "rate").write_text(str(rate), encoding="utf-8")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> type[Trained]:
    monkeypatch.setattr("edgeseg.train.tune.Trainer", Trained)
    Trained.made, Trained.stop_at = [], None
    return Trained


def build(values: Mapping[str, Any]) -> Recipe:
    return read_recipe(None, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def search(out: Path, trials: int, space: Space = SPACE) -> list[Trial]:
    return tune("lraspp_mobilenet_v3_small", load_data(DATA), out, build, space, FIRST, trials)


def test_it_begins_with_the_recipe_s_own_values_and_finds_better_ones(known: type[Trained], tmp_path: Path) -> None:
    ended = search(tmp_path, 25)
    assert ended[0].values == FIRST
    assert [trial.number for trial in ended] == list(range(25))
    best = best_of(ended)
    assert best.value is not None and best.value > 1.5 * (ended[0].value or 0)
    assert best.value == max(trial.value or 0 for trial in ended if trial.state == "COMPLETE")
    assert float((tmp_path / "best" / "rate").read_text()) == best.values["optimizer.lr"]
    assert not (tmp_path / "trial").exists()


def test_what_falls_behind_ends_early(known: type[Trained], tmp_path: Path) -> None:
    ended = search(tmp_path, 25)
    pruned = [trial for trial in ended if trial.state == "PRUNED"]
    assert pruned
    assert all(trial.epochs < 3 for trial in pruned)
    assert all(trial.epochs == 3 for trial in ended if trial.state == "COMPLETE")


def test_a_search_that_was_stopped_goes_on(known: type[Trained], tmp_path: Path) -> None:
    known.stop_at = 3
    with pytest.raises(Interrupted, match="stopped in trial 4; the same command goes on"):
        search(tmp_path, 6)
    running = optuna.load_study(
        study_name="tune",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / STUDY))),
    ).trials[-1]
    assert running.state.name == "RUNNING"
    known.stop_at, before = None, len(known.made)
    known.made.clear()
    ended = search(tmp_path, 6)
    assert len(ended) == 6
    assert (before, len(known.made)) == (3, 3)  # what ended before was not tried again
    assert running.params in [trial.values for trial in ended]  # and the one that was cut off was
    assert search(tmp_path, 6) == ended
    assert len(known.made) == 3


def test_a_search_for_something_else_is_refused(known: type[Trained], tmp_path: Path) -> None:
    search(tmp_path, 1)
    with pytest.raises(EdgesegError, match="holds a search with another space; go on with the same"):
        search(tmp_path, 2, {"optimizer.lr": Range(1e-3, 1.0)})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / STUDY).write_text("no study\nat all\n", encoding="utf-8")
    with pytest.raises(EdgesegError, match="is no study that can be gone on with"):
        search(tmp_path / "other", 1)


def test_a_rate_that_is_too_high_is_an_ended_trial_and_not_the_end(tmp_path: Path) -> None:
    def wild(values: Mapping[str, Any]) -> Recipe:
        return read_recipe(
            None,
            [
                "batch=4",
                "workers=0",
                "epochs=3",
                "warmup_epochs=0",
                "clip=null",
                f"optimizer.lr={values['optimizer.lr']}",
            ],
        )

    data, space = load_data(DATA), {"optimizer.lr": Range(1e25, 1e30)}
    ended = tune("lraspp_mobilenet_v3_small", data, tmp_path, wild, space, {"optimizer.lr": 1e28}, 1)
    assert [trial.state for trial in ended] == ["PRUNED"]
    with pytest.raises(EdgesegError, match="none of 1 trials came to its end"):
        best_of(ended)


def test_weights_of_losses_are_searched() -> None:
    teaching = Teaching("runs/x", "0", losses=(Kd(), Cwd(temperature=2.0)))
    made = weighed(teaching, {"losses.cwd.weight": 7.0, "losses.kd.temperature": 3.0, "optimizer.lr": 1.0})
    assert made.losses == (Kd(temperature=3.0), Cwd(weight=7.0, temperature=2.0))


def test_the_verb(tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tuned"
    words = (
        f"tune lraspp_mobilenet_v3_small --data {DATA} --out {out} --trials 2 --epochs 1 --json --loss kd:temperature=2"
    )
    more = f"--teacher {tiny_run} --set batch=4 --set workers=0 --set norm_batches=0"
    assert main([*words.split(), *more.split()]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["trials"][0]["values"] == {"optimizer.lr": 0.01, "losses.kd.weight": 1.0}
    card = read_card(out / "best")
    assert card.training is not None
    assert card.training.select_miou == document["best"]["value"]
    recipe = yaml.safe_load((out / "best.yaml").read_text(encoding="utf-8"))
    assert recipe["optimizer"]["lr"] == document["best"]["values"]["optimizer.lr"]
    assert "teaching" not in recipe and "epochs" not in recipe
    found = f"kd:temperature=2:weight={document['best']['values']['losses.kd.weight']:.4g}"
    assert document["next"].startswith(
        f"edgeseg distill lraspp_mobilenet_v3_small --teacher {tiny_run} --loss {found} --data"
    )
    # what it says works: the recipe is one
    Trainer(
        "lraspp_mobilenet_v3_small", load_data(DATA), tmp_path / "run", read_recipe(out / "best.yaml", ["epochs=1"])
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--search", "optimizer.lr"), "'optimizer.lr' is not of the form name=value"),
        (("--search", "optimizer.lr=3..1"), "a range goes from a number above 0 to a larger one"),
        (("--search", "optimizer.lr=a..b"), "is neither LOW..HIGH nor values"),
        (("--search", "optimizer.rate=1e-3..1"), "the recipe has no 'rate' there; it has type, lr"),
        (("--search", "losses.cwd.weight=1..2"), "the recipe has no 'losses' there"),
    ],
)
def test_mistakes_are_one_line(
    words: tuple[str, str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "lraspp_mobilenet_v3_small", "--data", DATA, "--out", str(tmp_path / "x"), *words]) == 1
    err = " ".join(capfd.readouterr().err.split())
    assert said in err
    assert "Traceback" not in err


def test_the_next_command_says_all_that_the_search_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.cli.tune.TRUSTED", ["my.networks"])
    also = {
        "--class-map": "truck=car",
        "--unlabelled": "camvid:my photos",
        "--teacher-weights": None,
        "--unlabelled-batch": 2,
    }
    values = {"losses.align.theirs": "layer3", "losses.kd.weight": 0.25, "optimizer.lr": 0.1}
    line = _next("ddrnet23_slim", "camvid:x", Path("out"), "runs/t", "kd:temperature=2,align:theirs=2", values, also)
    assert shlex.split(line) == [
        "edgeseg", "--trust", "my.networks", "distill", "ddrnet23_slim", "--teacher", "runs/t",
        "--loss", "kd:temperature=2:weight=0.25,align:theirs=layer3",
        "--class-map", "truck=car", "--unlabelled", "camvid:my photos", "--unlabelled-batch", "2",
        "--data", "camvid:x", "--recipe", "out/best.yaml", "--out", "RUN",
    ]  # fmt: skip
