"""What a run wrote while it learned, back from `log.jsonl`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError

FIGURES = ("miou", "miou_1")
"""The one number of a score: of class ids, and of objects after one click."""


@dataclass(frozen=True)
class Scored:
    """An evaluation on the selection split: after `epoch`, everything its score says, by name."""

    epoch: int
    figure: float
    score: dict[str, Any]


@dataclass
class Log:
    """A log by epochs, which may be parts of one.

    series:   `loss`, `lr` and the pieces of loss -> (epochs, value), in order.
    problems: lines that could not be read.
    """

    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    scores: list[Scored] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_log(path: Path) -> Log:
    """A log, as far as it was written.

    Raises:
        EdgesegError: there is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise EdgesegError(
            f"{path} does not exist: training has not written a line yet, or it was not copied"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise EdgesegError(f"cannot read {path}: {error}") from error
    log, steps = Log(), []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            said = json.loads(line)
            step, epoch = float(said["step"]), int(said["epoch"])
            if "select" in said:
                log.scores.append(_scored(epoch, said))
            else:
                steps.append((step, epoch, _values(said)))
        except (ValueError, KeyError, TypeError) as error:
            log.problems.append(f"{path.name}, line {number} cannot be read ({error or 'no number'})")
    each = _steps_per_epoch([(step, epoch) for step, epoch, _ in steps])
    for step, _, values in steps:
        for name, value in values.items():
            log.series.setdefault(name, []).append((step / each, value))
    return log


def _scored(epoch: int, said: dict[str, Any]) -> Scored:
    figure = float(said[next((name for name in FIGURES if name in said), FIGURES[0])])
    if not math.isfinite(figure):
        raise ValueError(f"a score of {figure}")
    return Scored(epoch, figure, said)


def _values(said: dict[str, Any]) -> dict[str, float]:
    values = {name: float(value) for name, value in said.items() if name not in ("step", "epoch")}
    if odd := [name for name, value in values.items() if not math.isfinite(value)]:
        raise ValueError(f"{odd[0]} is no number")
    return values


def _steps_per_epoch(said: list[tuple[float, int]]) -> float:
    """From the last line of an epoch that another one follows; else as many as there were."""
    ends = {epoch: step for step, epoch in said}
    full = {epoch: step for epoch, step in ends.items() if epoch + 1 in ends and epoch > 0}
    return max(1.0, max((step / epoch for epoch, step in full.items()), default=max(ends.values(), default=1.0)))
