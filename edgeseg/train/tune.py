"""A search for the learning rate, the weights of losses and other values of a recipe, by short trials on a held-out block.

Every trial is a run of the same loop, scored on the data set's selection split, which is neither learned from nor the test split.
Trials that are behind the median of the others at the same epoch, and those whose loss is no number any more, end early. The study
is a file of JSON lines: a search that is stopped goes on from it, and begins an unfinished trial anew.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from edgeseg import schema
from edgeseg.data.base import Data
from edgeseg.errors import EdgesegError, need
from edgeseg.train.loop import Diverged, Interrupted, Trainer
from edgeseg.train.recipe import Recipe

STUDY = "study.jsonl"
UNPRUNED = 4
"""So many trials run to their end before others are held against them."""

Values: TypeAlias = Mapping[str, Any]
"""What is tried -> the value."""


@dataclass(frozen=True)
class Range:
    """Numbers between two positive ones, tried on a logarithmic scale."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise EdgesegError(f"a range goes from a number above 0 to a larger one, got {self.low}..{self.high}")

    def suggest(self, trial: Any, key: str) -> Any:
        """The value of a trial."""
        return trial.suggest_float(key, self.low, self.high, log=True)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, key: str) -> Any:
        """The value of a trial."""
        return trial.suggest_categorical(key, list(self.values))

    def __contains__(self, value: object) -> bool:
        return value in self.values


Space: TypeAlias = Mapping[str, Range | Choice]
"""What is searched -> where."""


@dataclass(frozen=True)
class Trial:
    """What came of a trial: `value` is the score on the selection split, of a trial that ended early the last one it had."""

    number: int
    state: str
    value: float | None
    epochs: int
    values: dict[str, Any]


class Behind(Exception):
    """A trial is worse than most, or can be no good any more."""


def tune(
    name: str,
    data: Data,
    out: Path,
    recipe: Callable[[Values], Recipe],
    space: Space,
    first: Values,
    trials: int,
    seed: int = 0,
    notify: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Try until `trials` have ended, and keep the run of the best in `out/best`; all trials, those of an earlier start included.

    recipe: what a trial learns by.
    first:  the values that are tried first.

    Raises:
        EdgesegError: `out` holds a search for something else.
    """
    optuna = need("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    identity = {"student": name, "data": data.spec, "space": _written(space), "recipe": schema.dump(recipe(first))}
    study = _study(optuna, out, identity, seed)
    for started in [each for each in study.trials if each.state.name == "RUNNING"]:  # by a process that is gone
        study._storage.set_trial_state_values(started._trial_id, optuna.trial.TrialState.FAIL)
        study.enqueue_trial(started.params)
    if not study.trials:
        study.enqueue_trial({key: value for key, value in first.items() if value in space[key]})
    check = True
    while len(list(_ended(study))) < trials:
        trial = study.ask()
        values = {key: where.suggest(trial, key) for key, where in space.items()}
        try:
            score = _run(name, data, out / "trial", recipe(values), trial, check)
        except (Behind, Diverged):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except Interrupted as error:
            raise Interrupted(f"stopped in trial {trial.number + 1}; the same command goes on") from error
        else:
            if all(score > (each.value or 0.0) for each in _ended(study) if each.state == "COMPLETE"):
                shutil.rmtree(out / "best", ignore_errors=True)
                (out / "trial").replace(out / "best")
            study.tell(trial, score)
        check = False
        notify(next(each for each in _ended(study) if each.number == trial.number))
    shutil.rmtree(out / "trial", ignore_errors=True)
    return list(_ended(study))


def _run(name: str, data: Data, folder: Path, recipe: Recipe, trial: Any, check: bool) -> float:
    """The best score of a run that ended."""
    shutil.rmtree(folder, ignore_errors=True)

    def scored(epoch: int, score: float) -> None:
        trial.report(score, epoch)
        if trial.should_prune():
            raise Behind

    trainer = Trainer(name, data, folder, recipe, scored=scored, check=check)
    trainer.run(resume=False)
    return trainer.state.best_miou


def _study(optuna: Any, out: Path, identity: Mapping[str, Any], seed: int) -> Any:
    """The study in `out`, a new one where there is none."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / STUDY
    try:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
        study = optuna.create_study(
            storage=storage,
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise EdgesegError(f"{file} is no study that can be gone on with ({error}); choose another --out") from error
    if (before := study.user_attrs.get("identity")) is None:
        study.set_user_attr("identity", identity)
    elif before != json.loads(json.dumps(identity)):
        changed = ", ".join(key for key in identity if before.get(key) != json.loads(json.dumps(identity[key])))
        raise EdgesegError(f"{out} holds a search with another {changed}; go on with the same, or choose another --out")
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def _written(space: Space) -> dict[str, Any]:
    return {
        key: list(where.values) if isinstance(where, Choice) else [where.low, where.high]
        for key, where in space.items()
    }


def _ended(study: Any) -> Iterator[Trial]:
    for each in study.trials:
        if each.state.name in ("COMPLETE", "PRUNED"):
            value = each.value if each.value is not None else each.intermediate_values.get(each.last_step)
            yield Trial(each.number, each.state.name, value, each.last_step or 0, dict(each.params))


def best_of(trials: Sequence[Trial]) -> Trial:
    """The best that ran to its end.

    Raises:
        EdgesegError: none did.
    """
    whole = [trial for trial in trials if trial.state == "COMPLETE" and trial.value is not None]
    if not whole:
        raise EdgesegError(f"none of {len(trials)} trials came to its end: the loss was no number; search lower rates")
    return max(whole, key=lambda trial: trial.value or 0.0)
